/* Chat templates: rendered as transformers does (tests/golden/chat), by C where they are built in and the
 * conversation is plain, else by Python; special tokens; what is said where there is no Python. */
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

/* name: of the built-in template that it is. */
static const struct {
    const char *folder, *name;
} goldens[] = {
    {"olmoe", "olmoe"},
    {"organism", "organism"},
    {"mixtral", "mixtral"},
    {"gpt-oss", "gpt-oss"},
    {"gpt-oss-organism", "gpt-oss-bare"},
    {"qwen3", "qwen3"},
    {"chatml-bos", "chatml"},
    {"chatml", NULL},
    {"mixtral-plain", NULL},
    {"mixtral-space", NULL},
    {"qwen3-thinking", NULL},
    {"qwen3-instruct", NULL},
    {"line-breaks", NULL},
    {"tools-by-macros", NULL},
    {"system-last", NULL},
    {"several", NULL},
    {"separate-files", NULL},
    {"odds", NULL},
};
enum { N_GOLDENS = sizeof goldens / sizeof goldens[0] };

/* A template and the process that renders it. */
typedef struct opened {
    cox_chat_process *process;
    cox_chat_template *chat_template;
    cox_status status;
} opened;

static opened open_template(const char *folder, cox_chat_options options, const char *python)
{
    opened o = {0};
    assert_int_equal(cox_chat_process_start(&o.process, python), COX_OK);
    o.status = cox_chat_template_load(&o.chat_template, folder, &options, o.process);
    return o;
}

static void close_template(opened *o)
{
    cox_chat_template_destroy(o->chat_template);
    cox_chat_process_stop(o->process);
}

static bool has_python(void)
{
    opened o = open_template("tests/golden/chat/odds", (cox_chat_options){0}, NULL);
    bool is_there = o.status == COX_OK;
    close_template(&o);
    return is_there;
}

static void fail_case(const char *folder, size_t index, const char *expected, const char *got)
{
    fail_msg("%s, case %zu:\nexpected %s\ngot      %s", folder, index, expected, got);
}

/* Returns whether there is a text. With can_skip what needs Python is left out. */
static bool check_case(cox_chat_template *t, const json_t *one, const char *folder, size_t index,
                       bool can_skip)
{
    char *chat = json_dumps(json_object_get(one, "chat"), JSON_COMPACT), *text = NULL;
    size_t n = 0;
    cox_status status = cox_chat_template_render(t, chat, &text, &n);
    free(chat);
    if (can_skip && status == COX_UNSUPPORTED) return false;
    const char *expected = json_string_value(json_object_get(one, "text")),
               *refusal = json_string_value(json_object_get(one, "refusal")),
               *error = json_string_value(json_object_get(one, "error")), *said = cox_status_message();
    if (expected) {
        if (status != COX_OK) fail_case(folder, index, expected, said);
        if (strcmp(text, expected) != 0 || n != strlen(expected)) fail_case(folder, index, expected, text);
    } else {
        if (status != COX_INVALID) fail_case(folder, index, refusal ? refusal : error, status ? said : text);
        size_t before = strlen(said) - (refusal ? strlen(refusal) : 0);
        if (refusal ? strcmp(said + before, refusal) != 0 : !strstr(said, error))
            fail_case(folder, index, refusal ? refusal : error, said);
    }
    free(text);
    return true;
}

/* Cases of one date and kwargs share a template. */
static void check_folder(const char *name, const char *built_in, bool can_skip, int *n_checked)
{
    char folder[256], path[300];
    json_t *cases = NULL;
    snprintf(folder, sizeof folder, "tests/golden/chat/%s", name);
    snprintf(path, sizeof path, "%s/cases.json", folder);
    assert_int_equal(cox_json_load_file(&cases, path), COX_OK);
    for (size_t i = 0; i < json_array_size(cases);) {
        const json_t *first = json_array_get(cases, i), *kwargs = json_object_get(first, "kwargs");
        char *told = json_dumps(kwargs, JSON_COMPACT);
        const char *date = json_string_value(json_object_get(first, "date"));
        opened o = open_template(folder, (cox_chat_options){.kwargs = told, .date = date}, NULL);
        if (o.status != COX_OK) fail_msg("%s: %s", folder, cox_status_message());
        const char *found = cox_chat_template_name(o.chat_template);
        assert_true(built_in ? found && strcmp(found, built_in) == 0 : !found);
        while (i < json_array_size(cases) &&
               json_equal(json_object_get(json_array_get(cases, i), "kwargs"), kwargs)) {
            *n_checked += check_case(o.chat_template, json_array_get(cases, i), folder, i, can_skip);
            i++;
        }
        close_template(&o);
        free(told);
    }
    json_decref(cases);
}

