/* The AVX2 twin; compiled with -mavx2 -mfma -mf16c. */
#include "kernels/vec_avx2.h"

#include "kernels/vec_set.inc"
