/*
 * All-to-all back-ends. Each coordinator is the head of a circle with the expert hosts. A step is three
 * nonblocking collectives of the circle: fixed-size headers (which carry the counts), then the segments, and,
 * on a communicator of its own, the replies; the order of steps is the coordinator's on both, so several
 * slots may be in flight. Hosts keep the next headers' collective posted. Every host takes part in every
 * step, with or without rows.
 *
 * Two twins differ in one call: `alltoall` uses neighbourhood collectives on a star-shaped graph, where only
 * head and hosts exchange anything; `alltoallv` uses MPI_Ialltoallv with zero counts between hosts, for MPIs
 * without the former (the option COX_NEIGHBOURHOOD=OFF builds without them).
 */
#include <string.h>

#include "cluster/exchange_internal.h"

typedef struct vector { /* counts and displacements in words for each peer, untouchable while a collective is
                           active */
    int *counts, *displacements;
} vector;

typedef struct step { /* head: one slot's collectives */
    bool is_active;
    cox__header *headers; /* [n_peers] */
    vector headers_out, segments_out, replies_in;
    MPI_Request requests[3];
} step;

typedef struct circle {
    int32_t coordinator, first_lane;
    bool is_head, is_member, is_over; /* over: the head's last header was sent or has come */
    int n_peers, first_peer;          /* length of the vectors; where the hosts begin in the head's */
    MPI_Comm forward, backward;
    vector none;
    step steps[COX_MAX_SLOTS]; /* head */
    /* host: */
    cox__header next;             /* being received */
    cox__lane *arriving;          /* whose segment is being received; NULL */
    bool has_segment;             /* it has rows */
    vector header_in, segment_in; /* in use by header_request, segment_request */
    MPI_Request header_request, segment_request;
    vector replies_out[COX_MAX_SLOTS];
    MPI_Request replies[COX_MAX_SLOTS];
} circle;

typedef struct state {
    bool has_neighbourhood;
    circle *circles; /* [n_coordinators] */
} state;

/* The one call in which the twins differ. Buffers in words. */
static void start(const cox_exchange *x, MPI_Comm comm, const void *out, const vector *outs, void *in,
                  const vector *ins, MPI_Request *request)
{
#ifndef COX_NO_NEIGHBOURHOOD
    if (((const state *)x->state)->has_neighbourhood) {
        MPI_Ineighbor_alltoallv(out, outs->counts, outs->displacements, MPI_INT32_T, in, ins->counts,
                                ins->displacements, MPI_INT32_T, comm, request);
        return;
    }
#endif
    (void)x;
    MPI_Ialltoallv(out, outs->counts, outs->displacements, MPI_INT32_T, in, ins->counts, ins->displacements,
                   MPI_INT32_T, comm, request);
}

static void await_request(cox_exchange *x, const circle *c, MPI_Request *request)
{
    cox__wait wait;
    cox__wait_begin(x->cluster, &wait);
    for (;;) {
        int done = 0;
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done) return;
        if (!cox__wait_turn(x->cluster, &wait)) continue;
        for (int32_t d = 0; d < x->n_destinations && c->is_head; d++) {
            if (d != x->own)
                cox__wait_blame(x->cluster, &wait, x->destinations[d], x->cluster->hang_s, "a header");
        }
        if (!c->is_head) cox__wait_blame(x->cluster, &wait, c->coordinator, x->cluster->hang_s, "a header");
    }
}

/* --- Creation --- */

static cox_status vector_create(cox_exchange *x, vector *v, int n)
{
    v->counts = cox_arena_array(x->arena, (size_t)n, sizeof(int));
    v->displacements = cox_arena_array(x->arena, (size_t)n, sizeof(int));
    return v->counts && v->displacements ? COX_OK : COX_NO_MEMORY;
}

