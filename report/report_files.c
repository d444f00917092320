/*
 * The files of a sweep's folder and what stands beside it, and whether they belong together. Runs no model.
 * Messages name the command line's options.
 */
#include "report/report_files.h"

#include <math.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "run/io.h"

struct cox_report_files {
    const cox_report_options *options;
    cox_report report;
    json_t *run, *controls_run, *best, *answers, *prompts[COX_REPORT_N_SETS];
    char *title;
    char *paths[8]; /* names that tables keep for their messages */
    size_t n_paths;
};

/* --- Files of a sweep's folder --- */

/* Kept until the end; NULL: out of memory. */
static const char *path_in(cox_report_files *in, const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        cox_no_memory("a report's files");
        return NULL;
    }
    return in->paths[in->n_paths++] = path;
}

static cox_status read_table(cox_csv *table, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    cox_status status = path ? cox_io_read_all(NULL, path, &text, &n) : COX_NO_MEMORY;
    return status == COX_OK ? cox_csv_parse(table, text, n, path) : status;
}

/* The first line of a sweep's journal says what its results depend on. [out] *run. */
static cox_status read_run(const char *path, json_t **run)
{
    cox_lines *lines = NULL;
    cox_line_result got = COX_LINE_END;
    const char *line = NULL, *command = NULL;
    size_t n = 0;
    json_t *json = NULL;
    int64_t version = 0;
    cox_status status = path ? cox_lines_open(&lines, path) : COX_NO_MEMORY;
    if (status == COX_NOT_FOUND)
        status = cox_fail(COX_NOT_FOUND,
                          "%s is not there: not the folder of a sweep, or its journal was removed", path);
    if (status == COX_OK) status = cox_lines_next(lines, 1, &got, &line, &n);
    if (status == COX_OK && got != COX_LINE_READY)
        status = cox_fail(COX_BAD_FILE, "%s: line 1: no journal", path);
    if (status == COX_OK) status = cox_json_load_text(&json, line, n, path);
    if (status == COX_OK) status = cox_json_int(json, path, "coxswain_journal", true, 1, 1, &version);
    if (status == COX_OK)
        status = cox_json_string(json_object_get(json, "run"), path, "command", true, &command);
    if (status == COX_OK && strcmp(command, "sweep") != 0)
        status = cox_fail(COX_BAD_FILE, "%s: line 1: the journal of `%s`, not of a sweep", path, command);
    if (status == COX_OK) *run = json_incref(json_object_get(json, "run"));
    json_decref(json);
    cox_lines_close(lines);
    return status;
}

/* What counts: as sweep chooses. */
static cox_status read_limits(const json_t *run, const char *where, double max_kl[COX_REPORT_N_SETS])
{
    cox_status status = cox_json_number(run, where, "max_kl", true, &max_kl[COX_REPORT_A]);
    max_kl[COX_REPORT_B] = json_object_get(run, "neutral") ? max_kl[COX_REPORT_A] : (double)INFINITY;
    return status;
}

static cox_status read_cells(cox_report_files *in, const char *folder, const json_t *run,
                             const double max_kl[COX_REPORT_N_SETS], cox_report_cells *cells)
{
    cox_csv table;
    const char *path = path_in(in, folder, "cells.csv");
    cox_status status = read_table(&table, path);
    if (status == COX_NOT_FOUND)
        status = cox_fail(COX_NOT_FOUND,
                          "%s is not there: the sweep has not finished its first stage; the same command "
                          "goes on",
                          path);
    return status == COX_OK ? cox_report_cells_read(cells, &table, json_object_get(run, "grid"), max_kl)
                            : status;
}

/* --- Answers --- */

