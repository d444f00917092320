/*
 * What the prefix cache knows changes no bit: plans at every site, from every layer on, over several scopes,
 * give the same digests with and without reuse, one after the other and all in one batch, on 1 and 4 ranks,
 * with micro-batches and chunks, with a KV cache that forgets all the time, with few residual rows and with
 * none; and the counters show that rows really started further up, or were not needed at all. Started once
 * with four ranks.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "coordinator/kv_cache.h"
#include "tests/support/harness.h"
#include "tests/support/mixed_plans.h"

enum { N_PROMPT = 41, N_CASES_MOST = 256, N_TOKENS = 2 };

typedef struct plan_case {
    const char *site, *scope;
    int32_t layer;
} plan_case;

typedef struct variant {
    const char *name;
    int n_ranks, n_slots, chunk;
    int kv_pages, residual_pages; /* 0, -1: as is usual */
    bool is_full;                 /* enough memory for exact expectations of the counters */
} variant;

static const variant variants[] = {
    {"one rank", 1, 1, 512, 0, 256, true},
    {"chunks and micro-batches", 1, 3, 7, 0, -1, false},
    {"tiny cache", 1, 1, 512, 6, 3, false},
    {"tiny cache of residual rows", 1, 2, 19, 12, 1, false},
    {"no residual rows", 1, 1, 512, 0, 0, false},
    {"four ranks", 4, 2, 512, 0, 256, true},
    {"four ranks, tiny cache", 4, 1, 33, 6, 4, false},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

static const char *const sites[] = {"resid_pre",  "attn_out",      "resid_mid", "moe_out",
                                    "resid_post", "router_logits", "expert_out"};
static const char *const scopes[] = {"all", "last", "range", "generated"};
static plan_case cases[N_CASES_MOST];
static char wanted[N_CASES_MOST + 1][65]; /* the last: without a plan */
static uint64_t wanted_hits[N_CASES_MOST + 1];
static char plan_folder[64];
static int32_t prompt[N_PROMPT];
static int rank, n_cases, n_failed;

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

static void expect(bool is_so, const char *where, const char *what, uint64_t have, uint64_t want)
{
    if (is_so) return;
    printf("FAILED %s: %s: %llu, not %llu\n", where, what, (unsigned long long)have,
           (unsigned long long)want);
    n_failed++;
}

/* --- Plans --- */

static void make_cases(const cox_model *model)
{
    n_cases = 0;
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        for (size_t k = 0; k < sizeof scopes / sizeof *scopes; k++) {
            for (int32_t l = 0; l < model->n_layers; l++) {
                if (s >= 5 && !model->layers[l].is_moe) continue;
                if (n_cases == N_CASES_MOST) abort();
                cases[n_cases++] = (plan_case){sites[s], scopes[k], l};
            }
        }
    }
}

static cox_plan *make_plan(const cox_model *model, const plan_case *c)
{
    bool is_router = strcmp(c->site, "router_logits") == 0, is_expert = strcmp(c->site, "expert_out") == 0;
    json_t *json = json_pack("{s:s,s:i,s:f}", "site", c->site, "layer", (int)c->layer, "strength", 0.7);
    json_object_set_new(json, "op", json_string(is_router ? "bias" : "add"));
    if (is_router) json_object_set_new(json, "value", json_real(2));
    if (is_router) json_object_set_new(json, "expert", json_integer(1));
    if (!is_router) json_object_set_new(json, "vector", json_string("0.safetensors#a"));
    if (is_expert) json_object_set_new(json, "expert", json_string("all"));
    if (is_expert) json_object_set_new(json, "weighting", json_string(c->layer % 2 ? "soft" : "routed"));
    json_t *positions = strcmp(c->scope, "last") == 0    ? json_pack("{s:i}", "last", 1)
                        : strcmp(c->scope, "range") == 0 ? json_pack("{s:i,s:i}", "from", 9, "to", 12)
                                                         : json_string(c->scope);
    json_object_set_new(json, "positions", positions);
    json_t *whole = json_pack("{s:[o]}", "interventions", json);
    cox_plan *plan = NULL;
    if (cox_plan_from_json(&plan, whole, "plan", plan_folder, model, NULL, false) != COX_OK) die("plan");
    json_decref(whole);
    return plan;
}

