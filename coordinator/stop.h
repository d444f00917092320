/*
 * Stop strings over streamed text: text comes in pieces, and what may be shown comes out. Text that could be
 * the beginning of a stop string is held back until it is clear that it is not, so nothing of a stop string
 * is ever shown. The stop string that is complete first wins (of several completed by the same byte, the
 * longest), so the result does not depend on how the text is cut into pieces.
 */
#ifndef COX_COORDINATOR_STOP_H
#define COX_COORDINATOR_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct cox_stop cox_stop;

/* stops: n_stops non-empty strings, copied; n_stops may be 0. [out] owned by the caller. Errors: NO_MEMORY.
 */
cox_status cox_stop_create(cox_stop **stop, char *const *stops, size_t n_stops);
void cox_stop_destroy(cox_stop *stop); /* NULL is allowed */

/*
 * n bytes more. [out] *shown: what may be shown now, *n_shown bytes, valid until the next call. *has_stopped:
 * a stop string is complete; the text ends before it and later pieces are dropped. Errors: NO_MEMORY.
 */
cox_status cox_stop_put(cox_stop *stop, const char *piece, size_t n, const char **shown, size_t *n_shown,
                        bool *has_stopped);

/* The text is over: what was held back. Nothing after a stop. */
void cox_stop_flush(cox_stop *stop, const char **shown, size_t *n_shown);

#endif
