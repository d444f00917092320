/*
 * Attention of one layer for the rows of one micro-batch: norm, q/k/v, q/k norm, clip, rotary embedding,
 * keys and values into the cache, one job per row and KV head, output projection, residual. Rows of one
 * sequence may stand in the same micro-batch: all keys are written before any row attends, and a row attends
 * to positions up to its own only.
 */
#include <math.h>
#include <string.h>

#include "coordinator/internal.h"

static void clamp(float *x, size_t n, float limit)
{
    for (size_t i = 0; i < n; i++) x[i] = fmaxf(-limit, fminf(limit, x[i]));
}

/* Keys and values of the n_fresh normed rows that batch.fresh lists, queries of the first n_rows. */
static void project_qkv(cox_engine *engine, const cox_layer_weights *w, int32_t n_fresh, int32_t n_rows)
{
    const cox_model *model = engine->model;
    size_t q_width = (size_t)model->n_heads * (size_t)model->head_dim;
    size_t kv_width = (size_t)model->n_kv_heads * (size_t)model->head_dim;
    cox_matmul_job q = {.y = engine->q,
                        .y_stride = q_width,
                        .x = engine->normed,
                        .x_stride = engine->row_width,
                        .n_rows = n_rows,
                        .w = &w->q,
                        .bias = w->q_bias};
    cox_matmul_job k = q;
    k.n_rows = n_fresh;
    if (n_fresh != n_rows) k.x_rows = k.y_rows = engine->batch.fresh;
    cox_matmul_job v = k;
    k.y = engine->k, k.y_stride = kv_width, k.w = &w->k, k.bias = w->k_bias;
    v.y = engine->v, v.y_stride = kv_width, v.w = &w->v, v.bias = w->v_bias;
    cox_matmul(engine->kernels, (cox_matmul_job[]){q, k, v}, 3, engine->matmul_scratch);
}

/* q/k norm, clip and rotary embedding of a row's n heads [n, head_dim], in place. */
static void finish_heads(const cox_engine *engine, float *x, int32_t n, const float *norm,
                         const float *cosine, const float *sine)
{
    const cox_model *model = engine->model;
    int32_t head_dim = model->head_dim;
    if (model->qk_norm == COX_QK_NORM_ALL) {
        cox_rms_norm(engine->kernels, x, x, norm, n * head_dim, model->rms_eps);
    }
    if (model->clip_qkv > 0) clamp(x, (size_t)n * (size_t)head_dim, model->clip_qkv);
    for (int32_t h = 0; h < n; h++) {
        float *head = x + (size_t)h * (size_t)head_dim;
        if (model->qk_norm == COX_QK_NORM_HEAD) {
            cox_rms_norm(engine->kernels, head, head, norm, head_dim, model->rms_eps);
        }
        cox_rope(engine->kernels, head, cosine, sine, model->rope.n_rot);
    }
}

/* Block of a position in a layer, and the offset of the position within one head of the block. */
static float *kv_block(const cox_engine *engine, int32_t layer, const cox_kv_table *table, int32_t position,
                       size_t *offset)
{
    int32_t block =
        table->blocks[(size_t)layer * (size_t)table->max_pages + (size_t)(position / COX_KV_BLOCK)];
    *offset = (size_t)(position % COX_KV_BLOCK) * (size_t)engine->model->head_dim;
    return cox_kv_pool(engine->kv) + (size_t)block * 2 * cox_kv_v_offset(engine->kv);
}

/* For the row's sequence, and for those that share the row. k, v: [n_kv_heads, head_dim], `stride` floats
 * from head to head. */
static void store_kv(const cox_engine *engine, int32_t layer, int32_t row, const float *k, const float *v,
                     size_t stride)
{
    size_t head_dim = (size_t)engine->model->head_dim, offset;
    int32_t position = engine->batch.positions[row];
    const cox__sequence *s = engine->batch.sequences[row];
    do {
        float *block = kv_block(engine, layer, &s->table, position, &offset);
        for (int32_t h = 0; h < engine->model->n_kv_heads; h++) {
            float *key = block + (size_t)h * COX_KV_BLOCK * head_dim + offset;
            memcpy(key, k + (size_t)h * stride, head_dim * sizeof(float));
            memcpy(key + cox_kv_v_offset(engine->kv), v + (size_t)h * stride, head_dim * sizeof(float));
        }
        s = s->follower;
    } while (s && s->n_shared > position);
}

