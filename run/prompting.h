/* How a user's prompts become what a model reads: a chat template with its options, a system message, or
 * neither. */
#ifndef COX_RUN_PROMPTING_H
#define COX_RUN_PROMPTING_H

#include <stdbool.h>

#include "base/status.h"
#include "model/chat_process.h"
#include "model/chat_template.h"
#include "proto/request.h"

typedef struct cox_prompting {
    bool is_raw;               /* prompts as they are, without a chat template */
    const char *system;        /* a message before chats that have none; or NULL */
    const char *template_name; /* a built-in one, or a file; NULL: the checkpoint's */
    const char *kwargs;        /* JSON, what the template is told besides; or NULL */
    const char *date;          /* for templates that tell it: "2026-11-24"; NULL: today */
    const char *python;        /* what renders templates that are not built in; NULL: the default */
} cox_prompting;

/* is_raw goes with no other of them; the date, the kwargs and the template's name are what they should be.
 * Messages name the command line's options. Errors: INVALID. */
cox_status cox_prompting_check(const cox_prompting *prompting);

/* The checkpoint's chat template, or the one that was asked for. process: NULL, or outliving it. [out] owned
 * by the caller (cox_chat_template_destroy), also on failure. Errors: of cox_chat_template_load. */
cox_status cox_prompting_load_template(cox_chat_template **chat_template, const cox_prompting *prompting,
                                       const char *model, cox_chat_process *process);

/* A user's prompt as a request: a chat, with the system message before it, or raw. Errors: INVALID (not
 * UTF-8), NO_MEMORY. */
cox_status cox_prompting_make_request(cox_request *request, const cox_prompting *prompting,
                                      const char *prompt);

/* What the system message and is_raw mean for a request that brings its own messages; any other is left
 * alone. Errors, where in front: INVALID (it has a system message of its own; or it is a chat, and is_raw),
 * NO_MEMORY. */
cox_status cox_prompting_apply(cox_request *request, const cox_prompting *prompting, const char *where);

#endif
