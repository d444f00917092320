/*
 * The measurement behind `coxswain bench --steer-mix`: one batch of requests, run again and again without
 * steering, with a residual plan of its own for every request, and with a single-expert `routed` plan of its
 * own for every request. Prompts, lengths and batch are equal; the three take turns within a round, and who
 * begins changes from round to round, so that a machine that slows down slows all of them.
 */
#ifndef COX_STUDY_BENCH_MIX_H
#define COX_STUDY_BENCH_MIX_H

#include "run/run.h"

typedef enum cox_mix { COX_MIX_UNSTEERED, COX_MIX_RESIDUAL, COX_MIX_ROUTED, COX_N_MIXES } cox_mix;

typedef struct cox_mix_options {
    int32_t n_requests, n_prompt, n_new, n_rounds; /* over all coordinators; tokens each; rounds counted */
    uint64_t seed;
    const char
        *temporary; /* the folder under which vector files are written for the time of the measurement */
    double norm;    /* of a plan's vector, relative to the mean norm of the rows at its site and layer */
} cox_mix_options;

typedef struct cox_mix_result {
    double *seconds[COX_N_MIXES];      /* [n_rounds] from the first submit to the last answer; malloc'ed */
    double *cpu_s[COX_N_MIXES];        /* [n_rounds] of all threads of rank 0 in that time; malloc'ed */
    double compile_s[COX_N_MIXES];     /* JSON and vector files to plans: mean of a round, not in seconds */
    int64_t rows_touched[COX_N_MIXES]; /* hits of one round */
    int64_t rows_computed;             /* of one round, the same for all three */
} cox_mix_result;
void cox_mix_result_free(cox_mix_result *result);

/* Bytes of the KV cache of a coordinator in which its share of the requests fits at once. */
uint64_t cox_mix_kv_bytes(const cox_model *model, const cox_mix_options *options, int32_t n_coordinators);

/* On every coordinator of a run, expert hosts serving meanwhile. *result is complete on rank 0; elsewhere it
 * has this rank's share. Errors: INVALID (too long), NO_MEMORY, IO (the temporary folder of the vectors),
 * those of the engine; INTERNAL: a request did not get all its tokens. */
cox_status cox_mix_run(cox_run *run, const cox_mix_options *options, cox_mix_result *result);

#endif
