/*
 * The step takes nothing from the heap, on coordinators and on experts' ranks: every back-end, one and two
 * coordinators, with threads, several micro-batches and a KV cache so tight that sequences are computed
 * again; greedy, and sampled by every edit there is, with log probabilities. Counted are the arenas and all
 * calls of our own objects (tests/support/allocations.h): on a coordinator from the last request submitted to
 * the last step, on the others all the while they serve. Started once with four ranks.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "cluster/internal.h"
#include "tests/support/allocations.h"
#include "tests/support/harness.h"

typedef struct config {
    int n_ranks, n_coordinators, n_threads, n_slots;
    bool experts_on_all, is_tight;
    cox_exchange_kind exchange;
} config;
static const config configs[] = {
    {1, 1, 1, 1, true, false, COX_EXCHANGE_SELF},      {3, 1, 1, 1, false, false, COX_EXCHANGE_ALLTOALL},
    {3, 1, 1, 1, false, false, COX_EXCHANGE_SPARSE},   {3, 1, 2, 2, true, true, COX_EXCHANGE_ALLTOALL},
    {3, 1, 2, 4, true, true, COX_EXCHANGE_SPARSE},     {3, 1, 1, 2, false, true, COX_EXCHANGE_ALLTOALLV},
    {3, 2, 1, 2, false, false, COX_EXCHANGE_SPARSE},   {3, 2, 1, 1, true, true, COX_EXCHANGE_ALLTOALL},
    {4, 2, 1, 2, false, false, COX_EXCHANGE_ALLTOALL}, {4, 2, 2, 2, true, true, COX_EXCHANGE_SPARSE},
};
enum { N_CONFIGS = sizeof configs / sizeof *configs, N_REQUESTS = 7, N_GENERATED = 40, TIGHT_PAGES = 4 };
static const char *const folders[] = {"tests/golden/models/qwen3_moe-dense-bf16",
                                      "tests/golden/models/gpt_oss-mxfp4"};

static int rank, n_failed;

typedef struct count {
    uint64_t arenas, heap;
} count;

static count count_now(void)
{
    return (count){.arenas = cox_heap_allocations(), .heap = test_allocations()};
}

/* Says how many there were since `before` but for `n_own` of the test's. */
static bool is_none_since(count before, uint64_t n_own, const char *where)
{
    count now = count_now();
    now.arenas -= before.arenas;
    now.heap -= before.heap + n_own;
    if (now.arenas == 0 && now.heap == 0) return true;
    printf("rank %d, %s: %llu chunks of arenas and %llu other allocations\n", rank, where,
           (unsigned long long)now.arenas, (unsigned long long)now.heap);
    return false;
}

/* Each edit alone, then all together; the first is greedy. */
static cox_sampling sampling_of(int i)
{
    cox_sampling s = cox_sampling_defaults();
    if (i == 0) return s;
    s.temperature = 0.9F;
    s.seed = (uint64_t)i;
    if (i == 1 || i == 6) s.top_k = 9;
    if (i == 2 || i == 6) s.top_p = 0.8F;
    if (i == 3 || i == 6) s.min_p = 0.05F;
    if (i == 4 || i == 6) s.repetition_penalty = 1.3F;
    if (i >= 5) s.n_logprobs = COX_MAX_LOGPROBS;
    return s;
}

static bool submit(harness *h, const golden *g)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        const cox_sequence_request request = {.id = (uint64_t)i,
                                              .prompt = g->prompt,
                                              .n_prompt = g->n_prompt - i,
                                              .max_tokens = N_GENERATED,
                                              .sampling = sampling_of(i),
                                              .ignore_eos = true,
                                              .wants_digest = true,
                                              .wants_logits = i % 2 == 0};
        if (cox_engine_submit(harness_engine(h), &request) != COX_OK) return false;
    }
    return true;
}

