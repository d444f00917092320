/* Logits to numbers, and counts to intervals; formulas are in the header. */
#include "study/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "kernels/kernels.h"

/* --- Logits --- */

/* log sum_i exp(logits[i]) */
static double log_sum_exp(const float *logits, int32_t n)
{
    double result[2];
    cox_log_sum_exps(logits, NULL, n, result);
    return result[0];
}

double cox_log_odds_of(const float *logits, const uint8_t *in_set, int32_t n, double *whole)
{
    double parts[2];
    cox_log_sum_exps(logits, in_set, n, parts);
    double in = parts[1], out = parts[0];
    double higher = in > out ? in : out, lower = in > out ? out : in;
    *whole = isinf(lower) ? higher : higher + cox_log_f64(1 + cox_exp_f64(lower - higher));
    return in - out;
}

double cox_log_odds(const float *logits, const uint8_t *in_set, int32_t n)
{
    double whole;
    return cox_log_odds_of(logits, in_set, n, &whole);
}

bool cox_softmax_f64(const float *logits, int32_t n, double *p, double *log_p)
{
    double whole = log_sum_exp(logits, n);
    if (!isfinite(whole)) return false;
    for (int32_t i = 0; i < n; i++) {
        log_p[i] = isinf(logits[i]) ? -INFINITY : (double)logits[i] - whole;
        p[i] = isinf(logits[i]) ? 0 : cox_exp_f64(log_p[i]);
    }
    return true;
}

double cox_kl_from(const double *p, const double *log_p, const float *steered, double whole, int32_t n)
{
    if (!isfinite(whole)) return NAN;
    double sum = cox_kl_sum(p, log_p, steered, whole, n);
    return sum > 0 ? sum : 0; /* below 0 by rounding only */
}

double cox_kl_divergence(const float *clean, const float *steered, int32_t n)
{
    double from_clean = log_sum_exp(clean, n), from_steered = log_sum_exp(steered, n), sum = 0;
    if (!isfinite(from_clean) || !isfinite(from_steered)) return NAN;
    for (int32_t i = 0; i < n; i++) {
        if (isinf(clean[i])) continue; /* p = 0 */
        double log_p = (double)clean[i] - from_clean, log_q = (double)steered[i] - from_steered;
        double p = cox_exp_f64(log_p);
        if (p > 0) sum += p * (log_p - log_q);
    }
    return sum > 0 ? sum : 0;
}

double cox_log_probability(const float *logits, int32_t n, int32_t id)
{
    return (double)logits[id] - log_sum_exp(logits, n);
}

double cox_perplexity(double sum_log_p, int64_t n_tokens)
{
    return cox_exp_f64(-sum_log_p / (double)n_tokens);
}

/* --- Intervals --- */

cox_interval cox_interval_wilson(int64_t hits, int64_t n)
{
    double z2 = COX_Z_95 * COX_Z_95, trials = (double)n, p = (double)hits / trials;
    double centre = (p + z2 / (2 * trials)) / (1 + z2 / trials);
    double reach = COX_Z_95 / (1 + z2 / trials) * sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials));
    return (cox_interval){.value = p,
                          .low = hits == 0 ? 0 : centre - reach, /* exactly, not by rounding */
                          .high = hits == n ? 1 : centre + reach};
}

/* One bootstrap sample of n > 0 units: [out] counts [n], how often each of them is drawn; n numbers of the
 * generator. Statistics of several groups draw their samples one after the other from one generator, group by
 * group, sample by sample. */
static void resample(cox_random *random, int32_t n, int32_t *counts)
{
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (int32_t i = 0; i < n; i++) counts[cox_random_below(random, n)]++;
}

static double quantile(const double *sorted, int32_t n, double q)
{
    double at = q * (double)(n - 1);
    int32_t i = (int32_t)at;
    if (i + 1 >= n) return sorted[n - 1];
    return sorted[i] + (sorted[i + 1] - sorted[i]) * (at - (double)i);
}

/* The 2.5% and 97.5% points of n > 0 statistics of bootstrap samples, linear between order statistics
 * (numpy.quantile's default); the percentile interval. [in/out] statistics: sorted here. interval->value
 * stays. */
