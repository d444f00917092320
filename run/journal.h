/*
 * Results that outlive the process that made them. A file of results holds one result a line; its journal
 * (FILE.journal, docs/formats.md) says whose run they are, which results are there and what their bytes must
 * be. A run that was killed anywhere, started again with the same arguments, finds what is done: a result
 * counts when its line is whole and its journal entry is; what comes after the last such result is cut. Both
 * files are written with one write() each, at once, and brought to the disk together about once a second.
 * One process writes (rank 0); the journal is locked against a second one.
 */
#ifndef COX_RUN_JOURNAL_H
#define COX_RUN_JOURNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/cluster.h"

typedef struct cox_journal cox_journal;

typedef struct cox_journal_options {
    const char *path;     /* of the file of results */
    const json_t *run;    /* object: all that the results depend on, by name; borrowed during open */
    bool begins_anew;     /* both files are emptied, whatever they hold */
    cox_cluster *cluster; /* to be told that this rank is alive while it reads and writes; NULL: nobody */
    /* Called by open for each result that is there, in the order in which they were written; NULL: not. line:
     * n bytes with the newline, valid during the call. Errors end cox_journal_open. */
    cox_status (*on_result)(void *context, uint64_t key, const char *line, size_t n);
    void *context;
} cox_journal_options;

/*
 * Opens or makes both files. [out] owned by the caller. Errors: INVALID (there is a file of results without a
 * journal, or of another run: the message says what differs), BUSY (another process writes), BAD_FILE (no
 * journal of ours; results that had reached the disk are not what was written), IO, NO_MEMORY.
 */
cox_status cox_journal_open(cox_journal **journal, const cox_journal_options *options);

/* Is there a journal beside a file of results, of whatever run? */
bool cox_journal_is_there(const char *path);

/* Were the files there, and of this run? Then with how many results, and how many bytes were cut off. */
typedef struct cox_journal_found {
    bool is_resumed;
    uint64_t n_results, n_cut_bytes;
} cox_journal_found;
cox_journal_found cox_journal_what_was_found(const cox_journal *journal);

/* Is there a result with this key? Keys are small numbers (one bit each is kept up to the largest). */
bool cox_journal_has(const cox_journal *journal, uint64_t key);

/* Adds a result: n bytes that end in their only newline. When writing fails (a full disk), both files are cut
 * back to whole results. Errors: IO, NO_MEMORY; INTERNAL: the key is there. */
cox_status cox_journal_append(cox_journal *journal, uint64_t key, const char *line, size_t n);

/* To be called often: brings results to the disk when that was last done more than a second ago. Errors: IO.
 */
cox_status cox_journal_tick(cox_journal *journal);

/* Brings all to the disk and closes. NULL is allowed. Errors: IO. */
cox_status cox_journal_close(cox_journal *journal);

#endif
