#ifndef COX_CLI_DECOMPOSE_PRINT_H
#define COX_CLI_DECOMPOSE_PRINT_H

#include "cli/options.h"
#include "study/decompose.h"

/* Table or JSON on standard output, and the files that the options name. run: what says of which model and
 * prompting. Errors: IO, NO_MEMORY, INVALID (nothing to divide by; a name that is not UTF-8). */
cox_status cox_decomposition_print(const cox_decomposition *d, const cox_run_options *run,
                                   const cox_options *options);

#endif
