/*
 * A batch in which every request has a plan of its own: 256 requests with 256 different plans give, bit for
 * bit, the digests and hits that each gives alone, on 1 to 4 ranks, over every back-end, with experts on
 * workers or on all ranks, for one and two coordinators. And its other half: a plan changes no bit of a batch
 * mate without one, and a plan of strength 0 or without interventions changes no bit at all. And a third: of
 * 64 requests 32 are cancelled at random moments, and nothing of the others changes, nor is anything of the
 * cancelled ones left. Started once with four ranks; loops over configurations on sub-communicators. With
 * COX_TEST_FULL=yes in the environment for every recorded model, and with each of the factors that otherwise
 * take turns.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "coordinator/internal.h"
#include "coordinator/kv_internal.h"
#include "tests/support/harness.h"
#include "tests/support/mixed_plans.h"

enum { N_REQUESTS = 256, MAX_PROMPT = 64, SHARED = 40, N_VARIANTS = 4 };

/* What a request gives alone on one rank. */
typedef struct expected {
    char steered[65], clean[65];
    uint64_t hits; /* over all fields of all hits */
    int32_t n_touched;
} expected;

typedef struct config {
    int n_ranks, n_coordinators;
    bool experts_on_all;
    cox_exchange_kind exchange;
    int variant; /* of the factors below */
} config;

static const struct {
    int n_slots, n_threads, chunk;
    bool has_prefix_cache, is_tight; /* tight: some wait, some are computed again */
} variants[N_VARIANTS] = {
    {1, 1, 512, false, false}, {2, 2, 7, true, false}, {4, 1, 512, false, true}, {1, 2, 33, true, true}};

static char plan_folder[64];
static int rank, n_failed, n_run;
static int32_t prompts[N_REQUESTS][MAX_PROMPT];

/* Sleeps until all ranks are here: ranks left out of a configuration must leave the cores to the others. */
static void barrier(void)
{
    MPI_Request request;
    int done = 0;
    for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
        usleep(300);
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, cox_status_message());
    MPI_Abort(MPI_COMM_WORLD, 1);
    abort();
}

/* --- Requests --- */

static void make_prompts(int32_t vocab_size)
{
    uint32_t state = 4711;
    for (int i = 0; i < N_REQUESTS; i++) {
        for (int t = 0; t < MAX_PROMPT; t++) {
            state = state * 1664525u + 1013904223u;
            prompts[i][t] = (int32_t)((state >> 8) % (uint32_t)vocab_size);
        }
        if (i % 4 == 1) memcpy(prompts[i], prompts[0], SHARED * sizeof(int32_t)); /* for the prefix cache */
    }
}

static harness_request request_of(int i, cox_plan *plan)
{
    harness_request request = {.prompt = prompts[i],
                               .n_prompt = i % 4 == 1 ? SHARED + 1 + i % 9 : 1 + i * 5 % 23,
                               .max_tokens = 1 + i % 5,
                               .ignore_eos = true,
                               .sampling = cox_sampling_defaults(),
                               .plan = plan};
    if (i % 3 == 0) request.sampling.temperature = 0.8f, request.sampling.seed = (uint64_t)i;
    return request;
}

static cox_plan *plan_of(const harness *h, int i, double strength)
{
    cox_plan *plan = NULL;
    if (mixed_plans_make(&plan, plan_folder, harness_model(h), i, strength) != COX_OK) die("plan");
    return plan;
}

static cox_plan *empty_plan(const harness *h)
{
    cox_plan *plan = NULL;
    json_t *json = json_pack("{s:[]}", "interventions");
    if (cox_plan_from_json(&plan, json, "plan", ".", harness_model(h), NULL, false) != COX_OK) die("plan");
    json_decref(json);
    return plan;
}

/* --- The reference: each alone --- */

static void run_alone(harness *h, int i, cox_plan *plan, char *digest, uint64_t *hits, int32_t *n_touched)
{
    harness_request request = request_of(i, plan);
    harness_result result;
    if (harness_run(h, &request, 1, &result) != COX_OK) die("alone");
    memcpy(digest, result.digest, sizeof result.digest);
    if (hits) *hits = harness_hash_hits(&result, n_touched);
    harness_result_free(&result);
}

