/*
 * The JSON reader: what a file of transformers may hold that jansson does not read (as Python's json does),
 * and that our own files stay strict; errors keep their line and column; a number that is needed is refused
 * by key.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static json_t *load(const char *text)
{
    json_t *value = NULL;
    if (cox_json_load_python_text(&value, text, strlen(text), "f.json") != COX_OK)
        fail_msg("%s: %s", text, cox_status_message());
    return value;
}

static void refuse(const char *text, const char *message)
{
    json_t *value = NULL;
    assert_int_equal(cox_json_load_python_text(&value, text, strlen(text), "f.json"), COX_BAD_FILE);
    if (!strstr(cox_status_message(), message)) fail_msg("%s: %s", text, cox_status_message());
}

/* Every text is one that Python's json takes, and that cannot be read as one of our own. */
static void test_what_python_reads(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"model_max_length\": 1000000000000000019884624838656, \"a\": 5}",
        "{\"x\": -9223372036854775809, \"a\": 5}",
        "{\"x\": [1e400, -1e400, 1.5E+309, 2e308], \"a\": 5}",
        "{\"x\": {\"y\": NaN, \"z\": [Infinity, -Infinity, NaN]}, \"a\": 5}",
        "{\"a\": 4, \"x\": null, \"a\": 5}",
        "{\"x\": \"\\ud800\", \"y\": \"\\udc00 \\ud83d \\\\ud800\", \"a\": 5}",
        "{\"x\": \"nul \\u0000\", \"a\": 5}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *value = NULL;
        assert_int_equal(cox_json_load_text(&value, texts[i], strlen(texts[i]), "own.json"), COX_BAD_FILE);
        value = load(texts[i]);
        int64_t a = 0;
        assert_int_equal(cox_json_int(value, "f.json", "a", true, 5, 5, &a), COX_OK);
        json_decref(value);
    }
}

static void test_what_it_does_not(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"x\": 1000000000000000019884624838656,\n \"y\" 1}", "line 2, column 6"},
        {"{\"x\": 1e400, \"y\" 1}", "line 1, column 18"},
        {"{\"x\": Infinity, \"y\": [NaN, \"\\ud800\"],\n\n ]}", "line 3, column 2"},
        {"{\"x\": 01e400}", "line 1"},
        {"{\"x\": 1.e400}", "line 1"},
        {"{\"x\": .1e400}", "line 1"},
        {"{\"x\": 1Infinity}", "line 1"},
        {"{\"x\": Infinity1}", "line 1"},
        {"{\"x\": -NaN}", "line 1"},
        {"{\"x\": +Infinity}", "line 1"},
        {"{\"x\": NaN.0}", "line 1"},
        {"{\"x\": xNaN}", "line 1"},
        {"{\"x\": 1e400e1}", "line 1"},
        {"{\"x\": nan}", "line 1"},
        {"{\"x\": \"\\u12\"}", "line 1"},
        {"{\"x\": \"\\", "line 1"},
        {"{\"x\": \"a\nb\"}", "line 1"},
        {"{\"x\": 99999999999999999999", "line 1"},
        {"{} {}", "line 1"},
        {"", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refuse(cases[i].text, cases[i].message);
}

static void expect_refused(cox_status status, const char *message)
{
    assert_int_equal(status, COX_BAD_FILE);
    if (!strstr(cox_status_message(), message)) fail_msg("%s is not in: %s", message, cox_status_message());
}

static void test_needed_values_are_refused_by_key(void **state)
{
    (void)state;
    json_t *value =
        load("{\"big\": 1000000000000000019884624838656, \"low\": -99999999999999999999, \"inf\": -1e999,"
             " \"nan\": NaN, \"half\": \"\\ud800\", \"nul\": \"a\\u0000\", \"real\": 2.0,"
             " \"one\": 12345678901234567890, \"word\": \"Infinity 1e999 \\\" NaN\"}");
    int64_t whole = 7;
    double number = 7;
    const char *text = "7";
    bool truth = true;
    expect_refused(cox_json_int(value, "f.json", "big", true, 0, 9, &whole),
                   "f.json: key \"big\" is 1e+30, outside 0 to 9");
    expect_refused(cox_json_int(value, "f.json", "low", true, 0, 9, &whole),
                   "key \"low\" is -1e+20, outside");
    expect_refused(cox_json_int(value, "f.json", "inf", true, 0, 9, &whole), "key \"inf\" is -inf, outside");
    expect_refused(cox_json_int(value, "f.json", "real", true, 0, 9, &whole),
                   "key \"real\" must be a whole number");
    expect_refused(cox_json_int(value, "f.json", "nan", true, 0, 9, &whole),
                   "key \"nan\" must be a whole number");
    expect_refused(cox_json_number(value, "f.json", "nan", true, &number), "key \"nan\" must be a number");
    expect_refused(cox_json_bool(value, "f.json", "nan", true, &truth), "key \"nan\" must be true or false");
    expect_refused(cox_json_string(value, "f.json", "half", true, &text), "key \"half\" holds");
    expect_refused(cox_json_string(value, "f.json", "nul", true, &text),
                   "key \"nul\" holds the character NUL");
    assert_true(whole == 7 && number == 7 && truth && strcmp(text, "7") == 0);
    assert_int_equal(cox_json_number(value, "f.json", "inf", true, &number), COX_OK);
    assert_true(isinf(number) && number < 0);
    assert_int_equal(cox_json_number(value, "f.json", "big", true, &number), COX_OK);
    assert_true(fabs(number / 1e30 - 1) < 1e-12);
    assert_int_equal(cox_json_number(value, "f.json", "one", true, &number), COX_OK);
    assert_true(fabs(number / 12345678901234567890.0 - 1) < 1e-12);
    assert_int_equal(cox_json_string(value, "f.json", "word", true, &text), COX_OK);
    assert_string_equal(text, "Infinity 1e999 \" NaN");
    json_decref(value);
}

/* Around the places where the rewriting changes its form: lengths stay, so the text after a number is read.
 */
static void test_numbers_of_every_length(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 400; n++) {
        char text[512] = "{\"x\": -";
        const size_t begin = strlen(text);
        for (size_t i = 0; i < n; i++) text[begin + i] = (char)('1' + i % 9);
        memcpy(text + begin + n, ", \"y\": 3}", 10);
        json_t *value = load(text);
        int64_t y = 0;
        double x = 0, wanted = strtod(text + begin, NULL);
        assert_int_equal(cox_json_int(value, "f.json", "y", true, 3, 3, &y), COX_OK);
        assert_int_equal(cox_json_number(value, "f.json", "x", true, &x), COX_OK);
        if (isinf(wanted) || n > 308)
            assert_true(isinf(x) && x < 0);
        else
            assert_true(fabs(-x / wanted - 1) < 1e-12);
        json_decref(value);
    }
}

/* Of a line of a list one number is told, the one that its reader gives it. */
static void test_a_line_has_one_number(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"a\": }",
         "a.jsonl: line 7: not valid JSON at column 7: unexpected token near '}'; a line is {...}"},
        {"[1]", "a.jsonl: line 7: not a JSON object; a line is {...}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value = NULL;
        const char *text = cases[i].text;
        assert_int_equal(cox_json_load_line(&value, text, strlen(text), "a.jsonl: line 7", "{...}"),
                         COX_BAD_FILE);
        assert_string_equal(cox_status_message(), cases[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_python_reads),
        cmocka_unit_test(test_what_it_does_not),
        cmocka_unit_test(test_needed_values_are_refused_by_key),
        cmocka_unit_test(test_numbers_of_every_length),
        cmocka_unit_test(test_a_line_has_one_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
