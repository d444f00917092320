/* Sums of counters, and the monotonic clock behind all timing. */
#include "base/counters.h"

#include <time.h>

void cox_counters_add(cox_counters *sum, const cox_counters *more)
{
#define X(name, what) sum->name += more->name;
    COX_COUNT_LIST(X)
#undef X
#define X(name, what) sum->name##_s += more->name##_s;
    COX_STAGE_LIST(X)
#undef X
}

double cox_counters_compute_s(const cox_counters *counters)
{
    double sum = 0;
#define X(name, what) sum += counters->name##_s;
    COX_STAGE_LIST(X)
#undef X
    return sum - counters->wait_s - counters->dispatch_s;
}

double cox_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
