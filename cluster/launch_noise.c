/*
 * mpirun's standard error without what says nothing: when a rank ends with an exit code or aborts, it has
 * printed why, and mpirun adds boxes of text between lines of dashes. Those of known kinds are left out, and
 * so is what it says of signals that it passes on and, once it has been told to end, of its own troubles; all
 * else passes at once and unchanged, above all the box that names a rank that was killed. Once a rank has
 * told that it has said why the job ends (COX__VERDICT), all that is not ours is left out: the others' MPI
 * complains of peers that are gone, and mpirun of its pipes. Only the box that names a killed rank still
 * passes: mpirun names the first that ended, so that it was killed before the verdict.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/noise_internal.h"

static const char DASHES[] = "--------------------------------------------------------------------------\n";
static const char MPIRUN[] = "mpirun: ";
static const char OURS[] = "coxswain"; /* "coxswain: ", "coxswain generate: " */
static const char KILLED[] = "exited on signal";
static const char *const SAYS_NOTHING[] = {
    "MPI_ABORT was invoked on rank",
    "a non-zero exit code. Per user-direction, the job has been aborted.",
    "mpirun detected that one or more processes exited with non-zero status",
    /* "A system call failed during shared memory initialization": the job's files are gone, it is ending */
    "Error:       No such file or directory (errno 2)",
};

#define NOT_EVERYWHERE                                                                                 \
    "mpirun could not start on every machine",                                                         \
        "check the names in the hostfile or the allocation; `ssh MACHINE true` has to work without a " \
        "question, and Open MPI has to be there"

/* Boxes of a start that failed, and what there is to do. A line of ssh before them may name the machine. */
static const struct {
    const char *sign, *meaning, *what_to_do;
} TROUBLES[] = {
    {"ORTE was unable to reliably start one or more daemons", NOT_EVERYWHERE},
    {"ORTE does not know how to route a message", NOT_EVERYWHERE}, /* another machine than the first */
    {"There are not enough slots available", "mpirun has fewer slots than --ranks",
     "fewer ranks with more --threads, or more slots= in the hostfile"},
    {"All nodes which are allocated for this job are already filled", "mpirun has fewer slots than --ranks",
     "fewer ranks with more --threads, or a larger allocation"},
    {"unable to find the specified executable file", "a machine does not have this program at the same path",
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

static bool is_ours(const char *line, size_t n)
{
    return n >= sizeof OURS - 1 && memcmp(line, OURS, sizeof OURS - 1) == 0;
}

void cox__noise_flush(cox__noise *s)
{
    s->held[s->n_held] = '\0';
    if (!s->has_verdict || is_ours(s->held, s->n_held) || strstr(s->held, KILLED)) put(s->held, s->n_held);
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

/* Cuts off what a rank has told the launcher alone: a line of its own, or the end of one that another rank
 * had begun (a progress bar). */
static bool take_told(cox__noise *s, const char *told)
{
    size_t n = strlen(told);
    if (s->n_held - s->line_at < n || strcmp(s->held + s->n_held - n, told) != 0) return false;
    s->n_held -= n;
    return true;
}

/* "ssh: Could not resolve hostname X: ...", "ssh: connect to host X port 22: ...", "me@X: Permission denied".
 */
static void note_machine(cox__noise *s, const char *line)
{
    static const char resolve[] = "ssh: Could not resolve hostname ", connect[] = "ssh: connect to host ";
    const char *name = NULL, *denied = strstr(line, ": Permission denied");
    if (s->unreached[0] != '\0') return;
    if (strncmp(line, resolve, sizeof resolve - 1) == 0) name = line + sizeof resolve - 1;
    if (strncmp(line, connect, sizeof connect - 1) == 0) name = line + sizeof connect - 1;
    if (denied) name = memchr(line, '@', (size_t)(denied - line));
    if (denied && name) name++;
    if (name) snprintf(s->unreached, sizeof s->unreached, "%.*s", (int)strcspn(name, ": \n"), name);
}

/* In a box: true when it is of a start that failed, which is then told in our words. */
static bool is_trouble(cox__noise *s)
{
    for (size_t i = 0; i < sizeof TROUBLES / sizeof *TROUBLES && !s->has_started; i++) {
        if (!strstr(s->held, TROUBLES[i].sign)) continue;
        bool is_named = s->unreached[0] != '\0';
        snprintf(s->trouble, sizeof s->trouble, "%s%s%s: %s", TROUBLES[i].meaning,
                 is_named ? ", not on " : "", s->unreached, TROUBLES[i].what_to_do);
        return true;
    }
    return false;
}

/* A whole line has been held. */
static void end_line(cox__noise *s)
{
    const char *line = s->held + s->line_at;
    s->held[s->n_held] = '\0';
    bool is_dashes = strcmp(line, DASHES) == 0, is_start = take_told(s, COX__STARTED),
         is_verdict = take_told(s, COX__VERDICT);
    size_t n = s->n_held - s->line_at;
    if (is_start || is_verdict || is_ours(line, n)) { /* no part of a box, though it may come inside one */
        put(line, n);
        s->n_held = s->line_at;
        s->has_started = s->has_started || is_start;
        s->has_verdict = s->has_verdict || is_verdict;
    } else if (!s->is_box && !is_dashes) {
        if (!s->has_started) note_machine(s, s->held);
        if (says_nothing(s->held, s->ending)) s->n_held = 0;
        cox__noise_flush(s);
    } else if (s->is_box && is_dashes) {
        bool is_dropped = is_trouble(s) || s->ending > 0; /* once it was told to end: whatever it says */
        for (size_t i = 0; i < sizeof SAYS_NOTHING / sizeof *SAYS_NOTHING; i++)
            is_dropped = is_dropped || strstr(s->held, SAYS_NOTHING[i]);
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
    return s->is_box || s->has_verdict || line[0] == '[' || memcmp(line, MPIRUN, n_name) == 0 ||
           (n < sizeof DASHES && memcmp(line, DASHES, n) == 0);
}

/* How many of the last bytes may be the beginning of what a rank tells, which the next read goes on with. */
static size_t count_told(const cox__noise *s, const char *told)
{
    size_t n = strlen(told) - 1;
    if (n > s->n_held) n = s->n_held;
    while (n > 0 && memcmp(s->held + s->n_held - n, told, n) != 0) n--;
    return n;
}

/* At once, without waiting for the line's end (a progress bar has none), what cannot be such a beginning. */
static void pass_part(cox__noise *s)
{
    char part[sizeof COX__VERDICT > sizeof COX__STARTED ? sizeof COX__VERDICT : sizeof COX__STARTED];
    size_t n = count_told(s, COX__STARTED), n_verdict = count_told(s, COX__VERDICT);
    if (n < n_verdict) n = n_verdict;
    memcpy(part, s->held + s->n_held - n, n);
    s->n_held -= n;
    cox__noise_flush(s);
    memcpy(s->held, part, n);
    s->n_held = n;
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
    if (s->n_held > 0 && !is_suspect(s)) pass_part(s);
}
