/*
 * The ranks of one job: who they are, agreement on errors, control messages, keep-alive. This folder is
 * the only one that includes mpi.h. A process that was not started by mpirun or srun is a cluster of one
 * rank and never initialises MPI. The world communicator is duplicated here and owned by cox_cluster.
 * No wait in this folder spins for long: a waiting rank leaves its core to others (cluster/wait.c).
 */
#ifndef COX_CLUSTER_CLUSTER_H
#define COX_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_cluster cox_cluster;

typedef struct cox_cluster_options {
    int32_t n_coordinators; /* C >= 1: ranks 0..C-1 are coordinators */
    bool experts_on_all;    /* coordinators host experts too; else only ranks C..size-1 (size 1: the one rank
                               hosts) */
    int32_t n_threads;      /* OpenMP threads of each rank; 0: this rank's share of its cores */
    double hang_s;          /* without a keep-alive for so long a rank that owes something is hung; 8 */
    double start_s;         /* ranks that have not come together by then will not; 120 */
} cox_cluster_options;
cox_cluster_options cox_cluster_options_defaults(void);

/*
 * Is this process part of an MPI launch (mpirun or srun set its environment)? When it is not and the user
 * asks for more than one rank, cox_launch starts `mpirun -n n_ranks <this program> argv...` with the flags
 * that this machine needs, forwards SIGINT, SIGTERM, SIGUSR1 to it and returns its exit code in *exit_code.
 * drain_s > 0: the ranks listen (cluster/drain.h); then the first SIGTERM or SIGINT, of a terminal too, is
 * forwarded as SIGUSR1, and SIGTERM follows after drain_s or with the second one, or at once while not all
 * ranks have started; signals that came after cox_drain_listen count. Not collective. Errors:
 * INVALID, NOT_FOUND (no mpirun: says which package), IO, REQUEUE (the ranks had to be ended).
 */
bool cox_launch_is_inside(void);
cox_status cox_launch(int32_t n_ranks, double drain_s, int argc, char *const argv[], int *exit_code);

/*
 * To be called first in a process that will compute, before cox_cluster_create and any OpenMP region, with
 * the
 * --threads that will be used (0: the share) and main's argv. Threads that wait must soon leave their core to
 * others, and at once when the ranks of this machine have more threads than there are cores. OpenMP reads its
 * environment before main, so this starts the program once more (exec, same process), with GOMP_SPINCOUNT or
 * OMP_WAIT_POLICY=passive. Where the user has set either, with one thread, and the second time, it returns
 * OK. Errors: IO, NO_MEMORY.
 */
cox_status cox_launch_prepare_environment(int32_t n_threads, char *const argv[]);

/*
 * To be called by a rank that is about to exit with an error which all ranks have; has_spoken: this one has
 * said why on stderr. mpirun ends the job at the first rank that exits so, and drops what it has not yet read
 * from any: the speaker waits until its words have been read, the others until the speaker has gone. Nothing
 * in a process outside a launch. Not collective.
 */
void cox_launch_part(bool has_spoken);

/*
 * The end of main in a program of one rank or several: flushes standard output; when status is not OK prints
 * "who: message" on stderr, of all ranks that have found the same mistake only the first, and parts as above.
 * Returns the exit code. Not collective.
 */
int cox_launch_end(const char *who, cox_status status);

/* The speaker's wait alone, for one that ends the job by itself and must not touch stdio: async-signal-safe.
 * What mpirun and MPI print after it is taken for a consequence and not shown. */
void cox_launch_wait_read(void);

/* Initialises MPI (THREAD_FUNNELED), ending the job with a message when a rank of this machine is stopped or
 * not all have come after start_s (cluster/starting.c), when inside a launch, checks the options against the
 * number of ranks (more coordinators than ranks, no rank for experts: INVALID), binds this rank's threads to
 * its share of the cores when several ranks share a machine (hwloc) and sets the number of OpenMP threads.
 * Collective. */
cox_status cox_cluster_create(cox_cluster **cluster, const cox_cluster_options *options);
/* Finalises MPI when all ranks come here in order. Collective. NULL is allowed. */
void cox_cluster_destroy(cox_cluster *cluster);

