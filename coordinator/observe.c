/*
 * Rows on show: what flows on from a site, for those who asked to see it (cox_observation). A batch in which
 * nobody did costs one look at a flag per site. Rows of one slot are shown one after the other, by the
 * caller's thread; a row that is computed again, because its KV was given up, has been shown before.
 *
 * What experts would give that a row was not routed to comes through the ordinary exchange: copies of the
 * row, each with up to top_k of the experts asked for, untagged, so that their hosts steer nothing. A copy's
 * arithmetic is that of the row itself, so a routed expert gives the same bits again.
 */
#include <string.h>

#include "coordinator/internal.h"

/* What a row of the batch has to show at a site of a layer; NULL: nothing. */
static const cox_observation *wanted_at(const cox_engine *engine, cox_site site, int32_t layer, int32_t row)
{
    const cox__sequence *s = engine->batch.sequences[row];
    const cox_observation *wanted = s->request.observation;
    int32_t position = engine->batch.positions[row];
    if (!wanted || !(wanted->sites[layer] & 1u << site) || position < s->n_counted) return NULL;
    return cox_positions_contain(&wanted->positions, position, s->request.n_prompt) ? wanted : NULL;
}

static bool wants_expert(const cox_engine *engine, const cox_observation *wanted, int32_t layer,
                         int32_t expert)
{
    return !wanted->experts ||
           wanted->experts[(size_t)layer * (size_t)engine->model->router.n_experts + (size_t)expert];
}

static void show(cox_engine *engine, cox_site site, int32_t layer, int32_t expert, int32_t row,
                 const float *h)
{
    engine->events.on_rows(engine->events.context, engine->batch.sequences[row]->request.id, site, layer,
                           expert, engine->batch.positions[row], h);
}

void cox__observe(cox_engine *engine, cox_site site, int32_t layer, const cox__slot *slot, const float *rows,
                  size_t stride)
{
    if (!engine->batch.has_observations) return;
    for (int32_t row = slot->first; row < slot->end; row++) {
        if (wanted_at(engine, site, layer, row))
            show(engine, site, layer, -1, row, rows + (size_t)(row - slot->first) * stride);
    }
}

void cox__observe_routed(cox_engine *engine, int32_t layer, const cox__slot *slot, const float *replies)
{
    int32_t top_k = engine->model->router.top_k;
    if (!engine->batch.has_observations) return;
    for (int32_t row = slot->first; row < slot->end; row++) {
        const cox_observation *wanted = wanted_at(engine, COX_SITE_EXPERT_OUT, layer, row);
        if (!wanted || wanted->is_counterfactual) continue;
        const cox_expert_id *experts = slot->experts + (size_t)(row - slot->first) * (size_t)top_k;
        const int32_t *replied = slot->plan->reply_index + (size_t)(row - slot->first) * (size_t)top_k;
        for (int32_t n = 0, last = -1; n < top_k; n++) {
            int32_t next = -1; /* the choice with the lowest expert above the last one */
            for (int32_t j = 0; j < top_k; j++) {
                if (experts[j].value > last && (next < 0 || experts[j].value < experts[next].value)) next = j;
            }
            last = experts[next].value;
            if (wants_expert(engine, wanted, layer, last))
                show(engine, COX_SITE_EXPERT_OUT, layer, last, row,
                     replies + (size_t)replied[next] * engine->row_width);
        }
    }
}

/* --- Outputs of experts that the row may not have been routed to --- */

cox_status cox__probe_take(cox_engine *engine)
{
    cox__probe probe;
    size_t n = (size_t)engine->slot_rows;
    if (engine->probe.rows) return COX_OK;
    probe.rows = cox_arena_array(engine->arena, n, sizeof *probe.rows);
    probe.copies = cox_arena_array(engine->arena, n * engine->row_width, sizeof *probe.copies);
    probe.experts =
        cox_arena_array(engine->arena, n * (size_t)engine->model->router.top_k, sizeof *probe.experts);
    if (!probe.rows || !probe.copies || !probe.experts) return COX_NO_MEMORY;
    engine->probe = probe;
    return COX_OK;
}

/* Exchanges the n copies that have been made and shows what came back. */
static cox_status exchange_copies(cox_engine *engine, int32_t layer, int32_t s, int32_t n)
{
    const cox__probe *probe = &engine->probe;
    cox_dispatch_plan *plan = engine->slots[s].plan;
    const float *replies = NULL;
    cox_dispatch_plan_build(plan, engine->placement, layer, probe->experts, n);
    cox_status status = cox_exchange_dispatch_begin(engine->exchange, s, layer, plan, probe->copies);
    if (status == COX_OK) status = cox_exchange_dispatch_end(engine->exchange, s);
    if (status == COX_OK) status = cox_exchange_combine_begin(engine->exchange, s);
    if (status == COX_OK) status = cox_exchange_combine_end(engine->exchange, s, &replies);
    if (status != COX_OK) return status;
    for (int32_t route = 0; route < n * plan->top_k; route++) {
        if (probe->experts[route].value < 0) continue;
        show(engine, COX_SITE_EXPERT_OUT, layer, probe->experts[route].value,
             probe->rows[route / plan->top_k],
             replies + (size_t)plan->reply_index[route] * engine->row_width);
    }
    return COX_OK;
}

/* Makes copy `at` of a row of the slot, for the next experts from *next on; false: it needs none any more. */
static bool copy_row(cox_engine *engine, const cox_observation *wanted, int32_t layer, const cox__slot *slot,
                     int32_t row, int32_t at, int32_t *next)
{
    int32_t top_k = engine->model->router.top_k, n = 0;
    size_t d_model = (size_t)engine->model->d_model;
    cox_expert_id *experts = engine->probe.experts + (size_t)at * (size_t)top_k;
    for (; *next < engine->model->router.n_experts && n < top_k; (*next)++) {
        if (wants_expert(engine, wanted, layer, *next)) experts[n++].value = *next;
    }
    if (n == 0) return false;
    while (n < top_k) experts[n++].value = -1;
    float *copy = engine->probe.copies + (size_t)at * engine->row_width;
    memcpy(copy, engine->normed + (size_t)(row - slot->first) * engine->row_width, d_model * sizeof *copy);
    memset(copy + d_model, 0, (engine->row_width - d_model) * sizeof *copy);
    engine->probe.rows[at] = row;
    return true;
}

cox_status cox__observe_counterfactual(cox_engine *engine, int32_t layer, int32_t s)
{
    const cox__slot *slot = &engine->slots[s];
    int32_t n = 0;
    cox_status status = COX_OK;
    if (!engine->batch.has_observations) return COX_OK;
    for (int32_t row = slot->first; row < slot->end; row++) {
        const cox_observation *wanted = wanted_at(engine, COX_SITE_EXPERT_OUT, layer, row);
        if (!wanted || !wanted->is_counterfactual) continue;
        for (int32_t next = 0; copy_row(engine, wanted, layer, slot, row, n, &next);) {
            if (++n < engine->slot_rows) continue;
            status = exchange_copies(engine, layer, s, n);
            if (status != COX_OK) return status;
            n = 0;
        }
    }
    return n > 0 ? exchange_copies(engine, layer, s, n) : COX_OK;
}
