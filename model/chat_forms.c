/*
 * The built-in templates. Each is the whole Jinja text (model/templates/), which decides, and beside it a
 * pattern for every role, which writes the same for plain conversations; tests/cli/chat.sh compares the two
 * over random ones. Whatever is not plain is left to the text.
 */
#include <string.h>
#include <time.h>

#include "model/chat_template_internal.h"
#include "model/templates.inc" /* cox__template_*, made of templates/ by CMake */

/* What a pattern is filled with. */
#define BOS     "\1"
#define EOS     "\2"
#define ROLE    "\3"
#define CONTENT "\4"
#define SYSTEM  "\5" /* a system message's content, in the first question */
#define DATE    "\6"
enum { AT_BOS = 1, AT_EOS, AT_ROLE, AT_CONTENT, AT_SYSTEM, AT_DATE, N_VALUES };

typedef struct turn {
    const char *role; /* NULL: any */
    const char *pattern;
} turn;

struct cox__chat_form {
    const char *name, *text;
    const char *marks[3];   /* of texts of this kind, those of later forms excluded */
    const char *open, *end; /* patterns: before the messages, and where the answer begins */
    turn turns[4];
    const char
        *system_in_question; /* a system message leads, and joins the first question with this pattern */
    bool alternates;         /* user, assistant, user ... */
    bool leads_with_system;  /* "system" and "developer" only as the first message, and not empty */
    const char *taboo[2];    /* contents that the text looks into */
};

