/* Sums run in ascending index, one term after the other: nothing here is worth a kernel, a prompt has
 * thousands of times the work of its rows' sums. */
#include "study/direction.h"

#include <float.h>
#include <math.h>

#include "steering/vector.h"

int32_t cox_class_n_blocks(int32_t n_prompts)
{
    int32_t n = n_prompts / COX_CLASS_BLOCK + (n_prompts % COX_CLASS_BLOCK > 0);
    return n < COX_CLASS_BLOCKS ? n : COX_CLASS_BLOCKS;
}

int32_t cox_class_block(int32_t prompt)
{
    return prompt / COX_CLASS_BLOCK % COX_CLASS_BLOCKS;
}

void cox_sum_add_row(double *sum, const float *row, size_t width)
{
    for (size_t i = 0; i < width; i++) sum[i] += (double)row[i];
}

void cox_sum_add_mean(double *sum, const double *part, double n, size_t width)
{
    for (size_t i = 0; i < width; i++) sum[i] += part[i] / n;
}

cox_status cox_direction_difference(const double *mean_a, const double *mean_b, int32_t width, bool is_unit,
                                    float *data)
{
    double squares = 0;
    for (int32_t i = 0; i < width; i++) squares += (mean_a[i] - mean_b[i]) * (mean_a[i] - mean_b[i]);
    double norm = sqrt(squares);
    if (!isfinite(norm)) return cox_fail(COX_INVALID, "the difference of the means is not finite");
    if (!(norm > 0)) return cox_fail(COX_INVALID, "both classes have the same mean: there is no direction");
    if (!is_unit && norm > (double)FLT_MAX)
        return cox_fail(COX_INVALID, "the difference of the means is too large for f32: its norm is %g",
                        norm);
    for (int32_t i = 0; i < width; i++) data[i] = (float)((mean_a[i] - mean_b[i]) / (is_unit ? norm : 1.0));
    return COX_OK;
}

double cox_direction_project(const float *direction, const double *row, int32_t width)
{
    double sum = 0;
    for (int32_t i = 0; i < width; i++) sum += (double)direction[i] * row[i];
    return sum / sqrt(cox_dot_f64(direction, direction, width));
}
