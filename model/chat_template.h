/*
 * Conversations to prompt text. Checkpoints carry Jinja templates; we do not run Jinja, we recognise
 * the template and render it in C: OLMoE, Mixtral (instruct), GPT-OSS (harmony, with or without its
 * preamble), Qwen3, ChatML and the bundled organisms' own. The result is what transformers'
 * apply_chat_template(messages, tokenize=False, add_generation_prompt=True) gives.
 */
#ifndef COX_MODEL_CHAT_TEMPLATE_H
#define COX_MODEL_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct cox_chat_message {
    const char *role; /* "system", "user", "assistant" (others where the template knows them) */
    const char *content;
} cox_chat_message;

typedef struct cox_chat_template cox_chat_template;

/*
 * Chosen by what the checkpoint contains (chat_template.jinja, else "chat_template" in
 * tokenizer_config.json): by the statements of the template that write text, not by the model's name.
 * `name` (the --template option: "olmoe", "mixtral", "gpt-oss", "qwen3", "chatml", "organism"; NULL:
 * recognise) overrides. The begin and end tokens that templates write come from tokenizer_config.json or
 * special_tokens_map.json. [out] owned by the caller. Not collective.
 * Errors: UNSUPPORTED for an unrecognised template (the message names --template with the known names and
 * --raw), INVALID for an unknown `name`, NOT_FOUND when there is no template, BAD_FILE.
 */
cox_status cox_chat_template_load(cox_chat_template **chat_template, const char *folder, const char *name);
void cox_chat_template_destroy(cox_chat_template *chat_template); /* NULL is allowed */
const char *cox_chat_template_name(const cox_chat_template *chat_template);

/* What some templates ask for beside the messages; others ignore it. */
typedef struct cox_chat_options {
    const char *date;             /* GPT-OSS: "2026-11-23"; NULL: today, by local time, at each rendering */
    const char *reasoning_effort; /* GPT-OSS: "low", "medium", "high" */
    bool enable_thinking;         /* Qwen3: false closes an empty thinking part in advance */
} cox_chat_options;

/* NULL, "medium", true: what apply_chat_template does without arguments; a new template has these. */
cox_chat_options cox_chat_options_defaults(void);

/* Copied. Set them before the template is shared between threads. Errors: INVALID (a text too long). */
cox_status cox_chat_template_set_options(cox_chat_template *chat_template, const cox_chat_options *options);

/*
 * The prompt, ending where the assistant's answer begins.
 * [out] *text: malloc'ed, NUL-terminated. The text contains its special tokens (bos too where the
 * template writes it), so encode it with add_special = false.
 * Errors: INVALID (no messages, or roles in an order or of a kind that the template refuses), NO_MEMORY.
 */
cox_status cox_chat_template_render(const cox_chat_template *chat_template, const cox_chat_message *messages,
                                    size_t n_messages, char **text);

#endif
