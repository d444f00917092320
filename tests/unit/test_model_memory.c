/*
 * What loading makes resident is what was foretold: larger models (files of holes, which take no disk), of
 * which only some experts are loaded, measured in /proc/self/status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model.h"
#include "tests/unit/model_folder.h"

typedef struct writer {
    json_t *header;
    int64_t n_bytes;
} writer;

/* A bf16 tensor; n_cols and depth may be 0. */
static void add(writer *w, const char *name, int64_t depth, int64_t n_rows, int64_t n_cols)
{
    json_t *shape = json_array();
    int64_t n = 2;
    const int64_t dims[3] = {depth, n_rows, n_cols};
    for (int i = 0; i < 3; i++) {
        if (dims[i] == 0) continue;
        json_array_append_new(shape, json_integer(dims[i]));
        n *= dims[i];
    }
    json_object_set_new(w->header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape, "data_offsets",
                                  (json_int_t)w->n_bytes, (json_int_t)(w->n_bytes + n)));
    w->n_bytes += n;
}

static void add_layer(writer *w, int layer, const char *name, int64_t n_rows, int64_t n_cols)
{
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    add(w, full, 0, n_rows, n_cols);
}

#if defined(__SANITIZE_ADDRESS__)
#define HAS_SHADOW_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_SHADOW_MEMORY 1
#endif
#endif

enum { D_MODEL = 512, N_LAYERS = 2, VOCAB = 4096, N_EXPERTS = 8, D_EXPERT = 512 };

static void add_trunk(writer *w, const char *router)
{
    add(w, "model.embed_tokens.weight", 0, VOCAB, D_MODEL);
    add(w, "lm_head.weight", 0, VOCAB, D_MODEL);
    add(w, "model.norm.weight", 0, D_MODEL, 0);
    for (int l = 0; l < N_LAYERS; l++) {
        static const char *const matrices[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
        for (int i = 0; i < 4; i++) {
            char name[64];
            snprintf(name, sizeof name, "self_attn.%s.weight", matrices[i]);
            add_layer(w, l, name, D_MODEL, D_MODEL);
        }
        add_layer(w, l, "input_layernorm.weight", D_MODEL, 0);
        add_layer(w, l, "post_attention_layernorm.weight", D_MODEL, 0);
        add_layer(w, l, router, N_EXPERTS, D_MODEL);
    }
}

static folder write_folder(writer *w, const char *config)
{
    folder f = folder_create();
    char *text = json_dumps(w->header, JSON_COMPACT);
    shard_write_text(&f, "model.safetensors", text, strlen(text), NULL, 0);
    assert_int_equal(truncate(folder_file(&f, "model.safetensors"), 8 + (off_t)strlen(text) + w->n_bytes), 0);
    write_bytes(folder_file(&f, "config.json"), config, strlen(config));
    free(text);
    json_decref(w->header);
    return f;
}

static folder olmoe_folder(void)
{
    writer w = {json_object(), 0};
    add_trunk(&w, "mlp.gate.weight");
    for (int l = 0; l < N_LAYERS; l++) {
        add_layer(&w, l, "self_attn.q_norm.weight", D_MODEL, 0);
        add_layer(&w, l, "self_attn.k_norm.weight", D_MODEL, 0);
        for (int e = 0; e < N_EXPERTS; e++) {
            static const char *const parts[] = {"gate", "up", "down"};
            for (int i = 0; i < 3; i++) {
                char name[64];
                snprintf(name, sizeof name, "mlp.experts.%d.%s_proj.weight", e, parts[i]);
                add_layer(&w, l, name, i < 2 ? D_EXPERT : D_MODEL, i < 2 ? D_MODEL : D_EXPERT);
            }
        }
    }
    return write_folder(
        &w,
        "{\"model_type\": \"olmoe\", \"hidden_size\": 512, \"num_hidden_layers\": 2, \"vocab_size\": 4096,"
        " \"num_attention_heads\": 8, \"num_experts\": 8, \"intermediate_size\": 512}");
}

static folder gpt_oss_folder(void)
{
    writer w = {json_object(), 0};
    add_trunk(&w, "mlp.router.weight");
    for (int l = 0; l < N_LAYERS; l++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.gate_up_proj", l);
        add(&w, name, N_EXPERTS, D_MODEL, 2 * D_EXPERT);
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.down_proj", l);
        add(&w, name, N_EXPERTS, D_EXPERT, D_MODEL);
        add_layer(&w, l, "mlp.experts.gate_up_proj_bias", N_EXPERTS, 2 * D_EXPERT);
        add_layer(&w, l, "mlp.experts.down_proj_bias", N_EXPERTS, D_MODEL);
        add_layer(&w, l, "mlp.router.bias", N_EXPERTS, 0);
        add_layer(&w, l, "self_attn.sinks", 8, 0);
    }
    return write_folder(
        &w,
        "{\"model_type\": \"gpt_oss\", \"hidden_size\": 512, \"num_hidden_layers\": 2,"
        " \"vocab_size\": 4096, \"num_attention_heads\": 8, \"num_experts\": 8, \"intermediate_size\": 512,"
        " \"num_local_experts\": 8, \"attention_bias\": false}");
}

static size_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    char line[256];
    size_t sum = 0, kib;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "RssAnon: %zu", &kib) == 1 || sscanf(line, "RssFile: %zu", &kib) == 1 ||
            sscanf(line, "RssShmem: %zu", &kib) == 1) {
            sum += kib << 10;
        }
    }
    fclose(file);
    return sum;
}

