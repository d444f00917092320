/*
 * Coordinator c takes every
 * C-th chunk of the cells that have no result yet; rank 0 keeps the journal and, at the end, makes the tables
 * from it. All coordinators read grid, vectors and prompts themselves.
 */
#include "study/sweep.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "run/identity.h"
#include "run/results.h"
#include "study/work.h"
#include "cluster/drain.h"
#include "coordinator/clean_layer.h"
#include "model/tokenizer.h"

enum {
    CHUNK = 16, /* neighbouring cells that one coordinator takes: they share most */
    CLEAN = -1
};

/* Of a step, and of the KV cache, which is to hold all prompts: their number is not known when a run is
 * opened. */
enum { ROWS = 1024, SEQUENCES = 1024, KV_BYTES = 1 << 30 };

typedef struct stage {
    cox_sweep *sweep;
    cox_cell_runner *runner;
    cox_results *results, *answers; /* rank 0; answers: while stage 2 runs */
    char *paths[2];                 /* of the results */
    int64_t *mine;                  /* [n_mine] cells of this coordinator that have no result */
    int64_t n_mine, n_submitted;
    int64_t n_all, n_missing; /* results of all coordinators; rank 0: that have not come in */
    uint64_t n_idle, n_pairs;
    cox_cell_savings savings; /* of stage 1 */
    cox_sweep_table table;    /* rank 0 */
    int64_t *chosen;          /* [n_chosen] cells of stage 2 */
    int64_t n_chosen;
    bool has_letter, is_answering, is_stopped;
    cox_progress bar;
} stage;

/* --- Results --- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *numbers(const double *values, int32_t n)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++) json_array_append_new(list, number(values[i]));
    return list;
}

/* Takes the object over. One line, malloc'ed, that ends in a newline. NULL: out of memory. */
static char *line_of(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL, *line = NULL;
    json_decref(json);
    if (!text || asprintf(&line, "%s\n", text) < 0) line = NULL;
    free(text);
    if (!line) cox_no_memory("a result");
    return line;
}

static char *result_line(const cox_sweep *s, const cox_cell_result *result)
{
    json_t *json = json_pack("{s:I, s:i}", "cell", (json_int_t)result->cell, "idle", (int)result->n_idle);
    for (int32_t set = 0, first = 0; set < s->n_sets && json; first += s->sets[set].n, set++) {
        int32_t n = s->sets[set].n;
        json_t *part = json_pack("{s:o*, s:o*}", "log_odds", numbers(result->log_odds + first, n), "kl",
                                 numbers(result->kl + first, n));
        if (result->digests) {
            json_t *digests = json_array();
            for (int32_t i = 0; i < n; i++)
                json_array_append_new(digests, json_string(result->digests[first + i]));
            json_object_set_new(part, "logits_digest", digests);
        }
        json_object_set_new(json, cox_sweep_set_name(set), part);
    }
    return line_of(json);
}

static json_t *answer_json(const stage *st, const cox_cell_result *result, int32_t prompt)
{
    char *text = NULL;
    size_t n_bytes = 0;
    const int32_t *tokens = result->tokens + (size_t)prompt * (size_t)result->max_tokens;
    cox_status status = cox_tokenizer_decode(st->sweep->words, tokens, (size_t)result->n_tokens[prompt], true,
                                             &text, &n_bytes);
    json_t *json = status == COX_OK
                       ? json_pack("{s:s%, s:i, s:b}", "text", text, n_bytes, "tokens",
                                   (int)result->n_tokens[prompt], "ended", (int)result->has_ended[prompt])
                       : NULL;
    free(text);
    return json;
}

/* Of one cell, the answers to all prompts by set. */
static char *answers_line(const stage *st, const cox_cell_result *result)
{
    const cox_sweep *s = st->sweep;
    json_t *json = json_pack("{s:I}", "cell", (json_int_t)result->cell);
    for (int32_t set = 0, p = 0; set < s->n_sets; set++) {
        json_t *list = json_array();
        for (int32_t i = 0; i < s->sets[set].n; i++, p++)
            json_array_append_new(list, answer_json(st, result, p));
        json_object_set_new(json, cox_sweep_set_name(set), list);
    }
    return line_of(json);
}

/* Where a cell stands among the chosen ones; the clean run has 0. */
static uint64_t number_of(const stage *st, int64_t cell)
{
    uint64_t i = 0;
    while (cell != CLEAN && st->chosen[i] != cell) i++;
    return cell == CLEAN ? 0 : i + 1;
}

