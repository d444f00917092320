/* SplitMix64 and what is drawn from it. */
#include "steering/random.h"

uint64_t cox_random_next(cox_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double cox_random_uniform(cox_random *random)
{
    return ((double)(cox_random_next(random) >> 11) + 0.5) * 0x1p-53;
}

int32_t cox_random_below(cox_random *random, int32_t n)
{
    /* floor(x n / 2^64) in halves of x: n has 31 bits, so nothing overflows. */
    uint64_t x = cox_random_next(random), m = (uint64_t)n;
    return (int32_t)(((x >> 32) * m + ((x & 0xffffffffu) * m >> 32)) >> 32);
}
