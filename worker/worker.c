/*
 * Routes come in token order and are computed in expert order: a counting sort groups them by expert,
 * the products gather rows and scatter replies, so nothing is copied. Routes are taken in pieces of at most
 * n_piece, which bounds the scratch and lets a keep-alive out between them. Replies are steered last
 * (plans.c).
 */
#include "worker/worker.h"

#include <assert.h>
#include <omp.h>
#include <string.h>

#include "base/arena.h"
#include "worker/plans.h"

enum { LEAST_PIECE = 256, MOST_PIECE = 4096, PIECE_FLOATS = 1 << 18 };

/* Routes of a piece: what keeps gate and up within 1 MiB each. */
static int32_t piece_routes(const cox_model *model)
{
    int32_t n = PIECE_FLOATS / (model->d_expert > 0 ? model->d_expert : 1);
    return n < LEAST_PIECE ? LEAST_PIECE : n < MOST_PIECE ? n : MOST_PIECE;
}

struct cox_worker {
    const cox_model *model;
    const cox_kernels *kernels;
    cox_cluster *cluster;
    cox_arena *arena;
    cox_ffn_weights *experts; /* by layer, then local expert */
    int32_t *layer_offsets;   /* [n_layers+1] into experts */
    int32_t *expert_offsets;  /* [max local experts of a layer + 1]: routes of each expert in expert order */
    int32_t *next;            /* [max local experts of a layer] */
    int32_t n_piece;
    int32_t *route_rows;    /* [n_piece] row of each route of the piece, in expert order */
    int32_t *route_replies; /* [n_piece] its reply row */
    float *gate, *up;       /* [n_piece, d_expert] f32 */
    cox_matmul_job *jobs;   /* [2 * max local experts of a layer] */
    void *matmul_scratch;
    const cox_placement *placement;
    cox_worker_plans *plans;
};

static size_t matmul_bytes(const cox_model *model, const cox_kernels *kernels, int32_t n_threads)
{
    int32_t widest = model->d_model > model->d_expert ? model->d_model : model->d_expert;
    return cox_matmul_scratch_bytes(kernels, n_threads, widest, piece_routes(model));
}

size_t cox_worker_scratch_bytes(const cox_model *model, const cox_kernels *kernels, int32_t n_threads)
{
    size_t n_experts = (size_t)model->router.n_experts, piece = (size_t)piece_routes(model);
    return 2 * piece * (size_t)model->d_expert * sizeof(float) +
           2 * n_experts * (sizeof(cox_matmul_job) + sizeof(int32_t)) + 2 * piece * sizeof(int32_t) +
           n_experts * (size_t)model->n_layers * sizeof(cox_ffn_weights) +
           matmul_bytes(model, kernels, n_threads);
}

static cox_status take_scratch(cox_worker *worker, int32_t n_most)
{
    const cox_model *model = worker->model;
    cox_arena *arena = worker->arena;
    size_t most = (size_t)n_most, pieces = (size_t)worker->n_piece;
    assert(omp_get_max_threads() <= cox_cluster_n_threads(worker->cluster)); /* scratch is per thread */
    worker->expert_offsets = cox_arena_array(arena, most + 1, sizeof(int32_t));
    worker->next = cox_arena_array(arena, most, sizeof(int32_t));
    worker->route_rows = cox_arena_array(arena, pieces, sizeof(int32_t));
    worker->route_replies = cox_arena_array(arena, pieces, sizeof(int32_t));
    worker->gate = cox_arena_array(arena, pieces * (size_t)model->d_expert, sizeof(float));
    worker->up = cox_arena_array(arena, pieces * (size_t)model->d_expert, sizeof(float));
    worker->jobs = cox_arena_array(arena, 2 * most, sizeof(cox_matmul_job));
    worker->matmul_scratch =
        cox_arena_alloc(arena, matmul_bytes(model, worker->kernels, cox_cluster_n_threads(worker->cluster)));
    bool taken = worker->expert_offsets && worker->next && worker->route_rows && worker->route_replies &&
                 worker->gate && worker->up && worker->jobs && worker->matmul_scratch;
    return taken ? COX_OK : COX_NO_MEMORY;
}

