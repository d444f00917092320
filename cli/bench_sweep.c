/*
 * coxswain bench --sweep: what the cells of a sweep cost, beside random ones of them that run one by one in
 * the same warm process, each batching its own prompts and sharing nothing. Of each weighting apart, the
 * whole sweep runs in as many parts as there are random cells, in turns with them, so that a machine that
 * slows down slows both. Afterwards, untimed, the logits of these cells are compared to the bit.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/bench.h"
#include "cli/sweep.h"

typedef struct group {
    const char *name; /* of the weighting */
    int64_t *cells;   /* [n] */
    int64_t n;
    int64_t *alone;                /* [n_alone] of these, ascending, that run one by one too */
    double *alone_s, *alone_cpu_s; /* [n_alone] */
    double sweep_s, sweep_cpu_s;
    cox_cell_savings savings;
    int64_t n_compared, n_different; /* logits of prompts */
} group;

typedef struct bench {
    const cox_options *options;
    cox_sweep sweep;
    cox_run *run;
    int32_t n_alone;
    int64_t n_done; /* cells of the sweep */
    cox_cell_runner *plain, *swept;
    char (*digests)[65]; /* [n_prompts] of the cell that ran alone */
    group *now;
    cox_progress bar;
    int64_t n_all_done, n_all;
} bench;

static double cpu_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- Cells --- */

static const char *group_name(const cox_sweep_cell *cell)
{
    return cell->block->site == COX_SITE_EXPERT_OUT ? cox_weighting_name(cell->weighting)
                                                    : cox_site_name(cell->block->site);
}

static cox_status collect(const bench *b, group *g, int64_t first)
{
    const cox_sweep_grid *grid = b->sweep.grid;
    const cox_sweep_cell like = cox_sweep_cell_at(grid, first);
    *g = (group){.name = group_name(&like)};
    g->cells = malloc((size_t)grid->n_cells * sizeof *g->cells);
    g->alone = malloc((size_t)b->n_alone * sizeof *g->alone);
    g->alone_s = calloc((size_t)b->n_alone, sizeof *g->alone_s);
    g->alone_cpu_s = calloc((size_t)b->n_alone, sizeof *g->alone_cpu_s);
    if (!g->cells || !g->alone || !g->alone_s || !g->alone_cpu_s) return cox_no_memory("a benchmark");
    for (int64_t c = first; c < grid->n_cells; c++) {
        const cox_sweep_cell cell = cox_sweep_cell_at(grid, c);
        if (strcmp(group_name(&cell), g->name) == 0) g->cells[g->n++] = c;
    }
    cox_random random = {(uint64_t)b->options->seed};
    int64_t left = b->n_alone, n = 0; /* each cell with the same chance, in ascending order */
    for (int64_t i = 0; i < g->n && left > 0; i++) {
        if (cox_random_uniform(&random) * (double)(g->n - i) >= (double)left) continue;
        g->alone[n++] = g->cells[i];
        left--;
    }
    return n == b->n_alone ? COX_OK
                           : cox_fail(COX_INVALID, "--cells %d: the grid has %" PRId64 " with %s", b->n_alone,
                                      g->n, g->name);
}

static void free_group(group *g)
{
    free(g->cells);
    free(g->alone);
    free(g->alone_s);
    free(g->alone_cpu_s);
}

static cox_status create_runners(bench *b, cox_cell_question *plain, cox_cell_question *swept,
                                 bool wants_digests)
{
    const cox_sweep *s = &b->sweep;
    *swept = (cox_cell_question){.grid = s->grid,
                                 .folder = s->folder,
                                 .randoms = s->randoms,
                                 .tokenizer_fingerprint = s->tokenizer,
                                 .sets = s->sets,
                                 .n_sets = s->n_sets,
                                 .first_tokens = s->first_tokens,
                                 .wants_digests = wants_digests};
    *plain = *swept;
    plain->is_plain = true;
    cox_cell_result clean;
    cox_status status = cox_cell_runner_create(&b->plain, b->run, plain);
    if (status == COX_OK) status = cox_cell_runner_create(&b->swept, b->run, swept);
    if (status == COX_OK) status = cox_cell_runner_run_clean(b->plain, &clean);
    if (status == COX_OK) status = cox_cell_runner_run_clean(b->swept, &clean);
    return status;
}

static void destroy_runners(bench *b)
{
    cox_cell_runner_destroy(b->plain);
    cox_cell_runner_destroy(b->swept);
    b->plain = b->swept = NULL;
}

