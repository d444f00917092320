/*
 * Opening model folders and viewing their weights: every golden model, views compared with the file, the
 * rearranged and the MXFP4 experts, and the message that each contradiction gets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model.h"
#include "tests/unit/model_folder.h"

#define OLMOE "olmoe-plain-f32"

static const char *const goldens[] = {
    "gpt_oss-bf16",
    "gpt_oss-mxfp4",
    "gpt_oss-plain-f32",
    "mixtral-llama3-f16",
    "mixtral-stacked-bf16",
    "mixtral-window-bf16",
    "olmoe-clip-bf16",
    "olmoe-linear-shards-bf16",
    "olmoe-plain-f32",
    "qwen3_moe-dense-bf16",
    "qwen3_moe-window-shards-bf16",
    "qwen3_moe-yarn-bf16",
};
enum { N_GOLDENS = sizeof goldens / sizeof *goldens };

static cox_model *open_golden(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s", name);
    cox_model *model = NULL;
    if (cox_model_open(&model, path) != COX_OK) fail_msg("%s", cox_status_message());
    return model;
}

static cox_arena *new_arena(void)
{
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    return arena;
}

static const cox_tensor *tensor_of(const cox_model *m, const char *name)
{
    const cox_tensor *tensor = cox_checkpoint_find(m->checkpoint, name);
    if (!tensor) fail_msg("no tensor %s", name);
    return tensor;
}

/* Element i of a float tensor. */
static float element(const cox_tensor *tensor, size_t i)
{
    cox_dtype dtype = tensor->dtype == COX_TENSOR_F32   ? COX_F32
                      : tensor->dtype == COX_TENSOR_F16 ? COX_F16
                                                        : COX_BF16;
    const cox_matrix one = {.dtype = dtype,
                            .n_rows = 1,
                            .n_cols = 1,
                            .data = (const char *)tensor->data + cox_dtype_bytes(dtype, i)};
    float value;
    cox_matrix_row(&one, 0, &value);
    return value;
}

static void check_progress(void *context, size_t done, size_t total)
{
    size_t *last = context;
    assert_true(done >= *last && done <= total);
    *last = done;
    last[1] = total;
}

static void check_matrix(const cox_matrix *matrix, const cox_tensor *tensor)
{
    assert_ptr_equal(matrix->data, tensor->data);
    assert_int_equal(matrix->n_rows, tensor->shape[0]);
    assert_int_equal(matrix->n_cols, tensor->shape[1]);
    float *row = calloc((size_t)matrix->n_cols, sizeof *row);
    cox_matrix_row(matrix, matrix->n_rows - 1, row);
    for (int32_t i = 0; i < matrix->n_cols; i++) {
        assert_true(row[i] ==
                    element(tensor, (size_t)(matrix->n_rows - 1) * (size_t)matrix->n_cols + (size_t)i));
    }
    free(row);
}

static void test_goldens_open_and_load(void **state)
{
    (void)state;
    for (int g = 0; g < N_GOLDENS; g++) {
        cox_model *m = open_golden(goldens[g]);
        cox_arena *arena = new_arena();
        cox_trunk_weights trunk;
        size_t progress[2] = {0, 0};
        assert_int_equal(cox_model_load_trunk(m, arena, check_progress, progress, &trunk), COX_OK);
        assert_int_equal(progress[0], progress[1]);
        check_matrix(&trunk.embed, tensor_of(m, "model.embed_tokens.weight"));
        assert_int_equal(trunk.lm_head.data == trunk.embed.data, m->has_tied_embeddings);
        const cox_tensor *norm = tensor_of(m, "model.norm.weight");
        for (int32_t i = 0; i < m->d_model; i++) assert_true(trunk.final_norm[i] == element(norm, (size_t)i));
        for (int32_t l = 0; l < m->n_layers; l++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%d.self_attn.k_proj.weight", (int)l);
            check_matrix(&trunk.layers[l].k, tensor_of(m, name));
            assert_int_equal(trunk.layers[l].q_bias != NULL, m->has_attention_bias);
            assert_int_equal(trunk.layers[l].sinks != NULL, m->has_sinks);
            assert_int_equal(trunk.layers[l].q_norm != NULL, m->qk_norm != COX_QK_NORM_NONE);
            assert_int_equal(trunk.layers[l].router.data != NULL, m->layers[l].is_moe);
            assert_int_equal(trunk.layers[l].dense.down.data != NULL, !m->layers[l].is_moe);
            if (!m->layers[l].is_moe) assert_int_equal(trunk.layers[l].dense.gate.n_rows, m->d_dense);
        }
        assert_int_equal(strlen(m->fingerprint), 64);
        cox_arena_destroy(arena);
        cox_model_close(m);
    }
}

