/* What one rank did and where its time went; plain sums that the run's per-rank tables print. */
#ifndef COX_BASE_COUNTERS_H
#define COX_BASE_COUNTERS_H

#include <stdint.h>

// clang-format off
/* X(name, what): counts. */
#define COX_COUNT_LIST(X)                                                                         \
    X(rows_served, "rows received for experts of this rank")                                      \
    X(routes_served, "(row, expert) pairs computed here")                                         \
    X(steps, "coordinator: steps run")                                                            \
    X(rows_computed, "coordinator: rows of all steps, prompt and generated")                      \
    X(rows_restarted, "of these, rows that started above the first layer")                        \
    X(layer_rows, "rows times the layers that they went through")                                 \
    X(layer_rows_saved, "the same of rows that were known from other sequences instead")          \
    X(layer_rows_shared, "of these, that others computed in the same step")                       \
    X(layer_rows_kv, "of layer_rows, those of which the last layer's keys and values were all")   \
    X(bytes_sent, "by the exchange")                                                              \
    X(bytes_received, "by the exchange")

/* X(name, what): stages of the work, in the order of the flow; the time of one belongs to no other. */
#define COX_STAGE_LIST(X)                                                                         \
    X(schedule, "choosing the rows of a step, pages of the KV cache")                             \
    X(embed, "rows of the embedding, sines and cosines")                                          \
    X(attention, "norm, projections, rotary embedding, attention")                                \
    X(router, "norm, router logits, choice of experts; dense layers")                             \
    X(dispatch, "packing rows, starting and completing messages")                                 \
    X(experts, "the FFN of experts hosted here, steering of their outputs")                       \
    X(wait, "for other ranks")                                                                    \
    X(combine, "sums over experts, residual")                                                     \
    X(head, "final norm and logits")                                                              \
    X(sample, "choice of a token, and what is done with it")                                      \
    X(steering, "plans at sites of the residual stream, and who watches there")
// clang-format on

typedef struct cox_counters {
#define X(name, what) uint64_t name;
    COX_COUNT_LIST(X)
#undef X
#define X(name, what) double name##_s;
    COX_STAGE_LIST(X)
#undef X
} cox_counters;

void cox_counters_add(cox_counters *sum, const cox_counters *more);

/* All stages but waiting and dispatch. */
double cox_counters_compute_s(const cox_counters *counters);

/* Seconds on a monotonic clock. */
double cox_now_s(void);

/* Are stages timed? In a build with COX_STAGE_TIMES=OFF they are not, all seconds stay 0, and nothing of the
 * timing is left: what it costs is measured against such a build (scripts/bench-stage-times). */
#ifdef COX_NO_STAGE_TIMES
enum { COX_HAS_STAGE_TIMES = 0 };
#else
enum { COX_HAS_STAGE_TIMES = 1 };
#endif

/* Where a span of a stage begins or ends. */
static inline double cox_span_now_s(void)
{
    return COX_HAS_STAGE_TIMES ? cox_now_s() : 0;
}

/* Whose time it is now: one of the seconds of a cox_counters; NULL: nobody's. Zero it to begin with. */
typedef struct cox_stage_clock {
    double *stage_s;
    double since_s;
} cox_stage_clock;

/* From now on time is stage_s's. Returns whose it was, to be entered again. */
static inline double *cox_stage_enter(cox_stage_clock *clock, double *stage_s)
{
    if (!COX_HAS_STAGE_TIMES) return stage_s;
    double now_s = cox_now_s(), *before_s = clock->stage_s;
    if (before_s) *before_s += now_s - clock->since_s;
    *clock = (cox_stage_clock){stage_s, now_s};
    return before_s;
}

#endif