static cox_status head_create(cox_exchange *x, circle *c)
{
    for (int32_t i = 0; i < x->options.n_slots; i++) {
        step *s = &c->steps[i];
        s->headers = cox_arena_array(x->arena, (size_t)c->n_peers, sizeof *s->headers);
        if (!s->headers || vector_create(x, &s->headers_out, c->n_peers) != COX_OK ||
            vector_create(x, &s->segments_out, c->n_peers) != COX_OK ||
            vector_create(x, &s->replies_in, c->n_peers) != COX_OK) {
            return COX_NO_MEMORY;
        }
        for (int p = c->first_peer; p < c->n_peers; p++) {
            s->headers_out.counts[p] = COX__HEADER_WORDS;
            s->headers_out.displacements[p] = p * COX__HEADER_WORDS;
        }
    }
    return COX_OK;
}

static cox_status host_create(cox_exchange *x, circle *c)
{
    cox_status status = vector_create(x, &c->header_in, c->n_peers);
    if (status == COX_OK) status = vector_create(x, &c->segment_in, c->n_peers);
    for (int32_t i = 0; i < x->options.n_slots && status == COX_OK; i++) {
        c->replies[i] = MPI_REQUEST_NULL;
        status = vector_create(x, &c->replies_out[i], c->n_peers);
    }
    if (status == COX_OK) c->header_in.counts[0] = COX__HEADER_WORDS; /* the head is peer 0 in both twins */
    return status;
}

/* The communicators: head first, then the hosts, ascending. Collective over x->comm. */
static void connect(cox_exchange *x, circle *c, bool has_neighbourhood)
{
    MPI_Comm members = MPI_COMM_NULL;
    int key = c->is_head ? 0 : x->cluster->rank + 1, n_members = 0;
    MPI_Comm_split(x->comm, c->is_member ? 0 : MPI_UNDEFINED, key, &members);
    if (!c->is_member) return;
    MPI_Comm_size(members, &n_members);
    c->n_peers = n_members;
    c->first_peer = 1;
    c->forward = members;
#ifndef COX_NO_NEIGHBOURHOOD
    if (has_neighbourhood) {
        int n = c->is_head ? n_members - 1 : 1;
        int *peers = cox_arena_array(x->arena, (size_t)n, sizeof *peers);
        int *weights = cox_arena_array(x->arena, (size_t)n, sizeof *weights);
        if (!peers || !weights) cox_cluster_abort(x->cluster, COX_NO_MEMORY);
        for (int i = 0; i < n; i++) peers[i] = c->is_head ? i + 1 : 0;
        for (int i = 0; i < n; i++)
            weights[i] = 1; /* not MPI_UNWEIGHTED: gcc takes its address for an array's */
        MPI_Dist_graph_create_adjacent(members, n, peers, weights, n, peers, weights, MPI_INFO_NULL, 0,
                                       &c->forward);
        MPI_Comm_free(&members);
        c->n_peers = n;
        c->first_peer = 0;
    }
#endif
    (void)has_neighbourhood;
    MPI_Comm_dup(c->forward, &c->backward);
}

static cox_status circle_create(cox_exchange *x, circle *c, int32_t coordinator)
{
    *c = (circle){.coordinator = coordinator,
                  .is_head = coordinator == x->cluster->rank,
                  .forward = MPI_COMM_NULL,
                  .backward = MPI_COMM_NULL,
                  .header_request = MPI_REQUEST_NULL,
                  .segment_request = MPI_REQUEST_NULL};
    c->is_member = c->is_head || x->own >= 0;
    connect(x, c, ((state *)x->state)->has_neighbourhood);
    if (!c->is_member) return COX_OK;
    while (!c->is_head && x->lanes[c->first_lane].coordinator != coordinator) c->first_lane++;
    cox_status status = vector_create(x, &c->none, c->n_peers);
    if (status != COX_OK) return status;
    status = c->is_head ? head_create(x, c) : host_create(x, c);
    if (status != COX_OK || c->is_head) return status;
    start(x, c->forward, NULL, &c->none, &c->next, &c->header_in, &c->header_request);
    return COX_OK;
}

