/* Interventions at router_logits: gathers what they demand, then lets the family's rule choose. */
#include "steering/route_edit.h"

#include <math.h>
#include <string.h>

#include "steering/internal.h"

/* The parts of the scratch, in this order. */
typedef struct parts {
    float *scores;
    int32_t *forced;   /* [COX_MAX_TOP_K] */
    uint8_t *excluded; /* [n_experts] */
} parts;

size_t cox_route_edit_scratch_bytes(const cox_router_config *config)
{
    return (size_t)cox_routes_scratch_floats(config) * sizeof(float) + COX_MAX_TOP_K * sizeof(int32_t) +
           (size_t)config->n_experts;
}

static parts parts_of(const cox_router_config *config, void *scratch)
{
    parts p = {.scores = scratch};
    p.forced = (int32_t *)(p.scores + cox_routes_scratch_floats(config));
    p.excluded = (uint8_t *)(p.forced + COX_MAX_TOP_K);
    memset(p.excluded, 0, (size_t)config->n_experts);
    return p;
}

static void add_bias(const cox_intervention *v, int32_t n_experts, float *logits, cox_steer_effect *effect)
{
    const float bias = v->strength * v->value;
    int32_t n = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        if (!v->experts[e]) continue;
        logits[e] += bias;
        n++;
    }
    effect->norm_added = fabsf(bias) * sqrtf((float)n);
}

/* The plan's check has seen to it that no expert is both, and that there are not too many (plan_check.c). */
static void demand(const cox_intervention *v, const cox_router_config *config, parts *p, int32_t *n_forced)
{
    for (int32_t e = 0; e < config->n_experts; e++) {
        if (!v->experts[e]) continue;
        if (v->op == COX_OP_FORCE_OUT) {
            p->excluded[e] = 1;
            continue;
        }
        bool is_there = false;
        for (int32_t i = 0; i < *n_forced; i++) is_there |= p->forced[i] == e;
        if (!is_there && *n_forced < config->top_k) p->forced[(*n_forced)++] = e;
    }
}

void cox_route_edit_apply(const cox_kernels *kernels, const cox_router_config *config,
                          const float *correction, const cox_plan *plan, const int32_t *list, int32_t n,
                          const cox_row_place *place, float *logits, void *scratch, cox_route *routes,
                          cox_steer_effect *effects)
{
    parts p = parts_of(config, scratch);
    cox_route_demands demands = {.excluded = p.excluded, .forced = p.forced};
    for (int32_t i = 0; i < n; i++) {
        const cox_intervention *v = &plan->interventions[list[i]];
        effects[i] = (cox_steer_effect){0};
        if (!cox_positions_contain(&v->positions, place->position, place->n_prompt)) continue;
        const float there = sqrtf(cox_dot(kernels, logits, logits, config->n_experts));
        if (!cox_intervention_is_met(v, kernels, logits, there)) continue;
        const int32_t *pinned = NULL;
        if (v->op == COX_OP_PIN) {
            pinned = cox_pinned_routes_find(v->pinned, place->layer, place->position);
            if (!pinned) continue;
            demands.pinned = pinned;
        } else if (v->op == COX_OP_BIAS) {
            effects[i].norm_there = there;
            add_bias(v, config->n_experts, logits, &effects[i]);
        } else {
            demand(v, config, &p, &demands.n_forced);
        }
        effects[i].was_applied = true;
    }
    cox_routes_choose(kernels, config, correction, logits, &demands, p.scores, routes);
}