static void test_experts_of_their_own(void **state)
{
    (void)state;
    static const struct {
        const char *golden, *gate, *up, *down;
    } cases[] = {
        {"olmoe-clip-bf16", "model.layers.1.mlp.experts.5.gate_proj.weight",
         "model.layers.1.mlp.experts.5.up_proj.weight", "model.layers.1.mlp.experts.5.down_proj.weight"},
        {"mixtral-llama3-f16", "model.layers.1.block_sparse_moe.experts.3.w1.weight",
         "model.layers.1.block_sparse_moe.experts.3.w3.weight",
         "model.layers.1.block_sparse_moe.experts.3.w2.weight"},
    };
    for (int c = 0; c < 2; c++) {
        cox_model *m = open_golden(cases[c].golden);
        cox_arena *arena = new_arena();
        cox_ffn_weights w;
        size_t progress[2] = {0, 0};
        const int32_t layer = 1, id = c == 0 ? 5 : 3, too_high = m->router.n_experts;
        assert_int_equal(cox_model_load_experts(m, arena, &layer, &id, 1, check_progress, progress, &w),
                         COX_OK);
        assert_int_equal(progress[0], progress[1]);
        check_matrix(&w.gate, tensor_of(m, cases[c].gate));
        check_matrix(&w.up, tensor_of(m, cases[c].up));
        check_matrix(&w.down, tensor_of(m, cases[c].down));
        assert_null(w.gate_bias);
        expect_message(cox_model_load_experts(m, arena, &layer, &too_high, 1, NULL, NULL, &w), COX_INVALID,
                       TEXTS("no routed expert", "layer 1"));
        cox_arena_destroy(arena);
        cox_model_close(m);
    }
}

/* gate row r is column 2r of [n_experts, in, out], up row r column 2r + 1, down row r column r. */
static void test_transposed_experts(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt_oss-bf16", "gpt_oss-plain-f32"};
    for (int g = 0; g < 2; g++) {
        cox_model *m = open_golden(names[g]);
        cox_arena *arena = new_arena();
        const int32_t layer = 1, id = 2;
        cox_ffn_weights w;
        assert_int_equal(cox_model_load_experts(m, arena, &layer, &id, 1, NULL, NULL, &w), COX_OK);
        const cox_tensor *gate_up = tensor_of(m, "model.layers.1.mlp.experts.gate_up_proj");
        const cox_tensor *down = tensor_of(m, "model.layers.1.mlp.experts.down_proj");
        const cox_tensor *bias = tensor_of(m, "model.layers.1.mlp.experts.gate_up_proj_bias");
        const cox_tensor *down_bias = tensor_of(m, "model.layers.1.mlp.experts.down_proj_bias");
        const size_t d = (size_t)m->d_model, h = (size_t)m->d_expert;
        assert_int_equal(w.gate.dtype, g == 0 ? COX_BF16 : COX_F32);
        float row[64];
        for (size_t r = 0; r < h; r++) {
            cox_matrix_row(&w.gate, (int32_t)r, row);
            for (size_t i = 0; i < d; i++)
                assert_true(row[i] == element(gate_up, (2 * d + i) * 2 * h + 2 * r));
            cox_matrix_row(&w.up, (int32_t)r, row);
            for (size_t i = 0; i < d; i++)
                assert_true(row[i] == element(gate_up, (2 * d + i) * 2 * h + 2 * r + 1));
            assert_true(w.gate_bias[r] == element(bias, 2 * 2 * h + 2 * r));
            assert_true(w.up_bias[r] == element(bias, 2 * 2 * h + 2 * r + 1));
        }
        for (size_t r = 0; r < d; r++) {
            cox_matrix_row(&w.down, (int32_t)r, row);
            for (size_t i = 0; i < h; i++) assert_true(row[i] == element(down, (2 * h + i) * d + r));
            assert_true(w.down_bias[r] == element(down_bias, 2 * d + r));
        }
        cox_arena_destroy(arena);
        cox_model_close(m);
    }
}

