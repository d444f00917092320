/*
 * Nothing that docs/steering.md allows is left out of the record, and nothing else is allowed. Every site,
 * operation and weighting, with and without preserve_norm, is a case of every family
 * (test_steering_models.c runs those). Here each of them times positions and condition is run, on one of the
 * four families each, with real phases: the prompt is fed, tokens are generated under the plan, and these
 * tokens, the logits after the last of them and the hits are those of transformers
 * (scripts/references/steering_matrix.py). The rest of the product is refused by name.
 */
#include "steering_golden.h"

static cox_cluster *cluster;

static json_t *load_matrix(const char *name, char *folder, size_t n)
{
    char path[300];
    snprintf(folder, n, HOME "%s", name);
    snprintf(path, sizeof path, "%s/matrix.json", folder);
    return load_json(path);
}

/* --- what is allowed, against transformers --- */

static double check_logits(const reference *r, size_t row, const float *ours)
{
    double largest = 0;
    const float *theirs = r->logits + row * (size_t)r->vocab_size;
    for (int32_t t = 0; t < r->vocab_size; t++) {
        double d = fabs((double)ours[t] - (double)theirs[t]);
        if (!(d <= largest)) largest = d;
    }
    return largest;
}

static int check_cell(harness *h, const char *folder, const json_t *cell, size_t row, const reference *r,
                      double range, double *worst)
{
    const json_t *tokens = json_object_get(cell, "tokens");
    const int32_t n = (int32_t)json_array_size(tokens), last = r->n_tokens + n - 2;
    char *name = json_dumps(json_object_get(cell, "intervention"), JSON_COMPACT);
    json_t *plan = json_pack("{s:[O]}", "interventions", json_object_get(cell, "intervention")),
           *hits = json_pack("[O]", json_object_get(cell, "hits"));
    harness_result result;
    if (run(h, folder, plan, r->tokens, r->n_tokens, n, &result) != COX_OK)
        fail_msg("%s: %s", name, cox_status_message());
    int n_wrong = result.n_tokens != n;
    for (int32_t i = 0; i < n && !n_wrong; i++)
        n_wrong = result.tokens[i] != (int32_t)json_integer_value(json_array_get(tokens, (size_t)i));
    if (n_wrong) print_error("%s: other tokens\n", name);
    double d = check_logits(r, row, result.logits + (size_t)last * (size_t)r->vocab_size) / range;
    if (!(d <= tolerance)) {
        print_error("%s: logits differ by %.1e of the range\n", name, d);
        n_wrong++;
    }
    if (!(d <= *worst)) *worst = d;
    harness_result_free(&result);
    /* a request for all logits also feeds its last token; the record does not, and nor does this one */
    cox_plan *again = NULL;
    assert_int_equal(cox_plan_from_json(&again, plan, "plan", folder, harness_model(h), NULL, false), COX_OK);
    const harness_request request = {.prompt = r->tokens,
                                     .n_prompt = r->n_tokens,
                                     .max_tokens = n,
                                     .ignore_eos = true,
                                     .sampling = cox_sampling_defaults(),
                                     .plan = again};
    assert_int_equal(harness_run(h, &request, 1, &result), COX_OK);
    n_wrong += check_hits(hits, &result, false, name);
    harness_result_free(&result);
    json_decref(hits);
    json_decref(plan);
    free(name);
    return n_wrong;
}

