/* Sampling against transformers' logits processors (tests/golden/sampler.json), greedy, seeds, log
 * probabilities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "coordinator/sampler.h"

enum { MOST = 64 };

typedef struct golden_case {
    int32_t n, n_history, n_kept;
    float logits[MOST];
    int32_t history[MOST];
    int32_t kept[MOST];
    double probabilities[MOST];
    cox_sampling sampling;
    cox_logit_bias biases[MOST];
} golden_case;

static cox_sampler *make_sampler(cox_arena **arena, int32_t n)
{
    cox_sampler *sampler = NULL;
    assert_int_equal(cox_arena_create(arena, "test", 0), COX_OK);
    assert_int_equal(cox_sampler_create(&sampler, *arena, n), COX_OK);
    return sampler;
}

static double number(const json_t *object, const char *key, double otherwise)
{
    const json_t *value = json_object_get(object, key);
    return value ? json_number_value(value) : otherwise;
}

static void read_case(const json_t *json, golden_case *c)
{
    const json_t *setting = json_object_get(json, "setting"), *logits = json_object_get(json, "logits");
    const json_t *history = json_object_get(json, "history"), *kept = json_object_get(json, "kept");
    c->n = (int32_t)json_array_size(logits);
    c->n_history = (int32_t)json_array_size(history);
    c->n_kept = (int32_t)json_array_size(kept);
    assert_in_range(c->n, 1, MOST);
    for (int32_t i = 0; i < c->n; i++)
        c->logits[i] = (float)json_number_value(json_array_get(logits, (size_t)i));
    for (int32_t i = 0; i < c->n_history; i++) {
        c->history[i] = (int32_t)json_integer_value(json_array_get(history, (size_t)i));
    }
    for (int32_t i = 0; i < c->n_kept; i++) {
        c->kept[i] = (int32_t)json_integer_value(json_array_get(kept, (size_t)i));
        c->probabilities[i] =
            json_number_value(json_array_get(json_object_get(json, "probabilities"), (size_t)i));
    }
    c->sampling = cox_sampling_defaults();
    c->sampling.temperature = (float)number(setting, "temperature", 1);
    c->sampling.top_k = (int32_t)number(setting, "top_k", 0);
    c->sampling.top_p = (float)number(setting, "top_p", 1);
    c->sampling.min_p = (float)number(setting, "min_p", 0);
    c->sampling.repetition_penalty = (float)number(setting, "repetition_penalty", 1);
    c->sampling.presence_penalty = (float)number(setting, "presence_penalty", 0);
    c->sampling.frequency_penalty = (float)number(setting, "frequency_penalty", 0);
    c->sampling.biases = c->biases;
    const char *id;
    json_t *bias;
    json_object_foreach(json_object_get(setting, "logit_bias"), id, bias) c->biases[c->sampling.n_biases++] =
        (cox_logit_bias){(int32_t)atoi(id), (float)json_number_value(bias)};
}

static void check_case(const golden_case *c)
{
    cox_arena *arena = NULL;
    cox_sampler *sampler = make_sampler(&arena, c->n);
    int32_t ids[MOST];
    double probabilities[MOST];
    assert_int_equal(cox_sampling_check(&c->sampling), COX_OK);
    int32_t n = cox_sampler_distribution(sampler, &c->sampling, c->logits, c->history, c->n_history,
                                         c->n_history / 2, ids, probabilities);
    assert_int_equal(n, c->n_kept);
    for (int32_t i = 0; i < n; i++) {
        int32_t j = 0;
        while (j < c->n_kept && c->kept[j] != ids[i]) j++;
        assert_in_range(j, 0, c->n_kept - 1);
        assert_true(fabs(probabilities[i] - c->probabilities[j]) < 1e-6);
    }
    cox_arena_destroy(arena);
}

static void test_same_as_transformers(void **state)
{
    (void)state;
    json_t *cases = NULL;
    assert_int_equal(cox_json_load_file(&cases, "tests/golden/sampler.json"), COX_OK);
    assert_true(json_array_size(cases) > 40);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        golden_case c;
        read_case(json_array_get(cases, i), &c);
        check_case(&c);
    }
    json_decref(cases);
}

static void test_greedy_takes_the_lowest_of_equals_after_the_penalty(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    cox_sampler *sampler = make_sampler(&arena, 4);
    const float logits[] = {1.0f, 3.0f, 3.0f, -1.0f};
    cox_sampling sampling = cox_sampling_defaults();
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, NULL, 0, 0, 0, NULL), 1);
    sampling.repetition_penalty = 2.0f;
    const int32_t history[] = {1, 1, 3};
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, history, 3, 0, 0, NULL), 2);
    cox_arena_destroy(arena);
}

/* Bias and penalties count without a temperature too; what stands in the prompt is not penalised. */
static void test_greedy_heeds_bias_and_penalties(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    cox_sampler *sampler = make_sampler(&arena, 4);
    const float logits[] = {1.0f, 3.0f, 2.5f, 0.0f};
    const int32_t history[] = {1, 1, 2, 1};
    const cox_logit_bias biases[] = {{3, 100.0f}, {1, -100.0f}};
    cox_sampling sampling = cox_sampling_defaults();
    sampling.presence_penalty = 0.25f;
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, history, 4, 2, 4, NULL), 1);
    sampling.frequency_penalty = 0.75f; /* 1 was generated once, as 2: 2.0 against 1.5 */
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, history, 4, 2, 4, NULL), 1);
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, history, 4, 0, 4, NULL), 2);
    sampling.biases = biases;
    sampling.n_biases = 2;
    cox_logprobs found;
    sampling.n_logprobs = 1;
    assert_int_equal(cox_sampler_pick(sampler, &sampling, logits, history, 4, 2, 4, &found), 3);
    assert_int_equal(found.ids[0], 1); /* log probabilities know nothing of it */
    cox_arena_destroy(arena);
}

