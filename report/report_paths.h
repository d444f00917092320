/* Names of files as a page shows them: relative to the folder that the page is in, so that they still lead
 * there when folder and files are moved together. */
#ifndef COX_REPORT_PATHS_H
#define COX_REPORT_PATHS_H

#include <jansson.h>

#include "report/report.h"

/*
 * A copy of the report for the page at `page`, which borrows all of it but run, controls_run, best and the
 * `about`s: in these, strings under keys that name files are relative to the page's folder; plans are those
 * of the folder `sweep`. What leads nowhere stays as it is. Released by the function below, also on failure.
 * Errors: NO_MEMORY.
 */
cox_status cox_report_paths_shown(cox_report *shown, const cox_report *report, const char *page,
                                  const char *sweep);
void cox_report_paths_release(cox_report *shown);

#endif
