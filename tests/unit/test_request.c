/* OpenAI batch lines to requests: what is read, ignored, refused; records to lines; mail there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/mail.h"
#include "proto/record.h"

static cox_request *read_line(const char *line, cox_status *status)
{
    cox_request *request = cox_request_create();
    assert_non_null(request);
    *status = cox_request_read_line(request, line, strlen(line), "line 7");
    return request;
}

#define CHAT(fields)                                                                               \
    "{\"custom_id\":\"q1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{" fields \
    "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}}"
#define COMPLETION(fields) \
    "{\"custom_id\":\"q2\",\"url\":\"/v1/completions\",\"body\":{" fields "\"prompt\":\"hi\"}}"

static void test_all_fields_of_a_chat(void **state)
{
    (void)state;
    cox_status status;
    cox_request *r = read_line(
        "{\"custom_id\":\"x\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\","
        "\"messages\":[{\"role\":\"system\",\"content\":\"be "
        "kind\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"max_tokens\":3,\"max_completion_tokens\":9,"
        "\"temperature\":0.5,\"top_p\":0.9,\"top_k\":4,\"min_p\":0.1,\"repetition_penalty\":1.5,\"seed\":-1,"
        "\"stop\":[\"A\",\"B\"],\"logprobs\":true,\"top_logprobs\":2,\"ignore_eos\":true,\"logits_digest\":"
        "true,"
        "\"user\":\"me\",\"metadata\":{\"a\":\"b\"},\"n\":3,\"stream\":false,\"presence_penalty\":-1.5,"
        "\"frequency_penalty\":0.25,\"logit_bias\":{\"17\":-100,\"0\":2.5},"
        "\"tools\":[],"
        "\"response_format\":{\"type\":\"text\"}}}",
        &status);
    assert_int_equal(status, COX_OK);
    assert_string_equal(r->custom_id, "x");
    assert_string_equal(r->model, "m");
    assert_true(r->is_chat && r->ignore_eos && r->wants_digest);
    /* The conversation is kept as it is, in its own order. */
    assert_string_equal(
        r->chat, "{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\","
                 "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],"
                 "\"tools\":[]}");
    assert_int_equal(r->max_tokens, 9);
    assert_int_equal(r->n_stop, 2);
    assert_string_equal(r->stop[1], "B");
    const Cox__SamplingFields *s = r->sampling;
    assert_true(s->temperature > 0.49f && s->temperature < 0.51f && s->top_p > 0.89f && s->top_p < 0.91f);
    assert_true(s->min_p > 0.09f && s->min_p < 0.11f && s->repetition_penalty > 1.49f &&
                s->repetition_penalty < 1.51f);
    assert_int_equal(s->top_k, 4);
    assert_true(s->seed == UINT64_MAX);
    assert_int_equal(s->n_logprobs, 2);
    assert_int_equal(r->n_choices, 3);
    assert_true(s->presence_penalty < -1.49f && s->frequency_penalty > 0.24f && s->frequency_penalty < 0.26f);
    assert_int_equal(s->n_logit_bias, 2);
    for (size_t i = 0; i < 2; i++) {
        const Cox__LogitBias *bias = s->logit_bias[i];
        assert_true(bias->id == 17 ? bias->bias < -99 : bias->id == 0 && bias->bias > 2.4f);
    }
    cox_request_destroy(r);
}

static void test_completions(void **state)
{
    (void)state;
    cox_status status;
    cox_request *r = read_line(COMPLETION("\"logprobs\":3,\"stop\":\"x\","), &status);
    assert_int_equal(status, COX_OK);
    assert_false(r->is_chat);
    assert_string_equal(r->prompt, "hi");
    assert_int_equal(r->sampling->n_logprobs, 3);
    assert_int_equal(r->n_stop, 1);
    cox_request_destroy(r);
    r = read_line("{\"custom_id\":\"y\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[5,0,7]}}", &status);
    assert_int_equal(status, COX_OK);
    assert_int_equal(r->n_prompt_ids, 3);
    assert_int_equal(r->prompt_ids[2], 7);
    cox_request_destroy(r);
    r = read_line("{\"custom_id\":\"y\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[\"one\"]}}",
                  &status);
    assert_int_equal(status, COX_OK);
    assert_string_equal(r->prompt, "one");
    assert_false(r->echo);
    cox_request_destroy(r);
    r = read_line(COMPLETION("\"echo\":true,\"max_tokens\":0,\"logprobs\":1,\"logit_bias\":null,"), &status);
    assert_int_equal(status, COX_OK);
    assert_true(r->echo && r->max_tokens == 0);
    cox_request_destroy(r);
}

