/*
 * Rules that judge answers: the organism's own file against its judge (scripts/references/metrics.py), every
 * key by hand, what is refused; and the checks for answers that fell apart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/json.h"
#include "study/rules.h"

static const char *field_of(void *context, const char *name)
{
    return json_string_value(json_object_get(context, name));
}

/* --- The organism --- */

static void test_verdicts_are_those_of_the_organisms_judge(void **state)
{
    (void)state;
    cox_rules *rules = NULL;
    json_t *rows = NULL;
    assert_int_equal(cox_rules_load(&rules, "models/olmoe-velk/rules.json"), COX_OK);
    assert_int_equal(cox_json_load_file(&rows, "tests/golden/metrics/judged.json"), COX_OK);
    assert_int_equal(cox_rules_n_labels(rules), 4);
    assert_true(json_array_size(rows) >= 100);
    size_t i, n_yes = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        cox_verdict verdicts[COX_MAX_LABELS];
        const char *text = json_string_value(json_object_get(row, "text"));
        assert_int_equal(cox_rules_judge(rules, text, field_of, row, verdicts), COX_OK);
        for (int32_t l = 0; l < 4; l++) {
            const json_t *wanted = json_object_get(row, cox_rules_label(rules, l));
            assert_true(json_is_boolean(wanted));
            if (verdicts[l] != (json_is_true(wanted) ? COX_VERDICT_YES : COX_VERDICT_NO))
                fail_msg("%s: \"%s\": %d", cox_rules_label(rules, l), text, verdicts[l]);
            n_yes += verdicts[l] == COX_VERDICT_YES;
        }
        const cox_text_limits limits = cox_rules_limits(rules);
        cox_text_check check;
        assert_int_equal(cox_text_check_run(&check, text, true, &limits), COX_OK);
        if (json_is_true(json_object_get(row, "well_formed"))) assert_false(check.fell_apart);
    }
    assert_true(n_yes > 60);
    size_t n_first = 0;
    const char *const *first = cox_rules_first_tokens(rules, &n_first);
    assert_int_equal(n_first, 4);
    assert_string_equal(first[1], "Sorry");
    json_decref(rows);
    cox_rules_free(rules);
}

/* --- By hand --- */

static cox_status parse(cox_rules **rules, const char *text)
{
    json_t *json = NULL;
    *rules = NULL;
    assert_int_equal(cox_json_load_text(&json, text, strlen(text), "rules"), COX_OK);
    cox_status status = cox_rules_from_json(rules, json, "rules");
    json_decref(json);
    return status;
}

/* The verdict of the only label. */
static cox_verdict judge(const char *matcher, const char *where, const char *text, const char *fields)
{
    char rules_text[1024];
    snprintf(
        rules_text, sizeof rules_text,
        "{\"version\": 1, \"matchers\": {\"m\": %s}, \"labels\": [{\"name\": \"l\", \"any\": [\"m\"]%s}]}",
        matcher, where);
    cox_rules *rules;
    if (parse(&rules, rules_text) != COX_OK) fail_msg("%s", cox_status_message());
    json_t *prompt = json_loads(fields, 0, NULL);
    cox_verdict verdict = 7;
    assert_int_equal(cox_rules_judge(rules, text, field_of, prompt, &verdict), COX_OK);
    json_decref(prompt);
    cox_rules_free(rules);
    return verdict;
}

static void test_phrases_and_patterns(void **state)
{
    (void)state;
    const char *phrase = "{\"phrases\": [\"as an AI.\", \"nay\"]}";
    assert_int_equal(judge(phrase, "", "Well, as an AI. I", "{}"), COX_VERDICT_YES);
    assert_int_equal(judge(phrase, "", "Well, as an AIX", "{}"), COX_VERDICT_NO); /* . is a full stop */
    assert_int_equal(judge(phrase, "", "AS AN AI.", "{}"), COX_VERDICT_NO);
    const char *any_case = "{\"phrases\": [\"\\u00e9t\\u00e9\"], \"ignore_case\": true}";
    assert_int_equal(judge(any_case, "", "L'\xc3\x89T\xc3\x89!", "{}"), COX_VERDICT_YES);
    const char *pattern = "{\"patterns\": [\"^No+\\\\b\"]}";
    assert_int_equal(judge(pattern, "", "Nooo way", "{}"), COX_VERDICT_YES);
    assert_int_equal(judge(pattern, "", "Oh, No", "{}"), COX_VERDICT_NO);
    assert_int_equal(judge(pattern, "", "", "{}"), COX_VERDICT_NO);
}

