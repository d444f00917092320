/* A testing twin of kernels_avx512bf16.c over SIMDe; see kernels_avx512_simde.c. */
#define COX_KERNELS_SIMDE

#include "kernels/kernels_avx512bf16.c"
