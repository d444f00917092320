/*
 * Inside of the exchange: message formats, buffers, and the narrow table of functions that a back-end fills.
 * Buffers and packing are common to all back-ends (exchange.c), which only move them; so their results cannot
 * differ.
 *
 * A message to an expert host, in words of 4 bytes, segments aligned to 16 words:
 *   cox__header [16] | route_offsets [n_rows+1] | experts [n_routes] | padding to 16 | rows [n_rows,
 * row_width] f32 A reply: cox__reply_header [4] | outputs [n_routes, row_width] f32. The coordinator receives
 * it in place: the header ends where the destination's first output begins, in the last words of a row that
 * is kept free for it.
 */
#ifndef COX_CLUSTER_EXCHANGE_INTERNAL_H
#define COX_CLUSTER_EXCHANGE_INTERNAL_H

#include "cluster/exchange.h"
#include "cluster/internal.h"

enum { COX__HEADER_WORDS = 16, COX__REPLY_WORDS = 4, COX__WORD_ALIGN = 16 };
enum { COX__WORK = 1, COX__LAST = 2 }; /* kinds of headers: LAST ends a back-end's stream */
/* Tags on the exchange's communicator; + slot. */
enum { COX__TAG_WORK = 0, COX__TAG_REPLY = 8, COX__TAG_FAILURE = 16, COX__TAG_FINISH };

typedef struct cox__header {
    int32_t kind, slot, layer, n_rows, n_routes, n_words; /* n_words: of the whole message */
    int32_t unused[COX__HEADER_WORDS - 6];
} cox__header;

typedef struct cox__reply_header {
    int32_t status, rank, layer, n_routes;
} cox__reply_header;

typedef struct cox__notice { /* a status with its text: a host's failure, or how a coordinator finished */
    int32_t status;
    char message[COX__MESSAGE_BYTES];
} cox__notice;

/* A coordinator's side of one micro-batch in flight. */
typedef struct cox__exchange_slot {
    bool is_busy,
        has_own; /* between dispatch_begin and combine_end; this rank's own share is still to be computed */
    int32_t layer;
    const cox_dispatch_plan *plan;
    int32_t *outbox;   /* [outbox_words] the segments of all destinations */
    int32_t *segments; /* [n_destinations+1] where they begin, in words */
    float *replies;    /* [max_rows*top_k + n_destinations, row_width] */
} cox__exchange_slot;

/* An expert host's side of one slot of one coordinator. */
typedef struct cox__lane {
    int32_t coordinator, slot;
    int32_t *inbox; /* [inbox_words] */
    float *outbox;  /* [COX__WORD_ALIGN + max_rows*top_k*row_width]: the outputs begin at COX__WORD_ALIGN */
    int32_t n_outputs; /* routes of the reply */
} cox__lane;

/*
 * What a back-end has to keep to, besides moving bytes as they are:
 * - All common buffers (slots, lanes) are there before create, which may let their pointers point elsewhere,
 * into a window, say. Under `auto` create may run twice, with a destroy in between; what it took from the
 * arena stays. What it cannot serve, as `self` several ranks, is refused by check_options (exchange.c).
 * - dispatch leaves out this rank's own segment (x->own) and empty ones.
 * - is_answered stays true until the next dispatch, and is true when nothing was sent.
 * - serve is called on ranks without lanes too. A lane's last reply must have left before cox__lane_compute
 *   writes the next one; the next receive is posted before the reply goes.
 * - blame calls cox__wait_blame for each rank that owes an answer.
 */
typedef struct cox__backend {
    const char *name;                      /* as in COX_EXCHANGE_LIST */
    cox_status (*create)(cox_exchange *x); /* Collective, after all buffers are there; memory from x->arena */
    void (*destroy)(cox_exchange *x);      /* Collective, after every coordinator has said `last` */
    void (*dispatch)(cox_exchange *x,
                     int32_t slot); /* sends the packed segments, posts the receives of replies */
    bool (*is_answered)(cox_exchange *x, int32_t slot); /* all replies are here, all segments have left */
    void (*blame)(cox_exchange *x, int32_t slot,
                  const cox__wait *wait); /* asks about ranks that owe a reply */
    bool (*serve)(cox_exchange *x); /* computes and answers what has arrived; false when there was nothing */
    void (*last)(cox_exchange *x);  /* a coordinator dispatches no more */
} cox__backend;

extern const cox__backend cox__backend_self, cox__backend_sparse, cox__backend_alltoall,
    cox__backend_alltoallv;

struct cox_exchange {
    cox_cluster *cluster;
    cox_exchange_options options;
    cox_arena *arena;
    MPI_Comm comm; /* ours; MPI_COMM_NULL on one rank */
    const cox__backend *backend;
    void *state;                 /* the back-end's */
    int32_t n_destinations, own; /* own: this rank's index among the destinations, or -1 */
    const int32_t *destinations;
    bool is_coordinator, is_calibrating; /* calibrating: replies are not computed */
    size_t inbox_words, outbox_words;
    cox__exchange_slot slots[COX_MAX_SLOTS];
    int32_t n_lanes;
    cox__lane *lanes; /* [n_lanes] by coordinator, then slot; none for this rank's own slots */
    /* who has finished, and how */
    int32_t n_finished;
    bool *is_finished;            /* [n_coordinators] */
    cox__notice *finishes;        /* [n_coordinators] */
    MPI_Request *finish_receives; /* [n_coordinators] */
    cox__notice failure;          /* this rank's own, on its way to a coordinator */
    MPI_Request failure_send;
    cox_counters counters;
};

/* Computes the message in lane->inbox into lane->outbox, header included; what to send begins at
 * cox__lane_reply(). A failure of the host is put into the reply header, its text is sent by itself.
 */
void cox__lane_compute(cox_exchange *x, cox__lane *lane);
float *cox__lane_reply(cox__lane *lane);
size_t cox__lane_reply_words(const cox_exchange *x, const cox__lane *lane);

/* Where the reply of destination d arrives, and how long it is. */
float *cox__reply_place(const cox_exchange *x, const cox__exchange_slot *slot, int32_t d);
size_t cox__reply_words(const cox_exchange *x, const cox__exchange_slot *slot, int32_t d);

/* Begins a stream of steps: nobody has finished. Not collective. */
void cox__exchange_start(cox_exchange *x);

/* Chooses the back-end and creates it (calibrate.c). Collective. Errors: those of its create, NO_MEMORY. */
cox_status cox__exchange_choose(cox_exchange *x);

#endif
