/* The vector operations of the twins, in AVX2, FMA and F16C: VW = 8 floats, two vectors to sixteen lanes. */
#ifndef COX_KERNELS_VEC_AVX2_H
#define COX_KERNELS_VEC_AVX2_H

#include "kernels/vec_256.h"

#define VEC_SET_SYMBOL cox__kernels_avx2
#define VEC_SET_NAME   "avx2"

enum {
    VW = 8,
    VECTORS = COX__LANES / VW,
    DOT_ROWS = 3,      /* rows of x at once in the streaming product; with more than one, */
    DOT_OUTS_MANY = 2, /* this many weight rows; with one, */
    DOT_OUTS_ONE = 4,  /* this many */
    TILE_ROWS = 6,     /* of the packed product's register tile, TILE_ROWS x 2 vectors */
    PACK_MIN_ROWS = 6  /* from here on packing pays */
};
typedef __m256 vf;
typedef __m256i vi;

INLINE vf vload(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vstore(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
INLINE vf vset1(float a)
{
    return _mm256_set1_ps(a);
}
INLINE vf vadd(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vsub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vmul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vdiv(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vmax(vf a, vf b)
{
    return _mm256_max_ps(a, b);
} /* a > b ? a : b */
INLINE vf vmin(vf a, vf b)
{
    return _mm256_min_ps(a, b);
} /* a < b ? a : b */
INLINE vf vneg(vf a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
INLINE vf vnegabs(vf a)
{
    return _mm256_or_ps(a, _mm256_set1_ps(-0.0f));
}
/* x < 0 ? a : b */
INLINE vf vif_negative(vf x, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
INLINE vi vbits(vf a)
{
    return _mm256_castps_si256(a);
}
INLINE vf vfloat(vi a)
{
    return _mm256_castsi256_ps(a);
}
INLINE vi viset1(int32_t a)
{
    return _mm256_set1_epi32(a);
}
INLINE vi viadd(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
INLINE vi visub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
INLINE vi vihalf(vi a)
{
    return _mm256_srli_epi32(a, 1);
}
INLINE vi vishl23(vi a)
{
    return _mm256_slli_epi32(a, 23);
}

static const int32_t first_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

/* The first n of VW elements, 0 <= n <= VW; the others are +0 and their memory is not touched. */
INLINE vf vload_n(const float *p, int32_t n)
{
    return _mm256_maskload_ps(p, _mm256_loadu_si256((const void *)(first_lanes + 8 - n)));
}
INLINE void vstore_n(float *p, vf a, int32_t n)
{
    _mm256_maskstore_ps(p, _mm256_loadu_si256((const void *)(first_lanes + 8 - n)), a);
}

INLINE vf widen(cox_dtype dtype, const uint8_t *row, const uint8_t *scales, int32_t col)
{
    return widen_8(dtype, row, scales, col);
}

/* The fold of sixteen lanes: + 8, + 4, + 2, + 1. */
INLINE float vfold(const vf lanes[VECTORS])
{
    __m256 eight = _mm256_add_ps(lanes[0], lanes[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif
