/*
 * Directions: the sums and the difference themselves; `coxswain direction` against what transformers computed
 * on the bundled organism (scripts/references/direction.py); the same bytes whatever the schedule; what it
 * refuses.
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
#include "study/direction.h"
#include "steering/vector.h"
#include "tests/unit/run_size.h"
#include "tests/unit/steering_model.h"

static const char model[] = "models/olmoe-velk", golden[] = "tests/golden/direction";

/* --- Sums --- */

static void test_difference_of_means(void **state)
{
    (void)state;
    const float rows[3][2] = {{1, 2}, {3, 4}, {5, -6}};
    double a[2] = {0}, b[2] = {0}, prompt[2] = {0};
    cox_sum_add_row(prompt, rows[0], 2);
    cox_sum_add_row(prompt, rows[1], 2);
    cox_sum_add_mean(a, prompt, 2, 2); /* (2, 3) */
    cox_sum_add_row(b, rows[2], 2);
    float data[2];
    assert_int_equal(cox_direction_difference(a, b, 2, false, data), COX_OK);
    assert_true(data[0] == -3 && data[1] == 9);
    assert_int_equal(cox_direction_difference(a, b, 2, true, data), COX_OK);
    assert_true(fabs(sqrt((double)data[0] * (double)data[0] + (double)data[1] * (double)data[1]) - 1) < 1e-7);
    assert_true(fabs(cox_direction_project(data, a, 2) - (2 * -3 + 3 * 9) / sqrt(90)) < 1e-6);
    const float scaled[2] = {-300, 900}; /* only the direction counts */
    assert_true(fabs(cox_direction_project(scaled, a, 2) - (2 * -3 + 3 * 9) / sqrt(90)) < 1e-12);
}

static void test_no_direction_is_an_error(void **state)
{
    (void)state;
    const double a[2] = {1, 2}, infinite[2] = {HUGE_VAL, 0}, large[2] = {1e39, 0};
    float data[2] = {7, 7};
    assert_int_equal(cox_direction_difference(a, a, 2, false, data), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "same mean"));
    assert_int_equal(cox_direction_difference(a, infinite, 2, false, data), COX_INVALID);
    assert_int_equal(cox_direction_difference(large, a, 2, false, data), COX_INVALID);
    assert_int_equal(cox_direction_difference(large, a, 2, true, data), COX_OK);
    assert_int_equal(cox_class_n_blocks(1), 1);
    assert_int_equal(cox_class_n_blocks(COX_CLASS_BLOCK), 1);
    assert_int_equal(cox_class_n_blocks(COX_CLASS_BLOCK + 1), 2);
    assert_int_equal(cox_class_n_blocks(1000000), COX_CLASS_BLOCKS);
    assert_int_equal(cox_class_block(COX_CLASS_BLOCK * COX_CLASS_BLOCKS - 1), COX_CLASS_BLOCKS - 1);
    assert_int_equal(cox_class_block(COX_CLASS_BLOCK * COX_CLASS_BLOCKS), 0);
}

/* Two pairs in three dimensions, and three in two: by pairs, and by elements. */
static void test_principal_component_of_differences(void **state)
{
    (void)state;
    const float a[3][3] = {{3, 0, 1}, {-4, 0, 1}, {0, 1, 1}}, b[3][3] = {{0, 0, 1}, {0, 0, 1}, {0, 0, 1}};
    const float *as[3] = {a[0], a[1], a[2]}, *bs[3] = {b[0], b[1], b[2]};
    const double towards[3] = {-1, 0, 0}, from[3] = {0, 0, 0};
    float data[3];
    double share = 0;
    for (int32_t n = 2; n <= 3; n++) {
        for (int32_t width = 2; width <= 3; width++) {
            assert_int_equal(cox_direction_principal(as, bs, n, width, towards, from, data, &share), COX_OK);
            assert_true(fabs((double)data[0] + 1) < 1e-7 && fabs((double)data[1]) < 1e-7);
            assert_true(fabs(share - (n == 2 ? 1 : 25.0 / 26)) < 1e-12);
        }
    }
    assert_int_equal(cox_direction_principal(as, as, 3, 3, towards, from, data, &share), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "no principal component"));
}