static void find_percentiles(double *statistics, int32_t n, cox_interval *interval)
{
    qsort(statistics, (size_t)n, sizeof *statistics, cox_compare_doubles);
    interval->low = quantile(statistics, n, 0.025);
    interval->high = quantile(statistics, n, 0.975);
}

cox_bootstrap cox_bootstrap_defaults(void)
{
    return (cox_bootstrap){.n_resamples = 2000};
}

static double weighted_sum(const double *values, const int32_t *counts, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += values[i] * (double)counts[i];
    return sum;
}

cox_status cox_interval_mean(const double *values, int32_t n, const cox_bootstrap *bootstrap,
                             cox_interval *interval)
{
    int32_t *counts = malloc((size_t)n * sizeof *counts);
    double *means = malloc((size_t)bootstrap->n_resamples * sizeof *means), sum = 0;
    if (!counts || !means) {
        free(counts);
        free(means);
        return cox_no_memory("a bootstrap interval");
    }
    cox_random random = {bootstrap->seed};
    for (int32_t i = 0; i < n; i++) sum += values[i];
    for (int32_t r = 0; r < bootstrap->n_resamples; r++) {
        resample(&random, n, counts);
        means[r] = weighted_sum(values, counts, n) / (double)n;
    }
    interval->value = sum / (double)n;
    find_percentiles(means, bootstrap->n_resamples, interval);
    free(means);
    free(counts);
    return COX_OK;
}

cox_status cox_ratio_samples_draw(cox_ratio_samples *samples, const double *const whole[2],
                                  const int32_t n[2], const cox_bootstrap *bootstrap)
{
    size_t n_units = (size_t)n[0] + (size_t)n[1], n_resamples = (size_t)bootstrap->n_resamples;
    *samples = (cox_ratio_samples){
        .n = {n[0], n[1]}, .whole = {whole[0], whole[1]}, .n_resamples = bootstrap->n_resamples};
    for (int g = 0; g < 2; g++) {
        double sum = 0;
        for (int32_t i = 0; i < n[g]; i++) sum += whole[g][i];
        if (!(sum > 0)) return cox_fail(COX_INVALID, "group %d has nothing to count", g + 1);
    }
    samples->counts = calloc(n_resamples * n_units, sizeof *samples->counts);
    samples->sums = calloc(n_resamples * 2, sizeof *samples->sums);
    samples->statistics = calloc(n_resamples, sizeof *samples->statistics);
    if (!samples->counts || !samples->sums || !samples->statistics)
        return cox_no_memory("bootstrap intervals");
    cox_random random = {bootstrap->seed};
    int32_t *counts = samples->counts;
    for (size_t r = 0; r < n_resamples; r++) {
        for (int g = 0; g < 2; counts += n[g], g++) {
            double *sum = &samples->sums[2 * r + (size_t)g];
            while (!(*sum > 0)) {
                resample(&random, n[g], counts);
                *sum = weighted_sum(whole[g], counts, n[g]);
            }
        }
    }
    return COX_OK;
}

void cox_ratio_samples_release(cox_ratio_samples *samples)
{
    free(samples->counts);
    free(samples->sums);
    free(samples->statistics);
    *samples = (cox_ratio_samples){0};
}

cox_interval cox_interval_ratios(cox_ratio_samples *samples, const double *const part[2])
{
    double ratio[2];
    for (int g = 0; g < 2; g++) {
        double sums[2] = {0};
        for (int32_t i = 0; i < samples->n[g]; i++) sums[0] += part[g][i], sums[1] += samples->whole[g][i];
        ratio[g] = sums[0] / sums[1];
    }
    const int32_t *counts = samples->counts;
    for (int32_t r = 0; r < samples->n_resamples; r++, counts += samples->n[0] + samples->n[1]) {
        double a = weighted_sum(part[0], counts, samples->n[0]) / samples->sums[2 * r];
        double b = weighted_sum(part[1], counts + samples->n[0], samples->n[1]) / samples->sums[2 * r + 1];
        samples->statistics[r] = a - b;
    }
    cox_interval interval = {.value = ratio[0] - ratio[1]};
    find_percentiles(samples->statistics, samples->n_resamples, &interval);
    return interval;
}
