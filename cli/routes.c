/* coxswain routes: of each expert, how often the tokens of one set of prompts are routed to it more than
 * another's. */
#include "cli/commands.h"
#include "cli/routes_print.h"
#include "run/outputs.h"

static cox_status check_options(const cox_run *run, const cox_options *options)
{
    cox_status status = cox_prompting_check(&run->options.prompting);
    if (status == COX_OK) status = cox_output_check("--csv", options->csv, options->has_force);
    return status == COX_OK ? cox_output_check("--plot", options->plot, options->has_force) : status;
}

cox_status cox_command_routes(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    const cox_routes_options asked = {.prompts = {options->prompts_a, options->prompts_b},
                                      .limit = options->limit,
                                      .last = options->last,
                                      .seed = options->seed,
                                      .resamples = options->resamples};
    cox_run run;
    cox_routes routes = {0};
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    bool is_front = cox_run_is_front(&run);
    status = cox_run_agree(&run, is_front ? check_options(&run, options) : COX_OK);
    if (status == COX_OK) status = cox_routes_measure(&run, &asked, &routes);
    if (status == COX_OK)
        status = cox_run_agree(&run, is_front ? cox_routes_print(&routes, &run.options, options) : COX_OK);
    cox_routes_free(&routes);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}
