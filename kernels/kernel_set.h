/*
 * Inside kernels/ only: what a set of kernels is made of, and the pool of matmul tiles. A set is a table
 * of functions, each of which computes exactly what its reference (*_ref.c) computes. The public functions
 * of kernels.h go through the table in select.c; matmul.c cuts all jobs of a call into tiles.
 */
#ifndef COX_KERNELS_KERNEL_SET_H
#define COX_KERNELS_KERNEL_SET_H

#include <stdbool.h>

#include "kernels/kernels.h"

enum {
    COX__LANES = 16,         /* of the fixed reduction tree */
    COX__TILE_OUTS = 32,     /* outputs of one tile of the pool, in most sets */
    COX__CHUNK_ROWS = 1008,  /* rows of one tile at most; a multiple of all register blocks */
    COX__WEIGHTS_PAD = 1024, /* what packing needs besides: a few floats per lane */
    COX__ROWS_PAD = COX__CHUNK_ROWS / 6 * 16 * COX__LANES
};

/* A tile: rows [row, row + n_rows) and outputs [out, out + n_outs) of a job. */
typedef struct cox__tile {
    int32_t row, n_rows, out, n_outs;
} cox__tile;

/* One thread's scratch during one cox_matmul. `rows` keeps what was packed last, because the tiles that a
 * thread gets one after the other mostly share their rows (as the products for gate and up do). */
typedef struct cox__scratch {
    const cox_kernels *set;
    float *weights; /* tile_outs padded rows of weights and COX__WEIGHTS_PAD floats; 64-byte aligned */
    float *rows;    /* cox__chunk_floats and COX__ROWS_PAD floats: padded rows of x; 64-byte aligned */
    float *extra;   /* extra_floats of the set; 64-byte aligned */
    cox_matmul_job held_job;
    int32_t held_cols;
    cox__tile held_tile;
    bool extra_is_bf16;
} cox__scratch;

/* bf16-act's product by AVX512-BF16, for bf16 weights; x: rows of the tile in bf16, zeros up to x_stride, a
 * multiple of 32 and at least the columns. */
typedef void cox__bf16_product(const cox_matmul_job *job, const cox__tile *tile, const uint16_t *x,
                               size_t x_stride);

struct cox_kernels {
    const char *name;
    const cox_kernels *base;                  /* of a named set: the exact set that it changes in part */
    int32_t tile_outs;                        /* outputs of one tile, at most */
    size_t (*extra_floats)(int32_t max_cols); /* more scratch per thread; NULL: none */
    cox__bf16_product *bf16_product;          /* of bf16-act; NULL: the base's tile on rounded activations */
    void (*widen_row)(const cox_matrix *matrix, int32_t row, float *out); /* cox_matrix_row; out padded */
    void (*matmul_tile)(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch);
    void (*attention)(const cox_attention_job *job);
    void (*rms_norm)(float *y, const float *x, const float *weight, int32_t n, float eps);
    float (*dot)(const float *a, const float *b, int32_t n);
    void (*add)(float *y, const float *x, int32_t n);
    void (*axpy)(float *y, float a, const float *x, int32_t n);
    void (*softmax)(float *x, int32_t n);
    void (*silu_mul)(float *y, const float *gate, const float *up, int32_t n);
    void (*swiglu_clamped)(float *y, const float *gate, const float *up, int32_t n, float alpha, float limit);
    void (*rope)(float *x, const float *cosine, const float *sine, int32_t n_rot);
    /* [out] shifts: the largest of each part, 0 if that is infinite; sums of exp(x - shift) */
    void (*exp_sums)(const float *x, const uint8_t *in_set, int32_t n, double shifts[2], double sums[2]);
    double (*kl_sum)(const double *p, const double *log_p, const float *x, double whole, int32_t n);
};

extern const cox_kernels cox__kernels_ref, cox__kernels_avx2, cox__kernels_avx512, cox__kernels_avx512_simde;

/* The named sets' products; their other functions are the base's. */
void cox__matmul_tile_bf16_act(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch);
size_t cox__extra_floats_bf16_act(int32_t max_cols);
void cox__matmul_tile_blas(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch);
size_t cox__extra_floats_blas(int32_t max_cols);
void cox__blas_start(void);
enum { COX__BLAS_TILE_OUTS = 256 };

void cox__bf16_product_avx512bf16(const cox_matmul_job *job, const cox__tile *tile, const uint16_t *x,
                                  size_t x_stride);
void cox__bf16_product_simde(const cox_matmul_job *job, const cox__tile *tile, const uint16_t *x,
                             size_t x_stride);

void cox__matmul_tile_ref(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch);
void cox__attention_ref(const cox_attention_job *job);
float cox__dot_ref(const float *a, const float *b, int32_t n);
void cox__rms_norm_ref(float *y, const float *x, const float *weight, int32_t n, float eps);
void cox__add_ref(float *y, const float *x, int32_t n);
void cox__axpy_ref(float *y, float a, const float *x, int32_t n);
void cox__softmax_ref(float *x, int32_t n);
void cox__silu_mul_ref(float *y, const float *gate, const float *up, int32_t n);
void cox__swiglu_clamped_ref(float *y, const float *gate, const float *up, int32_t n, float alpha,
                             float limit);
void cox__rope_ref(float *x, const float *cosine, const float *sine, int32_t n_rot);
/* exp(x) of x <= 0 within 2 ulp of f64, 0 below COX__EXP_TERM_MIN, so that no term is a subnormal number;
 * infinity and NaN are themselves. */
double cox__exp_term_ref(double x);
void cox__exp_sums_ref(const float *x, const uint8_t *in_set, int32_t n, double shifts[2], double sums[2]);
double cox__kl_sum_ref(const double *p, const double *log_p, const float *x, double whole, int32_t n);

/* Columns rounded up to whole lanes. */
static inline int32_t cox__padded(int32_t n)
{
    return (n + COX__LANES - 1) / COX__LANES * COX__LANES;
}
/* Floats that hold the padded rows of any chunk of at most max_cols columns. */
size_t cox__chunk_floats(int32_t max_cols);

/* Whether scratch->rows holds the rows of this tile; notes that it will, if not. */
bool cox__scratch_holds(cox__scratch *scratch, const cox_matmul_job *job, const cox__tile *tile);

/* Row i of a job's x, and of its y. */
static inline const float *cox__job_x(const cox_matmul_job *job, int32_t i)
{
    return job->x + (size_t)(job->x_rows ? job->x_rows[i] : i) * job->x_stride;
}

static inline float *cox__job_y(const cox_matmul_job *job, int32_t i)
{
    return job->y + (size_t)(job->y_rows ? job->y_rows[i] : i) * job->y_stride;
}

/* Block b of a job's KV cache; keys at + k_offset, values at + v_offset. */
static inline const float *cox__kv_block(const cox_attention_job *job, int32_t b)
{
    return job->pool + (size_t)job->blocks[b] * job->block_stride;
}

#endif
