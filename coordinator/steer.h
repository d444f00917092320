/*
 * Steering in the coordinator's forward pass. A plan in use is kept once for all sequences that ask for the
 * same; its routed expert interventions are sent to the hosts that apply them. Rows of sequences without a
 * plan cost one look at a pointer. docs/steering.md says what each site and weighting means.
 */
#ifndef COX_COORDINATOR_STEER_H
#define COX_COORDINATOR_STEER_H

#include <stdint.h>

#include "base/status.h"
#include "coordinator/engine.h"
#include "coordinator/kv_cache.h"
#include "coordinator/router.h"
#include "steering/row_tag.h"
#include "steering/stack.h"

/* Sums over the rows that one intervention touched at one place. Norms in units of 2^-20, so that sums do not
 * depend on the order in which threads add. */
typedef struct cox__hits {
    _Atomic int32_t n_prompt, n_generated;
    _Atomic int64_t there, added;
} cox__hits;

/* The hits in one page of a sequence, for those that borrow it; which rows were the prompt's is theirs to
 * say.
 */
typedef struct cox__page_hits {
    cox_kv_note note;
    cox__hits places[]; /* [cox__steering_n_hits] */
} cox__page_hits;

/* A plan in use by sequences of this engine. */
typedef struct cox__steering {
    struct cox__steering *next;
    cox_plan *plan;
    int32_t id, n_users;
    int32_t last_routed;   /* highest layer with a routed intervention at expert_out; -1: none */
    bool was_sent;         /* to the hosts that apply it */
    int32_t *hits_offsets; /* [plan->n+1]: places of each intervention in a sequence's hits */
    int32_t *layer_place;  /* [plan->n, n_layers]: number of its layers below */
    int32_t *expert_place; /* [plan->n, n_experts]: the same of its experts; of those at expert_out */
    uint8_t *has_routed, *has_terms, *has_soft; /* [n_layers] */
    uint8_t *sites;                             /* [n_layers] bit 1 << site where an intervention is */
    uint64_t *kv_hashes;                        /* [plan->n]: what the KV cache can depend on; 0: nothing */
    uint8_t *is_sent;                           /* [cluster size]: ranks that hold it */
} cox__steering;

struct cox__sequence;
struct cox__slot;

/* Takes `plan` over when it succeeds: finds an equal one in use or starts using this one.
 * Errors: NO_MEMORY, INVALID (made for a model of other dimensions). */
cox_status cox__steering_use(cox_engine *engine, cox_plan *plan, cox__steering **steering);
/* Plans that a row of the batch may name to the hosts, and that they do not have yet, go there. Rows that
 * start above what the hosts do, as all of a sweep's cells of one layer, need none. Errors: NO_MEMORY. */
cox_status cox__steering_send(cox_engine *engine);
/* One user less; the last one frees it, here and on the hosts. */
void cox__steering_release(cox_engine *engine, cox__steering *steering);

/* A sequence's pages have been matched and are going to be used: hits of the rows that it does not compute.
 */
void cox__steer_borrow(cox_engine *engine, struct cox__sequence *sequence);

/* Places at which a sequence's hits are counted. */
int32_t cox__steering_n_hits(const cox__steering *steering);
/* [out] report: [cox__steering_n_hits]; returns the number of entries that were touched. */
int32_t cox__steering_report(const cox__steering *steering, const cox__hits *hits, cox_steer_hits *report);

/* Tells a table that has just been created what the plan leaves clean, and what it does to each page. */
void cox__steering_reach(const cox__steering *steering, int32_t n_prompt, const cox_known *known,
                         cox_kv_table *table);

/* Counts, for the batch of a step, the rows whose plans have something at each site of each layer, so that
 * the others cost nothing. */
void cox__steer_begin_step(cox_engine *engine);

/* Vector operations at a site of the d_model-wide rows of a slot, row i of the slot at rows + i * stride;
 * then the rows are shown to who observes them. */
void cox__steer(cox_engine *engine, cox_site site, int32_t layer, const struct cox__slot *slot, float *rows,
                size_t stride);

/* The same for one row of the batch. */
void cox__steer_row(cox_engine *engine, cox_site site, int32_t layer, int32_t row, float *h);

/* Before top-k: keeps the unsteered probabilities where a soft term will want them, and chooses under the
 * row's router_logits interventions. False: there are none; logits are untouched and the family's rule
 * applies. */
bool cox__steer_route(cox_engine *engine, int32_t layer, struct cox__slot *slot, int32_t i, float *logits,
                      cox_route *routes);

/* Fills the tail of a row that goes to the experts. */
void cox__steer_tag(cox_engine *engine, int32_t layer, struct cox__slot *slot, int32_t i, float *tail);
/* Counts what hosts report in the tails of the row's replies. reply(j): of choice j. */
void cox__steer_collect(cox_engine *engine, int32_t layer, const struct cox__slot *slot, int32_t i,
                        const float *replies);

/* Whose hits are counted: what a cox_steer_watch's context points to. */
typedef struct cox__steer_counter {
    const cox_engine *engine;
    int32_t layer, row;
} cox__steer_counter;

/* The plan of a row of the batch that has terms of the combine in the layer, with its place, and a watch that
 * counts for *counter; NULL, and nothing written: it has none. */
const cox_plan *cox__steer_terms(const cox_engine *engine, int32_t layer, int32_t row,
                                 cox__steer_counter *counter, cox_row_place *place, cox_steer_watch *watch);

#endif
