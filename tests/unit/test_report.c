/*
 * What a report reads: CSV as others write it, cells in groups and places with their best, the same routes
 * and parts from CSV and JSON, correlations against numbers worked out by hand; and what it refuses, with
 * line and column.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "report/heatmap.h"
#include "report/report.h"

#define HEADER                                                                                            \
    "cell,block,site,op,control,seed,layer,expert,weighting,source,positions,strength,change_a,change_a_" \
    "low,"                                                                                                \
    "change_a_high,change_b,change_b_low,change_b_high,kl\n"

static cox_status parse(cox_csv *csv, const char *text)
{
    char *copy = strdup(text);
    return cox_csv_parse(csv, copy, strlen(copy), "x.csv");
}

static void expect_message(cox_status status, const char *part)
{
    assert_int_equal(status, COX_BAD_FILE);
    if (!strstr(cox_status_message(), part))
        fail_msg("\"%s\" does not say \"%s\"", cox_status_message(), part);
}

/* --- CSV --- */

static void quoted_fields(void **state)
{
    (void)state;
    cox_csv csv;
    const char *text = NULL;
    int64_t number = 0;
    double value = 0;
    assert_int_equal(parse(&csv, "a,\"b,c\",d\r\n\"x \"\"y\"\"\nz\",,7\r\n1.5,2,3"), COX_OK);
    assert_int_equal(csv.n_columns, 3);
    assert_int_equal(csv.n_rows, 2);
    assert_int_equal(csv.lines[1], 4); /* the first row has two lines */
    assert_int_equal(cox_csv_text(&csv, 0, "a", &text), COX_OK);
    assert_string_equal(text, "x \"y\"\nz");
    assert_int_equal(cox_csv_int(&csv, 0, "d", 0, 9, &number), COX_OK);
    assert_int_equal(number, 7);
    assert_int_equal(cox_csv_number(&csv, 1, "a", false, &value), COX_OK);
    assert_true(value == 1.5);
    assert_int_equal(cox_csv_number(&csv, 0, "b,c", true, &value), COX_OK);
    assert_true(isnan(value));
    assert_true(cox_csv_has(&csv, "b,c") && !cox_csv_has(&csv, "b"));
    expect_message(cox_csv_number(&csv, 0, "b,c", false, &value),
                   "x.csv: line 2, column \"b,c\": \"\" is not a number");
    expect_message(cox_csv_int(&csv, 0, "d", 0, 6, &number), "line 2, column \"d\"");
    expect_message(cox_csv_text(&csv, 0, "e", &text), "no column \"e\"");
    cox_csv_free(&csv);
}

static void malformed_csv(void **state)
{
    (void)state;
    cox_csv csv;
    expect_message(parse(&csv, "a,b\n1,2\n1\n"), "line 3 has 1 columns, the first line has 2");
    expect_message(parse(&csv, "a,b\n1,\"2\n"), "line 2, column 2: a quote");
    expect_message(parse(&csv, "a,b\n\"1\"x,2\n"), "line 2, column 1: a quote");
    expect_message(parse(&csv, "a\n\xff\n"), "not UTF-8");
    double value = 0;
    const char *const bad[] = {"nan", "inf", "0x10", "1 ", "1e999", "--1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[32];
        snprintf(text, sizeof text, "a\n%s\n", bad[i]);
        assert_int_equal(parse(&csv, text), COX_OK);
        expect_message(cox_csv_number(&csv, 0, "a", false, &value), "is not a number");
        cox_csv_free(&csv);
    }
}

/* --- Cells --- */

static const double limits[COX_REPORT_N_SETS] = {1, (double)INFINITY};

