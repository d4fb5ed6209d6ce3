// The main of every test program, compiled once. With COHORT_TEST_NEEDS_GPU it asks for a device first and answers 77,
// which ctest reports as skipped, when there is none: a GPU test never passes because nothing ran.
#if defined(COHORT_TEST_NEEDS_GPU)
#include <cuda_runtime_api.h>
#endif

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

int main(int argc, char** argv) {
  doctest::Context context;
  context.applyCommandLine(argc, argv);
#if defined(COHORT_TEST_NEEDS_GPU)
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if ((found != cudaSuccess || devices == 0) && !context.shouldExit()) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(found));
    return 77;
  }
#endif
  return context.run();
}