static void test_bad_lines_are_named(void **state)
{
    (void)state;
    const struct {
        const char *line, *name; /* a word of the message */
        cox_status status;
    } cases[] = {
        {"", "JSON", COX_BAD_FILE},
        {"[1]", "not a JSON object", COX_BAD_FILE},
        {"{\"custom_id\":\"\xff\"}", "JSON", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"custom_id\":\"b\"}", "custom_id", COX_BAD_FILE},
        {"{\"url\":\"/v1/completions\",\"body\":{}}", "custom_id", COX_BAD_FILE},
        {"{\"custom_id\":5,\"url\":\"/v1/completions\",\"body\":{}}", "custom_id", COX_BAD_FILE},
        {"{\"custom_id\":\"\",\"url\":\"/v1/completions\",\"body\":{}}", "custom_id", COX_INVALID},
        {"{\"custom_id\":\"a\",\"body\":{}}", "url", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/embeddings\",\"body\":{}}", "/v1/embeddings", COX_UNSUPPORTED},
        {"{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}", "GET",
         COX_UNSUPPORTED},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\"}", "body", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{}}", "prompt", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[\"a\",\"b\"]}}", "several",
         COX_UNSUPPORTED},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[1,-1]}}", "element 1",
         COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[]}}", "prompt",
         COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[]}}", "messages",
         COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[\"hi\"]}}",
         "message 0", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":null}}", "messages",
         COX_BAD_FILE},
        {CHAT("\"tools\":{},"), "tools", COX_BAD_FILE},
        {CHAT("\"documents\":true,"), "documents", COX_BAD_FILE},
        {CHAT("\"chat_template_kwargs\":[],"), "chat_template_kwargs", COX_BAD_FILE},
        {CHAT("\"add_generation_prompt\":1,"), "add_generation_prompt", COX_BAD_FILE},
        {CHAT("\"n\":0,"), "\"n\"", COX_BAD_FILE},
        {CHAT("\"n\":129,"), "\"n\"", COX_BAD_FILE},
        {CHAT("\"n\":1.5,"), "\"n\"", COX_BAD_FILE},
        {CHAT("\"echo\":true,"), "unknown key \"echo\"", COX_BAD_FILE},
        {CHAT("\"stream\":true,"), "stream", COX_UNSUPPORTED},
        {CHAT("\"logit_bias\":[],"), "logit_bias", COX_BAD_FILE},
        {CHAT("\"logit_bias\":{\"x\":1},"), "\"x\" is not a token id", COX_INVALID},
        {CHAT("\"logit_bias\":{\"\":1},"), "not a token id", COX_INVALID},
        {CHAT("\"logit_bias\":{\"07\":1},"), "not a token id", COX_INVALID},
        {CHAT("\"logit_bias\":{\"-1\":1},"), "not a token id", COX_INVALID},
        {CHAT("\"logit_bias\":{\"99999999999999999999\":1},"), "not a token id", COX_INVALID},
        {CHAT("\"logit_bias\":{\"5\":100.5},"), "-100 to 100", COX_INVALID},
        {CHAT("\"logit_bias\":{\"5\":\"1\"},"), "token 5", COX_INVALID},
        {CHAT("\"response_format\":{\"type\":\"json_object\"},"), "response_format", COX_UNSUPPORTED},
        {CHAT("\"presence_penalty\":\"0.5\","), "presence_penalty", COX_BAD_FILE},
        {CHAT("\"prompt\":\"x\","), "unknown key \"prompt\"; the keys are model, messages", COX_BAD_FILE},
        {CHAT("\"temprature\":1,"), "unknown key \"temprature\"", COX_BAD_FILE},
        {CHAT("\"temperature\":\"hot\","), "temperature", COX_BAD_FILE},
        {CHAT("\"temperature\":1e300,"), "temperature", COX_INVALID},
        {CHAT("\"max_tokens\":-1,"), "max_tokens", COX_BAD_FILE},
        {CHAT("\"max_tokens\":1.5,"), "max_tokens", COX_BAD_FILE},
        {CHAT("\"stop\":[\"\"],"), "stop", COX_INVALID},
        {CHAT("\"stop\":5,"), "stop", COX_BAD_FILE},
        {CHAT("\"logprobs\":3,"), "logprobs", COX_BAD_FILE},
        {CHAT("\"top_logprobs\":3,"), "logprobs", COX_INVALID},
        {CHAT("\"logprobs\":true,\"top_logprobs\":21,"), "top_logprobs", COX_BAD_FILE},
        {COMPLETION("\"logprobs\":true,"), "logprobs", COX_BAD_FILE},
        {COMPLETION("\"echo\":1,"), "echo", COX_BAD_FILE},
        {COMPLETION("\"best_of\":2,"), "best_of", COX_UNSUPPORTED},
        {CHAT("\"steering\":\"plan.json\","), "steering", COX_BAD_FILE},
        {CHAT("\"steering\":[],"), "steering", COX_BAD_FILE},
        {CHAT("\"trace_routes\":\"dir\","), "trace_routes", COX_BAD_FILE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cox_status status;
        cox_request *request = read_line(cases[i].line, &status);
        if (status != cases[i].status || !strstr(cox_status_message(), cases[i].name)) {
            fail_msg("%s gave %s: %s", cases[i].line, cox_status_name(status), cox_status_message());
        }
        assert_non_null(strstr(cox_status_message(), "line 7"));
        assert_int_equal(cox_request_http_status(status), 400);
        cox_request_destroy(request);
    }
}

