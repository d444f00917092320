/*
 * Mixtral: no biases, routes always renormalised over the chosen, one optional sliding window for all
 * layers. The hub's tensor names are the original ones (block_sparse_moe, w1 gate, w3 up, w2 down);
 * transformers itself says mlp.
 */
#include "model/family.h"

static const cox__tensor_spec layer_tensors[] = {
    COX__NORM_TENSORS,
    COX__ATTENTION_TENSORS,
    COX__MATRIX("block_sparse_moe.gate.weight", N_EXPERTS, D_MODEL, IN_MOE, router),
};

static cox_status configure(const cox__config *config, cox_model *model, cox_layer_spec *layers)
{
    model->qk_norm = COX_QK_NORM_NONE;
    model->activation = COX_ACTIVATION_SILU;
    model->router.rule = COX_ROUTER_SOFTMAX_TOPK;
    model->router.normalize = true;
    int32_t window = 0; /* null: none */
    cox_status status = cox__config_int(config, "sliding_window", 1, INT32_MAX, &window);
    if (status != COX_OK) return status;
    for (int32_t i = 0; i < model->n_layers; i++) layers[i].window = window;
    return COX_OK;
}

const cox_family cox__family_mixtral = {
    .model_type = "mixtral",
    .gguf_name = "llama",
    .defaults = {.n_layers = 32,
                 .d_model = 4096,
                 .n_heads = 32,
                 .n_kv_heads = 8,
                 .vocab_size = 32000,
                 .max_positions = 131072,
                 .n_experts = 8,
                 .top_k = 2,
                 .d_expert = 14336,
                 .rms_eps = 1e-5,
                 .rope = {.theta = 1000000}},
    .n_experts_key = "num_local_experts",
    .n_experts_alias = "num_experts",
    .d_expert_key = "intermediate_size",
    .reads_hidden_act = true,
    .experts = {COX__EXPERTS_EACH, "block_sparse_moe.experts.", "w1.weight", "w3.weight", "w2.weight"},
    .renamed = {"block_sparse_moe.", "mlp."},
    .layer_tensors = layer_tensors,
    .n_layer_tensors = sizeof layer_tensors / sizeof *layer_tensors,
    .configure = configure,
};