static void test_family(void **state)
{
    const char *name = *state;
    char folder[200], path[300];
    json_t *json = load_matrix(name, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/matrix.safetensors", folder);
    reference r = load_reference(path);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    harness_config config = harness_config_defaults(path);
    config.engine.has_prefix_cache = false; /* hits count computed rows */
    harness *h = NULL;
    assert_int_equal(harness_open(&h, cluster, &config), COX_OK);
    assert_int_equal(r.n_tokens, int_of(json, "n_prompt"));
    const json_t *cell, *cells = json_object_get(json, "cells");
    const double range = json_number_value(json_object_get(json, "range"));
    double worst = 0;
    int n_wrong = 0;
    size_t i;
    assert_int_equal(json_array_size(cells), r.n_rows);
    json_array_foreach(cells, i, cell) n_wrong += check_cell(h, folder, cell, i, &r, range, &worst);
    print_message("%s: %zu combinations, largest difference %.1e of the range\n", name, i, worst);
    assert_int_equal(n_wrong, 0);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
    free_reference(&r);
    json_decref(json);
}

/* --- what is a combination, and what is refused --- */

enum { N_SCOPES = 5, NO_WEIGHTING = COX_N_WEIGHTINGS };

typedef struct combination {
    int site, op, weighting, scope;
    bool has_when, keeps_norm;
} combination;

/* docs/steering.md, "What is allowed where", in its own words: vector operations at every site but the
 * router's, all with a condition and preserve_norm; other weightings than routed for `add` alone; the
 * router's own four. */
static bool is_allowed(const combination *c)
{
    bool is_edit = c->op >= COX_OP_BIAS;
    if (is_edit != (c->site == COX_SITE_ROUTER_LOGITS)) return false;
    if ((c->weighting != NO_WEIGHTING) != (c->site == COX_SITE_EXPERT_OUT)) return false;
    if (is_edit) return !c->keeps_norm;
    if (c->weighting == NO_WEIGHTING || c->weighting == COX_WEIGHTING_ROUTED) return true;
    return c->op == COX_OP_ADD && !c->has_when && !c->keeps_norm;
}

static int scope_of(const json_t *positions)
{
    static const char *const names[] = {"all", "prompt", "generated"};
    if (!positions) return 0;
    for (int i = 0; json_is_string(positions) && i < 3; i++)
        if (!strcmp(json_string_value(positions), names[i])) return i;
    return json_object_get(positions, "last") ? 3 : 4;
}

static int index_in(const char *const *names, const char *name)
{
    int i = 0;
    while (strcmp(names[i], name) != 0) i++;
    return i;
}

static const char *const ops[] = {
#define X(name, text) text,
    COX_OP_LIST(X)
#undef X
};
static const char *const weightings[] = {
#define X(name, text) text,
    COX_WEIGHTING_LIST(X)
#undef X
};

static size_t number_of(const combination *c)
{
    size_t n = (size_t)c->site * COX_N_OPS + (size_t)c->op;
    n = n * (COX_N_WEIGHTINGS + 1) + (size_t)c->weighting;
    return ((n * N_SCOPES + (size_t)c->scope) * 2 + c->has_when) * 2 + c->keeps_norm;
}
enum { N_COMBINATIONS = COX_N_SITES * COX_N_OPS * (COX_N_WEIGHTINGS + 1) * N_SCOPES * 4 };

static combination combination_of(size_t number)
{
    combination c = {
        .keeps_norm = number % 2, .has_when = number / 2 % 2, .scope = (int)(number / 4 % N_SCOPES)};
    number /= 4 * N_SCOPES;
    c.weighting = (int)(number % (COX_N_WEIGHTINGS + 1));
    number /= COX_N_WEIGHTINGS + 1;
    c.op = (int)(number % COX_N_OPS);
    c.site = (int)(number / COX_N_OPS);
    return c;
}

static combination combination_in(const json_t *v)
{
    const json_t *weighting = json_object_get(v, "weighting");
    return (combination){.site = (int)cox_site_find(json_string_value(json_object_get(v, "site"))),
                         .op = index_in(ops, json_string_value(json_object_get(v, "op"))),
                         .weighting =
                             weighting ? index_in(weightings, json_string_value(weighting)) : NO_WEIGHTING,
                         .scope = scope_of(json_object_get(v, "positions")),
                         .has_when = json_object_get(v, "when") != NULL,
                         .keeps_norm = json_is_true(json_object_get(v, "preserve_norm"))};
}

static const char *name_of(const combination *c)
{
    static char name[200];
    snprintf(name, sizeof name, "%s %s %s, scope %d%s%s", cox_site_name((cox_site)c->site), ops[c->op],
             c->weighting == NO_WEIGHTING ? "" : weightings[c->weighting], c->scope,
             c->has_when ? ", when" : "", c->keeps_norm ? ", preserve_norm" : "");
    return name;
}

/* A family's cases have every allowed site, operation and weighting alone in a plan, at all positions. */
static void test_cases(void **state)
{
    char path[300];
    snprintf(path, sizeof path, HOME "%s/cases.json", (const char *)*state);
    json_t *json = load_json(path);
    static int seen[N_COMBINATIONS];
    memset(seen, 0, sizeof seen);
    size_t i, n_allowed = 0;
    const json_t *test;
    json_array_foreach(json_object_get(json, "cases"), i, test)
    {
        const json_t *list = json_object_get(json_object_get(test, "plan"), "interventions");
        if (json_array_size(list) != 1) continue;
        combination c = combination_in(json_array_get(list, 0));
        seen[number_of(&c)]++;
    }
    for (size_t k = 0; k < N_COMBINATIONS; k++) {
        combination c = combination_of(k);
        if (c.scope != 0 || c.has_when || !is_allowed(&c)) continue;
        if (seen[k] == 0) fail_msg("%s has no case of %s", path, name_of(&c));
        n_allowed++;
    }
    /* 6 sites x 6 operations x norm, 3 weightings, 4 edits */
    assert_int_equal(n_allowed, 6 * 6 * 2 + 3 + 4);
    json_decref(json);
}

/* Each allowed combination is in one family's matrix once, and no other is in any. */
static void test_whole(void **state)
{
    static const char *const names[] = {"olmoe-clip-bf16", "mixtral-window-bf16", "gpt_oss-bf16",
                                        "qwen3_moe-dense-bf16"};
    static int seen[N_COMBINATIONS];
    (void)state;
    memset(seen, 0, sizeof seen);
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        char folder[200];
        json_t *json = load_matrix(names[m], folder, sizeof folder);
        size_t i;
        const json_t *cell;
        json_array_foreach(json_object_get(json, "cells"), i, cell)
        {
            combination c = combination_in(json_object_get(cell, "intervention"));
            seen[number_of(&c)]++;
        }
        json_decref(json);
    }
    size_t n_allowed = 0;
    for (size_t k = 0; k < N_COMBINATIONS; k++) {
        combination c = combination_of(k);
        if (seen[k] != is_allowed(&c)) fail_msg("%s is recorded %d times", name_of(&c), seen[k]);
        n_allowed += is_allowed(&c);
    }
    /* 6 sites x 6 operations x 5 scopes x condition x norm, 3 weightings x 5, 4 edits x 5 x condition */
    assert_int_equal(n_allowed, 6 * 6 * 5 * 2 * 2 + 3 * 5 + 4 * 5 * 2);
}

