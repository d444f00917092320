/*
 * OLMoE: q and k are normed over the whole projection before the heads are split, then q, k and v may be
 * clipped; routes keep their softmax probabilities, not renormalised by default.
 */
#include <math.h>

#include "model/family.h"

static const cox__tensor_spec layer_tensors[] = {
    COX__NORM_TENSORS,
    COX__ATTENTION_TENSORS,
    COX__ATTENTION_BIAS_TENSORS,
    COX__VECTOR("self_attn.q_norm.weight", Q_WIDTH, ALWAYS, q_norm),
    COX__VECTOR("self_attn.k_norm.weight", KV_WIDTH, ALWAYS, k_norm),
    COX__MATRIX("mlp.gate.weight", N_EXPERTS, D_MODEL, IN_MOE, router),
};

static cox_status configure(const cox__config *config, cox_model *model, cox_layer_spec *layers)
{
    (void)layers; /* all layers are MoE with full attention; a sliding_window is not honoured */
    model->qk_norm = COX_QK_NORM_ALL;
    model->activation = COX_ACTIVATION_SILU;
    if (model->n_heads * model->head_dim != model->d_model) {
        return cox_fail(
            COX_BAD_FILE,
            "%s: head_dim %d times num_attention_heads %d is not hidden_size %d, which olmoe needs",
            config->where, (int)model->head_dim, (int)model->n_heads, (int)model->d_model);
    }
    double clip = 0;
    cox_status status = cox__config_number(config, "clip_qkv", 1e-6, INFINITY, &clip);
    if (status != COX_OK) return status;
    model->clip_qkv = (float)clip;
    return cox__family_softmax_router(config, false, model);
}

const cox_family cox__family_olmoe = {
    .model_type = "olmoe",
    .defaults = {.n_layers = 16,
                 .d_model = 2048,
                 .n_heads = 16,
                 .n_kv_heads = 0,
                 .vocab_size = 50304,
                 .max_positions = 4096,
                 .n_experts = 64,
                 .top_k = 8,
                 .d_expert = 2048,
                 .rms_eps = 1e-5,
                 .rope = {.theta = 10000}},
    .n_experts_key = "num_experts",
    .n_experts_alias = "num_local_experts",
    .d_expert_key = "intermediate_size",
    .reads_hidden_act = true,
    .reads_attention_bias = true,
    .experts = {COX__EXPERTS_EACH, "mlp.experts.", "gate_proj.weight", "up_proj.weight", "down_proj.weight"},
    .layer_tensors = layer_tensors,
    .n_layer_tensors = sizeof layer_tensors / sizeof *layer_tensors,
    .configure = configure,
};
