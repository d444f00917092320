/* Shared by the kernel tests: random numbers, bitwise comparison, and the list of sets to try. */
#ifndef COX_TESTS_UNIT_KERNELS_DATA_H
#define COX_TESTS_UNIT_KERNELS_DATA_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

static uint64_t random_state = 88172645463325252u;

static inline uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static inline float random_float(void)
{
    return (float)((int64_t)(random_bits() >> 40) - (1 << 23)) * 0x1p-22f;
}

static inline void random_floats(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = random_float();
}

/* Now and then what kernels trip over: zeros of both signs, subnormals, huge values, and if asked for
 * infinities and NaN. */
static inline void sprinkle(float *x, size_t n, bool with_nan)
{
    const float odd[] = {0.0f,      -0.0f,      0x1p-149f, -0x1p-130f, 0x1p-126f,
                         0x1p+100f, -0x1p+100f, INFINITY,  -INFINITY,  NAN};
    for (size_t i = 0; i < n; i++) {
        if (random_bits() % 16 == 0) x[i] = odd[random_bits() % (with_nan ? 10 : 5)];
    }
}

/* Same bits, or both NaN. */
static inline bool is_same(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static inline void assert_same(const float *got, const float *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_same(got[i], want[i])) {
            fail_msg("%s: element %zu of %zu is %a, the reference has %a", what, i, n, (double)got[i],
                     (double)want[i]);
        }
    }
}

static inline const cox_kernels *reference_kernels(void)
{
    const cox_kernels *kernels = NULL;
    assert_int_equal(cox_kernels_select(&kernels, "reference"), COX_OK);
    return kernels;
}

/* The fast exact sets, NULL where this CPU or build lacks one (said once on standard output). */
enum { N_FAST_SETS = 3 };
static inline const cox_kernels *fast_kernels(int index)
{
    static const char *const names[N_FAST_SETS] = {"avx2", "avx512", "avx512-simde"};
    static bool is_told[N_FAST_SETS];
    const cox_kernels *kernels = NULL;
    cox_status status = cox_kernels_select(&kernels, names[index]);
    if (status == COX_OK) return kernels;
    if (!is_told[index]) print_message("skip: %s: %s\n", names[index], cox_status_message());
    is_told[index] = true;
    return NULL;
}

/* For each fast set that can run here, `set` in turn. */
#define FOR_FAST_SETS(set)                                                       \
    for (int index_of_##set = 0; index_of_##set < N_FAST_SETS; index_of_##set++) \
        for (const cox_kernels *set = fast_kernels(index_of_##set); set; set = NULL)

#endif
