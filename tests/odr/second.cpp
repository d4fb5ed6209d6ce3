// The program's second translation unit, built by the host compiler.
#include "second.inl"
