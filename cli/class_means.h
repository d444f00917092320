/*
 * Means of the rows that two classes of prompts have at a site, computed by all coordinators together. Bits
 * do not depend on how many they are, nor on batching (steering/direction.h states the order).
 */
#ifndef COX_CLI_CLASS_MEANS_H
#define COX_CLI_CLASS_MEANS_H

#include "cli/prompts.h"
#include "cli/run.h"
#include "steering/vector.h"

typedef struct cox_class_question {
    cox_site site;
    int32_t *layers; /* [n_layers] ascending */
    int32_t n_layers;
    int32_t width;    /* of a row at the site */
    int32_t from_end; /* the token: 1 is the last of the prompt; 0: the mean over all of its tokens */
} cox_class_question;

/*
 * Runs every prompt (no token is generated). classes: [2], on rank 0; ignored elsewhere. [out] *means: on
 * rank 0 malloc'ed [2, n_layers, width]; NULL elsewhere. Ends with cox_run_finish: nothing can be computed
 * afterwards. Collective. Errors: those of the engine, TOO_LONG (the KV cache), INVALID (a row that is not
 * finite), naming the prompt.
 */
cox_status cox_class_means(cox_run *run, const cox_class_question *question, const cox_prompts *classes,
                           double **means);

#endif
