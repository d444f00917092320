/*
 * Rows on show: what flows on from a site, for those who asked to see it (cox_observation). A batch in which
 * nobody did costs one look at a flag per site. Rows of one slot are shown one after the other, by the
 * caller's thread; a row that is computed again, because its KV was given up, has been shown before.
 */
#include "coordinator/internal.h"

void cox__observe(cox_engine *engine, cox_site site, int32_t layer, const cox__slot *slot, const float *rows,
                  size_t stride)
{
    const cox__batch *batch = &engine->batch;
    if (!batch->has_observations) return;
    for (int32_t row = slot->first; row < slot->end; row++) {
        const cox__sequence *s = batch->sequences[row];
        const cox_observation *wanted = s->request.observation;
        int32_t position = batch->positions[row];
        if (!wanted || !(wanted->sites[layer] & 1u << site) || position < s->n_counted) continue;
        if (!cox_positions_contain(&wanted->positions, position, s->request.n_prompt)) continue;
        engine->events.on_rows(engine->events.context, s->request.id, site, layer, position,
                               rows + (size_t)(row - slot->first) * stride);
    }
}
