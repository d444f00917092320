/*
 * Sets of prompts: a file with one JSON object a line, as token ids. A line is {"prompt": "text"},
 * {"messages":
 * [...]} (other keys of these two are the user's own), or a line of an OpenAI batch file, of which only the
 * prompt counts. Commands that study what a model does with two sets of prompts read them with this.
 */
#ifndef COX_CLI_PROMPTS_H
#define COX_CLI_PROMPTS_H

#include "cli/options.h"
#include "cluster/cluster.h"
#include "model/chat_template.h"
#include "model/model.h"

/* For messages. */
#define COX_PROMPT_FORM "{\"prompt\": \"...\"}, {\"messages\": [...]} or as `batch` reads it"

typedef struct cox_prompts {
    const char *path; /* borrowed */
    int32_t n;
    int32_t *lines;  /* [n] line of each in the file, from 1 */
    size_t *offsets; /* [n+1] into tokens */
    int32_t *tokens;
    size_t n_tokens;
    char sha256[65]; /* of the file's bytes, hex */
} cox_prompts;

/* The checkpoint's chat template, or --template's, with --date set. [out] owned by the caller
 * (cox_chat_template_destroy), also on failure. Errors: of cox_chat_template_load; INVALID (--date is no
 * date). */
cox_status cox_prompts_load_template(cox_chat_template **chat_template, const cox_options *options);

/* --raw goes with neither --system nor --template. Errors: INVALID. */
cox_status cox_prompts_check_options(const cox_options *options);

/*
 * Reads options->limit prompts at most (0: all) of each of n files, through the chat template (options->
 * template_name, system, is_raw as in generate). [out] prompts: [n], freed by the caller also on failure.
 * Errors, naming file and line: NOT_FOUND, IO, BAD_FILE, INVALID (no prompts), UNSUPPORTED, TOO_LONG (beyond
 * the model's context), NO_MEMORY. Not collective.
 */
cox_status cox_prompts_read(cox_prompts *prompts, const char *const *paths, size_t n,
                            const cox_options *options, const cox_model *model, cox_cluster *cluster);
void cox_prompts_free(cox_prompts *prompts);

#endif
