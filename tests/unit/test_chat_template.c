/* Chat templates: recognised by their text, rendered as transformers does (tests/golden/chat), refused by
 * name. */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

static const struct {
    const char *folder, *name;
} goldens[] = {
    {"olmoe", "olmoe"},           {"organism", "organism"},     {"mixtral", "mixtral"},
    {"mixtral-plain", "mixtral"}, {"mixtral-space", "mixtral"}, {"gpt-oss", "gpt-oss"},
    {"qwen3", "qwen3"},           {"qwen3-thinking", "qwen3"},  {"qwen3-instruct", "chatml"},
    {"chatml", "chatml"},         {"chatml-bos", "chatml"},     {"gpt-oss-organism", "gpt-oss"},
};
enum { N_GOLDENS = sizeof goldens / sizeof goldens[0], MAX_MESSAGES = 16 };

static void set_options(cox_chat_template *t, const json_t *given)
{
    cox_chat_options options = cox_chat_options_defaults();
    cox_json_string(given, "options", "date", false, &options.date);
    cox_json_string(given, "options", "reasoning_effort", false, &options.reasoning_effort);
    cox_json_bool(given, "options", "enable_thinking", false, &options.enable_thinking);
    assert_int_equal(cox_chat_template_set_options(t, &options), COX_OK);
}

static void check_case(cox_chat_template *t, const json_t *one, const char *folder, size_t index)
{
    const json_t *list = json_object_get(one, "messages");
    size_t n = json_array_size(list);
    cox_chat_message messages[MAX_MESSAGES];
    assert_true(n <= MAX_MESSAGES);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
    }
    set_options(t, json_object_get(one, "options"));
    char *text = NULL;
    cox_status status = cox_chat_template_render(t, messages, n, &text);
    const char *expected = json_string_value(json_object_get(one, "text"));
    if (!expected) {
        if (status != COX_INVALID)
            fail_msg("%s, case %zu: expected INVALID, got %s", folder, index, cox_status_name(status));
        return;
    }
    if (status != COX_OK) fail_msg("%s, case %zu: %s", folder, index, cox_status_message());
    if (strcmp(text, expected) != 0)
        fail_msg("%s, case %zu:\nexpected %s\ngot      %s", folder, index, expected, text);
    free(text);
}

static void test_goldens(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_GOLDENS; k++) {
        char folder[256], path[300];
        snprintf(folder, sizeof folder, "tests/golden/chat/%s", goldens[k].folder);
        snprintf(path, sizeof path, "%s/cases.json", folder);
        cox_chat_template *t = NULL;
        if (cox_chat_template_load(&t, folder, NULL) != COX_OK)
            fail_msg("%s: %s", folder, cox_status_message());
        assert_string_equal(cox_chat_template_name(t), goldens[k].name);
        json_t *cases = NULL;
        assert_int_equal(cox_json_load_file(&cases, path), COX_OK);
        assert_true(json_array_size(cases) > 20);
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_case(t, json_array_get(cases, i), folder, i);
        json_decref(cases);
        cox_chat_template_destroy(t);
    }
}

/* A folder of its own for each test, with the given files. */
static char folder_name[64];

static void make_folder(void)
{
    strcpy(folder_name, "/tmp/cox-chat-XXXXXX");
    assert_non_null(mkdtemp(folder_name));
}

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder_name, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void remove_folder(void)
{
    static const char *const names[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder_name, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder_name), 0);
}

static void test_unknown_template_names_the_way_out(void **state)
{
    (void)state;
    static const char *const unknown[] = {
        "{{ messages }}",
        "",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        /* ChatML with a system prompt of its own must not pass for ChatML */
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful "
        "assistant<|im_end|>\\n' }}"
        "{% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + "
        "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% "
        "endif %}",
        "{# no end",
        "{{ 'open",
        "{% if x[",
        "{{ a['b'",
    };
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        make_folder();
        write_file("chat_template.jinja", unknown[i]);
        cox_chat_template *t = NULL;
        assert_int_equal(cox_chat_template_load(&t, folder_name, NULL), COX_UNSUPPORTED);
        assert_non_null(strstr(cox_status_message(), "--template"));
        assert_non_null(strstr(cox_status_message(), "--raw"));
        assert_non_null(strstr(cox_status_message(), "chat_template.jinja"));
        remove_folder();
    }
}

static void test_missing_template_is_not_found(void **state)
{
    (void)state;
    make_folder();
    cox_chat_template *t = NULL;
    assert_int_equal(cox_chat_template_load(&t, folder_name, NULL), COX_NOT_FOUND);
    assert_non_null(strstr(cox_status_message(), "--raw"));
    write_file("tokenizer_config.json",
               "{\"eos_token\": \"</s>\", \"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}]}");
    assert_int_equal(cox_chat_template_load(&t, folder_name, NULL), COX_NOT_FOUND);
    write_file("tokenizer_config.json", "{\"eos_token\": ");
    assert_int_equal(cox_chat_template_load(&t, folder_name, NULL), COX_BAD_FILE);
    remove_folder();
}

