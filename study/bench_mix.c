/* Requests, plans, rounds. Coordinators meet by letters before and after each batch; the first one's clock
 * counts. */
#include "study/bench_mix.h"

#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/engine.h"
#include "coordinator/kv_cache.h"
#include "steering/vector_math.h"

/* What a coordinator tells rank 0 of a batch. */
typedef struct tally {
    int64_t rows_touched, rows_computed;
    double compile_s;
} tally;

typedef struct bench {
    cox_run *run;
    const cox_mix_options *options;
    cox_engine *engine;
    char folder[256]; /* of the vectors */
    int32_t first, n; /* requests first, first + n_coordinators, ...: n in all */
    int32_t *prompts; /* [n_requests, n_prompt] */
    cox_plan **plans; /* [n] of the next batch, NULL once submitted */
    cox_mix mix;
    double
        *norms; /* [COX_N_MIXES, n_layers] mean |h| at the site; 0 before it is known, or where no row came */
    double *norm_sums, *norm_rows; /* [COX_N_MIXES, n_layers] of the round that warms up */
    tally tally;                   /* of this batch */
    int32_t n_done;
    cox_status failed; /* what an event could not return */
} bench;

static uint64_t draw(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void cox_mix_result_free(cox_mix_result *result)
{
    for (int m = 0; m < COX_N_MIXES; m++) {
        free(result->seconds[m]);
        free(result->cpu_s[m]);
    }
    *result = (cox_mix_result){0};
}

uint64_t cox_mix_kv_bytes(const cox_model *model, const cox_mix_options *options, int32_t n_coordinators)
{
    const cox_kv_shape shape = {
        .n_layers = model->n_layers, .n_kv_heads = model->n_kv_heads, .head_dim = model->head_dim};
    int64_t pages = ((int64_t)options->n_prompt + options->n_new + COX_KV_BLOCK - 1) / COX_KV_BLOCK;
    int64_t share = (options->n_requests + n_coordinators - 1) / n_coordinators;
    return (uint64_t)(pages * share) * cox_kv_page_bytes(&shape);
}

/* --- Plans --- */

static cox_status write_vectors(bench *b)
{
    int32_t width = b->run->model->d_model, n_coordinators = b->run->layout.n_coordinators;
    snprintf(b->folder, sizeof b->folder, "%s/coxswain-bench-XXXXXX", b->options->temporary);
    if (!mkdtemp(b->folder)) {
        cox_status status = cox_fail(COX_IO, "%s: cannot create a folder for the vectors", b->folder);
        b->folder[0] = '\0';
        return status;
    }
    float *data = malloc((size_t)width * sizeof *data);
    cox_status status = data ? COX_OK : cox_no_memory("a benchmark");
    for (int32_t k = 0; k < b->n && status == COX_OK; k++) {
        int32_t request = b->first + k * n_coordinators;
        char path[320];
        cox_vector_random(b->options->seed * 1000003u + (uint64_t)request, 1, width, data);
        const cox_vector vector = {.name = "v",
                                   .data = data,
                                   .width = width,
                                   .norm = 1,
                                   .site = COX_SITE_UNSTATED,
                                   .layer = -1,
                                   .expert = -1};
        snprintf(path, sizeof path, "%s/%d.safetensors", b->folder, (int)request);
        cox_cluster_keepalive(b->run->cluster, "writing vectors");
        status = cox_vector_file_write(path, &vector, 1);
    }
    free(data);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int flag, struct FTW *where)
{
    (void)info, (void)flag, (void)where;
    return remove(path);
}

/* The request's place in the model, drawn from its number: layers in turn, any expert. */
static void choose_place(const bench *b, int32_t request, int32_t *layer, int32_t *expert)
{
    const cox_model *model = b->run->model;
    uint64_t state = b->options->seed ^ (uint64_t)request << 20;
    *layer = request % model->n_layers;
    while (b->mix == COX_MIX_ROUTED && !model->layers[*layer].is_moe) *layer = (*layer + 1) % model->n_layers;
    *expert = (int32_t)(draw(&state) % (uint64_t)model->router.n_experts);
}

static cox_status make_plan(const bench *b, int32_t request, cox_plan **plan)
{
    int32_t layer, expert;
    char vector[64];
    choose_place(b, request, &layer, &expert);
    double norm = b->norms[(int32_t)b->mix * b->run->model->n_layers + layer] * b->options->norm;
    snprintf(vector, sizeof vector, "%d.safetensors", (int)request);
    json_t *json = json_pack("{s:s,s:s,s:i,s:f}", "op", "add", "vector", vector, "layer", (int)layer,
                             "strength", norm > 0 ? norm : 1.0);
    if (!json) return cox_no_memory("a benchmark");
    bool is_routed = b->mix == COX_MIX_ROUTED;
    int bad = json_object_set_new(json, "site", json_string(is_routed ? "expert_out" : "resid_post"));
    if (is_routed) {
        bad |= json_object_set_new(json, "weighting", json_string("routed"));
        bad |= json_object_set_new(json, "expert", json_integer(expert));
    }
    json_t *whole = json_pack("{s:[o]}", "interventions", json);
    cox_status status = whole && !bad ? COX_OK : cox_no_memory("a benchmark");
    if (status == COX_OK)
        status = cox_plan_from_json(plan, whole, "benchmark", b->folder, b->run->model, NULL, false);
    json_decref(whole);
    return status;
}

static cox_status compile(bench *b)
{
    double start = cox_now_s();
    cox_status status = COX_OK;
    for (int32_t k = 0; k < b->n && b->mix != COX_MIX_UNSTEERED && status == COX_OK; k++) {
        cox_cluster_keepalive(b->run->cluster, "compiling plans");
        status = make_plan(b, b->first + k * b->run->layout.n_coordinators, &b->plans[k]);
    }
    b->tally.compile_s = cox_now_s() - start;
    return status;
}

/* --- One batch --- */

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context, (void)id, (void)token, (void)logprobs;
    return false;
}

