/*
 * Where a `routed` plan for a single expert lives: of four ranks only the expert's hosts, every replica, get
 * the vector and count hits; the others never see a letter. The placement is written here, expert by expert,
 * so what is expected does not come from the code under test. One launch; loops over experts, placements,
 * back-ends and coordinators.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "steering/row_tag.h"
#include "tests/support/harness.h"
#include "tests/support/mixed_plans.h"
#include "worker/plans.h"

static const char folder[] = "tests/golden/models/olmoe-clip-bf16";
enum {
    N_RANKS = 4,
    N_EXPERTS = 6,
    N_LAYERS = 2,
    LAYER = 1,
    N_REQUESTS = 24,
    N_PROMPT = 12,
    WAIT_MS = 20,
    MOST_MS = 3000
};

typedef struct config {
    bool experts_on_all, has_replicas;
    int n_coordinators;
    cox_exchange_kind exchange;
} config;

static int rank, n_failed, n_checked;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, cox_status_message());
    MPI_Abort(MPI_COMM_WORLD, 1);
    abort();
}

/* --- The placement --- */

static bool is_host(const config *c, int layer, int expert, int of_rank)
{
    int first = c->experts_on_all ? 0 : c->n_coordinators, n = N_RANKS - first, seat = (expert + layer) % n;
    bool is_second = c->has_replicas && expert % 2 == 0 && of_rank == first + (seat + 1) % n;
    return of_rank == first + seat || is_second;
}

static void write_placement(const config *c, char *text, size_t n_bytes)
{
    size_t n = (size_t)snprintf(text, n_bytes, "{\"n_experts\": %d, \"layers\": {", N_EXPERTS);
    for (int l = 0; l < N_LAYERS; l++) {
        n += (size_t)snprintf(text + n, n_bytes - n, "%s\"%d\": [", l ? ", " : "", l);
        for (int e = 0; e < N_EXPERTS; e++) {
            const char *comma = "";
            n += (size_t)snprintf(text + n, n_bytes - n, "%s[", e ? ", " : "");
            for (int r = 0; r < N_RANKS; r++) {
                if (!is_host(c, l, e, r)) continue;
                n += (size_t)snprintf(text + n, n_bytes - n, "%s%d", comma, r);
                comma = ", ";
            }
            n += (size_t)snprintf(text + n, n_bytes - n, "]");
        }
        n += (size_t)snprintf(text + n, n_bytes - n, "]");
    }
    snprintf(text + n, n_bytes - n, "}}");
}

/* --- A run --- */

static cox_plan *plan_for(const harness *h, const char *plans, int expert)
{
    cox_plan *plan = NULL;
    json_t *json =
        json_pack("{s:[{s:s,s:s,s:s,s:i,s:i,s:s}]}", "interventions", "site", "expert_out", "op", "add",
                  "weighting", "routed", "layer", LAYER, "expert", expert, "vector", "0.safetensors#a");
    if (cox_plan_from_json(&plan, json, "plan", plans, harness_model(h), NULL, false) != COX_OK) die("plan");
    json_decref(json);
    return plan;
}

/* Returns the rows that the results report as steered. */
static int64_t run_requests(harness *h, const char *plans, int expert)
{
    int32_t prompts[N_REQUESTS][N_PROMPT];
    harness_request requests[N_REQUESTS];
    harness_result results[N_REQUESTS];
    uint32_t state = 99;
    for (int i = 0; i < N_REQUESTS; i++) {
        for (int t = 0; t < N_PROMPT; t++) {
            state = state * 1664525u + 1013904223u;
            prompts[i][t] = (int32_t)((state >> 8) % (uint32_t)harness_model(h)->vocab_size);
        }
        requests[i] = (harness_request){.prompt = prompts[i],
                                        .n_prompt = N_PROMPT,
                                        .max_tokens = 4,
                                        .ignore_eos = true,
                                        .sampling = cox_sampling_defaults(),
                                        .plan = plan_for(h, plans, expert)};
    }
    if (harness_run(h, requests, N_REQUESTS, results) != COX_OK) die("a batch");
    int64_t n = 0;
    for (int i = 0; i < N_REQUESTS; i++) {
        for (int32_t k = 0; k < results[i].n_hits; k++) {
            const cox_steer_hits *hits = &results[i].hits[k];
            if (hits->layer != LAYER || hits->expert != expert) die("a hit elsewhere");
            n += hits->n_prompt + hits->n_generated;
        }
        harness_result_free(&results[i]);
    }
    return n;
}

/* Letters that nobody has read: [out] plans, and notices that a plan is not used any more. Waits until
 * n_notices have come. */
static void count_letters(cox_cluster *cluster, int n_wanted, int *n_plans, int *n_notices)
{
    *n_plans = *n_notices = 0;
    for (int turn = 0, late = 0; late < WAIT_MS && turn < MOST_MS; turn++) {
        int32_t from;
        void *data;
        size_t n;
        if (cox_mailbox_poll(cluster, COX_MAIL_STEERING, &from, &data, &n) != COX_OK) die("mail");
        if (data) {
            ++*(n > sizeof(cox_plan_letter) ? n_plans : n_notices);
            free(data);
        } else {
            usleep(1000);
            late += *n_notices >= n_wanted; /* then a while for what must not come */
        }
    }
}

