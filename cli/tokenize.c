/* coxswain tokenize: text to ids and back, from standard input, without loading a model. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/json.h"
#include "cli/commands.h"
#include "run/io.h"
#include "study/prompts.h"
#include "coordinator/session.h"

static cox_status check(const cox_options *options)
{
    const char *needs = options->conversations     ? "--conversations"
                        : options->system          ? "--system"
                        : options->date            ? "--date"
                        : options->template_name   ? "--template"
                        : options->template_kwargs ? "--template-kwargs"
                                                   : NULL;
    if (options->is_chat && (options->is_decode || options->is_raw))
        return cox_fail(COX_INVALID, "--chat cannot be used with %s", options->is_raw ? "--raw" : "--decode");
    if (!options->is_chat && needs) return cox_fail(COX_INVALID, "%s needs --chat", needs);
    return COX_OK;
}

static cox_status print_ids(const cox_options *options, const cox_tokens *tokens)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < tokens->n; i++) json_array_append_new(ids, json_integer(tokens->ids[i]));
    json_t *json = ids;
    if (options->is_json) json = json_pack("{s:I, s:o}", "n_tokens", (json_int_t)tokens->n, "ids", ids);
    char *line = json_dumps(json, options->is_json ? JSON_COMPACT : 0);
    json_decref(json);
    if (!line) return cox_no_memory("a line");
    cox_status status = cox_io_write_all(NULL, STDOUT_FILENO, line, strlen(line), "standard output");
    if (status == COX_OK) status = cox_io_write_all(NULL, STDOUT_FILENO, "\n", 1, "standard output");
    free(line);
    return status;
}

static cox_status encode(const cox_options *options, const cox_tokenizer *tokenizer, const char *text,
                         size_t n)
{
    cox_tokens tokens = {0};
    cox_status status = cox_tokenizer_encode(tokenizer, text, n, true, &tokens);
    if (status == COX_OK) status = print_ids(options, &tokens);
    cox_tokens_free(&tokens);
    return status;
}

/* --- Chats --- */

typedef struct chats {
    const cox_options *options;
    cox_prompting prompting;
    const cox_tokenizer *tokenizer;
    cox_chat_process *process;
    cox_chat_template *chat_template;
} chats;

/* Standard input as a user's message. */
static cox_status encode_message(const chats *c)
{
    char *text = NULL;
    size_t n = 0;
    cox_tokens tokens = {0};
    cox_request *request = cox_request_create();
    cox_status status = request ? cox_io_read_all(NULL, "-", &text, &n) : COX_NO_MEMORY;
    if (status == COX_OK && strlen(text) != n)
        status = cox_fail(COX_INVALID, "standard input: a message cannot hold a NUL byte");
    if (status == COX_OK) status = cox_tokenizer_check_text("standard input", text, n);
    if (status == COX_OK) status = cox_prompting_make_request(request, &c->prompting, text);
    if (status == COX_OK)
        status = cox_session_tokenize(c->tokenizer, c->chat_template, NULL, request, &tokens);
    if (status == COX_OK) status = print_ids(c->options, &tokens);
    cox_tokens_free(&tokens);
    cox_request_destroy(request);
    free(text);
    return status;
}

/* line: NULL when it was too long. */
static cox_status render_line(const chats *c, const char *line, size_t n_line, const char *where, char **text,
                              size_t *n, cox_tokens *tokens)
{
    json_t *json = NULL;
    cox_request *request = cox_request_create();
    cox_status status = request ? COX_OK : COX_NO_MEMORY;
    if (status == COX_OK && !line)
        status = cox_fail(COX_TOO_LONG, "%s: longer than %d bytes", where, COX_LINE_MAX_BYTES);
    if (status == COX_OK) status = cox_json_load_line(&json, line, n_line, where, "{\"messages\": [...]}");
    if (status == COX_OK) status = cox_request_set_chat(request, json, where);
    if (status == COX_OK) status = cox_prompting_apply(request, &c->prompting, where);
    if (status == COX_OK) {
        status = cox_chat_template_render(c->chat_template, request->chat, text, n);
        if (status == COX_OK) status = cox_tokenizer_encode(c->tokenizer, *text, *n, false, tokens);
        if (status != COX_OK) cox_fail_in(status, "%s", where);
    }
    cox_request_destroy(request);
    json_decref(json);
    return status;
}

