/*
 * Log-likelihoods of fifty continuations as lm-eval asks for them (its local-completions model: the context's
 * and the continuation's ids as one prompt, echo, logprobs 1, one token generated and thrown away), through
 * `coxswain batch`, against the log-softmax of what `coxswain logits` writes. With a steering plan too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "cli/commands.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"
#include "tests/unit/steering_model.h"

static const char model[] = "models/olmoe-velk";
enum { N_CONTEXTS = 25, N_CONTINUATIONS = 50 };

typedef struct question {
    cox_tokens ids;
    size_t n_context;
} question;

static question questions[N_CONTINUATIONS];

/* Appends the prompt of line i of a held-out list. */
static void append(const cox_tokenizer *tokenizer, const char *list, int line, cox_tokens *ids)
{
    char path[128], text[4096];
    snprintf(path, sizeof path, "%s/heldout/%s.jsonl", model, list);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (int i = 0; i <= line; i++) assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    json_t *json = NULL;
    assert_int_equal(cox_json_load_text(&json, text, strlen(text), path), COX_OK);
    const char *prompt = json_string_value(json_object_get(json, "prompt"));
    assert_int_equal(cox_tokenizer_encode(tokenizer, prompt, strlen(prompt), false, ids), COX_OK);
    json_decref(json);
}

/* Two continuations of each context, so that prompts have beginnings in common; one context is long. */
static int make_questions(void **state)
{
    cox_tokenizer *tokenizer = NULL;
    if (make_folder(state) != 0 || cox_tokenizer_load(&tokenizer, model) != COX_OK) return -1;
    for (int i = 0; i < N_CONTINUATIONS; i++) {
        question *q = &questions[i];
        for (int n = 0; n < (i == 7 ? 20 : 1); n++)
            append(tokenizer, "topic-how", i % N_CONTEXTS + n, &q->ids);
        q->n_context = q->ids.n;
        append(tokenizer, "ordinary-what", i, &q->ids);
    }
    cox_tokenizer_destroy(tokenizer);
    return 0;
}

static int free_questions(void **state)
{
    for (int i = 0; i < N_CONTINUATIONS; i++) cox_tokens_free(&questions[i].ids);
    return remove_folder(state);
}

static void write_ids(FILE *file, const question *q)
{
    for (size_t i = 0; i < q->ids.n; i++) fprintf(file, "%s%d", i ? "," : "", (int)q->ids.ids[i]);
}

static cox_options options_of(cox_command command, const char *plan)
{
    cox_options options;
    cox_options_defaults(&options, command);
    options.model = model;
    options.plan = plan;
    options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.threads = 1;
    options.progress = "none";
    return options;
}

/* Answers of the batch by number of the question; owned by the caller. */
static void ask(const char *plan, int n, json_t **answers)
{
    char input[128], output[128], line[1 << 16];
    snprintf(input, sizeof input, "%s/in.jsonl", test_folder);
    snprintf(output, sizeof output, "%s/out.jsonl", test_folder);
    FILE *file = fopen(input, "w");
    assert_non_null(file);
    for (int i = 0; i < n; i++) {
        fprintf(file,
                "{\"custom_id\": \"%d\", \"url\": \"/v1/completions\", \"body\": {\"model\": \"m\", "
                "\"prompt\": [[",
                i);
        write_ids(file, &questions[i]);
        fprintf(file,
                "]], \"temperature\": 0, \"max_tokens\": %d, \"logprobs\": 1, \"seed\": 1234, \"echo\": "
                "true}}\n",
                i % 5 != 4);
    }
    fclose(file);
    cox_options options = options_of(COX_COMMAND_BATCH, plan);
    options.input = input, options.output = output;
    options.prefill_chunk = 64;
    if (cox_command_batch(&options) != COX_OK) fail_msg("%s", cox_status_message());
    file = fopen(output, "r");
    assert_non_null(file);
    for (int i = 0; i < n; i++) {
        json_t *json = NULL;
        assert_non_null(fgets(line, sizeof line, file));
        assert_int_equal(cox_json_load_text(&json, line, strlen(line), output), COX_OK);
        answers[atoi(json_string_value(json_object_get(json, "custom_id")))] = json;
    }
    fclose(file);
}