/* Value i of row r of MXFP4 blocks [n_experts, out, in/32, 16] of expert 2, by the definition. */
static float mxfp4(const cox_tensor *blocks, const cox_tensor *scales, size_t r, size_t i)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const size_t n_out = (size_t)blocks->shape[1], n_blocks = (size_t)blocks->shape[2];
    size_t block = (2 * n_out + r) * n_blocks + i / 32;
    unsigned byte = ((const uint8_t *)blocks->data)[block * 16 + i % 32 / 2];
    unsigned nibble = i % 2 ? byte >> 4 : byte & 15;
    float value = nibble & 8 ? -magnitude[nibble & 7] : magnitude[nibble & 7];
    for (int e = ((const uint8_t *)scales->data)[block] - 127; e != 0; e += e < 0 ? 1 : -1)
        value *= e < 0 ? 0.5f : 2.0f;
    return value;
}

static void test_mxfp4_experts(void **state)
{
    (void)state;
    cox_model *m = open_golden("gpt_oss-mxfp4");
    assert_true(m->has_mxfp4);
    cox_arena *arena = new_arena();
    const int32_t layer = 1, id = 2;
    cox_ffn_weights w;
    assert_int_equal(cox_model_load_experts(m, arena, &layer, &id, 1, NULL, NULL, &w), COX_OK);
    const cox_tensor *blocks = tensor_of(m, "model.layers.1.mlp.experts.gate_up_proj_blocks");
    const cox_tensor *scales = tensor_of(m, "model.layers.1.mlp.experts.gate_up_proj_scales");
    const cox_tensor *down = tensor_of(m, "model.layers.1.mlp.experts.down_proj_blocks");
    const cox_tensor *down_scales = tensor_of(m, "model.layers.1.mlp.experts.down_proj_scales");
    float row[64];
    for (int32_t r = 0; r < m->d_expert; r++) {
        cox_matrix_row(&w.gate, r, row);
        for (int32_t i = 0; i < m->d_model; i++)
            assert_true(row[i] == mxfp4(blocks, scales, 2 * (size_t)r, (size_t)i));
        cox_matrix_row(&w.up, r, row);
        for (int32_t i = 0; i < m->d_model; i++)
            assert_true(row[i] == mxfp4(blocks, scales, 2 * (size_t)r + 1, (size_t)i));
    }
    for (int32_t r = 0; r < m->d_model; r++) {
        cox_matrix_row(&w.down, r, row);
        for (int32_t i = 0; i < m->d_expert; i++)
            assert_true(row[i] == mxfp4(down, down_scales, (size_t)r, (size_t)i));
    }
    cox_arena_destroy(arena);
    cox_model_close(m);
}

static void test_names_without_the_prefix(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE);
    shard s = shard_read(&f, "model.safetensors");
    json_t *bare = json_object();
    const char *name;
    json_t *entry;
    json_object_foreach(s.header, name, entry)
    {
        json_object_set(bare, strncmp(name, "model.", 6) == 0 ? name + 6 : name, entry);
    }
    json_decref(s.header);
    s.header = bare;
    shard_write(&f, "model.safetensors", s);
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    cox_model_close(m);
    folder_remove(&f);
}

