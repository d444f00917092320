/*
 * coxswain generate: a few prompts, answered in order on standard output. All prompts run at once; the text
 * of the one whose turn it is streams, that of later ones waits.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/generation.h"
#include "run/io.h"
#include "study/prompts.h"
#include "run/service.h"
#include "run/plan_cache.h"
#include "run/traces.h"
#include "cluster/drain.h"

typedef struct answer {
    char *text; /* [n_text] that may not be shown yet */
    size_t n_text, capacity;
    json_t *json;  /* with --json, when done */
    char *notes;   /* lines about its steering and routes, without --json */
    char *problem; /* message of a failed prompt */
    char digest[65];
    cox_status status;
    bool is_done;
} answer;

typedef struct generate {
    const cox_options *options;
    const cox_prompting *prompting;
    cox_cluster *cluster;
    const cox_model *model;
    cox_plan_cache *steer;
    char **prompts; /* [n], malloc'ed */
    size_t n, n_sent;
    answer *answers; /* [n] */
    size_t turn;     /* the prompt whose text may be shown */
    bool is_in_line; /* something of it was, without the end of its line */
    bool is_stopped; /* by a signal, before the end */
    cox_status failed;
} generate;

/* --- Prompts --- */

static cox_status add_prompt(generate *g, const char *text, size_t n, const char *where)
{
    if (strlen(text) != n) return cox_fail(COX_INVALID, "%s: a prompt cannot hold a NUL byte", where);
    cox_status status = cox_tokenizer_check_text(where, text, n);
    if (status != COX_OK) return status;
    char **larger = realloc(g->prompts, (g->n + 1) * sizeof *larger);
    char *copy = strdup(text);
    if (larger) g->prompts = larger;
    if (!larger || !copy) {
        free(copy);
        return cox_no_memory("the prompts");
    }
    g->prompts[g->n++] = copy;
    return COX_OK;
}

/* What has perhaps not the effect that was meant. */
static void warn(const generate *g)
{
    const cox_options *o = g->options;
    const char *idle = cox_generation_idle(o->temperature, o->top_k, o->top_p, o->min_p);
    if (idle)
        fprintf(stderr, "warning: --%s changes nothing at temperature 0 (greedy); give --temperature too\n",
                idle);
    for (size_t i = 0; i < g->n; i++) {
        if (g->prompts[i][strspn(g->prompts[i], " \t\r\n")] != '\0') continue;
        if (i < o->prompts.n) {
            fprintf(stderr, "warning: --prompt %zu is empty\n", i + 1);
        } else {
            fprintf(stderr, "warning: %s: the prompt is empty\n", o->prompt_files.items[i - o->prompts.n]);
        }
    }
}

static cox_status read_prompts(generate *g)
{
    const cox_options *options = g->options;
    cox_status status = COX_OK;
    for (size_t i = 0; i < options->prompts.n && status == COX_OK; i++) {
        status = add_prompt(g, options->prompts.items[i], strlen(options->prompts.items[i]), "--prompt");
    }
    for (size_t i = 0; i < options->prompt_files.n && status == COX_OK; i++) {
        char *text = NULL;
        size_t n = 0;
        status = cox_io_read_all(g->cluster, options->prompt_files.items[i], &text, &n);
        if (status == COX_OK) status = add_prompt(g, text, n, options->prompt_files.items[i]);
        free(text);
    }
    if (status != COX_OK) return status;
    g->answers = calloc(g->n, sizeof *g->answers);
    return g->answers ? COX_OK : cox_no_memory("the answers");
}

/* Plans are read and the folder is made before any token. */
static cox_status generate_prepare(generate *g)
{
    const cox_options *options = g->options;
    cox_status status = read_prompts(g);
    if (status == COX_OK) warn(g);
    if (status == COX_OK) status = cox_plan_cache_create(&g->steer, g->model, options->forces_steering);
    for (size_t i = 0; i < options->plans.n && status == COX_OK; i++)
        status = cox_plan_cache_check(g->steer, options->plans.items[i]);
    if (status == COX_OK && options->trace_folder)
        status = cox_traces_open(options->trace_folder, options->has_force);
    return status;
}

