/* Any bytes as each of the files that a report reads: an error, or a page, a table and JSON of them. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/report.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char one_cell[] = "cell,block,site,op,control,seed,layer,expert,weighting,source,positions,"
                                   "strength,change_a,change_a_low,"
                                   "change_a_high,change_b,change_b_low,change_b_high,kl\n"
                                   "0,e,expert_out,add,direction,0,1,2,routed,-1,all,1,-1,-2,0,1,0,2,0.5\n";
    const double max_kl[COX_REPORT_N_SETS] = {1, (double)INFINITY};
    json_t *run = json_object(), *best = json_pack("{s:{}}", "clean");
    cox_report report = {.title = "fuzz", .run = run, .best = best, .n_rows = 20};
    cox_csv table;
    cox_status status = parse(&table, data, size);
    if (status == COX_OK) status = cox_report_cells_read(&report.cells, &table, NULL, max_kl);
    if (status != COX_OK) {
        if (parse(&table, (const uint8_t *)one_cell, sizeof one_cell - 1) != COX_OK) abort();
        if (cox_report_cells_read(&report.cells, &table, NULL, max_kl) != COX_OK) abort();
    }
    if (parse(&table, data, size) == COX_OK) (void)cox_report_rates_read(&report.rates, &table);
    if (parse(&table, data, size) == COX_OK) (void)cox_report_heldouts_read(&report.heldouts, &table);
    (void)cox_report_routes_read(&report.routes, copy_of(data, size), size, "fuzz");
    (void)cox_report_parts_read(&report.parts, copy_of(data, size), size, "fuzz");
    (void)cox_report_heldouts_check(&report);
    print(&report);
    cox_report_cells_free(&report.cells);
    cox_report_rates_free(&report.rates);
    cox_report_heldouts_free(&report.heldouts);
    cox_report_routes_free(&report.routes);
    cox_report_parts_free(&report.parts);
    json_decref(run);
    json_decref(best);
    return 0;
}