/* Every line an object with a cell's number and lists of answers with a text. */
static cox_status check_answers(const json_t *line, const char *where)
{
    int64_t cell = 0;
    cox_status status = cox_json_int(line, where, "cell", true, -1, INT64_MAX, &cell);
    for (int set = 0; set < COX_REPORT_N_SETS && status == COX_OK; set++) {
        const char key[] = {"ab"[set], '\0'}, *text = NULL;
        const json_t *list = json_object_get(line, key), *answer;
        size_t i;
        if (!json_is_array(list)) return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a list", where, key);
        json_array_foreach(list, i, answer)
        {
            if (status == COX_OK) status = cox_json_string(answer, where, "text", true, &text);
        }
    }
    return status;
}

static cox_status read_lines(const char *path, json_t *list,
                             cox_status (*check)(const json_t *line, const char *where))
{
    char *text = NULL;
    size_t n_bytes = 0, number = 0;
    cox_status status = cox_io_read_all(NULL, path, &text, &n_bytes);
    for (const char *at = text, *end = text + n_bytes; status == COX_OK && at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        char where[1100];
        json_t *line = NULL;
        snprintf(where, sizeof where, "%.1000s: line %zu", path, ++number);
        if (n > strspn(at, " \t\r")) {
            status = cox_json_load_text(&line, at, n, where);
            if (status == COX_OK) status = check(line, where);
            if (status == COX_OK && json_array_append(list, line) != 0) status = cox_no_memory(where);
            json_decref(line);
        }
        at += n + (newline != NULL);
    }
    free(text);
    return status;
}

static cox_status read_answers(cox_report_files *in, const char *folder)
{
    const char *table_path = path_in(in, folder, "answers.csv"), *path = path_in(in, folder, "stage2.jsonl");
    cox_csv table;
    if (!table_path || !path) return COX_NO_MEMORY;
    if (access(table_path, F_OK) != 0) return COX_OK; /* no second stage, or not done */
    cox_status status = read_table(&table, table_path);
    if (status == COX_OK) status = cox_report_rates_read(&in->report.rates, &table);
    in->answers = json_array();
    if (status == COX_OK) status = read_lines(path, in->answers, check_answers);
    in->report.answers = in->answers;
    return status;
}

/* --- Prompts --- */

/* The text of the last message of the user; NULL: there is none. */
static const json_t *text_of(const json_t *line)
{
    const json_t *body = json_object_get(line, "body"), *holder = body ? body : line;
    const json_t *messages = json_object_get(holder, "messages");
    for (size_t i = json_array_size(messages); i-- > 0;) {
        const json_t *message = json_array_get(messages, i), *role = json_object_get(message, "role");
        if (json_is_string(role) && strcmp(json_string_value(role), "user") == 0)
            return json_object_get(message, "content");
    }
    return json_object_get(holder, "prompt");
}

static cox_status check_prompt(const json_t *line, const char *where)
{
    return text_of(line) ? COX_OK : cox_fail(COX_BAD_FILE, "%s: no prompt", where);
}

static cox_status read_prompts(cox_report_files *in, int set, const char *option, const char *path)
{
    char *text = NULL, digest[SHA256_DIGEST_STRING_LENGTH];
    const char key[] = {"ab"[set], '\0'}, *wanted = NULL;
    size_t n = 0, i;
    json_t *lines, *line;
    if (!path) return COX_OK;
    cox_status status = cox_io_read_all(NULL, path, &text, &n);
    if (status != COX_OK) return status;
    SHA256Data((const uint8_t *)text, n, digest);
    free(text);
    status = cox_json_string(in->run, in->options->sweep, key, true, &wanted);
    if (status == COX_OK && strcmp(digest, wanted) != 0)
        status = cox_fail(COX_INVALID, "%s %s: not the prompts of the sweep in %s (another SHA-256)", option,
                          path, in->options->sweep);
    lines = json_array();
    if (status == COX_OK) status = read_lines(path, lines, check_prompt);
    in->prompts[set] = json_array();
    json_array_foreach(lines, i, line)
    {
        const json_t *prompt = text_of(line);
        json_array_append_new(in->prompts[set],
                              json_is_string(prompt) ? json_copy((json_t *)prompt) : json_null());
    }
    json_decref(lines);
    in->report.prompts[set] = in->prompts[set];
    return status;
}

