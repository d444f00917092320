/*
 * The reference for functions of one row: plain C that nobody optimises. These loops define the bits; the
 * vector twins in vec_rows.inc must match them.
 */
#include <math.h>

#include "kernels/exp_constants.h"
#include "kernels/kernel_set.h"

static float fold(float lanes[COX__LANES])
{
    for (int width = COX__LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lanes[j] += lanes[j + width];
    }
    return lanes[0];
}

/* Both rows count as continued by +0 up to whole lanes. */
float cox__dot_ref(const float *a, const float *b, int32_t n)
{
    float lanes[COX__LANES] = {0};
    for (int32_t i = 0; i < cox__padded(n); i++) {
        float *lane = &lanes[i % COX__LANES];
        *lane = i < n ? fmaf(a[i], b[i], *lane) : *lane + 0.0f;
    }
    return fold(lanes);
}

static float sum_ref(const float *x, int32_t n)
{
    float lanes[COX__LANES] = {0};
    for (int32_t i = 0; i < n; i++) lanes[i % COX__LANES] += x[i];
    return fold(lanes);
}

void cox__rms_norm_ref(float *y, const float *x, const float *weight, int32_t n, float eps)
{
    float mean = cox__dot_ref(x, x, n) / (float)n;
    float factor = 1.0f / sqrtf(mean + eps);
    for (int32_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

void cox__add_ref(float *y, const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) y[i] += x[i];
}

void cox__axpy_ref(float *y, float a, const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) y[i] = fmaf(a, x[i], y[i]);
}

void cox__softmax_ref(float *x, int32_t n)
{
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int32_t i = 0; i < n; i++) x[i] = cox_exp(x[i] - max);
    float sum = sum_ref(x, n);
    for (int32_t i = 0; i < n; i++) x[i] = x[i] / sum;
}

void cox__silu_mul_ref(float *y, const float *gate, const float *up, int32_t n)
{
    for (int32_t i = 0; i < n; i++) y[i] = gate[i] * cox_sigmoid(gate[i]) * up[i];
}

void cox__swiglu_clamped_ref(float *y, const float *gate, const float *up, int32_t n, float alpha,
                             float limit)
{
    for (int32_t i = 0; i < n; i++) {
        float g = limit < gate[i] ? limit : gate[i]; /* a NaN stays */
        float u = limit < up[i] ? limit : up[i];
        u = -limit > u ? -limit : u;
        y[i] = (u + 1.0f) * (g * cox_sigmoid(alpha * g));
    }
}

void cox__rope_ref(float *x, const float *cosine, const float *sine, int32_t n_rot)
{
    int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i++) {
        float a = x[i];
        float b = x[i + half];
        x[i] = fmaf(-b, sine[i], a * cosine[i]);
        x[i + half] = fmaf(a, sine[i], b * cosine[i]);
    }
}

static double fold_f64(double lanes[COX__LANES])
{
    for (int width = COX__LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lanes[j] += lanes[j + width];
    }
    return lanes[0];
}

double cox__exp_term_ref(double x)
{
    static const double inverse_factorial[] = COX__INVERSE_FACTORIALS;
    if (!(x >= COX__EXP_TERM_MIN && x <= 0.0)) return x < 0.0 ? 0.0 : x;
    double n = fma(x, COX__LOG2_E_F64, COX__ROUND_F64) - COX__ROUND_F64; /* the nearest integer */
    double r = fma(n, -COX__LN2_LO_F64, fma(n, -COX__LN2_HI_F64, x));
    double tail = inverse_factorial[11];
    for (int k = 10; k >= 0; k--) tail = fma(tail, r, inverse_factorial[k]);
    return ldexp(1.0 + fma(r * r, tail, r), (int)n); /* a normal number, so exactly */
}

void cox__exp_sums_ref(const float *x, const uint8_t *in_set, int32_t n, double shifts[2], double sums[2])
{
    float tops[2] = {-INFINITY, -INFINITY};
    double lanes[2][COX__LANES] = {{0}};
    for (int32_t i = 0; i < n; i++) {
        int part = in_set && in_set[i];
        tops[part] = x[i] > tops[part] ? x[i] : tops[part];
    }
    for (int part = 0; part < 2; part++) shifts[part] = isinf(tops[part]) ? 0.0 : (double)tops[part] + 0.0;
    for (int32_t i = 0; i < n; i++) {
        int part = in_set && in_set[i];
        lanes[part][i % COX__LANES] += cox__exp_term_ref((double)x[i] - shifts[part]);
    }
    for (int part = 0; part < 2; part++) sums[part] = fold_f64(lanes[part]);
}

double cox__kl_sum_ref(const double *p, const double *log_p, const float *x, double whole, int32_t n)
{
    double lanes[COX__LANES] = {0};
    for (int32_t i = 0; i < n; i++) {
        if (p[i] > 0) lanes[i % COX__LANES] += p[i] * (log_p[i] - ((double)x[i] - whole));
    }
    return fold_f64(lanes);
}

const cox_kernels cox__kernels_ref = {
    .name = "reference",
    .tile_outs = COX__TILE_OUTS,
    .widen_row = cox_matrix_row,
    .matmul_tile = cox__matmul_tile_ref,
    .attention = cox__attention_ref,
    .rms_norm = cox__rms_norm_ref,
    .dot = cox__dot_ref,
    .add = cox__add_ref,
    .axpy = cox__axpy_ref,
    .softmax = cox__softmax_ref,
    .silu_mul = cox__silu_mul_ref,
    .swiglu_clamped = cox__swiglu_clamped_ref,
    .rope = cox__rope_ref,
    .exp_sums = cox__exp_sums_ref,
    .kl_sum = cox__kl_sum_ref,
};
