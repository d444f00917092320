/*
 * config.json as transformers reads it: the dimensions, windows, special tokens and RoPE tables that
 * tests/golden/configs.json recorded (scripts/references/configs.py), from defaults, both spellings, and the
 * hub's own configs.
 */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/configure.h"
#include "model/family.h"

static int64_t whole(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) fail_msg("golden: \"%s\" is not a whole number", key);
    return json_integer_value(value);
}

static bool truth(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* Distance in representable f32 values, of positive numbers. */
static int64_t ulps(float a, int32_t golden_bits)
{
    int32_t bits;
    memcpy(&bits, &a, sizeof bits);
    int64_t difference = (int64_t)bits - golden_bits;
    return difference < 0 ? -difference : difference;
}

static void check_rope(const char *name, const cox_model *m, const json_t *wanted)
{
    const json_t *table = json_object_get(wanted, "inv_freq_bits");
    assert_int_equal(m->rope.n_rot, m->head_dim);
    assert_int_equal(json_array_size(table), m->rope.n_rot / 2);
    for (int32_t i = 0; i < m->rope.n_rot / 2; i++) {
        int64_t distance =
            ulps(m->rope.inv_freq[i], (int32_t)json_integer_value(json_array_get(table, (size_t)i)));
        if (distance > 1) fail_msg("%s: inv_freq[%d] is %lld ulp off", name, (int)i, (long long)distance);
    }
    double factor = json_number_value(json_object_get(wanted, "attention_factor"));
    assert_true(m->rope.attention_factor == (float)factor);
}

static void check_layers(const char *name, const cox_model *m, const json_t *wanted)
{
    for (int32_t i = 0; i < m->n_layers; i++) {
        const json_t *is_moe = json_array_get(json_object_get(wanted, "is_moe"), (size_t)i);
        const json_t *window = json_array_get(json_object_get(wanted, "windows"), (size_t)i);
        if (m->layers[i].is_moe != json_is_true(is_moe) ||
            m->layers[i].window != json_integer_value(window)) {
            fail_msg("%s: layer %d: is_moe %d, window %d", name, (int)i, m->layers[i].is_moe,
                     (int)m->layers[i].window);
        }
    }
}

static void check_tokens(const cox_model *m, const json_t *wanted)
{
    const json_t *eos = json_object_get(wanted, "eos"), *bos = json_object_get(wanted, "bos");
    assert_int_equal(m->bos_id, json_is_integer(bos) ? json_integer_value(bos) : -1);
    assert_int_equal(m->n_eos, json_is_null(eos) ? 0 : 1);
    if (m->n_eos) assert_int_equal(m->eos_ids[0], json_integer_value(eos));
}

static void check_model(const char *name, const cox_model *m, bool is_tied, const json_t *wanted)
{
    assert_int_equal(m->n_layers, whole(wanted, "n_layers"));
    assert_int_equal(m->d_model, whole(wanted, "d_model"));
    assert_int_equal(m->n_heads, whole(wanted, "n_heads"));
    assert_int_equal(m->n_kv_heads, whole(wanted, "n_kv_heads"));
    assert_int_equal(m->head_dim, whole(wanted, "head_dim"));
    assert_int_equal(m->vocab_size, whole(wanted, "vocab_size"));
    assert_int_equal(m->max_positions, whole(wanted, "max_positions"));
    assert_int_equal(m->router.n_experts, whole(wanted, "n_experts"));
    assert_int_equal(m->router.top_k, whole(wanted, "top_k"));
    assert_int_equal(m->d_expert, whole(wanted, "d_expert"));
    assert_true(m->rms_eps == (float)json_number_value(json_object_get(wanted, "rms_eps")));
    assert_int_equal(m->has_attention_bias, truth(wanted, "has_attention_bias"));
    assert_int_equal(m->router.normalize, truth(wanted, "normalize"));
    assert_int_equal(is_tied, truth(wanted, "is_tied"));
    check_layers(name, m, wanted);
    check_rope(name, m, wanted);
    check_tokens(m, wanted);
}

static void check_case(const json_t *item)
{
    const char *name = json_string_value(json_object_get(item, "name"));
    const json_t *wanted = json_object_get(item, "wanted"), *folder = json_object_get(item, "folder");
    json_t *loaded = NULL;
    cox__config config = {json_object_get(item, "config"), name};
    if (folder) {
        char path[512];
        snprintf(path, sizeof path, "%s/config.json", json_string_value(folder));
        assert_int_equal(cox_json_load_file(&loaded, path), COX_OK);
        config.object = loaded;
    }
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    cox_model model = {.arena = arena, .folder = name};
    cox__config_flags flags;
    if (cox__model_configure(&config, &model, &flags) != COX_OK) fail_msg("%s", cox_status_message());
    check_model(name, &model, flags.is_tied, wanted);
    cox_arena_destroy(arena);
    json_decref(loaded);
}

static void test_configs_mean_what_transformers_says(void **state)
{
    (void)state;
    json_t *cases = NULL;
    assert_int_equal(cox_json_load_file(&cases, "tests/golden/configs.json"), COX_OK);
    assert_true(json_array_size(cases) >= 40);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
    json_decref(cases);
}

/* A released config of a known family configures, but for quantised weights that are not built. */
static void check_released(const char *path, int *n_configured, int *n_refused)
{
    json_t *json = NULL;
    if (cox_json_load_python_file(&json, path) != COX_OK) fail_msg("%s", cox_status_message());
    const cox__config config = {json, path};
    const cox_family *family = NULL;
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    if (cox__family_find(&config, &family) == COX_OK) {
        cox_model model = {.arena = arena, .folder = path};
        cox__config_flags flags;
        cox_status status = cox__model_configure(&config, &model, &flags);
        const bool is_fp8 = strstr(path, "FP8") != NULL;
        if (is_fp8 != (status != COX_OK) || (is_fp8 && !strstr(cox_status_message(), "quant_method \"fp8\"")))
            fail_msg("%s: %s", path, cox_status_message());
        *(is_fp8 ? n_refused : n_configured) += 1;
    }
    cox_arena_destroy(arena);
    json_decref(json);
}

static void test_released_configs(void **state)
{
    (void)state;
    glob_t found = {0};
    if (glob("../shared/released/*/config.json", 0, NULL, &found) != 0) {
        printf("skip: there are no files of released models in ../shared/released\n");
        skip();
    }
    glob("../shared/released/configs/*.json", GLOB_APPEND, NULL, &found);
    int n_configured = 0, n_refused = 0;
    for (size_t i = 0; i < found.gl_pathc; i++) check_released(found.gl_pathv[i], &n_configured, &n_refused);
    printf("%d released configs: %d configured, %d refused as FP8, the others are of other families\n",
           (int)found.gl_pathc, n_configured, n_refused);
    globfree(&found);
    assert_true(n_configured >= 14 && n_refused >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_configs_mean_what_transformers_says),
                                       cmocka_unit_test(test_released_configs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
