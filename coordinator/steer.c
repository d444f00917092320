/*
 * Application of plans to rows on the coordinator: vector operations at the d_model-wide sites, edits of the
 * router's choice, tags for the experts' hosts, and the weightings at expert_out that are terms of the
 * combine.
 */
#include "coordinator/steer.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "coordinator/internal.h"

/* Elements of rows to be steered from which on waking the other threads pays. */
enum { WORTH_THREADS = 1 << 16 };

static const cox__sequence *sequence_of(const cox_engine *engine, int32_t row)
{
    return engine->batch.sequences[row];
}

static float *thread_scratch(const cox_engine *engine)
{
    const cox_model *model = engine->model;
    size_t width = (size_t)cox_site_widest(model->d_model, model->router.n_experts);
    return engine->steer_scratch + (size_t)omp_get_thread_num() * width;
}

static int64_t fixed_point(float norm)
{
    double most = 1099511627776.0; /* 2^40 */
    double x = (double)norm < most ? (double)norm : most;
    return (int64_t)llrint((x > 0 ? x : 0) * 1048576.0);
}

/* The sum stops at the largest number, so rows that a plan blew up cannot turn it over; still in any order.
 */
static void add_sum(_Atomic int64_t *sum, int64_t more)
{
    int64_t before = atomic_load(sum), after;
    do {
        if (__builtin_add_overflow(before, more, &after)) after = INT64_MAX;
    } while (!atomic_compare_exchange_weak(sum, &before, after));
}

static void add_norm(_Atomic int64_t *sum, float norm)
{
    add_sum(sum, fixed_point(norm));
}

/* A row that is computed again, because its KV was given up, has been counted before. */
static void count(const cox_engine *engine, int32_t row, int32_t intervention, int32_t layer, int32_t expert,
                  float there, float added)
{
    const cox__sequence *s = sequence_of(engine, row);
    const cox__steering *steering = s->steering;
    const cox_intervention *v = &steering->plan->interventions[intervention];
    int32_t position = engine->batch.positions[row];
    if (position < s->n_counted || position < s->n_noted) return;
    int32_t n_experts = engine->model->router.n_experts, n_of_layer = 1, place = 0;
    if (v->site == COX_SITE_EXPERT_OUT) {
        const int32_t *experts = steering->expert_place + (size_t)intervention * (size_t)n_experts;
        n_of_layer = experts[n_experts - 1] + v->experts[n_experts - 1];
        place = experts[expert];
    }
    int32_t l = steering->layer_place[(size_t)intervention * (size_t)engine->model->n_layers + (size_t)layer];
    int32_t at = steering->hits_offsets[intervention] + l * n_of_layer + place;
    cox_kv_note *const *notes = s->table.notes;
    cox__page_hits *page = notes ? (cox__page_hits *)notes[position / COX_KV_BLOCK] : NULL;
    for (int to = 0; to < (page ? 2 : 1); to++) {
        cox__hits *hits = to == 0 ? &s->hits[at] : &page->places[at];
        if (position < s->request.n_prompt) {
            hits->n_prompt++;
        } else {
            hits->n_generated++;
        }
        add_norm(&hits->there, there);
        add_norm(&hits->added, added);
    }
}

/* A page that needs no row: what its rows were counted for. All of them are the prompt's here. */
static void add_page(void *context, const cox_kv_note *note)
{
    cox__sequence *s = context;
    const cox__page_hits *page = (const cox__page_hits *)note;
    for (int32_t i = 0; i < cox__steering_n_hits(s->steering); i++) {
        const cox__hits *from = &page->places[i];
        s->hits[i].n_prompt += from->n_prompt + from->n_generated;
        add_sum(&s->hits[i].there, from->there);
        add_sum(&s->hits[i].added, from->added);
    }
}

