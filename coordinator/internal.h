/*
 * What the files of this folder share: a sequence, the batch of one step, and the engine's state. The step's
 * buffers are all taken once, in cox_engine_create; row i of each belongs to row i of the batch.
 */
#ifndef COX_COORDINATOR_INTERNAL_H
#define COX_COORDINATOR_INTERNAL_H

#include <sha2.h>

#include "coordinator/engine.h"
#include "coordinator/kv_cache.h"
#include "coordinator/router.h"
#include "coordinator/steer.h"
#include "steering/route_edit.h"

typedef struct cox__sequence {
    cox_sequence_request request; /* .prompt and .known are NULL: tokens and known below hold them */
    cox_known known;
    int32_t *tokens; /* [n_limit] prompt, then generated ids */
    int32_t n_tokens;
    int32_t n_limit;                /* most tokens, prompt included, that this sequence may have */
    bool is_cancelled;              /* ends at the beginning of the next step */
    bool is_cut;                    /* n_limit is what the KV cache holds, less than was asked for */
    int32_t n_computed;             /* positions below have their KV in the table */
    int32_t n_scheduled;            /* rows of the current step */
    int32_t n_shared;               /* of these, rows at positions below are those of the sequence before */
    struct cox__sequence *follower; /* that sequence's next one, which shares rows; NULL: none */
    int32_t n_reported;             /* positions below have had their logits reported */
    int32_t n_cached;
    int32_t n_noted;         /* rows below have been counted from notes of borrowed pages */
    int32_t n_counted;       /* rows below have been counted before their KV was given up */
    cox__steering *steering; /* NULL: none */
    cox__hits *hits;         /* [cox__steering_n_hits] */
    cox_steer_hits *report;  /* [cox__steering_n_hits] for on_done */
    cox_kv_table table;
    SHA2_CTX sha;
    double submitted_s, started_s, first_token_s;
    struct cox__sequence *next; /* of the waiting queue */
} cox__sequence;

/* Are the logits after `position` to be reported, and have not been? */
static inline bool cox__reports(const cox__sequence *sequence, int32_t position)
{
    const cox_sequence_request *request = &sequence->request;
    return request->wants_logits && position >= sequence->n_reported &&
           (request->logits_end == 0 || position < request->logits_end);
}

/* The rows of one step. Each micro-batch has a run of them in token order (by sequence, then position),
 * sorted by the layer at which they start: those that take part in a layer are the first ones. */
typedef struct cox__batch {
    int32_t n_rows;
    int32_t *positions;        /* [max_rows] */
    cox__sequence **sequences; /* [max_rows] */
    int32_t *starts;           /* [max_rows] first layer that is computed; n_layers: only the head */
    bool *keeps;               /* [max_rows] its residuals are stored for others (cox_kv_keep) */
    int32_t *staged_positions; /* [max_rows] the rows in token order over the whole step */
    cox__sequence **staged;    /* [max_rows] */
    bool has_steering, has_traces, has_observations, has_keeps; /* of any row */
    bool has_idle;                                              /* of any row */
    uint8_t *is_idle;   /* [max_rows] rows of which only keys and values are wanted in the last layer */
    int32_t *moved;     /* [max_rows] where a row went when the others were dropped */
    int32_t *fresh;     /* [slot_rows] rows of the slot whose keys and values are not known */
    int32_t *site_rows; /* [n_layers, COX_N_SITES] rows whose plans have something there */
    int32_t n_logit_rows;
    int32_t *logit_rows; /* [max_rows] rows whose logits are wanted, by sequence, then position */
} cox__batch;

/* A micro-batch in flight: rows [first, end) of the batch take part in the layer where it is. */
typedef struct cox__slot {
    int32_t first, end;
    int32_t *ends; /* [n_layers+1] end in each layer; the last: of all its rows */
    cox_dispatch_plan *plan;
    cox_route *routes;      /* [slot_rows, top_k] descending score */
    cox_expert_id *experts; /* [slot_rows, top_k] the same experts */
    float *probabilities;   /* [slot_rows, n_experts] unsteered, of rows that have a soft term in the layer */
    uint8_t *is_tagged;     /* [slot_rows] rows whose plan the hosts apply in the layer */
} cox__slot;

/* Copies of observed rows on their way to further experts (observe.c); NULL until one is asked for. */
typedef struct cox__probe {
    int32_t *rows;          /* [slot_rows] the row of the batch */
    float *copies;          /* [slot_rows, row_width] normed, without a tag */
    cox_expert_id *experts; /* [slot_rows, top_k] ascending, then -1 */
} cox__probe;

struct cox_engine {
    const cox_model *model;
    const cox_trunk_weights *trunk;
    const cox_kernels *kernels;
    cox_cluster *cluster;
    const cox_placement *placement;
    cox_exchange *exchange;
    cox_engine_options options;
    cox_engine_events events;
    cox_arena *arena;
    cox_counters counters;
    cox_stage_clock clock; /* of the thread that runs the steps */

