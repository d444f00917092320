/*
 * Writes a checkpoint of random weights in the shape of a released model, for memory tests and benchmarks:
 *   make_checkpoint FOLDER [--layers N] [--experts N] [--dtype bf16|f32] [--shape
 * olmoe-1b-7b|qwen3-30b-a3b|tiny] Weights are uniform with standard deviation 1/sqrt(fan_in), so activations
 * keep their size; norms are near 1. One shard per layer, plus one for the trunk, with an index. There is no
 * tokenizer: use `coxswain logits`.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct shape {
    const char *name, *model_type;
    int layers, d_model, heads, kv_heads, head_dim, experts, top_k, d_expert, vocab, positions;
    int has_qk_norm; /* 1: over the whole projection, 2: per head */
} shape;

static const shape shapes[] = {
    {"olmoe-1b-7b", "olmoe", 16, 2048, 16, 16, 128, 64, 8, 1024, 50304, 4096, 1},
    {"qwen3-30b-a3b", "qwen3_moe", 48, 2048, 32, 4, 128, 128, 8, 768, 151936, 40960, 2},
    {"tiny", "olmoe", 2, 64, 4, 4, 16, 8, 2, 32, 256, 512, 1},
};

/* Tensors of one shard: names and shapes first (pass 0), then data (pass 1). */
typedef struct writer {
    FILE *file;
    char *header; /* JSON so far */
    size_t n_header, n_data;
    int pass, is_f32, n_tensors;
    const char *shard;
    FILE *index;
    int *index_count;
    uint64_t random;
} writer;

static void fail(const char *path)
{
    fprintf(stderr, "make_checkpoint: %s: %s\n", path, strerror(errno));
    exit(1);
}

static uint64_t next_random(writer *w)
{
    w->random ^= w->random << 13, w->random ^= w->random >> 7, w->random ^= w->random << 17;
    return w->random;
}

static void write_data(writer *w, size_t n, double scale, double offset)
{
    enum { CHUNK = 1 << 16 };
    static unsigned char bytes[CHUNK * 4];
    size_t size = w->is_f32 ? 4 : 2;
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t m = n - done < CHUNK ? n - done : CHUNK;
        for (size_t i = 0; i < m; i++) {
            float x = (float)(offset + scale * ((double)(next_random(w) >> 40) / 8388608.0 - 1.0));
            uint32_t bits;
            memcpy(&bits, &x, 4);
            if (!w->is_f32) bits >>= 16; /* truncated: any bf16 will do */
            memcpy(bytes + i * size, &bits, size);
        }
        if (fwrite(bytes, size, m, w->file) != m) fail(w->shard);
    }
}

/* fan_in 0: a norm, near 1. */
static void tensor(writer *w, const char *name, int rows, int cols, int fan_in)
{
    size_t n = (size_t)rows * (size_t)(cols ? cols : 1), n_bytes = n * (w->is_f32 ? 4 : 2);
    if (w->pass == 1) {
        write_data(w, n, fan_in ? sqrt(3.0 / fan_in) : 0.2, fan_in ? 0 : 1);
        return;
    }
    char dims[48], entry[512];
    if (cols) {
        snprintf(dims, sizeof dims, "%d,%d", rows, cols);
    } else {
        snprintf(dims, sizeof dims, "%d", rows);
    }
    int length = snprintf(
        entry, sizeof entry, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
        w->n_tensors++ ? "," : "{", name, w->is_f32 ? "F32" : "BF16", dims, w->n_data, w->n_data + n_bytes);
    w->header = realloc(w->header, w->n_header + (size_t)length + 16);
    memcpy(w->header + w->n_header, entry, (size_t)length + 1);
    w->n_header += (size_t)length;
    w->n_data += n_bytes;
    fprintf(w->index, "%s\n    \"%s\": \"%s\"", (*w->index_count)++ ? "," : "", name,
            strrchr(w->shard, '/') + 1);
}

static void trunk_tensors(writer *w, const shape *s)
{
    tensor(w, "model.embed_tokens.weight", s->vocab, s->d_model, 3);
    tensor(w, "model.norm.weight", s->d_model, 0, 0);
    tensor(w, "lm_head.weight", s->vocab, s->d_model, s->d_model);
}