/* The key of a cell's result: the clean run has 0. */
static uint64_t key_of(int64_t cell)
{
    return (uint64_t)(cell + 1);
}

static cox_status keep(stage *st, uint64_t key, const char *line, size_t n)
{
    cox_results *results = st->answers ? st->answers : st->results;
    if (cox_results_has(results, key)) return COX_OK;
    st->n_missing--;
    return cox_results_write(results, key, line, n);
}

/* A letter to rank 0: the key, then the line. */
static cox_status mail(stage *st, uint64_t key, const char *line, size_t n)
{
    char *letter = malloc(sizeof key + n);
    if (!letter) return cox_no_memory("a result");
    memcpy(letter, &key, sizeof key);
    memcpy(letter + sizeof key, line, n);
    cox_status status =
        cox_mailbox_send(st->sweep->run->cluster, COX_MAIL_SESSION, 0, letter, sizeof key + n);
    free(letter);
    return status;
}

static cox_status on_result(void *context, const cox_cell_result *result)
{
    stage *st = context;
    char *line = st->is_answering ? answers_line(st, result) : result_line(st->sweep, result);
    if (!line) return COX_NO_MEMORY;
    uint64_t key = st->is_answering ? number_of(st, result->cell) : key_of(result->cell);
    bool is_front = cox_run_is_front(st->sweep->run);
    cox_status status = is_front ? keep(st, key, line, strlen(line)) : mail(st, key, line, strlen(line));
    st->n_idle += (uint64_t)result->n_idle;
    st->n_pairs += (uint64_t)result->n_prompts;
    free(line);
    return status;
}

static cox_status take_mail(stage *st)
{
    for (;;) {
        int32_t from = 0;
        void *data = NULL;
        size_t n = 0;
        uint64_t key;
        cox_status status = cox_mailbox_poll(st->sweep->run->cluster, COX_MAIL_SESSION, &from, &data, &n);
        if (status != COX_OK || !data) return status;
        memcpy(&key, data, sizeof key);
        status = keep(st, key, (const char *)data + sizeof key, n - sizeof key);
        free(data);
        if (status != COX_OK) return status;
    }
}

/* --- Files --- */

/* All that the results depend on; NULL with a message. */
static json_t *identity_of(const cox_sweep *s)
{
    const cox_sweep_options *o = s->options;
    const char *const keys[] = {"a", "b", "neutral", "rules"};
    const char *const files[] = {o->prompts[0], o->prompts[1], o->neutral, o->rules};
    json_t *json =
        json_pack("{s:s, s:O, s:I, s:b, s:I, s:I, s:f}", "command", "sweep", "grid", s->grid->json, "limit",
                  (json_int_t)o->limit, "logits_digest", (int)o->wants_digest, "best", (json_int_t)o->n_best,
                  "max_tokens", (json_int_t)o->max_tokens, "max_kl", o->max_kl);
    cox_status status = json ? COX_OK : cox_no_memory("a sweep");
    for (int i = 0; i < 4 && status == COX_OK; i++) {
        if (files[i]) status = cox_identity_add_file(json, keys[i], files[i], s->run->cluster);
    }
    for (int32_t b = 0; b < s->grid->n_blocks && status == COX_OK; b++) {
        char *path = cox_sweep_vectors(s, &s->grid->blocks[b]), key[32];
        snprintf(key, sizeof key, "vectors %d", (int)b);
        status = path ? cox_identity_add_file(json, key, path, s->run->cluster) : COX_NO_MEMORY;
        free(path);
    }
    if (status == COX_OK) status = cox_identity_add_model(json, &s->run->options, s->run->model);
    if (status == COX_OK) status = cox_identity_add_prompting(json, &s->run->options.prompting);
    if (status == COX_OK) return json;
    json_decref(json);
    return NULL;
}

static cox_status open_results(stage *st, const char *name, cox_results **results)
{
    cox_sweep *s = st->sweep;
    json_t *identity = identity_of(s);
    char *path = cox_sweep_path(s, name);
    cox_status status = identity && path ? COX_OK : COX_INVALID;
    st->paths[*name == 's' && strcmp(name, "stage1.jsonl") == 0 ? 0 : 1] = path;
    if (status == COX_OK)
        status = cox_results_open(results, &(cox_journal_options){.path = path,
                                                                  .run = identity,
                                                                  .begins_anew = s->options->begins_anew,
                                                                  .cluster = s->run->cluster});
    json_decref(identity);
    return status;
}

/* --- The loop --- */

