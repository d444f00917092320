/*
 * Finds every tensor that a config promises and checks it. What the checkpoint holds beyond that is
 * ignored, except biases that the config denies.
 */
#include "model/tensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ADVICE "config.json and the shards are of different models, or one of them was edited"

typedef struct binder {
    cox_model *model;
    const char *prefix; /* "model." or "" */
} binder;

/* The number that a dimension stands for. */
static int64_t dim_of(const cox_model *m, cox__dim dim)
{
    switch (dim) {
    case COX__NONE: return 1;
    case COX__D_MODEL: return m->d_model;
    case COX__Q_WIDTH: return (int64_t)m->n_heads * m->head_dim;
    case COX__KV_WIDTH: return (int64_t)m->n_kv_heads * m->head_dim;
    case COX__HEAD_DIM: return m->head_dim;
    case COX__N_HEADS: return m->n_heads;
    case COX__N_EXPERTS: return m->router.n_experts;
    case COX__D_DENSE: return m->d_dense;
    }
    return 0;
}

__attribute__((format(printf, 2, 3))) static const cox_tensor *find(const binder *b, const char *format, ...)
{
    char name[512];
    int n = snprintf(name, sizeof name, "%s", b->prefix);
    va_list args;
    va_start(args, format);
    vsnprintf(name + n, sizeof name - (size_t)n, format, args);
    va_end(args);
    return cox_checkpoint_find(b->model->checkpoint, name);
}

/* "layers.<layer>.<stem><end>", or by the name that transformers has for that part (family->renamed). */
static const cox_tensor *find_in_layer(const binder *b, int32_t layer, const char *stem, const char *end)
{
    const cox_tensor *tensor = find(b, "layers.%d.%s%s", (int)layer, stem, end);
    const char *const *renamed = b->model->family->renamed;
    size_t n = renamed[0] ? strlen(renamed[0]) : 0;
    if (tensor || n == 0 || strncmp(stem, renamed[0], n) != 0) return tensor;
    return find(b, "layers.%d.%s%s%s", (int)layer, renamed[1], stem + n, end);
}

static cox_status missing(const binder *b, const char *name)
{
    return cox_fail(COX_BAD_FILE, "%s: tensor \"%s%s\" is missing; " ADVICE ", or the download is incomplete",
                    b->model->folder, b->prefix, name);
}

static void print_shape(char *text, size_t size, const int64_t *shape, int32_t n_dims)
{
    size_t n = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < n_dims && i < COX_TENSOR_MAX_DIMS; i++) {
        n += (size_t)snprintf(text + n, size - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    }
    snprintf(text + n, size - n, "%s]", n_dims > COX_TENSOR_MAX_DIMS ? ", ..." : "");
}

static cox_status check_shape(const cox_tensor *tensor, const int64_t *shape, int32_t n_dims)
{
    bool is_equal = tensor->n_dims == n_dims;
    for (int32_t i = 0; is_equal && i < n_dims; i++) is_equal = tensor->shape[i] == shape[i];
    if (is_equal) return COX_OK;
    char found[128], wanted[128];
    print_shape(found, sizeof found, tensor->shape, tensor->n_dims);
    print_shape(wanted, sizeof wanted, shape, n_dims);
    return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has shape %s, config.json asks for %s; " ADVICE,
                    tensor->shard, tensor->name, found, wanted);
}

static cox_status check_float(const cox_tensor *tensor)
{
    if (tensor->dtype == COX_TENSOR_F32 || tensor->dtype == COX_TENSOR_F16 ||
        tensor->dtype == COX_TENSOR_BF16) {
        return COX_OK;
    }
    return cox_fail(COX_BAD_FILE,
                    "%s: tensor \"%s\" has dtype %s, wanted F32, F16 or BF16; use an unquantised checkpoint",
                    tensor->shard, tensor->name, tensor->dtype_name);
}

static cox_status check_u8(const cox_tensor *tensor)
{
    if (tensor->dtype == COX_TENSOR_U8) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has dtype %s, wanted U8 (MXFP4)", tensor->shard,
                    tensor->name, tensor->dtype_name);
}

static cox_status check(const cox_tensor *tensor, const int64_t *shape, int32_t n_dims)
{
    cox_status status = check_float(tensor);
    return status == COX_OK ? check_shape(tensor, shape, n_dims) : status;
}

/* [out] *tensor: "<prefix><name>", of the given shape and a float dtype. */
static cox_status require(const binder *b, const char *name, const int64_t *shape, int32_t n_dims,
                          const cox_tensor **tensor)
{
    *tensor = find(b, "%s", name);
    return *tensor ? check(*tensor, shape, n_dims) : missing(b, name);
}

static bool is_wanted(const cox_model *m, int32_t layer, cox__presence presence)
{
    switch (presence) {
    case COX__ALWAYS: return true;
    case COX__WITH_ATTENTION_BIAS: return m->has_attention_bias;
    case COX__IN_MOE: return m->layers[layer].is_moe;
    case COX__IN_DENSE: return !m->layers[layer].is_moe;
    }
    return false;
}

