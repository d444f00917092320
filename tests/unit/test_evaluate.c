/*
 * Evaluation: what steering does to logits, against transformers with hooks (scripts/references/evaluate.py);
 * rates and paired differences of answers by hand; prompts and answers that do not fit each other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "cli/commands.h"
#include "study/metrics.h"
#include "tests/unit/command_output.h"
#include "tests/unit/run_size.h"
#include "tests/unit/steering_model.h"

#define GOLDEN "tests/golden/evaluate/"

static const char *prompt_files[2];

static cox_options options_of(const char *prompts)
{
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_EVALUATE);
    options.rules = "models/olmoe-velk/rules.json";
    prompt_files[0] = prompts;
    options.prompt_files = (cox_texts){prompt_files, prompts != NULL};
    options.is_json = options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    return options;
}

static json_t *evaluate(const cox_options *options)
{
    cox_status status;
    json_t *json = run_for_json(cox_command_evaluate, options, path_of("out.json"), &status);
    if (status != COX_OK) fail_msg("%s", cox_status_message());
    return json;
}

static json_t *find(json_t *json, size_t group, const char *name)
{
    size_t i;
    json_t *measure;
    const json_t *one = json_array_get(json_object_get(json, "groups"), group);
    json_array_foreach(json_object_get(one, "measures"), i, measure)
    {
        if (strcmp(json_string_value(json_object_get(measure, "name")), name) == 0) return measure;
    }
    return NULL;
}

static double real_of(const json_t *object, const char *key, const char *inner)
{
    const json_t *value = json_object_get(object, key);
    if (inner) value = json_object_get(value, inner);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* --- Logits --- */

/* Of an item: in the order of evaluate.json. */
static const struct {
    const char *side, *name;
} measures[6] = {{"baseline", "log_odds"}, {"run", "log_odds"}, {"run", "kl"},
                 {"baseline", "nll"},      {"run", "nll"},      {"run", "answer_kl"}};

static void expect_items(const char *path, const json_t *wanted, const char *plan)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char line[4096];
    size_t n = 0;
    for (; fgets(line, sizeof line, file); n++) {
        json_t *item = json_loads(line, 0, NULL);
        for (size_t m = 0; m < 6; m++) {
            double got = real_of(json_object_get(item, measures[m].side), measures[m].name, NULL);
            double golden = json_number_value(json_array_get(json_array_get(wanted, n), m));
            if (!(fabs(got - golden) <= 2e-4 * (1 + fabs(golden))))
                fail_msg("%s, prompt %zu: %s %s is %g, not %g", plan, n, measures[m].side, measures[m].name,
                         got, golden);
        }
        json_decref(item);
    }
    assert_int_equal(n, json_array_size(wanted));
    fclose(file);
}

static void test_steered_logits_are_those_of_transformers(void **state)
{
    (void)state;
    json_t *golden = NULL;
    assert_int_equal(cox_json_load_file(&golden, GOLDEN "evaluate.json"), COX_OK);
    char items[128];
    snprintf(items, sizeof items, "%s/items.jsonl", test_folder);
    static const char *const plans[] = {"generated", "last", "all"};
    for (size_t p = 0; p < 3; p++) {
        char plan[64];
        snprintf(plan, sizeof plan, GOLDEN "%s.json", plans[p]);
        cox_options options = options_of(GOLDEN "prompts.jsonl");
        options.model = "models/olmoe-velk", options.plan = plan, options.items = items, options.by = "kind";
        json_t *json = evaluate(&options);
        assert_true(real_of(json, "rows_steered", NULL) > 0);
        expect_items(items, json_object_get(golden, plans[p]), plans[p]);
        const json_t *nll = find(json, 1, "nll"), *perplexity = find(json, 1, "perplexity");
        assert_int_equal(real_of(nll, "run", "n"), 3);
        assert_true(fabs(real_of(perplexity, "run", "high") - exp(real_of(nll, "run", "high"))) < 1e-9);
        if (p == 0) { /* a plan of the answer cannot reach what the prompt alone decides */
            assert_true(real_of(find(json, 0, "kl"), "run", "value") == 0);
            assert_true(real_of(find(json, 0, "answer_kl"), "run", "value") > 1e-3);
        }
        if (p > 0 && is_small_run()) {
            json_decref(json);
            continue;
        }
        options.prefill_chunk = 7; /* clean and steered rows come in another order */
        json_t *again = evaluate(&options);
        assert_true(json_equal(json, again));
        json_decref(json);
        json_decref(again);
    }
    json_decref(golden);
}

