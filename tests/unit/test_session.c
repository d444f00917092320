/*
 * Sessions over an engine that speaks a script: this file defines the engine's functions itself (so the
 * linker never takes the real ones), and every sequence "generates" the ids of a given text. Streaming, stop
 * strings, records.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/session.h"
#include "tests/unit/steering_model.h"

/* --- The scripted engine --- */

struct cox_engine {
    cox_engine_events events;
};

static struct {
    cox_tokens script; /* what every sequence says */
    uint64_t ids[8];   /* of running sequences */
    int32_t n_said[8], n_most[8], n_prompt, n_sequences;
    cox_status refuses;
    cox_plan *plan; /* of the last sequence, taken over */
    int n_plans;
    cox_steer_hits hits[2]; /* what its result says */
    bool has_routes;
    cox_sampling samplings[8];
    bool wants_logits[8], is_cancelled[8];
    const float *prompt_logits; /* [vocab_size] after every token of the prompt */
    int breaks_at;              /* the sequence of this number ends in an error; 0: none */
} said;

cox_status cox_engine_create(cox_engine **engine, const cox_model *model, const cox_trunk_weights *trunk,
                             const cox_kernels *kernels, cox_cluster *cluster, const cox_placement *placement,
                             cox_exchange *exchange, const cox_engine_options *options,
                             const cox_engine_events *events)
{
    (void)model, (void)trunk, (void)kernels, (void)cluster, (void)placement, (void)exchange, (void)options;
    *engine = calloc(1, sizeof **engine);
    assert_non_null(*engine);
    (*engine)->events = *events;
    return COX_OK;
}

void cox_engine_destroy(cox_engine *engine)
{
    free(engine);
}

cox_status cox_engine_submit(cox_engine *engine, const cox_sequence_request *request)
{
    (void)engine;
    if (said.refuses != COX_OK) return cox_fail(said.refuses, "the prompt is longer than the context");
    assert_in_range(said.n_sequences, 0, 7);
    if (request->plan) { /* taken over, as the engine does */
        cox_plan_free(said.plan);
        said.plan = request->plan;
        said.n_plans++;
    }
    said.has_routes = request->wants_routes;
    said.samplings[said.n_sequences] = request->sampling;
    said.wants_logits[said.n_sequences] = request->wants_logits;
    if (request->wants_logits) assert_int_equal(request->logits_end, request->n_prompt);
    said.n_prompt = request->n_prompt;
    said.ids[said.n_sequences] = request->id;
    said.n_most[said.n_sequences] = request->max_tokens;
    said.is_cancelled[said.n_sequences] = false;
    said.n_said[said.n_sequences++] = 0;
    return COX_OK;
}

static void end_sequence(cox_engine *engine, int32_t i, cox_finish finish)
{
    const cox_sequence_result result = {.finish = i > 0 && i == said.breaks_at ? COX_FINISH_ERROR : finish,
                                        .n_prompt = said.n_prompt,
                                        .n_generated = said.n_said[i],
                                        .digest = "d1",
                                        .hits = said.hits,
                                        .n_hits = 2};
    uint64_t id = said.ids[i];
    said.n_sequences--;
    said.ids[i] = said.ids[said.n_sequences];
    said.n_said[i] = said.n_said[said.n_sequences];
    said.n_most[i] = said.n_most[said.n_sequences];
    said.is_cancelled[i] = said.is_cancelled[said.n_sequences];
    engine->events.on_done(engine->events.context, id, &result);
}

void cox_engine_cancel(cox_engine *engine, uint64_t id)
{
    (void)engine;
    for (int32_t i = 0; i < said.n_sequences; i++) {
        if (said.ids[i] == id) said.is_cancelled[i] = true;
    }
}

cox_status cox_engine_step(cox_engine *engine)
{
    for (int32_t i = said.n_sequences - 1; i >= 0; i--) {
        if (said.is_cancelled[i]) end_sequence(engine, i, COX_FINISH_CANCELLED);
    }
    for (int32_t i = said.n_sequences - 1; i >= 0; i--) {
        int32_t n = said.n_said[i]++;
        bool is_over = n == (int32_t)said.script.n;
        if (n == 0 && said.wants_logits[i]) {
            for (int32_t p = 0; p < said.n_prompt; p++)
                engine->events.on_logits(engine->events.context, said.ids[i], p, said.prompt_logits);
        }
        const cox_traced_route routes[2] = {{n, 1, 2, 0.5f, 1}, {n + 1, 0, 1, 0.25f, 0}};
        if (said.has_routes) engine->events.on_routes(engine->events.context, said.ids[i], 2, n, routes);
        int32_t token = is_over ? 0 : said.script.ids[n]; /* 0 is the model's eos id below */
        const cox_logprobs logprobs = {.token = -0.5f, .n = 1, .ids = {token}, .values = {-0.5f}};
        bool stops = engine->events.on_token(engine->events.context, said.ids[i], token, &logprobs);
        if (said.is_cancelled[i]) continue; /* by its own callback: it ends in the next step */
        if (stops || is_over) {
            end_sequence(engine, i, COX_FINISH_STOP);
        } else if (said.n_said[i] == said.n_most[i]) {
            end_sequence(engine, i, COX_FINISH_LENGTH);
        }
    }
    return COX_OK;
}

