/*
 * Blocks and tables. Blocks are handed out from a free stack; a block goes back when no table uses it and no
 * entry of the prefix index keeps it. A table never writes into a block that it has borrowed: reserve gives
 * it one of its own in the layers that its rows compute, with a copy of the positions that the index knew.
 */
#include "coordinator/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/kv_internal.h"

static size_t block_floats(const cox_kv_shape *shape)
{
    return 2 * (size_t)shape->n_kv_heads * COX_KV_BLOCK * (size_t)shape->head_dim;
}

size_t cox_kv_page_bytes(const cox_kv_shape *shape)
{
    return (size_t)shape->n_layers * block_floats(shape) * sizeof(float);
}

size_t cox_kv_cache_bytes(const cox_kv_shape *shape)
{
    size_t pages = (size_t)shape->n_pages, layers = (size_t)shape->n_layers;
    return pages * (cox_kv_page_bytes(shape) + 3 * layers * sizeof(int32_t)) + cox__prefix_bytes(shape) +
           cox__residuals_bytes(shape) + sizeof(cox_kv_cache);
}

cox_status cox_kv_cache_create(cox_kv_cache **cache, cox_arena *arena, const cox_kv_shape *shape)
{
    cox_kv_cache *c = cox_arena_alloc(arena, sizeof *c);
    if (!c) return COX_NO_MEMORY;
    size_t n_blocks = (size_t)shape->n_pages * (size_t)shape->n_layers;
    *c = (cox_kv_cache){.shape = *shape, .block_floats = block_floats(shape), .step = 1};
    c->pool = cox_arena_array(arena, n_blocks * c->block_floats, sizeof(float));
    c->free_blocks = cox_arena_array(arena, n_blocks, sizeof(int32_t));
    c->n_users = cox_arena_array(arena, n_blocks, sizeof(int32_t));
    c->n_keepers = cox_arena_array(arena, n_blocks, sizeof(int32_t));
    if (!c->pool || !c->free_blocks || !c->n_users || !c->n_keepers) return COX_NO_MEMORY;
    c->n_free_blocks = (int32_t)n_blocks;
    for (int32_t b = 0; b < c->n_free_blocks; b++) c->free_blocks[b] = c->n_free_blocks - 1 - b;
    cox_status status = cox__prefix_create(c, arena);
    if (status == COX_OK) status = cox__residuals_create(c, arena);
    if (status == COX_OK) *cache = c;
    return status;
}

cox_status cox_kv_table_create(cox_kv_table *table, const cox_kv_shape *shape, int32_t n_positions)
{
    int32_t max_pages = (n_positions + COX_KV_BLOCK - 1) / COX_KV_BLOCK;
    *table = (cox_kv_table){.max_pages = max_pages,
                            .n_clean_positions = INT32_MAX,
                            .n_clean_layers = shape->n_layers,
                            .n_clean_keys = INT32_MAX,
                            .base = -1,
                            .clean = -1,
                            .own = -1};
    table->blocks = calloc((size_t)max_pages * (size_t)shape->n_layers, sizeof *table->blocks);
    table->pages = calloc((size_t)max_pages, sizeof *table->pages);
    if (table->blocks && table->pages) return COX_OK;
    cox_kv_table_free(table);
    return COX_NO_MEMORY;
}

void cox_kv_note_free(cox_kv_note *note)
{
    if (note && --note->n_owners == 0) free(note);
}

void cox_kv_table_free(cox_kv_table *table)
{
    for (int32_t p = 0; table->notes && p < table->max_pages; p++) cox_kv_note_free(table->notes[p]);
    free(table->notes);
    free(table->blocks);
    free(table->pages);
    *table = (cox_kv_table){0};
}

/* --- Blocks --- */

void cox__block_use(cox_kv_cache *cache, int32_t block)
{
    if (cache->n_users[block]++ == 0 && cache->n_keepers[block] > 0) cache->n_idle_blocks--;
}

