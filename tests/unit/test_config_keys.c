/*
 * Every key of the four families' configs, against transformers: docs/config-keys.md says of each key what is
 * done with it, tests/golden/config_keys.json (scripts/references/config_keys.py) holds what transformers
 * computes when it is changed, null or absent. A row without a case fails, as does a case without a row.
 */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/support/harness.h"
#include "tests/unit/model_folder.h"

enum { N_FAMILIES = 4, MAX_ROWS = 256, MAX_TEXT = 1 << 14 };
static const char *const families[N_FAMILIES] = {"mixtral", "olmoe", "gpt_oss", "qwen3_moe"};
static const double tolerance = 1e-4; /* of the range of the logits */

static json_t *golden_file;
static cox_cluster *cluster;

/* --- the table of the docs -------------------------------------------------------------------------------
 */

/* Of one key in one family; "read" may hold values that are refused, "refused" neutral ones that are not. */
typedef enum verdict { NONE, READ, IGNORED, REFUSED } verdict;
static const char *const verdict_names[] = {"-", "read", "ignored", "refused"};

typedef struct row {
    char key[80];
    verdict verdicts[N_FAMILIES];
    int n_moved[N_FAMILIES], n_same[N_FAMILIES], n_refused[N_FAMILIES]; /* cases by what came out */
} row;
static row rows[MAX_ROWS];
static int n_rows;

static verdict read_verdict(const char *key, const char *cell, size_t n)
{
    while (n && *cell == ' ') cell++, n--;
    while (n && cell[n - 1] == ' ') n--;
    for (int v = NONE; v <= REFUSED; v++) {
        if (strlen(verdict_names[v]) == n && memcmp(cell, verdict_names[v], n) == 0) return (verdict)v;
    }
    fail_msg("docs/config-keys.md: %s: \"%.*s\" is none of read, ignored, refused, -", key, (int)n, cell);
    return NONE;
}

/* "| `key` | mixtral | olmoe | gpt_oss | qwen3_moe | what transformers does |" */
static void read_row(const char *line)
{
    assert_true(n_rows < MAX_ROWS);
    row *r = &rows[n_rows++];
    *r = (row){0};
    const char *end = strchr(line + 3, '`');
    if (!end || (size_t)(end - line - 3) >= sizeof r->key) fail_msg("no key in: %s", line);
    memcpy(r->key, line + 3, (size_t)(end - line - 3));
    for (int i = 0; i < n_rows - 1; i++) {
        if (strcmp(rows[i].key, r->key) == 0) fail_msg("docs/config-keys.md has two rows of %s", r->key);
    }
    const char *cell = strchr(end, '|');
    for (int f = 0; f < N_FAMILIES; f++) {
        const char *next = cell ? strchr(cell + 1, '|') : NULL;
        if (!next) fail_msg("docs/config-keys.md: the row of %s has too few columns", r->key);
        r->verdicts[f] = read_verdict(r->key, cell + 1, (size_t)(next - cell - 1));
        cell = next;
    }
}

static void read_table(void)
{
    FILE *file = fopen("docs/config-keys.md", "r");
    assert_non_null(file);
    char line[4096];
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "| `", 3) == 0) read_row(line);
    }
    fclose(file);
    assert_true(n_rows > 80);
}

static row *row_of(const char *key)
{
    for (int i = 0; i < n_rows; i++) {
        if (strcmp(rows[i].key, key) == 0) return &rows[i];
    }
    fail_msg("docs/config-keys.md has no row of `%s`", key);
    return NULL;
}

/* --- checkpoints made up as the reference made them up ----------------------------------------------------
 */

/* f32 values from the tensor's name alone, as config_keys.py draws them: [n] in offset +- scale. */
static void draw(const char *name, float scale, float offset, size_t n, float *values)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    for (size_t i = 0; i < n; i++) {
        uint64_t x = hash + (i + 1) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
        const float unit = (float)(x >> 40) * 0x1p-23f - 1.0f;
        values[i] = offset + scale * unit;
    }
}

typedef struct weights {
    json_t *header;
    unsigned char *data;
    size_t n_bytes;
} weights;

