/*
 * coxswain batch: OpenAI batch lines in, OpenAI batch output lines out. Lines are read as coordinators have
 * room for them, answers are written as they finish, each by one write(). A line that cannot be served gets
 * an error line of its own; only trouble with the files or the ranks ends the run. Answers are journaled by
 * the number of their line, so that the same command skips those that are there.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/generation.h"
#include "run/identity.h"
#include "run/io.h"
#include "run/results.h"
#include "cli/seen.h"
#include "run/service.h"
#include "cluster/drain.h"
#include "run/plan_cache.h"
#include "run/traces.h"

typedef struct batch {
    const cox_options *options;
    const cox_run_options *of_run;
    cox_cluster *cluster;
    cox_lines *lines;
    cox_seen *seen; /* custom_ids so far */
    cox_results *results;
    bool has_warned_of_empty, has_warned_of_idle;
    bool is_stopped;   /* by a signal, before the end */
    double draining_s; /* since when; 0: not */
    cox_plan_cache *steer;
    const cox_model *model;
    char *folder; /* of the input: paths of plans are relative to it */
    uint64_t n_lines, n_answers, n_failed, n_generated, n_prompt;
    uint64_t n_failed_before, first_failed; /* of an earlier run's; the lowest line that failed, 0: none */
    int first_code;                         /* its status code */
    char *first_reason;
    const char *model_name;
    cox_progress bar;
    cox_status failed; /* what an event could not return */
} batch;

/* --- Output --- */

static void report(batch *b)
{
    double elapsed = cox_now_s() - b->bar.started_s;
    uint64_t done = b->bar.n_before + b->n_answers, total = 0, bytes = cox_lines_done_bytes(b->lines);
    /* How many lines there will be is estimated from the bytes read so far. */
    if (cox_lines_total_bytes(b->lines) > 0 && bytes > 0) {
        total =
            (uint64_t)((double)b->n_lines * (double)cox_lines_total_bytes(b->lines) / (double)bytes + 0.5);
    }
    char note[128];
    snprintf(note, sizeof note, "%.1f tok/s%s", elapsed > 0.0 ? (double)b->n_generated / elapsed : 0.0,
             b->n_failed > 0 ? ", some failed" : "");
    cox_progress_update(&b->bar, done, total < done ? done : total, note);
}

static void note_failure(batch *b, uint64_t line, int code, const char *reason)
{
    if (b->first_failed > 0 && b->first_failed < line) return;
    free(b->first_reason);
    b->first_reason = strdup(reason);
    b->first_failed = line;
    b->first_code = code;
}

/* An answer of the run that this one goes on from. */
static cox_status take_found(void *context, uint64_t key, const char *line, size_t n)
{
    static const char good[] = "\"status_code\":200,"; /* within a text its quotes would have backslashes */
    batch *b = context;
    if (memmem(line, n, good, sizeof good - 1)) return COX_OK;
    int code = 0;
    const char *reason = "";
    json_t *json = json_loadb(line, n, 0, NULL);
    json_unpack(json, "{s:{s:i}, s:{s:s}}", "response", "status_code", &code, "error", "message", &reason);
    note_failure(b, key, code, reason);
    b->n_failed_before++;
    json_decref(json);
    return COX_OK;
}

static void write_record(batch *b, const cox_record *record)
{
    if (b->failed == COX_OK) b->failed = cox_traces_write(record, b->model);
    if (b->failed != COX_OK) return;
    json_t *json = cox_record_to_batch_line(record, (int64_t)time(NULL), b->model_name);
    char *line = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!line) {
        b->failed = cox_no_memory("an answer line");
        return;
    }
    size_t n = strlen(line);
    line[n] = '\n'; /* in place of the NUL: one write for the whole line */
    b->failed = cox_results_write(b->results, record->id, line, n + 1);
    free(line);
    b->n_answers++;
    if (record->status_code != 200) {
        b->n_failed++;
        note_failure(b, record->id, record->status_code, record->error_message);
    }
    b->n_generated += (uint64_t)cox_record_n_generated(record);
    b->n_prompt += (uint64_t)record->n_prompt;
    report(b);
}

static void on_record(void *context, const cox_record *record)
{
    write_record(context, record);
}

/* --- Input --- */

/* The error line of a line that is no request. Takes the request over. */
static cox_status refuse(batch *b, cox_request *request, cox_status status)
{
    cox_record *record = cox_record_create(request);
    cox_request_destroy(request);
    if (!record) return COX_NO_MEMORY;
    cox_status set = cox_record_set_error(record, status, cox_status_message());
    if (set == COX_OK) write_record(b, record);
    cox_record_destroy(record);
    return set;
}

