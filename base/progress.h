/*
 * The one progress bar: redrawn in place on a terminal (at most ten times a second), one line a minute in a
 * log. It writes to stderr. A rank under mpirun cannot see the user's terminal, so the style is given, not
 * guessed here.
 */
#ifndef COX_BASE_PROGRESS_H
#define COX_BASE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum cox_progress_style { COX_PROGRESS_NONE, COX_PROGRESS_BAR, COX_PROGRESS_LOG } cox_progress_style;
typedef enum cox_progress_unit { COX_PROGRESS_BYTES, COX_PROGRESS_COUNT } cox_progress_unit;

typedef struct cox_progress {
    const char *label; /* static */
    cox_progress_style style;
    cox_progress_unit unit;
    FILE *file; /* stderr */
    double started_s, drawn_s;
    uint64_t n_before; /* done before it started: they count as done, not for the rate; 0 unless set */
    size_t n_drawn;    /* width of the line that stands on the terminal */
} cox_progress;

/* Takes no memory. label: static string, "loading weights". */
void cox_progress_begin(cox_progress *progress, const char *label, cox_progress_style style,
                        cox_progress_unit unit);

/* done of total (total 0: not known). note: more text behind the bar, or NULL. Cheap when nothing is due. */
void cox_progress_update(cox_progress *progress, uint64_t done, uint64_t total, const char *note);

/* The last state: leaves one line behind on a terminal and in a log. */
void cox_progress_end(cox_progress *progress, uint64_t done, uint64_t total, const char *note);

/* "1.5 GiB", "731 B". [out] text. */
void cox_format_bytes(char *text, size_t n, uint64_t n_bytes);

/* "1:02:03", "2:03", "?" when negative or not finite. [out] text. */
void cox_format_duration(char *text, size_t n, double seconds);

#endif