const cox_counters *cox_engine_counters(const cox_engine *engine)
{
    (void)engine;
    static const cox_counters none;
    return &none;
}

/* --- The test's session --- */

typedef struct heard {
    char text[512]; /* streamed */
    size_t n_text;
    cox_record *record; /* a copy */
    int n_records;
} heard;

static cox_tokenizer *tokenizer;
static cox_model model = {.n_eos = 1, .eos_ids = {0}, .n_layers = M_LAYERS, .router = {.top_k = M_TOP_K}};

static void on_text(void *context, uint64_t id, const char *text, size_t n)
{
    heard *h = context;
    assert_true(id == 5);
    assert_true(n > 0 && h->n_text + n < sizeof h->text);
    assert_int_not_equal((unsigned char)text[0] & 0xc0, 0x80); /* pieces begin where a character does */
    memcpy(h->text + h->n_text, text, n);
    h->n_text += n;
}

static void on_record(void *context, const cox_record *record)
{
    heard *h = context;
    h->n_records++;
    uint8_t *bytes = malloc(cox__record__get_packed_size(record) + 1);
    assert_non_null(bytes);
    size_t n = cox__record__pack(record, bytes);
    h->record = cox__record__unpack(NULL, n, bytes);
    free(bytes);
}

static cox_session *open_session(heard *h, const char *no_template)
{
    const cox_session_parts parts = {.model = &model, .tokenizer = tokenizer, .no_template = no_template};
    const cox_session_events events = {.context = h, .on_text = on_text, .on_record = on_record};
    const cox_engine_options options = {0};
    cox_session *session = NULL;
    assert_int_equal(cox_session_create(&session, &parts, &options, &events), COX_OK);
    return session;
}

static cox_request *make_request(const char *stop)
{
    cox_request *request = cox_request_create();
    assert_non_null(request);
    request->id = 5;
    request->max_tokens = 1000;
    request->wants_text = 1;
    assert_int_equal(cox_request_set(&request->prompt, "hello"), COX_OK);
    if (stop) assert_int_equal(cox_request_add_stop(request, stop), COX_OK);
    return request;
}

/* Says `text` to one request; the result is in *h. */
static void say(heard *h, const char *text, cox_request *request, cox_plan *plan)
{
    memset(h, 0, sizeof *h);
    said.script.n = 0;
    said.n_sequences = 0;
    if (*text) {
        assert_int_equal(cox_tokenizer_encode(tokenizer, text, strlen(text), false, &said.script), COX_OK);
    }
    cox_session *session = open_session(h, "no template here");
    assert_int_equal(cox_session_submit(session, request, plan), COX_OK);
    while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
    cox_session_destroy(session);
    assert_int_equal(h->n_records, 1);
    h->text[h->n_text] = '\0';
    assert_string_equal(h->text, h->record->text);
}

static void check(const char *text, const char *stop, const char *shown)
{
    heard h;
    say(&h, text, make_request(stop), NULL);
    assert_int_equal(h.record->status_code, 200);
    assert_string_equal(h.record->text, shown);
    assert_string_equal(h.record->finish_reason, "stop");
    cox_record_destroy(h.record);
}

static void test_texts_arrive_whole(void **state)
{
    (void)state;
    check("To make a kite, fold paper.", NULL, "To make a kite, fold paper.");
    check("caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x99\x82!", NULL,
          "caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x99\x82!");
    check("", NULL, "");
}

static void test_stop_strings_span_tokens(void **state)
{
    (void)state;
    check("one two three four", "o thr", "one tw");
    check("one two three four", "one", "");
    check("one two three four", "four", "one two three ");
    check("one two three four", "four!", "one two three four");
    check("caf\xc3\xa9 \xf0\x9f\x99\x82 tail", "\xf0\x9f\x99\x82", "caf\xc3\xa9 ");
}

