/*
 * The common half of the exchange: buffers, packing, the coordinator's four calls, the loop of an expert
 * host, and how it all ends. Moving bytes is the business of the back-ends (exchange_self.c,
 * exchange_sparse.c, exchange_alltoall.c). A coordinator's own experts take their rows out of the packed
 * segment and write their outputs to the place where a reply would have arrived.
 */
#include "cluster/exchange.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/exchange_internal.h"

static const double COORDINATOR_SLACK =
    1.5; /* hosts wait so many hang_s for a coordinator that owes nothing yet */

static size_t align_words(size_t n)
{
    return (n + COX__WORD_ALIGN - 1) / COX__WORD_ALIGN * COX__WORD_ALIGN;
}

/* Words of one segment. */
static size_t segment_words(size_t n_rows, size_t n_routes, size_t row_width)
{
    return align_words(align_words(COX__HEADER_WORDS + n_rows + 1 + n_routes) + n_rows * row_width);
}

/* --- Creation --- */

typedef struct sizes {
    size_t inbox_words, outbox_words, reply_words, lane_reply_words;
} sizes;

static sizes sizes_of(const cox_exchange_options *o, int32_t n_expert_ranks)
{
    size_t rows = (size_t)o->max_rows, top_k = (size_t)o->top_k, d = (size_t)o->row_width,
           n = (size_t)n_expert_ranks;
    size_t packed = rows * (top_k < n ? top_k : n);
    return (sizes){.inbox_words = segment_words(rows, rows * top_k, d),
                   .outbox_words = n * 4 * COX__WORD_ALIGN + packed * (d + 1) + rows * top_k,
                   .reply_words = (rows * top_k + n) * d,
                   .lane_reply_words = COX__WORD_ALIGN + rows * top_k * d};
}

size_t cox_exchange_bytes(const cox_exchange_options *o, int32_t n_coordinators, int32_t n_expert_ranks,
                          int32_t size, bool is_coordinator, bool is_expert_host)
{
    sizes s = sizes_of(o, n_expert_ranks);
    size_t words = 0, n_slots = (size_t)o->n_slots;
    if (is_coordinator) words += n_slots * (s.outbox_words + s.reply_words + (size_t)n_expert_ranks + 1);
    if (is_expert_host && size > 1) {
        words += (size_t)(n_coordinators - is_coordinator) * n_slots * (s.inbox_words + s.lane_reply_words);
    }
    return words * sizeof(float) + sizeof(cox_exchange) + (size_t)n_coordinators * sizeof(cox__notice);
}

static cox_status check_options(const cox_exchange *x)
{
    const cox_exchange_options *o = &x->options;
    if (o->n_slots < 1 || o->n_slots > COX_MAX_SLOTS || o->max_rows < 1 || o->top_k < 1) {
        return cox_fail(COX_INVALID,
                        "exchange of %d slots, %d rows, top-%d: slots are 1 to %d, rows and top-k positive",
                        (int)o->n_slots, (int)o->max_rows, (int)o->top_k, COX_MAX_SLOTS);
    }
    if (o->row_width < COX__REPLY_WORDS) {
        return cox_fail(COX_UNSUPPORTED, "row_width %d: the exchange needs at least %d", (int)o->row_width,
                        COX__REPLY_WORDS);
    }
    if (!o->placement) return cox_fail(COX_INVALID, "exchange without a placement of experts");
    if (x->own >= 0 && (!o->host.begin || !o->host.poll))
        return cox_fail(COX_INVALID, "exchange without a host function on a rank with experts");
    if (o->kind == COX_EXCHANGE_SELF && x->cluster->size > 1) {
        return cox_fail(COX_INVALID,
                        "the exchange `self` is for one rank, here are %d: use auto, sparse or alltoall",
                        (int)x->cluster->size);
    }
    sizes s = sizes_of(o, x->n_destinations);
    if (s.outbox_words > INT32_MAX || s.reply_words > INT32_MAX || s.lane_reply_words > INT32_MAX) {
        return cox_fail(COX_INVALID,
                        "%d rows of %d numbers, top-%d, are more than one exchange can address: use a smaller"
                        " prefill chunk",
                        (int)o->max_rows, (int)o->row_width, (int)o->top_k);
    }
    return COX_OK;
}

