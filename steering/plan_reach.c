/*
 * Whether the router's edits leave an expert's intervention any row. routed and post_gate act on rows that
 * chose the expert; where force_out, or force_in of top_k others, holds whatever the row, none can.
 *
 * A row's place is its position and how far before the prompt's end it is (0: behind it). Spans only change
 * their mind at the ends of ranges and at the k of the last k, so the first place of each piece between those
 * stands for the piece: all of them are tried, and no sum of spans needs a case of its own. A condition may
 * fail, so an edit with one closes nothing; pins are left alone. The work of one plan is bounded: thousands
 * of interventions among hundreds of edits could take longer than other ranks wait for a sign of life, so
 * what is left then counts as reached.
 */
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

enum { MAX_WORK = 1 << 27 }; /* edits looked at; tenths of a second */

/* The edits of one layer that always hold, and the pieces that they cut the places of a sequence into. */
typedef struct closing {
    const cox_plan *plan;
    int32_t top_k, max_positions;
    int32_t edits[COX__MAX_ROUTER_EDITS], n_edits;
    int32_t positions[2 * COX__MAX_ROUTER_EDITS + 4], n_positions;
    int32_t distances[COX__MAX_ROUTER_EDITS + 3], n_distances;
    uint8_t *is_in;      /* [n_experts] scratch */
    int32_t first, last; /* of the interventions that have closed something; -1 */
    int64_t work;        /* so far, for MAX_WORK */
} closing;

static void add_once(int32_t *list, int32_t *n, int32_t value)
{
    for (int32_t i = 0; i < *n; i++) {
        if (list[i] == value) return;
    }
    list[(*n)++] = value;
}

static void cut(closing *c, const cox_positions *positions)
{
    if (positions->span == COX_SPAN_RANGE) {
        add_once(c->positions, &c->n_positions, positions->from);
        add_once(c->positions, &c->n_positions, positions->to);
    }
    if (positions->span == COX_SPAN_LAST && positions->from < c->max_positions)
        add_once(c->distances, &c->n_distances, positions->from + 1);
}

/* For intervention v in a layer. The plan's router has been checked: the edits fit. */
static void gather(closing *c, const cox_intervention *v, int32_t layer)
{
    c->n_edits = c->n_positions = c->n_distances = 0;
    for (int32_t j = 0; j < c->plan->n; j++) {
        const cox_intervention *w = &c->plan->interventions[j];
        if ((w->op != COX_OP_FORCE_OUT && w->op != COX_OP_FORCE_IN) || w->strength == 0 || w->when ||
            !w->layers[layer])
            continue;
        c->edits[c->n_edits++] = j;
        cut(c, &w->positions);
    }
    cut(c, &v->positions);
    add_once(c->positions, &c->n_positions, 0);
    add_once(c->positions, &c->n_positions, 1); /* a prompt has a token, so position 0 is always of it */
    add_once(c->distances, &c->n_distances, 0);
    add_once(c->distances, &c->n_distances, 1);
    c->work += c->plan->n + (int64_t)c->n_edits * (c->n_positions + c->n_distances);
}

static void note(closing *c, int32_t index)
{
    if (c->first < 0 || index < c->first) c->first = index;
    if (index > c->last) c->last = index;
}

static bool is_closed_at(closing *c, int32_t expert, int32_t position, int32_t n_prompt)
{
    int32_t n_in = 0;
    memset(c->is_in, 0, (size_t)c->plan->n_experts);
    c->work += c->n_edits + c->plan->n_experts;
    for (int32_t k = 0; k < c->n_edits; k++) {
        const cox_intervention *w = &c->plan->interventions[c->edits[k]];
        if (!cox_positions_contain(&w->positions, position, n_prompt)) continue;
        if (w->op == COX_OP_FORCE_OUT && w->experts[expert]) {
            note(c, c->edits[k]);
            return true;
        }
        if (w->op == COX_OP_FORCE_IN) c->work += c->plan->n_experts;
        for (int32_t e = 0; w->op == COX_OP_FORCE_IN && e < c->plan->n_experts; e++) {
            n_in += w->experts[e] && !c->is_in[e];
            c->is_in[e] |= w->experts[e];
        }
    }
    if (n_in < c->top_k || c->is_in[expert]) return false;
    for (int32_t k = 0; k < c->n_edits; k++) {
        const cox_intervention *w = &c->plan->interventions[c->edits[k]];
        if (w->op == COX_OP_FORCE_IN && cox_positions_contain(&w->positions, position, n_prompt))
            note(c, c->edits[k]);
    }
    return true;
}

/* Whether no place of v, in any sequence that the model can hold, can choose the expert. */
static bool is_closed(closing *c, const cox_intervention *v, int32_t expert)
{
    if (c->n_edits == 0) return false;
    for (int32_t i = 0; i < c->n_positions; i++) {
        for (int32_t k = 0; k < c->n_distances; k++) {
            if (++c->work > MAX_WORK) return false;
            int64_t position = c->positions[i], n_prompt = position + c->distances[k];
            if (position >= c->max_positions || n_prompt < 1 || n_prompt > c->max_positions) continue;
            if (cox_positions_contain(&v->positions, (int32_t)position, (int32_t)n_prompt) &&
                !is_closed_at(c, expert, (int32_t)position, (int32_t)n_prompt))
                return false;
        }
    }
    return true;
}

static bool is_reached(closing *c, const cox_intervention *v)
{
    if (v->site != COX_SITE_EXPERT_OUT || v->strength == 0) return true;
    if (v->weighting != COX_WEIGHTING_ROUTED && v->weighting != COX_WEIGHTING_POST_GATE) return true;
    c->first = c->last = -1;
    for (int32_t l = 0; l < c->plan->n_layers; l++) {
        if (!v->layers[l]) continue;
        if (c->work > MAX_WORK) return true;
        gather(c, v, l);
        for (int32_t e = 0; e < c->plan->n_experts; e++) {
            if (v->experts[e] && !is_closed(c, v, e)) return true;
        }
    }
    return false;
}

static cox_status fail_closed(const closing *c, int32_t i, const char *where)
{
    if (c->first == c->last) {
        return cox_fail(
            COX_INVALID,
            "%s: intervention %d: no row can reach it: %s of intervention %d keeps every row from "
            "its experts",
            where, (int)i, cox_op_name(c->plan->interventions[c->last].op), (int)c->last);
    }
    return cox_fail(COX_INVALID,
                    "%s: intervention %d: no row can reach it: force_out and force_in of interventions %d to "
                    "%d together keep every row from its experts",
                    where, (int)i, (int)c->first, (int)c->last);
}

cox_status cox__plan_check_reach(const cox_plan *plan, const cox_model *model, const char *where)
{
    closing c = {.plan = plan,
                 .top_k = model->router.top_k,
                 .max_positions = model->max_positions,
                 .is_in = calloc((size_t)plan->n_experts + 1, 1)};
    if (!c.is_in) return cox_no_memory(where);
    cox_status status = COX_OK;
    for (int32_t i = 0; i < plan->n && status == COX_OK; i++) {
        if (!is_reached(&c, &plan->interventions[i])) status = fail_closed(&c, i, where);
    }
    free(c.is_in);
    return status;
}