static void test_tensors_that_nobody_needs(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE);
    shard s = shard_read(&f, "model.safetensors");
    json_object_set_new(s.header, "model.layers.0.self_attn.rotary_emb.inv_freq",
                        json_pack("{s:s, s:[i], s:[I, I]}", "dtype", "F8_E4M3", "shape", 3, "data_offsets",
                                  (json_int_t)s.n_bytes, (json_int_t)s.n_bytes + 3));
    s.n_bytes += 3;
    shard_write(&f, "model.safetensors", s);
    cox_model *extra = NULL, *plain = open_golden(OLMOE);
    if (cox_model_open(&extra, f.path) != COX_OK) fail_msg("%s", cox_status_message());
    assert_int_equal(cox_model_n_parameters(extra), cox_model_n_parameters(plain));
    assert_string_not_equal(extra->fingerprint, plain->fingerprint);
    cox_model_close(extra);
    cox_model_close(plain);
    folder_remove(&f);
}

static void test_special_tokens(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE);
    const char *generation = "{\"eos_token_id\": [7, 3], \"bos_token_id\": 5}";
    write_bytes(folder_file(&f, "generation_config.json"), generation, strlen(generation));
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    assert_int_equal(m->n_eos, 2);
    assert_int_equal(m->eos_ids[0], 7);
    assert_int_equal(m->eos_ids[1], 3);
    assert_int_equal(m->bos_id, 5);
    cox_model_close(m);
    unlink(folder_file(&f, "generation_config.json"));
    config_set(&f, "eos_token_id", "9");
    m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    assert_int_equal(m->n_eos, 1);
    assert_int_equal(m->eos_ids[0], 9);
    cox_model_close(m);
    folder_remove(&f);
}

/* One that cannot be read stops only who asks where texts end. */
static void test_generation_config_that_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *said[3];
    } cases[] = {{"{\"eos_token_id\": [7]}", {NULL}},
                 {"{\"eos_token_id\": \"x\"}", {"eos_token_id", "token id"}},
                 {"{\"eos_token_id\": 7", {"not valid JSON"}},
                 {"[7]", {"generation_config.json"}}};
    folder f = folder_copy(OLMOE);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_bytes(folder_file(&f, "generation_config.json"), cases[i].text, strlen(cases[i].text));
        cox_model *m = NULL;
        assert_int_equal(cox_model_open(&m, f.path), COX_OK);
        if (i == 0)
            assert_int_equal(cox_model_check_ends(m), COX_OK);
        else
            expect_message(cox_model_check_ends(m), COX_BAD_FILE, cases[i].said);
        cox_model_close(m);
    }
    folder_remove(&f);
}

/* By the names of transformers and of llama.cpp, which a control vector's hint gives. */
static void test_names_of_families(void **state)
{
    (void)state;
    static const struct {
        const char *golden, *names[4];
    } cases[] = {{OLMOE, {"olmoe", "OLMoE"}},
                 {"mixtral-llama3-f16", {"mixtral", "llama"}},
                 {"gpt_oss-bf16", {"gpt_oss", "gpt-oss"}},
                 {"qwen3_moe-yarn-bf16", {"qwen3_moe", "qwen3moe"}}};
    enum { N = sizeof cases / sizeof *cases };
    for (size_t i = 0; i < N; i++) {
        cox_model *m = open_golden(cases[i].golden);
        for (size_t j = 0; j < N; j++) {
            for (const char *const *name = cases[j].names; *name; name++)
                assert_int_equal(cox_model_is_called(m, *name), i == j);
        }
        assert_false(cox_model_is_called(m, ""));
        assert_false(cox_model_is_called(m, "olmo"));
        assert_false(cox_model_is_called(m, "mixtral2"));
        cox_model_close(m);
    }
}

/* Where generation_config.json is, it alone says what ends an answer, as in transformers. */
static void test_generation_config_alone(void **state)
{
    (void)state;
    static const char *const none[] = {"{}", "{\"eos_token_id\": null, \"bos_token_id\": null}",
                                       "{\"eos_token_id\": -1}", "{\"eos_token_id\": [-1]}"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        folder f = folder_copy(OLMOE);
        config_set(&f, "eos_token_id", "9");
        config_set(&f, "bos_token_id", "9");
        write_bytes(folder_file(&f, "generation_config.json"), none[i], strlen(none[i]));
        cox_model *m = NULL;
        assert_int_equal(cox_model_open(&m, f.path), COX_OK);
        assert_int_equal(m->n_eos, 0);
        assert_int_equal(m->bos_id, -1);
        cox_model_close(m);
        folder_remove(&f);
    }
}