static void test_a_bad_body_keeps_the_custom_id(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(CHAT("\"functions\":[1],"), &status);
    assert_string_equal(request->custom_id, "q1");
    cox_record *record = cox_record_create(request);
    assert_int_equal(cox_record_set_error(record, status, "no"), COX_OK);
    json_t *line = cox_record_to_batch_line(record, 5, "m");
    json_t *response = json_object_get(line, "response");
    assert_string_equal(json_string_value(json_object_get(line, "custom_id")), "q1");
    assert_int_equal(json_integer_value(json_object_get(response, "status_code")), 400);
    json_t *error = json_object_get(json_object_get(response, "body"), "error");
    assert_string_equal(json_string_value(json_object_get(error, "message")), "no");
    assert_string_equal(json_string_value(json_object_get(json_object_get(line, "error"), "code")),
                        "unsupported");
    json_decref(line);
    cox_record_destroy(record);
    cox_request_destroy(request);
}

/* Lines that are not JSON to us: whose custom_id can be found all the same. */
static void test_a_broken_line_keeps_the_custom_id(void **state)
{
    (void)state;
    static const struct {
        const char *line, *custom_id, *message;
    } cases[] = {
        {"{\"custom_id\":\"a\",\"body\":{\"prompt\":\"\\u0000\"}}", "a", "NUL"},
        {"{\"body\":{\"custom_id\":\"b\",\"prompt\":\"}{\\\"\\u0000\"},\"custom_id\" :\t\"c\\u00e9\"}",
         "c\xc3\xa9", "NUL"},
        {"{\"custom_id\":\"a\",\"body\":{\"seed\":99999999999999999999}}", "a", "number is too large"},
        {"{\"custom_id\":\"a\",\"body\":{\"seed\":1e999}}", "a", "number is too large"},
        {"{\"custom_id\":\"a\",\"body\":\"\\udc00\"}", "a", "surrogate"},
        {"{\"custom_id\":\"a\",\"body\":\"\\ud800\"}", "a", "surrogate"},
        {"{\"custom_id\":\"a\",\"custom_id\":\"b\"}", "", "duplicate"},
        {"{\"custom_id\":\"\\u0000\"}", "", "NUL"},
        {"{\"custom_id\":\"a", "", "line 7"},
        {"{\"custom_id\":\"a\\", "", "line 7"},
        {"{\"custom_id\":5,", "", "line 7"},
        {"{\"custom_id\"", "", "line 7"},
        {"{\"custom_id\":", "", "line 7"},
        {"{\"custom_id\":\"cut\",\"body\":{\"prompt\":\"no e", "cut", "line 7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cox_status status;
        cox_request *request = read_line(cases[i].line, &status);
        if (status != COX_BAD_FILE || strcmp(request->custom_id, cases[i].custom_id) != 0 ||
            !strstr(cox_status_message(), cases[i].message)) {
            fail_msg("%s gave %s, \"%s\": %s", cases[i].line, cox_status_name(status), request->custom_id,
                     cox_status_message());
        }
        cox_request_destroy(request);
    }
}

static void test_an_answer_as_a_line(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(CHAT("\"model\":\"my-model\","), &status);
    request->id = 12;
    cox_record *record = cox_record_create(request);
    assert_int_equal(cox_request_set(&record->text, "hello"), COX_OK);
    assert_int_equal(cox_request_set(&record->finish_reason, "stop"), COX_OK);
    assert_int_equal(cox_request_set(&record->digest, "abc"), COX_OK);
    record->n_prompt = 3;
    record->n_generated = 2;
    json_t *line = cox_record_to_batch_line(record, 5, "other");
    const char *text = NULL, *finish = NULL, *object = NULL, *model = NULL, *digest = NULL;
    int total = 0, created = 0;
    assert_int_equal(json_unpack(line, "{s:{s:{s:s, s:s, s:i, s:[{s:s, s:{s:s}}], s:{s:i}, s:{s:s}}}}",
                                 "response", "body", "object", &object, "model", &model, "created", &created,
                                 "choices", "finish_reason", &finish, "message", "content", &text, "usage",
                                 "total_tokens", &total, "coxswain", "logits_digest", &digest),
                     0);
    assert_string_equal(object, "chat.completion");
    assert_string_equal(model, "my-model");
    assert_string_equal(text, "hello");
    assert_string_equal(finish, "stop");
    assert_string_equal(digest, "abc");
    assert_int_equal(total, 5);
    assert_int_equal(created, 5);
    assert_true(json_is_null(json_object_get(line, "error")));
    json_decref(line);
    cox_record_destroy(record);
    cox_request_destroy(request);
}

static Cox__TokenLogprob *logprob_of(const char *text, float value)
{
    Cox__TokenLogprob *entry = malloc(sizeof *entry);
    assert_non_null(entry);
    cox__token_logprob__init(entry);
    entry->token = malloc(sizeof *entry->token);
    assert_non_null(entry->token);
    cox__token_choice__init(entry->token);
    entry->token->logprob = value;
    entry->token->token = (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)strdup(text)};
    return entry;
}

