/*
 * Sets of prompts, a file with one JSON object a line, as token ids. A line is {"prompt": "text"},
 * {"messages":
 * [...]} (with "tools", "documents", "chat_template_kwargs" if need be; other keys of these two are the
 * user's own), or a line of an OpenAI batch file, of which only the prompt counts.
 */
#ifndef COX_STUDY_PROMPTS_H
#define COX_STUDY_PROMPTS_H

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

/*
 * Reads `limit` prompts at most (0: all) of each of n files, as the run's prompting says. [out] prompts: [n],
 * freed by the caller also on failure. Errors, naming file and line: NOT_FOUND, IO, BAD_FILE, INVALID (no
 * prompts), UNSUPPORTED, TOO_LONG (beyond the model's context), NO_MEMORY. Not collective.
 */
cox_status cox_prompts_read(cox_prompts *prompts, const char *const *paths, size_t n, int64_t limit,
                            const cox_run *run);
void cox_prompts_free(cox_prompts *prompts);

#endif