/* All ranks must have been given the same shape. Collective. */
static cox_status check_same(const cox_exchange *x)
{
    const cox_exchange_options *o = &x->options;
    const int32_t mine[6] = {(int32_t)o->kind, o->n_slots, o->max_rows,
                             o->row_width,     o->top_k,   cox_placement_n_experts(o->placement)};
    void *data = (void *)mine;
    size_t n = sizeof mine;
    cox_status status = cox_cluster_broadcast(x->cluster, 0, &data, &n);
    if (status != COX_OK) return status;
    if (memcmp(mine, data, sizeof mine) != 0) {
        status = cox_fail(COX_INVALID, "the exchange's options differ from those of rank 0");
    }
    if (data != mine) free(data);
    return cox_cluster_agree(x->cluster, status);
}

static cox_status take_slots(cox_exchange *x, sizes s)
{
    for (int32_t i = 0; i < x->options.n_slots && x->is_coordinator; i++) {
        cox__exchange_slot *slot = &x->slots[i];
        slot->outbox = cox_arena_array(x->arena, s.outbox_words, sizeof(int32_t));
        slot->segments = cox_arena_array(x->arena, (size_t)x->n_destinations + 1, sizeof(int32_t));
        slot->replies = cox_arena_array(x->arena, s.reply_words, sizeof(float));
        if (!slot->outbox || !slot->segments || !slot->replies) return COX_NO_MEMORY;
    }
    return COX_OK;
}

static cox_status take_lanes(cox_exchange *x, sizes s)
{
    int32_t n_coordinators = x->cluster->n_coordinators;
    if (x->own < 0) return COX_OK;
    x->lanes = cox_arena_array(x->arena, (size_t)(n_coordinators * x->options.n_slots), sizeof *x->lanes);
    if (!x->lanes) return COX_NO_MEMORY;
    for (int32_t c = 0; c < n_coordinators; c++) {
        for (int32_t slot = 0; slot < x->options.n_slots && c != x->cluster->rank; slot++) {
            cox__lane *lane = &x->lanes[x->n_lanes++];
            *lane = (cox__lane){.coordinator = c, .slot = slot};
            lane->inbox = cox_arena_array(x->arena, s.inbox_words, sizeof(int32_t));
            lane->outbox = cox_arena_array(x->arena, s.lane_reply_words, sizeof(float));
            if (!lane->inbox || !lane->outbox) return COX_NO_MEMORY;
        }
    }
    return COX_OK;
}

static cox_status exchange_take_memory(cox_exchange *x)
{
    sizes s = sizes_of(&x->options, x->n_destinations);
    x->inbox_words = s.inbox_words;
    x->outbox_words = s.outbox_words;
    size_t n_coordinators = (size_t)x->cluster->n_coordinators;
    cox_status status = cox_arena_create(&x->arena, "exchange", 0);
    if (status != COX_OK) return status;
    x->is_finished = cox_arena_array(x->arena, n_coordinators, sizeof *x->is_finished);
    x->finishes = cox_arena_array(x->arena, n_coordinators, sizeof *x->finishes);
    x->finish_receives = cox_arena_array(x->arena, n_coordinators, sizeof *x->finish_receives);
    if (!x->is_finished || !x->finishes || !x->finish_receives) return COX_NO_MEMORY;
    for (size_t i = 0; i < n_coordinators; i++) x->finish_receives[i] = MPI_REQUEST_NULL;
    status = take_slots(x, s);
    return status == COX_OK ? take_lanes(x, s) : status;
}

void cox__exchange_start(cox_exchange *x)
{
    for (int32_t c = 0; c < x->cluster->n_coordinators; c++) {
        x->is_finished[c] = false;
        if (x->own < 0 || c == x->cluster->rank) continue;
        MPI_Irecv(&x->finishes[c], (int)sizeof *x->finishes, MPI_BYTE, c, COX__TAG_FINISH, x->comm,
                  &x->finish_receives[c]);
    }
    x->n_finished = 0;
}

cox_status cox_exchange_create(cox_exchange **exchange, cox_cluster *cluster,
                               const cox_exchange_options *options)
{
    cox_exchange *x = calloc(1, sizeof *x);
    if (!x) cox_cluster_abort(cluster, cox_no_memory("the exchange"));
    *x = (cox_exchange){.cluster = cluster,
                        .options = *options,
                        .comm = MPI_COMM_NULL,
                        .own = -1,
                        .failure_send = MPI_REQUEST_NULL,
                        .is_coordinator = cox_cluster_is_coordinator(cluster)};
    x->n_destinations = cox_cluster_expert_ranks(cluster, &x->destinations);
    for (int32_t d = 0; d < x->n_destinations; d++) {
        if (x->destinations[d] == cluster->rank) x->own = d;
    }
    cox_status status = cox_cluster_agree(cluster, check_options(x));
    if (status == COX_OK) status = check_same(x);
    if (status == COX_OK) status = cox_cluster_agree(cluster, exchange_take_memory(x));
    if (status == COX_OK && cluster->size > 1) MPI_Comm_dup(cluster->control, &x->comm);
    if (status == COX_OK) status = cox__exchange_choose(x);
    if (status != COX_OK) {
        cox_exchange_destroy(x);
        return status;
    }
    *exchange = x;
    return COX_OK;
}

