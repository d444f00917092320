/* The reference matrix product: widen a weight row exactly, then the reference dot with every row of x. */
#include "kernels/kernel_set.h"

void cox__matmul_tile_ref(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch)
{
    for (int32_t o = tile->out; o < tile->out + tile->n_outs; o++) {
        cox_matrix_row(job->w, o, scratch->weights);
        for (int32_t i = tile->row; i < tile->row + tile->n_rows; i++) {
            float sum = cox__dot_ref(cox__job_x(job, i), scratch->weights, job->w->n_cols);
            cox__job_y(job, i)[o] = job->bias ? sum + job->bias[o] : sum;
        }
    }
}