static cox_status read_logit_bias(const cox_options *options, Cox__SamplingFields *sampling)
{
    json_t *json = NULL;
    const char *text = options->logit_bias;
    if (!text) return COX_OK;
    cox_status status = cox_json_load_text(&json, text, strlen(text), "--logit-bias");
    if (status == COX_OK) status = cox_request_read_logit_bias(sampling, json, "--logit-bias");
    json_decref(json);
    return status;
}

/* Says what is wrong with it before a model is loaded. */
static cox_status check_logit_bias(const cox_options *options)
{
    cox_request *request = options->logit_bias ? cox_request_create() : NULL;
    if (!request) return options->logit_bias ? COX_NO_MEMORY : COX_OK;
    cox_status status = read_logit_bias(options, request->sampling);
    cox_request_destroy(request);
    return status == COX_BAD_FILE ? COX_INVALID : status; /* it is an option, not a file */
}

static cox_status check(const cox_options *options, const cox_prompting *prompting)
{
    size_t n_prompts = options->prompts.n + options->prompt_files.n;
    if (n_prompts == 0) {
        return cox_fail(COX_INVALID, "--prompt TEXT or --prompt-file FILE is missing");
    }
    if (options->plans.n > 1 && options->plans.n != n_prompts) {
        return cox_fail(COX_INVALID,
                        "--steer is given %zu times for %zu prompts; give it once, or once for each",
                        options->plans.n, n_prompts);
    }
    if (options->logprobs >= 0 && !options->is_json) return cox_fail(COX_INVALID, "--logprobs needs --json");
    if (options->temperature > 0.0 && options->temperature < 1e-6) {
        return cox_fail(COX_INVALID, "--temperature %g: use 0 (greedy) or at least 1e-6",
                        options->temperature);
    }
    cox_status status = cox_prompting_check(prompting);
    return status == COX_OK ? check_logit_bias(options) : status;
}

/* Plan and file of routes. */
static cox_status complete(const generate *g, cox_request *request, cox_plan **plan)
{
    const cox_texts *plans = &g->options->plans;
    const char *folder = g->options->trace_folder;
    cox_status status = COX_OK;
    if (folder) status = cox_traces_name(request, folder, "prompt");
    if (status != COX_OK || plans->n == 0) return status;
    return cox_plan_cache_load(g->steer, plans->items[plans->n > 1 ? request->id - 1 : 0], plan);
}

static cox_status fill_request(const generate *g, cox_request *request, const char *prompt)
{
    const cox_options *options = g->options;
    cox_generation_set(options, request);
    request->sampling->n_logprobs = (int32_t)options->logprobs;
    request->wants_text = !options->is_json;
    cox_status status = read_logit_bias(options, request->sampling);
    for (size_t i = 0; i < options->stops.n && status == COX_OK; i++) {
        status = cox_request_add_stop(request, options->stops.items[i]);
        if (status != COX_OK) cox_fail_in(status, "--stop");
    }
    return status != COX_OK ? status : cox_prompting_make_request(request, g->prompting, prompt);
}

static cox_status next_request(void *context, bool is_idle, cox_request **request, cox_plan **plan,
                               bool *is_end)
{
    (void)is_idle;
    generate *g = context;
    *is_end = g->n_sent == g->n || cox_drain_is_wanted();
    if (*is_end) return g->failed;
    cox_request *fresh = cox_request_create();
    if (!fresh) return COX_NO_MEMORY;
    fresh->id = g->n_sent + 1;
    cox_status status = fill_request(g, fresh, g->prompts[g->n_sent]);
    if (status == COX_OK) status = complete(g, fresh, plan);
    if (status != COX_OK) {
        cox_request_destroy(fresh);
        return status;
    }
    g->n_sent++;
    *request = fresh;
    return COX_OK;
}

/* Who asks to stop waits for nothing: no answer is kept. */
static cox_status tick(void *context, bool *is_over)
{
    generate *g = context;
    *is_over = g->is_stopped = cox_drain_is_wanted() && g->turn < g->n;
    return COX_OK;
}