static void places_and_best(void **state)
{
    (void)state;
    cox_csv csv;
    cox_report report = {.n_rows = 20};
    assert_int_equal(parse(&csv, HEADER
                           "7,e,expert_out,add,direction,0,2,1,routed,-1,all,8,-1,-2,0,1,0,2,0.5\n"
                           "3,e,expert_out,add,direction,0,2,1,routed,-1,all,-8,-3,-4,-2,2,1,3,0.9\n"
                           "4,e,expert_out,add,direction,0,2,1,routed,-2,all,8,-9,-9,-9,9,9,9,1.5\n"
                           "5,e,expert_out,add,direction,0,2,3,routed,-1,all,8,,,,0.5,0,1,\n"
                           "6,a,resid_post,ablate,direction,0,1,,,0,all,1,-2,-3,-1,1,0,2,0.1\n"
                           "8,c,expert_out,add,random_expert,0,2,1,routed,-1,all,-8,-1,-1,-1,0,0,0,0.1\n"),
                     COX_OK);
    assert_int_equal(cox_report_cells_read(&report.cells, &csv, NULL, limits), COX_OK);
    const cox_report_cells *cells = &report.cells;
    assert_int_equal(cells->n_groups, 3);
    assert_int_equal(cells->groups[0].n_experts, 4); /* blocks in the order of the file */
    assert_int_equal(cells->groups[0].n_places, 2);
    assert_int_equal(cells->groups[1].n_experts, 0);
    const cox_report_place *p = cells->places;
    assert_int_equal(p->best[COX_REPORT_A]->number, 3); /* 4 is lower, but beyond the limit */
    assert_int_equal(p->best[COX_REPORT_B]->number, 4); /* no limit there */
    assert_null(p[1].best[COX_REPORT_A]);
    assert_int_equal(p[1].best[COX_REPORT_B]->number, 5);
    assert_int_equal(cells->items[0].number, 3); /* by strength */
    assert_int_equal(cox_report_curve_end(cells, p, 0), 2);
    assert_int_equal(cox_report_curve_end(cells, p, 2), 3);
    assert_true(cox_report_is_control_of(&cells->items[5], &cells->items[0]));
    assert_false(cox_report_is_control_of(&cells->items[5], &cells->items[1])); /* another strength */
    assert_int_equal(cox_report_pick(&report, -1, false, COX_REPORT_A)->number, 3);
    assert_int_equal(cox_report_pick(&report, 1, false, COX_REPORT_A)->number, 6);
    cox_report_cells_free(&report.cells);
}

/* Blocks "e.1" and "e.5" are one family; but not where they steer elsewhere too, and then controls differ as
 * well. */
static void families(void **state)
{
    (void)state;
    cox_csv csv;
    cox_report_cells cells;
    json_t *grid = json_pack("{s:[{s:s}, {s:s, s:{s:[s]}}]}", "blocks", "name", "e.1", "name", "e.9", "apply",
                             "sites", "attn_out");
    assert_int_equal(parse(&csv,
                           HEADER "0,e.1,resid_post,ablate,direction,0,2,,,0,all,1,-1,-1,-1,1,1,1,0\n"
                                  "1,e.9,resid_post,ablate,direction,0,2,,,0,all,1,-2,-2,-2,2,2,2,0\n"
                                  "2,e.5,resid_post,ablate,direction,0,2,,,0,all,5,-3,-3,-3,3,3,3,0\n"
                                  "3,r,resid_post,ablate,random_direction,0,2,,,0,all,1,0,0,0,0,0,0,0\n"),
                     COX_OK);
    assert_int_equal(cox_report_cells_read(&cells, &csv, grid, limits), COX_OK);
    assert_int_equal(cells.n_families, 2);
    assert_string_equal(cells.families[0], "e");
    assert_int_equal(cells.n_groups, 3);
    assert_int_equal(cells.groups[0].n, 2); /* e.1 and e.5, a curve */
    assert_int_equal(cox_report_curve_end(&cells, &cells.places[0], 0), 2);
    assert_int_equal(cells.items[2].number, 1);
    assert_true(cox_report_is_control_of(&cells.items[3], &cells.items[0]));
    assert_false(cox_report_is_control_of(&cells.items[3], &cells.items[2]));
    cox_report_cells_free(&cells);
    json_decref(grid);
}

