/* Prompts and answers of evaluate, joined by custom_id, and what the rules say about the texts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "study/evaluate.h"
#include "run/io.h"
#include "study/prompts.h"

/* Calls take(context, json, number) for each line that is not blank; it owns the json. */
typedef cox_status take_line(void *context, json_t *json, const char *where, int32_t number);

static const char ANSWER_FORM[] = "as `batch` writes it: {\"custom_id\": \"...\", \"response\": {...}}";

/* form: of a line, for messages. */
static cox_status read_lines(cox_cluster *cluster, const char *path, const char *form, take_line *take,
                             void *context)
{
    char *text = NULL;
    size_t n_bytes = 0;
    int32_t number = 0;
    if (strcmp(path, "-") == 0)
        return cox_fail(COX_INVALID, "evaluate reads files, not standard input (\"-\")");
    cox_status status = cox_io_read_all(cluster, path, &text, &n_bytes);
    if (status != COX_OK) return status;
    for (const char *at = text, *end = text + n_bytes; at < end && status == COX_OK;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        number++;
        if (cluster) cox_cluster_keepalive(cluster, "reading answers");
        if (n > strspn(at, " \t\r")) {
            char where[512];
            json_t *json = NULL;
            snprintf(where, sizeof where, "%.480s: line %d", path, (int)number);
            status = cox_json_load_line(&json, at, n, where, form);
            if (status == COX_OK) status = take(context, json, where, number);
        }
        at += n + (newline != NULL);
    }
    free(text);
    return status;
}

/* --- Answers --- */

static const json_t *body_of(const json_t *line)
{
    return json_object_get(json_object_get(line, "response"), "body");
}

static bool is_answer(const json_t *line)
{
    return json_array_size(json_object_get(body_of(line), "choices")) > 0;
}

/* A line that failed never takes the place of an answer, so a batch that was run again can be judged. */
static cox_status take_answer(void *context, json_t *line, const char *where, int32_t number)
{
    json_t *by_id = context;
    const char *id = NULL;
    (void)number;
    cox_status status = cox_json_string(line, where, "custom_id", true, &id);
    if (status != COX_OK) cox_fail(status, "%s; a line is %s", cox_status_message(), ANSWER_FORM);
    const json_t *before = status == COX_OK ? json_object_get(by_id, id) : NULL;
    if (status == COX_OK && !is_answer(line) && !json_object_get(body_of(line), "error")) {
        status =
            cox_fail(COX_BAD_FILE, "%s: not a line of a batch's output; a line is %s", where, ANSWER_FORM);
    } else if (status == COX_OK && is_answer(line) && before && is_answer(before)) {
        status = cox_fail(COX_BAD_FILE, "%s: custom_id \"%s\" has an answer already", where, id);
    }
    bool is_kept = status == COX_OK && (is_answer(line) || !before);
    if (is_kept && json_object_set(by_id, id, line) != 0) status = cox_no_memory("prompts and answers");
    json_decref(line);
    return status;
}

static cox_status read_answers(cox_evaluation *e, const char *path, json_t **by_id)
{
    if (!path) return COX_OK;
    *by_id = json_object();
    return *by_id ? read_lines(e->cluster, path, ANSWER_FORM, take_answer, *by_id)
                  : cox_no_memory("prompts and answers");
}

static const char *text_of(const json_t *line, bool *has_ended)
{
    const json_t *choice = json_array_get(json_object_get(body_of(line), "choices"), 0);
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    const char *text = json_string_value(json_object_get(choice, "text"));
    if (!text) text = json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    *has_ended = !reason || strcmp(reason, "length") != 0;
    return text;
}

/* --- Prompts --- */

static cox_item *new_item(cox_evaluation *e)
{
    cox_item *items = realloc(e->items, ((size_t)e->n_items + 1) * sizeof *items);
    if (!items) return NULL;
    e->items = items;
    items[e->n_items] = (cox_item){0};
    return &items[e->n_items++];
}

typedef struct prompt_file {
    cox_evaluation *e;
    int32_t file, n;
    json_t *seen;
} prompt_file;

