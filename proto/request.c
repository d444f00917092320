/*
 * OpenAI bodies to requests. One table names every field of both bodies that we know, and what becomes
 * of it: read, ignored because it cannot change the answer, or accepted only with the value that means
 * "off". All others are refused.
 */
#include "proto/request.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

cox_request *cox_request_create(void)
{
    cox_request *request = malloc(sizeof *request);
    Cox__SamplingFields *sampling = malloc(sizeof *sampling);
    if (!request || !sampling) {
        free(request);
        free(sampling);
        cox_no_memory("a request");
        return NULL;
    }
    cox__request__init(request);
    cox__sampling_fields__init(sampling);
    sampling->top_p = 1.0f;
    sampling->repetition_penalty = 1.0f;
    sampling->n_logprobs = -1;
    request->sampling = sampling;
    return request;
}

void cox_request_destroy(cox_request *request)
{
    if (request) cox__request__free_unpacked(request, NULL);
}

cox_status cox_request_set(char **field, const char *text)
{
    char *copy = strdup(text);
    if (!copy) return cox_no_memory("a request");
    if (*field != protobuf_c_empty_string) free(*field);
    *field = copy;
    return COX_OK;
}

/* Room for one more pointer in a list of n. */
static cox_status grow(void *list, size_t n)
{
    void **items = NULL;
    memcpy(&items, list, sizeof items);
    void **larger = realloc(items, (n + 1) * sizeof *larger);
    if (!larger) return cox_no_memory("a request");
    memcpy(list, &larger, sizeof larger);
    return COX_OK;
}

static cox_status set_json(char **field, const json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    if (!text) return cox_no_memory("a request");
    if (*field != protobuf_c_empty_string) free(*field);
    *field = text;
    return COX_OK;
}

cox_status cox_request_set_user(cox_request *request, const char *content)
{
    json_t *text = json_string(content);
    if (!text) return cox_fail(COX_INVALID, "the prompt is not valid UTF-8");
    json_t *chat = json_pack("{s:[{s:s, s:o}]}", "messages", "role", "user", "content", text);
    cox_status status = set_json(&request->chat, chat);
    json_decref(chat);
    request->is_chat = true;
    return status;
}

cox_status cox_request_add_stop(cox_request *request, const char *stop)
{
    if (*stop == '\0') return cox_fail(COX_INVALID, "a stop string is empty");
    if (request->n_stop >= COX_REQUEST_MAX_STOPS) {
        return cox_fail(COX_INVALID, "more than %d stop strings", COX_REQUEST_MAX_STOPS);
    }
    cox_status status = grow(&request->stop, request->n_stop);
    if (status != COX_OK) return status;
    char *copy = strdup(stop);
    if (!copy) return cox_no_memory("a request");
    request->stop[request->n_stop++] = copy;
    return COX_OK;
}

static cox_status make_steering(cox_request *request)
{
    if (request->steering) return COX_OK;
    request->steering = malloc(sizeof *request->steering);
    if (!request->steering) return cox_no_memory("a request");
    cox__steering__init(request->steering);
    return COX_OK;
}

cox_status cox_request_set_steering(cox_request *request, const char *json)
{
    cox_status status = make_steering(request);
    return status != COX_OK ? status : cox_request_set(&request->steering->json, json);
}

cox_status cox_request_set_plan(cox_request *request, const void *packed, size_t n_bytes, const char *name,
                                bool was_forced)
{
    cox_status status = make_steering(request);
    uint8_t *copy = status == COX_OK ? malloc(n_bytes) : NULL;
    if (!copy) return cox_no_memory("a request");
    memcpy(copy, packed, n_bytes);
    free(request->steering->plan.data);
    request->steering->plan = (ProtobufCBinaryData){.data = copy, .len = n_bytes};
    request->steering->was_forced = was_forced;
    status = cox_request_set(&request->steering->name, name);
    return status != COX_OK ? status : cox_request_set(&request->steering->json, "");
}

/* --- Fields with a shape of their own --- */

/* What a chat template is given. */
static const struct chat_field {
    const char *key;
    json_type type;
    const char *should_be;
} chat_fields[] = {
    {"messages", JSON_ARRAY, "a list with at least one message"},
    {"tools", JSON_ARRAY, "a list"},
    {"documents", JSON_ARRAY, "a list"},
    {"chat_template_kwargs", JSON_OBJECT, "an object"},
    {"add_generation_prompt", JSON_TRUE, "true or false"},
};

