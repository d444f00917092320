/* The one generator of random numbers for drawing vectors and resampling: SplitMix64 (Steele, Lea, Flood
 * 2014), integers only, so a seed gives the same numbers on every machine. */
#ifndef COX_STEERING_RANDOM_H
#define COX_STEERING_RANDOM_H

#include <stdint.h>

typedef struct cox_random {
    uint64_t state; /* the seed */
} cox_random;

/* state += 0x9e3779b97f4a7c15, then a fixed mixing of it. */
uint64_t cox_random_next(cox_random *random);

/* In (0, 1): the upper 53 bits, and a half. */
double cox_random_uniform(cox_random *random);

/* In [0, n), n > 0: the upper half of the product of the next number and n; the odds of two results differ
 * by at most n / 2^64. */
int32_t cox_random_below(cox_random *random, int32_t n);

#endif