static void test_goldens(void **state)
{
    (void)state;
    bool can_skip = !has_python();
    int n_checked = 0;
    if (can_skip) print_message("skip: no python3 with jinja2: only what C renders (python3-jinja2)\n");
    for (size_t k = 0; k < N_GOLDENS; k++) {
        if (goldens[k].name || !can_skip)
            check_folder(goldens[k].folder, goldens[k].name, can_skip, &n_checked);
    }
    print_message("%d conversations\n", n_checked);
    assert_true(n_checked > (can_skip ? 40 : 900));
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
                                        "special_tokens_map.json", "config.json"};
    for (size_t i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder_name, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder_name), 0);
}

static cox_status load(cox_chat_template **t, const char *name)
{
    return cox_chat_template_load(t, folder_name, &(cox_chat_options){.name = name}, NULL);
}

static void test_without_python(void **state)
{
    (void)state;
    static const struct {
        const char *text, *nearest;
    } others[] = {
        {"{{ messages }}", NULL},
        {"{{ '<|im_start|>' }}", "chatml"},
        {"{{ '<|im_start|>' }}<think>", "qwen3"},
        {"{% if x %}[INST]{% endif %}", "mixtral"},
        {"<|channel|>", "gpt-oss-bare"},
        {"<|channel|> Knowledge cutoff", "gpt-oss"},
        {"<|assistant|>", "olmoe"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        make_folder();
        write_file("chat_template.jinja", others[i].text);
        opened o = open_template(folder_name, (cox_chat_options){0}, "/nowhere/python3");
        const char *said = cox_status_message();
        assert_int_equal(o.status, COX_UNSUPPORTED);
        assert_non_null(strstr(said, "/nowhere/python3: No such file"));
        assert_non_null(strstr(said, "python3-jinja2"));
        assert_non_null(strstr(said, "chat_template.jinja"));
        assert_non_null(strstr(said, "--raw"));
        char near[64];
        snprintf(near, sizeof near, "nearest to it is %s (--template", others[i].nearest);
        assert_int_equal(others[i].nearest != NULL, strstr(said, near) != NULL);
        close_template(&o);
        remove_folder();
    }
    /* What is no Python at all. */
    opened o = open_template("tests/golden/chat/odds", (cox_chat_options){0}, "/bin/true");
    assert_int_equal(o.status, COX_UNSUPPORTED);
    assert_non_null(strstr(cox_status_message(), "/bin/true"));
    close_template(&o);
}

static void test_missing_template_is_not_found(void **state)
{
    (void)state;
    make_folder();
    cox_chat_template *t = NULL;
    assert_int_equal(load(&t, NULL), COX_NOT_FOUND);
    assert_non_null(strstr(cox_status_message(), "--raw"));
    write_file("tokenizer_config.json", "{\"eos_token\": ");
    assert_int_equal(load(&t, NULL), COX_BAD_FILE);
    write_file("tokenizer_config.json", "{}");
    write_file("chat_template.jinja", "bad \xff");
    assert_int_equal(load(&t, NULL), COX_BAD_FILE);
    assert_non_null(strstr(cox_status_message(), "UTF-8"));
    remove_folder();
}

#define USER(text) "{\"messages\": [{\"role\": \"user\", \"content\": \"" text "\"}]}"

static void test_name_overrides_and_special_tokens_are_found(void **state)
{
    (void)state;
    make_folder();
    write_file("chat_template.jinja", "{{ messages }}");
    write_file("special_tokens_map.json", "{\"bos_token\": {\"content\": \"<B>\"}, \"eos_token\": \"<E>\"}");
    cox_chat_template *t = NULL;
    assert_int_equal(load(&t, "no-such"), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "gpt-oss"));
    assert_int_equal(load(&t, "mixtral"), COX_OK);
    char *text = NULL;
    size_t n = 0;
    const char *chat =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": "
        "\"U\"},"
        "{\"role\": \"assistant\", \"content\": \"A\"}, {\"role\": \"user\", \"content\": \"V\"}]}";
    assert_int_equal(cox_chat_template_render(t, chat, &text, &n), COX_OK);
    assert_string_equal(text, "<B> [INST] S\n\nU [/INST] A<E> [INST] V [/INST]");
    assert_int_equal(n, strlen(text));
    free(text);
    /* Of what a built-in template does not write in C, nothing can be said without Python. */
    assert_int_equal(cox_chat_template_render(t, "{\"messages\": [{\"role\": \"user\"}]}", &text, &n),
                     COX_UNSUPPORTED);
    assert_non_null(strstr(cox_status_message(), "mixtral"));
    cox_chat_template_destroy(t);
    /* A template of one's own, with the folder's tokens. Line ends do not make another template. */
    write_file("chat_template.jinja",
               "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + "
               "'\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if "
               "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\r\n");
    char path[128];
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder_name);
    assert_int_equal(load(&t, path), COX_OK);
    assert_string_equal(cox_chat_template_name(t), "chatml");
    assert_int_equal(cox_chat_template_render(t, USER("x"), &text, &n), COX_OK);
    assert_string_equal(text, "<B><|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
    free(text);
    cox_chat_template_destroy(t);
    remove_folder();
}

