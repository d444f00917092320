/*
 * Numbers from logits and intervals against scipy, statsmodels and numpy (scripts/references/metrics.py), and
 * what those cannot tell: exact ends, the same bits of a seed, samples that are shared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>

#include "base/json.h"
#include "study/metrics.h"

static json_t *golden;

static int load(void **state)
{
    (void)state;
    return cox_json_load_file(&golden, "tests/golden/metrics/metrics.json") != COX_OK;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static double at(const json_t *list, size_t i)
{
    return json_number_value(json_array_get(list, i));
}

static void expect_near(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance * (1 + fabs(wanted)))) fail_msg("%.17g, not %.17g", got, wanted);
}

/* Values of a list; null is -infinity. */
static float *logits_of(const json_t *list)
{
    float *out = calloc(json_array_size(list), sizeof *out);
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = json_is_null(json_array_get(list, i)) ? -INFINITY : (float)at(list, i);
    return out;
}

static double *values_of(const json_t *list)
{
    double *out = calloc(json_array_size(list), sizeof *out);
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = at(list, i);
    return out;
}

static void test_logits_are_those_of_scipy(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(golden, "logits");
    assert_true(json_array_size(cases) >= 5);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *one = json_array_get(cases, c), *set = json_object_get(one, "set");
        int32_t n = (int32_t)json_array_size(json_object_get(one, "clean"));
        float *clean = logits_of(json_object_get(one, "clean"));
        float *steered = logits_of(json_object_get(one, "steered"));
        uint8_t *in_set = calloc((size_t)n, 1);
        for (size_t i = 0; i < json_array_size(set); i++) in_set[(size_t)at(set, i)] = 1;
        expect_near(cox_log_odds(clean, in_set, n), number(one, "log_odds"), 1e-13);
        if (!json_is_null(json_object_get(one, "kl")))
            expect_near(cox_kl_divergence(clean, steered, n), number(one, "kl"), 1e-12);
        for (int32_t i = 8; i < 16; i++) {
            double wanted = at(json_object_get(one, "log_softmax"), (size_t)i - 8);
            expect_near(cox_log_probability(clean, n, i), wanted, 1e-13);
        }
        assert_true(cox_kl_divergence(clean, clean, n) == 0);
        free(clean);
        free(steered);
        free(in_set);
    }
}

static void test_extreme_logits(void **state)
{
    (void)state;
    const float apart[3] = {1000, -1000, 0}, one[3] = {0, -INFINITY, -INFINITY};
    const float bad[3] = {0, NAN, 1}, even[3] = {5, 5, 5};
    const uint8_t first[3] = {1, 0, 0}, second[3] = {0, 1, 0};
    assert_true(cox_log_odds(apart, first, 3) == 1000); /* P(T) rounds to 1; its odds do not */
    assert_true(cox_log_odds(apart, second, 3) == -2000);
    assert_true(isinf(cox_log_odds(one, first, 3)));
    assert_true(isnan(cox_log_odds(bad, first, 3)));
    assert_true(isnan(cox_kl_divergence(bad, even, 3)));
    assert_true(isnan(cox_kl_divergence(even, bad, 3)));
    assert_true(isinf(cox_kl_divergence(even, one, 3))); /* q = 0 where p > 0 */
    expect_near(cox_kl_divergence(one, even, 3), log(3), 1e-14);
    expect_near(cox_perplexity(4 * log(1.0 / 832), 4), 832, 1e-12); /* uniform over a vocabulary */
}

static void test_wilson_is_that_of_statsmodels(void **state)
{
    (void)state;
    const json_t *rows = json_object_get(golden, "wilson");
    assert_true(json_array_size(rows) == 8);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        cox_interval interval = cox_interval_wilson((int64_t)at(row, 0), (int64_t)at(row, 1));
        expect_near(interval.value, at(row, 0) / at(row, 1), 1e-15);
        expect_near(interval.low, at(row, 2), 1e-13);
        expect_near(interval.high, at(row, 3), 1e-13);
        assert_true(interval.low >= 0 && interval.high <= 1);
    }
    assert_true(cox_interval_wilson(0, 10).low == 0 && cox_interval_wilson(10, 10).high == 1);
}