static cox_status create(cox_exchange *x, bool has_neighbourhood)
{
    size_t n = (size_t)x->cluster->n_coordinators;
    state *s = cox_arena_alloc(x->arena, sizeof *s);
    if (s) s->circles = cox_arena_array(x->arena, n, sizeof *s->circles);
    if (!s || !s->circles) cox_cluster_abort(x->cluster, COX_NO_MEMORY); /* the others are about to connect */
    s->has_neighbourhood = has_neighbourhood;
    x->state = s;
    cox_status status = COX_OK;
    for (int32_t c = 0; c < x->cluster->n_coordinators && status == COX_OK; c++) {
        status = circle_create(x, &s->circles[c], c);
        if (status != COX_OK) cox_cluster_abort(x->cluster, status);
    }
    return status;
}

#ifndef COX_NO_NEIGHBOURHOOD
static cox_status alltoall_create(cox_exchange *x)
{
    return create(x, true);
}
#endif

static cox_status alltoallv_create(cox_exchange *x)
{
    return create(x, false);
}

/* --- The head --- */

static void head_dispatch(cox_exchange *x, int32_t slot_index)
{
    circle *c = &((state *)x->state)->circles[x->cluster->rank];
    step *s = &c->steps[slot_index];
    const cox__exchange_slot *slot = &x->slots[slot_index];
    int peer = c->first_peer;
    for (int32_t d = 0; d < x->n_destinations; d++) {
        if (d == x->own) continue;
        size_t n_words = (size_t)(slot->segments[d + 1] - slot->segments[d]);
        s->headers[peer] = (cox__header){.kind = COX__WORK, .slot = slot_index, .layer = slot->layer};
        if (n_words > 0) memcpy(&s->headers[peer], slot->outbox + slot->segments[d], sizeof s->headers[peer]);
        s->segments_out.counts[peer] = cox__count(x->cluster, n_words, "a message of rows");
        s->segments_out.displacements[peer] = slot->segments[d];
        s->replies_in.counts[peer] = cox__count(x->cluster, cox__reply_words(x, slot, d), "a reply");
        s->replies_in.displacements[peer] =
            cox__count(x->cluster, (size_t)(cox__reply_place(x, slot, d) - slot->replies), "the replies");
        peer++;
    }
    start(x, c->forward, s->headers, &s->headers_out, NULL, &c->none, &s->requests[0]);
    start(x, c->forward, slot->outbox, &s->segments_out, NULL, &c->none, &s->requests[1]);
    start(x, c->backward, NULL, &c->none, slot->replies, &s->replies_in, &s->requests[2]);
    s->is_active = true;
}

static bool head_is_answered(cox_exchange *x, int32_t slot)
{
    step *s = &((state *)x->state)->circles[x->cluster->rank].steps[slot];
    int done = 0;
    if (!s->is_active) return true;
    MPI_Testall(3, s->requests, &done, MPI_STATUSES_IGNORE);
    if (done) s->is_active = false;
    return done != 0;
}

/* Whose part is missing the collective does not tell; but waiting hosts give signs of life, so silence does.
 */
static void head_blame(cox_exchange *x, int32_t slot, const cox__wait *wait)
{
    (void)slot;
    for (int32_t d = 0; d < x->n_destinations; d++) {
        if (d == x->own) continue;
        cox__wait_blame(x->cluster, wait, x->destinations[d], x->cluster->hang_s, "its experts' output");
    }
}

static void head_last(cox_exchange *x)
{
    circle *c = &((state *)x->state)->circles[x->cluster->rank];
    step *s = &c->steps[0]; /* nothing is in flight any more */
    if (c->is_over) return;
    for (int p = c->first_peer; p < c->n_peers; p++) s->headers[p] = (cox__header){.kind = COX__LAST};
    start(x, c->forward, s->headers, &s->headers_out, NULL, &c->none, &s->requests[0]);
    await_request(x, c, &s->requests[0]);
    c->is_over = true;
}

/* --- A host --- */

