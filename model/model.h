/*
 * A Hugging Face model folder as the engine sees it: dimensions, what is particular in each layer, and
 * views of the weights in their own dtype. All that is special about a family (names of config keys and
 * tensors, router rule, activation, q/k norm, ...) is data filled in by model/family_<name>.c; nothing
 * else asks which family it is.
 */
#ifndef COX_MODEL_MODEL_H
#define COX_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"

/* How router logits z become routes; formulas in model/route_rules.h. The families of the last three are not
 * built yet. */
typedef enum cox_router_rule {
    COX_ROUTER_SOFTMAX_TOPK,   /* p = softmax(z); top-k of p; weight p, divided by their sum if `normalize` */
    COX_ROUTER_TOPK_SOFTMAX,   /* top-k of z; weight = softmax over the k */
    COX_ROUTER_SOFTMAX_GROUPS, /* DeepSeek-V2 */
    COX_ROUTER_SIGMOID_GROUPS, /* DeepSeek-V3, GLM-4.5 */
    COX_ROUTER_SPARSEMIXER,    /* Phi-3.5 */
} cox_router_rule;

typedef struct cox_router_config {
    cox_router_rule rule;
    int32_t n_experts, top_k;
    bool normalize;
    int32_t n_groups,
        topk_groups; /* *_GROUPS: n_groups divides n_experts, at most COX_MAX_GROUPS; 0 or 1: no groups */
    float scaling;   /* *_GROUPS: of the gate weights */
    float jitter;    /* SPARSEMIXER: router_jitter_noise */
} cox_router_config;
enum { COX_MAX_GROUPS = 64 };

typedef enum cox_activation {
    COX_ACTIVATION_SILU,           /* silu(gate) * up */
    COX_ACTIVATION_SWIGLU_CLAMPED, /* GPT-OSS: cox_swiglu_clamped with alpha and limit below */
} cox_activation;

typedef enum cox_qk_norm {
    COX_QK_NORM_NONE,
    COX_QK_NORM_HEAD, /* RMSNorm of every head by itself (Qwen3), weight [head_dim] */
    COX_QK_NORM_ALL,  /* RMSNorm over the whole projection (OLMoE), weights [n_heads*head_dim],
                         [n_kv_heads*head_dim] */
} cox_qk_norm;

/* Rotary embedding: angle of pair i at position p is (float)p * inv_freq[i] in f32, as transformers computes
 * it; cosine and sine are multiplied by attention_factor (YaRN; else 1). */
typedef struct cox_rope_config {
    int32_t n_rot;         /* rotated elements of a head, even */
    const float *inv_freq; /* [n_rot/2] f32, owned by the model */
    float attention_factor;
} cox_rope_config;

typedef struct cox_layer_spec {
    bool is_moe;    /* else one dense FFN of width d_dense */
    int32_t window; /* a row sees itself and window-1 positions before it; 0: all */
} cox_layer_spec;

typedef struct cox_family cox_family;

typedef struct cox_model {
    const char *folder;
    const cox_family *family;
    const char *family_name; /* "olmoe", "mixtral", "gpt_oss", "qwen3_moe": config.json's model_type */
    cox_checkpoint *checkpoint;
    int32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, vocab_size, max_positions;
    int32_t d_expert; /* width of one expert's FFN */
    int32_t d_dense;  /* width of the dense layers' FFN; 0 when there are none */
    float rms_eps;
    float attention_scale; /* of the scores */
    float clip_qkv;        /* q and k (after their norms) and v are clamped to +-this, before RoPE; 0: no */
    bool has_sinks, has_attention_bias;
    bool has_tied_embeddings; /* the head is the embedding matrix */
    bool has_mxfp4;           /* experts are stored in MXFP4 */
    cox_qk_norm qk_norm;
    cox_activation activation;
    float swiglu_alpha, swiglu_limit;
    cox_router_config router;
    cox_rope_config rope;
    const cox_layer_spec *layers; /* [n_layers] */
    int32_t n_eos;                /* ids that end a generation: generation_config.json, else config.json */
    int32_t eos_ids[256];
    const char *eos_note;  /* one line for whoever generates text: a file names an end token beyond the
                              vocabulary; NULL: none does */
    const char *end_error; /* why generation_config.json cannot be read, though it is there; else NULL */
    int32_t bos_id;        /* -1: none */
    char fingerprint[65];  /* SHA-256 in hex over config.json and every tensor's name, dtype and shape */
    const struct cox__bound
        *bound;       /* of model/ only: the checkpoint's tensors by their places (model/tensors.h) */
    cox_arena *arena; /* owns the above */
} cox_model;

