/*
 * Requests cancelled through the front end, wherever they are: of 64, some with plans, some with two answers,
 * some with a common prefix, 32 are cancelled at random moments. The others' digests are those of a run in
 * which nobody else was there to be cancelled; every request has one record. On 1, 2 and 3 ranks, and with
 * two coordinators, where a request may be on another rank. (Pages and plans: steer_mix.c.) Started once with
 * four ranks; loops over configurations on sub-communicators.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "coordinator/front.h"
#include "tests/support/harness.h"
#include "tests/support/mixed_plans.h"

enum { N = 64, MAX_PROMPT = 48, SHARED = 40, N_TOKENS = 12, LONG = 160, MOST_TURNS = 80 };

typedef struct config {
    int n_ranks, n_coordinators;
    bool experts_on_all;
    cox_exchange_kind exchange;
} config;

/* What the source of one run gives, and what came back. */
typedef struct work {
    const harness *h;
    bool cancels;
    int32_t n_sent, turn;
    int32_t due[N]; /* turn at which it is cancelled; -1: never, or not sent yet, or it has been */
    int32_t n_records[N], n_cancelled;
    char digests[N][2][65];
    bool is_good;
} work;

static const char folder[] = "tests/golden/models/olmoe-clip-bf16";
static char plan_folder[64];
static int rank, n_failed, n_run;
static int32_t prompts[N][MAX_PROMPT];

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, cox_status_message());
    MPI_Abort(MPI_COMM_WORLD, 1);
    abort();
}

