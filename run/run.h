/*
 * What all commands that run the model share: the cluster, the model opened and compared on every rank, the
 * placement, the memory check before anything is loaded, the parallel load, kernels, expert host and
 * exchange; and at the end the table of what each rank held and did. After every step all ranks agree, so
 * that one rank's failure is everybody's.
 */
#ifndef COX_RUN_RUN_H
#define COX_RUN_RUN_H

#include "base/arena.h"
#include "base/counters.h"
#include "base/progress.h"
#include "run/footprint.h"
#include "run/options.h"
#include "cluster/cluster.h"
#include "model/chat_process.h"
#include "worker/worker.h"

typedef struct cox_run {
    cox_run_options options; /* as given; what its texts point to is borrowed */
    cox_chat_process *chat;  /* on coordinators when the run renders chats, else NULL */
    cox_cluster *cluster;
    cox_model *model;
    const cox_kernels *kernels;
    cox_placement *placement;
    cox_layout layout;
    cox_footprint footprint; /* of this rank */
    cox_arena *arena;        /* what loading the trunk takes */
    cox_trunk_weights trunk; /* on coordinators */
    cox_worker *worker;      /* NULL on ranks without experts */
    cox_exchange *exchange;
    cox_counters counters;   /* of this rank's engine, set by the command before close */
    uint64_t resident_bytes; /* when the work was done */
    int32_t rank;
} cox_run;

/* Everything up to the exchange. Collective. On failure the run is released and the status is the same on all
 * ranks. Errors: any; "rank R on HOST: ..." where only some ranks failed. */
cox_status cox_run_open(cox_run *run, const cox_run_options *options);

/* An engine over what the run has loaded, on a coordinator. options: NULL for the run's own. Not collective.
 * Errors: those of cox_engine_create. */
cox_status cox_run_create_engine(cox_run *run, const cox_engine_options *options,
                                 const cox_engine_events *events, cox_engine **engine);

/* cox_cluster_agree. Collective. */
cox_status cox_run_agree(cox_run *run, cox_status mine);

/* This rank's part after its own work: a coordinator says that it is done; whoever hosts experts serves until
 * all are. A failure that this rank alone sees ends the job (cox_cluster_abort) unless it is the only rank.
 * Returns the status of the run. Every rank calls it. */
cox_status cox_run_finish(cox_run *run, cox_status mine);

/* Prints the table of ranks (when asked for) on rank 0's stderr, writes it to the options' stats_file, if
 * there is one, and releases everything. Collective. */
void cox_run_close(cox_run *run, bool wants_table);

/* The placement of a layout: round robin, or from a file (path not NULL) read by this process. [out] owned by
 * the caller. Not collective. Errors: as cox_placement_parse, NOT_FOUND, IO. */
cox_status cox_run_read_placement(cox_placement **placement, const cox_model *model, const cox_layout *layout,
                                  const char *path);

/* A line on stderr when round robin leaves ranks without an expert in each layer. */
void cox_run_warn_of_idle(const cox_model *model, const cox_layout *layout, const char *path);

/* Is this rank 0, which reads, writes and talks to the user? */
static inline bool cox_run_is_front(const cox_run *run)
{
    return run->rank == 0;
}

#endif