/* What a request asks of the files around it: its plan, and the file for its routes. */
static cox_status complete(batch *b, cox_request *request, cox_plan **plan, const char *where)
{
    const cox_options *options = b->options;
    cox_status status = COX_OK;
    if (request->steering) {
        status = cox_plan_cache_compile(b->steer, request->steering->json, b->folder, plan);
    } else if (options->plan) {
        status = cox_plan_cache_load(b->steer, options->plan, plan);
    }
    if (status != COX_OK) return cox_fail_in(status, "%s", where);
    if (!request->wants_routes) return COX_OK;
    if (options->trace_folder) return cox_traces_name(request, options->trace_folder, "line");
    return cox_fail(COX_INVALID, "%s: \"trace_routes\" needs a run with --trace-routes DIR", where);
}

static cox_status check_custom_id(batch *b, const cox_request *request, const char *where)
{
    bool is_new = false;
    cox_status status = cox_seen_add(b->seen, request->custom_id, &is_new);
    if (status != COX_OK || is_new) return status;
    return cox_fail(COX_INVALID, "%s: custom_id \"%s\" was used before", where, request->custom_id);
}

static bool is_blank(const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!strchr(" \t\r", line[i]) || line[i] == '\0') return false;
    }
    return true;
}

static bool is_empty(const char *text)
{
    return text && text[strspn(text, " \t\r\n")] == '\0';
}

/* Of a chat: what is said last. It is only parsed where some text in it may be empty. */
static bool has_empty_prompt(const cox_request *request)
{
    if (!request->is_chat) return request->n_prompt_ids == 0 && is_empty(request->prompt);
    if (!strstr(request->chat, "\"content\":\"\"")) return false;
    json_t *chat = json_loads(request->chat, 0, NULL);
    const json_t *messages = json_object_get(chat, "messages");
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    bool is_there = is_empty(json_string_value(json_object_get(last, "content")));
    json_decref(chat);
    return is_there;
}

