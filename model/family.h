/*
 * What a model family is to the rest of model/: one constant cox_family in family_<name>.c, data and one
 * hook. To add a family, write that file and add it to the list in family.c; nothing else asks for it.
 *
 * Where the families to come will put what these four do not have:
 * - Shared experts (Qwen2-MoE, DeepSeek, GLM-4.5): three rows in layer_tensors under a new presence
 *   COX__WITH_SHARED (and one for Qwen2's shared_expert_gate) that fill a cox_ffn_weights `shared` in
 *   cox_layer_weights; its width becomes a field of cox_model, read in `configure`.
 * - Group-limited and sigmoid routing (DeepSeek-V2 and V3, GLM-4.5), sparsemixer (Phi-3.5): the rules are in
 *   model/route_rules.c already; `configure` sets cox_router_rule and its numbers in cox_router_config; the
 *   score-correction bias is a row in layer_tensors, which coordinator/router.c must be given and pass on (it
 *   passes NULL).
 * - MLA (DeepSeek): rows in layer_tensors for the low-rank projections, presence COX__WITH_MLA in place
 *   of q, k, v, and their ranks as new cox__dim values; attention chooses by a field of cox_model.
 * - Granite's multipliers: floats in cox_model, read in `configure`. Its fused expert tensors are another
 *   cox__expert_layout.
 * - LayerNorm with bias (Phi-3.5): rows of vectors in layer_tensors.
 */
#ifndef COX_MODEL_FAMILY_H
#define COX_MODEL_FAMILY_H

#include "model/config.h"
#include "model/model.h"
#include "model/rope.h"

/* A dimension of a tensor, by its meaning. COX__NONE as `cols` marks a vector. */
typedef enum cox__dim {
    COX__NONE,
    COX__D_MODEL,
    COX__Q_WIDTH,
    COX__KV_WIDTH,
    COX__HEAD_DIM,
    COX__N_HEADS,
    COX__N_EXPERTS,
    COX__D_DENSE
} cox__dim;

/* In which layers a tensor must be. */
typedef enum cox__presence {
    COX__ALWAYS,
    COX__WITH_ATTENTION_BIAS,
    COX__IN_MOE,
    COX__IN_DENSE
} cox__presence;

/* One tensor of a layer: "model.layers.<i>.<name>" goes to the member of cox_layer_weights at `offset`, a
 * cox_matrix, or a const float * for a vector. */
typedef struct cox__tensor_spec {
    const char *name;
    cox__dim rows, cols;
    cox__presence presence;
    size_t offset;
} cox__tensor_spec;

/* A row of a family's list. */
#define COX__MATRIX(name, rows, cols, presence, member)                                      \
    {                                                                                        \
        name, COX__##rows, COX__##cols, COX__##presence, offsetof(cox_layer_weights, member) \
    }
#define COX__VECTOR(name, rows, presence, member) COX__MATRIX(name, rows, NONE, presence, member)

/* Rows that every family of Llama's block has. */
#define COX__NORM_TENSORS                                               \
    COX__VECTOR("input_layernorm.weight", D_MODEL, ALWAYS, input_norm), \
        COX__VECTOR("post_attention_layernorm.weight", D_MODEL, ALWAYS, post_norm)
#define COX__ATTENTION_TENSORS                                                \
    COX__MATRIX("self_attn.q_proj.weight", Q_WIDTH, D_MODEL, ALWAYS, q),      \
        COX__MATRIX("self_attn.k_proj.weight", KV_WIDTH, D_MODEL, ALWAYS, k), \
        COX__MATRIX("self_attn.v_proj.weight", KV_WIDTH, D_MODEL, ALWAYS, v), \
        COX__MATRIX("self_attn.o_proj.weight", D_MODEL, Q_WIDTH, ALWAYS, o)
#define COX__ATTENTION_BIAS_TENSORS                                                  \
    COX__VECTOR("self_attn.q_proj.bias", Q_WIDTH, WITH_ATTENTION_BIAS, q_bias),      \
        COX__VECTOR("self_attn.k_proj.bias", KV_WIDTH, WITH_ATTENTION_BIAS, k_bias), \
        COX__VECTOR("self_attn.v_proj.bias", KV_WIDTH, WITH_ATTENTION_BIAS, v_bias), \
        COX__VECTOR("self_attn.o_proj.bias", D_MODEL, WITH_ATTENTION_BIAS, o_bias)

/* How routed experts lie in the file. */
typedef enum cox__expert_layout {
    COX__EXPERTS_EACH,  /* three matrices for each: "<prefix><e>.<gate|up|down>", [out, in]; or, from
                           transformers  with save_original_format=False, all in "<prefix>gate_up_proj"
                           [n_experts, 2*out, in],  gate before up, and "<prefix>down_proj" [n_experts, out,
                           in]
                         */
    COX__EXPERTS_FUSED, /* GPT-OSS: "<prefix>gate_up_proj" [n_experts, in, out] with gate and up interleaved
                           along out, "<prefix>down_proj", their "_bias"; or MXFP4 "_blocks" [n_experts, out,
                           in/32, 16] with "_scales" [n_experts, out, in/32] */
} cox__expert_layout;

typedef struct cox__expert_names {
    cox__expert_layout layout;
    const char *prefix;           /* after "model.layers.<i>." */
    const char *gate, *up, *down; /* of COX__EXPERTS_EACH */
} cox__expert_names;

/* What holds where config.json does not have the key: the defaults of transformers' config class. */
typedef struct cox__defaults {
    int32_t n_layers, d_model, n_heads, n_kv_heads, vocab_size, max_positions, n_experts, top_k, d_expert;
    int32_t head_dim; /* 0: d_model / n_heads */
    double rms_eps;
    bool has_attention_bias;
    cox__rope_params rope;
} cox__defaults;

struct cox_family {
    const char *model_type;
    const char *gguf_name; /* as llama.cpp calls the architecture; NULL: by the same letters */
    cox__defaults defaults;
    const char *n_experts_key, *n_experts_alias; /* with both, the alias counts */
    const char *d_expert_key;
    bool reads_hidden_act;     /* GPT-OSS's experts do not look at it */
    bool reads_attention_bias; /* honours the key "attention_bias" */
    bool reads_mxfp4;
    cox__expert_names experts;
    /* A part of a layer that transformers, when it does not keep the original format, calls otherwise: names
     * that begin with the first may begin with the second instead. NULLs: none. */
    const char *renamed[2];
    const cox__tensor_spec *layer_tensors; /* [n_layer_tensors] */
    size_t n_layer_tensors;
    /*
     * Called when the common dimensions of *model are filled. Sets what is the family's own: router rule,
     * q/k norm, clipping, activation, and layers[i]: is_moe and window (true and 0 beforehand).
     * Errors: BAD_FILE, UNSUPPORTED.
     */
    cox_status (*configure)(const cox__config *config, cox_model *model, cox_layer_spec *layers);
};

extern const cox_family cox__family_olmoe, cox__family_mixtral, cox__family_gpt_oss, cox__family_qwen3_moe;

/* By config.json's model_type. Errors: BAD_FILE without one; UNSUPPORTED, listing the known ones. */
cox_status cox__family_find(const cox__config *config, const cox_family **family);

/* Reads "norm_topk_prob" and the like for the common rule: softmax, then top-k. */
cox_status cox__family_softmax_router(const cox__config *config, bool default_normalize, cox_model *model);

#endif