static void test_a_model_without_a_plan(void **state)
{
    (void)state;
    cox_options options = options_of(GOLDEN "prompts.jsonl");
    options.model = "models/olmoe-velk", options.limit = 4;
    json_t *json = evaluate(&options);
    assert_int_equal(real_of(find(json, 0, "log_odds"), "run", "n"), 4);
    assert_true(json_is_null(json_object_get(find(json, 0, "log_odds"), "baseline")));
    assert_null(find(json, 0, "kl"));
    json_decref(json);
}

/* --- Answers --- */

static const char *file_with(const char *name, const char *text)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

#define ANSWER(id, text, reason)                                                                        \
    "{\"id\": \"x\", \"custom_id\": \"" id                                                              \
    "\", \"response\": {\"status_code\": 200, \"body\": {\"choices\": "                                 \
    "[{\"message\": {\"role\": \"assistant\", \"content\": \"" text "\"}, \"finish_reason\": \"" reason \
    "\"}]}}, \"error\": null}\n"
#define FAILED(id)                                                                                          \
    "{\"custom_id\": \"" id "\", \"response\": {\"status_code\": 400, \"body\": {\"error\": {\"message\": " \
    "\"no\"}}}, \"error\": {\"code\": \"x\"}}\n"

static const char rules_text[] =
    "{\"version\": 1, \"matchers\": {\"no\": {\"phrases\": [\"No.\"]}, \"about\": {\"patterns\": [\"the "
    "(?P<item>[a-z]+)\"], \"same\": [\"item\"]}}, \"labels\": [{\"name\": \"refused\", \"any\": [\"no\"]}, "
    "{\"name\": \"about_it\", \"any\": [\"about\"], \"where\": {\"kind\": [\"x\"]}}]}";
static const char prompts_text[] =
    "{\"custom_id\": \"1\", \"body\": {\"metadata\": {\"kind\": \"x\", \"item\": \"hat\"}}}\n"
    "\n{\"prompt\": \"p\", \"kind\": \"y\"}\n"
    "{\"custom_id\": \"3\", \"kind\": \"x\", \"item\": \"cup\"}\n"
    "{\"custom_id\": \"4\", \"kind\": \"x\", \"item\": \"cup\"}\n";

static void test_rates_and_paired_differences(void **state)
{
    (void)state;
    cox_options options = options_of(file_with("p.jsonl", prompts_text));
    options.rules = file_with("rules.json", rules_text);
    options.results = file_with("run.jsonl", ANSWER("3", "the cup it is, the cup", "stop") FAILED("1")
                                                 ANSWER("1", "the cup", "stop") ANSWER("p-3", "No.", "length")
                                                     FAILED("4") ANSWER("99", "nobody asked", "stop"));
    options.baseline = file_with("base.jsonl", ANSWER("1", "No.", "stop") ANSWER("p-3", "No.", "stop"));
    options.by = "kind";
    char csv[128];
    snprintf(csv, sizeof csv, "%s/e.csv", test_folder);
    options.csv = csv;
    json_t *json = evaluate(&options);
    const json_t *refused = find(json, 0, "refused"), *about = find(json, 1, "about_it");
    const cox_interval wilson = cox_interval_wilson(1, 3);
    assert_true(real_of(refused, "run", "n") == 3);
    assert_true(fabs(real_of(refused, "run", "value") - 1.0 / 3) < 1e-12);
    assert_true(fabs(real_of(refused, "run", "low") - wilson.low) < 1e-11);
    assert_true(fabs(real_of(refused, "run", "high") - wilson.high) < 1e-11);
    assert_true(real_of(refused, "baseline", "n") == 2 && real_of(refused, "baseline", "value") == 1);
    assert_true(real_of(refused, "difference", "n") == 2); /* 1 and p-3 have both */
    assert_true(real_of(refused, "difference", "value") == -0.5);
    assert_true(real_of(refused, "difference", "low") == -1 && real_of(refused, "difference", "high") == 0);
    assert_true(real_of(about, "run", "n") == 2 && real_of(about, "run", "value") == 0.5);
    assert_null(find(json, 2, "about_it")); /* kind y is not asked */
    assert_true(real_of(find(json, 2, "not_ended"), "run", "value") == 1);
    assert_true(fabs(real_of(find(json, 0, "words"), "run", "value") - 3) < 1e-12);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(json, "failed"), 0)), 1);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(json, "missing"), 1)), 2);
    json_decref(json);
    FILE *file = fopen(csv, "r");
    char line[512];
    assert_true(file && fgets(line, sizeof line, file) && fgets(line, sizeof line, file));
    assert_true(strncmp(line, ",refused,rate,3,0.333333333333,", 31) == 0);
    fclose(file);
}