void cox__block_unuse(cox_kv_cache *cache, int32_t block)
{
    if (--cache->n_users[block] > 0) return;
    if (cache->n_keepers[block] > 0) {
        cache->n_idle_blocks++;
    } else {
        cache->free_blocks[cache->n_free_blocks++] = block;
    }
}

void cox__block_keep(cox_kv_cache *cache, int32_t block)
{
    assert(cache->n_users[block] > 0);
    cache->n_keepers[block]++;
}

void cox__block_unkeep(cox_kv_cache *cache, int32_t block)
{
    if (--cache->n_keepers[block] > 0 || cache->n_users[block] > 0) return;
    cache->n_idle_blocks--;
    cache->free_blocks[cache->n_free_blocks++] = block;
}

/* --- Tables --- */

/* The lowest layer that rows first <= p < end compute in a page. */
static int32_t first_layer(cox_kv_cache *cache, const cox_kv_table *table, int32_t page, int32_t first,
                           int32_t end)
{
    int32_t from = page * COX_KV_BLOCK, to = from + COX_KV_BLOCK, least = cache->shape.n_layers;
    for (int32_t p = from > first ? from : first; p < (to < end ? to : end); p++) {
        int32_t start = cox_kv_start(cache, table, p);
        if (start < least) least = start;
    }
    return least;
}

/* The page's rows may write into the table's block of the layer. */
static bool is_writable(const cox_kv_table *table, int32_t page, int32_t layer)
{
    return page < table->n_pages && layer >= table->pages[page].n_borrowed &&
           *cox__table_block(table, layer, page) >= 0;
}

/* Of the n first positions of a page. */
static void copy_known(cox_kv_cache *cache, int32_t n, int32_t from, int32_t to)
{
    size_t head = COX_KV_BLOCK * (size_t)cache->shape.head_dim;
    size_t known = (size_t)n * (size_t)cache->shape.head_dim;
    const float *in = cache->pool + (size_t)from * cache->block_floats;
    float *out = cache->pool + (size_t)to * cache->block_floats;
    for (int32_t h = 0; h < 2 * cache->shape.n_kv_heads; h++)
        memcpy(out + (size_t)h * head, in + (size_t)h * head, known * sizeof *out);
}

/* Positions of a page, from its first, whose known keys and values its rows first <= p < end leave in place
 * in some layer that others of them compute. */
static int32_t n_left_known(cox_kv_cache *cache, const cox_kv_table *table, int32_t page, int32_t first,
                            int32_t end)
{
    int32_t from = page * COX_KV_BLOCK, to = from + COX_KV_BLOCK;
    if (to > table->n_matched) to = table->n_matched;
    if (to <= from) return 0;
    bool is_even = end >= to;
    for (int32_t p = from > first ? from : first; p + 1 < to && is_even; p++)
        is_even = cox_kv_start(cache, table, p) == cox_kv_start(cache, table, p + 1);
    if (!is_even) return to - from;
    return first > from ? first - from : 0;
}

/* A free block, if need be of an entry that is forgotten for it; -1: there is none. */
static int32_t take_block(cox_kv_cache *cache)
{
    while (cache->n_free_blocks == 0) {
        if (!cox__prefix_forget_one(cache)) return -1;
    }
    return cache->free_blocks[--cache->n_free_blocks];
}

/* n_known: positions to be taken over from a borrowed block. From the highest layer down, so that "borrowed
 * below" holds at every moment. has_one: a block for all layers; each overwrites the keys and values of the
 * one below, whose rows have all attended by then. */