int32_t cox_cluster_rank(const cox_cluster *cluster);
int32_t cox_cluster_size(const cox_cluster *cluster);
const char *cox_cluster_host(const cox_cluster *cluster); /* this rank's host name */
int32_t cox_cluster_n_local(const cox_cluster *cluster);  /* ranks on this machine */
int32_t cox_cluster_n_cores(const cox_cluster *cluster);  /* of this machine that its ranks may use */
int32_t cox_cluster_n_threads(const cox_cluster *cluster);
int32_t cox_cluster_n_coordinators(const cox_cluster *cluster);
bool cox_cluster_is_coordinator(const cox_cluster *cluster);
/* The ranks that host experts, ascending; [out] *ranks lives as long as the cluster. Returns their number. */
int32_t cox_cluster_expert_ranks(const cox_cluster *cluster, const int32_t **ranks);

/*
 * Every rank brings its status of a local action; all get the same result: OK when all are, else the
 * status of the lowest failing rank, whose message becomes everybody's, prefixed "rank R on HOST: "
 * (and "(and N more ranks)"), unless an agreement has prefixed it before or the status is REQUEUE.
 * Collective; waits sleep; keep-alives of ranks still working are accepted, a rank without one for hang_s
 * ends the job (see cox_cluster_keepalive).
 */
cox_status cox_cluster_agree(cox_cluster *cluster, cox_status mine);

/* Bytes of rank `root` to all. [in/out] *data (malloc'ed on the others, owned by the caller) and *n.
 * Collective. */
cox_status cox_cluster_broadcast(cox_cluster *cluster, int32_t root, void **data, size_t *n);
/* Bytes of every rank to rank 0: on rank 0 *all = malloc'ed concatenation in rank order with offsets
 * [size+1] (malloc'ed); NULL on others. Collective. */
cox_status cox_cluster_gather(cox_cluster *cluster, const void *data, size_t n, void **all, size_t **offsets);

/*
 * To be called from loading and computing at least every second or so ("loading weights", "layer 3 of a
 * step"): remembers what this rank is doing and, at most once a second, tells the ranks that may be waiting
 * for it that it is alive. `what`: static string. Cheap (a clock read). Not collective. Waiting ranks tell
 * it by themselves.
 * A rank that others wait for (a worker that owes a reply, a rank in agree) and that is silent for hang_s is
 * named on stderr by whoever waits, with its host and what it was last known to do, and the job is aborted
 * with a non-zero exit code. Expert hosts in cox_exchange_serve give their coordinators 1.5 hang_s. Time in
 * which the waiter itself was stopped does not count. A dead rank is named by mpirun.
 */
void cox_cluster_keepalive(cox_cluster *cluster, const char *what);

/*
 * For a loop that waits for another coordinator's mail: seconds since it gave a sign of life (time in which
 * this rank itself was stopped not counted), and what it was last known to do ([out] *doing, valid until the
 * next call; NULL is allowed). Coordinators give signs to all ranks at least every two seconds. Not
 * collective.
 */
double cox_cluster_silent_s(cox_cluster *cluster, int32_t rank, const char **doing);

/* Prints "rank R on HOST: message" and ends the whole job at once (MPI_Abort). For errors that a single rank
 * sees. */
_Noreturn void cox_cluster_abort(cox_cluster *cluster, cox_status status);

/* --- Control messages: FIFO between each pair of ranks on each channel, any size. --- */

typedef enum cox_mail_channel {
    COX_MAIL_SESSION,  /* requests and records between coordinators; arrival ends cox_exchange_progress */
    COX_MAIL_STEERING, /* plans to the expert hosts that apply them */
    COX_N_MAIL_CHANNELS
} cox_mail_channel;

/* Copies the bytes and returns at once. Errors: NO_MEMORY. Not collective. */
cox_status cox_mailbox_send(cox_cluster *cluster, cox_mail_channel channel, int32_t to_rank, const void *data,
                            size_t n);
/* [out] *data malloc'ed, owned by the caller; NULL when nothing has arrived. Never blocks. */
cox_status cox_mailbox_poll(cox_cluster *cluster, cox_mail_channel channel, int32_t *from_rank, void **data,
                            size_t *n);

#endif
