/*
 * The page that a report prints: its verdict in all cases, one name for the best expert on card, table and
 * map, calm places and those that were passed over, names in the scatter that do not touch, no correlation
 * over few experts, and the script's hash in the policy.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <sha2.h>

#include "report/report.h"

#define CELLS                                                                                             \
    "cell,block,site,op,control,seed,layer,expert,weighting,source,positions,strength,change_a,change_a_" \
    "low,change_a_high,change_b,change_b_low,change_b_high,kl\n"
#define HELDOUT                                                                                             \
    "family,aim,control,layer,expert,weighting,source,positions,strength,a_n,a_says,a_effect,a_effect_low," \
    "a_"                                                                                                    \
    "effect_high,b_n,b_says,b_effect,b_effect_low,b_effect_high,calm,calm_mean,calm_low,calm_high,passed_"  \
    "over,behaviour\n"

static const double limits[COX_REPORT_N_SETS] = {1, (double)INFINITY};

typedef struct page {
    cox_report report;
    json_t *run, *best;
    char *text;
} page;

static cox_status parse(cox_csv *csv, const char *text)
{
    char *copy = strdup(text);
    return cox_csv_parse(csv, copy, strlen(copy), "x.csv");
}

static void begin(page *p, const char *cells)
{
    cox_csv csv;
    *p = (page){.run = json_object(), .best = json_pack("{s:{}}", "clean")};
    p->report = (cox_report){.title = "t", .behaviour = "says", .run = p->run, .best = p->best, .n_rows = 20};
    assert_int_equal(parse(&csv, cells), COX_OK);
    assert_int_equal(cox_report_cells_read(&p->report.cells, &csv, NULL, limits), COX_OK);
}

static cox_status read_heldouts(page *p, const char *rows)
{
    cox_csv csv;
    char text[4096];
    snprintf(text, sizeof text, "%s%s", HELDOUT, rows);
    assert_int_equal(parse(&csv, text), COX_OK);
    return cox_report_heldouts_read(&p->report.heldouts, &csv);
}

static void print(page *p)
{
    size_t n = 0;
    FILE *file = open_memstream(&p->text, &n);
    cox_report_print(file, &p->report);
    fclose(file);
}

static void end(page *p)
{
    cox_report_cells_free(&p->report.cells);
    cox_report_rates_free(&p->report.rates);
    cox_report_routes_free(&p->report.routes);
    cox_report_heldouts_free(&p->report.heldouts);
    json_decref(p->run);
    json_decref(p->best);
    free(p->text);
}

static void expect(const page *p, const char *part)
{
    if (!strstr(p->text, part))
        fail_msg("the page does not say \"%s\": %.1500s", part, strstr(p->text, "<h1>"));
}

static void expect_not(const page *p, const char *part)
{
    if (strstr(p->text, part)) fail_msg("the page says \"%s\"", part);
}

/* Expert 1 has the larger fall of the log-odds, expert 2 is the one that answers chose. */
static const char two_experts[] =
    CELLS "0,e.5,expert_out,add,direction,0,3,1,soft,-1,all,-5,-9,-10,-8,1,0,2,0.5\n"
          "1,e.5,expert_out,add,direction,0,3,2,soft,-1,all,-5,-4,-5,-3,1,0,2,0.5\n"
          "2,s,resid_post,ablate,direction,0,3,,,-1,all,1,-5,-6,-4,0,0,0,0.1\n";

#define CLEAN "clean,,,,,,,,,100,98,0,-4,4,150,3,0,-3,3,,,,,,says\n"
#define PLAN(yes, effect, calm, passed) \
    "e,weaken,,3,2,soft,-1,all,-5,100," yes "," effect ",150,3,0,-3,3," calm ",1,-2,4," passed ",says\n"
#define DRAW(effect) "e,weaken,random_direction,3,2,soft,-1,all,-5,100,90," effect ",,,,,,,,,,,says\n"
#define MINUS        "\xe2\x88\x92"

