/*
 * Every option of every command, in one table (option_table.c): parsing, checking, defaults and --help come
 * from it. This is the only place that reads the command line.
 */
#ifndef COX_CLI_OPTIONS_H
#define COX_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "cli/command_list.h"
#include "run/options.h"

/* Values of one option that may be given several times. */
typedef struct cox_texts {
    const char **items; /* [n], borrowed from argv */
    size_t n;
} cox_texts;

typedef struct cox_options {
    cox_command command;
    bool has_help;
    /* the model and the ranks */
    const char *model;
    int64_t ranks;   /* 0: as launched, or 1 */
    int64_t n_nodes; /* of inspect; 0: no sums of nodes */
    bool lists_ranks;
    int64_t threads, coordinators;
    const char *experts_on, *placement, *exchange, *kernel;
    int64_t prefill_chunk, micro_batches; /* micro_batches 0: chosen by the number of ranks */
    uint64_t kv_memory_bytes;             /* 0: the engine's choice */
    uint64_t residual_memory_bytes;       /* UINT64_MAX: the engine's choice */
    /* what to generate */
    cox_texts prompts, prompt_files, stops, plans;
    const char *system, *template_name;   /* a name or a file */
    const char *template_kwargs, *python; /* JSON; what renders templates, NULL: the default */
    const char *date;                     /* for templates that tell it: "2026-11-24"; NULL: today */
    bool is_raw, ignores_eos, wants_digest;
    bool uses_generation_config;
    int64_t max_tokens, top_k, logprobs, seed;
    int64_t drain_time_s;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    const char *logit_bias; /* JSON */
    /* prompt sets and what to measure on them */
    const char *prompts_a, *prompts_b, *site, *layer, *expert, *position, *method;
    const char *filter_tokens, *filter_rules;
    cox_texts filter_phrases;
    /* what to capture */
    cox_texts inputs;
    const char *sites, *layers, *experts, *positions;
    bool is_counterfactual, has_routes, has_statistics;
    int64_t limit; /* prompts of each set; 0: all */
    bool is_unit;
    /* a sweep */
    const char *grid, *neutral;
    int64_t n_best, shown_cell; /* shown_cell -1: none */
    double max_kl;
    int64_t last, top, resamples; /* tokens of a prompt, rows of a table, bootstrap samples */
    const char *measure, *vector, *effects;
    /* input and output */
    const char *input, *output, *tokens, *tokens_file, *plan, *trace_folder;
    const char *csv, *plot, *items;
    /* what to report */
    const char *sweep, *controls, *routes, *decomposition, *heldout, *title;
    /* what to judge */
    const char *rules, *results, *baseline, *continuations, *by;
    bool forces_steering, has_force, is_json, has_stats, is_decode, is_chat;
    const char *conversations;
    const char *progress;
    /* vectors */
    cox_texts plain; /* arguments without a name: a subcommand and files */
    struct {
        const char *site, *operation, *weighting, *name;
        int64_t layer, expert; /* -1: not stated */
    } facts;
    const char *model_hint, *like;
    cox_texts without;
    bool is_mean;
    /* bench */
    bool has_steer_mix, has_sweep_bench; /* and is_chat */
    int64_t n_cells;                     /* of a sweep, to be run one by one */
    int64_t n_requests, n_prompt_tokens, n_new_tokens, n_rounds;
    double relative_norm;
    uint64_t given[4]; /* rows of the table of options that the command line has, a bit each */
} cox_options;

/* Fills *options with the defaults of a command. */
void cox_options_defaults(cox_options *options, cox_command command);

/*
 * argv[0..argc-1]: the arguments behind the command's name. Values are borrowed from argv. [in/out] *options.
 * With --help nothing is required. Errors: INVALID (names the option, what was given and what is allowed),
 * NO_MEMORY.
 */
cox_status cox_options_parse(cox_options *options, int argc, char *const argv[]);
void cox_options_free(cox_options *options);

/* Does the command line have this option of the command ("--top-k")? */
bool cox_options_is_given(const cox_options *options, const char *name);

/* Refuses (INVALID, naming both) an output file that exists and is one of the files that the command reads,
 * the model's included: --force is no leave to destroy them. */
cox_status cox_options_check_files(const cox_options *options);
/* The same for one --output, of one file that is read and of those of a model (its folder; NULL: none). */
cox_status cox_options_check_output(const char *output, const char *input, const char *model);

/* What they say of the run itself. */
cox_run_options cox_options_of_run(const cox_options *options);
/* Of how prompts become tokens alone, for commands that open no run. */
cox_prompting cox_options_of_prompting(const cox_options *options);

/* The help text of a command, from the table. */
void cox_options_print_help(cox_command command, FILE *file);

#endif
