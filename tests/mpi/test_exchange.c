/*
 * Every reply of every back-end has the bits that a local computation gives: over coordinators, experts on
 * all ranks or on workers, placements with and without replicas, numbers of slots in flight, and steps in
 * which some ranks get no rows, from hosts that are polled up to three times before they are done. Also: a
 * dispatch takes no heap memory, a host that fails, when it begins or when it is polled, reaches the
 * coordinator with its text.
 */
#include <math.h>
#include <string.h>

#include "cluster/exchange.h"
#include "cluster/internal.h"
#include "tests/mpi/check.h"
#include "tests/support/allocations.h"

enum {
    N_LAYERS = 4,
    N_EXPERTS = 12,
    TOP_K = 3,
    MAX_ROWS = 40,
    D_MODEL = 36,
    N_ROUNDS = 7,
    FAILING_LAYER = 3
};

typedef struct job {
    cox_cluster *cluster;
    cox_placement *placement;
    uint32_t random;
    const cox_work *work; /* of the host: under way; NULL: nothing */
    int32_t n_begun, n_left;
    bool fails_in_poll;
} job;

typedef struct flight {
    int32_t n_rows, layer;
    cox_dispatch_plan *plan;
    cox_expert_id experts[MAX_ROWS * TOP_K];
    float rows[MAX_ROWS * D_MODEL];
} flight;

static uint32_t draw(job *j, uint32_t below)
{
    j->random = j->random * 1664525u + 1013904223u;
    return (j->random >> 8) % below;
}

/* The "expert": something whose bits depend on layer, expert, column and value. */
static float output(int32_t layer, int32_t expert, int32_t k, float in)
{
    return fmaf(in, 1.0f / (float)(expert + 3), (float)(layer * D_MODEL + k) / 7.0f) * in;
}

static cox_status host_begin(void *context, const cox_work *work)
{
    job *j = context;
    CHECK(!j->work, "two computations at a time");
    CHECK(work->n_rows > 0 && work->route_offsets[work->n_rows] == work->n_routes, "%d rows", work->n_rows);
    if (work->layer == FAILING_LAYER && !j->fails_in_poll)
        return cox_fail(COX_BAD_FILE, "expert weights of layer 3 are gone");
    j->work = work;
    j->n_left = j->n_begun++ % 4;
    return COX_OK;
}

/* The last poll computes all of it. */
static cox_status host_poll(void *context, bool *is_done)
{
    job *j = context;
    const cox_work *work = j->work;
    const cox_expert_id *ids = NULL;
    CHECK(work, "polled, and nothing is under way");
    if (j->n_left-- > 0) return COX_OK;
    j->work = NULL;
    if (work->layer == FAILING_LAYER) return cox_fail(COX_BAD_FILE, "expert weights of layer 3 are gone");
    int32_t rank = cox_cluster_rank(j->cluster),
            n = cox_placement_local(j->placement, work->layer, rank, &ids);
    for (int32_t i = 0; i < work->n_rows; i++) {
        for (int32_t r = work->route_offsets[i]; r < work->route_offsets[i + 1]; r++) {
            CHECK(work->experts[r].value >= 0 && work->experts[r].value < n, "expert %d",
                  work->experts[r].value);
            CHECK(r == work->route_offsets[i] || work->experts[r - 1].value < work->experts[r].value,
                  "not ascending");
            for (int32_t k = 0; k < D_MODEL; k++) {
                work->replies[r * D_MODEL + k] =
                    output(work->layer, ids[work->experts[r].value].value, k, work->rows[i * D_MODEL + k]);
            }
        }
    }
    *is_done = true;
    return COX_OK;
}