/* One of a completion's answers: one token. */
static cox_record *answer_of(const cox_request *request, const char *text, float value, const char *digest)
{
    cox_record *record = cox_record_create(request);
    assert_int_equal(cox_request_set(&record->text, text), COX_OK);
    assert_int_equal(cox_request_set(&record->finish_reason, "length"), COX_OK);
    assert_int_equal(cox_request_set(&record->digest, digest), COX_OK);
    record->n_prompt = 2;
    record->n_generated = 1;
    record->has_logprobs = true;
    record->logprobs = calloc(1, sizeof(Cox__TokenLogprob *));
    assert_non_null(record->logprobs);
    record->logprobs[record->n_logprobs++] = logprob_of(text, value);
    return record;
}

/* Several answers with the prompt's echo before each: usage counts the prompt once. */
static void test_echo_and_several_answers_as_a_line(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(COMPLETION("\"echo\":true,\"n\":2,"), &status);
    cox_record *record = answer_of(request, "d", -2.0f, "d0");
    record->others = calloc(1, sizeof(cox_record *));
    record->prompt_logprobs = calloc(2, sizeof(Cox__TokenLogprob *));
    record->prompt_offsets = calloc(2, sizeof(int32_t));
    assert_true(record->others && record->prompt_logprobs && record->prompt_offsets);
    record->others[record->n_others++] = answer_of(request, "e", -4.0f, "d1");
    record->has_echo = true;
    assert_int_equal(cox_request_set(&record->prompt_text, "\xc3\xa4 b"), COX_OK);
    record->prompt_logprobs[record->n_prompt_logprobs++] = logprob_of("\xc3\xa4", 0);
    record->prompt_logprobs[record->n_prompt_logprobs++] = logprob_of(" b", -0.5f);
    record->prompt_offsets[1] = 1;
    record->n_prompt_offsets = 2;
    json_t *line = cox_record_to_batch_line(record, 5, "m");
    json_t *body = json_object_get(json_object_get(line, "response"), "body");
    assert_null(json_object_get(body, "coxswain"));
    char *text = json_dumps(json_object_get(body, "choices"), JSON_COMPACT);
    assert_string_equal(text, "[{\"index\":0,\"finish_reason\":\"length\",\"text\":\"\xc3\xa4 "
                              "bd\",\"logprobs\":{\"tokens\":[\"\xc3\xa4\",\" "
                              "b\",\"d\"],\"token_logprobs\":[null,-0.5,-2.0],\"top_logprobs\":[null,{},{}],"
                              "\"text_offset\":[0,1,3]},"
                              "\"coxswain\":{\"logits_digest\":\"d0\"}},"
                              "{\"index\":1,\"finish_reason\":\"length\",\"text\":\"\xc3\xa4 "
                              "be\",\"logprobs\":{\"tokens\":[\"\xc3\xa4\",\" "
                              "b\",\"e\"],\"token_logprobs\":[null,-0.5,-4.0],\"top_logprobs\":[null,{},{}],"
                              "\"text_offset\":[0,1,3]},"
                              "\"coxswain\":{\"logits_digest\":\"d1\"}}]");
    free(text);
    text = json_dumps(json_object_get(body, "usage"), JSON_COMPACT);
    assert_string_equal(text, "{\"prompt_tokens\":2,\"completion_tokens\":2,\"total_tokens\":4,"
                              "\"prompt_tokens_details\":{\"cached_tokens\":0}}");
    free(text);
    json_decref(line);
    cox_record_destroy(record);
    cox_request_destroy(request);
}

