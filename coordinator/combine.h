/*
 * The combine of one row: acc = fma(g_e, y_e, acc) in ascending expert id, a plan's terms for an expert right
 * after its place. For the layers of the forward pass (layer.c) and for a layer put together from stored
 * outputs (clean_layer.c).
 */
#ifndef COX_COORDINATOR_COMBINE_H
#define COX_COORDINATOR_COMBINE_H

#include "model/route_rules.h"
#include "steering/stack.h"

typedef struct cox__combine_row {
    const cox_kernels *kernels;
    int32_t d_model, n_experts, top_k;
    /* [top_k] by ascending expert */
    int32_t experts[COX_MAX_TOP_K];
    float weights[COX_MAX_TOP_K];        /* g_e */
    const float *outputs[COX_MAX_TOP_K]; /* y_e [d_model], steered */
    /* Terms: */
    const cox_plan *plan; /* NULL: none */
    cox_row_place place;
    const float *probabilities; /* as cox_stack_add_terms has them */
    cox_steer_watch watch;
} cox__combine_row;

/* [out] sum: [d_model]. */
void cox__combine(const cox__combine_row *row, float *sum);

#endif