static cox_status check_chat_field(const struct chat_field *field, const json_t *value, const char *where)
{
    bool is_messages = field == &chat_fields[0];
    if (json_is_null(value) && !is_messages) return COX_OK;
    bool is_of_type = json_is_boolean(value) ? field->type == JSON_TRUE : json_typeof(value) == field->type;
    if (!is_of_type || (is_messages && json_array_size(value) == 0))
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be %s", where, field->key, field->should_be);
    for (size_t i = 0; is_messages && i < json_array_size(value); i++) {
        if (!json_is_object(json_array_get(value, i)))
            return cox_fail(COX_BAD_FILE, "%s: message %zu must be an object", where, i);
    }
    return COX_OK;
}

cox_status cox_request_set_chat(cox_request *request, const json_t *body, const char *where)
{
    json_t *chat = json_object();
    cox_status status = chat ? COX_OK : cox_no_memory("a request");
    for (size_t i = 0; i < sizeof chat_fields / sizeof *chat_fields && status == COX_OK; i++) {
        json_t *value = json_object_get(body, chat_fields[i].key);
        if (i > 0 && (!value || json_is_null(value))) continue; /* null: left out */
        status = check_chat_field(&chat_fields[i], value ? value : json_null(), where);
        if (status == COX_OK && json_object_set(chat, chat_fields[i].key, value) != 0)
            status = cox_no_memory("a request");
    }
    if (status == COX_OK) status = set_json(&request->chat, chat);
    json_decref(chat);
    request->is_chat = true;
    return status;
}

static cox_status read_prompt_ids(cox_request *request, const json_t *value, const char *where)
{
    size_t n = json_array_size(value);
    request->prompt_ids = malloc(n * sizeof *request->prompt_ids);
    if (!request->prompt_ids) return cox_no_memory("a request");
    request->n_prompt_ids = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX) {
            return cox_fail(COX_BAD_FILE, "%s: element %zu of \"prompt\" is not a token id", where, i);
        }
        request->prompt_ids[i] = (int32_t)json_integer_value(id);
    }
    return COX_OK;
}

static cox_status read_prompt(cox_request *request, const json_t *value, const char *where)
{
    if (json_is_array(value) && json_array_size(value) == 1 && !json_is_integer(json_array_get(value, 0))) {
        value = json_array_get(value, 0);
    }
    if (json_is_string(value)) return cox_request_set(&request->prompt, json_string_value(value));
    if (json_is_array(value) && json_array_size(value) > 0) {
        if (json_is_integer(json_array_get(value, 0))) return read_prompt_ids(request, value, where);
        return cox_fail(COX_UNSUPPORTED,
                        "%s: key \"prompt\" has several prompts; give each a line of its own", where);
    }
    return cox_fail(COX_BAD_FILE, "%s: key \"prompt\" must be a string or a list of token ids", where);
}

static cox_status read_stop(cox_request *request, const json_t *value, const char *where)
{
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *stop = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(stop)) {
            return cox_fail(COX_BAD_FILE, "%s: key \"stop\" must be a string or a list of strings", where);
        }
        cox_status status = cox_request_add_stop(request, json_string_value(stop));
        if (status != COX_OK) return cox_fail_in(status, "%s: key \"stop\"", where);
    }
    return COX_OK;
}

/* Completions say how many alternatives, chats say true and then top_logprobs. */
static cox_status read_logprobs(cox_request *request, const json_t *value, const char *where)
{
    if (!request->is_chat) {
        if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > 20) {
            return cox_fail(COX_BAD_FILE, "%s: key \"logprobs\" must be a whole number from 0 to 20", where);
        }
        request->sampling->n_logprobs = (int32_t)json_integer_value(value);
        return COX_OK;
    }
    if (!json_is_boolean(value))
        return cox_fail(COX_BAD_FILE, "%s: key \"logprobs\" must be true or false", where);
    if (json_is_true(value) && request->sampling->n_logprobs < 0) request->sampling->n_logprobs = 0;
    return COX_OK;
}

static cox_status read_top_logprobs(cox_request *request, const json_t *body, const char *where)
{
    int64_t n = -1;
    cox_status status = cox_json_int(body, where, "top_logprobs", false, 0, 20, &n);
    if (status != COX_OK || n < 0) return status;
    if (!json_is_true(json_object_get(body, "logprobs"))) {
        if (n == 0) return COX_OK;
        return cox_fail(COX_INVALID, "%s: \"top_logprobs\" needs \"logprobs\": true", where);
    }
    request->sampling->n_logprobs = (int32_t)n;
    return COX_OK;
}