/* --- The command --- */

/* In the test's folder; sixteen at a time. */
static const char *place_of(const char *name)
{
    static char paths[16][128];
    static int next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

static cox_options options_of(const char *a, const char *b, const char *output)
{
    cox_options options;
    cox_options_defaults(&options, COX_COMMAND_DIRECTION);
    options.model = model;
    options.prompts_a = a, options.prompts_b = b, options.output = output;
    options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    return options;
}

static cox_vector_file *measure(cox_options options)
{
    cox_vector_file *file = NULL;
    if (cox_command_direction(&options) != COX_OK || cox_vector_file_read(&file, options.output) != COX_OK)
        fail_msg("%s", cox_status_message());
    return file;
}

/* Vectors of the layers in which the classes differ; in the others the recorded difference is 0. */
static void expect_golden(const cox_vector_file *file, const cox_tensor *tensor, const char *site)
{
    size_t width = (size_t)tensor->shape[1];
    size_t n_layers = (size_t)tensor->shape[0], n_found = 0;
    for (size_t l = 0; l < n_layers; l++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%zu", site, l);
        const float *wanted = (const float *)(const void *)tensor->data + l * width;
        double off = 0, norm = 0;
        for (size_t i = 0; i < width; i++) norm += (double)wanted[i] * (double)wanted[i];
        const cox_vector *v = cox_vector_find(file, name);
        assert_int_equal(v != NULL, norm > 0);
        if (!v) continue;
        n_found++;
        assert_int_equal(v->width, width);
        assert_int_equal(v->site, cox_site_find(site));
        assert_int_equal(v->layer, l);
        for (size_t i = 0; i < width; i++) {
            double difference = (double)v->data[i] - (double)wanted[i];
            off += difference * difference;
        }
        if (!(sqrt(off) <= 1e-4 * sqrt(norm))) fail_msg("%s: %g off, of %g", name, sqrt(off), sqrt(norm));
    }
    assert_int_equal(file->n, n_found);
}

static void test_directions_are_those_of_transformers(void **state)
{
    (void)state;
    static const char *const sites[] = {"resid_pre",     "attn_out", "resid_mid",
                                        "router_logits", "moe_out",  "resid_post"};
    static const char *const positions[] = {"last", "-3", "mean"};
    char target[4096], a[64], b[64];
    snprintf(a, sizeof a, "%s/a.jsonl", golden);
    snprintf(b, sizeof b, "%s/b.jsonl", golden);
    assert_non_null(realpath("tests/golden/direction/golden.safetensors", target));
    assert_int_equal(symlink(target, place_of("model.safetensors")),
                     0); /* the reader wants a checkpoint's name */
    cox_checkpoint *recorded = NULL;
    assert_int_equal(cox_checkpoint_open(&recorded, test_folder), COX_OK);
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
            if (is_small_run() && p != s % 3) continue;
            cox_options options = options_of(a, b, place_of("v.safetensors"));
            options.site = sites[s], options.position = positions[p];
            cox_vector_file *file = measure(options);
            char name[64];
            snprintf(name, sizeof name, "%s %s", sites[s], positions[p]);
            const cox_tensor *tensor = cox_checkpoint_find(recorded, name);
            assert_non_null(tensor);
            expect_golden(file, tensor, sites[s]);
            cox_vector_file_free(file);
        }
    }
    cox_checkpoint_close(recorded);
}

static const cox_tensor *recorded_tensor(cox_checkpoint **recorded, const char *name)
{
    char target[4096];
    const char *link = place_of("model.safetensors");
    assert_non_null(realpath("tests/golden/direction/golden.safetensors", target));
    if (access(link, F_OK) != 0) assert_int_equal(symlink(target, link), 0);
    if (!*recorded) assert_int_equal(cox_checkpoint_open(recorded, test_folder), COX_OK);
    const cox_tensor *tensor = cox_checkpoint_find(*recorded, name);
    assert_non_null(tensor);
    return tensor;
}