static void verdict_of_held_out_answers(void **state)
{
    (void)state;
    page p;
    begin(&p, two_experts);
    assert_int_equal(
        read_heldouts(
            &p, CLEAN PLAN("39", "-59,-69,-48", "True", "") DRAW("-1,-9,5")
                    DRAW("-4,-12,3") "s,weaken,,3,,,-1,all,1,100,1,-97,-99,-90,150,3,0,-3,3,,,,,,says\n"),
        COX_OK);
    assert_int_equal(cox_report_heldouts_check(&p.report), COX_OK);
    print(&p);
    expect(&p, "<p class=\"verdict\">Of single experts, <b>layer 3, expert 2</b> (add at expert_out, soft, "
               "strength " MINUS
               "5) weakens <b>says</b> most: <b>98% \xe2\x86\x92 39%</b> of 100 held-out prompts of A (" MINUS
               "59 points [" MINUS "69, " MINUS
               "48]); <b>none of 2 random directions there does the same</b>, the "
               "farthest: " MINUS "4 points [" MINUS
               "12, +3]; the place is <b>calm</b>. In any place, <b>s, layer 3</b> "
               "(ablate at resid_post, strength 1) weakens <b>says</b> most: <b>98% \xe2\x86\x92 1%</b> of "
               "100 held-out "
               "prompts of A (" MINUS "97 points [" MINUS "99, " MINUS
               "90]); no random direction was tried there. </p>");
    expect(&p, "<h3>Weaken, one expert</h3>\n<p><b>layer 3, expert 2</b>");
    expect(&p,
           "<b>calm</b> (random directions: +1 points [" MINUS "2, +4] of answers to validation prompts)");
    expect(&p, "<h3>Weaken, any place</h3>\n<p><b>s, layer 3</b>");
    expect(&p, "data-name=\"says\">39 of 100");
    expect_not(&p, "refused");
    end(&p);
}

static void random_directions_that_do_the_same(void **state)
{
    (void)state;
    page p;
    begin(&p, two_experts);
    assert_int_equal(read_heldouts(&p, CLEAN PLAN("39", "-59,-69,-48", "False", "\"[[0, -31.5, -40, -23]]\"")
                                           DRAW("-50,-60,-40") DRAW("-4,-12,3")),
                     COX_OK);
    assert_int_equal(cox_report_heldouts_check(&p.report), COX_OK);
    print(&p);
    expect(&p, "<b>but of 2 random directions there 1 may do the same</b>, the farthest: " MINUS
               "50 points [" MINUS "60, " MINUS
               "40]; the place is <b>not calm</b>. Nothing in another place does more.</p>");
    expect(&p, "Passed over, since <b>not calm</b>: layer 3, expert 1 at strength " MINUS
               "5 (cell 0, random directions: " MINUS "32 points [" MINUS "40, " MINUS "23])");
    expect(&p, "The largest number here is that of layer 3, expert 1; it was passed over: the place is not "
               "calm.</p>");
    end(&p);
}

static void nothing_that_is_sure(void **state)
{
    (void)state;
    page p;
    begin(&p, two_experts);
    assert_int_equal(read_heldouts(&p, CLEAN PLAN("97", "-1,-6,4", "True", "") DRAW("0,-5,5")), COX_OK);
    print(&p);
    expect(&p, "<p class=\"verdict\"><b>No single expert</b> was found that surely weakens <b>says</b>; the "
               "best is <b>layer "
               "3, expert 2</b> (add at expert_out, soft, strength " MINUS "5): <b>98% \xe2\x86\x92 97%</b>");
    expect(&p, "; the random direction there: 0 points [" MINUS "5, +5]; the place is <b>calm</b>. </p>");
    end(&p);
    begin(&p, CELLS "0,e,expert_out,add,direction,0,3,1,soft,-1,all,-5,9,8,10,-1,-2,0,0.5\n");
    print(&p);
    expect(
        &p,
        "<p class=\"verdict\">Nothing that was tried weakens <b>says</b> on A, or strengthens it on B.</p>");
    end(&p);
}

