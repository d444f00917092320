/*
 * Control messages between ranks. Sends are copied and leave in the background; a message that arrives
 * is received in the background, in order for each sender (MPI keeps the order of one pair), and handed out
 * when complete. On a communicator of its own, so that a probe sees mail only; the
 * tag is the channel.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"

typedef struct letter {
    struct letter *next;
    MPI_Request request;
    int32_t rank; /* whom it goes to or comes from */
    int channel;
    size_t n_bytes;
    char data[];
} letter;

typedef struct queue {
    letter *first, **end;
} queue;

struct cox__mail {
    queue outgoing, incoming;
};

static void queue_init(queue *q)
{
    *q = (queue){.first = NULL, .end = &q->first};
}

static void queue_push(queue *q, letter *l)
{
    *q->end = l;
    q->end = &l->next;
}

/* Takes out *at, which points to a member's place. */
static letter *queue_take(queue *q, letter **at)
{
    letter *l = *at;
    *at = l->next;
    if (q->end == &l->next) q->end = at;
    return l;
}

static letter *letter_create(int32_t rank, int channel, size_t n)
{
    letter *l = malloc(sizeof *l + (n > 0 ? n : 1));
    if (l) *l = (letter){.rank = rank, .channel = channel, .n_bytes = n, .request = MPI_REQUEST_NULL};
    return l;
}

cox_status cox__mail_create(cox_cluster *c)
{
    c->mail = calloc(1, sizeof *c->mail);
    if (!c->mail) return cox_no_memory("the mailbox");
    queue_init(&c->mail->outgoing);
    queue_init(&c->mail->incoming);
    return COX_OK;
}

static bool is_done(letter *l)
{
    int done = 0;
    MPI_Test(&l->request, &done, MPI_STATUS_IGNORE);
    return done != 0;
}

/* Frees what has left. */
static void sweep_outgoing(cox_cluster *c)
{
    for (letter **at = &c->mail->outgoing.first; *at;) {
        if (is_done(*at)) {
            free(queue_take(&c->mail->outgoing, at));
        } else {
            at = &(*at)->next;
        }
    }
}

/* Starts to receive everything that has been announced. */
static void accept_incoming(cox_cluster *c)
{
    for (;;) {
        int found = 0, n_bytes = 0;
        MPI_Status envelope;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, c->mail_comm, &found, &envelope);
        if (!found) return;
        MPI_Get_count(&envelope, MPI_BYTE, &n_bytes);
        letter *l = letter_create(envelope.MPI_SOURCE, envelope.MPI_TAG, (size_t)n_bytes);
        if (!l)
            cox_cluster_abort(c, cox_fail(COX_NO_MEMORY, "out of memory for a message of %d bytes", n_bytes));
        MPI_Irecv(l->data, n_bytes, MPI_BYTE, l->rank, l->channel, c->mail_comm, &l->request);
        queue_push(&c->mail->incoming, l);
    }
}

bool cox__mail_advance(cox_cluster *c)
{
    if (c->has_mpi && c->size > 1) {
        if (c->mail->outgoing.first) sweep_outgoing(c);
        accept_incoming(c);
    }
    for (letter *l = c->mail->incoming.first; l; l = l->next) {
        int done = 0;
        if (l->channel != COX_MAIL_SESSION) continue; /* waits until its reader asks */
        if (l->request != MPI_REQUEST_NULL) MPI_Request_get_status(l->request, &done, MPI_STATUS_IGNORE);
        if (done || l->request == MPI_REQUEST_NULL) return true;
    }
    return false;
}

cox_status cox_mailbox_send(cox_cluster *c, cox_mail_channel channel, int32_t to_rank, const void *data,
                            size_t n)
{
    if (to_rank < 0 || to_rank >= c->size)
        return cox_fail(COX_INVALID, "mail to rank %d of %d", (int)to_rank, (int)c->size);
    letter *l = letter_create(to_rank, (int)channel, n);
    if (!l) return cox_fail(COX_NO_MEMORY, "out of memory for a message of %zu bytes", n);
    if (n > 0) memcpy(l->data, data, n);
    if (to_rank == c->rank) {
        l->rank = c->rank;
        queue_push(&c->mail->incoming, l);
        return COX_OK;
    }
    MPI_Isend(l->data, cox__count(c, n, "a mailbox message"), MPI_BYTE, to_rank, l->channel, c->mail_comm,
              &l->request);
    queue_push(&c->mail->outgoing, l);
    return COX_OK;
}

/* Has a letter before `last` come from the same rank on the same channel? Then that one must be handed out
 * first. */
static bool is_overtaking(const cox_cluster *c, const letter *last)
{
    for (const letter *l = c->mail->incoming.first; l != last; l = l->next) {
        if (l->rank == last->rank && l->channel == last->channel) return true;
    }
    return false;
}

cox_status cox_mailbox_poll(cox_cluster *c, cox_mail_channel channel, int32_t *from_rank, void **data,
                            size_t *n)
{
    *data = NULL;
    *n = 0;
    cox__mail_advance(c);
    for (letter **at = &c->mail->incoming.first; *at; at = &(*at)->next) {
        letter *l = *at;
        if (l->channel != (int)channel || is_overtaking(c, l) ||
            (l->request != MPI_REQUEST_NULL && !is_done(l)))
            continue;
        void *bytes = malloc(l->n_bytes > 0 ? l->n_bytes : 1);
        if (!bytes) return cox_fail(COX_NO_MEMORY, "out of memory for a message of %zu bytes", l->n_bytes);
        memcpy(bytes, l->data, l->n_bytes);
        *data = bytes;
        *n = l->n_bytes;
        *from_rank = l->rank;
        free(queue_take(&c->mail->incoming, at));
        return COX_OK;
    }
    return COX_OK;
}

/* Letters that nobody read must not keep their senders here: all ranks receive until all have sent. */
static void drain(cox_cluster *c)
{
    MPI_Request barrier;
    cox__wait wait;
    int all_sent = 0;
    cox__wait_begin(c, &wait);
    for (cox__mail_advance(c); c->mail->outgoing.first; cox__mail_advance(c)) cox__wait_turn(c, &wait);
    MPI_Ibarrier(c->mail_comm, &barrier);
    for (;;) {
        cox__mail_advance(c);
        MPI_Test(&barrier, &all_sent, MPI_STATUS_IGNORE);
        if (all_sent) return;
        cox__wait_turn(c, &wait);
    }
}

void cox__mail_destroy(cox_cluster *c)
{
    if (c->has_mpi && c->size > 1) drain(c);
    while (c->mail->incoming.first) {
        letter *l = queue_take(&c->mail->incoming, &c->mail->incoming.first);
        if (l->request != MPI_REQUEST_NULL) cox__wait_all(c, 1, &l->request, &l->rank, "sending a message");
        free(l);
    }
    free(c->mail);
}