/* Runs cells to the end; plans of one runner must not be in use while the other works. */
static cox_status run_cells(cox_cell_runner *runner, const int64_t *cells, int64_t n,
                            cox_cell_function *on_result, void *context)
{
    cox_status status = COX_OK;
    for (int64_t i = 0; status == COX_OK && (i < n || cox_cell_runner_n_running(runner) > 0);) {
        while (status == COX_OK && i < n && cox_cell_runner_has_room(runner))
            status = cox_cell_runner_submit(runner, cells[i++]);
        if (status == COX_OK) status = cox_cell_runner_step(runner, on_result, context);
    }
    return status;
}

/* --- Times --- */

static cox_status ignore(void *context, const cox_cell_result *result)
{
    (void)context, (void)result;
    return COX_OK;
}

static cox_status measure_group(bench *b, group *g)
{
    cox_status status = COX_OK;
    int32_t n = b->n_alone;
    const cox_cell_savings before = cox_cell_runner_savings(b->swept);
    for (int32_t i = 0; i < n && status == COX_OK; i++) {
        int64_t from = g->n * i / n, to = g->n * (i + 1) / n;
        double start = cox_now_s(), cpu_start = cpu_now_s();
        status = run_cells(b->plain, &g->alone[i], 1, ignore, NULL);
        double middle = cox_now_s(), cpu_middle = cpu_now_s();
        g->alone_s[i] = middle - start;
        g->alone_cpu_s[i] = cpu_middle - cpu_start;
        if (status == COX_OK) status = run_cells(b->swept, g->cells + from, to - from, ignore, NULL);
        g->sweep_s += cox_now_s() - middle;
        g->sweep_cpu_s += cpu_now_s() - cpu_middle;
        b->n_all_done += to - from;
        cox_progress_update(&b->bar, (uint64_t)b->n_all_done, (uint64_t)b->n_all, g->name);
    }
    const cox_cell_savings after = cox_cell_runner_savings(b->swept);
    g->savings = (cox_cell_savings){.whole = after.whole - before.whole,
                                    .idle = after.idle - before.idle,
                                    .before = after.before - before.before,
                                    .below = after.below - before.below,
                                    .shared = after.shared - before.shared,
                                    .computed = after.computed - before.computed,
                                    .computed_kv = after.computed_kv - before.computed_kv};
    return status;
}

/* --- Bits --- */

static cox_status keep_digests(void *context, const cox_cell_result *result)
{
    bench *b = context;
    memcpy(b->digests, result->digests, (size_t)result->n_prompts * sizeof *b->digests);
    return COX_OK;
}

static cox_status compare_digests(void *context, const cox_cell_result *result)
{
    bench *b = context;
    for (int32_t p = 0; p < result->n_prompts; p++) {
        b->now->n_compared++;
        b->now->n_different += strcmp(b->digests[p], result->digests[p]) != 0;
    }
    return COX_OK;
}

static cox_status compare_group(bench *b, group *g)
{
    cox_status status = COX_OK;
    b->now = g;
    for (int32_t i = 0; i < b->n_alone && status == COX_OK; i++) {
        status = run_cells(b->plain, &g->alone[i], 1, keep_digests, b);
        if (status == COX_OK) status = run_cells(b->swept, &g->alone[i], 1, compare_digests, b);
    }
    return status;
}

/* --- The report --- */

/* Mean and half of its 95% interval. */
static void mean_of(const double *values, int32_t n, double *mean, double *reach)
{
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < n; i++) sum += values[i];
    *mean = sum / n;
    for (int32_t i = 0; i < n; i++) squares += (values[i] - *mean) * (values[i] - *mean);
    *reach = COX_Z_95 * sqrt(squares / (n - 1) / n);
}

/* Of a cell: alone, with half of its 95% interval, and in the sweep. */
static json_t *times_json(double mean, double reach, double cell_s)
{
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f}", "alone_ms", 1e3 * mean, "alone_ms_reach", 1e3 * reach,
                     "sweep_ms", 1e3 * cell_s, "ratio", cell_s / mean, "ratio_low", cell_s / (mean + reach),
                     "ratio_high", cell_s / (mean - reach));
}

static json_t *group_times_json(const double *alone_s, int32_t n_alone, double sweep_s, int64_t n)
{
    double mean, reach;
    mean_of(alone_s, n_alone, &mean, &reach);
    return times_json(mean, reach, sweep_s / (double)n);
}

