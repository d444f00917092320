/* Records and their OpenAI shapes. */
#include "proto/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cox_record *cox_record_create(const cox_request *request)
{
    cox_record *record = malloc(sizeof *record);
    if (!record) {
        cox_no_memory("a record");
        return NULL;
    }
    cox__record__init(record);
    record->id = request->id;
    record->is_chat = request->is_chat;
    record->status_code = 200;
    if (cox_request_set(&record->custom_id, request->custom_id) != COX_OK ||
        cox_request_set(&record->model, request->model) != COX_OK ||
        cox_request_set(&record->routes_file, request->routes_file) != COX_OK) {
        cox_record_destroy(record);
        return NULL;
    }
    return record;
}

void cox_record_destroy(cox_record *record)
{
    if (record) cox__record__free_unpacked(record, NULL);
}

const char *cox_record_error_code(cox_status status)
{
    if (status == COX_TOO_LONG) return "context_length_exceeded";
    if (status == COX_UNSUPPORTED) return "unsupported";
    return cox_request_http_status(status) == 400 ? "invalid_request" : "server_error";
}

cox_status cox_record_set_error(cox_record *record, cox_status status, const char *message)
{
    record->status = status;
    record->status_code = cox_request_http_status(status);
    cox_status copied = cox_request_set(&record->error_code, cox_record_error_code(status));
    return copied != COX_OK ? copied : cox_request_set(&record->error_message, message);
}

/* A token's text as JSON; bytes that are no UTF-8 become U+FFFD. */
static json_t *token_text(const Cox__TokenChoice *choice)
{
    json_t *text = json_stringn((const char *)choice->token.data, choice->token.len);
    return text ? text : json_string("\xef\xbf\xbd");
}

/* The bytes of a token's text; null when it is not a whole UTF-8 string by itself. */
static json_t *token_bytes(const Cox__TokenChoice *choice)
{
    for (size_t i = 0; i + 2 < choice->token.len; i++) {
        if (memcmp(choice->token.data + i, "\xef\xbf\xbd", 3) == 0) return json_null();
    }
    json_t *bytes = json_array();
    for (size_t i = 0; i < choice->token.len; i++)
        json_array_append_new(bytes, json_integer(choice->token.data[i]));
    return bytes;
}

static json_t *choice_json(const Cox__TokenChoice *choice)
{
    return json_pack("{s:o, s:f, s:o}", "token", token_text(choice), "logprob", (double)choice->logprob,
                     "bytes", token_bytes(choice));
}

json_t *cox_record_logprobs_json(const cox_record *record)
{
    json_t *content = json_array();
    for (size_t i = 0; i < record->n_logprobs; i++) {
        const Cox__TokenLogprob *entry = record->logprobs[i];
        json_t *item = choice_json(entry->token);
        json_t *top = json_array();
        for (size_t j = 0; j < entry->n_top; j++) json_array_append_new(top, choice_json(entry->top[j]));
        json_object_set_new(item, "top_logprobs", top);
        json_array_append_new(content, item);
    }
    json_t *logprobs = json_pack("{s:o}", "content", content);
    if (!logprobs) cox_no_memory("a record");
    return logprobs;
}

static json_int_t n_code_points(const void *text, size_t n_bytes)
{
    const unsigned char *bytes = text;
    json_int_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) n += (bytes[i] & 0xc0) != 0x80;
    return n;
}

static json_t *top_json(const Cox__TokenLogprob *entry)
{
    json_t *top = json_object();
    for (size_t j = 0; j < entry->n_top; j++) {
        json_t *text = token_text(entry->top[j]);
        /* Two tokens can have one text; the more likely one, which comes first, keeps the key. */
        if (!json_object_get(top, json_string_value(text))) {
            json_object_set_new(top, json_string_value(text), json_real((double)entry->top[j]->logprob));
        }
        json_decref(text);
    }
    return top;
}

/* Completions: parallel lists of tokens, their log probabilities, alternatives and offsets in the text; with
 * echo those of the prompt first, of which nothing foretold the first token. */