/* What has perhaps not the effect that was meant. Once each: the first line of its kind says enough. */
static void warn(batch *b, const cox_request *request)
{
    const Cox__SamplingFields *s = request->sampling;
    const char *input = b->options->input;
    const char *idle =
        cox_generation_idle((double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p);
    if (idle && !b->has_warned_of_idle) {
        fprintf(stderr,
                "warning: %s: line %" PRIu64 ": %s changes nothing at temperature 0 (greedy); give a "
                "temperature too\n",
                input, b->n_lines, idle);
        b->has_warned_of_idle = true;
    }
    if (!b->has_warned_of_empty && has_empty_prompt(request)) {
        fprintf(stderr, "warning: %s: line %" PRIu64 ": the prompt is empty\n", input, b->n_lines);
        b->has_warned_of_empty = true;
    }
}

/* One line: a request, or NULL when it got its error line or has its answer already. */
static cox_status read_request(batch *b, const char *line, size_t n, bool is_too_long, cox_request **request,
                               cox_plan **plan)
{
    char where[64];
    snprintf(where, sizeof where, "line %" PRIu64, b->n_lines);
    cox_request *fresh = cox_request_create();
    if (!fresh) return COX_NO_MEMORY;
    fresh->id = b->n_lines;
    cox_generation_set(b->options, fresh);
    cox_status status = is_too_long
                            ? cox_fail(COX_TOO_LONG, "%s: longer than %d bytes", where, COX_LINE_MAX_BYTES)
                            : cox_request_read_line(fresh, line, n, where);
    cox_status reading = status;
    if (*fresh->custom_id) {
        cox_status unique = check_custom_id(b, fresh, where);
        if (reading == COX_OK) status = unique;
    }
    if (cox_results_has(b->results, fresh->id)) {
        cox_request_destroy(fresh);
        return COX_OK;
    }
    if (status == COX_OK) status = cox_prompting_apply(fresh, &b->of_run->prompting, where);
    if (status == COX_OK) status = complete(b, fresh, plan, where);
    if (status != COX_OK) {
        cox_plan_free(*plan);
        *plan = NULL;
        return refuse(b, fresh, status);
    }
    warn(b, fresh);
    *request = fresh;
    return COX_OK;
}

static cox_status next_request(void *context, bool is_idle, cox_request **request, cox_plan **plan,
                               bool *is_end)
{
    batch *b = context;
    while (!*request) {
        if (b->failed != COX_OK) return b->failed;
        if (cox_drain_is_wanted()) {
            b->is_stopped = *is_end = true;
            return COX_OK;
        }
        cox_line_result result = COX_LINE_END;
        const char *line = NULL;
        size_t n = 0;
        cox_status status = cox_lines_next(b->lines, is_idle ? 0.2 : 0.0, &result, &line, &n);
        if (status != COX_OK) return status;
        report(b);
        if (result == COX_LINE_NONE_NOW) return COX_OK;
        if (result == COX_LINE_END) {
            *is_end = true;
            return COX_OK;
        }
        cox_cluster_keepalive(b->cluster, "reading requests"); /* many may have their answers */
        b->n_lines++;
        if (result == COX_LINE_READY && is_blank(line, n)) continue;
        status = read_request(b, line, n, result == COX_LINE_TOO_LONG, request, plan);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

/* Answers that run when a signal comes get their time, then they are left to the next run. */
static cox_status tick(void *context, bool *is_over)
{
    batch *b = context;
    report(b);
    if (cox_drain_is_wanted()) {
        if (b->draining_s == 0) b->draining_s = cox_now_s();
        *is_over = cox_now_s() - b->draining_s >= (double)b->options->drain_time_s;
        b->is_stopped = b->is_stopped || *is_over;
    }
    return b->failed != COX_OK ? b->failed : cox_results_tick(b->results);
}

/* --- The command --- */

/* Input that cannot be read twice cannot be told from another one: then there is no journal. */
static bool is_repeatable(const char *path)
{
    struct stat file;
    return strcmp(path, "-") != 0 && stat(path, &file) == 0 && S_ISREG(file.st_mode);
}

/* What --steer means, vectors included. */
static cox_status add_plan(batch *b, json_t *run)
{
    cox_plan *plan = NULL;
    void *packed = NULL;
    size_t n_bytes = 0;
    int32_t n_kept = 0;
    cox_status status = cox_plan_cache_load(b->steer, b->options->plan, &plan);
    if (status == COX_OK) status = cox_plan_pack(plan, NULL, NULL, &packed, &n_bytes, &n_kept);
    if (status == COX_OK) status = cox_identity_add_bytes(run, "steer", packed, n_bytes);
    free(packed);
    cox_plan_free(plan);
    return status;
}

/* What requests that do not say otherwise are sampled with. */
static cox_status add_sampling(json_t *run, const cox_options *options)
{
    json_t *sampling =
        json_pack("{s:I, s:f, s:I, s:f, s:f, s:f, s:I, s:b, s:b}", "max_tokens",
                  (json_int_t)options->max_tokens, "temperature", options->temperature, "top_k",
                  (json_int_t)options->top_k, "top_p", options->top_p, "min_p", options->min_p,
                  "repetition_penalty", options->repetition_penalty, "seed", (json_int_t)options->seed,
                  "ignore_eos", (int)options->ignores_eos, "logits_digest", (int)options->wants_digest);
    if (!sampling) return cox_no_memory("a batch");
    /* not said when they are off, as in journals from before they were there */
    if (options->presence_penalty != 0.0)
        json_object_set_new(sampling, "presence_penalty", json_real(options->presence_penalty));
    if (options->frequency_penalty != 0.0)
        json_object_set_new(sampling, "frequency_penalty", json_real(options->frequency_penalty));
    int failed = json_object_update(run, sampling);
    json_decref(sampling);
    return failed ? cox_no_memory("a batch") : COX_OK;
}

static cox_status open_results(batch *b)
{
    const cox_options *options = b->options;
    json_t *run = is_repeatable(options->input) ? json_pack("{s:s}", "command", "batch") : NULL;
    cox_status status = COX_OK;
    if (run) {
        status = cox_identity_add_file(run, "input", options->input, b->cluster);
        if (status == COX_OK) status = cox_identity_add_model(run, b->of_run, b->model);
        if (status == COX_OK) status = cox_identity_add_prompting(run, &b->of_run->prompting);
        if (status == COX_OK) status = add_sampling(run, options);
        if (status == COX_OK && options->plan) status = add_plan(b, run);
        if (status == COX_OK && options->forces_steering)
            status = cox_identity_add_text(run, "force_steering", "yes");
        if (status == COX_OK && options->trace_folder)
            status = cox_identity_add_text(run, "trace_routes", options->trace_folder);
    }
    if (status == COX_OK)
        status = cox_results_open(&b->results, &(cox_journal_options){.path = options->output,
                                                                      .run = run,
                                                                      .begins_anew = options->has_force,
                                                                      .cluster = b->cluster,
                                                                      .on_result = take_found,
                                                                      .context = b});
    json_decref(run);
    return status;
}

static cox_status find_folder(batch *b)
{
    const char *slash = strrchr(b->options->input, '/');
    if (!slash) {
        b->folder = strdup(".");
    } else {
        b->folder = slash == b->options->input
                        ? strdup("/")
                        : strndup(b->options->input, (size_t)(slash - b->options->input));
    }
    return b->folder ? COX_OK : cox_no_memory("a batch");
}

/* Output comes last: what is wrong before leaves no file behind. */
static cox_status open_files(batch *b)
{
    const cox_options *options = b->options;
    cox_status status = cox_lines_open(&b->lines, options->input);
    if (status == COX_OK) status = cox_seen_create(&b->seen);
    if (status == COX_OK) status = find_folder(b);
    if (status == COX_OK) status = cox_plan_cache_create(&b->steer, b->model, options->forces_steering);
    if (status == COX_OK && options->plan) status = cox_plan_cache_check(b->steer, options->plan);
    if (status == COX_OK && options->trace_folder) {
        bool may_hold_some = options->has_force || cox_journal_is_there(options->output);
        status = cox_traces_open(options->trace_folder, may_hold_some);
    }
    if (status == COX_OK) status = open_results(b);
    return status;
}

static cox_status close_files(batch *b, cox_status status)
{
    cox_status closed = cox_results_close(b->results);
    cox_lines_close(b->lines);
    cox_seen_destroy(b->seen);
    cox_plan_cache_destroy(b->steer);
    free(b->folder);
    free(b->first_reason);
    return status != COX_OK ? status : closed;
}

static void print_found(const batch *b)
{
    cox_journal_found found = cox_results_what_was_found(b->results);
    if (found.n_results == 0) return;
    fprintf(stderr, "batch: %s has %" PRIu64 " answers of this run; going on", b->options->output,
            found.n_results);
    if (found.n_cut_bytes > 0) fprintf(stderr, " (%" PRIu64 " unfinished bytes cut)", found.n_cut_bytes);
    fprintf(stderr, "\n");
}

static void print_sum(const batch *b)
{
    double elapsed = cox_now_s() - b->bar.started_s;
    char duration[32];
    cox_format_duration(duration, sizeof duration, elapsed);
    fprintf(stderr,
            "batch: %" PRIu64 " answers, %" PRIu64 " failed; %" PRIu64 " prompt and %" PRIu64
            " generated tokens in %s (%.1f tok/s)\n",
            b->n_answers - b->n_failed, b->n_failed, b->n_prompt, b->n_generated, duration,
            elapsed > 0.0 ? (double)b->n_generated / elapsed : 0.0);
}

/* All ranks end alike, and so with one exit code. Collective. */
static cox_status agree_on_end(cox_run *run, const batch *b)
{
    cox_status status = b->failed;
    uint64_t n_answers = b->bar.n_before + b->n_answers, n_failed = b->n_failed_before + b->n_failed;
    if (status == COX_OK && b->is_stopped) {
        status = cox_fail(COX_REQUEUE, "stopped by a signal with %" PRIu64 " answers in %s; %s", n_answers,
                          b->options->output,
                          cox_results_has_journal(b->results) ? "the same command goes on from there"
                                                              : "it has no journal to go on from");
    } else if (status == COX_OK && n_answers > 0 && n_failed == n_answers) {
        const char *reason = b->first_reason ? b->first_reason : "";
        char where[32] = "";
        if (strncmp(reason, "line ", 5) != 0)
            snprintf(where, sizeof where, "line %" PRIu64 ": ", b->first_failed);
        status = cox_fail(b->first_code < 500 ? COX_INVALID : COX_INTERNAL,
                          "every request failed, the first for this reason: %s%s", where, reason);
    }
    return cox_run_agree(run, status);
}

static cox_status serve(cox_run *run, batch *b)
{
    bool is_front = cox_run_is_front(run);
    cox_progress_begin(&b->bar, "batch", is_front ? run->options.progress : COX_PROGRESS_NONE,
                       COX_PROGRESS_COUNT);
    if (is_front) {
        b->bar.n_before = cox_results_what_was_found(b->results).n_results;
        print_found(b);
    }
    const cox_service service = {
        .events = {.context = b, .on_record = on_record},
        .source = {.context = b, .next = next_request, .tick = tick},
        .has_chats = !b->options->is_raw,
        .may_be_ids = true,
    };
    cox_status status = cox_serve(run, &service);
    if (status == COX_OK && is_front) {
        if (b->bar.style == COX_PROGRESS_BAR)
            cox_progress_end(&b->bar, b->bar.n_before + b->n_answers, b->bar.n_before + b->n_answers, NULL);
        print_sum(b);
    }
    return status == COX_OK ? agree_on_end(run, b) : status;
}

cox_status cox_command_batch(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    cox_run run;
    cox_status status = cox_prompting_check(&of_run.prompting);
    if (status == COX_OK) status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    cox_options used = *options; /* with what the model's makers advise, when asked for */
    batch b = {.options = &used,
               .of_run = &of_run,
               .cluster = run.cluster,
               .model = run.model,
               .model_name = options->model};
    bool is_front = cox_run_is_front(&run);
    if (is_front) status = cox_generation_apply(&used, run.model);
    if (is_front && status == COX_OK) status = open_files(&b);
    status = cox_run_agree(&run, status);
    if (status == COX_OK) status = serve(&run, &b);
    /* Before the ranks part: mpirun ends all when the first one is gone. */
    if (is_front) status = close_files(&b, status);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}
