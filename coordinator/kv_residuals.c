/*
 * Residual rows of clean pages, from which rows of steered sequences start. A page of rows is filled by the
 * first sequence that computes its positions and goes to the entry of the index with the keys and values; the
 * least recently used one makes room for the next. Within a step no page that was read is replaced.
 */
#include <assert.h>
#include <string.h>

#include "coordinator/kv_internal.h"

static size_t layer_floats(const cox_kv_shape *shape)
{
    return (size_t)COX_KV_BLOCK * (size_t)shape->d_model;
}

size_t cox_kv_residual_page_bytes(const cox_kv_shape *shape)
{
    size_t n_stored = 0;
    for (int32_t l = 1; l <= shape->n_layers; l++)
        n_stored += !shape->residual_layers || shape->residual_layers[l];
    return n_stored * layer_floats(shape) * sizeof(float);
}

size_t cox__residuals_bytes(const cox_kv_shape *shape)
{
    return (size_t)shape->n_residuals * (cox_kv_residual_page_bytes(shape) + sizeof(cox__residuals)) +
           ((size_t)shape->n_layers + 1) * sizeof(int32_t);
}

cox_status cox__residuals_create(cox_kv_cache *cache, cox_arena *arena)
{
    size_t n = (size_t)cache->shape.n_residuals, n_layers = (size_t)cache->shape.n_layers;
    const uint8_t *layers = cache->shape.residual_layers;
    cache->n_stored_to = cox_arena_array(arena, n_layers + 1, sizeof(int32_t));
    if (!cache->n_stored_to) return COX_NO_MEMORY;
    for (size_t l = 1; l <= n_layers; l++)
        cache->n_stored_to[l] = cache->n_stored_to[l - 1] + (!layers || layers[l]);
    cache->shape.residual_layers = NULL;
    if (n == 0) return COX_OK;
    size_t n_stored = (size_t)cache->n_stored_to[n_layers];
    cache->rows = cox_arena_array(arena, n * n_stored * layer_floats(&cache->shape), sizeof(float));
    cache->residuals = cox_arena_array(arena, n, sizeof(cox__residuals));
    if (!cache->rows || !cache->residuals) return COX_NO_MEMORY;
    for (size_t r = 0; r < n; r++) cache->residuals[r] = (cox__residuals){.owner = -1};
    return COX_OK;
}

/* Row i at the entry of a stored layer. */
static float *row_of(const cox_kv_cache *cache, int32_t residuals, int32_t layer, int32_t i)
{
    size_t n_stored = (size_t)cache->n_stored_to[cache->shape.n_layers];
    size_t page = (size_t)residuals * n_stored + (size_t)cache->n_stored_to[layer] - 1;
    return cache->rows + page * layer_floats(&cache->shape) + (size_t)i * (size_t)cache->shape.d_model;
}

void cox_kv_begin_step(cox_kv_cache *cache)
{
    cache->step++;
}

/* The stored rows of the table's page; -1: none. */
static int32_t stored(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position)
{
    if (position >= table->n_matched) return -1;
    int32_t entry = table->pages[position / COX_KV_BLOCK].clean;
    return entry >= 0 ? cache->entries[entry].residuals : -1;
}

bool cox_kv_is_entry(const cox_kv_table *table, int32_t position, int32_t start)
{
    return table->has_entry && position >= table->n_clean_positions && start == table->n_clean_layers + 1;
}

int32_t cox_kv_start(cox_kv_cache *cache, const cox_kv_table *table, int32_t position)
{
    int32_t entry = table->n_clean_layers + 1;
    if (cox_kv_is_entry(table, position, entry) && position < table->n_matched &&
        table->pages[position / COX_KV_BLOCK].n_known >= entry && !table->starts_at_embedding)
        return entry;
    int32_t r = stored(cache, table, position), i = position % COX_KV_BLOCK;
    if (r < 0 || table->starts_at_embedding) return 0;
    cox__residuals *page = &cache->residuals[r];
    if (i >= page->n_rows) return 0;
    page->last_use = ++cache->clock;
    page->last_step = cache->step;
    const cox_kv_page *own = &table->pages[position / COX_KV_BLOCK];
    int32_t n = position < table->n_clean_positions ? cache->shape.n_layers : table->n_clean_layers;
    if (n < cache->shape.n_layers && position < table->n_touched && !table->touched[position]) n++;
    if (n > own->n_known) n = own->n_known;
    if (n > page->n_layers) n = page->n_layers;
    if (own->residuals >= 0) { /* what this sequence passes on must not have gaps */
        const cox__residuals *filling = &cache->residuals[own->residuals];
        if (i >= filling->n_copied_rows) return 0;
        if (n > filling->n_copied_layers) n = filling->n_copied_layers;
    }
    while (n > 0 && !cox__is_stored(cache, n)) n--;
    return n;
}