/* Kept as text: what it means is for those who know the model. */
static cox_status read_steering(cox_request *request, const json_t *value, const char *where)
{
    if (!json_is_object(value)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"steering\" must be a plan or {\"plan\": \"path\"}", where);
    }
    char *text = json_dumps(value, JSON_COMPACT);
    cox_status status = text ? cox_request_set_steering(request, text) : cox_no_memory("a request");
    free(text);
    return status;
}

/* --- The table --- */

enum { IN_CHAT = 1, IN_COMPLETION = 2, IN_BOTH = 3 };

typedef enum field_kind {
    FIELD_READ,    /* by read_fields */
    FIELD_IGNORED, /* cannot change the answer */
    FIELD_ONE,     /* accepted when 1 */
    FIELD_FALSE,   /* accepted when false */
    FIELD_EMPTY,   /* accepted when null, empty, or {"type": "text"} */
} field_kind;

static const struct field {
    const char *name;
    int bodies;
    field_kind kind;
} fields[] = {
    {"model", IN_BOTH, FIELD_READ},
    {"messages", IN_CHAT, FIELD_READ},
    {"tools", IN_CHAT, FIELD_READ},
    {"documents", IN_CHAT, FIELD_READ},
    {"chat_template_kwargs", IN_CHAT, FIELD_READ},
    {"add_generation_prompt", IN_CHAT, FIELD_READ},
    {"prompt", IN_COMPLETION, FIELD_READ},
    {"max_tokens", IN_BOTH, FIELD_READ},
    {"max_completion_tokens", IN_CHAT, FIELD_READ},
    {"temperature", IN_BOTH, FIELD_READ},
    {"top_p", IN_BOTH, FIELD_READ},
    {"top_k", IN_BOTH, FIELD_READ},
    {"min_p", IN_BOTH, FIELD_READ},
    {"repetition_penalty", IN_BOTH, FIELD_READ},
    {"presence_penalty", IN_BOTH, FIELD_READ},
    {"frequency_penalty", IN_BOTH, FIELD_READ},
    {"logit_bias", IN_BOTH, FIELD_READ},
    {"n", IN_BOTH, FIELD_READ},
    {"echo", IN_COMPLETION, FIELD_READ},
    {"seed", IN_BOTH, FIELD_READ},
    {"stop", IN_BOTH, FIELD_READ},
    {"logprobs", IN_BOTH, FIELD_READ},
    {"top_logprobs", IN_CHAT, FIELD_READ},
    {"ignore_eos", IN_BOTH, FIELD_READ},
    {"logits_digest", IN_BOTH, FIELD_READ},
    {"steering", IN_BOTH, FIELD_READ},
    {"trace_routes", IN_BOTH, FIELD_READ},
    {"user", IN_BOTH, FIELD_IGNORED},
    {"metadata", IN_BOTH, FIELD_IGNORED},
    {"store", IN_BOTH, FIELD_IGNORED},
    {"service_tier", IN_BOTH, FIELD_IGNORED},
    {"safety_identifier", IN_BOTH, FIELD_IGNORED},
    {"prompt_cache_key", IN_BOTH, FIELD_IGNORED},
    {"best_of", IN_COMPLETION, FIELD_ONE},
    {"stream", IN_BOTH, FIELD_FALSE},
    {"suffix", IN_COMPLETION, FIELD_EMPTY},
    {"response_format", IN_CHAT, FIELD_EMPTY},
    {"functions", IN_CHAT, FIELD_EMPTY},
};

static bool is_off(const json_t *value, field_kind kind)
{
    if (json_is_null(value)) return true;
    switch (kind) {
    case FIELD_READ:
    case FIELD_IGNORED: return true;
    case FIELD_ONE: return json_is_number(value) && fpclassify(json_number_value(value) - 1.0) == FP_ZERO;
    case FIELD_FALSE: return json_is_false(value);
    case FIELD_EMPTY: break;
    }
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type) return strcmp(type, "text") == 0;
    if (json_is_string(value)) return json_string_length(value) == 0;
    return (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

static cox_status check_fields(const json_t *body, bool is_chat, const char *where)
{
    const char *known[sizeof fields / sizeof *fields];
    size_t n = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct field *field = &fields[i];
        const json_t *value = json_object_get(body, field->name);
        if (!(field->bodies & (is_chat ? IN_CHAT : IN_COMPLETION))) continue;
        known[n++] = field->name;
        if (value && !is_off(value, field->kind)) {
            const char *only = field->kind == FIELD_ONE     ? "1"
                               : field->kind == FIELD_FALSE ? "false"
                                                            : "an empty value";
            return cox_fail(COX_UNSUPPORTED, "%s: the field \"%s\" is supported with %s only", where,
                            field->name, only);
        }
    }
    return cox_json_check_keys(body, where, known, n);
}

