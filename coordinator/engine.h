/*
 * The engine of one coordinator: sequences of token ids in, sampled ids out. It owns the KV cache, the
 * scheduler (continuous batching, chunked prefill, prefix reuse, recomputation when blocks run out) and the
 * forward pass. Text, stop strings and files are session.h's business. Single-threaded towards its caller.
 */
#ifndef COX_COORDINATOR_ENGINE_H
#define COX_COORDINATOR_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/counters.h"
#include "base/status.h"
#include "cluster/cluster.h"
#include "cluster/exchange.h"
#include "coordinator/known.h"
#include "coordinator/sampler.h"
#include "model/model.h"
#include "steering/plan.h"

typedef struct cox_engine cox_engine;

#define COX_RESIDUAL_AUTO SIZE_MAX

typedef struct cox_engine_options {
    int32_t prefill_chunk; /* rows of one prompt in one step, 1..max_rows; 512 */
    int32_t max_rows;      /* rows of one step over all sequences; 512 */
    int32_t max_sequences; /* sequences in one step; 256 */
    int32_t n_slots;       /* micro-batches in flight; 1..COX_MAX_SLOTS */
    size_t kv_bytes; /* memory of the KV cache; 0: 32 sequences of max_positions, or 1 GiB if that is less,
                        but never less than one sequence of 4096 (or max_positions) needs */
    bool has_prefix_cache; /* reuse identical prefixes; true */
    size_t residual_bytes; /* memory of stored residual rows, from which rows of steered sequences start;
                              COX_RESIDUAL_AUTO: an eighth of the KV cache, at most 64 MiB; 0: none */
    const uint8_t *residual_layers; /* [n_layers+1], borrowed by create: 1 where such rows are stored at the
                                       layer's entry (n_layers: before the final norm); NULL: all layers */
} cox_engine_options;
cox_engine_options cox_engine_options_defaults(void);

typedef enum cox_finish {
    COX_FINISH_STOP,
    COX_FINISH_LENGTH,
    COX_FINISH_ERROR,
    COX_FINISH_CANCELLED
} cox_finish;

/* A choice of a row as traced: cox_route in descending score; margin: its logit minus that of the next lower
 * expert (infinite when none is lower); rank: that computes the expert for this row. */
typedef struct cox_traced_route {
    int32_t expert, rank;
    float logit, weight, margin;
} cox_traced_route;

/* What one intervention did at one place to the rows computed for one request. */
typedef struct cox_steer_hits {
    int32_t intervention, layer, expert; /* expert -1: the site is not an expert's */
    int32_t n_prompt, n_generated;       /* rows touched */
    double norm_there, norm_added;       /* means over these rows: |h| before, |h' - h| */
} cox_steer_hits;

/* Which rows on_rows shows. Any number of requests may share one. */
typedef struct cox_observation {
    const uint8_t *sites;    /* [n_layers] sum of 1 << cox_site of the sites to be shown there */
    cox_positions positions; /* in the terms of a plan; prompt and generated are the request's own */
    /* At expert_out: */
    const uint8_t *experts; /* [n_layers, n_experts] 1: shown in that layer; NULL: every expert */
    /* false: the outputs that routed experts gave, as they go on to the combine. true: FFN_e(x) of every
     * expert asked for, routed or not, x the row's own input to the layer's experts, without the row's
     * steering at expert_out: the output that forcing e would give. Costs those rows an evaluation of each
     * expert. */
    bool is_counterfactual;
} cox_observation;

typedef struct cox_sequence_request {
    uint64_t id;           /* the caller's; comes back with every event */
    const int32_t *prompt; /* [n_prompt] ids, copied by submit; n_prompt >= 1 */
    int32_t n_prompt;
    int32_t max_tokens; /* generated at most; 0: only the prompt is computed */
    cox_sampling sampling;
    bool ignore_eos;   /* go on after the model's eos ids */
    bool wants_digest; /* SHA-256 over the f32 logits of each sampled position (docs/architecture.md) */
    bool wants_routes; /* on_routes for every computed row of every MoE layer; switches prefix reuse off */
    cox_plan *plan;    /* NULL: none. Taken over when submit succeeds; equal plans are kept once */
    const cox_observation *observation; /* NULL: none. Borrowed until on_done. Its positions are computed, not
                                           taken from the prefix cache */
    const cox_known *known;             /* NULL: nothing. Copied by submit */
    bool wants_logits;   /* on_logits for every computed position of the prompt, and every sampled one ... */
    int32_t logits_from; /* ... from this position on ... */
    int32_t logits_end;  /* ... and below this one, at least n_prompt; 0: to the end */
} cox_sequence_request;

