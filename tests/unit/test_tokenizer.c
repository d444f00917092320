/* Encoding and decoding against the `tokenizers` library's results (tests/golden/tokenizers), and the edges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/tokenizer.h"

static const char *const goldens[] = {
    "qwen",
    "deepseek",
    "gpt2-like",
    "o200k-like",
    "sentencepiece-normalizer",
    "sentencepiece-metaspace",
    "metaspace-split",
    "every-splitter",
    "whitespace-words",
};
enum { N_GOLDENS = sizeof goldens / sizeof goldens[0] };

static cox_tokenizer *load_golden(const char *name)
{
    char folder[128];
    snprintf(folder, sizeof folder, "tests/golden/tokenizers/%s", name);
    cox_tokenizer *t = NULL;
    if (cox_tokenizer_load(&t, folder) != COX_OK) fail_msg("%s: %s", folder, cox_status_message());
    return t;
}

static void check_ids(const cox_tokenizer *t, const char *text, bool add_special, const json_t *expected,
                      const char *where)
{
    cox_tokens tokens = {0};
    if (cox_tokenizer_encode(t, text, strlen(text), add_special, &tokens) != COX_OK)
        fail_msg("%s: %s", where, cox_status_message());
    if (tokens.n != json_array_size(expected))
        fail_msg("%s: \"%s\": %zu ids, not %zu", where, text, tokens.n, json_array_size(expected));
    for (size_t i = 0; i < tokens.n; i++) {
        if (tokens.ids[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s: \"%s\": id %zu is %d", where, text, i, tokens.ids[i]);
    }
    cox_tokens_free(&tokens);
}

static void check_text(const cox_tokenizer *t, const json_t *ids, bool skip_special, const char *expected,
                       const char *where)
{
    size_t n = json_array_size(ids), n_bytes;
    int32_t *list = malloc((n + 1) * sizeof *list);
    assert_non_null(list);
    for (size_t i = 0; i < n; i++) list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    char *text = NULL;
    assert_int_equal(cox_tokenizer_decode(t, list, n, skip_special, &text, &n_bytes), COX_OK);
    if (strcmp(text, expected) != 0) fail_msg("%s: decoded \"%s\", not \"%s\"", where, text, expected);
    assert_int_equal(n_bytes, strlen(expected));
    free(text);
    free(list);
}

static void test_goldens(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_GOLDENS; k++) {
        char path[160];
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s/cases.json", goldens[k]);
        cox_tokenizer *t = load_golden(goldens[k]);
        json_t *cases = NULL;
        assert_int_equal(cox_json_load_file(&cases, path), COX_OK);
        assert_true(json_array_size(cases) > 40);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i), *ids = json_object_get(one, "ids");
            const json_t *full = json_object_get(one, "full");
            const char *text = json_string_value(json_object_get(one, "text"));
            const char *decoded = json_string_value(json_object_get(one, "decoded"));
            const char *skipped = json_string_value(json_object_get(one, "skipped"));
            check_ids(t, text, false, ids, goldens[k]);
            check_ids(t, text, true, full ? full : ids, goldens[k]);
            check_text(t, ids, false, decoded, goldens[k]);
            check_text(t, full ? full : ids, true, skipped ? skipped : decoded, goldens[k]);
        }
        json_decref(cases);
        cox_tokenizer_destroy(t);
    }
}

static void test_invalid_utf8_names_the_byte(void **state)
{
    (void)state;
    cox_tokenizer *t = load_golden("qwen");
    cox_tokens tokens = {0};
    assert_int_equal(cox_tokenizer_encode(t, "ab", 2, false, &tokens), COX_OK);
    size_t n = tokens.n;
    static const char *const bad[] = {"abc\xff", "abc\xc3", "abc\xed\xa0\x80", "abc\xf5\x80\x80\x80",
                                      "abc\xc0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(cox_tokenizer_encode(t, bad[i], strlen(bad[i]), false, &tokens), COX_INVALID);
        assert_non_null(strstr(cox_status_message(), "byte 3"));
        assert_int_equal(tokens.n, n);
    }
    cox_tokens_free(&tokens);
    cox_tokenizer_destroy(t);
}

static void test_lookups(void **state)
{
    (void)state;
    cox_tokenizer *t = load_golden("qwen");
    int32_t id = cox_tokenizer_find(t, "<|im_start|>");
    assert_true(id >= 0 && id < cox_tokenizer_n_ids(t));
    assert_true(cox_tokenizer_is_special(t, id));
    assert_false(cox_tokenizer_is_special(t, cox_tokenizer_find(t, "a")));
    assert_int_equal(cox_tokenizer_find(t, "no such token"), -1);
    assert_false(cox_tokenizer_is_special(t, -1));
    assert_false(cox_tokenizer_is_special(t, cox_tokenizer_n_ids(t)));
    cox_tokens tokens = {0};
    assert_int_equal(cox_tokenizer_encode(t, "x<|im_start|>\0y", 15, false, &tokens), COX_OK);
    assert_int_equal(tokens.n, 4); /* a NUL is a character like others */
    assert_int_equal(tokens.ids[1], id);
    char *text = NULL;
    size_t n;
    assert_int_equal(cox_tokenizer_decode(t, tokens.ids, tokens.n, true, &text, &n), COX_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(text, "x\0y", 4);
    free(text);
    const int32_t beyond[] = {tokens.ids[0], 1 << 20, tokens.ids[3]}, negative[] = {-1};
    assert_int_equal(cox_tokenizer_decode(t, beyond, 3, false, &text, &n), COX_OK);
    assert_string_equal(text, "xy"); /* ids without a token (padding of the embedding) give nothing */
    free(text);
    assert_int_equal(cox_tokenizer_decode(t, negative, 1, false, &text, &n), COX_INVALID);
    cox_tokens_free(&tokens);
    cox_tokenizer_destroy(t);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* One word of 400 kB: n log n takes a fraction of a second, n^2 would take minutes. */
static void test_a_long_word_is_not_quadratic(void **state)
{
    (void)state;
    enum { N = 400000 };
    static const char *const names[] = {"qwen", "sentencepiece-normalizer"};
    char *text = malloc(N);
    assert_non_null(text);
    uint32_t seed = 1;
    for (size_t i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        text[i] = "etaoinsh"[seed >> 29];
    }
    for (size_t k = 0; k < 2; k++) {
        cox_tokenizer *t = load_golden(names[k]);
        cox_tokens tokens = {0};
        double start = seconds();
        assert_int_equal(cox_tokenizer_encode(t, text, N, false, &tokens), COX_OK);
        assert_true(seconds() - start < 20); /* even under sanitizers */
        assert_true(tokens.n > N / 10);
        char *back = NULL;
        size_t n;
        assert_int_equal(cox_tokenizer_decode(t, tokens.ids, tokens.n, false, &back, &n), COX_OK);
        assert_int_equal(n, N);
        assert_memory_equal(back, text, N);
        free(back);
        cox_tokens_free(&tokens);
        cox_tokenizer_destroy(t);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_invalid_utf8_names_the_byte),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_a_long_word_is_not_quadratic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
