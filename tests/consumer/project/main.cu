// The same program through nvcc.
#include "main.cpp"
