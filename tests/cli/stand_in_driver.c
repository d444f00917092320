/*
 * Weights that stand in for a released checkpoint's: names, types and shapes as the family's releases have
 * them, from the folder's config.json. Reads no code of the program's, so that the program can be held
 * against it. stand_in_driver FOLDER sparse        the header alone; the file is as long as it says, and
 * takes no disk stand_in_driver FOLDER random SEED   small random numbers, for narrow models stand_in_driver
 * FOLDER fused SEED    the same numbers, the experts of a layer in one tensor (not gpt_oss, where they are
 * always so) stand_in_driver config FROM TO KEY=JSON...   a config.json with other values; KEY=- takes a key
 * away Where FOLDER/model.safetensors.index.json is there, it says which shard a tensor is in, and must name
 * the same tensors and the same sum of bytes; else all go to model.safetensors. The last line printed is the
 * sum of the tensors' bytes.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <jansson.h>

typedef enum kind { MATRIX, NORM, BLOCKS, SCALES } kind;

/* fan_in is that of the matrix product, for the size of the numbers; the seed says which they are. */
typedef struct tensor {
    char name[96], shard[64];
    kind kind;
    int n_dims, fan_in;
    uint64_t dims[4], seed, parts; /* parts: seeds of a fused tensor's pieces follow each other */
    uint64_t offset, n_bytes;
} tensor;

static struct {
    char folder[1024];
    const char *family;
    json_t *config, *index;
    uint64_t layers, d, heads, kv_heads, head_dim, d_expert, experts, vocab, seed;
    bool is_sparse, is_fused, is_mxfp4, is_tied, has_bias;
    tensor *tensors;
    size_t n;
} in;

