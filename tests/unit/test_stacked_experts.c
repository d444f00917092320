/*
 * Checkpoints as transformers writes them with save_original_format=False: all experts of a layer in two
 * tensors. Golden models are rewritten so, in one file and in shards, and give the very logits that they gave
 * before; what is wrong with such tensors is named. (What transformers itself wrote is
 * tests/golden/models/mixtral-stacked-bf16.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/harness.h"
#include "tests/unit/model_folder.h"

/* A family's names of the parts of one expert. */
typedef struct names {
    const char *block;    /* the part of the layer that they are in, as the hub has it */
    const char *parts[3]; /* gate, up, down */
} names;
static const names mixtral = {"block_sparse_moe", {"w1.weight", "w3.weight", "w2.weight"}};
static const names others = {"mlp", {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}};

/* A file that is being written: its header and data. */
typedef struct writer {
    json_t *header;
    unsigned char *data;
    size_t n_bytes;
} writer;

static void put(writer *w, const char *name, const char *dtype, json_t *shape, const void *data, size_t n)
{
    w->data = realloc(w->data, w->n_bytes + n + 64);
    assert_non_null(w->data);
    memcpy(w->data + w->n_bytes, data, n);
    json_object_set_new(w->header, name,
                        json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                                  (json_int_t)w->n_bytes, (json_int_t)(w->n_bytes + n)));
    w->n_bytes += n;
}

/* Any tensor but those of experts, under transformers' own name. */
static void put_plain(writer *w, const cox_tensor *tensor, const names *n)
{
    char name[256], block[64];
    snprintf(block, sizeof block, ".%s.", n->block);
    const char *at = strstr(tensor->name, block);
    snprintf(name, sizeof name, "%.*s%s%s", at ? (int)(at - tensor->name) : 255, tensor->name,
             at ? ".mlp." : "", at ? at + strlen(block) : "");
    json_t *shape = json_array();
    for (int32_t d = 0; d < tensor->n_dims; d++) json_array_append_new(shape, json_integer(tensor->shape[d]));
    put(w, name, tensor->dtype_name, shape, tensor->data, tensor->n_bytes);
}

/* One of the two tensors of a layer: of each expert the parts [first, last]. */
static void put_stacked(writer *w, const cox_model *m, int32_t layer, const names *n, int first, int last)
{
    unsigned char *data = NULL;
    size_t n_bytes = 0;
    const cox_tensor *part = NULL;
    for (int32_t e = 0; e < m->router.n_experts; e++) {
        for (int p = first; p <= last; p++) {
            char name[256];
            snprintf(name, sizeof name, "model.layers.%d.%s.experts.%d.%s", (int)layer, n->block, (int)e,
                     n->parts[p]);
            part = cox_checkpoint_find(m->checkpoint, name);
            assert_non_null(part);
            data = realloc(data, n_bytes + part->n_bytes);
            memcpy(data + n_bytes, part->data, part->n_bytes);
            n_bytes += part->n_bytes;
        }
    }
    char name[256];
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s", (int)layer,
             last == 2 ? "down_proj" : "gate_up_proj");
    json_t *shape = json_pack("[i, I, I]", (int)m->router.n_experts,
                              (json_int_t)(part->shape[0] * (last - first + 1)), (json_int_t)part->shape[1]);
    put(w, name, part->dtype_name, shape, data, n_bytes);
    free(data);
}

static void finish(folder *f, const char *name, writer *w, json_t *index)
{
    const char *tensor;
    json_t *entry;
    json_object_foreach(w->header, tensor, entry)
    {
        if (index) json_object_set_new(json_object_get(index, "weight_map"), tensor, json_string(name));
    }
    shard_write(f, name, (shard){w->header, w->data, w->n_bytes});
    *w = (writer){.header = json_object()};
}

/* A copy of a golden model in transformers' own format; in shards: a file for each layer and one for the
 * rest. */
static folder stack(const char *golden_name, const names *n, bool in_shards)
{
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s", golden_name);
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, path), COX_OK);
    folder f = folder_create();
    size_t n_config;
    snprintf(path, sizeof path, GOLDEN "%s/config.json", golden_name);
    unsigned char *config = read_bytes(path, &n_config);
    write_bytes(folder_file(&f, "config.json"), config, n_config);
    free(config);
    json_t *index = in_shards ? json_pack("{s:{}}", "weight_map") : NULL;
    writer w = {.header = json_object()};
    for (int32_t layer = 0; layer < m->n_layers; layer++) {
        if (!m->layers[layer].is_moe) continue;
        put_stacked(&w, m, layer, n, 0, 1);
        put_stacked(&w, m, layer, n, 2, 2);
        char name[64];
        snprintf(name, sizeof name, "layer-%d.safetensors", (int)layer);
        if (in_shards) finish(&f, name, &w, index);
    }
    for (size_t i = 0; i < cox_checkpoint_n_tensors(m->checkpoint); i++) {
        const cox_tensor *tensor = cox_checkpoint_tensor(m->checkpoint, i);
        if (!strstr(tensor->name, ".experts.")) put_plain(&w, tensor, n);
    }
    finish(&f, in_shards ? "rest.safetensors" : "model.safetensors", &w, index);
    if (index) json_write(&f, "model.safetensors.index.json", index);
    json_decref(w.header);
    cox_model_close(m);
    return f;
}