static void run_all_alone(harness *h, expected *wanted)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        expected *e = &wanted[i];
        run_alone(h, i, plan_of(h, i, 1), e->steered, &e->hits, &e->n_touched);
        run_alone(h, i, NULL, e->clean, NULL, NULL);
    }
}

/* --- In company --- */

/* Request i of a coordinator's share, whose last result is `result`, should have come out as `digest`. */
static bool is_equal(const char *what, int i, const harness_result *result, const char *digest)
{
    if (strcmp(result->digest, digest) == 0) return true;
    printf("rank %d: %s: request %d: digest %.16s, alone %.16s\n", rank, what, i, result->digest, digest);
    return false;
}

/* This coordinator's requests of the 256, each with its plan. */
static bool check_steered(harness *h, const config *c, const expected *wanted)
{
    static harness_request requests[N_REQUESTS];
    static harness_result results[N_REQUESTS];
    int n = 0, share[N_REQUESTS];
    for (int i = 0; i < N_REQUESTS; i++) {
        if (i % c->n_coordinators == rank) share[n] = i, requests[n++] = request_of(i, plan_of(h, i, 1));
    }
    if (harness_run(h, requests, n, results) != COX_OK) die("a batch with plans");
    bool is_good = true;
    for (int k = 0; k < n; k++) {
        const expected *e = &wanted[share[k]];
        int32_t n_touched;
        bool has_hits = harness_hash_hits(&results[k], &n_touched) == e->hits;
        if (!has_hits) {
            printf("rank %d: request %d: %d hits, alone %d, or others\n", rank, share[k], n_touched,
                   e->n_touched);
            is_good = false;
        }
        is_good = is_equal("with its plan", share[k], &results[k], e->steered) && is_good;
        harness_result_free(&results[k]);
    }
    return is_good;
}

/* Every fourth request with its plan; of the others some have a plan that does nothing. */
static bool check_mates(harness *h, const expected *wanted)
{
    enum { N = 48 };
    harness_request requests[N];
    harness_result results[N];
    for (int k = 0; k < N; k++) {
        int i = k * 5 + rank;
        cox_plan *plan = k % 4 == 0    ? plan_of(h, i, 1)
                         : k % 16 == 1 ? empty_plan(h)
                         : k % 4 == 1  ? plan_of(h, i, 0)
                                       : NULL;
        requests[k] = request_of(i, plan);
    }
    if (harness_run(h, requests, N, results) != COX_OK) die("a mixed batch");
    bool is_good = true;
    for (int k = 0; k < N; k++) {
        int i = k * 5 + rank;
        const char *what = k % 4 == 0 ? "beside unsteered ones" : k % 4 == 1 ? "strength 0" : "unsteered";
        is_good = is_equal(what, i, &results[k], k % 4 ? wanted[i].clean : wanted[i].steered) && is_good;
        if (k % 4 && results[k].n_hits) {
            printf("rank %d: request %d: hits of a plan that does nothing\n", rank, i);
            is_good = false;
        }
        harness_result_free(&results[k]);
    }
    return is_good;
}

/* The step before which request k of the 64 is cancelled; -1: never. */
static int moment_of(int k, uint32_t seed)
{
    uint32_t state = (seed + (uint32_t)k) * 2654435761u;
    state = state * 1664525u + 1013904223u;
    return k % 2 ? (int)((state >> 8) % 6) : -1;
}

/* All pages and plans are back. */
static bool is_empty(harness *h)
{
    const cox_engine *engine = harness_engine(h);
    int32_t n_free = cox_kv_n_free_pages(engine->kv), n_pages = engine->kv_shape.n_pages, n_filling = 0,
            n_plans = 0;
    for (int32_t r = 0; r < engine->kv_shape.n_residuals; r++)
        n_filling += engine->kv->residuals[r].is_filling;
    for (const cox__steering *s = engine->steerings; s; s = s->next) n_plans++;
    if (n_free == n_pages && n_filling == 0 && n_plans == 0) return true;
    printf("rank %d: after cancelling %d of %d pages are free, %d of residual rows are held, %d plans are in "
           "use\n",
           rank, n_free, n_pages, n_filling, n_plans);
    return false;
}