static void report(stage *st)
{
    char note[64];
    double idle = st->n_pairs > 0 ? 100.0 * (double)st->n_idle / (double)st->n_pairs : 0;
    snprintf(note, sizeof note, "%.0f%% needed no work", idle);
    cox_progress_update(&st->bar, (uint64_t)(st->n_all - st->n_missing), (uint64_t)st->n_all,
                        st->answers ? NULL : note);
}

/* On the other coordinators: the letter with the cells of stage 2, or none: rank 0 has stopped. */
static cox_status take_letter(stage *st)
{
    int32_t from = 0;
    void *data = NULL;
    size_t n = 0;
    cox_status status = cox_mailbox_poll(st->sweep->run->cluster, COX_MAIL_SESSION, &from, &data, &n);
    if (status != COX_OK || !data) return status;
    st->chosen = data;
    st->n_chosen = (int64_t)(n / sizeof *st->chosen);
    st->is_stopped = st->n_chosen == 0;
    st->has_letter = true;
    return COX_OK;
}

static cox_status submit_some(void *context)
{
    stage *st = context;
    cox_status status = COX_OK;
    while (status == COX_OK && st->n_submitted < st->n_mine && cox_cell_runner_has_room(st->runner))
        status = cox_cell_runner_submit(st->runner, st->mine[st->n_submitted++]);
    return status;
}

static bool is_running(const void *context)
{
    const stage *st = context;
    return cox_cell_runner_n_running(st->runner) > 0;
}

static cox_status step(void *context)
{
    stage *st = context;
    return cox_cell_runner_step(st->runner, on_result, st);
}

static cox_status take(void *context)
{
    stage *st = context;
    st->is_stopped = st->is_stopped || cox_drain_is_wanted();
    if (!cox_run_is_front(st->sweep->run)) return st->has_letter ? COX_OK : take_letter(st);
    cox_status status = take_mail(st);
    if (status == COX_OK) status = cox_results_tick(st->answers ? st->answers : st->results);
    report(st);
    return status;
}

/* Until this coordinator's cells, and on rank 0 all cells, have their results, or a signal comes. */
static bool has_more(const void *context)
{
    const stage *st = context;
    return !st->is_stopped && (st->n_submitted < st->n_mine || is_running(st) ||
                               (cox_run_is_front(st->sweep->run) && st->n_missing > 0));
}

/* On the other coordinators: stage 1 is done, and rank 0 has not said what comes next. */
static bool is_waiting(const void *context)
{
    const stage *st = context;
    return !st->is_stopped && !st->has_letter;
}

static cox_status run_while(stage *st, bool (*has_work)(const void *context))
{
    const cox_work_loop work = {.context = st,
                                .has_more = has_work,
                                .submit = submit_some,
                                .is_running = is_running,
                                .step = step,
                                .take = take};
    return cox_work_loop_run(st->sweep->run, &work);
}

static cox_status stage_1(stage *st)
{
    cox_cell_result clean;
    cox_status status = cox_cell_runner_run_clean(st->runner, &clean);
    if (status == COX_OK && cox_run_is_front(st->sweep->run) && !cox_results_has(st->results, key_of(-1)))
        status = on_result(st, &clean);
    if (status == COX_OK) status = run_while(st, has_more);
    st->savings = cox_cell_runner_savings(st->runner);
    return status;
}

/* Of stage 1: rows that cells could have shared, had the clean prompts stayed in memory, make it more than 1.
 */
static double times_computed(const cox_cell_savings *s)
{
    uint64_t spared = s->idle + s->before + s->below + s->shared;
    return spared < s->whole ? (double)s->computed / (double)(s->whole - spared) : 1;
}

/* --- Stage 2: answers of the chosen cells; number 0 is the clean run, number i + 1 chosen[i] --- */

/* On rank 0: tables of stage 1, and the choice, which all coordinators are told. */
static cox_status choose(stage *st)
{
    cox_sweep *s = st->sweep;
    cox_status status = COX_OK;
    if (!st->is_stopped) {
        status = cox_sweep_read_table(s, &st->table);
        if (status == COX_OK) status = cox_sweep_write_csv(s, &st->table);
        if (status == COX_OK) status = cox_sweep_choose(s, &st->table, &st->chosen, &st->n_chosen);
        if (status == COX_OK) status = cox_sweep_write_best(s, &st->table, st->chosen, st->n_chosen);
        if (status == COX_OK && st->n_chosen > 0) status = open_results(st, "stage2.jsonl", &st->answers);
    }
    for (int32_t c = 1; c < cox_cluster_n_coordinators(s->run->cluster) && status == COX_OK; c++) {
        status =
            cox_mailbox_send(s->run->cluster, COX_MAIL_SESSION, c, st->n_chosen ? (void *)st->chosen : "",
                             (size_t)st->n_chosen * sizeof *st->chosen);
    }
    return status;
}

