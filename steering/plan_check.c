/*
 * What only the whole plan can tell: how much is stacked on one expert (whatever the positions: each has its
 * place in the reply's tag), whether the router's edits of one layer can be carried out together, and whether
 * they leave an expert's intervention any row. Two edits count together when their positions can meet; a
 * condition counts as met.
 */
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

static bool ranges_meet(const cox_positions *a, const cox_positions *b)
{
    return a->from < b->to && b->from < a->to;
}

static bool is_of_prompt(cox_span span)
{
    return span == COX_SPAN_PROMPT || span == COX_SPAN_LAST;
}

/* Some sequence has a position in both. */
static bool can_meet(const cox_positions *a, const cox_positions *b)
{
    if (a->span == COX_SPAN_RANGE && b->span == COX_SPAN_RANGE) return ranges_meet(a, b);
    if (a->span == COX_SPAN_GENERATED) return !is_of_prompt(b->span);
    if (b->span == COX_SPAN_GENERATED) return !is_of_prompt(a->span);
    return true;
}

static cox_status check_stack(const cox_plan *plan, const char *where)
{
    size_t n_places = (size_t)plan->n_layers * (size_t)plan->n_experts;
    uint16_t *counts = calloc(n_places ? n_places : 1, sizeof *counts);
    if (!counts) return cox_fail(COX_NO_MEMORY, "%s: out of memory", where);
    cox_status status = COX_OK;
    for (int32_t i = 0; i < plan->n && status == COX_OK; i++) {
        const cox_intervention *v = &plan->interventions[i];
        if (v->site != COX_SITE_EXPERT_OUT || v->weighting != COX_WEIGHTING_ROUTED || v->strength == 0)
            continue;
        for (size_t p = 0; p < n_places && status == COX_OK; p++) {
            size_t layer = p / (size_t)plan->n_experts, expert = p % (size_t)plan->n_experts;
            if (!v->layers[layer] || !v->experts[expert]) continue;
            if (++counts[p] > COX_PLAN_MAX_STACK) {
                status = cox_fail(COX_INVALID,
                                  "%s: intervention %d: more than %d routed interventions are stacked on "
                                  "expert %zu of layer %zu",
                                  where, (int)i, COX_PLAN_MAX_STACK, expert, layer);
            }
        }
    }
    free(counts);
    return status;
}

/* The router's edits of one layer that can meet intervention i there. flags: [n_experts]. */
static cox_status check_edits(const cox_plan *plan, const cox_model *model, const char *where, int32_t layer,
                              int32_t i, const int32_t *list, int32_t n, uint8_t *flags)
{
    enum { IN = 1, OUT = 2 };
    const cox_intervention *first = &plan->interventions[i];
    int32_t n_in = 0, n_out = 0, n_experts = plan->n_experts;
    memset(flags, 0, (size_t)n_experts);
    for (int32_t j = 0; j < n; j++) {
        const cox_intervention *v = &plan->interventions[list[j]];
        if (!can_meet(&first->positions, &v->positions)) continue;
        if (first->op == COX_OP_PIN && list[j] != i && v->op != COX_OP_BIAS) {
            return cox_fail(
                COX_INVALID,
                "%s: intervention %d pins the routes of layer %d, and intervention %d changes them", where,
                (int)i, (int)layer, (int)list[j]);
        }
        if (v->op != COX_OP_FORCE_IN && v->op != COX_OP_FORCE_OUT) continue;
        for (int32_t e = 0; e < n_experts; e++) {
            if (v->experts[e]) flags[e] |= v->op == COX_OP_FORCE_IN ? IN : OUT;
        }
    }
    for (int32_t e = 0; e < n_experts; e++) {
        n_in += flags[e] & IN;
        n_out += (flags[e] & OUT) != 0;
        if (flags[e] == (IN | OUT)) {
            return cox_fail(COX_INVALID, "%s: expert %d of layer %d is both forced in and forced out", where,
                            (int)e, (int)layer);
        }
    }
    if (n_in > model->router.top_k) {
        return cox_fail(COX_INVALID, "%s: %d experts are forced in at layer %d, but a row has only %d", where,
                        (int)n_in, (int)layer, (int)model->router.top_k);
    }
    if (n_experts - n_out < model->router.top_k) {
        return cox_fail(COX_INVALID, "%s: %d of %d experts are forced out at layer %d, and a row needs %d",
                        where, (int)n_out, (int)n_experts, (int)layer, (int)model->router.top_k);
    }
    return COX_OK;
}

