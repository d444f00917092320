/* What a report is made of, read from the files of a sweep and of what was measured beside it. */
#ifndef COX_REPORT_FILES_H
#define COX_REPORT_FILES_H

#include "report/report.h"

/* Folders and files; all but the first may be NULL. */
typedef struct cox_report_options {
    const char *sweep;                  /* the folder that a sweep wrote */
    const char *controls;               /* of another sweep of the same model and prompts, for its controls */
    const char *routes, *decomposition; /* what those commands wrote, JSON or CSV */
    const char *heldout;                /* CSV of held-out answers (docs/formats.md) */
    const char *prompts[COX_REPORT_N_SETS]; /* the sweep's */
    const char *title;                      /* NULL: what was swept, by the model's name */
    int64_t top;                            /* rows of tables of experts */
} cox_report_options;

typedef struct cox_report_files cox_report_files;

/* [out] *files: owned by the caller. options: borrowed, outliving it. Errors, naming option and file:
 * NOT_FOUND, IO, BAD_FILE, INVALID (files that do not belong together), NO_MEMORY. */
cox_status cox_report_files_read(cox_report_files **files, const cox_report_options *options);
/* Lives as long as the files. */
const cox_report *cox_report_of(const cox_report_files *files);
void cox_report_files_free(cox_report_files *files); /* NULL is allowed */

#endif
