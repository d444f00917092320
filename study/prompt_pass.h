/*
 * One clean pass over sets of prompts: all coordinators together run each prompt once, nothing is generated,
 * and what was asked for at its rows goes to a sink. Which coordinator runs a prompt follows from the
 * prompt's block, and a coordinator's prompts are finished in ascending order, so that a sink can make
 * results that do not depend on how many coordinators there are, nor on batching.
 */
#ifndef COX_STUDY_PROMPT_PASS_H
#define COX_STUDY_PROMPT_PASS_H

#include "study/prompts.h"
#include "run/run.h"
#include "coordinator/engine.h"

typedef struct cox_pass_prompt {
    int32_t number; /* over all files, from 0 */
    int32_t file, line;
    int32_t n_tokens;
    const int32_t *tokens;
    int32_t index; /* among this coordinator's prompts; set by run */
} cox_pass_prompt;

/* The prompts of all files, on every rank. */
typedef struct cox_pass_work {
    int32_t *data;            /* as it came */
    int32_t n_files, n;       /* n: prompts */
    const int32_t *of_file;   /* [n_files] prompts */
    cox_pass_prompt *prompts; /* [n] by file, then line */
} cox_pass_work;

/* What is looked at; the same on every rank. */
typedef struct cox_pass_question {
    const uint8_t *sites;   /* [n_layers] sum of 1 << cox_site */
    const uint8_t *experts; /* [n_layers, n_experts] at expert_out; NULL: all */
    bool is_counterfactual; /* of expert_out */
    bool wants_routes, wants_last_logits;
    const int32_t *from_end; /* [n_positions] tokens whose rows count, 1 the last of a prompt, any order */
    int32_t n_positions;     /* 0: all tokens of the prompt */
} cox_pass_question;

/* place: index in from_end, or without positions the token's position. Called during engine steps. */
typedef struct cox_pass_sink {
    void *context;
    const char *name; /* of the progress bar */
    int32_t window;   /* prompts of one coordinator on their way at most */
    bool is_by_block; /* prompts of a block wait until the coordinator's blocks before are finished */
    void (*row)(void *context, const cox_pass_prompt *prompt, cox_site site, int32_t layer, int32_t expert,
                int32_t place, const float *h);
    /* May be NULL when not asked for. */
    void (*routes)(void *context, const cox_pass_prompt *prompt, int32_t layer, int32_t place,
                   const cox_traced_route *routes);
    void (*last_logits)(void *context, const cox_pass_prompt *prompt, const float *logits);
    /* All of the prompt has been shown; ascending. Errors end the run; the prompt is named by the caller. */
    cox_status (*done)(void *context, const cox_pass_prompt *prompt);
} cox_pass_sink;

/* Rank 0's prompts to all. prompts: [n_files] on rank 0, ignored elsewhere. [out] *work: freed by the caller,
 * also on failure. Collective. Errors: NO_MEMORY. */
cox_status cox_pass_share(cox_run *run, const cox_prompts *prompts, int32_t n_files, cox_pass_work *work);
void cox_pass_work_free(cox_pass_work *work);

/*
 * Runs all prompts. blocks: [work->n] not negative, non-decreasing over the prompts of any one coordinator
 * (block % coordinators) when is_by_block. paths: [n_files] for messages. Ends with cox_run_finish: nothing
 * can be computed afterwards. status: of this rank's preparation, so that a failure there is everybody's.
 * Collective. Errors: those of engine and sink, TOO_LONG (the KV cache), INVALID (a prompt with fewer tokens
 * than positions), naming the prompt.
 */
cox_status cox_pass_run(cox_run *run, const cox_pass_work *work, const cox_pass_question *question,
                        const int32_t *blocks, const char *const *paths, const cox_pass_sink *sink,
                        cox_status status);

/* Is this prompt run here? */
static inline bool cox_pass_is_mine(const cox_run *run, int32_t block)
{
    return cox_cluster_is_coordinator(run->cluster) &&
           block % cox_cluster_n_coordinators(run->cluster) == run->rank;
}

#endif