/* A draw that stands in two blocks and again in the sweep of controls is one plan; another seed, or other
 * numbers with the same one (another vector file), are more. */
static void draws(void **state)
{
    (void)state;
    cox_csv csv;
    cox_report report = {.n_rows = 20};
    assert_int_equal(parse(&csv,
                           HEADER "0,e,resid_post,add,direction,0,2,,,-1,all,8,-3,-4,-2,3,2,4,0.5\n"
                                  "1,r,resid_post,add,random_direction,1,2,,,-1,all,8,-1,-2,0,1,0,2,\n"
                                  "2,s,resid_post,add,random_direction,1,2,,,-1,all,8,-1,-2,0,1,0,2,\n"
                                  "3,s,resid_post,add,random_direction,2,2,,,-1,all,8,-1,-2,0,1,0,2,\n"),
                     COX_OK);
    assert_int_equal(cox_report_cells_read(&report.cells, &csv, NULL, limits), COX_OK);
    assert_int_equal(parse(&csv, HEADER "0,c,resid_post,add,random_direction,1,2,,,-1,all,8,-1,-2,0,1,0,2,\n"
                                        "1,d,resid_post,add,random_direction,1,2,,,-1,all,8,2,-1,3,1,0,2,\n"),
                     COX_OK);
    assert_int_equal(cox_report_cells_read(&report.controls, &csv, NULL, limits), COX_OK);
    const cox_report_summary sum = cox_report_summarize(&report, &report.cells.items[0], "random_direction");
    assert_int_equal(sum.n, 3);
    assert_true(sum.mean[COX_REPORT_A] == 0); /* -1, -1, 2 */
    assert_true(sum.widest[COX_REPORT_A].value == 2 && sum.widest[COX_REPORT_B].value == 1);
    assert_int_equal(cox_report_summarize(&report, &report.cells.items[0], "random_expert").n, 0);
    cox_report_cells_free(&report.cells);
    cox_report_cells_free(&report.controls);
}

/* Answers decide where there are any. */
static void pick_by_answers(void **state)
{
    (void)state;
    cox_csv csv;
    cox_report report = {.n_rows = 20};
    assert_int_equal(parse(&csv,
                           HEADER "0,e,expert_out,add,direction,0,2,1,routed,-1,all,8,-1,-2,0,1,0,2,0.5\n"
                                  "1,e,expert_out,add,direction,0,2,2,routed,-1,all,8,-3,-4,-2,2,1,3,0.9\n"),
                     COX_OK);
    assert_int_equal(cox_report_cells_read(&report.cells, &csv, NULL, limits), COX_OK);
    assert_int_equal(cox_report_pick(&report, -1, true, COX_REPORT_A)->number, 1);
    assert_int_equal(parse(&csv, "cell,set,label,yes,asked,rate,low,high\n0,a,refused,1,4,0.25,0,1\n"
                                 "1,a,refused,0,4,0,0,1\n1,a,fell_apart,3,4,0.75,0,1\n"),
                     COX_OK);
    assert_int_equal(cox_report_rates_read(&report.rates, &csv), COX_OK);
    assert_int_equal(report.rates.n_labels, 2);
    assert_int_equal(cox_report_pick(&report, -1, true, COX_REPORT_A)->number, 0);
    assert_int_equal(cox_report_pick(&report, -1, true, COX_REPORT_B)->number, 1);
    cox_report_rates_free(&report.rates);
    cox_report_cells_free(&report.cells);
}

