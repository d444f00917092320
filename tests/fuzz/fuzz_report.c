/* Any bytes as one of the files that a report reads, named by the first byte ('0' to '5', as in the enum
 * below): an error, or a page, a table and JSON of it. A page costs much more than an error, so nothing else
 * is printed. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "report/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *copy_of(const uint8_t *data, size_t size)
{
    char *text = calloc(size + 1, 1);
    if (!text) abort();
    if (size > 0) memcpy(text, data, size);
    return text;
}

static cox_status parse(cox_csv *table, const uint8_t *data, size_t size)
{
    return cox_csv_parse(table, copy_of(data, size), size, "fuzz");
}

static void print(const cox_report *report)
{
    char *text = NULL;
    size_t n = 0;
    FILE *file = open_memstream(&text, &n);
    if (!file) abort();
    cox_report_print(file, report);
    cox_report_print_csv(file, report);
    if (fclose(file) != 0 || !strstr(text, "</html>")) abort();
    free(text);
    json_t *json = cox_report_json(report);
    if (!json) abort();
    json_decref(json);
}

enum { CELLS, RATES, HELDOUTS, ROUTES, PARTS, ABOUT, N_FILES };

/* What cli/report.c reads of a sweep's JSON files, in one object. */
static cox_status read_about(json_t **about, const uint8_t *data, size_t size)
{
    cox_status status = cox_json_load_text(about, (const char *)data, size, "fuzz");
    bool is_whole = json_is_object(json_object_get(*about, "run")) &&
                    json_is_object(json_object_get(json_object_get(*about, "best"), "clean"));
    return status == COX_OK && !is_whole ? COX_BAD_FILE : status;
}

static cox_status read_cells(cox_report *report, cox_csv *table)
{
    const double max_kl[COX_REPORT_N_SETS] = {1, (double)INFINITY};
    return cox_report_cells_read(&report->cells, table, json_object_get(report->run, "grid"), max_kl);
}

static cox_status read_file(cox_report *report, int which, const uint8_t *data, size_t size)
{
    if (which == ROUTES) return cox_report_routes_read(&report->routes, copy_of(data, size), size, "fuzz");
    if (which == PARTS) return cox_report_parts_read(&report->parts, copy_of(data, size), size, "fuzz");
    cox_csv table;
    cox_status status = parse(&table, data, size);
    if (status != COX_OK) return status;
    if (which == RATES) return cox_report_rates_read(&report->rates, &table);
    if (which == HELDOUTS) return cox_report_heldouts_read(&report->heldouts, &table);
    return read_cells(report, &table);
}

/* A report cannot be without cells. */
static void read_one_cell(cox_report *report)
{
    static const char text[] = "cell,block,site,op,control,seed,layer,expert,weighting,source,positions,"
                               "strength,change_a,change_a_low,"
                               "change_a_high,change_b,change_b_low,change_b_high,kl\n"
                               "0,e,expert_out,add,direction,0,1,2,routed,-1,all,1,-1,-2,0,1,0,2,0.5\n";
    cox_csv table;
    if (parse(&table, (const uint8_t *)text, sizeof text - 1) != COX_OK) abort();
    if (read_cells(report, &table) != COX_OK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    int which = (uint8_t)(data[0] - '0') % N_FILES;
    cox_report report = {.title = "fuzz", .n_rows = 20};
    json_t *about = NULL;
    cox_status status = which == ABOUT ? read_about(&about, data + 1, size - 1)
                                       : read_file(&report, which, data + 1, size - 1);
    if (status == COX_OK) {
        if (!about) about = json_pack("{s:{}, s:{s:{}}}", "run", "best", "clean");
        report.run = json_object_get(about, "run");
        report.best = json_object_get(about, "best");
        report.answers = json_object_get(about, "answers");
        for (int set = 0; set < COX_REPORT_N_SETS; set++)
            report.prompts[set] = json_object_get(about, set ? "prompts_b" : "prompts_a");
        if (which != CELLS) read_one_cell(&report);
        (void)cox_report_heldouts_check(&report);
        print(&report);
    }
    json_decref(about);
    cox_report_cells_free(&report.cells);
    cox_report_rates_free(&report.rates);
    cox_report_heldouts_free(&report.heldouts);
    cox_report_routes_free(&report.routes);
    cox_report_parts_free(&report.parts);
    return 0;
}