static json_t *completion_logprobs(const cox_record *record, const cox_record *answer)
{
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array();
    json_int_t offset =
        record->has_echo ? n_code_points(record->prompt_text, strlen(record->prompt_text)) : 0;
    size_t n_prompt = record->n_prompt_logprobs;
    for (size_t i = 0; i < n_prompt + answer->n_logprobs; i++) {
        const Cox__TokenLogprob *entry =
            i < n_prompt ? record->prompt_logprobs[i] : answer->logprobs[i - n_prompt];
        bool is_first = i == 0 && n_prompt > 0;
        json_array_append_new(tokens, token_text(entry->token));
        json_array_append_new(values, is_first ? json_null() : json_real((double)entry->token->logprob));
        json_array_append_new(tops, is_first ? json_null() : top_json(entry));
        json_array_append_new(offsets, json_integer(i < n_prompt ? record->prompt_offsets[i] : offset));
        if (i >= n_prompt) offset += n_code_points(entry->token->token.data, entry->token->token.len);
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}

int32_t cox_record_n_generated(const cox_record *record)
{
    int32_t n = record->n_generated;
    for (size_t i = 0; i < record->n_others; i++) n += record->others[i]->n_generated;
    return n;
}

json_t *cox_record_usage_json(const cox_record *record)
{
    int32_t n_generated = cox_record_n_generated(record);
    return json_pack("{s:i, s:i, s:i, s:{s:i}}", "prompt_tokens", record->n_prompt, "completion_tokens",
                     n_generated, "total_tokens", record->n_prompt + n_generated, "prompt_tokens_details",
                     "cached_tokens", record->n_cached);
}

/* An intervention that touched nothing has neither a place nor a mean. */
static json_t *hits_json(const Cox__SteerHits *hits)
{
    bool is_none = hits->n_prompt + hits->n_generated == 0;
    return json_pack(
        "{s:i, s:s, s:s, s:o, s:o, s:i, s:i, s:o, s:o}", "intervention", hits->intervention, "site",
        hits->site, "op", hits->op, "layer", hits->layer < 0 ? json_null() : json_integer(hits->layer),
        "expert", hits->expert < 0 ? json_null() : json_integer(hits->expert), "prompt", hits->n_prompt,
        "generated", hits->n_generated, "norm_there", is_none ? json_null() : json_real(hits->norm_there),
        "norm_added", is_none ? json_null() : json_real(hits->norm_added));
}

static json_t *steering_json(const Cox__SteeringRecord *steering)
{
    json_t *hits = json_array();
    for (size_t i = 0; i < steering->n_hits; i++) json_array_append_new(hits, hits_json(steering->hits[i]));
    return json_pack("{s:s, s:b, s:o}", "plan", steering->plan, "forced", (int)steering->was_forced, "hits",
                     hits);
}

json_t *cox_record_extras_json(const cox_record *record)
{
    json_t *extras = json_object();
    if (record->has_no_text) {
        json_t *ids = json_array();
        for (size_t i = 0; i < record->n_token_ids; i++)
            json_array_append_new(ids, json_integer(record->token_ids[i]));
        json_object_set_new(extras, "token_ids", ids);
    }
    if (*record->digest) json_object_set_new(extras, "logits_digest", json_string(record->digest));
    if (record->steering) json_object_set_new(extras, "steering", steering_json(record->steering));
    if (record->routes) json_object_set_new(extras, "routes", json_string(record->routes_file));
    return extras;
}

/* Prompt, if it is echoed, and answer. */
static json_t *completion_text(const cox_record *record, const cox_record *answer)
{
    if (!record->has_echo) return json_string(answer->text);
    return json_sprintf("%s%s", record->prompt_text, answer->text);
}

static void set_extras(json_t *object, const cox_record *answer)
{
    json_t *extras = cox_record_extras_json(answer);
    if (json_object_size(extras) > 0) json_object_set(object, "coxswain", extras);
    json_decref(extras);
}

/* answer: the record itself, or one of its others. */
static json_t *answer_json(const cox_record *record, const cox_record *answer, size_t index)
{
    json_t *choice =
        json_pack("{s:I, s:s}", "index", (json_int_t)index, "finish_reason", answer->finish_reason);
    if (record->is_chat) {
        json_object_set_new(choice, "message",
                            json_pack("{s:s, s:s}", "role", "assistant", "content", answer->text));
    } else {
        json_object_set_new(choice, "text",
                            answer->has_no_text ? json_null() : completion_text(record, answer));
    }
    json_t *logprobs = !answer->has_logprobs ? json_null()
                       : record->is_chat     ? cox_record_logprobs_json(answer)
                                             : completion_logprobs(record, answer);
    json_object_set_new(choice, "logprobs", logprobs);
    if (record->n_others > 0) set_extras(choice, answer);
    return choice;
}

static json_t *answer_body(const cox_record *record, int64_t created_s, const char *model)
{
    char id[64];
    snprintf(id, sizeof id, "%s-%" PRIu64, record->is_chat ? "chatcmpl" : "cmpl", record->id);
    json_t *choices = json_array();
    json_array_append_new(choices, answer_json(record, record, 0));
    for (size_t i = 0; i < record->n_others; i++)
        json_array_append_new(choices, answer_json(record, record->others[i], i + 1));
    json_t *body =
        json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", id, "object",
                  record->is_chat ? "chat.completion" : "text_completion", "created", (json_int_t)created_s,
                  "model", model, "choices", choices, "usage", cox_record_usage_json(record));
    if (record->n_others == 0) set_extras(body, record);
    return body;
}

json_t *cox_record_to_batch_line(const cox_record *record, int64_t created_s, const char *default_model)
{
    char id[64], request_id[64];
    snprintf(id, sizeof id, "batch_req_%" PRIu64, record->id);
    snprintf(request_id, sizeof request_id, "req_%" PRIu64, record->id);
    const char *model = *record->model ? record->model : default_model;
    json_t *body = NULL, *error = json_null();
    if (record->status_code == 200) {
        body = answer_body(record, created_s, model);
    } else {
        const char *type = record->status_code == 400 ? "invalid_request_error" : "server_error";
        body = json_pack("{s:{s:s, s:s, s:n, s:s}}", "error", "message", record->error_message, "type", type,
                         "param", "code", record->error_code);
        error = json_pack("{s:s, s:s}", "code", record->error_code, "message", record->error_message);
    }
    json_t *custom_id = *record->custom_id ? json_string(record->custom_id) : json_null();
    json_t *line =
        json_pack("{s:s, s:o, s:{s:i, s:s, s:o}, s:o}", "id", id, "custom_id", custom_id, "response",
                  "status_code", record->status_code, "request_id", request_id, "body", body, "error", error);
    if (!line) cox_no_memory("a record");
    return line;
}