/* Replaces the last brace of a JSON file by more keys, in their own words. */
static void append_keys(folder *f, const char *name, const char *keys)
{
    size_t n;
    unsigned char *bytes = read_bytes(folder_file(f, name), &n);
    while (n && bytes[n - 1] != '}') n--;
    bytes[n - 1] = '\0';
    char *text = NULL;
    assert_true(asprintf(&text, "%s, %s}", (char *)bytes, keys) > 0);
    write_bytes(folder_file(f, name), text, strlen(text));
    free(text);
    free(bytes);
}

/* What released files hold beside what is read: none of it stops the model from opening. */
static void test_traits_of_released_files(void **state)
{
    (void)state;
    static const char traits[] =
        "\"model_max_length\": 1000000000000000019884624838656, \"a\": [1e999, -1e999, NaN, Infinity],"
        "\"b\": -99999999999999999999, \"c\": {\"__float__\": \"NaN\"}, \"d\": \"\\ud800\", \"e\": "
        "\"\\u0000\","
        "\"a\": 0.1000000000000000055511151231257827021181583404541015625";
    folder f = folder_copy("mixtral-llama3-f16"), plain = folder_copy("mixtral-llama3-f16");
    append_keys(&f, "config.json", traits);
    append_keys(&f, "config.json", "\"num_experts_per_tok\": 2, \"num_experts_per_tok\": 1");
    append_keys(&f, "generation_config.json", traits);
    append_keys(&f, "model.safetensors.index.json", traits);
    cox_model *m = NULL, *wanted = NULL;
    if (cox_model_open(&m, f.path) != COX_OK) fail_msg("%s", cox_status_message());
    assert_int_equal(cox_model_open(&wanted, plain.path), COX_OK);
    assert_int_equal(m->router.top_k, wanted->router.top_k);
    assert_int_equal(cox_model_n_parameters(m), cox_model_n_parameters(wanted));
    cox_model_close(m);
    append_keys(&f, "config.json", "\"vocab_size\": 1000000000000000019884624838656");
    m = NULL;
    expect_message(cox_model_open(&m, f.path), COX_BAD_FILE,
                   TEXTS("config.json", "key \"vocab_size\" is 1e+30, outside 1 to"));
    append_keys(&f, "config.json", "\"vocab_size\": NaN");
    expect_message(cox_model_open(&m, f.path), COX_BAD_FILE,
                   TEXTS("config.json", "key \"vocab_size\" must be a whole number"));
    cox_model_close(wanted);
    folder_remove(&f);
    folder_remove(&plain);
}

static void test_fingerprints_differ(void **state)
{
    (void)state;
    char seen[N_GOLDENS][65];
    for (int g = 0; g < N_GOLDENS; g++) {
        cox_model *m = open_golden(goldens[g]);
        memcpy(seen[g], m->fingerprint, 65);
        cox_model_close(m);
        for (int i = 0; i < g; i++) assert_string_not_equal(seen[i], seen[g]);
    }
    folder f = folder_copy(goldens[0]);
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    assert_string_equal(m->fingerprint, seen[0]); /* of the contents, not of the place */
    cox_model_close(m);
    folder_remove(&f);
}

/* --- What bad folders get --- */

static void expect_bad(folder *f, cox_status wanted, const char *const *texts)
{
    cox_model *m = NULL;
    expect_message(cox_model_open(&m, f->path), wanted, texts);
    assert_null(m);
    folder_remove(f);
}

static void expect_config(const char *golden, const char *key, const char *value, cox_status wanted,
                          const char *const *texts)
{
    folder f = folder_copy(golden);
    config_set(&f, key, value);
    expect_bad(&f, wanted, texts);
}

