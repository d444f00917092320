/*
 * The prompts that the known templates write for plain messages (role and content) with a generation
 * prompt at the end. Tools, images and separate reasoning fields are not part of a message here.
 */
#include <string.h>
#include <time.h>

#include "model/chat_template_internal.h"

static cox_status put(cox__buffer *out, const char *text)
{
    return cox__buffer_append(out, text, strlen(text));
}

/* Puts the texts up to a NULL. */
static cox_status put_all(cox__buffer *out, const char *const texts[])
{
    cox_status status = COX_OK;
    for (size_t i = 0; texts[i] && status == COX_OK; i++) status = put(out, texts[i]);
    return status;
}
#define PUT(out, ...) put_all(out, (const char *const[]){__VA_ARGS__, NULL})

static bool has_role(const cox_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static cox_status need_eos(const cox_chat_template *t)
{
    if (t->eos) return COX_OK;
    return cox_fail(COX_INVALID,
                    "the chat template writes an end token, but tokenizer_config.json has no \"eos_token\"");
}

/* ---- <|user|> lines --------------------------------------------------------------------------- */

static cox_status render_roles(const cox_chat_template *t, const cox_chat_message *messages, size_t n,
                               cox__buffer *out)
{
    cox_status status = t->bos ? put(out, t->bos) : COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        const cox_chat_message *m = &messages[i];
        if (has_role(m, "assistant")) {
            bool has_newline = i + 1 < n || (t->flags & COX__CHAT_NEWLINE_AT_END);
            status = need_eos(t);
            if (status == COX_OK)
                status = PUT(out, "<|assistant|>\n", m->content, t->eos, has_newline ? "\n" : "");
        } else if (has_role(m, "system") || has_role(m, "user")) {
            status = PUT(out, "<|", m->role, "|>\n", m->content, "\n");
        } else if (t->flags & COX__CHAT_STRICT_ROLES) {
            status = cox_fail(
                COX_INVALID, "message %zu: the roles are system, user and assistant, not \"%s\"", i, m->role);
        }
    }
    return status == COX_OK ? put(out, "<|assistant|>\n") : status;
}

/* ---- [INST] ------------------------------------------------------------------------------------ */

static cox_status check_turns(const cox_chat_template *t, const cox_chat_message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (has_role(&messages[i], "user") != (i % 2 == 0)) {
            return cox_fail(COX_INVALID, "the roles must alternate user/assistant/user/assistant/...%s",
                            t->flags & COX__CHAT_SYSTEM ? " after the optional system message"
                                                        : " (this template has no system role)");
        }
        if (!has_role(&messages[i], "user") && !has_role(&messages[i], "assistant")) {
            return cox_fail(COX_INVALID, "the template knows the roles user and assistant%s, not \"%s\"",
                            t->flags & COX__CHAT_SYSTEM ? " and a leading system message" : "",
                            messages[i].role);
        }
    }
    return COX_OK;
}

static cox_status render_mixtral(const cox_chat_template *t, const cox_chat_message *messages, size_t n,
                                 cox__buffer *out)
{
    const char *space = t->flags & COX__CHAT_SYSTEM ? " " : "", *system = NULL;
    if ((t->flags & COX__CHAT_SYSTEM) && has_role(&messages[0], "system")) {
        system = messages[0].content;
        messages++;
        n--;
    }
    cox_status status = check_turns(t, messages, n);
    if (status == COX_OK && t->bos) status = put(out, t->bos);
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        const char *content = messages[i].content;
        if (i % 2 == 1) {
            status = need_eos(t);
            if (status == COX_OK)
                status = PUT(out, space, content, t->eos, t->flags & COX__CHAT_SPACE_AFTER_EOS ? " " : "");
        } else if (i == 0 && system) {
            status = PUT(out, space, "[INST] ", system, "\n\n", content, " [/INST]");
        } else {
            status = PUT(out, space, "[INST] ", content, " [/INST]");
        }
    }
    return status;
}

/* ---- harmony ----------------------------------------------------------------------------------- */

