/*
 * How a rank waits: it polls for a tenth of a millisecond, yielding its core between polls when the machine
 * has more ranks than cores, and then sleeps, so that an idle rank leaves its core to others. (A nap costs 20
 * us or more until the kernel brings the process back, which is several times what a step of one row takes;
 * hence the first tenth.)
 */
#include <immintrin.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

#include "base/counters.h"
#include "cluster/internal.h"

static const double SPIN_S = 1e-4;
static const double NAP_SHARE = 0.125, NAP_LEAST_S = 2e-6, NAP_MOST_S = 2e-4, NAP_IDLE_S = 5e-4,
                    IDLE_AFTER_S = 0.1;
static const double PULSE_POLL_S = 0.01, PULSE_WAITING_S = 2, ASK_S = 0.1, NOT_FIRST_S = 1.5;

void cox__wait_begin(cox_cluster *c, cox__wait *wait)
{
    double now_s = cox_now_s();
    cox__pulse_look(c, now_s);
    *wait = (cox__wait){.begin_s = now_s, .begin_clock_s = c->pulse.clock_s, .asked_s = now_s};
}

void cox__wait_again(cox__wait *wait)
{
    wait->begin_s = cox_now_s();
}

static void nap(double waited_s)
{
    double s = waited_s * NAP_SHARE, most_s = waited_s > IDLE_AFTER_S ? NAP_IDLE_S : NAP_MOST_S;
    if (s < NAP_LEAST_S) s = NAP_LEAST_S;
    if (s > most_s) s = most_s;
    struct timespec t = {.tv_sec = 0, .tv_nsec = (long)(s * 1e9)};
    nanosleep(&t, NULL); /* woken early by a signal: the caller polls again */
}

bool cox__wait_turn(cox_cluster *c, cox__wait *wait)
{
    double now_s = cox_now_s(), waited_s = now_s - wait->begin_s;
    if (waited_s < SPIN_S) {
        if (c->is_crowded) {
            sched_yield();
        } else {
            _mm_pause();
        }
        return false;
    }
    cox__pulse_look(c, now_s);
    if (now_s - c->pulse.polled_s > PULSE_POLL_S) cox__pulse_poll(c);
    if (now_s - c->pulse.sent_s > PULSE_WAITING_S) cox__pulse_send(c);
    nap(waited_s);
    if (now_s - wait->asked_s < ASK_S) return false;
    wait->asked_s = now_s;
    return true;
}

/* Of all that wait for the same rank the lowest speaks first, and the job ends before the others would. */
static double later_s(const cox_cluster *c, int32_t blamed)
{
    int32_t first = blamed == 0 ? 1 : 0;
    return c->rank == first ? 0 : NOT_FIRST_S;
}

void cox__wait_blame(cox_cluster *c, const cox__wait *wait, int32_t rank, double limit_s, const char *owes)
{
    const cox__pulse *p = &c->pulse;
    double since_s = p->heard_s[rank] > wait->begin_clock_s ? p->heard_s[rank] : wait->begin_clock_s;
    if (p->clock_s - since_s < limit_s + later_s(c, rank)) return;
    const char *doing = p->heard[rank][0] ? p->heard[rank] : "nothing that it told of";
    cox_cluster_abort(c, cox_fail(COX_PEER,
                                  "rank %d on %s hangs: no sign of life for %.0f s while %s is awaited; it"
                                  " was last known to do: %s",
                                  (int)rank, c->hosts[rank], limit_s, owes, doing));
}

void cox__wait_all(cox_cluster *c, int32_t n, MPI_Request *requests, const int32_t *ranks, const char *owes)
{
    cox__wait wait;
    cox__wait_begin(c, &wait);
    for (;;) {
        int done = 0;
        MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE);
        if (done) return;
        if (!cox__wait_turn(c, &wait)) continue;
        for (int32_t i = 0; i < n; i++) {
            int one = 0;
            MPI_Request_get_status(requests[i], &one, MPI_STATUS_IGNORE);
            if (!one) cox__wait_blame(c, &wait, ranks[i], c->hang_s, owes);
        }
    }
}