static json_t *intervention_of(const combination *c, int32_t layer, const char *const *scope_texts)
{
    json_t *v = json_pack("{s:s,s:s,s:i}", "site", cox_site_name((cox_site)c->site), "op", ops[c->op],
                          "layer", (int)layer);
    const struct {
        unsigned ops; /* that need the key */
        const char *key;
        json_t *value;
    } fields[] = {{0x2f, "vector", json_string("vectors.safetensors#v")},
                  {1u << COX_OP_CLAMP | 1u << COX_OP_BIAS, "value", json_real(1)},
                  {1u << COX_OP_AFFINE, "reference", json_string("vectors.safetensors#reference")},
                  {1u << COX_OP_AFFINE, "alpha", json_real(0.5)},
                  {1u << COX_OP_SCALE, "factor", json_real(2)},
                  {1u << COX_OP_ROTATE, "vector2", json_string("vectors.safetensors#v2")},
                  {1u << COX_OP_ROTATE, "degrees", json_real(30)},
                  {1u << COX_OP_PIN, "routes", json_string("routes.safetensors")}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].ops >> c->op & 1u) json_object_set(v, fields[i].key, fields[i].value);
        json_decref(fields[i].value);
    }
    bool is_router = c->site == COX_SITE_ROUTER_LOGITS;
    if (c->op != COX_OP_PIN && (is_router || c->site == COX_SITE_EXPERT_OUT))
        json_object_set_new(v, "expert", json_integer(1));
    if (c->weighting != NO_WEIGHTING)
        json_object_set_new(v, "weighting", json_string(weightings[c->weighting]));
    json_object_set_new(v, "positions", json_loads(scope_texts[c->scope], JSON_DECODE_ANY, NULL));
    if (c->has_when) {
        const char *cue = is_router ? "vectors.safetensors#cue_router" : "vectors.safetensors#cue";
        json_object_set_new(v, "when", json_pack("{s:s,s:f}", "vector", cue, "cosine_above", 0.1));
    }
    if (c->keeps_norm) json_object_set_new(v, "preserve_norm", json_true());
    return v;
}