/* On a coordinator: all requests to their ends. */
static bool coordinate(harness *h, const golden *g, bool is_tight)
{
    harness_result results[N_REQUESTS];
    uint64_t n_once = 0; /* rows when each is computed once */
    for (int i = 0; i < N_REQUESTS; i++) {
        size_t n_rows = (size_t)(g->n_prompt + N_GENERATED);
        n_once += (uint64_t)(g->n_prompt - i + N_GENERATED - 1);
        results[i] = (harness_result){.tokens = calloc(N_GENERATED + 1, sizeof(int32_t)),
                                      .logits = calloc(n_rows * (size_t)g->vocab_size, sizeof(float))};
    }
    harness_expect(h, results);
    bool is_good = submit(h, g);
    count before = count_now();
    while (is_good && cox_engine_n_sequences(harness_engine(h)))
        is_good = cox_engine_step(harness_engine(h)) == COX_OK;
    if (!is_good) printf("rank %d: %s\n", rank, cox_status_message());
    is_good = is_none_since(before, 0, "steps") && is_good;
    uint64_t n_rows = cox_engine_counters(harness_engine(h))->rows_computed;
    if (is_tight && n_rows <= n_once) {
        printf("rank %d: %llu rows, none of them again: the KV cache is not tight\n", rank,
               (unsigned long long)n_rows);
        is_good = false;
    }
    for (int i = 0; i < N_REQUESTS; i++) {
        is_good = is_good && results[i].n_tokens == N_GENERATED;
        harness_result_free(&results[i]);
    }
    return harness_finish(h) == COX_OK && is_good;
}

static bool serve(harness *h)
{
    count before = count_now();
    bool is_good = harness_serve(h) == COX_OK;
    return is_none_since(before, 0, "serving") && is_good;
}

static bool counting_works(void)
{
    count before = count_now();
    void *volatile memory = malloc(1);
    free(memory);
    return is_none_since(before, 1, "one malloc");
}

static bool run(const golden *g, const config *c, MPI_Comm comm)
{
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = c->n_threads;
    options.experts_on_all = c->experts_on_all;
    options.n_coordinators = c->n_coordinators;
    cox_cluster *cluster = NULL;
    harness *h = NULL;
    harness_config setup = harness_config_defaults(g->model);
    setup.exchange = c->exchange;
    setup.engine.prefill_chunk = 5;
    setup.engine.n_slots = c->n_slots;
    setup.engine.kv_bytes = c->is_tight ? TIGHT_PAGES * harness_page_bytes(g->model) : 0;
    if (cox__cluster_create_on(&cluster, &options, comm) != COX_OK) return false;
    bool is_good = counting_works() && harness_open(&h, cluster, &setup) == COX_OK;
    if (is_good) is_good = cox_cluster_is_coordinator(cluster) ? coordinate(h, g, c->is_tight) : serve(h);
    harness_close(h);
    cox_cluster_destroy(cluster);
    return is_good;
}

/* Sleeps until all ranks are here: ranks left out must leave the cores to the others. */
static void barrier(void)
{
    MPI_Request request;
    int done = 0;
    for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
        usleep(300);
}

int main(int argc, char **argv)
{
    int provided, n_run = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        golden *g = golden_load(folders[f]);
        for (int i = 0; i < N_CONFIGS; i++) {
            const config *c = &configs[i];
            MPI_Comm comm;
            MPI_Comm_split(MPI_COMM_WORLD, rank < c->n_ranks ? 0 : MPI_UNDEFINED, rank, &comm);
            int is_good = comm == MPI_COMM_NULL || run(g, c, comm);
            if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
            barrier();
            MPI_Allreduce(MPI_IN_PLACE, &is_good, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
            n_run++;
            if (is_good) continue;
            n_failed++;
            if (rank == 0) printf("%s, configuration %d: failed\n", folders[f], i);
        }
        golden_free(g);
    }
    if (rank == 0) printf("%d configurations, %d failed\n", n_run, n_failed);
    MPI_Finalize();
    return n_failed || n_run == 0 ? 1 : 0;
}
