/*
 * The time before the first sign of life: MPI's start, in which a rank that was stopped, or that hangs on its
 * way there, would keep all others waiting for ever. A helper thread looks once a second at the ranks of this
 * machine (the other children of mpirun, or of its daemon) through /proc. One that is stopped in several
 * looks running is named and this process ends, and mpirun ends the job; so it does after limit_s, whatever
 * the reason. Time is counted in looks, which a stopped process does not take: a job that was suspended as a
 * whole goes on. Several see it in the same look; who binds a name that belongs to the launch speaks for this
 * machine. The thread calls no MPI. From the first agreement on, pulse.c keeps watch.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cluster/internal.h"

enum {
    LOOK_MS = 1000,
    STOPPED_LOOKS = 5,
    SILENT_LOOKS =
        5, /* of one that has something to say while another speaks: then that one was stopped too */
    ENDING_LOOKS = 20, /* of one that sees that another has gone: then mpirun does not end the job */
    ENVIRONMENT_BYTES = 1 << 16
};
static const char THREAD_NAME[] = "cox-starting"; /* seen in /proc: this rank has come as far as here */

typedef struct peer {
    pid_t pid;
    int32_t rank;      /* -1: not a rank, or not yet */
    int32_t n_stopped; /* looks running in which it was stopped */
    bool is_here;      /* in this look */
} peer;

struct cox__starting {
    pthread_t thread;
    int end; /* eventfd: written when the watch is over */
    pid_t parent;
    int32_t n_looks, limit_looks, n_silent, n_ending;
    peer *peers; /* ranks of this machine, this one among them */
    size_t n_peers, capacity;
};

/* --- /proc --- */

/* The rank that the launcher gave to a process; -1: none. */
static int32_t rank_of(pid_t pid, char *text)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK="};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file) return -1;
    size_t n = fread(text, 1, ENVIRONMENT_BYTES - 1, file);
    fclose(file);
    text[n] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (const char *at = text; at < text + n; at += strlen(at) + 1) {
            if (strncmp(at, names[i], strlen(names[i])) == 0) return (int32_t)atoi(at + strlen(names[i]));
        }
    }
    return -1;
}

/* The state letter of a child of `parent`; 0: another process, or gone. */
static char state_of_child(const char *pid, pid_t parent)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    const char *name_end = strrchr(text, ')'); /* "pid (name) S ppid"; a name may hold anything */
    char state = 0;
    int ppid = 0;
    if (!name_end || sscanf(name_end + 1, " %c %d", &state, &ppid) != 2) return 0;
    return ppid == (int)parent ? state : 0;
}

/* Does it run a thread like this file's? */
static bool has_come(pid_t pid)
{
    char path[64], name[32];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    bool found = false;
    for (const struct dirent *task; tasks && !found && (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", (int)pid, task->d_name);
        FILE *file = isdigit((unsigned char)*task->d_name) ? fopen(path, "re") : NULL;
        if (!file) continue;
        found = fgets(name, sizeof name, file) && strncmp(name, THREAD_NAME, sizeof THREAD_NAME - 1) == 0;
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return found;
}

/* --- One look --- */

/* NULL: out of memory; the next look tries again. */
static peer *find_or_add(cox__starting *s, pid_t pid)
{
    for (size_t i = 0; i < s->n_peers; i++) {
        if (s->peers[i].pid == pid) return &s->peers[i];
    }
    if (s->n_peers == s->capacity) {
        size_t capacity = 2 * s->capacity + 16;
        peer *larger = realloc(s->peers, capacity * sizeof *larger);
        if (!larger) return NULL;
        s->peers = larger;
        s->capacity = capacity;
    }
    s->peers[s->n_peers] = (peer){.pid = pid, .rank = -1};
    return &s->peers[s->n_peers++];
}

static void look(cox__starting *s)
{
    static char environment[ENVIRONMENT_BYTES]; /* one watch at a time */
    DIR *processes = opendir("/proc");
    s->n_looks++;
    for (size_t i = 0; i < s->n_peers; i++) s->peers[i].is_here = false;
    for (const struct dirent *entry; processes && (entry = readdir(processes));) {
        char state = isdigit((unsigned char)*entry->d_name) ? state_of_child(entry->d_name, s->parent) : 0;
        if (!state) continue;
        pid_t pid = (pid_t)atoi(entry->d_name);
        peer *p = find_or_add(s, pid);
        if (!p) continue;
        if (p->rank < 0) p->rank = rank_of(pid, environment);
        p->is_here = p->rank >= 0 && state != 'Z';
        p->n_stopped = state == 'T' ? p->n_stopped + 1 : 0; /* a debugger's stop is 't' */
    }
    if (processes) closedir(processes);
}

/* --- Verdicts --- */

/* Whether this rank speaks for its machine: an abstract address is bound once, and free when its owner ends.
 */
static bool has_the_word(const cox__starting *s)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX}; /* sun_path[0] is 0: abstract */
    int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "coxswain-starting-%d", (int)s->parent);
    int word = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* open until the process ends */
    socklen_t n_name = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    bool is_taken =
        word >= 0 && bind(word, (const struct sockaddr *)&name, n_name) != 0 && errno == EADDRINUSE;
    if (is_taken) close(word);
    return !is_taken;
}