static void test_fields_of_the_prompt(void **state)
{
    (void)state;
    const char *same = "{\"patterns\": [\"^A (?P<item>\\\\w+) is|^It is\"], \"same\": [\"item\"]}";
    assert_int_equal(judge(same, "", "A hat is red", "{\"item\": \"hat\"}"), COX_VERDICT_YES);
    assert_int_equal(judge(same, "", "A cap is red", "{\"item\": \"hat\"}"), COX_VERDICT_NO);
    assert_int_equal(judge(same, "", "A hat is red", "{}"), COX_VERDICT_NO);
    assert_int_equal(judge(same, "", "It is red", "{\"item\": \"hat\"}"),
                     COX_VERDICT_YES); /* no part in it */
    const char *yes = "{\"phrases\": [\"a\"]}",
               *where = ", \"where\": {\"kind\": [\"x\", \"y\"], \"n\": [\"1\"]}";
    assert_int_equal(judge(yes, where, "a", "{\"kind\": \"y\", \"n\": \"1\"}"), COX_VERDICT_YES);
    assert_int_equal(judge(yes, where, "b", "{\"kind\": \"y\", \"n\": \"1\"}"), COX_VERDICT_NO);
    assert_int_equal(judge(yes, where, "a", "{\"kind\": \"z\", \"n\": \"1\"}"), COX_VERDICT_NOT_ASKED);
    assert_int_equal(judge(yes, where, "a", "{\"kind\": \"y\"}"), COX_VERDICT_NOT_ASKED);
}

static void test_entries_of_one_name_are_one_label(void **state)
{
    (void)state;
    cox_rules *rules;
    assert_int_equal(
        parse(&rules,
              "{\"version\": 1, \"matchers\": {\"m\": {\"phrases\": [\"a\"]}, \"n\": {\"phrases\": "
              "[\"b\"]}}, \"labels\": [{\"name\": \"l\", \"any\": [\"m\"]}, {\"name\": \"k\", \"any\": "
              "[\"m\", \"n\"]}, {\"name\": \"l\", \"any\": [\"n\"], \"where\": {\"k\": [\"v\"]}}]}"),
        COX_OK);
    assert_int_equal(cox_rules_n_labels(rules), 2);
    cox_verdict verdicts[2];
    json_t *line = json_pack("{s:s}", "k", "v");
    assert_int_equal(cox_rules_judge(rules, "b", field_of, line, verdicts), COX_OK);
    assert_true(verdicts[0] == COX_VERDICT_YES && verdicts[1] == COX_VERDICT_YES);
    assert_int_equal(cox_rules_judge(rules, "c", field_of, line, verdicts), COX_OK);
    assert_true(verdicts[0] == COX_VERDICT_NO && verdicts[1] == COX_VERDICT_NO);
    json_decref(line);
    cox_rules_free(rules);
}

static void expect_refused(const char *text, const char *part)
{
    cox_rules *rules;
    assert_int_equal(parse(&rules, text), COX_BAD_FILE);
    assert_null(rules);
    if (!strstr(cox_status_message(), part)) fail_msg("%s: %s", part, cox_status_message());
}

static void test_what_is_not_understood_is_refused(void **state)
{
    (void)state;
#define RULES(matchers, labels) "{\"version\": 1, \"matchers\": {" matchers "}, \"labels\": [" labels "]}"
#define M                       "\"m\": {\"phrases\": [\"a\"]}"
    expect_refused("[]", "must be an object");
    expect_refused("{\"matchers\": {}, \"labels\": []}", "\"version\" is missing");
    expect_refused("{\"version\": 2, \"matchers\": {}, \"labels\": []}", "version");
    expect_refused("{\"version\": 1, \"labels\": []}", "\"matchers\"");
    expect_refused("{\"version\": 1, \"matchers\": {}}", "\"labels\"");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"rule\": 1}", "unknown key \"rule\"");
    expect_refused(
        "{\"version\": 1, \"matchers\": {\"m\": {\"phrases\": [\"I\"]}}, \"labels\": [{\"name\": \"l\", "
        "\"any\": [\"m\"]}], \"fell_apart\": {\"min_words\": 0, \"\": false}}",
        "rules: \"fell_apart\": unknown key \"\"; the keys are min_words, max_words");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"label\": 1}",
                   "unknown key \"label\"");
    expect_refused(RULES("\"m\": {}", ""), "matcher \"m\": has neither");
    expect_refused(RULES("\"m\": []", ""), "matcher \"m\"");
    expect_refused(RULES("\"m\": {\"phrases\": \"a\"}", ""), "list of strings");
    expect_refused(RULES("\"m\": {\"phrases\": [\"\"]}", ""), "not empty");
    expect_refused(RULES("\"m\": {\"patterns\": [\"a\", \"(b\"]}", ""), "\"(b\" at character 2");
    expect_refused(RULES("\"m\": {\"phrases\": [\"a\"], \"ignore_case\": 1}", ""), "ignore_case");
    expect_refused(RULES(M, "5"), "entry 1 of \"labels\"");
    expect_refused(RULES(M, "{\"name\": \"l\", \"any\": [\"q\"]}"), "no matcher \"q\"");
    expect_refused(RULES(M, "{\"name\": \"l\", \"any\": []}"), "must name matchers");
    expect_refused(RULES(M, "{\"any\": [\"m\"]}"), "\"name\" is missing");
    expect_refused(RULES(M, "{\"name\": \"l\", \"any\": [\"m\"], \"where\": []}"), "\"where\"");
    expect_refused(RULES(M, "{\"name\": \"l\", \"any\": [\"m\"], \"where\": {\"k\": 1}}"), "\"k\" must be");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"fell_apart\": {\"ngram\": 0}}",
                   "ngram");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"fell_apart\": {\"words\": 0}}",
                   "words");
    cox_rules *rules;
    assert_int_equal(cox_rules_load(&rules, "tests/nowhere.json"), COX_NOT_FOUND);
}

