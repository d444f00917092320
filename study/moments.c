/* Moments, one element after the other: a row's own forward pass costs thousands of times as much. */
#include "study/moments.h"

void cox_moments_add(double *count, double *mean, double *squares, const float *row, size_t width)
{
    double n = *count += 1;
    for (size_t i = 0; i < width; i++) {
        double off = (double)row[i] - mean[i];
        mean[i] += off / n;
        squares[i] += off * ((double)row[i] - mean[i]);
    }
}

void cox_moments_merge(double *count, double *mean, double *squares, double other_count,
                       const double *other_mean, const double *other_squares, size_t width)
{
    double n = *count + other_count;
    if (other_count == 0) return;
    for (size_t i = 0; i < width; i++) {
        double off = other_mean[i] - mean[i];
        mean[i] += off * (other_count / n);
        squares[i] += other_squares[i] + off * off * (*count * (other_count / n));
    }
    *count = n;
}