typedef struct cox_sequence_result {
    cox_finish finish;
    const char *error;                       /* message, with COX_FINISH_ERROR; else NULL */
    int32_t n_prompt, n_generated, n_cached; /* n_cached: prompt tokens that needed no row at all */
    char digest[65];                         /* hex, "" unless asked for */
    const cox_steer_hits
        *hits; /* [n_hits] by intervention, layer, expert; places that were not touched are left out */
    int32_t n_hits;
    double queue_s, prompt_s, generate_s;
} cox_sequence_result;

/* Callbacks run inside cox_engine_step; pointers are valid during the call only. */
typedef struct cox_engine_events {
    void *context;
    /* A token was sampled (an eos id too, unless ignored: then it is the last). Return true to end the
     * sequence here (finish STOP). logprobs is NULL unless asked for. */
    bool (*on_token)(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs);
    /* logits f32 [vocab_size] after `position`, ascending positions. May be NULL. */
    void (*on_logits)(void *context, uint64_t id, int32_t position, const float *logits);
    /* routes [top_k] of the row at `position` in `layer`; layers ascending within a step. May be NULL. */
    void (*on_routes)(void *context, uint64_t id, int32_t layer, int32_t position,
                      const cox_traced_route *routes);
    /* h of the row at `position`, as it goes on from the site: after the site's own interventions. f32
     * [d_model], or [n_experts] at router_logits (layers with experts only). expert: whose output it is at
     * expert_out (layers with experts only), before its gate weight; else -1. Each row once; of one site and
     * layer in ascending positions, of one position in ascending experts. May be NULL. */
    void (*on_rows)(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h);
    /* [out] x f32 [d_model]: the row at `position` of a request with known->knows_entry, as the layer
     * above its plan's gets it (above the last one: the final norm). Called by several threads at once. May
     * be NULL. */
    void (*on_entry)(void *context, uint64_t id, int32_t position, float *x);
    void (*on_done)(void *context, uint64_t id, const cox_sequence_result *result);
} cox_engine_events;

/* Most rows of one micro-batch: what the exchange's max_rows must be. */
int32_t cox_engine_slot_rows(const cox_engine_options *options);

/* Tokens that the KV cache of these options holds; [out] *token_bytes: of each. For predictions. */
int64_t cox_engine_kv_tokens(const cox_model *model, const cox_engine_options *options, size_t *token_bytes);

/* Bytes that create takes: KV cache, activations, tables. For predictions. */
size_t cox_engine_bytes(const cox_model *model, const cox_kernels *kernels, const cox_engine_options *options,
                        int32_t n_threads);

/* All memory of the steps is taken here. Model, trunk, placement, exchange, kernels and cluster are borrowed.
 * Not collective. Errors: INVALID (options), NO_MEMORY. */
cox_status cox_engine_create(cox_engine **engine, const cox_model *model, const cox_trunk_weights *trunk,
                             const cox_kernels *kernels, cox_cluster *cluster, const cox_placement *placement,
                             cox_exchange *exchange, const cox_engine_options *options,
                             const cox_engine_events *events);
void cox_engine_destroy(cox_engine *engine);

/* Queues a sequence. Errors (state unchanged): INVALID (an id outside the vocabulary, empty prompt,
 * sampling, something to be reported that nobody listens to), TOO_LONG (prompt alone beyond max_positions or
 * the KV cache; an answer cut by the context finishes with LENGTH, by the KV cache with ERROR), NO_MEMORY. */
cox_status cox_engine_submit(cox_engine *engine, const cox_sequence_request *request);

/*
 * Ends the sequences with this id, waiting, in their prompt or generating, whatever they have so far: on_done
 * comes once, with CANCELLED, at the beginning of the next step (their last event), and their pages and plans
 * are free in that step. No on_token or on_logits comes any more; a step that is under way may still show
 * routes and rows. Rows that another sequence shares are not lost. May be called from a callback, but for
 * on_entry. Of an id that is not there (any more): nothing.
 */
void cox_engine_cancel(cox_engine *engine, uint64_t id);

/* Sequences waiting or running. */
int32_t cox_engine_n_sequences(const cox_engine *engine);

/* One step: admits what fits, runs one batch through all layers, samples, reports events. Does nothing when
 * there are no sequences. Errors: PEER, IO, INTERNAL: the run is over. */
cox_status cox_engine_step(cox_engine *engine);

const cox_counters *cox_engine_counters(const cox_engine *engine);

#endif
