/*
 * The exactness contract on whole models: one digest for every number of ranks, placement of the experts,
 * back-end, number of threads and coordinators, prefill chunk, company, micro-batches in flight, size of the
 * KV cache and exact kernel set. Started once with four ranks; loops over configurations on
 * sub-communicators. Every pair of factor levels is covered for every model; with COX_TEST_FULL=yes in the
 * environment the whole product of the contract's factors is. An argument restricts it to the folders that
 * contain it.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "tests/support/harness.h"

enum factor {
    RANKS,
    EXPERTS,
    EXCHANGE,
    THREADS,
    CHUNK,
    COMPANY,
    KERNELS,
    COORDINATORS,
    SLOTS,
    KV,
    N_FACTORS
};
static const int n_levels[N_FACTORS] = {4, 2, 3, 2, 3, 2, 3, 2, 3, 2};
static const char *const factor_names[N_FACTORS] = {"ranks",   "experts", "exchange",     "threads", "chunk",
                                                    "company", "kernels", "coordinators", "slots",   "kv"};
static const char *const level_names[N_FACTORS][4] = {
    {"1", "2", "3", "4"}, {"workers", "all"},     {"alltoall", "alltoallv", "sparse"}, {"1", "2"},
    {"1", "7", "512"},    {"alone", "16 others"}, {"reference", "avx2", "avx512"},     {"1", "2"},
    {"1", "2", "4"},      {"ample", "tight"}};
static const int chunks[3] = {1, 7, 512}, slots[3] = {1, 2, 4};
static const cox_exchange_kind exchanges[3] = {COX_EXCHANGE_ALLTOALL, COX_EXCHANGE_ALLTOALLV,
                                               COX_EXCHANGE_SPARSE};

enum { N_OTHERS = 16, N_GENERATED = 12 };
static int rank, n_failed, n_run;
static const char *kernel_sets[3];
static char skipped_kernels[256];

/* Sleeps until all ranks are here: ranks left out of a configuration must leave the cores to the others. */
static void barrier(void)
{
    MPI_Request request;
    int done = 0;
    for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
        usleep(300);
}

