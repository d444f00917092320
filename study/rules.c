/*
 * The file of rules as compiled expressions, and their verdicts. Phrases are expressions too, compiled
 * literally, so that one engine (PCRE2, by characters of UTF-8) decides about upper and lower case.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "study/rules.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"

enum { MATCH_LIMIT = 2000000 }; /* steps of one expression on one text; far above what an answer needs */

typedef struct matcher {
    const char *name;
    pcre2_code **codes; /* [n_codes] */
    size_t n_codes;
    const char **same; /* [n_same] groups that must equal the prompt's field of that name */
    size_t n_same;
} matcher;

/* A field and the values that it may have. */
typedef struct condition {
    const char *field, **values;
    size_t n_values;
} condition;

/* One entry of "labels". */
typedef struct entry {
    int32_t label;
    const matcher **matchers; /* any of them */
    size_t n_matchers;
    condition *conditions; /* all of them */
    size_t n_conditions;
} entry;

struct cox_rules {
    matcher *matchers;
    entry *entries;
    size_t n_matchers, n_entries;
    const char *labels[COX_MAX_LABELS];
    int32_t n_labels, behaviour;
    const char **first_tokens;
    size_t n_first_tokens;
    cox_text_limits limits;
    pcre2_match_context *context;
    cox_arena *arena; /* owns everything but the expressions and the context */
};

/* --- Reading --- */

/* A list of strings that are not empty; absent: none. [out] in the arena. */
static cox_status read_texts(cox_arena *arena, const json_t *object, const char *where, const char *key,
                             const char ***out, size_t *n)
{
    const json_t *list = json_object_get(object, key);
    *n = 0;
    if (!list || json_is_null(list)) return COX_OK;
    const char **texts = cox_arena_array(arena, json_array_size(list) + 1, sizeof *texts);
    if (!texts) return COX_NO_MEMORY;
    size_t i;
    json_t *value;
    if (!json_is_array(list))
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a list of strings", where, key);
    json_array_foreach(list, i, value)
    {
        if (!json_is_string(value) || json_string_length(value) == 0)
            return cox_fail(COX_BAD_FILE, "%s: \"%s\" must hold strings that are not empty", where, key);
        texts[i] = cox_arena_strdup(arena, json_string_value(value));
        if (!texts[i]) return COX_NO_MEMORY;
    }
    *out = texts;
    *n = i;
    return COX_OK;
}

static cox_status compile(pcre2_code **code, const char *text, uint32_t options, const char *where)
{
    int error;
    PCRE2_SIZE offset;
    *code =
        pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | options, &error, &offset, NULL);
    if (*code) return COX_OK;
    PCRE2_UCHAR message[128] = "";
    pcre2_get_error_message(error, message, sizeof message);
    return cox_fail(COX_BAD_FILE, "%s: \"%s\" at character %zu: %s", where, text, (size_t)offset,
                    (const char *)message);
}

static cox_status read_matcher(cox_rules *rules, matcher *m, const json_t *json, const char *where)
{
    static const char *const keys[] = {"phrases", "patterns", "ignore_case", "same"};
    const char **phrases = NULL, **patterns = NULL;
    size_t n_phrases = 0, n_patterns = 0;
    bool ignores_case = false;
    cox_status status = cox_json_check_keys(json, where, keys, sizeof keys / sizeof *keys);
    if (status == COX_OK) status = read_texts(rules->arena, json, where, "phrases", &phrases, &n_phrases);
    if (status == COX_OK) status = read_texts(rules->arena, json, where, "patterns", &patterns, &n_patterns);
    if (status == COX_OK) status = read_texts(rules->arena, json, where, "same", &m->same, &m->n_same);
    if (status == COX_OK) status = cox_json_bool(json, where, "ignore_case", false, &ignores_case);
    if (status != COX_OK) return status;
    if (n_phrases + n_patterns == 0)
        return cox_fail(COX_BAD_FILE, "%s: has neither \"phrases\" nor \"patterns\"", where);
    m->codes = cox_arena_array(rules->arena, n_phrases + n_patterns, sizeof(pcre2_code *));
    if (!m->codes) return COX_NO_MEMORY;
    uint32_t both = ignores_case ? PCRE2_CASELESS : 0;
    for (size_t i = 0; i < n_phrases + n_patterns && status == COX_OK; i++) {
        bool is_phrase = i < n_phrases;
        uint32_t options = is_phrase ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
        status =
            compile(&m->codes[i], is_phrase ? phrases[i] : patterns[i - n_phrases], both | options, where);
        m->n_codes += status == COX_OK;
    }
    return status;
}

