/* coxswain tokenize: text to ids and back, from standard input, without loading a model. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/commands.h"
#include "cli/io.h"
#include "cli/prompts.h"
#include "coordinator/session.h"

static cox_status check(const cox_options *options)
{
    if (options->is_decode && options->is_chat)
        return cox_fail(COX_INVALID, "--chat cannot be used with --decode");
    if (!options->is_chat && (options->system || options->template_name || options->date)) {
        return cox_fail(COX_INVALID, "%s needs --chat",
                        options->system ? "--system"
                        : options->date ? "--date"
                                        : "--template");
    }
    return COX_OK;
}

/* The text as a request: a user's message, or plain. */
static cox_status make_request(const cox_options *options, const char *text, cox_request *request)
{
    request->is_chat = options->is_chat;
    if (!options->is_chat) return cox_request_set(&request->prompt, text);
    cox_status status = COX_OK;
    if (options->system) status = cox_request_add_message(request, "system", options->system);
    return status != COX_OK ? status : cox_request_add_message(request, "user", text);
}

static cox_status print_ids(const cox_options *options, const cox_tokens *tokens)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < tokens->n; i++) json_array_append_new(ids, json_integer(tokens->ids[i]));
    json_t *json = ids;
    if (options->is_json) json = json_pack("{s:I, s:o}", "n_tokens", (json_int_t)tokens->n, "ids", ids);
    char *line = json_dumps(json, options->is_json ? JSON_COMPACT : 0);
    json_decref(json);
    if (!line) return cox_fail(COX_NO_MEMORY, "out of memory");
    cox_status status = cox_io_write_all(NULL, STDOUT_FILENO, line, strlen(line), "standard output");
    if (status == COX_OK) status = cox_io_write_all(NULL, STDOUT_FILENO, "\n", 1, "standard output");
    free(line);
    return status;
}

static cox_status encode(const cox_options *options, const cox_tokenizer *tokenizer, const char *text,
                         size_t n)
{
    cox_tokens tokens = {0};
    cox_status status = COX_OK;
    if (!options->is_chat) {
        status = cox_tokenizer_encode(tokenizer, text, n, true, &tokens);
    } else if (strlen(text) != n) {
        status = cox_fail(COX_INVALID, "standard input: a message cannot hold a NUL byte");
    } else {
        cox_chat_template *chat_template = NULL;
        cox_request *request = cox_request_create();
        status = request ? cox_prompts_load_template(&chat_template, options) : COX_NO_MEMORY;
        if (status == COX_OK) status = make_request(options, text, request);
        if (status == COX_OK) status = cox_session_tokenize(tokenizer, chat_template, NULL, request, &tokens);
        cox_chat_template_destroy(chat_template);
        cox_request_destroy(request);
    }
    if (status == COX_OK) status = print_ids(options, &tokens);
    cox_tokens_free(&tokens);
    return status;
}

static cox_status decode(const cox_options *options, const cox_tokenizer *tokenizer, const char *text)
{
    int32_t *ids = NULL;
    size_t n_ids = 0, n = 0;
    char *decoded = NULL;
    cox_status status = cox_io_parse_ids(text, "standard input", &ids, &n_ids);
    for (size_t i = 0; i < n_ids && status == COX_OK; i++) {
        if (ids[i] < cox_tokenizer_n_ids(tokenizer)) continue;
        status = cox_fail(COX_INVALID, "standard input: %d is no id of this tokenizer, which has 0 to %d",
                          ids[i], cox_tokenizer_n_ids(tokenizer) - 1);
    }
    if (status == COX_OK) status = cox_tokenizer_decode(tokenizer, ids, n_ids, false, &decoded, &n);
    if (status == COX_OK && options->is_json) {
        json_t *json = json_pack("{s:I, s:s%}", "n_tokens", (json_int_t)n_ids, "text", decoded, n);
        char *line = json ? json_dumps(json, JSON_COMPACT) : NULL;
        json_decref(json);
        free(decoded);
        decoded = line;
        n = line ? strlen(line) : 0;
        if (!line) status = cox_fail(COX_INVALID, "standard input: the ids' text cannot be written as JSON");
    }
    if (status == COX_OK) status = cox_io_write_all(NULL, STDOUT_FILENO, decoded, n, "standard output");
    if (status == COX_OK && options->is_json)
        status = cox_io_write_all(NULL, STDOUT_FILENO, "\n", 1, "standard output");
    free(ids);
    free(decoded);
    return status;
}

cox_status cox_command_tokenize(const cox_options *options)
{
    cox_status status = check(options);
    if (status != COX_OK) return status;
    cox_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t n = 0;
    status = cox_tokenizer_load(&tokenizer, options->model);
    if (status == COX_OK) status = cox_io_read_all(NULL, "-", &text, &n);
    if (status == COX_OK) {
        if (!options->is_decode) status = cox_tokenizer_check_text("standard input", text, n);
    }
    if (status == COX_OK) {
        status = options->is_decode ? decode(options, tokenizer, text) : encode(options, tokenizer, text, n);
    }
    free(text);
    cox_tokenizer_destroy(tokenizer);
    return status;
}
