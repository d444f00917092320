/*
 * Plans at the edges of what is allowed, on a recorded model: rows of zeros and their conditions, scopes that
 * no row is in, strengths that no f32 holds, as many interventions as a plan may have. What is beyond the
 * edge is in test_plan_refused.c.
 */
#include "steering_golden.h"

#define MODEL "qwen3_moe-dense-bf16"
enum { N_TOKENS = 5, LAYER = 1 };
static cox_cluster *cluster;
static harness *h;
static reference tokens;

static json_t *plan_json(const char *interventions)
{
    char text[2000];
    snprintf(text, sizeof text, "{'interventions': [%s]}", interventions);
    for (char *c = text; *c; c++) *c = *c == '\'' ? '"' : *c;
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (!json) fail_msg("%s: %s", text, error.text);
    return json;
}

static cox_plan *load(const char *interventions)
{
    cox_plan *plan = NULL;
    json_t *json = plan_json(interventions);
    cox_status status = cox_plan_from_json(&plan, json, "plan", HOME MODEL, harness_model(h), NULL, false);
    if (status != COX_OK) fail_msg("%s: %s", interventions, cox_status_message());
    json_decref(json);
    return plan;
}

static harness_request request_of(cox_plan *plan)
{
    return (harness_request){.prompt = tokens.tokens,
                             .n_prompt = tokens.n_tokens,
                             .max_tokens = N_TOKENS,
                             .ignore_eos = true,
                             .sampling = cox_sampling_defaults(),
                             .plan = plan};
}

static harness_result steered(const char *interventions)
{
    harness_result result;
    harness_request request = request_of(interventions ? load(interventions) : NULL);
    if (harness_run(h, &request, 1, &result) != COX_OK) fail_msg("%s", cox_status_message());
    return result;
}

static void same_as_unsteered(const char *interventions)
{
    harness_result plain = steered(NULL), ours = steered(interventions);
    assert_string_equal(plain.digest, ours.digest);
    for (int32_t i = 0; i < ours.n_hits; i++)
        assert_int_equal(ours.hits[i].n_prompt + ours.hits[i].n_generated, 0);
    harness_result_free(&plain);
    harness_result_free(&ours);
}

static int32_t rows_of(const harness_result *result, int32_t intervention)
{
    int32_t n = 0;
    for (int32_t i = 0; i < result->n_hits; i++) {
        const cox_steer_hits *hits = &result->hits[i];
        if (hits->intervention == intervention) n += hits->n_prompt + hits->n_generated;
    }
    return n;
}

#define V    "'vector': 'vectors.safetensors#v'"
#define ZERO "{'site': 'moe_out', 'layer': 1, 'op': 'scale', 'factor': 0}"
#define ADD  "{'site': 'moe_out', 'layer': 1, 'op': 'add', 'vector': 'vectors.safetensors#v'"

/* A row of zeros has no direction: no condition holds for it, not even one that nearly all rows meet. */
static void test_zero_rows(void **state)
{
    (void)state;
    const int32_t n_rows = tokens.n_tokens + N_TOKENS - 1;
    harness_result zeros = steered(ZERO);
    harness_result both =
        steered(ZERO ", " ADD ", 'when': {'vector': 'vectors.safetensors#cue', 'cosine_above': -0.99}}");
    assert_string_equal(zeros.digest, both.digest);
    assert_int_equal(rows_of(&both, 0), n_rows);
    assert_int_equal(rows_of(&both, 1), 0);
    harness_result_free(&both);
    /* every operation takes a row of zeros, and none makes it anything but numbers */
    static const char *const more[] = {
        "'op': 'ablate', 'vector': 'vectors.safetensors#v'",
        "'op': 'scale', 'factor': 3, 'preserve_norm': true",
        "'op': 'add', 'vector': 'vectors.safetensors#v', 'preserve_norm': true",
        "'op': 'rotate', " V ", 'vector2': 'vectors.safetensors#v2', 'degrees': 9"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        char text[500];
        snprintf(text, sizeof text, ZERO ", {'site': 'moe_out', 'layer': 1, %s}", more[i]);
        harness_result still = steered(text);
        assert_string_equal(zeros.digest, still.digest);
        assert_int_equal(rows_of(&still, 1), n_rows);
        harness_result_free(&still);
    }
    harness_result_free(&zeros);
}

static void test_empty_scopes(void **state)
{
    (void)state;
    same_as_unsteered(ADD ", 'positions': {'from': 200, 'to': 210}}");
    same_as_unsteered(ADD ", 'strength': 0}");
    same_as_unsteered(ADD ", 'when': {'vector': 'vectors.safetensors#cue', 'cosine_above': 0.999}}");
    harness_result all = steered(ADD ", 'positions': 'prompt'}"),
                   last = steered(ADD ", 'positions': {'last': 100000}}"),
                   range = steered(ADD ", 'positions': {'from': 0, 'to': 28}}");
    assert_int_equal(tokens.n_tokens, 28);
    assert_string_equal(all.digest, last.digest);
    assert_string_equal(all.digest, range.digest);
    assert_int_equal(rows_of(&last, 0), 28);
    harness_result_free(&range);
    harness_result_free(&last);
    harness_result_free(&all);
}