/* Without held-out answers the verdict says whose numbers it has. */
static void verdict_of_validation_prompts(void **state)
{
    (void)state;
    page p;
    cox_csv csv;
    begin(&p, two_experts);
    print(&p);
    expect(&p, "Of single experts, <b>layer 3, expert 1</b> (add at expert_out, soft, strength " MINUS
               "5) weakens <b>says</b> most: log-odds " MINUS "9.00 [" MINUS "10.0, " MINUS
               "8.00] on validation prompts of A; no "
               "random direction was tried there. Nothing in another place does more.</p>");
    free(p.text);
    /* answers decide, by the label that is studied: not by the first */
    assert_int_equal(parse(&csv,
                           "cell,set,label,yes,asked,rate,low,high\n-1,a,x,0,4,0,0,1\n-1,a,says,4,4,1,0,1\n"
                           "0,a,x,0,4,0,0,1\n0,a,says,4,4,1,0,1\n1,a,x,4,4,1,0,1\n1,a,says,1,4,0.25,0,1\n"),
                     COX_OK);
    assert_int_equal(cox_report_rates_read(&p.report.rates, &csv), COX_OK);
    print(&p);
    expect(
        &p,
        "<b>layer 3, expert 2</b> (add at expert_out, soft, strength " MINUS
        "5) weakens <b>says</b> most: <b>100% \xe2\x86\x92 25%</b> of 4 validation prompts of A (log-odds ");
    expect(&p, "the choice is by them, not by log-odds");
    end(&p);
}

/* Card, table of families and map name the same expert; the map says why another's number is larger. */
static void one_expert_by_one_name(void **state)
{
    (void)state;
    page p;
    begin(&p, two_experts);
    assert_int_equal(read_heldouts(&p, CLEAN PLAN("39", "-59,-69,-48", "True", "")), COX_OK);
    print(&p);
    expect(
        &p,
        "<p class=\"soft\">Framed: layer 3, expert 2, the expert of verdict, card and table (cell 1, " MINUS
        "4.00 at strength " MINUS
        "5). The largest number here is that of layer 3, expert 1; plans are taken by answers");
    expect(&p, "<tr><th>e</th><td>Weaken</td><td class=\"how\">layer 3, expert 2: ");
    expect_not(&p, "<td>Weaken</td><td class=\"how\">layer 3, expert 1: ");
    end(&p);
}

static void panels_fold(void **state)
{
    (void)state;
    page p;
    begin(&p, CELLS "0,e,expert_out,add,direction,0,3,1,soft,-1,all,-5,-9,-10,-8,1,0,2,0.5\n"
                    "1,e,expert_out,add,direction,0,3,0,soft,-1,all,-5,-4,-5,-3,1,0,2,0.5\n"
                    "2,e,expert_out,add,direction,0,3,1,routed,-1,all,-5,-1,-2,-1,0.5,0,2,0.5\n"
                    "3,e,expert_out,add,direction,0,3,0,routed,-1,all,-5,-1,-2,-1,0.5,0,2,0.5\n");
    print(&p);
    expect(&p, "<details class=\"panel\" open=\"open\"><summary>e: add at expert_out, soft, positions "
               "all</summary>");
    expect(&p, "<details class=\"panel\"><summary>e: add at expert_out, routed, positions all</summary>");
    end(&p);
}

static void bad_calm_columns(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "1", "{}", "\"[1]\"", "\"[[0, 1, 2]]\"", "\"[[0.5, 1, 2, 3]]\"", "\"[[0, 1, 2, \"\"x\"\"]]\"", "["};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        page p;
        char rows[1024];
        begin(&p, two_experts);
        snprintf(rows, sizeof rows, "%s", CLEAN PLAN("39", "-59,-69,-48", "True", "@"));
        char *at = strchr(rows, '@'), rest[64];
        snprintf(rest, sizeof rest, "%s", at + 1);
        snprintf(at, sizeof rows - (size_t)(at - rows), "%s%s", bad[i], rest);
        assert_int_equal(read_heldouts(&p, rows), COX_BAD_FILE);
        if (!strstr(cox_status_message(), "line 3, column \"passed_over\""))
            fail_msg("%s", cox_status_message());
        end(&p);
    }
    page p;
    begin(&p, two_experts);
    assert_int_equal(read_heldouts(&p, CLEAN PLAN("39", "-59,-69,-48", "True", "\"[[77, 1, 2, 3]]\"")),
                     COX_OK);
    assert_int_equal(cox_report_heldouts_check(&p.report), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "the sweep has no cell 77"));
    end(&p);
}

/* --- The scatter --- */

