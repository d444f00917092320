/*
 * Who is in the job: ranks, hosts, roles, threads. Creation and destruction of everything that the other
 * files of this folder keep in the cluster. A process outside of any launch is a cluster of one and never
 * touches MPI.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cluster/internal.h"

enum { TIMER_SLACK_NS = 1000 }; /* naps of a waiting rank are a few microseconds; the default slack is 50 */

cox_cluster_options cox_cluster_options_defaults(void)
{
    return (cox_cluster_options){
        .n_coordinators = 1, .experts_on_all = false, .n_threads = 0, .hang_s = 8, .start_s = 120};
}

int cox__count(cox_cluster *c, size_t n, const char *what)
{
    if (n > (size_t)INT32_MAX) {
        cox_cluster_abort(c,
                          cox_fail(COX_INTERNAL, "%zu elements in %s: MPI counts end at 2^31 - 1", n, what));
    }
    return (int)n;
}

static cox_status check_options(const cox_cluster_options *options, int32_t size)
{
    if (options->n_coordinators < 1 || options->n_threads < 0 || !(options->hang_s > 0) ||
        !(options->start_s > 0)) {
        return cox_fail(COX_INVALID,
                        "coordinators must be at least 1, threads at least 0, hang_s and start_s positive");
    }
    if (options->n_coordinators > size) {
        return cox_fail(COX_INVALID,
                        "%d coordinators on %d ranks: give --coordinators at most the number of ranks",
                        (int)options->n_coordinators, (int)size);
    }
    if (!options->experts_on_all && size > 1 && options->n_coordinators == size) {
        return cox_fail(COX_INVALID,
                        "%d coordinators on %d ranks leave none for the experts: give --experts-on all or"
                        " more ranks",
                        (int)options->n_coordinators, (int)size);
    }
    return COX_OK;
}

/* The host names of all ranks; every rank then knows whom to name. */
static void share_hosts(cox_cluster *c)
{
    char mine[COX__HOST_BYTES] = "";
    gethostname(mine, sizeof mine - 1);
    memcpy(c->hosts[c->rank], mine, sizeof mine);
    c->n_local = 1;
    if (c->size < 2) return;
    MPI_Request request;
    MPI_Iallgather(mine, COX__HOST_BYTES, MPI_CHAR, c->hosts, COX__HOST_BYTES, MPI_CHAR, c->control,
                   &request);
    cox__wait wait;
    cox__wait_begin(c, &wait);
    for (int done = 0; !done; MPI_Test(&request, &done, MPI_STATUS_IGNORE)) {
        if (!cox__wait_turn(c, &wait)) continue;
        for (int32_t rank = 0; rank < c->size;
             rank++) { /* nobody has spoken yet: whoever was not heard may be it */
            if (rank != c->rank) cox__wait_blame(c, &wait, rank, c->start_s, "its start");
        }
    }
    c->n_local = 0;
    for (int32_t rank = 0; rank < c->size; rank++) {
        if (strcmp(c->hosts[rank], mine) != 0) continue;
        if (rank == c->rank) c->local_rank = c->n_local;
        c->n_local++;
    }
}

static cox_status cluster_take_memory(cox_cluster *c, const cox_cluster_options *options)
{
    int32_t first = options->experts_on_all || c->size == 1 ? 0 : c->n_coordinators;
    c->n_expert_ranks = c->size - first;
    c->expert_ranks = calloc((size_t)c->n_expert_ranks, sizeof *c->expert_ranks);
    c->hosts = calloc((size_t)c->size, sizeof *c->hosts);
    if (!c->expert_ranks || !c->hosts) {
        return cox_fail(COX_NO_MEMORY, "out of memory for the table of %d ranks", (int)c->size);
    }
    for (int32_t i = 0; i < c->n_expert_ranks; i++) c->expert_ranks[i] = first + i;
    cox_status status = cox__pulse_create(c);
    return status == COX_OK ? cox__mail_create(c) : status;
}

static cox_status fill(cox_cluster *c, const cox_cluster_options *options)
{
    cox_status status = check_options(options, c->size);
    if (status != COX_OK) return status;
    c->n_coordinators = options->n_coordinators;
    c->hang_s = options->hang_s;
    c->start_s = options->start_s;
    status = cluster_take_memory(c, options);
    if (status != COX_OK) {
        if (c->size == 1) return status;
        cox_cluster_abort(c, status); /* the others are already on their way */
    }
    share_hosts(c);
    cox__bind(c, options->n_threads);
    omp_set_num_threads(c->n_threads);
    c->is_crowded = c->n_local > c->n_cores;
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    return cox_cluster_agree(c,
                             COX_OK); /* connects all with rank 0, and nobody starts while one is missing */
}

