/*
 * How prompts become what a model reads, for all commands: the options of chat templates, and sets of
 * prompts, a file with one JSON object a line, as token ids. A line is {"prompt": "text"}, {"messages":
 * [...]} (with "tools", "documents", "chat_template_kwargs" if need be; other keys of these two are the
 * user's own), or a line of an OpenAI batch file, of which only the prompt counts.
 */
#ifndef COX_CLI_PROMPTS_H
#define COX_CLI_PROMPTS_H

#include "run/run.h"
#include "model/chat_template.h"
#include "proto/request.h"

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

/* The options that say how chats become prompts. */

/* --raw goes with no other of them; the date, the kwargs and the template's name are what they should be.
 * Errors: INVALID. */
cox_status cox_prompts_check_options(const cox_options *options);

/* The checkpoint's chat template, or --template's, with --template-kwargs and --date. process: NULL, or
 * outliving it. [out] owned by the caller (cox_chat_template_destroy), also on failure. Errors: of
 * cox_chat_template_load. */
cox_status cox_prompts_load_template(cox_chat_template **chat_template, const cox_options *options,
                                     cox_chat_process *process);

/* A user's prompt as a request: a chat, with --system's message before it, or with --raw plain. Errors:
 * INVALID (not UTF-8), NO_MEMORY. */
cox_status cox_prompts_make_request(cox_request *request, const cox_options *options, const char *prompt);

/* What --system and --raw mean for a request that brings its own messages; any other is left alone. Errors,
 * where in front: INVALID (it has a system message of its own; or it is a chat and --raw is given),
 * NO_MEMORY. */
cox_status cox_prompts_apply_options(cox_request *request, const cox_options *options, const char *where);

/*
 * Reads --limit prompts at most (0: all) of each of n files, through the chat template. [out] prompts: [n],
 * freed by the caller also on failure. Errors, naming file and line: NOT_FOUND, IO, BAD_FILE, INVALID (no
 * prompts), UNSUPPORTED, TOO_LONG (beyond the model's context), NO_MEMORY. Not collective.
 */
cox_status cox_prompts_read(cox_prompts *prompts, const char *const *paths, size_t n, const cox_run *run);
void cox_prompts_free(cox_prompts *prompts);

#endif