/* An f32 field; out of the range of f32 is an error. */
static cox_status read_float(const json_t *body, const char *where, const char *key, float *out)
{
    double value = (double)*out;
    cox_status status = cox_json_number(body, where, key, false, &value);
    if (status != COX_OK) return status;
    if (!(fabs(value) <= (double)FLT_MAX))
        return cox_fail(COX_INVALID, "%s: key \"%s\" is out of range", where, key);
    *out = (float)value;
    return COX_OK;
}

static cox_status read_int32(const json_t *body, const char *where, const char *key, int64_t low,
                             int64_t high, int32_t *out)
{
    int64_t value = *out;
    cox_status status = cox_json_int(body, where, key, false, low, high, &value);
    if (status == COX_OK) *out = (int32_t)value;
    return status;
}

static cox_status read_flag(const json_t *body, const char *where, const char *key, protobuf_c_boolean *out)
{
    bool value = *out;
    cox_status status = cox_json_bool(body, where, key, false, &value);
    if (status == COX_OK) *out = value;
    return status;
}

static cox_status read_sampling(Cox__SamplingFields *sampling, const json_t *body, const char *where)
{
    cox_status status = read_float(body, where, "temperature", &sampling->temperature);
    if (status == COX_OK) status = read_float(body, where, "top_p", &sampling->top_p);
    if (status == COX_OK) status = read_float(body, where, "min_p", &sampling->min_p);
    if (status == COX_OK)
        status = read_float(body, where, "repetition_penalty", &sampling->repetition_penalty);
    if (status == COX_OK) status = read_float(body, where, "presence_penalty", &sampling->presence_penalty);
    if (status == COX_OK) status = read_float(body, where, "frequency_penalty", &sampling->frequency_penalty);
    if (status == COX_OK)
        status = cox_request_read_logit_bias(sampling, json_object_get(body, "logit_bias"), where);
    if (status == COX_OK) status = read_int32(body, where, "top_k", -1, INT32_MAX, &sampling->top_k);
    if (sampling->top_k < 0) sampling->top_k = 0; /* -1 means "off" in other engines' requests */
    int64_t seed = (int64_t)sampling->seed;
    if (status == COX_OK) status = cox_json_int(body, where, "seed", false, INT64_MIN, INT64_MAX, &seed);
    sampling->seed = (uint64_t)seed;
    return status;
}

/* The value of a key unless it is absent or null. */
static const json_t *get(const json_t *body, const char *key)
{
    const json_t *value = json_object_get(body, key);
    return json_is_null(value) ? NULL : value;
}

cox_status cox_request_read_body(cox_request *request, const json_t *body, bool is_chat, const char *where)
{
    if (!json_is_object(body)) return cox_fail(COX_BAD_FILE, "%s: \"body\" must be an object", where);
    cox_status status = check_fields(body, is_chat, where);
    if (status != COX_OK) return status;
    request->is_chat = is_chat;
    const char *model = NULL;
    status = cox_json_string(body, where, "model", false, &model);
    if (status == COX_OK && model) status = cox_request_set(&request->model, model);
    if (status == COX_OK) {
        status = is_chat ? cox_request_set_chat(request, body, where)
                         : read_prompt(request, get(body, "prompt"), where);
    }
    if (status == COX_OK) status = read_sampling(request->sampling, body, where);
    static const char *const limits[] = {"max_tokens", "max_completion_tokens"};
    for (size_t i = 0; i < 2 && status == COX_OK; i++) {
        status = read_int32(body, where, limits[i], 0, COX_REQUEST_MAX_TOKENS, &request->max_tokens);
    }
    if (status == COX_OK && get(body, "stop")) status = read_stop(request, get(body, "stop"), where);
    if (status == COX_OK && get(body, "logprobs"))
        status = read_logprobs(request, get(body, "logprobs"), where);
    if (status == COX_OK) status = read_top_logprobs(request, body, where);
    if (status == COX_OK)
        status = read_int32(body, where, "n", 1, COX_REQUEST_MAX_CHOICES, &request->n_choices);
    if (status == COX_OK) status = read_flag(body, where, "echo", &request->echo);
    if (status == COX_OK) status = read_flag(body, where, "ignore_eos", &request->ignore_eos);
    if (status == COX_OK) status = read_flag(body, where, "logits_digest", &request->wants_digest);
    if (status == COX_OK) status = read_flag(body, where, "trace_routes", &request->wants_routes);
    if (status == COX_OK && get(body, "steering"))
        status = read_steering(request, get(body, "steering"), where);
    return status;
}