/* --- What stands beside --- */

/* What two files must have in common, by its key in the sweep's journal; `what`: for people. */
typedef struct mark {
    const char *key, *what;
} mark;
static const mark model_marks[] = {{"model_fingerprint", "the model (its config, or shapes of its tensors)"},
                                   {"model_weights", "the model's weights"},
                                   {"model_tokenizer", "the tokenizer"}};
static const mark set_marks[COX_REPORT_N_SETS] = {{"a", "the prompts of A"}, {"b", "the prompts of B"}};
enum { N_MODEL_MARKS = sizeof model_marks / sizeof *model_marks };

/* What makes requests of the lists' lines; not there: nothing was given. */
static const mark prompting_marks[] = {{"system", "the system prompt"},
                                       {"raw", "--raw"},
                                       {"template", "the template"},
                                       {"template_file", "the template's file"},
                                       {"template_kwargs", "--template-kwargs"},
                                       {"date", "the date"}};
enum { N_PROMPTING_MARKS = sizeof prompting_marks / sizeof *prompting_marks };

static bool is_same(const json_t *x, const json_t *y)
{
    return x == y || json_equal(x, y);
}

static cox_status differs(const cox_report_files *in, const char *option, const char *path, const mark *m,
                          const char *advice)
{
    return cox_fail(COX_INVALID, "%s %s: does not belong to --sweep %s: it differs in %s (\"%s\"); %s",
                    option, path, in->options->sweep, m->what, m->key, advice);
}

/* value: of the file that an option names, or NULL: it does not say. */
static cox_status check_mark(const cox_report_files *in, const char *option, const char *path, const mark *m,
                             const char *value, const char *advice)
{
    const char *wanted = json_string_value(json_object_get(in->run, m->key));
    if (!value)
        return cox_fail(COX_INVALID, "%s %s: does not say what it is of (\"%s\" is missing); %s", option,
                        path, m->key, advice);
    if (wanted && strcmp(value, wanted) == 0) return COX_OK;
    return differs(in, option, path, m, advice);
}

static cox_status check_model(const cox_report_files *in, const char *option, const char *path,
                              const json_t *about, const char *advice)
{
    cox_status status = COX_OK;
    for (size_t i = 0; i < N_MODEL_MARKS && status == COX_OK; i++) {
        const char *value = json_string_value(json_object_get(about, model_marks[i].key));
        status = check_mark(in, option, path, &model_marks[i], value, advice);
    }
    return status;
}

/* Routes are of training lists; what the sweep was chosen on took no part. A CSV names nothing. */
static cox_status check_routes(const cox_report_files *in)
{
    if (!in->report.routes.about) return COX_OK;
    return check_model(in, "--routes", in->options->routes, in->report.routes.about,
                       "run `coxswain routes --json` on the sweep's model");
}

static cox_status check_parts(const cox_report_files *in)
{
    static const char advice[] =
        "run `coxswain decompose --json` on the sweep's model, with its lists and rules";
    const char *path = in->options->decomposition;
    const json_t *about = in->report.parts.about;
    const mark rules = {"rules", "the rules"};
    if (!about) return COX_OK;
    cox_status status = check_model(in, "--decompose", path, about, advice);
    for (int set = 0; set < COX_REPORT_N_SETS && status == COX_OK; set++) {
        const json_t *file = json_object_get(about, set_marks[set].key);
        status = check_mark(in, "--decompose", path, &set_marks[set],
                            json_string_value(json_object_get(file, "sha256")), advice);
    }
    for (size_t i = 0; i < N_PROMPTING_MARKS && status == COX_OK; i++) {
        const mark *m = &prompting_marks[i];
        if (!is_same(json_object_get(in->run, m->key), json_object_get(about, m->key)))
            status = differs(in, "--decompose", path, m, advice);
    }
    const char *digest = json_string_value(json_object_get(about, "rules_sha256"));
    bool has_effects = json_object_get(about, "rules") != NULL; /* else no rules took part */
    if (status == COX_OK && has_effects) status = check_mark(in, "--decompose", path, &rules, digest, advice);
    return status;
}

