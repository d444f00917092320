/* generation_config.json: what transformers' generate() makes of it (golden), and what the options make of
 * that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "cli/generation.h"
#include "tests/unit/model_folder.h"

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("no number \"%s\"", key);
    return json_number_value(value);
}

static void same(const char *file, const char *key, double found, const json_t *wanted)
{
    if (found < number(wanted, key) || found > number(wanted, key))
        fail_msg("%s: %s is %.17g, wanted %.17g", file, key, found, number(wanted, key));
}

static void check_case(const json_t *item)
{
    const json_t *wanted = json_object_get(item, "wanted");
    char *file = json_dumps(json_object_get(item, "file"), 0);
    cox_generation g;
    cox_status status = cox_generation_read(&g, json_object_get(item, "file"), "file");
    if ((status == COX_BAD_FILE) != json_is_true(json_object_get(wanted, "refused")))
        fail_msg("%s: %s: %s", file, cox_status_name(status), cox_status_message());
    if (status == COX_OK && (*g.unbuilt != '\0') != json_is_true(json_object_get(wanted, "others")))
        fail_msg("%s: not built: \"%s\"", file, g.unbuilt);
    if (status == COX_OK && !*g.unbuilt) {
        bool is_sampled = json_is_true(json_object_get(wanted, "do_sample"));
        assert_int_equal(g.is_sampled, is_sampled);
        same(file, "repetition_penalty", g.repetition_penalty, wanted);
        same(file, "max_new_tokens", (double)g.max_new_tokens, wanted);
        if (is_sampled) {
            same(file, "temperature", g.temperature, wanted);
            same(file, "top_k", (double)g.top_k, wanted);
            same(file, "top_p", g.top_p, wanted);
            same(file, "min_p", g.min_p, wanted);
        }
    }
    free(file);
}

static void test_what_transformers_makes_of_it(void **state)
{
    (void)state;
    json_t *cases = NULL;
    assert_int_equal(cox_json_load_file(&cases, "tests/golden/generation.json"), COX_OK);
    assert_true(json_array_size(cases) >= 70);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
    json_decref(cases);
}

static void test_every_key_is_named(void **state)
{
    (void)state;
    json_t *object = json_loads(
        "{\"num_beams\": 4, \"no_repeat_ngram_size\": 3, \"bad_words_ids\": [[1]], \"dola_layers\": \"low\"}",
        0, NULL);
    cox_generation g;
    assert_int_equal(cox_generation_read(&g, object, "file"), COX_OK);
    assert_string_equal(g.unbuilt, "num_beams 4, dola_layers \"low\", no_repeat_ngram_size 3, bad_words_ids");
    json_decref(object);
    object = json_loads("{\"temperature\": \"hot\"}", 0, NULL);
    expect_message(cox_generation_read(&g, object, "file"), COX_BAD_FILE,
                   TEXTS("file", "temperature", "number"));
    json_decref(object);
}

/* Options of generate with these arguments (NULL at the end), and what the file makes of them. */
static cox_status apply(cox_options *options, const char *file, const char *const *arguments)
{
    folder f = folder_create();
    const cox_model model = {.folder = f.path};
    if (file) write_bytes(folder_file(&f, "generation_config.json"), file, strlen(file));
    char *argv[16] = {"--model", "x"};
    int n = 2;
    for (; *arguments; arguments++) argv[n++] = (char *)(uintptr_t)*arguments;
    cox_options_defaults(options, COX_COMMAND_GENERATE);
    assert_int_equal(cox_options_parse(options, n, argv), COX_OK);
    cox_status status = cox_generation_apply(options, &model);
    folder_remove(&f);
    return status;
}

#define GIVEN "--generation-config"
static const char qwen[] = "{\"do_sample\": true, \"temperature\": 0.75, \"top_k\": 20, \"top_p\": 0.5, "
                           "\"repetition_penalty\": 1.25, \"max_new_tokens\": 99, \"eos_token_id\": [3]}";

static void check_options(const cox_options *o, double temperature, int64_t top_k, double top_p,
                          double penalty, int64_t max_tokens)
{
    assert_true(o->temperature == temperature); /* all of them are exact */
    assert_int_equal(o->top_k, top_k);
    assert_true(o->top_p == top_p && o->min_p == 0 && o->repetition_penalty == penalty);
    assert_int_equal(o->max_tokens, max_tokens);
}

static void test_options(void **state)
{
    (void)state;
    cox_options o;
    assert_int_equal(apply(&o, qwen, TEXTS("--seed", "1")), COX_OK); /* said, and not used */
    check_options(&o, 0, 0, 1, 1, 256);
    assert_int_equal(apply(&o, qwen, TEXTS(GIVEN)), COX_OK);
    check_options(&o, 0.75, 20, 0.5, 1.25, 99);
    assert_int_equal(apply(&o, qwen, TEXTS("--top-k", "0", GIVEN, "--max-tokens=5")), COX_OK);
    check_options(&o, 0.75, 0, 0.5, 1.25, 5);
    assert_int_equal(
        apply(&o, qwen, TEXTS(GIVEN, "--temperature", "0", "--top-p", "1", "--repetition-penalty", "1")),
        COX_OK);
    check_options(&o, 0, 20, 1, 1, 99);
    assert_int_equal(apply(&o, "{\"do_sample\": true}", TEXTS(GIVEN)), COX_OK);
    check_options(&o, 1, 50, 1, 1, 256);
    assert_int_equal(apply(&o, "{}", TEXTS(GIVEN)),
                     COX_OK); /* greedy; but who asks for a temperature has top_k 50 */
    check_options(&o, 0, 50, 1, 1, 256);
}

static void test_refusals(void **state)
{
    (void)state;
    cox_options o;
    expect_message(apply(&o, NULL, TEXTS(GIVEN)), COX_NOT_FOUND, TEXTS(GIVEN, "generation_config.json"));
    expect_message(apply(&o, "{\"num_beams\": 4, \"typical_p\": 0.5}", TEXTS(GIVEN)), COX_UNSUPPORTED,
                   TEXTS(GIVEN, "generation_config.json", "not built: num_beams 4;"));
    expect_message(apply(&o, "{\"do_sample\": true, \"temperature\": 0}", TEXTS(GIVEN)), COX_BAD_FILE,
                   TEXTS(GIVEN, "\"temperature\" is 0", "above 0"));
    /* Without the option none of this matters. */
    assert_int_equal(apply(&o, NULL, TEXTS("--seed", "1")), COX_OK);
    assert_int_equal(apply(&o, "{\"num_beams\": 4}", TEXTS("--seed", "1")), COX_OK);
    assert_int_equal(apply(&o, "{\"do_sample\": true, \"temperature\": \"hot\"}", TEXTS("--seed", "1")),
                     COX_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_transformers_makes_of_it),
        cmocka_unit_test(test_every_key_is_named),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