static harness_request request_of(const harness *h, int i)
{
    return (harness_request){.prompt = prompt,
                             .n_prompt = N_PROMPT,
                             .max_tokens = N_TOKENS,
                             .ignore_eos = true,
                             .sampling = cox_sampling_defaults(),
                             .plan = i < n_cases ? make_plan(harness_model(h), &cases[i]) : NULL};
}

/* --- Runs --- */

static void compare(const char *where, int i, const harness_result *result)
{
    int32_t n_touched;
    bool has_hits = harness_hash_hits(result, &n_touched) == wanted_hits[i];
    expect(has_hits, where, "hits other than without reuse", (uint64_t)n_touched, (uint64_t)i);
    if (strcmp(result->digest, wanted[i]) == 0) return;
    const plan_case *c = &cases[i];
    printf("FAILED %s: %s in layer %d, %s: digest %.16s, without reuse %.16s\n", where,
           i < n_cases ? c->site : "clean", i < n_cases ? (int)c->layer : -1, i < n_cases ? c->scope : "",
           result->digest, wanted[i]);
    n_failed++;
}

static void run_one(harness *h, const char *where, int i, bool is_reference)
{
    harness_request request = request_of(h, i);
    harness_result result;
    if (harness_run(h, &request, 1, &result) != COX_OK) die(where);
    if (is_reference) {
        int32_t n_touched;
        memcpy(wanted[i], result.digest, sizeof wanted[i]);
        wanted_hits[i] = harness_hash_hits(&result, &n_touched);
        expect((n_touched > 0) == (i < n_cases), where, "rows touched", (uint64_t)n_touched, (uint64_t)i);
    } else {
        compare(where, i, &result);
    }
    harness_result_free(&result);
}

/* After a clean run each case alone: what it needs is known exactly when there is room for everything. */
static void check_each(harness *h, const variant *v)
{
    const cox_counters *counters = cox_engine_counters(harness_engine(h));
    uint64_t n_layers = (uint64_t)harness_model(h)->n_layers;
    run_one(h, v->name, n_cases, false);
    for (int i = 0; i < n_cases; i++) {
        cox_counters before = *counters;
        run_one(h, v->name, i, false);
        const plan_case *c = &cases[i];
        uint64_t rows = counters->rows_computed - before.rows_computed,
                 layer_rows = counters->layer_rows - before.layer_rows;
        if (!v->is_full) continue;
        /* Needed: the prompt's rows from the first touched one on, its last row at least; from the plan's
         * layer up, and clean ones only for their logits. And the generated tokens but the last, in all
         * layers. */
        int first = strcmp(c->scope, "all") == 0 ? 0 : strcmp(c->scope, "range") == 0 ? 9 : N_PROMPT - 1;
        uint64_t prompt_rows = (uint64_t)(N_PROMPT - first), generated = N_TOKENS - 1;
        bool is_clean = strcmp(c->scope, "generated") == 0;
        uint64_t above = is_clean ? 0 : n_layers - (uint64_t)c->layer;
        uint64_t all = prompt_rows * above + generated * n_layers;
        expect(rows == prompt_rows + generated, v->name, "rows", rows, prompt_rows + generated);
        expect(layer_rows == all, v->name, "layers of rows", layer_rows, all);
    }
}

/* All in one batch, twice: the second time after their own pages are known. */
static void check_together(harness *h, const variant *v)
{
    static harness_request requests[N_CASES_MOST + 1];
    static harness_result results[N_CASES_MOST + 1];
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i <= n_cases; i++) requests[i] = request_of(h, i);
        if (harness_run(h, requests, n_cases + 1, results) != COX_OK) die(v->name);
        for (int i = 0; i <= n_cases; i++) {
            compare(v->name, i, &results[i]);
            harness_result_free(&results[i]);
        }
    }
}