/* The clean keys and values of a row that enters in this layer untouched; NULL: it has none. */
static const float *clean_block(const cox_engine *engine, int32_t layer, int32_t row)
{
    const cox__batch *batch = &engine->batch;
    if (batch->starts[row] != layer) return NULL;
    return cox_kv_clean_block(engine->kv, &batch->sequences[row]->table, batch->positions[row], layer);
}

/* Lists the slot's rows, from its first on, whose keys and values must be computed. */
static int32_t list_fresh(cox_engine *engine, int32_t layer, const cox__slot *slot)
{
    const cox__batch *batch = &engine->batch;
    int32_t n = 0;
    for (int32_t row = slot->first; row < slot->end; row++) {
        if (row == slot->first || batch->sequences[row] != batch->sequences[row - 1])
            cox_kv_recall(engine->kv, &batch->sequences[row]->table, layer);
        if (!clean_block(engine, layer, row)) engine->batch.fresh[n++] = row - slot->first;
    }
    return n;
}

/* Keys and values of row i of the slot to where rows attend to them. */
static void finish_kv(const cox_engine *engine, const cox_layer_weights *w, int32_t layer, int32_t row,
                      int32_t i)
{
    const cox_model *model = engine->model;
    size_t head_dim = (size_t)model->head_dim, half = (size_t)model->rope.n_rot / 2;
    size_t kv_width = (size_t)model->n_kv_heads * head_dim;
    const float *clean = clean_block(engine, layer, row);
    if (clean) {
        clean += (size_t)(engine->batch.positions[row] % COX_KV_BLOCK) * head_dim;
        store_kv(engine, layer, row, clean, clean + cox_kv_v_offset(engine->kv), COX_KV_BLOCK * head_dim);
        return;
    }
    float *k = engine->k + (size_t)i * kv_width, *v = engine->v + (size_t)i * kv_width;
    finish_heads(engine, k, model->n_kv_heads, w->k_norm, engine->cosine + (size_t)row * half,
                 engine->sine + (size_t)row * half);
    if (model->clip_qkv > 0) clamp(v, kv_width, model->clip_qkv);
    store_kv(engine, layer, row, k, v, head_dim);
}

static void make_jobs(cox_engine *engine, const cox_layer_weights *w, int32_t layer, int32_t row, int32_t i)
{
    const cox_model *model = engine->model;
    size_t head_dim = (size_t)model->head_dim;
    int32_t group = model->n_heads / model->n_kv_heads, window = model->layers[layer].window;
    const cox_kv_table *table = &engine->batch.sequences[row]->table;
    int32_t last = engine->batch.positions[row];
    for (int32_t h = 0; h < model->n_kv_heads; h++) {
        size_t heads = ((size_t)i * (size_t)model->n_heads + (size_t)h * (size_t)group) * head_dim;
        engine->attention_jobs[(size_t)i * (size_t)model->n_kv_heads + (size_t)h] =
            (cox_attention_job){.out = engine->heads + heads,
                                .q = engine->q + heads,
                                .out_stride = head_dim,
                                .q_stride = head_dim,
                                .pool = cox_kv_pool(engine->kv),
                                .blocks = table->blocks + (size_t)layer * (size_t)table->max_pages,
                                .block_stride = 2 * cox_kv_v_offset(engine->kv),
                                .k_offset = (size_t)h * COX_KV_BLOCK * head_dim,
                                .v_offset = cox_kv_v_offset(engine->kv) + (size_t)h * COX_KV_BLOCK * head_dim,
                                .group = group,
                                .head_dim = model->head_dim,
                                .first = window > 0 && last >= window ? last - window + 1 : 0,
                                .last = last,
                                .scale = model->attention_scale,
                                .sinks = w->sinks ? w->sinks + h * group : NULL};
    }
}

/* In the last layer: the slot's rows, with keys and values done, close up over those that have nothing left
 * to do. Returns how many are left. */
