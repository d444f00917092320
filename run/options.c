#include "run/options.h"

cox_run_options cox_run_options_defaults(void)
{
    return (cox_run_options){.n_coordinators = 1,
                             .exchange = COX_EXCHANGE_AUTO,
                             .kernel = "auto",
                             .residual_memory_bytes = UINT64_MAX,
                             .progress = COX_PROGRESS_NONE};
}