static void test_random_numbers_are_splitmix64(void **state)
{
    (void)state;
    const json_t *one = json_object_get(golden, "random");
    cox_random numbers = {(uint64_t)number(one, "seed")}, indices = numbers;
    for (size_t i = 0; i < 6; i++) {
        const char *wanted = json_string_value(json_array_get(json_object_get(one, "numbers"), i));
        assert_true(cox_random_next(&numbers) == strtoull(wanted, NULL, 16));
        int32_t below = cox_random_below(&indices, (int32_t)number(one, "below"));
        assert_int_equal(below, (int32_t)at(json_object_get(one, "indices"), i));
    }
    for (int i = 0; i < 1000; i++) assert_in_range(cox_random_below(&numbers, 3), 0, 2);
    for (int i = 0; i < 1000; i++) assert_true(cox_random_below(&numbers, INT32_MAX) < INT32_MAX);
}

static void test_bootstrap_of_a_mean(void **state)
{
    (void)state;
    const json_t *cases = json_object_get(golden, "bootstrap");
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *one = json_array_get(cases, c), *scipys = json_object_get(one, "scipy_100000");
        int32_t n = (int32_t)json_array_size(json_object_get(one, "values"));
        double *values = values_of(json_object_get(one, "values"));
        cox_bootstrap bootstrap = {(uint64_t)number(one, "seed"), (int32_t)number(one, "n_resamples")};
        cox_interval interval, more;
        assert_int_equal(cox_interval_mean(values, n, &bootstrap, &interval), COX_OK);
        expect_near(interval.value, number(one, "mean"), 1e-14);
        expect_near(interval.low, at(json_object_get(one, "interval"), 0), 1e-13);
        expect_near(interval.high, at(json_object_get(one, "interval"), 1), 1e-13);
        bootstrap.n_resamples = 100000; /* other samples than scipy's: a hundredth of the width apart */
        assert_int_equal(cox_interval_mean(values, n, &bootstrap, &more), COX_OK);
        double noise = 0.02 * (at(scipys, 1) - at(scipys, 0));
        assert_true(fabs(more.low - at(scipys, 0)) <= noise && fabs(more.high - at(scipys, 1)) <= noise);
        free(values);
    }
}

static void test_bootstrap_of_ratios(void **state)
{
    (void)state;
    const json_t *one = json_object_get(golden, "ratios"), *scipys = json_object_get(one, "scipy_100000");
    double *parts[2], *wholes[2];
    int32_t n[2];
    for (size_t g = 0; g < 2; g++) {
        parts[g] = values_of(json_array_get(json_object_get(one, "parts"), g));
        wholes[g] = values_of(json_array_get(json_object_get(one, "wholes"), g));
        n[g] = (int32_t)json_array_size(json_array_get(json_object_get(one, "wholes"), g));
    }
    const double *const part[2] = {parts[0], parts[1]}, *const whole[2] = {wholes[0], wholes[1]};
    cox_bootstrap bootstrap = {(uint64_t)number(one, "seed"), (int32_t)number(one, "n_resamples")};
    cox_ratio_samples samples;
    assert_int_equal(cox_ratio_samples_draw(&samples, whole, n, &bootstrap), COX_OK);
    for (int again = 0; again < 2; again++) { /* the samples are kept */
        cox_interval interval = cox_interval_ratios(&samples, part);
        expect_near(interval.value, number(one, "value"), 1e-14);
        expect_near(interval.low, at(json_object_get(one, "interval"), 0), 1e-13);
        expect_near(interval.high, at(json_object_get(one, "interval"), 1), 1e-13);
    }
    cox_ratio_samples_release(&samples);
    bootstrap.n_resamples = 100000;
    assert_int_equal(cox_ratio_samples_draw(&samples, whole, n, &bootstrap), COX_OK);
    cox_interval more = cox_interval_ratios(&samples, part);
    cox_ratio_samples_release(&samples);
    double noise = 0.02 * (at(scipys, 1) - at(scipys, 0));
    assert_true(fabs(more.low - at(scipys, 0)) <= noise && fabs(more.high - at(scipys, 1)) <= noise);
    const double nothing[1] = {0};
    const double *const empty[2] = {wholes[0], nothing};
    n[1] = 1;
    assert_int_equal(cox_ratio_samples_draw(&samples, empty, n, &bootstrap), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "group 2"));
    cox_ratio_samples_release(&samples);
    for (size_t g = 0; g < 2; g++) {
        free(parts[g]);
        free(wholes[g]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_are_those_of_scipy),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_wilson_is_that_of_statsmodels),
        cmocka_unit_test(test_random_numbers_are_splitmix64),
        cmocka_unit_test(test_bootstrap_of_a_mean),
        cmocka_unit_test(test_bootstrap_of_ratios),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