/* Generation ends with the step in which the stop string is complete, not later. */
static void test_a_stop_ends_the_sequence(void **state)
{
    (void)state;
    heard h;
    say(&h, "one two three four", make_request("two"), NULL);
    int32_t n_all = (int32_t)said.script.n;
    assert_true(h.record->n_generated < n_all);
    cox_record_destroy(h.record);
}

static void test_lengths_and_logprobs(void **state)
{
    (void)state;
    heard h;
    cox_request *request = make_request(NULL);
    request->max_tokens = 3;
    request->sampling->n_logprobs = 1;
    request->wants_digest = 1;
    say(&h, "one two three four five six", request, NULL);
    assert_string_equal(h.record->finish_reason, "length");
    assert_int_equal(h.record->n_generated, 3);
    assert_true(h.record->has_logprobs);
    assert_int_equal(h.record->n_logprobs, 3);
    assert_int_equal(h.record->logprobs[0]->n_top, 1);
    assert_true(h.record->logprobs[0]->token->token.len > 0);
    assert_string_equal(h.record->digest, "d1");
    assert_true(h.record->n_prompt > 0);
    cox_record_destroy(h.record);
}

/* Half a character at the end of a text cut by its length becomes U+FFFD, in the stream and in the record
 * alike. */
static void test_half_a_character_at_the_end(void **state)
{
    (void)state;
    heard h;
    cox_request *request = make_request(NULL);
    request->max_tokens = 1;
    say(&h, "\xf0\x9f\x99\x82", request, NULL);
    assert_true(said.script.n > 1); /* the organism's vocabulary has no smile */
    assert_string_equal(h.record->text, "\xef\xbf\xbd");
    cox_record_destroy(h.record);
}

static void refuse(cox_request *request, cox_plan *plan, int32_t code, const char *word)
{
    heard h = {0};
    said.n_sequences = 0;
    cox_session *session = open_session(&h, "no template here");
    assert_int_equal(cox_session_submit(session, request, plan), COX_OK);
    assert_int_equal(cox_session_n_requests(session), 0);
    assert_int_equal(h.n_records, 1);
    assert_int_equal(h.record->status_code, code);
    assert_non_null(strstr(h.record->error_message, word));
    cox_record_destroy(h.record);
    cox_session_destroy(session);
}

static void test_bad_requests_become_records(void **state)
{
    (void)state;
    cox_request *request = make_request(NULL);
    assert_int_equal(cox_request_set_user(request, "hi"), COX_OK);
    refuse(request, NULL, 400, "no template here");
    request = make_request(NULL);
    request->sampling->top_p = 2;
    refuse(request, NULL, 400, "top_p");
    request = make_request(NULL);
    assert_int_equal(cox_request_set(&request->prompt, "bad \xff"), COX_OK);
    refuse(request, NULL, 400, "UTF-8");
    said.refuses = COX_TOO_LONG;
    refuse(make_request(NULL), NULL, 400, "context");
    said.refuses = COX_NO_MEMORY;
    refuse(make_request(NULL), NULL, 503, "context");
    said.refuses = COX_OK;
}

/* A request with a plan of three interventions that needs no file. */
static cox_request *make_steered_request(cox_plan **plan)
{
    cox_model plan_model = test_model();
    const char *text = "{'name': 'n', 'interventions': ["
                       "{'site': 'resid_post', 'op': 'scale', 'factor': 2, 'layer': 0},"
                       "{'site': 'router_logits', 'op': 'bias', 'value': 2, 'layer': 0, 'expert': 1},"
                       "{'site': 'moe_out', 'op': 'scale', 'factor': 2, 'layer': [0, 2]}]}";
    assert_int_equal(load_plan(plan, text, &plan_model, false), COX_OK);
    (*plan)->was_forced = true;
    return make_request(NULL);
}

