/* What the files of chat templates share: the templates that are built in (chat_forms.c). */
#ifndef COX_MODEL_CHAT_TEMPLATE_INTERNAL_H
#define COX_MODEL_CHAT_TEMPLATE_INTERNAL_H

#include "model/chat_template.h"
#include "model/tokenizer_internal.h"

#define COX__CHAT_FORM_NAMES "olmoe, mixtral, gpt-oss, gpt-oss-bare, qwen3, chatml, organism"

/* What tokenizer_config.json says, read from memory. "chat_template": a string, or a list or an object of
 * named ones, into the object `templates`. Errors: NO_MEMORY. */
cox_status cox__chat_add_templates(json_t *templates, const json_t *inner);
/* Every "..._token" of an object of a file (any name: has_any_name), and those of its extra_special_tokens,
 * into the object `tokens`. null takes one away. Not 0: out of memory. */
int cox__chat_add_tokens(json_t *tokens, const json_t *file, bool has_any_name);

/* A template with a name, its Jinja text, and how C writes plain conversations. Static. */
typedef struct cox__chat_form cox__chat_form;

/* NULL: there is none. by_text: line ends, and one at the end, do not count. */
const cox__chat_form *cox__chat_form_by_name(const char *name);
const cox__chat_form *cox__chat_form_by_text(const char *text);
/* One whose marks stand in the text too. */
const cox__chat_form *cox__chat_form_nearest(const char *text);

const char *cox__chat_form_name(const cox__chat_form *form);
const char *cox__chat_form_text(const cox__chat_form *form);

/*
 * Appends the text of a conversation, if it is one that C writes: messages of a role and a content that are
 * strings, in the order that the form has, a question last; no tools, documents or kwargs; a prompt for the
 * answer. tokens: bos_token and eos_token. date: NULL: today. [out] *is_done: otherwise nothing is appended,
 * and the template itself must say what becomes of it. Errors: NO_MEMORY, IO (no date).
 */
cox_status cox__chat_form_render(const cox__chat_form *form, const json_t *chat, const json_t *tokens,
                                 const char *date, cox__buffer *out, bool *is_done);

#endif