static void take_header(cox_exchange *x, circle *c)
{
    cox__header h = c->next;
    if (h.kind == COX__LAST) {
        c->is_over = true;
        return;
    }
    if (h.kind != COX__WORK || h.slot < 0 || h.slot >= x->options.n_slots || h.n_words < 0 ||
        (size_t)h.n_words > x->inbox_words) {
        cox_cluster_abort(x->cluster,
                          cox_fail(COX_INTERNAL,
                                   "malformed step header from rank %d (kind %d, slot %d, %d"
                                   " words)",
                                   (int)c->coordinator, (int)h.kind, (int)h.slot, (int)h.n_words));
    }
    c->arriving = &x->lanes[c->first_lane + h.slot];
    c->has_segment = h.n_words > 0;
    c->segment_in.counts[0] = h.n_words;
    start(x, c->forward, NULL, &c->none, c->arriving->inbox, &c->segment_in, &c->segment_request);
    start(x, c->forward, NULL, &c->none, &c->next, &c->header_in, &c->header_request);
}

static void answer(cox_exchange *x, circle *c)
{
    cox__lane *lane = c->arriving;
    c->arriving = NULL;
    /* The coordinator has this slot's last reply, or it would not have used the slot again: this ends at
     * once. */
    if (c->replies[lane->slot] != MPI_REQUEST_NULL) await_request(x, c, &c->replies[lane->slot]);
    if (c->has_segment) {
        cox__lane_compute(x, lane);
    } else {
        lane->n_outputs = 0;
        memset(cox__lane_reply(lane), 0, sizeof(cox__reply_header)); /* status OK */
    }
    vector *v = &c->replies_out[lane->slot];
    v->counts[0] = cox__count(x->cluster, cox__lane_reply_words(x, lane), "a reply");
    start(x, c->backward, cox__lane_reply(lane), v, NULL, &c->none, &c->replies[lane->slot]);
}

static bool host_step(cox_exchange *x, circle *c)
{
    int done = 0;
    if (c->arriving) {
        MPI_Test(&c->segment_request, &done, MPI_STATUS_IGNORE);
        if (done) answer(x, c);
    } else if (!c->is_over) {
        MPI_Test(&c->header_request, &done, MPI_STATUS_IGNORE);
        if (done) take_header(x, c);
    }
    return done != 0;
}

static bool host_serve(cox_exchange *x)
{
    state *s = x->state;
    bool did = false;
    for (int32_t i = 0; i < x->cluster->n_coordinators; i++) {
        circle *c = &s->circles[i];
        if (c->is_member && !c->is_head) did |= host_step(x, c);
    }
    return did;
}

static void alltoall_destroy(cox_exchange *x)
{
    state *s = x->state;
    if (x->is_coordinator) head_last(x);
    for (int32_t i = 0; i < x->cluster->n_coordinators; i++) {
        circle *c = &s->circles[i];
        if (!c->is_member) continue;
        if (!c->is_head) {
            if (!c->is_over) await_request(x, c, &c->header_request);
            for (int32_t slot = 0; slot < x->options.n_slots; slot++) await_request(x, c, &c->replies[slot]);
        }
        MPI_Comm_free(&c->forward);
        MPI_Comm_free(&c->backward);
    }
}

const cox__backend cox__backend_alltoall = {
#ifdef COX_NO_NEIGHBOURHOOD
    .name = "alltoall",
    .create = alltoallv_create,
#else
    .name = "alltoall",
    .create = alltoall_create,
#endif
    .destroy = alltoall_destroy,
    .dispatch = head_dispatch,
    .is_answered = head_is_answered,
    .blame = head_blame,
    .serve = host_serve,
    .last = head_last};

const cox__backend cox__backend_alltoallv = {.name = "alltoallv",
                                             .create = alltoallv_create,
                                             .destroy = alltoall_destroy,
                                             .dispatch = head_dispatch,
                                             .is_answered = head_is_answered,
                                             .blame = head_blame,
                                             .serve = host_serve,
                                             .last = head_last};
