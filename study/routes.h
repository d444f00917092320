/* Differences of routing between two classes of prompts. */
#ifndef COX_STUDY_ROUTES_H
#define COX_STUDY_ROUTES_H

#include "study/prompts.h"
#include "model/model.h"
#include "study/metrics.h"

/* Tokens of a class of prompts whose routes name an expert. */
enum { COX_ROUTES_TOP1, COX_ROUTES_CHOSEN, COX_ROUTES_CHOSEN_ALL, COX_N_ROUTES };
/* TOP1, CHOSEN: as the first choice, or among the top k, of the last tokens; CHOSEN_ALL: among the top k, of
 * all tokens. */

typedef struct cox_routes_options {
    const char *prompts[2];  /* files of class a and class b */
    int64_t limit;           /* prompts of each; 0: all */
    int64_t last;            /* tokens of a prompt that count, from its end */
    int64_t seed, resamples; /* of the bootstrap */
} cox_routes_options;

typedef struct cox_routes_cell {
    int64_t counts[COX_N_ROUTES][2];       /* tokens of class a, of class b */
    cox_interval difference[COX_N_ROUTES]; /* share in a less share in b */
} cox_routes_cell;

typedef struct cox_routes {
    const cox_routes_options *options; /* borrowed */
    const cox_model *model;            /* the run's */
    cox_prompts classes[2];
    int64_t n_tokens[COX_N_ROUTES][2]; /* that the counts are of */
    int32_t n_layers, n_experts;
    cox_routes_cell *cells; /* [n_layers, n_experts]; those of layers without experts are zero */
} cox_routes;

/*
 * One clean pass over both classes. [out] *routes: on rank 0, freed by the caller with the function below,
 * also on failure; elsewhere only to be freed. Ends with cox_run_finish. Collective. Errors: those of
 * cox_prompts_read and of the engine, NO_MEMORY.
 */
cox_status cox_routes_measure(cox_run *run, const cox_routes_options *options, cox_routes *routes);
void cox_routes_free(cox_routes *routes);

#endif
