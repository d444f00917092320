/* What the two halves of chat templates share: recognition (chat_template.c), rendering (.._render.c). */
#ifndef COX_MODEL_CHAT_TEMPLATE_INTERNAL_H
#define COX_MODEL_CHAT_TEMPLATE_INTERNAL_H

#include "model/chat_template.h"
#include "model/tokenizer_internal.h"

typedef enum cox__chat_kind {
    COX__CHAT_ROLES,   /* <|user|> lines: OLMoE, the organisms */
    COX__CHAT_MIXTRAL, /* [INST] */
    COX__CHAT_HARMONY, /* GPT-OSS */
    COX__CHAT_CHATML,  /* <|im_start|>: ChatML, Qwen3 */
} cox__chat_kind;

/* How versions of one kind differ. */
typedef enum cox__chat_flag {
    COX__CHAT_NEWLINE_AT_END = 1,  /* ROLES: a newline follows even the last message's end token */
    COX__CHAT_STRICT_ROLES = 2,    /* ROLES: an unknown role is an error; otherwise it is left out */
    COX__CHAT_SYSTEM = 4,          /* MIXTRAL: a system message may lead; spaces before [INST] and answers */
    COX__CHAT_SPACE_AFTER_EOS = 8, /* MIXTRAL, the first version: a space follows the end token */
    COX__CHAT_ANY_ROLE = 16,       /* CHATML: all roles alike; otherwise tool results and no others */
    COX__CHAT_THINKING = 32,       /* CHATML: past thoughts are dropped (Qwen3) */
    COX__CHAT_OPENS_THOUGHT = 64,  /* CHATML: the prompt ends with <think> */
    COX__CHAT_BOS = 128,           /* CHATML: the begin token leads */
    COX__CHAT_BARE = 256, /* HARMONY: messages only, and the prompt opens the final channel (organisms) */
} cox__chat_flag;

struct cox_chat_template {
    const char *name;
    cox__chat_kind kind;
    unsigned flags;
    char *bos, *eos;                     /* NULL: none */
    char date[16], reasoning_effort[16]; /* date "": today */
    bool enable_thinking;
};

cox_status cox__chat_render(const cox_chat_template *chat_template, const cox_chat_message *messages,
                            size_t n, cox__buffer *out);

#endif