static void on_mix_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    bench *b = context;
    b->n_done++;
    if (result->n_generated != b->options->n_new && b->failed == COX_OK) {
        b->failed =
            cox_fail(COX_INTERNAL, "request %d ended after %d of %d tokens%s%s", (int)id, result->n_generated,
                     b->options->n_new, result->error ? ": " : "", result->error ? result->error : "");
    }
    for (int32_t i = 0; i < result->n_hits; i++) {
        const cox_steer_hits *hits = &result->hits[i];
        int32_t rows = hits->n_prompt + hits->n_generated;
        b->tally.rows_touched += rows;
        int32_t place = (int32_t)b->mix * b->run->model->n_layers + hits->layer;
        b->norm_sums[place] += hits->norm_there * rows;
        b->norm_rows[place] += rows;
    }
}

static cox_status run_batch(bench *b)
{
    const cox_mix_options *o = b->options;
    uint64_t before = cox_engine_counters(b->engine)->rows_computed;
    b->n_done = 0;
    cox_status status = COX_OK;
    for (int32_t k = 0; k < b->n && status == COX_OK; k++) {
        int32_t request = b->first + k * b->run->layout.n_coordinators;
        status = cox_engine_submit(
            b->engine, &(cox_sequence_request){.id = (uint64_t)request,
                                               .prompt = b->prompts + (size_t)request * (size_t)o->n_prompt,
                                               .n_prompt = o->n_prompt,
                                               .max_tokens = o->n_new,
                                               .sampling = cox_sampling_defaults(),
                                               .ignore_eos = true,
                                               .plan = b->plans[k]});
        if (status == COX_OK) b->plans[k] = NULL;
    }
    while (status == COX_OK && cox_engine_n_sequences(b->engine)) status = cox_engine_step(b->engine);
    if (status == COX_OK) status = b->failed;
    if (status == COX_OK && b->n_done != b->n) status = cox_fail(COX_INTERNAL, "requests were lost");
    b->tally.rows_computed = (int64_t)(cox_engine_counters(b->engine)->rows_computed - before);
    return status;
}