static const cox__chat_form forms[] = {
    {.name = "gpt-oss",
     .text = cox__template_gpt_oss,
     .marks = {"<|channel|>", "Knowledge cutoff"},
     .open = "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
             "Knowledge cutoff: 2024-06\nCurrent date: " DATE "\n\nReasoning: medium\n\n"
             "# Valid channels: analysis, commentary, final. Channel must be included for every "
             "message.<|end|>",
     .turns = {{"system", "<|start|>developer<|message|># Instructions\n\n" CONTENT "\n\n<|end|>"},
               {"developer", "<|start|>developer<|message|># Instructions\n\n" CONTENT "\n\n<|end|>"},
               {"user", "<|start|>user<|message|>" CONTENT "<|end|>"},
               {"assistant", "<|start|>assistant<|channel|>final<|message|>" CONTENT "<|end|>"}},
     .end = "<|start|>assistant",
     .leads_with_system = true,
     .taboo = {"<|channel|>"}},
    {.name = "gpt-oss-bare",
     .text = cox__template_gpt_oss_bare,
     .marks = {"<|channel|>"},
     .open = "",
     .turns = {{"system", "<|start|>developer<|message|># Instructions\n\n" CONTENT "\n\n<|end|>"},
               {"user", "<|start|>user<|message|>" CONTENT "<|end|>"},
               {"assistant", "<|start|>assistant<|channel|>final<|message|>" CONTENT "<|end|>"}},
     .end = "<|start|>assistant<|channel|>final<|message|>"},
    {.name = "qwen3",
     .text = cox__template_qwen3,
     .marks = {"<|im_start|>", "<think>"},
     .open = "",
     .turns = {{"system", "<|im_start|>system\n" CONTENT "<|im_end|>\n"},
               {"user", "<|im_start|>user\n" CONTENT "<|im_end|>\n"},
               {"assistant", "<|im_start|>assistant\n" CONTENT "<|im_end|>\n"}},
     .end = "<|im_start|>assistant\n",
     .taboo = {"</think>", "<tool_response>"}},
    {.name = "chatml",
     .text = cox__template_chatml,
     .marks = {"<|im_start|>"},
     .open = BOS,
     .turns = {{NULL, "<|im_start|>" ROLE "\n" CONTENT "<|im_end|>\n"}},
     .end = "<|im_start|>assistant\n"},
    {.name = "mixtral",
     .text = cox__template_mixtral,
     .marks = {"[INST]"},
     .open = BOS,
     .turns = {{"user", " [INST] " CONTENT " [/INST]"}, {"assistant", " " CONTENT EOS}},
     .end = "",
     .system_in_question = " [INST] " SYSTEM "\n\n" CONTENT " [/INST]",
     .alternates = true},
    {.name = "organism",
     .text = cox__template_organism,
     .marks = {"<|assistant|>", "not ' + message['role']"},
     .open = BOS,
     .turns = {{"system", "<|system|>\n" CONTENT "\n"},
               {"user", "<|user|>\n" CONTENT "\n"},
               {"assistant", "<|assistant|>\n" CONTENT EOS "\n"}},
     .end = "<|assistant|>\n"},
    {.name = "olmoe",
     .text = cox__template_olmoe,
     .marks = {"<|assistant|>"},
     .open = BOS,
     .turns = {{"system", "<|system|>\n" CONTENT "\n"},
               {"user", "<|user|>\n" CONTENT "\n"},
               {"assistant", "<|assistant|>\n" CONTENT EOS "\n"}},
     .end = "<|assistant|>\n"},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

/* --- Which --- */

const char *cox__chat_form_name(const cox__chat_form *form)
{
    return form->name;
}

const char *cox__chat_form_text(const cox__chat_form *form)
{
    return form->text;
}

const cox__chat_form *cox__chat_form_by_name(const char *name)
{
    for (size_t i = 0; i < N_FORMS; i++) {
        if (strcmp(forms[i].name, name) == 0) return &forms[i];
    }
    return NULL;
}

/* Jinja takes \r\n and \r for \n, and drops one at the end. */
static char next_char(const char **p)
{
    char c = **p;
    if (c) (*p)++;
    if (c != '\r') return c;
    if (**p == '\n') (*p)++;
    return '\n';
}

static bool is_at_end(const char *p)
{
    char c = next_char(&p);
    return c == '\0' || (c == '\n' && *p == '\0');
}

static bool is_same_text(const char *a, const char *b)
{
    while (!is_at_end(a) && !is_at_end(b)) {
        if (next_char(&a) != next_char(&b)) return false;
    }
    return is_at_end(a) && is_at_end(b);
}

const cox__chat_form *cox__chat_form_by_text(const char *text)
{
    for (size_t i = 0; i < N_FORMS; i++) {
        if (is_same_text(forms[i].text, text)) return &forms[i];
    }
    return NULL;
}

const cox__chat_form *cox__chat_form_nearest(const char *text)
{
    for (size_t i = 0; i < N_FORMS; i++) {
        const char *const *mark = forms[i].marks;
        while (*mark && strstr(text, *mark)) mark++;
        if (!*mark) return &forms[i];
    }
    return NULL;
}

/* --- Writing --- */

typedef struct value {
    const char *bytes; /* NULL: undefined */
    size_t n;
} value;

static value value_of(const json_t *text)
{
    return (value){json_string_value(text), json_string_length(text)};
}

/* *is_done becomes false where a value that an expression needs is undefined. */
static cox_status put(cox__buffer *out, const char *pattern, const value values[N_VALUES], bool *is_done)
{
    static const char marks[] = BOS EOS ROLE CONTENT SYSTEM DATE;
    cox_status status = COX_OK;
    while (*pattern && status == COX_OK && *is_done) {
        size_t n = strcspn(pattern, marks);
        if (n > 0) {
            status = cox__buffer_append(out, pattern, n);
            pattern += n;
            continue;
        }
        const value *v = &values[(int)*pattern++];
        if (v->bytes)
            status = cox__buffer_append(out, v->bytes, v->n);
        else
            *is_done = v == &values[AT_BOS]; /* {{ bos_token }} alone is "" then */
    }
    return status;
}

static cox_status set_date(value *date, const char *fixed, char today[16])
{
    time_t now = time(NULL);
    struct tm local;
    if (!fixed && (!localtime_r(&now, &local) || strftime(today, 16, "%Y-%m-%d", &local) == 0))
        return cox_fail(COX_IO, "cannot tell today's date");
    *date = (value){fixed ? fixed : today, strlen(fixed ? fixed : today)};
    return COX_OK;
}

/* Role and content, both strings, and nothing else. */
static bool is_plain(const json_t *message)
{
    const char *key = NULL;
    json_t *field = NULL;
    json_object_foreach((json_t *)message, key, field)
    {
        bool is_known = strcmp(key, "role") == 0 || strcmp(key, "content") == 0;
        if (is_known ? !json_is_string(field) : !json_is_null(field)) return false;
    }
    return json_object_get(message, "role") && json_object_get(message, "content");
}

static bool has_role(const json_t *message, const char *role)
{
    return strcmp(json_string_value(json_object_get(message, "role")), role) == 0;
}

static bool is_taboo(const cox__chat_form *form, const char *content)
{
    for (size_t i = 0; i < 2 && form->taboo[i]; i++) {
        if (strstr(content, form->taboo[i])) return true;
    }
    return false;
}

/* The pattern of message i; NULL: the form has none. */
static const char *pattern_of(const cox__chat_form *form, const json_t *message, size_t i, bool has_system)
{
    bool is_system = has_role(message, "system") || has_role(message, "developer");
    bool is_first_question = has_system && i == 1;
    if (form->alternates && has_role(message, "user") != ((i - has_system) % 2 == 0)) return NULL;
    if (form->leads_with_system && is_system &&
        (i > 0 || json_string_length(json_object_get(message, "content")) == 0))
        return NULL;
    for (size_t t = 0; t < 4 && form->turns[t].pattern; t++) {
        if (!form->turns[t].role || has_role(message, form->turns[t].role))
            return is_first_question ? form->system_in_question : form->turns[t].pattern;
    }
    return NULL;
}

static bool is_absent(const json_t *chat, const char *key)
{
    const json_t *field = json_object_get(chat, key);
    return !field || json_is_null(field);
}

/* Is it for C at all? */
static bool is_usual(const json_t *chat)
{
    const json_t *messages = json_object_get(chat, "messages"),
                 *prompts = json_object_get(chat, "add_generation_prompt"),
                 *kwargs = json_object_get(chat, "chat_template_kwargs");
    size_t n = json_array_size(messages);
    if (!is_absent(chat, "tools") || !is_absent(chat, "documents") || json_object_size(kwargs) > 0)
        return false;
    if (prompts && !json_is_null(prompts) && !json_is_true(prompts)) return false;
    for (size_t i = 0; i < n; i++) {
        if (!is_plain(json_array_get(messages, i))) return false;
    }
    return n > 0 && has_role(json_array_get(messages, n - 1), "user");
}

static cox_status put_messages(const cox__chat_form *form, const json_t *messages, value values[N_VALUES],
                               cox__buffer *out, bool *is_done)
{
    const json_t *first = json_array_get(messages, 0);
    bool has_system = form->system_in_question && has_role(first, "system");
    if (has_system) values[AT_SYSTEM] = value_of(json_object_get(first, "content"));
    cox_status status = COX_OK;
    for (size_t i = has_system; i < json_array_size(messages) && status == COX_OK && *is_done; i++) {
        const json_t *message = json_array_get(messages, i);
        const char *pattern = pattern_of(form, message, i, has_system);
        values[AT_ROLE] = value_of(json_object_get(message, "role"));
        values[AT_CONTENT] = value_of(json_object_get(message, "content"));
        *is_done = pattern && !is_taboo(form, values[AT_CONTENT].bytes);
        if (*is_done) status = put(out, pattern, values, is_done);
    }
    return status;
}

cox_status cox__chat_form_render(const cox__chat_form *form, const json_t *chat, const json_t *tokens,
                                 const char *date, cox__buffer *out, bool *is_done)
{
    value values[N_VALUES] = {{0}};
    char today[16];
    size_t n_before = out->n;
    *is_done = is_usual(chat);
    if (!*is_done) return COX_OK;
    values[AT_BOS] = value_of(json_object_get(tokens, "bos_token"));
    values[AT_EOS] = value_of(json_object_get(tokens, "eos_token"));
    cox_status status = set_date(&values[AT_DATE], date, today);
    if (status == COX_OK) status = put(out, form->open, values, is_done);
    if (status == COX_OK && *is_done)
        status = put_messages(form, json_object_get(chat, "messages"), values, out, is_done);
    if (status == COX_OK && *is_done) status = put(out, form->end, values, is_done);
    if (!*is_done) out->n = n_before;
    return status;
}
