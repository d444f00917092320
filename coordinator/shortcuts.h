/*
 * What a caller of the engine vouches for or does without, so that work is left out which would change no bit
 * of what it is told. It may promise each of these by itself; a promise that does not hold gives wrong
 * numbers. All zero: none.
 */
#ifndef COX_COORDINATOR_SHORTCUTS_H
#define COX_COORDINATOR_SHORTCUTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cox_shortcuts {
    /* NULL, or [n_prompt], borrowed until on_done. In the first layer of its plan, which has only expert_out
     * interventions there, prompt rows with 0 are not touched: their routes are known. They are not computed
     * in that layer. */
    const uint8_t *touched;
    /* Rows whose logits nobody wants end with the last layer's keys and values. What a plan would do to them
     * there reaches nothing and is not counted. */
    bool skips_idle_rows;
    /* Rows in common with the sequence that was submitted before (the same tokens up to there under the same
     * plan) are computed once when both begin in the same step. Both must want it, and skips_idle_rows: what
     * the plan does to shared rows is counted in the first only. */
    bool shares_rows;
    /* The caller knows (cox_engine_events.on_entry) what its plan makes of the prompt's rows up to the entry
     * of the layer above the plan's first one, the only one that it acts in, not before the layer's keys and
     * values. Without generated tokens. */
    bool knows_entry;
} cox_shortcuts;

#endif
