/*
 * coxswain evaluate: answers of a batch judged by rules, beside those of another run; and what a model's
 * logits say about prompts with and without a plan. Without --model nothing is computed and no rank started.
 */
#include "cli/commands.h"
#include "cli/evaluate_print.h"
#include "run/outputs.h"

static cox_status check_options(const cox_options *o)
{
    const cox_prompting prompting = cox_options_of_prompting(o);
    if (!o->results && !o->model)
        return cox_fail(COX_INVALID, "give --results FILE, --model DIR with --prompts FILE, or both");
    if (o->model && o->prompt_files.n == 0)
        return cox_fail(COX_INVALID, "--model needs --prompts: what it is to be evaluated on");
    if (o->results && !o->rules) return cox_fail(COX_INVALID, "--results needs --rules to judge them by");
    if (o->baseline && !o->results)
        return cox_fail(COX_INVALID, "--baseline is for comparing with --results, which is missing");
    if (!o->model && (o->plan || o->continuations))
        return cox_fail(COX_INVALID, "%s needs --model", o->plan ? "--steer" : "--continuations");
    if (o->by && o->prompt_files.n == 0)
        return cox_fail(COX_INVALID, "--by needs --prompts, whose lines have the field");
    cox_status status = cox_prompting_check(&prompting);
    if (status == COX_OK) status = cox_output_check("--csv", o->csv, o->has_force);
    return status == COX_OK ? cox_output_check("--items", o->items, o->has_force) : status;
}

static cox_status finish(cox_evaluation *e, const cox_options *options)
{
    cox_status status = cox_evaluation_judge(e);
    if (status == COX_OK && e->n_measures == 0)
        status =
            cox_fail(COX_INVALID, "there is nothing to measure: give --rules with \"first_tokens\", a plan "
                                  "(--steer), or prompts with answers");
    if (status == COX_OK && e->options->plan && e->n_rows_steered == 0)
        fputs("coxswain evaluate: the plan touched no row of any prompt\n", stderr);
    return status == COX_OK ? cox_evaluation_print(e, options) : status;
}

static cox_status run_model(cox_evaluation *e, const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    cox_run run;
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    bool is_front = cox_run_is_front(&run);
    e->cluster = run.cluster;
    status = cox_run_agree(&run, is_front ? check_options(options) : COX_OK);
    if (status == COX_OK) status = cox_evaluation_compute(e, &run);
    if (status == COX_OK) status = cox_run_agree(&run, is_front ? finish(e, options) : COX_OK);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}

static cox_status run_alone(cox_evaluation *e, const cox_options *options)
{
    cox_status status = check_options(options);
    if (status == COX_OK) status = cox_evaluation_read(e);
    return status == COX_OK ? finish(e, options) : status;
}

cox_status cox_command_evaluate(const cox_options *options)
{
    const cox_evaluate_options asked = {.rules = options->rules,
                                        .results = options->results,
                                        .baseline = options->baseline,
                                        .continuations = options->continuations,
                                        .prompts = options->prompt_files.items,
                                        .n_prompts = options->prompt_files.n,
                                        .plan = options->plan,
                                        .forces_steering = options->forces_steering,
                                        .limit = options->limit};
    cox_evaluation e = {.options = &asked};
    cox_status status = options->model ? run_model(&e, options) : run_alone(&e, options);
    cox_evaluation_release(&e);
    return status;
}
