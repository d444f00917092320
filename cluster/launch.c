/*
 * Starting ranks. cox_launch runs mpirun as a child with the flags that this machine needs and behaves as if
 * it were that child: signals are passed on (SIGTERM and SIGINT as SIGUSR1 first, where the ranks drain), the
 * exit code is returned, and when this process dies the child is told to end. Environment that MPI and OpenMP
 * read at their start is decided here and nowhere else.
 */
#include <errno.h>
#include <fcntl.h>
#include <hwloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/counters.h"
#include "cluster/drain.h"
#include "cluster/internal.h"

enum { N_FLAGS = 32, EXIT_NOT_STARTED = 127 };

const char *cox__launch_srun_tasks(void)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    bool is_step = getenv("SLURM_STEP_ID") && tasks && atoi(tasks) > 1;
    return is_step && !getenv("OMPI_COMM_WORLD_SIZE") ? tasks : NULL;
}

bool cox_launch_is_inside(void)
{
    static const char *const set_by_launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof set_by_launchers / sizeof *set_by_launchers; i++) {
        if (getenv(set_by_launchers[i])) return true;
    }
    /* A task of an srun step without an MPI plugin; the batch script itself has no step id in its
     * environment. */
    return getenv("SLURM_PROCID") && cox__launch_srun_tasks();
}

/* The launchers of Open MPI and Slurm tell each process its rank before MPI is up. */
static bool is_first_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rank = getenv(names[i]);
        if (rank && cox_launch_is_inside()) return strcmp(rank, "0") == 0;
    }
    return true;
}

static int32_t count_cores(void)
{
    hwloc_topology_t topology;
    int32_t n = 0;
    if (hwloc_topology_init(&topology) == 0) {
        if (hwloc_topology_load(topology) == 0) n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
        hwloc_topology_destroy(topology);
    }
    return n > 0 ? n : 1;
}

static int32_t int_of(const char *name, int32_t otherwise)
{
    const char *value = getenv(name);
    return value && atoi(value) > 0 ? atoi(value) : otherwise;
}

/* --- OpenMP's waiting threads --- */

/* Ranks on this machine as the launcher tells, before MPI is up. */
static int32_t local_ranks(void)
{
    return int_of("OMPI_COMM_WORLD_LOCAL_SIZE",
                  int_of("SLURM_STEP_TASKS_PER_NODE", int_of("MPI_LOCALNRANKS", 1)));
}

/* How often a waiting thread of GNU OpenMP looks for work before it sleeps, tens of microseconds in all. By
 * itself it looks 300,000 times, several milliseconds: on a core that another process needs, each wait then
 * costs a slice of the scheduler's time. */
static const char SPIN_COUNT[] = "1000";

cox_status cox_launch_prepare_environment(int32_t n_threads, char *const argv[])
{
    int32_t n_ranks = local_ranks(), n_cores = count_cores();
    if (n_threads < 1) n_threads = n_ranks < n_cores ? n_cores / n_ranks : 1;
    bool is_crowded = (int64_t)n_ranks * n_threads > n_cores;
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || (n_threads == 1 && !is_crowded))
        return COX_OK;
    int failed =
        is_crowded ? setenv("OMP_WAIT_POLICY", "passive", 1) : setenv("GOMP_SPINCOUNT", SPIN_COUNT, 1);
    if (failed || setenv("KMP_BLOCKTIME", "0", 0) != 0) {
        return cox_no_memory("the environment");
    }
    char program[4096]; /* by its own path: as /proc/self/exe the process would be called "exe" */
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return COX_OK; /* it would only have been faster */
    program[length] = '\0';
    cox__drain_hold();
    execv(program, argv);
    cox__drain_release();
    return COX_OK;
}

/* Messages of one row (tens of KiB) go eagerly through shared memory: at Open MPI's own limit of 4 KiB they
 * take a round trip more, four times as long. With ranks that share cores, its few blocking calls yield. */
void cox__launch_tune(void)
{
    setenv("OMPI_MCA_btl_vader_eager_limit", "65536", 0);
    setenv("OMPI_MCA_btl_vader_max_send_size", "65536", 0);
    if (local_ranks() > count_cores()) setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

/* --- Last words --- */

static const double READ_LIMIT_S = 2, PASS_ON_S = 0.3, PART_LIMIT_S = 4;
static const char TELLS_LAUNCHER[] = "COX_TELLS_LAUNCHER"; /* set for the ranks that cox_launch starts */

static void sleep_s(double s)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)},
              NULL);
}

/* Bytes in the pipe to the launcher tell what it has read, on either end. */
void cox__launch_flush(void)
{
    int n_unread = 0;
    for (double begin_s = cox_now_s(); cox_now_s() - begin_s < READ_LIMIT_S; sleep_s(0.01)) {
        if (ioctl(STDERR_FILENO, FIONREAD, &n_unread) != 0 || n_unread == 0) return;
    }
}

