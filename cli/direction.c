/* coxswain direction: what sets two sets of prompts apart inside the model. Standard output has a line a
 * vector. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "study/directions.h"

static void print_found(const cox_found_direction *f)
{
    if (!f->is_written) {
        fprintf(stderr, "%s: both classes have the same mean; no vector is written\n", f->name);
        return;
    }
    printf("%-16s norm %.6g, mean on it: a %.6g, b %.6g", f->name, f->norm, f->on_a, f->on_b);
    if (f->share > 0) printf(", %.3g of the squares", f->share);
    printf("\n");
}

/* What it took, and what the way around it would have. */
static void print_cost(const cox_directions *d)
{
    long long n_prompts = (long long)d->classes[0].n + d->classes[1].n;
    for (int c = 0; c < 2 && d->filter; c++) {
        printf("%s: %d of %d prompts pass the filter\n", d->classes[c].path, (int)d->means.n_kept[c],
               (int)d->classes[c].n);
    }
    if (d->question.n_experts == 0) return;
    printf(
        "forward passes: %lld, one for each prompt; forcing the router would take %lld, one for each prompt, "
        "layer and expert\n",
        n_prompts, n_prompts * d->question.n_layers * d->question.n_experts);
}

static cox_status run_directions(cox_directions *directions, const cox_options *options,
                                 const cox_run_options *of_run)
{
    cox_run run;
    cox_status status = cox_run_open(&run, of_run);
    if (status != COX_OK) return status;
    status = cox_directions_compute(directions, &run);
    bool is_front = status == COX_OK && cox_run_is_front(&run);
    for (size_t i = 0; i < directions->n_found && is_front; i++) print_found(&directions->found[i]);
    if (is_front) print_cost(directions);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}

cox_status cox_command_direction(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    const cox_directions_options asked = {.prompts = {options->prompts_a, options->prompts_b},
                                          .limit = options->limit,
                                          .output = options->output,
                                          .has_force = options->has_force,
                                          .site = options->site,
                                          .layer = options->layer,
                                          .expert = options->expert,
                                          .position = options->position,
                                          .is_principal = strcmp(options->method, "pc1") == 0,
                                          .is_unit = options->is_unit,
                                          .filter_tokens = options->filter_tokens,
                                          .filter_phrases = options->filter_phrases.items,
                                          .n_filter_phrases = options->filter_phrases.n,
                                          .filter_rules = options->filter_rules};
    cox_directions *directions = NULL;
    cox_status status = cox_directions_create(&directions, &asked);
    if (status == COX_OK) status = cox_prompting_check(&of_run.prompting);
    if (status == COX_OK) status = run_directions(directions, options, &of_run);
    cox_directions_destroy(directions);
    return status;
}