static void test_principal_components_are_those_of_torch(void **state)
{
    (void)state;
    cox_checkpoint *recorded = NULL;
    cox_options options = options_of("tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl",
                                     place_of("pc1.safetensors"));
    options.method = "pc1";
    cox_vector_file *file = measure(options);
    expect_golden(file, recorded_tensor(&recorded, "pc1"), "resid_post");
    assert_non_null(strstr(file->vectors[0].provenance, "\"pairs\":10"));
    cox_vector_file_free(file);
    cox_checkpoint_close(recorded);
}

static void test_the_filter_keeps_the_prompts_that_torch_keeps(void **state)
{
    (void)state;
    cox_checkpoint *recorded = NULL;
    const cox_tensor *tokens = recorded_tensor(&recorded, "filter_tokens");
    const cox_tensor *n_kept = recorded_tensor(&recorded, "n_kept");
    char ids[128] = "", a[32], b[32];
    for (int64_t i = 0; i < tokens->shape[0]; i++) {
        int32_t id;
        memcpy(&id, (const char *)tokens->data + 4 * i, sizeof id);
        snprintf(ids + strlen(ids), sizeof ids - strlen(ids), "%d,", id);
    }
    cox_options options = options_of("tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl",
                                     place_of("filtered.safetensors"));
    options.filter_tokens = ids;
    cox_vector_file *file = measure(options);
    expect_golden(file, recorded_tensor(&recorded, "filtered"), "resid_post");
    int32_t n[2];
    memcpy(n, n_kept->data, sizeof n);
    assert_true(n[0] > 0 && n[0] < 10);
    snprintf(a, sizeof a, "\"prompts\":%d", n[0]);
    snprintf(b, sizeof b, "\"prompts\":%d", n[1]);
    assert_non_null(strstr(file->vectors[0].provenance, a));
    assert_non_null(strstr(file->vectors[0].provenance, b));
    assert_non_null(strstr(file->vectors[0].provenance, "\"of\":10"));
    cox_vector_file_free(file);
    cox_checkpoint_close(recorded);
}

/* What several positions give at once is what each gives by itself. */
static void test_several_positions_in_one_pass(void **state)
{
    (void)state;
    cox_options options = options_of("tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl",
                                     place_of("both.safetensors"));
    options.position = "-3,-1", options.layer = "1,4";
    cox_vector_file *both = measure(options);
    assert_int_equal(both->n, 4);
    static const char *const positions[] = {"last", "-3"}, *const suffixes[] = {"@-1", "@-3"};
    for (size_t p = 0; p < 2; p++) {
        options.position = positions[p];
        options.output = place_of("single.safetensors");
        cox_vector_file *one = measure(options);
        for (size_t i = 0; i < one->n; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s%s", one->vectors[i].name, suffixes[p]);
            const cox_vector *v = cox_vector_find(both, name);
            assert_non_null(v);
            assert_memory_equal(v->data, one->vectors[i].data, (size_t)v->width * sizeof(float));
        }
        cox_vector_file_free(one);
    }
    cox_vector_file_free(both);
}

static void test_one_layer_of_unit_norm_says_where_it_came_from(void **state)
{
    (void)state;
    cox_options options = options_of("tests/golden/direction/a.jsonl", "tests/golden/direction/b.jsonl",
                                     place_of("unit.safetensors"));
    options.layer = "3", options.is_unit = true, options.limit = 4;
    cox_vector_file *file = measure(options);
    assert_int_equal(file->n, 1);
    const cox_vector *v = &file->vectors[0];
    assert_true(fabs((double)v->norm - 1) < 1e-6);
    assert_int_equal(v->layer, 3);
    assert_non_null(v->model_fingerprint);
    assert_non_null(v->tokenizer_fingerprint);
    static const char *const facts[] = {
        "\"prompts\":4", "a.jsonl", "\"position\":\"last\"", "\"made\":\"direction\"", "mean_projection",
        "\"unit\":true", "sha256"};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        assert_non_null(strstr(v->provenance, facts[i]));
    cox_vector_file_free(file);
}