void cox__steer_borrow(cox_engine *engine, cox__sequence *s)
{
    if (!s->table.notes || s->n_counted > 0) return; /* recomputed: all was counted before */
    cox_kv_take_notes(engine->kv, &s->table, add_page, s);
    s->n_noted = s->table.n_ready;
}

static cox_row_place place_of(const cox_engine *engine, int32_t layer, int32_t row)
{
    return (cox_row_place){layer, engine->batch.positions[row], sequence_of(engine, row)->request.n_prompt};
}

static void count_seen(void *context, int32_t intervention, int32_t expert, float there, float added)
{
    const cox__steer_counter *counter = context;
    count(counter->engine, counter->row, intervention, counter->layer, expert, there, added);
}

void cox__steer_begin_step(cox_engine *engine)
{
    cox__batch *batch = &engine->batch;
    if (!batch->has_steering) return;
    int32_t n_layers = engine->model->n_layers;
    memset(batch->site_rows, 0, (size_t)n_layers * COX_N_SITES * sizeof *batch->site_rows);
    for (int32_t i = 0; i < engine->n_running; i++) {
        const cox__sequence *s = engine->running[i];
        if (!s->steering || s->n_scheduled == 0) continue;
        for (int32_t l = 0; l < n_layers; l++) {
            for (unsigned sites = s->steering->sites[l]; sites; sites &= sites - 1)
                batch->site_rows[l * COX_N_SITES + __builtin_ctz(sites)] += s->n_scheduled;
        }
    }
}

static bool has_site(const cox__steering *steering, int32_t layer, cox_site site)
{
    return steering && steering->sites[layer] >> site & 1;
}

void cox__steer_row(cox_engine *engine, cox_site site, int32_t layer, int32_t row, float *h)
{
    const cox__steering *steering = sequence_of(engine, row)->steering;
    if (!has_site(steering, layer, site)) return;
    cox__steer_counter counter = {engine, layer, row};
    const cox_row_place place = place_of(engine, layer, row);
    cox_stack_apply(steering->plan, &place, site, engine->kernels, h, thread_scratch(engine),
                    (cox_steer_watch){count_seen, &counter});
}

static void steer_rows(cox_engine *engine, cox_site site, int32_t layer, const cox__slot *slot, float *rows,
                       size_t stride, int64_t n_touched)
{
    int32_t n_rows = slot->end - slot->first;
#pragma omp parallel for schedule(static) if (n_touched * engine->model->d_model >= WORTH_THREADS)
    for (int32_t i = 0; i < n_rows; i++) {
        cox__steer_row(engine, site, layer, slot->first + i, rows + (size_t)i * stride);
    }
}

void cox__steer(cox_engine *engine, cox_site site, int32_t layer, const cox__slot *slot, float *rows,
                size_t stride)
{
    const cox__batch *batch = &engine->batch;
    int64_t n_touched = batch->has_steering ? batch->site_rows[layer * COX_N_SITES + (int32_t)site] : 0;
    if (n_touched == 0 && !batch->has_observations) return; /* not even a look at the clock */
    double *before_s = cox_stage_enter(&engine->clock, &engine->counters.steering_s);
    if (n_touched > 0) steer_rows(engine, site, layer, slot, rows, stride, n_touched);
    cox__observe(engine, site, layer, slot, rows, stride);
    cox_stage_enter(&engine->clock, before_s);
}