static cox_status read_matchers(cox_rules *rules, const json_t *json, const char *where)
{
    const json_t *object = json_object_get(json, "matchers");
    if (!json_is_object(object))
        return cox_fail(COX_BAD_FILE, "%s: key \"matchers\" must be an object", where);
    rules->matchers = cox_arena_array(rules->arena, json_object_size(object) + 1, sizeof *rules->matchers);
    if (!rules->matchers) return COX_NO_MEMORY;
    cox_status status = COX_OK;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        char place[512];
        snprintf(place, sizeof place, "%.300s: matcher \"%.100s\"", where, name);
        matcher *m = &rules->matchers[rules->n_matchers++];
        m->name = cox_arena_strdup(rules->arena, name);
        status = m->name ? read_matcher(rules, m, value, place) : COX_NO_MEMORY;
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static const matcher *find_matcher(const cox_rules *rules, const char *name)
{
    for (size_t i = 0; i < rules->n_matchers; i++) {
        if (strcmp(rules->matchers[i].name, name) == 0) return &rules->matchers[i];
    }
    return NULL;
}

/* -1: there is no such label. */
static int32_t label_of(const cox_rules *rules, const char *name)
{
    for (int32_t i = 0; i < rules->n_labels; i++) {
        if (strcmp(rules->labels[i], name) == 0) return i;
    }
    return -1;
}

static cox_status find_label(cox_rules *rules, const char *name, const char *where, int32_t *out)
{
    *out = label_of(rules, name);
    if (*out >= 0) return COX_OK;
    *out = rules->n_labels;
    if (!*name || rules->n_labels == COX_MAX_LABELS)
        return cox_fail(COX_BAD_FILE, "%s: an empty name, or more than %d labels", where, COX_MAX_LABELS);
    rules->labels[rules->n_labels] = cox_arena_strdup(rules->arena, name);
    return rules->labels[rules->n_labels++] ? COX_OK : COX_NO_MEMORY;
}

static cox_status read_conditions(cox_rules *rules, entry *e, const json_t *json, const char *where)
{
    const json_t *object = json_object_get(json, "where");
    if (!object || json_is_null(object)) return COX_OK;
    if (!json_is_object(object)) return cox_fail(COX_BAD_FILE, "%s: key \"where\" must be an object", where);
    e->conditions = cox_arena_array(rules->arena, json_object_size(object) + 1, sizeof *e->conditions);
    if (!e->conditions) return COX_NO_MEMORY;
    const char *field;
    json_t *value;
    json_object_foreach((json_t *)object, field, value)
    {
        condition *c = &e->conditions[e->n_conditions++];
        c->field = cox_arena_strdup(rules->arena, field);
        cox_status status = c->field
                                ? read_texts(rules->arena, object, where, field, &c->values, &c->n_values)
                                : COX_NO_MEMORY;
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status read_entry(cox_rules *rules, entry *e, const json_t *json, const char *where)
{
    static const char *const keys[] = {"name", "any", "where"};
    const char *name = NULL, **any = NULL;
    cox_status status = cox_json_check_keys(json, where, keys, sizeof keys / sizeof *keys);
    if (status == COX_OK) status = cox_json_string(json, where, "name", true, &name);
    if (status == COX_OK) status = find_label(rules, name, where, &e->label);
    if (status == COX_OK) status = read_texts(rules->arena, json, where, "any", &any, &e->n_matchers);
    if (status != COX_OK) return status;
    if (e->n_matchers == 0) return cox_fail(COX_BAD_FILE, "%s: key \"any\" must name matchers", where);
    e->matchers = cox_arena_array(rules->arena, e->n_matchers, sizeof(matcher *));
    if (!e->matchers) return COX_NO_MEMORY;
    for (size_t i = 0; i < e->n_matchers; i++) {
        e->matchers[i] = find_matcher(rules, any[i]);
        if (!e->matchers[i]) return cox_fail(COX_BAD_FILE, "%s: there is no matcher \"%s\"", where, any[i]);
    }
    return read_conditions(rules, e, json, where);
}

static cox_status read_entries(cox_rules *rules, const json_t *json, const char *where)
{
    const json_t *list = json_object_get(json, "labels");
    if (!json_is_array(list)) return cox_fail(COX_BAD_FILE, "%s: key \"labels\" must be a list", where);
    rules->entries = cox_arena_array(rules->arena, json_array_size(list) + 1, sizeof *rules->entries);
    if (!rules->entries) return COX_NO_MEMORY;
    size_t i;
    json_t *value;
    json_array_foreach(list, i, value)
    {
        char place[512];
        snprintf(place, sizeof place, "%.400s: entry %zu of \"labels\"", where, i + 1);
        cox_status status = read_entry(rules, &rules->entries[rules->n_entries++], value, place);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status read_limits(cox_text_limits *limits, const json_t *json, const char *where)
{
    static const char *const keys[] = {"min_words", "max_words", "ngram", "max_repetition", "must_end"};
    const json_t *object = json_object_get(json, "fell_apart");
    if (!object || json_is_null(object)) return COX_OK;
    char place[512];
    snprintf(place, sizeof place, "%.480s: \"fell_apart\"", where);
    cox_status status = cox_json_check_keys(object, place, keys, sizeof keys / sizeof *keys);
    if (status == COX_OK)
        status = cox_json_int(object, place, "min_words", false, 0, INT32_MAX, &limits->min_words);
    if (status == COX_OK)
        status = cox_json_int(object, place, "max_words", false, 0, INT32_MAX, &limits->max_words);
    if (status == COX_OK) status = cox_json_int(object, place, "ngram", false, 1, 1000, &limits->ngram);
    if (status == COX_OK)
        status = cox_json_number(object, place, "max_repetition", false, &limits->max_repetition);
    if (status == COX_OK) status = cox_json_bool(object, place, "must_end", false, &limits->must_end);
    return status;
}

/* Without the key: the label "refused", else the first. */
static cox_status read_behaviour(cox_rules *rules, const json_t *json, const char *where)
{
    const char *name = NULL;
    cox_status status = cox_json_string(json, where, "behaviour", false, &name);
    rules->behaviour = label_of(rules, name ? name : "refused");
    if (status == COX_OK && name && rules->behaviour < 0)
        status = cox_fail(COX_BAD_FILE, "%s: key \"behaviour\": there is no label \"%s\"", where, name);
    if (rules->behaviour < 0 && rules->n_labels > 0) rules->behaviour = 0; /* the first */
    return status;
}

static cox_status read_rules(cox_rules *rules, const json_t *json, const char *where)
{
    static const char *const keys[] = {"version",   "matchers",     "labels",
                                       "behaviour", "first_tokens", "fell_apart"};
    int64_t version = 0;
    cox_status status = cox_json_check_keys(json, where, keys, sizeof keys / sizeof *keys);
    if (status == COX_OK) status = cox_json_int(json, where, "version", true, 1, 1, &version);
    if (status == COX_OK) status = read_matchers(rules, json, where);
    if (status == COX_OK) status = read_entries(rules, json, where);
    if (status == COX_OK) status = read_behaviour(rules, json, where);
    if (status == COX_OK) {
        status = read_texts(rules->arena, json, where, "first_tokens", &rules->first_tokens,
                            &rules->n_first_tokens);
    }
    return status == COX_OK ? read_limits(&rules->limits, json, where) : status;
}

cox_status cox_rules_from_json(cox_rules **rules, const json_t *json, const char *where)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "rules", 0);
    if (status != COX_OK) return status;
    cox_rules *r = cox_arena_alloc(arena, sizeof *r);
    if (!r) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    *r = (cox_rules){.arena = arena, .limits = cox_text_limits_defaults()};
    r->context = pcre2_match_context_create(NULL);
    if (r->context) {
        pcre2_set_match_limit(r->context, MATCH_LIMIT);
        status = read_rules(r, json, where);
    } else {
        status = cox_no_memory("rules");
    }
    if (status == COX_OK) {
        *rules = r;
    } else {
        cox_rules_free(r);
    }
    return status;
}

cox_status cox_rules_load(cox_rules **rules, const char *path)
{
    json_t *json = NULL;
    cox_status status = cox_json_load_file(&json, path);
    if (status == COX_OK) status = cox_rules_from_json(rules, json, path);
    if (status == COX_BAD_FILE && !json_is_object(json)) {
        status = cox_fail(status,
                          "%s; rules are {\"version\": 1, \"matchers\": {...}, \"labels\": [...]} "
                          "(docs/formats.md)",
                          cox_status_message());
    }
    json_decref(json);
    return status;
}

void cox_rules_free(cox_rules *rules)
{
    if (!rules) return;
    for (size_t i = 0; i < rules->n_matchers; i++) {
        for (size_t j = 0; j < rules->matchers[i].n_codes; j++) pcre2_code_free(rules->matchers[i].codes[j]);
    }
    pcre2_match_context_free(rules->context);
    cox_arena_destroy(rules->arena);
}

int32_t cox_rules_n_labels(const cox_rules *rules)
{
    return rules->n_labels;
}

const char *cox_rules_label(const cox_rules *rules, int32_t label)
{
    return rules->labels[label];
}

int32_t cox_rules_behaviour(const cox_rules *rules)
{
    return rules->behaviour;
}

const char *const *cox_rules_first_tokens(const cox_rules *rules, size_t *n)
{
    *n = rules->n_first_tokens;
    return rules->first_tokens;
}

cox_text_limits cox_rules_limits(const cox_rules *rules)
{
    return rules->limits;
}

/* --- Verdicts --- */

typedef struct judged {
    const cox_rules *rules;
    const char *text;
    size_t n;
    cox_field_function *field;
    void *context;
} judged;

static bool applies(const entry *e, const judged *j)
{
    for (size_t i = 0; i < e->n_conditions; i++) {
        const char *value = j->field(j->context, e->conditions[i].field);
        size_t at = 0;
        while (at < e->conditions[i].n_values && (!value || strcmp(value, e->conditions[i].values[at]) != 0))
            at++;
        if (at == e->conditions[i].n_values) return false;
    }
    return true;
}

/* Groups that the expression has and that took part must equal their fields. */
static bool is_same(const matcher *m, const pcre2_code *code, pcre2_match_data *data, const judged *j)
{
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(data);
    for (size_t i = 0; i < m->n_same; i++) {
        int group = pcre2_substring_number_from_name(code, (PCRE2_SPTR)m->same[i]);
        if (group < 0 || ends[2 * group] == PCRE2_UNSET) continue;
        size_t from = ends[2 * group], n = ends[2 * group + 1] - from;
        const char *value = j->field(j->context, m->same[i]);
        if (!value || strlen(value) != n || memcmp(value, j->text + from, n) != 0) return false;
    }
    return true;
}

static cox_status match(const matcher *m, const judged *j, bool *is_match)
{
    *is_match = false;
    for (size_t i = 0; i < m->n_codes && !*is_match; i++) {
        pcre2_match_data *data = pcre2_match_data_create_from_pattern(m->codes[i], NULL);
        if (!data) return cox_no_memory("a match");
        int result = pcre2_match(m->codes[i], (PCRE2_SPTR)j->text, j->n, 0, 0, data, j->rules->context);
        *is_match = result > 0 && is_same(m, m->codes[i], data, j);
        pcre2_match_data_free(data);
        if (result >= 0 || result == PCRE2_ERROR_NOMATCH) continue;
        PCRE2_UCHAR message[128] = "";
        pcre2_get_error_message(result, message, sizeof message);
        return cox_fail(COX_INVALID, "matcher \"%s\", expression %zu: %s", m->name, i + 1,
                        (const char *)message);
    }
    return COX_OK;
}

cox_status cox_rules_judge(const cox_rules *rules, const char *text, cox_field_function *field, void *context,
                           cox_verdict *verdicts)
{
    const judged j = {rules, text, strlen(text), field, context};
    cox_verdict out[COX_MAX_LABELS];
    for (int32_t l = 0; l < rules->n_labels; l++) out[l] = COX_VERDICT_NOT_ASKED;
    for (size_t i = 0; i < rules->n_entries; i++) {
        const entry *e = &rules->entries[i];
        if (!applies(e, &j)) continue;
        bool is_match = out[e->label] == COX_VERDICT_YES;
        for (size_t k = 0; k < e->n_matchers && !is_match; k++) {
            cox_status status = match(e->matchers[k], &j, &is_match);
            if (status != COX_OK) return status;
        }
        out[e->label] = is_match ? COX_VERDICT_YES : COX_VERDICT_NO;
    }
    memcpy(verdicts, out, (size_t)rules->n_labels * sizeof *out);
    return COX_OK;
}
