// The program's second translation unit, built by nvcc.
#include "second.inl"