static void test_answers_alone(void **state)
{
    (void)state;
    cox_options options = options_of(NULL);
    options.rules = file_with("rules.json", rules_text);
    options.results = file_with("run.jsonl", ANSWER("a", "No.", "stop") ANSWER("b", "Yes.", "stop"));
    json_t *json = evaluate(&options);
    assert_true(real_of(find(json, 0, "refused"), "run", "value") == 0.5);
    assert_null(find(json, 0, "about_it"));
    json_decref(json);
}

static void expect_refused(const cox_options *options, cox_status wanted, const char *part)
{
    assert_int_equal(cox_command_evaluate(options), wanted);
    if (!strstr(cox_status_message(), part)) fail_msg("%s: %s", part, cox_status_message());
}

static void test_what_does_not_fit_is_refused(void **state)
{
    (void)state;
    const char *run = file_with("run.jsonl", ANSWER("1", "No.", "stop"));
    cox_options options = options_of(NULL);
    expect_refused(&options, COX_INVALID, "give --results");
    options.results = run, options.rules = NULL;
    expect_refused(&options, COX_INVALID, "needs --rules");
    options.rules = file_with("rules.json", rules_text);
    options.by = "kind";
    expect_refused(&options, COX_INVALID, "--by needs --prompts");
    options.by = NULL, options.plan = "x.json";
    expect_refused(&options, COX_INVALID, "--steer needs --model");
    options.plan = NULL;
    options.prompt_files.n = 1, prompt_files[0] = file_with("q.jsonl", "{\"custom_id\": \"7\"}\n");
    expect_refused(&options, COX_INVALID, "answer to none of the 1 prompts");
    prompt_files[0] = file_with("q.jsonl", "{\"custom_id\": \"1\"}\n{\"custom_id\": \"1\"}\n");
    expect_refused(&options, COX_BAD_FILE, "line 2: custom_id \"1\" is used twice");
    prompt_files[0] = file_with("q.jsonl", "{\"custom_id\": \"1\"}\n{\"custom_id\"\n");
    expect_refused(&options, COX_BAD_FILE, "line 2");
    prompt_files[0] = file_with("q.jsonl", "{\"custom_id\": \"1\"}\n");
    options.by = "kind";
    expect_refused(&options, COX_INVALID, "no prompt has that field");
    options.by = NULL;
    options.results = file_with("twice.jsonl", ANSWER("1", "No.", "stop") ANSWER("1", "No.", "stop"));
    expect_refused(&options, COX_BAD_FILE, "line 2: custom_id \"1\" has an answer already");
    options.results = prompt_files[0];
    expect_refused(&options, COX_BAD_FILE, "not a line of a batch's output");
    options.results = "-";
    expect_refused(&options, COX_INVALID, "standard input");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steered_logits_are_those_of_transformers),
        cmocka_unit_test(test_a_model_without_a_plan),
        cmocka_unit_test(test_rates_and_paired_differences),
        cmocka_unit_test(test_answers_alone),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