static bool has_gone(const cox__starting *s)
{
    bool found = false;
    for (size_t i = 0; i < s->n_peers; i++) found = found || (s->peers[i].rank >= 0 && !s->peers[i].is_here);
    return found;
}

/* Ends the job, unless another rank of this machine is about to, or has spoken and is gone. */
static void end_job(cox__starting *s, const char *message)
{
    bool has_word = has_the_word(s);
    look(s);
    if (has_gone(s)) { /* it has spoken: also when mpirun, on a busy machine, takes its time to end the job */
        if (s->n_ending++ < ENDING_LOOKS) return;
    } else if (!has_word) {
        if (s->n_silent++ < SILENT_LOOKS) return;
    }
    dprintf(STDERR_FILENO, "%s", message); /* the main thread may hold a stream's lock */
    cox_launch_wait_read();
    _exit(cox_status_exit_code(COX_PEER)); /* without MPI_Finalize: mpirun ends the others */
}

static void host_name(char host[COX__HOST_BYTES])
{
    memset(host, 0, COX__HOST_BYTES);
    gethostname(host, COX__HOST_BYTES - 1);
}

/* Ends the job when ranks of this machine are stopped. */
static void check_stopped(cox__starting *s)
{
    char host[COX__HOST_BYTES], message[COX__MESSAGE_BYTES];
    size_t n = 0;
    host_name(host);
    for (size_t i = 0; i < s->n_peers; i++) {
        const peer *p = &s->peers[i];
        if (!p->is_here || p->n_stopped < STOPPED_LOOKS || n + 256 > sizeof message) continue;
        n += (size_t)snprintf(message + n, sizeof message - n,
                              "coxswain: rank %d (process %d on %s) is stopped; the job cannot start\n",
                              (int)p->rank, (int)p->pid, host);
    }
    if (n > 0) end_job(s, message);
}

/* " 0 1 4": the ranks of this machine that have come, or that have not. */
static void list_ranks(const cox__starting *s, bool come, char *text, size_t n_text)
{
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < s->n_peers && n + 16 < n_text; i++) {
        const peer *p = &s->peers[i];
        if (!p->is_here || has_come(p->pid) != come) continue;
        n += (size_t)snprintf(text + n, n_text - n, " %d", (int)p->rank);
    }
}

/* Ends the job when it has not started in time. */
static void check_limit(cox__starting *s)
{
    if (s->n_looks < s->limit_looks) return;
    char host[COX__HOST_BYTES], come[256], missing[256], message[COX__MESSAGE_BYTES];
    host_name(host);
    list_ranks(s, true, come, sizeof come);
    list_ranks(s, false, missing, sizeof missing);
    int n = snprintf(message, sizeof message,
                     "coxswain: the job has not started within %d s. Of the ranks on %s these have come:%s; ",
                     (int)s->limit_looks, host, come);
    snprintf(message + n, sizeof message - (size_t)n,
             missing[0] ? "these have not:%s\n"
                        : "none is missing%s: others have not come, or cannot be reached over the network\n",
             missing);
    end_job(s, message);
}

static void *watch(void *context)
{
    cox__starting *s = context;
    struct pollfd end = {.fd = s->end, .events = POLLIN};
    while (poll(&end, 1, LOOK_MS) <= 0) {
        look(s);
        check_stopped(s);
        check_limit(s);
    }
    return NULL;
}

/* --- Its beginning and end --- */

static void starting_release(cox__starting *s)
{
    if (s->end >= 0) close(s->end);
    free(s->peers);
    free(s);
}

cox_status cox__starting_begin(cox__starting **starting, double limit_s)
{
    cox__starting *s = calloc(1, sizeof *s);
    if (!s) return cox_no_memory("the watch over the start");
    *s = (cox__starting){.end = eventfd(0, EFD_CLOEXEC),
                         .parent = getppid(),
                         .limit_looks = (int32_t)(limit_s * 1000 / LOOK_MS)};
    sigset_t all, before; /* signals are the main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool has_thread = s->end >= 0 && pthread_create(&s->thread, NULL, watch, s) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!has_thread) {
        starting_release(s);
        return cox_fail(COX_NO_MEMORY, "cannot start the thread that watches over the start");
    }
    pthread_setname_np(s->thread, THREAD_NAME);
    *starting = s;
    return COX_OK;
}

void cox__starting_end(cox__starting *s)
{
    if (!s) return;
    const uint64_t one = 1;
    if (write(s->end, &one, sizeof one) == (ssize_t)sizeof one) pthread_join(s->thread, NULL);
    starting_release(s);
}
