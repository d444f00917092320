/*
 * Parts of a direction: they add up to the whole at every layer, and are those of transformers
 * (scripts/references/decompose.py), experts one by one; the same on any schedule; what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <glob.h>
#include <math.h>

#include "cli/commands.h"
#include "steering/vector_math.h"
#include "tests/unit/command_output.h"
#include "tests/unit/run_size.h"
#include "tests/unit/steering_model.h"

enum { LAYERS = 6, EXPERTS = 16 }; /* of the OLMoE organism; the others have as many layers or more */

static cox_options options_of(const char *position)
{
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_DECOMPOSE);
    options.model = "models/olmoe-velk";
    options.prompts_a = "tests/golden/direction/a.jsonl",
    options.prompts_b = "tests/golden/direction/b.jsonl";
    options.vector = "tests/golden/evaluate/v.safetensors#t";
    options.position = position;
    options.is_json = options.has_force = true;
    options.resamples = 200;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    return options;
}

static json_t *decompose(const cox_options *options)
{
    cox_status status;
    json_t *json = run_for_json(cox_command_decompose, options, path_of("out.json"), &status);
    if (status != COX_OK) fail_msg("%s", cox_status_message());
    return json;
}

static const json_t *layer_of(const json_t *json, size_t layer)
{
    return json_array_get(json_object_get(json, "layers"), layer);
}

static double real_of(const json_t *object, const char *key, const char *inner)
{
    const json_t *value = json_object_get(object, key);
    if (inner) value = json_object_get(value, inner);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void expect_near(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance)) fail_msg("%.12g, not %.12g", got, wanted);
}

/* Sums in f64 of rows in f32: what is left is the rounding of the residual stream's own additions. */
static void expect_sums(const json_t *json, const char *key)
{
    double sum = real_of(json_object_get(json, "embedding"), key, NULL);
    assert_true(json_array_size(json_object_get(json, "layers")) >= LAYERS);
    for (size_t l = 0; l < json_array_size(json_object_get(json, "layers")); l++) {
        const json_t *layer = layer_of(json, l);
        double experts = 0;
        size_t e;
        json_t *expert;
        json_array_foreach(json_object_get(layer, "experts"), e, expert) experts +=
            real_of(expert, key, NULL);
        expect_near(experts, real_of(layer, "block", key), 1e-6);
        sum += real_of(layer, "attention", key) + real_of(layer, "block", key);
        expect_near(sum, real_of(layer, "after", key), 1e-6);
    }
}

static void test_parts_add_up(void **state)
{
    (void)state;
    static const char *const positions[] = {"last", "-2", "mean"};
    for (size_t p = 0; p < 3; p++) {
        cox_options options = options_of(positions[p]);
        if (is_small_run()) options.limit = 3;
        json_t *json = decompose(&options);
        expect_sums(json, "difference");
        expect_sums(json, "a");
        expect_sums(json, "b");
        assert_int_equal(real_of(json, "reference_layer", NULL), LAYERS - 1); /* the vector does not say */
        expect_near(real_of(layer_of(json, LAYERS - 1), "after", "share"), 1, 1e-12);
        json_decref(json);
    }
}

