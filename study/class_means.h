/*
 * Means of the rows that two classes of prompts have at a site, computed by all coordinators together in one
 * pass over the prompts. Bits do not depend on how many they are, nor on batching (study/direction.h
 * states the order).
 */
#ifndef COX_STUDY_CLASS_MEANS_H
#define COX_STUDY_CLASS_MEANS_H

#include "study/prompt_pass.h"
#include "steering/vector.h"

typedef struct cox_class_question {
    const char *prompts[2]; /* the files, for messages */
    cox_site site;
    int32_t *layers; /* [n_layers] ascending */
    int32_t n_layers;
    int32_t *experts;    /* [n_experts] ascending; at expert_out, whether or not a row was routed there */
    int32_t n_experts;   /* 0 at other sites */
    int32_t width;       /* of a row at the site */
    int32_t *from_end;   /* [n_positions] tokens, each by itself: 1 is the last of the prompt */
    int32_t n_positions; /* 0: the mean over all of its tokens */
    bool has_filter;
    const uint8_t *filter; /* on rank 0 [vocab_size]: of the first class only prompts whose log-odds of these
                              first tokens (cox_log_odds) are above 0 count, of the second below 0 */
    bool wants_rows;       /* rows too */
} cox_class_question;

/* Rows are numbered: by position, layer, expert. */
static inline int32_t cox_class_n_rows(const cox_class_question *question)
{
    return (question->n_positions ? question->n_positions : 1) * question->n_layers *
           (question->n_experts ? question->n_experts : 1);
}

typedef struct cox_class_means {
    double *means;         /* [2, n_rows, width] */
    int32_t n_kept[2];     /* prompts that counted */
    const float **rows[2]; /* [n_kept] each [n_rows, width], by prompt; NULL unless wanted */
    void *memory;          /* of the rows */
} cox_class_means;

/*
 * Runs every prompt (no token is generated). classes: [2], on rank 0; ignored elsewhere. [out] *result: on
 * rank 0; freed by the caller with the function below, also on failure. Ends with cox_run_finish: nothing can
 * be computed afterwards. Collective. Errors: those of the engine, TOO_LONG (the KV cache), INVALID (a row
 * that is not finite, naming the prompt; a class of which none is left), NO_MEMORY.
 */
cox_status cox_class_means_run(cox_run *run, const cox_class_question *question, const cox_prompts *classes,
                               cox_class_means *result);
void cox_class_means_free(cox_class_means *result);

#endif
