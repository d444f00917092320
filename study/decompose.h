/* What the parts of a model write along a direction of the residual stream. */
#ifndef COX_STUDY_DECOMPOSE_H
#define COX_STUDY_DECOMPOSE_H

#include "study/prompts.h"
#include "model/model.h"
#include "study/metrics.h"
#include "steering/vector.h"

/*
 * Parts in one list: what enters the first layer; then by layer what attention writes, what the FFN block
 * (experts, or the dense FFN) writes, and what stands after the layer; then by layer and expert what each
 * expert writes, gate weight times output, 0 where it is not chosen.
 * after(l) = embedding + attention(0) + block(0) + ... + block(l); block(l) = sum of its experts.
 */
typedef struct cox_parts {
    int32_t n_layers, n_experts;
} cox_parts;

static inline size_t cox_parts_n(cox_parts p)
{
    return 1 + (size_t)p.n_layers * (3 + (size_t)p.n_experts);
}

enum { COX_PART_EMBEDDING = 0 };

static inline size_t cox_part_attention(int32_t layer)
{
    return 1 + 3 * (size_t)layer;
}

static inline size_t cox_part_block(int32_t layer)
{
    return 2 + 3 * (size_t)layer;
}

static inline size_t cox_part_after(int32_t layer)
{
    return 3 + 3 * (size_t)layer;
}

static inline size_t cox_part_expert(cox_parts p, int32_t layer, int32_t expert)
{
    return 1 + 3 * (size_t)p.n_layers + (size_t)layer * (size_t)p.n_experts + (size_t)expert;
}

/* Of one part: mean projections on the unit direction in a and in b, and a less b; and with --effects what
 * ablating the direction in this part alone does to the log-odds, in a and in b. */
typedef struct cox_part {
    double mean[2];
    cox_interval difference;
    bool has_effect;
    cox_interval effect[2];
} cox_part;

/* What ablating the direction does to log-odds is measured where? */
typedef enum cox_decompose_effects {
    COX_EFFECTS_NONE,
    COX_EFFECTS_LAYERS, /* attention and experts of each layer */
    COX_EFFECTS_EXPERTS /* and each single expert */
} cox_decompose_effects;

typedef struct cox_decompose_options {
    const char *vector;   /* FILE[#NAME] */
    bool forces_steering; /* one of another model is taken too */
    const char
        *layer; /* shares are of what stands after it: a number, or "all": the vector's own, else the last */
    const char *position; /* "last", "-K" or "mean" */
    cox_decompose_effects effects;
    const char *rules;       /* with effects: the file whose first_tokens the log-odds are of */
    const char *prompts[2];  /* files of class a and class b */
    int64_t limit;           /* prompts of each; 0: all */
    int64_t seed, resamples; /* of the bootstrap */
} cox_decompose_options;

typedef struct cox_decomposition {
    const cox_decompose_options *options; /* borrowed */
    const cox_model *model;               /* the run's */
    cox_prompts classes[2];
    cox_vector_file *file;
    const cox_vector *vector; /* in the file */
    double norm;              /* of the vector */
    cox_parts shape;
    cox_part *parts; /* [cox_parts_n(shape)] */
    bool has_effects;
    cox_interval log_odds[2];   /* clean, in a and in b */
    cox_interval everywhere[2]; /* effect of ablating the direction after every layer */
    int32_t reference;          /* shares are of what stands after this layer; -1: of the embedding */
} cox_decomposition;

/*
 * One pass over both classes, with as many variants of each prompt as effects ask for. [out] *d: on rank 0,
 * freed by the caller with the function below, also on failure; elsewhere only to be freed. Ends with
 * cox_run_finish. Collective. Errors: those of cox_prompts_read, cox_vector_file_read and the engine, INVALID
 * (names the option), NO_MEMORY.
 */
cox_status cox_decompose(cox_run *run, const cox_decompose_options *options, cox_decomposition *d);
void cox_decomposition_free(cox_decomposition *d);

#endif