/* tensor: [shape, scale, offset]. A "{n}" in the name stands for the numbers below n. */
static void add_tensor(weights *w, const char *name, json_t *tensor)
{
    const char *brace = strchr(name, '{');
    if (brace) {
        char *end = NULL;
        const long count = strtol(brace + 1, &end, 10);
        assert_true(*end == '}');
        for (long i = 0; i < count; i++) {
            char expanded[256];
            snprintf(expanded, sizeof expanded, "%.*s%ld%s", (int)(brace - name), name, i, end + 1);
            add_tensor(w, expanded, tensor);
        }
        return;
    }
    json_t *shape = json_array_get(tensor, 0), *dim;
    size_t n = 1, d;
    json_array_foreach(shape, d, dim) n *= (size_t)json_integer_value(dim);
    w->data = realloc(w->data, w->n_bytes + n * sizeof(float));
    assert_non_null(w->data);
    draw(name, (float)json_number_value(json_array_get(tensor, 1)),
         (float)json_number_value(json_array_get(tensor, 2)), n, (float *)(w->data + w->n_bytes));
    const json_int_t begin = (json_int_t)w->n_bytes, after = begin + (json_int_t)(n * sizeof(float));
    json_object_set_new(
        w->header, name,
        json_pack("{s:s, s:O, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets", begin, after));
    w->n_bytes = (size_t)after;
}

static void write_weights(folder *f, const json_t *tensors)
{
    weights w = {.header = json_object()};
    const char *name;
    json_t *tensor;
    json_object_foreach((json_t *)tensors, name, tensor) add_tensor(&w, name, tensor);
    char *text = json_dumps(w.header, JSON_COMPACT);
    shard_write_text(f, "model.safetensors", text, strlen(text), w.data, w.n_bytes);
    free(text);
    free(w.data);
    json_decref(w.header);
}

/* The base's config without the keys in `drop`, with those of `set` (texts of JSON) after the others. */
static void write_config(folder *f, const json_t *base, const json_t *set, const json_t *drop)
{
    json_t *config = json_copy(json_object_get(base, "config")), *value;
    size_t i;
    const char *key;
    json_array_foreach((json_t *)drop, i, value) json_object_del(config, json_string_value(value));
    json_object_foreach((json_t *)set, key, value) json_object_del(config, key);
    char text[MAX_TEXT], *begun = json_dumps(config, JSON_COMPACT);
    int n = snprintf(text, sizeof text, "%.*s", (int)strlen(begun) - 1, begun);
    json_object_foreach((json_t *)set, key, value)
    {
        n += snprintf(text + n, sizeof text - (size_t)n, ", \"%s\": %s", key, json_string_value(value));
    }
    assert_true(n + 1 < (int)sizeof text);
    text[n++] = '}';
    write_bytes(folder_file(f, "config.json"), text, (size_t)n);
    free(begun);
    json_decref(config);
}

/* --- one case ---------------------------------------------------------------------------------------------
 */

/* What came out; logits are [n_prompt, vocab_size]. */
typedef struct outcome {
    float *logits;
    int32_t vocab_size, n_logits;
    int32_t *tokens, n_tokens;
} outcome;

static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!value) fail_msg("tests/golden/config_keys.json: \"%s\" is missing", key);
    return value;
}

static const char *word(const json_t *object, const char *key)
{
    return json_string_value(member(object, key));
}

static const json_t *base_of(const json_t *item)
{
    return member(member(golden_file, "bases"), word(item, "base"));
}

static void outcome_free(outcome *o)
{
    free(o->logits);
    free(o->tokens);
    *o = (outcome){0};
}

static folder make_folder(const json_t *base, const json_t *item)
{
    folder f = folder_create();
    const json_t *tensors = json_object_get(item, "tensors");
    if (!tensors) tensors = member(base, "tensors");
    if (json_is_string(tensors)) {
        char path[512], target[4096];
        snprintf(path, sizeof path, "%s/model.safetensors", json_string_value(tensors));
        assert_non_null(realpath(path, target));
        assert_int_equal(symlink(target, folder_file(&f, "model.safetensors")), 0);
    } else {
        write_weights(&f,
                      json_array_get(member(golden_file, "tensors"), (size_t)json_integer_value(tensors)));
    }
    write_config(&f, base, json_object_get(item, "set"), json_object_get(item, "drop"));
    const char *generation = json_string_value(json_object_get(item, "generation"));
    if (generation) write_bytes(folder_file(&f, "generation_config.json"), generation, strlen(generation));
    return f;
}

