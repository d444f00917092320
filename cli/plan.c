/* coxswain plan check: what a plan does, where, on which ranks; or why it cannot. From headers alone, without
 * MPI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "cli/commands.h"
#include "run/run.h"
#include "steering/plan.h"

static int32_t hosts_of(void *context, int32_t layer, int32_t expert, const int32_t **ranks)
{
    return cox_placement_hosts(context, layer, (cox_expert_id){expert}, ranks);
}

static cox_status explain(const cox_plan *plan, const cox_model *model, const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    cox_layout layout;
    cox_placement *placement = NULL;
    char *text = NULL;
    cox_status status =
        cox_layout_make(&layout, &of_run, options->ranks > 0 ? (int32_t)options->ranks : 1, 1);
    if (status == COX_OK) status = cox_run_read_placement(&placement, model, &layout, options->placement);
    if (status == COX_OK) status = cox_plan_explain(plan, model, hosts_of, placement, &text);
    if (status == COX_OK) fputs(text, stdout);
    free(text);
    cox_placement_destroy(placement);
    return status;
}

static cox_status check(const cox_options *options)
{
    cox_model *model = NULL;
    cox_plan *plan = NULL;
    char fingerprint[65];
    cox_status status = cox_model_open(&model, options->model);
    if (status == COX_OK) status = cox_tokenizer_fingerprint(options->model, fingerprint);
    if (status == COX_OK) {
        status = cox_plan_load(&plan, options->plain.items[1], model, fingerprint, options->forces_steering);
    }
    if (status == COX_OK && plan->note) fprintf(stderr, "warning: %s\n", plan->note);
    if (status == COX_OK) status = explain(plan, model, options);
    cox_plan_free(plan);
    cox_model_close(model);
    return status;
}

cox_status cox_command_plan(const cox_options *options)
{
    const cox_texts *plain = &options->plain;
    if (plain->n > 0 && strcmp(plain->items[0], "check") != 0) {
        cox_nearest nearest = cox_nearest_to(plain->items[0], strlen(plain->items[0]));
        cox_nearest_offer_words(&nearest, "check", " ");
        return cox_fail(COX_INVALID, "\"%s\" is not check%s (see coxswain plan --help)", plain->items[0],
                        nearest.hint);
    }
    if (plain->n != 2 || !options->model) {
        return cox_fail(COX_INVALID,
                        "usage: coxswain plan check --model DIR PLAN.json (see coxswain plan --help)");
    }
    return check(options);
}
