#ifndef COX_CLI_EVALUATE_PRINT_H
#define COX_CLI_EVALUATE_PRINT_H

#include "cli/options.h"
#include "study/evaluate.h"

/* The table or JSON on standard output, and the files that the options name. Errors: IO, NO_MEMORY, INVALID
 * (--by: no prompt has that field). */
cox_status cox_evaluation_print(const cox_evaluation *e, const cox_options *options);

#endif
