/* The AVX-512 twin; compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq. */
#include "kernels/vec_avx512.h"

#include "kernels/vec_set.inc"