static cox_status bind_own(const binder *b, int32_t layer, const cox_tensor **own)
{
    const cox_model *m = b->model;
    for (size_t i = 0; i < m->family->n_layer_tensors; i++) {
        const cox__tensor_spec *spec = &m->family->layer_tensors[i];
        char name[256];
        snprintf(name, sizeof name, "layers.%d.%s", (int)layer, spec->name);
        if (!is_wanted(m, layer, spec->presence)) {
            const cox_tensor *extra = find(b, "%s", name);
            if (!extra || spec->presence != COX__WITH_ATTENTION_BIAS) continue;
            return cox_fail(
                COX_BAD_FILE,
                "%s: tensor \"%s\" is there, but config.json says \"attention_bias\": false; " ADVICE,
                extra->shard, extra->name);
        }
        int64_t shape[2] = {dim_of(m, spec->rows), dim_of(m, spec->cols)};
        own[i] = find_in_layer(b, layer, spec->name, "");
        if (!own[i]) return missing(b, name);
        cox_status status = check(own[i], shape, spec->cols == COX__NONE ? 1 : 2);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status bind_each(const binder *b, int32_t layer, const cox_tensor **each)
{
    const cox_model *m = b->model;
    const cox__expert_names *names = &m->family->experts;
    const char *const parts[3] = {names->gate, names->up, names->down};
    for (int32_t e = 0; e < m->router.n_experts; e++) {
        for (int i = 0; i < 3; i++) {
            char name[256];
            snprintf(name, sizeof name, "layers.%d.%s%d.%s", (int)layer, names->prefix, (int)e, parts[i]);
            int64_t shape[2] = {i < 2 ? m->d_expert : m->d_model, i < 2 ? m->d_model : m->d_expert};
            cox_status status = require(b, name, shape, 2, &each[3 * e + i]);
            if (status != COX_OK) return status;
        }
    }
    return COX_OK;
}

/* The experts of a layer in two tensors, when they lie so. */
static cox_status bind_stacked(const binder *b, int32_t layer, cox__stacked_experts *stacked)
{
    const cox_model *m = b->model;
    const cox__expert_names *names = &m->family->experts;
    const int64_t n = m->router.n_experts, d = m->d_model, h = m->d_expert;
    stacked->gate_up = find_in_layer(b, layer, names->prefix, "gate_up_proj");
    if (!stacked->gate_up) return COX_OK;
    const cox_tensor *single = find(b, "layers.%d.%s0.%s", (int)layer, names->prefix, names->gate);
    if (single) {
        return cox_fail(COX_BAD_FILE,
                        "%s: tensors \"%s\" and \"%s\" are the same weights twice; remove one checkpoint",
                        m->folder, stacked->gate_up->name, single->name);
    }
    stacked->down = find_in_layer(b, layer, names->prefix, "down_proj");
    if (!stacked->down) {
        return cox_fail(COX_BAD_FILE,
                        "%s: tensor \"%s\" is there, but the \"down_proj\" beside it is missing; " ADVICE,
                        m->folder, stacked->gate_up->name);
    }
    cox_status status = check(stacked->gate_up, (const int64_t[]){n, 2 * h, d}, 3);
    return status == COX_OK ? check(stacked->down, (const int64_t[]){n, d, h}, 3) : status;
}

/* One of the two fused matrices: `part` is "gate_up_proj" or "down_proj". */
static cox_status bind_fused_part(const binder *b, int32_t layer, const char *part, int64_t n_in,
                                  int64_t n_out, const cox_tensor **matrix, const cox_tensor **scales,
                                  const cox_tensor **bias)
{
    const cox_model *m = b->model;
    const int64_t n_experts = m->router.n_experts;
    char stem[200], name[256];
    snprintf(stem, sizeof stem, "layers.%d.%s%s", (int)layer, m->family->experts.prefix, part);
    snprintf(name, sizeof name, "%s_bias", stem);
    cox_status status = require(b, name, (const int64_t[]){n_experts, n_out}, 2, bias);
    if (status != COX_OK) return status;

    const cox_tensor *blocks = find(b, "%s_blocks", stem), *plain = find(b, "%s", stem);
    if (blocks && plain) {
        return cox_fail(COX_BAD_FILE,
                        "%s: tensors \"%s\" and \"%s\" are the same weights twice; remove one checkpoint",
                        m->folder, blocks->name, plain->name);
    }
    *matrix = blocks ? blocks : plain;
    if (!*matrix) return missing(b, stem);
    if (plain) return check(plain, (const int64_t[]){n_experts, n_in, n_out}, 3);

    snprintf(name, sizeof name, "%s_scales", stem);
    *scales = find(b, "%s", name);
    if (!*scales) return missing(b, name);
    status = check_u8(blocks);
    if (status == COX_OK) status = check_u8(*scales);
    if (status == COX_OK && n_in % 32 != 0) {
        status = cox_fail(COX_BAD_FILE,
                          "%s: tensor \"%s\" is MXFP4, whose blocks need %" PRId64
                          " to be a multiple of 32; " ADVICE,
                          blocks->shard, blocks->name, n_in);
    }
    if (status == COX_OK) status = check_shape(blocks, (const int64_t[]){n_experts, n_out, n_in / 32, 16}, 4);
    if (status == COX_OK) status = check_shape(*scales, (const int64_t[]){n_experts, n_out, n_in / 32}, 3);
    return status;
}

static cox_status bind_fused(const binder *b, int32_t layer, cox__fused_experts *f)
{
    const cox_model *m = b->model;
    cox_status status = bind_fused_part(b, layer, "gate_up_proj", m->d_model, 2 * (int64_t)m->d_expert,
                                        &f->gate_up, &f->gate_up_scales, &f->gate_up_bias);
    if (status != COX_OK) return status;
    return bind_fused_part(b, layer, "down_proj", m->d_expert, m->d_model, &f->down, &f->down_scales,
                           &f->down_bias);
}

static cox_status bind_layer(const binder *b, int32_t layer, cox__bound_layer *bound)
{
    const cox_model *m = b->model;
    bound->own = cox_arena_array(m->arena, m->family->n_layer_tensors, sizeof *bound->own);
    if (!bound->own) return COX_NO_MEMORY;
    cox_status status = bind_own(b, layer, bound->own);
    if (status != COX_OK || !m->layers[layer].is_moe) return status;
    if (m->family->experts.layout == COX__EXPERTS_FUSED) return bind_fused(b, layer, &bound->fused);
    status = bind_stacked(b, layer, &bound->stacked);
    if (status != COX_OK || bound->stacked.gate_up) return status;
    bound->each = cox_arena_array(m->arena, 3 * (size_t)m->router.n_experts, sizeof *bound->each);
    return bound->each ? bind_each(b, layer, bound->each) : COX_NO_MEMORY;
}

static cox_status bind_ends(const binder *b, bool is_tied, cox__bound *bound)
{
    cox_model *m = b->model;
    const int64_t table[2] = {m->vocab_size, m->d_model};
    cox_status status = require(b, "embed_tokens.weight", table, 2, &bound->embed);
    if (status == COX_OK)
        status = require(b, "norm.weight", (const int64_t[]){m->d_model}, 1, &bound->final_norm);
    if (status != COX_OK) return status;
    bound->lm_head =
        cox_checkpoint_find(m->checkpoint, "lm_head.weight"); /* wins over tying, as in transformers */
    if (bound->lm_head) return check(bound->lm_head, table, 2);
    if (!is_tied) {
        return cox_fail(
            COX_BAD_FILE,
            "%s: tensor \"lm_head.weight\" is missing, and config.json does not say \"tie_word_embeddings\": "
            "true; correct config.json if the head is the embedding, else download the checkpoint again",
            m->folder);
    }
    bound->lm_head = bound->embed;
    m->has_tied_embeddings = true;
    return COX_OK;
}

/* The tensors decide; a config that says otherwise is of another checkpoint. */
static cox_status check_mxfp4(cox_model *m, const cox__bound_layer *layers, bool is_mxfp4)
{
    for (int32_t i = 0; i < m->n_layers; i++) {
        if (layers[i].fused.gate_up_scales || layers[i].fused.down_scales) m->has_mxfp4 = true;
    }
    if (m->has_mxfp4 == is_mxfp4) return COX_OK;
    return cox_fail(COX_BAD_FILE,
                    "%s/config.json: quantization_config %s mxfp4, but the shards hold %s experts; " ADVICE,
                    m->folder, is_mxfp4 ? "says" : "does not say", m->has_mxfp4 ? "MXFP4" : "unquantised");
}

cox_status cox__model_bind(cox_model *model, bool is_tied, bool is_mxfp4)
{
    binder b = {model, "model."};
    if (!find(&b, "embed_tokens.weight") && cox_checkpoint_find(model->checkpoint, "embed_tokens.weight"))
        b.prefix = "";
    cox__bound *bound = cox_arena_alloc(model->arena, sizeof *bound);
    cox__bound_layer *layers = cox_arena_array(model->arena, (size_t)model->n_layers, sizeof *layers);
    if (!bound || !layers) return COX_NO_MEMORY;
    cox_status status = bind_ends(&b, is_tied, bound);
    for (int32_t i = 0; status == COX_OK && i < model->n_layers; i++) status = bind_layer(&b, i, &layers[i]);
    if (status == COX_OK) status = check_mxfp4(model, layers, is_mxfp4);
    if (status != COX_OK) return status;
    bound->layers = layers;
    model->bound = bound;
    return COX_OK;
}
