/* The table of ranks at the end of a run, for people and as JSON. */
#ifndef COX_RUN_TABLE_H
#define COX_RUN_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/counters.h"
#include "base/status.h"

typedef struct cox_rank_row {
    char host[64];
    bool is_coordinator;
    int32_t n_experts; /* (layer, expert) pairs */
    uint64_t predicted_bytes, resident_bytes;
    cox_counters counters;
} cox_rank_row;

/* rows [n] in rank order. */
void cox_table_print_ranks(FILE *file, const cox_rank_row *rows, int32_t n, const char *exchange,
                           const char *kernels, int32_t n_threads);

/* The same with all counters, into a file (docs/formats.md), which is replaced. Errors: IO, NO_MEMORY. */
cox_status cox_table_write_ranks(const char *path, const cox_rank_row *rows, int32_t n, const char *exchange,
                                 const char *kernels, int32_t n_threads);

#endif
