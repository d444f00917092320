/* Chunked arenas with 64-byte alignment and, under ASan, a poisoned redzone after each allocation. */
#include "base/arena.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define COX_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COX_ASAN 1
#endif
#endif

#ifdef COX_ASAN
#include <sanitizer/asan_interface.h>
enum { REDZONE_BYTES = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(address, n)   ((void)(address), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(address, n) ((void)(address), (void)(n))
enum { REDZONE_BYTES = 0 };
#endif

typedef struct chunk {
    struct chunk *next;
    size_t size_bytes, used_bytes; /* of data */
    unsigned char *data;           /* [size_bytes], aligned to 64 */
} chunk;

enum { SLICE_BYTES = 64 << 20 }; /* zeroed between two pulses */

struct cox_arena {
    void (*pulse)(void *context);
    void *pulse_context;
    const char *phase;
    size_t first_bytes;
    chunk *chunks;  /* all, in the order in which they are filled */
    chunk *current; /* the one being filled */
};

static _Atomic uint64_t heap_allocations;

static chunk *chunk_create(const char *phase, size_t n_bytes)
{
    chunk *c = malloc(sizeof *c);
    size_t rounded = (n_bytes + COX_ARENA_ALIGN - 1) / COX_ARENA_ALIGN * COX_ARENA_ALIGN;
    void *data = c ? aligned_alloc(COX_ARENA_ALIGN, rounded) : NULL;
    if (!data) {
        free(c);
        cox_fail(COX_NO_MEMORY, "out of memory: %zu bytes for the %s phase", n_bytes, phase);
        return NULL;
    }
    *c = (chunk){.size_bytes = rounded, .data = data};
    ASAN_POISON_MEMORY_REGION(c->data, rounded);
    atomic_fetch_add(&heap_allocations, 1);
    return c;
}

cox_status cox_arena_create(cox_arena **arena, const char *phase, size_t first_bytes)
{
    cox_arena *a = calloc(1, sizeof *a);
    if (!a) return cox_fail(COX_NO_MEMORY, "out of memory for an arena of the %s phase", phase);
    a->phase = phase;
    a->first_bytes = first_bytes ? first_bytes : (size_t)64 << 10;
    *arena = a;
    return COX_OK;
}

void cox_arena_set_pulse(cox_arena *arena, void (*function)(void *context), void *context)
{
    arena->pulse = function;
    arena->pulse_context = context;
}

static void zero(const cox_arena *arena, unsigned char *memory, size_t n_bytes)
{
    for (size_t done = 0; done < n_bytes;) {
        size_t n = n_bytes - done < SLICE_BYTES ? n_bytes - done : SLICE_BYTES;
        memset(memory + done, 0, n);
        done += n;
        if (arena->pulse && done < n_bytes) arena->pulse(arena->pulse_context);
    }
}

/* The first chunk from the current one on that has room; a new one at the end when none has. */
static chunk *chunk_with_room(cox_arena *arena, size_t n_bytes)
{
    chunk **link = arena->current ? &arena->current : &arena->chunks;
    for (chunk *c = *link; c; link = &c->next, c = c->next) {
        if (c->size_bytes - c->used_bytes >= n_bytes) return c;
    }
    chunk *fresh = chunk_create(arena->phase, n_bytes > arena->first_bytes ? n_bytes : arena->first_bytes);
    if (!fresh) return NULL;
    chunk **end = &arena->chunks;
    while (*end) end = &(*end)->next;
    *end = fresh;
    return fresh;
}

void *cox_arena_alloc(cox_arena *arena, size_t n_bytes)
{
    if (n_bytes > SIZE_MAX / 2) {
        cox_fail(COX_NO_MEMORY, "out of memory: %zu bytes for the %s phase", n_bytes, arena->phase);
        return NULL;
    }
    size_t room = (n_bytes + REDZONE_BYTES + COX_ARENA_ALIGN - 1) / COX_ARENA_ALIGN * COX_ARENA_ALIGN;
    if (room == 0) room = COX_ARENA_ALIGN;
    chunk *c = chunk_with_room(arena, room);
    if (!c) return NULL;
    arena->current = c;
    void *memory = c->data + c->used_bytes;
    c->used_bytes += room;
    ASAN_UNPOISON_MEMORY_REGION(memory, n_bytes);
    zero(arena, memory, n_bytes);
    return memory;
}

void *cox_arena_array(cox_arena *arena, size_t count, size_t size)
{
    size_t n_bytes;
    if (__builtin_mul_overflow(count, size, &n_bytes)) n_bytes = SIZE_MAX;
    return cox_arena_alloc(arena, n_bytes);
}

char *cox_arena_strdup(cox_arena *arena, const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = cox_arena_alloc(arena, n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

void cox_arena_reset(cox_arena *arena)
{
    for (chunk *c = arena->chunks; c; c = c->next) {
#ifndef NDEBUG
        ASAN_UNPOISON_MEMORY_REGION(c->data, c->used_bytes);
        memset(c->data, 0xff, c->used_bytes); /* NaN as f32 and as f64 */
#endif
        ASAN_POISON_MEMORY_REGION(c->data, c->size_bytes);
        c->used_bytes = 0;
    }
    arena->current = NULL;
}

size_t cox_arena_used_bytes(const cox_arena *arena)
{
    size_t sum = 0;
    for (const chunk *c = arena->chunks; c; c = c->next) sum += c->used_bytes;
    return sum;
}

size_t cox_arena_reserved_bytes(const cox_arena *arena)
{
    size_t sum = 0;
    for (const chunk *c = arena->chunks; c; c = c->next) sum += c->size_bytes;
    return sum;
}

void cox_arena_destroy(cox_arena *arena)
{
    if (!arena) return;
    for (chunk *c = arena->chunks, *next; c; c = next) {
        next = c->next;
        ASAN_UNPOISON_MEMORY_REGION(c->data, c->size_bytes);
        free(c->data);
        free(c);
    }
    free(arena);
}

uint64_t cox_heap_allocations(void)
{
    return atomic_load(&heap_allocations);
}
