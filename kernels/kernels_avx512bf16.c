/*
 * The product of bf16 weights and bf16 activations by AVX512-BF16's dot product of pairs, for bf16-act;
 * compiled with -mavx512bf16. Register blocks of four rows by four outputs. With COX_KERNELS_SIMDE the same
 * source is built over SIMDe, so that it is tested on any AVX2 CPU.
 */
#include "kernels/vec_avx512.h"

#ifdef COX_KERNELS_SIMDE
typedef simde__m512bh pairs;
#define PRODUCT cox__bf16_product_simde
#else
typedef __m512bh pairs;
#define PRODUCT cox__bf16_product_avx512bf16
#endif

enum { STEP = 32, BLOCK = 4 };

INLINE pairs load_pairs(const void *p)
{
    pairs value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* The last n < 32 elements, then zeros. */
static inline pairs load_end(const uint8_t *p, int32_t n)
{
    uint16_t end[STEP] = {0};
    memcpy(end, p, (size_t)n * sizeof *end);
    return load_pairs(end);
}

/* out[r * n_outs + o] for constants n_rows, n_outs; x's rows end in zeros, w's do not. */
INLINE void dots(int n_rows, int n_outs, const uint16_t *const *x, const uint8_t *const *w, int32_t n,
                 float *out)
{
    vf sums[BLOCK][BLOCK];
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int o = 0; o < n_outs; o++) sums[r][o] = vset1(0.0f);
    }
    for (int32_t i = 0; i < n; i += STEP) {
        pairs weights[BLOCK];
        UNROLL
        for (int o = 0; o < n_outs; o++) {
            const uint8_t *at = w[o] + 2 * (size_t)i;
            weights[o] = n - i >= STEP ? load_pairs(at) : load_end(at, n - i);
        }
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            pairs value = load_pairs(x[r] + i);
            UNROLL
            for (int o = 0; o < n_outs; o++) sums[r][o] = Z(dpbf16_ps)(sums[r][o], value, weights[o]);
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int o = 0; o < n_outs; o++) out[r * n_outs + o] = vfold(&sums[r][o]);
    }
}

static void dots_sized(int n_rows, int n_outs, const uint16_t *const *x, const uint8_t *const *w, int32_t n,
                       float *out)
{
    if (n_rows == BLOCK && n_outs == BLOCK) {
        dots(BLOCK, BLOCK, x, w, n, out);
    } else if (n_outs == BLOCK) {
        for (int r = 0; r < n_rows; r++) dots(1, BLOCK, x + r, w, n, out + r * BLOCK);
    } else {
        for (int r = 0; r < n_rows; r++) {
            for (int o = 0; o < n_outs; o++) dots(1, 1, x + r, w + o, n, out + r * n_outs + o);
        }
    }
}

void PRODUCT(const cox_matmul_job *job, const cox__tile *tile, const uint16_t *x, size_t x_stride)
{
    const cox_matrix *m = job->w;
    for (int32_t first = 0; first < tile->n_outs; first += BLOCK) {
        int n_outs = tile->n_outs - first < BLOCK ? tile->n_outs - first : BLOCK;
        const uint8_t *w[BLOCK];
        for (int o = 0; o < n_outs; o++) {
            w[o] = (const uint8_t *)m->data + (size_t)(tile->out + first + o) * m->row_stride_bytes;
        }
        for (int32_t row = 0; row < tile->n_rows; row += BLOCK) {
            int n_rows = tile->n_rows - row < BLOCK ? tile->n_rows - row : BLOCK;
            const uint16_t *rows[BLOCK];
            float sums[BLOCK * BLOCK] = {0};
            for (int r = 0; r < n_rows; r++) rows[r] = x + (size_t)(row + r) * x_stride;
            dots_sized(n_rows, n_outs, rows, w, m->n_cols, sums);
            for (int r = 0; r < n_rows; r++) {
                float *y = cox__job_y(job, tile->row + row + r) + tile->out + first;
                const float *bias = job->bias ? job->bias + tile->out + first : NULL;
                for (int o = 0; o < n_outs; o++)
                    y[o] = bias ? sums[r * n_outs + o] + bias[o] : sums[r * n_outs + o];
            }
        }
    }
}
