/*
 * From logits to a token id. All arithmetic is our own, in a fixed order, and randomness comes from a
 * counter (seed, position), so a seed gives the same text on any number of ranks, threads, batch mates
 * and CPUs. Order of the edits: logit bias, repetition penalty, frequency and presence penalty (so far as in
 * vLLM), temperature, top-k, top-p, min-p (as in transformers). The last four do nothing to greedy sampling.
 */
#ifndef COX_COORDINATOR_SAMPLER_H
#define COX_COORDINATOR_SAMPLER_H

#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

enum { COX_MAX_LOGPROBS = 20 };

typedef struct cox_logit_bias {
    int32_t id;
    float bias;
} cox_logit_bias;

typedef struct cox_sampling {
    float temperature;            /* 0: greedy (ties to the lowest id) */
    int32_t top_k;                /* 0: off */
    float top_p;                  /* 1: off */
    float min_p;                  /* 0: off */
    float repetition_penalty;     /* 1: off; over prompt and generated ids, as in transformers */
    float presence_penalty;       /* 0: off; taken from the score of every id generated so far ... */
    float frequency_penalty;      /* 0: off; ... and this once for each time that it was generated */
    const cox_logit_bias *biases; /* [n_biases] added to logits; each id once; borrowed */
    int32_t n_biases;
    uint64_t seed;
    int32_t n_logprobs; /* -1: none; else the sampled token's log probability and that of the n most likely */
} cox_sampling;
cox_sampling cox_sampling_defaults(void); /* greedy, everything off, no logprobs */
/* INVALID with the name of the field that is out of range. */
cox_status cox_sampling_check(const cox_sampling *sampling);

/* Log probabilities (natural) under the model's unedited logits, descending. */
typedef struct cox_logprobs {
    float token;
    int32_t n;
    int32_t ids[COX_MAX_LOGPROBS];
    float values[COX_MAX_LOGPROBS];
} cox_logprobs;

/* The seed of answer `index` of a request that wants several: of the first the request's own, the others
 * unrelated to it and to each other. */
uint64_t cox_sampling_seed_of(uint64_t seed, int32_t index);

/* The random number in [0, 1) of a position: the same on every rank and CPU. */
double cox_sampling_uniform(uint64_t seed, int64_t position);

typedef struct cox_sampler cox_sampler;

/* Scratch for a vocabulary, in `arena`. One sampler serves one thread. */
cox_status cox_sampler_create(cox_sampler **sampler, cox_arena *arena, int32_t vocab_size);

/*
 * logits: f32 [vocab_size], left unchanged. history: ids of the sequence so far [n_history], the first
 * n_prompt of them the prompt's. position: of the new token (counts from 0 at the first prompt token); with
 * the seed it determines the random number. logprobs: [out] filled when sampling->n_logprobs >= 0; may be
 * NULL. Returns the id. Takes no memory.
 */
int32_t cox_sampler_pick(cox_sampler *sampler, const cox_sampling *sampling, const float *logits,
                         const int32_t *history, int32_t n_history, int32_t n_prompt, int64_t position,
                         cox_logprobs *logprobs);

/* [out] *logprobs of `token` under logits f32 [vocab_size] and, 0 <= n <= COX_MAX_LOGPROBS, of the n most
 * likely ones: log-softmax from an f64 sum of f32 exponentials. */
void cox_logprobs_fill(cox_logprobs *logprobs, const float *logits, int32_t vocab_size, int32_t token,
                       int32_t n);

/*
 * The distribution that cox_sampler_pick draws from when the temperature is not 0: [out] ids and
 * probabilities [vocab_size] of the tokens that the edits keep; returns their number (at least 1). Same
 * arguments, no memory taken. For tests and for showing what a setting does.
 */
int32_t cox_sampler_distribution(cox_sampler *sampler, const cox_sampling *sampling, const float *logits,
                                 const int32_t *history, int32_t n_history, int32_t n_prompt, int32_t *ids,
                                 double *probabilities);

#endif