static void test_name_overrides_and_special_tokens_are_found(void **state)
{
    (void)state;
    make_folder();
    write_file("chat_template.jinja", "{{ messages }}");
    write_file("special_tokens_map.json", "{\"bos_token\": {\"content\": \"<B>\"}, \"eos_token\": \"<E>\"}");
    cox_chat_template *t = NULL;
    assert_int_equal(cox_chat_template_load(&t, folder_name, "no-such"), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "gpt-oss"));
    assert_int_equal(cox_chat_template_load(&t, folder_name, "mixtral"), COX_OK);
    const cox_chat_message messages[] = {{"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}};
    char *text = NULL;
    assert_int_equal(cox_chat_template_render(t, messages, 4, &text), COX_OK);
    assert_string_equal(text, "<B> [INST] S\n\nU [/INST] A<E> [INST] V [/INST]");
    free(text);
    assert_int_equal(cox_chat_template_render(t, messages, 0, &text), COX_INVALID);
    cox_chat_template_destroy(t);
    /* Without an end token a template that writes one cannot be rendered. */
    write_file("special_tokens_map.json", "{}");
    assert_int_equal(cox_chat_template_load(&t, folder_name, "olmoe"), COX_OK);
    assert_int_equal(cox_chat_template_render(t, messages + 1, 2, &text), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "eos_token"));
    cox_chat_template_destroy(t);
    remove_folder();
}

static void test_harmony_takes_today_when_no_date_is_given(void **state)
{
    (void)state;
    cox_chat_template *t = NULL;
    assert_int_equal(cox_chat_template_load(&t, "tests/golden/chat/gpt-oss", NULL), COX_OK);
    const cox_chat_message message = {"user", "Hi"};
    char before[64], after[64], *text = NULL;
    time_t now = time(NULL);
    strftime(before, sizeof before, "Current date: %Y-%m-%d\n\nReasoning: medium", localtime(&now));
    assert_int_equal(cox_chat_template_render(t, &message, 1, &text), COX_OK);
    now = time(NULL);
    strftime(after, sizeof after, "Current date: %Y-%m-%d\n\nReasoning: medium", localtime(&now));
    assert_true(strstr(text, before) || strstr(text, after));
    free(text);
    cox_chat_options options = cox_chat_options_defaults();
    options.reasoning_effort = "a very long effort indeed";
    assert_int_equal(cox_chat_template_set_options(t, &options), COX_INVALID);
    cox_chat_template_destroy(t);
}

/* The models that come with the program: recognised, and their special tokens are single ids. */
static void test_bundled_models(void **state)
{
    (void)state;
    glob_t found = {0};
    assert_int_equal(glob("models/*/tokenizer.json", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        *strrchr(found.gl_pathv[i], '/') = '\0';
        const char *folder = found.gl_pathv[i];
        cox_chat_template *t = NULL;
        cox_tokenizer *tokenizer = NULL;
        if (cox_chat_template_load(&t, folder, NULL) != COX_OK) fail_msg("%s", cox_status_message());
        if (cox_tokenizer_load(&tokenizer, folder) != COX_OK) fail_msg("%s", cox_status_message());
        const cox_chat_message message = {"user", "What is a lamp?"};
        char *text = NULL;
        cox_tokens tokens = {0};
        assert_int_equal(cox_chat_template_render(t, &message, 1, &text), COX_OK);
        assert_int_equal(cox_tokenizer_encode(tokenizer, text, strlen(text), false, &tokens), COX_OK);
        size_t n_special = 0;
        for (size_t k = 0; k < tokens.n; k++) n_special += cox_tokenizer_is_special(tokenizer, tokens.ids[k]);
        bool is_mixtral = strcmp(cox_chat_template_name(t), "mixtral") == 0;
        assert_true(n_special >= (is_mixtral ? 1 : 3)); /* begin, user, assistant; [INST] is plain text */
        cox_tokens_free(&tokens);
        free(text);
        cox_tokenizer_destroy(tokenizer);
        cox_chat_template_destroy(t);
    }
    globfree(&found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_bundled_models),
        cmocka_unit_test(test_unknown_template_names_the_way_out),
        cmocka_unit_test(test_missing_template_is_not_found),
        cmocka_unit_test(test_name_overrides_and_special_tokens_are_found),
        cmocka_unit_test(test_harmony_takes_today_when_no_date_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
