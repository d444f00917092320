/* Stage 2's answers judged by the rules, and counted. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/sweep.h"

typedef struct judge {
    const cox_sweep *sweep;
    json_t *
        *prompts[COX_CELL_MAX_SETS]; /* by set, [n] the prompt's line: its fields are what rules ask for */
    FILE *out;
} judge;

/* --- Fields of the prompts --- */

/* The lines of a set's file that are its prompts. */
static cox_status read_fields(judge *j, int32_t set)
{
    const cox_prompts *p = &j->sweep->sets[set];
    j->prompts[set] = calloc((size_t)p->n + 1, sizeof *j->prompts[set]);
    if (!j->prompts[set]) return cox_no_memory("a sweep's answers");
    FILE *file = fopen(p->path, "r");
    if (!file) return cox_fail(COX_IO, "%s: %s", p->path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    cox_status status = COX_OK;
    for (int32_t number = 1, i = 0; i < p->n && status == COX_OK; number++) {
        ssize_t n = getline(&line, &room, file);
        if (n < 0) status = cox_fail(COX_IO, "%s: has become shorter", p->path);
        if (n < 0 || number != p->lines[i]) continue;
        status = cox_json_load_text(&j->prompts[set][i++], line, (size_t)n, p->path);
    }
    free(line);
    fclose(file);
    return status;
}

static const char *field(void *context, const char *name)
{
    return json_string_value(json_object_get(context, name));
}

/* --- Counting --- */

typedef struct counts {
    int32_t asked[COX_MAX_LABELS + 1], yes[COX_MAX_LABELS + 1]; /* the last used one: fell apart */
} counts;

static cox_status count_answer(const judge *j, const json_t *answer, json_t *prompt, counts *c)
{
    const char *where = "stage2.jsonl", *text = NULL;
    const cox_rules *rules = j->sweep->rules;
    int32_t n_labels = cox_rules_n_labels(rules);
    bool has_ended = false;
    cox_verdict verdicts[COX_MAX_LABELS];
    cox_text_check check;
    cox_status status = cox_json_string(answer, where, "text", true, &text);
    if (status == COX_OK) status = cox_json_bool(answer, where, "ended", true, &has_ended);
    if (status == COX_OK) status = cox_rules_judge(rules, text, field, prompt, verdicts);
    const cox_text_limits limits = cox_rules_limits(rules);
    if (status == COX_OK) status = cox_text_check_run(&check, text, has_ended, &limits);
    if (status != COX_OK) return status;
    for (int32_t l = 0; l < n_labels; l++) {
        c->asked[l] += verdicts[l] != COX_VERDICT_NOT_ASKED;
        c->yes[l] += verdicts[l] == COX_VERDICT_YES;
    }
    c->asked[n_labels]++;
    c->yes[n_labels] += check.fell_apart;
    return COX_OK;
}

static void print_counts(const judge *j, int64_t cell, int32_t set, const counts *c)
{
    int32_t n_labels = cox_rules_n_labels(j->sweep->rules);
    for (int32_t l = 0; l <= n_labels; l++) {
        if (c->asked[l] == 0) continue;
        const cox_interval rate = cox_interval_wilson(c->yes[l], c->asked[l]);
        fprintf(j->out, "%" PRId64 ",%s,%s,%d,%d,%.9g,%.9g,%.9g\n", cell, cox_sweep_set_name(set),
                l < n_labels ? cox_rules_label(j->sweep->rules, l) : "fell_apart", (int)c->yes[l],
                (int)c->asked[l], rate.value, rate.low, rate.high);
    }
}

static cox_status count_cell(const judge *j, const json_t *line, int64_t cell)
{
    cox_status status = COX_OK;
    for (int32_t set = 0; set < j->sweep->n_sets && status == COX_OK; set++) {
        const json_t *answers = json_object_get(line, cox_sweep_set_name(set));
        counts c = {.asked = {0}};
        if (json_array_size(answers) != (size_t)j->sweep->sets[set].n)
            return cox_fail(COX_BAD_FILE, "stage2.jsonl: cell %" PRId64 " has not an answer for each prompt",
                            cell);
        for (int32_t i = 0; i < j->sweep->sets[set].n && status == COX_OK; i++)
            status = count_answer(j, json_array_get(answers, (size_t)i), j->prompts[set][i], &c);
        if (status == COX_OK) print_counts(j, cell, set, &c);
    }
    return status;
}

/* --- The file --- */

/* lines: [n + 1] by number among the chosen cells. */
static cox_status read_lines(const judge *j, const int64_t *cells, int64_t n, json_t **lines)
{
    char *path = cox_sweep_path(j->sweep, "stage2.jsonl"), *text = NULL;
    if (!path) return COX_NO_MEMORY;
    size_t room = 0;
    ssize_t length = 0;
    FILE *file = fopen(path, "r");
    cox_status status = file ? COX_OK : cox_fail(COX_IO, "%s: %s", path, strerror(errno));
    while (status == COX_OK && (length = getline(&text, &room, file)) > 0) {
        json_t *line = NULL;
        int64_t cell = 0, at = 0;
        status = cox_json_load_text(&line, text, (size_t)length, path);
        if (status == COX_OK) status = cox_json_int(line, path, "cell", true, -1, INT64_MAX, &cell);
        while (status == COX_OK && cell >= 0 && at < n && cells[at] != cell) at++;
        int64_t number = cell < 0 ? 0 : at + 1;
        if (status == COX_OK && number <= n && !lines[number])
            lines[number] = line;
        else
            json_decref(line);
    }
    if (file) fclose(file);
    free(text);
    free(path);
    return status;
}

static cox_status count_all(const judge *j, const int64_t *cells, int64_t n)
{
    json_t **lines = calloc((size_t)n + 1, sizeof *lines);
    cox_status status = lines ? read_lines(j, cells, n, lines) : cox_no_memory("the answers");
    for (int64_t i = 0; i <= n && status == COX_OK; i++)
        status = count_cell(j, lines[i], i == 0 ? -1 : cells[i - 1]);
    for (int64_t i = 0; lines && i <= n; i++) json_decref(lines[i]);
    free(lines);
    return status;
}

cox_status cox_sweep_write_answers(const cox_sweep *sweep, const int64_t *cells, int64_t n)
{
    char *text = NULL;
    size_t n_bytes = 0;
    judge j = {.sweep = sweep, .out = open_memstream(&text, &n_bytes)};
    cox_status status = j.out ? COX_OK : cox_no_memory("answers.csv");
    for (int32_t set = 0; set < sweep->n_sets && status == COX_OK; set++) status = read_fields(&j, set);
    if (status == COX_OK) {
        fputs("cell,set,label,yes,asked,rate,low,high\n", j.out);
        status = count_all(&j, cells, n);
    }
    if (j.out) fclose(j.out);
    if (status == COX_OK) status = cox_sweep_write_file(sweep, "answers.csv", text, n_bytes);
    free(text);
    for (int32_t set = 0; set < sweep->n_sets; set++) {
        for (int32_t i = 0; j.prompts[set] && i < sweep->sets[set].n; i++) json_decref(j.prompts[set][i]);
        free(j.prompts[set]);
    }
    return status;
}