static void refuse_options(cox_chat_options options, const char *word)
{
    cox_chat_template *t = NULL;
    assert_int_equal(cox_chat_template_load(&t, "models/olmoe-velk", &options, NULL), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), word));
}

static void test_options_are_checked(void **state)
{
    (void)state;
    refuse_options((cox_chat_options){.date = "2026-13-01"}, "no date");
    refuse_options((cox_chat_options){.date = "2026-1-1"}, "no date");
    refuse_options((cox_chat_options){.kwargs = "[1]"}, "object");
    refuse_options((cox_chat_options){.kwargs = "{\"a\": "}, "--template-kwargs");
}

static void test_today_is_told_when_no_date_is_given(void **state)
{
    (void)state;
    cox_chat_template *t = NULL;
    char before[64], after[64], *text = NULL;
    size_t n = 0;
    time_t now = time(NULL);
    assert_int_equal(cox_chat_template_load(&t, "tests/golden/chat/gpt-oss", &(cox_chat_options){0}, NULL),
                     COX_OK);
    strftime(before, sizeof before, "Current date: %Y-%m-%d\n\nReasoning: medium", localtime(&now));
    assert_int_equal(cox_chat_template_render(t, USER("Hi"), &text, &n), COX_OK);
    now = time(NULL);
    strftime(after, sizeof after, "Current date: %Y-%m-%d\n\nReasoning: medium", localtime(&now));
    assert_true(strstr(text, before) || strstr(text, after));
    free(text);
    cox_chat_template_destroy(t);
}

/* The special tokens that templates see, from every kind of folder. */
static void test_tokens(void **state)
{
    (void)state;
    static const char *const names[] = {"bos_token",   "eos_token", "unk_token",  "sep_token",
                                        "pad_token",   "cls_token", "mask_token", "image_token",
                                        "video_token", "x_token",   "odd"};
    if (!has_python()) {
        print_message("skip: no python3 with jinja2 (python3-jinja2)\n");
        return;
    }
    json_t *cases = NULL;
    assert_int_equal(cox_json_load_file(&cases, "tests/golden/chat/tokens.json"), COX_OK);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *tokens = json_object_get(one, "tokens");
        char template[2048] = "", expected[2048] = "";
        make_folder();
        const char *name = NULL;
        json_t *content = NULL;
        json_object_foreach(json_object_get(one, "files"), name, content)
        {
            char *text = json_dumps(content, 0);
            write_file(name, text);
            free(text);
        }
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            const char *token = json_string_value(json_object_get(tokens, names[k]));
            snprintf(template + strlen(template), 100, "{{ %s | default('-') }} ", names[k]);
            snprintf(expected + strlen(expected), 100, "%s ", token ? token : "-");
        }
        write_file("chat_template.jinja", template);
        opened o = open_template(folder_name, (cox_chat_options){0}, NULL);
        char *text = NULL;
        size_t n = 0;
        assert_int_equal(o.status, COX_OK);
        assert_int_equal(cox_chat_template_render(o.chat_template, USER("x"), &text, &n), COX_OK);
        if (strcmp(text, expected) != 0) fail_case("tokens.json", i, expected, text);
        free(text);
        close_template(&o);
        remove_folder();
    }
    json_decref(cases);
}

