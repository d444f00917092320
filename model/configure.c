/*
 * config.json to dimensions: what all families share, in the order in which a reader of config.json
 * would ask. Bounds are generous but keep every later product within 64 (and widths within 32) bits.
 */
#include "model/configure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"
#include "model/quantization.h"

enum { MAX_WIDTH = 1 << 24, MAX_POSITIONS = 1 << 24 };

/*
 * Features that change the result and that no family here has. transformers ignores these keys for our
 * families, but a config that carries them was made for other code. 0, false and null mean "off", and so
 * does `neutral`.
 */
static const struct {
    const char *key;
    double neutral;
} refused_keys[] = {
    {"n_shared_experts", 0},
    {"num_shared_experts", 0},
    {"shared_expert_intermediate_size", 0},
    {"n_group", 1},
    {"routed_scaling_factor", 1},
    {"kv_lora_rank", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"router_logit_softcapping", 0},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier", 0},
    {"logits_scaling", 1},
    {"logit_scale", 1},
    {"partial_rotary_factor", 1},
    {"attention_chunk_size", 0},
    {"mlp_bias", 0},
    {"alibi", 0},
};

static cox_status refuse_features(const cox__config *config)
{
    for (size_t i = 0; i < sizeof refused_keys / sizeof *refused_keys; i++) {
        const json_t *value = json_object_get(config->object, refused_keys[i].key);
        if (!value || json_is_null(value) || json_is_false(value)) continue;
        double number = json_number_value(value);
        if (json_is_number(value) && (number == 0 || number == refused_keys[i].neutral)) continue;
        return cox_fail(COX_UNSUPPORTED,
                        "%s: key \"%s\" asks for a feature that this model_type does not have here",
                        config->where, refused_keys[i].key);
    }
    return COX_OK;
}

static cox_status check_activation(const cox__config *config, const cox_family *family)
{
    if (!family->reads_hidden_act) return COX_OK;
    const char *activation = "silu";
    cox_status status = cox__config_string(config, "hidden_act", &activation);
    if (status == COX_OK && strcmp(activation, "silu") != 0 &&
        strcmp(activation, "swish") != 0) { /* another name for it */
        status = cox_fail(COX_UNSUPPORTED, "%s: hidden_act \"%.100s\" is not built; only silu is",
                          config->where, activation);
    }
    return status;
}

/* What transformers honours for every family, and nobody here does. */
static cox_status refuse_general(const cox__config *config)
{
    if (cox__config_is_given(config, "is_causal") && !cox__config_is_truthy(config, "is_causal")) {
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: key \"is_causal\" makes attention look ahead, which is not built; remove it for a "
            "causal model",
            config->where);
    }
    if (cox__config_is_truthy(config, "per_layer_config")) {
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: key \"per_layer_config\" gives layers dimensions of their own, which is not built",
            config->where);
    }
    if (cox__config_has(config, "transformers_weights")) {
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: key \"transformers_weights\" names another file of weights, which is not built; call "
            "that file model.safetensors and remove the key",
            config->where);
    }
    return COX_OK;
}

/* The tensors say themselves what they are; but a config that promises another kind of model is not obeyed by
 * chance. */
static cox_status check_dtype(const cox__config *config, const char *key)
{
    static const char *const known[] = {"float32", "float16", "bfloat16"};
    const char *name = known[0];
    cox_status status = cox__config_string(config, key, &name);
    for (size_t i = 0; status == COX_OK && i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i]) == 0) return COX_OK;
    }
    if (status != COX_OK) return status;
    return cox_fail(COX_UNSUPPORTED,
                    "%s: key \"%s\" is \"%.100s\"; only float32, float16 and bfloat16 are built",
                    config->where, key, name);
}