static void test_config_files(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE);
    unlink(folder_file(&f, "config.json"));
    expect_bad(&f, COX_NOT_FOUND, TEXTS("config.json: is not there", "the folder of a Hugging Face"));
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"model_type\"", "not valid JSON at line 1"},
        {"{\"\xc3\x28\": 1}", "invalid UTF-8|unable to decode"},
        {"[1]", "must be a JSON object"},
        {"{}", "\"model_type\" is missing"},
        {"{\"a\": 1e}", "not valid JSON at line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f = folder_copy(OLMOE);
        write_bytes(folder_file(&f, "config.json"), cases[i].text, strlen(cases[i].text));
        const char *bar = strchr(cases[i].message, '|');
        expect_bad(&f, COX_BAD_FILE, TEXTS("config.json", bar ? bar + 1 : cases[i].message));
    }
}

static void test_unknown_features(void **state)
{
    (void)state;
    expect_config(OLMOE, "model_type", "\"qwen2_moe\"", COX_UNSUPPORTED,
                  TEXTS("config.json", "model_type \"qwen2_moe\"", "olmoe, mixtral, gpt_oss, qwen3_moe"));
    expect_config(OLMOE, "hidden_act", "\"gelu\"", COX_UNSUPPORTED,
                  TEXTS("config.json", "hidden_act \"gelu\"", "silu"));
    expect_config(OLMOE, "dtype", "\"int8\"", COX_UNSUPPORTED,
                  TEXTS("config.json", "key \"dtype\" is \"int8\"", "float32, float16 and bfloat16"));
    expect_config(OLMOE, "torch_dtype", "\"float8_e4m3fn\"", COX_UNSUPPORTED,
                  TEXTS("config.json", "key \"torch_dtype\" is \"float8_e4m3fn\""));
    expect_config(OLMOE, "n_shared_experts", "2", COX_UNSUPPORTED,
                  TEXTS("config.json", "\"n_shared_experts\""));
    expect_config(OLMOE, "partial_rotary_factor", "0.5", COX_UNSUPPORTED, TEXTS("\"partial_rotary_factor\""));
    static const char *const methods[] = {"fp8", "gptq", "awq", "bitsandbytes", "mxfp4"};
    for (int i = 0; i < 5; i++) { /* mxfp4 is GPT-OSS's alone */
        char text[64], named[64];
        snprintf(text, sizeof text, "{\"quant_method\": \"%s\"}", methods[i]);
        snprintf(named, sizeof named, "quant_method \"%s\"", methods[i]);
        expect_config(OLMOE, "quantization_config", text, COX_UNSUPPORTED,
                      TEXTS("config.json: quantization_config", named));
    }
    static const char *const types[] = {"dynamic", "longrope", "proportional", "axial"};
    for (int i = 0; i < 4; i++) {
        char text[64], named[64];
        snprintf(text, sizeof text, "{\"rope_type\": \"%s\", \"factor\": 2}", types[i]);
        snprintf(named, sizeof named, "rope_type \"%s\" is not built", types[i]);
        expect_config(OLMOE, "rope_scaling", text, COX_UNSUPPORTED,
                      TEXTS("config.json: rope_scaling", named));
    }
    expect_config(OLMOE, "rope_parameters", "{\"full_attention\": {\"rope_type\": \"default\"}}",
                  COX_UNSUPPORTED, TEXTS("config.json: rope_parameters", "full_attention", "by layer type"));
    expect_config("gpt_oss-mxfp4", "layer_types", "[\"full_attention\", \"chunked_attention\"]",
                  COX_UNSUPPORTED, TEXTS("config.json", "layer_types[1] is chunked_attention"));
    folder f = folder_copy(OLMOE);
    config_set(&f, "routed_scaling_factor", "1.0"); /* off */
    config_set(&f, "n_shared_experts", "null");
    config_set(&f, "something_else", "[1, 2]"); /* not known to change anything */
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    cox_model_close(m);
    folder_remove(&f);
}

