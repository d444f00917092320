/*
 * Directions from two classes of rows: the difference of the class means, the first principal component of
 * pairs, and what a row has along them. All in f64, in an order that depends on the prompts alone: the rows
 * of a prompt by position, the prompts of a block by number, the blocks of a class by number. Runs of
 * COX_CLASS_BLOCK prompts go to the blocks in turn, of which there are COX_CLASS_BLOCKS at most, however many
 * prompts. So the bits do not depend on who computes which block, nor on the schedule of the engine that
 * shows the rows.
 */
#ifndef COX_STUDY_DIRECTION_H
#define COX_STUDY_DIRECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { COX_CLASS_BLOCK = 32, COX_CLASS_BLOCKS = 64 };

/* Blocks of a class of n prompts, and the one of a prompt. */
int32_t cox_class_n_blocks(int32_t n_prompts);
int32_t cox_class_block(int32_t prompt);

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

/*
 * The first principal component of the differences a_i - b_i of n pairs of rows about 0: the unit vector v of
 * greatest sum_i (v . (a_i - b_i))^2, with the sign that leads from the mean of b to that of a. (llama.cpp's
 * cvector-generator; repeng's pca_center, whose rows are +-(a_i - b_i)/2. Less their mean, as in repeng's
 * pca_diff, the differences would lose the very direction that they share.) a, b: [n] rows [width]; mean_a,
 * mean_b, data [width]. [out] *share: of the sum of the differences' squares. Errors: INVALID (no difference,
 * not finite), NO_MEMORY, INTERNAL (LAPACK).
 */
cox_status cox_direction_principal(const float *const *a, const float *const *b, int32_t n, int32_t width,
                                   const double *mean_a, const double *mean_b, float *data, double *share);

/* u . row with u = direction / |direction|; both [width]. What `clamp` calls value. */
double cox_direction_project(const float *direction, const double *row, int32_t width);

#endif