/*
 * Reads config.json, generation_config.json and the shards' headers, and checks every tensor that the
 * config promises for presence, shape and dtype. Touches no weights. [out] owned by the caller. Not
 * collective. Errors: NOT_FOUND, INVALID (no model's folder at all), BAD_FILE (config that contradicts itself
 * or the tensors), UNSUPPORTED (unknown model_type, listed with the known ones; weights in another form or
 * quantised, by name; features that are not built, by key).
 */
cox_status cox_model_open(cox_model **model, const char *folder);
void cox_model_close(cox_model *model); /* NULL is allowed; all views die with it */

/* Is this what transformers (model_type) or llama.cpp (general.architecture) call the model's family? Case
 * does not count, nor what is no letter or digit. */
bool cox_model_is_called(const cox_model *model, const char *name);

/* Is it known where texts end? For whoever generates some; all else works without. Errors: BAD_FILE (of
 * generation_config.json). */
cox_status cox_model_check_ends(const cox_model *model);

/* --- Weights: matrices are views in their own dtype; vectors (norms, biases, sinks) are small f32 copies.
 * --- */

typedef struct cox_ffn_weights {
    cox_matrix gate, up;                          /* [d_ffn, d_model] */
    cox_matrix down;                              /* [d_model, d_ffn] */
    const float *gate_bias, *up_bias, *down_bias; /* [d_ffn], [d_ffn], [d_model] or NULL */
} cox_ffn_weights;

typedef struct cox_layer_weights {
    const float *input_norm; /* [d_model] */
    const float *post_norm;  /* [d_model], before router and FFN */
    cox_matrix q, k, v,
        o; /* [n_heads*head_dim, d_model], [n_kv_heads*head_dim, d_model] x2, [d_model, n_heads*head_dim] */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* or NULL */
    const float *q_norm, *k_norm;                   /* by cox_qk_norm, or NULL */
    const float *sinks;                             /* [n_heads] or NULL */
    cox_matrix router;                              /* [n_experts, d_model]; of MoE layers */
    const float *router_bias;                       /* [n_experts] or NULL */
    cox_ffn_weights dense;                          /* of layers that are not MoE */
} cox_layer_weights;

/* What a coordinator holds: everything except routed experts. */
typedef struct cox_trunk_weights {
    cox_matrix embed;          /* [vocab_size, d_model] */
    cox_layer_weights *layers; /* [n_layers] */
    const float *final_norm;   /* [d_model] */
    cox_matrix lm_head;        /* [vocab_size, d_model]; the same view as embed when tied */
} cox_trunk_weights;

/* Called now and then while weights are read, from one thread; done counts up to total bytes. NULL is
 * allowed. */
typedef void cox_load_progress(void *context, size_t done_bytes, size_t total_bytes);

/* Faults in and views the trunk. Small copies (and what must be rearranged, such as transposed experts, in
 * its own dtype) go to `arena`, which must outlive the views. Not collective. Errors: IO, NO_MEMORY. */
cox_status cox_model_load_trunk(const cox_model *model, cox_arena *arena, cox_load_progress *progress,
                                void *context, cox_trunk_weights *trunk);

/* The same for n experts: experts[i] becomes the weights of routed expert ids[i] of layers[i]. */
cox_status cox_model_load_experts(const cox_model *model, cox_arena *arena, const int32_t *layers,
                                  const int32_t *ids, size_t n, cox_load_progress *progress, void *context,
                                  cox_ffn_weights *experts);

/*
 * What loading will make resident, bytes: touched pages of the mapping, each counted once, and copies in the
 * arena. Of the trunk; of one routed expert of a layer (the largest, pages that it shares with its
 * neighbours included); and of a set of experts together (exact: shared pages once).
 */
size_t cox_model_trunk_bytes(const cox_model *model);
size_t cox_model_expert_bytes(const cox_model *model, int32_t layer);
/* [out] *n_bytes. Errors: INVALID (a layer that is not MoE, or an expert out of range), NO_MEMORY. */
cox_status cox_model_experts_bytes(const cox_model *model, const int32_t *layers, const int32_t *ids,
                                   size_t n, size_t *n_bytes);

/* Parameters (elements, MXFP4 counted as one each): all, and those that one token uses. */
uint64_t cox_model_n_parameters(const cox_model *model);
uint64_t cox_model_n_active_parameters(const cox_model *model);

#endif
