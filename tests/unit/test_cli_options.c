/* The table of options: parsing, ranges, and that every option has its place in --help. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "run/footprint.h"
#include "cli/commands.h"

enum { MOST_ARGUMENTS = 24 };

/* Parses words separated by | (so that values may hold blanks). */
static cox_status parse(cox_options *options, cox_command command, const char *words)
{
    static char text[512];
    static char *argv[MOST_ARGUMENTS];
    int argc = 0;
    snprintf(text, sizeof text, "%s", words);
    for (char *word = text, *next; word && *word; word = next) {
        next = strchr(word, '|');
        if (next) *next++ = '\0';
        assert_in_range(argc, 0, MOST_ARGUMENTS - 1);
        argv[argc++] = word;
    }
    cox_options_defaults(options, command);
    return cox_options_parse(options, argc, argv);
}

static void test_values_arrive(void **state)
{
    (void)state;
    cox_options o;
    assert_int_equal(
        parse(&o, COX_COMMAND_GENERATE,
              "--model|dir|--prompt|a b|--prompt=-x=y|--ranks|3|--temperature=0.5|--kv-memory|512M|--raw|"
              "--experts-on|all|--seed|-5|--stop|\n"),
        COX_OK);
    assert_string_equal(o.model, "dir");
    assert_int_equal(o.prompts.n, 2);
    assert_string_equal(o.prompts.items[0], "a b");
    assert_string_equal(o.prompts.items[1], "-x=y");
    assert_int_equal(o.ranks, 3);
    assert_true(o.temperature > 0.49 && o.temperature < 0.51);
    assert_true(o.kv_memory_bytes == (uint64_t)512 << 20);
    assert_true(o.is_raw && !o.ignores_eos);
    assert_string_equal(o.experts_on, "all");
    assert_int_equal(o.seed, -5);
    assert_int_equal(o.stops.n, 1);
    assert_int_equal(o.max_tokens, 256);
    cox_options_free(&o);
}

