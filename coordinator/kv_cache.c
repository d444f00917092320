/*
 * Blocks are handed out from a free stack. The prefix index is a hash table of entries, each one page: the
 * 32 tokens, the entry before it, and its n_layers blocks. Tokens are compared, not only hashed. An entry
 * whose blocks nobody else uses and that no other entry continues may be forgotten.
 */
#include "coordinator/kv_cache.h"

#include <string.h>

typedef struct prefix_entry {
    uint64_t hash;
    uint64_t effect; /* of steering on this page; 0: none */
    uint64_t last_use;
    int32_t parent;     /* entry of the page before; -1: first page */
    int32_t next;       /* in the hash chain; -1: end; also the free list */
    int32_t n_children; /* entries that continue this one */
    bool is_used;
    int32_t tokens[COX_KV_BLOCK];
} prefix_entry;

struct cox_kv_cache {
    cox_kv_shape shape;
    size_t block_floats;
    int32_t n_blocks, n_free_blocks;
    float *pool;           /* [n_blocks, block_floats] */
    int32_t *free_blocks;  /* stack [n_blocks] */
    int32_t *references;   /* [n_blocks] */
    int32_t n_buckets;     /* a power of two */
    int32_t *buckets;      /* [n_buckets] first entry or -1 */
    prefix_entry *entries; /* [n_pages] */
    int32_t *entry_blocks; /* [n_pages, n_layers] */
    int32_t free_entry;
    int32_t n_idle_pages; /* entries whose blocks only the index holds */
    uint64_t clock;
};

size_t cox_kv_block_floats(const cox_kv_shape *shape)
{
    return 2 * (size_t)shape->n_kv_heads * COX_KV_BLOCK * (size_t)shape->head_dim;
}

size_t cox_kv_page_bytes(const cox_kv_shape *shape)
{
    return (size_t)shape->n_layers * cox_kv_block_floats(shape) * sizeof(float);
}

static int32_t bucket_count(int32_t n_pages)
{
    int32_t n = 16;
    while (n < n_pages) n *= 2;
    return n;
}

size_t cox_kv_cache_bytes(const cox_kv_shape *shape)
{
    size_t pages = (size_t)shape->n_pages, layers = (size_t)shape->n_layers;
    return pages * (cox_kv_page_bytes(shape) + 3 * layers * sizeof(int32_t) + sizeof(prefix_entry)) +
           (size_t)bucket_count(shape->n_pages) * sizeof(int32_t) + sizeof(cox_kv_cache);
}

cox_status cox_kv_cache_create(cox_kv_cache **cache, cox_arena *arena, const cox_kv_shape *shape)
{
    cox_kv_cache *c = cox_arena_alloc(arena, sizeof *c);
    if (!c) return COX_NO_MEMORY;
    size_t pages = (size_t)shape->n_pages, layers = (size_t)shape->n_layers;
    *c = (cox_kv_cache){.shape = *shape, .block_floats = cox_kv_block_floats(shape)};
    c->n_blocks = shape->n_pages * shape->n_layers;
    c->n_buckets = bucket_count(shape->n_pages);
    c->pool = cox_arena_array(arena, pages * layers * c->block_floats, sizeof(float));
    c->free_blocks = cox_arena_array(arena, pages * layers, sizeof(int32_t));
    c->references = cox_arena_array(arena, pages * layers, sizeof(int32_t));
    c->buckets = cox_arena_array(arena, (size_t)c->n_buckets, sizeof(int32_t));
    c->entries = cox_arena_array(arena, pages, sizeof(prefix_entry));
    c->entry_blocks = cox_arena_array(arena, pages * layers, sizeof(int32_t));
    if (!c->pool || !c->free_blocks || !c->references || !c->buckets || !c->entries || !c->entry_blocks) {
        return COX_NO_MEMORY;
    }
    for (int32_t b = 0; b < c->n_blocks; b++) c->free_blocks[b] = c->n_blocks - 1 - b;
    c->n_free_blocks = c->n_blocks;
    for (int32_t b = 0; b < c->n_buckets; b++) c->buckets[b] = -1;
    for (int32_t e = 0; e < shape->n_pages; e++) c->entries[e].next = e + 1 < shape->n_pages ? e + 1 : -1;
    c->free_entry = shape->n_pages ? 0 : -1;
    *cache = c;
    return COX_OK;
}