static cox_cluster *create_cluster(int n_ranks, const int *level, MPI_Comm *comm)
{
    cox_cluster *cluster = NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank < n_ranks ? 0 : MPI_UNDEFINED, rank, comm);
    if (*comm == MPI_COMM_NULL) return NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1 + level[THREADS];
    options.experts_on_all = n_ranks == 1 || level[EXPERTS] == 1;
    options.n_coordinators = 1 + level[COORDINATORS];
    if (options.n_coordinators > n_ranks - (options.experts_on_all ? 0 : 1)) options.n_coordinators = 1;
    if (cox__cluster_create_on(&cluster, &options, *comm) != COX_OK) {
        fprintf(stderr, "cluster: %s\n", cox_status_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return cluster;
}

/* Pseudo-random ids: other requests of many lengths, the second with the first tokens of the target. */
static void make_others(const golden *g, harness_request *requests, int32_t *ids)
{
    uint32_t state = 12345;
    for (int i = 0; i < N_OTHERS; i++) {
        int32_t n = 1 + (i * 7) % 40;
        for (int32_t t = 0; t < n; t++) {
            state = state * 1664525u + 1013904223u;
            ids[i * 64 + t] = (int32_t)((state >> 8) % (uint32_t)g->vocab_size);
        }
        if (i == 1)
            memcpy(ids + i * 64, g->prompt, (size_t)(g->n_prompt < n ? g->n_prompt : n) * sizeof *ids);
        requests[i] = (harness_request){.prompt = ids + i * 64,
                                        .n_prompt = n,
                                        .max_tokens = 1 + i % 9,
                                        .ignore_eos = true,
                                        .sampling = cox_sampling_defaults()};
    }
}

/* Runs the target, alone or between others, on this coordinator. [out] digest [65]. */
static bool run_target(harness *h, const golden *g, bool has_company, char *digest)
{
    static int32_t ids[N_OTHERS * 64];
    harness_request requests[N_OTHERS + 1];
    harness_result results[N_OTHERS + 1];
    int n = has_company ? N_OTHERS + 1 : 1, target = has_company ? 5 : 0;
    if (has_company) {
        make_others(g, requests, ids);
        requests[N_OTHERS] = requests[target];
    }
    requests[target] = (harness_request){.prompt = g->prompt,
                                         .n_prompt = g->n_prompt,
                                         .max_tokens = N_GENERATED,
                                         .ignore_eos = true,
                                         .sampling = cox_sampling_defaults()};
    if (harness_run(h, requests, n, results) != COX_OK) {
        printf("%s: %s\n", g->folder, cox_status_message());
        return false;
    }
    memcpy(digest, results[target].digest, 65);
    bool has_tokens = results[target].n_tokens == N_GENERATED &&
                      memcmp(results[target].tokens, g->greedy, N_GENERATED * sizeof(int32_t)) == 0;
    for (int i = 0; i < n; i++) harness_result_free(&results[i]);
    if (!has_tokens) printf("%s: not the recorded tokens\n", g->folder);
    return has_tokens;
}

static void run_config(const golden *g, const int *level, const char *expected, char *digest)
{
    int n_ranks = 1 + level[RANKS];
    MPI_Comm comm;
    cox_cluster *cluster = create_cluster(n_ranks, level, &comm);
    bool is_good = true;
    if (cluster) {
        harness_config config = harness_config_defaults(g->model);
        config.kernels = kernel_sets[level[KERNELS]];
        config.exchange = n_ranks == 1 ? COX_EXCHANGE_SELF : exchanges[level[EXCHANGE]];
        config.engine.prefill_chunk = chunks[level[CHUNK]];
        config.engine.n_slots = slots[level[SLOTS]];
        config.engine.kv_bytes = level[KV] ? 4 * harness_page_bytes(g->model) : 0; /* tight: others wait */
        harness *h = NULL;
        is_good = harness_open(&h, cluster, &config) == COX_OK;
        if (!is_good) printf("%s: %s\n", g->folder, cox_status_message());
        if (is_good && cox_cluster_is_coordinator(cluster)) {
            char mine[65];
            is_good = run_target(h, g, level[COMPANY], mine) && (!expected || strcmp(mine, expected) == 0);
            if (digest) memcpy(digest, mine, 65);
            is_good = harness_finish(h) == COX_OK && is_good;
        } else if (is_good) {
            is_good = harness_serve(h) == COX_OK;
        }
        harness_close(h);
        cox_cluster_destroy(cluster);
        MPI_Comm_free(&comm);
    }
    barrier();
    int bad = !is_good, any = 0;
    MPI_Allreduce(&bad, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    n_failed += any;
    n_run++;
    if (rank == 0 && any) {
        printf("FAILED %s:", g->folder);
        for (int f = 0; f < N_FACTORS; f++) printf(" %s=%s", factor_names[f], level_names[f][level[f]]);
        printf("\n");
    }
}

/* Levels that mean the same on one rank are run once. */
static bool is_duplicate(const int *level)
{
    bool is_single = level[RANKS] == 0;
    return (is_single && (level[EXPERTS] || level[EXCHANGE] || level[COORDINATORS])) ||
           !kernel_sets[level[KERNELS]];
}

/* The whole product of the factors that the contract names (those before COORDINATORS); the others take
 * turns. */
static void run_full(const golden *g, const char *expected)
{
    int level[N_FACTORS] = {0};
    for (uint32_t turn = 0;; turn++) {
        for (int f = COORDINATORS; f < N_FACTORS; f++) {
            level[f] = (int)((turn * 2654435761u >> (8 + 5 * (f - COORDINATORS))) % (uint32_t)n_levels[f]);
        }
        if (level[RANKS] == 0) level[COORDINATORS] = 0;
        if (!is_duplicate(level)) run_config(g, level, expected, NULL);
        int f = 0;
        while (f < COORDINATORS && ++level[f] == n_levels[f]) level[f++] = 0;
        if (f == COORDINATORS) return;
    }
}

/* Pairs of levels not covered yet by the configurations so far; one bit a pair, [N_FACTORS][4][N_FACTORS][4].
 */
static bool covered[N_FACTORS][4][N_FACTORS][4];

static int n_new_pairs(const int *level, bool mark)
{
    int n = 0;
    for (int a = 0; a < N_FACTORS; a++) {
        for (int b = a + 1; b < N_FACTORS; b++) {
            n += !covered[a][level[a]][b][level[b]];
            if (mark) covered[a][level[a]][b][level[b]] = true;
        }
    }
    return n;
}

/* What chance has left out: four ranks, the pair, and the first level of all else. */
static void run_missed_pairs(const golden *g, const char *expected)
{
    for (int a = 0; a < N_FACTORS; a++) {
        for (int b = a + 1; b < N_FACTORS; b++) {
            for (int pair = 0; pair < n_levels[a] * n_levels[b]; pair++) {
                int level[N_FACTORS] = {[RANKS] = 3};
                level[a] = pair / n_levels[b], level[b] = pair % n_levels[b];
                if (covered[a][level[a]][b][level[b]] || is_duplicate(level)) continue;
                n_new_pairs(level, true);
                run_config(g, level, expected, NULL);
            }
        }
    }
}

/* Greedy covering of all pairs: of 200 random configurations the one with most new pairs, until none has any.
 */
static void run_pairs(const golden *g, const char *expected)
{
    memset(covered, 0, sizeof covered);
    uint32_t state = 7;
    for (int dry = 0; dry < 3;) {
        int best[N_FACTORS] = {0}, n_best = 0;
        for (int t = 0; t < 200; t++) {
            int level[N_FACTORS];
            for (int f = 0; f < N_FACTORS; f++) {
                state = state * 1664525u + 1013904223u;
                level[f] = (int)((state >> 16) % (uint32_t)n_levels[f]);
            }
            int n = is_duplicate(level) ? 0 : n_new_pairs(level, false);
            if (n > n_best) n_best = n, memcpy(best, level, sizeof best);
        }
        dry = n_best ? 0 : dry + 1;
        if (n_best) n_new_pairs(best, true), run_config(g, best, expected, NULL);
    }
    run_missed_pairs(g, expected);
}

static void choose_kernels(void)
{
    static const char *const names[3][2] = {{"reference", NULL}, {"avx2", NULL}, {"avx512", "avx512-simde"}};
    for (int i = 0; i < 3; i++) {
        const cox_kernels *found;
        for (int t = 0; t < 2 && names[i][t] && !kernel_sets[i]; t++) {
            if (cox_kernels_select(&found, names[i][t]) == COX_OK) kernel_sets[i] = names[i][t];
        }
        if (!kernel_sets[i]) strcat(strcat(skipped_kernels, " "), names[i][0]);
    }
}

int main(int argc, char **argv)
{
    const char *full = getenv("COX_TEST_FULL"), *only = argc > 1 ? argv[1] : NULL;
    bool is_full = full && strcmp(full, "yes") == 0;
    int provided, size;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 4) {
        if (rank == 0) fprintf(stderr, "digest_models needs 4 ranks, not %d\n", size);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    choose_kernels();
    if (rank == 0 && skipped_kernels[0])
        printf("skip: kernel sets that this CPU or build lacks:%s\n", skipped_kernels);
    char **folders = golden_list();
    for (char **folder = folders; *folder; folder++) {
        if (only && !strstr(*folder, only)) continue;
        golden *g = golden_load(*folder);
        char expected[65] = "";
        int before = n_run;
        run_config(g, (const int[N_FACTORS]){0}, NULL, expected);
        MPI_Bcast(expected, sizeof expected, MPI_CHAR, 0, MPI_COMM_WORLD);
        if (is_full) {
            run_full(g, expected);
        } else {
            run_pairs(g, expected);
        }
        if (rank == 0) printf("%s: %d configurations, digest %.16s\n", *folder, n_run - before, expected);
        fflush(stdout);
        golden_free(g);
    }
    golden_list_free(folders);
    if (rank == 0) printf("%d configurations, %d failed\n", n_run, n_failed);
    MPI_Finalize();
    return n_failed || n_run == 0 ? 1 : 0;
}
