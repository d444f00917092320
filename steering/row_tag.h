/*
 * What travels with a row to the experts, and what comes back with a reply, in the COX_ROW_TAIL floats behind
 * its d_model elements. The exchange moves rows of d_model + COX_ROW_TAIL floats and knows nothing of it.
 * Zeros mean: no steering on the way.
 */
#ifndef COX_STEERING_ROW_TAG_H
#define COX_STEERING_ROW_TAG_H

#include <stdint.h>

#include "model/route_rules.h"
#include "steering/plan.h"

enum { COX_ROW_TAIL = 16 }; /* floats */

/*
 * Behind a row: which plan's routed interventions apply at which of its experts; plan 0: none, and the rest
 * means nothing. The row goes to all hosts of its experts, the plan only to the hosts of the experts that it
 * steers: the list tells the other hosts that the plan is not theirs.
 */
typedef struct cox_row_tag {
    int32_t plan; /* id that the coordinator has given it: no other plan of the job has it */
    int32_t position, n_prompt, n_experts;
    uint16_t experts[COX_MAX_TOP_K]; /* [n_experts] steered ones among those that the row was routed to */
} cox_row_tag;

/* Behind a reply of a row with a plan: what its expert's interventions at expert_out did, in plan order;
 * there < 0: not applied. A second site on hosts would need effects of its own: eight floats are free. */
typedef struct cox_reply_tag {
    struct {
        float there, added;
    } effects[COX_PLAN_MAX_STACK];
    float unused[8];
} cox_reply_tag;

_Static_assert(sizeof(cox_row_tag) == COX_ROW_TAIL * sizeof(float), "a row's tag fills its tail");
_Static_assert(sizeof(cox_reply_tag) == COX_ROW_TAIL * sizeof(float), "a reply's tag fills its tail");

/* Letters to expert hosts on COX_MAIL_STEERING: this header, then the bytes of cox_plan_pack, or none: the
 * plan is not used any more. */
typedef struct cox_plan_letter {
    int32_t plan;
} cox_plan_letter;

#endif