/* The line's custom_id; else the file's name without folder and .jsonl, "-", the number of the line. */
static char *id_of(const json_t *line, const char *path, int32_t number)
{
    const char *id = json_string_value(json_object_get(line, "custom_id"));
    if (id) return strdup(id);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    if (n > 6 && strcmp(name + n - 6, ".jsonl") == 0) n -= 6;
    char *made = malloc(n + 16);
    if (made) snprintf(made, n + 16, "%.*s-%d", (int)n, name, (int)number);
    return made;
}

static cox_status take_prompt(void *context, json_t *line, const char *where, int32_t number)
{
    prompt_file *p = context;
    int64_t limit = p->e->options->limit;
    if (limit && p->n >= limit) {
        json_decref(line);
        return COX_OK;
    }
    cox_item *item = new_item(p->e);
    if (!item) {
        json_decref(line);
        return cox_no_memory("prompts and answers");
    }
    item->line = line;
    item->file = p->file, item->number = number;
    item->id = id_of(line, p->e->options->prompts[p->file], number);
    p->n++;
    if (!item->id) return cox_no_memory("prompts and answers");
    if (json_object_get(p->seen, item->id))
        return cox_fail(COX_BAD_FILE, "%s: custom_id \"%s\" is used twice", where, item->id);
    return json_object_set_new(p->seen, item->id, json_true()) == 0 ? COX_OK
                                                                    : cox_no_memory("prompts and answers");
}

static cox_status read_prompts(cox_evaluation *e)
{
    prompt_file p = {.e = e, .seen = json_object()};
    cox_status status = p.seen ? COX_OK : cox_no_memory("prompts and answers");
    for (size_t i = 0; i < e->options->n_prompts && status == COX_OK; i++) {
        p.file = (int32_t)i, p.n = 0;
        status = read_lines(e->cluster, e->options->prompts[i], COX_PROMPT_FORM, take_prompt, &p);
        if (status == COX_OK && p.n == 0)
            status = cox_fail(COX_INVALID, "%s: there are no prompts in it", e->options->prompts[i]);
    }
    json_decref(p.seen);
    return status;
}

/* Without prompts the answers themselves are the items, in the order of the file. */
static cox_status make_items(cox_evaluation *e)
{
    const char *id;
    json_t *line;
    json_object_foreach(e->answers[COX_RUN], id, line)
    {
        (void)line;
        cox_item *item = new_item(e);
        if (!item) return cox_no_memory("prompts and answers");
        item->id = strdup(id);
        if (!item->id) return cox_no_memory("prompts and answers");
    }
    return COX_OK;
}

/* --- Joining --- */

static cox_status join(cox_evaluation *e)
{
    for (int32_t i = 0; i < e->n_items; i++) {
        cox_item *item = &e->items[i];
        bool has_ended;
        for (int side = 0; side < COX_N_SIDES; side++) {
            if (!e->answers[side]) continue;
            const json_t *line = json_object_get(e->answers[side], item->id);
            item->answers[side].text = text_of(line, &item->answers[side].has_ended);
            if (!item->answers[side].text) (*(line ? &e->n_failed[side] : &e->n_missing[side]))++;
        }
        item->continuation = e->continuations
                                 ? text_of(json_object_get(e->continuations, item->id), &has_ended)
                                 : cox_item_field(item, "answer");
    }
    for (int side = 0; side < COX_N_SIDES; side++) {
        if (e->answers[side] && e->n_missing[side] + e->n_failed[side] == e->n_items)
            return cox_fail(COX_INVALID, "%s: has an answer to none of the %d prompts",
                            side == COX_RUN ? e->options->results : e->options->baseline, (int)e->n_items);
    }
    return COX_OK;
}

cox_status cox_evaluation_read(cox_evaluation *e)
{
    const cox_evaluate_options *options = e->options;
    cox_status status = options->rules ? cox_rules_load(&e->rules, options->rules) : COX_OK;
    if (status == COX_OK) status = read_answers(e, options->results, &e->answers[COX_RUN]);
    if (status == COX_OK) status = read_answers(e, options->baseline, &e->answers[COX_BASELINE]);
    if (status == COX_OK) status = read_answers(e, options->continuations, &e->continuations);
    if (status == COX_OK) status = options->n_prompts ? read_prompts(e) : make_items(e);
    if (status == COX_OK && e->n_items == 0)
        status = cox_fail(COX_INVALID, "%s: there are no answers in it", options->results);
    return status == COX_OK ? join(e) : status;
}