bool cox__steer_route(cox_engine *engine, int32_t layer, cox__slot *slot, int32_t i, float *logits,
                      cox_route *routes)
{
    int32_t row = slot->first + i, n, n_experts = engine->model->router.n_experts;
    const cox__steering *steering = sequence_of(engine, row)->steering;
    if (!steering) return false;
    const cox_kernels *kernels = cox_kernels_exact(engine->kernels);
    if (steering->has_soft[layer]) {
        float *p = slot->probabilities + (size_t)i * (size_t)n_experts;
        memcpy(p, logits, (size_t)n_experts * sizeof *p);
        cox_softmax(kernels, p, n_experts);
    }
    if (!has_site(steering, layer, COX_SITE_ROUTER_LOGITS)) return false;
    const int32_t *list = cox_plan_at(steering->plan, layer, COX_SITE_ROUTER_LOGITS, &n);
    const cox_row_place place = place_of(engine, layer, row);
    size_t thread = (size_t)omp_get_thread_num();
    cox_steer_effect *effects = engine->route_effects + thread * COX_PLAN_MAX_INTERVENTIONS;
    void *scratch = engine->route_scratch + thread * engine->route_scratch_bytes;
    cox_route_edit_apply(kernels, &engine->model->router, NULL, steering->plan, list, n, &place, logits,
                         scratch, routes, effects);
    for (int32_t k = 0; k < n; k++) {
        if (effects[k].was_applied)
            count(engine, row, list[k], layer, -1, effects[k].norm_there, effects[k].norm_added);
    }
    return true;
}

void cox__steer_tag(cox_engine *engine, int32_t layer, cox__slot *slot, int32_t i, float *tail)
{
    int32_t row = slot->first + i, top_k = engine->model->router.top_k;
    const cox__sequence *s = sequence_of(engine, row);
    const cox_row_place place = place_of(engine, layer, row);
    cox_row_tag tag = {0};
    if (s->steering && s->steering->has_routed[layer]) {
        for (int32_t j = 0; j < top_k; j++) {
            int32_t expert = slot->experts[i * top_k + j].value;
            if (cox_stack_has_routed(s->steering->plan, &place, expert))
                tag.experts[tag.n_experts++] = (uint16_t)expert;
        }
    }
    slot->is_tagged[i] = tag.n_experts > 0;
    if (slot->is_tagged[i]) {
        tag.plan = s->steering->id;
        tag.position = place.position;
        tag.n_prompt = place.n_prompt;
    }
    memcpy(tail, &tag, sizeof tag);
}

/* Hosts write no tag when none of the plan's interventions on the expert is in scope. */
static void collect_reply(cox_engine *engine, int32_t layer, int32_t row, int32_t expert, const float *tail)
{
    cox_steer_effect effects[COX_PLAN_MAX_STACK];
    cox_reply_tag done;
    memcpy(&done, tail, sizeof done);
    for (int k = 0; k < COX_PLAN_MAX_STACK; k++) {
        effects[k] = (cox_steer_effect){.was_applied = done.effects[k].there >= 0,
                                        .norm_there = done.effects[k].there,
                                        .norm_added = done.effects[k].added};
    }
    cox__steer_counter counter = {engine, layer, row};
    const cox_row_place place = place_of(engine, layer, row);
    cox_stack_tell_routed(sequence_of(engine, row)->steering->plan, &place, expert, effects,
                          (cox_steer_watch){count_seen, &counter});
}

void cox__steer_collect(cox_engine *engine, int32_t layer, const cox__slot *slot, int32_t i,
                        const float *replies)
{
    if (!slot->is_tagged[i]) return;
    int32_t top_k = engine->model->router.top_k;
    for (int32_t j = 0; j < top_k; j++) {
        size_t reply = (size_t)slot->plan->reply_index[i * top_k + j];
        collect_reply(engine, layer, slot->first + i, slot->experts[i * top_k + j].value,
                      replies + reply * engine->row_width + engine->model->d_model);
    }
}

const cox_plan *cox__steer_terms(const cox_engine *engine, int32_t layer, int32_t row,
                                 cox__steer_counter *counter, cox_row_place *place, cox_steer_watch *watch)
{
    const cox__steering *steering = sequence_of(engine, row)->steering;
    if (!steering || !steering->has_terms[layer]) return NULL;
    *counter = (cox__steer_counter){engine, layer, row};
    *place = place_of(engine, layer, row);
    *watch = (cox_steer_watch){count_seen, counter};
    return steering->plan;
}
