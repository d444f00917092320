/*
 * A plan's interventions at router_logits carried out on one row, before and at top-k: the logits are biased,
 * then the family's rule (model/route_rules.h) chooses under the plan's demands. Pure; no allocation.
 */
#ifndef COX_STEERING_ROUTE_EDIT_H
#define COX_STEERING_ROUTE_EDIT_H

#include "model/route_rules.h"
#include "steering/plan.h"

/* Where the row stands. */
typedef struct cox_row_place {
    int32_t layer, position, n_prompt;
} cox_row_place;

/* Bytes of scratch that cox_route_edit_apply needs, 4-byte aligned. */
size_t cox_route_edit_scratch_bytes(const cox_router_config *config);

/*
 * list [n]: what cox_plan_at(plan, place->layer, COX_SITE_ROUTER_LOGITS) gives. In plan order each
 * intervention whose positions hold the row, and whose condition the logits as they then are meet, takes
 * effect: bias: logits[e] += s * value for its experts; scores and gate weights follow from the biased
 * logits. force_out, force_in, pin: demands on the choice (cox_route_demands); forced experts in order of the
 * plan, then of index. A pin whose record does not reach the position has no effect. [in, out] logits f32
 * [n_experts]; correction as for cox_routes_choose; [out] routes [top_k]; [out] effects [n]: was_applied;
 * norm_there |z| and norm_added |z' - z| of a bias, 0 of the others.
 */
void cox_route_edit_apply(const cox_kernels *kernels, const cox_router_config *config,
                          const float *correction, const cox_plan *plan, const int32_t *list, int32_t n,
                          const cox_row_place *place, float *logits, void *scratch, cox_route *routes,
                          cox_steer_effect *effects);

#endif
