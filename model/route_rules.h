/*
 * Router logits to routes, by the rule of every family known to us, and with what a plan may demand of the
 * choice. The one place that knows these rules: the coordinator routes by it, steering edits by it.
 */
#ifndef COX_MODEL_ROUTE_RULES_H
#define COX_MODEL_ROUTE_RULES_H

#include <stdint.h>

#include "kernels/kernels.h"
#include "model/model.h"

/* One choice of a row. A row's routes stand in descending score, ties to the lowest expert. */
typedef struct cox_route {
    int32_t expert;
    float logit;  /* router logit */
    float weight; /* gate weight: what combine multiplies the expert's output with */
} cox_route;

enum { COX_MAX_TOP_K = 24 }; /* a row's tag has room for so many (steering/row_tag.h) */

/*
 * What overrides the choice. Scores, and so gate weights, stay those of the logits: only who is chosen
 * changes. An expert is never both excluded and forced; at least top_k experts are not excluded.
 */
typedef struct cox_route_demands {
    const uint8_t
        *excluded;         /* [n_experts] 1: cannot be chosen, nor lend its score to its group; NULL: none */
    const int32_t *forced; /* [n_forced], n_forced <= top_k, distinct: each not chosen by the rule takes the
                              place of the lowest chosen expert that is not forced, in this order */
    int32_t n_forced;
    const int32_t
        *pinned; /* [top_k] the experts, whatever their scores, or NULL; then the above have no effect */
} cox_route_demands;

/* Floats of scratch that cox_routes_choose needs: n_experts for rules without groups, else twice as many. */
int32_t cox_routes_scratch_floats(const cox_router_config *config);

/*
 * logits z: f32 [n_experts]; correction: f32 [n_experts] e_score_correction_bias of the layer
 * (SIGMOID_GROUPS), or NULL; demands: NULL for none; scratch: cox_routes_scratch_floats; [out] routes
 * [top_k]. In f32, as transformers 5.23 defines them: SOFTMAX_TOPK: p = softmax(z) over all experts; the k
 * largest p; weight p, or p / sum of the k if `normalize`. TOPK_SOFTMAX: the k largest z; weight = softmax
 * over those k (GPT-OSS, Granite). SOFTMAX_GROUPS: DeepSeek-V2. p = softmax(z). With n_groups > 1 a group's
 * score is its largest p, and experts outside the topk_groups best groups count as 0 for the choice. weight =
 * p * scaling, p / sum first if `normalize`. SIGMOID_GROUPS: DeepSeek-V3, GLM-4.5. p = sigmoid(z), choice by
 * p + correction. With n_groups > 1 a group's score is the sum of its two best, and experts outside the
 * topk_groups best groups count as -inf. weight = p * scaling, p / (sum + 1e-20) first if `normalize`.
 *   SPARSEMIXER: Phi-3.5. Place by place: c = the largest z left; weight = softmax at c over the z left for
 * which not (c - z) / max(|z|, c) > 2 jitter; then c is taken out. (For an expert that was forced in, c is
 * its own logit.) Ties go to the lowest expert; NaN loses to every number.
 */
void cox_routes_choose(const cox_kernels *kernels, const cox_router_config *config, const float *correction,
                       const float *logits, const cox_route_demands *demands, float *scratch,
                       cox_route *routes);

#endif