static cox_status load_experts(cox_worker *worker, const cox_placement *placement,
                               cox_load_progress *progress, void *progress_context)
{
    const cox_model *model = worker->model;
    int32_t rank = cox_cluster_rank(worker->cluster), n_most = 0;
    worker->layer_offsets = cox_arena_array(worker->arena, (size_t)model->n_layers + 1, sizeof(int32_t));
    if (!worker->layer_offsets) return COX_NO_MEMORY;
    for (int32_t l = 0; l < model->n_layers; l++) {
        const cox_expert_id *ids;
        int32_t n = cox_placement_local(placement, l, rank, &ids);
        worker->layer_offsets[l + 1] = worker->layer_offsets[l] + n;
        if (n > n_most) n_most = n;
    }
    size_t n_all = (size_t)worker->layer_offsets[model->n_layers];
    int32_t *layers = cox_arena_array(worker->arena, n_all, sizeof(int32_t));
    int32_t *experts = cox_arena_array(worker->arena, n_all, sizeof(int32_t));
    worker->experts = cox_arena_array(worker->arena, n_all, sizeof(cox_ffn_weights));
    if (!layers || !experts || !worker->experts) return COX_NO_MEMORY;
    for (int32_t l = 0; l < model->n_layers; l++) {
        const cox_expert_id *ids;
        int32_t n = cox_placement_local(placement, l, rank, &ids);
        for (int32_t i = 0; i < n; i++) {
            layers[worker->layer_offsets[l] + i] = l;
            experts[worker->layer_offsets[l] + i] = ids[i].value;
        }
    }
    cox_status status = cox_model_load_experts(model, worker->arena, layers, experts, n_all, progress,
                                               progress_context, worker->experts);
    return status == COX_OK ? take_scratch(worker, n_most) : status;
}

cox_status cox_worker_create(cox_worker **worker, const cox_model *model, const cox_kernels *kernels,
                             cox_cluster *cluster, const cox_placement *placement,
                             cox_load_progress *progress, void *progress_context)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "load", 0);
    if (status != COX_OK) return status;
    cox_worker *w = cox_arena_alloc(arena, sizeof *w);
    if (!w) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    *w = (cox_worker){
        .model = model, .kernels = kernels, .cluster = cluster, .arena = arena, .placement = placement};
    w->n_piece = piece_routes(model);
    status = load_experts(w, placement, progress, progress_context);
    if (status == COX_OK) status = cox_worker_plans_create(&w->plans, cluster, kernels, model->d_model);
    if (status != COX_OK) {
        cox_arena_destroy(arena);
        return status;
    }
    *worker = w;
    return COX_OK;
}

void cox_worker_destroy(cox_worker *worker)
{
    if (!worker) return;
    cox_worker_plans_destroy(worker->plans);
    cox_arena_destroy(worker->arena);
}

const cox_worker_plans *cox_worker_steering(const cox_worker *worker)
{
    return worker->plans;
}

/* expert_offsets[e]..[e+1] for the routes of the whole work, in expert order. */
static void count_routes(cox_worker *worker, const cox_work *work, int32_t n_local)
{
    int32_t *offsets = worker->expert_offsets;
    memset(offsets, 0, (size_t)(n_local + 1) * sizeof *offsets);
    for (int32_t r = 0; r < work->n_routes; r++) offsets[work->experts[r].value + 1]++;
    for (int32_t e = 0; e < n_local; e++) offsets[e + 1] += offsets[e];
}

/* Fills route_rows and route_replies for the routes [start, end) of the expert order. */
static void gather_piece(cox_worker *worker, const cox_work *work, int32_t n_local, int32_t start,
                         int32_t end)
{
    memcpy(worker->next, worker->expert_offsets, (size_t)n_local * sizeof *worker->next);
    for (int32_t row = 0; row < work->n_rows; row++) {
        for (int32_t r = work->route_offsets[row]; r < work->route_offsets[row + 1]; r++) {
            int32_t place = worker->next[work->experts[r].value]++;
            if (place < start || place >= end) continue;
            worker->route_rows[place - start] = row;
            worker->route_replies[place - start] = r;
        }
    }
}