static int32_t *blocks_of(cox_kv_cache *cache, int32_t entry)
{
    return cache->entry_blocks + (size_t)entry * (size_t)cache->shape.n_layers;
}

/* FNV-1a over the parent's hash, the page's effect and its tokens. */
static uint64_t page_hash(uint64_t parent_hash, uint64_t effect, const int32_t *tokens)
{
    uint64_t hash = 14695981039346656037u ^ parent_hash ^ effect;
    for (int32_t i = 0; i < COX_KV_BLOCK; i++) {
        hash = (hash ^ (uint64_t)(uint32_t)tokens[i]) * 1099511628211u;
        hash ^= hash >> 29;
    }
    return hash;
}

static int32_t find_entry(const cox_kv_cache *cache, int32_t parent, uint64_t hash, uint64_t effect,
                          const int32_t *tokens)
{
    int32_t e = cache->buckets[hash & (uint64_t)(cache->n_buckets - 1)];
    for (; e >= 0; e = cache->entries[e].next) {
        const prefix_entry *entry = &cache->entries[e];
        if (entry->hash == hash && entry->effect == effect && entry->parent == parent &&
            memcmp(entry->tokens, tokens, sizeof entry->tokens) == 0) {
            return e;
        }
    }
    return -1;
}

/* An entry's page is idle when the index alone holds it; all its blocks have the same count. */
static bool is_idle(cox_kv_cache *cache, int32_t entry)
{
    return cache->references[blocks_of(cache, entry)[0]] == 1;
}

static void drop_block(cox_kv_cache *cache, int32_t block)
{
    if (--cache->references[block] == 0) cache->free_blocks[cache->n_free_blocks++] = block;
}

static void forget_entry(cox_kv_cache *cache, int32_t e)
{
    prefix_entry *entry = &cache->entries[e];
    int32_t *link = &cache->buckets[entry->hash & (uint64_t)(cache->n_buckets - 1)];
    while (*link != e) link = &cache->entries[*link].next;
    *link = entry->next;
    if (entry->parent >= 0) cache->entries[entry->parent].n_children--;
    for (int32_t l = 0; l < cache->shape.n_layers; l++) drop_block(cache, blocks_of(cache, e)[l]);
    entry->is_used = false;
    entry->next = cache->free_entry;
    cache->free_entry = e;
    cache->n_idle_pages--;
}

/* Forgets the least recently used idle page that nothing continues; false when there is none. A sequence that
 * uses a page uses all pages before it, so among idle entries there is always a leaf. */
static bool forget_one(cox_kv_cache *cache)
{
    int32_t oldest = -1;
    for (int32_t e = 0; e < cache->shape.n_pages; e++) {
        const prefix_entry *entry = &cache->entries[e];
        if (!entry->is_used || entry->n_children || !is_idle(cache, e)) continue;
        if (oldest < 0 || entry->last_use < cache->entries[oldest].last_use) oldest = e;
    }
    if (oldest < 0) return false;
    forget_entry(cache, oldest);
    return true;
}

int32_t cox_kv_match(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, const uint64_t *effects,
                     int32_t n_most)
{
    table->prefix = -1;
    table->n_indexed = 0;
    if (!cache->shape.has_prefix_reuse) return 0;
    uint64_t hash = 0;
    while ((table->n_pages + 1) * COX_KV_BLOCK <= n_most) {
        const int32_t *page = tokens + (size_t)table->n_pages * COX_KV_BLOCK;
        uint64_t effect = effects ? effects[table->n_pages] : 0;
        hash = page_hash(hash, effect, page);
        int32_t e = find_entry(cache, table->prefix, hash, effect, page);
        if (e < 0) break;
        if (is_idle(cache, e)) cache->n_idle_pages--;
        cache->entries[e].last_use = ++cache->clock;
        for (int32_t l = 0; l < cache->shape.n_layers; l++) {
            int32_t block = blocks_of(cache, e)[l];
            cache->references[block]++;
            table->blocks[(size_t)l * (size_t)table->max_pages + (size_t)table->n_pages] = block;
        }
        table->prefix = e;
        table->n_pages++;
        table->n_indexed++;
    }
    return table->n_pages * COX_KV_BLOCK;
}