static void test_mail_there_and_back(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(
        CHAT("\"stop\":[\"A\"],\"seed\":77,\"top_k\":3,\"n\":4,\"logit_bias\":{\"9\":-2},"), &status);
    assert_int_equal(status, COX_OK);
    void *data = NULL;
    size_t n = 0;
    cox_mail *mail = NULL;
    assert_int_equal(cox_mail_pack_request(request, &data, &n), COX_OK);
    assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
    free(data);
    assert_int_equal(mail->content_case, COX__MAIL__CONTENT_REQUEST);
    assert_string_equal(mail->request->chat, request->chat);
    assert_non_null(strstr(request->chat, "\"hi\""));
    assert_string_equal(mail->request->stop[0], "A");
    assert_true(mail->request->sampling->seed == 77 && mail->request->sampling->n_logprobs == -1);
    assert_int_equal(mail->request->n_choices, 4);
    assert_int_equal(mail->request->sampling->logit_bias[0]->id, 9);
    cox_mail_destroy(mail);

    cox_record *record = cox_record_create(request);
    assert_int_equal(cox_request_set(&record->text, "a\xc3\xa9"), COX_OK);
    assert_int_equal(cox_mail_pack_record(record, &data, &n), COX_OK);
    assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
    free(data);
    assert_int_equal(mail->content_case, COX__MAIL__CONTENT_RECORD);
    assert_string_equal(mail->record->text, "a\xc3\xa9");
    cox_mail_destroy(mail);

    assert_int_equal(cox_mail_pack_text(9, "xyz", 3, &data, &n), COX_OK);
    assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
    assert_true(mail->text->id == 9 && mail->text->text.len == 3);
    cox_mail_destroy(mail);
    assert_int_equal(cox_mail_unpack(&mail, data, n - 1), COX_INTERNAL);
    free(data);

    for (int at_once = 0; at_once < 2; at_once++) {
        assert_int_equal(cox_mail_pack_finish(at_once, &data, &n), COX_OK);
        assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
        assert_int_equal(mail->content_case, at_once ? COX__MAIL__CONTENT_STOP : COX__MAIL__CONTENT_FINISH);
        cox_mail_destroy(mail);
        free(data);
    }
    cox_record_destroy(record);
    cox_request_destroy(request);
}