/* Columns that say of which model, and chosen on which lists; those that are there must be right. */
static cox_status check_heldouts(const cox_report_files *in)
{
    static const char advice[] = "give the sweep that its plans were chosen in, or that study's table";
    const cox_csv *t = &in->report.heldouts.table;
    cox_status status = COX_OK;
    for (size_t i = 0; i < N_MODEL_MARKS + COX_REPORT_N_SETS; i++) {
        const mark *m = i < N_MODEL_MARKS ? &model_marks[i] : &set_marks[i - N_MODEL_MARKS];
        char column[32];
        snprintf(column, sizeof column, "%s%s", i < N_MODEL_MARKS ? "" : "chosen_on_", m->key);
        for (size_t row = 0; row < t->n_rows && cox_csv_has(t, column) && status == COX_OK; row++) {
            const char *value = NULL;
            status = cox_csv_text(t, row, column, &value);
            if (status == COX_OK) status = check_mark(in, "--heldout", t->where, m, value, advice);
        }
    }
    const mark label = {"behaviour", "the label that is studied"};
    const char *own = in->report.behaviour;
    if (status == COX_OK && own && strcmp(own, in->report.heldouts.behaviour) != 0)
        status = differs(in, "--heldout", t->where, &label, advice);
    return status == COX_OK ? cox_report_heldouts_check(&in->report) : status;
}

/* Controls must be of the same model, prompts and rules, or they say nothing. */
static cox_status check_controls(const cox_report_files *in)
{
    static const char advice[] = "sweep the grid of the controls with all other options as for that sweep";
    static const mark marks[] = {{"neutral", "the neutral prompts"},
                                 {"rules", "the rules"},
                                 {"limit", "how many prompts are taken of a list"},
                                 {"kernel", "the kernel"},
                                 {"model_settings", "the model's template or settings"}};
    const struct {
        const mark *marks;
        size_t n;
    } lists[] = {{model_marks, N_MODEL_MARKS},
                 {set_marks, COX_REPORT_N_SETS},
                 {marks, sizeof marks / sizeof *marks},
                 {prompting_marks, N_PROMPTING_MARKS}};
    for (size_t l = 0; l < sizeof lists / sizeof *lists; l++) {
        for (size_t i = 0; i < lists[l].n; i++) {
            const mark *m = &lists[l].marks[i];
            if (!is_same(json_object_get(in->run, m->key), json_object_get(in->controls_run, m->key)))
                return differs(in, "--controls", in->options->controls, m, advice);
        }
    }
    return COX_OK;
}

static cox_status read_controls(cox_report_files *in, const double max_kl[COX_REPORT_N_SETS])
{
    const char *folder = in->options->controls;
    if (!folder) return COX_OK;
    cox_status status = read_run(path_in(in, folder, "stage1.jsonl.journal"), &in->controls_run);
    if (status == COX_OK) status = check_controls(in);
    in->report.controls_run = in->controls_run;
    return status == COX_OK ? read_cells(in, folder, in->controls_run, max_kl, &in->report.controls) : status;
}

static cox_status read_beside(cox_report_files *in)
{
    const cox_report_options *o = in->options;
    char *text = NULL;
    size_t n = 0;
    cox_status status = COX_OK;
    if (o->routes) {
        status = cox_io_read_all(NULL, o->routes, &text, &n);
        if (status == COX_OK) status = cox_report_routes_read(&in->report.routes, text, n, o->routes);
        if (status == COX_OK) status = check_routes(in);
    }
    if (o->decomposition && status == COX_OK) {
        status = cox_io_read_all(NULL, o->decomposition, &text, &n);
        if (status == COX_OK) status = cox_report_parts_read(&in->report.parts, text, n, o->decomposition);
        if (status == COX_OK) status = check_parts(in);
    }
    if (o->heldout && status == COX_OK) {
        cox_csv table;
        status = read_table(&table, o->heldout);
        if (status == COX_OK) status = cox_report_heldouts_read(&in->report.heldouts, &table);
        if (status == COX_OK) status = check_heldouts(in);
    }
    return status;
}