static outcome run_model(harness *h, bool generates)
{
    const json_t *prompt = member(golden_file, "prompt");
    int32_t ids[64], n = (int32_t)json_array_size(prompt);
    assert_true(n <= 64);
    for (int32_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(prompt, (size_t)i));
    const harness_request requests[2] = {
        {.prompt = ids, .n_prompt = n, .wants_logits = true, .sampling = cox_sampling_defaults()},
        {.prompt = ids,
         .n_prompt = n,
         .max_tokens = (int32_t)json_integer_value(member(golden_file, "n_generated")),
         .sampling = cox_sampling_defaults()}};
    harness_result results[2] = {{0}, {0}};
    if (harness_run(h, requests, generates ? 2 : 1, results) != COX_OK) fail_msg("%s", cox_status_message());
    outcome o = {.logits = results[0].logits,
                 .n_logits = results[0].n_logits,
                 .vocab_size = harness_model(h)->vocab_size,
                 .tokens = results[1].tokens,
                 .n_tokens = results[1].n_tokens};
    free(results[0].tokens);
    free(results[0].hits);
    free(results[1].logits);
    free(results[1].hits);
    return o;
}

/* item: a case, or NULL for the base itself. Errors: what opening the folder says. */
static cox_status run(const json_t *base, const json_t *item, bool generates, outcome *o)
{
    folder f = make_folder(base, item);
    harness *h = NULL;
    harness_config config = harness_config_defaults(f.path);
    config.exchange = COX_EXCHANGE_SELF;
    config.engine.max_rows = config.engine.prefill_chunk = 64;
    config.engine.max_sequences = 2;
    config.engine.kv_bytes = 1 << 20;
    config.engine.residual_bytes = 0;
    cox_status status = harness_open(&h, cluster, &config);
    if (status == COX_OK) {
        *o = run_model(h, generates);
        assert_int_equal(harness_finish(h), COX_OK);
    }
    harness_close(h);
    folder_remove(&f);
    return status;
}

/* --- against what is recorded -----------------------------------------------------------------------------
 */

static const char *describe(const json_t *item)
{
    static char text[2048];
    char *all = json_dumps(item, JSON_COMPACT);
    snprintf(text, sizeof text, "%.1800s", all);
    free(all);
    return text;
}

/* Recorded: at some positions the logits of every stride-th id. */
static void check_logits(const json_t *recorded, const outcome *o, const char *what)
{
    const json_t *positions = member(golden_file, "positions"), *values = member(recorded, "logits");
    const double range = json_number_value(member(recorded, "range"));
    const size_t stride = (size_t)json_integer_value(member(golden_file, "stride"));
    const size_t vocab_size = (size_t)o->vocab_size, n = (vocab_size + stride - 1) / stride;
    assert_int_equal(json_array_size(values), json_array_size(positions) * n);
    for (size_t i = 0; i < json_array_size(values); i++) {
        const size_t position = (size_t)json_integer_value(json_array_get(positions, i / n));
        const double ours = (double)o->logits[position * vocab_size + i % n * stride];
        const double difference = fabs(json_number_value(json_array_get(values, i)) - ours) / range;
        if (!(difference <= tolerance))
            fail_msg("logits at position %d are off by %.1e of their range: %s", (int)position, difference,
                     what);
    }
}

static void check_generated(const json_t *recorded, const outcome *o, const char *what)
{
    bool is_equal = json_array_size(recorded) == (size_t)o->n_tokens;
    for (size_t i = 0; is_equal && i < json_array_size(recorded); i++)
        is_equal = json_integer_value(json_array_get(recorded, i)) == o->tokens[i];
    if (!is_equal) fail_msg("other tokens are generated: %s", what);
}

typedef struct base_outcome {
    const char *name;
    outcome outcome;
} base_outcome;
static base_outcome base_outcomes[32];
static int n_bases;

static const outcome *outcome_of_base(const char *name)
{
    for (int i = 0; i < n_bases; i++) {
        if (strcmp(base_outcomes[i].name, name) == 0) return &base_outcomes[i].outcome;
    }
    fail_msg("no base %s", name);
    return NULL;
}

static void test_bases(void **state)
{
    (void)state;
    const char *name;
    json_t *base;
    json_object_foreach((json_t *)member(golden_file, "bases"), name, base)
    {
        assert_true(n_bases < 32);
        base_outcome *b = &base_outcomes[n_bases++];
        b->name = name;
        if (run(base, NULL, true, &b->outcome) != COX_OK) fail_msg("%s: %s", name, cox_status_message());
        check_logits(base, &b->outcome, name);
        check_generated(member(base, "generated"), &b->outcome, name);
    }
}

static void check_refused(const json_t *item, cox_status status)
{
    const char *key = json_string_value(json_array_get(member(item, "keys"), 0)), *dot = strrchr(key, '.');
    if (status != COX_BAD_FILE && status != COX_UNSUPPORTED) fail_msg("is not refused: %s", describe(item));
    if (!strstr(cox_status_message(), dot ? dot + 1 : key))
        fail_msg("is refused by another name: %s: %s", cox_status_message(), describe(item));
}