void cox_exchange_destroy(cox_exchange *x)
{
    if (!x) return;
    if (x->backend) {
        cox_cluster_agree(x->cluster, COX_OK); /* nobody takes its buffers away while another still sends */
        x->backend->destroy(x);
        if (x->failure_send != MPI_REQUEST_NULL) MPI_Request_free(&x->failure_send);
        for (int32_t c = 0; c < x->cluster->n_coordinators; c++) {
            if (x->finish_receives[c] == MPI_REQUEST_NULL) continue;
            MPI_Cancel(&x->finish_receives[c]);
            MPI_Wait(&x->finish_receives[c], MPI_STATUS_IGNORE);
        }
    }
    if (x->comm != MPI_COMM_NULL) MPI_Comm_free(&x->comm);
    cox_arena_destroy(x->arena);
    free(x);
}

const char *cox_exchange_name(const cox_exchange *x)
{
    return x->backend->name;
}

const cox_counters *cox_exchange_counters(const cox_exchange *x)
{
    return &x->counters;
}

/* --- Computing --- */

/* The work of one packed segment. */
static cox_work work_of(const int32_t *segment, float *replies)
{
    const cox__header *h = (const cox__header *)(const void *)segment;
    const int32_t *route_offsets = segment + COX__HEADER_WORDS;
    const int32_t *experts = route_offsets + h->n_rows + 1;
    size_t rows = align_words((size_t)(experts + h->n_routes - segment));
    return (cox_work){.layer = h->layer,
                      .n_rows = h->n_rows,
                      .n_routes = h->n_routes,
                      .rows = (const float *)(const void *)(segment + rows),
                      .route_offsets = route_offsets,
                      .experts = (const cox_local_expert *)(const void *)experts,
                      .replies = replies};
}

cox_status cox_host_done(void *context, bool *is_done)
{
    (void)context;
    *is_done = true;
    return COX_OK;
}

/* Polls until the computation that was begun has ended. */
static cox_status await_host(cox_exchange *x)
{
    const cox_host *host = &x->options.host;
    bool is_done = false;
    cox_status status = host->poll(host->context, &is_done);
    if (status != COX_OK || is_done) return status;
    cox__wait wait;
    cox__wait_begin(x->cluster, &wait);
    while (status == COX_OK && !is_done) {
        cox__wait_turn(x->cluster, &wait);
        status = host->poll(host->context, &is_done);
    }
    return status;
}

static cox_status compute(cox_exchange *x, const cox_work *work)
{
    if (x->is_calibrating) return COX_OK;
    cox_cluster_keepalive(x->cluster, "computing experts");
    double begin_s = cox_span_now_s();
    cox_status status = x->options.host.begin(x->options.host.context, work);
    if (status == COX_OK) status = await_host(x);
    x->counters.experts_s += cox_span_now_s() - begin_s;
    x->counters.rows_served += (uint64_t)work->n_rows;
    x->counters.routes_served += (uint64_t)work->n_routes;
    return status;
}

float *cox__lane_reply(cox__lane *lane)
{
    return lane->outbox + COX__WORD_ALIGN - COX__REPLY_WORDS;
}

size_t cox__lane_reply_words(const cox_exchange *x, const cox__lane *lane)
{
    return COX__REPLY_WORDS + (size_t)lane->n_outputs * (size_t)x->options.row_width;
}

/* Sends the text of this rank's failure after the one before has left. */
static void send_failure(cox_exchange *x, const cox__lane *lane, cox_status status)
{
    int32_t to = lane->coordinator;
    cox__wait_all(x->cluster, 1, &x->failure_send, &to, "taking a failure");
    x->failure.status = status;
    snprintf(x->failure.message, sizeof x->failure.message, "%s", cox_status_message());
    MPI_Isend(&x->failure, (int)sizeof x->failure, MPI_BYTE, to, COX__TAG_FAILURE, x->comm, &x->failure_send);
}