static cox_status set_title(cox_report_files *in)
{
    const char *model = json_string_value(json_object_get(in->run, "model"));
    size_t n = model ? strlen(model) : 0;
    while (n > 1 && model[n - 1] == '/') n--;
    size_t first = n;
    while (first > 0 && model[first - 1] != '/') first--;
    bool is_given = in->options->title != NULL;
    int wrote = is_given
                    ? asprintf(&in->title, "%s", in->options->title)
                    : asprintf(&in->title, "Steering %.*s", (int)(n - first), model ? model + first : "");
    if (wrote < 0) {
        in->title = NULL;
        return cox_no_memory("a report's files");
    }
    json_t *checked = json_string(in->title);
    json_decref(checked);
    in->report.title = in->title;
    return checked ? COX_OK : cox_fail(COX_INVALID, "--title: not UTF-8");
}

static cox_status read_all(cox_report_files *in)
{
    const cox_report_options *o = in->options;
    double max_kl[COX_REPORT_N_SETS] = {1, 1};
    const char *journal = path_in(in, o->sweep, "stage1.jsonl.journal"),
               *best = path_in(in, o->sweep, "best.json");
    cox_status status = journal && best ? read_run(journal, &in->run) : COX_NO_MEMORY;
    if (status == COX_OK) status = read_limits(in->run, journal, max_kl);
    if (status == COX_OK) status = set_title(in);
    if (status == COX_OK) status = read_cells(in, o->sweep, in->run, max_kl, &in->report.cells);
    if (status == COX_OK) status = cox_json_load_file(&in->best, best);
    if (status == COX_OK && !json_is_object(json_object_get(in->best, "clean")))
        status = cox_fail(COX_BAD_FILE, "%s: key \"clean\" is missing", best);
    if (status == COX_OK) status = read_answers(in, o->sweep);
    if (status == COX_OK) status = read_prompts(in, COX_REPORT_A, "--a", o->prompts[COX_REPORT_A]);
    if (status == COX_OK) status = read_prompts(in, COX_REPORT_B, "--b", o->prompts[COX_REPORT_B]);
    if (status == COX_OK) status = read_controls(in, max_kl);
    in->report.run = in->run;
    in->report.best = in->best;
    in->report.behaviour = json_string_value(json_object_get(in->best, "behaviour"));
    in->report.n_rows = (int32_t)o->top;
    return status == COX_OK ? read_beside(in) : status;
}

/* --- All of it --- */

cox_status cox_report_files_read(cox_report_files **files, const cox_report_options *options)
{
    cox_report_files *in = calloc(1, sizeof *in);
    if (!in) return cox_no_memory("the report");
    in->options = options;
    cox_status status = read_all(in);
    if (status == COX_OK) {
        *files = in;
    } else {
        cox_report_files_free(in);
    }
    return status;
}

const cox_report *cox_report_of(const cox_report_files *files)
{
    return &files->report;
}

void cox_report_files_free(cox_report_files *in)
{
    if (!in) return;
    cox_report_cells_free(&in->report.cells);
    cox_report_cells_free(&in->report.controls);
    cox_report_rates_free(&in->report.rates);
    cox_report_routes_free(&in->report.routes);
    cox_report_parts_free(&in->report.parts);
    cox_report_heldouts_free(&in->report.heldouts);
    for (int set = 0; set < COX_REPORT_N_SETS; set++) json_decref(in->prompts[set]);
    json_decref(in->run);
    json_decref(in->controls_run);
    json_decref(in->best);
    json_decref(in->answers);
    for (size_t i = 0; i < in->n_paths; i++) free(in->paths[i]);
    free(in->title);
    free(in);
}
