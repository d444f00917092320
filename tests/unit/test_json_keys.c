/* The one checker of keys: what it takes, and what its message says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static const char *const keys[] = {"min_words", "max_words", "words"};
enum { N_KEYS = sizeof keys / sizeof *keys };

static cox_status check(const char *text, size_t n)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(json);
    cox_status status = cox_json_check_keys(json, "here", keys, n);
    json_decref(json);
    return status;
}

static void test_known_keys_pass(void **state)
{
    (void)state;
    assert_int_equal(check("{}", 0), COX_OK);
    assert_int_equal(check("{}", N_KEYS), COX_OK);
    assert_int_equal(check("{\"words\": 1, \"min_words\": {\"x\": 2}}", N_KEYS), COX_OK);
    assert_int_equal(check("{\"strange\": null}", N_KEYS), COX_OK);
}

/* Neither a part of a key, nor several at once, nor nothing is a key. */
static void test_others_are_named(void **state)
{
    (void)state;
    static const char *const others[] = {"", " ", "min", "_words", "min_words, max_words", "min_words "};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char text[128], message[128];
        snprintf(text, sizeof text, "{\"min_words\": 0, \"%s\": false}", others[i]);
        snprintf(message, sizeof message,
                 "here: unknown key \"%s\"; the keys are min_words, max_words, words", others[i]);
        assert_int_equal(check(text, N_KEYS), COX_BAD_FILE);
        assert_memory_equal(cox_status_message(), message, strlen(message)); /* what is near comes behind */
    }
    static const char *const no_objects[] = {"[]", "3", "null", "\"words\""};
    for (size_t i = 0; i < sizeof no_objects / sizeof *no_objects; i++) {
        assert_int_equal(check(no_objects[i], N_KEYS), COX_BAD_FILE);
        assert_string_equal(cox_status_message(), "here: must be an object");
    }
}

static void test_long_lists_are_cut(void **state)
{
    (void)state;
    static char key[400];
    memset(key, 'k', sizeof key - 1);
    const char *const many[] = {key, key, key, key, key, key};
    json_t *json = json_pack("{s:i}", "x", 1);
    assert_int_equal(cox_json_check_keys(json, "here", many, 6), COX_BAD_FILE);
    assert_true(strlen(cox_status_message()) < 1100);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_keys_pass),
        cmocka_unit_test(test_others_are_named),
        cmocka_unit_test(test_long_lists_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