void cox__lane_compute(cox_exchange *x, cox__lane *lane)
{
    const cox__header *h = (const cox__header *)(const void *)lane->inbox;
    const cox_exchange_options *o = &x->options;
    if (h->kind != COX__WORK || h->slot != lane->slot || h->n_rows < 1 || h->n_rows > o->max_rows ||
        h->n_routes < h->n_rows || h->n_routes > h->n_rows * o->top_k ||
        (size_t)h->n_words != segment_words((size_t)h->n_rows, (size_t)h->n_routes, (size_t)o->row_width)) {
        cox_cluster_abort(x->cluster, cox_fail(COX_INTERNAL,
                                               "malformed step header from rank %d (slot %d, %d rows, %d"
                                               " routes)",
                                               (int)lane->coordinator, (int)lane->slot, (int)h->n_rows,
                                               (int)h->n_routes));
    }
    cox_work work = work_of(lane->inbox, lane->outbox + COX__WORD_ALIGN);
    lane->n_outputs = h->n_routes;
    cox_status status = compute(x, &work);
    cox__reply_header reply = {
        .status = status, .rank = x->cluster->rank, .layer = h->layer, .n_routes = h->n_routes};
    memcpy(cox__lane_reply(lane), &reply, sizeof reply);
    x->counters.bytes_received += (uint64_t)h->n_words * sizeof(int32_t);
    x->counters.bytes_sent += cox__lane_reply_words(x, lane) * sizeof(float);
    if (status != COX_OK) send_failure(x, lane, status);
}

/* --- The coordinator's side --- */

float *cox__reply_place(const cox_exchange *x, const cox__exchange_slot *slot, int32_t d)
{
    size_t row = (size_t)slot->plan->route_offsets[d] + (size_t)d + 1;
    return slot->replies + row * (size_t)x->options.row_width - COX__REPLY_WORDS;
}

size_t cox__reply_words(const cox_exchange *x, const cox__exchange_slot *slot, int32_t d)
{
    int32_t n_routes = slot->plan->route_offsets[d + 1] - slot->plan->route_offsets[d];
    return COX__REPLY_WORDS + (size_t)n_routes * (size_t)x->options.row_width;
}

/* Packs the rows of destination d at `segment`; returns the words taken (0 without rows). */
static size_t pack(const cox_exchange *x, cox__exchange_slot *slot, int32_t slot_index, int32_t d,
                   const float *rows, int32_t *segment)
{
    const cox_dispatch_plan *p = slot->plan;
    int32_t first = p->row_offsets[d], n_rows = p->row_offsets[d + 1] - first;
    int32_t first_route = p->route_offsets[d], n_routes = p->route_offsets[d + 1] - first_route;
    size_t row_width = (size_t)x->options.row_width;
    if (n_rows == 0) return 0;
    size_t n_words = segment_words((size_t)n_rows, (size_t)n_routes, row_width);
    cox__header header = {.kind = COX__WORK,
                          .slot = slot_index,
                          .layer = slot->layer,
                          .n_rows = n_rows,
                          .n_routes = n_routes,
                          .n_words = (int32_t)n_words};
    memcpy(segment, &header, sizeof header);
    int32_t *at = segment + COX__HEADER_WORDS;
    for (int32_t i = 0; i <= n_rows; i++) *at++ = p->row_routes[first + i] - first_route;
    memcpy(at, p->experts + first_route, (size_t)n_routes * sizeof *p->experts);
    float *out = (float *)(void *)(segment + align_words((size_t)(at - segment) + (size_t)n_routes));
    for (int32_t i = 0; i < n_rows; i++, out += row_width) {
        memcpy(out, rows + (size_t)p->rows[first + i] * row_width, row_width * sizeof *rows);
    }
    return n_words;
}

