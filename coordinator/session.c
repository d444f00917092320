/* Every running request is one `stream`: its request, its detokeniser and stop strings, its text so far. */
#include "coordinator/session.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/stop.h"
#include "coordinator/telemetry.h"

typedef struct stream {
    struct stream *next, *previous;
    cox_session *session;
    cox_request *request;
    cox_detokenizer *detokenizer;
    cox_stop *stop;
    cox__telemetry *telemetry; /* of its plan and routes; NULL: it has none */
    char *text;                /* [n_text+1] NUL-terminated, of capacity bytes */
    size_t n_text, capacity;
    Cox__TokenLogprob **logprobs; /* [n_logprobs], of logprobs_capacity */
    size_t n_logprobs, logprobs_capacity;
    bool has_stopped;
} stream;

struct cox_session {
    cox_session_parts parts;
    cox_session_events events;
    cox_engine *engine;
    stream streams; /* head of the ring of running requests */
    int32_t n_requests;
    cox_status failed; /* what a callback could not return */
};

/* --- Streams --- */

static cox_status out_of_memory(void)
{
    return cox_fail(COX_NO_MEMORY, "out of memory for a running request");
}

static void free_logprobs(Cox__TokenLogprob **entries, size_t n)
{
    for (size_t i = 0; i < n; i++) cox__token_logprob__free_unpacked(entries[i], NULL);
    free(entries);
}

static void stream_destroy(stream *s)
{
    if (!s) return;
    if (s->next) {
        s->next->previous = s->previous;
        s->previous->next = s->next;
        s->session->n_requests--;
    }
    cox_request_destroy(s->request);
    cox_detokenizer_destroy(s->detokenizer);
    cox_stop_destroy(s->stop);
    cox__telemetry_destroy(s->telemetry);
    free(s->text);
    free_logprobs(s->logprobs, s->n_logprobs);
    free(s);
}

static cox_status stream_create(stream **out, cox_session *session, cox_request *request)
{
    stream *s = calloc(1, sizeof *s);
    if (!s) return out_of_memory();
    s->session = session;
    s->capacity = 256;
    s->text = calloc(1, s->capacity);
    cox_status status = s->text ? COX_OK : out_of_memory();
    if (status == COX_OK) status = cox_detokenizer_create(&s->detokenizer, session->parts.tokenizer, true);
    if (status == COX_OK) status = cox_stop_create(&s->stop, request->stop, request->n_stop);
    if (status != COX_OK) {
        stream_destroy(s);
        return status;
    }
    s->request = request;
    *out = s;
    return COX_OK;
}

static cox_status show(stream *s, const char *text, size_t n)
{
    if (n == 0) return COX_OK;
    if (s->n_text + n + 1 > s->capacity) {
        size_t capacity = 2 * (s->n_text + n + 1);
        char *larger = realloc(s->text, capacity);
        if (!larger) return out_of_memory();
        s->text = larger;
        s->capacity = capacity;
    }
    memcpy(s->text + s->n_text, text, n);
    s->n_text += n;
    s->text[s->n_text] = '\0';
    const cox_session_events *events = &s->session->events;
    if (s->request->wants_text && events->on_text) events->on_text(events->context, s->request->id, text, n);
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
    cox_status status = cox_detokenizer_flush(s->detokenizer, &piece, &n);
    if (status == COX_OK) status = stream_put_text(s, piece, n);
    if (status != COX_OK) return status;
    cox_stop_flush(s->stop, &piece, &n);
    return show(s, piece, n);
}

/* --- Log probabilities --- */

static Cox__TokenChoice *make_choice(const cox_tokenizer *tokenizer, int32_t id, float logprob)
{
    Cox__TokenChoice *choice = malloc(sizeof *choice);
    char *text = NULL;
    size_t n = 0;
    if (!choice || cox_tokenizer_decode(tokenizer, &id, 1, false, &text, &n) != COX_OK) {
        free(choice);
        return NULL;
    }
    cox__token_choice__init(choice);
    choice->id = id;
    choice->logprob = logprob;
    choice->token = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)text};
    return choice;
}

