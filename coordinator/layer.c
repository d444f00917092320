/*
 * One layer after attention: norm, router, dispatch to the experts' ranks, combine, residual. The layers of
 * all micro-batches are walked so that, while one's rows are away at the experts, the next one's attention
 * runs here: attention and dispatch of slot s in layer l come right after the combine of slot s in layer l-1.
 */
#include <math.h>
#include <string.h>

#include "coordinator/combine.h"
#include "coordinator/internal.h"

static float *slot_x(const cox_engine *engine, const cox__slot *slot)
{
    return engine->x + (size_t)slot->first * (size_t)engine->model->d_model;
}

static void norm_rows(cox_engine *engine, const cox__slot *slot, const float *weight)
{
    size_t d_model = (size_t)engine->model->d_model;
    const float *x = slot_x(engine, slot);
#pragma omp parallel for schedule(static) if (slot->end - slot->first >= 16)
    for (int32_t i = 0; i < slot->end - slot->first; i++) {
        cox_rms_norm(engine->kernels, engine->normed + (size_t)i * engine->row_width, x + (size_t)i * d_model,
                     weight, engine->model->d_model, engine->model->rms_eps);
    }
}

/* The rank that a route of the slot goes to; replies come by destination, one row of header before each. */
static int32_t rank_of_route(const cox_dispatch_plan *plan, size_t route)
{
    int32_t d = 0;
    while (plan->reply_index[route] > plan->route_offsets[d + 1] + d) d++;
    return plan->destinations[d];
}

/* Reports the routes of rows whose sequences are traced; router_logits are as the choice saw them. */
static void trace_routes(cox_engine *engine, int32_t layer, const cox__slot *slot)
{
    int32_t n_experts = engine->model->router.n_experts, top_k = engine->model->router.top_k;
    for (int32_t i = 0; i < slot->end - slot->first; i++) {
        const cox__sequence *s = engine->batch.sequences[slot->first + i];
        int32_t position = engine->batch.positions[slot->first + i];
        if (!s->request.wants_routes || position < s->n_counted) continue;
        const float *logits = engine->router_logits + (size_t)i * (size_t)n_experts;
        cox_traced_route traced[COX_MAX_TOP_K];
        for (int32_t j = 0; j < top_k; j++) {
            size_t r = (size_t)i * (size_t)top_k + (size_t)j;
            const cox_route *route = &slot->routes[r];
            float next = -INFINITY; /* the next lower expert, chosen or not; ties are next to each other */
            for (int32_t e = 0; e < n_experts; e++) {
                bool is_lower = logits[e] < route->logit || (logits[e] == route->logit && e > route->expert);
                if (is_lower && logits[e] > next) next = logits[e];
            }
            traced[j] = (cox_traced_route){.expert = route->expert,
                                           .rank = rank_of_route(slot->plan, r),
                                           .logit = route->logit,
                                           .weight = route->weight,
                                           .margin = route->logit - next};
        }
        engine->events.on_routes(engine->events.context, s->request.id, layer, position, traced);
    }
}

/* Router logits and routes of the slot's normed rows. */
static void route_rows(cox_engine *engine, int32_t layer, cox__slot *slot, const cox_layer_weights *w)
{
    const cox_router_config *router = &engine->model->router;
    size_t n_experts = (size_t)router->n_experts, top_k = (size_t)router->top_k;
    size_t n_scratch = (size_t)cox_routes_scratch_floats(router);
    int32_t n_rows = slot->end - slot->first;
    cox_matmul_job job = {.y = engine->router_logits,
                          .y_stride = n_experts,
                          .x = engine->normed,
                          .x_stride = engine->row_width,
                          .n_rows = n_rows,
                          .w = &w->router,
                          .bias = w->router_bias};
    cox_matmul(cox_kernels_exact(engine->kernels), &job, 1, engine->matmul_scratch);
#pragma omp parallel for schedule(static) if (n_rows >= 16)
    for (int32_t i = 0; i < n_rows; i++) {
        cox_route *routes = slot->routes + (size_t)i * top_k;
        float *logits = engine->router_logits + (size_t)i * n_experts;
        if (!cox__steer_route(engine, layer, slot, i, logits, routes)) {
            cox_router_choose(engine->kernels, router, logits, engine->router_scratch + (size_t)i * n_scratch,
                              routes);
        }
        for (size_t j = 0; j < top_k; j++) slot->experts[(size_t)i * top_k + j].value = routes[j].expert;
        cox__steer_tag(engine, layer, slot, i,
                       engine->normed + (size_t)i * engine->row_width + engine->model->d_model);
    }
    cox__observe(engine, COX_SITE_ROUTER_LOGITS, layer, slot, engine->router_logits, n_experts);
}

