/*
 * Which back-end? The one that is named; where it is `auto`, the faster one here: both are run with real
 * messages at start: many small steps (one row: the latency of a token) and a few large ones (a piece of a
 * prompt). The product of the two ratios decides; `sparse` wins ties, since an all-to-all makes every rank
 * wait for every other.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/counters.h"
#include "cluster/exchange_internal.h"

enum { SMALL_STEPS = 24, LARGE_STEPS = 4, LARGE_ROWS = 64, WARM_STEPS = 4 };
static const double CLEARLY = 0.9;

typedef struct timing {
    double small_s, large_s;
} timing;

static double run_steps(cox_exchange *x, cox_dispatch_plan *plan, const float *rows, int32_t layer,
                        int n_steps)
{
    double begin_s = cox_now_s();
    for (int i = 0; i < n_steps; i++) {
        const float *replies = NULL;
        cox_exchange_dispatch_begin(x, 0, layer, plan, rows);
        cox_exchange_combine_end(x, 0, &replies);
    }
    return (cox_now_s() - begin_s) / n_steps;
}

/* The coordinator's part: routes that touch all experts in turn. */
static cox_status measure(cox_exchange *x, cox_arena *arena, int32_t layer, timing *result)
{
    int32_t n_rows = x->options.max_rows < LARGE_ROWS ? x->options.max_rows : LARGE_ROWS;
    int32_t n_experts = cox_placement_n_experts(x->options.placement);
    size_t n_routes = (size_t)n_rows * (size_t)x->options.top_k;
    cox_dispatch_plan *plan = NULL;
    cox_status status = cox_dispatch_plan_create(&plan, arena, x->cluster, n_rows, x->options.top_k);
    if (status != COX_OK) return status;
    cox_expert_id *experts = cox_arena_array(arena, n_routes, sizeof *experts);
    float *rows = cox_arena_array(arena, (size_t)n_rows * (size_t)x->options.row_width, sizeof *rows);
    if (!experts || !rows) return COX_NO_MEMORY;
    for (size_t i = 0; i < n_routes; i++) experts[i].value = (int32_t)(i % (size_t)n_experts);
    cox_dispatch_plan_build(plan, x->options.placement, layer, experts, 1);
    run_steps(x, plan, rows, layer, WARM_STEPS);
    result->small_s = run_steps(x, plan, rows, layer, SMALL_STEPS);
    cox_dispatch_plan_build(plan, x->options.placement, layer, experts, n_rows);
    run_steps(x, plan, rows, layer, 1);
    result->large_s = run_steps(x, plan, rows, layer, LARGE_STEPS);
    return COX_OK;
}

/* Collective. */
static cox_status time_backend(cox_exchange *x, const cox__backend *backend, int32_t layer, timing *result)
{
    cox_arena *arena = NULL;
    cox_status status = cox_cluster_agree(x->cluster, cox_arena_create(&arena, "calibration", 0));
    if (status != COX_OK) return status;
    status = cox_cluster_agree(x->cluster, backend->create(x));
    if (status == COX_OK) {
        x->backend = backend;
        cox__exchange_start(x);
        if (x->is_coordinator) {
            status = measure(x, arena, layer, result);
            cox_exchange_finish(x, COX_OK);
        }
        if (x->own >= 0) cox_exchange_serve(x);
        status = cox_cluster_agree(x->cluster, status);
        backend->destroy(x);
        x->backend = NULL;
    }
    cox_arena_destroy(arena);
    return status;
}

/* A layer that has experts, or -1. */
static int32_t layer_with_experts(const cox_placement *placement)
{
    for (int32_t layer = 0; layer < cox_placement_n_layers(placement); layer++) {
        const int32_t *ranks = NULL;
        if (cox_placement_hosts(placement, layer, (cox_expert_id){0}, &ranks) > 0) return layer;
    }
    return -1;
}

/* [out] *chosen: sparse or alltoall, by timing both. Collective. */
static cox_status calibrate(cox_exchange *x, const cox__backend **chosen)
{
    timing sparse = {0}, alltoall = {0};
    int32_t layer = layer_with_experts(x->options.placement);
    *chosen = &cox__backend_sparse;
    if (layer < 0 || x->options.top_k > cox_placement_n_experts(x->options.placement)) return COX_OK;
    x->is_calibrating = true;
    cox_status status = time_backend(x, &cox__backend_sparse, layer, &sparse);
    if (status == COX_OK) status = time_backend(x, &cox__backend_alltoall, layer, &alltoall);
    x->is_calibrating = false;
    x->counters = (cox_counters){0};
    if (status != COX_OK) return status;
    int32_t is_better = 0;
    if (x->is_coordinator) {
        is_better = sqrt(alltoall.small_s / sparse.small_s * (alltoall.large_s / sparse.large_s)) < CLEARLY;
    }
    void *data = &is_better;
    size_t n = sizeof is_better;
    status = cox_cluster_broadcast(x->cluster, 0, &data, &n);
    if (status != COX_OK) return status;
    if (*(int32_t *)data) *chosen = &cox__backend_alltoall;
    if (data != &is_better) free(data);
    return COX_OK;
}

static const char *const kind_names[COX_N_EXCHANGES] = {
#define X(name, text) text,
    COX_EXCHANGE_LIST(X)
#undef X
};

const char *cox_exchange_kind_name(cox_exchange_kind kind)
{
    return kind_names[kind];
}

cox_exchange_kind cox_exchange_find(const char *name)
{
    for (int i = 0; i < COX_N_EXCHANGES; i++) {
        if (strcmp(kind_names[i], name) == 0) return (cox_exchange_kind)i;
    }
    return COX_EXCHANGE_AUTO;
}

static const cox__backend *backend_of(cox_exchange_kind kind)
{
    static const cox__backend *const backends[] = {&cox__backend_self, &cox__backend_sparse,
                                                   &cox__backend_alltoall, &cox__backend_alltoallv};
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(backends[i]->name, kind_names[kind]) == 0) return backends[i];
    }
    return &cox__backend_sparse; /* auto, until it has been timed */
}

cox_status cox__exchange_choose(cox_exchange *x)
{
    const cox__backend *chosen = backend_of(x->options.kind);
    if (x->cluster->size == 1) chosen = &cox__backend_self;
    cox_status status = COX_OK;
    if (x->options.kind == COX_EXCHANGE_AUTO && x->cluster->size > 1 && x->cluster->n_coordinators == 1)
        status = calibrate(x, &chosen);
    if (status != COX_OK) return status;
    x->backend = chosen;
    cox__exchange_start(x);
    status = cox_cluster_agree(x->cluster, x->backend->create(x));
    if (status != COX_OK) x->backend = NULL;
    return status;
}
