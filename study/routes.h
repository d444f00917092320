/* Differences of routing between two classes of prompts: what `coxswain routes` measures (routes.c) and shows
 * (routes_print.c). */
#ifndef COX_CLI_ROUTES_H
#define COX_CLI_ROUTES_H

#include "cli/options.h"
#include "study/prompts.h"
#include "model/model.h"
#include "study/metrics.h"

/* Tokens of a class of prompts whose routes name an expert. */
enum { COX_ROUTES_TOP1, COX_ROUTES_CHOSEN, COX_ROUTES_CHOSEN_ALL, COX_N_ROUTES };
/* TOP1, CHOSEN: as the first choice, or among the top k, of the last tokens; CHOSEN_ALL: among the top k, of
 * all tokens. */

typedef struct cox_routes_cell {
    int64_t counts[COX_N_ROUTES][2];       /* tokens of class a, of class b */
    cox_interval difference[COX_N_ROUTES]; /* share in a less share in b */
} cox_routes_cell;

typedef struct cox_routes {
    const cox_options *options;
    const cox_model *model;
    const cox_prompts *classes;        /* [2] */
    int64_t n_tokens[COX_N_ROUTES][2]; /* that the counts are of */
    int32_t n_layers, n_experts;
    cox_routes_cell *cells; /* [n_layers, n_experts]; those of layers without experts are zero */
} cox_routes;

/* Table or JSON on standard output, and the files that the options name. Errors: IO, NO_MEMORY. */
cox_status cox_routes_print(const cox_routes *routes);

#endif