__attribute__((noreturn, format(printf, 1, 2))) static void stop(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("stand_in_driver: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json) stop("%s: %s", path, error.text);
    return json;
}

static uint64_t number(const char *key, uint64_t otherwise)
{
    const json_t *value = json_object_get(in.config, key);
    if (json_is_integer(value)) return (uint64_t)json_integer_value(value);
    if (otherwise == 0) stop("config.json has no number \"%s\"", key);
    return otherwise;
}

/* --- Which tensors there are --- */

/* Of a name, so that both forms of a model's experts come of the same numbers. */
static uint64_t seed_of(const char *what, int layer)
{
    uint64_t hash = 14695981039346656037u + (uint64_t)layer;
    for (; *what; what++) hash = (hash ^ (unsigned char)*what) * 1099511628211u;
    return hash;
}

__attribute__((format(printf, 4, 5))) static tensor *add(kind what, int fan_in, const uint64_t dims[4],
                                                         const char *format, ...)
{
    if (in.n % 1024 == 0) in.tensors = realloc(in.tensors, (in.n + 1024) * sizeof *in.tensors);
    if (!in.tensors) stop("out of memory");
    tensor *t = &in.tensors[in.n++];
    *t = (tensor){.kind = what, .fan_in = fan_in, .parts = 1};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(t->name, sizeof t->name, format, arguments);
    va_end(arguments);
    t->seed = seed_of(t->name, 0);
    t->n_bytes = what == BLOCKS || what == SCALES ? 1 : 2;
    for (; t->n_dims < 4 && dims[t->n_dims]; t->n_dims++) {
        t->dims[t->n_dims] = dims[t->n_dims];
        t->n_bytes *= dims[t->n_dims];
    }
    return t;
}

#define DIMS(...)                      ((const uint64_t[4]){__VA_ARGS__})
#define ADD_MATRIX(rows, columns, ...) add(MATRIX, (int)(columns), DIMS(rows, columns), __VA_ARGS__)
#define ADD_VECTOR(n, ...)             add(MATRIX, 64, DIMS(n), __VA_ARGS__)
#define ADD_NORM(n, ...)               add(NORM, 1, DIMS(n), __VA_ARGS__)

static void add_attention(int l)
{
    static const char *const projections[4] = {"q", "k", "v", "o"};
    uint64_t q = in.heads * in.head_dim, kv = in.kv_heads * in.head_dim;
    uint64_t rows[4] = {q, kv, kv, in.d}, columns[4] = {in.d, in.d, in.d, q};
    for (int i = 0; i < 4; i++) {
        ADD_MATRIX(rows[i], columns[i], "model.layers.%d.self_attn.%s_proj.weight", l, projections[i]);
        if (in.has_bias) ADD_VECTOR(rows[i], "model.layers.%d.self_attn.%s_proj.bias", l, projections[i]);
    }
    bool is_olmoe = strcmp(in.family, "olmoe") == 0;
    if (is_olmoe || strcmp(in.family, "qwen3_moe") == 0) {
        ADD_NORM(is_olmoe ? q : in.head_dim, "model.layers.%d.self_attn.q_norm.weight", l);
        ADD_NORM(is_olmoe ? kv : in.head_dim, "model.layers.%d.self_attn.k_norm.weight", l);
    }
}

/* As released: blocks of 32 e2m1 values in 16 bytes, with a scale each. */
static void add_gpt_oss_matrix(int l, const char *name, uint64_t rows, uint64_t columns)
{
    char stem[80];
    snprintf(stem, sizeof stem, "model.layers.%d.mlp.experts.%s", l, name);
    add(MATRIX, 64, DIMS(in.experts, rows), "%s_bias", stem);
    if (!in.is_mxfp4) {
        add(MATRIX, (int)columns, DIMS(in.experts, columns, rows), "%s", stem);
        return;
    }
    if (columns % 32) stop("%s: rows of %d are not blocks of 32", stem, (int)columns);
    add(BLOCKS, (int)columns, DIMS(in.experts, rows, columns / 32, 16), "%s_blocks", stem);
    add(SCALES, (int)columns, DIMS(in.experts, rows, columns / 32), "%s_scales", stem);
}

static void add_gpt_oss(int l)
{
    ADD_VECTOR(in.heads, "model.layers.%d.self_attn.sinks", l);
    ADD_MATRIX(in.experts, in.d, "model.layers.%d.mlp.router.weight", l);
    ADD_VECTOR(in.experts, "model.layers.%d.mlp.router.bias", l);
    add_gpt_oss_matrix(l, "gate_up_proj", 2 * in.d_expert, in.d);
    add_gpt_oss_matrix(l, "down_proj", in.d, in.d_expert);
}

/* A fused tensor holds, by expert, what gate, up and down of that expert are by themselves: the seeds say so.
 */
static void add_fused(int l)
{
    tensor *both = add(MATRIX, (int)in.d, DIMS(in.experts, 2 * in.d_expert, in.d),
                       "model.layers.%d.mlp.experts.gate_up_proj", l);
    both->seed = seed_of("experts", l), both->parts = 2 * in.experts;
    tensor *down = add(MATRIX, (int)in.d_expert, DIMS(in.experts, in.d, in.d_expert),
                       "model.layers.%d.mlp.experts.down_proj", l);
    down->seed = seed_of("experts", l) + 2 * in.experts, down->parts = in.experts;
}

static void add_experts(int l)
{
    bool is_mixtral = strcmp(in.family, "mixtral") == 0;
    const char *block = is_mixtral && !in.is_fused ? "block_sparse_moe" : "mlp";
    const char *names[3] = {"gate_proj", "up_proj", "down_proj"};
    if (is_mixtral) names[0] = "w1", names[1] = "w3", names[2] = "w2";
    ADD_MATRIX(in.experts, in.d, "model.layers.%d.%s.gate.weight", l, block)->seed = seed_of("router", l);
    if (in.is_fused) {
        add_fused(l);
        return;
    }
    for (uint64_t e = 0; e < in.experts; e++) {
        for (int i = 0; i < 3; i++) {
            uint64_t rows = i < 2 ? in.d_expert : in.d, columns = i < 2 ? in.d : in.d_expert;
            tensor *t = ADD_MATRIX(rows, columns, "model.layers.%d.%s.experts.%d.%s.weight", l, block, (int)e,
                                   names[i]);
            t->seed = seed_of("experts", l) + (i < 2 ? 2 * e + (uint64_t)i : 2 * in.experts + e);
        }
    }
}

static void list_tensors(void)
{
    ADD_MATRIX(in.vocab, in.d, "model.embed_tokens.weight")->fan_in = 3;
    for (int l = 0; l < (int)in.layers; l++) {
        ADD_NORM(in.d, "model.layers.%d.input_layernorm.weight", l);
        ADD_NORM(in.d, "model.layers.%d.post_attention_layernorm.weight", l);
        add_attention(l);
        if (strcmp(in.family, "gpt_oss") == 0) {
            add_gpt_oss(l);
        } else {
            add_experts(l);
        }
    }
    ADD_NORM(in.d, "model.norm.weight");
    if (!in.is_tied) ADD_MATRIX(in.vocab, in.d, "lm_head.weight");
}

static void read_config(void)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/config.json", in.folder);
    in.config = load(path);
    in.family = json_string_value(json_object_get(in.config, "model_type"));
    bool is_gpt_oss = in.family && strcmp(in.family, "gpt_oss") == 0;
    bool is_qwen = in.family && strcmp(in.family, "qwen3_moe") == 0;
    bool is_mixtral = in.family && strcmp(in.family, "mixtral") == 0;
    if (!is_gpt_oss && !is_qwen && !is_mixtral && strcmp(in.family ? in.family : "", "olmoe") != 0)
        stop("%s: model_type is of no family that is known here", path);
    in.layers = number("num_hidden_layers", 0), in.d = number("hidden_size", 0),
    in.vocab = number("vocab_size", 0);
    in.heads = number("num_attention_heads", 0), in.kv_heads = number("num_key_value_heads", in.heads);
    in.head_dim = number("head_dim", in.d / in.heads);
    in.experts = number(is_mixtral || is_gpt_oss ? "num_local_experts" : "num_experts", 0);
    in.d_expert = number(is_qwen ? "moe_intermediate_size" : "intermediate_size", 0);
    in.is_tied = json_is_true(json_object_get(in.config, "tie_word_embeddings"));
    in.has_bias = json_is_true(json_object_get(in.config, "attention_bias"));
    in.is_mxfp4 = is_gpt_oss && json_is_object(json_object_get(in.config, "quantization_config"));
    if (is_qwen && (number("decoder_sparse_step", 1) != 1 ||
                    json_array_size(json_object_get(in.config, "mlp_only_layers")) > 0))
        stop("%s: dense layers are not made here", path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", in.folder);
    if (access(path, F_OK) == 0) in.index = load(path);
}

/* --- Where each lies --- */

/* [return] the sum of all bytes. */
static uint64_t assign_shards(void)
{
    const json_t *map = json_object_get(in.index, "weight_map");
    if (in.index && json_object_size(map) != in.n)
        stop("the index names %zu tensors, config.json makes %zu", json_object_size(map), in.n);
    uint64_t sum = 0;
    for (size_t i = 0; i < in.n; i++) {
        const char *shard =
            in.index ? json_string_value(json_object_get(map, in.tensors[i].name)) : "model.safetensors";
        if (!shard) stop("the index does not name %s", in.tensors[i].name);
        snprintf(in.tensors[i].shard, sizeof in.tensors[i].shard, "%s", shard);
        sum += in.tensors[i].n_bytes;
    }
    const json_t *total = json_object_get(json_object_get(in.index, "metadata"), "total_size");
    if (total && (uint64_t)json_integer_value(total) != sum)
        stop("the index says %lld bytes, config.json makes %llu", (long long)json_integer_value(total),
             (unsigned long long)sum);
    return sum;
}

/* --- Bytes --- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void put_number(FILE *file, const tensor *t, uint64_t random)
{
    double unit = (double)(random >> 40) / 8388608.0 - 1.0; /* in [-1, 1) */
    float x = (float)(t->kind == NORM ? 1 + 0.2 * unit : sqrt(3.0 / t->fan_in) * unit);
    uint32_t bits;
    memcpy(&bits, &x, 4);
    fputc((int)(bits >> 16 & 255), file); /* truncated: any bf16 will do */
    fputc((int)(bits >> 24), file);
}

