/*
 * Owns the storage types of weight matrices: their sizes, names, and the exact widening of one row. This
 * is the reference for every kernel that reads weights.
 */
#include <string.h>

#include "kernels/kernels.h"

size_t cox_dtype_bytes(cox_dtype dtype, size_t n)
{
    switch (dtype) {
    case COX_F32: return 4 * n;
    case COX_F16:
    case COX_BF16: return 2 * n;
    case COX_MXFP4: return n / 2;
    }
    return 0;
}

const char *cox_dtype_name(cox_dtype dtype)
{
    switch (dtype) {
    case COX_F32: return "f32";
    case COX_F16: return "f16";
    case COX_BF16: return "bf16";
    case COX_MXFP4: return "mxfp4";
    }
    return "unknown";
}

/* 2^(scale - 127); scale 0 is the subnormal 2^-127, 255 is NaN (OCP MX v1.0, E8M0). */
static float mx_scale(uint8_t scale)
{
    uint32_t bits = scale == 0 ? 0x00400000u : scale == 255 ? 0x7fc00000u : (uint32_t)scale << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void widen_mxfp4(const uint8_t *nibbles, const uint8_t *scales, int32_t n_cols, float *out)
{
    static const float e2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    for (int32_t i = 0; i < n_cols; i += 2) {
        float scale = mx_scale(scales[i / 32]);
        uint8_t byte = nibbles[i / 2];
        out[i] = e2m1[byte & 15] * scale;
        out[i + 1] = e2m1[byte >> 4] * scale;
    }
}

void cox_matrix_row(const cox_matrix *matrix, int32_t row, float *out)
{
    const uint8_t *data = (const uint8_t *)matrix->data + (size_t)row * matrix->row_stride_bytes;
    int32_t n = matrix->n_cols;
    uint16_t bits;
    switch (matrix->dtype) {
    case COX_F32: memcpy(out, data, (size_t)n * sizeof *out); return;
    case COX_F16:
        for (int32_t i = 0; i < n; i++) {
            memcpy(&bits, data + 2 * (size_t)i, sizeof bits);
            out[i] = cox_f16_to_f32(bits);
        }
        return;
    case COX_BF16:
        for (int32_t i = 0; i < n; i++) {
            memcpy(&bits, data + 2 * (size_t)i, sizeof bits);
            out[i] = cox_bf16_to_f32(bits);
        }
        return;
    case COX_MXFP4:
        widen_mxfp4(data, matrix->scales + (size_t)row * matrix->scale_stride_bytes, n, out);
        return;
    }
}
