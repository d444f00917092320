/*
 * Counterfactual outputs of experts have the same bits on one, two and four ranks, with every back-end,
 * placement, number of coordinators and micro-batches; each is shown once. Started once with four ranks.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "tests/support/harness.h"

typedef struct config {
    int n_ranks, n_coordinators, n_slots, chunk;
    bool experts_on_all;
    cox_exchange_kind exchange;
} config;
static const config configs[] = {
    {1, 1, 1, 512, true, COX_EXCHANGE_SELF},      {1, 1, 4, 5, true, COX_EXCHANGE_SELF},
    {2, 1, 1, 512, false, COX_EXCHANGE_SPARSE},   {2, 1, 2, 512, true, COX_EXCHANGE_ALLTOALL},
    {2, 2, 2, 512, true, COX_EXCHANGE_ALLTOALLV}, {4, 1, 1, 7, false, COX_EXCHANGE_ALLTOALL},
    {4, 1, 4, 512, true, COX_EXCHANGE_SPARSE},    {4, 2, 2, 512, false, COX_EXCHANGE_SPARSE},
    {4, 2, 4, 512, true, COX_EXCHANGE_ALLTOALL},  {4, 4, 2, 512, true, COX_EXCHANGE_ALLTOALLV},
};
enum { N_CONFIGS = sizeof configs / sizeof *configs, N_COPIES = 3, MAX_ROWS = 40 };

static int rank, n_failed;

/* Outputs of one run: of N_COPIES equal prompts. */
typedef struct table {
    int32_t n_experts, d_model, n_prompt, n_shown;
    size_t n_floats; /* of one copy */
    float *rows;     /* [N_COPIES, n_layers, n_prompt, n_experts, d_model] */
} table;

static void keep(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert, int32_t position,
                 const float *h)
{
    table *t = context;
    size_t row =
        ((size_t)layer * (size_t)t->n_prompt + (size_t)position) * (size_t)t->n_experts + (size_t)expert;
    if (site != COX_SITE_EXPERT_OUT) abort();
    memcpy(t->rows + (size_t)id * t->n_floats + row * (size_t)t->d_model, h, (size_t)t->d_model * sizeof *h);
    t->n_shown++;
}

/* Sleeps until all ranks are here: ranks left out must leave the cores to the others. */
static void barrier(void)
{
    MPI_Request request;
    int done = 0;
    for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
        usleep(300);
}

static bool observe(harness *h, table *t, const golden *g)
{
    static const uint8_t sites[64] = {[0 ... 63] = 1 << COX_SITE_EXPERT_OUT};
    static const cox_observation observation = {
        .sites = sites, .positions = {.span = COX_SPAN_PROMPT}, .is_counterfactual = true};
    harness_result results[N_COPIES];
    const cox_model *model = harness_model(h);
    int32_t n_moe = 0;
    for (int32_t l = 0; l < model->n_layers; l++) n_moe += model->layers[l].is_moe;
    harness_expect(h, results);
    memset(results, 0, sizeof results);
    for (uint64_t i = 0; i < N_COPIES; i++) {
        const cox_sequence_request request = {.id = i,
                                              .prompt = g->prompt,
                                              .n_prompt = g->n_prompt,
                                              .sampling = cox_sampling_defaults(),
                                              .observation = &observation};
        if (cox_engine_submit(harness_engine(h), &request) != COX_OK) return false;
    }
    while (cox_engine_n_sequences(harness_engine(h))) {
        if (cox_engine_step(harness_engine(h)) != COX_OK) return false;
    }
    for (size_t i = 1; i < N_COPIES; i++) {
        if (memcmp(t->rows, t->rows + i * t->n_floats, t->n_floats * sizeof *t->rows) != 0) return false;
    }
    return t->n_shown == N_COPIES * n_moe * g->n_prompt * t->n_experts;
}

/* On the ranks of the configuration. first: outputs on one rank, or NULL to make them. */
static bool run(const golden *g, const config *c, MPI_Comm comm, float **first)
{
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1;
    options.experts_on_all = c->experts_on_all;
    options.n_coordinators = c->n_coordinators;
    cox_cluster *cluster = NULL;
    harness *h = NULL;
    table t = {.n_prompt = g->n_prompt};
    harness_config setup = harness_config_defaults(g->model);
    setup.exchange = c->exchange;
    setup.engine.prefill_chunk = c->chunk;
    setup.engine.n_slots = c->n_slots;
    setup.on_rows = keep;
    setup.rows_context = &t;
    if (cox__cluster_create_on(&cluster, &options, comm) != COX_OK) return false;
    bool is_good = harness_open(&h, cluster, &setup) == COX_OK;
    if (is_good && cox_cluster_is_coordinator(cluster)) {
        t.n_experts = harness_model(h)->router.n_experts, t.d_model = harness_model(h)->d_model;
        t.n_floats = (size_t)(harness_model(h)->n_layers * t.n_prompt * t.n_experts) * (size_t)t.d_model;
        t.rows = calloc(N_COPIES * t.n_floats, sizeof *t.rows);
        is_good = observe(h, &t, g);
        is_good = harness_finish(h) == COX_OK && is_good;
        if (is_good && rank == 0 && *first)
            is_good = memcmp(*first, t.rows, t.n_floats * sizeof *t.rows) == 0;
        if (rank == 0 && !*first) {
            *first = t.rows;
            t.rows = NULL;
        }
        free(t.rows);
    } else if (is_good) {
        is_good = harness_serve(h) == COX_OK;
    }
    if (!is_good) printf("rank %d: %s: %s\n", rank, g->folder, cox_status_message());
    harness_close(h);
    cox_cluster_destroy(cluster);
    return is_good;
}

int main(int argc, char **argv)
{
    int provided, n_run = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    char **folders = golden_list();
    for (char **folder = folders; *folder; folder++) {
        golden *g = golden_load(*folder);
        float *first = NULL;
        if (g->n_prompt > MAX_ROWS) g->n_prompt = MAX_ROWS;
        for (int i = 0; i < N_CONFIGS; i++) {
            if (i > 0 && (i + (folder - folders)) % 3 != 0) continue; /* configurations take turns */
            n_run++;
            MPI_Comm comm;
            MPI_Comm_split(MPI_COMM_WORLD, rank < configs[i].n_ranks ? 0 : MPI_UNDEFINED, rank, &comm);
            int bad = comm != MPI_COMM_NULL && !run(g, &configs[i], comm, &first), any = 0;
            if (comm != MPI_COMM_NULL) MPI_Comm_free(&comm);
            barrier();
            MPI_Allreduce(&bad, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
            n_failed += any;
            if (any && rank == 0) printf("FAILED %s, configuration %d\n", *folder, i);
        }
        free(first);
        golden_free(g);
    }
    golden_list_free(folders);
    if (rank == 0) printf("%d models and configurations, %d failed\n", n_run, n_failed);
    MPI_Finalize();
    return n_failed || n_run == 0 ? 1 : 0;
}