/* --- Answers --- */

static void note(generate *g, cox_status status)
{
    if (g->failed == COX_OK) g->failed = status;
}

static void show(generate *g, const char *text, size_t n)
{
    if (n == 0 || g->failed != COX_OK) return;
    note(g, cox_io_write_all(g->cluster, STDOUT_FILENO, text, n, "standard output"));
    g->is_in_line = text[n - 1] != '\n';
}

static void on_text(void *context, uint64_t id, const char *text, size_t n)
{
    generate *g = context;
    answer *a = &g->answers[id - 1];
    if (id - 1 == g->turn) {
        show(g, text, n);
        return;
    }
    if (a->n_text + n > a->capacity) {
        size_t capacity = 2 * (a->n_text + n);
        char *larger = realloc(a->text, capacity);
        if (!larger) {
            note(g, cox_no_memory("an answer"));
            return;
        }
        a->text = larger;
        a->capacity = capacity;
    }
    memcpy(a->text + a->n_text, text, n);
    a->n_text += n;
}

static json_t *answer_json(const generate *g, const cox_record *record)
{
    json_t *json = json_pack("{s:I, s:s, s:s, s:s, s:o}", "index", (json_int_t)(record->id - 1), "prompt",
                             g->prompts[record->id - 1], "text", record->text, "finish_reason",
                             record->finish_reason, "usage", cox_record_usage_json(record));
    if (*record->digest) json_object_set_new(json, "logits_digest", json_string(record->digest));
    if (record->has_logprobs) json_object_set_new(json, "logprobs", cox_record_logprobs_json(record));
    json_t *extras = cox_record_extras_json(record);
    if (json_object_size(extras) > 0) json_object_set(json, "coxswain", extras);
    json_decref(extras);
    return json;
}

/* What --json says of steering and routes, in lines: rows by intervention. NULL: nothing to say. */
static char *answer_notes(const cox_record *record)
{
    char *text = NULL;
    size_t n_bytes = 0;
    if (!record->steering && !record->routes) return NULL;
    FILE *out = open_memstream(&text, &n_bytes);
    if (!out) return NULL;
    const Cox__SteeringRecord *steering = record->steering;
    if (steering) {
        fprintf(out, "steering of prompt %" PRIu64 ": plan \"%s\"%s\n", record->id, steering->plan,
                steering->was_forced ? ", FORCED: vectors of another model or tokenizer" : "");
    }
    for (size_t i = 0, next; steering && i < steering->n_hits; i = next) {
        int64_t n_prompt = 0, n_generated = 0;
        for (next = i;
             next < steering->n_hits && steering->hits[next]->intervention == steering->hits[i]->intervention;
             next++) {
            n_prompt += steering->hits[next]->n_prompt;
            n_generated += steering->hits[next]->n_generated;
        }
        fprintf(out, "  %d. %s %s: touched %" PRId64 " prompt and %" PRId64 " generated rows\n",
                steering->hits[i]->intervention, steering->hits[i]->site, steering->hits[i]->op, n_prompt,
                n_generated);
    }
    if (record->routes) fprintf(out, "routes of prompt %" PRIu64 ": %s\n", record->id, record->routes_file);
    fclose(out);
    return text;
}

static json_t *problem_json(const cox_record *record)
{
    return json_pack("{s:I, s:{s:s, s:s}}", "index", (json_int_t)(record->id - 1), "error", "code",
                     record->error_code, "message", record->error_message);
}

/* What follows the text of the prompt whose turn it was. */
static void end_answer(generate *g, answer *a)
{
    if (a->json) {
        char *line = json_dumps(a->json, JSON_COMPACT);
        if (line) show(g, line, strlen(line));
        free(line);
    }
    if (a->json || !a->problem) show(g, "\n", 1);
    if (a->problem && g->n > 1)
        fprintf(stderr, "coxswain generate: prompt %zu: %s\n", g->turn + 1, a->problem);
    if (a->digest[0] && !a->json)
        fprintf(stderr, "logits digest of prompt %zu: %s\n", g->turn + 1, a->digest);
    if (a->notes) fputs(a->notes, stderr);
}

