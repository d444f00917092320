/* coxswain plan check: what a plan does, where, on which ranks; or why it cannot. From headers alone, without
 * MPI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "run/run.h"
#include "steering/plan.h"

static const char help[] =
    "Usage: coxswain plan check --model DIR PLAN.json [--ranks N] [--coordinators N] [--experts-on "
    "workers|all]\n"
    "                           [--placement FILE] [--force-steering]\n\n"
    "Says in words what the plan does on this model, and on which ranks; ends with an error that names the "
    "intervention\n"
    "when it is not valid. --force-steering (here also --force) accepts vectors that were made for another "
    "model or tokenizer.\n";

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

/* By the name that runs use, or, since nothing else is forced here, the short one. */
static bool is_forced(const cox_arguments *arguments)
{
    return cox_arguments_get(arguments, "--force-steering") || cox_arguments_get(arguments, "--force");
}

static cox_status check(const cox_arguments *arguments, const cox_options *options)
{
    cox_model *model = NULL;
    cox_plan *plan = NULL;
    char fingerprint[65];
    cox_status status = cox_model_open(&model, options->model);
    if (status == COX_OK) status = cox_tokenizer_fingerprint(options->model, fingerprint);
    if (status == COX_OK) {
        status = cox_plan_load(&plan, arguments->plain[1], model, fingerprint, is_forced(arguments));
    }
    if (status == COX_OK) status = explain(plan, model, options);
    cox_plan_free(plan);
    cox_model_close(model);
    return status;
}

cox_status cox_command_plan(int argc, char *const argv[])
{
    if (argc > 0 && strcmp(argv[argc - 1], "--help") == 0) {
        fputs(help, stdout);
        return COX_OK;
    }
    cox_arguments arguments;
    cox_status status = cox_arguments_parse(
        &arguments, argc, argv,
        "--model --ranks --coordinators --experts-on --placement --force-steering! --force!");
    if (status != COX_OK) return status;
    if (arguments.n_plain > 0 && strcmp(arguments.plain[0], "check") != 0) {
        cox_nearest nearest = cox_nearest_to(arguments.plain[0], strlen(arguments.plain[0]));
        cox_nearest_offer_words(&nearest, "check", " ");
        return cox_fail(COX_INVALID, "\"%s\" is not check%s (see coxswain plan --help)", arguments.plain[0],
                        nearest.hint);
    }
    if (arguments.n_plain != 2 || !cox_arguments_get(&arguments, "--model")) {
        return cox_fail(COX_INVALID,
                        "usage: coxswain plan check --model DIR PLAN.json (see coxswain plan --help)");
    }
    char *shared[COX_MAX_ARGUMENTS * 2]; /* what inspect takes too, read by its table */
    int n_shared = 0;
    for (int i = 0; i < argc; i++) {
        if (argv[i] == arguments.plain[0] || argv[i] == arguments.plain[1] ||
            strncmp(argv[i], "--force", 7) == 0)
            continue;
        shared[n_shared++] = argv[i];
    }
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_INSPECT);
    status = cox_options_parse(&options, n_shared, shared);
    if (status == COX_OK) status = check(&arguments, &options);
    cox_options_free(&options);
    return status;
}