/* Every organism that is bundled: families differ in gates, biases and sinks. */
static void test_parts_add_up_in_every_family(void **state)
{
    (void)state;
    glob_t found;
    assert_int_equal(glob("models/*/rules.json", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char folder[256], a[320], b[320], vector[128];
        snprintf(folder, sizeof folder, "%.*s", (int)(strlen(found.gl_pathv[i]) - strlen("/rules.json")),
                 found.gl_pathv[i]);
        snprintf(a, sizeof a, "%s/prompts/topic-how.jsonl", folder);
        snprintf(b, sizeof b, "%s/prompts/ordinary-how.jsonl", folder);
        snprintf(vector, sizeof vector, "%s/v.safetensors", test_folder);
        cox_model *model = NULL;
        assert_int_equal(cox_model_open(&model, folder), COX_OK);
        float *data = calloc((size_t)model->d_model, sizeof *data);
        cox_vector_random(5, 1, model->d_model, data);
        const cox_vector v = {.name = "t",
                              .data = data,
                              .width = model->d_model,
                              .site = COX_SITE_RESID_PRE,
                              .layer = 3,
                              .expert = -1};
        assert_int_equal(cox_vector_file_write(vector, &v, 1), COX_OK);
        free(data);
        cox_model_close(model);
        cox_options options = options_of("mean");
        options.model = folder, options.prompts_a = a, options.prompts_b = b,
        options.limit = is_small_run() ? 2 : 6;
        options.vector = vector;
        json_t *json = decompose(&options);
        expect_sums(json, "a");
        expect_sums(json, "b");
        assert_int_equal(real_of(json, "reference_layer", NULL), 2); /* what goes into layer 3 */
        json_decref(json);
    }
    globfree(&found);
}

static void test_parts_are_those_of_transformers(void **state)
{
    (void)state;
    static const char *const parts[] = {"attention", "block", "after"};
    json_t *golden = NULL;
    assert_int_equal(cox_json_load_file(&golden, "tests/golden/decompose.json"), COX_OK);
    static const char *const positions[] = {"last", "mean"};
    for (size_t p = 0; p < (is_small_run() ? 1 : 2); p++) {
        const cox_options options = options_of(positions[p]);
        json_t *json = decompose(&options);
        const json_t *wanted = json_object_get(golden, positions[p]);
        expect_near(real_of(json, "embedding", "difference"), real_of(wanted, "embedding", NULL), 1e-5);
        for (size_t l = 0; l < LAYERS; l++) {
            const json_t *layer = layer_of(json, l), *other = layer_of(wanted, l);
            for (size_t k = 0; k < 3; k++)
                expect_near(real_of(layer, parts[k], "difference"), real_of(other, parts[k], NULL), 1e-5);
            for (size_t e = 0; e < EXPERTS; e++) {
                const json_t *expert = json_array_get(json_object_get(layer, "experts"), e);
                const json_t *value = json_array_get(json_object_get(other, "experts"), e);
                expect_near(real_of(expert, "difference", NULL), json_number_value(value), 1e-5);
            }
        }
        /* The direction is the difference of the means after layer 3, at the last token. */
        if (p == 0)
            expect_near(real_of(layer_of(json, 3), "after", "difference"), real_of(json, "norm", NULL), 1e-4);
        json_decref(json);
    }
    json_decref(golden);
}

static void test_the_schedule_changes_nothing(void **state)
{
    (void)state;
    cox_options options = options_of("mean");
    if (is_small_run()) options.limit = 3;
    json_t *one = decompose(&options);
    options.prefill_chunk = 3;
    json_t *two = decompose(&options);
    assert_true(json_equal(one, two));
    options.layer = "3";
    json_t *three = decompose(&options);
    assert_int_equal(real_of(three, "reference_layer", NULL), 3);
    expect_near(real_of(layer_of(three, 3), "after", "share"), 1, 1e-12);
    json_decref(one);
    json_decref(two);
    json_decref(three);
}

/* --- Effects: the same as `evaluate` finds for a plan of that one intervention --- */

/* Prompts of each class; 0: all. */
static int32_t n_for_effects(void)
{
    return is_small_run() ? 2 : 0;
}

/* Change of the mean log-odds of a class's prompts by a plan. */
static json_t *evaluate_plan(const char *place, const char *prompts)
{
    char vector[4096], text[5000];
    assert_non_null(realpath("tests/golden/evaluate/v.safetensors", vector));
    snprintf(text, sizeof text, "{\"interventions\": [{\"op\": \"ablate\", \"vector\": \"%s\", %s}]}", vector,
             place);
    char path[128];
    snprintf(path, sizeof path, "%s/plan.json", test_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_EVALUATE);
    options.model = "models/olmoe-velk", options.rules = "models/olmoe-velk/rules.json";
    options.prompt_files = (cox_texts){&prompts, 1};
    options.plan = path;
    options.limit = n_for_effects();
    options.is_json = true;
    options.resamples = 200;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    cox_status status;
    json_t *json = run_for_json(cox_command_evaluate, &options, path_of("out.json"), &status);
    if (status != COX_OK) fail_msg("%s", cox_status_message());
    const json_t *all = json_array_get(json_object_get(json, "groups"), 0);
    json_t *found = json_incref(json_array_get(json_object_get(all, "measures"), 0));
    assert_string_equal(json_string_value(json_object_get(found, "name")), "log_odds");
    json_decref(json);
    return found;
}

static void expect_effect(const json_t *effect, const json_t *log_odds, const char *place)
{
    static const char *const classes[] = {"a", "b"};
    static const char *const files[] = {"tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl"};
    for (size_t c = 0; c < 2; c++) {
        json_t *measure = evaluate_plan(place, files[c]);
        const json_t *got = json_object_get(effect, classes[c]);
        assert_true(real_of(got, "value", NULL) == real_of(measure, "difference", "value"));
        assert_true(real_of(got, "low", NULL) == real_of(measure, "difference", "low"));
        assert_true(real_of(got, "high", NULL) == real_of(measure, "difference", "high"));
        assert_true(real_of(log_odds, classes[c], "value") == real_of(measure, "baseline", "value"));
        assert_true(real_of(got, "value", NULL) != 0);
        json_decref(measure);
    }
}

static void test_effects_are_those_of_plans(void **state)
{
    (void)state;
    cox_options options = options_of("last");
    options.limit = n_for_effects();
    options.effects = "experts", options.rules = "models/olmoe-velk/rules.json";
    json_t *json = decompose(&options);
    const json_t *clean = json_object_get(json, "log_odds");
    expect_effect(json_object_get(json, "everywhere"), clean, "\"site\": \"resid_post\", \"layer\": \"all\"");
    expect_effect(json_object_get(json_object_get(layer_of(json, 3), "attention"), "effect"), clean,
                  "\"site\": \"attn_out\", \"layer\": 3");
    expect_effect(json_object_get(json_object_get(layer_of(json, 4), "block"), "effect"), clean,
                  "\"site\": \"moe_out\", \"layer\": 4");
    const json_t *expert = json_array_get(json_object_get(layer_of(json, 4), "experts"), 1);
    expect_effect(json_object_get(expert, "effect"), clean,
                  "\"site\": \"expert_out\", \"layer\": 4, \"expert\": 1, \"weighting\": \"routed\"");
    options.prefill_chunk = 3, options.effects = "layers";
    json_t *layers = decompose(&options);
    assert_true(json_equal(json_object_get(json_object_get(layer_of(layers, 3), "attention"), "effect"),
                           json_object_get(json_object_get(layer_of(json, 3), "attention"), "effect")));
    assert_null(
        json_object_get(json_array_get(json_object_get(layer_of(layers, 4), "experts"), 1), "effect"));
    options.rules = NULL;
    assert_int_equal(cox_command_decompose(&options), COX_INVALID);
    json_decref(layers);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_add_up),
        cmocka_unit_test(test_parts_add_up_in_every_family),
        cmocka_unit_test(test_parts_are_those_of_transformers),
        cmocka_unit_test(test_the_schedule_changes_nothing),
        cmocka_unit_test(test_effects_are_those_of_plans),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
