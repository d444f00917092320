/*
 * What a run is opened with: the model, the ranks and their work, memory, how prompts become tokens. No text
 * of a command line stands here: whoever opens a run has parsed it (cli/options.h), or never had one.
 */
#ifndef COX_RUN_OPTIONS_H
#define COX_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/progress.h"
#include "cluster/exchange.h"
#include "run/prompting.h"

typedef struct cox_run_options {
    const char *model;      /* a Hugging Face folder */
    int32_t n_ranks;        /* 0: as many as the launch has; else it must have so many */
    int32_t n_threads;      /* of each rank; 0: its share of the cores */
    int32_t n_coordinators; /* at least 1 */
    bool experts_on_all;    /* ranks that coordinate host experts too */
    const char *placement;  /* a file; NULL: round robin */
    cox_exchange_kind exchange;
    const char *kernel; /* a name of cox_kernels_select */
    /* the engine; 0: its own choice */
    int32_t prefill_chunk, n_micro_batches;
    int32_t max_rows, max_sequences; /* of a step */
    uint64_t kv_memory_bytes;
    uint64_t residual_memory_bytes; /* UINT64_MAX: the engine's choice; 0: none */
    uint64_t caller_bytes;          /* what the caller will hold besides on each coordinator */
    cox_prompting prompting;
    bool renders_chats; /* cox_run_open starts what renders chat templates: before MPI, or not at all */
    cox_progress_style progress; /* of loading, on rank 0 */
    const char *stats_file; /* where cox_run_close writes the table of ranks as JSON too; NULL: nowhere */
} cox_run_options;

/* One rank, one coordinator, no model yet. */
cox_run_options cox_run_options_defaults(void);

#endif
