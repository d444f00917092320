/* From the command line's words to what a run is opened with. */
#include <string.h>
#include <unistd.h>

#include "cli/options.h"

cox_prompting cox_options_of_prompting(const cox_options *options)
{
    return (cox_prompting){.is_raw = options->is_raw,
                           .system = options->system,
                           .template_name = options->template_name,
                           .kwargs = options->template_kwargs,
                           .date = options->date,
                           .python = options->python};
}

static cox_progress_style progress_of(const char *name)
{
    if (strcmp(name, "bar") == 0) return COX_PROGRESS_BAR;
    if (strcmp(name, "log") == 0) return COX_PROGRESS_LOG;
    if (strcmp(name, "none") == 0) return COX_PROGRESS_NONE;
    return isatty(STDERR_FILENO) ? COX_PROGRESS_BAR : COX_PROGRESS_LOG;
}

cox_run_options cox_options_of_run(const cox_options *options)
{
    return (cox_run_options){.model = options->model,
                             .n_ranks = (int32_t)options->ranks,
                             .n_threads = (int32_t)options->threads,
                             .n_coordinators = (int32_t)options->coordinators,
                             .experts_on_all = strcmp(options->experts_on, "all") == 0,
                             .placement = options->placement,
                             .exchange = cox_exchange_find(options->exchange),
                             .kernel = options->kernel,
                             .prefill_chunk = (int32_t)options->prefill_chunk,
                             .n_micro_batches = (int32_t)options->micro_batches,
                             .kv_memory_bytes = options->kv_memory_bytes,
                             .residual_memory_bytes = options->residual_memory_bytes,
                             .prompting = cox_options_of_prompting(options),
                             .renders_chats = true,
                             .progress = progress_of(options->progress),
                             .stats_file = options->stats_file};
}