static bool make_writable(cox_kv_cache *cache, cox_kv_table *table, int32_t page, int32_t from,
                          int32_t n_known, bool has_one)
{
    if (page == table->n_pages) {
        for (int32_t l = 0; l < cache->shape.n_layers; l++) *cox__table_block(table, l, page) = -1;
        table->pages[page] =
            (cox_kv_page){.effect = table->pages[page].effect, .clean = -1, .own = -1, .residuals = -1};
        table->n_pages++;
    }
    for (int32_t l = cache->shape.n_layers - 1, block = -1; l >= from; l--) {
        if (is_writable(table, page, l)) continue;
        if (block < 0 || !has_one) block = take_block(cache);
        if (block < 0) return false;
        int32_t *place = cox__table_block(table, l, page), old = *place;
        *place = block;
        cox__block_use(cache, block);
        if (old < 0) continue;
        if (!has_one) copy_known(cache, n_known, old, *place);
        cox__block_unuse(cache, old);
        table->pages[page].n_borrowed = l;
    }
    return true;
}

/* The page's n_known positions are just those before its rows, and the clean entry, which the table holds,
 * has them in all layers. */
static bool is_recallable(const cox_kv_cache *cache, const cox_kv_table *table, int32_t page, int32_t first,
                          int32_t n_known)
{
    if (page >= table->n_pages || n_known != first - page * COX_KV_BLOCK) return false;
    const cox_kv_page *p = &table->pages[page];
    return p->clean >= 0 && (p->own < 0 || p->own == p->clean) &&
           cache->entries[p->clean].n_layers == cache->shape.n_layers;
}

void cox_kv_recall(cox_kv_cache *cache, const cox_kv_table *table, int32_t layer)
{
    if (table->n_recalled == 0) return;
    int32_t page = table->recalled_page, entry = table->pages[page].clean;
    int32_t known = cache->entry_blocks[(size_t)entry * (size_t)cache->shape.n_layers + (size_t)layer];
    copy_known(cache, table->n_recalled, known, *cox__table_block(table, layer, page));
}

bool cox_kv_reserve(cox_kv_cache *cache, cox_kv_table *table, int32_t first, int32_t end)
{
    int32_t first_page = first / COX_KV_BLOCK, end_page = (end + COX_KV_BLOCK - 1) / COX_KV_BLOCK;
    if (end_page > table->max_pages) return false;
    int32_t n_wanted = 0; /* known beforehand, so that the index is not emptied in vain */
    for (int32_t page = first_page; page < end_page; page++) {
        for (int32_t l = first_layer(cache, table, page, first, end); l < cache->shape.n_layers; l++)
            n_wanted += !is_writable(table, page, l);
    }
    if (n_wanted > cache->n_free_blocks + cache->n_idle_blocks) return false;
    for (int32_t page = first_page; page < end_page; page++) {
        int32_t n_known = n_left_known(cache, table, page, first, end);
        bool has_one =
            table->is_passing && (n_known == 0 || is_recallable(cache, table, page, first, n_known));
        if (has_one && n_known > 0) table->recalled_page = page, table->n_recalled = n_known;
        if (!make_writable(cache, table, page, first_layer(cache, table, page, first, end), n_known, has_one))
            return false;
    }
    return true;
}

void cox_kv_release(cox_kv_cache *cache, cox_kv_table *table)
{
    for (int32_t p = 0; p < table->n_pages; p++) {
        for (int32_t l = 0; l < cache->shape.n_layers; l++) {
            int32_t block = *cox__table_block(table, l, p);
            if (block >= 0) cox__block_unuse(cache, block);
        }
        if (table->pages[p].residuals >= 0) cox__residuals_drop(cache, table->pages[p].residuals);
    }
    cox__prefix_move(cache, table->base, -1);
    cox__prefix_move(cache, table->clean, -1);
    cox__prefix_move(cache, table->own, -1);
    table->n_pages = table->n_matched = table->n_indexed = table->n_recalled = 0;
    table->base = table->clean = table->own = -1;
    table->has_told_tail = false;
}

int32_t cox_kv_n_free_pages(const cox_kv_cache *cache)
{
    return (cache->n_free_blocks + cache->n_idle_blocks) / cache->shape.n_layers;
}

float *cox_kv_pool(cox_kv_cache *cache)
{
    return cache->pool;
}

size_t cox_kv_v_offset(const cox_kv_cache *cache)
{
    return cache->block_floats / 2;
}
