/*
 * The tensors of a checkpoint by the places that a family gives them: found, and checked for shape and
 * dtype, when a model is opened; read by model/weights.c.
 */
#ifndef COX_MODEL_TENSORS_H
#define COX_MODEL_TENSORS_H

#include "model/family.h"
#include "model/model.h"

/* All experts of a layer in a few tensors (COX__EXPERTS_FUSED). */
typedef struct cox__fused_experts {
    const cox_tensor *gate_up, *down; /* [n_experts, in, out], or MXFP4 blocks [n_experts, out, in/32, 16] */
    const cox_tensor *gate_up_scales, *down_scales; /* MXFP4: [n_experts, out, in/32]; else NULL */
    const cox_tensor *gate_up_bias, *down_bias;     /* [n_experts, out] */
} cox__fused_experts;

/* All experts of a layer in two tensors whose rows are as those of single experts: what transformers writes
 * for COX__EXPERTS_EACH with save_original_format=False. */
typedef struct cox__stacked_experts {
    const cox_tensor *gate_up; /* [n_experts, 2*d_expert, d_model]: of each expert gate, then up */
    const cox_tensor *down;    /* [n_experts, d_model, d_expert] */
} cox__stacked_experts;

typedef struct cox__bound_layer {
    const cox_tensor **own; /* [family->n_layer_tensors], NULL for those that this layer does not have */
    /* One of these three: */
    const cox_tensor **each;      /* [n_experts][3]: gate, up, down (COX__EXPERTS_EACH); else NULL */
    cox__stacked_experts stacked; /* COX__EXPERTS_EACH in two tensors; else NULLs */
    cox__fused_experts fused;     /* COX__EXPERTS_FUSED */
} cox__bound_layer;

typedef struct cox__bound {
    const cox_tensor *embed, *final_norm, *lm_head; /* lm_head is embed when tied */
    const cox__bound_layer *layers;                 /* [n_layers] */
} cox__bound;

/* Fills model->bound, has_tied_embeddings and has_mxfp4. `is_tied`, `is_mxfp4`: what config.json says.
 * Errors: BAD_FILE (naming shard, tensor, wanted and found), NO_MEMORY. */
cox_status cox__model_bind(cox_model *model, bool is_tied, bool is_mxfp4);

#endif