/* Sleeps until all ranks are here: ranks left out of a configuration must leave the cores to the others. */
static void barrier(void)
{
    MPI_Request request;
    int done = 0;
    for (MPI_Ibarrier(MPI_COMM_WORLD, &request); !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
        usleep(300);
}

static uint32_t draw(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void make_prompts(int32_t vocab_size)
{
    uint32_t state = 4711;
    for (int i = 0; i < N; i++) {
        for (int t = 0; t < MAX_PROMPT; t++) prompts[i][t] = (int32_t)(draw(&state) % (uint32_t)vocab_size);
        if (i % 4 < 2) memcpy(prompts[i], prompts[0], SHARED * sizeof(int32_t));
    }
}

/* --- The source and who listens --- */

/* Not every second one: two coordinators get requests in turns. */
static bool is_to_go(int i)
{
    return i % 4 == 1 || i % 4 == 2;
}

static cox_request *request_of(int i)
{
    cox_request *r = cox_request_create();
    if (!r) die("request");
    r->id = (uint64_t)i + 1;
    r->n_prompt_ids = (size_t)(i % 4 < 2 ? SHARED + 1 + i % 7 : 1 + i * 5 % 23);
    r->prompt_ids = malloc(r->n_prompt_ids * sizeof *r->prompt_ids);
    if (!r->prompt_ids) die("prompt");
    memcpy(r->prompt_ids, prompts[i], r->n_prompt_ids * sizeof *r->prompt_ids);
    r->max_tokens = is_to_go(i) ? LONG : N_TOKENS;
    r->ignore_eos = r->wants_digest = true;
    r->n_choices = i % 8 < 2 ? 2 : 1;
    r->sampling->temperature = i % 8 < 2 ? 0.8f : 0;
    r->sampling->seed = (uint64_t)i;
    return r;
}

static cox_status next_request(void *context, bool is_idle, cox_request **request, cox_plan **plan,
                               bool *is_end)
{
    work *w = context;
    (void)is_idle;
    static uint32_t state = 99;
    while (!w->cancels && w->n_sent < N && is_to_go(w->n_sent)) w->n_sent++;
    *is_end = w->n_sent >= N;
    if (*is_end) return COX_OK;
    int i = w->n_sent++;
    if (i % 3 == 0 && mixed_plans_make(plan, plan_folder, harness_model(w->h), i, 1) != COX_OK) die("plan");
    *request = request_of(i);
    if (is_to_go(i)) w->due[i] = w->turn + (int32_t)(draw(&state) % MOST_TURNS);
    return COX_OK;
}

static cox_status tick(void *context, bool *is_over)
{
    work *w = context;
    *is_over = false;
    w->turn++;
    return COX_OK;
}

static bool next_cancelled(void *context, uint64_t *id)
{
    work *w = context;
    for (int i = 0; i < N; i++) {
        if (w->due[i] < 0 || w->due[i] > w->turn) continue;
        w->due[i] = -1;
        *id = (uint64_t)i + 1;
        return true;
    }
    return false;
}

static void on_record(void *context, const cox_record *record)
{
    work *w = context;
    int i = (int)record->id - 1;
    w->n_records[i]++;
    bool is_cut = strcmp(record->finish_reason, "cancelled") == 0;
    w->n_cancelled += is_cut;
    if (is_cut && record->n_others && strcmp(record->others[0]->finish_reason, "cancelled") != 0) {
        printf("request %d: its second answer went on\n", i);
        w->is_good = false;
    }
    if (record->status_code != 200 || (is_cut && !is_to_go(i)) || w->n_records[i] > 1 ||
        record->n_token_ids != (size_t)record->n_generated) {
        printf("request %d: record %d, code %d, %s, %d tokens: %s\n", i, w->n_records[i], record->status_code,
               record->finish_reason, record->n_generated, record->error_message);
        w->is_good = false;
    }
    snprintf(w->digests[i][0], 65, "%s", record->digest);
    if (record->n_others) snprintf(w->digests[i][1], 65, "%s", record->others[0]->digest);
}

/* --- Configurations --- */

static void serve(harness *h, cox_cluster *cluster, work *w)
{
    const cox_front_options options = {.n_queued = 40, .hang_s = 60};
    const cox_session_parts parts = harness_session_parts(h);
    cox_engine_options engine = cox_engine_options_defaults();
    engine.prefill_chunk = 5;
    engine.max_sequences = 12;
    engine.kv_bytes = 40 * harness_page_bytes(folder); /* some are computed again */
    cox_front_mailer mailer = {.cluster = cluster};
    const cox_session_events own = {.context = w, .on_record = on_record};
    const cox_session_events events = rank == 0 ? own : cox_front_mailer_events(&mailer);
    cox_session *session = NULL;
    if (cox_session_create(&session, &parts, &engine, &events) != COX_OK) die("session");
    if (rank == 0) {
        const cox_front_source source = {.context = w,
                                         .next = next_request,
                                         .tick = tick,
                                         .next_cancelled = w->cancels ? next_cancelled : NULL};
        if (cox_front_run(session, &own, cluster, parts.exchange, &source, &options) != COX_OK) die("front");
    } else if (cox_front_follow(session, &mailer, parts.exchange, &options) != COX_OK) {
        die("a follower");
    }
    if (cox_session_n_requests(session) != 0) die("requests are left");
    cox_session_destroy(session);
}

/* Every request has its record, and those who stay have the digests of `wanted`. */
static bool check(const work *w, const work *wanted, const config *c)
{
    bool is_good = w->is_good;
    for (int i = 0; i < N; i++) {
        bool is_same = is_to_go(i) || memcmp(w->digests[i], wanted->digests[i], sizeof w->digests[i]) == 0;
        if (w->n_records[i] == 1 && is_same) continue;
        printf("request %d: %d records, digest %.16s, undisturbed %.16s\n", i, w->n_records[i],
               w->digests[i][0], wanted->digests[i][0]);
        is_good = false;
    }
    /* another coordinator may have come to an end before it hears of it */
    int least = c->n_coordinators == 1 ? N / 2 : N / 2 - 10;
    if (w->n_cancelled < least) printf("only %d were cancelled\n", w->n_cancelled), is_good = false;
    return is_good;
}

/* wanted: NULL: the reference, in which nobody is cancelled. */
static void run_config(const config *c, work *w, const work *wanted)
{
    MPI_Comm comm;
    MPI_Comm_split(MPI_COMM_WORLD, rank < c->n_ranks ? 0 : MPI_UNDEFINED, rank, &comm);
    bool is_good = true;
    if (comm != MPI_COMM_NULL) {
        cox_cluster *cluster = NULL;
        cox_cluster_options options = cox_cluster_options_defaults();
        options.n_threads = 1;
        options.experts_on_all = c->experts_on_all;
        options.n_coordinators = c->n_coordinators;
        if (cox__cluster_create_on(&cluster, &options, comm) != COX_OK) die("cluster");
        harness_config of_run = harness_config_defaults(folder);
        of_run.exchange = c->exchange;
        of_run.engine.kv_bytes = harness_page_bytes(folder); /* its own engine does nothing */
        harness *h = NULL;
        if (harness_open(&h, cluster, &of_run) != COX_OK) die(folder);
        *w = (work){.h = h, .cancels = wanted != NULL, .is_good = true};
        for (int i = 0; i < N; i++) w->due[i] = -1;
        if (cox_cluster_is_coordinator(cluster)) {
            serve(h, cluster, w);
            if (harness_finish(h) != COX_OK) die("the end");
        } else if (harness_serve(h) != COX_OK) {
            die("serving");
        }
        if (rank == 0 && wanted) is_good = check(w, wanted, c);
        harness_close(h);
        cox_cluster_destroy(cluster);
        MPI_Comm_free(&comm);
    }
    barrier();
    n_run++;
    if (is_good) return;
    n_failed++;
    printf("FAILED: %d ranks, %d coordinators, experts on %s, exchange %d\n", c->n_ranks, c->n_coordinators,
           c->experts_on_all ? "all" : "workers", (int)c->exchange);
}

int main(int argc, char **argv)
{
    static const config configs[] = {
        {1, 1, true, COX_EXCHANGE_SELF},    {1, 1, true, COX_EXCHANGE_ALLTOALLV},
        {2, 1, false, COX_EXCHANGE_SPARSE}, {2, 2, true, COX_EXCHANGE_ALLTOALL},
        {3, 1, true, COX_EXCHANGE_SPARSE},  {3, 1, false, COX_EXCHANGE_ALLTOALLV},
        {3, 2, false, COX_EXCHANGE_SPARSE}, {3, 3, true, COX_EXCHANGE_ALLTOALLV},
    };
    static work wanted, got;
    int provided, size;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 4) die("4 ranks are needed");
    cox_model *model = NULL;
    if (cox_model_open(&model, folder) != COX_OK) die(folder);
    make_prompts(model->vocab_size);
    if (rank == 0) {
        snprintf(plan_folder, sizeof plan_folder, "/tmp/cox-cancel-XXXXXX");
        if (!mkdtemp(plan_folder) || mixed_plans_write(plan_folder, model, N) != COX_OK) die("plans");
    }
    run_config(&configs[0], &wanted, NULL);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) run_config(&configs[i], &got, &wanted);
    if (rank == 0) {
        mixed_plans_remove(plan_folder, N);
        printf("%d runs, %d failed\n", n_run, n_failed);
    }
    cox_model_close(model);
    int any = n_failed;
    MPI_Bcast(&any, 1, MPI_INT, 0, MPI_COMM_WORLD);
    MPI_Finalize();
    return any ? 1 : 0;
}