static bool check_cancelled(harness *h, const expected *wanted, uint32_t seed)
{
    enum { N = 64 };
    harness_request requests[N];
    harness_result results[N];
    int n_cancelled = 0;
    bool is_good = true;
    for (int k = 0; k < N; k++)
        requests[k] = request_of(k * 3 + rank, k % 3 ? plan_of(h, k * 3 + rank, 1) : NULL);
    if (harness_submit(h, requests, N, results) != COX_OK) die("a batch");
    for (int k = 0; k < N; k++) results[k].finish = COX_FINISH_ERROR;
    for (int step = 0; cox_engine_n_sequences(harness_engine(h)) > 0; step++) {
        for (int k = 0; k < N; k++) {
            if (moment_of(k, seed) == step) cox_engine_cancel(harness_engine(h), (uint64_t)k);
        }
        if (cox_engine_step(harness_engine(h)) != COX_OK) die("a step");
        for (int k = 0; k < N; k++) { /* ended in this step, if it had not before */
            if (moment_of(k, seed) == step && results[k].finish == COX_FINISH_ERROR) is_good = false;
        }
    }
    for (int k = 0; k < N; k++) {
        bool is_cut = results[k].finish == COX_FINISH_CANCELLED;
        const expected *e = &wanted[k * 3 + rank];
        n_cancelled += is_cut;
        if (is_cut && moment_of(k, seed) < 0) is_good = false;
        if (!is_cut)
            is_good =
                is_equal("beside cancelled ones", k, &results[k], k % 3 ? e->steered : e->clean) && is_good;
        harness_result_free(&results[k]);
    }
    if (n_cancelled < N / 8) printf("rank %d: only %d were cancelled\n", rank, n_cancelled), is_good = false;
    return is_empty(h) && is_good;
}

/* --- Configurations --- */

static cox_cluster *create_cluster(const config *c, MPI_Comm *comm)
{
    cox_cluster *cluster = NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank < c->n_ranks ? 0 : MPI_UNDEFINED, rank, comm);
    if (*comm == MPI_COMM_NULL) return NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = variants[c->variant].n_threads;
    options.experts_on_all = c->experts_on_all;
    options.n_coordinators = c->n_coordinators;
    if (cox__cluster_create_on(&cluster, &options, *comm) != COX_OK) die("cluster");
    return cluster;
}

