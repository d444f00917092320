/* What the parts of a model write along a direction of the residual stream: measured by `coxswain decompose`
 * (decompose.c), shown by decompose_print.c. */
#ifndef COX_CLI_DECOMPOSE_H
#define COX_CLI_DECOMPOSE_H

#include "cli/options.h"
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

typedef struct cox_decomposition {
    const cox_options *options;
    const cox_model *model;
    const cox_prompts *classes; /* [2] */
    const cox_vector *vector;
    double norm; /* of the vector */
    cox_parts shape;
    cox_part *parts; /* [cox_parts_n(shape)] */
    bool has_effects;
    cox_interval log_odds[2];   /* clean, in a and in b */
    cox_interval everywhere[2]; /* effect of ablating the direction after every layer */
    int32_t reference;          /* shares are of what stands after this layer; -1: of the embedding */
} cox_decomposition;

/* Table or JSON on standard output, and the files that the options name. Errors: IO, NO_MEMORY. */
cox_status cox_decomposition_print(const cox_decomposition *d);

#endif
