/*
 * Every running request has a `stream` for each answer that it wants: a detokeniser, stop strings, its text
 * so far. It becomes a record when the last of its answers is there.
 */
#include "coordinator/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/echo.h"
#include "coordinator/logprob_list.h"
#include "coordinator/stop.h"
#include "coordinator/telemetry.h"

typedef struct running running;

typedef struct stream {
    running *of;
    int32_t index; /* of the answer */
    cox_detokenizer *detokenizer;
    cox_stop *stop;
    cox__telemetry *telemetry; /* of its plan and routes; NULL: it has none */
    char *text;                /* [n_text+1] NUL-terminated, of capacity bytes */
    size_t n_text, capacity;
    int32_t *ids; /* [n_ids], of ids_capacity; in place of text where there is no tokenizer */
    size_t n_ids, ids_capacity;
    cox__logprob_list logprobs;
    bool has_stopped;
} stream;

struct running {
    struct running *next, *previous;
    cox_session *session;
    cox_request *request;
    cox_plan *plan;         /* a share; NULL: none */
    cox_logit_bias *biases; /* of the request, as the sampler takes them */
    cox__echo *echo;        /* NULL: not wanted */
    int32_t n, n_left;      /* answers, and those that are not there */
    cox_status failed;      /* what a callback could not return; with the message */
    char *problem;
    stream **streams;     /* [n] NULL: not running */
    cox_record **records; /* [n] of the answers that are there */
};

struct cox_session {
    cox_session_parts parts;
    cox_session_events events;
    cox_engine *engine;
    running requests; /* head of the ring of running requests */
    int32_t n_requests;
    cox_status failed; /* what on_done could not return: a record that cannot be made */
};

/* --- Requests and their streams --- */

static void stream_destroy(stream *s)
{
    if (!s) return;
    cox_detokenizer_destroy(s->detokenizer);
    cox_stop_destroy(s->stop);
    cox__telemetry_destroy(s->telemetry);
    free(s->text);
    free(s->ids);
    cox__logprob_list_free(&s->logprobs);
    free(s);
}

static cox_status no_tokenizer(const cox_session_parts *parts, const char *what)
{
    return cox_fail(COX_NOT_FOUND, "%s: %s", what,
                    parts->no_tokenizer ? parts->no_tokenizer : "there is no tokenizer");
}

static cox_status stream_create(stream **out, running *r, int32_t index)
{
    stream *s = calloc(1, sizeof *s);
    if (!s) return cox_no_memory("a running request");
    s->of = r;
    s->index = index;
    s->capacity = 256;
    s->text = calloc(1, s->capacity);
    cox_status status = s->text ? COX_OK : cox_no_memory("a running request");
    const cox_session_parts *parts = &r->session->parts;
    if (status == COX_OK && !parts->tokenizer && r->request->n_stop > 0)
        status = no_tokenizer(parts, "stop strings are text");
    if (status == COX_OK && parts->tokenizer)
        status = cox_detokenizer_create(&s->detokenizer, parts->tokenizer, true);
    if (status == COX_OK) status = cox_stop_create(&s->stop, r->request->stop, r->request->n_stop);
    if (status != COX_OK) {
        stream_destroy(s);
        return status;
    }
    *out = s;
    return COX_OK;
}

static void running_destroy(running *r)
{
    if (!r) return;
    if (r->next) {
        r->next->previous = r->previous;
        r->previous->next = r->next;
        r->session->n_requests--;
    }
    for (int32_t i = 0; i < r->n; i++) {
        if (r->streams) stream_destroy(r->streams[i]);
        if (r->records) cox_record_destroy(r->records[i]);
    }
    free(r->problem);
    cox_request_destroy(r->request);
    cox_plan_free(r->plan);
    cox__echo_destroy(r->echo);
    free(r->biases);
    free(r->streams);
    free(r->records);
    free(r);
}

/* Takes request and plan over when it succeeds. */
static cox_status running_create(running **out, cox_session *session, cox_request *request, cox_plan *plan)
{
    const Cox__SamplingFields *sampling = request->sampling;
    running *r = calloc(1, sizeof *r);
    if (!r) return cox_no_memory("a running request");
    r->session = session;
    r->n = r->n_left = request->n_choices > 1 ? request->n_choices : 1;
    r->streams = calloc((size_t)r->n, sizeof(stream *));
    r->records = calloc((size_t)r->n, sizeof(cox_record *));
    r->biases = calloc(sampling->n_logit_bias + 1, sizeof *r->biases);
    if (!r->streams || !r->records || !r->biases) {
        running_destroy(r);
        return cox_no_memory("a running request");
    }
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        r->biases[i] = (cox_logit_bias){sampling->logit_bias[i]->id, sampling->logit_bias[i]->bias};
    r->request = request;
    r->plan = plan;
    *out = r;
    return COX_OK;
}