static void malformed_cells(void **state)
{
    (void)state;
    static const struct {
        const char *row, *message;
    } cases[] = {
        {"", "no cells"},
        {"x,e,expert_out,add,direction,0,2,1,routed,-1,all,8,-1,-2,0,1,0,2,0.5\n",
         "line 2, column \"cell\": \"x\""},
        {"0,e,expert_out,add,direction,0,2,1,routed,-1,all,,-1,-2,0,1,0,2,0.5\n",
         "line 2, column \"strength\""},
        {"0,e,expert_out,add,direction,0,2,99999,routed,-1,all,1,-1,-2,0,1,0,2,0.5\n", "column \"expert\""},
        {"0,e,expert_out,add,direction,0,2,1,routed,-1,all,1,-1,-2,0,1,0,two,0.5\n",
         "line 2, column \"change_b_high\": \"two\" is not a number"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[800];
        cox_csv csv;
        cox_report_cells cells;
        snprintf(text, sizeof text, "%s%s", HEADER, cases[i].row);
        assert_int_equal(parse(&csv, text), COX_OK);
        expect_message(cox_report_cells_read(&cells, &csv, NULL, limits), cases[i].message);
    }
}

/* --- Beside the sweep --- */

static cox_status read_routes(cox_report_routes *routes, const char *text)
{
    return cox_report_routes_read(routes, strdup(text), strlen(text), "r");
}

static cox_status read_parts(cox_report_parts *parts, const char *text)
{
    return cox_report_parts_read(parts, strdup(text), strlen(text), "d");
}

static void routes_of_both_kinds(void **state)
{
    (void)state;
    cox_report_routes csv, json;
    assert_int_equal(
        read_routes(&csv, "layer,expert,top1_difference,top1_low,top1_high\n2,1,-0.25,-0.5,0.125\n"), COX_OK);
    assert_int_equal(
        read_routes(&json, "{\"made\":\"routes\",\"last\":5,\"experts\":[{\"layer\":2,\"expert\":1,\"top1\":"
                           "{\"difference\":-0.25,\"low\":-0.5,\"high\":0.125}}]}"),
        COX_OK);
    assert_int_equal(csv.n, 1);
    assert_memory_equal(csv.items, json.items, sizeof *csv.items);
    assert_null(csv.about);
    assert_int_equal(json_integer_value(json_object_get(json.about, "last")), 5);
    cox_report_routes_free(&csv);
    cox_report_routes_free(&json);
    expect_message(read_routes(&csv, "{\"made\":\"decompose\",\"experts\":[]}"), "coxswain routes --json");
    expect_message(read_routes(&csv, "{\"made\":\"routes\",\"experts\":[{\"layer\":2}]}"),
                   "\"experts\"[0]: key \"expert\"");
    expect_message(read_routes(&csv, "layer,expert\n1,2\n"), "no column \"top1_difference\"");
    expect_message(read_routes(&csv, "layer,expert,top1_difference,top1_low,top1_high\n"), "no experts");
}

static void parts_of_both_kinds(void **state)
{
    (void)state;
    static const char header[] =
        "part,layer,expert,a,b,difference,low,high,share,effect_a,effect_a_low,effect_a_high,"
        "effect_b,effect_b_low,effect_b_high\n";
    static const char part[] =
        "{\"a\":1,\"b\":0.5,\"difference\":0.5,\"low\":0.25,\"high\":0.75,\"share\":0.125%s}";
    char text[2000], plain[200], with_effect[300];
    cox_report_parts csv, json;
    snprintf(plain, sizeof plain, part, "");
    snprintf(
        with_effect, sizeof with_effect, part,
        ",\"effect\":{\"a\":{\"value\":-1,\"low\":-2,\"high\":0},\"b\":{\"value\":1,\"low\":0,\"high\":2}}");
    snprintf(text, sizeof text,
             "{\"made\":\"decompose\",\"embedding\":%s,\"layers\":[{\"layer\":0,\"attention\":%s,\"block\":%"
             "s,\"after\":%s,"
             "\"experts\":[%s]}]}",
             plain, with_effect, plain, plain, plain);
    assert_int_equal(read_parts(&json, text), COX_OK);
    snprintf(text, sizeof text,
             "%sembedding,-1,-1,1,0.5,0.5,0.25,0.75,0.125,,,,,,\nattention,0,-1,1,0.5,0.5,0.25,0.75,0.125,-1,"
             "-2,0,1,0,2\n"
             "block,0,-1,1,0.5,0.5,0.25,0.75,0.125,,,,,,\nafter,0,-1,1,0.5,0.5,0.25,0.75,0.125,,,,,,\n"
             "expert,0,0,1,0.5,0.5,0.25,0.75,0.125,,,,,,\n",
             header);
    assert_int_equal(read_parts(&csv, text), COX_OK);
    assert_int_equal(csv.n, 5);
    assert_int_equal(json.n, 5);
    for (size_t i = 0; i < csv.n; i++) {
        const cox_report_part *x = &csv.items[i], *y = &json.items[i];
        assert_true(x->kind == y->kind && x->layer == y->layer && x->expert == y->expert &&
                    x->share == y->share);
        assert_true(x->mean[0] == y->mean[0] && x->mean[1] == y->mean[1] && x->has_effect == y->has_effect);
        assert_memory_equal(&x->difference, &y->difference, sizeof x->difference);
        if (x->has_effect) assert_memory_equal(x->effect, y->effect, sizeof x->effect);
    }
    cox_report_parts_free(&csv);
    cox_report_parts_free(&json);
    snprintf(text, sizeof text, "%sblok,0,0,1,1,1,1,1,1,,,,,,\n", header);
    expect_message(read_parts(&csv, text), "line 2, column \"part\": \"blok\"");
    expect_message(read_parts(&csv, "{\"made\":\"decompose\",\"layers\":[]}"),
                   "embedding of layer -1: key \"a\" is missing");
    expect_message(read_parts(&csv, "{\"made\":"), "d");
}

/* Sizes of routing differences against the largest fall on A, or rise on B, of all of a family's cells. */
static void correlations(void **state)
{
    (void)state;
    cox_csv csv;
    cox_report report = {.n_rows = 20};
    assert_int_equal(
        parse(&csv, HEADER
              "0,e.1,expert_out,add,direction,0,0,0,routed,-1,all,1,-1,-1,-1,-1,-1,-1,0\n"
              "1,e.1,expert_out,add,direction,0,0,0,soft,-1,all,1,-4,-4,-4,-1,-1,-1,0\n" /* the larger */
              "2,e.1,expert_out,add,direction,0,0,1,routed,-1,all,1,2,2,2,-2,-2,-2,0\n"  /* no fall: 0 */
              "3,e.2,expert_out,add,direction,0,0,2,routed,-1,all,2,-2,-2,-2,5,5,5,0.9\n"
              "4,e.2,expert_out,add,direction,0,0,2,routed,-1,all,3,-9,-9,-9,1,1,1,5\n" /* beyond */
              "5,e.2,expert_out,add,direction,0,0,3,routed,-1,all,3,-9,-9,-9,1,1,1,0\n" /* no route */
              "6,r,expert_out,add,random_direction,1,0,1,routed,-1,all,3,-9,-9,-9,9,9,9,0\n"
              "7,e.2,expert_out,add,direction,0,0,10,routed,-1,all,3,-1,0,0,1,0,0,0\n"
              "8,e.2,expert_out,add,direction,0,0,11,routed,-1,all,3,-3,0,0,0.5,0,0,0\n"
              "9,e.2,expert_out,add,direction,0,0,12,routed,-1,all,3,-0.5,0,0,2,0,0,0\n"
              "10,e.2,expert_out,add,direction,0,0,13,routed,-1,all,3,-6,0,0,3,0,0,0\n"
              "11,e.2,expert_out,add,direction,0,0,14,routed,-1,all,3,-5,0,0,0.1,0,0,0\n"
              "12,e.2,expert_out,add,direction,0,0,15,routed,-1,all,3,-0.25,0,0,0.2,0,0,0\n"
              "13,e.2,expert_out,add,direction,0,0,16,routed,-1,all,3,-2.5,0,0,4,0,0,0\n"),
        COX_OK);
    assert_int_equal(cox_report_cells_read(&report.cells, &csv, NULL, limits), COX_OK);
    const char *first_routes = "layer,expert,top1_difference,top1_low,top1_high\n"
                               "0,0,-3,-3,-3\n0,1,1,1,1\n0,2,2,2,2\n5,0,9,9,9\n";
    assert_int_equal(read_routes(&report.routes, first_routes), COX_OK);
    cox_report_relation relation = cox_report_relate(&report, 0, COX_REPORT_A);
    assert_int_equal(relation.n, 3);
    assert_true(isnan(relation.spearman.value) && isnan(relation.spearman.low)); /* too few to say */
    cox_report_routes_free(&report.routes);
    char routes[1024];
    snprintf(routes, sizeof routes, "%s%s", first_routes,
             "0,10,0.5,0,0\n0,11,-4,0,0\n0,12,2.5,0,0\n0,13,7,0,0\n0,14,6,0,0\n0,15,1.5,0,0\n0,16,8,0,0\n");
    assert_int_equal(read_routes(&report.routes, routes), COX_OK);
    /* numpy.corrcoef of the ranks of 3 1 2 .5 4 2.5 7 6 1.5 8 with those of 4 0 2 1 3 .5 6 5 .25 2.5, and of
     * 0 0 5 1 .5 2 3 .1 .2 4; tanh(atanh(r) -+ z sqrt((1 + r^2 / 2) / 7)) in Python's floats */
    static const double wanted[COX_REPORT_N_SETS][3] = {
        {0.7696969696969697, 0.17437515207494586, 0.9529545395953566},
        {0.2857156055296304, -0.4316064556398903, 0.7816736568851144}};
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        relation = cox_report_relate(&report, 0, set);
        assert_int_equal(relation.n, 10);
        assert_true(fabs(relation.spearman.value - wanted[set][0]) < 1e-12);
        assert_true(fabs(relation.spearman.low - wanted[set][1]) < 1e-12);
        assert_true(fabs(relation.spearman.high - wanted[set][2]) < 1e-12);
    }
    assert_int_equal(cox_report_relate(&report, 1, COX_REPORT_A).n, 0); /* a control */
    cox_report_routes_free(&report.routes);
    cox_report_cells_free(&report.cells);
}