static cox_status read_line_object(cox_request *request, const json_t *line, const char *where)
{
    const char *custom_id = NULL, *method = "POST", *url = NULL;
    cox_status status = cox_json_string(line, where, "custom_id", true, &custom_id);
    if (status == COX_OK && *custom_id == '\0')
        status = cox_fail(COX_INVALID, "%s: \"custom_id\" is empty", where);
    if (status == COX_OK) status = cox_request_set(&request->custom_id, custom_id);
    if (status == COX_OK) status = cox_json_string(line, where, "method", false, &method);
    if (status == COX_OK) status = cox_json_string(line, where, "url", true, &url);
    if (status != COX_OK) return status;
    if (strcmp(method, "POST") != 0)
        return cox_fail(COX_UNSUPPORTED, "%s: method \"%s\"; only POST", where, method);
    bool is_chat = strcmp(url, "/v1/chat/completions") == 0;
    if (!is_chat && strcmp(url, "/v1/completions") != 0) {
        return cox_fail(COX_UNSUPPORTED,
                        "%s: url \"%s\" is not supported; use /v1/chat/completions or /v1/completions", where,
                        url);
    }
    return cox_request_read_body(request, json_object_get(line, "body"), is_chat, where);
}

/* The end of the string whose opening quote is at `at`: behind its closing quote, or n. */
static size_t skip_string(const char *line, size_t at, size_t n)
{
    for (at++; at < n && line[at] != '"'; at++) at += line[at] == '\\';
    return at < n ? at + 1 : n;
}

static size_t skip_blanks(const char *line, size_t at, size_t n)
{
    while (at < n && (line[at] == ' ' || line[at] == '\t' || line[at] == '\r')) at++;
    return at;
}

/* The string after the colon at or behind `at`: [out] *first, *end with its quotes; false: there is none. */
static bool string_value(const char *line, size_t at, size_t n, size_t *first, size_t *end)
{
    at = skip_blanks(line, at, n);
    if (at == n || line[at] != ':') return false;
    at = skip_blanks(line, at + 1, n);
    if (at == n || line[at] != '"') return false;
    *first = at;
    *end = skip_string(line, at, n);
    return true;
}

/* Of a line that the JSON reader refuses: sets custom_id when the outermost object has one such key and its
 * value is a valid string, however broken the rest is. */
static cox_status recover_custom_id(cox_request *request, const char *line, size_t n)
{
    static const char key[] = "\"custom_id\"";
    size_t first = 0, end = 0, n_found = 0, next;
    int64_t depth = 0;
    for (size_t at = 0; at < n; at = next) {
        next = line[at] == '"' ? skip_string(line, at, n) : at + 1;
        depth += (line[at] == '{' || line[at] == '[') - (line[at] == '}' || line[at] == ']');
        bool is_key = depth == 1 && next - at == sizeof key - 1 && memcmp(line + at, key, next - at) == 0;
        if (is_key && string_value(line, next, n, &first, &end)) n_found++;
    }
    if (n_found != 1) return COX_OK;
    json_t *value = json_loadb(line + first, end - first, JSON_DECODE_ANY, NULL);
    cox_status status =
        json_is_string(value) ? cox_request_set(&request->custom_id, json_string_value(value)) : COX_OK;
    json_decref(value);
    return status;
}

static const char LINE_FORM[] =
    "{\"custom_id\": \"...\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": [...]}}";

cox_status cox_request_read_line(cox_request *request, const char *line, size_t n_bytes, const char *where)
{
    json_t *object = NULL;
    cox_status status = cox_json_load_line(&object, line, n_bytes, where, LINE_FORM);
    if (status == COX_BAD_FILE && recover_custom_id(request, line, n_bytes) != COX_OK) return COX_NO_MEMORY;
    if (status != COX_OK) return status;
    status = read_line_object(request, object, where);
    json_decref(object);
    return status;
}

int32_t cox_request_http_status(cox_status status)
{
    switch (status) {
    case COX_OK: return 200;
    case COX_INVALID:
    case COX_NOT_FOUND:
    case COX_BAD_FILE:
    case COX_UNSUPPORTED:
    case COX_TOO_LONG: return 400;
    case COX_NO_MEMORY:
    case COX_BUSY:
    case COX_REQUEUE: return 503;
    case COX_IO:
    case COX_PEER:
    case COX_INTERNAL: break;
    }
    return 500;
}
