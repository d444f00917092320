/* One loop over the interventions at a place for each of the three ways in which they act; see stack.h. */
#include "steering/stack.h"

#include <math.h>

static void tell(cox_steer_watch watch, int32_t intervention, int32_t expert, float there, float added)
{
    if (watch.seen) watch.seen(watch.context, intervention, expert, there, added);
}

static bool holds(const cox_intervention *v, const cox_row_place *place)
{
    return cox_positions_contain(&v->positions, place->position, place->n_prompt);
}

static bool is_routed_on(const cox_intervention *v, int32_t expert)
{
    return v->weighting == COX_WEIGHTING_ROUTED && v->experts[expert];
}

void cox_stack_apply(const cox_plan *plan, const cox_row_place *place, cox_site site,
                     const cox_kernels *kernels, float *h, float *scratch, cox_steer_watch watch)
{
    int32_t n;
    const int32_t *list = cox_plan_at(plan, place->layer, site, &n);
    for (int32_t i = 0; i < n; i++) {
        const cox_intervention *v = &plan->interventions[list[i]];
        cox_steer_effect effect;
        if (!holds(v, place)) continue;
        cox_intervention_apply(v, kernels, h, scratch, &effect);
        if (effect.was_applied) tell(watch, list[i], -1, effect.norm_there, effect.norm_added);
    }
}

bool cox_stack_has_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert)
{
    int32_t n;
    const int32_t *list = cox_plan_at(plan, place->layer, COX_SITE_EXPERT_OUT, &n);
    for (int32_t i = 0; i < n; i++) {
        const cox_intervention *v = &plan->interventions[list[i]];
        if (is_routed_on(v, expert) && holds(v, place)) return true;
    }
    return false;
}

void cox_stack_apply_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert,
                            const cox_kernels *kernels, float *y, float *scratch,
                            cox_steer_effect effects[COX_PLAN_MAX_STACK])
{
    int32_t n, k = 0;
    const int32_t *list = cox_plan_at(plan, place->layer, COX_SITE_EXPERT_OUT, &n);
    for (int i = 0; i < COX_PLAN_MAX_STACK; i++) effects[i] = (cox_steer_effect){0};
    for (int32_t i = 0; i < n && k < COX_PLAN_MAX_STACK; i++) {
        const cox_intervention *v = &plan->interventions[list[i]];
        if (!is_routed_on(v, expert)) continue;
        if (holds(v, place)) cox_intervention_apply(v, kernels, y, scratch, &effects[k]);
        k++;
    }
}

void cox_stack_tell_routed(const cox_plan *plan, const cox_row_place *place, int32_t expert,
                           const cox_steer_effect effects[COX_PLAN_MAX_STACK], cox_steer_watch watch)
{
    int32_t n, k = 0;
    const int32_t *list = cox_plan_at(plan, place->layer, COX_SITE_EXPERT_OUT, &n);
    for (int32_t i = 0; i < n && k < COX_PLAN_MAX_STACK; i++) {
        const cox_intervention *v = &plan->interventions[list[i]];
        if (!is_routed_on(v, expert)) continue;
        const cox_steer_effect *effect = &effects[k++];
        if (holds(v, place) && effect->was_applied)
            tell(watch, list[i], expert, effect->norm_there, effect->norm_added);
    }
}

void cox_stack_add_terms(const cox_plan *plan, const cox_row_place *place, int32_t from, int32_t to,
                         bool is_routed, const float *probabilities, const cox_kernels *kernels, float *sum,
                         cox_steer_watch watch)
{
    int32_t n;
    const int32_t *list = cox_plan_at(plan, place->layer, COX_SITE_EXPERT_OUT, &n);
    for (int32_t e = from; e < to; e++) {
        for (int32_t i = 0; i < n; i++) {
            const cox_intervention *v = &plan->interventions[list[i]];
            if (v->weighting == COX_WEIGHTING_ROUTED || !v->experts[e] || !holds(v, place)) continue;
            if (v->weighting == COX_WEIGHTING_POST_GATE && !is_routed) continue;
            float factor = v->strength;
            if (v->weighting == COX_WEIGHTING_SOFT) factor *= probabilities[e];
            float there = watch.seen ? sqrtf(cox_dot(kernels, sum, sum, plan->d_model)) : 0;
            cox_axpy(kernels, sum, factor, v->vector, plan->d_model);
            tell(watch, list[i], e, there, fabsf(factor) * v->vector_norm);
        }
    }
}
