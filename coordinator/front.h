/*
 * Several coordinators, one input and one output. Rank 0 is the front end: it takes requests from a source,
 * serves some itself, hands the others to the other coordinators as messages, keeping each one's queue short
 * but full, and gets their text and records back. With one coordinator all of it is a plain loop over the
 * session.
 */
#ifndef COX_COORDINATOR_FRONT_H
#define COX_COORDINATOR_FRONT_H

#include <stdbool.h>

#include "base/status.h"
#include "cluster/cluster.h"
#include "cluster/exchange.h"
#include "coordinator/session.h"

/* Where requests come from. */
typedef struct cox_front_source {
    void *
        context; /* all is called on rank 0's main thread; what blocks there for seconds, blocks every rank */
    /* [out] *request: the next one, or NULL when there is none now; *plan: a share of its compiled plan, NULL
     * as it comes: none. Both are taken over by the caller. *is_end: there will be none any more. is_idle:
     * nothing is running; wait a little then (up to 0.2 s), or a loop of one rank spins. Not asked while
     * every coordinator has n_queued requests: what waits longer waits at the source, which cancels it by
     * itself. Errors end the run, and take nothing. */
    cox_status (*next)(void *context, bool is_idle, cox_request **request, cox_plan **plan, bool *is_end);
    /* NULL, or called once a turn. [out] *is_over: leave now; requests without a record get none. Errors end
     * the run. */
    cox_status (*tick)(void *context, bool *is_over);
    /* NULL, or asked every turn until it returns false: is there a request to be cancelled? [out] *id: of one
     * that `next` gave. Its record comes as soon as its coordinator has heard of it, as cox_session_cancel
     * says. */
    bool (*next_cancelled)(void *context, uint64_t *id);
} cox_front_source;

typedef struct cox_front_options {
    int32_t n_queued; /* requests that a coordinator may have at a time, running and waiting */
    double hang_s;    /* a coordinator with work that is silent for so long is hung */
} cox_front_options;

/*
 * On rank 0: runs until the source has ended and every request has its record, or until the source wants to
 * leave, then tells the other coordinators to finish. The session's events are the user's; they are called
 * for the other coordinators' work too. Errors: those of source, session and exchange; PEER: a coordinator is
 * silent (named). The caller ends the job then.
 */
cox_status cox_front_run(cox_session *session, const cox_session_events *events, cox_cluster *cluster,
                         cox_exchange *exchange, const cox_front_source *source,
                         const cox_front_options *options);

/* On the other coordinators: events that send text and records to rank 0 (for cox_session_create), and the
 * loop that serves until rank 0 says finish. *mailer must outlive the session. Errors as above. */
typedef struct cox_front_mailer {
    cox_cluster *cluster;
    cox_status failed; /* what an event could not return */
} cox_front_mailer;
cox_session_events cox_front_mailer_events(cox_front_mailer *mailer);
cox_status cox_front_follow(cox_session *session, cox_front_mailer *mailer, cox_exchange *exchange,
                            const cox_front_options *options);

#endif
