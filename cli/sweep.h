#ifndef COX_CLI_SWEEP_H
#define COX_CLI_SWEEP_H

#include "cli/options.h"
#include "study/sweep.h"

/* What the command line says of a sweep: of `sweep` and of `bench --sweep`. */
cox_sweep_options cox_options_of_sweep(const cox_options *options);

#endif
