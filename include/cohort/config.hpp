// The ground floor: the configuration macros that every other room stands on. Includes nothing.
#pragma once

/// Name of the inline namespace that all of cohort lives in. Two builds whose layouts differ never link by accident.
#define COHORT_ABI v0

#if defined(__CUDACC__)
/// Marks what is compiled for the host and, under nvcc, for the device as well.
#define COHORT_HD __host__ __device__
/// The same for what must not be a function of its own on the device: around a call registers are put away.
#define COHORT_HD_INLINED __host__ __device__ __forceinline__
#else
#define COHORT_HD
#define COHORT_HD_INLINED
#endif

#if defined(__CUDA_ARCH__)
/// 1 while nvcc compiles device code, 0 while anything compiles host code.
#define COHORT_DEVICE_PASS 1
#else
#define COHORT_DEVICE_PASS 0
#endif
