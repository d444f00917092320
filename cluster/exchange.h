/*
 * Rows to the experts and their outputs back. One interface, several back-ends (self, sparse, alltoall and
 * its twin alltoallv) with bit-identical results. The coordinator's side of one micro-batch in one layer, in
 * a slot of its own:
 *
 *   cox_dispatch_plan_build   who gets which rows (pure)
 *   cox_exchange_dispatch_begin  packs the rows and starts sending them
 *   cox_exchange_dispatch_end    this rank's own experts have computed their share; the plan must stay
 *   cox_exchange_combine_begin   makes sure that receiving the replies is under way
 *   cox_exchange_combine_end     all replies are here; valid until the slot's next dispatch_begin
 *
 * Token order: by sequence, then position: row i of the micro-batch. Route i*top_k + j is choice j of row
 * i. A row travels once per destination rank with the list of its local experts there. The reply carries
 * one pre-gate row per route. Expert hosts: cox_exchange_serve loops until every coordinator has finished;
 * coordinators that host experts serve others' rows while they wait.
 */
#ifndef COX_CLUSTER_EXCHANGE_H
#define COX_CLUSTER_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/counters.h"
#include "base/status.h"
#include "cluster/cluster.h"
#include "cluster/placement.h"

/* Rows that a coordinator (maybe this very rank) wants computed here. All memory belongs to the exchange and
 * is valid until the host's computation has ended. */
typedef struct cox_work {
    int32_t layer, n_rows, n_routes;
    const float *rows;               /* [n_rows, row_width] f32 */
    const int32_t *route_offsets;    /* [n_rows+1]: routes of row i are route_offsets[i]..[i+1]-1 */
    const cox_local_expert *experts; /* [n_routes] ascending within a row */
    float *replies;                  /* [n_routes, row_width] f32, to be filled: pre-gate expert outputs */
} cox_work;

/*
 * What computes the outputs of this rank's experts. A computation is begun and then polled until it has
 * ended, so that a device beside the CPU can serve; a host that computes all of it in begin has cox_host_done
 * as its poll. One computation is under way at a time. Both functions are called on this rank's main thread
 * from within exchange calls, and must not call the exchange.
 */
typedef struct cox_host {
    void *context;
    /* [out] work->replies, now or later. Until the computation ends, *work and its rows, routes and experts
     * stay as they are and its replies are the host's alone. Errors: nothing was begun. */
    cox_status (*begin)(void *context, const cox_work *work);
    /* Returns at once; called again as long as it says OK and not done. [out] *is_done: all replies are
     * there. Done or an error ends the computation: the host touches nothing of *work any more. The
     * coordinator gets the status as if begin had failed. What will never be done must become an error: this
     * rank gives signs of life while it polls, so that no other takes it for hung. */
    cox_status (*poll)(void *context, bool *is_done);
} cox_host;

/* The poll of a host whose begin computes all. */
cox_status cox_host_done(void *context, bool *is_done);

/* auto: chosen at start; self: one process; alltoall: nonblocking neighbourhood all-to-all; sparse:
 * pre-posted point-to-point; alltoallv: the twin of alltoall on plain MPI_Ialltoallv, for MPIs and simulators
 * without the other. */
#define COX_EXCHANGE_LIST(X) \
    X(AUTO, "auto") X(SELF, "self") X(ALLTOALL, "alltoall") X(SPARSE, "sparse") X(ALLTOALLV, "alltoallv")
typedef enum cox_exchange_kind {
#define X(name, text) COX_EXCHANGE_##name,
    COX_EXCHANGE_LIST(X)
#undef X
        COX_N_EXCHANGES
} cox_exchange_kind;
const char *cox_exchange_kind_name(cox_exchange_kind kind);
/* AUTO when there is none of that name. */
cox_exchange_kind cox_exchange_find(const char *name);

enum { COX_MAX_SLOTS = 4 };
typedef struct cox_exchange_options {
    cox_exchange_kind
        kind; /* on one rank every kind is self; AUTO: sparse with several coordinators, else calibrated */
    int32_t n_slots;          /* micro-batches in flight, 1..COX_MAX_SLOTS */
    int32_t max_rows;         /* of one micro-batch */
    int32_t row_width, top_k; /* floats of a row and of a reply */
    const cox_placement *placement;
    cox_host host; /* zeros on ranks without experts */
} cox_exchange_options;