static void test_config_values(void **state)
{
    (void)state;
    static const struct {
        const char *golden, *key, *value, *message;
    } cases[] = {
        {OLMOE, "num_hidden_layers", "\"2\"", "\"num_hidden_layers\" must be a whole number"},
        {OLMOE, "num_hidden_layers", "0", "\"num_hidden_layers\" is 0"},
        {OLMOE, "hidden_size", "-4", "\"hidden_size\" is -4"},
        {OLMOE, "vocab_size", "9999999999", "\"vocab_size\" is 9999999999"},
        {OLMOE, "num_attention_heads", "3", "num_attention_heads 3 is no multiple of num_key_value_heads 2"},
        {OLMOE, "num_experts_per_tok", "5", "num_experts_per_tok 5 is more than the 4 experts"},
        {OLMOE, "head_dim", "8", "head_dim 8 times num_attention_heads 4 is not hidden_size 24"},
        {OLMOE, "head_dim", "7", "head_dim is 7, but must be even"},
        {OLMOE, "rms_norm_eps", "\"x\"", "\"rms_norm_eps\" must be a number"},
        {OLMOE, "max_position_embeddings", "0", "\"max_position_embeddings\" is 0"},
        {OLMOE, "max_position_embeddings", "100000000", "\"max_position_embeddings\" is 100000000"},
        {OLMOE, "clip_qkv", "0", "\"clip_qkv\" is 0"},
        {OLMOE, "rope_scaling", "{\"rope_type\": \"linear\"}", "rope_scaling: key \"factor\" is missing"},
        {OLMOE, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8}",
         "\"low_freq_factor\" is missing"},
        {OLMOE, "rope_scaling", "{\"rope_type\": \"yarn\"}", "\"factor\" is missing"},
        {OLMOE, "rope_scaling", "3", "\"rope_scaling\" must be an object"},
        {OLMOE, "norm_topk_prob", "1", "\"norm_topk_prob\" must be true or false"},
        {"mixtral-window-bf16", "sliding_window", "0", "\"sliding_window\" is 0"},
        {"gpt_oss-mxfp4", "layer_types", "[\"full_attention\"]",
         "layer_types has 1 entries, num_hidden_layers is 2"},
        {"gpt_oss-mxfp4", "sliding_window", "null",
         "sliding_window is null, but layer 0 has sliding attention"},
        {"qwen3_moe-dense-bf16", "mlp_only_layers", "[\"x\"]", "\"mlp_only_layers\" must list layer numbers"},
        {"qwen3_moe-dense-bf16", "decoder_sparse_step", "0", "\"decoder_sparse_step\" is 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder f = folder_copy(cases[i].golden);
        config_set(&f, cases[i].key, cases[i].value);
        expect_bad(&f, COX_BAD_FILE, TEXTS("config.json", cases[i].message));
    }
}

static void test_config_against_tensors(void **state)
{
    (void)state;
    const char *file = "model.safetensors: tensor \"";
    expect_config(OLMOE, "vocab_size", "44", COX_BAD_FILE,
                  TEXTS(file, "model.embed_tokens.weight\" has shape [43, 24], config.json asks for [44, 24]",
                        "edited"));
    expect_config(OLMOE, "num_hidden_layers", "3", COX_BAD_FILE,
                  TEXTS("tensor \"model.layers.2.", "is missing"));
    expect_config(OLMOE, "num_key_value_heads", "4", COX_BAD_FILE,
                  TEXTS(file, "k_proj.weight", "asks for [24, 24]"));
    expect_config(OLMOE, "attention_bias", "true", COX_BAD_FILE, TEXTS("self_attn.q_proj.bias\" is missing"));
    expect_config("qwen3_moe-window-shards-bf16", "attention_bias", "false", COX_BAD_FILE,
                  TEXTS("self_attn.q_proj.bias\" is there", "\"attention_bias\": false"));
    expect_config("qwen3_moe-window-shards-bf16", "tie_word_embeddings", "false", COX_BAD_FILE,
                  TEXTS("\"lm_head.weight\" is missing", "tie_word_embeddings"));
    expect_config("qwen3_moe-dense-bf16", "decoder_sparse_step", "1", COX_BAD_FILE,
                  TEXTS("tensor \"model.layers.0.mlp.gate.weight\" is missing"));
    expect_config("gpt_oss-mxfp4", "quantization_config", "null", COX_BAD_FILE,
                  TEXTS("config.json", "does not say mxfp4", "hold MXFP4 experts"));
    expect_config("gpt_oss-bf16", "quantization_config", "{\"quant_method\": \"mxfp4\"}", COX_BAD_FILE,
                  TEXTS("config.json", "says mxfp4", "unquantised"));
    expect_config("gpt_oss-mxfp4", "intermediate_size", "32", COX_BAD_FILE,
                  TEXTS("gate_up_proj_bias", "asks for [5, 64]"));
}