static void put_data(FILE *file, const tensor *t)
{
    uint64_t n = t->n_bytes / (t->kind == BLOCKS || t->kind == SCALES ? 1 : 2), part = n / t->parts;
    int scale = 127 - (int)lround(log2(3 * sqrt(t->fan_in))); /* e2m1 values are about 3 */
    for (uint64_t i = 0; i < n; i++) {
        uint64_t random = mix(mix(in.seed << 48 ^ (t->seed + i / part)) + i % part);
        if (t->kind == BLOCKS) {
            fputc((int)(random >> 56), file);
        } else if (t->kind == SCALES) {
            fputc(scale + (int)(random >> 63), file);
        } else {
            put_number(file, t, random);
        }
    }
}

static json_t *header_entry(const tensor *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims; i++) json_array_append_new(shape, json_integer((json_int_t)t->dims[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->kind == BLOCKS || t->kind == SCALES ? "U8" : "BF16",
                     "shape", shape, "data_offsets", (json_int_t)t->offset,
                     (json_int_t)(t->offset + t->n_bytes));
}

/* All tensors of the shard that tensor [first] is in; their shards are emptied, so that each is written once.
 */
static void write_shard(size_t first)
{
    char path[1200], shard[64];
    snprintf(shard, sizeof shard, "%s", in.tensors[first].shard);
    snprintf(path, sizeof path, "%s/%s", in.folder, shard);
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t end = 0;
    for (size_t i = first; i < in.n; i++) {
        tensor *t = &in.tensors[i];
        if (strcmp(t->shard, shard) != 0) continue;
        t->offset = end;
        end += t->n_bytes;
        json_object_set_new(header, t->name, header_entry(t));
    }
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t n = (strlen(text) + 7) / 8 * 8;
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(&n, 8, 1, file) != 1) stop("%s: %s", path, strerror(errno));
    fprintf(file, "%-*s", (int)n, text);
    for (size_t i = first; i < in.n; i++) {
        if (strcmp(in.tensors[i].shard, shard) != 0) continue;
        if (!in.is_sparse) put_data(file, &in.tensors[i]);
        in.tensors[i].shard[0] = '\0';
    }
    if (fflush(file) != 0 || ftruncate(fileno(file), (off_t)(8 + n + end)) != 0 || fclose(file) != 0)
        stop("%s: %s", path, strerror(errno));
    free(text);
    json_decref(header);
}