    /* scheduler */
    cox__sequence **running; /* [max_sequences] in order of admission */
    int32_t n_running, n_waiting;
    cox__sequence *waiting, **waiting_end; /* first come, first served; recomputed ones in front */
    cox_kv_cache *kv;
    cox_kv_shape kv_shape;
    cox__batch batch;
    cox__slot slots[COX_MAX_SLOTS];
    int32_t slot_rows;        /* most rows of one slot */
    size_t row_width;         /* floats of a row on its way to the experts and back: d_model and the tail */
    cox__steering *steerings; /* plans in use */
    int32_t n_plans_made;

    /* buffers of a step, f32 */
    float *x;             /* [max_rows, d_model] residual stream */
    float *cosine, *sine; /* [max_rows, n_rot/2] */
    float *rotary;        /* [n_rotary, 2, n_rot/2] cosine and sine by position, as they come up */
    int32_t n_rotary, n_rotary_known;
    float *normed;                     /* [slot_rows or COX__HEAD_ROWS if that is more, row_width] */
    float *q, *heads;                  /* [slot_rows, n_heads*head_dim] queries; attention output before o */
    float *k, *v;                      /* [slot_rows, n_kv_heads*head_dim] */
    float *projected;                  /* [slot_rows, d_model] output of o, of down, of combine */
    float *router_logits;              /* [slot_rows, n_experts] */
    float *router_scratch;             /* [slot_rows, cox_routes_scratch_floats] */
    float *gate, *up;                  /* [slot_rows, d_dense] of dense layers, or NULL */
    cox_attention_job *attention_jobs; /* [slot_rows * n_kv_heads] */
    float *logits;                     /* [COX__HEAD_ROWS, vocab_size] */
    void *matmul_scratch;
    cox_sampler *sampler;
    cox__probe probe;
    float *steer_scratch;         /* [n_threads, cox_site_widest] */
    unsigned char *route_scratch; /* [n_threads, route_scratch_bytes] */
    size_t route_scratch_bytes;
    cox_steer_effect *route_effects; /* [n_threads, COX_PLAN_MAX_INTERVENTIONS] */
};

enum { COX__HEAD_ROWS = 32 };

/* Takes all memory of a new engine. Errors: INVALID (a KV cache of no page), NO_MEMORY. */
cox_status cox__engine_take_memory(cox_engine *engine);

/* scheduler.c: fills engine->batch and slots; admits, reserves KV, sends sequences back when blocks run out.
 */
void cox__schedule(cox_engine *engine);
/* Rows of the slot in this step, whether or not they take part in a layer. */
static inline int32_t cox__slot_n_rows(const cox_engine *engine, const cox__slot *slot)
{
    return slot->ends[engine->model->n_layers] - slot->first;
}
/* Takes a sequence out of the running ones and gives its KV back. */
void cox__retire(cox_engine *engine, cox__sequence *sequence);
void cox__unqueue(cox_engine *engine, cox__sequence *sequence); /* from the waiting ones */
void cox__enqueue(cox_engine *engine, cox__sequence *sequence, bool in_front);

/* attention.c: x += attention(x) of layer l for the slot's rows; their keys and values enter the cache. */
void cox__attention(cox_engine *engine, int32_t layer, cox__slot *slot);

/* observe.c: shows those rows of a slot that are observed at this site; row i of the slot at
 * rows + i * stride. */
void cox__observe(cox_engine *engine, cox_site site, int32_t layer, const cox__slot *slot, const float *rows,
                  size_t stride);
/* The same for the replies of routed experts, in the exchange's layout. */
void cox__observe_routed(cox_engine *engine, int32_t layer, const cox__slot *slot, const float *replies);
/* Sends those normed rows of slot s that are observed so to all experts asked for, and shows the outputs. To
 * be called between the slot's exchanges; builds slot->plan anew. Errors: those of the exchange. */
cox_status cox__observe_counterfactual(cox_engine *engine, int32_t layer, int32_t s);
/* Takes the memory for it, once. Errors: NO_MEMORY. */
cox_status cox__probe_take(cox_engine *engine);

/* layer.c: all layers for all slots, micro-batches overlapping. */
cox_status cox__layers(cox_engine *engine, int32_t n_slots);

/* embed.c: the batch's rows of the residual stream where they start, and their rotary tables; logits of up to
 * COX__HEAD_ROWS rows. */
void cox__embed(cox_engine *engine);
/* Stores the slot's rows, which have come to the entry of `layer`, for others to start from. */
void cox__keep(cox_engine *engine, int32_t layer, const cox__slot *slot);
void cox__head(cox_engine *engine, const int32_t *rows, int32_t n_rows);

#endif
