/*
 * The index of pages. An entry is one page: its tokens, the entry before it, what a plan has done to it, and
 * its blocks in the layers below n_layers. A steered sequence tells the index two chains: its own pages, in
 * all layers, for others with the same effect; and clean ones, in the layers below its plan, for everybody.
 * Full pages are found by a hash of the whole prefix, the end of a prompt by a look through the entries, once
 * for a sequence. Tokens are compared, not only hashed. An entry that nothing holds may be forgotten.
 */
#include <string.h>

#include "coordinator/kv_internal.h"

static int32_t bucket_count(int32_t n_pages)
{
    int32_t n = 16;
    while (n < n_pages) n *= 2;
    return n;
}

size_t cox__prefix_bytes(const cox_kv_shape *shape)
{
    return (size_t)shape->n_pages * (sizeof(cox__prefix) + (size_t)shape->n_layers * sizeof(int32_t)) +
           (size_t)bucket_count(shape->n_pages) * sizeof(int32_t);
}

cox_status cox__prefix_create(cox_kv_cache *cache, cox_arena *arena)
{
    size_t pages = (size_t)cache->shape.n_pages;
    cache->n_buckets = bucket_count(cache->shape.n_pages);
    cache->buckets = cox_arena_array(arena, (size_t)cache->n_buckets, sizeof(int32_t));
    cache->entries = cox_arena_array(arena, pages, sizeof(cox__prefix));
    cache->entry_blocks = cox_arena_array(arena, pages * (size_t)cache->shape.n_layers, sizeof(int32_t));
    if (!cache->buckets || !cache->entries || !cache->entry_blocks) return COX_NO_MEMORY;
    for (int32_t b = 0; b < cache->n_buckets; b++) cache->buckets[b] = -1;
    for (int32_t e = 0; e < cache->shape.n_pages; e++) {
        cache->entries[e] = (cox__prefix){.next = e + 1 < cache->shape.n_pages ? e + 1 : -1, .residuals = -1};
    }
    cache->free_entry = cache->shape.n_pages ? 0 : -1;
    return COX_OK;
}

static int32_t *blocks_of(const cox_kv_cache *cache, int32_t entry)
{
    return cache->entry_blocks + (size_t)entry * (size_t)cache->shape.n_layers;
}

/* --- Finding --- */

/* FNV-1a over the parent's hash, the page's effect and its tokens. */
static uint64_t page_hash(const cox_kv_cache *cache, int32_t parent, uint64_t effect, const int32_t *tokens)
{
    uint64_t hash = 14695981039346656037u ^ (parent >= 0 ? cache->entries[parent].hash : 0) ^ effect;
    for (int32_t i = 0; i < COX_KV_BLOCK; i++) {
        hash = (hash ^ (uint64_t)(uint32_t)tokens[i]) * 1099511628211u;
        hash ^= hash >> 29;
    }
    return hash;
}

static bool continues(const cox__prefix *entry, int32_t parent, uint64_t effect, const int32_t *tokens,
                      int32_t n)
{
    return entry->n_layers > 0 && entry->parent == parent && entry->effect == effect &&
           entry->n_tokens >= n && memcmp(entry->tokens, tokens, (size_t)n * sizeof *tokens) == 0;
}

static int32_t find_full(const cox_kv_cache *cache, int32_t parent, uint64_t effect, const int32_t *tokens)
{
    if (parent == COX_KV_ENDED) return -1;
    uint64_t hash = page_hash(cache, parent, effect, tokens);
    int32_t e = cache->buckets[hash & (uint64_t)(cache->n_buckets - 1)];
    while (e >= 0 && !continues(&cache->entries[e], parent, effect, tokens, COX_KV_BLOCK))
        e = cache->entries[e].next;
    return e;
}

