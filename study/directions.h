/*
 * Two sets of prompts in, a vector file out: the difference of the mean rows at one site, or the first
 * principal component of the pairs' differences, of one layer and expert or of each, at one token or at each
 * of several, with where it came from.
 */
#ifndef COX_STUDY_DIRECTIONS_H
#define COX_STUDY_DIRECTIONS_H

#include "study/class_means.h"

typedef struct cox_directions_options {
    const char *prompts[2]; /* files of class a, to which a direction leads, and class b */
    int64_t limit;          /* prompts of each; 0: all */
    const char *output;     /* the vector file */
    bool has_force;         /* it may exist */
    const char *site;
    const char *layer;    /* indices with commas, or "all" */
    const char *expert;   /* at expert_out, likewise; NULL: all */
    const char *position; /* "last", "-K" with commas, or "mean" */
    bool is_principal, is_unit;
    /* of a only prompts whose answer begins with one of these tokens more likely than not, of b only the
     * others; NULL: */
    const char *filter_tokens, *filter_rules; /* ids; a rules file */
    const char *const *filter_phrases;        /* [n_filter_phrases] */
    size_t n_filter_phrases;
} cox_directions_options;

typedef struct cox_found_direction {
    char name[96], position[24];
    bool is_written; /* false: both classes have the same mean there, and among several such a place is left
                        out */
    double norm;
    double on_a,
        on_b; /* mean projections on the unit direction: what `clamp` takes to make a row look like either */
    double share;     /* of the squares, of a principal component; else 0 */
    char *provenance; /* JSON */
} cox_found_direction;

typedef struct cox_directions {
    const cox_directions_options *options; /* borrowed */
    cox_run *run;
    cox_class_question question;
    /* on rank 0 */
    cox_prompts classes[2];
    uint8_t *filter; /* [vocab_size]; NULL: none */
    cox_class_means means;
    cox_found_direction *found; /* [n_found] */
    size_t n_found;
} cox_directions;

/* What is asked, as far as it needs no model. [out] owned by the caller. Errors: INVALID (names the option),
 * NO_MEMORY. */
cox_status cox_directions_create(cox_directions **directions, const cox_directions_options *options);
/* Ends with cox_run_finish. Collective. Errors: those of cox_prompts_read and of the engine, INVALID, IO,
 * NO_MEMORY. */
cox_status cox_directions_compute(cox_directions *directions, cox_run *run);
void cox_directions_destroy(cox_directions *directions); /* NULL is allowed */

#endif