/* The share of draws of each token comes near its probability. */
static void test_draws_follow_the_distribution(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    cox_sampler *sampler = make_sampler(&arena, 4);
    const float logits[] = {0.0f, (float)M_LN2, -INFINITY, 0.0f}; /* 1/4, 1/2, 0, 1/4 */
    cox_sampling sampling = cox_sampling_defaults();
    sampling.temperature = 1.0f;
    sampling.seed = 5;
    enum { DRAWS = 20000 };
    int counts[4] = {0};
    for (int i = 0; i < DRAWS; i++)
        counts[cox_sampler_pick(sampler, &sampling, logits, NULL, 0, 0, i, NULL)]++;
    assert_int_equal(counts[2], 0);
    assert_true(abs(counts[0] - DRAWS / 4) < DRAWS / 50);
    assert_true(abs(counts[1] - DRAWS / 2) < DRAWS / 50);
    cox_arena_destroy(arena);
}

/* The numbers belong to seed and position alone, and are written down: another rank or CPU must find the
 * same. */
static void test_random_numbers_are_fixed(void **state)
{
    (void)state;
    assert_true(fabs(cox_sampling_uniform(0, 0) - 0.65244848637403219) < 1e-15);
    assert_true(fabs(cox_sampling_uniform(0, 1) - 0.70121210952152524) < 1e-15);
    assert_true(fabs(cox_sampling_uniform(1, 0) - 0.36818951565166946) < 1e-15);
    assert_true(fabs(cox_sampling_uniform(UINT64_MAX - 3, 1000) - 0.26711223042116161) < 1e-15);
    assert_true(cox_sampling_seed_of(7, 0) == 7);
    assert_true(cox_sampling_seed_of(0, 1) == 0xea8568d2e45fd6cbu);
    assert_true(cox_sampling_seed_of(UINT64_MAX, 127) == 0xd552c32a126ab4cdu);
    for (int i = 0; i < 1000; i++) {
        double u = cox_sampling_uniform(UINT64_MAX - 3, i);
        assert_true(u >= 0.0 && u < 1.0);
    }
}

static void test_logprobs(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    cox_sampler *sampler = make_sampler(&arena, 4);
    const float logits[] = {0.0f, (float)M_LN2, 0.0f, -100.0f};
    cox_sampling sampling = cox_sampling_defaults();
    sampling.n_logprobs = 3;
    cox_logprobs found = {0};
    cox_sampler_pick(sampler, &sampling, logits, NULL, 0, 0, 0, &found);
    assert_int_equal(found.n, 3);
    const int32_t ids[] = {1, 0, 2};
    for (int i = 0; i < 3; i++) assert_int_equal(found.ids[i], ids[i]);
    assert_true(fabs((double)found.token - log(0.5)) < 1e-6);
    assert_true(fabs((double)found.values[1] - log(0.25)) < 1e-6);
    sampling.n_logprobs = 20; /* more than there are tokens */
    cox_sampler_pick(sampler, &sampling, logits, NULL, 0, 0, 0, &found);
    assert_int_equal(found.n, 4);
    cox_arena_destroy(arena);
}

static void test_out_of_range_is_named(void **state)
{
    (void)state;
    const struct {
        cox_sampling sampling;
        const char *name;
    } cases[] = {
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}, "temperature"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}, "temperature"},
        {{.top_k = -1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}, "top_k"},
        {{.top_p = 1.5f, .repetition_penalty = 1, .n_logprobs = -1}, "top_p"},
        {{.top_p = 1, .min_p = -0.1f, .repetition_penalty = 1, .n_logprobs = -1}, "min_p"},
        {{.top_p = 1, .repetition_penalty = 0, .n_logprobs = -1}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .n_logprobs = 21}, "logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .presence_penalty = 2.1f}, "presence_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = NAN}, "frequency_penalty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(cox_sampling_check(&cases[i].sampling), COX_INVALID);
        assert_non_null(strstr(cox_status_message(), cases[i].name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_transformers),
        cmocka_unit_test(test_greedy_takes_the_lowest_of_equals_after_the_penalty),
        cmocka_unit_test(test_greedy_heeds_bias_and_penalties),
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_random_numbers_are_fixed),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_out_of_range_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
