/* Sums of what the parts say about themselves; only the program's own base is measured. */
#include "run/footprint.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "steering/row_tag.h"
#include "worker/worker.h"

/*
 * Measured with this program on Debian 12 (Open MPI 4.1.4): resident bytes of a rank that has opened a tiny
 * model, before it loads weights. A tokenizer holds about TOKENIZER_FACTOR times the size of its
 * tokenizer.json.
 */
static const uint64_t BASE_ALONE_BYTES = (uint64_t)9 << 20, BASE_MPI_BYTES = (uint64_t)17 << 20;
/* Open MPI's shared memory grows with the ranks of a machine. */
static const uint64_t BASE_PEER_BYTES = (uint64_t)3 << 18;
static const int32_t MOST_PEERS = 64;
static const double TOKENIZER_FACTOR = 2.5;

cox_status cox_layout_make(cox_layout *layout, const cox_run_options *options, int32_t size,
                           int32_t n_threads)
{
    int32_t n_coordinators = options->n_coordinators;
    if (n_coordinators > size) {
        return cox_fail(COX_INVALID, "--coordinators %d: there are only %d ranks", n_coordinators, size);
    }
    bool is_on_all = options->experts_on_all || size == 1;
    int32_t first = is_on_all ? 0 : n_coordinators;
    if (first == size) {
        return cox_fail(COX_INVALID,
                        "--coordinators %d of %d ranks leaves no rank for the experts; use --experts-on all",
                        n_coordinators, size);
    }
    *layout = (cox_layout){.size = size,
                           .n_coordinators = n_coordinators,
                           .n_threads = n_threads,
                           .n_expert_ranks = size - first,
                           .first_expert_rank = first};
    return COX_OK;
}

bool cox_layout_hosts_experts(const cox_layout *layout, int32_t rank)
{
    return rank >= layout->first_expert_rank;
}

cox_engine_options cox_run_engine_options(const cox_run_options *options, int32_t size)
{
    cox_engine_options engine = cox_engine_options_defaults();
    if (options->prefill_chunk) engine.prefill_chunk = options->prefill_chunk;
    if (options->max_rows) engine.max_rows = options->max_rows;
    if (options->max_sequences) engine.max_sequences = options->max_sequences;
    engine.kv_bytes = options->kv_memory_bytes;
    if (engine.max_rows < engine.prefill_chunk) engine.max_rows = engine.prefill_chunk;
    engine.n_slots = options->n_micro_batches ? options->n_micro_batches : size > 1 ? 2 : 1;
    if (options->residual_memory_bytes != UINT64_MAX) engine.residual_bytes = options->residual_memory_bytes;
    return engine;
}

cox_exchange_options cox_run_exchange_options(const cox_run_options *options, const cox_model *model,
                                              int32_t size)
{
    cox_engine_options engine = cox_run_engine_options(options, size);
    return (cox_exchange_options){.kind = options->exchange,
                                  .n_slots = engine.n_slots,
                                  .max_rows = cox_engine_slot_rows(&engine),
                                  .row_width = model->d_model + COX_ROW_TAIL,
                                  .top_k = model->router.top_k};
}

uint64_t cox_footprint_total(const cox_footprint *footprint)
{
    return footprint->trunk + footprint->experts + footprint->kv_cache + footprint->activations +
           footprint->exchange + footprint->base;
}

static uint64_t tokenizer_bytes(const cox_model *model)
{
    char path[PATH_MAX];
    struct stat file;
    snprintf(path, sizeof path, "%s/tokenizer.json", model->folder);
    return stat(path, &file) == 0 ? (uint64_t)(TOKENIZER_FACTOR * (double)file.st_size) : 0;
}

static void predict_engine(cox_footprint *footprint, const cox_model *model, const cox_kernels *kernels,
                           const cox_layout *layout, const cox_run_options *options)
{
    cox_engine_options engine = cox_run_engine_options(options, layout->size);
    uint64_t all = cox_engine_bytes(model, kernels, &engine, layout->n_threads);
    engine.kv_bytes = 1; /* no page fits */
    footprint->activations += cox_engine_bytes(model, kernels, &engine, layout->n_threads);
    footprint->kv_cache = all > footprint->activations ? all - footprint->activations : 0;
}

static uint64_t base_bytes(int32_t size)
{
    if (size == 1) return BASE_ALONE_BYTES;
    return BASE_MPI_BYTES + BASE_PEER_BYTES * (uint64_t)(size < MOST_PEERS ? size : MOST_PEERS);
}

cox_footprint cox_footprint_predict(const cox_model *model, const cox_kernels *kernels,
                                    const cox_placement *placement, const cox_layout *layout,
                                    const cox_run_options *options, int32_t rank)
{
    bool is_coordinator = rank < layout->n_coordinators, is_host = cox_layout_hosts_experts(layout, rank);
    cox_footprint footprint = {.base = base_bytes(layout->size)};
    if (is_coordinator) {
        footprint.trunk = cox_model_trunk_bytes(model);
        footprint.base += tokenizer_bytes(model);
        predict_engine(&footprint, model, kernels, layout, options);
        footprint.activations += options->caller_bytes;
    }
    for (int32_t l = 0; l < model->n_layers && is_host; l++) {
        if (!model->layers[l].is_moe) continue;
        const cox_expert_id *ids = NULL;
        int32_t n = cox_placement_local(placement, l, rank, &ids);
        footprint.n_experts += n;
        footprint.experts += (uint64_t)n * cox_model_expert_bytes(model, l);
    }
    if (is_host) footprint.activations += cox_worker_scratch_bytes(model, kernels, layout->n_threads);
    cox_exchange_options exchange = cox_run_exchange_options(options, model, layout->size);
    exchange.placement = placement;
    footprint.exchange = cox_exchange_bytes(&exchange, layout->n_coordinators, layout->n_expert_ranks,
                                            layout->size, is_coordinator, is_host);
    return footprint;
}
