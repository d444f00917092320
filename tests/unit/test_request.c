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
        "\"user\":\"me\",\"metadata\":{\"a\":\"b\"},\"n\":1,\"stream\":false,\"presence_penalty\":0,"
        "\"tools\":[],"
        "\"response_format\":{\"type\":\"text\"}}}",
        &status);
    assert_int_equal(status, COX_OK);
    assert_string_equal(r->custom_id, "x");
    assert_string_equal(r->model, "m");
    assert_true(r->is_chat && r->ignore_eos && r->wants_digest);
    assert_int_equal(r->n_messages, 2);
    assert_string_equal(r->messages[0]->role, "system");
    assert_string_equal(r->messages[1]->content, "ab");
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
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/"
         "completions\",\"body\":{\"messages\":[{\"role\":\"user\"}]}}",
         "content", COX_BAD_FILE},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/"
         "completions\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":"
         "[{\"type\":\"image_url\"}]}]}}",
         "image_url", COX_UNSUPPORTED},
        {"{\"custom_id\":\"a\",\"url\":\"/v1/chat/"
         "completions\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":\"a\","
         "\"tool_calls\":[]}]}}",
         "a message: unknown key \"tool_calls\"; the keys are role, content, name", COX_BAD_FILE},
        {CHAT("\"n\":2,"), "\"n\"", COX_UNSUPPORTED},
        {CHAT("\"stream\":true,"), "stream", COX_UNSUPPORTED},
        {CHAT("\"tools\":[{}],"), "tools", COX_UNSUPPORTED},
        {CHAT("\"logit_bias\":{\"5\":1},"), "logit_bias", COX_UNSUPPORTED},
        {CHAT("\"response_format\":{\"type\":\"json_object\"},"), "response_format", COX_UNSUPPORTED},
        {CHAT("\"presence_penalty\":0.5,"), "presence_penalty", COX_UNSUPPORTED},
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
        {COMPLETION("\"echo\":true,"), "echo", COX_UNSUPPORTED},
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
    cox_request *request = read_line(CHAT("\"n\":2,"), &status);
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

static void test_mail_there_and_back(void **state)
{
    (void)state;
    cox_status status;
    cox_request *request = read_line(CHAT("\"stop\":[\"A\"],\"seed\":77,\"top_k\":3,"), &status);
    assert_int_equal(status, COX_OK);
    void *data = NULL;
    size_t n = 0;
    cox_mail *mail = NULL;
    assert_int_equal(cox_mail_pack_request(request, &data, &n), COX_OK);
    assert_int_equal(cox_mail_unpack(&mail, data, n), COX_OK);
    free(data);
    assert_int_equal(mail->content_case, COX__MAIL__CONTENT_REQUEST);
    assert_string_equal(mail->request->messages[0]->content, "hi");
    assert_string_equal(mail->request->stop[0], "A");
    assert_true(mail->request->sampling->seed == 77 && mail->request->sampling->n_logprobs == -1);
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
    assert_int_equal(cox_request_set_plan(request, "old", 3, "old", false), COX_OK);
    assert_int_equal(cox_request_set_plan(request, "p\0q", 3, "warm", true), COX_OK);
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
        cmocka_unit_test(test_mail_there_and_back),
        cmocka_unit_test(test_steering_there_and_back),
        cmocka_unit_test(test_hits_in_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
