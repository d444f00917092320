/* Lines to requests (proto/request.h reads the OpenAI shapes), requests to ids (as the session does it). */
#include "study/prompts.h"

#include <sha2.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "run/io.h"
#include "coordinator/session.h"

typedef struct reader {
    const cox_run *run;
    const cox_prompting *prompting;
    int64_t limit;
    cox_tokenizer *tokenizer;
    cox_chat_template *chat_template;
    char *no_tokenizer, *no_template; /* why there is none */
} reader;

/* --- Files of prompts --- */

static cox_status open_reader(reader *r)
{
    cox_status status = cox_tokenizer_load(&r->tokenizer, r->run->options.model);
    if (status == COX_NOT_FOUND) { /* lines may give token ids */
        r->no_tokenizer = strdup(cox_status_message());
        status = r->no_tokenizer ? COX_OK : cox_no_memory("prompts");
    }
    if (status != COX_OK || r->prompting->is_raw) return status;
    status =
        cox_prompting_load_template(&r->chat_template, r->prompting, r->run->options.model, r->run->chat);
    bool may_do_without = status == COX_UNSUPPORTED || status == COX_NOT_FOUND;
    if (status == COX_OK || r->prompting->template_name || !may_do_without) return status;
    r->no_template = strdup(cox_status_message());
    return r->no_template ? COX_OK : cox_no_memory("prompts");
}

static void close_reader(reader *r)
{
    free(r->no_tokenizer);
    free(r->no_template);
    cox_chat_template_destroy(r->chat_template);
    cox_tokenizer_destroy(r->tokenizer);
}

static cox_status read_text(const reader *r, cox_request *request, const json_t *line, const char *where)
{
    const char *text = NULL;
    cox_status status = cox_json_string(line, where, "prompt", true, &text);
    return status != COX_OK ? status : cox_prompting_make_request(request, r->prompting, text);
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
    } else {
        status = is_batch_line ? cox_request_read_line(request, line, n, where)
                               : cox_request_set_chat(request, json, where);
        if (status == COX_OK) status = cox_prompting_apply(request, r->prompting, where);
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
    if (!lines || !offsets || !all) return cox_no_memory(prompts->path);
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
    if (status == COX_OK && n_ids == 0 && r->no_tokenizer) {
        status = cox_fail(COX_NOT_FOUND, "%s: the prompt is text: %s", where, r->no_tokenizer);
    } else if (status == COX_OK && n_ids == 0) {
        status = cox_session_tokenize(r->tokenizer, r->chat_template, r->no_template, request, &tokens);
        if (status != COX_OK) cox_fail_in(status, "%s", where);
        ids = tokens.ids, n_ids = tokens.n;
    }
    if (status == COX_OK && n_ids == 0) status = cox_fail(COX_INVALID, "%s: the prompt is empty", where);
    if (status == COX_OK && n_ids > (size_t)r->run->model->max_positions) {
        status = cox_fail(COX_TOO_LONG, "%s: the prompt has %zu tokens; %s has a context of %d", where, n_ids,
                          r->run->model->folder, (int)r->run->model->max_positions);
    }
    if (status == COX_OK) status = append(prompts, number, ids, n_ids);
    cox_tokens_free(&tokens);
    cox_request_destroy(request);
    return status;
}

static cox_status read_file(const reader *r, cox_prompts *prompts)
{
    char *text = NULL;
    size_t n_bytes = 0;
    int32_t limit = r->limit ? (int32_t)r->limit : INT32_MAX, number = 0;
    cox_status status = cox_io_read_all(r->run->cluster, prompts->path, &text, &n_bytes);
    if (status != COX_OK) return status;
    SHA256Data((const uint8_t *)text, n_bytes, prompts->sha256);
    for (const char *at = text, *end = text + n_bytes; at < end && prompts->n < limit && status == COX_OK;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        number++;
        cox_cluster_keepalive(r->run->cluster, "reading prompts");
        if (n > strspn(at, " \t\r")) status = add_line(r, prompts, at, n, number);
        at += n + (newline != NULL);
    }
    free(text);
    if (status == COX_OK && prompts->n == 0)
        status = cox_fail(COX_INVALID, "%s: there are no prompts in it", prompts->path);
    return status;
}

cox_status cox_prompts_read(cox_prompts *prompts, const char *const *paths, size_t n, int64_t limit,
                            const cox_run *run)
{
    reader r = {.run = run, .prompting = &run->options.prompting, .limit = limit};
    memset(prompts, 0, n * sizeof *prompts);
    cox_status status = open_reader(&r);
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        prompts[i].path = paths[i];
        status = read_file(&r, &prompts[i]);
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