/* [n_tokens, vocab_size] of the question's ids, as the command writes them. */
static const float *logits_of(const question *q, const char *plan, cox_checkpoint **file, int32_t *vocab_size)
{
    char ids[128], output[128];
    snprintf(ids, sizeof ids, "%s/ids.txt", test_folder);
    snprintf(output, sizeof output, "%s/model.safetensors",
             test_folder); /* the reader wants a checkpoint's name */
    FILE *list = fopen(ids, "w");
    assert_non_null(list);
    write_ids(list, q);
    fclose(list);
    cox_options options = options_of(COX_COMMAND_LOGITS, plan);
    options.tokens_file = ids, options.output = output;
    if (cox_command_logits(&options) != COX_OK) fail_msg("%s", cox_status_message());
    assert_int_equal(cox_checkpoint_open(file, test_folder), COX_OK);
    const cox_tensor *tensor = cox_checkpoint_find(*file, "logits");
    assert_non_null(tensor);
    assert_int_equal(tensor->shape[0], q->ids.n);
    *vocab_size = (int32_t)tensor->shape[1];
    return tensor->data;
}

static double log_softmax(const float *row, int32_t vocab_size, int32_t token, double *most)
{
    double total = 0, best = (double)row[0];
    for (int32_t i = 1; i < vocab_size; i++) best = fmax(best, (double)row[i]);
    for (int32_t i = 0; i < vocab_size; i++) total += exp((double)row[i] - best);
    *most = -log(total);
    return (double)row[token] - best - log(total);
}

/* "logprobs" of the answer, whole: every token of the prompt, of which the first has no log probability, and
 * the one that was generated. */
static const json_t *logprobs_of(const json_t *answer, const question *q, int n_generated)
{
    json_t *choices =
        json_object_get(json_object_get(json_object_get(answer, "response"), "body"), "choices");
    const json_t *logprobs = json_object_get(json_array_get(choices, 0), "logprobs");
    static const char *const lists[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    assert_int_equal(json_array_size(choices), 1);
    for (int i = 0; i < 4; i++) {
        const json_t *list = json_object_get(logprobs, lists[i]);
        assert_int_equal(json_array_size(list), q->ids.n + (size_t)n_generated);
        assert_int_equal(json_is_null(json_array_get(list, 0)), i == 1 || i == 2);
    }
    return logprobs;
}

/* What lm-eval makes of it (parse_logprobs): the sum over the continuation, and, of each token, the largest
 * of top_logprobs, by which it tells whether the token is the greedy one. */
static double off_by(const json_t *logprobs, const question *q, const float *logits, int32_t vocab_size)
{
    double sum = 0, wanted = 0, off = 0;
    for (size_t t = q->n_context; t < q->ids.n; t++) {
        double best = -INFINITY, most;
        const char *token;
        json_t *top;
        json_object_foreach(json_array_get(json_object_get(logprobs, "top_logprobs"), t), token, top) best =
            fmax(best, json_real_value(top));
        sum += json_real_value(json_array_get(json_object_get(logprobs, "token_logprobs"), t));
        wanted += log_softmax(logits + (t - 1) * (size_t)vocab_size, vocab_size, q->ids.ids[t], &most);
        off = fmax(off, fabs(best - most));
    }
    return fmax(off, fabs(sum - wanted));
}

static void check(const char *plan, int n)
{
    json_t *answers[N_CONTINUATIONS] = {NULL};
    double most_off = 0;
    ask(plan, n, answers);
    for (int i = 0; i < n; i++) {
        const question *q = &questions[i];
        cox_checkpoint *file = NULL;
        int32_t vocab_size = 0;
        const float *logits = logits_of(q, plan, &file, &vocab_size);
        double off = off_by(logprobs_of(answers[i], q, i % 5 != 4), q, logits, vocab_size);
        if (!(off <= 1e-5)) fail_msg("continuation %d: %g off", i, off);
        most_off = fmax(most_off, off);
        cox_checkpoint_close(file);
        json_decref(answers[i]);
    }
    print_message("%d log-likelihoods: at most %.3g off\n", n, most_off);
}

static void test_loglikelihoods_are_those_of_the_logits(void **state)
{
    (void)state;
    check(NULL, N_CONTINUATIONS);
}

static void test_of_a_steered_model_too(void **state)
{
    (void)state;
    char plan[128];
    snprintf(plan, sizeof plan, "%s/plan.json", test_folder);
    FILE *file = fopen(plan, "w");
    assert_non_null(file);
    fputs(
        "{\"interventions\": [{\"site\": \"resid_mid\", \"layer\": 2, \"op\": \"scale\", \"factor\": 1.7}]}",
        file);
    fclose(file);
    check(plan, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loglikelihoods_are_those_of_the_logits),
        cmocka_unit_test(test_of_a_steered_model_too),
    };
    return cmocka_run_group_tests(tests, make_questions, free_questions);
}