static bool is_of(const json_t *item, const char *key)
{
    return strcmp(json_string_value(json_array_get(member(item, "keys"), 0)), key) == 0;
}

static void check_same(const json_t *item, const outcome *o, bool generates)
{
    const outcome *base = outcome_of_base(word(item, "base"));
    assert_string_equal(word(item, "transformers"), "same");
    assert_int_equal(o->n_logits, base->n_logits);
    if (memcmp(o->logits, base->logits, (size_t)o->n_logits * (size_t)o->vocab_size * sizeof *o->logits) != 0)
        fail_msg("changes logits, and does not in transformers: %s", describe(item));
    if (generates) check_generated(member(base_of(item), "generated"), o, describe(item));
}

/* Compares, and counts the case for the rows of its keys. */
static void check_case(const json_t *item)
{
    int f = 0;
    while (f < N_FAMILIES && strcmp(families[f], word(item, "family")) != 0) f++;
    assert_true(f < N_FAMILIES);
    const bool is_refused = json_is_true(json_object_get(item, "refused"));
    const bool is_moved = !is_refused && strcmp(word(item, "transformers"), "moves") == 0;
    const bool generates = json_object_get(item, "generation") || is_of(item, "eos_token_id");
    outcome o = {0};
    cox_status status = run(base_of(item), item, generates, &o);
    if (is_refused) {
        check_refused(item, status);
    } else if (status != COX_OK) {
        fail_msg("%s: %s", cox_status_message(), describe(item));
    } else if (is_moved) {
        check_logits(item, &o, describe(item));
        if (generates) check_generated(member(item, "generated"), &o, describe(item));
    } else {
        check_same(item, &o, generates);
    }
    outcome_free(&o);
    size_t i;
    json_t *key;
    json_array_foreach(member(item, "keys"), i, key)
    {
        row *r = row_of(json_string_value(key));
        r->n_moved[f] += is_moved;
        r->n_refused[f] += is_refused;
        r->n_same[f] += !is_moved && !is_refused;
    }
}

static void test_cases(void **state)
{
    (void)state;
    const json_t *cases = member(golden_file, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
}

/* What the table says is what the cases showed. */
static void test_rows(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        for (int f = 0; f < N_FAMILIES; f++) {
            const int moved = r->n_moved[f], same = r->n_same[f], refused = r->n_refused[f];
            const verdict shown = moved ? READ : refused ? REFUSED : same ? IGNORED : NONE;
            if (shown == r->verdicts[f]) continue;
            fail_msg("docs/config-keys.md calls `%s` of %s \"%s\"; of its cases %d change the result, %d are "
                     "refused, "
                     "%d change nothing: \"%s\"",
                     r->key, families[f], verdict_names[r->verdicts[f]], moved, refused, same,
                     verdict_names[shown]);
        }
    }
}

/* Every key that released configs of the families carry has a row of a verdict in its family. */
static void check_released_keys(const char *path, const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type")), *key;
    int f = 0;
    while (f < N_FAMILIES && (!type || strcmp(families[f], type) != 0)) f++;
    json_t *value;
    if (f == N_FAMILIES) return;
    json_object_foreach((json_t *)config, key, value)
    {
        if (row_of(key)->verdicts[f] == NONE) fail_msg("%s: `%s` has no verdict in its row", path, key);
    }
    json_object_foreach(json_object_get(config, "rope_scaling"), key, value)
    {
        char name[128];
        snprintf(name, sizeof name, "rope_parameters.%s", key);
        row_of(name);
    }
}

static void test_keys_of_released_configs(void **state)
{
    (void)state;
    glob_t found = {0};
    if (glob("../shared/released/*/config.json", 0, NULL, &found) != 0) {
        printf("skip: there are no files of released models in ../shared/released\n");
        skip();
    }
    glob("../shared/released/configs/*.json", GLOB_APPEND, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        json_t *config = NULL;
        if (cox_json_load_python_file(&config, found.gl_pathv[i]) != COX_OK)
            fail_msg("%s", cox_status_message());
        check_released_keys(found.gl_pathv[i], config);
        json_decref(config);
    }
    globfree(&found);
}

static int open_all(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1;
    read_table();
    return cox_cluster_create(&cluster, &options) != COX_OK ||
           cox_json_load_file(&golden_file, "tests/golden/config_keys.json") != COX_OK;
}

static int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < n_bases; i++) outcome_free(&base_outcomes[i].outcome);
    json_decref(golden_file);
    cox_cluster_destroy(cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bases),
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_keys_of_released_configs),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