/* Each answer has its own seed and text, and there is one record. */
static void test_several_answers_make_one_record(void **state)
{
    (void)state;
    heard h;
    cox_plan *plan = NULL;
    cox_request *request = make_steered_request(&plan);
    request->n_choices = 3;
    request->max_tokens = 3;
    request->wants_text = 0;
    request->wants_routes = 1;
    request->sampling->seed = 7;
    request->sampling->presence_penalty = 0.5f;
    assert_int_equal(cox_request_set(&request->routes_file, "dir.x/line-1.safetensors"), COX_OK);
    memset(&h, 0, sizeof h);
    said.n_sequences = said.n_plans = 0;
    cox_session *session = open_session(&h, NULL);
    assert_int_equal(cox_session_submit(session, request, plan), COX_OK);
    assert_int_equal(cox_session_n_requests(session), 1);
    assert_int_equal(said.n_sequences, 3);
    assert_int_equal(said.n_plans, 3);
    for (int32_t i = 0; i < 3; i++) {
        assert_true(said.samplings[i].seed == cox_sampling_seed_of(7, i));
        assert_true(said.samplings[i].presence_penalty > 0.49f);
    }
    while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
    cox_session_destroy(session);
    assert_int_equal(h.n_records, 1);
    assert_int_equal(h.record->n_others, 2);
    assert_int_equal(cox_record_n_generated(h.record), 9);
    assert_string_equal(h.record->routes_file, "dir.x/line-1.safetensors");
    assert_string_equal(h.record->others[1]->routes_file, "dir.x/line-1.2.safetensors");
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(h.record->others[i]->text, h.record->text);
        assert_non_null(h.record->others[i]->steering);
        assert_non_null(h.record->others[i]->routes);
    }
    cox_record_destroy(h.record);
}

/* Complete or not at all: one failed answer is the request's failure. */
static void test_one_failed_answer_fails_the_request(void **state)
{
    (void)state;
    heard h = {0};
    cox_request *request = make_request(NULL);
    request->n_choices = 3;
    request->max_tokens = 2;
    request->wants_text = 0;
    said.n_sequences = 0;
    said.breaks_at = 1;
    cox_session *session = open_session(&h, NULL);
    assert_int_equal(cox_session_submit(session, request, NULL), COX_OK);
    while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
    cox_session_destroy(session);
    said.breaks_at = 0;
    assert_int_equal(h.n_records, 1);
    assert_int_equal(h.record->status_code, 500);
    assert_int_equal(h.record->n_others, 0);
    cox_record_destroy(h.record);
}

