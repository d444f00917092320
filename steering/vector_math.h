/* New vectors from old ones: weighted sums, projections removed, random controls. Arithmetic in f64, rounded
 * once. */
#ifndef COX_STEERING_VECTOR_MATH_H
#define COX_STEERING_VECTOR_MATH_H

#include "steering/vector.h"

/* out = sum_i weights[i] vectors[i], less its projection on the span of `without`, one direction after the
 * other (Gram-Schmidt among them). All of one width. [out] data [width]. Errors: INVALID (widths differ,
 * naming the vector; a result that is not finite), NO_MEMORY. */
cox_status cox_vector_combine(const double *weights, const cox_vector *const *vectors, size_t n,
                              const cox_vector *const *without, size_t n_without, float *data);

/* Independent normal numbers scaled to a norm: a direction drawn uniformly. The same bits for a seed on every
 * machine. [out] data [width]. */
void cox_vector_random(uint64_t seed, double norm, int32_t width, float *data);

#endif