static cox_status read_attention(const cox__config *config, const cox__defaults *defaults, cox_model *m)
{
    m->n_heads = defaults->n_heads;
    cox_status status = cox__config_int(config, "num_attention_heads", 1, 1 << 16, &m->n_heads);
    if (status != COX_OK) return status;
    bool is_null = cox__config_is_null(config, "num_key_value_heads");
    m->n_kv_heads = is_null || defaults->n_kv_heads == 0 ? m->n_heads : defaults->n_kv_heads;
    status = cox__config_int(config, "num_key_value_heads", 1, 1 << 16, &m->n_kv_heads);
    if (status != COX_OK) return status;
    if (m->n_heads % m->n_kv_heads != 0) {
        return cox_fail(COX_BAD_FILE, "%s: num_attention_heads %d is no multiple of num_key_value_heads %d",
                        config->where, (int)m->n_heads, (int)m->n_kv_heads);
    }
    bool is_given = cox__config_has(config, "head_dim");
    is_null = cox__config_is_null(config, "head_dim");
    m->head_dim = is_null || defaults->head_dim == 0 ? m->d_model / m->n_heads : defaults->head_dim;
    if (is_given) status = cox__config_int(config, "head_dim", 1, 1 << 14, &m->head_dim);
    if (status != COX_OK) return status;
    if (m->head_dim < 2 || m->head_dim % 2 != 0 || m->head_dim > 1 << 14) {
        return cox_fail(COX_BAD_FILE, "%s: head_dim is %d, but must be even (hidden_size %d over %d heads?)",
                        config->where, (int)m->head_dim, (int)m->d_model, (int)m->n_heads);
    }
    m->attention_scale = (float)(1.0 / sqrt((double)m->head_dim));
    m->has_attention_bias = defaults->has_attention_bias;
    if (m->family->reads_attention_bias) {
        status = cox__config_bool(config, "attention_bias", &m->has_attention_bias);
    }
    return status;
}

static cox_status read_experts(const cox__config *config, const cox__defaults *defaults, cox_model *m)
{
    m->router.n_experts = defaults->n_experts;
    m->router.top_k = defaults->top_k;
    m->d_expert = defaults->d_expert;
    cox_status status = cox__config_int(config, m->family->n_experts_key, 1, 1 << 16, &m->router.n_experts);
    if (status == COX_OK)
        status = cox__config_int(config, m->family->n_experts_alias, 1, 1 << 16, &m->router.n_experts);
    if (status == COX_OK)
        status = cox__config_int(config, "num_experts_per_tok", 1, 1 << 16, &m->router.top_k);
    if (status == COX_OK)
        status = cox__config_int(config, m->family->d_expert_key, 1, MAX_WIDTH, &m->d_expert);
    if (status == COX_OK && m->router.top_k > m->router.n_experts) {
        status = cox_fail(COX_BAD_FILE, "%s: num_experts_per_tok %d is more than the %d experts",
                          config->where, (int)m->router.top_k, (int)m->router.n_experts);
    }
    return status;
}

static cox_status read_dims(const cox__config *config, cox_model *m, cox__config_flags *flags)
{
    const cox__defaults *defaults = &m->family->defaults;
    double eps = defaults->rms_eps;
    m->n_layers = defaults->n_layers;
    m->d_model = defaults->d_model;
    m->vocab_size = defaults->vocab_size;
    m->max_positions = defaults->max_positions;
    cox_status status = cox__config_int(config, "num_hidden_layers", 1, 4096, &m->n_layers);
    if (status == COX_OK) status = cox__config_int(config, "hidden_size", 1, 1 << 20, &m->d_model);
    if (status == COX_OK) status = cox__config_int(config, "vocab_size", 1, MAX_WIDTH, &m->vocab_size);
    if (status == COX_OK) {
        status = cox__config_int(config, "max_position_embeddings", 1, MAX_POSITIONS, &m->max_positions);
    }
    if (status == COX_OK) status = cox__config_number(config, "rms_norm_eps", 0, 1, &eps);
    m->rms_eps = (float)eps;
    if (status == COX_OK) status = cox__config_bool(config, "tie_word_embeddings", &flags->is_tied);
    if (status == COX_OK) status = read_attention(config, defaults, m);
    if (status == COX_OK) status = read_experts(config, defaults, m);
    return status;
}

static cox_status read_rope(const cox__config *config, cox_model *m)
{
    cox__rope_params params;
    cox_status status =
        cox__rope_read(config, &m->family->defaults.rope, m->max_positions, m->arena, &params);
    if (status != COX_OK) return status;
    float *inv_freq = cox_arena_array(m->arena, (size_t)m->head_dim / 2, sizeof *inv_freq);
    if (!inv_freq) return COX_NO_MEMORY;
    cox__rope_table(&params, m->head_dim, inv_freq, &m->rope.attention_factor);
    m->rope.n_rot = m->head_dim;
    m->rope.inv_freq = inv_freq;
    return COX_OK;
}