static cox_status put_harmony_system(const cox_chat_template *t, cox__buffer *out)
{
    char today[16];
    const char *date = t->date;
    if (!*date) {
        time_t now = time(NULL);
        struct tm local;
        if (!localtime_r(&now, &local) || strftime(today, sizeof today, "%Y-%m-%d", &local) == 0) {
            return cox_fail(COX_IO, "cannot tell today's date");
        }
        date = today;
    }
    return PUT(out,
               "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
               "Knowledge cutoff: 2024-06\nCurrent date: ",
               date, "\n\nReasoning: ", t->reasoning_effort,
               "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every "
               "message.<|end|>");
}

/* Past answers stand in the final channel, without their analysis. */
static cox_status put_harmony_answer(const char *content, cox__buffer *out)
{
    if (strstr(content, "<|channel|>analysis<|message|>") || strstr(content, "<|channel|>final<|message|>")) {
        return cox_fail(
            COX_INVALID,
            "an assistant message holds <|channel|> tags; give only the text of the final channel");
    }
    return PUT(out, "<|start|>assistant<|channel|>final<|message|>", content, "<|end|>");
}

static cox_status render_harmony(const cox_chat_template *t, const cox_chat_message *messages, size_t n,
                                 cox__buffer *out)
{
    cox_status status = put_harmony_system(t, out);
    size_t first = has_role(&messages[0], "developer") || has_role(&messages[0], "system") ? 1 : 0;
    if (first == 1 && *messages[0].content && status == COX_OK) {
        status =
            PUT(out, "<|start|>developer<|message|># Instructions\n\n", messages[0].content, "\n\n<|end|>");
    }
    for (size_t i = first; i < n && status == COX_OK; i++) {
        const cox_chat_message *m = &messages[i];
        if (has_role(m, "assistant"))
            status = put_harmony_answer(m->content, out);
        else if (has_role(m, "user"))
            status = PUT(out, "<|start|>user<|message|>", m->content, "<|end|>");
        else if (has_role(m, "tool"))
            return cox_fail(COX_INVALID, "message %zu: a tool's result without a tool call", i);
    }
    return status == COX_OK ? put(out, "<|start|>assistant") : status;
}

/* The organisms' form: no preamble, system messages wherever they stand, the answer on the final channel. */
static cox_status render_bare_harmony(const cox_chat_message *messages, size_t n, cox__buffer *out)
{
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        const cox_chat_message *m = &messages[i];
        if (has_role(m, "assistant"))
            status = PUT(out, "<|start|>assistant<|channel|>final<|message|>", m->content, "<|end|>");
        else if (has_role(m, "system"))
            status = PUT(out, "<|start|>developer<|message|># Instructions\n\n", m->content, "\n\n<|end|>");
        else if (has_role(m, "user"))
            status = PUT(out, "<|start|>user<|message|>", m->content, "<|end|>");
        else
            status = cox_fail(
                COX_INVALID, "message %zu: the roles are system, user and assistant, not \"%s\"", i, m->role);
    }
    return status == COX_OK ? put(out, "<|start|>assistant<|channel|>final<|message|>") : status;
}

/* ---- <|im_start|> ------------------------------------------------------------------------------- */

typedef struct text_part {
    const char *bytes;
    size_t n;
} text_part;

static text_part without_newlines(text_part part, bool at_start, bool at_end)
{
    while (at_start && part.n > 0 && part.bytes[0] == '\n') {
        part.bytes++;
        part.n--;
    }
    while (at_end && part.n > 0 && part.bytes[part.n - 1] == '\n') part.n--;
    return part;
}

/* What stands after the last `mark` of the part; all of it when there is none. */
static text_part after_last(text_part part, const char *mark)
{
    size_t n_mark = strlen(mark);
    for (const char *hit; (hit = memmem(part.bytes, part.n, mark, n_mark)) != NULL;) {
        part.n -= (size_t)(hit + n_mark - part.bytes);
        part.bytes = hit + n_mark;
    }
    return part;
}

/* The answer and the thoughts of "<think>\nthoughts\n</think>\n\nanswer". */
static void split_thoughts(const char *content, text_part *thoughts, text_part *answer)
{
    *thoughts = (text_part){"", 0};
    *answer = (text_part){content, strlen(content)};
    const char *close = strstr(content, "</think>");
    if (!close) return;
    *answer = without_newlines(after_last(*answer, "</think>"), true, false);
    text_part before = without_newlines((text_part){content, (size_t)(close - content)}, false, true);
    *thoughts = without_newlines(after_last(before, "<think>"), true, false);
}