/* The row's routes in ascending expert id, and where their outputs stand in the replies. */
static void list_outputs(const cox_engine *engine, const cox__slot *slot, int32_t i, const float *replies,
                         cox__combine_row *row)
{
    const int32_t top_k = row->top_k;
    const cox_route *routes = slot->routes + (size_t)i * (size_t)top_k;
    for (int32_t n = 0, last = -1; n < top_k; n++) {
        int32_t next = -1; /* the choice with the lowest expert above the last one */
        for (int32_t j = 0; j < top_k; j++) {
            if (routes[j].expert > last && (next < 0 || routes[j].expert < routes[next].expert)) next = j;
        }
        last = routes[next].expert;
        size_t reply = (size_t)slot->plan->reply_index[(size_t)i * (size_t)top_k + (size_t)next];
        row->experts[n] = last;
        row->weights[n] = routes[next].weight;
        row->outputs[n] = replies + reply * engine->row_width;
    }
}

/* x += what the experts of the slot's row i gave. */
static void combine_row(cox_engine *engine, int32_t layer, const cox__slot *slot, int32_t i,
                        const float *replies, float *x)
{
    int32_t d_model = engine->model->d_model, n_experts = engine->model->router.n_experts;
    float *sum = engine->projected + (size_t)i * (size_t)d_model;
    cox__combine_row row = {.kernels = engine->kernels,
                            .d_model = d_model,
                            .n_experts = n_experts,
                            .top_k = engine->model->router.top_k};
    cox__steer_counter counter;
    list_outputs(engine, slot, i, replies, &row);
    row.plan = cox__steer_terms(engine, layer, slot->first + i, &counter, &row.place, &row.watch);
    row.probabilities = slot->probabilities + (size_t)i * (size_t)n_experts;
    cox__combine(&row, sum);
    cox__steer_collect(engine, layer, slot, i, replies);
    cox__steer_row(engine, COX_SITE_MOE_OUT, layer, slot->first + i, sum);
    cox_add(engine->kernels, x, sum, d_model);
}

static cox_status begin_moe(cox_engine *engine, int32_t layer, int32_t s)
{
    cox__slot *slot = &engine->slots[s];
    const cox_layer_weights *w = &engine->trunk->layers[layer];
    cox_stage_enter(&engine->clock, &engine->counters.router_s);
    norm_rows(engine, slot, w->post_norm);
    route_rows(engine, layer, slot, w);
    if (engine->batch.has_observations) {
        cox_stage_enter(&engine->clock, NULL); /* the exchange has counters of its own */
        cox_status status = cox__observe_counterfactual(engine, layer, s);
        if (status != COX_OK) return status;
        cox_stage_enter(&engine->clock, &engine->counters.router_s);
    }
    cox_dispatch_plan_build(slot->plan, engine->placement, layer, slot->experts, slot->end - slot->first);
    if (engine->batch.has_traces) trace_routes(engine, layer, slot);
    cox_stage_enter(&engine->clock, NULL);
    return cox_exchange_dispatch_begin(engine->exchange, s, layer, slot->plan, engine->normed);
}

static cox_status end_moe(cox_engine *engine, int32_t layer, int32_t s)
{
    const cox__slot *slot = &engine->slots[s];
    const float *replies;
    cox_stage_enter(&engine->clock, NULL);
    cox_status status = cox_exchange_dispatch_end(engine->exchange, s);
    if (status == COX_OK) status = cox_exchange_combine_begin(engine->exchange, s);
    if (status == COX_OK) status = cox_exchange_combine_end(engine->exchange, s, &replies);
    if (status != COX_OK) return status;
    cox_stage_enter(&engine->clock, &engine->counters.combine_s);
    size_t d_model = (size_t)engine->model->d_model;
    float *x = slot_x(engine, slot);
#pragma omp parallel for schedule(static) if (slot->end - slot->first >= 8)
    for (int32_t i = 0; i < slot->end - slot->first; i++) {
        combine_row(engine, layer, slot, i, replies, x + (size_t)i * d_model);
    }
    cox__observe_routed(engine, layer, slot, replies);
    cox__observe(engine, COX_SITE_MOE_OUT, layer, slot, engine->projected, d_model);
    cox__steer(engine, COX_SITE_RESID_POST, layer, slot, x, d_model);
    return COX_OK;
}

