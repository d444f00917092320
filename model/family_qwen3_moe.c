/*
 * Qwen3-MoE: RMSNorm of every q and k head by itself, dense layers among the sparse, an optional sliding
 * window for all layers (max_window_layers and layer_types are not read, as in transformers).
 */
#include "model/family.h"

static const cox__tensor_spec layer_tensors[] = {
    COX__NORM_TENSORS,
    COX__ATTENTION_TENSORS,
    COX__ATTENTION_BIAS_TENSORS,
    COX__VECTOR("self_attn.q_norm.weight", HEAD_DIM, ALWAYS, q_norm),
    COX__VECTOR("self_attn.k_norm.weight", HEAD_DIM, ALWAYS, k_norm),
    COX__MATRIX("mlp.gate.weight", N_EXPERTS, D_MODEL, IN_MOE, router),
    COX__MATRIX("mlp.gate_proj.weight", D_DENSE, D_MODEL, IN_DENSE, dense.gate),
    COX__MATRIX("mlp.up_proj.weight", D_DENSE, D_MODEL, IN_DENSE, dense.up),
    COX__MATRIX("mlp.down_proj.weight", D_MODEL, D_DENSE, IN_DENSE, dense.down),
};

/* Layer i is sparse unless mlp_only_layers lists it or (i + 1) is no multiple of decoder_sparse_step. */
static cox_status read_dense_layers(const cox__config *config, cox_model *model, cox_layer_spec *layers)
{
    int32_t step = 1, n_dense = 0;
    cox_status status = cox__config_int(config, "decoder_sparse_step", 1, INT32_MAX, &step);
    const json_t *dense = NULL;
    if (status == COX_OK) status = cox__config_array(config, "mlp_only_layers", &dense);
    if (status != COX_OK) return status;
    for (int32_t i = 0; i < model->n_layers; i++) layers[i].is_moe = (i + 1) % step == 0;
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *layer = json_array_get(dense, i);
        if (!json_is_integer(layer)) {
            return cox_fail(COX_BAD_FILE, "%s: key \"mlp_only_layers\" must list layer numbers",
                            config->where);
        }
        json_int_t number = json_integer_value(layer);
        if (number >= 0 && number < model->n_layers) layers[number].is_moe = false;
    }
    for (int32_t i = 0; i < model->n_layers; i++) n_dense += !layers[i].is_moe;
    if (n_dense == 0) return COX_OK;
    model->d_dense = 6144;
    return cox__config_int(config, "intermediate_size", 1, 1 << 24, &model->d_dense);
}

static cox_status configure(const cox__config *config, cox_model *model, cox_layer_spec *layers)
{
    model->qk_norm = COX_QK_NORM_HEAD;
    model->activation = COX_ACTIVATION_SILU;
    bool is_sliding = false;
    int32_t window = cox__config_is_null(config, "sliding_window") ? 0 : 4096;
    cox_status status = cox__config_bool(config, "use_sliding_window", &is_sliding);
    if (status == COX_OK && is_sliding) {
        status = cox__config_int(config, "sliding_window", 1, INT32_MAX, &window);
        for (int32_t i = 0; i < model->n_layers; i++) layers[i].window = window;
    }
    if (status == COX_OK) status = read_dense_layers(config, model, layers);
    return status == COX_OK ? cox__family_softmax_router(config, false, model) : status;
}

const cox_family cox__family_qwen3_moe = {
    .model_type = "qwen3_moe",
    .defaults = {.n_layers = 24,
                 .d_model = 2048,
                 .n_heads = 32,
                 .n_kv_heads = 4,
                 .vocab_size = 151936,
                 .max_positions = 32768,
                 .n_experts = 128,
                 .top_k = 8,
                 .d_expert = 768,
                 .rms_eps = 1e-6,
                 .rope = {.theta = 10000}},
    .n_experts_key = "num_experts",
    .n_experts_alias = "num_local_experts",
    .d_expert_key = "moe_intermediate_size",
    .reads_hidden_act = true,
    .reads_attention_bias = true,
    .experts = {COX__EXPERTS_EACH, "mlp.experts.", "gate_proj.weight", "up_proj.weight", "down_proj.weight"},
    .layer_tensors = layer_tensors,
    .n_layer_tensors = sizeof layer_tensors / sizeof *layer_tensors,
    .configure = configure,
};
