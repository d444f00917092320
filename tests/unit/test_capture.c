/*
 * coxswain capture: rows whose means are those that transformers recorded, routed outputs among the
 * counterfactual ones, routes that fit logits and outputs, and statistics that are those of the rows; and the
 * moments themselves.
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
#include <unistd.h>

#include "cli/commands.h"
#include "model/checkpoint.h"
#include "study/moments.h"
#include "tests/unit/steering_model.h"

enum { N_PROMPTS = 10, N_LAYERS = 6, N_EXPERTS = 16, TOP_K = 4, D_MODEL = 128 };
static const char *inputs[] = {"tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl"};

/* --- Moments --- */

static void test_moments_of_a_small_variance_beside_a_large_mean(void **state)
{
    (void)state;
    enum { N = 1000 };
    double count[3] = {0}, mean[3] = {0}, squares[3] = {0}; /* all, and two halves */
    for (int i = 0; i < N; i++) {
        const float row = 1e6F + (float)(i % 2); /* mean 1e6 + 1/2, variance 1/4 */
        cox_moments_add(&count[0], &mean[0], &squares[0], &row, 1);
        int half = 1 + (i >= N / 4);
        cox_moments_add(&count[half], &mean[half], &squares[half], &row, 1);
    }
    cox_moments_merge(&count[1], &mean[1], &squares[1], count[2], &mean[2], &squares[2], 1);
    for (int i = 0; i < 2; i++) {
        assert_true(count[i] == N);
        assert_true(fabs(mean[i] - 1000000.5) < 1e-8);
        assert_true(fabs(squares[i] / N - 0.25) < 1e-9);
    }
    double none = 0, zero = 0;
    cox_moments_merge(&count[0], &mean[0], &squares[0], none, &zero, &zero, 1);
    assert_true(count[0] == N);
    cox_moments_merge(&none, &zero, &squares[2], count[0], &mean[0], &squares[0], 1);
    assert_true(none == N && zero == mean[0]);
}

/* --- The command --- */

static cox_options options_of(const char *output)
{
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_CAPTURE);
    options.model = "models/olmoe-velk";
    options.inputs = (cox_texts){.items = inputs, .n = 2};
    options.output = output;
    options.sites = "all";
    options.positions = "-3,-1";
    options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    return options;
}

/* A captured file, opened; the reader wants a checkpoint's name. */
static cox_checkpoint *open_file(const char *path)
{
    char target[4096], link[256];
    cox_checkpoint *file = NULL;
    snprintf(link, sizeof link, "%s/model.safetensors", test_folder);
    unlink(link);
    if (!realpath(path, target)) fail_msg("%s is not there", path);
    assert_int_equal(symlink(target, link), 0);
    if (cox_checkpoint_open(&file, test_folder) != COX_OK) fail_msg("%s", cox_status_message());
    return file;
}

static cox_checkpoint *capture(cox_options options, const char *name)
{
    char folder[256], path[512];
    snprintf(folder, sizeof folder, "%s/captured", test_folder);
    options.output = folder;
    if (cox_command_capture(&options) != COX_OK) fail_msg("%s", cox_status_message());
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return open_file(path);
}

static const void *data_of(const cox_checkpoint *file, const char *name, int64_t n)
{
    const cox_tensor *tensor = cox_checkpoint_find(file, name);
    if (!tensor) fail_msg("there is no tensor %s", name);
    int64_t size = 1;
    for (int32_t i = 0; i < tensor->n_dims; i++) size *= tensor->shape[i];
    if (size != n) fail_msg("%s has %lld elements, not %lld", name, (long long)size, (long long)n);
    return tensor->data;
}

static const void *of_layer(const cox_checkpoint *file, const char *before, int32_t layer, const char *behind,
                            int64_t n)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%d%s", before, layer, behind);
    return data_of(file, name, n);
}