/* is_reference: fills wanted instead of comparing with it. */
static void run_config(const char *folder, const config *c, bool is_reference, expected *wanted)
{
    MPI_Comm comm;
    cox_cluster *cluster = create_cluster(c, &comm);
    bool is_good = true;
    if (cluster) {
        harness_config options = harness_config_defaults(folder);
        options.exchange = c->exchange;
        options.engine.n_slots = variants[c->variant].n_slots;
        options.engine.prefill_chunk = variants[c->variant].chunk;
        options.engine.has_prefix_cache = variants[c->variant].has_prefix_cache;
        if (variants[c->variant].is_tight) options.engine.kv_bytes = 40 * harness_page_bytes(folder);
        harness *h = NULL;
        if (harness_open(&h, cluster, &options) != COX_OK) die(folder);
        if (cox_cluster_is_coordinator(cluster)) {
            if (is_reference) {
                run_all_alone(h, wanted);
            } else {
                is_good = check_steered(h, c, wanted);
                is_good = check_mates(h, wanted) && is_good;
                is_good = check_cancelled(h, wanted, (uint32_t)n_run) && is_good;
            }
            if (harness_finish(h) != COX_OK) die("the end");
        } else if (harness_serve(h) != COX_OK) {
            die("serving");
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
        printf("FAILED %s: %d ranks, experts on %s, %s, %d coordinators, variant %d\n", folder, c->n_ranks,
               c->experts_on_all ? "all" : "workers", cox_exchange_kind_name(c->exchange), c->n_coordinators,
               c->variant);
    }
    fflush(stdout);
}

static void run_model(const char *folder, bool is_full)
{
    static const cox_exchange_kind kinds[] = {COX_EXCHANGE_ALLTOALL, COX_EXCHANGE_ALLTOALLV,
                                              COX_EXCHANGE_SPARSE};
    static expected wanted[N_REQUESTS];
    config c = {.n_ranks = 1, .n_coordinators = 1, .experts_on_all = true, .exchange = COX_EXCHANGE_SELF};
    int turn = 0, before = n_run;
    run_config(folder, &c, true, wanted);
    MPI_Bcast(wanted, sizeof wanted, MPI_BYTE, 0, MPI_COMM_WORLD);
    for (c.variant = 0; c.variant < N_VARIANTS; c.variant++) {
        c.exchange = COX_EXCHANGE_SELF;
        run_config(folder, &c, false, wanted);
        c.exchange = kinds[c.variant % 3]; /* MPI's back-ends, with nobody else to talk to */
        run_config(folder, &c, false, wanted);
    }
    for (c.n_ranks = 2; c.n_ranks <= 4; c.n_ranks++) {
        for (int level = 0; level < 12; level++) {
            if (c.n_ranks == 3 && level % 4 != 1 && !is_full) continue; /* each back-end once */
            c.exchange = kinds[level % 3];
            c.experts_on_all = level / 3 % 2;
            c.n_coordinators = 1 + level / 6;
            if (c.n_ranks == 2 && !c.experts_on_all && c.n_coordinators == 2)
                continue; /* no rank for experts */
            for (int v = 0; v < (is_full ? N_VARIANTS : 1); v++) {
                c.variant = is_full ? v : turn++ % N_VARIANTS;
                run_config(folder, &c, false, wanted);
            }
        }
    }
    c = (config){.n_ranks = 3, .exchange = COX_EXCHANGE_ALLTOALL};
    for (c.n_coordinators = 1; c.n_coordinators <= 2; c.n_coordinators++) {
        c.variant = turn++ % N_VARIANTS;
        run_config(folder, &c, false, wanted);
    }
    int n_changed = 0, n_touched = 0;
    for (int i = 0; i < N_REQUESTS; i++) {
        n_changed += strcmp(wanted[i].steered, wanted[i].clean) != 0;
        n_touched += wanted[i].n_touched > 0;
    }
    if (n_changed < N_REQUESTS * 3 / 4) n_failed++; /* plans that do nothing would prove nothing */
    if (rank == 0)
        printf("%s: %d configurations; %d of %d plans touch a row, %d change the logits\n", folder,
               n_run - before, n_touched, N_REQUESTS, n_changed);
    fflush(stdout);
}

/* Different to the engine too, which keeps equal ones once. */
static void check_different(const cox_model *model)
{
    static cox_plan *plans[N_REQUESTS];
    for (int i = 0; i < N_REQUESTS; i++) {
        if (mixed_plans_make(&plans[i], plan_folder, model, i, 1) != COX_OK) die("plan");
        for (int j = 0; j < i; j++) {
            if (cox_plan_equal(plans[i], plans[j])) printf("plans %d and %d are equal\n", j, i), n_failed++;
        }
    }
    for (int i = 0; i < N_REQUESTS; i++) cox_plan_free(plans[i]);
}

/* The files of all plans for a model; rank 0 writes, all read. */
static void with_plans(const char *folder, bool is_full)
{
    cox_model *model = NULL;
    if (cox_model_open(&model, folder) != COX_OK) die(folder);
    make_prompts(model->vocab_size);
    snprintf(plan_folder, sizeof plan_folder, "/tmp/cox-steer-mix-XXXXXX");
    if (rank == 0 && (!mkdtemp(plan_folder) || mixed_plans_write(plan_folder, model, N_REQUESTS) != COX_OK))
        die("writing plans");
    MPI_Bcast(plan_folder, sizeof plan_folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    check_different(model);
    cox_model_close(model);
    run_model(folder, is_full);
    if (rank == 0) mixed_plans_remove(plan_folder, N_REQUESTS);
}

int main(int argc, char **argv)
{
    const char *full = getenv("COX_TEST_FULL");
    bool is_full = full && strcmp(full, "yes") == 0;
    int provided, size;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 4) {
        if (rank == 0) fprintf(stderr, "steer_mix needs 4 ranks, not %d\n", size);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (!is_full) {
        with_plans("tests/golden/models/olmoe-clip-bf16", false);
        with_plans("tests/golden/models/qwen3_moe-dense-bf16", false);
    } else {
        char **folders = golden_list();
        for (char **folder = folders; *folder; folder++) {
            golden *g = golden_load(*folder);
            with_plans(g->model, true);
            golden_free(g);
        }
        golden_list_free(folders);
    }
    if (rank == 0) printf("%d configurations, %d failed\n", n_run, n_failed);
    MPI_Finalize();
    return n_failed || n_run == 0 ? 1 : 0;
}