static void draw_step(job *j, flight *f, int32_t round)
{
    static const int32_t sizes[] = {1, 0, MAX_ROWS, 2, 33};
    f->layer = (int32_t)draw(j, FAILING_LAYER);
    f->n_rows = round < 5 ? sizes[round] : (int32_t)draw(j, MAX_ROWS);
    for (int32_t i = 0; i < f->n_rows; i++) {
        int32_t first =
            round == 3 ? 0 : (int32_t)draw(j, N_EXPERTS); /* round 3: all rows to the same experts */
        for (int32_t t = 0; t < TOP_K; t++) {
            f->experts[i * TOP_K + t].value = (first + (round == 3 ? 4 : 5) * t) % N_EXPERTS;
        }
        for (int32_t k = 0; k < D_MODEL; k++) f->rows[i * D_MODEL + k] = (float)draw(j, 100000) / 977.0f;
    }
    cox_dispatch_plan_build(f->plan, j->placement, f->layer, f->experts, f->n_rows);
}

static void check_replies(const flight *f, const float *replies, const float *rows)
{
    for (int32_t r = 0; r < f->n_rows * TOP_K; r++) {
        float expected[D_MODEL];
        for (int32_t k = 0; k < D_MODEL; k++) {
            expected[k] = output(f->layer, f->experts[r].value, k, rows[r / TOP_K * D_MODEL + k]);
        }
        const float *got = replies + (size_t)f->plan->reply_index[r] * D_MODEL;
        CHECK(memcmp(got, expected, sizeof expected) == 0, "route %d of %d rows in layer %d", r, f->n_rows,
              f->layer);
    }
}

/* As many steps in flight as there are slots; then all come back, in another order. */
static void coordinate(job *j, cox_exchange *x, flight *flights, int32_t n_slots)
{
    static float rows[COX_MAX_SLOTS][MAX_ROWS * D_MODEL];
    uint64_t chunks = cox_heap_allocations(), calls = test_allocations();
    for (int32_t round = 0; round < N_ROUNDS; round++) {
        for (int32_t s = 0; s < n_slots; s++) {
            flight *f = &flights[s];
            draw_step(j, f, round);
            memcpy(rows[s], f->rows, sizeof rows[s]);
            CHECK_OK(cox_exchange_dispatch_begin(x, s, f->layer, f->plan, f->rows));
            memset(f->rows, 0x7f, sizeof f->rows);
        }
        for (int32_t s = 0; s < n_slots; s++) CHECK_OK(cox_exchange_dispatch_end(x, s));
        for (int32_t i = 0; i < n_slots; i++) {
            int32_t s = (i + round) % n_slots;
            const float *replies = NULL;
            CHECK_OK(cox_exchange_combine_begin(x, s));
            CHECK_OK(cox_exchange_combine_end(x, s, &replies));
            check_replies(&flights[s], replies, rows[s]);
        }
    }
    CHECK(cox_heap_allocations() == chunks, "an arena grew");
    CHECK(test_allocations() == calls, "%d calls of malloc in dispatch and combine",
          (int)(test_allocations() - calls));
}

/* A step into the layer that fails everywhere. */
static void fail_once(job *j, cox_exchange *x, flight *f)
{
    const float *replies = NULL;
    f->layer = FAILING_LAYER;
    f->n_rows = 1;
    for (int32_t t = 0; t < TOP_K; t++) f->experts[t].value = t;
    cox_dispatch_plan_build(f->plan, j->placement, f->layer, f->experts, 1);
    CHECK_OK(cox_exchange_dispatch_begin(x, 0, f->layer, f->plan, f->rows));
    cox_status own = cox_exchange_dispatch_end(x, 0), all = cox_exchange_combine_end(x, 0, &replies);
    CHECK(own == COX_BAD_FILE || all == COX_PEER, "statuses %d, %d", own, all);
    CHECK(strstr(cox_status_message(), "expert weights of layer 3 are gone"), "the text");
    CHECK(all != COX_PEER || strstr(cox_status_message(), "rank "), "the rank");
}

