/* Routing differences as a table of the largest, as JSON, CSV and a map of all experts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "run/identity.h"
#include "run/outputs.h"
#include "cli/routes_print.h"
#include "report/heatmap.h"

/* Of --measure, of JSON and CSV, and for people. */
static const struct {
    const char *name, *about;
} kinds[COX_N_ROUTES] = {{"top1", "first choice, last tokens"},
                         {"topk", "among the chosen, last tokens"},
                         {"risk", "among the chosen, all tokens (risk difference)"}};

static int32_t measure_of(const cox_options *options)
{
    int32_t kind = 0;
    while (strcmp(kinds[kind].name, options->measure) != 0) kind++;
    return kind;
}

static double share(const cox_routes *r, size_t cell, int32_t kind, int class)
{
    return (double)r->cells[cell].counts[kind][class] / (double)r->n_tokens[kind][class];
}

/* --- Table --- */

typedef struct ranked {
    double size;
    size_t cell;
} ranked;

static int compare(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return (x->cell > y->cell) - (x->cell < y->cell);
}

static cox_status print_table(const cox_routes *r, const cox_options *options)
{
    size_t n = (size_t)r->n_layers * (size_t)r->n_experts, n_shown = 0;
    int32_t measure = measure_of(options);
    ranked *order = calloc(n, sizeof *order);
    if (!order) return cox_no_memory("a table");
    for (size_t i = 0; i < n; i++) order[i] = (ranked){fabs(r->cells[i].difference[measure].value), i};
    qsort(order, n, sizeof *order, compare);
    printf("a: %s, %d prompts; b: %s, %d prompts; the last %lld tokens of each\n", r->classes[0].path,
           (int)r->classes[0].n, r->classes[1].path, (int)r->classes[1].n, (long long)options->last);
    printf("points: %% of the tokens of a less %% of those of b, with 95%% intervals (bootstrap over "
           "prompts)\n");
    printf("%5s %6s  %-27s %-27s %-27s\n", "layer", "expert", "top-1", "chosen", "chosen, all tokens");
    for (; n_shown < n && (int64_t)n_shown < options->top && order[n_shown].size > 0; n_shown++) {
        size_t cell = order[n_shown].cell;
        printf("%5zu %6zu ", cell / (size_t)r->n_experts, cell % (size_t)r->n_experts);
        for (int32_t kind = 0; kind < COX_N_ROUTES; kind++) {
            const cox_interval *d = &r->cells[cell].difference[kind];
            printf(" %+6.1f [%+6.1f, %+6.1f]  %s", 100 * d->value, 100 * d->low, 100 * d->high,
                   kind + 1 < COX_N_ROUTES ? "  " : "\n");
        }
    }
    printf("%zu of %zu experts, by %s\n", n_shown, n, kinds[measure].about);
    free(order);
    return COX_OK;
}

/* --- JSON --- */

static json_t *class_json(const cox_routes *r, int class)
{
    const cox_prompts *prompts = &r->classes[class];
    return json_pack("{s:s, s:s, s:i, s:I, s:I}", "file", prompts->path, "sha256", prompts->sha256, "prompts",
                     (int)prompts->n, "last_tokens", (json_int_t)r->n_tokens[COX_ROUTES_TOP1][class],
                     "all_tokens", (json_int_t)r->n_tokens[COX_ROUTES_CHOSEN_ALL][class]);
}

static json_t *cell_json(const cox_routes *r, size_t cell)
{
    json_t *json = json_pack("{s:i, s:i}", "layer", (int)(cell / (size_t)r->n_experts), "expert",
                             (int)(cell % (size_t)r->n_experts));
    for (int32_t kind = 0; kind < COX_N_ROUTES && json; kind++) {
        const cox_routes_cell *c = &r->cells[cell];
        const cox_interval *d = &c->difference[kind];
        json_object_set_new(json, kinds[kind].name,
                            json_pack("{s:I, s:I, s:f, s:f, s:f}", "a", (json_int_t)c->counts[kind][0], "b",
                                      (json_int_t)c->counts[kind][1], "difference", d->value, "low", d->low,
                                      "high", d->high));
    }
    return json;
}