cox_status cox_exchange_dispatch_begin(cox_exchange *x, int32_t slot_index, int32_t layer,
                                       const cox_dispatch_plan *plan, const float *rows)
{
    if (!x->is_coordinator || slot_index < 0 || slot_index >= x->options.n_slots ||
        x->slots[slot_index].is_busy) {
        return cox_fail(COX_INVALID, "dispatch in slot %d, which is %s", (int)slot_index,
                        x->is_coordinator ? "in use or none" : "not a coordinator's");
    }
    if (plan->n_rows > x->options.max_rows || plan->top_k != x->options.top_k) {
        return cox_fail(COX_INVALID, "dispatch of %d rows, top-%d: the exchange was made for %d rows, top-%d",
                        (int)plan->n_rows, (int)plan->top_k, (int)x->options.max_rows, (int)x->options.top_k);
    }
    double begin_s = cox_span_now_s();
    cox__exchange_slot *slot = &x->slots[slot_index];
    slot->is_busy = true;
    slot->layer = layer;
    slot->plan = plan;
    size_t at = 0;
    for (int32_t d = 0; d < x->n_destinations; d++) {
        slot->segments[d] = (int32_t)at;
        size_t n_words = pack(x, slot, slot_index, d, rows, slot->outbox + at);
        at += n_words;
        if (n_words == 0 || d == x->own) continue;
        x->counters.bytes_sent += n_words * sizeof(int32_t);
        x->counters.bytes_received += cox__reply_words(x, slot, d) * sizeof(float);
    }
    assert(at <= x->outbox_words);
    slot->segments[x->n_destinations] = (int32_t)at;
    slot->has_own = x->own >= 0 && slot->segments[x->own + 1] > slot->segments[x->own];
    x->backend->dispatch(x, slot_index);
    x->counters.dispatch_s += cox_span_now_s() - begin_s;
    return COX_OK;
}

cox_status cox_exchange_dispatch_end(cox_exchange *x, int32_t slot_index)
{
    cox__exchange_slot *slot = &x->slots[slot_index];
    if (!slot->is_busy)
        return cox_fail(COX_INVALID, "dispatch_end in slot %d without a dispatch", (int)slot_index);
    if (!slot->has_own) return COX_OK;
    slot->has_own = false;
    cox_work work =
        work_of(slot->outbox + slot->segments[x->own], cox__reply_place(x, slot, x->own) + COX__REPLY_WORDS);
    return compute(x, &work);
}

cox_status cox_exchange_combine_begin(cox_exchange *x, int32_t slot_index)
{
    if (!x->slots[slot_index].is_busy) {
        return cox_fail(COX_INVALID, "combine_begin in slot %d without a dispatch", (int)slot_index);
    }
    x->backend->is_answered(x, slot_index); /* the receives were posted with the dispatch: let them move */
    return COX_OK;
}

/* A coordinator that hangs may jam this rank's messages to everybody (it gives no buffers back), so that an
 * expert's rank seems to owe what it was never sent. */
static void blame_coordinators(const cox_exchange *x)
{
    const cox__wait since_heard = {0};
    for (int32_t c = 0; c < x->cluster->n_coordinators; c++) {
        if (c == x->cluster->rank || x->is_finished[c]) continue;
        cox__wait_blame(x->cluster, &since_heard, c, x->cluster->hang_s, "its next step");
    }
}

/* Waits for the replies of a slot, serving other coordinators meanwhile. */
static void await(cox_exchange *x, int32_t slot)
{
    if (x->backend->is_answered(x, slot)) return;
    double begin_s = cox_span_now_s(), experts_s = x->counters.experts_s;
    cox__wait wait;
    cox__wait_begin(x->cluster, &wait);
    x->cluster->pulse.what = "waiting for the outputs of experts";
    while (!x->backend->is_answered(x, slot)) {
        if (x->backend->serve(x)) {
            cox__wait_again(&wait);
        } else if (cox__wait_turn(x->cluster, &wait)) {
            blame_coordinators(x);
            x->backend->blame(x, slot, &wait);
        }
    }
    x->counters.wait_s += cox_span_now_s() - begin_s - (x->counters.experts_s - experts_s);
}

/* The first failure in the replies becomes this rank's status; the texts of all are taken in. */
static cox_status take_failures(cox_exchange *x, const cox__exchange_slot *slot)
{
    cox_status result = COX_OK;
    for (int32_t d = 0; d < x->n_destinations; d++) {
        cox__reply_header reply;
        if (d == x->own || slot->segments[d + 1] == slot->segments[d]) continue;
        memcpy(&reply, cox__reply_place(x, slot, d), sizeof reply);
        if (reply.status == COX_OK) continue;
        cox__notice notice;
        MPI_Request request;
        int32_t from = x->destinations[d];
        MPI_Irecv(&notice, (int)sizeof notice, MPI_BYTE, from, COX__TAG_FAILURE, x->comm, &request);
        cox__wait_all(x->cluster, 1, &request, &from, "the text of its failure");
        if (result != COX_OK) continue;
        result = cox_fail(COX_PEER, "rank %d on %s: %s", (int)from, x->cluster->hosts[from], notice.message);
    }
    return result;
}

