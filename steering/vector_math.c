/* Vectors made of vectors. Sums run in the order given, in f64, so a result can be made again bit for bit. */
#include "steering/vector_math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "steering/internal.h"
#include "steering/random.h"

static double dot(const double *a, const double *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static cox_status check_widths(const cox_vector *const *vectors, size_t n, int32_t width)
{
    for (size_t i = 0; i < n; i++) {
        if (vectors[i]->width == width) continue;
        return cox_fail(COX_INVALID, "vector \"%s\" has width %d, the first has %d", vectors[i]->name,
                        (int)vectors[i]->width, (int)width);
    }
    return COX_OK;
}

/* Makes the rows orthonormal, one after the other; those that add no direction become zero. */
static void orthonormalise(double *rows, size_t n, int32_t width)
{
    for (size_t i = 0; i < n; i++) {
        double *row = rows + i * (size_t)width, before = sqrt(dot(row, row, width));
        for (size_t j = 0; j < i; j++) {
            const double *other = rows + j * (size_t)width, share = dot(row, other, width);
            for (int32_t k = 0; k < width; k++) row[k] -= share * other[k];
        }
        double left = sqrt(dot(row, row, width)), factor = left > 1e-7 * before ? 1 / left : 0;
        for (int32_t k = 0; k < width; k++) row[k] *= factor;
    }
}

cox_status cox_vector_combine(const double *weights, const cox_vector *const *vectors, size_t n,
                              const cox_vector *const *without, size_t n_without, float *data)
{
    int32_t width = vectors[0]->width;
    cox_status status = check_widths(vectors, n, width);
    if (status == COX_OK) status = check_widths(without, n_without, width);
    if (status != COX_OK) return status;
    double *sum = calloc((n_without + 1) * (size_t)width, sizeof *sum);
    if (!sum) return cox_no_memory("combining vectors");
    double *rows = sum + width;
    for (size_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < width; k++) sum[k] += weights[i] * (double)vectors[i]->data[k];
    }
    for (size_t i = 0; i < n_without; i++) {
        for (int32_t k = 0; k < width; k++) rows[i * (size_t)width + (size_t)k] = (double)without[i]->data[k];
    }
    orthonormalise(rows, n_without, width);
    for (size_t i = 0; i < n_without; i++) {
        const double *row = rows + i * (size_t)width, share = dot(sum, row, width);
        for (int32_t k = 0; k < width; k++) sum[k] -= share * row[k];
    }
    for (int32_t k = 0; k < width; k++) data[k] = (float)sum[k];
    free(sum);
    return cox__check_finite("the combined vector", data, width) == COX_OK ? COX_OK : COX_INVALID;
}

void cox_vector_random(uint64_t seed, double norm, int32_t width, float *data)
{
    cox_random random = {seed};
    for (int32_t k = 0; k < width; k++) { /* Box-Muller, one of the pair */
        double radius = sqrt(-2 * cox_log_f64(cox_random_uniform(&random))), sine, cosine;
        cox_sincos_f64(6.283185307179586 * cox_random_uniform(&random), &sine, &cosine);
        data[k] = (float)(radius * cosine);
    }
    double factor = norm / sqrt(cox_dot_f64(data, data, width));
    for (int32_t k = 0; k < width; k++) data[k] = (float)((double)data[k] * factor);
}