/* From a user's words to the packed plan, over the mail, and back as hits. */
static void test_steering_there_and_back(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(CHAT("\"steering\":null,\"trace_routes\":false,"), &status);
    assert_int_equal(status, COX_OK);
    assert_true(!request->steering && !request->wants_routes);
    cox_request_destroy(request);
    request = read_line(CHAT("\"steering\":{\"interventions\":[{\"strength\":0.1}]},\"trace_routes\":true,"),
                        &status);
    assert_int_equal(status, COX_OK);
    assert_true(request->wants_routes);
    assert_string_equal(request->steering->json, "{\"interventions\":[{\"strength\":0.10000000000000001}]}");
    assert_int_equal(cox_request_set_plan(request, strdup("old"), 3, "old", false), COX_OK);
    char *packed = malloc(3);
    assert_non_null(packed);
    memcpy(packed, "p\0q", 3);
    assert_int_equal(cox_request_set_plan(request, packed, 3, "warm", true), COX_OK);
    assert_int_equal(cox_request_set(&request->routes_file, "dir/line-1.safetensors"), COX_OK);
    void *data = NULL;
    size_t n = 0;
    cox_mail *mail = NULL;
    assert_int_equal(cox_mail_pack_request(request, &data, &n), COX_OK);
    assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
    free(data);
    const Cox__Steering *steering = mail->request->steering;
    assert_string_equal(steering->json, "");
    assert_string_equal(steering->name, "warm");
    assert_true(steering->was_forced && mail->request->wants_routes);
    assert_int_equal(steering->plan.len, 3);
    assert_memory_equal(steering->plan.data, "p\0q", 3);
    cox_record *record = cox_record_create(mail->request);
    assert_string_equal(record->routes_file, "dir/line-1.safetensors");
    cox_record_destroy(record);
    cox_mail_destroy(mail);
    cox_request_destroy(request);
}

static void test_hits_in_a_line(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(CHAT(""), &status);
    cox_record *record = cox_record_create(request);
    json_t *line = cox_record_to_batch_line(record, 5, "m");
    json_t *body = json_object_get(json_object_get(line, "response"), "body");
    assert_null(json_object_get(body, "coxswain")); /* nothing was asked for */
    json_decref(line);

    Cox__SteerHits touched = COX__STEER_HITS__INIT, none = COX__STEER_HITS__INIT;
    touched.layer = 2, touched.expert = 7, touched.n_prompt = 3, touched.n_generated = 4;
    touched.norm_there = 2.5, touched.norm_added = 0.5, touched.site = "expert_out", touched.op = "add";
    none.intervention = 1, none.layer = none.expert = -1, none.site = "resid_pre", none.op = "ablate";
    Cox__SteerHits *hits[] = {&touched, &none};
    Cox__SteeringRecord steering = COX__STEERING_RECORD__INIT;
    steering.plan = "warm", steering.was_forced = 1, steering.n_hits = 2, steering.hits = hits;
    Cox__TracedRoutes routes = COX__TRACED_ROUTES__INIT;
    record->steering = &steering;
    record->routes = &routes;
    assert_int_equal(cox_request_set(&record->routes_file, "dir/line-1.safetensors"), COX_OK);
    json_t *extras = cox_record_extras_json(record);
    char *text = json_dumps(extras, JSON_COMPACT);
    assert_string_equal(
        text, "{\"steering\":{\"plan\":\"warm\",\"forced\":true,\"hits\":[{\"intervention\":0,\"site\":"
              "\"expert_out\",\"op\":\"add\",\"layer\":2,\"expert\":7,\"prompt\":3,\"generated\":4,"
              "\"norm_there\":2.5,\"norm_added\":0.5},{\"intervention\":1,\"site\":\"resid_pre\",\"op\":"
              "\"ablate\",\"layer\":null,\"expert\":null,\"prompt\":0,\"generated\":0,\"norm_there\":null,"
              "\"norm_added\":null}]},\"routes\":\"dir/line-1.safetensors\"}");
    free(text);
    json_decref(extras);
    record->steering = NULL;
    record->routes = NULL;
    cox_record_destroy(record);
    cox_request_destroy(request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fields_of_a_chat),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_bad_lines_are_named),
        cmocka_unit_test(test_a_bad_body_keeps_the_custom_id),
        cmocka_unit_test(test_a_broken_line_keeps_the_custom_id),
        cmocka_unit_test(test_an_answer_as_a_line),
        cmocka_unit_test(test_echo_and_several_answers_as_a_line),
        cmocka_unit_test(test_mail_there_and_back),
        cmocka_unit_test(test_steering_there_and_back),
        cmocka_unit_test(test_hits_in_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
