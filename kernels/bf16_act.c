/*
 * The named set `bf16-act`: activations of products are rounded to bf16 (nearest, ties to even) before they
 * are used, sums stay f32. On a CPU with AVX512-BF16, products with bf16 weights use its instructions, which
 * sum pairs in an order of their own and flush subnormals to zero; everywhere else, and for other weights,
 * the base set's tile runs on the rounded activations, with the base's bits.
 */
#include "kernels/kernel_set.h"

enum { PAIRS_STEP = 32 }; /* bf16 columns of one AVX512-BF16 instruction */

static size_t bf16_stride(int32_t n_cols)
{
    return ((size_t)n_cols + PAIRS_STEP - 1) / PAIRS_STEP * PAIRS_STEP;
}

/* The tile's rows, rounded, either as f32 or as bf16 (up to 31 zeros behind each row). */
size_t cox__extra_floats_bf16_act(int32_t max_cols)
{
    return cox__chunk_floats(max_cols) + (size_t)COX__CHUNK_ROWS * PAIRS_STEP;
}

static void round_rows_f32(const cox_matmul_job *job, const cox__tile *tile, size_t stride, float *rounded)
{
    for (int32_t i = 0; i < tile->n_rows; i++) {
        const float *x = cox__job_x(job, tile->row + i);
        float *to = rounded + (size_t)i * stride;
        for (int32_t k = 0; k < job->w->n_cols; k++) to[k] = cox_bf16_to_f32(cox_f32_to_bf16(x[k]));
    }
}

static void round_rows_bf16(const cox_matmul_job *job, const cox__tile *tile, size_t stride,
                            uint16_t *rounded)
{
    for (int32_t i = 0; i < tile->n_rows; i++) {
        const float *x = cox__job_x(job, tile->row + i);
        uint16_t *to = rounded + (size_t)i * stride;
        for (size_t k = 0; k < stride; k++) to[k] = k < (size_t)job->w->n_cols ? cox_f32_to_bf16(x[k]) : 0;
    }
}

/* Remembers in held_* what `extra` holds; the base's own packing must then be told apart by what it packs. */
void cox__matmul_tile_bf16_act(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch)
{
    bool is_native = scratch->set->bf16_product && job->w->dtype == COX_BF16;
    size_t stride = is_native ? bf16_stride(job->w->n_cols) : (size_t)cox__padded(job->w->n_cols);
    bool is_held = cox__scratch_holds(scratch, job, tile) && scratch->extra_is_bf16 == is_native;
    scratch->extra_is_bf16 = is_native;
    if (is_native) {
        uint16_t *rounded = (uint16_t *)scratch->extra;
        if (!is_held) round_rows_bf16(job, tile, stride, rounded);
        scratch->set->bf16_product(job, tile, rounded, stride);
        return;
    }
    if (!is_held) round_rows_f32(job, tile, stride, scratch->extra);
    cox_matmul_job rounded = *job;
    cox__tile first = {.n_rows = tile->n_rows, .out = tile->out, .n_outs = tile->n_outs};
    rounded.x = scratch->extra;
    rounded.x_stride = stride;
    rounded.x_rows = NULL;
    rounded.n_rows = tile->n_rows;
    if (job->y_rows) {
        rounded.y_rows = job->y_rows + tile->row;
    } else {
        rounded.y = job->y + (size_t)tile->row * job->y_stride;
    }
    cox__scratch inner = *scratch; /* with a note of its own: what `rows` holds */
    if (is_held) {
        inner.held_job = rounded;
        inner.held_tile = first;
    } else {
        inner.held_job.x = NULL;
    }
    scratch->set->base->matmul_tile(&rounded, &first, &inner);
}