/* With all that tells its model from others, as the journal of a sweep has it. */
static cox_status print_json(const cox_routes *r, const cox_run_options *run)
{
    json_t *json = json_pack("{s:s}", "made", "routes");
    cox_status status = json ? cox_identity_add_model(json, run, r->model) : cox_no_memory("the result");
    json_t *found = json_pack(
        "{s:I, s:i, s:{s:I, s:I}, s:o, s:o, s:[]}", "last", (json_int_t)r->options->last, "chosen_per_token",
        (int)r->model->router.top_k, "bootstrap", "seed", (json_int_t)r->options->seed, "resamples",
        (json_int_t)r->options->resamples, "a", class_json(r, 0), "b", class_json(r, 1), "experts");
    if (status == COX_OK) status = cox_identity_add_prompting(json, &run->prompting);
    if (status == COX_OK && (!found || json_object_update(json, found) != 0))
        status = cox_fail(COX_INVALID, "a file's name is not valid UTF-8, or memory ran out");
    json_decref(found);
    for (size_t i = 0; i < (size_t)r->n_layers * (size_t)r->n_experts && status == COX_OK; i++) {
        if (r->model->layers[i / (size_t)r->n_experts].is_moe)
            json_array_append_new(json_object_get(json, "experts"), cell_json(r, i));
    }
    if (status == COX_OK) return cox_output_json(json);
    json_decref(json);
    return status;
}

/* --- Files --- */

static void print_csv(FILE *file, const void *context)
{
    const cox_routes *r = context;
    fputs("layer,expert", file);
    for (int32_t kind = 0; kind < COX_N_ROUTES; kind++) {
        const char *name = kinds[kind].name;
        fprintf(file, ",%s_a,%s_b,%s_difference,%s_low,%s_high", name, name, name, name, name);
    }
    fputc('\n', file);
    for (size_t i = 0; i < (size_t)r->n_layers * (size_t)r->n_experts; i++) {
        if (!r->model->layers[i / (size_t)r->n_experts].is_moe) continue;
        fprintf(file, "%zu,%zu", i / (size_t)r->n_experts, i % (size_t)r->n_experts);
        for (int32_t kind = 0; kind < COX_N_ROUTES; kind++) {
            const cox_interval *d = &r->cells[i].difference[kind];
            fprintf(file, ",%.12g,%.12g,%.12g,%.12g,%.12g", share(r, i, kind, 0), share(r, i, kind, 1),
                    d->value, d->low, d->high);
        }
        fputc('\n', file);
    }
}

typedef struct plot {
    const cox_routes *routes;
    int32_t measure;
    cox_interval *cells;
} plot;

static void print_plot(FILE *file, const void *context)
{
    const plot *p = context;
    char title[256];
    snprintf(title, sizeof title, "Routing, a less b, in points: %s", kinds[p->measure].about);
    cox_heatmap_print(file, &(cox_heatmap){.title = title,
                                           .unit = "",
                                           .row_name = "layer",
                                           .column_name = "expert",
                                           .n_rows = p->routes->n_layers,
                                           .n_columns = p->routes->n_experts,
                                           .cells = p->cells});
}

static cox_status write_plot(const cox_routes *r, const cox_options *options)
{
    if (!options->plot) return COX_OK;
    size_t n = (size_t)r->n_layers * (size_t)r->n_experts;
    plot p = {r, measure_of(options), calloc(n, sizeof(cox_interval))};
    if (!p.cells) return cox_no_memory("the plot");
    for (size_t i = 0; i < n; i++) {
        const cox_interval *d = &r->cells[i].difference[p.measure];
        bool is_moe = r->model->layers[i / (size_t)r->n_experts].is_moe;
        p.cells[i] = (cox_interval){is_moe ? 100 * d->value : (double)NAN, 100 * d->low, 100 * d->high};
    }
    cox_status status = cox_output_write("--plot", options->plot, print_plot, &p);
    free(p.cells);
    return status;
}

cox_status cox_routes_print(const cox_routes *r, const cox_run_options *run, const cox_options *options)
{
    cox_status status = cox_output_write("--csv", options->csv, print_csv, r);
    if (status == COX_OK) status = write_plot(r, options);
    if (status != COX_OK) return status;
    return options->is_json ? print_json(r, run) : print_table(r, options);
}
