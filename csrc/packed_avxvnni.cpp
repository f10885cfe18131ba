// The same kernels with VNNI: compiled as a file of its own because its flags are.
#define OSTRO_AVXVNNI 1
#include "packed_avx2.cpp"