static bool check_rank(const config *c, const harness *h, cox_cluster *cluster, int expert, uint64_t *n_hits)
{
    bool hosts = is_host(c, LAYER, expert, rank);
    const cox_worker *worker = harness_worker(h);
    int n_plans, n_notices, n_held = worker ? cox_worker_plans_count(cox_worker_steering(worker)) : 0;
    *n_hits = worker ? cox_worker_plans_n_hits(cox_worker_steering(worker)) : 0;
    /* One plan of each coordinator, shared by its requests. A host that looks for the second one may read
     * that the first is over: then it has dropped it. */
    int least = hosts ? 1 : 0, most = hosts ? c->n_coordinators : 0;
    count_letters(cluster, n_held, &n_plans, &n_notices);
    bool is_good = n_held >= least && n_held <= most && n_notices == n_held && n_plans == 0;
    is_good = is_good && (*n_hits > 0) == hosts;
    if (is_good) return true;
    printf("rank %d, %s expert %d: holds %d plans, %d and %d letters unread, %d hits\n", rank,
           hosts ? "which hosts" : "without", expert, n_held, n_plans, n_notices, (int)*n_hits);
    return false;
}

static void run_config(const config *c, const char *plans, int expert)
{
    cox_cluster *cluster = NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1;
    options.n_coordinators = c->n_coordinators;
    options.experts_on_all = c->experts_on_all;
    if (cox__cluster_create_on(&cluster, &options, MPI_COMM_WORLD) != COX_OK) die("cluster");
    char placement[1024];
    write_placement(c, placement, sizeof placement);
    harness_config wanted = harness_config_defaults(folder);
    wanted.placement = placement;
    wanted.exchange = c->exchange;
    harness *h = NULL;
    if (harness_open(&h, cluster, &wanted) != COX_OK) die(folder);
    int64_t n_reported = 0;
    bool is_coordinator = cox_cluster_is_coordinator(cluster);
    if (is_coordinator) n_reported = run_requests(h, plans, expert);
    if ((is_coordinator ? harness_finish(h) : harness_serve(h)) != COX_OK) die("the end");
    uint64_t n_hits = 0;
    int bad = !check_rank(c, h, cluster, expert, &n_hits);
    harness_close(h);
    cox_cluster_destroy(cluster);
    int64_t mine[3] = {bad, n_reported, (int64_t)n_hits}, all[3];
    MPI_Allreduce(mine, all, 3, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    bool is_good = all[0] == 0 && all[1] == all[2] && all[1] > 0;
    n_failed += !is_good;
    n_checked++;
    if (rank == 0 && !is_good) {
        printf("FAILED expert %d: experts on %s, %s, %d coordinators, exchange %d: %d hits reported, %d on "
               "hosts\n",
               expert, c->experts_on_all ? "all" : "workers", c->has_replicas ? "replicas" : "one host each",
               c->n_coordinators, (int)c->exchange, (int)all[1], (int)all[2]);
    }
    fflush(stdout);
}

static void run_all(const char *plans)
{
    static const cox_exchange_kind kinds[] = {COX_EXCHANGE_SPARSE, COX_EXCHANGE_ALLTOALL,
                                              COX_EXCHANGE_ALLTOALLV};
    for (int level = 0; level < 8; level++) {
        for (int expert = 0; expert < N_EXPERTS; expert++) {
            const config c = {.experts_on_all = level & 1,
                              .has_replicas = level & 2,
                              .n_coordinators = 1 + (level >> 2),
                              .exchange = kinds[(level + expert) % 3]};
            run_config(&c, plans, expert);
        }
    }
}

int main(int argc, char **argv)
{
    int provided, size;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != N_RANKS) {
        if (rank == 0) fprintf(stderr, "steer_place needs %d ranks, not %d\n", N_RANKS, size);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    cox_model *model = NULL;
    if (cox_model_open(&model, folder) != COX_OK) die(folder);
    if (model->router.n_experts != N_EXPERTS || model->n_layers != N_LAYERS)
        die("another model than expected");
    char plans[] = "/tmp/cox-steer-place-XXXXXX";
    if (rank == 0 && (!mkdtemp(plans) || mixed_plans_write(plans, model, 1) != COX_OK))
        die("writing a vector");
    MPI_Bcast(plans, sizeof plans, MPI_CHAR, 0, MPI_COMM_WORLD);
    cox_model_close(model);
    run_all(plans);
    if (rank == 0) mixed_plans_remove(plans, 1);
    if (rank == 0) printf("%d configurations, %d failed\n", n_checked, n_failed);
    MPI_Finalize();
    return n_failed || n_checked == 0 ? 1 : 0;
}
