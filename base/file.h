/* Whole files in memory. */
#ifndef COX_BASE_FILE_H
#define COX_BASE_FILE_H

#include <stddef.h>

#include "base/status.h"

/*
 * The bytes of a file, to its end. [out] *data: *n_bytes of them and a NUL behind, malloc'ed, the caller's;
 * both are written on success alone. A file of more than most_bytes (SIZE_MAX: any) is refused. Reading gives
 * signs of life (base/alive.h). Errors: NOT_FOUND, IO, BAD_FILE (too large), NO_MEMORY.
 */
cox_status cox_file_read(const char *path, size_t most_bytes, char **data, size_t *n_bytes);

/* The same, but what is no regular file is BAD_FILE: a pipe that nobody writes to would be waited for. */
cox_status cox_file_read_regular(const char *path, size_t most_bytes, char **data, size_t *n_bytes);

/* Called before each read of a descriptor; what it returns but OK ends the reading. */
typedef cox_status cox_file_wait(void *user, int descriptor);

/* The same from an open descriptor, from where it stands; it stays open. name: for messages; wait may be
 * NULL. */
cox_status cox_file_read_from(int descriptor, const char *name, size_t most_bytes, cox_file_wait *wait,
                              void *user, char **data, size_t *n_bytes);

#endif
