/* Fixed columns, so that people can compare ranks at a glance; and JSON for everything else. */
#include "run/table.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/progress.h"

static const char *role_of(const cox_rank_row *row)
{
    return !row->is_coordinator ? "worker" : row->n_experts > 0 ? "both" : "coordinator";
}

static void print_stages(FILE *file, const cox_rank_row *rows, int32_t n)
{
    if (!COX_HAS_STAGE_TIMES) {
        fputs("no times: this is a build with COX_STAGE_TIMES=OFF\n", file);
        return;
    }
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
        fprintf(file,
                "%4d  %-16.16s %-12s %8d %11s %11s %12" PRIu64 " %13" PRIu64 " %8.1f %10.2f %10.2f %10.2f\n",
                r, row->host, role_of(row), row->n_experts, resident, predicted, row->counters.rows_served,
                row->counters.rows_computed, all > 0 ? 100 * known / all : 0,
                cox_counters_compute_s(&row->counters), row->counters.wait_s, row->counters.dispatch_s);
    }
    print_stages(file, rows, n);
}

static json_t *rank_json(const cox_rank_row *row, int32_t rank)
{
    json_t *counts = json_object(), *seconds = json_object();
    int failed = 0;
#define X(name, what) \
    failed |= json_object_set_new(counts, #name, json_integer((json_int_t)row->counters.name));
    COX_COUNT_LIST(X)
#undef X
#define X(name, what) failed |= json_object_set_new(seconds, #name, json_real(row->counters.name##_s));
    COX_STAGE_LIST(X)
#undef X
    json_t *json =
        json_pack("{s:i, s:s, s:s, s:i, s:I, s:I, s:o, s:o}", "rank", rank, "host", row->host, "role",
                  role_of(row), "experts", row->n_experts, "memory_bytes", (json_int_t)row->resident_bytes,
                  "foretold_bytes", (json_int_t)row->predicted_bytes, "counts", counts, "seconds", seconds);
    if (!failed) return json;
    json_decref(json);
    return NULL;
}

cox_status cox_table_write_ranks(const char *path, const cox_rank_row *rows, int32_t n, const char *exchange,
                                 const char *kernels, int32_t n_threads)
{
    json_t *ranks = json_array();
    int failed = !ranks;
    for (int32_t r = 0; r < n && !failed; r++) failed = json_array_append_new(ranks, rank_json(&rows[r], r));
    json_t *json = json_pack("{s:i, s:s, s:s, s:b, s:o}", "threads", n_threads, "exchange", exchange,
                             "kernels", kernels, "has_times", (int)COX_HAS_STAGE_TIMES, "ranks", ranks);
    if (failed || !json) {
        json_decref(json);
        return cox_no_memory("the table of ranks");
    }
    failed = json_dump_file(json, path, JSON_COMPACT | JSON_REAL_PRECISION(9));
    cox_status status = failed ? cox_fail(COX_IO, "%s: cannot write: %s", path, strerror(errno)) : COX_OK;
    json_decref(json);
    return status;
}