/* The clean entry that knows most about the n < COX_KV_BLOCK tokens after `parent`, be it longer or not. */
static int32_t find_tail(const cox_kv_cache *cache, int32_t parent, const int32_t *tokens, int32_t n)
{
    int32_t best = -1, most = -1;
    for (int32_t e = 0; e < cache->n_touched; e++) {
        const cox__prefix *entry = &cache->entries[e];
        if (!continues(entry, parent, 0, tokens, n)) continue;
        const cox__residuals *r = entry->residuals >= 0 ? &cache->residuals[entry->residuals] : NULL;
        int32_t score = entry->n_layers + (r && r->n_rows >= n ? r->n_layers : 0);
        if (score > most) best = e, most = score;
    }
    return best;
}

/* The clean entry of exactly these n < COX_KV_BLOCK tokens. */
static int32_t find_exact_tail(const cox_kv_cache *cache, int32_t parent, const int32_t *tokens, int32_t n)
{
    for (int32_t e = 0; e < cache->n_touched; e++) {
        if (cache->entries[e].n_tokens == n && continues(&cache->entries[e], parent, 0, tokens, n)) return e;
    }
    return -1;
}

/* --- Forgetting --- */

void cox__prefix_move(cox_kv_cache *cache, int32_t from, int32_t to)
{
    if (to >= 0) cache->entries[to].n_holders++;
    if (from >= 0) cache->entries[from].n_holders--;
}

static void forget(cox_kv_cache *cache, int32_t e)
{
    cox__prefix *entry = &cache->entries[e];
    if (entry->n_tokens == COX_KV_BLOCK) {
        int32_t *link = &cache->buckets[entry->hash & (uint64_t)(cache->n_buckets - 1)];
        while (*link != e) link = &cache->entries[*link].next;
        *link = entry->next;
    }
    cox__prefix_move(cache, entry->parent, -1);
    for (int32_t l = 0; l < entry->n_layers; l++) cox__block_unkeep(cache, blocks_of(cache, e)[l]);
    if (entry->residuals >= 0) cox__residuals_drop(cache, entry->residuals);
    cox_kv_note_free(entry->note);
    *entry = (cox__prefix){.next = cache->free_entry, .residuals = -1};
    cache->free_entry = e;
}

static bool frees_a_block(const cox_kv_cache *cache, int32_t e)
{
    for (int32_t l = 0; l < cache->entries[e].n_layers; l++) {
        if (cache->n_users[blocks_of(cache, e)[l]] == 0) return true;
    }
    return false;
}

/* must_free: an entry whose blocks are all in use is of no help. */
static bool forget_oldest(cox_kv_cache *cache, bool must_free)
{
    int32_t oldest = -1;
    for (int32_t e = 0; e < cache->n_touched; e++) {
        const cox__prefix *entry = &cache->entries[e];
        if (entry->n_layers == 0 || entry->n_holders > 0) continue;
        if (oldest >= 0 && entry->last_use > cache->entries[oldest].last_use) continue;
        if (!must_free || frees_a_block(cache, e)) oldest = e;
    }
    if (oldest >= 0) forget(cache, oldest);
    return oldest >= 0;
}

bool cox__prefix_forget_one(cox_kv_cache *cache)
{
    return forget_oldest(cache, true);
}

/* --- Borrowing --- */

/* The next page: blocks of the sequence's own chain where there are, else of the clean one (at least one is
 * there). */
static void borrow(cox_kv_cache *cache, cox_kv_table *table, int32_t clean, int32_t own)
{
    int32_t page = table->n_pages++, e = own >= 0 ? own : clean, n_known = cache->entries[e].n_layers;
    if (clean >= 0) cache->entries[clean].last_use = ++cache->clock;
    if (own >= 0) cache->entries[own].last_use = ++cache->clock;
    for (int32_t l = 0; l < cache->shape.n_layers; l++) {
        int32_t block = l < n_known ? blocks_of(cache, e)[l] : -1;
        if (block >= 0) cox__block_use(cache, block);
        *cox__table_block(table, l, page) = block;
    }
    table->pages[page] = (cox_kv_page){.effect = table->pages[page].effect,
                                       .clean = clean >= 0 ? clean : -1,
                                       .own = own >= 0 ? own : -1,
                                       .n_known = n_known,
                                       .n_borrowed = n_known,
                                       .residuals = -1};
    if (clean < 0) return;
    cox__prefix_move(cache, table->base, clean);
    table->base = clean;
}

