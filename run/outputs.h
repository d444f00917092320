/* Small files that commands write beside their printed result (tables, plots): asked for early, so that a
 * name that cannot be used ends the run before its work; written whole. */
#ifndef COX_RUN_OUTPUTS_H
#define COX_RUN_OUTPUTS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

/* path NULL: nothing was asked for. Errors: INVALID (it exists and has_force is false), naming the option. */
cox_status cox_output_check(const char *option, const char *path, bool has_force);

/* Calls print(file, context) for a file beside the path, then renames it. path NULL: does nothing. Errors:
 * IO, naming the option. */
cox_status cox_output_write(const char *option, const char *path,
                            void (*print)(FILE *file, const void *context), const void *context);

/* Makes the folder, or finds it; one that holds something is refused unless `is_forced`. Errors, naming the
 * option: INVALID, IO. */
cox_status cox_output_folder(const char *option, const char *folder, bool is_forced);

/* A field of a CSV file: in quotes when it has a comma, a quote or a line's end. */
void cox_csv_print(FILE *file, const char *text);

/* The JSON on standard output, with an end of line; decrefs it. NULL: out of memory. Errors: NO_MEMORY. */
struct json_t;
cox_status cox_output_json(struct json_t *json);

#endif
