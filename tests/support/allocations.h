/*
 * Counts every call of malloc, calloc, realloc and aligned_alloc from our own objects: the linker's --wrap
 * brings them here, whatever the compiler and under sanitizers too. What OpenMP and MPI take inside is
 * theirs.
 */
#ifndef COX_TESTS_SUPPORT_ALLOCATIONS_H
#define COX_TESTS_SUPPORT_ALLOCATIONS_H

#include <stdint.h>

/* Allocations so far, of all threads. */
uint64_t test_allocations(void);

#endif
