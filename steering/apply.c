/*
 * One intervention on one row: h becomes h + s D(h). Everything is cox_dot and cox_axpy, which have the same
 * bits in every set of kernels, and correctly rounded operations on scalars, so a steered row is as exact as
 * an unsteered one. The formulas are those of docs/steering.md, in the same order.
 */
#include <math.h>
#include <string.h>

#include "steering/internal.h"

bool cox__op_has_direction(cox_op op)
{
    return op == COX_OP_ABLATE || op == COX_OP_CLAMP || op == COX_OP_AFFINE || op == COX_OP_ROTATE;
}

/* The coefficients of s D(h): `unit` on u, `other` on v (add, affine) or on the second unit vector (rotate),
 * `self` on h. */
typedef struct change {
    float unit, other, self;
} change;

static change change_of(const cox_intervention *v, const cox_kernels *kernels, const float *h)
{
    const float s = v->strength;
    const float along = cox__op_has_direction(v->op) ? cox_dot(kernels, v->unit, h, v->width) : 0;
    switch (v->op) {
    case COX_OP_ADD: return (change){.other = s};
    case COX_OP_ABLATE: return (change){.unit = -(s * along)};
    case COX_OP_CLAMP: return (change){.unit = s * (v->value - along)};
    case COX_OP_AFFINE: return (change){.unit = s * (v->reference_dot - along), .other = s * v->alpha};
    case COX_OP_SCALE: return (change){.self = s * (v->factor - 1)};
    case COX_OP_ROTATE: {
        const float across = cox_dot(kernels, v->unit2, h, v->width);
        const float length = sqrtf(along * along + across * across);
        return (change){.unit = s * (length * v->cosine - along), .other = s * (length * v->sine - across)};
    }
    default: return (change){0};
    }
}

static void add_change(const cox_intervention *v, const cox_kernels *kernels, change c, float *h)
{
    if (c.self != 0) {
        const float factor = 1 + c.self;
        for (int32_t i = 0; i < v->width; i++) h[i] *= factor;
    }
    if (c.unit != 0) cox_axpy(kernels, h, c.unit, v->unit, v->width);
    if (c.other != 0) cox_axpy(kernels, h, c.other, v->op == COX_OP_ROTATE ? v->unit2 : v->vector, v->width);
}

/* |s D(h)| from the coefficients. u is a unit vector and v = |v| u. */
static float norm_of(const cox_intervention *v, change c, float norm_there)
{
    switch (v->op) {
    case COX_OP_ADD: return fabsf(c.other) * v->vector_norm;
    case COX_OP_AFFINE: return fabsf(c.unit + c.other * v->vector_norm);
    case COX_OP_SCALE: return fabsf(c.self) * norm_there;
    case COX_OP_ROTATE: return sqrtf(c.unit * c.unit + c.other * c.other);
    default: return fabsf(c.unit);
    }
}

static float norm(const cox_kernels *kernels, const float *x, int32_t n)
{
    return sqrtf(cox_dot(kernels, x, x, n));
}

static void apply_keeping_norm(const cox_intervention *v, const cox_kernels *kernels, change c, float *h,
                               float *scratch, cox_steer_effect *effect)
{
    memcpy(scratch, h, (size_t)v->width * sizeof *h);
    add_change(v, kernels, c, h);
    const float after = norm(kernels, h, v->width);
    if (after > 0) {
        const float factor = effect->norm_there / after;
        for (int32_t i = 0; i < v->width; i++) h[i] *= factor;
    }
    for (int32_t i = 0; i < v->width; i++) scratch[i] = h[i] - scratch[i];
    effect->norm_added = norm(kernels, scratch, v->width);
}

bool cox_intervention_is_met(const cox_intervention *v, const cox_kernels *kernels, const float *h,
                             float norm_there)
{
    if (v->strength == 0) return false;
    if (!v->when) return true;
    return norm_there > 0 && cox_dot(kernels, v->when, h, v->width) / norm_there > v->cosine_above;
}

void cox_intervention_apply(const cox_intervention *v, const cox_kernels *kernels, float *h, float *scratch,
                            cox_steer_effect *effect)
{
    *effect = (cox_steer_effect){.norm_there = norm(kernels, h, v->width)};
    if (!cox_intervention_is_met(v, kernels, h, effect->norm_there)) return;
    effect->was_applied = true;
    const change c = change_of(v, kernels, h);
    if (v->preserve_norm) {
        apply_keeping_norm(v, kernels, c, h, scratch, effect);
        return;
    }
    effect->norm_added = norm_of(v, c, effect->norm_there);
    add_change(v, kernels, c, h);
}
