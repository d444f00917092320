/* Which template a checkpoint has, and which special tokens: what transformers' from_pretrained makes of the
 * files. Rendering is in chat_forms.c (built-in templates) and chat_process.c (all others). */
#include "model/chat_template.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/nearest.h"
#include "model/chat_template_internal.h"

#define WHAT_TO_DO \
    "name one with --template (" COX__CHAT_FORM_NAMES ", or a file) or give the prompt as it is with --raw"

enum { MAX_TEMPLATE_BYTES = 4 << 20 };

struct cox_chat_template {
    const cox__chat_form *form; /* NULL: the template is not built in */
    json_t *setup;              /* what render_chat.py is told: templates, tokens, kwargs, date, limits */
    char *where;                /* the template's file */
    cox_chat_process *process;  /* borrowed; NULL: there is none */
    bool is_set_up;
    char *trouble; /* why the process cannot be set up */
};

/* ---- files -------------------------------------------------------------------------------------- */

static cox_status join(char path[4096], const char *folder, const char *file)
{
    if (snprintf(path, 4096, "%s/%s", folder, file) < 4096) return COX_OK;
    return cox_fail(COX_INVALID, "the folder's name is too long: %.64s...", folder);
}

/* The text of a template; *text stays NULL when there is no such file. */
static cox_status read_file(const char *path, json_t **text)
{
    char *bytes = NULL;
    size_t n = 0;
    cox_status status = cox_file_read(path, MAX_TEMPLATE_BYTES, &bytes, &n);
    if (status != COX_OK) return status == COX_NOT_FOUND ? COX_OK : status;
    *text = json_stringn(bytes, n); /* NULL: not UTF-8 */
    free(bytes);
    if (*text && strlen(json_string_value(*text)) == n) return COX_OK;
    json_decref(*text);
    *text = NULL;
    return cox_fail(COX_BAD_FILE, "%s: this is not a template (it is not UTF-8, or holds NUL bytes)", path);
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

/* ---- templates ---------------------------------------------------------------------------------- */

static cox_status set_where(cox_chat_template *t, const char *path)
{
    free(t->where);
    t->where = strdup(path);
    return t->where ? COX_OK : cox_no_memory("a chat template");
}

/* Adds the file, if there is one, under a name of n bytes. */
static cox_status add_file(cox_chat_template *t, json_t *templates, const char *path, const char *name,
                           size_t n)
{
    json_t *text = NULL;
    cox_status status = read_file(path, &text);
    if (status != COX_OK || !text) return status;
    if (json_object_setn_new(templates, name, n, text) != 0) return cox_no_memory("a chat template");
    return t->where ? COX_OK : set_where(t, path);
}

static cox_status add_more_files(cox_chat_template *t, json_t *templates, const char *folder)
{
    char inside[4096], path[4096];
    cox_status status = join(inside, folder, "additional_chat_templates");
    DIR *entries = status == COX_OK ? opendir(inside) : NULL;
    for (const struct dirent *entry; entries && status == COX_OK && (entry = readdir(entries));) {
        size_t n = strlen(entry->d_name), n_end = sizeof ".jinja" - 1;
        if (n < n_end || strcmp(entry->d_name + n - n_end, ".jinja") != 0) continue;
        status = join(path, inside, entry->d_name);
        if (status == COX_OK) status = add_file(t, templates, path, entry->d_name, n - n_end);
    }
    if (entries) closedir(entries);
    return status;
}

cox_status cox__chat_add_templates(json_t *templates, const json_t *inner)
{
    int failed = json_is_string(inner) ? json_object_set(templates, "default", (json_t *)inner) : 0;
    const char *key;
    json_t *named;
    json_object_foreach((json_t *)inner, key, named)
    {
        if (json_is_string(named)) failed |= json_object_set(templates, key, named);
    }
    for (size_t i = 0; i < json_array_size(inner) && !failed; i++) {
        const json_t *one = json_array_get(inner, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        json_t *text = json_object_get(one, "template");
        if (name && json_is_string(text)) failed = json_object_set(templates, name, text);
    }
    return failed ? cox_no_memory("a chat template") : COX_OK;
}

static cox_status find_in_folder(cox_chat_template *t, json_t *templates, const char *folder,
                                 const json_t *config)
{
    char path[4096];
    cox_status status = join(path, folder, "chat_template.jinja");
    if (status == COX_OK) status = add_file(t, templates, path, "default", strlen("default"));
    if (status == COX_OK) status = add_more_files(t, templates, folder);
    if (status != COX_OK || json_object_size(templates) > 0) return status;
    status = cox__chat_add_templates(templates, json_object_get(config, "chat_template"));
    if (status == COX_OK && json_object_size(templates) == 0) {
        return cox_fail(
            COX_NOT_FOUND,
            "%s: neither chat_template.jinja nor a \"chat_template\" in tokenizer_config.json; " WHAT_TO_DO,
            folder);
    }
    if (status == COX_OK) status = join(path, folder, "tokenizer_config.json");
    return status == COX_OK ? set_where(t, path) : status;
}

static cox_status find_by_name(cox_chat_template *t, json_t *templates, const char *name)
{
    const cox__chat_form *form = cox__chat_form_by_name(name);
    if (!form) {
        cox_status status = add_file(t, templates, name, "default", strlen("default"));
        if (status != COX_OK || t->where) return status;
        cox_nearest nearest = cox_nearest_to(name, strlen(name));
        cox_nearest_offer_words(&nearest, COX__CHAT_FORM_NAMES, ", ");
        return cox_fail(COX_INVALID,
                        "--template %s: neither a file nor a built-in template; known: " COX__CHAT_FORM_NAMES
                        "%s",
                        name, nearest.hint);
    }
    if (json_object_set_new(templates, "default", json_string(cox__chat_form_text(form))) != 0)
        return cox_no_memory("a chat template");
    return set_where(t, name);
}

bool cox_chat_template_is_built_in(const char *name)
{
    return cox__chat_form_by_name(name) != NULL;
}

/* ---- special tokens ------------------------------------------------------------------------------ */

/* What a tokenizer class has for keys that the files leave out (transformers 5.23:
 * tests/golden/chat/tokens.json). */
static const struct class_default {
    const char *class_name, *key, *token;
} class_defaults[] = {
    {"Qwen2Tokenizer", "unk_token", "<|endoftext|>"},   {"Qwen2Tokenizer", "eos_token", "<|endoftext|>"},
    {"Qwen2Tokenizer", "pad_token", "<|endoftext|>"},   {"GPT2Tokenizer", "unk_token", "<|endoftext|>"},
    {"GPT2Tokenizer", "bos_token", "<|endoftext|>"},    {"GPT2Tokenizer", "eos_token", "<|endoftext|>"},
    {"GPTNeoXTokenizer", "unk_token", "<|endoftext|>"}, {"GPTNeoXTokenizer", "bos_token", "<|endoftext|>"},
    {"GPTNeoXTokenizer", "eos_token", "<|endoftext|>"}, {"GPTNeoXTokenizer", "pad_token", "<|padding|>"},
};

/* A token in either spelling: "text" or {"content": "text"}. */
static json_t *token_of(json_t *value)
{
    json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
    return json_is_string(text) ? text : NULL;
}

static bool ends_in_token(const char *key)
{
    size_t n = strlen(key), n_end = sizeof "_token" - 1;
    return n > n_end && strcmp(key + n - n_end, "_token") == 0;
}

int cox__chat_add_tokens(json_t *tokens, const json_t *file, bool has_any_name)
{
    const char *key = NULL;
    json_t *value = NULL;
    int failed = 0;
    json_object_foreach((json_t *)file, key, value)
    {
        bool is_extra =
            strcmp(key, "extra_special_tokens") == 0 || strcmp(key, "model_specific_special_tokens") == 0;
        if (is_extra && json_is_object(value)) failed |= cox__chat_add_tokens(tokens, value, true);
        if (is_extra || (!has_any_name && !ends_in_token(key))) continue;
        json_t *token = token_of(value);
        if (token) failed |= json_object_set(tokens, key, token);
        if (json_is_null(value)) json_object_del(tokens, key);
    }
    return failed;
}

/* What the tokenizer's class brings. The class that tokenizer_config.json names counts, but not in the
 * Mixtral family; where it names none, two families have one. */
static cox_status add_class_tokens(json_t *tokens, const char *folder, const json_t *config)
{
    json_t *model = NULL;
    cox_status status = read_json(folder, "config.json", &model);
    const char *family = json_string_value(json_object_get(model, "model_type")),
               *name = json_string_value(json_object_get(config, "tokenizer_class"));
    if (!family || strcmp(family, "mixtral") == 0)
        name = "";
    else if (!name)
        name = strcmp(family, "olmoe") == 0       ? "GPTNeoXTokenizer"
               : strcmp(family, "qwen3_moe") == 0 ? "Qwen2Tokenizer"
                                                  : "";
    size_t n = strlen(name), n_end = sizeof "Fast" - 1;
    if (n > n_end && strcmp(name + n - n_end, "Fast") == 0) n -= n_end;
    int failed = 0;
    for (size_t i = 0; i < sizeof class_defaults / sizeof *class_defaults; i++) {
        const struct class_default *d = &class_defaults[i];
        if (strlen(d->class_name) == n && memcmp(d->class_name, name, n) == 0)
            failed |= json_object_set_new(tokens, d->key, json_string(d->token));
    }
    json_decref(model);
    return status == COX_OK && failed ? cox_no_memory("a chat template") : status;
}

/* special_tokens_map.json counts where tokenizer_config.json has no added_tokens_decoder, and more than it.
 */
static cox_status add_all_tokens(json_t *tokens, const char *folder, const json_t *config)
{
    json_t *map = NULL;
    cox_status status = add_class_tokens(tokens, folder, config);
    int failed = cox__chat_add_tokens(tokens, config, false);
    if (status == COX_OK && !json_object_get(config, "added_tokens_decoder"))
        status = read_json(folder, "special_tokens_map.json", &map);
    if (map) failed |= cox__chat_add_tokens(tokens, map, false);
    json_decref(map);
    return status == COX_OK && failed ? cox_no_memory("a chat template") : status;
}

/* ---- options ------------------------------------------------------------------------------------- */

static cox_status add_kwargs(json_t *setup, const char *text)
{
    json_t *kwargs = NULL;
    if (!text)
        return json_object_set_new(setup, "kwargs", json_object()) == 0 ? COX_OK
                                                                        : cox_no_memory("a chat template");
    cox_status status = cox_json_load_text(&kwargs, text, strlen(text), "--template-kwargs");
    if (status == COX_BAD_FILE) return cox_fail(COX_INVALID, "%s", cox_status_message());
    if (status == COX_OK && !json_is_object(kwargs))
        status = cox_fail(COX_INVALID, "--template-kwargs must be a JSON object");
    if (status == COX_OK && json_object_set(setup, "kwargs", kwargs) != 0)
        status = cox_no_memory("a chat template");
    json_decref(kwargs);
    return status;
}

static cox_status add_date(json_t *setup, const char *date)
{
    struct tm day = {0};
    const char *end = date && strlen(date) == 10 ? strptime(date, "%Y-%m-%d", &day) : NULL;
    if (date && (!end || *end))
        return cox_fail(COX_INVALID, "--date \"%s\" is no date of the form 2026-11-24", date);
    return json_object_set_new(setup, "date", date ? json_string(date) : json_null()) == 0
               ? COX_OK
               : cox_no_memory("a chat template");
}

/* ---- loading ------------------------------------------------------------------------------------- */

static cox_status fill(cox_chat_template *t, const char *folder, const cox_chat_options *options)
{
    json_t *config = NULL, *templates = json_object(), *tokens = json_object();
    t->setup = json_pack("{s:o, s:o, s:{s:i, s:i, s:i, s:i}}", "templates", templates, "tokens", tokens,
                         "limits", "cpu_s", COX_CHAT_CPU_S, "clock_s", COX_CHAT_CLOCK_S, "bytes",
                         COX_CHAT_MEMORY_BYTES, "characters", COX_CHAT_TEXT_CHARACTERS);
    if (!t->setup) return cox_no_memory("a chat template");
    cox_status status = add_date(t->setup, options->date);
    if (status == COX_OK) status = add_kwargs(t->setup, options->kwargs);
    if (status == COX_OK) status = read_json(folder, "tokenizer_config.json", &config);
    if (status == COX_OK) status = add_all_tokens(tokens, folder, config);
    if (status == COX_OK) {
        status = options->name ? find_by_name(t, templates, options->name)
                               : find_in_folder(t, templates, folder, config);
    }
    json_decref(config);
    return status;
}

static const char *default_text(const cox_chat_template *t)
{
    return json_string_value(json_object_get(json_object_get(t->setup, "templates"), "default"));
}

/* Why Python is needed, and what else can be done. */
static cox_status explain(const cox_chat_template *t, cox_status status)
{
    const cox__chat_form *near = t->form || !default_text(t) ? NULL : cox__chat_form_nearest(default_text(t));
    const char *why = t->trouble ? t->trouble : "this command has no process for it";
    if (t->form) {
        return cox_fail(
            status,
            "the built-in chat template %s writes plain conversations that end with a user's message by "
            "itself; this one takes the template engine: %s",
            cox__chat_form_name(t->form), why);
    }
    return cox_fail(
        status, "%s: this chat template takes the template engine: %s; %s%s%s--raw takes prompts without one",
        t->where, why, near ? "the built-in template nearest to it is " : "",
        near ? cox__chat_form_name(near) : "", near ? " (--template, but it may differ); " : "");
}

static cox_status set_up(cox_chat_template *t)
{
    if (t->is_set_up) return COX_OK;
    if (t->trouble || !t->process) return explain(t, COX_UNSUPPORTED);
    cox_status status = cox_chat_process_set_up(t->process, t->setup);
    t->is_set_up = status == COX_OK;
    if (status != COX_UNSUPPORTED) return status;
    t->trouble = strdup(cox_status_message());
    return explain(t, status);
}

cox_status cox_chat_template_load(cox_chat_template **chat_template, const char *folder,
                                  const cox_chat_options *options, cox_chat_process *process)
{
    cox_chat_template *t = calloc(1, sizeof *t);
    if (!t) return cox_no_memory("a chat template");
    t->process = process;
    cox_status status = fill(t, folder, options);
    if (status == COX_OK && default_text(t)) t->form = cox__chat_form_by_text(default_text(t));
    if (status == COX_OK && !t->form) status = set_up(t);
    if (status == COX_OK)
        *chat_template = t;
    else
        cox_chat_template_destroy(t);
    return status;
}

void cox_chat_template_destroy(cox_chat_template *t)
{
    if (!t) return;
    json_decref(t->setup);
    free(t->where);
    free(t->trouble);
    free(t);
}

const char *cox_chat_template_name(const cox_chat_template *t)
{
    return t->form ? cox__chat_form_name(t->form) : NULL;
}

/* ---- rendering ---------------------------------------------------------------------------------- */

/* By the built-in template's twin, where it can. */
static cox_status render_form(const cox_chat_template *t, const char *chat, char **text, size_t *n,
                              bool *is_done)
{
    json_t *json = json_loads(chat, 0, NULL);
    cox__buffer out = {0};
    if (!json) return cox_fail(COX_INTERNAL, "a conversation is no JSON");
    const char *date = json_string_value(json_object_get(t->setup, "date"));
    cox_status status =
        cox__chat_form_render(t->form, json, json_object_get(t->setup, "tokens"), date, &out, is_done);
    json_decref(json);
    *n = out.n;
    if (status == COX_OK && *is_done) status = cox__buffer_append(&out, "", 1);
    if (status == COX_OK && *is_done)
        *text = out.bytes;
    else
        cox__buffer_free(&out);
    return status;
}

cox_status cox_chat_template_render(cox_chat_template *t, const char *chat, char **text, size_t *n)
{
    bool is_done = false;
    cox_status status = COX_OK;
    if (t->form && json_object_size(json_object_get(t->setup, "kwargs")) == 0)
        status = render_form(t, chat, text, n, &is_done);
    if (status != COX_OK || is_done) return status;
    status = set_up(t);
    return status == COX_OK ? cox_chat_process_render(t->process, chat, text, n) : status;
}
