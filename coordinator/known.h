/*
 * What the caller of the engine knows of a request beforehand, or does without, so that rows need not be
 * computed. Who asks the same prompts under many plans knows much from the run without a plan; who wants the
 * logits of one position does without the rest. Nothing here changes a bit of what is reported, except as
 * said: each field is a promise, and the engine takes the caller's word for it.
 */
#ifndef COX_COORDINATOR_KNOWN_H
#define COX_COORDINATOR_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cox_known {
    /* Rows whose logits nobody wants may end with the last layer's keys and values. What a plan would do to
     * them there reaches nothing, and is not counted among its hits. */
    bool skips_idle_rows;

    /* Rows that the request has in common with the one submitted just before it (the same tokens from the
     * beginning, under the same plan) may be computed once when both begin in the same step. Both must allow
     * it, and skips_idle_rows: what the plan does to shared rows is counted in the first of them only. */
    bool shares_rows;

    /* Which rows of the prompt the plan touches in the first layer where it acts: [n_prompt] by position, 0:
     * not touched; NULL: not known. For plans that act at expert_out alone in that layer, where routes that
     * are known tell it. Rows with 0 are not computed in that layer. Borrowed until on_done. */
    const uint8_t *touched;

    /* What the plan makes of the prompt's rows is known up to the entry of the layer above the only one where
     * it acts, not before that layer's keys and values: the engine asks for these rows by on_entry and
     * computes none below. Without generated tokens. */
    bool knows_entry;
} cox_known;

#endif