/* Within 10%. */
static void expect_within(size_t found, size_t wanted, const char *what)
{
#ifdef HAS_SHADOW_MEMORY
    printf("skip: resident memory of the %s: AddressSanitizer adds its own\n", what);
    return;
#endif
    if (found < wanted - wanted / 10 || found > wanted + wanted / 10) {
        fail_msg("%s: %zu bytes resident, %zu foretold", what, found, wanted);
    }
}

static void check_folder(folder f)
{
    cox_model *m = NULL;
    if (cox_model_open(&m, f.path) != COX_OK) fail_msg("%s", cox_status_message());
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    cox_trunk_weights trunk;
    size_t before = resident_bytes();
    assert_int_equal(cox_model_load_trunk(m, arena, NULL, NULL, &trunk), COX_OK);
    size_t after = resident_bytes();
    expect_within(after - before, cox_model_trunk_bytes(m), "trunk");

    const int32_t layers[] = {0, 0, 1, 1, 1}, ids[] = {1, 2, 0, 3, 7}; /* neighbours and not */
    cox_ffn_weights experts[5];
    size_t foretold = 0, sum = 0;
    assert_int_equal(cox_model_experts_bytes(m, layers, ids, 5, &foretold), COX_OK);
    for (int i = 0; i < 5; i++) sum += cox_model_expert_bytes(m, layers[i]);
    assert_true(foretold <= sum);
    const size_t stored = 5 * 3 * 2 * D_MODEL * D_EXPERT;
    assert_true(foretold >= stored && foretold < stored + stored / 10);
    assert_int_equal(cox_model_load_experts(m, arena, layers, ids, 5, NULL, NULL, experts), COX_OK);
    expect_within(resident_bytes() - after, foretold, "experts");
    cox_arena_destroy(arena);
    cox_model_close(m);
    folder_remove(&f);
}

static void test_olmoe(void **state)
{
    (void)state;
    check_folder(olmoe_folder());
}

static void test_transposed_experts_are_held_once(void **state)
{
    (void)state;
    check_folder(gpt_oss_folder());
}

static void test_parameters(void **state)
{
    (void)state;
    folder f = olmoe_folder();
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    const uint64_t expert = 3 * D_MODEL * D_EXPERT;
    const uint64_t trunk = 2 * VOCAB * D_MODEL + D_MODEL +
                           N_LAYERS * (4 * D_MODEL * D_MODEL + 4 * D_MODEL + N_EXPERTS * D_MODEL);
    assert_int_equal(cox_model_n_parameters(m), trunk + N_LAYERS * N_EXPERTS * expert);
    assert_int_equal(cox_model_n_active_parameters(m), trunk + N_LAYERS * 8 * expert); /* top-8 by default */
    const int32_t layer = 0, id = 8;
    size_t n_bytes = 0;
    expect_message(cox_model_experts_bytes(m, &layer, &id, 1, &n_bytes), COX_INVALID,
                   TEXTS("expert 8 in layer 0"));
    cox_model_close(m);
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_olmoe),
        cmocka_unit_test(test_transposed_experts_are_held_once),
        cmocka_unit_test(test_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