static void test_a_cancelled_request(void **state)
{
    (void)state;
    heard h = {0};
    said.n_sequences = 0;
    said.script.n = 0;
    assert_int_equal(cox_tokenizer_encode(tokenizer, "one two three four", 18, false, &said.script), COX_OK);
    cox_session *session = open_session(&h, "no template here");
    cox_request *request = make_request(NULL);
    request->n_choices = 3;
    assert_int_equal(cox_session_submit(session, request, NULL), COX_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(cox_session_step(session), COX_OK);
    cox_session_cancel(session, 6); /* another one */
    assert_int_equal(cox_session_step(session), COX_OK);
    assert_int_equal(h.n_records, 0);
    cox_session_cancel(session, 5);
    cox_session_cancel(session, 5);
    assert_int_equal(cox_session_step(session), COX_OK);
    assert_int_equal(cox_session_n_requests(session), 0);
    assert_int_equal(h.n_records, 1);
    assert_string_equal(h.record->finish_reason, "cancelled");
    assert_int_equal(h.record->n_others, 2);
    assert_string_equal(h.record->others[1]->finish_reason, "cancelled");
    assert_true(strlen(h.record->text) > 0 && strlen(h.record->text) < 18);
    cox_session_cancel(session, 5); /* is not there any more */
    assert_int_equal(cox_session_step(session), COX_OK);
    assert_int_equal(h.n_records, 1);
    cox_record_destroy(h.record);
    cox_session_destroy(session);
}

/* The echo of a whole prompt is told with the answers that are cut; of a prompt that was cut there is none.
 */
static void test_a_cancelled_request_with_echo(void **state)
{
    (void)state;
    for (int is_whole = 0; is_whole < 2; is_whole++) {
        heard h = {0};
        said.n_sequences = 0;
        said.script.n = 0;
        assert_int_equal(cox_tokenizer_encode(tokenizer, "one two three four", 18, false, &said.script),
                         COX_OK);
        cox_session *session = open_session(&h, NULL);
        cox_request *request = make_request(NULL);
        request->n_choices = 2;
        request->echo = 1;
        assert_int_equal(cox_session_submit(session, request, NULL), COX_OK);
        said.n_most[0] = 1; /* the first answer, whose prompt it is, ends early */
        for (int i = 0; i < 2 * is_whole; i++) assert_int_equal(cox_session_step(session), COX_OK);
        assert_int_equal(h.n_records, 0);
        cox_session_cancel(session, 5);
        assert_int_equal(cox_session_step(session), COX_OK);
        assert_int_equal(h.n_records, 1);
        assert_int_equal(h.record->has_echo, is_whole);
        assert_string_equal(h.record->finish_reason, is_whole ? "length" : "cancelled");
        assert_string_equal(h.record->others[0]->finish_reason, "cancelled");
        cox_record_destroy(h.record);
        cox_session_destroy(session);
    }
}

/* What one request's callback cannot do ends that request: its record says why, and the session goes on. */
static void test_a_failed_callback_ends_its_request(void **state)
{
    (void)state;
    heard h = {0};
    said.n_sequences = 0;
    said.script.n = 0;
    assert_int_equal(cox_tokenizer_encode(tokenizer, "one two three", 13, false, &said.script), COX_OK);
    said.script.ids[1] = -7; /* no token */
    cox_session *session = open_session(&h, "no template here");
    cox_request *request = make_request(NULL);
    request->n_choices = 2;
    assert_int_equal(cox_session_submit(session, request, NULL), COX_OK);
    while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
    assert_int_equal(h.n_records, 1);
    assert_int_not_equal(h.record->status_code, 200);
    assert_true(strlen(h.record->error_message) > 0);
    cox_record_destroy(h.record);
    h = (heard){0};
    said.script.n = 0;
    assert_int_equal(cox_session_submit(session, make_request(NULL), NULL), COX_OK);
    while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
    assert_int_equal(h.record->status_code, 200);
    cox_record_destroy(h.record);
    cox_session_destroy(session);
}

static void test_echo(void **state)
{
    (void)state;
    heard h;
    int32_t vocab_size = model.vocab_size = cox_tokenizer_n_ids(tokenizer);
    float *logits = calloc((size_t)vocab_size, sizeof *logits); /* all alike */
    said.script.n = 0;
    assert_int_equal(cox_tokenizer_encode(tokenizer, "one two three", 13, false, &said.script), COX_OK);
    assert_non_null(logits);
    said.prompt_logits = logits;
    for (int is_broken = 0; is_broken < 2; is_broken++) {
        cox_request *request = make_request(NULL);
        request->max_tokens = 2;
        request->echo = true;
        request->sampling->n_logprobs = 1;
        logits[vocab_size - 1] = is_broken ? NAN : 0;
        memset(&h, 0, sizeof h);
        said.n_sequences = 0;
        cox_session *session = open_session(&h, NULL);
        assert_int_equal(cox_session_submit(session, request, NULL), COX_OK);
        while (cox_session_n_requests(session) > 0) assert_int_equal(cox_session_step(session), COX_OK);
        cox_session_destroy(session);
        if (is_broken) {
            assert_int_equal(h.record->status_code, 500);
            assert_non_null(strstr(h.record->error_message, "not finite"));
        } else {
            assert_true(h.record->has_echo);
            assert_string_equal(h.record->prompt_text, "hello");
            assert_int_equal(h.record->n_prompt_logprobs, h.record->n_prompt);
            assert_int_equal(h.record->n_prompt_offsets, h.record->n_prompt);
            assert_true(h.record->n_prompt > 1);
            for (size_t i = 1; i < h.record->n_prompt_logprobs; i++) {
                const Cox__TokenLogprob *entry = h.record->prompt_logprobs[i];
                assert_true(fabs((double)entry->token->logprob + log(vocab_size)) < 1e-6);
                assert_int_equal(entry->n_top, 1);
            }
            assert_int_equal(h.record->n_logprobs, 2);
        }
        cox_record_destroy(h.record);
    }
    free(logits);
}

static void test_a_plan_reaches_the_engine_and_its_hits_the_record(void **state)
{
    (void)state;
    heard h;
    said.n_plans = 0;
    said.hits[0] = (cox_steer_hits){2, 0, -1, 3, 4, 2.5, 0.5};
    said.hits[1] = (cox_steer_hits){2, 2, -1, 5, 0, 1.5, 0.25};
    cox_plan *plan = NULL;
    cox_request *request = make_steered_request(&plan);
    say(&h, "one two", request, plan);
    assert_int_equal(said.n_plans, 1);
    assert_int_equal(said.plan->n, 3);
    const Cox__SteeringRecord *steering = h.record->steering;
    assert_non_null(steering);
    assert_string_equal(steering->plan, "n");
    assert_true(steering->was_forced);
    assert_int_equal(steering->n_hits, 4); /* two interventions touched nothing */
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(steering->hits[i]->intervention, i);
        assert_int_equal(steering->hits[i]->layer, -1);
        assert_int_equal(steering->hits[i]->n_prompt + steering->hits[i]->n_generated, 0);
    }
    assert_string_equal(steering->hits[1]->site, "router_logits");
    assert_string_equal(steering->hits[1]->op, "bias");
    assert_string_equal(steering->hits[3]->site, "moe_out");
    assert_int_equal(steering->hits[3]->layer, 2);
    assert_int_equal(steering->hits[3]->n_prompt, 5);
    assert_null(h.record->routes);
    cox_record_destroy(h.record);
    say(&h, "one two", make_request(NULL), NULL);
    assert_int_equal(said.n_plans, 1);
    assert_null(h.record->steering);
    cox_record_destroy(h.record);
}