/* Of all cells: the groups by their numbers of cells. */
static json_t *all_times_json(const bench *b, const group *groups, int32_t n_groups, bool is_cpu)
{
    double mean = 0, square_reach = 0, cell_s = 0, n_all = (double)b->sweep.grid->n_cells;
    for (int32_t i = 0; i < n_groups; i++) {
        const group *g = &groups[i];
        double part = (double)g->n / n_all, group_mean, reach;
        mean_of(is_cpu ? g->alone_cpu_s : g->alone_s, b->n_alone, &group_mean, &reach);
        mean += part * group_mean;
        square_reach += part * reach * part * reach;
        cell_s += (is_cpu ? g->sweep_cpu_s : g->sweep_s) / n_all;
    }
    return times_json(mean, sqrt(square_reach), cell_s);
}

static json_t *savings_json(const cox_cell_savings *s)
{
    double whole = (double)s->whole;
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f}", "prompts_without_work", (double)s->idle / whole,
                     "positions_before", (double)s->before / whole, "layers_below", (double)s->below / whole,
                     "shared_beginnings", (double)s->shared / whole, "computed", (double)s->computed / whole,
                     "computed_keys_and_values", (double)s->computed_kv / whole);
}

static json_t *group_json(const bench *b, const group *g)
{
    return json_pack(
        "{s:s,s:I,s:I,s:o?,s:o?,s:o?,s:I,s:I,s:I}", "cells_with", g->name, "cells", (json_int_t)g->n, "alone",
        (json_int_t)b->n_alone, "clock", group_times_json(g->alone_s, b->n_alone, g->sweep_s, g->n), "cpu",
        group_times_json(g->alone_cpu_s, b->n_alone, g->sweep_cpu_s, g->n), "rows_through_layers",
        savings_json(&g->savings), "layer_rows_a_cell", (json_int_t)(g->savings.whole / (uint64_t)g->n),
        "logits_compared", (json_int_t)g->n_compared, "logits_different", (json_int_t)g->n_different);
}

static json_t *work_json(const bench *b)
{
    const cox_options *o = b->options;
    int n_prompts = 0, n_tokens = 0;
    for (int32_t s = 0; s < b->sweep.n_sets; s++) {
        n_prompts += (int)b->sweep.sets[s].n;
        n_tokens += (int)b->sweep.sets[s].offsets[b->sweep.sets[s].n];
    }
    return json_pack("{s:s,s:s,s:s,s:s*,s:i,s:i,s:I,s:I,s:I}", "grid", o->grid, "a", o->prompts_a, "b",
                     o->prompts_b, "neutral", o->neutral, "prompts", n_prompts, "prompt_tokens", n_tokens,
                     "cells", (json_int_t)b->sweep.grid->n_cells, "alone", (json_int_t)o->n_cells, "seed",
                     (json_int_t)o->seed);
}

static void print_times(const json_t *json, const char *name)
{
    double alone = 0, reach = 0, swept = 0, ratio = 0, low = 0, high = 0;
    json_unpack(json_object_get(json, name), "{s:F,s:F,s:F,s:F,s:F,s:F}", "alone_ms", &alone,
                "alone_ms_reach", &reach, "sweep_ms", &swept, "ratio", &ratio, "ratio_low", &low,
                "ratio_high", &high);
    printf("  %-7s one by one %8.3f +- %.3f ms a cell, in the sweep %7.3f: %.4f (%.4f, %.4f) of the time\n",
           name, alone, reach, swept, ratio, low, high);
}

static void print_group(const json_t *json, const group *g)
{
    const char *key;
    json_t *value;
    printf("\n%s: %" PRId64 " cells\n", g->name, g->n);
    print_times(json, "clock");
    print_times(json, "cpu");
    printf("  of %" PRIu64 " rows through a layer, a cell:\n", g->savings.whole / (uint64_t)g->n);
    json_object_foreach(json_object_get(json, "rows_through_layers"), key, value)
        printf("    %-25s %6.2f %%\n", key, 100 * json_number_value(value));
    printf("  logits of %" PRId64 " prompts compared, %" PRId64 " differ\n", g->n_compared, g->n_different);
}