/* x += down(activation(gate, up)) of a layer without experts. */
static void dense_ffn(cox_engine *engine, int32_t layer, const cox__slot *slot)
{
    const cox_model *model = engine->model;
    const cox_layer_weights *layer_weights = &engine->trunk->layers[layer];
    const cox_ffn_weights *w = &layer_weights->dense;
    size_t d_model = (size_t)model->d_model, d_dense = (size_t)model->d_dense;
    int32_t n_rows = slot->end - slot->first;
    cox_stage_enter(&engine->clock, &engine->counters.router_s);
    norm_rows(engine, slot, layer_weights->post_norm);
    cox_matmul_job gate = {.y = engine->gate,
                           .y_stride = d_dense,
                           .x = engine->normed,
                           .x_stride = engine->row_width,
                           .n_rows = n_rows,
                           .w = &w->gate,
                           .bias = w->gate_bias};
    cox_matmul_job up = gate;
    up.y = engine->up, up.w = &w->up, up.bias = w->up_bias;
    cox_matmul(engine->kernels, (cox_matmul_job[]){gate, up}, 2, engine->matmul_scratch);
    for (int32_t i = 0; i < n_rows; i++) {
        float *g = engine->gate + (size_t)i * d_dense;
        cox_silu_mul(engine->kernels, g, g, engine->up + (size_t)i * d_dense, model->d_dense);
    }
    cox_matmul_job down = {.y = engine->projected,
                           .y_stride = d_model,
                           .x = engine->gate,
                           .x_stride = d_dense,
                           .n_rows = n_rows,
                           .w = &w->down,
                           .bias = w->down_bias};
    cox_matmul(engine->kernels, &down, 1, engine->matmul_scratch);
    float *x = slot_x(engine, slot);
    cox__steer(engine, COX_SITE_MOE_OUT, layer, slot, engine->projected, d_model);
    for (int32_t i = 0; i < n_rows; i++) {
        cox_add(engine->kernels, x + (size_t)i * d_model, engine->projected + (size_t)i * d_model,
                model->d_model);
    }
    cox__steer(engine, COX_SITE_RESID_POST, layer, slot, x, d_model);
}

/* What is left of a layer for the slot's rows that took part in it. */
static cox_status leave_layer(cox_engine *engine, int32_t layer, int32_t s)
{
    const cox__slot *slot = &engine->slots[s];
    if (slot->end == slot->first) return COX_OK;
    cox_status status = engine->model->layers[layer].is_moe ? end_moe(engine, layer, s) : COX_OK;
    if (status == COX_OK) cox__keep(engine, layer + 1, slot);
    return status;
}

cox_status cox__layers(cox_engine *engine, int32_t n_slots)
{
    const cox_model *model = engine->model;
    cox_status status = COX_OK;
    for (int32_t l = 0; l < model->n_layers && status == COX_OK; l++) {
        for (int32_t s = 0; s < n_slots && status == COX_OK; s++) {
            cox__slot *slot = &engine->slots[s];
            if (l > 0) status = leave_layer(engine, l - 1, s);
            if (status != COX_OK) return status;
            slot->end = slot->ends[l];
            if (slot->end == slot->first)
                continue; /* its rows start further up: nobody is asked for anything */
            cox_cluster_keepalive(engine->cluster, "computing attention");
            cox_stage_enter(&engine->clock, &engine->counters.attention_s);
            cox__attention(engine, l, slot);
            if (slot->end == slot->first) continue; /* only keys and values were wanted */
            if (model->layers[l].is_moe) {
                status = begin_moe(engine, l, s);
            } else {
                dense_ffn(engine, l, slot);
            }
        }
    }
    for (int32_t s = 0; s < n_slots && status == COX_OK; s++) {
        status = leave_layer(engine, model->n_layers - 1, s);
    }
    return status;
}
