/*
 * What an engine holds: the sizes of its KV cache and of the buffers of a step, foretold by the same code
 * that takes them.
 */
#include <assert.h>
#include <omp.h>
#include <string.h>

#include "coordinator/internal.h"

enum { MOST_ROTARY = 8192 }; /* positions whose angles are remembered */

/* Pages of residual rows; more than pages of keys and values are of no use. */
static int32_t n_residual_pages(const cox_kv_shape *shape, size_t bytes)
{
    const size_t most_by_itself = (size_t)64 << 20;
    if (!shape->has_prefix_reuse) return 0;
    if (bytes == COX_RESIDUAL_AUTO) {
        bytes = (size_t)shape->n_pages * cox_kv_page_bytes(shape) / 8;
        if (bytes > most_by_itself) bytes = most_by_itself;
    }
    size_t page_bytes = cox_kv_residual_page_bytes(shape), n = page_bytes > 0 ? bytes / page_bytes : 0;
    return n < (size_t)shape->n_pages ? (int32_t)n : shape->n_pages;
}

static cox_kv_shape kv_shape(const cox_model *model, const cox_engine_options *options)
{
    cox_kv_shape shape = {.n_layers = model->n_layers,
                          .n_kv_heads = model->n_kv_heads,
                          .head_dim = model->head_dim,
                          .d_model = model->d_model,
                          .residual_layers = options->residual_layers,
                          .has_prefix_reuse = options->has_prefix_cache};
    size_t page_bytes = cox_kv_page_bytes(&shape), bytes = options->kv_bytes;
    size_t whole = ((size_t)model->max_positions + COX_KV_BLOCK - 1) / COX_KV_BLOCK;
    if (bytes == 0) {
        size_t least = whole < 4096 / COX_KV_BLOCK ? whole : 4096 / COX_KV_BLOCK;
        bytes = 32 * whole * page_bytes < (size_t)1 << 30 ? 32 * whole * page_bytes : (size_t)1 << 30;
        if (bytes < least * page_bytes) bytes = least * page_bytes;
    }
    size_t n_pages = bytes / page_bytes, most = (size_t)INT32_MAX / (size_t)model->n_layers;
    shape.n_pages = (int32_t)(n_pages < most ? n_pages : most);
    shape.n_residuals = n_residual_pages(&shape, options->residual_bytes);
    return shape;
}

int64_t cox_engine_kv_tokens(const cox_model *model, const cox_engine_options *options, size_t *token_bytes)
{
    cox_kv_shape shape = kv_shape(model, options);
    *token_bytes = cox_kv_page_bytes(&shape) / COX_KV_BLOCK;
    return (int64_t)shape.n_pages * COX_KV_BLOCK;
}

/* A buffer of the step; `sum` only counts when `arena` is NULL. */
static void *take(cox_arena *arena, size_t *sum, bool *failed, size_t count, size_t size)
{
    *sum += (count * size + COX_ARENA_ALIGN - 1) / COX_ARENA_ALIGN * COX_ARENA_ALIGN;
    if (!arena) return NULL;
    void *memory = cox_arena_array(arena, count, size);
    if (!memory) *failed = true;
    return memory;
}

static int32_t max3(int32_t a, int32_t b, int32_t c)
{
    int32_t most = a > b ? a : b;
    return most > c ? most : c;
}