/* Twelve experts in one spot, and on the edges: names stay apart, and inside. */
static void names_in_the_scatter(void **state)
{
    (void)state;
    page p;
    char cells[4096] = CELLS, routes[2048] = "layer,expert,top1_difference,top1_low,top1_high\n";
    for (int i = 0; i < 12; i++) {
        size_t n = strlen(cells), m = strlen(routes);
        snprintf(cells + n, sizeof cells - n,
                 "%d,e,expert_out,add,direction,0,3,%d,soft,-1,all,-5,%g,-10,0,1,0,2,0.5\n", i, i,
                 -9 + 0.01 * i);
        snprintf(routes + m, sizeof routes - m, "3,%d,%g,0,0\n", i, i < 9 ? 0.3 + 0.0001 * i : 0.1 * i);
    }
    begin(&p, cells);
    assert_int_equal(cox_report_routes_read(&p.report.routes, strdup(routes), strlen(routes), "r"), COX_OK);
    print(&p);
    double xs[16], ys[16];
    size_t n = 0;
    const char *svg = strstr(p.text, "aria-label=\"routing difference against steering effect\""),
               *svg_end = strstr(svg, "</svg>");
    for (const char *at = svg; (at = strstr(at, "<text class=\"tag mid\" x=\"")) && at < svg_end && n < 16;
         at++)
        n += sscanf(at, "<text class=\"tag mid\" x=\"%lf\" y=\"%lf\"", &xs[n], &ys[n]) == 2;
    assert_true(n >= 2);
    for (size_t i = 0; i < n; i++) {
        assert_true(xs[i] > 48 + 20 && xs[i] < 350 - 20 && ys[i] > 10 && ys[i] < 212);
        for (size_t k = 0; k < i; k++) assert_true(fabs(xs[i] - xs[k]) > 40 || fabs(ys[i] - ys[k]) > 11);
    }
    expect(&p, "</b> over 12 experts; with the largest rise of B");
    end(&p);
}

static void no_correlation_over_few(void **state)
{
    (void)state;
    page p;
    begin(&p, CELLS "0,e,expert_out,add,direction,0,3,0,soft,-1,all,-5,-9,-10,-8,1,0,2,0.5\n"
                    "1,e,expert_out,add,direction,0,3,1,soft,-1,all,-5,-4,-5,-3,1,0,2,0.5\n"
                    "2,e,expert_out,add,direction,0,3,2,soft,-1,all,-5,-1,-2,-1,0.5,0,2,0.5\n");
    const char routes[] =
        "layer,expert,top1_difference,top1_low,top1_high\n3,0,3,3,3\n3,1,2,2,2\n3,2,1,1,1\n";
    assert_int_equal(cox_report_routes_read(&p.report.routes, strdup(routes), strlen(routes), "r"), COX_OK);
    print(&p);
    expect(&p, "no rank correlation over 3 experts (fewer than 10, or all equal)");
    expect_not(&p, "Does routing tell where to steer?");
    end(&p);
}

/* --- The script --- */

/* Base64 of the digest, worked out by another way: bit by bit. */
static void policy_names_the_script(void **state)
{
    (void)state;
    char hash[45], hex[SHA256_DIGEST_STRING_LENGTH];
    cox_report_script_hash(hash);
    SHA256Data((const uint8_t *)cox_report_script, strlen(cox_report_script), hex);
    assert_int_equal(strlen(hash), 44);
    for (size_t bit = 0; bit < 256; bit++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        size_t value = (size_t)(strchr(digits, hash[bit / 6]) - digits);
        char one[2] = {hex[bit / 4], '\0'};
        assert_int_equal(value >> (5 - bit % 6) & 1, strtoul(one, NULL, 16) >> (3 - bit % 4) & 1);
    }
    assert_true(hash[43] == '=');
    assert_null(strpbrk(cox_report_script, "<&")); /* well-formed XML, too */
    page p;
    begin(&p, two_experts);
    print(&p);
    expect(&p, "script-src 'sha256-");
    expect(&p, hash);
    end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verdict_of_held_out_answers),
        cmocka_unit_test(random_directions_that_do_the_same),
        cmocka_unit_test(nothing_that_is_sure),
        cmocka_unit_test(verdict_of_validation_prompts),
        cmocka_unit_test(one_expert_by_one_name),
        cmocka_unit_test(panels_fold),
        cmocka_unit_test(bad_calm_columns),
        cmocka_unit_test(names_in_the_scatter),
        cmocka_unit_test(no_correlation_over_few),
        cmocka_unit_test(policy_names_the_script),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
