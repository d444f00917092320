/*
 * coxswain: the program. Finds the command, reads its options, starts itself under mpirun when several ranks
 * are asked for and nobody has started them yet, runs the command, prints its error, and ends with its
 * status' exit code.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "run/run.h"
#include "cluster/cluster.h"
#include "cluster/drain.h"

/* From the last step of a job that drains to the end of its processes. */
static const double DRAIN_END_S = 10;

static void print_usage(FILE *file)
{
    fputs("Usage: coxswain COMMAND [options]\n\n"
          "Runs Mixture-of-Experts language models over MPI ranks.\n\nCommands:\n",
          file);
    cox_command_print_list(file);
    fputs("\ncoxswain COMMAND --help describes a command; coxswain --version [--json] names build, commit "
          "and CPU.\n",
          file);
}

static int finish(const char *name, cox_status status)
{
    char who[64];
    snprintf(who, sizeof who, "coxswain%s%s", *name ? " " : "", name);
    return cox_launch_end(who, status);
}

/* Whether the model can be spread over so many ranks, before they are all started. A model that cannot be
 * opened here is the ranks' to complain about: they may see another folder. */
static cox_status check_ranks(const cox_options *options)
{
    const cox_run_options of_run = cox_options_of_run(options);
    cox_layout layout;
    cox_model *model = NULL;
    cox_placement *placement = NULL;
    cox_status status = cox_layout_make(&layout, &of_run, (int32_t)options->ranks, 1);
    if (status != COX_OK || !options->model || cox_model_open(&model, options->model) != COX_OK)
        return status;
    status = cox_run_read_placement(&placement, model, &layout, options->placement);
    cox_placement_destroy(placement);
    cox_model_close(model);
    return status;
}

/* The same command under mpirun. Only this process sees the terminal, so it settles how progress is shown. */
static cox_status launch(const cox_options *options, int argc, char *argv[], int *exit_code)
{
    bool is_auto = strcmp(options->progress, "auto") == 0;
    char **arguments = calloc((size_t)argc + 3, sizeof *arguments);
    if (!arguments) return cox_no_memory("the arguments of the ranks");
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    char name[] = "--progress", bar[] = "bar", log[] = "log";
    int n = argc;
    bool says_auto = false;
    for (int i = 2; i < argc; i++) says_auto = says_auto || strncmp(argv[i], name, sizeof name - 1) == 0;
    if (is_auto && !says_auto) {
        arguments[n++] = name;
        arguments[n++] = isatty(STDERR_FILENO) ? bar : log;
    }
    double drain_s = cox_command_drains(options->command) ? (double)options->drain_time_s + DRAIN_END_S : 0;
    cox_status status = cox_launch((int32_t)options->ranks, drain_s, n, arguments, exit_code);
    free(arguments);
    return status;
}

static cox_status run(const cox_options *options, int argc, char *argv[], int *exit_code)
{
    bool is_local = cox_command_is_local(options);
    if (cox_command_drains(options->command)) cox_drain_listen();
    if (!is_local && options->ranks > 1 && !cox_launch_is_inside()) {
        cox_status status = check_ranks(options);
        return status == COX_OK ? launch(options, argc, argv, exit_code) : status;
    }
    if (!is_local) {
        cox_status status = cox_launch_prepare_environment((int32_t)options->threads, argv);
        if (status != COX_OK) return status;
    }
    return cox_command_run(options);
}

static cox_status unknown_command(const char *name)
{
    if (!*name) return cox_fail(COX_INVALID, "no command given; see coxswain --help");
    cox_nearest nearest = cox_nearest_to(name, strlen(name));
    cox_command_offer(&nearest);
    cox_nearest_offer_words(&nearest, "--help --version", " ");
    return cox_fail(COX_INVALID, "\"%s\" is not a command; see coxswain --help%s", name, nearest.hint);
}

int main(int argc, char *argv[])
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_usage(stdout);
        return finish("", COX_OK);
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        bool is_json = argc == 3 && strcmp(argv[2], "--json") == 0;
        if (argc > 2 && !is_json) return finish("", cox_fail(COX_INVALID, "--version takes only --json"));
        return finish("", cox_command_version(is_json));
    }
    cox_command command = cox_command_find(name);
    if (command == COX_COMMAND_NONE) return finish("", unknown_command(name));
    cox_options options;
    cox_options_defaults(&options, command);
    cox_status status = cox_options_parse(&options, argc - 2, argv + 2);
    if (status == COX_OK && !options.has_help) status = cox_options_check_files(&options);
    if (status != COX_OK) {
        cox_fail(status, "%s (see coxswain %s --help)", cox_status_message(), name);
    } else if (options.has_help) {
        cox_options_print_help(options.command, stdout);
    } else {
        int exit_code = 0;
        status = run(&options, argc, argv, &exit_code);
        if (status == COX_OK && exit_code != 0) {
            cox_options_free(&options);
            return exit_code; /* the ranks have said why */
        }
    }
    cox_options_free(&options);
    return finish(name, status);
}