/* --- Coordinators together --- */

static cox_status wait_for_letter(bench *b, int32_t owes, tally *letter)
{
    for (;;) {
        int32_t from;
        void *data;
        size_t n;
        cox_status status = cox_mailbox_poll(b->run->cluster, COX_MAIL_SESSION, &from, &data, &n);
        if (status != COX_OK) return status;
        if (data) {
            bool is_ours = n == sizeof *letter;
            if (is_ours) memcpy(letter, data, n);
            free(data);
            return is_ours ? COX_OK : cox_fail(COX_INTERNAL, "rank %d: a letter of %zu bytes", (int)from, n);
        }
        status = cox_exchange_progress(b->run->exchange, 0.05);
        if (status != COX_OK) return status;
        const char *doing;
        if (owes < 0 ||
            cox_cluster_silent_s(b->run->cluster, owes, &doing) < cox_cluster_options_defaults().hang_s)
            continue;
        return cox_fail(COX_PEER, "rank %d hangs; it was last known to do: %s", (int)owes, doing);
    }
}

/* Nobody goes on before all are here. On rank 0 *sum gets everybody's tallies. */
static cox_status meet(bench *b, tally *sum)
{
    cox_cluster *cluster = b->run->cluster;
    int32_t n = b->run->layout.n_coordinators;
    tally letter = {0};
    *sum = b->tally;
    if (b->run->rank != 0) {
        cox_status status = cox_mailbox_send(cluster, COX_MAIL_SESSION, 0, &b->tally, sizeof b->tally);
        return status == COX_OK ? wait_for_letter(b, 0, &letter) : status;
    }
    cox_status status = COX_OK;
    for (int32_t c = 1; c < n && status == COX_OK; c++) {
        status = wait_for_letter(b, n == 2 ? 1 : -1, &letter);
        sum->rows_touched += letter.rows_touched;
        sum->rows_computed += letter.rows_computed;
        if (letter.compile_s > sum->compile_s) sum->compile_s = letter.compile_s;
    }
    for (int32_t c = 1; c < n && status == COX_OK; c++)
        status = cox_mailbox_send(cluster, COX_MAIL_SESSION, c, &letter, sizeof letter);
    return status;
}

static double cpu_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static cox_status measure(bench *b, cox_mix mix, double *seconds, double *cpu_s, tally *sum)
{
    tally ignored;
    b->mix = mix;
    b->tally = (tally){0};
    cox_status status = compile(b);
    if (status == COX_OK) status = meet(b, &ignored);
    double start = cox_now_s(), cpu_start = cpu_now_s();
    if (status == COX_OK) status = run_batch(b);
    if (status == COX_OK) status = meet(b, sum);
    *seconds = cox_now_s() - start;
    *cpu_s = cpu_now_s() - cpu_start;
    return status;
}

/* Caches, page tables and buffers get warm, and the hits of strength 1 tell how long rows are. */
static cox_status warm_up(bench *b)
{
    cox_status status = COX_OK;
    for (cox_mix m = 0; m < COX_N_MIXES && status == COX_OK; m++) {
        double seconds, cpu_s;
        tally sum;
        status = measure(b, m, &seconds, &cpu_s, &sum);
    }
    for (int32_t i = 0; i < COX_N_MIXES * b->run->model->n_layers; i++)
        if (b->norm_rows[i] > 0) b->norms[i] = b->norm_sums[i] / b->norm_rows[i];
    return status;
}

