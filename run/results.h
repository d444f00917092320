/*
 * The file that a command writes its results to, one line each. With a journal beside it (run/journal.h)
 * where the run can be told from another one and the file is a regular one: then the same command goes on
 * where it was stopped. Standard output and pipes have none. Rank 0 only.
 */
#ifndef COX_RUN_RESULTS_H
#define COX_RUN_RESULTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "run/journal.h"

typedef struct cox_results cox_results;

/* path: "-" for standard output; lives as long as the results. run NULL: no journal. [out] owned by the
 * caller. Errors: those of cox_journal_open; without a journal INVALID (the file exists), IO. */
cox_status cox_results_open(cox_results **results, const cox_journal_options *options);

/* As cox_journal_what_was_found and cox_journal_has; without a journal nothing was found. */
cox_journal_found cox_results_what_was_found(const cox_results *results);
bool cox_results_has(const cox_results *results, uint64_t key);
bool cox_results_has_journal(const cox_results *results);

/* n bytes that end in a newline. Errors: IO, NO_MEMORY. */
cox_status cox_results_write(cox_results *results, uint64_t key, const char *line, size_t n);
/* To be called often. Errors: IO. */
cox_status cox_results_tick(cox_results *results);
/* NULL is allowed. Errors: IO. */
cox_status cox_results_close(cox_results *results);

#endif