void cox_evaluation_release(cox_evaluation *e)
{
    for (int32_t i = 0; i < e->n_items; i++) {
        free(e->items[i].id);
        json_decref(e->items[i].line);
    }
    for (int32_t m = 0; m < e->n_measures; m++) {
        for (int side = 0; side < COX_N_SIDES; side++) free(e->measures[m].values[side]);
    }
    free(e->items);
    for (int side = 0; side < COX_N_SIDES; side++) json_decref(e->answers[side]);
    json_decref(e->continuations);
    cox_rules_free(e->rules);
}

const char *cox_item_field(void *context, const char *name)
{
    const json_t *line = ((const cox_item *)context)->line;
    const char *text = json_string_value(json_object_get(line, name));
    const json_t *metadata = json_object_get(json_object_get(line, "body"), "metadata");
    return text ? text : json_string_value(json_object_get(metadata, name));
}

/* --- Texts --- */

cox_measure *cox_evaluation_add(cox_evaluation *e, const char *name, bool is_rate,
                                const bool sides[COX_N_SIDES])
{
    cox_measure *m = &e->measures[e->n_measures];
    *m = (cox_measure){.is_rate = is_rate};
    snprintf(m->name, sizeof m->name, "%s", name);
    for (int side = 0; side < COX_N_SIDES; side++) {
        if (!sides[side]) continue;
        m->values[side] = malloc((size_t)e->n_items * sizeof *m->values[side]);
        if (!m->values[side]) {
            free(m->values[COX_RUN]);
            cox_no_memory("prompts and answers");
            return NULL;
        }
        for (int32_t i = 0; i < e->n_items; i++) m->values[side][i] = NAN;
    }
    e->n_measures++;
    return m;
}

enum { FELL_APART, NOT_ENDED, REPETITIVE, TOO_SHORT, TOO_LONG, WORDS, N_CHECKS };
static const char *const check_names[N_CHECKS] = {"fell_apart", "not_ended", "repetitive",
                                                  "too_short",  "too_long",  "words"};

static cox_status judge_answer(cox_evaluation *e, int32_t i, int side, cox_measure *first)
{
    const cox_answer *answer = &e->items[i].answers[side];
    if (!answer->text) return COX_OK;
    int32_t n_labels = cox_rules_n_labels(e->rules);
    const cox_text_limits limits = cox_rules_limits(e->rules);
    cox_verdict verdicts[COX_MAX_LABELS];
    cox_text_check c;
    cox_status status = cox_rules_judge(e->rules, answer->text, cox_item_field, &e->items[i], verdicts);
    if (status == COX_OK) status = cox_text_check_run(&c, answer->text, answer->has_ended, &limits);
    if (status != COX_OK) return cox_fail_in(status, "the answer to \"%s\"", e->items[i].id);
    for (int32_t l = 0; l < n_labels; l++) {
        if (verdicts[l] != COX_VERDICT_NOT_ASKED) first[l].values[side][i] = verdicts[l] == COX_VERDICT_YES;
    }
    const double checks[N_CHECKS] = {c.fell_apart, c.is_cut,  c.is_repetitive,
                                     c.is_short,   c.is_long, (double)c.n_words};
    for (int32_t k = 0; k < N_CHECKS; k++) first[n_labels + k].values[side][i] = checks[k];
    return COX_OK;
}

cox_status cox_evaluation_judge(cox_evaluation *e)
{
    const bool sides[COX_N_SIDES] = {e->answers[COX_RUN] != NULL, e->answers[COX_BASELINE] != NULL};
    if (!sides[COX_RUN]) return COX_OK;
    cox_measure *first = &e->measures[e->n_measures];
    for (int32_t l = 0; l < cox_rules_n_labels(e->rules); l++) {
        if (!cox_evaluation_add(e, cox_rules_label(e->rules, l), true, sides)) return COX_NO_MEMORY;
    }
    for (int32_t k = 0; k < N_CHECKS; k++) {
        if (!cox_evaluation_add(e, check_names[k], k != WORDS, sides)) return COX_NO_MEMORY;
    }
    cox_status status = COX_OK;
    for (int side = 0; side < COX_N_SIDES; side++) {
        for (int32_t i = 0; i < e->n_items && status == COX_OK && sides[side]; i++)
            status = judge_answer(e, i, side, first);
    }
    return status;
}
