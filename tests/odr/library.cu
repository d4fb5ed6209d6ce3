// The shared library, built by nvcc.
#include "library.inl"
