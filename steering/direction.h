/*
 * Directions from two classes of rows: the difference of the class means, and what a row has along it. All in
 * f64, in an order that depends on the prompts alone: the rows of a prompt by position, the prompts of a
 * block of COX_CLASS_BLOCK by number, the blocks of a class by number. So the bits do not depend on who
 * computes which block, nor on the schedule of the engine that shows the rows.
 */
#ifndef COX_STEERING_DIRECTION_H
#define COX_STEERING_DIRECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { COX_CLASS_BLOCK = 32 }; /* prompts whose rows one coordinator sums */

/* Blocks of a class of n prompts; the last one may be shorter. */
int32_t cox_class_n_blocks(int32_t n_prompts);

/* sum[i] += row[i], both [width]. */
void cox_sum_add_row(double *sum, const float *row, size_t width);
/* sum[i] += part[i] / n, all [width]; n > 0: of a prompt's n rows their mean, of a block (n = 1) itself. */
void cox_sum_add_mean(double *sum, const double *part, double n, size_t width);

/*
 * data = mean_a - mean_b, divided by its norm with is_unit; rounded to f32 once. All [width]. Errors:
 * INVALID, data unchanged: the difference is not finite, is 0, or has no f32.
 */
cox_status cox_direction_difference(const double *mean_a, const double *mean_b, int32_t width, bool is_unit,
                                    float *data);

/* u . row with u = direction / |direction|; both [width]. What `clamp` calls value. */
double cox_direction_project(const float *direction, const double *row, int32_t width);

#endif
