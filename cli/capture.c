/* coxswain capture: what flows through the model at chosen sites, into a folder. */
#include <stdio.h>

#include "cli/commands.h"
#include "study/capture.h"

static void print(const cox_options *options, const cox_captured *captured)
{
    printf("%s: %lld rows of %d prompts, %d sites of layers", options->output, (long long)captured->n_rows,
           (int)captured->n_prompts, (int)captured->n_columns);
    if (captured->n_shards) printf(", %d shards", (int)captured->n_shards);
    printf("\n");
}

static cox_status run_capture(cox_capture *capture, const cox_options *options, const cox_run_options *of_run)
{
    cox_run run;
    cox_captured captured;
    cox_status status = cox_run_open(&run, of_run);
    if (status != COX_OK) return status;
    status = cox_capture_compute(capture, &run, &captured);
    if (status == COX_OK && cox_run_is_front(&run)) print(options, &captured);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}

cox_status cox_command_capture(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    const cox_capture_options asked = {.inputs = options->inputs.items,
                                       .n_inputs = options->inputs.n,
                                       .limit = options->limit,
                                       .output = options->output,
                                       .has_force = options->has_force,
                                       .sites = options->sites,
                                       .layers = options->layers,
                                       .experts = options->experts,
                                       .positions = options->positions,
                                       .is_counterfactual = options->is_counterfactual,
                                       .has_routes = options->has_routes,
                                       .has_statistics = options->has_statistics};
    cox_capture *capture = NULL;
    cox_status status = cox_prompting_check(&of_run.prompting);
    if (status == COX_OK) status = cox_capture_create(&capture, &asked);
    if (status == COX_OK) status = run_capture(capture, options, &of_run);
    cox_capture_destroy(capture);
    return status;
}
