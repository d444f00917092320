/*
 * The named set `blas`: products with many rows by OpenBLAS's sgemm, on weights widened panel by panel. Its
 * bits vary with the number of rows and with the CPU, which is why nothing chooses it by itself. OpenBLAS is
 * held to one thread, because the tiles are spread over our own; few rows go to the base set.
 */
#include <string.h>

#include <cblas.h>

#include "kernels/kernel_set.h"

enum { BLAS_MIN_ROWS = 16 };

void cox__blas_start(void)
{
    openblas_set_num_threads(1);
}

/* sgemm's result, before bias and scatter. */
size_t cox__extra_floats_blas(int32_t max_cols)
{
    (void)max_cols;
    return (size_t)COX__CHUNK_ROWS * COX__BLAS_TILE_OUTS;
}

/* The tile's rows of x as one matrix: as they lie, or gathered. [out] stride in floats. */
static const float *dense_rows(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch,
                               size_t *stride)
{
    *stride = job->x_stride;
    if (!job->x_rows) return cox__job_x(job, tile->row);
    *stride = (size_t)job->w->n_cols;
    if (cox__scratch_holds(scratch, job, tile)) return scratch->rows;
    for (int32_t i = 0; i < tile->n_rows; i++) {
        memcpy(scratch->rows + (size_t)i * *stride, cox__job_x(job, tile->row + i), *stride * sizeof(float));
    }
    return scratch->rows;
}

/* The tile's weights as f32: as they lie, or widened. [out] stride in floats. */
static const float *dense_weights(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch,
                                  size_t *stride)
{
    const cox_matrix *w = job->w;
    if (w->dtype == COX_F32 && w->row_stride_bytes % sizeof(float) == 0) {
        *stride = w->row_stride_bytes / sizeof(float);
        return (const float *)w->data + (size_t)tile->out * *stride;
    }
    *stride = (size_t)cox__padded(w->n_cols);
    for (int32_t o = 0; o < tile->n_outs; o++) {
        scratch->set->base->widen_row(w, tile->out + o, scratch->weights + (size_t)o * *stride);
    }
    return scratch->weights;
}

void cox__matmul_tile_blas(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch)
{
    if (tile->n_rows < BLAS_MIN_ROWS) {
        scratch->set->base->matmul_tile(job, tile, scratch);
        return;
    }
    size_t x_stride, w_stride;
    const float *x = dense_rows(job, tile, scratch, &x_stride);
    const float *w = dense_weights(job, tile, scratch, &w_stride);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tile->n_rows, tile->n_outs, job->w->n_cols, 1.0f, x,
                (blasint)x_stride, w, (blasint)w_stride, 0.0f, scratch->extra, tile->n_outs);
    for (int32_t i = 0; i < tile->n_rows; i++) {
        const float *sums = scratch->extra + (size_t)i * (size_t)tile->n_outs;
        float *y = cox__job_y(job, tile->row + i) + tile->out;
        for (int32_t o = 0; o < tile->n_outs; o++)
            y[o] = job->bias ? sums[o] + job->bias[tile->out + o] : sums[o];
    }
}
