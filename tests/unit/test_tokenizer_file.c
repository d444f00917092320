/* What tokenizer.json files are refused, by which name; and small components made by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/tokenizer.h"

#define MODEL \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\" \":3,\"c\":4},\"merges\":[\"a b\"]}"

static cox_status load_text(cox_tokenizer **t, const char *text)
{
    char folder[] = "/tmp/cox-tokenizer-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    cox_status status = cox_tokenizer_load(t, folder);
    unlink(path);
    rmdir(folder);
    return status;
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        cox_status status;
        const char *names;
    } files[] = {
        {"{", COX_BAD_FILE, "tokenizer.json"},
        {"[]", COX_BAD_FILE, "top level"},
        {"{}", COX_BAD_FILE, "model"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", COX_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", COX_UNSUPPORTED, "WordPiece"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", COX_BAD_FILE, "vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", COX_BAD_FILE, "merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", COX_BAD_FILE, "same id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", COX_BAD_FILE, "-1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", COX_BAD_FILE,
         "99999999999"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", COX_BAD_FILE,
         "not a number"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", COX_BAD_FILE,
         "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", COX_BAD_FILE, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", COX_BAD_FILE, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.5}}", COX_UNSUPPORTED,
         "dropout"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         COX_UNSUPPORTED, "end_of_word_suffix"},
        {"{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\"}}", COX_UNSUPPORTED, "Precompiled"},
        {"{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}}",
         COX_UNSUPPORTED, "Nmt"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", COX_UNSUPPORTED, "UnicodeScripts"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\"}}", COX_BAD_FILE,
         "pattern"},
        {"{" MODEL
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Isolated\"}}",
         COX_UNSUPPORTED, "empty pattern"},
        {"{" MODEL
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}}",
         COX_BAD_FILE, "Odd"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"}}", COX_BAD_FILE,
         "one character"},
        {"{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}", COX_UNSUPPORTED, "BertProcessing"},
        {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"<s>\"}}]}}",
         COX_BAD_FILE, "<s>"},
        {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", COX_UNSUPPORTED, "WordPiece"},
        {"{" MODEL ",\"added_tokens\":{}}", COX_BAD_FILE, "added_tokens"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":9,\"content\":\"<x>\",\"special\":true}]}", COX_BAD_FILE,
         "says id 9"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":1,\"content\":\"a\",\"special\":true}]}", COX_BAD_FILE,
         "says id 1"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        cox_tokenizer *t = NULL;
        cox_status status = load_text(&t, files[i].text);
        if (status != files[i].status) {
            fail_msg("%s: %s (%s)", files[i].text, cox_status_name(status), cox_status_message());
        }
        if (!strstr(cox_status_message(), files[i].names))
            fail_msg("%s: %s", files[i].text, cox_status_message());
        assert_null(t);
    }
    cox_tokenizer *t = NULL;
    assert_int_equal(cox_tokenizer_load(&t, "tests/golden"), COX_NOT_FOUND);
}

/* Regexes whose meaning we do not carry over are refused, and the message quotes them. */
static void test_regexes_that_are_refused(void **state)
{
    (void)state;
    static const char *const regexes[] = {
        "[a[bc]]", "[a&&b]",  "[[:alpha:]]",   "a(?i)b|c", "(?<name>a)", "(*FAIL)", "\\\\Qa\\\\E",
        "\\\\G",   "a{2}?",   "\\\\p{NoSuch}", "(a",       "a)",         "[a",      "\\\\k<a>",
        "(?~a)",   "\\\\x80", "\\\\pL",        "\\\\",     "[\\\\W]",
    };
    for (size_t i = 0; i < sizeof regexes / sizeof regexes[0]; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                 "\"behavior\":\"Isolated\"}}",
                 regexes[i]);
        cox_tokenizer *t = NULL;
        cox_status status = load_text(&t, text);
        if (status != COX_UNSUPPORTED) fail_msg("%s: %s", regexes[i], cox_status_name(status));
        assert_non_null(strstr(cox_status_message(), "regex"));
    }
}

static void check(const char *parts, const char *text, const int32_t *ids, size_t n)
{
    char file[1024];
    snprintf(file, sizeof file, "{" MODEL "%s}", parts);
    cox_tokenizer *t = NULL;
    if (load_text(&t, file) != COX_OK) fail_msg("%s: %s", parts, cox_status_message());
    cox_tokens tokens = {0};
    assert_int_equal(cox_tokenizer_encode(t, text, strlen(text), true, &tokens), COX_OK);
    if (tokens.n != n || (n > 0 && memcmp(tokens.ids, ids, n * sizeof *ids) != 0)) {
        fail_msg("%s: \"%s\" gave %zu ids, first %d", parts, text, tokens.n, tokens.n ? tokens.ids[0] : -1);
    }
    cox_tokens_free(&tokens);
    cox_tokenizer_destroy(t);
}

static void test_components_by_hand(void **state)
{
    (void)state;
    check("", "ab", (const int32_t[]){2}, 1);
    check("", "", NULL, 0);
    check("", "aXb", (const int32_t[]){2},
          1); /* no unknown token: the character is left out, as in the reference */
    check(",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"c+\"},\"content\":\"b\"}", "accc",
          (const int32_t[]){2}, 1);
    check(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\","
          "\"invert\":false}",
          "ab", (const int32_t[]){0, 1}, 2);
    /* \h is a hexadecimal digit there: c, a and b are taken out, and nothing remains */
    check(
        ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\h\"},\"behavior\":\"Removed\"}",
        "cab", NULL, 0);
    check(",\"added_tokens\":[{\"id\":5,\"content\":\"ba\",\"special\":true}]", "abab",
          (const int32_t[]){0, 5, 1}, 3);
    check(",\"added_tokens\":[{\"id\":5,\"content\":\"ba\",\"special\":true},{\"id\":6,\"content\":\"bab\","
          "\"special\":true}]",
          "abab", (const int32_t[]){0, 6}, 2);
    check(",\"added_tokens\":[{\"id\":5,\"content\":\"X\",\"lstrip\":true,\"rstrip\":true}]", "a  X b",
          (const int32_t[]){0, 5, 1}, 3);
    check(",\"added_tokens\":[{\"id\":5,\"content\":\"X\",\"single_word\":true}]", "aX X",
          (const int32_t[]){0, 3, 5}, 3);
    check(",\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}],\"post_processor\":{\"type\":"
          "\"TemplateProcessing\","
          "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_"
          "id\":0}},"
          "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","
          "\"ids\":[5]}}}",
          "ab", (const int32_t[]){5, 2, 5}, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_regexes_that_are_refused),
        cmocka_unit_test(test_components_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
