/* The monotonic clock behind all timing. */
#include "base/counters.h"

#include <time.h>

double cox_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
