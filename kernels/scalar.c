/*
 * Owns the elementary functions in f32 that rows and attention use, and the exact widening of stored
 * elements. They are our own because a libm may differ from machine to machine in the last bit. Only
 * correctly rounded operations (+ - * / fma sqrt) in a fixed order: vec_rows.inc repeats each step in
 * vectors, and so gets the same bits.
 */
#include <math.h>
#include <string.h>

#include "kernels/exp_constants.h"
#include "kernels/kernels.h"

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2). 2^n is applied in two factors, so that results below the
 * normal range are rounded once, and those above become infinite. */
float cox_exp(float x)
{
    x = COX__EXP_MIN > x ? COX__EXP_MIN : x; /* a NaN stays */
    x = COX__EXP_MAX < x ? COX__EXP_MAX : x;
    float t = fmaf(x, COX__LOG2_E, COX__ROUND);
    float n = t - COX__ROUND;
    float r = fmaf(n, -COX__LN2_HI, x);
    r = fmaf(n, -COX__LN2_LO, r);
    float q = COX__EXP_C5;
    q = fmaf(q, r, COX__EXP_C4);
    q = fmaf(q, r, COX__EXP_C3);
    q = fmaf(q, r, COX__EXP_C2);
    q = fmaf(q, r, COX__EXP_C1);
    q = fmaf(q, r, COX__EXP_C0);
    float p = 1.0f + fmaf(r * r, q, r);
    uint32_t exponent = bits_of_float(t); /* its low bits are n, in two's complement */
    uint32_t n_all = (exponent - bits_of_float(COX__ROUND));
    uint32_t n_half = (uint32_t)((int32_t)n_all >> 1);
    float half = float_of_bits((n_half + 127u) << 23);
    float rest = float_of_bits((n_all - n_half + 127u) << 23);
    return p * half * rest;
}

/* For x < 0 by exp(x) / (1 + exp(x)), so that small results keep their digits. */
float cox_sigmoid(float x)
{
    float e = cox_exp(-fabsf(x));
    float top = x < 0.0f ? e : 1.0f;
    return top / (1.0f + e);
}

float cox_bf16_to_f32(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

uint16_t cox_f32_to_bf16(float x)
{
    uint32_t bits = bits_of_float(x);
    if (isnan(x)) return (uint16_t)((bits >> 16) | 0x40u);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

float cox_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f)
        return float_of_bits(sign | 0x7f800000u | (fraction << 13) | (fraction ? 0x400000u : 0));
    if (exponent == 0) return float_of_bits(sign | bits_of_float((float)fraction * 0x1p-24f));
    return float_of_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
}
