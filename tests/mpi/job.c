/*
 * A small job that starts itself through cox_launch, for ends.sh: job RANKS MODE [EXCHANGE] [HANG_S
 * [START_S]]. It prints "rank R pid P" from each rank. Modes: ok; fail (rank 1 fails, all agree); abort (rank
 * 1 aborts); run (steps for a minute); run-two (with two coordinators); busy (rank 1 loads for four
 * hang_s, with signs of life); stuck (the same without); usr1 (waits for SIGUSR1). Before MPI starts:
 * early-stopped (rank 2 stops itself), early-hung (rank 1 sleeps for a minute), early-slow (rank 1 sleeps for
 * three seconds).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alive.h"
#include "base/counters.h"
#include "cluster/exchange.h"

enum { D_MODEL = 64, TOP_K = 2, N_EXPERTS = 8, MAX_ROWS = 4 };
static const double RUN_S = 60;

static volatile sig_atomic_t got_usr1;

static void on_usr1(int number)
{
    (void)number;
    got_usr1 = 1;
}

static void sleep_s(double s)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)},
              NULL);
}

static cox_status host(void *context, const cox_work *work)
{
    (void)context;
    memset(work->replies, 0, (size_t)work->n_routes * D_MODEL * sizeof(float));
    return COX_OK;
}

static cox_status steps(cox_cluster *c, cox_exchange *x, const cox_placement *placement, cox_arena *arena)
{
    static float rows[MAX_ROWS * D_MODEL];
    cox_expert_id experts[MAX_ROWS * TOP_K];
    cox_dispatch_plan *plan = NULL;
    cox_status status = cox_dispatch_plan_create(&plan, arena, c, MAX_ROWS, TOP_K);
    for (int32_t i = 0; i < MAX_ROWS * TOP_K; i++) experts[i].value = i;
    for (double begin_s = cox_now_s(); status == COX_OK && cox_now_s() - begin_s < RUN_S;) {
        const float *replies = NULL;
        cox_cluster_keepalive(c, "attention of layer 0");
        cox_dispatch_plan_build(plan, placement, 0, experts, MAX_ROWS);
        status = cox_exchange_dispatch_begin(x, 0, 0, plan, rows);
        if (status == COX_OK) status = cox_exchange_dispatch_end(x, 0);
        if (status == COX_OK) status = cox_exchange_combine_end(x, 0, &replies);
        sleep_s(0.001);
    }
    return status;
}

static cox_status run(cox_cluster *c, const char *exchange)
{
    const int32_t *ranks = NULL;
    cox_placement *placement = NULL;
    cox_arena *arena = NULL;
    cox_exchange *x = NULL;
    int32_t n = cox_cluster_expert_ranks(c, &ranks);
    cox_status status = cox_placement_round_robin(&placement, 1, NULL, N_EXPERTS, ranks, n);
    if (status == COX_OK) status = cox_arena_create(&arena, "job", 0);
    cox_exchange_options options = {.kind = strcmp(exchange, "alltoall") ? COX_EXCHANGE_SPARSE
                                                                         : COX_EXCHANGE_ALLTOALL,
                                    .n_slots = 1,
                                    .max_rows = MAX_ROWS,
                                    .row_width = D_MODEL,
                                    .top_k = TOP_K,
                                    .placement = placement,
                                    .host = {.begin = host, .poll = cox_host_done}};
    if (status == COX_OK) status = cox_exchange_create(&x, c, &options);
    if (status != COX_OK) return status;
    if (cox_cluster_rank(c) == 0) printf("running\n");
    fflush(stdout);
    if (cox_cluster_is_coordinator(c)) cox_exchange_finish(x, steps(c, x, placement, arena));
    status = cox_exchange_serve(x);
    cox_exchange_destroy(x);
    cox_arena_destroy(arena);
    cox_placement_destroy(placement);
    return status;
}

static cox_status load(cox_cluster *c, double seconds, int tells)
{
    for (double begin_s = cox_now_s(); cox_cluster_rank(c) == 1 && cox_now_s() - begin_s < seconds;) {
        sleep_s(0.05);
        bool is_late = cox_now_s() - begin_s > seconds / 2; /* then it reads a file, knowing of no cluster */
        if (tells && is_late) cox_alive();
        if (tells && !is_late) cox_cluster_keepalive(c, "loading weights");
    }
    return cox_cluster_agree(c, COX_OK);
}

