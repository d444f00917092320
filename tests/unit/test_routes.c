/*
 * Routing differences: counts equal to those of transformers (scripts/references/routes.py), differences and
 * files that follow from them, the same on any schedule.
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
#include "report/heatmap.h"
#include "tests/unit/command_output.h"
#include "tests/unit/steering_model.h"

static const char *const kinds[] = {"top1", "topk", "risk"};

static cox_options options_of(void)
{
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_ROUTES);
    options.model = "models/olmoe-velk";
    options.prompts_a = "tests/golden/direction/a.jsonl",
    options.prompts_b = "tests/golden/direction/b.jsonl";
    options.is_json = options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    return options;
}

static json_t *measure(const cox_options *options)
{
    cox_status status;
    json_t *json = run_for_json(cox_command_routes, options, path_of("out.json"), &status);
    if (status != COX_OK) fail_msg("%s", cox_status_message());
    return json;
}

static json_int_t at(const json_t *table, size_t layer, size_t expert)
{
    return json_integer_value(json_array_get(json_array_get(table, layer), expert));
}

static double real_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void test_counts_are_those_of_transformers(void **state)
{
    (void)state;
    json_t *golden = NULL;
    assert_int_equal(cox_json_load_file(&golden, "tests/golden/routes/routes.json"), COX_OK);
    const cox_options options = options_of();
    json_t *json = measure(&options);
    const json_t *experts = json_object_get(json, "experts");
    assert_int_equal(json_array_size(experts), 6 * 16);
    double n[2][2]; /* [class][all tokens] */
    for (size_t c = 0; c < 2; c++) {
        const char *name = c ? "b" : "a";
        const json_t *wanted = json_object_get(json_object_get(golden, name), "tokens");
        n[c][0] = real_of(json_object_get(json, name), "last_tokens");
        n[c][1] = real_of(json_object_get(json, name), "all_tokens");
        assert_true(n[c][0] == real_of(wanted, "last") && n[c][1] == real_of(wanted, "all"));
    }
    for (size_t i = 0; i < 6 * 16; i++) {
        const json_t *expert = json_array_get(experts, i);
        for (size_t k = 0; k < 3; k++) {
            const json_t *got = json_object_get(expert, kinds[k]);
            double share[2];
            for (size_t c = 0; c < 2; c++) {
                const char *name = c ? "b" : "a";
                const json_t *table = json_object_get(json_object_get(golden, name), kinds[k]);
                assert_int_equal(json_integer_value(json_object_get(got, name)), at(table, i / 16, i % 16));
                share[c] = real_of(got, name) / n[c][k == 2];
            }
            assert_true(fabs(real_of(got, "difference") - (share[0] - share[1])) < 1e-11);
            assert_true(real_of(got, "low") <= real_of(got, "high"));
        }
    }
    json_decref(json);
    json_decref(golden);
}

static void test_the_schedule_changes_nothing(void **state)
{
    (void)state;
    cox_options options = options_of();
    json_t *one = measure(&options);
    options.prefill_chunk = 3;
    json_t *two = measure(&options);
    assert_true(json_equal(one, two));
    options.seed = 5; /* other samples, the same counts */
    json_t *three = measure(&options);
    assert_false(json_equal(one, three));
    options.last = 100000; /* more than any prompt has: all tokens */
    json_t *all = measure(&options);
    size_t i;
    json_t *expert;
    json_array_foreach(json_object_get(all, "experts"), i, expert)
    {
        const json_t *topk = json_object_get(expert, "topk"), *risk = json_object_get(expert, "risk");
        assert_true(real_of(topk, "a") == real_of(risk, "a") && real_of(topk, "b") == real_of(risk, "b"));
        assert_true(real_of(topk, "low") == real_of(risk, "low"));
    }
    json_decref(one);
    json_decref(two);
    json_decref(three);
    json_decref(all);
}

static char *text_of(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    static char text[1 << 20];
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = '\0';
    fclose(file);
    return text;
}

static void test_files(void **state)
{
    (void)state;
    char csv[128], plot[128];
    snprintf(csv, sizeof csv, "%s/r.csv", test_folder);
    snprintf(plot, sizeof plot, "%s/r.svg", test_folder);
    cox_options options = options_of();
    options.csv = csv, options.plot = plot, options.resamples = 100;
    json_decref(measure(&options));
    const char *text = text_of(csv);
    size_t n_lines = 0;
    for (const char *end = strchr(text, '\n'); end; end = strchr(end + 1, '\n')) n_lines++;
    assert_int_equal(n_lines, 1 + 6 * 16);
    assert_true(strncmp(text, "layer,expert,top1_a,", 20) == 0);
    text = text_of(plot);
    assert_non_null(strstr(text, "<title>layer 5, expert 15: "));
    assert_string_equal(text + strlen(text) - 7, "</svg>\n");
    options.has_force = false;
    assert_int_equal(cox_command_routes(&options), COX_INVALID);
    options.csv = NULL;
    assert_int_equal(cox_command_routes(&options), COX_INVALID);
}

static void test_a_map(void **state)
{
    (void)state;
    const cox_interval cells[] = {{0, -1, 1}, {2, 1, 3}, {-2, -3, -1}, {NAN, 0, 0}};
    char path[128];
    snprintf(path, sizeof path, "%s/map.svg", test_folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    cox_heatmap_print(file, &(cox_heatmap){.title = "a < b & \"c\"",
                                           .unit = " pp",
                                           .row_name = "layer",
                                           .column_name = "expert",
                                           .n_rows = 2,
                                           .n_columns = 2,
                                           .cells = cells});
    fclose(file);
    const char *text = text_of(path);
    assert_non_null(strstr(text, "a &lt; b &amp; &quot;c&quot;"));
    assert_non_null(strstr(text, "fill=\"#f4f4f4\"><title>layer 0, expert 0: 0 pp [-1, 1]"));
    assert_non_null(strstr(text, "fill=\"#be550a\"><title>layer 0, expert 1: 2 pp"));
    assert_non_null(strstr(text, "fill=\"#215aa0\"><title>layer 1, expert 0: -2 pp"));
    assert_null(strstr(text, "layer 1, expert 1"));
    assert_null(strstr(text, ": nan"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_are_those_of_transformers),
        cmocka_unit_test(test_the_schedule_changes_nothing),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_a_map),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
