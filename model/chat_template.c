/*
 * Which chat template a checkpoint has. A Jinja template is brought into a normal form (no white space
 * or dashes around its statements, one kind of quotes, message['role'] as message.role) and must then
 * contain the statements that write the text as we write it, and none of those that would write more.
 */
#include "model/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_template_internal.h"

#define KNOWN_NAMES "olmoe, mixtral, gpt-oss, qwen3, chatml, organism"
#define WHAT_TO_DO  "name one with --template (" KNOWN_NAMES ") or give the prompt as it is with --raw"

typedef struct known_template {
    const char *name;
    cox__chat_kind kind;
    unsigned flags;
    const char *required[8]; /* in normal form */
    const char *forbidden[4];
} known_template;

/* In the order of the search. The first of each name is what --template means. */
static const known_template known[] = {
    {"olmoe",
     COX__CHAT_ROLES,
     0,
     {"{{bos_token}}", "{{'<|system|>\\n'+message.content+'\\n'}}", "{{'<|user|>\\n'+message.content+'\\n'}}",
      "{%ifnotloop.last%}{{'<|assistant|>\\n'+message.content+eos_token+'\\n'}}{%else%}"
      "{{'<|assistant|>\\n'+message.content+eos_token}}{%endif%}",
      "{%ifloop.lastandadd_generation_prompt%}{{'<|assistant|>\\n'}}{%endif%}"},
     {"|trim", "tools"}},
    {"organism",
     COX__CHAT_ROLES,
     COX__CHAT_NEWLINE_AT_END | COX__CHAT_STRICT_ROLES,
     {"{{bos_token}}", "{{'<|assistant|>\\n'+message.content+eos_token+'\\n'}}",
      "{{'<|'+message.role+'|>\\n'+message.content+'\\n'}}", "{%else%}{{raise_exception(",
      "{%ifadd_generation_prompt%}{{'<|assistant|>\\n'}}{%endif%}"},
     {"|trim", "tools"}},
    {"mixtral",
     COX__CHAT_MIXTRAL,
     COX__CHAT_SYSTEM,
     {"{{bos_token}}", "{{' [INST] '+system_message+'\\n\\n'+message.content+' [/INST]'}}",
      "{{' [INST] '+message.content+' [/INST]'}}", "{{' '+message.content+eos_token}}",
      "(message.role=='user')!=(loop.index0%2==0)"},
     {"tools", "|trim"}},
    {"mixtral",
     COX__CHAT_MIXTRAL,
     COX__CHAT_SPACE_AFTER_EOS,
     {"{{bos_token}}", "{{'[INST] '+message.content+' [/INST]'}}", "{{message.content+eos_token+' '}}",
      "(message.role=='user')!=(loop.index0%2==0)"},
     {"system_message", "tools", "|trim"}},
    {"mixtral",
     COX__CHAT_MIXTRAL,
     0,
     {"{{bos_token}}", "{{'[INST] '+message.content+' [/INST]'}}", "{{message.content+eos_token}}",
      "(message.role=='user')!=(loop.index0%2==0)"},
     {"system_message", "tools", "|trim"}},
    {"gpt-oss",
     COX__CHAT_HARMONY,
     0,
     {"{{'<|start|>system<|message|>'}}", "You are ChatGPT, a large language model trained by OpenAI.",
      "{{'Knowledge cutoff: 2024-06\\n'}}{{'Current date: '+strftime_now('%Y-%m-%d')+'\\n\\n'}}",
      "{{'Reasoning: '+reasoning_effort+'\\n\\n'}}",
      "{{'# Valid channels: analysis, commentary, final. Channel must be included for every message.'}}",
      "{{'# Instructions\\n\\n'}}{{developer_message}}{{'\\n\\n'}}",
      "{{'<|start|>assistant<|channel|>final<|message|>'+message.content+'<|end|>'}}",
      "{{'<|start|>user<|message|>'+message.content+'<|end|>'}}"},
     {NULL}},
    {"gpt-oss",
     COX__CHAT_HARMONY,
     COX__CHAT_BARE | COX__CHAT_STRICT_ROLES,
     {"{{'<|start|>assistant<|channel|>final<|message|>'+message.content}}",
      "{{'<|start|>developer<|message|># Instructions\\n\\n'+message.content+'\\n\\n<|end|>'}}",
      "{{'<|start|>user<|message|>'+message.content+'<|end|>'}}", "{%else%}{{raise_exception(",
      "{%ifadd_generation_prompt%}{{'<|start|>assistant<|channel|>final<|message|>'}}"},
     {"You are ChatGPT", "tools", "|trim"}},
    {"qwen3",
     COX__CHAT_CHATML,
     COX__CHAT_THINKING,
     {"{{'<|im_start|>system\\n'+messages[0].content+'<|im_end|>\\n'}}", "ns.last_query_index",
      "content.split('</think>')[-1].lstrip('\\n')", "{%ifloop.lastor(notloop.lastandreasoning_content)%}",
      "'\\n<think>\\n'+reasoning_content.strip('\\n')+'\\n</think>\\n\\n'+content.lstrip('\\n')}}",
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%ifenable_thinkingisdefinedandenable_"
      "thinkingisfalse%}"
      "{{'<think>\\n\\n</think>\\n\\n'}}{%endif%}{%endif%}"},
     {"You are Qwen", "image_pad"}},
    {"qwen3",
     COX__CHAT_CHATML,
     COX__CHAT_THINKING | COX__CHAT_OPENS_THOUGHT,
     {"{{'<|im_start|>system\\n'+messages[0].content+'<|im_end|>\\n'}}", "ns.last_query_index",
      "content.split('</think>')[-1].lstrip('\\n')", "{%ifloop.lastor(notloop.lastandreasoning_content)%}",
      "'\\n<think>\\n'+reasoning_content.strip('\\n')+'\\n</think>\\n\\n'+content.lstrip('\\n')}}",
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n<think>\\n'}}{%endif%}"},
     {"You are Qwen", "image_pad"}},
    {"chatml",
     COX__CHAT_CHATML,
     COX__CHAT_ANY_ROLE | COX__CHAT_BOS,
     {"{{bos_token}}{%formessageinmessages%}"
      "{{'<|im_start|>'+message.role+'\\n'+message.content+'<|im_end|>'+'\\n'}}{%endfor%}",
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}"},
     {"You are", "tools", "|trim"}},
    {"chatml",
     COX__CHAT_CHATML,
     COX__CHAT_ANY_ROLE,
     {"{%formessageinmessages%}{{'<|im_start|>'+message.role+'\\n'+message.content+'<|im_end|>'+'\\n'}}{%"
      "endfor%}",
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}"},
     {"You are", "tools", "|trim", "bos_token"}},
    {"chatml",
     COX__CHAT_CHATML,
     0, /* Qwen3's without thoughts */
     {"{{'<|im_start|>system\\n'+messages[0].content+'<|im_end|>\\n'}}",
      "{%if(message.role=='user')or(message.role=='system'andnotloop.first)%}"
      "{{'<|im_start|>'+message.role+'\\n'+content+'<|im_end|>'+'\\n'}}"
      "{%elifmessage.role=='assistant'%}{{'<|im_start|>'+message.role+'\\n'+content}}",
      "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}"},
     {"You are Qwen", "think", "image_pad"}},
};
enum { N_KNOWN = sizeof known / sizeof known[0] };

/* ---- the normal form --------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* The end of a quoted string that starts at text (its closing quote, or the end of the text). */
static const char *string_end(const char *text)
{
    const char *p = text + 1;
    while (*p && *p != *text) p += p[0] == '\\' && p[1] ? 2 : 1;
    return p;
}

/* ['name'] -> .name; [out] *end: after the bracket. */
static cox_status add_subscript(cox__buffer *out, const char *text, const char **end)
{
    char quote = text[1];
    const char *name = text + 2, *p = name;
    if (quote == '\'' || quote == '"') {
        while (is_word_char(*p)) p++;
        if (p > name && p[0] == quote && p[1] == ']') {
            cox_status status = cox__buffer_append(out, ".", 1);
            *end = p + 2;
            return status == COX_OK ? cox__buffer_append(out, name, (size_t)(p - name)) : status;
        }
    }
    *end = text + 1;
    return cox__buffer_append(out, "[", 1);
}

/* The inside of one statement, from after its opening braces to before its closing ones. */
static cox_status add_statement(cox__buffer *out, const char *p, const char *close, const char **end)
{
    cox_status status = COX_OK;
    if (*p == '-' || *p == '+') p++;
    while (*p && strncmp(p, close, 2) != 0 && status == COX_OK) {
        if (*p == '\'' || *p == '"') {
            const char *last = string_end(p);
            status = cox__buffer_append(out, "'", 1);
            if (status == COX_OK) status = cox__buffer_append(out, p + 1, (size_t)(last - p - 1));
            if (status == COX_OK) status = cox__buffer_append(out, "'", 1);
            p = *last ? last + 1 : last;
        } else if (*p == '[') {
            status = add_subscript(out, p, &p);
        } else if (is_space(*p) || (*p == '-' && strncmp(p + 1, close, 2) == 0)) {
            p++;
        } else {
            status = cox__buffer_append(out, p++, 1);
        }
    }
    *end = p;
    return status;
}

/* Comments go; text between statements stays, without its white space. */
static cox_status normalise(const char *text, cox__buffer *out)
{
    cox_status status = COX_OK;
    const char *p = text;
    while (*p && status == COX_OK) {
        bool is_output = strncmp(p, "{{", 2) == 0;
        if (strncmp(p, "{#", 2) == 0) {
            const char *close = strstr(p, "#}");
            p = close ? close + 2 : p + strlen(p);
        } else if (is_output || strncmp(p, "{%", 2) == 0) {
            const char *close = is_output ? "}}" : "%}";
            status = cox__buffer_append(out, p, 2);
            if (status == COX_OK) status = add_statement(out, p + 2, close, &p);
            if (status == COX_OK) status = cox__buffer_append(out, close, 2);
            if (*p) p += 2;
        } else if (is_space(*p)) {
            p++;
        } else {
            status = cox__buffer_append(out, p++, 1);
        }
    }
    return status == COX_OK ? cox__buffer_append(out, "", 1) : status;
}

static bool matches(const known_template *k, const char *normal)
{
    size_t n_required = sizeof k->required / sizeof k->required[0];
    size_t n_forbidden = sizeof k->forbidden / sizeof k->forbidden[0];
    for (size_t i = 0; i < n_required && k->required[i]; i++) {
        if (!strstr(normal, k->required[i])) return false;
    }
    for (size_t i = 0; i < n_forbidden && k->forbidden[i]; i++) {
        if (strstr(normal, k->forbidden[i])) return false;
    }
    return true;
}

static cox_status recognise(const char *text, const char *where, const known_template **found)
{
    cox__buffer normal = {0};
    cox_status status = normalise(text, &normal);
    size_t i = 0;
    while (status == COX_OK && i < N_KNOWN && !matches(&known[i], normal.bytes)) i++;
    cox__buffer_free(&normal);
    if (status != COX_OK) return status;
    if (i == N_KNOWN)
        return cox_fail(COX_UNSUPPORTED, "%s: this chat template is not recognised; " WHAT_TO_DO, where);
    *found = &known[i];
    return COX_OK;
}

/* ---- the folder --------------------------------------------------------------------------------- */

static cox_status join(char path[4096], const char *folder, const char *file)
{
    if (snprintf(path, 4096, "%s/%s", folder, file) < 4096) return COX_OK;
    return cox_fail(COX_INVALID, "the folder's name is too long: %.64s...", folder);
}

/* A whole small file, NUL-terminated. *text stays NULL when there is no such file. */
static cox_status read_file(const char *path, char **text)
{
    enum { MOST = 4 << 20 };
    FILE *file = fopen(path, "rb");
    if (!file) return COX_OK;
    char *bytes = malloc(MOST + 1);
    if (!bytes) {
        fclose(file);
        return cox_fail(COX_NO_MEMORY, "out of memory for %s", path);
    }
    size_t n = fread(bytes, 1, MOST + 1, file);
    bool is_bad = ferror(file) != 0;
    fclose(file);
    if (is_bad || n > MOST || memchr(bytes, 0, n)) {
        free(bytes);
        return is_bad ? cox_fail(COX_IO, "%s: cannot read", path)
                      : cox_fail(COX_BAD_FILE, "%s: this is not a template (%s)", path,
                                 n > MOST ? "too large" : "it holds NUL bytes");
    }
    bytes[n] = '\0';
    *text = bytes;
    return COX_OK;
}

/* The optional JSON file of a folder; *value stays NULL when there is none. */
static cox_status read_json(const char *folder, const char *file, json_t **value)
{
    char path[4096];
    cox_status status = join(path, folder, file);
    if (status == COX_OK) status = cox_json_load_python_file(value, path);
    if (status == COX_OK && !json_is_object(*value))
        return cox_fail(COX_BAD_FILE, "%s: must be an object", path);
    return status == COX_NOT_FOUND ? COX_OK : status;
}

/* A token in either spelling: "text" or {"content": "text"}. */
static const char *token_text(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    return json_is_object(value) ? json_string_value(json_object_get(value, "content"))
                                 : json_string_value(value);
}

static cox_status set_token(char **token, const json_t *config, const json_t *map, const char *key)
{
    const char *text = token_text(config, key);
    if (!text && !json_object_get(config, key)) text = token_text(map, key);
    if (!text) return COX_OK;
    *token = strdup(text);
    return *token ? COX_OK : cox_fail(COX_NO_MEMORY, "out of memory for a chat template");
}

/* "chat_template": a string, or a list of named ones, of which "default" counts. */
static const char *template_in(const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template");
    if (json_is_string(value)) return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(value, i), "name"));
        if (name && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(json_array_get(value, i), "template"));
        }
    }
    return NULL;
}

