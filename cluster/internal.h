/*
 * What the files of this folder share: the struct of a cluster, the one wait, signs of life, and the checked
 * conversion of counts. The only header that includes mpi.h (tests/mpi includes it for
 * cox__cluster_create_on).
 */
#ifndef COX_CLUSTER_INTERNAL_H
#define COX_CLUSTER_INTERNAL_H

#include <mpi.h>
#include <sys/types.h>

#include "cluster/cluster.h"
#include "cluster/noise_internal.h"

enum { COX__HOST_BYTES = 64, COX__WHAT_BYTES = 60, COX__MESSAGE_BYTES = 1000, COX__PULSE_INBOX = 4 };

/* Tags on the control communicator. Those of an exchange are in exchange_internal.h. */
enum { COX__TAG_PULSE = 1, COX__TAG_AGREE, COX__TAG_AGREED, COX__TAG_BROADCAST, COX__TAG_GATHER };

typedef struct cox__pulse_message {
    int32_t rank;
    char what[COX__WHAT_BYTES]; /* what the sender is doing, NUL-terminated */
} cox__pulse_message;

/* Signs of life (pulse.c). clock_s is time as this rank's own waiting has observed it: it moves by at most
 * half a second per look, so that a job that was stopped as a whole does not see its members as hung. */
typedef struct cox__pulse {
    double clock_s, looked_s;   /* observed time; when it was last moved */
    double sent_s, polled_s;    /* when this rank last sent and last received signs of life */
    const char *what;           /* what this rank is doing; a static string */
    int32_t n_targets;          /* ranks that may wait for this one */
    int32_t *targets;           /* [n_targets] */
    cox__pulse_message *outbox; /* [n_targets], untouchable while sends[i] is active */
    MPI_Request *sends;         /* [n_targets] persistent */
    cox__pulse_message inbox[COX__PULSE_INBOX];
    MPI_Request receives[COX__PULSE_INBOX]; /* persistent, from any rank */
    double *heard_s;                        /* [size] in observed time */
    char (*heard)[COX__WHAT_BYTES];         /* [size] what it was doing then; "" when never heard */
} cox__pulse;

typedef struct cox__mail cox__mail; /* mailbox.c */

struct cox_cluster {
    bool has_mpi, owns_mpi;      /* MPI is in use; cox_cluster_destroy finalises it */
    MPI_Comm control, mail_comm; /* ours: duplicates */
    int32_t rank, size, local_rank, n_local, n_threads, n_cores, n_coordinators, n_expert_ranks;
    int32_t *expert_ranks;          /* [n_expert_ranks] ascending */
    char (*hosts)[COX__HOST_BYTES]; /* [size] */
    bool is_crowded;                /* more ranks than cores on this machine */
    double hang_s, start_s;
    cox__pulse pulse;
    cox__mail *mail;
};

/* cox_cluster_create on the ranks of a communicator (MPI is initialised and stays so). For tests, which loop
 * over many numbers of ranks in one launch. Collective over `comm`, which stays the caller's. */
cox_status cox__cluster_create_on(cox_cluster **cluster, const cox_cluster_options *options, MPI_Comm comm);

/* launch.c: the number of tasks, as text, when this process is one of several of an srun step and no mpirun
 * started it; else NULL. */
const char *cox__launch_srun_tasks(void);

/* launch.c: waits until the launcher has read what this rank has written on stderr, at most two seconds. */
void cox__launch_flush(void);

/* launch.c: tells the cox_launch that started this rank, if one did, by a line on stderr, which cox_launch
 * keeps to itself: COX__STARTED or COX__VERDICT (noise_internal.h). Async-signal-safe. */
void cox__launch_tell(const char *line);

/* drain.c: what a process listens to waits, or if it has come, comes again, when the process has started
 * itself once more; release: it has not, after all. Nothing where nobody listens. */
void cox__drain_hold(void);
void cox__drain_release(void);

/* The one conversion of a count to MPI's int; a count that does not fit ends the job (what: static, for the
 * message). */
int cox__count(cox_cluster *cluster, size_t n, const char *what);

/*
 * The one wait. wait_begin, then, as long as nothing happened, wait_turn: it spins for 0.1 ms (yielding the
 * core when ranks share it) and then sleeps in naps that grow with the time waited (an eighth of it, at most
 * 0.2 ms, or 0.5 ms after a tenth of a second), so that the delay stays small against the wait. It sends and
 * receives signs of life. When it returns true (ten times a second), ask cox__wait_blame about each rank that
 * owes something: one that was silent for limit_s (of observed time, and since the wait began) is named on
 * stderr and the job ended. wait_again: something happened but the wait goes on.
 */
typedef struct cox__wait {
    double begin_s, begin_clock_s, asked_s;
} cox__wait;
void cox__wait_begin(cox_cluster *cluster, cox__wait *wait);
void cox__wait_again(cox__wait *wait);
bool cox__wait_turn(cox_cluster *cluster, cox__wait *wait);
void cox__wait_blame(cox_cluster *cluster, const cox__wait *wait, int32_t rank, double limit_s,
                     const char *owes);

/* Waits for all requests; request i is owed by ranks[i]. */
void cox__wait_all(cox_cluster *cluster, int32_t n, MPI_Request *requests, const int32_t *ranks,
                   const char *owes);

/* The watch over the time before ranks can give signs of life (starting.c). begin: before MPI_Init; limit_s:
 * of looks. end: when all have agreed that they are there; NULL is allowed. It ends the process when it sees
 * that the job cannot start. Errors: NO_MEMORY. */
typedef struct cox__starting cox__starting;
cox_status cox__starting_begin(cox__starting **starting, double limit_s);
void cox__starting_end(cox__starting *starting);

cox_status cox__pulse_create(cox_cluster *cluster);
void cox__pulse_destroy(cox_cluster *cluster);
void cox__pulse_send(cox_cluster *cluster);               /* to all that may wait for this rank */
void cox__pulse_poll(cox_cluster *cluster);               /* takes in what has arrived */
void cox__pulse_look(cox_cluster *cluster, double now_s); /* moves observed time */

cox_status cox__mail_create(cox_cluster *cluster);
void cox__mail_destroy(cox_cluster *cluster);
bool cox__mail_advance(cox_cluster *cluster); /* moves messages; true when one is ready to be polled */

/* Settings that Open MPI reads from the environment at its start, where the user has set none (launch.c). */
void cox__launch_tune(void);

/* Takes this rank's share of the machine's cores: sets n_cores, n_threads (wanted: 0 for the share) and the
 * binding. */
void cox__bind(cox_cluster *cluster, int32_t wanted_threads);

#endif