/* Of several prompts, which one the text is an answer to: on standard output, since mpirun keeps no order
 * between it and standard error. */
static void announce(generate *g)
{
    if (g->n == 1 || g->options->is_json) return;
    show(g, "> ", 2);
    show(g, g->prompts[g->turn], strlen(g->prompts[g->turn]));
    show(g, "\n", 1);
}

static void on_record(void *context, const cox_record *record)
{
    generate *g = context;
    answer *a = &g->answers[record->id - 1];
    a->is_done = true;
    a->status = (cox_status)record->status;
    snprintf(a->digest, sizeof a->digest, "%s", record->digest);
    if (a->status != COX_OK) a->problem = strdup(record->error_message);
    if (a->status == COX_OK) note(g, cox_traces_write(record, g->model));
    if (a->status == COX_OK && !g->options->is_json) a->notes = answer_notes(record);
    if (g->options->is_json) a->json = a->status == COX_OK ? answer_json(g, record) : problem_json(record);
    while (g->turn < g->n && g->answers[g->turn].is_done) {
        end_answer(g, &g->answers[g->turn]);
        if (++g->turn == g->n) break;
        announce(g);
        show(g, g->answers[g->turn].text, g->answers[g->turn].n_text);
    }
}

/* The status that the program ends with: of the first prompt that failed. Messages of several are out
 * already. */
static cox_status first_failure(const generate *g)
{
    size_t n_failed = 0;
    const answer *first = NULL;
    for (size_t i = 0; i < g->n; i++) {
        if (g->answers[i].status == COX_OK) continue;
        n_failed++;
        if (!first) first = &g->answers[i];
    }
    if (!first) return g->failed;
    if (g->n == 1) return cox_fail(first->status, "%s", first->problem ? first->problem : "");
    return cox_fail(first->status, "%zu of %zu prompts failed", n_failed, g->n);
}

/* All ranks end alike, and so with one exit code. Collective. */
static cox_status agree_on_end(cox_run *run, generate *g)
{
    cox_status status = COX_OK;
    if (g->is_stopped && g->is_in_line) show(g, "\n", 1);
    if (g->is_stopped)
        status = cox_fail(COX_REQUEUE, "stopped by a signal after %zu of %zu answers", g->turn, g->n);
    return cox_run_agree(run, status);
}

static void generate_release(generate *g)
{
    for (size_t i = 0; i < g->n; i++) {
        free(g->prompts[i]);
        if (!g->answers) continue;
        free(g->answers[i].text);
        free(g->answers[i].notes);
        free(g->answers[i].problem);
        json_decref(g->answers[i].json);
    }
    free(g->prompts);
    free(g->answers);
    cox_plan_cache_destroy(g->steer);
}

cox_status cox_command_generate(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    cox_status status = check(options, &of_run.prompting);
    if (status != COX_OK) return status;
    cox_run run;
    status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    cox_options used = *options; /* with what the model's makers advise, when asked for */
    generate g = {
        .options = &used, .prompting = &of_run.prompting, .cluster = run.cluster, .model = run.model};
    if (cox_run_is_front(&run)) status = cox_generation_apply(&used, run.model);
    if (cox_run_is_front(&run) && status == COX_OK) status = generate_prepare(&g);
    status = cox_run_agree(&run, status);
    if (status == COX_OK) {
        if (cox_run_is_front(&run)) announce(&g);
        const cox_service service = {
            .events = {.context = &g, .on_text = on_text, .on_record = on_record},
            .source = {.context = &g, .next = next_request, .tick = tick},
            .needs_template = !options->is_raw,
            .has_chats = !options->is_raw,
        };
        status = cox_serve(&run, &service);
        if (status == COX_OK) status = agree_on_end(&run, &g);
    }
    bool is_front = cox_run_is_front(&run);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    if (status == COX_OK && is_front) status = first_failure(&g);
    generate_release(&g);
    return status;
}
