/*
 * Which memory is which mapped file, for the one moment in which it matters: a page of a file that was
 * truncated, or that the disk cannot give, raises SIGBUS in whoever touches it. The handler that the first
 * mapping installs names the file on stderr and ends the process with IO's exit code (mpirun then ends the
 * job). A SIGBUS elsewhere goes to the handler that was there before.
 */
#ifndef COX_MODEL_MAPPING_H
#define COX_MODEL_MAPPING_H

#include <stddef.h>

typedef struct cox__mapping {
    const unsigned char *data;
    size_t n_bytes;
    const char *path;
    struct cox__mapping *next; /* the list's */
} cox__mapping;

/* Puts a mapping on the list; it must stay where it is until cox__mapping_forget, which comes before munmap.
 * While either runs no other thread may map or use mapped memory. */
void cox__mapping_watch(cox__mapping *mapping);
void cox__mapping_forget(cox__mapping *mapping); /* one that is not on the list is allowed */

/* Who begins the message: "rank 1 on HOST"; "" (from the start): nobody. Copied. part: called between message
 * and end, async-signal-safe; NULL (from the start): nothing is. */
void cox_mapping_set_owner(const char *owner, void (*part)(void));

#endif