static int32_t or_ended(int32_t entry)
{
    return entry >= 0 ? entry : COX_KV_ENDED;
}

/* Positions that need no row: of the same effect in all layers. */
static int32_t n_ready(const cox_kv_cache *cache, const cox_kv_table *table)
{
    int32_t n = 0;
    for (int32_t p = 0; p < table->n_pages; p++) {
        const cox_kv_page *page = &table->pages[p];
        int32_t end = (p + 1) * COX_KV_BLOCK;
        if (end > table->n_matched) end = table->n_matched;
        bool is_steered = page->effect != 0 && page->own >= 0;
        if (page->n_known < cache->shape.n_layers) return n;
        if (!is_steered && table->n_clean_keys < end)
            return table->n_clean_keys > n ? table->n_clean_keys : n;
        n = end;
    }
    return n;
}

/* May the table have this entry of its own chain? */
static bool has_what_is_needed(const cox_kv_cache *cache, const cox_kv_table *table, int32_t entry)
{
    if (entry < 0 || !table->needs_notes) return true;
    const cox_kv_note *note = cache->entries[entry].note;
    return note && note->plan == table->plan;
}

int32_t cox_kv_match(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, int32_t n_tokens,
                     int32_t n_most)
{
    if (!cache->shape.has_prefix_reuse || table->is_private) return 0;
    int32_t n_full = n_tokens / COX_KV_BLOCK, n_tail = n_tokens % COX_KV_BLOCK, clean = -1, own = -1;
    while (table->n_pages < n_full) {
        const int32_t *page = tokens + (size_t)table->n_pages * COX_KV_BLOCK;
        uint64_t effect = table->pages[table->n_pages].effect;
        clean = or_ended(find_full(cache, clean, 0, page));
        own = effect == 0 ? clean : or_ended(find_full(cache, own, effect, page));
        if (effect != 0 && !has_what_is_needed(cache, table, own)) own = COX_KV_ENDED;
        if (clean < 0 && own < 0) break;
        borrow(cache, table, clean, own);
    }
    table->n_matched = table->n_pages * COX_KV_BLOCK;
    if (table->n_pages == n_full && n_tail > 0 && clean != COX_KV_ENDED) {
        int32_t e = find_tail(cache, clean, tokens + table->n_matched, n_tail);
        if (e >= 0) borrow(cache, table, e, -1), table->n_matched = n_tokens;
    }
    int32_t n_done = table->n_ready = n_ready(cache, table);
    if (n_done > n_most) n_done = n_most;
    table->n_indexed = n_done / COX_KV_BLOCK;
    if (table->n_indexed == 0) return n_done;
    const cox_kv_page *last = &table->pages[table->n_indexed - 1];
    table->clean = or_ended(last->clean);
    table->own = or_ended(last->own);
    cox__prefix_move(cache, -1, table->clean);
    cox__prefix_move(cache, -1, table->own);
    return n_done;
}

/* --- Telling --- */

/* A fresh entry after `parent`, as yet without layers; -1 when there is no room. */
static int32_t add_entry(cox_kv_cache *cache, int32_t parent, uint64_t effect, const int32_t *tokens,
                         int32_t n)
{
    if (cache->free_entry < 0 && !forget_oldest(cache, false)) return -1;
    int32_t e = cache->free_entry;
    cox__prefix *entry = &cache->entries[e];
    cache->free_entry = entry->next;
    if (e >= cache->n_touched) cache->n_touched = e + 1;
    *entry = (cox__prefix){.effect = effect, .parent = parent, .next = -1, .n_tokens = n, .residuals = -1};
    memcpy(entry->tokens, tokens, (size_t)n * sizeof *tokens);
    cox__prefix_move(cache, -1, parent);
    if (n == COX_KV_BLOCK) {
        entry->hash = page_hash(cache, parent, effect, tokens);
        int32_t *bucket = &cache->buckets[entry->hash & (uint64_t)(cache->n_buckets - 1)];
        entry->next = *bucket;
        *bucket = e;
    }
    return e;
}

