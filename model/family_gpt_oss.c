/*
 * GPT-OSS: biases everywhere, attention sinks, sliding and full attention layer by layer, YaRN by
 * default, top-k of the logits before the softmax, clamped SwiGLU, all experts of a layer in one tensor
 * (MXFP4 as released, or transposed bf16).
 */
#include <math.h>
#include <string.h>

#include "model/family.h"

static const cox__tensor_spec layer_tensors[] = {
    COX__NORM_TENSORS,
    COX__ATTENTION_TENSORS,
    COX__ATTENTION_BIAS_TENSORS,
    COX__VECTOR("self_attn.sinks", N_HEADS, ALWAYS, sinks),
    COX__MATRIX("mlp.router.weight", N_EXPERTS, D_MODEL, IN_MOE, router),
    COX__VECTOR("mlp.router.bias", N_EXPERTS, IN_MOE, router_bias),
};

/* layer_types names each layer's kind; without it, even layers slide. */
static cox_status read_windows(const cox__config *config, int32_t n_layers, cox_layer_spec *layers)
{
    int32_t window = cox__config_is_null(config, "sliding_window") ? 0 : 128;
    cox_status status = cox__config_int(config, "sliding_window", 1, INT32_MAX, &window);
    const json_t *types = NULL;
    if (status == COX_OK) status = cox__config_array(config, "layer_types", &types);
    if (status != COX_OK) return status;
    if (types && json_array_size(types) != (size_t)n_layers) {
        return cox_fail(COX_BAD_FILE, "%s: layer_types has %zu entries, num_hidden_layers is %d",
                        config->where, json_array_size(types), (int)n_layers);
    }
    for (int32_t i = 0; i < n_layers; i++) {
        bool is_sliding = i % 2 == 0;
        if (types) {
            const char *type = json_string_value(json_array_get(types, (size_t)i));
            is_sliding = type && strcmp(type, "sliding_attention") == 0;
            const bool is_full = /* in an older word too */
                type && (strcmp(type, "full_attention") == 0 || strcmp(type, "attention") == 0);
            if (!is_sliding && !is_full) {
                return cox_fail(
                    COX_UNSUPPORTED,
                    "%s: layer_types[%d] is %s; only sliding_attention and full_attention are built",
                    config->where, (int)i, type ? type : "not a string");
            }
        }
        if (is_sliding && window == 0) {
            return cox_fail(COX_BAD_FILE, "%s: sliding_window is null, but layer %d has sliding attention",
                            config->where, (int)i);
        }
        layers[i].window = is_sliding ? window : 0;
    }
    return COX_OK;
}

static cox_status configure(const cox__config *config, cox_model *model, cox_layer_spec *layers)
{
    model->qk_norm = COX_QK_NORM_NONE;
    model->has_sinks = true;
    model->activation = COX_ACTIVATION_SWIGLU_CLAMPED;
    model->router.rule = COX_ROUTER_TOPK_SOFTMAX;
    model->router.normalize = true; /* by construction */
    double alpha = 1.702, limit = 7.0;
    cox_status status = cox__config_number(config, "swiglu_alpha", -1e6, 1e6, &alpha);
    if (status == COX_OK) status = cox__config_number(config, "swiglu_limit", 1e-6, INFINITY, &limit);
    if (status != COX_OK) return status;
    model->swiglu_alpha = (float)alpha;
    model->swiglu_limit = (float)limit;
    return read_windows(config, model->n_layers, layers);
}

const cox_family cox__family_gpt_oss = {
    .model_type = "gpt_oss",
    .defaults = {.n_layers = 36,
                 .d_model = 2880,
                 .n_heads = 64,
                 .n_kv_heads = 8,
                 .head_dim = 64,
                 .vocab_size = 201088,
                 .max_positions = 131072,
                 .n_experts = 128,
                 .top_k = 4,
                 .d_expert = 2880,
                 .rms_eps = 1e-5,
                 .has_attention_bias = true,
                 .rope = {.type = COX__ROPE_YARN,
                          .theta = 150000,
                          .factor = 32,
                          .original_positions = 4096,
                          .beta_fast = 32,
                          .beta_slow = 1,
                          .attention_factor = -1,
                          .truncate = false}},
    .n_experts_key = "num_local_experts",
    .n_experts_alias = "num_experts",
    .d_expert_key = "intermediate_size",
    .reads_attention_bias = true,
    .reads_mxfp4 = true,
    .experts = {COX__EXPERTS_FUSED, "mlp.experts.", NULL, NULL, NULL},
    .layer_tensors = layer_tensors,
    .n_layer_tensors = sizeof layer_tensors / sizeof *layer_tensors,
    .configure = configure,
};