/* Interventions at one site apply in the plan's order, each on what the one before left. */
static void test_order(void **state)
{
    (void)state;
    const char *const
        clamp =
            "{'site': 'moe_out', 'layer': 1, 'op': 'clamp', 'vector': 'vectors.safetensors#v', 'value': 2}",
        *const ablate = "{'site': 'moe_out', 'layer': 1, 'op': 'ablate', 'vector': 'vectors.safetensors#v'}";
    char text[600];
    snprintf(text, sizeof text, "%s, %s", clamp, ablate);
    harness_result last_ablates = steered(text);
    snprintf(text, sizeof text, "%s, %s", ablate, clamp);
    harness_result last_clamps = steered(text);
    assert_string_not_equal(last_ablates.digest, last_clamps.digest);
    /* after a clamp to 2, taking away the part along v takes away 2 of every row */
    for (int32_t i = 0; i < last_ablates.n_hits; i++) {
        if (last_ablates.hits[i].intervention == 1)
            assert_true(fabs(last_ablates.hits[i].norm_added - 2) < 1e-4);
    }
    assert_true(rows_of(&last_ablates, 1) > 0);
    harness_result_free(&last_clamps);
    harness_result_free(&last_ablates);
}

/* What overflows ends its own request with an error and changes no bit of its mates. The first two stay
 * finite: the norm of such rows is infinite, and RMSNorm makes zeros of them, as in transformers. */
static void test_huge(void **state)
{
    (void)state;
    enum { N_FINITE = 2 };
    static const char *const plans[] = {
        ADD ", 'strength': 3e38}",
        "{'site': 'attn_out', 'layer': 2, 'op': 'add', 'vector': 'vectors.safetensors#v', 'strength': -3e38, "
        "'positions': {'last': 1}}",
        "{'site': 'resid_pre', 'layer': 0, 'op': 'scale', 'factor': 3e38}, {'site': 'resid_post', 'layer': "
        "0, 'op': "
        "'scale', 'factor': 3e38}",
        "{'site': 'expert_out', 'layer': 1, 'expert': 'all', 'weighting': 'routed', 'op': 'clamp', 'vector': "
        "'vectors.safetensors#v', 'value': 3e38, 'strength': 10}",
        "{'site': 'expert_out', 'layer': 1, 'expert': [0, 1, 2], 'weighting': 'unweighted', 'op': 'add', "
        "'vector': "
        "'vectors.safetensors#v', 'strength': 3e38}",
        "{'site': 'resid_mid', 'layer': 1, 'op': 'scale', 'factor': 3e38, 'preserve_norm': true}",
        "{'site': 'router_logits', 'layer': 1, 'expert': 'all', 'op': 'bias', 'value': 3e38, 'strength': "
        "3e38}"};
    enum { N = sizeof plans / sizeof *plans };
    harness_result plain = steered(NULL), results[N + 1];
    harness_request requests[N + 1];
    for (size_t i = 0; i < N; i++) requests[i] = request_of(load(plans[i]));
    requests[N] = request_of(NULL);
    assert_int_equal(harness_run(h, requests, N + 1, results), COX_OK);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(results[i].finish, i < N_FINITE ? COX_FINISH_LENGTH : COX_FINISH_ERROR);
        harness_result_free(&results[i]);
    }
    assert_int_equal(results[N].finish, COX_FINISH_LENGTH);
    assert_string_equal(results[N].digest, plain.digest);
    harness_result_free(&results[N]);
    harness_result_free(&plain);
}

/* 4096 interventions on one row are as many additions. */
static void test_many(void **state)
{
    (void)state;
    json_t *list = json_array();
    for (int i = 0; i < COX_PLAN_MAX_INTERVENTIONS; i++) {
        json_array_append_new(list, json_pack("{s:s,s:i,s:s,s:s,s:f}", "site", "resid_post", "layer", LAYER,
                                              "op", "add", "vector", "vectors.safetensors#v", "strength",
                                              i % 2 ? 0.5 : -0.5));
    }
    json_t *json = json_pack("{s:o}", "interventions", list);
    cox_plan *plan = NULL;
    assert_int_equal(cox_plan_from_json(&plan, json, "plan", HOME MODEL, harness_model(h), NULL, false),
                     COX_OK);
    harness_request request = request_of(plan);
    harness_result result;
    assert_int_equal(harness_run(h, &request, 1, &result), COX_OK);
    assert_int_equal(result.finish, COX_FINISH_LENGTH);
    for (int i = 0; i < COX_PLAN_MAX_INTERVENTIONS; i += 97)
        assert_int_equal(rows_of(&result, i), tokens.n_tokens + N_TOKENS - 1);
    harness_result_free(&result);
    json_decref(json);
}

static int set_up(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    if (cox_cluster_create(&cluster, &options) != COX_OK) return -1;
    harness_config config = harness_config_defaults("tests/golden/models/" MODEL);
    config.engine.has_prefix_cache = false; /* hits count computed rows */
    tokens = load_reference(HOME MODEL "/logits.safetensors");
    tokens.n_tokens = 28; /* the prompt alone */
    return harness_open(&h, cluster, &config) == COX_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free_reference(&tokens);
    cox_status status = harness_finish(h);
    harness_close(h);
    cox_cluster_destroy(cluster);
    return status == COX_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_zero_rows), cmocka_unit_test(test_empty_scopes),
                                       cmocka_unit_test(test_order), cmocka_unit_test(test_huge),
                                       cmocka_unit_test(test_many)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
