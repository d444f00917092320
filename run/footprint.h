/*
 * What a rank will hold, in bytes, foretold from headers alone: `inspect` prints it, the memory check
 * compares it with what the machine has, and the table at the end of a run puts it beside what the rank
 * really held.
 */
#ifndef COX_RUN_FOOTPRINT_H
#define COX_RUN_FOOTPRINT_H

#include <stdbool.h>
#include <stdint.h>

#include "cluster/exchange.h"
#include "cluster/placement.h"
#include "coordinator/engine.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "run/options.h"

/* How the ranks share the work; derived from the options and the number of ranks only. */
typedef struct cox_layout {
    int32_t size, n_coordinators, n_threads;
    int32_t n_expert_ranks;
    int32_t first_expert_rank; /* ranks first..size-1 host experts */
} cox_layout;
/* Errors: INVALID (more coordinators than ranks; no rank left for experts). */
cox_status cox_layout_make(cox_layout *layout, const cox_run_options *options, int32_t size,
                           int32_t n_threads);
bool cox_layout_hosts_experts(const cox_layout *layout, int32_t rank);

/* Options of the engine and of the exchange that all commands use. The exchange's placement and host are left
 * NULL. */
cox_engine_options cox_run_engine_options(const cox_run_options *options, int32_t size);
cox_exchange_options cox_run_exchange_options(const cox_run_options *options, const cox_model *model,
                                              int32_t size);

typedef struct cox_footprint {
    int32_t n_experts; /* (layer, expert) pairs held */
    uint64_t trunk;    /* embeddings, attention, routers, norms, head: mapped, shared by ranks of a machine */
    uint64_t experts;  /* routed experts: mapped */
    uint64_t kv_cache;
    uint64_t activations; /* of the engine, and scratch of the expert host */
    uint64_t exchange;    /* message buffers */
    uint64_t base;        /* program, libraries, MPI, tokenizer */
} cox_footprint;
uint64_t cox_footprint_total(const cox_footprint *footprint);

/* Not collective; touches no weights. */
cox_footprint cox_footprint_predict(const cox_model *model, const cox_kernels *kernels,
                                    const cox_placement *placement, const cox_layout *layout,
                                    const cox_run_options *options, int32_t rank);

#endif
