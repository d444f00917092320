/* The set of strings seen so far, 16 bytes for each: half a SHA-256 stands for a string, so two different
 * strings are never confused in practice. */
#ifndef COX_CLI_SEEN_H
#define COX_CLI_SEEN_H

#include <stdbool.h>

#include "base/status.h"

typedef struct cox_seen cox_seen;

/* [out] owned by the caller. Errors: NO_MEMORY. */
cox_status cox_seen_create(cox_seen **seen);
void cox_seen_destroy(cox_seen *seen); /* NULL is allowed */

/* [out] *is_new: the text was not in the set; now it is. Errors: NO_MEMORY. */
cox_status cox_seen_add(cox_seen *seen, const char *text, bool *is_new);

#endif
