/*
 * Latency of dispatch + combine per back-end, rows [n, d_model] f32 with top_k routes each, experts that only
 * copy. Usage: mpirun -n RANKS bench_exchange [d_model] [top_k] [experts-on-all 0|1]; prints one line per
 * back-end and size.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counters.h"
#include "cluster/exchange.h"
#include "cluster/internal.h"

enum { N_EXPERTS = 64, MAX_ROWS = 512, REPEATS = 5 };

static cox_status copy_rows(void *context, const cox_work *work)
{
    size_t d_model = *(const size_t *)context;
    for (int32_t i = 0; i < work->n_rows; i++) {
        for (int32_t r = work->route_offsets[i]; r < work->route_offsets[i + 1]; r++) {
            memcpy(work->replies + (size_t)r * d_model, work->rows + (size_t)i * d_model,
                   d_model * sizeof(float));
        }
    }
    return COX_OK;
}

static void fail(cox_cluster *c, cox_status status)
{
    if (status != COX_OK) cox_cluster_abort(c, status);
}

/* Microseconds of one step: the best of some means. */
static double time_steps(cox_cluster *c, cox_exchange *x, const cox_dispatch_plan *plan, const float *rows,
                         int n_steps)
{
    double best_s = 1e9;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double begin_s = cox_now_s();
        for (int i = 0; i < n_steps; i++) {
            const float *replies = NULL;
            fail(c, cox_exchange_dispatch_begin(x, 0, 0, plan, rows));
            fail(c, cox_exchange_combine_end(x, 0, &replies));
        }
        double mean_s = (cox_now_s() - begin_s) / n_steps;
        if (mean_s < best_s) best_s = mean_s;
    }
    return best_s * 1e6;
}

static void bench(cox_cluster *c, const cox_exchange_options *options)
{
    static const int32_t sizes[] = {1, 8, 64, MAX_ROWS};
    size_t n_routes = (size_t)MAX_ROWS * (size_t)options->top_k;
    cox_exchange *x = NULL;
    cox_arena *arena = NULL;
    cox_dispatch_plan *plan = NULL;
    fail(c, cox_exchange_create(&x, c, options));
    fail(c, cox_arena_create(&arena, "bench", 0));
    if (cox_cluster_is_coordinator(c)) {
        cox_expert_id *experts = cox_arena_array(arena, n_routes, sizeof *experts);
        float *rows = cox_arena_array(arena, (size_t)MAX_ROWS * (size_t)options->row_width, sizeof *rows);
        for (size_t i = 0; i < n_routes; i++) experts[i].value = (int32_t)(i % N_EXPERTS);
        fail(c, cox_dispatch_plan_create(&plan, arena, c, MAX_ROWS, options->top_k));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            cox_dispatch_plan_build(plan, options->placement, 0, experts, sizes[i]);
            double us = time_steps(c, x, plan, rows, sizes[i] > 8 ? 10 : 300);
            printf("%-10s ranks %d threads %d rows %4d d_model %d top_k %d: %10.1f us\n",
                   cox_exchange_name(x), (int)cox_cluster_size(c), (int)cox_cluster_n_threads(c),
                   (int)sizes[i], (int)options->row_width, (int)options->top_k, us);
        }
        fail(c, cox_exchange_finish(x, COX_OK));
    }
    fail(c, cox_exchange_serve(x));
    cox_exchange_destroy(x);
    cox_arena_destroy(arena);
}

int main(int argc, char **argv)
{
    static const cox_exchange_kind kinds[] = {COX_EXCHANGE_SPARSE, COX_EXCHANGE_ALLTOALL,
                                              COX_EXCHANGE_ALLTOALLV, COX_EXCHANGE_AUTO};
    cox_cluster_options cluster_options = cox_cluster_options_defaults();
    cox_cluster *c = NULL;
    cox_placement *placement = NULL;
    const int32_t *ranks = NULL;
    size_t d_model = argc > 1 ? (size_t)atoi(argv[1]) : 1024;
    cluster_options.experts_on_all = argc > 3 && atoi(argv[3]) != 0;
    if (cox_cluster_create(&c, &cluster_options) != COX_OK) {
        fprintf(stderr, "%s\n", cox_status_message());
        return 1;
    }
    int32_t n = cox_cluster_expert_ranks(c, &ranks);
    fail(c, cox_placement_round_robin(&placement, 1, NULL, N_EXPERTS, ranks, n));
    cox_exchange_options options = {.n_slots = 1,
                                    .max_rows = MAX_ROWS,
                                    .row_width = (int32_t)d_model,
                                    .top_k = argc > 2 ? atoi(argv[2]) : 8,
                                    .placement = placement,
                                    .host = {&d_model, copy_rows, cox_host_done}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        options.kind = kinds[i];
        bench(c, &options);
    }
    cox_placement_destroy(placement);
    cox_cluster_destroy(c);
    return 0;
}