static cox_status act(cox_cluster *c, const char *mode, const char *exchange, double hang_s)
{
    int32_t rank = cox_cluster_rank(c);
    if (strcmp(mode, "fail") == 0) {
        return cox_cluster_agree(c, rank == 1 ? cox_fail(COX_UNSUPPORTED, "rank 1 cannot") : COX_OK);
    }
    if (strcmp(mode, "abort") == 0) {
        if (rank == 1) cox_cluster_abort(c, cox_fail(COX_BAD_FILE, "the shard is cut off"));
        return cox_cluster_agree(c, COX_OK);
    }
    if (strncmp(mode, "run", 3) == 0) return run(c, exchange);
    if (strcmp(mode, "busy") == 0) return load(c, 4 * hang_s, 1);
    if (strcmp(mode, "stuck") == 0) return load(c, 20 * hang_s, 0);
    if (strcmp(mode, "usr1") == 0) {
        printf("running\n");
        fflush(stdout);
        for (double begin_s = cox_now_s(); !got_usr1 && cox_now_s() - begin_s < RUN_S;) sleep_s(0.02);
        if (got_usr1) printf("rank %d drained\n", (int)rank);
        return cox_cluster_agree(c, got_usr1 ? COX_OK : cox_fail(COX_INTERNAL, "no signal came"));
    }
    return COX_OK;
}

/* What a rank does on its way to MPI. */
static void come_late(const char *mode)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (strncmp(mode, "early", 5) != 0) return;
    printf("rank %s pid %d is running, without MPI\n", rank, (int)getpid());
    fflush(stdout);
    if (strcmp(mode, "early-stopped") == 0 && atoi(rank) == 2) raise(SIGSTOP);
    if (strcmp(mode, "early-hung") == 0 && atoi(rank) == 1) sleep_s(RUN_S);
    if (strcmp(mode, "early-slow") == 0 && atoi(rank) == 1) sleep_s(3);
}

int main(int argc, char **argv)
{
    int exit_code = 0;
    if (argc < 3) return 2;
    signal(SIGUSR1, on_usr1);
    if (!cox_launch_is_inside()) {
        cox_status launched = cox_launch(atoi(argv[1]), 0, argc, argv, &exit_code);
        if (launched != COX_OK) fprintf(stderr, "%s\n", cox_status_message());
        return launched == COX_OK ? exit_code : cox_status_exit_code(launched);
    }
    cox_cluster_options options = cox_cluster_options_defaults();
    if (argc > 4) options.hang_s = atof(argv[4]);
    if (argc > 5) options.start_s = atof(argv[5]);
    options.n_threads = 1;
    if (strcmp(argv[2], "run-two") == 0) options.n_coordinators = 2;
    cox_cluster *c = NULL;
    cox_status status = cox_launch_prepare_environment(1, argv);
    if (status == COX_OK) come_late(argv[2]);
    if (status == COX_OK) status = cox_cluster_create(&c, &options);
    if (status != COX_OK) {
        fprintf(stderr, "%s\n", cox_status_message());
        return cox_status_exit_code(status);
    }
    const char *policy = getenv("OMP_WAIT_POLICY");
    printf("rank %d pid %d of %d, waiting threads %s\n", (int)cox_cluster_rank(c), (int)getpid(),
           (int)cox_cluster_size(c), policy ? policy : "as OpenMP likes");
    fflush(stdout);
    status = act(c, argv[2], argc > 3 ? argv[3] : "sparse", options.hang_s);
    if (status != COX_OK && cox_cluster_rank(c) == 0) fprintf(stderr, "coxswain: %s\n", cox_status_message());
    bool speaks = cox_cluster_rank(c) == 0;
    cox_cluster_destroy(c);
    if (status != COX_OK) cox_launch_part(speaks);
    return cox_status_exit_code(status);
}