/* The index of the last question; answers after it keep their thoughts. */
static size_t last_query(const cox_chat_message *messages, size_t n)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = n; i-- > 0;) {
        if (!has_role(&messages[i], "user")) continue;
        const char *content = messages[i].content;
        size_t length = strlen(content);
        bool is_tool_result = strncmp(content, open, sizeof open - 1) == 0 && length >= sizeof close - 1 &&
                              strcmp(content + length - (sizeof close - 1), close) == 0;
        if (!is_tool_result) return i;
    }
    return n - 1;
}

static cox_status put_qwen_answer(const char *content, bool keeps_thoughts, bool is_last, cox__buffer *out)
{
    text_part thoughts, answer;
    split_thoughts(content, &thoughts, &answer);
    cox_status status = put(out, "<|im_start|>assistant\n");
    if (status == COX_OK && keeps_thoughts && (is_last || thoughts.n > 0)) {
        thoughts = without_newlines(thoughts, true, true);
        answer = without_newlines(answer, true, false);
        status = put(out, "<think>\n");
        if (status == COX_OK) status = cox__buffer_append(out, thoughts.bytes, thoughts.n);
        if (status == COX_OK) status = put(out, "\n</think>\n\n");
    }
    if (status == COX_OK) status = cox__buffer_append(out, answer.bytes, answer.n);
    return status == COX_OK ? put(out, "<|im_end|>\n") : status;
}

/* Results of tools in a row make one user message. */
static cox_status put_tool_result(const cox_chat_message *messages, size_t n, size_t i, cox__buffer *out)
{
    bool is_first = i == 0 || !has_role(&messages[i - 1], "tool");
    bool is_last = i + 1 == n || !has_role(&messages[i + 1], "tool");
    return PUT(out, is_first ? "<|im_start|>user" : "", "\n<tool_response>\n", messages[i].content,
               "\n</tool_response>", is_last ? "<|im_end|>\n" : "");
}

static cox_status render_chatml(const cox_chat_template *t, const cox_chat_message *messages, size_t n,
                                cox__buffer *out)
{
    size_t query = last_query(messages, n);
    cox_status status = (t->flags & COX__CHAT_BOS) && t->bos ? put(out, t->bos) : COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        const cox_chat_message *m = &messages[i];
        if ((t->flags & COX__CHAT_THINKING) && has_role(m, "assistant")) {
            status = put_qwen_answer(m->content, i > query, i + 1 == n, out);
        } else if ((t->flags & COX__CHAT_ANY_ROLE) || has_role(m, "user") || has_role(m, "system") ||
                   has_role(m, "assistant")) {
            status = PUT(out, "<|im_start|>", m->role, "\n", m->content, "<|im_end|>\n");
        } else if (has_role(m, "tool")) {
            status = put_tool_result(messages, n, i, out);
        }
    }
    if (status == COX_OK) status = put(out, "<|im_start|>assistant\n");
    if (status != COX_OK) return status;
    if (t->flags & COX__CHAT_OPENS_THOUGHT) return put(out, "<think>\n");
    bool is_closed = (t->flags & COX__CHAT_THINKING) && !t->enable_thinking;
    return is_closed ? put(out, "<think>\n\n</think>\n\n") : COX_OK;
}

/* ---- all ---------------------------------------------------------------------------------------- */

cox_status cox__chat_render(const cox_chat_template *t, const cox_chat_message *messages, size_t n,
                            cox__buffer *out)
{
    switch (t->kind) {
    case COX__CHAT_ROLES: return render_roles(t, messages, n, out);
    case COX__CHAT_MIXTRAL: return render_mixtral(t, messages, n, out);
    case COX__CHAT_HARMONY:
        return t->flags & COX__CHAT_BARE ? render_bare_harmony(messages, n, out)
                                         : render_harmony(t, messages, n, out);
    case COX__CHAT_CHATML: return render_chatml(t, messages, n, out);
    }
    return cox_fail(COX_INTERNAL, "chat template of an unknown kind");
}
