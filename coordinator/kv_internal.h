/* What kv_cache.c (blocks, tables), kv_prefix.c (the index) and kv_residuals.c (stored rows) share. */
#ifndef COX_COORDINATOR_KV_INTERNAL_H
#define COX_COORDINATOR_KV_INTERNAL_H

#include "coordinator/kv_cache.h"

/* A page that the index knows: its tokens after those of its parents, and what a plan has done to it. */
typedef struct cox__prefix {
    uint64_t hash, last_use;
    uint64_t effect;   /* 0: clean */
    int32_t parent;    /* entry of the page before; -1: first page */
    int32_t next;      /* in the hash chain; -1: end; also the free list */
    int32_t n_holders; /* entries that continue this one, and tables that stand on it */
    int32_t n_tokens;  /* fewer than COX_KV_BLOCK: the end of a prompt */
    int32_t n_layers;  /* layers below are known (steered pages: all); 0: the entry is free */
    int32_t residuals; /* page of residual rows; -1: none */
    cox_kv_note *note; /* of a steered page; or NULL */
    int32_t tokens[COX_KV_BLOCK];
} cox__prefix;

/* A page of residual rows: rows below n_rows at the entries of those layers 1..n_layers that are stored. */
typedef struct cox__residuals {
    int32_t owner; /* entry of the index; -1: free, or being filled */
    bool is_filling;
    int32_t n_rows, n_layers;
    int32_t n_copied_rows, n_copied_layers; /* being filled: what was there when filling began */
    uint64_t last_use, last_step;
} cox__residuals;

struct cox_kv_cache {
    cox_kv_shape shape;
    size_t block_floats;
    float *pool;          /* [n_blocks, block_floats] */
    int32_t *free_blocks; /* stack [n_blocks] */
    int32_t *n_users;     /* [n_blocks] tables that have the block */
    int32_t *n_keepers;   /* [n_blocks] entries that have it */
    int32_t n_free_blocks;
    int32_t n_idle_blocks; /* without users, but kept */
    int32_t n_buckets;     /* a power of two */
    int32_t *buckets;      /* [n_buckets] first full-page entry or -1 */
    cox__prefix *entries;  /* [n_pages] */
    int32_t *entry_blocks; /* [n_pages, n_layers] */
    int32_t free_entry;
    int32_t n_touched;         /* entries from here on have never been used */
    float *rows;               /* [n_residuals, n_stored, COX_KV_BLOCK, d_model] */
    int32_t *n_stored_to;      /* [n_layers+1]: stored layers among 1..l; n_stored = n_stored_to[n_layers] */
    cox__residuals *residuals; /* [n_residuals] */
    uint64_t clock, step;
};

static inline int32_t *cox__table_block(const cox_kv_table *table, int32_t layer, int32_t page)
{
    return &table->blocks[(size_t)layer * (size_t)table->max_pages + (size_t)page];
}

static inline bool cox__is_stored(const cox_kv_cache *cache, int32_t layer)
{
    return layer > 0 && cache->n_stored_to[layer] > cache->n_stored_to[layer - 1];
}

/* --- kv_cache.c --- */
void cox__block_use(cox_kv_cache *cache, int32_t block);
void cox__block_unuse(cox_kv_cache *cache, int32_t block);
void cox__block_keep(cox_kv_cache *cache, int32_t block);
void cox__block_unkeep(cox_kv_cache *cache, int32_t block);

/* --- kv_prefix.c --- */
size_t cox__prefix_bytes(const cox_kv_shape *shape);
cox_status cox__prefix_create(cox_kv_cache *cache, cox_arena *arena);
/* Forgets the least recently used entry that nothing holds and that frees a block; false: there is none. */
bool cox__prefix_forget_one(cox_kv_cache *cache);
/* A table stands on entry `to` and no longer on `from`; -1: on none. */
void cox__prefix_move(cox_kv_cache *cache, int32_t from, int32_t to);

/* --- kv_residuals.c --- */
size_t cox__residuals_bytes(const cox_kv_shape *shape);
cox_status cox__residuals_create(cox_kv_cache *cache, cox_arena *arena);
/* The filled page goes to the entry, unless the entry has a better one. */
void cox__residuals_give(cox_kv_cache *cache, int32_t residuals, int32_t entry);
void cox__residuals_drop(cox_kv_cache *cache, int32_t residuals);

#endif