static cox_status run_rounds(bench *b, cox_mix_result *result)
{
    cox_status status = warm_up(b);
    cox_progress bar;
    bool is_front = cox_run_is_front(b->run);
    uint64_t bar_total = (uint64_t)(b->options->n_rounds * COX_N_MIXES);
    cox_progress_begin(&bar, "bench", is_front ? b->run->options.progress : COX_PROGRESS_NONE,
                       COX_PROGRESS_COUNT);
    for (int32_t r = 0; r < b->options->n_rounds && status == COX_OK; r++) {
        for (int32_t i = 0; i < COX_N_MIXES && status == COX_OK; i++) {
            cox_mix m = (cox_mix)((r + i) % COX_N_MIXES);
            tally sum = {0};
            status = measure(b, m, &result->seconds[m][r], &result->cpu_s[m][r], &sum);
            result->compile_s[m] += sum.compile_s / b->options->n_rounds;
            result->rows_touched[m] = sum.rows_touched;
            result->rows_computed = sum.rows_computed;
            cox_progress_update(&bar, (uint64_t)(r * COX_N_MIXES + i + 1), bar_total, NULL);
        }
    }
    if (bar.style == COX_PROGRESS_BAR) cox_progress_end(&bar, bar_total, bar_total, NULL);
    return status;
}

/* --- Begin and end --- */

static cox_status mix_take_memory(bench *b, cox_mix_result *result)
{
    const cox_mix_options *o = b->options;
    size_t n_norms = COX_N_MIXES * (size_t)b->run->model->n_layers;
    size_t n_tokens = (size_t)o->n_requests * (size_t)o->n_prompt;
    b->prompts = calloc(n_tokens, sizeof *b->prompts);
    b->plans = calloc((size_t)b->n + 1, sizeof(cox_plan *));
    b->norms = calloc(n_norms, sizeof *b->norms);
    b->norm_sums = calloc(n_norms, sizeof *b->norm_sums);
    b->norm_rows = calloc(n_norms, sizeof *b->norm_rows);
    bool is_there = b->prompts && b->plans && b->norms && b->norm_sums && b->norm_rows;
    for (int m = 0; m < COX_N_MIXES; m++) {
        result->seconds[m] = calloc((size_t)o->n_rounds, sizeof(double));
        result->cpu_s[m] = calloc((size_t)o->n_rounds, sizeof(double));
        is_there = is_there && result->seconds[m] && result->cpu_s[m];
    }
    uint64_t state = o->seed;
    for (size_t i = 0; i < n_tokens && is_there; i++)
        b->prompts[i] = (int32_t)(draw(&state) % (uint64_t)b->run->model->vocab_size);
    return is_there ? COX_OK : cox_no_memory("a benchmark");
}

static cox_status create_engine(bench *b)
{
    const cox_engine_events events = {.context = b, .on_token = on_token, .on_done = on_mix_done};
    cox_run *run = b->run;
    cox_engine_options options = cox_run_engine_options(&run->options, run->layout.size);
    options.has_prefix_cache = false;
    return cox_run_create_engine(run, &options, &events, &b->engine);
}

static void mix_release(bench *b)
{
    cox_engine_destroy(b->engine);
    for (int32_t k = 0; b->plans && k < b->n; k++) cox_plan_free(b->plans[k]);
    if (*b->folder) nftw(b->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(b->prompts);
    free(b->plans);
    free(b->norms);
    free(b->norm_sums);
    free(b->norm_rows);
}

cox_status cox_mix_run(cox_run *run, const cox_mix_options *options, cox_mix_result *result)
{
    int32_t n_coordinators = run->layout.n_coordinators;
    bench b = {.run = run, .options = options, .first = run->rank};
    b.n = (options->n_requests - run->rank + n_coordinators - 1) / n_coordinators;
    *result = (cox_mix_result){0};
    cox_status status = mix_take_memory(&b, result);
    if (status == COX_OK) status = write_vectors(&b);
    if (status == COX_OK) status = create_engine(&b);
    if (status == COX_OK) status = run_rounds(&b, result);
    if (b.engine) run->counters = *cox_engine_counters(b.engine);
    mix_release(&b);
    return status;
}