/* --- Words --- */

static char *printed(double value, bool has_sign)
{
    static char text[64];
    FILE *file = fmemopen(text, sizeof text, "w");
    cox_report_print_number(file, value, has_sign);
    fclose(file);
    return text;
}

static void numbers(void **state)
{
    (void)state;
    assert_string_equal(printed(1.25, true), "+1.25");
    assert_string_equal(printed(-12.34, false), "\xe2\x88\x92"
                                                "12.3");
    assert_string_equal(printed(0, true), "0.00");
    assert_string_equal(printed(0.0034, false), "0.003");
    assert_string_equal(printed((double)NAN, true), "not finite");
}

static void escaped(void **state)
{
    (void)state;
    char text[100] = "";
    FILE *file = fmemopen(text, sizeof text, "w");
    cox_xml_print(file, "<b a=\"1\">&\x01\n\xc3\xa9");
    fclose(file);
    assert_string_equal(text, "&lt;b a=&quot;1&quot;&gt;&amp;\xef\xbf\xbd\n\xc3\xa9");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quoted_fields),
        cmocka_unit_test(malformed_csv),
        cmocka_unit_test(places_and_best),
        cmocka_unit_test(draws),
        cmocka_unit_test(pick_by_answers),
        cmocka_unit_test(families),
        cmocka_unit_test(malformed_cells),
        cmocka_unit_test(routes_of_both_kinds),
        cmocka_unit_test(parts_of_both_kinds),
        cmocka_unit_test(correlations),
        cmocka_unit_test(numbers),
        cmocka_unit_test(escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
