/*
 * The first principal component of the differences of paired rows, by LAPACK's dsyevd on whichever Gram
 * matrix is smaller: that of the pairs, or that of the elements. Sums run in ascending index and OpenBLAS is
 * held to one thread, so that on one machine the bits do not depend on ranks or threads; another CPU's
 * OpenBLAS may round otherwise.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>
#include <lapack.h>

#include "study/direction.h"

/* rows [n, width] of pairs: a_i - b_i. */
static void differences(const float *const *a, const float *const *b, int32_t n, int32_t width, double *rows)
{
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < width; k++) *rows++ = (double)a[i][k] - (double)b[i][k];
    }
}

/* Eigenvector of the greatest eigenvalue of m [n, n], symmetric, which is overwritten. [out] vector [n];
 * *share: that eigenvalue of their sum. */
static cox_status greatest(double *m, int32_t n, double *vector, double *share)
{
    lapack_int info = 0, size = n, n_work = -1, n_iwork = -1, least_iwork = 0;
    double least_work = 0;
    double *values = malloc((size_t)n * sizeof *values);
    LAPACK_dsyevd("V", "U", &size, m, &size, values, &least_work, &n_work, &least_iwork, &n_iwork, &info);
    n_work = (lapack_int)least_work, n_iwork = least_iwork;
    double *work = malloc((size_t)n_work * sizeof *work);
    lapack_int *iwork = malloc((size_t)n_iwork * sizeof *iwork);
    cox_status status = COX_OK;
    if (!values || !work || !iwork) {
        status = cox_fail(COX_NO_MEMORY, "out of memory for a principal component of width %d", (int)n);
    } else {
        LAPACK_dsyevd("V", "U", &size, m, &size, values, work, &n_work, iwork, &n_iwork, &info);
        if (info != 0) status = cox_fail(COX_INTERNAL, "dsyevd fails with %d", (int)info);
    }
    if (status == COX_OK) { /* eigenvalues ascend, eigenvectors are columns in Fortran's order */
        double sum = 0;
        for (int32_t i = 0; i < n; i++) sum += values[i];
        *share = values[n - 1] / sum;
        memcpy(vector, m + (size_t)(n - 1) * (size_t)n, (size_t)n * sizeof *vector);
    }
    free(iwork);
    free(work);
    free(values);
    return status;
}

/* As below, in f64 and of any length and sign. m: [min(n, width)^2] scratch. */
static cox_status component(const double *rows, int32_t n, int32_t width, double *m, double *weights,
                            double *v, double *share)
{
    bool is_by_pair = n < width;
    int32_t size = is_by_pair ? n : width;
    openblas_set_num_threads(1);
    cblas_dsyrk(CblasColMajor, CblasUpper, is_by_pair ? CblasTrans : CblasNoTrans, size,
                is_by_pair ? width : n, 1, rows, width, 0, m, size);
    double trace = 0;
    for (int32_t i = 0; i < size; i++) trace += m[(size_t)i * (size_t)size + (size_t)i];
    if (!isfinite(trace)) return cox_fail(COX_INVALID, "the pairs' differences are not finite");
    if (!(trace > 0))
        return cox_fail(COX_INVALID, "both rows of every pair are the same: there is no principal component");
    cox_status status = greatest(m, size, is_by_pair ? weights : v, share);
    if (status != COX_OK || !is_by_pair) return status;
    memset(v, 0, (size_t)width * sizeof *v);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < width; k++) v[k] += weights[i] * rows[(size_t)i * (size_t)width + (size_t)k];
    }
    return COX_OK;
}

cox_status cox_direction_principal(const float *const *a, const float *const *b, int32_t n, int32_t width,
                                   const double *mean_a, const double *mean_b, float *data, double *share)
{
    size_t size = (size_t)(n < width ? n : width);
    double *rows = malloc((size_t)n * (size_t)width * sizeof *rows), *m = calloc(size * size, sizeof *m);
    double *weights = malloc((size_t)n * sizeof *weights), *v = malloc((size_t)width * sizeof *v);
    cox_status status =
        rows && m && weights && v
            ? COX_OK
            : cox_fail(COX_NO_MEMORY, "out of memory for %d pairs of width %d", (int)n, (int)width);
    if (status == COX_OK) {
        differences(a, b, n, width, rows);
        status = component(rows, n, width, m, weights, v, share);
    }
    if (status == COX_OK) {
        double squares = 0, along = 0;
        for (int32_t k = 0; k < width; k++) {
            squares += v[k] * v[k];
            along += v[k] * (mean_a[k] - mean_b[k]);
        }
        double scale = (along < 0 ? -1 : 1) / sqrt(squares);
        for (int32_t k = 0; k < width; k++) data[k] = (float)(v[k] * scale);
    }
    free(v);
    free(weights);
    free(m);
    free(rows);
    return status;
}
