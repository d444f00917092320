/*
 * Memory by phase. An arena grows in chunks while a phase is set up (load, session) and is then used
 * without allocating; cox_arena_reset() empties it for a phase that comes again.
 * cox_heap_allocations() counts every chunk that any arena ever took from the heap, so that a test can
 * prove that a step took none.
 */
#ifndef COX_BASE_ARENA_H
#define COX_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_arena cox_arena;

enum { COX_ARENA_ALIGN = 64 };

/* [out] *arena is owned by the caller. phase: a static string for messages. first_bytes: size of the
 * first chunk (0: 64 KiB); later chunks are at least as large. Errors: NO_MEMORY. */
cox_status cox_arena_create(cox_arena **arena, const char *phase, size_t first_bytes);

/* Zeroing a large cache can take many seconds: function(context) is called between slices of an allocation,
 * so that whoever waits for this rank can be told that it lives. NULL: nobody is. */
void cox_arena_set_pulse(cox_arena *arena, void (*function)(void *context), void *context);

/* n bytes, zeroed, aligned to 64; lives until reset or destroy. NULL (with a message, status
 * NO_MEMORY for the caller to return) when the heap has no more. n = 0 gives a valid unique address. */
void *cox_arena_alloc(cox_arena *arena, size_t n_bytes);

/* count * size bytes, as cox_arena_alloc; checks the product. */
void *cox_arena_array(cox_arena *arena, size_t count, size_t size);

/* A copy of a string in the arena; NULL as above. */
char *cox_arena_strdup(cox_arena *arena, const char *text);

/* Gives every row back at once but keeps the chunks. In debug builds the bytes become NaN patterns. */
void cox_arena_reset(cox_arena *arena);

size_t cox_arena_used_bytes(const cox_arena *arena);
size_t cox_arena_reserved_bytes(const cox_arena *arena);

/* NULL is allowed. */
void cox_arena_destroy(cox_arena *arena);

/* Chunks taken from the heap by all arenas of this process so far. */
uint64_t cox_heap_allocations(void);

#endif