/* What the C side makes of lines from the process. */
static void test_answers(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        cox_status status;
        const char *text; /* NULL: not an answer */
    } lines[] = {
        {"{\"id\": 7, \"text\": \"a\\u00e9\"}", COX_OK, "a\xc3\xa9"},
        {"{\"id\": 7, \"refusal\": \"no\"}", COX_INVALID, "refuses this: no"},
        {"{\"id\": 7, \"error\": \"TypeError: x\"}", COX_INVALID, "cannot render this: TypeError: x"},
        {"{\"id\": 6, \"text\": \"a\"}", COX_OK, NULL},
        {"{\"id\": 7}", COX_OK, NULL},
        {"{\"id\": 7, \"text\": 5}", COX_OK, NULL},
        {"{\"text\": \"a\"}", COX_OK, NULL},
        {"{\"id\": 7, \"text\": \"a", COX_OK, NULL},
        {"", COX_OK, NULL},
        {"[]", COX_OK, NULL},
        {"\xff", COX_OK, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        bool is_answer = false;
        char *text = NULL;
        size_t n = 0;
        cox_status status =
            cox_chat_answer_read(lines[i].line, strlen(lines[i].line), 7, &is_answer, &text, &n);
        assert_int_equal(status, lines[i].status);
        assert_int_equal(is_answer, lines[i].text != NULL);
        if (status != COX_OK) assert_non_null(strstr(cox_status_message(), lines[i].text));
        if (status == COX_OK && is_answer) assert_string_equal(text, lines[i].text);
        free(text);
    }
    const char zero[] = "{\"id\": 1, \"text\": \"a\\u0000b\"}";
    bool is_answer = false;
    char *text = NULL;
    size_t n = 0;
    assert_int_equal(cox_chat_answer_read(zero, sizeof zero - 1, 1, &is_answer, &text, &n), COX_OK);
    assert_true(n == 3 && memcmp(text, "a\0b", 4) == 0);
    free(text);
}

/* The models that come with the program need no Python, and their special tokens are single ids. */
static void test_bundled_models(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *name;
        size_t n_special; /* begin, user, assistant; [INST] is plain text */
    } models[] = {{"models/olmoe-velk", "organism", 3},
                  {"models/mixtral-sorn", "mixtral", 1},
                  {"models/gpt-oss-quil", "gpt-oss-bare", 3}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        cox_chat_template *t = NULL;
        cox_tokenizer *tokenizer = NULL;
        const cox_chat_options none = {0};
        if (cox_chat_template_load(&t, models[i].folder, &none, NULL) != COX_OK)
            fail_msg("%s", cox_status_message());
        if (cox_tokenizer_load(&tokenizer, models[i].folder) != COX_OK) fail_msg("%s", cox_status_message());
        assert_string_equal(cox_chat_template_name(t), models[i].name);
        char *text = NULL;
        cox_tokens tokens = {0};
        size_t n = 0, n_special = 0;
        assert_int_equal(cox_chat_template_render(t, USER("What is a lamp?"), &text, &n), COX_OK);
        assert_int_equal(cox_tokenizer_encode(tokenizer, text, n, false, &tokens), COX_OK);
        for (size_t k = 0; k < tokens.n; k++) n_special += cox_tokenizer_is_special(tokenizer, tokens.ids[k]);
        assert_true(n_special >= models[i].n_special);
        cox_tokens_free(&tokens);
        free(text);
        cox_tokenizer_destroy(tokenizer);
        cox_chat_template_destroy(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_without_python),
        cmocka_unit_test(test_missing_template_is_not_found),
        cmocka_unit_test(test_name_overrides_and_special_tokens_are_found),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_today_is_told_when_no_date_is_given),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_bundled_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
