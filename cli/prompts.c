/* Lines to requests (proto/request.h reads the OpenAI shapes), requests to ids (as the session does it). */
#include "cli/prompts.h"

#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "cli/io.h"
#include "coordinator/session.h"

typedef struct reader {
    const cox_options *options;
    const cox_model *model;
    cox_tokenizer *tokenizer;
    cox_chat_template *chat_template;
    char *no_template; /* why there is none */
} reader;

cox_status cox_prompts_check_options(const cox_options *options)
{
    if (options->is_raw && options->system)
        return cox_fail(COX_INVALID, "--system needs a chat template; it cannot be used with --raw");
    if (options->is_raw && (options->template_name || options->date))
        return cox_fail(COX_INVALID, "--template and --date cannot be used with --raw");
    return COX_OK;
}

static bool is_date(const char *text)
{
    struct tm date = {0};
    const char *end = strlen(text) == 10 ? strptime(text, "%Y-%m-%d", &date) : NULL;
    return end && !*end;
}

cox_status cox_prompts_load_template(cox_chat_template **chat_template, const cox_options *options)
{
    cox_chat_options chat = cox_chat_options_defaults();
    chat.date = options->date;
    if (chat.date && !is_date(chat.date))
        return cox_fail(COX_INVALID, "--date \"%s\" is no date of the form 2026-11-24", chat.date);
    cox_status status = cox_chat_template_load(chat_template, options->model, options->template_name);
    return status == COX_OK ? cox_chat_template_set_options(*chat_template, &chat) : status;
}

static cox_status open_reader(reader *r)
{
    cox_status status = cox_tokenizer_load(&r->tokenizer, r->options->model);
    if (status != COX_OK || r->options->is_raw) return status;
    status = cox_prompts_load_template(&r->chat_template, r->options);
    bool may_do_without = status == COX_UNSUPPORTED || status == COX_NOT_FOUND;
    if (status == COX_OK || r->options->template_name || !may_do_without) return status;
    r->no_template = strdup(cox_status_message());
    return r->no_template ? COX_OK : cox_fail(COX_NO_MEMORY, "out of memory");
}

static void close_reader(reader *r)
{
    free(r->no_template);
    cox_chat_template_destroy(r->chat_template);
    cox_tokenizer_destroy(r->tokenizer);
}

static cox_status read_text(const reader *r, cox_request *request, const json_t *line, const char *where)
{
    const char *text = NULL;
    cox_status status = cox_json_string(line, where, "prompt", true, &text);
    if (status != COX_OK) return status;
    request->is_chat = !r->options->is_raw;
    if (!request->is_chat) return cox_request_set(&request->prompt, text);
    if (r->options->system) status = cox_request_add_message(request, "system", r->options->system);
    return status != COX_OK ? status : cox_request_add_message(request, "user", text);
}

static cox_status read_messages(cox_request *request, json_t *messages, const char *where)
{
    json_t *body = json_pack("{s:O}", "messages", messages);
    if (!body) return cox_fail(COX_NO_MEMORY, "out of memory for a prompt");
    cox_status status = cox_request_read_body(request, body, true, where);
    json_decref(body);
    return status;
}

static cox_status read_line(const reader *r, cox_request *request, const char *line, size_t n,
                            const char *where)
{
    json_t *json = NULL;
    cox_status status = cox_json_load_line(&json, line, n, where, COX_PROMPT_FORM);
    if (status != COX_OK) return status;
    json_t *messages = json_object_get(json, "messages");
    bool is_batch_line = json_object_get(json, "body"), is_text = json_object_get(json, "prompt");
    if (!is_batch_line && !messages && !is_text) {
        status = cox_fail(COX_BAD_FILE, "%s: has no prompt; a line is %s", where, COX_PROMPT_FORM);
    } else if (is_text && !is_batch_line && !messages) {
        status = read_text(r, request, json, where);
    } else if (r->options->is_raw || r->options->system) {
        status = cox_fail(COX_INVALID,
                          "%s: brings its own messages; %s is for lines of the form {\"prompt\": ...}", where,
                          r->options->is_raw ? "--raw" : "--system");
    } else {
        status = is_batch_line ? cox_request_read_line(request, line, n, where)
                               : read_messages(request, messages, where);
    }
    json_decref(json);
    return status;
}

