/*
 * Under the sanitizers (COX_TEST_SMALL=yes, set for their preset) every path of the code runs once, and long
 * loops over numbers, which the default preset has proved already, are cut short; not with
 * COX_TEST_FULL=yes.
 */
#ifndef COX_TESTS_RUN_SIZE_H
#define COX_TESTS_RUN_SIZE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool is_small_run(void)
{
    const char *small = getenv("COX_TEST_SMALL"), *full = getenv("COX_TEST_FULL");
    return small && strcmp(small, "yes") == 0 && !(full && strcmp(full, "yes") == 0);
}

#endif