static void activate(const cox_worker *worker, int32_t n_routes)
{
    const cox_model *model = worker->model;
    int32_t n = model->d_expert;
#pragma omp parallel for schedule(static) if (n_routes >= 8)
    for (int32_t i = 0; i < n_routes; i++) {
        float *gate = worker->gate + (size_t)i * (size_t)n, *up = worker->up + (size_t)i * (size_t)n;
        if (model->activation == COX_ACTIVATION_SILU) {
            cox_silu_mul(worker->kernels, gate, gate, up, n);
        } else {
            cox_swiglu_clamped(worker->kernels, gate, gate, up, n, model->swiglu_alpha, model->swiglu_limit);
        }
    }
}

/* The FFN of routes [start, end) of the expert order: gate and up, activation, down into the replies. */
static void compute_piece(cox_worker *worker, const cox_work *work, const cox_ffn_weights *experts,
                          int32_t n_local, int32_t start, int32_t end)
{
    size_t d_expert = (size_t)worker->model->d_expert;
    size_t width = (size_t)worker->model->d_model + COX_ROW_TAIL;
    int32_t n_jobs = 0;
    for (int32_t e = 0; e < n_local; e++) {
        int32_t from = worker->expert_offsets[e], to = worker->expert_offsets[e + 1];
        if (from < start) from = start;
        if (to > end) to = end;
        if (from >= to) continue;
        cox_matmul_job job = {.x = work->rows,
                              .x_stride = width,
                              .x_rows = worker->route_rows + (from - start),
                              .n_rows = to - from,
                              .y_stride = d_expert};
        size_t first = (size_t)(from - start) * d_expert;
        job.y = worker->gate + first, job.w = &experts[e].gate, job.bias = experts[e].gate_bias;
        worker->jobs[n_jobs++] = job;
        job.y = worker->up + first, job.w = &experts[e].up, job.bias = experts[e].up_bias;
        worker->jobs[n_jobs++] = job;
    }
    cox_matmul(worker->kernels, worker->jobs, n_jobs, worker->matmul_scratch);
    activate(worker, end - start);
    n_jobs = 0;
    for (int32_t e = 0; e < n_local; e++) {
        int32_t from = worker->expert_offsets[e], to = worker->expert_offsets[e + 1];
        if (from < start) from = start;
        if (to > end) to = end;
        if (from >= to) continue;
        worker->jobs[n_jobs++] = (cox_matmul_job){.y = work->replies,
                                                  .y_stride = width,
                                                  .y_rows = worker->route_replies + (from - start),
                                                  .x = worker->gate + (size_t)(from - start) * d_expert,
                                                  .x_stride = d_expert,
                                                  .n_rows = to - from,
                                                  .w = &experts[e].down,
                                                  .bias = experts[e].down_bias};
    }
    cox_matmul(worker->kernels, worker->jobs, n_jobs, worker->matmul_scratch);
}

static cox_status compute(void *context, const cox_work *work)
{
    cox_worker *worker = context;
    int32_t first = worker->layer_offsets[work->layer];
    int32_t n_local = worker->layer_offsets[work->layer + 1] - first;
    for (int32_t r = 0; r < work->n_routes; r++) {
        if ((uint32_t)work->experts[r].value >= (uint32_t)n_local) {
            return cox_fail(COX_INTERNAL, "layer %d: local expert %d asked for, %d are here", work->layer,
                            work->experts[r].value, n_local);
        }
    }
    count_routes(worker, work, n_local);
    for (int32_t start = 0; start < work->n_routes; start += worker->n_piece) {
        int32_t end = start + worker->n_piece < work->n_routes ? start + worker->n_piece : work->n_routes;
        cox_cluster_keepalive(worker->cluster, "computing experts");
        gather_piece(worker, work, n_local, start, end);
        compute_piece(worker, work, worker->experts + first, n_local, start, end);
    }
    const cox_expert_id *ids;
    cox_placement_local(worker->placement, work->layer, cox_cluster_rank(worker->cluster), &ids);
    return cox_worker_plans_steer(worker->plans, work, ids);
}

cox_host cox_worker_host(cox_worker *worker)
{
    if (!worker) return (cox_host){0};
    return (cox_host){.context = worker, .begin = compute, .poll = cox_host_done};
}