static void test_routes_reach_the_record(void **state)
{
    (void)state;
    heard h;
    cox_request *request = make_request(NULL);
    request->wants_routes = 1;
    say(&h, "one two three four five six", request, NULL);
    const Cox__TracedRoutes *routes = h.record->routes;
    assert_non_null(routes);
    assert_int_equal(routes->n_tokens, (int32_t)said.script.n + 1);
    assert_true(routes->n_tokens > 4 && routes->top_k == 2 && routes->n_layers == 1);
    assert_int_equal(routes->layers[0]->layer, 2);
    const int32_t *experts = (const int32_t *)(const void *)routes->layers[0]->experts.data;
    const int32_t *ranks = (const int32_t *)(const void *)routes->layers[0]->ranks.data;
    const float *weights = (const float *)(const void *)routes->layers[0]->weights.data;
    for (int32_t i = 0; i < routes->n_tokens; i++) {
        assert_true(experts[2 * i] == i && experts[2 * i + 1] == i + 1);
        assert_true(ranks[2 * i] == 1 && ranks[2 * i + 1] == 0);
        assert_true(weights[2 * i] > 0.49f && weights[2 * i + 1] < 0.26f);
    }
    cox_record_destroy(h.record);
}

/* Refused by the engine and before it: the plan is freed once (sanitizers watch), a share of it stays, and
 * the engine never has it. */
static void test_a_refused_request_gives_its_plan_back(void **state)
{
    (void)state;
    cox_plan *plan = NULL;
    said.n_plans = 0;
    said.refuses = COX_TOO_LONG;
    cox_request *request = make_steered_request(&plan);
    cox_plan *kept = cox_plan_share(plan);
    refuse(request, plan, 400, "context");
    said.refuses = COX_OK;
    assert_int_equal(kept->n_owners, 1);
    request = make_request(NULL);
    request->sampling->top_p = 2;
    refuse(request, cox_plan_share(kept), 400, "top_p");
    assert_int_equal(kept->n_owners, 1);
    cox_plan_free(kept);
    request = make_request(NULL);
    assert_int_equal(cox_request_set_steering(request, "{}"), COX_OK);
    refuse(request, NULL, 500, "compiled");
    assert_int_equal(said.n_plans, 0);
}

static int load_tokenizer(void **state)
{
    (void)state;
    glob_t found;
    if (glob("models/*/tokenizer.json", 0, NULL, &found) != 0) return -1;
    char *folder = strdup(found.gl_pathv[0]);
    globfree(&found);
    *strrchr(folder, '/') = '\0';
    cox_status status = cox_tokenizer_load(&tokenizer, folder);
    free(folder);
    return status == COX_OK ? 0 : -1;
}

static int free_tokenizer(void **state)
{
    (void)state;
    cox_tokenizer_destroy(tokenizer);
    cox_tokens_free(&said.script);
    cox_plan_free(said.plan);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_arrive_whole),
        cmocka_unit_test(test_stop_strings_span_tokens),
        cmocka_unit_test(test_a_stop_ends_the_sequence),
        cmocka_unit_test(test_several_answers_make_one_record),
        cmocka_unit_test(test_one_failed_answer_fails_the_request),
        cmocka_unit_test(test_a_cancelled_request),
        cmocka_unit_test(test_a_cancelled_request_with_echo),
        cmocka_unit_test(test_a_failed_callback_ends_its_request),
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_lengths_and_logprobs),
        cmocka_unit_test(test_half_a_character_at_the_end),
        cmocka_unit_test(test_bad_requests_become_records),
        cmocka_unit_test(test_a_plan_reaches_the_engine_and_its_hits_the_record),
        cmocka_unit_test(test_routes_reach_the_record),
        cmocka_unit_test(test_a_refused_request_gives_its_plan_back),
    };
    return cmocka_run_group_tests(tests, load_tokenizer, free_tokenizer);
}
