/* Fixed columns, so that people can compare ranks at a glance. */
#include "run/table.h"

#include <inttypes.h>

#include "base/progress.h"

static void print_stages(FILE *file, const cox_rank_row *rows, int32_t n)
{
    fprintf(file, "%4s ", "rank");
#define X(name, what) fprintf(file, " %9s", #name);
    COX_STAGE_LIST(X)
#undef X
    fputs("   (seconds)\n", file);
    for (int32_t r = 0; r < n; r++) {
        fprintf(file, "%4d ", r);
#define X(name, what) fprintf(file, " %9.3f", rows[r].counters.name##_s);
        COX_STAGE_LIST(X)
#undef X
        fputc('\n', file);
    }
}

void cox_table_print_ranks(FILE *file, const cox_rank_row *rows, int32_t n, const char *exchange,
                           const char *kernels, int32_t n_threads)
{
    fprintf(file, "%d rank%s, %d thread%s each, exchange %s, kernels %s\n", n, n == 1 ? "" : "s", n_threads,
            n_threads == 1 ? "" : "s", exchange, kernels);
    fprintf(file, "%4s  %-16s %-12s %8s %11s %11s %12s %13s %8s %10s %10s %10s\n", "rank", "host", "role",
            "experts", "memory", "foretold", "rows served", "rows computed", "reused %", "compute s",
            "wait s", "transfer s");
    for (int32_t r = 0; r < n; r++) {
        const cox_rank_row *row = &rows[r];
        char resident[32], predicted[32];
        cox_format_bytes(resident, sizeof resident, row->resident_bytes);
        cox_format_bytes(predicted, sizeof predicted, row->predicted_bytes);
        double known = (double)row->counters.layer_rows_saved, all = known + (double)row->counters.layer_rows;
        const char *role = !row->is_coordinator ? "worker" : row->n_experts > 0 ? "both" : "coordinator";
        fprintf(file,
                "%4d  %-16.16s %-12s %8d %11s %11s %12" PRIu64 " %13" PRIu64 " %8.1f %10.2f %10.2f %10.2f\n",
                r, row->host, role, row->n_experts, resident, predicted, row->counters.rows_served,
                row->counters.rows_computed, all > 0 ? 100 * known / all : 0,
                cox_counters_compute_s(&row->counters), row->counters.wait_s, row->counters.dispatch_s);
    }
    print_stages(file, rows, n);
}
