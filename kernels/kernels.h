/*
 * Arithmetic on rows and on (quantised) weight matrices. One reference in plain C defines every result;
 * fast twins (AVX2, AVX-512) chosen at start by CPU feature give the same bits: every reduction over n
 * elements uses sixteen f32 lanes, lane j taking the elements with index = j mod 16 in ascending order by
 * fused multiply-add, folded at the end as lane[j] + lane[j+8], then +4, +2, +1. Elementwise work uses
 * our own exp and correctly rounded operations only. So a row's result does not depend on the rows
 * beside it, on the number of threads, or on the CPU. (`blas` and `bf16-act` break that, by name only.)
 *
 * Not collective, no allocation, no environment; scratch is the caller's. All pointers may be unaligned
 * unless a prototype says otherwise. Strides are in elements (floats) unless their name says bytes.
 */
#ifndef COX_KERNELS_KERNELS_H
#define COX_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* How weights are stored. MXFP4 (OCP Microscaling v1.0): blocks of 32 e2m1 values, low nibble first, 16
 * bytes, with one e8m0 scale byte each in a separate array; GPT-OSS's `*_blocks` and `*_scales`. */
typedef enum cox_dtype { COX_F32, COX_F16, COX_BF16, COX_MXFP4 } cox_dtype;

/* Bytes of n elements of a row (n a multiple of 32 for MXFP4, scales not counted). */
size_t cox_dtype_bytes(cox_dtype dtype, size_t n);
const char *cox_dtype_name(cox_dtype dtype);

/*
 * View of a weight matrix W [n_rows, n_cols]: n_rows outputs, n_cols inputs, elements of a row contiguous.
 * Row r starts at data + r * row_stride_bytes; MXFP4: its scales at scales + r * scale_stride_bytes.
 * (A stride of two rows views every other row: GPT-OSS's interleaved gate and up.) Memory is borrowed.
 */
typedef struct cox_matrix {
    cox_dtype dtype;
    int32_t n_rows, n_cols;
    const void *data;
    size_t row_stride_bytes;
    const uint8_t *scales;
    size_t scale_stride_bytes;
} cox_matrix;

/* Row `row` of a matrix as f32. [out] out [n_cols]. Exact for every dtype. */
void cox_matrix_row(const cox_matrix *matrix, int32_t row, float *out);

/*
 * One product: y[out(i), o] = sum_k x[row(i), k] W[o, k] + bias[o] for i < n_rows, o < W->n_rows, with
 * row(i) = x_rows ? x_rows[i] : i (a gather without copying) and out(i) = y_rows ? y_rows[i] : i (a
 * scatter; all distinct). bias: f32 [W->n_rows] or NULL. The sum over k is the fixed tree, x and W counting
 * as continued by +0 up to a multiple of sixteen columns; the bias is added after the fold. y must not
 * overlap x.
 */
typedef struct cox_matmul_job {
    float *y; /* [n_rows, W->n_rows] f32, y_stride floats between rows */
    size_t y_stride;
    const float *x; /* [.., W->n_cols] f32, x_stride floats between rows */
    size_t x_stride;
    const int32_t *x_rows, *y_rows;
    int32_t n_rows;
    const cox_matrix *w;
    const float *bias;
} cox_matmul_job;

/*
 * Attention of one query row for one KV head and the `group` query heads that share it. Keys and values
 * lie in blocks of COX_KV_BLOCK consecutive positions, block b holding positions [b*COX_KV_BLOCK,
 * (b+1)*COX_KV_BLOCK). Positions first..last (inclusive) are attended to; blocks[b] outside is not read.
 * sinks: f32 [group] logits that join the softmax's denominator but have no value (GPT-OSS), or NULL.
 *
 * For each head, starting from m = -inf, l = 0, a[] = 0 (with a sink: m = sink, l = 1), block by block in
 * ascending position, over the attended positions i of the block only:
 *   s_i = dot(q, k_i) * scale             dot by the fixed tree over head_dim
 *   n = max(m, all s_i);  p_i = exp(s_i - n);  c = exp(m - n)
 *   l = fma(l, c, sum p_i)                by the fixed tree, i counted from the block's start
 *   a[d] = a[d] * c, then a[d] = fma(p_i, v_i[d], a[d]) in ascending i
 *   m = n
 * and out[d] = a[d] / l at the end. So a result depends on positions, not on how a prompt was cut up.
 * A score that is NaN, or scores that are all infinite, make the head's output NaN.
 */
enum { COX_KV_BLOCK = 32 };
typedef struct cox_attention_job {
    float *out;     /* [group, head_dim], out_stride floats between heads */
    const float *q; /* [group, head_dim], q_stride floats between heads; not scaled */
    size_t out_stride, q_stride;
    const float *pool;     /* keys of block b: pool + blocks[b] * block_stride + k_offset, */
    const int32_t *blocks; /* [COX_KV_BLOCK, head_dim] f32 of this KV head; values likewise with v_offset */
    size_t block_stride, k_offset, v_offset; /* in floats */
    int32_t group, head_dim, first, last;
    float scale; /* of the scores, 1/sqrt(head_dim) as a rule */
    const float *sinks;
} cox_attention_job;

typedef struct cox_kernels cox_kernels;

