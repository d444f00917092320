/*
 * What a model's logits say about steering, as numbers: refusal log-odds, divergence from the clean run,
 * perplexity; and intervals for rates and means. Pure functions in f64 over f32 logits, with our own exp and
 * log and sums in an order of their own, so a number has the same bits on every machine.
 */
#ifndef COX_STUDY_METRICS_H
#define COX_STUDY_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "steering/random.h"

/* --- Logits [n]; those that are NaN make the result NaN, -infinity is a token of probability 0. --- */

/*
 * log P(T) - log P(not T), T the tokens with in_set[i] != 0, P the softmax of the logits: log-sum-exp over T
 * less log-sum-exp over the rest, which keeps its digits where P(T) is close to 0 or 1. (Arditi et al.
 * 2406.11717, section C.1.) T must be neither empty nor everything.
 */
double cox_log_odds(const float *logits, const uint8_t *in_set, int32_t n);
/* The same, and [out] *whole: log-sum-exp of all, from the two parts (so with other roundings than
 * in one), which spares a pass over the logits. */
double cox_log_odds_of(const float *logits, const uint8_t *in_set, int32_t n, double *whole);

/* KL(p || q) = sum_i p_i (log p_i - log q_i), p and q the softmax of clean and steered logits, in nats; at
 * least 0. */
double cox_kl_divergence(const float *clean, const float *steered, int32_t n);

/* The same in two halves, for many steered runs against one clean one: p = softmax(clean) and its logarithm,
 * both [n] ([out]; false when the logits are not finite, then they say nothing), and the divergence from
 * them; whole: the log-sum-exp of the steered logits. */
bool cox_softmax_f64(const float *logits, int32_t n, double *p, double *log_p);
double cox_kl_from(const double *p, const double *log_p, const float *steered, double whole, int32_t n);

/* log softmax(logits)[id] */
double cox_log_probability(const float *logits, int32_t n, int32_t id);

/* exp(-sum_log_p / n_tokens): of a continuation of n_tokens > 0 tokens, sum_log_p the sum of their
 * cox_log_probability. */
double cox_perplexity(double sum_log_p, int64_t n_tokens);

/* --- Intervals, all of 95% --- */

#define COX_Z_95 1.959963984540054 /* the normal distribution's 97.5% point */

typedef struct cox_interval {
    double value, low, high;
} cox_interval;

/* A rate of n > 0 independent trials (Wilson 1927): value hits / n; the ends are within [0, 1]. */
cox_interval cox_interval_wilson(int64_t hits, int64_t n);

typedef struct cox_bootstrap {
    uint64_t seed;       /* 0 */
    int32_t n_resamples; /* 2000 */
} cox_bootstrap;
cox_bootstrap cox_bootstrap_defaults(void);

/*
 * Of the mean of n > 0 values (paired: of the pairs' differences), by resampling them. NaN values are the
 * caller's to leave out. [out] *interval. Errors: NO_MEMORY.
 */
cox_status cox_interval_mean(const double *values, int32_t n, const cox_bootstrap *bootstrap,
                             cox_interval *interval);

/*
 * A difference of two ratios of sums, of groups whose units (prompts) are independent while what is counted
 * within one (tokens) is not:  sum of part[0] / sum of whole[0] - sum of part[1] / sum of whole[1].  Both are
 * resampled by unit. Statistics with different parts but equal wholes share their samples.
 */
typedef struct cox_ratio_samples {
    int32_t n[2];           /* units of the groups, both > 0 */
    const double *whole[2]; /* [n[g]] at least 0, the sum above 0; borrowed */
    int32_t n_resamples;
    int32_t *counts;    /* [n_resamples, n[0] + n[1]] */
    double *sums;       /* [n_resamples, 2] of whole; a sample without any is drawn again */
    double *statistics; /* [n_resamples] scratch */
} cox_ratio_samples;
/* [out] *samples: released by the caller, also on failure. Errors: INVALID, NO_MEMORY. */
cox_status cox_ratio_samples_draw(cox_ratio_samples *samples, const double *const whole[2],
                                  const int32_t n[2], const cox_bootstrap *bootstrap);
void cox_ratio_samples_release(cox_ratio_samples *samples);
/* part: [2][n[g]]. */
cox_interval cox_interval_ratios(cox_ratio_samples *samples, const double *const part[2]);

#endif