static void test_byte_sizes(void **state)
{
    (void)state;
    const struct {
        const char *words;
        uint64_t bytes;
    } cases[] = {
        {"--model|d|--kv-memory|4096", 4096},
        {"--model|d|--kv-memory|4k", 4096},
        {"--model|d|--kv-memory|1.5G", (uint64_t)3 << 29},
        {"--model|d|--kv-memory|2GiB", (uint64_t)2 << 30},
        {"--model|d|--kv-memory|1TB", (uint64_t)1 << 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cox_options o;
        assert_int_equal(parse(&o, COX_COMMAND_INSPECT, cases[i].words), COX_OK);
        assert_true(o.kv_memory_bytes == cases[i].bytes && o.residual_memory_bytes == UINT64_MAX);
        cox_options_free(&o);
    }
    cox_options none;
    assert_int_equal(parse(&none, COX_COMMAND_INSPECT, "--model|d|--residual-memory|0"), COX_OK);
    assert_true(none.residual_memory_bytes == 0);
    cox_options_free(&none);
}

static void test_mistakes_are_named(void **state)
{
    (void)state;
    const struct {
        cox_command command;
        const char *words, *first, *second; /* words of the message */
    } cases[] = {
        {COX_COMMAND_GENERATE, "--prompt|a", "--model", "missing"},
        {COX_COMMAND_GENERATE, "--model", "--model", "needs a value"},
        {COX_COMMAND_GENERATE, "--model|d|--bogus|1", "--bogus", "unknown"},
        {COX_COMMAND_GENERATE, "--model|d|--input|f", "--input", "unknown"},
        {COX_COMMAND_GENERATE, "--model|d|stray", "stray", "not an option"},
        {COX_COMMAND_GENERATE, "--model|d|--model|e", "--model", "twice"},
        {COX_COMMAND_GENERATE, "--model|d|--ranks|0", "--ranks 0", "1 to"},
        {COX_COMMAND_GENERATE, "--model|d|--ranks|x", "--ranks", "whole number"},
        {COX_COMMAND_GENERATE, "--model|d|--ranks|3.5", "--ranks", "whole number"},
        {COX_COMMAND_GENERATE, "--model|d|--ranks|99999999999999999999", "--ranks", "outside"},
        {COX_COMMAND_GENERATE, "--model|d|--top-p|1.5", "--top-p", "0 to 1"},
        {COX_COMMAND_GENERATE, "--model|d|--temperature|nan", "--temperature", "a number"},
        {COX_COMMAND_GENERATE, "--model|d|--temperature|-1", "--temperature", "outside"},
        {COX_COMMAND_GENERATE, "--model|d|--experts-on|some", "--experts-on", "workers|all"},
        {COX_COMMAND_GENERATE, "--model|d|--exchange|spars", "--exchange", "sparse"},
        {COX_COMMAND_GENERATE, "--model|d|--kv-memory|lots", "--kv-memory", "bytes"},
        {COX_COMMAND_GENERATE, "--model|d|--kv-memory|5X", "--kv-memory", "bytes"},
        {COX_COMMAND_GENERATE, "--model|d|--kv-memory|-5", "--kv-memory", "bytes"},
        {COX_COMMAND_GENERATE, "--model|d|--kv-memory|0", "--kv-memory", "bytes"},
        {COX_COMMAND_GENERATE, "--model|d|--residual-memory|-0.5", "--residual-memory", "bytes"},
        {COX_COMMAND_GENERATE, "--model|d|--raw=yes", "--raw", "no value"},
        {COX_COMMAND_BATCH, "--model|d|--input|i", "--output", "missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cox_options o;
        cox_status status = parse(&o, cases[i].command, cases[i].words);
        const char *message = cox_status_message();
        if (status != COX_INVALID || !strstr(message, cases[i].first) || !strstr(message, cases[i].second)) {
            fail_msg("%s gave %s: %s", cases[i].words, cox_status_name(status), message);
        }
        cox_options_free(&o);
    }
}

static void test_help_needs_nothing_and_lists_what_runs_need(void **state)
{
    (void)state;
    static const char *const shared[] = {"--ranks",     "--threads",        "--coordinators",  "--experts-on",
                                         "--placement", "--exchange",       "--prefill-chunk", "--kernel",
                                         "--kv-memory", "--residual-memory"};
    const cox_command commands[] = {COX_COMMAND_GENERATE, COX_COMMAND_BATCH, COX_COMMAND_LOGITS};
    for (size_t c = 0; c < 3; c++) {
        cox_options o;
        assert_int_equal(parse(&o, commands[c], "--help"), COX_OK);
        assert_true(o.has_help);
        cox_options_free(&o);
        char *text = NULL;
        size_t n = 0;
        FILE *file = open_memstream(&text, &n);
        cox_options_print_help(commands[c], file);
        fclose(file);
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) assert_non_null(strstr(text, shared[i]));
        free(text);
    }
    assert_int_equal(cox_command_find("generate"), COX_COMMAND_GENERATE);
    assert_int_equal(cox_command_find("generat"), 0);
}

static void test_layouts(void **state)
{
    (void)state;
    cox_run_options o = cox_run_options_defaults();
    cox_layout layout;
    assert_int_equal(cox_layout_make(&layout, &o, 1, 2), COX_OK);
    assert_true(layout.n_expert_ranks == 1 && cox_layout_hosts_experts(&layout, 0));
    assert_int_equal(cox_layout_make(&layout, &o, 3, 2), COX_OK);
    assert_true(layout.n_expert_ranks == 2 && !cox_layout_hosts_experts(&layout, 0));
    o.n_coordinators = 3;
    assert_int_equal(cox_layout_make(&layout, &o, 3, 2), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "--experts-on all"));
    o.n_coordinators = 4;
    assert_int_equal(cox_layout_make(&layout, &o, 3, 2), COX_INVALID);
    o.n_coordinators = 3;
    o.experts_on_all = true;
    assert_int_equal(cox_layout_make(&layout, &o, 3, 2), COX_OK);
    assert_int_equal(layout.n_expert_ranks, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_arrive),
        cmocka_unit_test(test_byte_sizes),
        cmocka_unit_test(test_mistakes_are_named),
        cmocka_unit_test(test_help_needs_nothing_and_lists_what_runs_need),
        cmocka_unit_test(test_layouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
