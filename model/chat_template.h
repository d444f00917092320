/*
 * Conversations to prompt text, exactly as transformers' apply_chat_template writes it. Checkpoints carry
 * Jinja templates; those are rendered by jinja2 in a process of its own (model/chat_process.h). A few
 * templates that the program knows by their whole text have a twin in C (chat_forms.c) for plain
 * conversations, so that these need no Python: the bundled models', and the ones that have a name for
 * --template.
 */
#ifndef COX_MODEL_CHAT_TEMPLATE_H
#define COX_MODEL_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "model/chat_process.h"

typedef struct cox_chat_template cox_chat_template;

/* NULL: none of it. */
typedef struct cox_chat_options {
    const char *name;   /* a built-in template, or a file with a Jinja template; NULL: the checkpoint's */
    const char *kwargs; /* what the template is told besides, a JSON object */
    const char *date;   /* of strftime_now: "2026-11-24" (midnight); NULL: now, at each rendering */
} cox_chat_options;

/*
 * The template of a checkpoint: chat_template.jinja and additional_chat_templates/, else "chat_template" in
 * tokenizer_config.json; of several "default", and "tool_use" for conversations with tools. The special
 * tokens come from tokenizer_config.json and special_tokens_map.json, by transformers' rules. `process`
 * (NULL: none) renders what C does not; it must outlive the template, and serves this one alone. [out] owned
 * by the caller. Not collective. Errors: NOT_FOUND (no template: the message names --template and --raw),
 * INVALID (name, kwargs or date), UNSUPPORTED (the template needs Python, and that cannot be: says what to
 * install and which built-in template is the nearest), BAD_FILE, IO, NO_MEMORY.
 */
cox_status cox_chat_template_load(cox_chat_template **chat_template, const char *folder,
                                  const cox_chat_options *options, cox_chat_process *process);
void cox_chat_template_destroy(cox_chat_template *chat_template); /* NULL is allowed */

/* The built-in template that this is; NULL: another one. Static. */
const char *cox_chat_template_name(const cox_chat_template *chat_template);

/* Is `name` a built-in template? (Otherwise it is taken for a file.) */
bool cox_chat_template_is_built_in(const char *name);

/*
 * The text of one conversation. chat: a JSON object with "messages", a list of objects, and, each null or
 * left out if there is none, "tools", "documents" (lists of objects), "chat_template_kwargs" (an object; its
 * keys go before the options') and "add_generation_prompt" (default true). Whatever a message holds reaches
 * the template. [out] *text: malloc'ed, [n] bytes of UTF-8 and a NUL. It contains its special tokens, so
 * encode it with add_special = false. Errors: INVALID (the template refuses it, in its own words, or fails at
 * it, in jinja2's, or takes more time or memory than it may), UNSUPPORTED (Python is needed and not there),
 * IO (the process is gone), NO_MEMORY.
 */
cox_status cox_chat_template_render(cox_chat_template *chat_template, const char *chat, char **text,
                                    size_t *n);

#endif
