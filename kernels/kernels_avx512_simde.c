/*
 * A testing twin of kernels_avx512.c: the same source over SIMDe, compiled with AVX2's flags, so that the
 * AVX-512 code's order of operations is tested on CPUs that lack it. Slow; part of the build only with the
 * CMake option COX_SIMDE, and chosen by its name "avx512-simde" only.
 */
#define COX_KERNELS_SIMDE
#include "kernels/vec_avx512.h"

#include "kernels/vec_set.inc"