static cox_status show(stream *s, const char *text, size_t n)
{
    if (n == 0) return COX_OK;
    if (s->n_text + n + 1 > s->capacity) {
        size_t capacity = 2 * (s->n_text + n + 1);
        char *larger = realloc(s->text, capacity);
        if (!larger) return cox_no_memory("a running request");
        s->text = larger;
        s->capacity = capacity;
    }
    memcpy(s->text + s->n_text, text, n);
    s->n_text += n;
    s->text[s->n_text] = '\0';
    const cox_session_events *events = &s->of->session->events;
    const cox_request *request = s->of->request;
    if (request->wants_text && s->index == 0 && events->on_text)
        events->on_text(events->context, request->id, text, n);
    return COX_OK;
}

/* Text of the detokeniser goes through the stop strings. */
static cox_status stream_put_text(stream *s, const char *piece, size_t n)
{
    const char *shown = NULL;
    size_t n_shown = 0;
    cox_status status = cox_stop_put(s->stop, piece, n, &shown, &n_shown, &s->has_stopped);
    return status != COX_OK ? status : show(s, shown, n_shown);
}

static cox_status stream_put_id(stream *s, int32_t token)
{
    if (s->n_ids == s->ids_capacity) {
        size_t capacity = 2 * s->ids_capacity + 64;
        int32_t *larger = realloc(s->ids, capacity * sizeof *larger);
        if (!larger) return cox_no_memory("a running request");
        s->ids = larger;
        s->ids_capacity = capacity;
    }
    s->ids[s->n_ids++] = token;
    return COX_OK;
}

static cox_status stream_put_token(stream *s, int32_t token)
{
    const char *piece = NULL;
    size_t n = 0;
    cox_status status = cox_detokenizer_put(s->detokenizer, token, &piece, &n);
    return status != COX_OK ? status : stream_put_text(s, piece, n);
}

static cox_status stream_flush(stream *s)
{
    const char *piece = NULL;
    size_t n = 0;
    if (!s->detokenizer) return COX_OK;
    cox_status status = cox_detokenizer_flush(s->detokenizer, &piece, &n);
    if (status == COX_OK) status = stream_put_text(s, piece, n);
    if (status != COX_OK) return status;
    cox_stop_flush(s->stop, &piece, &n);
    return show(s, piece, n);
}

/* --- Events of the engine --- */

static void cancel_answers(const running *r)
{
    for (int32_t i = 0; i < r->n; i++) {
        if (r->streams[i]) cox_engine_cancel(r->session->engine, (uint64_t)(uintptr_t)r->streams[i]);
    }
}

/* Ends the request, and no other, for what one of its callbacks could not do. */
static void give_up(running *r, cox_status status)
{
    if (status == COX_OK || r->failed != COX_OK) return;
    r->failed = status;
    r->problem = strdup(cox_status_message());
    cancel_answers(r);
}

static bool ends_generation(const stream *s, int32_t token)
{
    const cox_model *model = s->of->session->parts.model;
    for (int32_t i = 0; i < model->n_eos && !s->of->request->ignore_eos; i++) {
        if (model->eos_ids[i] == token) return true;
    }
    return false;
}

static bool stream_on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    cox_session *session = context;
    stream *s = (stream *)(uintptr_t)id;
    cox_status status = COX_OK;
    if (logprobs) status = cox__logprob_list_put(&s->logprobs, session->parts.tokenizer, token, logprobs);
    if (status == COX_OK && !s->detokenizer) {
        status = stream_put_id(s, token);
    } else if (status == COX_OK && !ends_generation(s, token)) {
        status = stream_put_token(s, token);
    }
    give_up(s->of, status);
    return s->has_stopped || status != COX_OK;
}

static void stream_on_routes(void *context, uint64_t id, int32_t layer, int32_t position,
                             const cox_traced_route *routes)
{
    (void)context;
    const stream *s = (const stream *)(uintptr_t)id;
    give_up(s->of, cox__telemetry_put_routes(s->telemetry, layer, position, routes));
}

