/*
 * Prompts with the answers of one or two runs, and measures of each. Run and baseline: the answers of two
 * batches; of a model, with and without a plan.
 */
#ifndef COX_STUDY_EVALUATE_H
#define COX_STUDY_EVALUATE_H

#include "base/json.h"
#include "run/run.h"
#include "study/metrics.h"
#include "study/rules.h"

enum { COX_RUN, COX_BASELINE, COX_N_SIDES };

/* What a batch wrote for a prompt; text NULL: nothing, or that it failed. */
typedef struct cox_answer {
    const char *text;
    bool has_ended; /* finish_reason is not "length" */
} cox_answer;

typedef struct cox_item {
    char *id;
    json_t *line;         /* of the prompt's file; NULL when there is none */
    int32_t file, number; /* of the line */
    cox_answer answers[COX_N_SIDES];
    const char *continuation; /* NULL: none */
} cox_item;

enum { COX_MAX_MEASURES = COX_MAX_LABELS + 16, COX_MEASURE_NAME = 64 };

/* values [n_items] of each side, NaN: none of this item; NULL: none at all. Rates have 0 and 1. */
typedef struct cox_measure {
    char name[COX_MEASURE_NAME];
    bool is_rate;
    double *values[COX_N_SIDES];
} cox_measure;

/* All but the lists of files may be NULL. */
typedef struct cox_evaluate_options {
    const char *rules, *results, *baseline, *continuations; /* files */
    const char *const *prompts;                             /* [n_prompts] files */
    size_t n_prompts;
    const char *plan; /* a file */
    bool forces_steering;
    int64_t limit; /* prompts of each file; 0: all */
} cox_evaluate_options;

typedef struct cox_evaluation {
    const cox_evaluate_options *options; /* borrowed */
    cox_cluster *cluster;                /* NULL without a model */
    cox_rules *rules;                    /* NULL: none */
    cox_item *items;
    int32_t n_items;
    json_t *answers[COX_N_SIDES], *continuations;          /* lines by custom_id; NULL: not given */
    int32_t n_missing[COX_N_SIDES], n_failed[COX_N_SIDES]; /* items without an answer, with an error */
    cox_measure measures[COX_MAX_MEASURES];
    int32_t n_measures;
    int64_t n_rows_steered; /* of the model's run with the plan */
} cox_evaluation;

/* Reads rules, prompts and answers. Errors: NOT_FOUND, IO, BAD_FILE, INVALID, NO_MEMORY. */
cox_status cox_evaluation_read(cox_evaluation *e);
void cox_evaluation_release(cox_evaluation *e);

/* The string field of an item's line, or of its body's metadata; NULL: none. context: the item. */
const char *cox_item_field(void *context, const char *name);

/* A new measure, its values NaN; sides: which it has. NULL: NO_MEMORY. */
cox_measure *cox_evaluation_add(cox_evaluation *e, const char *name, bool is_rate,
                                const bool sides[COX_N_SIDES]);

/* Measures of the answers' texts. Errors: those of the rules, naming the answer. */
cox_status cox_evaluation_judge(cox_evaluation *e);
/* Measures of the model's logits; ends with cox_run_finish. e: items on rank 0; options everywhere.
 * Collective. */
cox_status cox_evaluation_compute(cox_evaluation *e, cox_run *run);

#endif