static cox_status report(const bench *b, const group *groups, int32_t n_groups)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n_groups; i++) json_array_append_new(list, group_json(b, &groups[i]));
    json_t *all = json_pack("{s:I,s:o?,s:o?}", "cells", (json_int_t)b->sweep.grid->n_cells, "clock",
                            all_times_json(b, groups, n_groups, false), "cpu",
                            all_times_json(b, groups, n_groups, true));
    json_t *json = json_pack("{s:s,s:o?,s:o?,s:o?,s:o,s:o?}", "benchmark", "sweep", "model",
                             cox_bench_model_json(b->run), "run", cox_bench_run_json(b->run), "work",
                             work_json(b), "results", list, "all", all);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text && b->options->is_json) {
        puts(text);
    } else if (text) {
        cox_bench_print(json, "model");
        cox_bench_print(json, "run");
        cox_bench_print(json, "work");
        for (int32_t i = 0; i < n_groups; i++) print_group(json_array_get(list, (size_t)i), &groups[i]);
        if (n_groups > 1) {
            printf("\nall: %" PRId64 " cells\n", b->sweep.grid->n_cells);
            print_times(all, "clock");
            print_times(all, "cpu");
        }
    }
    cox_status status = text ? COX_OK : cox_no_memory("the report");
    free(text);
    json_decref(json);
    for (int32_t i = 0; i < n_groups && status == COX_OK; i++) {
        if (groups[i].n_different > 0)
            status = cox_fail(COX_INTERNAL, "%s: logits of the sweep differ from those one by one",
                              groups[i].name);
    }
    return status;
}

/* --- The command --- */

static cox_status list_groups(bench *b, group *groups, int32_t *n_groups)
{
    cox_status status = COX_OK;
    for (int64_t c = 0; c < b->sweep.grid->n_cells && status == COX_OK; c++) {
        const cox_sweep_cell cell = cox_sweep_cell_at(b->sweep.grid, c);
        bool is_known = false;
        for (int32_t i = 0; i < *n_groups; i++) is_known |= strcmp(groups[i].name, group_name(&cell)) == 0;
        if (!is_known) status = collect(b, &groups[(*n_groups)++], c);
    }
    return status;
}

static cox_status measure(bench *b, group *groups, int32_t *n_groups)
{
    cox_cell_question plain, swept;
    cox_status status = list_groups(b, groups, n_groups);
    int32_t n_prompts = 0;
    for (int32_t s = 0; s < b->sweep.n_sets; s++) n_prompts += b->sweep.sets[s].n;
    b->digests = malloc((size_t)n_prompts * sizeof *b->digests);
    if (status == COX_OK && !b->digests) status = cox_no_memory("a benchmark");
    b->n_all = b->sweep.grid->n_cells;
    cox_progress_begin(&b->bar, "bench", b->run->options.progress, COX_PROGRESS_COUNT);
    if (status == COX_OK) status = create_runners(b, &plain, &swept, false);
    for (int32_t i = 0; i < *n_groups && status == COX_OK; i++) status = measure_group(b, &groups[i]);
    if (b->swept) b->run->counters = *cox_cell_runner_counters(b->swept);
    destroy_runners(b);
    if (status == COX_OK) status = create_runners(b, &plain, &swept, true);
    for (int32_t i = 0; i < *n_groups && status == COX_OK; i++) status = compare_group(b, &groups[i]);
    destroy_runners(b);
    if (status == COX_OK && b->bar.style == COX_PROGRESS_BAR)
        cox_progress_end(&b->bar, (uint64_t)b->n_all, (uint64_t)b->n_all, NULL);
    return status;
}

cox_status cox_bench_sweep(const cox_options *options)
{
    enum { MOST_GROUPS = COX_N_WEIGHTINGS + COX_N_SITES };
    if (!options->grid || !options->prompts_a || !options->prompts_b || !options->rules)
        return cox_fail(COX_INVALID, "--sweep needs --grid, --a, --b and --rules");
    if (options->coordinators != 1) return cox_fail(COX_UNSUPPORTED, "--sweep measures one coordinator");
    cox_run_options of_run = cox_options_of_run(options);
    cox_sweep_options asked = cox_options_of_sweep(options);
    cox_sweep_prepare_run(&of_run);
    asked.output = "."; /* nothing is written */
    cox_run run;
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    group groups[MOST_GROUPS];
    int32_t n_groups = 0;
    bench b = {.options = options,
               .sweep = {.options = &asked, .run = &run},
               .run = &run,
               .n_alone = (int32_t)options->n_cells};
    cox_status mine = COX_OK;
    bool is_front = cox_run_is_front(&run);
    if (is_front) mine = cox_sweep_read_inputs(&b.sweep);
    status = cox_run_agree(&run, mine);
    if (status == COX_OK) status = cox_run_finish(&run, is_front ? measure(&b, groups, &n_groups) : COX_OK);
    if (status == COX_OK && is_front) status = report(&b, groups, n_groups);
    for (int32_t i = 0; i < n_groups; i++) free_group(&groups[i]);
    free(b.digests);
    cox_sweep_free_inputs(&b.sweep);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    return status;
}