/* Takes (or, without an arena, only counts) everything that a step needs beside the KV cache. */
static size_t take_buffers(cox_engine *e, cox_arena *arena, int32_t n_threads, bool *failed)
{
    const cox_model *model = e->model;
    size_t sum = 0, f32 = sizeof(float), rows = (size_t)e->options.max_rows,
           top_k = (size_t)model->router.top_k;
    size_t slot_rows = (size_t)e->slot_rows, d_model = (size_t)model->d_model,
           half = (size_t)model->rope.n_rot / 2;
    size_t head_rows = slot_rows > COX__HEAD_ROWS ? slot_rows : COX__HEAD_ROWS;
    size_t q_width = (size_t)model->n_heads * (size_t)model->head_dim;
    size_t kv_width = (size_t)model->n_kv_heads * (size_t)model->head_dim;
    size_t n_experts = (size_t)model->router.n_experts, d_dense = (size_t)model->d_dense;
    size_t jobs = slot_rows * (size_t)model->n_kv_heads;
#define TAKE(count, size) take(arena, &sum, failed, (count), (size))
    e->running = TAKE((size_t)e->options.max_sequences, sizeof(void *));
    e->batch.positions = TAKE(rows, sizeof(int32_t));
    e->batch.sequences = TAKE(rows, sizeof(void *));
    e->batch.starts = TAKE(rows, sizeof(int32_t));
    e->batch.keeps = TAKE(rows, sizeof(bool));
    e->batch.staged_positions = TAKE(rows, sizeof(int32_t));
    e->batch.staged = TAKE(rows, sizeof(void *));
    e->batch.logit_rows = TAKE(rows, sizeof(int32_t));
    e->batch.moved = TAKE(rows, sizeof(int32_t));
    e->batch.fresh = TAKE(slot_rows, sizeof(int32_t));
    e->batch.is_idle = TAKE(rows, 1);
    e->batch.site_rows = TAKE((size_t)model->n_layers * COX_N_SITES, sizeof(int32_t));
    for (int32_t s = 0; s < e->options.n_slots; s++) {
        e->slots[s].ends = TAKE((size_t)model->n_layers + 1, sizeof(int32_t));
        e->slots[s].routes = TAKE(slot_rows * top_k, sizeof(cox_route));
        e->slots[s].experts = TAKE(slot_rows * top_k, sizeof(cox_expert_id));
        e->slots[s].probabilities = TAKE(slot_rows * n_experts, f32);
        e->slots[s].is_tagged = TAKE(slot_rows, 1);
    }
    e->x = TAKE(rows * d_model, f32);
    e->cosine = TAKE(rows * half, f32);
    e->sine = TAKE(rows * half, f32);
    e->n_rotary = model->max_positions < MOST_ROTARY ? model->max_positions : MOST_ROTARY;
    e->rotary = TAKE((size_t)e->n_rotary * 2 * half, f32);
    e->normed = TAKE(head_rows * e->row_width, f32);
    e->q = TAKE(slot_rows * q_width, f32);
    e->heads = TAKE(slot_rows * q_width, f32);
    e->k = TAKE(slot_rows * kv_width, f32);
    e->v = TAKE(slot_rows * kv_width, f32);
    e->projected = TAKE(slot_rows * d_model, f32);
    e->router_logits = TAKE(slot_rows * n_experts, f32);
    e->router_scratch = TAKE(slot_rows * (size_t)cox_routes_scratch_floats(&model->router), f32);
    e->gate = TAKE(slot_rows * d_dense, f32);
    e->up = TAKE(slot_rows * d_dense, f32);
    e->attention_jobs = TAKE(jobs, sizeof(cox_attention_job));
    e->logits = TAKE((size_t)COX__HEAD_ROWS * (size_t)model->vocab_size, f32);
    size_t threads = (size_t)n_threads;
    e->route_scratch_bytes = (cox_route_edit_scratch_bytes(&model->router) + 63) / 64 * 64;
    e->steer_scratch = TAKE(threads * (size_t)cox_site_widest(model->d_model, model->router.n_experts), f32);
    e->route_scratch = TAKE(threads, e->route_scratch_bytes);
    e->route_effects = TAKE(threads * COX_PLAN_MAX_INTERVENTIONS, sizeof(cox_steer_effect));
    int32_t widest = max3(model->d_model, (int32_t)q_width, model->d_dense);
    e->matmul_scratch = TAKE(cox_matmul_scratch_bytes(e->kernels, n_threads, widest), 1);
#undef TAKE
    return sum;
}

size_t cox_engine_bytes(const cox_model *model, const cox_kernels *kernels, const cox_engine_options *options,
                        int32_t n_threads)
{
    cox_engine probe = {.model = model,
                        .kernels = kernels,
                        .options = *options,
                        .slot_rows = cox_engine_slot_rows(options),
                        .row_width = (size_t)model->d_model + COX_ROW_TAIL};
    bool failed = false;
    cox_kv_shape shape = kv_shape(model, options);
    return take_buffers(&probe, NULL, n_threads, &failed) + cox_kv_cache_bytes(&shape);
}

cox_status cox__engine_take_memory(cox_engine *e)
{
    bool failed = false;
    cox_kv_shape shape = kv_shape(e->model, &e->options);
    if (shape.n_pages < 1) {
        return cox_fail(COX_INVALID,
                        "the KV cache needs at least %zu bytes (one page of %d tokens); raise --kv-memory",
                        cox_kv_page_bytes(&shape), COX_KV_BLOCK);
    }
    e->kv_shape = shape;
    assert(omp_get_max_threads() <= cox_cluster_n_threads(e->cluster)); /* scratch is per thread */
    take_buffers(e, e->arena, cox_cluster_n_threads(e->cluster), &failed);
    cox_status status = failed ? COX_NO_MEMORY : cox_kv_cache_create(&e->kv, e->arena, &shape);
    for (int32_t s = 0; s < e->options.n_slots && status == COX_OK; s++) {
        status = cox_dispatch_plan_create(&e->slots[s].plan, e->arena, e->cluster, e->slot_rows,
                                          e->model->router.top_k);
    }
    return status == COX_OK ? cox_sampler_create(&e->sampler, e->arena, e->model->vocab_size) : status;
}