/* Of the prompt, for its echo: only the first answer asks for them. */
static void stream_on_logits(void *context, uint64_t id, int32_t position, const float *logits)
{
    cox_session *session = context;
    const stream *s = (const stream *)(uintptr_t)id;
    give_up(s->of, cox__echo_put_logits(s->of->echo, position, logits, session->parts.model->vocab_size));
}

static void move_text(stream *s, cox_record *record)
{
    record->text = s->text;
    s->text = NULL;
    record->has_no_text = !s->detokenizer;
    record->token_ids = s->ids;
    record->n_token_ids = s->n_ids;
    s->ids = NULL;
    record->has_logprobs = s->of->request->sampling->n_logprobs >= 0;
    record->logprobs = cox__logprob_list_take(&s->logprobs, &record->n_logprobs);
}

/* The file of routes of an answer but the first: its number before the ending, line-3.1.safetensors. */
static cox_status name_routes(cox_record *record, int32_t index)
{
    const char *name = record->routes_file, *ending = strrchr(name, '.');
    char *own = NULL;
    if (!*name || index == 0) return COX_OK;
    size_t n = ending && !strchr(ending, '/') ? (size_t)(ending - name) : strlen(name);
    if (asprintf(&own, "%.*s.%d%s", (int)n, name, (int)index, name + n) < 0)
        return cox_no_memory("a running request");
    cox_status status = cox_request_set(&record->routes_file, own);
    free(own);
    return status;
}

/* What an answer says that has been generated, whole or cut. */
static cox_status fill_answer(cox_record *record, stream *s, const cox_sequence_result *result)
{
    cox_status status = name_routes(record, s->index);
    if (status == COX_OK) status = stream_flush(s);
    if (status != COX_OK) return status;
    bool is_stop = s->has_stopped || result->finish == COX_FINISH_STOP;
    const char *reason = result->finish == COX_FINISH_CANCELLED ? "cancelled" : is_stop ? "stop" : "length";
    status = cox_request_set(&record->finish_reason, reason);
    if (status == COX_OK && s->telemetry) status = cox__telemetry_report(s->telemetry, result, record);
    move_text(s, record);
    return status;
}

/* Errors: NO_MEMORY for what a failure has to say. */
static cox_status fill_record(cox_record *record, stream *s, const cox_sequence_result *result)
{
    running *r = s->of;
    record->n_prompt = result->n_prompt;
    record->n_generated = result->n_generated;
    record->n_cached = result->n_cached;
    record->queue_s = result->queue_s;
    record->prompt_s = result->prompt_s;
    record->generate_s = result->generate_s;
    cox_status status = cox_request_set(&record->digest, result->digest);
    if (status == COX_OK && result->finish == COX_FINISH_ERROR)
        status = cox_fail(COX_INTERNAL, "%s", result->error ? result->error : "generation failed");
    if (status == COX_OK && r->failed == COX_OK) status = fill_answer(record, s, result);
    give_up(r, status);
    if (r->failed == COX_OK) return COX_OK;
    return cox_record_set_error(record, r->failed, r->problem ? r->problem : "out of memory");
}

/* The answers in one record, or the first failure among them. [out] *joined: the caller's, also on failure.
 */
static cox_status join_records(running *r, cox_record **joined)
{
    int32_t first = 0;
    for (int32_t i = r->n - 1; i >= 0; i--) {
        if (r->records[i]->status != COX_OK) first = i;
    }
    cox_record *record = *joined = r->records[first];
    r->records[first] = NULL;
    if (record->status != COX_OK) return COX_OK;
    cox_status status = r->echo ? cox__echo_report(r->echo, record) : COX_OK;
    if (status == COX_OK && r->n > 1) {
        record->others = calloc((size_t)r->n, sizeof(cox_record *));
        if (!record->others) status = cox_no_memory("the answers of a request");
    }
    if (status != COX_OK) return cox_record_set_error(record, status, cox_status_message());
    for (int32_t i = 1; i < r->n; i++) {
        record->others[record->n_others++] = r->records[i];
        r->records[i] = NULL;
    }
    return COX_OK;
}

/* One answer, or its failure, is there. When it was the last one missing, that is the end of the request. */
static cox_status put_record(running *r, int32_t index, cox_record *record)
{
    cox_session *session = r->session;
    r->records[index] = record;
    stream_destroy(r->streams[index]);
    r->streams[index] = NULL;
    if (--r->n_left > 0) return COX_OK;
    cox_record *joined = NULL;
    cox_status status = join_records(r, &joined);
    if (status == COX_OK) session->events.on_record(session->events.context, joined);
    cox_record_destroy(joined);
    running_destroy(r);
    return status;
}

