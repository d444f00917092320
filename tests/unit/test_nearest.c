/* "did you mean": slips find what was meant, other words find nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/nearest.h"

static const char WORDS[] = "--prompt --prompt-file --max-tokens --top-k --top-p resid_pre resid_post";

/* meant NULL: nothing is near. */
static void expect(const char *wanted, const char *meant)
{
    char hint[128] = "";
    cox_nearest nearest = cox_nearest_to(wanted, strlen(wanted));
    cox_nearest_offer_words(&nearest, WORDS, " ");
    if (meant) snprintf(hint, sizeof hint, "; did you mean \"%s\"?", meant);
    assert_string_equal(nearest.hint, hint);
}

static void test_slips(void **state)
{
    (void)state;
    expect("--promt", "--prompt");            /* left out */
    expect("--prompts", "--prompt");          /* one too many */
    expect("--prompt-fiel", "--prompt-file"); /* exchanged */
    expect("resid_psot", "resid_post");
    expect("--max_tokens", "--max-tokens"); /* as the field of a request */
    expect("--Max-Token", "--max-tokens");
    expect("--top-l", "--top-k"); /* of equals the first */
    expect("resid-post", "resid_post");
}

static void test_other_words(void **state)
{
    (void)state;
    expect("", NULL);
    expect("--", NULL);
    expect("--grid", NULL);
    expect("attn_out", NULL);
    expect("--temperature", NULL);
    expect("--a-word-that-is-so-long-that-nobody-can-have-meant-any-of-these-by-it-at-all", NULL);
}

/* A word whose end is not its string's. */
static void test_part_of_a_text(void **state)
{
    (void)state;
    cox_nearest nearest = cox_nearest_to("--promt=text", 7);
    const char *const words[] = {"--seed", "--prompt"};
    cox_nearest_offer_all(&nearest, words, 2);
    assert_string_equal(nearest.hint, "; did you mean \"--prompt\"?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slips),
        cmocka_unit_test(test_other_words),
        cmocka_unit_test(test_part_of_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