static void cluster_release(cox_cluster *c)
{
    free(c->expert_ranks);
    free(c->hosts);
    if (c->control != MPI_COMM_NULL) MPI_Comm_free(&c->control);
    if (c->mail_comm != MPI_COMM_NULL) MPI_Comm_free(&c->mail_comm);
    if (c->owns_mpi) MPI_Finalize();
    free(c);
}

static cox_status create(cox_cluster **cluster, const cox_cluster_options *options, MPI_Comm comm,
                         bool owns_mpi)
{
    cox_cluster *c = calloc(1, sizeof *c);
    if (!c) return cox_no_memory("the cluster");
    *c = (cox_cluster){.size = 1, .control = MPI_COMM_NULL, .mail_comm = MPI_COMM_NULL, .owns_mpi = owns_mpi};
    c->has_mpi = comm != MPI_COMM_NULL;
    if (c->has_mpi) {
        MPI_Comm_dup(comm, &c->control);
        MPI_Comm_dup(comm, &c->mail_comm);
        int rank = 0, size = 1;
        MPI_Comm_rank(c->control, &rank);
        MPI_Comm_size(c->control, &size);
        c->rank = rank;
        c->size = size;
    }
    cox_status status = fill(c, options);
    if (status != COX_OK) {
        cluster_release(c);
        return status;
    }
    *cluster = c;
    return COX_OK;
}

cox_status cox__cluster_create_on(cox_cluster **cluster, const cox_cluster_options *options, MPI_Comm comm)
{
    return create(cluster, options, comm, false);
}

/* srun without its MPI plugin starts every task as a job of its own; that must not pass as a cluster of one.
 */
static cox_status check_launch(MPI_Comm world)
{
    const char *tasks = cox__launch_srun_tasks();
    int size = 1;
    MPI_Comm_size(world, &size);
    if (size > 1 || !tasks) return COX_OK;
    return cox_fail(COX_INVALID,
                    "srun started %s tasks, but MPI sees one: use srun --mpi=pmix, or mpirun inside the"
                    " allocation",
                    tasks);
}

static cox_status start_mpi(cox_cluster **cluster, const cox_cluster_options *options)
{
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        return cox_fail(COX_INTERNAL, "MPI_Init_thread failed: was this process started by mpirun or srun?");
    }
    const MPI_Comm world =
        MPI_COMM_WORLD; /* nowhere else: everybody uses the duplicates that the cluster owns */
    cox_status status = check_launch(world);
    if (status != COX_OK) {
        MPI_Finalize();
        return status;
    }
    return create(cluster, options, world, true);
}

cox_status cox_cluster_create(cox_cluster **cluster, const cox_cluster_options *options)
{
    if (!cox_launch_is_inside()) return create(cluster, options, MPI_COMM_NULL, false);
    cox__launch_tune();
    cox__starting *starting = NULL;
    cox_status status = cox__starting_begin(&starting, options->start_s);
    if (status == COX_OK) status = start_mpi(cluster, options);
    if (status == COX_OK && (*cluster)->rank == 0) cox__launch_tell(COX__STARTED);
    cox__starting_end(starting);
    return status;
}

void cox_cluster_destroy(cox_cluster *c)
{
    if (!c) return;
    cox_cluster_agree(c, COX_OK); /* MPI_Finalize may spin: enter it together */
    cox__mail_destroy(c);
    cox__pulse_destroy(c);
    cluster_release(c);
}

_Noreturn void cox_cluster_abort(cox_cluster *c, cox_status status)
{
    fprintf(stderr, "coxswain: rank %d on %s: %s\n", (int)c->rank, c->hosts[c->rank], cox_status_message());
    fflush(NULL);
    if (c->has_mpi) cox__launch_flush();
    if (c->has_mpi) cox__launch_tell(COX__VERDICT);
    if (c->has_mpi) MPI_Abort(c->control, cox_status_exit_code(status));
    _exit(
        cox_status_exit_code(status)); /* without MPI there is nobody to tell; MPI_Abort does not come back */
}

int32_t cox_cluster_rank(const cox_cluster *c)
{
    return c->rank;
}

int32_t cox_cluster_size(const cox_cluster *c)
{
    return c->size;
}

const char *cox_cluster_host(const cox_cluster *c)
{
    return c->hosts[c->rank];
}

int32_t cox_cluster_n_local(const cox_cluster *c)
{
    return c->n_local;
}

int32_t cox_cluster_n_cores(const cox_cluster *c)
{
    return c->n_cores;
}

int32_t cox_cluster_n_threads(const cox_cluster *c)
{
    return c->n_threads;
}

int32_t cox_cluster_n_coordinators(const cox_cluster *c)
{
    return c->n_coordinators;
}

bool cox_cluster_is_coordinator(const cox_cluster *c)
{
    return c->rank < c->n_coordinators;
}

int32_t cox_cluster_expert_ranks(const cox_cluster *c, const int32_t **ranks)
{
    *ranks = c->expert_ranks;
    return c->n_expert_ranks;
}