typedef struct cox_exchange cox_exchange;

/* Bytes that create takes on a rank with the given roles; for predictions. Not collective. */
size_t cox_exchange_bytes(const cox_exchange_options *options, int32_t n_coordinators, int32_t n_expert_ranks,
                          int32_t size, bool is_coordinator, bool is_expert_host);

/* Takes all its memory now. Collective. Errors: INVALID (self with several ranks, ...), NO_MEMORY. */
cox_status cox_exchange_create(cox_exchange **exchange, cox_cluster *cluster,
                               const cox_exchange_options *options);
void cox_exchange_destroy(cox_exchange *exchange); /* Collective. NULL is allowed. */
const char *cox_exchange_name(
    const cox_exchange *exchange); /* "self", "sparse", "alltoall" or "alltoallv": what auto chose */

/* Who gets which rows. Allocated once by cox_dispatch_plan_create for max_rows, rebuilt for every
 * dispatch. */
typedef struct cox_dispatch_plan {
    int32_t n_rows, top_k, n_destinations;
    const int32_t *destinations; /* [n_destinations] MPI ranks, the cluster's expert ranks */
    int32_t *row_offsets;        /* [n_destinations+1] into rows */
    int32_t *rows;               /* rows of destination d: rows[row_offsets[d]..], ascending */
    int32_t *route_offsets;      /* [n_destinations+1] into experts */
    int32_t *row_routes; /* [row_offsets[n_destinations]+1]: routes of packed row i: row_routes[i]..[i+1]-1 */
    cox_local_expert *experts; /* [n_rows*top_k] by destination, then row, then ascending expert */
    int32_t *reply_index;      /* [n_rows*top_k]: the row of the replies where route i*top_k+j stands */
} cox_dispatch_plan;
cox_status cox_dispatch_plan_create(cox_dispatch_plan **plan, cox_arena *arena, const cox_cluster *cluster,
                                    int32_t max_rows, int32_t top_k);
/* experts: [n_rows, top_k] global ids, distinct within a row, any order; -1: no route there (its reply_index
 * means nothing), but at least one of a row. With replicas the host is chosen by a fixed rule. Takes no
 * memory. Not collective. */
void cox_dispatch_plan_build(cox_dispatch_plan *plan, const cox_placement *placement, int32_t layer,
                             const cox_expert_id *experts, int32_t n_rows);

/* rows: [plan->n_rows, row_width] f32 in token order; may be reused as soon as dispatch_begin returns. None
 * takes heap memory. Errors: INVALID (calls out of order); of this rank's own host, from dispatch_end, or
 * from combine_end if that was left out; PEER from combine_end (another host's status came with its reply;
 * message set). Only on coordinators. */
cox_status cox_exchange_dispatch_begin(cox_exchange *exchange, int32_t slot, int32_t layer,
                                       const cox_dispatch_plan *plan, const float *rows);
cox_status cox_exchange_dispatch_end(cox_exchange *exchange, int32_t slot);
cox_status cox_exchange_combine_begin(cox_exchange *exchange, int32_t slot);
/* [out] *replies: [n_rows*top_k + n_destinations, row_width] f32, indexed by plan->reply_index (in front of
 * each destination's replies one row belongs to the exchange, which receives a header there). Valid until the
 * slot's next dispatch_begin. */
cox_status cox_exchange_combine_end(cox_exchange *exchange, int32_t slot, const float **replies);

/* For coordinators with nothing to do: serves others' rows and lets messages move, for at most timeout_s,
 * returning early when something happened (mail included). */
cox_status cox_exchange_progress(cox_exchange *exchange, double timeout_s);

/* Expert hosts that are no coordinators: serve until every coordinator has finished. A finished coordinator
 * that hosts experts calls it too (on one that hosts none it returns at once). Returns the status that the
 * lowest failing coordinator finished with, its message included, else OK. */
cox_status cox_exchange_serve(cox_exchange *exchange);
/* A coordinator is done (status OK) or gives up (its message goes along); tells all expert hosts. Slots that
 * were dispatched and not combined are waited for. */
cox_status cox_exchange_finish(cox_exchange *exchange, cox_status status);

/* This rank's sums so far: rows and routes served, bytes, experts_s of the host, wait_s for replies
 * or for rows, dispatch_s for packing and starting messages. */
const cox_counters *cox_exchange_counters(const cox_exchange *exchange);

#endif