/* Rows lie by prompt, then position. */
static void test_rows_are_those_of_transformers(void **state)
{
    (void)state;
    static const char *const sites[] = {"resid_pre",     "attn_out", "resid_mid",
                                        "router_logits", "moe_out",  "resid_post"};
    static const char *const positions[] = {"-3", "last"};
    cox_checkpoint *rows = capture(options_of(NULL), "rows-00000.safetensors");
    cox_checkpoint *golden = open_file("tests/golden/direction/golden.safetensors");
    const int32_t *prompts = data_of(rows, "prompt", 4 * N_PROMPTS);
    for (int32_t i = 0; i < 4 * N_PROMPTS; i++) assert_int_equal(prompts[i], i / 2);
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        for (int32_t p = 0; p < 2; p++) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", sites[s], positions[p]);
            int64_t width = strcmp(sites[s], "router_logits") == 0 ? N_EXPERTS : D_MODEL;
            const float *wanted = data_of(golden, name, N_LAYERS * width);
            for (int32_t l = 0; l < N_LAYERS; l++, wanted += width) {
                const float *found = of_layer(rows, sites[s], l, "", 4 * N_PROMPTS * width);
                double off = 0, norm = 0;
                for (int64_t k = 0; k < width; k++) {
                    double difference = 0;
                    for (int32_t i = 0; i < N_PROMPTS; i++) {
                        difference += (double)found[(2 * i + p) * width + k];
                        difference -= (double)found[(2 * (N_PROMPTS + i) + p) * width + k];
                    }
                    difference /= N_PROMPTS;
                    off += (difference - (double)wanted[k]) * (difference - (double)wanted[k]);
                    norm += (double)wanted[k] * (double)wanted[k];
                }
                if (!(sqrt(off) <= 1e-4 * sqrt(norm))) fail_msg("%s of layer %d: %g off", name, l, sqrt(off));
            }
        }
    }
    cox_checkpoint_close(rows);
    cox_checkpoint_close(golden);
}

static void test_routes_fit_logits_and_outputs(void **state)
{
    (void)state;
    cox_options options = options_of(NULL);
    options.has_routes = true;
    cox_checkpoint *routed = capture(options, "rows-00000.safetensors");
    options.is_counterfactual = true;
    cox_checkpoint *all = capture(options, "rows-00000.safetensors");
    enum { N_ROWS = 4 * N_PROMPTS };
    for (int32_t l = 0; l < N_LAYERS; l++) {
        const float *some_rows = of_layer(routed, "expert_out", l, "", N_ROWS * TOP_K * D_MODEL);
        const int32_t *experts = of_layer(routed, "expert_out", l, ".experts", N_ROWS * TOP_K);
        const float *all_rows = of_layer(all, "expert_out", l, "", N_ROWS * N_EXPERTS * D_MODEL);
        const int32_t *choices = of_layer(routed, "layer", l, "", N_ROWS * TOP_K);
        const float *logits = of_layer(routed, "layer", l, ".logits", N_ROWS * TOP_K);
        const float *router = of_layer(routed, "router_logits", l, "", N_ROWS * N_EXPERTS);
        const float *margins = of_layer(routed, "layer", l, ".margins", N_ROWS * TOP_K);
        const float *weights = of_layer(routed, "layer", l, ".weights", N_ROWS * TOP_K);
        for (int32_t r = 0; r < N_ROWS * TOP_K; r++) {
            int32_t row = r / TOP_K, e = experts[r];
            assert_true(e >= 0 && e < N_EXPERTS && (r % TOP_K == 0 || e > experts[r - 1]));
            assert_memory_equal(some_rows + r * D_MODEL, all_rows + (row * N_EXPERTS + e) * D_MODEL,
                                D_MODEL * sizeof(float));
            assert_true(logits[r] == router[row * N_EXPERTS + choices[r]]);
            assert_true(margins[r] >= 0 && weights[r] > 0 && weights[r] < 1);
            bool is_among = false;
            for (int32_t j = 0; j < TOP_K; j++) is_among |= experts[row * TOP_K + j] == choices[r];
            assert_true(is_among);
        }
    }
    cox_checkpoint_close(routed);
    cox_checkpoint_close(all);
}

static void test_some_experts_of_some_layers(void **state)
{
    (void)state;
    cox_options options = options_of(NULL);
    options.sites = "expert_out", options.layers = "1,4", options.experts = "0,7,15";
    options.positions = "all";
    cox_checkpoint *rows = capture(options, "rows-00000.safetensors");
    assert_null(cox_checkpoint_find(rows, "expert_out.0"));
    int64_t n_rows = cox_checkpoint_find(rows, "prompt")->shape[0];
    const int32_t *positions = data_of(rows, "position", n_rows), *prompts = data_of(rows, "prompt", n_rows);
    const int32_t *experts = of_layer(rows, "expert_out", 4, ".experts", n_rows * 3);
    const float *found = of_layer(rows, "expert_out", 4, "", n_rows * 3 * D_MODEL);
    int32_t n_there = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        bool is_first = r == 0 || prompts[r] != prompts[r - 1];
        assert_int_equal(positions[r], is_first ? 0 : positions[r - 1] + 1);
        for (int32_t j = 0; j < 3; j++) {
            int32_t e = experts[r * 3 + j];
            bool is_zero = true;
            for (int32_t k = 0; k < D_MODEL; k++) is_zero &= found[(r * 3 + j) * D_MODEL + k] == 0;
            assert_true(e == -1 ? is_zero : !is_zero && (e == 0 || e == 7 || e == 15));
            n_there += e >= 0;
        }
    }
    assert_true(n_there > 0 && n_there < n_rows * 3);
    cox_checkpoint_close(rows);
}