/* The digest of the logits of a recorded prompt and of what follows it. */
static void digest_of(const char *path, const golden *g, char digest[65])
{
    cox_cluster *cluster = NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1;
    assert_int_equal(cox_cluster_create(&cluster, &options), COX_OK);
    harness_config config = harness_config_defaults(path);
    harness *h = NULL;
    if (harness_open(&h, cluster, &config) != COX_OK) fail_msg("%s: %s", path, cox_status_message());
    const harness_request request = {.prompt = g->prompt,
                                     .n_prompt = g->n_prompt,
                                     .max_tokens = g->n_greedy,
                                     .ignore_eos = true,
                                     .sampling = cox_sampling_defaults()};
    harness_result result = {0};
    assert_int_equal(harness_run(h, &request, 1, &result), COX_OK);
    assert_int_equal(result.n_tokens, g->n_greedy);
    assert_memory_equal(result.tokens, g->greedy, (size_t)g->n_greedy * sizeof *g->greedy);
    memcpy(digest, result.digest, 65);
    harness_result_free(&result);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
    cox_cluster_destroy(cluster);
}

static void test_the_same_digests(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const names *names;
    } models[] = {{"mixtral-llama3-f16", &mixtral},
                  {"olmoe-linear-shards-bf16", &others},
                  {"olmoe-plain-f32", &others},
                  {"qwen3_moe-dense-bf16", &others}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[256], wanted[65] = "", found[65];
        snprintf(path, sizeof path, GOLDEN "%s", models[i].name);
        golden *g = golden_load(path);
        digest_of(path, g, wanted);
        assert_int_equal(strlen(wanted), 64);
        for (int in_shards = 0; in_shards < 2; in_shards++) {
            folder f = stack(models[i].name, models[i].names, in_shards);
            digest_of(f.path, g, found);
            assert_string_equal(found, wanted);
            folder_remove(&f);
        }
        golden_free(g);
    }
}

/* Nothing is copied: an expert is three views of the mapping, and counts no more than its bytes there. */
static void test_views(void **state)
{
    (void)state;
    folder f = stack("olmoe-plain-f32", &others, false);
    cox_model *m = NULL, *plain = NULL;
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    assert_int_equal(cox_model_open(&plain, GOLDEN "olmoe-plain-f32"), COX_OK);
    const cox_tensor *both = cox_checkpoint_find(m->checkpoint, "model.layers.1.mlp.experts.gate_up_proj");
    const cox_tensor *down = cox_checkpoint_find(m->checkpoint, "model.layers.1.mlp.experts.down_proj");
    cox_ffn_weights w;
    const int32_t layer = 1, id = 2;
    assert_int_equal(cox_model_load_experts(m, arena, &layer, &id, 1, NULL, NULL, &w), COX_OK);
    size_t part = (size_t)m->d_expert * (size_t)m->d_model * sizeof(float);
    assert_ptr_equal(w.gate.data, (const char *)both->data + 2 * part * (size_t)id);
    assert_ptr_equal(w.up.data, (const char *)w.gate.data + part);
    assert_ptr_equal(w.down.data, (const char *)down->data + part * (size_t)id);
    assert_int_equal(w.gate.n_rows, m->d_expert);
    assert_int_equal(w.up.n_rows, m->d_expert);
    assert_int_equal(w.down.n_rows, m->d_model);
    assert_null(w.gate_bias);
    assert_int_equal(cox_model_n_parameters(m), cox_model_n_parameters(plain));
    assert_int_equal(cox_model_n_active_parameters(m), cox_model_n_active_parameters(plain));
    cox_model_close(m);
    cox_model_close(plain);
    cox_arena_destroy(arena);
    folder_remove(&f);
}

/* Opens a stacked olmoe-plain-f32 one of whose entries is renamed (to NULL: reshaped). */
static void refuses(const char *tensor, const char *renamed, const char *const *texts)
{
    folder f = stack("olmoe-plain-f32", &others, false);
    shard s = shard_read(&f, "model.safetensors");
    json_t *entry = json_incref(shard_entry(&s, tensor));
    if (renamed) {
        json_object_del(s.header, tensor);
        json_object_set_new(s.header, renamed, entry);
    } else { /* [n, 2h, d] as [n, d, 2h]: gpt_oss' layout */
        json_t *shape = json_object_get(entry, "shape"), *last = json_incref(json_array_get(shape, 2));
        json_array_remove(shape, 2);
        json_array_insert_new(shape, 1, last);
        json_decref(entry);
    }
    shard_write(&f, "model.safetensors", s);
    cox_model *m = NULL;
    expect_message(cox_model_open(&m, f.path), COX_BAD_FILE, texts);
    folder_remove(&f);
}

static void test_what_is_wrong_is_named(void **state)
{
    (void)state;
    refuses("model.layers.1.mlp.experts.gate_up_proj", NULL,
            TEXTS("model.layers.1.mlp.experts.gate_up_proj", "[4, 24, 20]", "[4, 20, 24]"));
    refuses("model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.nothing",
            TEXTS("model.layers.0.mlp.experts.gate_up_proj", "down_proj", "missing"));
    refuses("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.nothing",
            TEXTS("model.layers.0.mlp.experts.0.gate_proj.weight", "missing"));
    refuses("model.layers.1.self_attn.k_norm.weight", "model.layers.0.mlp.experts.0.gate_proj.weight",
            TEXTS("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.0.gate_proj.weight",
                  "twice"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_digests),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
