/* Whole files and lines in and out: reading everything, reading lines without blocking the engine, writing
 * without losing what is written. "-" is standard input or output. */
#ifndef COX_RUN_IO_H
#define COX_RUN_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/cluster.h"

/* A user who types, or a pager that does not read, must not look like a hang to the other ranks: while these
 * two wait, they tell `cluster` (NULL: nobody to tell) that this rank is alive. */

/* The whole file. [out] *text malloc'ed, NUL-terminated, *n without the NUL. Errors: NOT_FOUND, IO,
 * NO_MEMORY. */
cox_status cox_io_read_all(cox_cluster *cluster, const char *path, char **text, size_t *n);

/* All n bytes to a descriptor. where: for the message. Errors: IO. */
cox_status cox_io_write_all(cox_cluster *cluster, int fd, const void *data, size_t n, const char *where);

/* Token ids separated by blanks or commas, with or without the brackets of a JSON list. [out] *ids malloc'ed,
 * *n. Errors: INVALID (names the first word that is no id), NO_MEMORY. */
cox_status cox_io_parse_ids(const char *text, const char *where, int32_t **ids, size_t *n);

/* --- Lines --- */

typedef struct cox_lines cox_lines;

enum { COX_LINE_MAX_BYTES = 64 << 20 };

typedef enum cox_line_result {
    COX_LINE_READY,
    COX_LINE_TOO_LONG,
    COX_LINE_NONE_NOW,
    COX_LINE_END
} cox_line_result;

/* Errors: NOT_FOUND, IO, NO_MEMORY. */
cox_status cox_lines_open(cox_lines **lines, const char *path);
void cox_lines_close(cox_lines *lines); /* NULL is allowed */

/*
 * The next line without its newline: [out] *line, *n, valid until the next call. A pipe that has nothing now
 * gives NONE_NOW after at most wait_s; a line longer than COX_LINE_MAX_BYTES is skipped and reported once as
 * TOO_LONG. A last line without a newline counts. Errors: IO, NO_MEMORY.
 */
cox_status cox_lines_next(cox_lines *lines, double wait_s, cox_line_result *result, const char **line,
                          size_t *n);

/* Bytes consumed so far, and the size of a regular file (0: unknown). */
uint64_t cox_lines_done_bytes(const cox_lines *lines);
uint64_t cox_lines_total_bytes(const cox_lines *lines);

#endif