/* transformers does not mind an id beyond the vocabulary: the model can never choose it. Nor do we, but
 * whoever generates text is told. */
static cox_status note_eos(const cox__config *config, cox_model *m)
{
    bool is_foreign = false;
    for (int32_t i = 0; i < m->n_eos; i++) {
        is_foreign = is_foreign || m->eos_ids[i] < 0 || m->eos_ids[i] >= m->vocab_size;
    }
    if (!is_foreign || !cox__config_has(config, "eos_token_id")) return COX_OK;
    char *ids = json_dumps(json_object_get(config->object, "eos_token_id"), JSON_ENCODE_ANY);
    char note[512];
    snprintf(note, sizeof note,
             "%.300s: key \"eos_token_id\" is %.100s, but vocab_size is %d: no text can end at a token "
             "that the model does not have",
             config->where, ids ? ids : "?", (int)m->vocab_size);
    free(ids);
    m->eos_note = cox_arena_strdup(m->arena, note);
    return m->eos_note ? COX_OK : COX_NO_MEMORY;
}

/* An id that nothing can have never ends a generation, and no text begins with it. */
static void drop_unknown_ids(cox_model *model)
{
    if (model->bos_id >= model->vocab_size) model->bos_id = -1;
    int32_t n = 0;
    for (int32_t i = 0; i < model->n_eos; i++) {
        if (model->eos_ids[i] >= 0 && model->eos_ids[i] < model->vocab_size)
            model->eos_ids[n++] = model->eos_ids[i];
    }
    model->n_eos = n;
}

enum { MAX_EOS = sizeof((cox_model *)0)->eos_ids / sizeof(int32_t) };

/* generate() of transformers knows only what the file says: no default of the config classes counts here. */
static cox_status read_special_tokens(const cox__config *config, cox_model *m)
{
    const json_t *bos = json_object_get(config->object, "bos_token_id"); /* whatever it is, no text fails */
    bool has_bos =
        json_is_integer(bos) && json_integer_value(bos) >= 0 && json_integer_value(bos) < INT32_MAX;
    m->bos_id = has_bos ? (int32_t)json_integer_value(bos) : -1;
    m->n_eos = 0;
    m->eos_note = NULL;
    cox_status status = cox__config_ids(config, "eos_token_id", m->eos_ids, MAX_EOS, &m->n_eos);
    if (status == COX_OK) status = note_eos(config, m);
    if (status == COX_OK) drop_unknown_ids(m);
    return status;
}

cox_status cox__model_identify(const cox__config *config, cox_model *model, cox__config_flags *flags)
{
    *flags = (cox__config_flags){0};
    cox_status status = cox__family_find(config, &model->family);
    if (status != COX_OK) return status;
    model->family_name = model->family->model_type;
    return cox__quantization_read(config, model->family, model->arena, &flags->is_mxfp4);
}

cox_status cox__model_configure(const cox__config *config, cox_model *model, cox__config_flags *flags)
{
    cox_status status = cox__model_identify(config, model, flags);
    if (status == COX_OK) status = refuse_features(config);
    if (status == COX_OK) status = refuse_general(config);
    if (status == COX_OK) status = check_activation(config, model->family);
    if (status == COX_OK) status = check_dtype(config, "dtype");
    if (status == COX_OK) status = check_dtype(config, "torch_dtype");
    if (status == COX_OK) status = read_dims(config, model, flags);
    if (status != COX_OK) return status;

    cox_layer_spec *layers = cox_arena_array(model->arena, (size_t)model->n_layers, sizeof *layers);
    if (!layers) return COX_NO_MEMORY;
    for (int32_t i = 0; i < model->n_layers; i++) layers[i] = (cox_layer_spec){.is_moe = true};
    model->layers = layers;
    status = model->family->configure(config, model, layers);
    if (status == COX_OK) status = read_rope(config, model);
    return status == COX_OK ? read_special_tokens(config, model) : status;
}

cox_status cox__model_configure_generation(const cox__config *generation, cox_model *model)
{
    /* Where there is this file, config.json has no say, and what is left out or null is none. */
    return generation->object ? read_special_tokens(generation, model) : COX_OK;
}
