/*
 * A plan's interventions on one row, stacked in the plan's order: at a site, at one expert's output, and as
 * terms of the combine. Every place that steers a row calls these: the coordinator's layers, the expert
 * hosts, and the layer that a sweep puts together from stored outputs; so they cannot differ in a bit.
 */
#ifndef COX_STEERING_STACK_H
#define COX_STEERING_STACK_H

#include "steering/plan.h"
#include "steering/route_edit.h"

/* Called for each intervention that was applied. intervention: its index in the plan; expert: -1 where the
 * site is no expert's. */
typedef void cox_steer_seen(void *context, int32_t intervention, int32_t expert, float norm_there,
                            float norm_added);

/* Who wants to know; seen may be NULL. */
typedef struct cox_steer_watch {
    cox_steer_seen *seen;
    void *context;
} cox_steer_watch;

/* h [d_model] at a site of that width other than expert_out. scratch: [d_model]. */
void cox_stack_apply(const cox_plan *plan, const cox_row_place *place, cox_site site,
                     const cox_kernels *kernels, float *h, float *scratch, cox_steer_watch watch);

/* Has the plan a `routed` intervention on this expert's output whose positions hold the row? */
bool cox_stack_has_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert);

/* y_e [d_model], the output of a routed expert before its gate weight. [out] effects: the k-th is that of the
 * k-th routed intervention on this expert, in the plan's order, whether or not its positions hold the row. */
void cox_stack_apply_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert,
                            const cox_kernels *kernels, float *y, float *scratch,
                            cox_steer_effect effects[COX_PLAN_MAX_STACK]);

/* Tells what `effects` say, as cox_stack_apply_routed gave them. */
void cox_stack_tell_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert,
                           const cox_steer_effect effects[COX_PLAN_MAX_STACK], cox_steer_watch watch);

/*
 * The terms of the combine at the places of experts from <= e < to: `unweighted` and `soft` on every row, and
 * `post_gate` where is_routed. probabilities: f32 [n_experts], the softmax of the unsteered router logits;
 * read for `soft` only. [in, out] sum: [d_model].
 */
void cox_stack_add_terms(const cox_plan *plan, const cox_row_place *place, int32_t from, int32_t to,
                         bool is_routed, const float *probabilities, const cox_kernels *kernels, float *sum,
                         cox_steer_watch watch);

#endif
