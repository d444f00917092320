/*
 * What the clean run of some prompts had in one layer with experts, row by row: the residual stream before
 * the experts, what the routed ones gave, with which gate weights, and the residual stream behind the layer.
 * From it the row behind the layer under a plan that acts at the experts' outputs, or behind them, of this
 * layer only is put together in a few vector operations, with the bits of the forward pass, and nothing
 * below the layer above is computed for it.
 */
#ifndef COX_COORDINATOR_CLEAN_LAYER_H
#define COX_COORDINATOR_CLEAN_LAYER_H

#include "coordinator/engine.h"

typedef struct cox_clean_layer {
    const cox_model *model;
    const cox_kernels *kernels;
    int32_t layer;               /* -1: none yet */
    size_t n_rows;               /* of all prompts */
    float *before, *after;       /* [n_rows, d_model] resid_mid; resid_post */
    float *outputs;              /* [n_rows, top_k, d_model] before their gate weights; by ascending expert */
    int16_t *experts;            /* [n_rows, top_k] ascending; -1: not known yet */
    float *weights;              /* [n_rows, top_k] */
    float *probabilities;        /* [n_rows, n_experts] softmax of the router's logits */
    float *scratch;              /* [n_threads, 2 + top_k, d_model] */
    uint8_t *sites;              /* [n_layers] of the observation */
    cox_observation observation; /* what a request must show of the layer; it wants routes as well */
} cox_clean_layer;

/* Bytes that create takes. */
enum { COX_CLEAN_LAYER_MOST_BYTES = 256 << 20 }; /* a sweep of more rows goes without */
size_t cox_clean_layer_bytes(const cox_model *model, size_t n_rows);
/* Model and kernels are borrowed. Errors: NO_MEMORY. */
cox_status cox_clean_layer_create(cox_clean_layer *c, const cox_model *model, const cox_kernels *kernels,
                                  size_t n_rows);
void cox_clean_layer_free(cox_clean_layer *c); /* zeroed is allowed */

/* Makes the observation that of a layer with experts; all its rows are to be shown before they are used. */
void cox_clean_layer_begin(cox_clean_layer *c, int32_t layer);
/* An engine's on_rows and on_routes for row `row`. */
void cox_clean_layer_put_row(cox_clean_layer *c, size_t row, cox_site site, int32_t expert, const float *h);
void cox_clean_layer_put_routes(cox_clean_layer *c, size_t row, const cox_traced_route *routes);

/* Can the rows behind the plan's layer be put together? False for NULL. [out] *layer: where it acts. */
bool cox_clean_layer_serves(const cox_plan *plan, const cox_model *model, int32_t *layer);
/* [out] x [d_model]: row `row`, at `position` of a prompt of n_prompt tokens, behind the layer under the
 * plan, which acts in this layer. Any number of threads at once. */
void cox_clean_layer_steer(const cox_clean_layer *c, size_t row, const cox_plan *plan, int32_t position,
                           int32_t n_prompt, float *x);

#endif