static cox_status stream_put_logprobs(stream *s, int32_t token, const cox_logprobs *logprobs)
{
    const cox_tokenizer *tokenizer = s->session->parts.tokenizer;
    if (s->n_logprobs == s->logprobs_capacity) {
        size_t capacity = 2 * s->logprobs_capacity + 16;
        Cox__TokenLogprob **larger = realloc(s->logprobs, capacity * sizeof *larger);
        if (!larger) return out_of_memory();
        s->logprobs = larger;
        s->logprobs_capacity = capacity;
    }
    Cox__TokenLogprob *entry = malloc(sizeof *entry);
    if (!entry) return out_of_memory();
    cox__token_logprob__init(entry);
    s->logprobs[s->n_logprobs++] = entry;
    entry->token = make_choice(tokenizer, token, logprobs->token);
    if (!entry->token) return COX_NO_MEMORY;
    entry->top = calloc((size_t)logprobs->n + 1, sizeof(Cox__TokenChoice *));
    if (!entry->top) return out_of_memory();
    for (int32_t i = 0; i < logprobs->n; i++) {
        Cox__TokenChoice *choice = make_choice(tokenizer, logprobs->ids[i], logprobs->values[i]);
        if (!choice) return COX_NO_MEMORY;
        entry->top[entry->n_top++] = choice;
    }
    return COX_OK;
}

/* --- Events of the engine --- */

static bool ends_generation(const stream *s, int32_t token)
{
    const cox_model *model = s->session->parts.model;
    for (int32_t i = 0; i < model->n_eos && !s->request->ignore_eos; i++) {
        if (model->eos_ids[i] == token) return true;
    }
    return false;
}

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    cox_session *session = context;
    stream *s = (stream *)(uintptr_t)id;
    cox_status status = COX_OK;
    if (logprobs) status = stream_put_logprobs(s, token, logprobs);
    if (status == COX_OK && !ends_generation(s, token)) status = stream_put_token(s, token);
    if (status != COX_OK && session->failed == COX_OK) session->failed = status;
    return s->has_stopped || status != COX_OK;
}

static void on_routes(void *context, uint64_t id, int32_t layer, int32_t position,
                      const cox_traced_route *routes)
{
    cox_session *session = context;
    const stream *s = (const stream *)(uintptr_t)id;
    cox_status status = cox__telemetry_put_routes(s->telemetry, layer, position, routes);
    if (status != COX_OK && session->failed == COX_OK) session->failed = status;
}

static void move_text(stream *s, cox_record *record)
{
    record->text = s->text;
    s->text = NULL;
    record->has_logprobs = s->request->sampling->n_logprobs >= 0;
    record->logprobs = s->logprobs;
    record->n_logprobs = s->n_logprobs;
    s->logprobs = NULL;
    s->n_logprobs = 0;
}

static cox_status fill_record(cox_record *record, stream *s, const cox_sequence_result *result)
{
    record->n_prompt = result->n_prompt;
    record->n_generated = result->n_generated;
    record->n_cached = result->n_cached;
    record->queue_s = result->queue_s;
    record->prompt_s = result->prompt_s;
    record->generate_s = result->generate_s;
    cox_status status = cox_request_set(&record->digest, result->digest);
    if (status != COX_OK) return status;
    if (result->finish == COX_FINISH_ERROR) {
        return cox_record_set_error(record, COX_INTERNAL,
                                    result->error ? result->error : "generation failed");
    }
    status = stream_flush(s);
    if (status != COX_OK) return status;
    bool is_stop = s->has_stopped || result->finish == COX_FINISH_STOP;
    status = cox_request_set(&record->finish_reason, is_stop ? "stop" : "length");
    if (status == COX_OK && s->telemetry) status = cox__telemetry_report(s->telemetry, result, record);
    move_text(s, record);
    return status;
}

static void on_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    cox_session *session = context;
    stream *s = (stream *)(uintptr_t)id;
    cox_record *record = cox_record_create(s->request);
    cox_status status = record ? fill_record(record, s, result) : COX_NO_MEMORY;
    if (status == COX_OK) session->events.on_record(session->events.context, record);
    if (status != COX_OK && session->failed == COX_OK) session->failed = status;
    cox_record_destroy(record);
    stream_destroy(s);
}

/* --- The session --- */