static cox_status check_router(const cox_plan *plan, const cox_model *model, const char *where)
{
    int32_t *list = calloc((size_t)plan->n + 1, sizeof *list);
    uint8_t *flags = calloc((size_t)plan->n_experts + 1, 1);
    cox_status status = list && flags ? COX_OK : cox_fail(COX_NO_MEMORY, "%s: out of memory", where);
    for (int32_t l = 0; l < plan->n_layers && status == COX_OK; l++) {
        int32_t n = 0;
        for (int32_t i = 0; i < plan->n; i++) {
            const cox_intervention *v = &plan->interventions[i];
            if (v->site == COX_SITE_ROUTER_LOGITS && v->layers[l] && v->strength != 0 && v->op != COX_OP_BIAS)
                list[n++] = i;
        }
        if (n > COX__MAX_ROUTER_EDITS) {
            status = cox_fail(COX_INVALID, "%s: %d force_in, force_out and pin at layer %d; at most %d",
                              where, (int)n, (int)l, COX__MAX_ROUTER_EDITS);
        }
        for (int32_t j = 0; j < n && status == COX_OK; j++) {
            status = check_edits(plan, model, where, l, list[j], list, n, flags);
        }
    }
    free(flags);
    free(list);
    return status;
}

/* Whether every position of b is one of a, in every sequence. */
static bool covers(const cox_positions *a, const cox_positions *b)
{
    if (a->span == COX_SPAN_ALL) return true;
    if (a->span == COX_SPAN_PROMPT) return is_of_prompt(b->span);
    if (a->span != b->span) return false;
    if (a->span == COX_SPAN_LAST) return a->from >= b->from;
    return a->span == COX_SPAN_GENERATED || (a->from <= b->from && b->to <= a->to);
}

/* The intervention that keeps every row of v away from an expert, or -1. */
static int32_t find_closing(const cox_plan *plan, const cox_intervention *v, int32_t layer, int32_t expert)
{
    for (int32_t j = 0; j < plan->n; j++) {
        const cox_intervention *w = &plan->interventions[j];
        if (w->op == COX_OP_FORCE_OUT && w->strength != 0 && !w->when && w->layers[layer] &&
            w->experts[expert] && covers(&w->positions, &v->positions))
            return j;
    }
    return -1;
}

/* routed and post_gate act on rows that chose the expert; there must be an expert that can be chosen. */
static cox_status check_reach(const cox_plan *plan, const char *where)
{
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        int32_t closing = -1;
        bool is_reached = v->site != COX_SITE_EXPERT_OUT || v->strength == 0 ||
                          (v->weighting != COX_WEIGHTING_ROUTED && v->weighting != COX_WEIGHTING_POST_GATE);
        for (int32_t l = 0; l < plan->n_layers && !is_reached; l++) {
            for (int32_t e = 0; v->layers[l] && e < plan->n_experts && !is_reached; e++) {
                if (!v->experts[e]) continue;
                closing = find_closing(plan, v, l, e);
                is_reached = closing < 0;
            }
        }
        if (!is_reached) {
            return cox_fail(
                COX_INVALID,
                "%s: intervention %d: no row can reach it: force_out of intervention %d keeps every row "
                "from its experts",
                where, (int)i, (int)closing);
        }
    }
    return COX_OK;
}

cox_status cox__plan_check(const cox_plan *plan, const cox_model *model, const char *where)
{
    cox_status status = check_stack(plan, where);
    if (status == COX_OK) status = check_router(plan, model, where);
    return status == COX_OK ? check_reach(plan, where) : status;
}
