/* The folder of --trace-routes: one file of recorded routes for each answer (docs/formats.md). Rank 0 only.
 */
#ifndef COX_RUN_TRACES_H
#define COX_RUN_TRACES_H

#include <stdbool.h>

#include "model/model.h"
#include "proto/record.h"

/* Makes the folder, or finds it; one that holds something is refused unless `is_forced`. Errors: INVALID, IO.
 */
cox_status cox_traces_open(const char *folder, bool is_forced);

/* Names the file of a request: FOLDER/WHAT-ID.safetensors. Errors: NO_MEMORY. */
cox_status cox_traces_name(cox_request *request, const char *folder, const char *what);

/* Writes the routes of the record's answers, if it has any, to their files. Errors: IO, NO_MEMORY. */
cox_status cox_traces_write(const cox_record *record, const cox_model *model);

#endif
