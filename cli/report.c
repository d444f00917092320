/* coxswain report: one HTML page from the files of a sweep and what stands beside it. */
#include "cli/commands.h"
#include "report/report_files.h"
#include "report/report_paths.h"
#include "run/outputs.h"

static void print_page(FILE *file, const void *context)
{
    cox_report_print(file, context);
}

static void print_csv(FILE *file, const void *context)
{
    cox_report_print_csv(file, context);
}

static cox_status write_page(const cox_report *report, const cox_options *o)
{
    cox_report shown;
    cox_status status = cox_report_paths_shown(&shown, report, o->output, o->sweep);
    if (status == COX_OK) status = cox_output_write("--output", o->output, print_page, &shown);
    cox_report_paths_release(&shown);
    return status;
}

cox_status cox_command_report(const cox_options *options)
{
    const cox_report_options asked = {.sweep = options->sweep,
                                      .controls = options->controls,
                                      .routes = options->routes,
                                      .decomposition = options->decomposition,
                                      .heldout = options->heldout,
                                      .prompts = {options->prompts_a, options->prompts_b},
                                      .title = options->title,
                                      .top = options->top};
    cox_report_files *files = NULL;
    cox_status status = cox_output_check("--output", options->output, options->has_force);
    if (status == COX_OK) status = cox_output_check("--csv", options->csv, options->has_force);
    if (status == COX_OK) status = cox_report_files_read(&files, &asked);
    if (status == COX_OK) status = write_page(cox_report_of(files), options);
    if (status == COX_OK) status = cox_output_write("--csv", options->csv, print_csv, cox_report_of(files));
    if (status == COX_OK && options->is_json) status = cox_output_json(cox_report_json(cox_report_of(files)));
    cox_report_files_free(files);
    return status;
}