/* Both sets of two passes over the rows. */
static void expect_statistics(const float *rows, int32_t stride, const int64_t *count, const double *mean,
                              const double *variance, int32_t width)
{
    assert_int_equal(*count, N_PROMPTS);
    for (int32_t k = 0; k < width; k++) {
        double m = 0, v = 0;
        for (int32_t i = 0; i < N_PROMPTS; i++) m += (double)rows[i * stride + k];
        m /= N_PROMPTS;
        for (int32_t i = 0; i < N_PROMPTS; i++)
            v += ((double)rows[i * stride + k] - m) * ((double)rows[i * stride + k] - m);
        v /= N_PROMPTS;
        assert_true(fabs(mean[k] - m) <= 1e-12 * (1 + fabs(m)));
        assert_true(fabs(variance[k] - v) <= 1e-12 * (1 + m * m));
    }
}

static void test_statistics_are_those_of_the_rows(void **state)
{
    (void)state;
    cox_options options = options_of(NULL);
    options.sites = "expert_out,resid_mid", options.layers = "2", options.is_counterfactual = true;
    cox_checkpoint *rows = capture(options, "rows-00000.safetensors");
    options.has_statistics = true;
    cox_checkpoint *statistics = capture(options, "statistics.safetensors");
    char path[512];
    snprintf(path, sizeof path, "%s/captured/rows-00000.safetensors", test_folder);
    assert_int_not_equal(access(path, F_OK), 0); /* the earlier capture's */
    static const char *const sites[] = {"expert_out", "resid_mid"};
    for (int32_t s = 0; s < 2; s++) {
        int32_t n_units = s == 0 ? N_EXPERTS : 1;
        const float *found = of_layer(rows, sites[s], 2, "", 4 * N_PROMPTS * n_units * D_MODEL);
        const int64_t *counts = of_layer(statistics, sites[s], 2, ".count", 4 * n_units);
        const double *means = of_layer(statistics, sites[s], 2, ".mean", 4 * n_units * D_MODEL);
        const double *variances = of_layer(statistics, sites[s], 2, ".variance", 4 * n_units * D_MODEL);
        for (int32_t i = 0; i < 4 * n_units; i++) { /* class, position, unit */
            int32_t class = i / (2 * n_units), position = i / n_units % 2, unit = i % n_units;
            int32_t first = (class * N_PROMPTS * 2 + position) * n_units + unit;
            expect_statistics(found + first * D_MODEL, 2 * n_units * D_MODEL, counts + i, means + i * D_MODEL,
                              variances + i * D_MODEL, D_MODEL);
        }
    }
    cox_checkpoint_close(rows);
    cox_checkpoint_close(statistics);
}

/* Over all tokens a class has as many rows as tokens; routed outputs are counted by expert. */
static void test_statistics_over_all_tokens(void **state)
{
    (void)state;
    cox_options options = options_of(NULL);
    options.sites = "expert_out,moe_out", options.layers = "3", options.positions = "all";
    cox_checkpoint *rows = capture(options, "rows-00000.safetensors");
    options.has_statistics = true;
    cox_checkpoint *statistics = capture(options, "statistics.safetensors");
    int64_t n_rows = cox_checkpoint_find(rows, "prompt")->shape[0], n_sum = 0, n_routed = 0;
    const int32_t *experts = of_layer(rows, "expert_out", 3, ".experts", n_rows * TOP_K);
    const int64_t *n_tokens = of_layer(statistics, "moe_out", 3, ".count", 2);
    const int64_t *counts = of_layer(statistics, "expert_out", 3, ".count", 2 * N_EXPERTS);
    assert_int_equal(n_tokens[0] + n_tokens[1], n_rows);
    for (int32_t e = 0; e < N_EXPERTS; e++) {
        int64_t wanted = 0;
        for (int64_t r = 0; r < n_tokens[0] * TOP_K; r++) wanted += experts[r] == e;
        assert_int_equal(counts[e], wanted);
        n_sum += counts[e] + counts[N_EXPERTS + e];
    }
    for (int64_t r = 0; r < n_rows * TOP_K; r++) n_routed += experts[r] >= 0;
    assert_int_equal(n_sum, n_routed);
    cox_checkpoint_close(rows);
    cox_checkpoint_close(statistics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments_of_a_small_variance_beside_a_large_mean),
        cmocka_unit_test(test_rows_are_those_of_transformers),
        cmocka_unit_test(test_routes_fit_logits_and_outputs),
        cmocka_unit_test(test_some_experts_of_some_layers),
        cmocka_unit_test(test_statistics_are_those_of_the_rows),
        cmocka_unit_test(test_statistics_over_all_tokens),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