static void stream_on_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    cox_session *session = context;
    stream *s = (stream *)(uintptr_t)id;
    running *r = s->of;
    if (result->finish == COX_FINISH_CANCELLED && s->index == 0) { /* the prompt may not be whole */
        cox__echo_destroy(r->echo);
        r->echo = NULL;
    }
    cox_record *record = cox_record_create(r->request);
    cox_status status = record ? fill_record(record, s, result) : COX_NO_MEMORY;
    if (status == COX_OK)
        status = put_record(r, s->index, record);
    else
        cox_record_destroy(record);
    if (status != COX_OK && session->failed == COX_OK) session->failed = status;
}

/* --- The session --- */

cox_status cox_session_create(cox_session **session, const cox_session_parts *parts,
                              const cox_engine_options *options, const cox_session_events *events)
{
    cox_session *s = calloc(1, sizeof *s);
    if (!s) return cox_no_memory("a session");
    s->parts = *parts;
    s->events = *events;
    s->requests.next = s->requests.previous = &s->requests;
    const cox_engine_events engine_events = {.context = s,
                                             .on_token = stream_on_token,
                                             .on_logits = stream_on_logits,
                                             .on_routes = stream_on_routes,
                                             .on_done = stream_on_done};
    cox_status status =
        cox_engine_create(&s->engine, parts->model, parts->trunk, parts->kernels, parts->cluster,
                          parts->placement, parts->exchange, options, &engine_events);
    if (status != COX_OK) {
        free(s);
        return status;
    }
    *session = s;
    return COX_OK;
}

void cox_session_destroy(cox_session *session)
{
    if (!session) return;
    cox_engine_destroy(session->engine);
    while (session->requests.next != &session->requests) running_destroy(session->requests.next);
    free(session);
}

cox_status cox_session_tokenize(const cox_tokenizer *tokenizer, cox_chat_template *chat_template,
                                const char *no_template, const cox_request *request, cox_tokens *tokens)
{
    if (!request->is_chat) {
        return cox_tokenizer_encode(tokenizer, request->prompt, strlen(request->prompt), true, tokens);
    }
    if (!chat_template)
        return cox_fail(COX_UNSUPPORTED, "%s", no_template ? no_template : "there is no chat template");
    char *text = NULL;
    size_t n = 0;
    cox_status status = cox_chat_template_render(chat_template, request->chat, &text, &n);
    if (status == COX_OK) status = cox_tokenizer_encode(tokenizer, text, n, false, tokens);
    free(text);
    return status;
}

/* Of answer `index`: each draws random numbers of its own. */
static cox_sampling sampling_of(const running *r, int32_t index)
{
    const Cox__SamplingFields *fields = r->request->sampling;
    return (cox_sampling){.temperature = fields->temperature,
                          .top_k = fields->top_k,
                          .top_p = fields->top_p,
                          .min_p = fields->min_p,
                          .repetition_penalty = fields->repetition_penalty,
                          .presence_penalty = fields->presence_penalty,
                          .frequency_penalty = fields->frequency_penalty,
                          .biases = r->biases,
                          .n_biases = (int32_t)fields->n_logit_bias,
                          .seed = cox_sampling_seed_of(fields->seed, index),
                          .n_logprobs = fields->n_logprobs};
}

/* Queues one answer. */
static cox_status submit_answer(running *r, int32_t index, cox_sequence_request sequence)
{
    cox_session *session = r->session;
    cox_plan *plan = r->plan;
    stream *s = NULL;
    cox_status status = stream_create(&s, r, index);
    if (status == COX_OK && (plan || r->request->wants_routes))
        status = cox__telemetry_create(&s->telemetry, session->parts.model, r->request->wants_routes, plan);
    if (status == COX_OK) {
        sequence.id = (uint64_t)(uintptr_t)s;
        sequence.sampling = sampling_of(r, index);
        sequence.wants_logits = index == 0 && cox__echo_wants_logits(r->echo);
        if (sequence.wants_logits) sequence.logits_end = sequence.n_prompt;
        sequence.plan = plan ? cox_plan_share(plan) : NULL;
        status = cox_engine_submit(session->engine, &sequence);
        if (status != COX_OK) cox_plan_free(sequence.plan); /* else it is the engine's */
    }
    if (status == COX_OK)
        r->streams[index] = s;
    else
        stream_destroy(s);
    return status;
}