/* The entry after `parent` of the table's page n_indexed, of which n tokens are complete, knows from now on
 * the first n_layers. COX_KV_ENDED: there is nothing to tell, nowhere to tell it, or no room. */
static int32_t tell(cox_kv_cache *cache, const cox_kv_table *table, int32_t parent, uint64_t effect,
                    const int32_t *tokens, int32_t n, int32_t n_layers)
{
    int32_t page = table->n_indexed;
    tokens += (size_t)page * COX_KV_BLOCK;
    if (n_layers == 0 || parent == COX_KV_ENDED) return COX_KV_ENDED;
    int32_t e = n == COX_KV_BLOCK ? find_full(cache, parent, effect, tokens)
                                  : find_exact_tail(cache, parent, tokens, n);
    if (e < 0) e = add_entry(cache, parent, effect, tokens, n);
    if (e < 0) return COX_KV_ENDED;
    cox__prefix *entry = &cache->entries[e];
    for (; entry->n_layers < n_layers; entry->n_layers++) {
        int32_t block = *cox__table_block(table, entry->n_layers, page);
        blocks_of(cache, e)[entry->n_layers] = block;
        cox__block_keep(cache, block);
    }
    if (effect != 0 && !entry->note && table->notes && table->notes[page]) {
        entry->note = table->notes[page];
        entry->note->n_owners++;
    }
    entry->last_use = ++cache->clock;
    return e;
}

/* What of the table's page n_indexed is clean. */
static int32_t tell_clean(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, int32_t n)
{
    cox_kv_page *page = &table->pages[table->n_indexed];
    bool is_clean = table->n_indexed * COX_KV_BLOCK + n <= table->n_clean_keys;
    int32_t e = tell(cache, table, table->clean, 0, tokens, n,
                     is_clean ? cache->shape.n_layers : table->n_clean_layers);
    if (page->residuals >= 0) {
        if (e >= 0) {
            cox__residuals_give(cache, page->residuals, e);
        } else {
            cox__residuals_drop(cache, page->residuals);
        }
        page->residuals = -1;
    }
    return e;
}

void cox_kv_take_notes(cox_kv_cache *cache, cox_kv_table *table,
                       void (*add)(void *context, const cox_kv_note *note), void *context)
{
    for (int32_t p = 0; table->notes && (p + 1) * COX_KV_BLOCK <= table->n_ready; p++) {
        const cox_kv_page *page = &table->pages[p];
        if (page->effect == 0 || page->own < 0) continue;
        cox_kv_note *note = cache->entries[page->own].note;
        note->n_owners++;
        cox_kv_note_free(table->notes[p]);
        table->notes[p] = note;
        add(context, note);
    }
}

void cox_kv_release_notes(cox_kv_cache *cache)
{
    for (int32_t e = 0; e < cache->shape.n_pages; e++) {
        cox_kv_note_free(cache->entries[e].note);
        cache->entries[e].note = NULL;
    }
}

static void move(cox_kv_cache *cache, int32_t *held, int32_t entry)
{
    cox__prefix_move(cache, *held, entry);
    *held = entry;
}

void cox_kv_index(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, int32_t n_computed,
                  int32_t n_prompt)
{
    if (!cache->shape.has_prefix_reuse || table->is_private || table->has_entry) return;
    while ((table->n_indexed + 1) * COX_KV_BLOCK <= n_computed) {
        uint64_t effect = table->pages[table->n_indexed].effect;
        int32_t clean = tell_clean(cache, table, tokens, COX_KV_BLOCK);
        /* held at once: telling the other chain may forget what nothing holds */
        move(cache, &table->clean, clean);
        move(cache, &table->own,
             effect == 0
                 ? clean
                 : tell(cache, table, table->own, effect, tokens, COX_KV_BLOCK, cache->shape.n_layers));
        table->n_indexed++;
    }
    int32_t n_tail = n_prompt - table->n_indexed * COX_KV_BLOCK;
    if (table->has_told_tail || n_computed < n_prompt || n_tail <= 0 || n_tail >= COX_KV_BLOCK) return;
    table->has_told_tail = true;
    tell_clean(cache, table, tokens, n_tail);
}