const float *cox_kv_clean_block(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position,
                                int32_t layer)
{
    if (!cox_kv_is_entry(table, position, layer) || position >= table->n_touched ||
        table->touched[position] || position >= table->n_matched)
        return NULL;
    int32_t entry = table->pages[position / COX_KV_BLOCK].clean;
    if (entry < 0 || cache->entries[entry].n_layers <= layer) return NULL;
    int32_t block = cache->entry_blocks[(size_t)entry * (size_t)cache->shape.n_layers + (size_t)layer];
    return cache->pool + (size_t)block * cache->block_floats;
}

const float *cox_kv_residual(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position,
                             int32_t layer)
{
    int32_t r = stored(cache, table, position);
    assert(r >= 0 && layer > 0 && layer <= cache->residuals[r].n_layers);
    return row_of(cache, r, layer, position % COX_KV_BLOCK);
}

/* A free page, or the least recently used one that this step has not read; -1: none. */
static int32_t take(cox_kv_cache *cache)
{
    int32_t oldest = -1;
    for (int32_t r = 0; r < cache->shape.n_residuals; r++) {
        const cox__residuals *page = &cache->residuals[r];
        if (page->is_filling) continue;
        if (page->owner < 0) {
            oldest = r;
            break;
        }
        if (page->last_step == cache->step) continue;
        if (oldest < 0 || page->last_use < cache->residuals[oldest].last_use) oldest = r;
    }
    if (oldest >= 0) cox__residuals_drop(cache, oldest);
    return oldest;
}

/* Starts filling a page of rows, from what is already stored; -1: there is no need or no room. */
static int32_t begin_filling(cox_kv_cache *cache, const cox_kv_table *table, int32_t position,
                             int32_t n_prompt)
{
    int32_t n_rows = n_prompt - position < COX_KV_BLOCK ? n_prompt - position : COX_KV_BLOCK;
    bool is_clean = position + n_rows <= table->n_clean_positions;
    int32_t n_layers = is_clean ? cache->shape.n_layers : table->n_clean_layers;
    int32_t known = stored(cache, table, position);
    cox__residuals *old = known >= 0 ? &cache->residuals[known] : NULL;
    if (n_layers == 0 || (old && old->n_rows >= n_rows && old->n_layers >= n_layers)) return -1;
    if (old) old->last_step = cache->step;
    int32_t r = take(cache);
    if (r < 0) return -1;
    cache->residuals[r] =
        (cox__residuals){.owner = -1, .is_filling = true, .n_rows = n_rows, .n_layers = n_layers};
    if (old) {
        for (int32_t l = 1; l <= old->n_layers; l++) {
            if (!cox__is_stored(cache, l)) continue;
            memcpy(row_of(cache, r, l, 0), row_of(cache, known, l, 0),
                   layer_floats(&cache->shape) * sizeof(float));
        }
        cache->residuals[r].n_copied_rows = old->n_rows;
        cache->residuals[r].n_copied_layers = old->n_layers;
    }
    return r;
}

bool cox_kv_keeps(cox_kv_cache *cache, cox_kv_table *table, int32_t position, int32_t n_prompt)
{
    if (cache->shape.n_residuals == 0 || !cache->shape.has_prefix_reuse || table->is_private ||
        table->has_entry || position >= n_prompt) {
        return false;
    }
    cox_kv_page *page = &table->pages[position / COX_KV_BLOCK];
    if (position % COX_KV_BLOCK == 0 && page->residuals < 0)
        page->residuals = begin_filling(cache, table, position, n_prompt);
    return page->residuals >= 0;
}

float *cox_kv_keep(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position, int32_t layer)
{
    int32_t r = table->pages[position / COX_KV_BLOCK].residuals;
    if (layer > cache->residuals[r].n_layers || !cox__is_stored(cache, layer)) return NULL;
    return row_of(cache, r, layer, position % COX_KV_BLOCK);
}

void cox__residuals_give(cox_kv_cache *cache, int32_t residuals, int32_t entry)
{
    int32_t *place = &cache->entries[entry].residuals;
    cox__residuals *page = &cache->residuals[residuals];
    const cox__residuals *old = *place >= 0 ? &cache->residuals[*place] : NULL;
    bool is_better =
        !old || page->n_rows > old->n_rows || (page->n_rows == old->n_rows && page->n_layers > old->n_layers);
    if (!is_better) {
        cox__residuals_drop(cache, residuals);
        return;
    }
    if (old) cox__residuals_drop(cache, *place);
    *place = residuals;
    page->owner = entry;
    page->is_filling = false;
    page->last_use = ++cache->clock;
}

void cox__residuals_drop(cox_kv_cache *cache, int32_t residuals)
{
    cox__residuals *page = &cache->residuals[residuals];
    if (page->owner >= 0) cache->entries[page->owner].residuals = -1;
    *page = (cox__residuals){.owner = -1};
}