cox_status cox_session_create(cox_session **session, const cox_session_parts *parts,
                              const cox_engine_options *options, const cox_session_events *events)
{
    cox_session *s = calloc(1, sizeof *s);
    if (!s) return cox_fail(COX_NO_MEMORY, "out of memory for a session");
    s->parts = *parts;
    s->events = *events;
    s->streams.next = s->streams.previous = &s->streams;
    const cox_engine_events engine_events = {
        .context = s, .on_token = on_token, .on_routes = on_routes, .on_done = on_done};
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
    while (session->streams.next != &session->streams) stream_destroy(session->streams.next);
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

static cox_sampling sampling_of(const cox_request *request)
{
    const Cox__SamplingFields *fields = request->sampling;
    return (cox_sampling){.temperature = fields->temperature,
                          .top_k = fields->top_k,
                          .top_p = fields->top_p,
                          .min_p = fields->min_p,
                          .repetition_penalty = fields->repetition_penalty,
                          .seed = fields->seed,
                          .n_logprobs = fields->n_logprobs};
}

/* The request's plan. [out] *plan: NULL when it has none. The packed bytes can be many, and nobody needs them
 * any more. */
static cox_status take_plan(cox_request *request, cox_plan **plan)
{
    Cox__Steering *steering = request->steering;
    if (!steering) return COX_OK;
    if (steering->plan.len == 0)
        return cox_fail(COX_INTERNAL, "the steering plan has not been compiled by the front end");
    const int32_t *indices = NULL;
    cox_status status = cox_plan_unpack(plan, &indices, steering->plan.data, steering->plan.len);
    free(steering->plan.data);
    steering->plan = (ProtobufCBinaryData){0};
    return status;
}

/* Queues the sequence with its plan, which is the engine's from then on, and ours again if it refuses. */
static cox_status submit_sequence(cox_session *session, stream *s, cox_sequence_request *sequence)
{
    cox_plan *plan = NULL;
    cox_status status = take_plan(s->request, &plan);
    if (status == COX_OK && (plan || s->request->wants_routes))
        status = cox__telemetry_create(&s->telemetry, session->parts.model, s->request, plan);
    sequence->plan = plan;
    if (status == COX_OK) status = cox_engine_submit(session->engine, sequence);
    if (status != COX_OK) cox_plan_free(plan);
    return status;
}

static cox_status submit(cox_session *session, stream *s)
{
    const cox_request *request = s->request;
    const cox_session_parts *parts = &session->parts;
    cox_sampling sampling = sampling_of(request);
    cox_status status = cox_sampling_check(&sampling);
    if (status != COX_OK) return status;
    cox_tokens tokens = {0};
    const int32_t *prompt = request->prompt_ids;
    size_t n_prompt = request->n_prompt_ids;
    if (n_prompt == 0) {
        status = cox_session_tokenize(parts->tokenizer, parts->chat_template, parts->no_template, request,
                                      &tokens);
        prompt = tokens.ids;
        n_prompt = tokens.n;
    }
    if (status == COX_OK && n_prompt == 0) status = cox_fail(COX_INVALID, "the prompt is empty");
    if (status == COX_OK && n_prompt > INT32_MAX)
        status = cox_fail(COX_TOO_LONG, "the prompt has %zu tokens", n_prompt);
    if (status == COX_OK) {
        cox_sequence_request sequence = {.id = (uint64_t)(uintptr_t)s,
                                         .prompt = prompt,
                                         .n_prompt = (int32_t)n_prompt,
                                         .max_tokens = request->max_tokens,
                                         .sampling = sampling,
                                         .ignore_eos = request->ignore_eos,
                                         .wants_digest = request->wants_digest,
                                         .wants_routes = request->wants_routes};
        status = submit_sequence(session, s, &sequence);
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

cox_status cox_session_submit(cox_session *session, cox_request *request)
{
    stream *s = NULL;
    cox_status status = stream_create(&s, session, request);
    if (status != COX_OK) {
        cox_status reported = report_failure(session, request, status);
        cox_request_destroy(request);
        return reported;
    }
    status = submit(session, s);
    if (status != COX_OK) {
        cox_status reported = report_failure(session, request, status);
        stream_destroy(s);
        return reported;
    }
    s->next = session->streams.next;
    s->previous = &session->streams;
    s->next->previous = s;
    session->streams.next = s;
    session->n_requests++;
    return COX_OK;
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
