/*
 * mpirun's standard error without what says nothing: when a rank ends with an exit code or aborts, it has
 * printed why, and mpirun adds boxes of text between lines of dashes. Those of known kinds are left out, and
 * so is what it says of signals that it passes on and, once it has been told to end, of its own troubles; all
 * else passes at once and unchanged, above all the box that names a rank that was killed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/internal.h"

static const char DASHES[] = "--------------------------------------------------------------------------\n";
static const char MPIRUN[] = "mpirun: ";
static const char *const SAYS_NOTHING[] = {
    "MPI_ABORT was invoked on rank",
    "a non-zero exit code. Per user-direction, the job has been aborted.",
    "mpirun detected that one or more processes exited with non-zero status",
    /* "A system call failed during shared memory initialization": the job's files are gone, it is ending */
    "Error:       No such file or directory (errno 2)",
};

/* Boxes of a start that failed, and what there is to do. A line of ssh before them names the machine. */
static const struct {
    const char *sign, *meaning;
} TROUBLES[] = {
    {"ORTE was unable to reliably start one or more daemons",
     "mpirun could not start on every machine (a line above names it, or its ssh): check the names in the "
     "hostfile or the allocation; `ssh MACHINE true` has to work without a question, and Open MPI has to be "
     "there"},
    {"There are not enough slots available",
     "mpirun has fewer slots than --ranks: fewer ranks with more --threads, or more slots= in the hostfile"},
    {"All nodes which are allocated for this job are already filled",
     "mpirun has fewer slots than --ranks: fewer ranks with more --threads, or a larger allocation"},
    {"unable to find the specified executable file", "a machine does not have this program at the same path: "
                                                     "install it there, or use one file system for all"},
};

static void put(const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, text, n);
        if (done <= 0) return; /* nobody reads our errors any more */
        text += done;
        n -= (size_t)done;
    }
}

void cox__noise_flush(cox__noise *s)
{
    put(s->held, s->n_held);
    s->n_held = s->line_at = 0;
    s->is_box = false;
}

/* "[host:pid] 2 more processes have sent help message ..." and the line that follows it; and what mpirun logs
 * when it cannot read such a message ("ORTE_ERROR_LOG: Data unpack ... in file orte/util/show_help.c", Open
 * MPI issue 8356: the box of a rank that was ended while it said that it was ended). Also what a rank's MPI
 * logs when it reads from the memory of one that has died ("Read -1, expected 4096, errno = 1"): who died is
 * said by mpirun. */
static bool says_nothing(const char *line, pid_t ending)
{
    static const char *const of_mpirun[] = {"mpirun: Forwarding signal",
                                            "mpirun: abort is already in progress"};
    for (size_t i = 0; i < sizeof of_mpirun / sizeof *of_mpirun; i++) {
        if (strncmp(line, of_mpirun[i], strlen(of_mpirun[i])) == 0) return true;
    }
    if (ending > 0) { /* "[host:pid] *** Process received signal ***" and the lines below it, as it crashes */
        const char *colon = line[0] == '[' ? strchr(line, ':') : NULL;
        char *end = NULL;
        if (colon && strtol(colon + 1, &end, 10) == (long)ending && *end == ']') return true;
    }
    static const char *const signs[] = {"have sent help message", "has sent help message",
                                        "orte_base_help_aggregate", "util/show_help.c at line",
                                        "Read -1, expected"};
    for (size_t i = 0; line[0] == '[' && i < sizeof signs / sizeof *signs; i++) {
        if (strstr(line, signs[i])) return true;
    }
    return false;
}

/* A whole line has been held. */
static void end_line(cox__noise *s)
{
    size_t n_dashes = sizeof DASHES - 1;
    s->held[s->n_held] = '\0';
    bool is_dashes =
        s->n_held - s->line_at == n_dashes && memcmp(s->held + s->line_at, DASHES, n_dashes) == 0;
    if (!s->is_box && !is_dashes) {
        bool is_start = strcmp(s->held, COX__STARTED) == 0;
        s->has_started = s->has_started || is_start;
        if (is_start || says_nothing(s->held, s->ending)) s->n_held = 0;
        cox__noise_flush(s);
    } else if (s->is_box && is_dashes) {
        bool is_dropped = s->ending > 0; /* whatever happened, it was told to */
        for (size_t i = 0; i < sizeof SAYS_NOTHING / sizeof *SAYS_NOTHING; i++)
            is_dropped = is_dropped || strstr(s->held, SAYS_NOTHING[i]);
        for (size_t i = 0; i < sizeof TROUBLES / sizeof *TROUBLES && !s->has_started; i++) {
            if (!strstr(s->held, TROUBLES[i].sign)) continue;
            s->trouble = TROUBLES[i].meaning;
            is_dropped = true;
        }
        if (is_dropped) s->n_held = 0;
        cox__noise_flush(s);
    } else {
        s->is_box = true;
    }
    s->line_at = s->n_held;
}

/* Could the line that begins so be one to leave out? */
static bool is_suspect(const cox__noise *s)
{
    const char *line = s->held + s->line_at;
    size_t n = s->n_held - s->line_at;
    size_t n_name = n < sizeof MPIRUN - 1 ? n : sizeof MPIRUN - 1;
    return s->is_box || line[0] == '[' || memcmp(line, MPIRUN, n_name) == 0 ||
           (n < sizeof COX__STARTED && memcmp(line, COX__STARTED, n) == 0) ||
           (n < sizeof DASHES && memcmp(line, DASHES, n) == 0);
}

void cox__noise_take(cox__noise *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        s->held[s->n_held++] = text[i];
        if (text[i] == '\n') {
            end_line(s);
        } else if (s->n_held == sizeof s->held - 1) {
            cox__noise_flush(s); /* too long for a box of mpirun's */
        }
    }
    if (s->n_held > 0 && !is_suspect(s)) cox__noise_flush(s); /* a progress bar has no line ends: at once */
}
