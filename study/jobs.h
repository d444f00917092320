/*
 * A list of token sequences, each computed by some coordinator, once or in several variants, with what a
 * command wants to see of them; of each comes a result of fixed size, and rank 0 gets them all in the order
 * of the list. So a result depends on its sequence alone, not on ranks, coordinators or batch mates.
 */
#ifndef COX_STUDY_JOBS_H
#define COX_STUDY_JOBS_H

#include "study/prompts.h"
#include "run/run.h"
#include "coordinator/engine.h"

/* One sequence; its tokens lie in cox_jobs. */
typedef struct cox_job {
    int32_t file, line;         /* where it comes from: paths[file] of the question, for messages */
    int32_t n_tokens, n_prompt; /* n_prompt: how many of the tokens are the prompt; the rest continues it */
    int32_t tag;                /* the command's */
} cox_job;

typedef struct cox_jobs {
    int32_t n;
    cox_job *jobs;   /* [n] */
    int32_t *tokens; /* of all jobs, one after the other */
    size_t n_tokens;
} cox_jobs;

/* Adds one, tokens copied: prompt [job.n_prompt], then continuation [job.n_tokens - job.n_prompt], which may
 * be NULL when that is none. Errors: NO_MEMORY. */
cox_status cox_jobs_add(cox_jobs *jobs, cox_job job, const int32_t *prompt, const int32_t *continuation);
/* One job for each prompt of a set, file number and tag as given. */
cox_status cox_jobs_add_prompts(cox_jobs *jobs, const cox_prompts *prompts, int32_t file, int32_t tag);
void cox_jobs_free(cox_jobs *jobs);

/* What the engine is asked for and what becomes of it. Functions that a command does not need are NULL. */
typedef struct cox_job_question {
    const char *label;        /* of the progress, static */
    const char *const *paths; /* of cox_job.file; the same on all ranks */
    void *context;
    int32_t n_variants;   /* 1 or more; all of a job are on their way together */
    size_t result_bytes;  /* of a job; zeroed at first */
    size_t scratch_bytes; /* beside it, of a job on its way; zeroed at first */
    int32_t n_at_once;    /* jobs on their way at most, 1 or more */
    /* Fills what is wanted into *request (id, prompt, n_prompt, max_tokens 0, greedy are set). */
    cox_status (*prepare)(void *context, const cox_job *job, int32_t variant, void *scratch,
                          cox_sequence_request *request);
    void (*on_logits)(void *context, const cox_job *job, const int32_t *tokens, int32_t variant, void *result,
                      void *scratch, int32_t position, const float *logits);
    void (*on_routes)(void *context, const cox_job *job, void *result, void *scratch, int32_t layer,
                      int32_t position, const cox_traced_route *routes);
    void (*on_rows)(void *context, const cox_job *job, void *result, void *scratch, cox_site site,
                    int32_t layer, int32_t expert, int32_t position, const float *h);
    void (*on_hits)(void *context, const cox_job *job, void *result, const cox_sequence_result *done);
    /* All variants are done. Its errors get the job's file and line in front. */
    cox_status (*finish)(void *context, const cox_job *job, void *result, void *scratch);
} cox_job_question;

/*
 * jobs: on rank 0; ignored elsewhere. question: of every coordinator; context is its own. [out] *results: on
 * rank 0 malloc'ed [n, result_bytes]; NULL elsewhere. Ends with cox_run_finish: nothing can be computed
 * afterwards. Collective. Errors: those of the engine and of the functions, naming file and line.
 */
cox_status cox_jobs_run(cox_run *run, const cox_jobs *jobs, const cox_job_question *question, void **results);

#endif
