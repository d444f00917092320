/* The two ends of the forward pass: token ids to the residual stream, residual stream to logits. */
#include <string.h>

#include "coordinator/internal.h"

/* A row at the entry of its first layer: its token's embedding, what a clean sequence has left there, or what
 * the caller knows. */
static void load_row(cox_engine *engine, int32_t i)
{
    const cox__batch *batch = &engine->batch;
    const cox__sequence *s = batch->sequences[i];
    size_t d_model = (size_t)engine->model->d_model;
    float *x = engine->x + (size_t)i * d_model;
    if (batch->starts[i] == 0) {
        cox_matrix_row(&engine->trunk->embed, s->tokens[batch->positions[i]], x);
    } else if (cox_kv_is_entry(&s->table, batch->positions[i], batch->starts[i])) {
        engine->events.on_entry(engine->events.context, s->request.id, batch->positions[i], x);
    } else {
        memcpy(x, cox_kv_residual(engine->kv, &s->table, batch->positions[i], batch->starts[i]),
               d_model * sizeof *x);
    }
}

void cox__keep(cox_engine *engine, int32_t layer, const cox__slot *slot)
{
    if (!engine->batch.has_keeps) return;
    size_t d_model = (size_t)engine->model->d_model;
    for (int32_t i = slot->first; i < slot->end; i++) {
        if (!engine->batch.keeps[i]) continue;
        float *keep =
            cox_kv_keep(engine->kv, &engine->batch.sequences[i]->table, engine->batch.positions[i], layer);
        if (keep) memcpy(keep, engine->x + (size_t)i * d_model, d_model * sizeof *keep);
    }
}

static void rotary_angles(const cox_engine *engine, int32_t position, float *cosine, float *sine)
{
    const cox_rope_config *rope = &engine->model->rope;
    for (int32_t j = 0; j < rope->n_rot / 2; j++) {
        float angle = (float)position * rope->inv_freq[j]; /* rounded to f32, as transformers */
        double s, c;
        cox_sincos_f64((double)angle, &s, &c);
        cosine[j] = (float)c * rope->attention_factor;
        sine[j] = (float)s * rope->attention_factor;
    }
}

/* Of all positions up to the batch's last one that there is room for. */
static void extend_rotary(cox_engine *engine)
{
    int32_t end = engine->n_rotary_known;
    size_t half = (size_t)engine->model->rope.n_rot / 2;
    for (int32_t i = 0; i < engine->batch.n_rows; i++) {
        int32_t position = engine->batch.positions[i];
        if (position < engine->n_rotary && position >= end) end = position + 1;
    }
    for (int32_t *n = &engine->n_rotary_known; *n < end; ++*n) {
        float *table = engine->rotary + (size_t)*n * 2 * half;
        rotary_angles(engine, *n, table, table + half);
    }
}

void cox__embed(cox_engine *engine)
{
    const cox__batch *batch = &engine->batch;
    size_t half = (size_t)engine->model->rope.n_rot / 2;
    extend_rotary(engine);
#pragma omp parallel for schedule(static) if (batch->n_rows >= 16)
    for (int32_t i = 0; i < batch->n_rows; i++) {
        load_row(engine, i);
        float *cosine = engine->cosine + (size_t)i * half, *sine = engine->sine + (size_t)i * half;
        if (batch->positions[i] < engine->n_rotary) {
            const float *table = engine->rotary + (size_t)batch->positions[i] * 2 * half;
            memcpy(cosine, table, half * sizeof *cosine);
            memcpy(sine, table + half, half * sizeof *sine);
        } else {
            rotary_angles(engine, batch->positions[i], cosine, sine);
        }
    }
}

void cox__head(cox_engine *engine, const int32_t *rows, int32_t n_rows)
{
    const cox_model *model = engine->model;
    size_t width = engine->row_width, d_model = (size_t)model->d_model,
           vocab_size = (size_t)model->vocab_size;
    for (int32_t i = 0; i < n_rows; i++) {
        cox_rms_norm(engine->kernels, engine->normed + (size_t)i * width,
                     engine->x + (size_t)rows[i] * d_model, engine->trunk->final_norm, model->d_model,
                     model->rms_eps);
    }
    cox_matmul_job job = {.y = engine->logits,
                          .y_stride = vocab_size,
                          .x = engine->normed,
                          .x_stride = width,
                          .n_rows = n_rows,
                          .w = &engine->trunk->lm_head};
    cox_matmul(engine->kernels, &job, 1, engine->matmul_scratch);
}