static cox_status find_by_name(const char *name, const known_template **found)
{
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (strcmp(known[i].name, name) == 0) {
            *found = &known[i];
            return COX_OK;
        }
    }
    return cox_fail(COX_INVALID, "there is no chat template \"%s\"; known: " KNOWN_NAMES, name);
}

static cox_status find_in_folder(const char *folder, const json_t *config, const known_template **found)
{
    char path[4096], *text = NULL;
    cox_status status = join(path, folder, "chat_template.jinja");
    if (status == COX_OK) status = read_file(path, &text);
    if (status != COX_OK) return status;
    if (text) {
        status = recognise(text, path, found);
        free(text);
        return status;
    }
    const char *inner = template_in(config);
    if (!inner) {
        return cox_fail(
            COX_NOT_FOUND,
            "%s: neither chat_template.jinja nor a \"chat_template\" in tokenizer_config.json; " WHAT_TO_DO,
            folder);
    }
    status = join(path, folder, "tokenizer_config.json");
    return status == COX_OK ? recognise(inner, path, found) : status;
}

static cox_status create(cox_chat_template **chat_template, const known_template *found, const json_t *config,
                         const json_t *map)
{
    cox_chat_template *t = calloc(1, sizeof *t);
    if (!t) return cox_fail(COX_NO_MEMORY, "out of memory for a chat template");
    t->name = found->name;
    t->kind = found->kind;
    t->flags = found->flags;
    cox_chat_options defaults = cox_chat_options_defaults();
    cox_status status = cox_chat_template_set_options(t, &defaults);
    if (status == COX_OK) status = set_token(&t->bos, config, map, "bos_token");
    if (status == COX_OK) status = set_token(&t->eos, config, map, "eos_token");
    if (status == COX_OK)
        *chat_template = t;
    else
        cox_chat_template_destroy(t);
    return status;
}

