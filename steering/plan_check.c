/*
 * What only the whole plan can tell: how much is stacked on one expert (whatever the positions: each has its
 * place in the reply's tag), and whether the router's edits of one layer can be carried out together; whether
 * they leave an expert's intervention any row is plan_reach.c's. Two edits count together when their
 * positions can meet; a condition counts as met.
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
    if (!counts) return cox_no_memory(where);
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

/* What the edits that can meet do to each expert. */
typedef struct edits_sum {
    int32_t n_experts, n_in, n_out;
    int32_t last_in, last_out; /* the last intervention that adds to n_in and n_out */
    int32_t *in, *out;         /* [n_experts] the first that forces the expert in, out; -1 */
} edits_sum;

static void add_edit(edits_sum *sum, const cox_intervention *v, int32_t index)
{
    bool is_in = v->op == COX_OP_FORCE_IN;
    int32_t *by = is_in ? sum->in : sum->out, *n = is_in ? &sum->n_in : &sum->n_out;
    for (int32_t e = 0; e < sum->n_experts; e++) {
        if (!v->experts[e] || by[e] >= 0) continue;
        by[e] = index;
        ++*n;
        *(is_in ? &sum->last_in : &sum->last_out) = index;
    }
}

static cox_status check_sum(const edits_sum *sum, int32_t top_k, int32_t layer, const char *where)
{
    for (int32_t e = 0; e < sum->n_experts; e++) {
        if (sum->in[e] < 0 || sum->out[e] < 0) continue;
        bool is_in_last = sum->in[e] > sum->out[e];
        return cox_fail(
            COX_INVALID,
            "%s: intervention %d: with intervention %d, expert %d of layer %d is both forced in and "
            "forced out",
            where, (int)(is_in_last ? sum->in[e] : sum->out[e]), (int)(is_in_last ? sum->out[e] : sum->in[e]),
            (int)e, (int)layer);
    }
    if (sum->n_in > top_k) {
        return cox_fail(COX_INVALID,
                        "%s: intervention %d: %d experts are forced in at layer %d, but a row has only %d",
                        where, (int)sum->last_in, (int)sum->n_in, (int)layer, (int)top_k);
    }
    if (sum->n_experts - sum->n_out < top_k) {
        return cox_fail(
            COX_INVALID,
            "%s: intervention %d: %d of %d experts are forced out at layer %d, and a row needs %d", where,
            (int)sum->last_out, (int)sum->n_out, (int)sum->n_experts, (int)layer, (int)top_k);
    }
    return COX_OK;
}

/* The router's edits of one layer that can meet intervention i there. by: [2 * n_experts] scratch. */
static cox_status check_edits(const cox_plan *plan, const cox_model *model, const char *where, int32_t layer,
                              int32_t i, const int32_t *list, int32_t n, int32_t *by)
{
    const cox_intervention *first = &plan->interventions[i];
    edits_sum sum = {.n_experts = plan->n_experts, .in = by, .out = by + plan->n_experts};
    memset(by, -1, 2 * (size_t)plan->n_experts * sizeof *by);
    for (int32_t j = 0; j < n; j++) {
        const cox_intervention *v = &plan->interventions[list[j]];
        if (!can_meet(&first->positions, &v->positions)) continue;
        if (first->op == COX_OP_PIN && list[j] != i && v->op != COX_OP_BIAS) {
            return cox_fail(
                COX_INVALID,
                "%s: intervention %d pins the routes of layer %d, and intervention %d changes them", where,
                (int)i, (int)layer, (int)list[j]);
        }
        if (v->op == COX_OP_FORCE_IN || v->op == COX_OP_FORCE_OUT) add_edit(&sum, v, list[j]);
    }
    return check_sum(&sum, model->router.top_k, layer, where);
}

static cox_status check_router(const cox_plan *plan, const cox_model *model, const char *where)
{
    int32_t *list = calloc((size_t)plan->n + 1, sizeof *list);
    int32_t *by = calloc(2 * (size_t)plan->n_experts + 1, sizeof *by);
    cox_status status = list && by ? COX_OK : cox_no_memory(where);
    for (int32_t l = 0; l < plan->n_layers && status == COX_OK; l++) {
        int32_t n = 0;
        for (int32_t i = 0; i < plan->n; i++) {
            const cox_intervention *v = &plan->interventions[i];
            if (v->site == COX_SITE_ROUTER_LOGITS && v->layers[l] && v->strength != 0 && v->op != COX_OP_BIAS)
                list[n++] = i;
        }
        if (n > COX__MAX_ROUTER_EDITS) {
            status = cox_fail(COX_INVALID,
                              "%s: intervention %d: %d force_in, force_out and pin at layer %d; at most %d",
                              where, (int)list[n - 1], (int)n, (int)l, COX__MAX_ROUTER_EDITS);
        }
        for (int32_t j = 0; j < n && status == COX_OK; j++) {
            status = check_edits(plan, model, where, l, list[j], list, n, by);
        }
    }
    free(by);
    free(list);
    return status;
}

cox_status cox__plan_check(const cox_plan *plan, const cox_model *model, const char *where)
{
    cox_status status = check_stack(plan, where);
    if (status == COX_OK) status = check_router(plan, model, where);
    return status == COX_OK ? cox__plan_check_reach(plan, model, where) : status;
}