static cox_status stage_2(stage *st)
{
    cox_run *run = st->sweep->run;
    bool is_front = cox_run_is_front(run);
    cox_status status = COX_OK;
    if (is_front) status = choose(st);
    if (status == COX_OK && !is_front) status = run_while(st, is_waiting);
    if (status != COX_OK || st->is_stopped || st->n_chosen == 0) return status;
    int32_t n_coordinators = cox_cluster_n_coordinators(run->cluster);
    int64_t *mine = realloc(st->mine, (size_t)(st->n_chosen + 1) * sizeof *mine);
    if (!mine) return cox_no_memory("a sweep");
    st->mine = mine;
    st->n_mine = st->n_submitted = st->n_missing = 0;
    for (int64_t i = 0; i <= st->n_chosen;
         i++) { /* rank 0 alone knows what is there; the others do it again */
        bool is_there = is_front && cox_results_has(st->answers, (uint64_t)i);
        st->n_missing += !is_there;
        if (i % n_coordinators == run->rank && !is_there)
            st->mine[st->n_mine++] = i == 0 ? CLEAN : st->chosen[i - 1];
    }
    st->n_all = st->n_chosen + 1;
    status = cox_cell_runner_begin_answers(st->runner, (int32_t)st->sweep->options->max_tokens);
    st->is_answering = true;
    return status == COX_OK ? run_while(st, has_more) : status;
}

static cox_status run_stages(stage *st)
{
    cox_status status = stage_1(st);
    return status == COX_OK ? stage_2(st) : status;
}

/* Which cells have results: rank 0 tells all. */
static cox_status share_cells(stage *st)
{
    cox_run *run = st->sweep->run;
    int64_t n_cells = 0, n_left = 0;
    void *data = NULL;
    size_t n_bytes = 0;
    if (cox_run_is_front(run)) {
        n_cells = st->sweep->grid->n_cells;
        n_bytes = (size_t)n_cells + 1;
        data = calloc(n_bytes, 1);
        for (size_t k = 0; data && k < n_bytes; k++) ((uint8_t *)data)[k] = cox_results_has(st->results, k);
    }
    cox_status status = cox_run_agree(run, n_bytes > 0 && !data ? cox_no_memory("a sweep") : COX_OK);
    if (status == COX_OK) status = cox_cluster_broadcast(run->cluster, 0, &data, &n_bytes);
    n_cells = (int64_t)n_bytes - 1;
    st->n_all = n_cells + 1;
    if (status == COX_OK && cox_cluster_is_coordinator(run->cluster)) {
        st->mine = malloc(n_bytes * sizeof *st->mine);
        if (!st->mine) status = cox_no_memory("a sweep");
        int32_t n_coordinators = cox_cluster_n_coordinators(run->cluster);
        for (int64_t c = 0; c < n_cells && status == COX_OK; c++) {
            if (((uint8_t *)data)[key_of(c)]) continue;
            if (n_left++ / CHUNK % n_coordinators == run->rank) st->mine[st->n_mine++] = c;
        }
        st->n_missing = n_left + !((uint8_t *)data)[0];
    }
    free(data);
    return cox_run_agree(run, status);
}

/* --- All of it --- */

static cox_status make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return COX_OK;
    return cox_fail(COX_IO, "--output %s: cannot make the folder: %s", path, strerror(errno));
}

static cox_status run_coordinator(stage *st)
{
    cox_sweep *s = st->sweep;
    const cox_cell_question question = {.grid = s->grid,
                                        .folder = s->folder,
                                        .randoms = s->randoms,
                                        .tokenizer_fingerprint = s->tokenizer,
                                        .is_forced = s->options->forces_steering,
                                        .sets = s->sets,
                                        .n_sets = s->n_sets,
                                        .first_tokens = s->first_tokens,
                                        .wants_digests = s->options->wants_digest};
    cox_progress_begin(&st->bar, "sweep",
                       cox_run_is_front(s->run) ? s->run->options.progress : COX_PROGRESS_NONE,
                       COX_PROGRESS_COUNT);
    cox_status status = cox_cell_runner_create(&st->runner, s->run, &question);
    if (status == COX_OK) status = run_stages(st);
    if (st->runner) s->run->counters = *cox_cell_runner_counters(st->runner);
    cox_cell_runner_destroy(st->runner);
    return status;
}