cox_status cox_chat_template_load(cox_chat_template **chat_template, const char *folder, const char *name)
{
    json_t *config = NULL, *map = NULL;
    const known_template *found = NULL;
    cox_status status = read_json(folder, "tokenizer_config.json", &config);
    if (status == COX_OK) status = read_json(folder, "special_tokens_map.json", &map);
    if (status == COX_OK) status = name ? find_by_name(name, &found) : find_in_folder(folder, config, &found);
    if (status == COX_OK) status = create(chat_template, found, config, map);
    json_decref(config);
    json_decref(map);
    return status;
}

void cox_chat_template_destroy(cox_chat_template *chat_template)
{
    if (!chat_template) return;
    free(chat_template->bos);
    free(chat_template->eos);
    free(chat_template);
}

const char *cox_chat_template_name(const cox_chat_template *chat_template)
{
    return chat_template->name;
}

/* ---- rendering ---------------------------------------------------------------------------------- */

cox_chat_options cox_chat_options_defaults(void)
{
    return (cox_chat_options){.date = NULL, .reasoning_effort = "medium", .enable_thinking = true};
}

static cox_status set_text(char copy[16], const char *text, const char *what)
{
    if (!text) text = "";
    if (strlen(text) >= 16)
        return cox_fail(COX_INVALID, "the chat option %s is too long: \"%s\"", what, text);
    memcpy(copy, text, strlen(text) + 1);
    return COX_OK;
}

cox_status cox_chat_template_set_options(cox_chat_template *chat_template, const cox_chat_options *options)
{
    cox_chat_template changed = *chat_template;
    cox_status status = set_text(changed.date, options->date, "date");
    if (status == COX_OK)
        status = set_text(changed.reasoning_effort, options->reasoning_effort, "reasoning_effort");
    if (status != COX_OK) return status;
    changed.enable_thinking = options->enable_thinking;
    *chat_template = changed;
    return COX_OK;
}

cox_status cox_chat_template_render(const cox_chat_template *chat_template, const cox_chat_message *messages,
                                    size_t n_messages, char **text)
{
    if (n_messages == 0) return cox_fail(COX_INVALID, "a chat needs at least one message");
    cox__buffer out = {0};
    cox_status status = cox__chat_render(chat_template, messages, n_messages, &out);
    if (status == COX_OK) status = cox__buffer_append(&out, "", 1);
    if (status == COX_OK)
        *text = out.bytes;
    else
        cox__buffer_free(&out);
    return status;
}