cox_status cox_exchange_combine_end(cox_exchange *x, int32_t slot_index, const float **replies)
{
    cox__exchange_slot *slot = &x->slots[slot_index];
    if (!slot->is_busy)
        return cox_fail(COX_INVALID, "combine_end in slot %d without a dispatch", (int)slot_index);
    cox_status status = slot->has_own ? cox_exchange_dispatch_end(x, slot_index) : COX_OK;
    await(x, slot_index);
    slot->is_busy = false;
    cox_status theirs = take_failures(x, slot);
    if (status == COX_OK) status = theirs;
    if (status == COX_OK) *replies = slot->replies;
    return status;
}

/* --- Between steps, serving, and the end --- */

static void take_finishes(cox_exchange *x)
{
    for (int32_t c = 0; c < x->cluster->n_coordinators; c++) {
        int done = 0;
        if (x->is_finished[c] || x->finish_receives[c] == MPI_REQUEST_NULL) continue;
        MPI_Test(&x->finish_receives[c], &done, MPI_STATUS_IGNORE);
        if (!done) continue;
        x->is_finished[c] = true;
        x->n_finished++;
    }
}

cox_status cox_exchange_progress(cox_exchange *x, double timeout_s)
{
    double begin_s = cox_now_s();
    cox__wait wait;
    cox__wait_begin(x->cluster, &wait);
    for (;;) {
        bool served = x->backend->serve(x);
        if (cox__mail_advance(x->cluster) || served || cox_now_s() - begin_s >= timeout_s) return COX_OK;
        cox__wait_turn(x->cluster, &wait);
    }
}

/* What the coordinators finished with: the lowest failing one's status. */
static cox_status finish_status(const cox_exchange *x)
{
    for (int32_t c = 0; c < x->cluster->n_coordinators; c++) {
        if (!x->is_finished[c] || x->finishes[c].status == COX_OK) continue;
        return cox_fail((cox_status)x->finishes[c].status, "%s", x->finishes[c].message);
    }
    return COX_OK;
}

cox_status cox_exchange_serve(cox_exchange *x)
{
    if (x->own < 0 && x->cluster->size > 1)
        return finish_status(x); /* hosts nothing: only its own end counts */
    cox__wait wait;
    cox__wait_begin(x->cluster, &wait);
    double idle_s = cox_span_now_s();
    for (;;) {
        if (x->backend->serve(x)) {
            cox__wait_begin(x->cluster, &wait);
            x->cluster->pulse.what = "waiting for rows";
            idle_s = cox_span_now_s();
            continue;
        }
        take_finishes(x);
        if (x->n_finished == x->cluster->n_coordinators) break;
        bool ask = cox__wait_turn(x->cluster, &wait);
        double now_s = cox_span_now_s();
        x->counters.wait_s += now_s - idle_s;
        idle_s = now_s;
        for (int32_t c = 0; c < x->cluster->n_coordinators && ask; c++) {
            if (c == x->cluster->rank || x->is_finished[c]) continue;
            cox__wait_blame(x->cluster, &wait, c, COORDINATOR_SLACK * x->cluster->hang_s, "its next step");
        }
    }
    return finish_status(x);
}

cox_status cox_exchange_finish(cox_exchange *x, cox_status status)
{
    if (!x->is_coordinator) return cox_fail(COX_INVALID, "only a coordinator finishes an exchange");
    cox_cluster *c = x->cluster;
    cox__notice *mine = &x->finishes[c->rank];
    mine->status = status;
    snprintf(mine->message, sizeof mine->message, "%s", status == COX_OK ? "" : cox_status_message());
    for (int32_t slot = 0; slot < x->options.n_slots; slot++) { /* given up halfway: the replies still come */
        if (!x->slots[slot].is_busy) continue;
        await(x, slot);
        x->slots[slot].is_busy = false;
        take_failures(x, &x->slots[slot]);
    }
    x->backend->last(x);
    for (int32_t d = 0; d < x->n_destinations; d++) {
        int32_t to = x->destinations[d];
        if (to == c->rank) continue;
        MPI_Request request;
        MPI_Isend(mine, (int)sizeof *mine, MPI_BYTE, to, COX__TAG_FINISH, x->comm, &request);
        cox__wait_all(c, 1, &request, &to, "taking the end of the run");
    }
    x->is_finished[c->rank] = true;
    x->n_finished++;
    return COX_OK;
}
