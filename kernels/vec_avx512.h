/*
 * The vector operations of the twins, in AVX-512 (F, BW, VL, DQ): VW = 16 floats, one vector to sixteen
 * lanes. With COX_KERNELS_SIMDE the same source is built from SIMDe's portable functions instead, so that
 * its bits can be tested where the CPU has no AVX-512; the four operations that Debian 12's SIMDe lacks are
 * then made of two AVX2 halves.
 */
#ifndef COX_KERNELS_VEC_AVX512_H
#define COX_KERNELS_VEC_AVX512_H

#include "kernels/vec_256.h"

#ifdef COX_KERNELS_SIMDE
#include <simde/x86/avx512.h>
#define Z(operation) simde_mm512_##operation
typedef simde__m512 vf;
typedef simde__m512i vi;
#define VEC_SET_SYMBOL cox__kernels_avx512_simde
#define VEC_SET_NAME   "avx512-simde"
#else
#define Z(operation)   _mm512_##operation
typedef __m512 vf;
typedef __m512i vi;
#define VEC_SET_SYMBOL cox__kernels_avx512
#define VEC_SET_NAME   "avx512"
#endif

enum {
    VW = 16,
    VECTORS = COX__LANES / VW,
    DOT_ROWS = 4,
    DOT_OUTS_MANY = 4,
    DOT_OUTS_ONE = 4,
    TILE_ROWS = 12,
    PACK_MIN_ROWS = 16
};

INLINE vf vload(const float *p)
{
    return Z(loadu_ps)(p);
}
INLINE void vstore(float *p, vf a)
{
    Z(storeu_ps)(p, a);
}
INLINE vf vset1(float a)
{
    return Z(set1_ps)(a);
}
INLINE vf vadd(vf a, vf b)
{
    return Z(add_ps)(a, b);
}
INLINE vf vsub(vf a, vf b)
{
    return Z(sub_ps)(a, b);
}
INLINE vf vmul(vf a, vf b)
{
    return Z(mul_ps)(a, b);
}
INLINE vf vdiv(vf a, vf b)
{
    return Z(div_ps)(a, b);
}
INLINE vf vfma(vf a, vf b, vf c)
{
    return Z(fmadd_ps)(a, b, c);
}
INLINE vf vmax(vf a, vf b)
{
    return Z(max_ps)(a, b);
} /* a > b ? a : b */
INLINE vf vmin(vf a, vf b)
{
    return Z(min_ps)(a, b);
} /* a < b ? a : b */
INLINE vi vbits(vf a)
{
    return Z(castps_si512)(a);
}
INLINE vf vfloat(vi a)
{
    return Z(castsi512_ps)(a);
}
INLINE vi viset1(int32_t a)
{
    return Z(set1_epi32)(a);
}
INLINE vi viadd(vi a, vi b)
{
    return Z(add_epi32)(a, b);
}
INLINE vi visub(vi a, vi b)
{
    return Z(sub_epi32)(a, b);
}
INLINE vi vihalf(vi a)
{
    return Z(srli_epi32)(a, 1);
}
INLINE vi vishl23(vi a)
{
    return Z(slli_epi32)(a, 23);
}
INLINE vf vneg(vf a)
{
    return vfloat(Z(xor_si512)(vbits(a), viset1(INT32_MIN)));
}
INLINE vf vnegabs(vf a)
{
    return vfloat(Z(or_si512)(vbits(a), viset1(INT32_MIN)));
}
/* x < 0 ? a : b */
INLINE vf vif_negative(vf x, vf a, vf b)
{
    return Z(mask_blend_ps)(Z(cmp_ps_mask)(x, vset1(0.0f), _CMP_LT_OQ), b, a);
}

INLINE vf vjoin(__m256 low, __m256 high)
{
    return Z(insertf32x8)(Z(castps256_ps512)(low), high, 1);
}

#ifdef COX_KERNELS_SIMDE
INLINE vf vload_n(const float *p, int32_t n)
{
    float all[16] = {0};
    memcpy(all, p, (size_t)n * sizeof *p);
    return vload(all);
}
INLINE void vstore_n(float *p, vf a, int32_t n)
{
    float all[16];
    vstore(all, a);
    memcpy(p, all, (size_t)n * sizeof *p);
}
#else
/* The first n of VW elements, 0 <= n <= VW; the others are +0 and their memory is not touched. */
INLINE vf vload_n(const float *p, int32_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
INLINE void vstore_n(float *p, vf a, int32_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), a);
}
#endif

INLINE vf e2m1_16(const uint8_t *nibbles)
{
    int32_t packed[2];
    memcpy(packed, nibbles, sizeof packed);
    vi all = Z(inserti64x4)(viset1(packed[0]), _mm256_set1_epi32(packed[1]), 1);
    static const int32_t shifts[16] = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
    static const float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    vi index =
        Z(and_si512)(Z(srlv_epi32)(all, vbits(vload((const float *)(const void *)shifts))), viset1(15));
    return Z(permutexvar_ps)(index, vload(values));
}

/* Elements [col, col + 16) of a weight row, all inside the row. */
INLINE vf widen(cox_dtype dtype, const uint8_t *row, const uint8_t *scales, int32_t col)
{
    size_t at = (size_t)col;
    switch (dtype) {
    case COX_F32: return vload((const float *)(const void *)row + at);
    case COX_MXFP4: return vmul(e2m1_16(row + at / 2), vset1(mx_scale(scales[at / 32])));
#ifndef COX_KERNELS_SIMDE
    case COX_F16: return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + 2 * at)));
    case COX_BF16: {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(row + 2 * at)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
#endif
    default: return vjoin(widen_8(dtype, row, scales, col), widen_8(dtype, row, scales, col + 8));
    }
}

/* The fold of sixteen lanes: + 8, + 4, + 2, + 1. */
INLINE float vfold(const vf lanes[VECTORS])
{
    __m256 low = Z(castps512_ps256)(lanes[0]);
    __m256 high = _mm256_castpd_ps(Z(extractf64x4_pd)(Z(castps_pd)(lanes[0]), 1));
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif
