/*
 * Point-to-point back-end: a message to each rank that gets rows, and to no other. Hosts keep one persistent
 * receive posted per coordinator and slot, of the largest size; the header says how much came. Coordinators
 * receive the replies in place. Nothing here depends on a rank that has no part in the step.
 */
#include "cluster/exchange_internal.h"

typedef struct flight { /* of one slot: only active requests */
    int32_t n;
    MPI_Request *requests; /* [2*n_destinations] sends and receives */
    int32_t *ranks;        /* [2*n_destinations] whom each waits for */
} flight;

typedef struct sparse {
    flight flights[COX_MAX_SLOTS];
    MPI_Request *receives; /* [n_lanes] persistent */
    MPI_Request *sends;    /* [n_lanes] replies on their way */
    int *arrived;          /* [n_lanes] scratch of Testsome */
} sparse;

static cox_status sparse_create(cox_exchange *x)
{
    size_t n_lanes = (size_t)x->n_lanes, n = (size_t)x->n_destinations;
    sparse *s = cox_arena_alloc(x->arena, sizeof *s);
    if (!s) return COX_NO_MEMORY;
    s->receives = cox_arena_array(x->arena, n_lanes, sizeof *s->receives);
    s->sends = cox_arena_array(x->arena, n_lanes, sizeof *s->sends);
    s->arrived = cox_arena_array(x->arena, n_lanes, sizeof *s->arrived);
    if (!s->receives || !s->sends || !s->arrived) return COX_NO_MEMORY;
    for (int32_t i = 0; i < x->options.n_slots && x->is_coordinator; i++) {
        s->flights[i].requests = cox_arena_array(x->arena, 2 * n, sizeof(MPI_Request));
        s->flights[i].ranks = cox_arena_array(x->arena, 2 * n, sizeof(int32_t));
        if (!s->flights[i].requests || !s->flights[i].ranks) return COX_NO_MEMORY;
    }
    int count = cox__count(x->cluster, x->inbox_words, "an inbox");
    for (int32_t i = 0; i < x->n_lanes; i++) {
        const cox__lane *lane = &x->lanes[i];
        s->sends[i] = MPI_REQUEST_NULL;
        MPI_Recv_init(lane->inbox, count, MPI_INT32_T, lane->coordinator, COX__TAG_WORK + lane->slot, x->comm,
                      &s->receives[i]);
        MPI_Start(&s->receives[i]);
    }
    x->state = s;
    return COX_OK;
}

static void sparse_destroy(cox_exchange *x)
{
    sparse *s = x->state;
    for (int32_t i = 0; i < x->n_lanes; i++) {
        cox__wait_all(x->cluster, 1, &s->sends[i], &x->lanes[i].coordinator, "taking a reply");
        MPI_Cancel(&s->receives[i]);
        MPI_Wait(&s->receives[i], MPI_STATUS_IGNORE); /* local */
        MPI_Request_free(&s->receives[i]);
    }
}

static void sparse_dispatch(cox_exchange *x, int32_t slot_index)
{
    sparse *s = x->state;
    cox__exchange_slot *slot = &x->slots[slot_index];
    flight *f = &s->flights[slot_index];
    f->n = 0;
    for (int32_t d = 0; d < x->n_destinations; d++) {
        size_t n_words = (size_t)(slot->segments[d + 1] - slot->segments[d]);
        if (n_words == 0 || d == x->own) continue;
        f->ranks[f->n] = x->destinations[d];
        MPI_Isend(slot->outbox + slot->segments[d], cox__count(x->cluster, n_words, "a message of rows"),
                  MPI_INT32_T, x->destinations[d], COX__TAG_WORK + slot_index, x->comm, &f->requests[f->n++]);
    }
    for (int32_t d = 0, n_sends = f->n; d < x->n_destinations && f->n < 2 * n_sends; d++) {
        if (d == x->own || slot->segments[d + 1] == slot->segments[d]) continue;
        f->ranks[f->n] = x->destinations[d];
        MPI_Irecv(cox__reply_place(x, slot, d),
                  cox__count(x->cluster, cox__reply_words(x, slot, d), "a reply"), MPI_FLOAT,
                  x->destinations[d], COX__TAG_REPLY + slot_index, x->comm, &f->requests[f->n++]);
    }
}

static bool sparse_is_answered(cox_exchange *x, int32_t slot)
{
    flight *f = &((sparse *)x->state)->flights[slot];
    int done = 0;
    if (f->n == 0) return true;
    MPI_Testall(f->n, f->requests, &done, MPI_STATUSES_IGNORE);
    if (done) f->n = 0;
    return done != 0;
}

static void sparse_blame(cox_exchange *x, int32_t slot, const cox__wait *wait)
{
    flight *f = &((sparse *)x->state)->flights[slot];
    for (int32_t i = 0; i < f->n; i++) {
        int done = 0;
        MPI_Request_get_status(f->requests[i], &done, MPI_STATUS_IGNORE);
        if (!done) cox__wait_blame(x->cluster, wait, f->ranks[i], x->cluster->hang_s, "its experts' output");
    }
}

static bool sparse_serve(cox_exchange *x)
{
    sparse *s = x->state;
    int n = 0;
    if (x->n_lanes == 0) return false;
    MPI_Testsome(x->n_lanes, s->receives, &n, s->arrived, MPI_STATUSES_IGNORE);
    for (int i = 0; i < n; i++) {
        int32_t at = s->arrived[i];
        cox__lane *lane = &x->lanes[at];
        /* The coordinator has this slot's last reply, or it would not have used the slot again: this ends at
         * once. */
        if (s->sends[at] != MPI_REQUEST_NULL) {
            cox__wait_all(x->cluster, 1, &s->sends[at], &lane->coordinator, "taking a reply");
        }
        cox__lane_compute(x, lane);
        MPI_Start(&s->receives[at]); /* before the reply: the slot's next message finds its receive posted */
        MPI_Isend(cox__lane_reply(lane), cox__count(x->cluster, cox__lane_reply_words(x, lane), "a reply"),
                  MPI_FLOAT, lane->coordinator, COX__TAG_REPLY + lane->slot, x->comm, &s->sends[at]);
    }
    return n > 0;
}

static void sparse_last(cox_exchange *x)
{
    (void)x; /* the receives that stay posted are cancelled */
}

const cox__backend cox__backend_sparse = {.name = "sparse",
                                          .create = sparse_create,
                                          .destroy = sparse_destroy,
                                          .dispatch = sparse_dispatch,
                                          .is_answered = sparse_is_answered,
                                          .blame = sparse_blame,
                                          .serve = sparse_serve,
                                          .last = sparse_last};
