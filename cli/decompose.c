/* coxswain decompose: how much of a direction of the residual stream attention and each expert write. */
#include <string.h>

#include "cli/commands.h"
#include "cli/decompose_print.h"
#include "run/outputs.h"

static cox_decompose_effects effects_of(const char *name)
{
    if (!name) return COX_EFFECTS_NONE;
    return strcmp(name, "layers") == 0 ? COX_EFFECTS_LAYERS : COX_EFFECTS_EXPERTS;
}

static cox_status check_options(const cox_run *run, const cox_options *options)
{
    cox_status status = cox_prompting_check(&run->options.prompting);
    return status == COX_OK ? cox_output_check("--csv", options->csv, options->has_force) : status;
}

cox_status cox_command_decompose(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    const cox_decompose_options asked = {.vector = options->vector,
                                         .forces_steering = options->forces_steering,
                                         .layer = options->layer,
                                         .position = options->position,
                                         .effects = effects_of(options->effects),
                                         .rules = options->rules,
                                         .prompts = {options->prompts_a, options->prompts_b},
                                         .limit = options->limit,
                                         .seed = options->seed,
                                         .resamples = options->resamples};
    cox_run run;
    cox_decomposition found = {0};
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    bool is_front = cox_run_is_front(&run);
    status = cox_run_agree(&run, is_front ? check_options(&run, options) : COX_OK);
    if (status == COX_OK) status = cox_decompose(&run, &asked, &found);
    if (status == COX_OK) {
        status =
            cox_run_agree(&run, is_front ? cox_decomposition_print(&found, &run.options, options) : COX_OK);
    }
    cox_decomposition_free(&found);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}