/* The key that stands in the way: the first word of the message must be one that the combination has wrong.
 */
static bool names_culprit(const combination *c, const char *message)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "op \"%s\"", ops[c->op]);
    return !strncmp(message, "plan: intervention 0: ", 22) &&
           (strstr(message, quoted) || strstr(message, "key \"weighting\"") ||
            strstr(message, "weighting \"") || strstr(message, "preserve_norm"));
}

/* The whole product of sites, operations, weightings, scopes, conditions and preserve_norm on one model. */
static void test_product(void **state)
{
    const char *name = *state;
    static const char *const scope_texts[N_SCOPES] = {"\"all\"", "\"prompt\"", "\"generated\"",
                                                      "{\"last\": 6}", "{\"from\": 4, \"to\": 9}"};
    char folder[200], path[300];
    snprintf(folder, sizeof folder, HOME "%s", name);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    cox_model *model = NULL;
    assert_int_equal(cox_model_open(&model, path), COX_OK);
    int32_t layer = 0;
    while (!model->layers[layer].is_moe) layer++;
    size_t n_refused = 0;
    for (size_t k = 0; k < N_COMBINATIONS; k++) {
        combination c = combination_of(k);
        json_t *json = json_pack("{s:[o]}", "interventions", intervention_of(&c, layer, scope_texts));
        cox_plan *plan = NULL;
        cox_status status = cox_plan_from_json(&plan, json, "plan", folder, model, NULL, false);
        bool is_right = is_allowed(&c) ? status == COX_OK
                                       : status == COX_INVALID && names_culprit(&c, cox_status_message());
        if (!is_right) {
            char *text = json_dumps(json, JSON_COMPACT);
            fail_msg("%s: %s", text, status == COX_OK ? "accepted" : cox_status_message());
        }
        n_refused += status != COX_OK;
        json_decref(json);
        cox_plan_free(plan);
    }
    print_message("%s: %zu of %d combinations refused\n", name, n_refused, N_COMBINATIONS);
    cox_model_close(model);
}

static int set_up(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    return cox_cluster_create(&cluster, &options) == COX_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    cox_cluster_destroy(cluster);
    return 0;
}

int main(void)
{
    static char olmoe[] = "olmoe-clip-bf16", mixtral[] = "mixtral-window-bf16", gpt_oss[] = "gpt_oss-bf16",
                qwen3[] = "qwen3_moe-dense-bf16";
#define FAMILY(text, folder)                                                   \
    {text, test_family, NULL, NULL, folder},                                   \
        {text ": every operation has a case", test_cases, NULL, NULL, folder}, \
    {                                                                          \
        text ": the rest is refused", test_product, NULL, NULL, folder         \
    }
    const struct CMUnitTest tests[] = {FAMILY("olmoe", olmoe), FAMILY("mixtral", mixtral),
                                       FAMILY("gpt_oss", gpt_oss), FAMILY("qwen3_moe", qwen3),
                                       cmocka_unit_test(test_whole)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