static void layer_tensors(writer *w, const shape *s, int l)
{
    char name[128];
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
#define T(suffix, rows, cols, fan_in) \
    (snprintf(name, sizeof name, "model.layers.%d." suffix, l), tensor(w, name, rows, cols, fan_in))
    T("input_layernorm.weight", s->d_model, 0, 0);
    T("post_attention_layernorm.weight", s->d_model, 0, 0);
    T("self_attn.q_proj.weight", q, s->d_model, s->d_model);
    T("self_attn.k_proj.weight", kv, s->d_model, s->d_model);
    T("self_attn.v_proj.weight", kv, s->d_model, s->d_model);
    T("self_attn.o_proj.weight", s->d_model, q, q);
    T("self_attn.q_norm.weight", s->has_qk_norm == 1 ? q : s->head_dim, 0, 0);
    T("self_attn.k_norm.weight", s->has_qk_norm == 1 ? kv : s->head_dim, 0, 0);
    T("mlp.gate.weight", s->experts, s->d_model, s->d_model);
#undef T
    for (int e = 0; e < s->experts; e++) {
        static const char *const parts[3] = {"gate_proj", "up_proj", "down_proj"};
        for (int p = 0; p < 3; p++) {
            snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.%s.weight", l, e, parts[p]);
            int rows = p == 2 ? s->d_model : s->d_expert, cols = p == 2 ? s->d_expert : s->d_model;
            tensor(w, name, rows, cols, cols);
        }
    }
}

/* layer -1: the trunk. */
static void write_shard(const char *folder, const shape *s, int layer, int is_f32, FILE *index,
                        int *index_count)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", folder, layer + 2, s->layers + 1);
    writer w = {.shard = path,
                .is_f32 = is_f32,
                .index = index,
                .index_count = index_count,
                .random = 88172645463325252u + (uint64_t)(layer + 1) * 7919};
    w.file = fopen(path, "wb");
    if (!w.file) fail(path);
    for (w.pass = 0; w.pass < 2; w.pass++) {
        if (layer < 0) {
            trunk_tensors(&w, s);
        } else {
            layer_tensors(&w, s, layer);
        }
        if (w.pass == 0) {
            w.header[w.n_header++] = '}';
            while (w.n_header % 8) w.header[w.n_header++] = ' ';
            uint64_t n = w.n_header;
            if (fwrite(&n, 8, 1, w.file) != 1 || fwrite(w.header, 1, w.n_header, w.file) != w.n_header)
                fail(path);
        }
    }
    if (fclose(w.file) != 0) fail(path);
    free(w.header);
}

static void write_config(const char *folder, const shape *s, int is_f32)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    if (!file) fail(path);
    fprintf(file,
            "{\n  \"model_type\": \"%s\",\n  \"hidden_size\": %d,\n  \"num_hidden_layers\": %d,\n"
            "  \"num_attention_heads\": %d,\n  \"num_key_value_heads\": %d,\n  \"num_experts\": %d,\n"
            "  \"num_experts_per_tok\": %d,\n  \"vocab_size\": %d,\n  \"max_position_embeddings\": %d,\n"
            "  \"hidden_act\": \"silu\",\n  \"norm_topk_prob\": %s,\n  \"rope_theta\": 10000.0,\n"
            "  \"rms_norm_eps\": 1e-05,\n  \"tie_word_embeddings\": false,\n  \"torch_dtype\": \"%s\",\n",
            s->model_type, s->d_model, s->layers, s->heads, s->kv_heads, s->experts, s->top_k, s->vocab,
            s->positions, s->has_qk_norm == 2 ? "true" : "false", is_f32 ? "float32" : "bfloat16");
    if (s->has_qk_norm == 2)
        fprintf(file, "  \"head_dim\": %d,\n  \"moe_intermediate_size\": %d,\n", s->head_dim, s->d_expert);
    fprintf(file, "  \"intermediate_size\": %d\n}\n", s->d_expert);
    if (fclose(file) != 0) fail(path);
}

int main(int argc, char **argv)
{
    shape s = shapes[0];
    int is_f32 = 0, layers = 0, experts = 0;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--shape") == 0) {
            for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
                if (strcmp(argv[i + 1], shapes[k].name) == 0) s = shapes[k];
            }
        } else if (strcmp(argv[i], "--layers") == 0) {
            layers = atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--experts") == 0) {
            experts = atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--dtype") == 0) {
            is_f32 = strcmp(argv[i + 1], "f32") == 0;
        } else {
            argc = 0;
        }
    }
    if (argc < 2 || argc % 2) {
        fprintf(stderr, "usage: make_checkpoint FOLDER [--layers N] [--experts N] [--dtype bf16|f32] "
                        "[--shape olmoe-1b-7b|qwen3-30b-a3b|tiny]\n");
        return 2;
    }
    if (layers > 0) s.layers = layers;
    if (experts > 0) s.experts = experts;
    if (mkdir(argv[1], 0777) != 0 && errno != EEXIST) fail(argv[1]);
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", argv[1]);
    FILE *index = fopen(path, "w");
    if (!index) fail(path);
    int n = 0;
    fprintf(index, "{\n  \"metadata\": {},\n  \"weight_map\": {");
    for (int l = -1; l < s.layers; l++) write_shard(argv[1], &s, l, is_f32, index, &n);
    fprintf(index, "\n  }\n}\n");
    if (fclose(index) != 0) fail(path);
    write_config(argv[1], &s, is_f32);
    return 0;
}
