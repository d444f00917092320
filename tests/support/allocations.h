/* Counts every malloc, calloc, realloc and aligned allocation of the whole process, libraries included (but
 * see allocations.c on clang). */
#ifndef COX_TESTS_SUPPORT_ALLOCATIONS_H
#define COX_TESTS_SUPPORT_ALLOCATIONS_H

#include <stdint.h>

/* Allocations so far, of all threads. */
uint64_t test_allocations(void);

#endif