/* On rank 0, when the ranks have done their work. */
static cox_status end(stage *st, cox_status status)
{
    cox_sweep *s = st->sweep;
    cox_status closed[2] = {cox_results_close(st->results), cox_results_close(st->answers)};
    for (int i = 0; i < 2 && status == COX_OK; i++) status = closed[i];
    if (status == COX_OK && st->is_stopped)
        status = cox_fail(COX_REQUEUE, "stopped by a signal; the same command goes on from %s",
                          s->options->output);
    if (status == COX_OK && st->n_chosen > 0) status = cox_sweep_write_answers(s, st->chosen, st->n_chosen);
    if (status == COX_OK && st->bar.style == COX_PROGRESS_BAR)
        cox_progress_end(&st->bar, (uint64_t)st->n_all, (uint64_t)st->n_all, NULL);
    return status;
}

/* The choice of cells goes by the log-odds, whatever labels are called; but answers must have one to be
 * judged by. */
static cox_status check_labels(const cox_sweep *s)
{
    if (s->options->n_best == 0 || cox_rules_n_labels(s->rules) > 0) return COX_OK;
    return cox_fail(
        COX_INVALID,
        "%s: there is no label in it to judge answers by; add one to \"labels\", or leave answers "
        "out with --best 0",
        s->options->rules);
}

static cox_status stage_prepare(stage *st)
{
    cox_sweep *s = st->sweep;
    bool is_front = cox_run_is_front(s->run);
    cox_status status = cox_run_agree(s->run, is_front ? make_folder(s->options->output) : COX_OK);
    if (status == COX_OK && cox_cluster_is_coordinator(s->run->cluster)) status = cox_sweep_read_inputs(s);
    if (status == COX_OK && s->rules) status = check_labels(s);
    if (status == COX_OK && s->options->n_best > 0) status = cox_model_check_ends(s->run->model);
    if (status == COX_OK && is_front) status = cox_sweep_write_randoms(s);
    if (status == COX_OK && is_front) status = open_results(st, "stage1.jsonl", &st->results);
    status = cox_run_agree(s->run, status);
    return status == COX_OK ? share_cells(st) : status;
}

void cox_sweep_prepare_run(cox_run_options *run)
{
    run->max_rows = ROWS;
    run->max_sequences = SEQUENCES;
    run->caller_bytes = COX_CLEAN_LAYER_MOST_BYTES;
    if (run->kv_memory_bytes == 0) run->kv_memory_bytes = KV_BYTES;
}

cox_status cox_sweep_run(cox_run *run, const cox_sweep_options *options, cox_swept *swept)
{
    cox_sweep sweep = {.options = options, .run = run};
    stage st = {.sweep = &sweep};
    bool is_working = cox_cluster_is_coordinator(run->cluster);
    cox_status status = stage_prepare(&st);
    if (status == COX_OK) status = cox_run_finish(run, is_working ? run_coordinator(&st) : COX_OK);
    if (cox_run_is_front(run)) status = end(&st, status);
    *swept = (cox_swept){.has_answers = st.is_answering, .times_computed = times_computed(&st.savings)};
    status = cox_run_agree(run, status);
    free(st.paths[0]);
    free(st.paths[1]);
    free(st.mine);
    free(st.chosen);
    free(st.table.rows);
    cox_sweep_free_inputs(&sweep);
    return status;
}

static cox_status plan_of(cox_sweep *s, int64_t number, json_t **plan)
{
    cox_status status = make_folder(s->options->output);
    if (status == COX_OK) status = cox_sweep_read_inputs(s);
    if (status != COX_OK) return status;
    if (number >= s->grid->n_cells) {
        return cox_fail(COX_INVALID, "--show-cell %" PRId64 ": the grid has %" PRId64 " cells", number,
                        s->grid->n_cells);
    }
    const cox_sweep_cell cell = cox_sweep_cell_at(s->grid, number);
    *plan = cox_sweep_plan(s, &cell, false);
    return *plan ? COX_OK : COX_NO_MEMORY;
}

cox_status cox_sweep_show(cox_run *run, const cox_sweep_options *options, int64_t cell, json_t **plan)
{
    cox_sweep sweep = {.options = options, .run = run};
    cox_status status = cox_run_is_front(run) ? plan_of(&sweep, cell, plan) : COX_OK;
    cox_sweep_free_inputs(&sweep);
    status = cox_run_agree(run, status);
    return status == COX_OK ? cox_run_finish(run, COX_OK) : status;
}