static void run_coordinator(harness *h, const variant *v)
{
    const cox_counters *counters = cox_engine_counters(harness_engine(h));
    if (!v) {
        for (int i = 0; i <= n_cases; i++) run_one(h, "reference", i, true);
        expect(counters->layer_rows_saved == 0, "reference", "saved", counters->layer_rows_saved, 0);
        return;
    }
    check_each(h, v);
    check_together(h, v);
    bool has_rows = v->residual_pages != 0;
    printf("  %-28s %llu rows, %llu of them restarted; %.0f%% of all layers of rows were known\n", v->name,
           (unsigned long long)counters->rows_computed, (unsigned long long)counters->rows_restarted,
           100 * (double)counters->layer_rows_saved /
               (double)(counters->layer_rows + counters->layer_rows_saved));
    expect((counters->rows_restarted > 0) == has_rows, v->name, "rows restarted", counters->rows_restarted,
           has_rows);
    expect(counters->layer_rows_saved > 0, v->name, "layers of rows saved", counters->layer_rows_saved, 1);
}

static size_t residual_page_bytes(const cox_model *model)
{
    cox_kv_shape shape = {.n_layers = model->n_layers, .d_model = model->d_model};
    return cox_kv_residual_page_bytes(&shape);
}

/* v NULL: the reference on one rank. */
static void run_variant(const char *folder, const cox_model *model, const variant *v)
{
    MPI_Comm comm;
    MPI_Comm_split(MPI_COMM_WORLD, rank < (v ? v->n_ranks : 1) ? 0 : MPI_UNDEFINED, rank, &comm);
    if (comm != MPI_COMM_NULL) {
        cox_cluster *cluster = NULL;
        cox_cluster_options cluster_options = cox_cluster_options_defaults();
        cluster_options.n_threads = 1;
        if (cox__cluster_create_on(&cluster, &cluster_options, comm) != COX_OK) die("cluster");
        harness_config options = harness_config_defaults(folder);
        options.engine.has_prefix_cache = v != NULL;
        if (v) options.engine.n_slots = v->n_slots, options.engine.prefill_chunk = v->chunk;
        if (v) options.engine.kv_bytes = (size_t)v->kv_pages * harness_page_bytes(folder);
        if (v && v->residual_pages >= 0)
            options.engine.residual_bytes = (size_t)v->residual_pages * residual_page_bytes(model);
        harness *h = NULL;
        if (harness_open(&h, cluster, &options) != COX_OK) die(folder);
        if (cox_cluster_is_coordinator(cluster)) {
            run_coordinator(h, v);
            if (harness_finish(h) != COX_OK) die("the end");
        } else if (harness_serve(h) != COX_OK) {
            die("serving");
        }
        harness_close(h);
        cox_cluster_destroy(cluster);
        MPI_Comm_free(&comm);
    }
    fflush(stdout);
    barrier();
}

static void run_model(const char *folder)
{
    cox_model *model = NULL;
    if (cox_model_open(&model, folder) != COX_OK) die(folder);
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = (i * i * 7 + 3) % model->vocab_size;
    make_cases(model);
    strcpy(plan_folder, "/tmp/cox-reuse-XXXXXX");
    if (rank == 0 && (!mkdtemp(plan_folder) || mixed_plans_write(plan_folder, model, 1) != COX_OK))
        die("writing vectors");
    MPI_Bcast(plan_folder, sizeof plan_folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("%s: %d plans\n", folder, n_cases);
    run_variant(folder, model, NULL);
    for (int v = 0; v < N_VARIANTS; v++) run_variant(folder, model, &variants[v]);
    int n_changed = 0;
    for (int i = 0; i < n_cases; i++) n_changed += strcmp(wanted[i], wanted[n_cases]) != 0;
    if (rank == 0)
        expect(n_changed > n_cases * 3 / 5, folder, "plans that change something", (uint64_t)n_changed,
               (uint64_t)n_cases * 3 / 5);
    barrier();
    if (rank == 0) mixed_plans_remove(plan_folder, 1);
    cox_model_close(model);
}

int main(int argc, char **argv)
{
    int provided, size, any = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size != 4) {
        if (rank == 0) fprintf(stderr, "reuse needs 4 ranks, not %d\n", size);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    run_model("tests/golden/models/olmoe-clip-bf16");
    run_model("tests/golden/models/qwen3_moe-dense-bf16"); /* a layer without experts */
    run_model("tests/golden/models/gpt_oss-bf16");         /* windows, sinks */
    MPI_Allreduce(&n_failed, &any, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) printf("%d failed\n", any);
    MPI_Finalize();
    return any ? 1 : 0;
}
