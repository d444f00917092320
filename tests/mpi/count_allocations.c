/* Counts calls of malloc and its kin from our own objects (linked with --wrap; what MPI does inside is not
 * ours). */
#include "tests/mpi/check.h"

uint64_t n_allocations;

#ifdef COX_COUNTS_ALLOCATIONS
void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

void *__wrap_malloc(size_t n)
{
    n_allocations++;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t count, size_t size)
{
    n_allocations++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t n)
{
    n_allocations++;
    return __real_realloc(old, n);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    n_allocations++;
    return __real_aligned_alloc(alignment, n);
}
#endif
