// The shared library, built by the host compiler.
#include "library.inl"
