/* The wrappers that --wrap puts before libc's names, or a sanitizer's. */
#include "tests/support/allocations.h"

#include <stdatomic.h>
#include <stddef.h>

static _Atomic uint64_t n_allocations;

uint64_t test_allocations(void)
{
    return atomic_load(&n_allocations);
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *memory, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *memory, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t count, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(count, n);
}

void *__wrap_realloc(void *memory, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(memory, n);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_aligned_alloc(alignment, n);
}
