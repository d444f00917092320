/* coxswain sweep: a grid of plans over two sets of prompts; tables and answers in a folder. */
#include "cli/sweep.h"

#include <stdio.h>

#include "cli/commands.h"

cox_sweep_options cox_options_of_sweep(const cox_options *options)
{
    return (cox_sweep_options){.grid = options->grid,
                               .rules = options->rules,
                               .prompts = {options->prompts_a, options->prompts_b},
                               .neutral = options->neutral,
                               .limit = options->limit,
                               .output = options->output,
                               .begins_anew = options->has_force,
                               .forces_steering = options->forces_steering,
                               .wants_digest = options->wants_digest,
                               .n_best = options->n_best,
                               .max_tokens = options->max_tokens,
                               .max_kl = options->max_kl};
}

static cox_status print_plan(json_t *plan)
{
    if (!plan) return COX_OK;
    json_dumpf(plan, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(plan);
    return fputc('\n', stdout) == EOF ? cox_fail(COX_IO, "standard output: cannot write") : COX_OK;
}

static void print_notes(const cox_run *run, const cox_swept *swept)
{
    if (swept->has_answers && run->model->eos_note) fprintf(stderr, "sweep: %s\n", run->model->eos_note);
    if (swept->times_computed <= 1.05) return;
    fprintf(stderr,
            "sweep: the KV cache does not hold all prompts, so %.1f times the rows were computed that had to "
            "be; a larger --kv-memory makes this faster\n",
            swept->times_computed);
}

cox_status cox_command_sweep(const cox_options *options)
{
    cox_run_options of_run = cox_options_of_run(options);
    const cox_sweep_options asked = cox_options_of_sweep(options);
    cox_sweep_prepare_run(&of_run);
    cox_run run;
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    if (options->shown_cell >= 0) {
        json_t *plan = NULL;
        status = cox_sweep_show(&run, &asked, options->shown_cell, &plan);
        if (status == COX_OK) status = cox_run_agree(&run, print_plan(plan));
    } else {
        cox_swept swept = {0};
        status = cox_sweep_run(&run, &asked, &swept);
        if (cox_run_is_front(&run)) print_notes(&run, &swept);
    }
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}