static cox_placement *place(const cox_cluster *c, int replicas)
{
    const int32_t *ranks = NULL;
    int32_t n = cox_cluster_expert_ranks(c, &ranks);
    cox_placement *p = NULL;
    if (!replicas) {
        CHECK_OK(cox_placement_round_robin(&p, N_LAYERS, NULL, N_EXPERTS, ranks, n));
        return p;
    }
    char text[4096];
    int at = snprintf(text, sizeof text, "{\"n_experts\": %d, \"layers\": {", N_EXPERTS);
    for (int layer = 0; layer < N_LAYERS;
         layer++) { /* expert e on the ranks e%n and 0; the last rank hosts little */
        at += snprintf(text + at, sizeof text - (size_t)at, "%s\"%d\": [", layer ? ", " : "", layer);
        for (int e = 0; e < N_EXPERTS; e++) {
            int first = ranks[0], second = ranks[(e + layer) % (n > 2 ? n - 1 : n)];
            at += first == second
                      ? snprintf(text + at, sizeof text - (size_t)at, "%s%d", e ? ", " : "", first)
                      : snprintf(text + at, sizeof text - (size_t)at, "%s[%d, %d]", e ? ", " : "", second,
                                 first);
        }
        at += snprintf(text + at, sizeof text - (size_t)at, "]");
    }
    at += snprintf(text + at, sizeof text - (size_t)at, "}}");
    CHECK_OK(cox_placement_parse(&p, text, (size_t)at, "test", N_LAYERS, NULL, N_EXPERTS, ranks, n));
    return p;
}

static void run(cox_exchange_kind kind, int32_t n_coordinators, bool on_all, int replicas, int32_t n_slots)
{
    cox_cluster_options cluster_options = cox_cluster_options_defaults();
    cluster_options.n_coordinators = n_coordinators;
    cluster_options.experts_on_all = on_all;
    job j = {.random = (uint32_t)(17 * n_slots + replicas), .fails_in_poll = n_slots % 2 == 0};
    CHECK_OK(cox__cluster_create_on(&j.cluster, &cluster_options, MPI_COMM_WORLD));
    j.placement = place(j.cluster, replicas);
    j.random += (uint32_t)cox_cluster_rank(j.cluster) * 7919u;
    cox_exchange_options options = {.kind = kind,
                                    .n_slots = n_slots,
                                    .max_rows = MAX_ROWS,
                                    .row_width = D_MODEL,
                                    .top_k = TOP_K,
                                    .placement = j.placement,
                                    .host = {&j, host_begin, host_poll}};
    cox_exchange *x = NULL;
    cox_arena *arena = NULL;
    CHECK_OK(cox_exchange_create(&x, j.cluster, &options));
    CHECK_OK(cox_arena_create(&arena, "test", 0));
    if (cox_cluster_is_coordinator(j.cluster)) {
        flight *flights = calloc(COX_MAX_SLOTS, sizeof *flights);
        for (int32_t s = 0; s < n_slots; s++) {
            CHECK_OK(cox_dispatch_plan_create(&flights[s].plan, arena, j.cluster, MAX_ROWS, TOP_K));
        }
        coordinate(&j, x, flights, n_slots);
        fail_once(&j, x, flights);
        coordinate(&j, x, flights, n_slots);
        CHECK_OK(cox_exchange_progress(x, 0.001));
        CHECK_OK(cox_exchange_finish(x, COX_OK));
        free(flights);
    }
    CHECK_OK(cox_exchange_serve(x));
    cox_exchange_destroy(x);
    cox_arena_destroy(arena);
    cox_placement_destroy(j.placement);
    cox_cluster_destroy(j.cluster);
}

int main(int argc, char **argv)
{
    static const cox_exchange_kind kinds[] = {COX_EXCHANGE_SPARSE, COX_EXCHANGE_ALLTOALL,
                                              COX_EXCHANGE_ALLTOALLV, COX_EXCHANGE_AUTO};
    MPI_Init(&argc, &argv);
    int size = 1, rank = 0, n_runs = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        for (int on_all = 0; on_all < 2; on_all++) {
            for (int32_t c = 1; c <= 2 && c <= size; c++) {
                if (!on_all && size > 1 && c == size) continue;
                for (int32_t slots = 1; slots <= COX_MAX_SLOTS; slots++) {
                    run(kinds[kind], c, on_all, slots % 2, slots);
                    n_runs++;
                }
            }
        }
    }
    if (rank == 0) printf("%d configurations on %d ranks\n", n_runs, size);
    CHECK(test_allocations() > 0, "the counter of allocations counts nothing");
    MPI_Finalize();
    return 0;
}
