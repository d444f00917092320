/*
 * Signs of life. A rank that computes says so at most once a second (cox_cluster_keepalive), one that waits
 * every two seconds; experts' ranks tell the coordinators, coordinators tell everybody. There is no helper
 * thread: a rank whose main thread is stuck is silent, which is the point. Messages are small and sent
 * eagerly, over persistent requests.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alive.h"
#include "base/counters.h"
#include "cluster/internal.h"

static const double LOOK_MOST_S = 0.5, PULSE_COMPUTING_S = 1;

void cox__pulse_look(cox_cluster *c, double now_s)
{
    double passed_s = now_s - c->pulse.looked_s;
    c->pulse.clock_s += passed_s < LOOK_MOST_S ? passed_s : LOOK_MOST_S;
    c->pulse.looked_s = now_s;
}

void cox__pulse_poll(cox_cluster *c)
{
    cox__pulse *p = &c->pulse;
    if (c->size < 2) return;
    int n = 0, done[COX__PULSE_INBOX];
    p->polled_s = cox_now_s();
    do {
        MPI_Testsome(COX__PULSE_INBOX, p->receives, &n, done, MPI_STATUSES_IGNORE);
        for (int i = 0; i < n; i++) {
            const cox__pulse_message *message = &p->inbox[done[i]];
            p->heard_s[message->rank] = p->clock_s;
            memcpy(p->heard[message->rank], message->what, COX__WHAT_BYTES);
            MPI_Start(&p->receives[done[i]]);
        }
    } while (n > 0);
}

void cox__pulse_send(cox_cluster *c)
{
    cox__pulse *p = &c->pulse;
    p->sent_s = cox_now_s();
    for (int32_t i = 0; i < p->n_targets; i++) {
        int done = 0;
        MPI_Test(&p->sends[i], &done, MPI_STATUS_IGNORE); /* an inactive persistent request is done */
        if (!done) continue;                              /* the last one is still on its way */
        p->outbox[i].rank = c->rank;
        snprintf(p->outbox[i].what, COX__WHAT_BYTES, "%s", p->what);
        MPI_Start(&p->sends[i]);
    }
}

void cox_cluster_keepalive(cox_cluster *c, const char *what)
{
    c->pulse.what = what;
    if (c->size > 1 && cox_now_s() - c->pulse.sent_s > PULSE_COMPUTING_S) cox__pulse_send(c);
}

/* From loops that know of no cluster; what this rank is doing was said before. */
static void on_alive(void *context)
{
    cox_cluster *c = context;
    cox_cluster_keepalive(c, c->pulse.what);
}

double cox_cluster_silent_s(cox_cluster *c, int32_t rank, const char **doing)
{
    cox__pulse *p = &c->pulse;
    cox__pulse_poll(c);
    cox__pulse_look(c, cox_now_s());
    if (doing) *doing = p->heard[rank][0] ? p->heard[rank] : "nothing that it told of";
    return p->clock_s - p->heard_s[rank];
}

cox_status cox__pulse_create(cox_cluster *c)
{
    cox__pulse *p = &c->pulse;
    p->what = "starting";
    p->looked_s = p->sent_s = p->polled_s = cox_now_s();
    size_t n = (size_t)c->size;
    p->targets = calloc(n, sizeof *p->targets);
    p->outbox = calloc(n, sizeof *p->outbox);
    p->sends = calloc(n, sizeof *p->sends);
    p->heard_s = calloc(n, sizeof *p->heard_s);
    p->heard = calloc(n, sizeof *p->heard);
    if (!p->targets || !p->outbox || !p->sends || !p->heard_s || !p->heard) {
        return cox_fail(COX_NO_MEMORY, "out of memory for the table of %d ranks", (int)c->size);
    }
    if (c->size < 2) return COX_OK;
    int32_t n_listeners = c->rank < c->n_coordinators ? c->size : c->n_coordinators;
    for (int32_t rank = 0; rank < n_listeners; rank++) {
        if (rank == c->rank) continue;
        int32_t i = p->n_targets++;
        p->targets[i] = rank;
        MPI_Send_init(&p->outbox[i], (int)sizeof p->outbox[i], MPI_BYTE, rank, COX__TAG_PULSE, c->control,
                      &p->sends[i]);
    }
    for (int i = 0; i < COX__PULSE_INBOX; i++) {
        MPI_Recv_init(&p->inbox[i], (int)sizeof p->inbox[i], MPI_BYTE, MPI_ANY_SOURCE, COX__TAG_PULSE,
                      c->control, &p->receives[i]);
        MPI_Start(&p->receives[i]);
    }
    cox_alive_watch(on_alive, c);
    return COX_OK;
}

void cox__pulse_destroy(cox_cluster *c)
{
    cox__pulse *p = &c->pulse;
    cox_alive_watch(NULL, NULL);
    for (int32_t i = 0; i < p->n_targets; i++) {
        cox__wait_all(c, 1, &p->sends[i], &p->targets[i], "taking a sign of life");
        MPI_Request_free(&p->sends[i]);
    }
    for (int i = 0; i < COX__PULSE_INBOX && p->n_targets > 0; i++) {
        MPI_Cancel(&p->receives[i]);
        MPI_Wait(&p->receives[i], MPI_STATUS_IGNORE); /* local: the receive was cancelled or has come */
        MPI_Request_free(&p->receives[i]);
    }
    free(p->targets);
    free(p->outbox);
    free(p->sends);
    free(p->heard_s);
    free(p->heard);
}