/* An answer that could not be queued while others of its request run. */
static cox_status put_failure(running *r, int32_t index, cox_status failure)
{
    cox_record *record = cox_record_create(r->request);
    cox_status status = record ? cox_record_set_error(record, failure, cox_status_message()) : COX_NO_MEMORY;
    if (status == COX_OK) return put_record(r, index, record);
    cox_record_destroy(record);
    return status;
}

/* Queues all answers; errors are those of the first one, and then nothing is queued. */
static cox_status submit_answers(running *r, const cox_sequence_request *sequence)
{
    cox_status status = submit_answer(r, 0, *sequence);
    for (int32_t i = 1; i < r->n && status == COX_OK; i++) {
        cox_status failure = submit_answer(r, i, *sequence);
        if (failure != COX_OK) failure = put_failure(r, i, failure);
        give_up(r, failure);
    }
    return status;
}

static cox_status submit(running *r)
{
    const cox_request *request = r->request;
    const cox_session_parts *parts = &r->session->parts;
    cox_sampling sampling = sampling_of(r, 0);
    cox_status status = cox_sampling_check(&sampling);
    if (status == COX_OK && request->steering && !r->plan)
        status = cox_fail(COX_INTERNAL, "the steering plan has not been compiled by the front end");
    if (status != COX_OK) return status;
    cox_tokens tokens = {0};
    const int32_t *prompt = request->prompt_ids;
    size_t n_prompt = request->n_prompt_ids;
    if (n_prompt == 0 && !parts->tokenizer) return no_tokenizer(parts, "the prompt is text");
    if (n_prompt == 0) {
        status = cox_session_tokenize(parts->tokenizer, parts->chat_template, parts->no_template, request,
                                      &tokens);
        prompt = tokens.ids;
        n_prompt = tokens.n;
    }
    if (status == COX_OK && n_prompt == 0) status = cox_fail(COX_INVALID, "the prompt is empty");
    if (status == COX_OK && n_prompt > INT32_MAX)
        status = cox_fail(COX_TOO_LONG, "the prompt has %zu tokens", n_prompt);
    if (status == COX_OK && request->echo)
        status = cox__echo_create(&r->echo, parts->tokenizer, request, prompt, n_prompt);
    if (status == COX_OK) {
        const cox_sequence_request sequence = {.prompt = prompt,
                                               .n_prompt = (int32_t)n_prompt,
                                               .max_tokens = request->max_tokens,
                                               .ignore_eos = request->ignore_eos,
                                               .wants_digest = request->wants_digest,
                                               .wants_routes = request->wants_routes};
        status = submit_answers(r, &sequence);
    }
    cox_tokens_free(&tokens);
    return status;
}

/* The record of a request that never reached the engine. */
static cox_status report_failure(cox_session *session, const cox_request *request, cox_status status)
{
    cox_record *record = cox_record_create(request);
    if (!record) return COX_NO_MEMORY;
    cox_status set = cox_record_set_error(record, status, cox_status_message());
    if (set == COX_OK) session->events.on_record(session->events.context, record);
    cox_record_destroy(record);
    return set;
}

cox_status cox_session_submit(cox_session *session, cox_request *request, cox_plan *plan)
{
    running *r = NULL;
    cox_status status = running_create(&r, session, request, plan);
    if (status != COX_OK) {
        cox_status reported = report_failure(session, request, status);
        cox_plan_free(plan);
        cox_request_destroy(request);
        return reported;
    }
    status = submit(r);
    if (status != COX_OK) {
        cox_status reported = report_failure(session, request, status);
        running_destroy(r);
        return reported;
    }
    r->next = session->requests.next;
    r->previous = &session->requests;
    r->next->previous = r;
    session->requests.next = r;
    session->n_requests++;
    return COX_OK;
}

void cox_session_cancel(cox_session *session, uint64_t id)
{
    for (running *r = session->requests.next; r != &session->requests; r = r->next) {
        if (r->request->id == id) cancel_answers(r);
    }
}

int32_t cox_session_n_requests(const cox_session *session)
{
    return session->n_requests;
}

cox_status cox_session_step(cox_session *session)
{
    cox_status status = cox_engine_step(session->engine);
    return status != COX_OK ? status : session->failed;
}

const cox_counters *cox_session_counters(const cox_session *session)
{
    return cox_engine_counters(session->engine);
}
