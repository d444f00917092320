/* Streaming detokenisation: its pieces add up to decode(), end between characters, and come as early as they
 * can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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
};
enum { N_GOLDENS = sizeof goldens / sizeof goldens[0], MAX_IDS = 64 };

static cox_tokenizer *load_golden(const char *name)
{
    char folder[128];
    snprintf(folder, sizeof folder, "tests/golden/tokenizers/%s", name);
    cox_tokenizer *t = NULL;
    if (cox_tokenizer_load(&t, folder) != COX_OK) fail_msg("%s: %s", folder, cox_status_message());
    return t;
}

/* A strict reading of UTF-8; the library's own must not be its judge. */
static bool is_valid_utf8(const char *text, size_t n)
{
    const unsigned char *b = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        size_t length = b[i] < 0x80   ? 1
                        : b[i] < 0xc2 ? 0
                        : b[i] < 0xe0 ? 2
                        : b[i] < 0xf0 ? 3
                        : b[i] < 0xf5 ? 4
                                      : 0;
        if (length == 0 || i + length > n) return false;
        uint32_t c = length == 1 ? b[i] : b[i] & (0x7fu >> length);
        for (size_t k = 1; k < length; k++) {
            if ((b[i + k] & 0xc0) != 0x80) return false;
            c = c << 6 | (b[i + k] & 0x3f);
        }
        if ((length == 3 && c < 0x800) || (length == 4 && (c < 0x10000 || c > 0x10ffff)) ||
            (c >= 0xd800 && c < 0xe000))
            return false;
        i += length;
    }
    return true;
}

static void check_stream(const cox_tokenizer *t, cox_detokenizer *d, const int32_t *ids, size_t n,
                         bool skip_special)
{
    char *whole = NULL;
    size_t n_whole, n_got = 0, n_piece = 0;
    assert_int_equal(cox_tokenizer_decode(t, ids, n, skip_special, &whole, &n_whole), COX_OK);
    for (size_t i = 0; i <= n; i++) {
        const char *piece = NULL;
        cox_status status = i < n ? cox_detokenizer_put(d, ids[i], &piece, &n_piece)
                                  : cox_detokenizer_flush(d, &piece, &n_piece);
        assert_int_equal(status, COX_OK);
        assert_true(is_valid_utf8(piece, n_piece));
        assert_true(n_got + n_piece <= n_whole);
        assert_memory_equal(whole + n_got, piece, n_piece);
        n_got += n_piece;
    }
    assert_int_equal(n_got, n_whole);
    free(whole);
}

/* Any ids in any order, so also bytes that never become characters. The flush makes the stream new. */
static void test_random_ids(void **state)
{
    (void)state;
    uint32_t seed = 7;
    for (size_t k = 0; k < N_GOLDENS; k++) {
        cox_tokenizer *t = load_golden(goldens[k]);
        for (int skip = 0; skip < 2; skip++) {
            cox_detokenizer *d = NULL;
            assert_int_equal(cox_detokenizer_create(&d, t, skip == 1), COX_OK);
            for (int round = 0; round < 300; round++) {
                int32_t ids[MAX_IDS];
                size_t n = (size_t)(round % MAX_IDS);
                for (size_t i = 0; i < n; i++) {
                    seed = seed * 1664525u + 1013904223u;
                    ids[i] = (int32_t)((seed >> 8) % (uint32_t)(cox_tokenizer_n_ids(t) + 3));
                }
                check_stream(t, d, ids, n, skip == 1);
            }
            cox_detokenizer_destroy(d);
        }
        cox_tokenizer_destroy(t);
    }
}

static void expect(cox_detokenizer *d, int32_t id, const char *text)
{
    const char *piece = NULL;
    size_t n;
    assert_int_equal(cox_detokenizer_put(d, id, &piece, &n), COX_OK);
    if (n != strlen(text) || memcmp(piece, text, n) != 0)
        fail_msg("expected \"%s\", got \"%.*s\"", text, (int)n, piece);
}

static void expect_flush(cox_detokenizer *d, const char *text)
{
    const char *piece = NULL;
    size_t n;
    assert_int_equal(cox_detokenizer_flush(d, &piece, &n), COX_OK);
    if (n != strlen(text) || memcmp(piece, text, n) != 0)
        fail_msg("expected \"%s\", got \"%.*s\"", text, (int)n, piece);
}

/* Byte-level: a character is handed out with its last byte, a broken one as U+FFFD as soon as that is
 * certain. */
static void test_byte_level_pieces(void **state)
{
    (void)state;
    cox_tokenizer *t = load_golden("qwen");
    cox_detokenizer *d = NULL;
    assert_int_equal(cox_detokenizer_create(&d, t, true), COX_OK);
    int32_t c3 = cox_tokenizer_find(t, "\xc3\x83"), a9 = cox_tokenizer_find(t, "\xc2\xa9"),
            a = cox_tokenizer_find(t, "a");
    assert_true(c3 >= 0 && a9 >= 0 && a >= 0);
    expect(d, a, "a");
    expect(d, c3, "");
    expect(d, a9, "\xc3\xa9");
    expect(d, c3, "");
    expect(d, a,
           "\xef\xbf\xbd"
           "a");
    expect(d, cox_tokenizer_find(t, "<|im_end|>"), "");
    expect(d, a9, "\xef\xbf\xbd");
    expect(d, c3, "");
    expect_flush(d, "\xef\xbf\xbd");
    expect(d, a, "a");
    expect_flush(d, "");
    const char *piece;
    size_t n;
    assert_int_equal(cox_detokenizer_put(d, -5, &piece, &n), COX_INVALID);
    cox_detokenizer_destroy(d);
    cox_tokenizer_destroy(t);
}

/* Byte fallback: a run of byte tokens waits for its end; the space of the first word is stripped. */
static void test_byte_fallback_pieces(void **state)
{
    (void)state;
    cox_tokenizer *t = load_golden("sentencepiece-normalizer");
    cox_detokenizer *d = NULL;
    assert_int_equal(cox_detokenizer_create(&d, t, true), COX_OK);
    int32_t mark = cox_tokenizer_find(t, "\xe2\x96\x81"), a = cox_tokenizer_find(t, "a");
    int32_t c3 = cox_tokenizer_find(t, "<0xC3>"), a9 = cox_tokenizer_find(t, "<0xA9>");
    assert_true(mark >= 0 && a >= 0 && c3 >= 0 && a9 >= 0);
    expect(d, mark, "");
    expect(d, a, "a");
    expect(d, mark, " ");
    expect(d, c3, "");
    expect(d, a9, "");
    expect(d, a,
           "\xc3\xa9"
           "a");
    expect(d, c3, "");
    expect(d, a9, "");
    expect(d, c3, "");
    expect_flush(d, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    expect(d, mark, ""); /* as new: the first space goes again */
    expect_flush(d, "");
    cox_detokenizer_destroy(d);
    cox_detokenizer_destroy(NULL);
    cox_tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_ids),
        cmocka_unit_test(test_byte_level_pieces),
        cmocka_unit_test(test_byte_fallback_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