static int32_t drop_idle(cox_engine *engine, cox__slot *slot)
{
    cox__batch *batch = &engine->batch;
    size_t d_model = (size_t)engine->model->d_model, half = (size_t)engine->model->rope.n_rot / 2;
    int32_t kept = slot->first, end = slot->end;
    for (int32_t row = slot->first; row < end; row++) {
        if (batch->is_idle[row]) continue;
        int32_t to = kept++;
        batch->moved[row] = to;
        if (to == row) continue;
        memcpy(engine->x + (size_t)to * d_model, engine->x + (size_t)row * d_model, d_model * sizeof(float));
        memcpy(engine->normed + (size_t)(to - slot->first) * engine->row_width,
               engine->normed + (size_t)(row - slot->first) * engine->row_width, d_model * sizeof(float));
        memcpy(engine->cosine + (size_t)to * half, engine->cosine + (size_t)row * half, half * sizeof(float));
        memcpy(engine->sine + (size_t)to * half, engine->sine + (size_t)row * half, half * sizeof(float));
        batch->positions[to] = batch->positions[row];
        batch->sequences[to] = batch->sequences[row];
        batch->starts[to] = batch->starts[row];
        batch->keeps[to] = batch->keeps[row];
    }
    for (int32_t i = 0; i < batch->n_logit_rows; i++) {
        int32_t row = batch->logit_rows[i];
        if (row >= slot->first && row < end) batch->logit_rows[i] = batch->moved[row];
    }
    engine->counters.layer_rows_kv += (uint64_t)(end - kept);
    slot->end = kept;
    return kept - slot->first;
}

void cox__attention(cox_engine *engine, int32_t layer, cox__slot *slot)
{
    const cox_model *model = engine->model;
    const cox_layer_weights *w = &engine->trunk->layers[layer];
    size_t d_model = (size_t)model->d_model, half = (size_t)model->rope.n_rot / 2;
    size_t q_width = (size_t)model->n_heads * (size_t)model->head_dim;
    int32_t n_rows = slot->end - slot->first;
    float *x = engine->x + (size_t)slot->first * d_model;

    cox__steer(engine, COX_SITE_RESID_PRE, layer, slot, x, d_model);
#pragma omp parallel for schedule(static) if (n_rows >= 16)
    for (int32_t i = 0; i < n_rows; i++) {
        cox_rms_norm(engine->kernels, engine->normed + (size_t)i * engine->row_width, x + (size_t)i * d_model,
                     w->input_norm, model->d_model, model->rms_eps);
    }
    bool drops = layer == model->n_layers - 1 && engine->batch.has_idle;
    project_qkv(engine, w, list_fresh(engine, layer, slot), drops ? 0 : n_rows);
#pragma omp parallel for schedule(static) if (n_rows >= 4)
    for (int32_t i = 0; i < n_rows; i++) finish_kv(engine, w, layer, slot->first + i, i);
    if (drops) n_rows = drop_idle(engine, slot);
    if (n_rows == 0) return;
    if (drops) project_qkv(engine, w, 0, n_rows);
#pragma omp parallel for schedule(static) if (n_rows >= 4)
    for (int32_t i = 0; i < n_rows; i++) {
        size_t row = (size_t)(slot->first + i);
        finish_heads(engine, engine->q + (size_t)i * q_width, model->n_heads, w->q_norm,
                     engine->cosine + row * half, engine->sine + row * half);
        make_jobs(engine, w, layer, slot->first + i, i);
    }
    cox_attention(engine->kernels, engine->attention_jobs, n_rows * model->n_kv_heads);
    cox_matmul_job o = {.y = engine->projected,
                        .y_stride = d_model,
                        .x = engine->heads,
                        .x_stride = q_width,
                        .n_rows = n_rows,
                        .w = &w->o,
                        .bias = w->o_bias};
    cox_matmul(engine->kernels, &o, 1, engine->matmul_scratch);
    cox__steer(engine, COX_SITE_ATTN_OUT, layer, slot, engine->projected, d_model);
#pragma omp parallel for schedule(static) if (n_rows >= 16)
    for (int32_t i = 0; i < n_rows; i++) {
        cox_add(engine->kernels, x + (size_t)i * d_model, engine->projected + (size_t)i * d_model,
                model->d_model);
    }
    cox__steer(engine, COX_SITE_RESID_MID, layer, slot, x, d_model);
}
