/*
 * Paged keys and values. The pool is an array of blocks; a block holds the keys and values of
 * COX_KV_BLOCK consecutive positions in ONE layer: [2 (k, v)][n_kv_heads][COX_KV_BLOCK][head_dim] f32. A
 * page is the n_layers blocks of one range of positions. Pages are shared by reference count; full pages
 * are remembered by the token prefix that they stand for, so that a sequence with the same prefix starts
 * from them, and are forgotten, least recently used first, when blocks run out.
 */
#ifndef COX_COORDINATOR_KV_CACHE_H
#define COX_COORDINATOR_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "kernels/kernels.h"

typedef struct cox_kv_cache cox_kv_cache;

typedef struct cox_kv_shape {
    int32_t n_layers, n_kv_heads, head_dim;
    int32_t n_pages; /* pages of the pool */
    bool has_prefix_reuse;
} cox_kv_shape;

/* Floats of one block, and bytes of one page over all layers. */
size_t cox_kv_block_floats(const cox_kv_shape *shape);
size_t cox_kv_page_bytes(const cox_kv_shape *shape);
/* Bytes that create takes. */
size_t cox_kv_cache_bytes(const cox_kv_shape *shape);

/* Takes and touches all its memory in `arena`. Errors: NO_MEMORY. */
cox_status cox_kv_cache_create(cox_kv_cache **cache, cox_arena *arena, const cox_kv_shape *shape);

/* The block table of a sequence: page p's block in layer l is blocks[l * max_pages + p]. */
typedef struct cox_kv_table {
    int32_t *blocks; /* [n_layers, max_pages], owned by the sequence */
    int32_t max_pages;
    int32_t n_pages;   /* in use */
    int32_t prefix;    /* entry of the last page that the prefix index knows; -1: none */
    int32_t n_indexed; /* pages known to the prefix index */
} cox_kv_table;

/*
 * Starts a table: takes the longest indexed run of full pages that equals the first tokens (at most `n_most`
 * tokens, so that something is left to compute) and whose effects are the same. effects [max_pages]: what
 * steering has done to each page's KV (0: nothing); NULL: nothing anywhere. Returns the number of positions
 * covered. table->n_pages must be 0.
 */
int32_t cox_kv_match(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, const uint64_t *effects,
                     int32_t n_most);

/* Makes room for positions below n_positions; forgets unused indexed pages where needed. False when blocks
 * run out (the table keeps what it had). */
bool cox_kv_reserve(cox_kv_cache *cache, cox_kv_table *table, int32_t n_positions);

/* Tells the index about pages that are complete: positions below n_computed hold the KV of `tokens`. */
void cox_kv_index(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, const uint64_t *effects,
                  int32_t n_computed);

/* Gives all pages of the table back (indexed ones stay until room is needed). */
void cox_kv_release(cox_kv_cache *cache, cox_kv_table *table);

int32_t cox_kv_n_free_pages(const cox_kv_cache *cache); /* free or only held by the index */
float *cox_kv_pool(cox_kv_cache *cache);
size_t cox_kv_v_offset(const cox_kv_cache *cache); /* of the values within a block, floats */

#endif