/* The exact sets: "reference", "avx2", "avx512" (same bits), and those chosen by name only: "bf16-act"
 * (activations of products rounded to bf16; AVX512-BF16 instructions for bf16 weights where the CPU has them,
 * else the best exact set on the rounded activations: so its bits depend on the CPU) and "blas" (OpenBLAS
 * sgemm for products of 16 rows and more, weights widened panel by panel; holds OpenBLAS to one thread for
 * the process, cox_matmul spreads the tiles). Attention and row functions of both are the best exact set's.
 * In builds with COX_SIMDE, for tests: "avx512-simde", "bf16-act-simde". "auto" (or NULL): the best exact
 * set of this CPU. [out] a static object. Errors: INVALID unknown name (lists them), UNSUPPORTED by this
 * CPU. Call it before threads are started. */
cox_status cox_kernels_select(const cox_kernels **kernels, const char *name);
const char *cox_kernels_name(const cox_kernels *kernels);
/* The exact set that a named set is built on, or the set itself: routers are always computed with it. */
const cox_kernels *cox_kernels_exact(const cox_kernels *kernels);

/* CPU features that matter here, as text ("avx2 fma f16c avx512f ..."); static storage. */
const char *cox_cpu_features(void);

/*
 * Scratch that cox_matmul needs for any jobs whose matrices have at most max_cols columns (panels of widened
 * weights, packed or rounded activations), when n_threads >= omp_get_max_threads() at the call; jobs of any
 * number of rows, since they are worked in chunks. scratch may be
 * unaligned and need not be cleared. cox_matmul runs all jobs in one OpenMP parallel region, the output
 * tiles of all jobs being one pool of work.
 */
size_t cox_matmul_scratch_bytes(const cox_kernels *kernels, int n_threads, int32_t max_cols);
void cox_matmul(const cox_kernels *kernels, const cox_matmul_job *jobs, int32_t n_jobs, void *scratch);

/* Every job is one unit of an OpenMP parallel loop. */
void cox_attention(const cox_kernels *kernels, const cox_attention_job *jobs, int32_t n_jobs);

/* --- One row; single-threaded; the caller loops over rows in parallel where that pays. --- */

/* y = x * (1 / sqrt(mean(x^2) + eps)) * weight; all [n]; y may be x. mean by the fixed tree. */
void cox_rms_norm(const cox_kernels *kernels, float *y, const float *x, const float *weight, int32_t n,
                  float eps);
/* sum_i a[i] b[i] by the fixed tree. */
float cox_dot(const cox_kernels *kernels, const float *a, const float *b, int32_t n);
/* y[i] += x[i]; y[i] = fma(a, x[i], y[i]). */
void cox_add(const cox_kernels *kernels, float *y, const float *x, int32_t n);
void cox_axpy(const cox_kernels *kernels, float *y, float a, const float *x, int32_t n);
/* x = softmax(x) in place: maximum, own exp, sum by the fixed tree (of exp * 1), division. */
void cox_softmax(const cox_kernels *kernels, float *x, int32_t n);
/* y = gate * sigmoid(gate) * up; all [n]; y may be gate. */
void cox_silu_mul(const cox_kernels *kernels, float *y, const float *gate, const float *up, int32_t n);
/* GPT-OSS: g = min(gate, limit), u = clamp(up, -limit, limit), y = (u + 1) * (g * sigmoid(alpha g)). */
void cox_swiglu_clamped(const cox_kernels *kernels, float *y, const float *gate, const float *up, int32_t n,
                        float alpha, float limit);
/* Rotates pairs (x[i], x[i + n_rot/2]), i < n_rot/2, by cos[i], sin[i] (rotate-half layout), in place:
 * fma(-x[i+h], sin, x[i] cos), fma(x[i], sin, x[i+h] cos). Elements from n_rot on are untouched. */
void cox_rope(const cox_kernels *kernels, float *x, const float *cosine, const float *sine, int32_t n_rot);

/* Scalars of the same arithmetic, the same bits everywhere: exp within 1 ulp of f32 (0 below -104,
 * infinite above 88.73), sigmoid 2.5 ulp. NaN gives NaN; which NaN is not defined, here and
 * in all kernels. */
float cox_exp(float x);
float cox_sigmoid(float x);
/* f64 functions for tables and samplers; own code, so the same bits on every CPU and libm. Within 1.5 ulp
 * of f64, sincos for |x| <= 2^20. */
void cox_sincos_f64(double x, double *sine, double *cosine);
double cox_exp_f64(double x);
double cox_log_f64(double x);
double cox_pow_f64(double base, double exponent); /* base > 0 */

/*
 * Two sums over logits x [n] in f64, by the best exact set of this CPU, the same bits by all: sixteen lanes
 * of partial sums, i mod 16, each in ascending i, folded as the dot product's. -infinity is a term of 0.
 * cox_log_sum_exps: [out] result: log sum exp(x[i]) of the i with in_set[i] == 0, then of the others; NULL:
 * none is in the set. -infinity of no terms, NaN if one of them is.
 * cox_kl_sum: sum of p[i] (log_p[i] - (x[i] - whole)) where p[i] > 0.
 */
void cox_log_sum_exps(const float *x, const uint8_t *in_set, int32_t n, double result[2]);
double cox_kl_sum(const double *p, const double *log_p, const float *x, double whole, int32_t n);

/* Exact widening of one element. */
float cox_f16_to_f32(uint16_t bits);
float cox_bf16_to_f32(uint16_t bits);
uint16_t cox_f32_to_bf16(float x); /* round to nearest even; NaN stays NaN */

#endif