void cox__launch_tell(const char *line)
{
    if (!getenv(TELLS_LAUNCHER)) return;
    if (write(STDERR_FILENO, line, strlen(line)) > 0) cox__launch_flush();
}

void cox_launch_wait_read(void)
{
    cox__launch_flush();
    sleep_s(PASS_ON_S); /* nobody tells what it has passed on; what others have said before us arrives too */
    cox__launch_tell(COX__VERDICT);
}

void cox_launch_part(bool has_spoken)
{
    if (!cox_launch_is_inside()) return;
    fflush(NULL);
    if (has_spoken) {
        cox_launch_wait_read();
    } else {
        sleep_s(PART_LIMIT_S);
    }
}

int cox_launch_end(const char *who, cox_status status)
{
    if (fflush(stdout) != 0 && status == COX_OK) status = cox_fail(COX_IO, "standard output: cannot write");
    if (status != COX_OK) {
        bool speaks = is_first_rank();
        if (speaks) fprintf(stderr, "%s: %s\n", who, cox_status_message());
        cox_launch_part(speaks);
    }
    return cox_status_exit_code(status);
}

/* --- mpirun --- */

/* Containers often forbid to read another process' memory, which Open MPI takes for granted within a machine.
 */
static bool can_read_processes(void)
{
    char from = 1, to = 0;
    struct iovec source = {.iov_base = &from, .iov_len = 1}, target = {.iov_base = &to, .iov_len = 1};
    return process_vm_readv(getpid(), &target, 1, &source, 1, 0) == 1;
}

/* mpirun's own flags; the numbers' text stands in `number`. Returns how many. */
static int mpirun_flags(const char *flags[N_FLAGS], int32_t n_ranks, char *number, size_t n_number)
{
    int n = 0;
    bool in_slurm = getenv("SLURM_JOB_ID") != NULL;
    int32_t slots = in_slurm ? int_of("SLURM_NTASKS", int_of("SLURM_NPROCS", 1)) : count_cores();
    snprintf(number, n_number, "%d", (int)n_ranks);
    flags[n++] = "mpirun";
    flags[n++] = "-n";
    flags[n++] = number;
    if (n_ranks > slots) flags[n++] = "--oversubscribe";
    flags[n++] = "--bind-to"; /* cox_cluster_create binds: it knows the number of threads */
    flags[n++] = "none";
    const char *const settings[][2] = {
        {"btl_base_warn_component_unused", "0"},
        {"btl_vader_single_copy_mechanism", can_read_processes() ? NULL : "none"}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (!settings[i][1]) continue;
        flags[n++] = "--mca";
        flags[n++] = settings[i][0];
        flags[n++] = settings[i][1];
    }
    const char *const told[] = {TELLS_LAUNCHER, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) { /* to the other machines too */
        if (!getenv(told[i])) continue;
        flags[n++] = "-x";
        flags[n++] = told[i];
    }
    return n;
}

typedef struct child {
    pid_t pid;
    int report;        /* read end: errno when mpirun could not be started, else its end */
    int errors;        /* read end: its standard error */
    int signals;       /* signalfd of what is passed on */
    double drain_s;    /* how long the ranks may take to drain; 0: they do not */
    double asked_s;    /* when they were first asked to, else 0 */
    bool was_terminal; /* a terminal asked */
    bool is_early;     /* so early that they have not been told yet: nobody listens before all have started */
    double ending_s;   /* when the job was first known to end, else 0 */
    bool is_asked;     /* to end early, by any signal for that */
    bool is_stuck;     /* mpirun did not, and was killed */
    const char *forced; /* why they were ended instead, else NULL */
    cox__noise noise;   /* of its standard error */
} child;

/* A second wish to end that comes so soon is the first one: `timeout` sends its signal to a process and then
 * to its group. A terminal sends each key once. */
static const double SAME_WISH_S = 0.5;

/* Ranks that are asked to end while they start have so long to get there, and can then end as they do later:
 * mpirun ends what it is starting no sooner, and a rank that it forgets would go on to answer. */
static const double START_S = 5;

/* In the child: becomes mpirun, or says why not through the pipe. A terminal sends SIGINT to mpirun too;
 * where ranks drain it must not end them (it stays blocked in mpirun, which unblocks everything in the
 * ranks). */
