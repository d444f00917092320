/*
 * The program's own malloc family, which the dynamic linker prefers to libc's: it counts and passes on to
 * glibc's internal names. Under AddressSanitizer, which brings its own, the counter asks the sanitizer's hook
 * instead. LLVM's OpenMP takes memory, itself and through libc's printf, for every parallel region, so a
 * build with clang counts the program's own calls only; one with gcc counts those of all libraries.
 */
#include "tests/support/allocations.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

static _Atomic uint64_t n_allocations;

uint64_t test_allocations(void)
{
    return atomic_load(&n_allocations);
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
                                              void (*free_hook)(const volatile void *));

static void count(const volatile void *memory, size_t n)
{
    (void)memory, (void)n;
    atomic_fetch_add(&n_allocations, 1);
}

static void ignore(const volatile void *memory)
{
    (void)memory;
}

__attribute__((constructor)) static void install(void)
{
    __sanitizer_install_malloc_and_free_hooks(count, ignore);
}
#else
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *memory, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

/* Of the program itself, not of a library. */
static bool is_own(const void *caller)
{
#ifdef __clang__
    static _Thread_local bool is_asking; /* the linker may itself allocate while it answers */
    if (is_asking) return false;
    is_asking = true;
    Dl_info theirs, ours;
    bool is = dladdr(caller, &theirs) && dladdr(&n_allocations, &ours) && theirs.dli_fbase == ours.dli_fbase;
    is_asking = false;
    return is;
#else
    (void)caller;
    return true;
#endif
}

static void count_call(const void *caller)
{
    if (is_own(caller)) atomic_fetch_add(&n_allocations, 1);
}

void *malloc(size_t n)
{
    count_call(__builtin_return_address(0));
    return __libc_malloc(n);
}

void *calloc(size_t count, size_t n)
{
    count_call(__builtin_return_address(0));
    return __libc_calloc(count, n);
}

void *realloc(void *memory, size_t n)
{
    count_call(__builtin_return_address(0));
    return __libc_realloc(memory, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    count_call(__builtin_return_address(0));
    return __libc_memalign(alignment, n);
}
#endif