static void expect_tensor(const char *golden, const char *tensor, const char *dtype, json_t *shape,
                          const char *const *texts)
{
    folder f = folder_copy(golden);
    shard s = shard_read(&f, "model.safetensors");
    if (dtype) json_object_set_new(shard_entry(&s, tensor), "dtype", json_string(dtype));
    if (shape) json_object_set_new(shard_entry(&s, tensor), "shape", shape);
    shard_write(&f, "model.safetensors", s);
    expect_bad(&f, COX_BAD_FILE, texts);
}

static void test_wrong_shapes_and_dtypes(void **state)
{
    (void)state;
    const char *down = "model.layers.1.mlp.experts.3.down_proj.weight"; /* [24, 10] */
    expect_tensor(
        OLMOE, down, NULL, json_pack("[i, i]", 10, 24),
        TEXTS("model.safetensors: tensor \"", down, "has shape [10, 24], config.json asks for [24, 10]"));
    expect_tensor(OLMOE, down, NULL, json_pack("[i]", 240), TEXTS(down, "has shape [240]"));
    expect_tensor(OLMOE, down, "I32", NULL,
                  TEXTS("model.safetensors", down, "has dtype I32, wanted F32, F16 or BF16"));
    expect_tensor(OLMOE, "model.norm.weight", "U32", NULL, TEXTS("model.norm.weight", "has dtype U32"));
    const char *blocks = "model.layers.1.mlp.experts.down_proj_blocks"; /* [5, 32, 2, 16] */
    expect_tensor("gpt_oss-mxfp4", blocks, NULL, json_pack("[i, i, i]", 5, 32, 32),
                  TEXTS(blocks, "has shape [5, 32, 32], config.json asks for [5, 32, 2, 16]"));
    expect_tensor("gpt_oss-mxfp4", blocks, "I8", NULL, TEXTS(blocks, "has dtype I8, wanted U8 (MXFP4)"));
    folder f = folder_copy(OLMOE);
    shard s = shard_read(&f, "model.safetensors");
    json_t *entry = json_incref(shard_entry(&s, down));
    json_object_set_new(s.header, "model.layers.1.mlp.experts.3.down_proj.scale", entry);
    json_object_del(s.header, down);
    shard_write(&f, "model.safetensors", s);
    expect_bad(&f, COX_BAD_FILE, TEXTS("tensor \"", down, "is missing", "download is incomplete"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens_open_and_load),
        cmocka_unit_test(test_experts_of_their_own),
        cmocka_unit_test(test_transposed_experts),
        cmocka_unit_test(test_mxfp4_experts),
        cmocka_unit_test(test_names_without_the_prefix),
        cmocka_unit_test(test_tensors_that_nobody_needs),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_generation_config_alone),
        cmocka_unit_test(test_generation_config_that_is_wrong),
        cmocka_unit_test(test_names_of_families),
        cmocka_unit_test(test_traits_of_released_files),
        cmocka_unit_test(test_fingerprints_differ),
        cmocka_unit_test(test_config_files),
        cmocka_unit_test(test_unknown_features),
        cmocka_unit_test(test_config_values),
        cmocka_unit_test(test_config_against_tensors),
        cmocka_unit_test(test_wrong_shapes_and_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