/* {"text", "ids"} or {"error"}. Errors are of the output; and IO of the process, which ends them all. */
static cox_status answer_line(const chats *c, const char *line, size_t n_line, const char *where)
{
    char *text = NULL;
    size_t n = 0;
    cox_tokens tokens = {0};
    json_t *json = NULL;
    cox_status status = render_line(c, line, n_line, where, &text, &n, &tokens);
    if (status == COX_OK) {
        json_t *ids = json_array();
        for (size_t i = 0; i < tokens.n; i++) json_array_append_new(ids, json_integer(tokens.ids[i]));
        json = json_pack("{s:s%, s:o}", "text", text, n, "ids", ids);
    } else if (status != COX_IO && status != COX_NO_MEMORY) {
        json = json_pack("{s:{s:s, s:s}}", "error", "code", cox_record_error_code(status), "message",
                         cox_status_message());
    }
    char *out = json ? json_dumps(json, JSON_COMPACT) : NULL;
    if (out) status = cox_io_write_all(NULL, STDOUT_FILENO, out, strlen(out), "standard output");
    if (out && status == COX_OK) status = cox_io_write_all(NULL, STDOUT_FILENO, "\n", 1, "standard output");
    if (!out && status == COX_OK) status = cox_no_memory("an answer");
    free(out);
    json_decref(json);
    free(text);
    cox_tokens_free(&tokens);
    return status;
}

static cox_status encode_conversations(const chats *c)
{
    cox_lines *lines = NULL;
    const char *path = c->options->conversations;
    cox_status status = cox_lines_open(&lines, path);
    for (size_t number = 1; status == COX_OK; number++) {
        cox_line_result result = COX_LINE_END;
        const char *line = NULL;
        size_t n = 0;
        char where[512];
        do {
            status = cox_lines_next(lines, 60, &result, &line, &n);
        } while (status == COX_OK && result == COX_LINE_NONE_NOW);
        if (status != COX_OK || result == COX_LINE_END) break;
        snprintf(where, sizeof where, "%.480s: line %zu", path, number);
        status = answer_line(c, result == COX_LINE_READY ? line : NULL, n, where);
    }
    cox_lines_close(lines);
    return status;
}

static cox_status encode_chats(const cox_options *options, const cox_tokenizer *tokenizer)
{
    chats c = {.options = options, .prompting = cox_options_of_prompting(options), .tokenizer = tokenizer};
    cox_status status = cox_chat_process_start(&c.process, options->python);
    if (status == COX_OK)
        status = cox_prompting_load_template(&c.chat_template, &c.prompting, options->model, c.process);
    if (status == COX_OK) status = options->conversations ? encode_conversations(&c) : encode_message(&c);
    cox_chat_template_destroy(c.chat_template);
    cox_chat_process_stop(c.process);
    return status;
}

/* --- Ids --- */

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

static cox_status convert(const cox_options *options, const cox_tokenizer *tokenizer)
{
    char *text = NULL;
    size_t n = 0;
    cox_status status = cox_io_read_all(NULL, "-", &text, &n);
    if (status == COX_OK && !options->is_decode) status = cox_tokenizer_check_text("standard input", text, n);
    if (status == COX_OK) {
        status = options->is_decode ? decode(options, tokenizer, text) : encode(options, tokenizer, text, n);
    }
    free(text);
    return status;
}

cox_status cox_command_tokenize(const cox_options *options)
{
    cox_status status = check(options);
    if (status != COX_OK) return status;
    cox_tokenizer *tokenizer = NULL;
    status = cox_tokenizer_load(&tokenizer, options->model);
    if (status == COX_OK)
        status = options->is_chat ? encode_chats(options, tokenizer) : convert(options, tokenizer);
    cox_tokenizer_destroy(tokenizer);
    return status;
}