bool cox_kv_reserve(cox_kv_cache *cache, cox_kv_table *table, int32_t n_positions)
{
    int32_t n_layers = cache->shape.n_layers;
    int32_t wanted = (n_positions + COX_KV_BLOCK - 1) / COX_KV_BLOCK;
    if (wanted > table->max_pages || wanted - table->n_pages > cox_kv_n_free_pages(cache)) return false;
    for (; table->n_pages < wanted; table->n_pages++) {
        while (cache->n_free_blocks < n_layers) {
            if (!forget_one(cache)) return false;
        }
        for (int32_t l = 0; l < n_layers; l++) {
            int32_t block = cache->free_blocks[--cache->n_free_blocks];
            cache->references[block] = 1;
            table->blocks[(size_t)l * (size_t)table->max_pages + (size_t)table->n_pages] = block;
        }
    }
    return true;
}

/* A fresh entry for the table's page p, holding one more reference to its blocks; -1 when entries run out. */
static int32_t add_entry(cox_kv_cache *cache, const cox_kv_table *table, int32_t p, uint64_t hash,
                         uint64_t effect, const int32_t *tokens)
{
    int32_t e = cache->free_entry;
    if (e < 0) return -1;
    prefix_entry *entry = &cache->entries[e];
    cache->free_entry = entry->next;
    int32_t *bucket = &cache->buckets[hash & (uint64_t)(cache->n_buckets - 1)];
    *entry = (prefix_entry){
        .hash = hash, .effect = effect, .parent = table->prefix, .next = *bucket, .is_used = true};
    memcpy(entry->tokens, tokens, sizeof entry->tokens);
    *bucket = e;
    if (entry->parent >= 0) cache->entries[entry->parent].n_children++;
    for (int32_t l = 0; l < cache->shape.n_layers; l++) {
        int32_t block = table->blocks[(size_t)l * (size_t)table->max_pages + (size_t)p];
        blocks_of(cache, e)[l] = block;
        cache->references[block]++;
    }
    return e;
}

void cox_kv_index(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, const uint64_t *effects,
                  int32_t n_computed)
{
    if (!cache->shape.has_prefix_reuse) return;
    while ((table->n_indexed + 1) * COX_KV_BLOCK <= n_computed) {
        int32_t p = table->n_indexed;
        const int32_t *page = tokens + (size_t)p * COX_KV_BLOCK;
        uint64_t effect = effects ? effects[p] : 0;
        uint64_t hash = page_hash(table->prefix >= 0 ? cache->entries[table->prefix].hash : 0, effect, page);
        /* Another sequence may have computed the same page: its chain is kept and this table's own page stays
         * private, so a later page of this table must not continue the chain (its parents would not be held).
         */
        if (find_entry(cache, table->prefix, hash, effect, page) >= 0) return;
        int32_t e = add_entry(cache, table, p, hash, effect, page);
        if (e < 0) return;
        cache->entries[e].last_use = ++cache->clock;
        table->prefix = e;
        table->n_indexed++;
    }
}

void cox_kv_release(cox_kv_cache *cache, cox_kv_table *table)
{
    for (int32_t p = 0; p < table->n_pages; p++) {
        int32_t first = table->blocks[p];
        for (int32_t l = 0; l < cache->shape.n_layers; l++) {
            drop_block(cache, table->blocks[(size_t)l * (size_t)table->max_pages + (size_t)p]);
        }
        if (p < table->n_indexed && cache->references[first] == 1) cache->n_idle_pages++;
    }
    table->n_pages = 0;
    table->n_indexed = 0;
    table->prefix = -1;
}

int32_t cox_kv_n_free_pages(const cox_kv_cache *cache)
{
    return cache->n_free_blocks / cache->shape.n_layers + cache->n_idle_pages;
}

float *cox_kv_pool(cox_kv_cache *cache)
{
    return cache->pool;
}

size_t cox_kv_v_offset(const cox_kv_cache *cache)
{
    return cache->block_floats / 2;
}
