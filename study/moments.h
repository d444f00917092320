/*
 * Count, mean and variance of rows, streamed: Welford's update row by row, Chan's formula for two sets (Chan,
 * Golub, LeVeque 1983), all in f64. Sums of squares would lose a small variance beside a large mean. The bits
 * depend on the order, so whoever merges keeps to one.
 */
#ifndef COX_STUDY_MOMENTS_H
#define COX_STUDY_MOMENTS_H

#include <stddef.h>
#include <stdint.h>

/* count: rows so far; mean, squares (of what lies off the mean): [width]; all zero at first. */
void cox_moments_add(double *count, double *mean, double *squares, const float *row, size_t width);

/* The rows of the second set come behind those of the first. */
void cox_moments_merge(double *count, double *mean, double *squares, double other_count,
                       const double *other_mean, const double *other_squares, size_t width);

#endif