/* --- config FROM TO KEY=JSON... --- */

static int change_config(int argc, char **argv)
{
    json_t *config = load(argv[2]);
    for (int i = 4; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) stop("%s is not KEY=JSON", argv[i]);
        *value++ = '\0';
        json_t *json = strcmp(value, "-") == 0 ? NULL : json_loads(value, JSON_DECODE_ANY, NULL);
        if (!json && strcmp(value, "-") != 0) stop("%s is not JSON", value);
        if (json) {
            json_object_set_new(config, argv[i], json);
        } else {
            json_object_del(config, argv[i]);
        }
    }
    if (json_dump_file(config, argv[3], JSON_INDENT(2)) != 0) stop("%s: %s", argv[3], strerror(errno));
    json_decref(config);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "config") == 0) return change_config(argc, argv);
    bool is_random = argc == 4 && (strcmp(argv[2], "random") == 0 || strcmp(argv[2], "fused") == 0);
    if (!is_random && (argc != 3 || strcmp(argv[2], "sparse") != 0))
        stop("usage: FOLDER sparse|random SEED|fused SEED, or config FROM TO KEY=JSON...");
    snprintf(in.folder, sizeof in.folder, "%s", argv[1]);
    in.is_sparse = !is_random;
    in.is_fused = is_random && strcmp(argv[2], "fused") == 0;
    if (is_random) in.seed = strtoull(argv[3], NULL, 10);
    read_config();
    list_tensors();
    uint64_t sum = assign_shards();
    for (size_t i = 0; i < in.n; i++) {
        if (in.tensors[i].shard[0]) write_shard(i);
    }
    printf("%llu\n", (unsigned long long)sum);
    free(in.tensors);
    json_decref(in.config);
    json_decref(in.index);
    return 0;
}