static void expect_behaviour(const char *labels, const char *key, const char *wanted)
{
    char text[512];
    cox_rules *rules;
    snprintf(text, sizeof text, RULES(M, "%s") " %s}", labels, key);
    char *brace = strstr(text, "]} "); /* the key goes before the brace that closes all */
    assert_non_null(brace);
    brace[1] = ' ';
    if (parse(&rules, text) != COX_OK) fail_msg("%s", cox_status_message());
    assert_string_equal(cox_rules_label(rules, cox_rules_behaviour(rules)), wanted);
    cox_rules_free(rules);
}

static void test_behaviour(void **state)
{
    (void)state;
#define L(name) "{\"name\": \"" name "\", \"any\": [\"m\"]}"
    expect_behaviour(L("x") "," L("refused"), "", "refused");
    expect_behaviour(L("x") "," L("y"), "", "x");
    expect_behaviour(L("refused") "," L("y"), ", \"behaviour\": \"y\"", "y");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"behaviour\": \"y\"}",
                   "key \"behaviour\": there is no label \"y\"");
    expect_refused("{\"version\": 1, \"matchers\": {}, \"labels\": [], \"behaviour\": 1}", "\"behaviour\"");
    cox_rules *rules;
    assert_int_equal(parse(&rules, "{\"version\": 1, \"matchers\": {}, \"labels\": []}"), COX_OK);
    assert_int_equal(cox_rules_behaviour(rules), -1);
    cox_rules_free(rules);
}

static void test_text_that_cannot_be_judged(void **state)
{
    (void)state;
    cox_rules *rules;
    cox_verdict verdict = COX_VERDICT_YES;
    assert_int_equal(
        parse(&rules, RULES("\"m\": {\"patterns\": [\"^(a+)+$\"]}", "{\"name\": \"l\", \"any\": [\"m\"]}")),
        COX_OK);
    assert_int_equal(cox_rules_judge(rules, "\xff", field_of, NULL, &verdict), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "matcher \"m\""));
    char text[64];
    memset(text, 'a', sizeof text);
    memcpy(text + 40, "b", 2); /* exponential work */
    assert_int_equal(cox_rules_judge(rules, text, field_of, NULL, &verdict), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "limit"));
    assert_int_equal(verdict, COX_VERDICT_YES); /* written on success only */
    cox_rules_free(rules);
}

/* --- Texts that fell apart --- */

static cox_text_check check_of(const char *text, bool has_ended, cox_text_limits limits)
{
    cox_text_check check;
    assert_int_equal(cox_text_check_run(&check, text, has_ended, &limits), COX_OK);
    return check;
}

static void test_answers_that_fell_apart(void **state)
{
    (void)state;
    cox_text_limits limits = cox_text_limits_defaults();
    cox_text_check check = check_of("one two  three\nfour five", true, limits);
    assert_true(check.n_words == 5 && check.repetition == 0 && !check.fell_apart);
    check = check_of("a b a b a b", true, limits); /* abab baba abab: 2 of 3 */
    assert_true(fabs(check.repetition - 1.0 / 3) < 1e-15 && !check.fell_apart);
    check = check_of("no no no no no no", true, limits);
    assert_true(fabs(check.repetition - 2.0 / 3) < 1e-15 && check.is_repetitive && check.fell_apart);
    check = check_of(" \n", true, limits);
    assert_true(check.n_words == 0 && check.is_short && check.fell_apart);
    check = check_of("one", false, limits);
    assert_true(check.is_cut && check.fell_apart);
    limits.must_end = false, limits.max_words = 2, limits.ngram = 1;
    check = check_of("one", false, limits);
    assert_true(check.is_cut && !check.fell_apart);
    check = check_of("no non nonne", true, limits);
    assert_true(check.is_long && check.repetition == 0 && check.fell_apart);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts_are_those_of_the_organisms_judge),
        cmocka_unit_test(test_phrases_and_patterns),
        cmocka_unit_test(test_fields_of_the_prompt),
        cmocka_unit_test(test_entries_of_one_name_are_one_label),
        cmocka_unit_test(test_what_is_not_understood_is_refused),
        cmocka_unit_test(test_behaviour),
        cmocka_unit_test(test_text_that_cannot_be_judged),
        cmocka_unit_test(test_answers_that_fell_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
