/*
 * Every recorded plan of tests/golden/steering on its model, against transformers with hooks: the logits of
 * the recorded positions, and the greedy tokens. The tokens are fed as one prompt, so positions that name a
 * phase are first written as ranges; the cases that generate have real phases. And every plan of refused.json
 * is refused.
 */
#include "steering_golden.h"

static cox_cluster *cluster;

/* {"from": a, "to": b} in the place of a phase. */
static json_t *without_phases(const json_t *plan, int32_t n_prompt)
{
    json_t *copy = json_deep_copy(plan);
    size_t i;
    json_t *intervention;
    json_array_foreach(json_object_get(copy, "interventions"), i, intervention)
    {
        const json_t *positions = json_object_get(intervention, "positions");
        const char *text = json_string_value(positions);
        int32_t from = -1, to = n_prompt;
        if (text && !strcmp(text, "prompt")) from = 0;
        if (text && !strcmp(text, "generated")) from = n_prompt, to = 250;
        if (json_object_get(positions, "last")) {
            from = n_prompt - int_of(positions, "last");
            from = from < 0 ? 0 : from;
        }
        if (from < 0) continue;
        json_object_set_new(intervention, "positions", json_pack("{s:i,s:i}", "from", from, "to", to));
    }
    return copy;
}

/* Largest difference at the case's positions. */
static double difference_of(const json_t *test, const reference *r, const float *logits)
{
    double largest = 0;
    size_t i;
    const json_t *position;
    json_array_foreach(json_object_get(test, "positions"), i, position)
    {
        size_t ours = (size_t)json_integer_value(position), theirs = (size_t)int_of(test, "row") + i;
        size_t width = (size_t)r->vocab_size;
        assert_true(theirs < (size_t)r->n_rows);
        for (size_t t = 0; t < width; t++) {
            double d = fabs((double)logits[ours * width + t] - (double)r->logits[theirs * width + t]);
            if (!(d <= largest)) largest = d;
        }
    }
    return largest;
}

static int check_greedy(harness *h, const char *folder, const json_t *test, const reference *r,
                        int32_t n_prompt, const char *name)
{
    const json_t *greedy = json_object_get(test, "greedy");
    if (!greedy) return 0;
    int32_t n = (int32_t)json_array_size(greedy);
    harness_result result;
    assert_int_equal(run(h, folder, json_object_get(test, "plan"), r->tokens, n_prompt, n, &result), COX_OK);
    int n_wrong = result.n_tokens != n;
    for (int32_t i = 0; i < n && !n_wrong; i++) {
        n_wrong = result.tokens[i] != (int32_t)json_integer_value(json_array_get(greedy, (size_t)i));
    }
    if (n_wrong) print_error("%s: %s: other greedy tokens\n", folder, name);
    harness_result_free(&result);
    return n_wrong;
}

static void check_model(const char *name)
{
    char folder[200], path[300];
    snprintf(folder, sizeof folder, HOME "%s", name);
    snprintf(path, sizeof path, "%s/cases.json", folder);
    json_t *json = load_json(path);
    snprintf(path, sizeof path, "%s/logits.safetensors", folder);
    reference r = load_reference(path);
    snprintf(path, sizeof path, "tests/golden/models/%s", name);
    harness_config config = harness_config_defaults(path);
    harness *h = NULL;
    assert_int_equal(harness_open(&h, cluster, &config), COX_OK);
    const double range = json_number_value(json_object_get(json, "range"));
    const int32_t n_prompt = int_of(json, "n_prompt");
    int n_wrong = 0;
    double worst = 0;
    size_t i;
    const json_t *test, *cases = json_object_get(json, "cases");
    json_array_foreach(cases, i, test)
    {
        const json_t *plan = json_object_get(test, "plan");
        const char *case_name = json_string_value(json_object_get(plan, "name"));
        json_t *ranged = without_phases(plan, n_prompt);
        harness_result result;
        if (run(h, folder, ranged, r.tokens, r.n_tokens, 0, &result) != COX_OK) {
            fail_msg("%s: %s: %s", folder, case_name, cox_status_message());
        }
        double d = difference_of(test, &r, result.logits) / range;
        if (!(d <= tolerance)) {
            print_error("%s: %s: logits differ by %.1e of the range\n", folder, case_name, d);
            n_wrong++;
        }
        if (!(d <= worst)) worst = d;
        n_wrong += check_hits(json_object_get(test, "hits"), &result, true, case_name);
        harness_result_free(&result);
        json_decref(ranged);
        n_wrong += check_greedy(h, folder, test, &r, n_prompt, case_name);
    }
    print_message("%s: %zu cases, largest difference %.1e of the range\n", name, json_array_size(cases),
                  worst);
    assert_true(json_array_size(cases) > 0);
    assert_int_equal(n_wrong, 0);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
    free_reference(&r);
    json_decref(json);
}

static void test_model(void **state)
{
    check_model(*state);
}

static void test_refused(void **state)
{
    (void)state;
    json_t *json = load_json(HOME "refused.json");
    const char *name = json_string_value(json_object_get(json, "model"));
    char model_folder[200], folder[200];
    snprintf(model_folder, sizeof model_folder, "tests/golden/models/%s", name);
    snprintf(folder, sizeof folder, HOME "%s", name);
    cox_model *model = NULL;
    assert_int_equal(cox_model_open(&model, model_folder), COX_OK);
    int n_wrong = 0;
    size_t i;
    const json_t *entry;
    json_array_foreach(json_object_get(json, "plans"), i, entry)
    {
        cox_plan *plan = NULL;
        const char *reason = json_string_value(json_object_get(entry, "reason"));
        cox_status status =
            cox_plan_from_json(&plan, json_object_get(entry, "plan"), "plan", folder, model, NULL, false);
        if (status > COX_OK && strstr(cox_status_message(), reason)) continue;
        char *text = json_dumps(json_object_get(entry, "plan"), JSON_COMPACT);
        print_error("%s\n  %s, not \"%s\"\n", text, status == COX_OK ? "accepted" : cox_status_message(),
                    reason);
        free(text);
        n_wrong++;
        cox_plan_free(plan);
    }
    print_message("%zu plans\n", i);
    assert_true(i > 0);
    assert_int_equal(n_wrong, 0);
    cox_model_close(model);
    json_decref(json);
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
                mxfp4[] = "gpt_oss-mxfp4", qwen3[] = "qwen3_moe-dense-bf16";
    const struct CMUnitTest tests[] = {
        {"olmoe", test_model, NULL, NULL, olmoe},     {"mixtral", test_model, NULL, NULL, mixtral},
        {"gpt_oss", test_model, NULL, NULL, gpt_oss}, {"gpt_oss, MXFP4", test_model, NULL, NULL, mxfp4},
        {"qwen3_moe", test_model, NULL, NULL, qwen3}, cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
