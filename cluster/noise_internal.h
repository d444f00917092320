/*
 * Standard error of mpirun on its way through cox_launch (launch_noise.c), and the lines by which ranks tell
 * the launcher. Without mpi.h: tests/unit feeds it by hand.
 */
#ifndef COX_CLUSTER_NOISE_INTERNAL_H
#define COX_CLUSTER_NOISE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Lines of a rank to its launcher. STARTED: all ranks are there (rank 0 says so). VERDICT: this rank has said
 * why the job ends, and ends it now: what mpirun and MPI print from here on are consequences. */
#define COX__STARTED "coxswain: all ranks have started\n"
#define COX__VERDICT "coxswain: a rank has said why the job ends\n"

/* Zeroed at the start. take: more bytes; flush: what is held back, at the end. Both write to
 * standard error. */
typedef struct cox__noise {
    pid_t ending;           /* mpirun's process once it has been told to end, else 0 */
    bool has_started;       /* rank 0 has said COX__STARTED */
    char trouble[512];      /* what kept mpirun from starting the ranks, in our words; "": nothing known */
    char unreached[128];    /* the first machine that ssh has complained of, else "" */
    bool has_verdict;       /* a rank has said COX__VERDICT */
    bool is_box;            /* between two lines of dashes */
    size_t n_held, line_at; /* bytes held back; where the last line begins */
    char held[8192];
} cox__noise;
void cox__noise_take(cox__noise *noise, const char *text, size_t n);
void cox__noise_flush(cox__noise *noise);

#endif