/* The organism's own lists have several blocks of prompts, and more than one window of them. */
static void test_the_schedule_changes_no_bit(void **state)
{
    (void)state;
    cox_options options =
        options_of("models/olmoe-velk/prompts/topic-how.jsonl",
                   "models/olmoe-velk/prompts/ordinary-how.jsonl", place_of("one.safetensors"));
    options.position = "mean";
    if (is_small_run()) options.limit = COX_CLASS_BLOCK + 2; /* two blocks */
    cox_vector_file *one = measure(options);
    options.output = place_of("two.safetensors");
    options.prefill_chunk = 7, options.kv_memory_bytes = 4 << 20;
    cox_vector_file *two = measure(options);
    assert_int_equal(one->n, two->n);
    for (size_t i = 0; i < one->n; i++) {
        assert_memory_equal(one->vectors[i].data, two->vectors[i].data,
                            (size_t)one->vectors[i].width * sizeof(float));
    }
    cox_vector_file_free(one);
    cox_vector_file_free(two);
}

static const char *file_with(const char *name, const char *text)
{
    const char *path = place_of(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static void test_all_shapes_of_lines_mean_the_same_prompt(void **state)
{
    (void)state;
    const char *b = file_with("b.jsonl", "{\"prompt\": \"What is a red harp?\"}\n");
    static const char *const shapes[] = {
        "{\"prompt\": \"How do I mend an empty hat?\", \"kind\": \"x\", \"verb\": null}\n",
        "\n{\"messages\": [{\"role\": \"user\", \"content\": \"How do I mend an empty hat?\"}], \"note\": 1}",
        "{\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": "
        "{\"max_tokens\": 5, "
        "\"messages\": [{\"role\": \"user\", \"content\": \"How do I mend an empty hat?\"}]}}\n"};
    cox_vector_file *files[3];
    for (size_t i = 0; i < 3; i++) {
        files[i] = measure(options_of(file_with("a.jsonl", shapes[i]), b, place_of("shape.safetensors")));
        for (size_t l = 0; l < files[0]->n; l++) {
            assert_memory_equal(files[i]->vectors[l].data, files[0]->vectors[l].data,
                                (size_t)files[0]->vectors[l].width * sizeof(float));
        }
    }
    cox_options options = options_of(file_with("a.jsonl", shapes[0]), b, place_of("shape.safetensors"));
    options.is_raw = true;
    cox_vector_file *raw = measure(options);
    assert_true(memcmp(raw->vectors[0].data, files[0]->vectors[0].data, 64) != 0);
    options.is_raw = false, options.system = "You are brief.";
    cox_vector_file *with_system = measure(options);
    assert_true(memcmp(with_system->vectors[5].data, files[0]->vectors[5].data, 64) != 0);
    cox_vector_file_free(raw);
    cox_vector_file_free(with_system);
    for (size_t i = 0; i < 3; i++) cox_vector_file_free(files[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_difference_of_means),
        cmocka_unit_test(test_no_direction_is_an_error),
        cmocka_unit_test(test_directions_are_those_of_transformers),
        cmocka_unit_test(test_principal_component_of_differences),
        cmocka_unit_test(test_principal_components_are_those_of_torch),
        cmocka_unit_test(test_the_filter_keeps_the_prompts_that_torch_keeps),
        cmocka_unit_test(test_several_positions_in_one_pass),
        cmocka_unit_test(test_one_layer_of_unit_norm_says_where_it_came_from),
        cmocka_unit_test(test_the_schedule_changes_no_bit),
        cmocka_unit_test(test_all_shapes_of_lines_mean_the_same_prompt),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