/* One more prompt at the end of *prompts. */
static cox_status append(cox_prompts *prompts, int32_t line, const int32_t *tokens, size_t n)
{
    size_t count = (size_t)prompts->n;
    int32_t *lines = realloc(prompts->lines, (count + 1) * sizeof *lines);
    if (lines) prompts->lines = lines;
    size_t *offsets = realloc(prompts->offsets, (count + 2) * sizeof *offsets);
    if (offsets) prompts->offsets = offsets;
    int32_t *all = realloc(prompts->tokens, (prompts->n_tokens + n) * sizeof *all);
    if (all) prompts->tokens = all;
    if (!lines || !offsets || !all) return cox_fail(COX_NO_MEMORY, "%s: out of memory", prompts->path);
    memcpy(all + prompts->n_tokens, tokens, n * sizeof *all);
    lines[count] = line;
    offsets[count] = prompts->n_tokens;
    prompts->n_tokens += n;
    offsets[count + 1] = prompts->n_tokens;
    prompts->n++;
    return COX_OK;
}

static cox_status add_line(const reader *r, cox_prompts *prompts, const char *line, size_t n, int32_t number)
{
    char where[512];
    snprintf(where, sizeof where, "%.480s: line %d", prompts->path, (int)number);
    cox_request *request = cox_request_create();
    if (!request) return COX_NO_MEMORY;
    cox_tokens tokens = {0};
    cox_status status = read_line(r, request, line, n, where);
    const int32_t *ids = request->prompt_ids;
    size_t n_ids = request->n_prompt_ids;
    if (status == COX_OK && n_ids == 0) {
        status = cox_session_tokenize(r->tokenizer, r->chat_template, r->no_template, request, &tokens);
        if (status != COX_OK) cox_fail_in(status, "%s", where);
        ids = tokens.ids, n_ids = tokens.n;
    }
    if (status == COX_OK && n_ids == 0) status = cox_fail(COX_INVALID, "%s: the prompt is empty", where);
    if (status == COX_OK && n_ids > (size_t)r->model->max_positions) {
        status = cox_fail(COX_TOO_LONG, "%s: the prompt has %zu tokens; %s has a context of %d", where, n_ids,
                          r->model->folder, (int)r->model->max_positions);
    }
    if (status == COX_OK) status = append(prompts, number, ids, n_ids);
    cox_tokens_free(&tokens);
    cox_request_destroy(request);
    return status;
}

static cox_status read_file(const reader *r, cox_prompts *prompts, cox_cluster *cluster)
{
    char *text = NULL;
    size_t n_bytes = 0;
    int32_t limit = r->options->limit ? (int32_t)r->options->limit : INT32_MAX, number = 0;
    cox_status status = cox_io_read_all(cluster, prompts->path, &text, &n_bytes);
    if (status != COX_OK) return status;
    SHA256Data((const uint8_t *)text, n_bytes, prompts->sha256);
    for (const char *at = text, *end = text + n_bytes; at < end && prompts->n < limit && status == COX_OK;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        number++;
        cox_cluster_keepalive(cluster, "reading prompts");
        if (n > strspn(at, " \t\r")) status = add_line(r, prompts, at, n, number);
        at += n + (newline != NULL);
    }
    free(text);
    if (status == COX_OK && prompts->n == 0)
        status = cox_fail(COX_INVALID, "%s: there are no prompts in it", prompts->path);
    return status;
}

cox_status cox_prompts_read(cox_prompts *prompts, const char *const *paths, size_t n,
                            const cox_options *options, const cox_model *model, cox_cluster *cluster)
{
    reader r = {.options = options, .model = model};
    memset(prompts, 0, n * sizeof *prompts);
    cox_status status = open_reader(&r);
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        prompts[i].path = paths[i];
        status = read_file(&r, &prompts[i], cluster);
    }
    close_reader(&r);
    return status;
}

void cox_prompts_free(cox_prompts *prompts)
{
    free(prompts->lines);
    free(prompts->offsets);
    free(prompts->tokens);
    *prompts = (cox_prompts){0};
}