static _Noreturn void become_mpirun(char *const arguments[], const child *c, pid_t parent,
                                    const sigset_t *before, int report, int errors)
{
    sigset_t mask = *before;
    if (c->drain_s > 0) sigaddset(&mask, SIGINT);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    dup2(errors, STDERR_FILENO);
    if (getppid() == parent) execvp(arguments[0], arguments);
    int reason = errno;
    if (write(report, &reason, sizeof reason) < 0) _exit(EXIT_NOT_STARTED - 1);
    _exit(EXIT_NOT_STARTED);
}

/* Takes what there is of the child's standard error; false at its end. */
static bool pass_errors(int errors, cox__noise *noise)
{
    char text[4096];
    ssize_t n = read(errors, text, sizeof text);
    if (n > 0) cox__noise_take(noise, text, (size_t)n);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* mpirun ends its ranks within a second or two. Asked twice it may crash, and leave them: it is asked once.
 */
static void end_ranks(child *c, int number)
{
    if (c->noise.ending == 0) kill(c->pid, number);
    c->noise.ending = c->pid;
}

static const char before_start[] = "stopped by a signal before all ranks had started";

/* A wish that came too early is passed on when all have started. */
static void pass_early_wish(child *c)
{
    if (!c->is_early || c->forced) return;
    if (c->noise.has_started) {
        c->is_early = false;
        c->asked_s = cox_now_s();
        kill(c->pid, SIGUSR1);
    } else if (cox_now_s() > c->asked_s + START_S) {
        c->forced = before_start;
        end_ranks(c, SIGTERM);
    }
}

/* The first wish to end becomes the wish to drain, the second one is meant. What a terminal sends reaches the
 * whole process group by itself. */
static void pass_signal(child *c, const struct signalfd_siginfo *info)
{
    double now_s = cox_now_s();
    int number = (int)info->ssi_signo;
    bool is_of_terminal = info->ssi_code == SI_KERNEL, is_wish = number == SIGINT || number == SIGTERM;
    if (number == SIGCHLD) return;
    bool asks = is_wish || number == SIGUSR1;
    c->is_asked = c->is_asked || asks;
    if (asks && c->drain_s > 0 && c->asked_s == 0 && (is_wish || !c->noise.has_started)) {
        c->asked_s = now_s;
        c->was_terminal = is_of_terminal;
        c->is_early = !c->noise.has_started;
        if (!c->is_early) kill(c->pid, SIGUSR1);
    } else if (is_wish && c->drain_s > 0) {
        bool is_same = now_s - c->asked_s < SAME_WISH_S && !(is_of_terminal && c->was_terminal);
        if (is_same || c->forced) return;
        c->forced = c->is_early ? before_start : "ended at once, by a second signal";
        end_ranks(c, SIGTERM);
    } else if (is_wish) {
        if (is_of_terminal) c->noise.ending = c->pid;
        end_ranks(c, number);
    } else if (!is_of_terminal && !c->is_early) {
        kill(c->pid, number);
    }
}

/* A rank has told why the job ends, or mpirun was asked to end it. */
static bool is_ending(const child *c)
{
    return c->noise.has_verdict || c->noise.ending > 0;
}

/* mpirun kills the ranks within a second or two; then it may lock itself up (PMIx_server_finalize of Open
 * MPI 4.1 waits for a thread that waits for a lock of its own). Without it daemons of other machines end too.
 */
static const double END_LIMIT_S = 6;

static void end_stuck(child *c)
{
    double now_s = cox_now_s();
    if (is_ending(c) && c->ending_s == 0) c->ending_s = now_s;
    if (c->ending_s == 0 || c->is_stuck || now_s < c->ending_s + END_LIMIT_S) return;
    c->is_stuck = true;
    kill(c->pid, SIGKILL);
}

/* Passes signals to the child and its standard error to ours until it has ended. */
static int wait_for(child *c)
{
    struct pollfd watched[2] = {{.fd = c->signals, .events = POLLIN}, {.fd = c->errors, .events = POLLIN}};
    int state = 0;
    while (waitpid(c->pid, &state, WNOHANG) != c->pid) {
        struct signalfd_siginfo info;
        end_stuck(c);
        if (poll(watched, 2, c->is_early ? 100 : c->asked_s > 0 || is_ending(c) ? 1000 : -1) < 0) continue;
        if (watched[1].revents && !pass_errors(c->errors, &c->noise)) watched[1].fd = -1;
        if (watched[0].revents && read(c->signals, &info, sizeof info) == (ssize_t)sizeof info)
            pass_signal(c, &info);
        pass_early_wish(c);
        if (c->asked_s > 0 && !c->forced && cox_now_s() > c->asked_s + c->drain_s) {
            c->forced = "ended: the ranks did not stop by themselves in time";
            end_ranks(c, SIGTERM);
        }
    }
    fcntl(c->errors, F_SETFL, O_NONBLOCK); /* a rank that outlives mpirun must not keep us */
    for (ssize_t n = 1; n > 0;) {
        char text[4096];
        n = read(c->errors, text, sizeof text);
        if (n > 0) cox__noise_take(&c->noise, text, (size_t)n);
    }
    cox__noise_flush(&c->noise);
    /* What the ranks would have said with their codes is lost: who was asked to end early goes on later. */
    if (c->is_stuck) return cox_status_exit_code(c->is_asked ? COX_REQUEUE : COX_PEER);
    return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

/* Starts mpirun; the signals are blocked and arrive through c->signals. */
static cox_status start(char *const arguments[], child *c, const sigset_t *before)
{
    int report[2], errors[2];
    if (pipe2(report, O_CLOEXEC) != 0)
        return cox_fail(COX_IO, "cannot make a pipe for mpirun: %s", strerror(errno));
    if (pipe2(errors, O_CLOEXEC) != 0) {
        close(report[0]);
        close(report[1]);
        return cox_fail(COX_IO, "cannot make a pipe for mpirun: %s", strerror(errno));
    }
    c->report = report[0];
    c->errors = errors[0];
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid == 0) become_mpirun(arguments, c, parent, before, report[1], errors[1]);
    int reason = errno;
    close(report[1]);
    close(errors[1]);
    if (c->pid > 0 && read(c->report, &reason, sizeof reason) != (ssize_t)sizeof reason) return COX_OK;
    if (c->pid > 0) waitpid(c->pid, NULL, 0);
    close(c->report);
    close(c->errors);
    return cox_fail(COX_NOT_FOUND, "cannot start mpirun: %s; on Debian: apt-get install openmpi-bin",
                    strerror(reason));
}

static cox_status run(char *const arguments[], double drain_s, int *exit_code)
{
    static const int passed_on[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
    sigset_t signals, before;
    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++) sigaddset(&signals, passed_on[i]);
    struct sigaction interrupt;
    bool is_ignored = sigaction(SIGINT, NULL, &interrupt) == 0 && interrupt.sa_handler == SIG_IGN;
    if (is_ignored) sigdelset(&signals, SIGINT); /* a shell has it so for what runs in the background */
    sigprocmask(SIG_BLOCK, &signals, &before);
    child c = {.signals = signalfd(-1, &signals, SFD_CLOEXEC), .drain_s = drain_s};
    cox_status status = c.signals < 0 ? cox_fail(COX_IO, "cannot listen to signals: %s", strerror(errno))
                        : cox_drain_is_wanted() ? cox_fail(COX_REQUEUE, "stopped by a signal")
                                                : start(arguments, &c, &before);
    if (status == COX_OK) {
        *exit_code = wait_for(&c);
        bool is_parted = *exit_code == 0 || *exit_code == cox_status_exit_code(COX_REQUEUE);
        if (c.forced == before_start && c.noise.has_started) /* after all, and something may be printed */
            c.forced = "ended by a signal while the ranks started";
        if (c.forced && !is_parted) status = cox_fail(COX_REQUEUE, "%s", c.forced);
        if (!c.forced && *exit_code != 0 && c.noise.trouble[0] != '\0')
            status = cox_fail(COX_PEER, "%s", c.noise.trouble);
        close(c.report);
        close(c.errors);
    }
    if (c.signals >= 0) close(c.signals);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return status;
}

cox_status cox_launch(int32_t n_ranks, double drain_s, int argc, char *const argv[], int *exit_code)
{
    if (n_ranks < 1) return cox_fail(COX_INVALID, "%d ranks: give --ranks a positive number", (int)n_ranks);
    if (cox_launch_is_inside())
        return cox_fail(COX_INVALID, "already started by mpirun or srun: leave out --ranks");
    char program[4096], number[16];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return cox_fail(COX_IO, "cannot find this program's own path: %s", strerror(errno));
    program[length] = '\0';
    setenv(TELLS_LAUNCHER, "1", 1);
    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    }
    if (n_ranks > count_cores() && !getenv("SLURM_JOB_ID")) {
        setenv("OMP_WAIT_POLICY", "passive", 0);
        setenv("KMP_BLOCKTIME", "0", 0);
    }
    const char *flags[N_FLAGS];
    int n_flags = mpirun_flags(flags, n_ranks, number, sizeof number);
    char **arguments = calloc((size_t)(n_flags + argc + 1), sizeof *arguments);
    if (!arguments) return cox_no_memory("mpirun's arguments");
    for (int i = 0; i < n_flags; i++) arguments[i] = (char *)(uintptr_t)flags[i];
    arguments[n_flags] = program;
    for (int i = 1; i < argc; i++) arguments[n_flags + i] = argv[i];
    fflush(NULL);
    cox_status status = run(arguments, drain_s, exit_code);
    free(arguments);
    return status;
}
