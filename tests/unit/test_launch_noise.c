/* What cox_launch shows of mpirun's standard error: texts of Open MPI 4.1 before and after a rank's verdict,
 * fed through a pipe in pieces of every small size. Nothing of worth may get lost on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/noise_internal.h"

#define DASHES "--------------------------------------------------------------------------\n"
#define INIT_BOX                                                                           \
    DASHES "It looks like MPI_INIT failed for some reason; your parallel process is\n"     \
           "likely to abort.  There are many reasons that a parallel process can\n"        \
           "fail during MPI_INIT; some of which are due to configuration or environment\n" \
           "problems.\n\n  ompi_mpi_init: ompi_rte_init failed\n  --> Returned \"(null)\" (-43)\n" DASHES
#define INIT_LINES                                                               \
    "[host:41] *** An error occurred in MPI_Init_thread\n"                       \
    "[host:41] *** reported by process [1,2]\n*** on a NULL communicator\n"      \
    "*** MPI_ERRORS_ARE_FATAL (processes in this communicator will now abort,\n" \
    "***    and potentially your MPI job)\n"
#define EPOLL                                                                                        \
    "[warn] Epoll MOD(1) on fd 25 failed. Old events were 6; read change was 2 (del); write change " \
    "was 0 (none); close change was 0 (none): Bad file descriptor\n"
#define STOPPED "coxswain: rank 2 (process 9 on host) is stopped; the job cannot start\n"
#define KILLED                                                                              \
    DASHES "mpirun noticed that process rank 1 with PID 0 on node host exited on signal 9 " \
           "(Killed).\n" DASHES

enum { SHOWN_BYTES = 1 << 15 };

/* Feeds the text in pieces of n bytes with standard error in a pipe; what has come out, NUL-terminated. */
static void show(const char *text, size_t piece, char shown[SHOWN_BYTES])
{
    int ends[2], before = dup(STDERR_FILENO);
    cox__noise noise = {.ending = 0};
    assert_int_equal(pipe(ends), 0);
    assert_true(before >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    for (size_t n = strlen(text), at = 0; at < n; at += piece)
        cox__noise_take(&noise, text + at, n - at < piece ? n - at : piece);
    cox__noise_flush(&noise);
    dup2(before, STDERR_FILENO);
    close(before);
    close(ends[1]);
    size_t n_shown = 0;
    for (ssize_t n; (n = read(ends[0], shown + n_shown, SHOWN_BYTES - 1 - n_shown)) > 0;)
        n_shown += (size_t)n;
    shown[n_shown] = '\0';
    close(ends[0]);
}

/* However it arrives, this is what is shown. */
static void shows(const char *text, const char *expected)
{
    static const size_t pieces[] = {1, 2, 3, 7, 64, 4096};
    static char shown[SHOWN_BYTES];
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        show(text, pieces[i], shown);
        assert_string_equal(shown, expected);
    }
}

static void consequences_of_a_verdict(void **state)
{
    (void)state;
    shows(STOPPED COX__VERDICT INIT_BOX INIT_LINES EPOLL, STOPPED);
    shows(STOPPED COX__VERDICT EPOLL "[warn] Epo", STOPPED); /* cut off by its process' end */
    shows(COX__STARTED STOPPED COX__VERDICT INIT_LINES, STOPPED);
}

static void all_before_the_verdict(void **state)
{
    (void)state;
    shows(INIT_BOX INIT_LINES EPOLL STOPPED COX__VERDICT EPOLL, INIT_BOX INIT_LINES EPOLL STOPPED);
    shows(INIT_BOX INIT_LINES EPOLL, INIT_BOX INIT_LINES EPOLL); /* and without one */
    shows("\r[##  ]" COX__VERDICT EPOLL, "\r[##  ]");            /* behind a progress bar */
}

static void our_lines_always(void **state)
{
    (void)state;
    shows(COX__VERDICT "coxswain: rank 0 on host: b\ncoxswain generate: c\n" EPOLL STOPPED,
          "coxswain: rank 0 on host: b\ncoxswain generate: c\n" STOPPED);
    shows(STOPPED COX__VERDICT DASHES "A box\n" STOPPED "goes on\n" DASHES,
          STOPPED STOPPED); /* inside a box */
    shows(STOPPED COX__VERDICT "coxswain: no line end", STOPPED "coxswain: no line end");
}

static void a_killed_rank(void **state)
{
    (void)state;
    shows(KILLED, KILLED); /* nobody of ours has spoken */
    shows(INIT_LINES KILLED, INIT_LINES KILLED);
    shows(STOPPED COX__VERDICT INIT_BOX KILLED EPOLL, STOPPED KILLED);
}

/* A verdict that comes while a box is being said ends what is shown of it. */
static void a_verdict_in_a_box(void **state)
{
    (void)state;
    shows(DASHES "A box\n" STOPPED COX__VERDICT "goes on\n" DASHES INIT_LINES, STOPPED);
    shows(DASHES "mpirun noticed that\n" COX__VERDICT "process rank 1 exited on signal 9\n" DASHES,
          DASHES "mpirun noticed that\nprocess rank 1 exited on signal 9\n" DASHES);
}

/* A line that only resembles a verdict is one of ours, and ends nothing. */
static void no_verdict(void **state)
{
    (void)state;
    shows("coxswain: a rank has said why the job\n" EPOLL, "coxswain: a rank has said why the job\n" EPOLL);
    shows("a rank has said why the job ends\n" EPOLL, "a rank has said why the job ends\n" EPOLL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(consequences_of_a_verdict), cmocka_unit_test(all_before_the_verdict),
        cmocka_unit_test(our_lines_always),          cmocka_unit_test(a_killed_rank),
        cmocka_unit_test(a_verdict_in_a_box),        cmocka_unit_test(no_verdict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
