/*
 * What the AVX2 and the AVX-512 twins share in 256-bit registers: widening eight stored elements, and the
 * 8 x 8 transposition that packing is made of. Included by the twins' sources only.
 */
#ifndef COX_KERNELS_VEC_256_H
#define COX_KERNELS_VEC_256_H

#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_set.h"

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* As matrix.c: 2^(scale - 127), subnormal for 0, NaN for 255. */
INLINE float mx_scale(uint8_t scale)
{
    uint32_t bits = scale == 0 ? 0x00400000u : scale == 255 ? 0x7fc00000u : (uint32_t)scale << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Eight e2m1 values from four bytes: magnitudes from a table by the low three bits, signs from the fourth. */
INLINE __m256 e2m1_8(const uint8_t *nibbles)
{
    int32_t packed;
    memcpy(&packed, nibbles, sizeof packed);
    __m256i index =
        _mm256_srlv_epi32(_mm256_set1_epi32(packed), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(index, _mm256_set1_epi32(8)), 28);
    return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, index), _mm256_castsi256_ps(sign));
}

/* Elements [col, col + 8) of a weight row; col a multiple of 8, all eight inside the row. */
INLINE __m256 widen_8(cox_dtype dtype, const uint8_t *row, const uint8_t *scales, int32_t col)
{
    size_t at = (size_t)col;
    switch (dtype) {
    case COX_F32: return _mm256_loadu_ps((const float *)(const void *)row + at);
    case COX_F16: return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + 2 * at)));
    case COX_BF16: {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(row + 2 * at)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    case COX_MXFP4: return _mm256_mul_ps(e2m1_8(row + at / 2), _mm256_set1_ps(mx_scale(scales[at / 32])));
    }
    return _mm256_setzero_ps();
}

/* The last n < 16 elements of a weight row from `col` on, followed by zeros. (MXFP4 rows have no such end.)
 */
static inline void widen_end(cox_dtype dtype, const uint8_t *row, int32_t col, int32_t n,
                             float out[COX__LANES])
{
    uint8_t raw[COX__LANES * sizeof(float)] = {0};
    if (dtype == COX_MXFP4) {
        memset(out, 0, COX__LANES * sizeof *out);
        return;
    }
    size_t size = dtype == COX_F32 ? sizeof(float) : sizeof(uint16_t);
    memcpy(raw, row + size * (size_t)col, size * (size_t)n);
    _mm256_storeu_ps(out, widen_8(dtype, raw, NULL, 0));
    _mm256_storeu_ps(out + 8, widen_8(dtype, raw, NULL, 8));
}

/* A weight row with zeros up to whole lanes. [out] out [cox__padded(n)]. */
INLINE void widen_row_as(cox_dtype dtype, const uint8_t *row, const uint8_t *scales, int32_t n, float *out)
{
    int32_t col = 0;
    for (; col + 8 <= n; col += 8) _mm256_storeu_ps(out + col, widen_8(dtype, row, scales, col));
    int32_t whole = n / COX__LANES * COX__LANES;
    if (whole < n) widen_end(dtype, row, whole, n - whole, out + whole);
}

static inline void widen_row(const cox_matrix *w, int32_t index, float *out)
{
    const uint8_t *row = (const uint8_t *)w->data + (size_t)index * w->row_stride_bytes;
    switch (w->dtype) {
    case COX_F32: widen_row_as(COX_F32, row, NULL, w->n_cols, out); break;
    case COX_F16: widen_row_as(COX_F16, row, NULL, w->n_cols, out); break;
    case COX_BF16: widen_row_as(COX_BF16, row, NULL, w->n_cols, out); break;
    case COX_MXFP4:
        widen_row_as(COX_MXFP4, row, w->scales + (size_t)index * w->scale_stride_bytes, w->n_cols, out);
        break;
    }
}

/* out[j] = in[0..7][j] */
INLINE void transpose_8(const __m256 in[8], __m256 out[8])
{
    __m256 pairs[8], quads[8];
    UNROLL
    for (int i = 0; i < 4; i++) {
        pairs[2 * i] = _mm256_unpacklo_ps(in[2 * i], in[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(in[2 * i], in[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        quads[4 * i] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0x44);
        quads[4 * i + 1] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0xee);
        quads[4 * i + 2] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0x44);
        quads[4 * i + 3] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0xee);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        out[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

#endif
