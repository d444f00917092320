/* What one rank did and where its time went; plain sums that the run's per-rank table prints. */
#ifndef COX_BASE_COUNTERS_H
#define COX_BASE_COUNTERS_H

#include <stdint.h>

typedef struct cox_counters {
    uint64_t rows_served;       /* rows received for experts of this rank */
    uint64_t routes_served;     /* (row, expert) pairs computed here */
    uint64_t steps;             /* coordinator: steps run */
    uint64_t rows_computed;     /* coordinator: rows of all steps (prompt and generated) */
    uint64_t rows_restarted;    /* ... of these, rows that started above the first layer */
    uint64_t layer_rows;        /* rows times the layers that they went through */
    uint64_t layer_rows_saved;  /* ... that were known from other sequences instead */
    uint64_t layer_rows_shared; /* ... of these, that others computed in the same step */
    uint64_t layer_rows_kv;     /* of layer_rows, those of which the last layer's keys and values were all */
    uint64_t bytes_sent, bytes_received; /* by the exchange */
    double compute_s;                    /* attention, routing, experts, head */
    double wait_s;                       /* waiting for other ranks */
    double transfer_s;                   /* packing, starting and completing messages */
} cox_counters;

/* Seconds on a monotonic clock. */
double cox_now_s(void);

#endif
