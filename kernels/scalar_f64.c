/*
 * Owns sine, cosine, exponential, logarithm and power in f64, for RoPE tables and samplers: own code, so
 * that every machine has the same bits. Cody-Waite reductions with constants whose products with the
 * quotient are exact, then Taylor series. The logarithm is kept as a sum of two doubles because the power
 * multiplies its error by the exponent.
 */
#include <math.h>
#include <string.h>

#include "kernels/exp_constants.h"
#include "kernels/kernels.h"

typedef struct {
    double hi, lo; /* value hi + lo, |lo| <= ulp(hi) / 2 */
} pair;

static pair fast_sum(double a, double b) /* |a| >= |b| or a == 0 */
{
    double sum = a + b;
    return (pair){sum, b - (sum - a)};
}

static pair product(double a, double b)
{
    double p = a * b;
    return (pair){p, fma(a, b, -p)};
}

static pair pair_product(pair a, pair b)
{
    pair p = product(a.hi, b.hi);
    return fast_sum(p.hi, p.lo + fma(a.hi, b.lo, a.lo * b.hi));
}

/* 2^n; n in [-1022, 1023]. */
static double power_of_two(int n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static const double ln2_hi = COX__LN2_HI_F64;
static const double ln2_lo = COX__LN2_LO_F64;

/* exp(x + y), |y| much smaller than |x|, x finite. */
static double exp_pair(double x, double y)
{
    if (x > 710.0) return INFINITY;
    if (x < -746.0) return 0.0;
    double n = rint(x * COX__LOG2_E_F64);
    double r_hi = fma(n, -ln2_hi, x); /* exact */
    double r_lo = fma(n, -ln2_lo, y);
    pair r = fast_sum(r_hi, r_lo);
    if (fabs(r_lo) > fabs(r_hi)) r = fast_sum(r_lo, r_hi);
    double tail = 0.0; /* sum of r^k / k! for k = 2..14, over r^2 */
    static const double inverse_factorial[] = COX__INVERSE_FACTORIALS;
    for (int k = 12; k >= 0; k--) tail = fma(tail, r.hi, inverse_factorial[k]);
    double value = 1.0 + (r.hi + fma(r.hi * r.hi, tail, fma(r.hi, r.lo, r.lo)));
    int exponent = (int)n;
    int half = exponent / 2;
    return value * power_of_two(half) * power_of_two(exponent - half);
}

/* log of a positive finite x as a pair: relative error about 2^-65. */
static pair log_pair(double x)
{
    int exponent = 0;
    double m = frexp(x, &exponent); /* [0.5, 1) */
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2.0;
        exponent--;
    }
    double f = m - 1.0; /* exact; log m = 2 artanh(s), s = f / (2 + f) */
    pair below = fast_sum(2.0, f);
    double s_hi = f / below.hi;
    double rest = fma(-s_hi, below.hi, f) - s_hi * below.lo;
    pair s = {s_hi, rest / below.hi};
    pair z = pair_product(s, s);
    double series = 0.0; /* sum of z^k / (2k + 5) */
    for (int k = 11; k >= 0; k--) series = fma(series, z.hi, 1.0 / (2 * k + 5));
    pair cubic = {0x1.5555555555555p-2, 0x1.5555555555555p-56}; /* one third */
    pair sum = fast_sum(cubic.hi, fma(z.hi, series, cubic.lo)); /* 1/3 + z/5 + ... */
    sum = pair_product(z, sum);
    sum = pair_product(s, sum);
    pair value = fast_sum(s.hi, sum.hi);
    value = fast_sum(2.0 * value.hi, 2.0 * (value.lo + (s.lo + sum.lo)));
    double n = exponent;
    if (exponent == 0) return value;
    pair total = fast_sum(n * ln2_hi, value.hi);
    return fast_sum(total.hi, total.lo + (value.lo + n * ln2_lo));
}

double cox_exp_f64(double x)
{
    if (isnan(x)) return x;
    return exp_pair(x, 0.0);
}

double cox_log_f64(double x)
{
    if (isnan(x) || x < 0.0) return NAN;
    if (x == 0.0) return -INFINITY;
    if (isinf(x)) return x;
    return log_pair(x).hi;
}

double cox_pow_f64(double base, double exponent)
{
    if (isnan(base) || isnan(exponent) || base < 0.0) return NAN;
    if (exponent == 0.0 || base == 1.0) return 1.0;
    if (base == 0.0) return exponent > 0.0 ? 0.0 : INFINITY;
    if (isinf(base)) return exponent > 0.0 ? INFINITY : 0.0;
    pair l = log_pair(base);
    if (isinf(exponent)) return (l.hi > 0.0) == (exponent > 0.0) ? INFINITY : 0.0;
    if (fabs(exponent) > 0x1p+70) return (l.hi > 0.0) == (exponent > 0.0) ? INFINITY : 0.0;
    pair p = product(l.hi, exponent);
    return exp_pair(p.hi, fma(l.lo, exponent, p.lo));
}

/* Series of sine and cosine on |y.hi| <= pi/4. */
static void sincos_reduced(pair y, double *sine, double *cosine)
{
    static const double sine_terms[] = {-1.0 / 6,
                                        1.0 / 120,
                                        -1.0 / 5040,
                                        1.0 / 362880,
                                        -1.0 / 39916800,
                                        1.0 / 6227020800.0,
                                        -1.0 / 1307674368000.0,
                                        1.0 / 355687428096000.0};
    static const double cosine_terms[] = {
        1.0 / 24,        -1.0 / 720,           1.0 / 40320,           -1.0 / 3628800,
        1.0 / 479001600, -1.0 / 87178291200.0, 1.0 / 20922789888000.0};
    double z = y.hi * y.hi;
    double s = 0.0;
    double c = 0.0;
    for (int k = 7; k >= 0; k--) s = fma(s, z, sine_terms[k]);
    for (int k = 6; k >= 0; k--) c = fma(c, z, cosine_terms[k]);
    *sine = y.hi + fma(y.hi * z, s, y.lo * (1.0 - 0.5 * z));
    double most = 1.0 - 0.5 * z;
    double lost = (1.0 - most) - 0.5 * z;
    *cosine = most + (lost + fma(z * z, c, -y.hi * y.lo));
}

void cox_sincos_f64(double x, double *sine, double *cosine)
{
    if (!isfinite(x)) {
        *sine = *cosine = NAN;
        return;
    }
    double n = rint(x * 0x1.45f306dc9c883p-1);
    double t = fma(n, -0x1.921fb544p+0, x); /* pi/2 in pieces of 33, 33 and 53 bits */
    double w = n * 0x1.0b4611a6p-34;        /* exact up to |n| = 2^20 */
    double hi = t - w;
    double lo = ((t - hi) - w) - n * 0x1.3198a2e037073p-69;
    pair y = fast_sum(hi, lo);
    double s = 0.0;
    double c = 0.0;
    sincos_reduced(y, &s, &c);
    int quarter = (int)(n - 4.0 * floor(n * 0.25));
    *sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
    *cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}
