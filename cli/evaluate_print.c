/* Measures by group: rates with Wilson's interval, means and paired differences with bootstrap intervals. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/evaluate_print.h"
#include "run/outputs.h"

enum { DIFFERENCE = COX_N_SIDES, N_COLUMNS };
static const char *const column_names[N_COLUMNS] = {"run", "baseline", "difference"};

/* n 0: there is none. */
typedef struct summary {
    int64_t n;
    cox_interval interval;
} summary;

/* Prompts whose field --by has this value; group 0, value NULL: all of them. */
typedef struct group {
    const char *value;
    int32_t number;
    int32_t n_items;
    summary (*cells)[N_COLUMNS]; /* [n_measures] */
} group;

typedef struct groups {
    const cox_evaluation *e;
    const cox_options *options;
    group *groups;
    int32_t *of; /* [n_items] the group of each prompt; 0: it does not have the field */
    int32_t n;
} groups;

/* --- Numbers --- */

static bool is_in(const groups *all, const group *g, int32_t i)
{
    return g->number == 0 || all->of[i] == g->number;
}

static double value_of(const cox_measure *m, int column, int32_t i)
{
    if (column != DIFFERENCE) return m->values[column] ? m->values[column][i] : (double)NAN;
    if (!m->values[COX_BASELINE]) return NAN;
    return m->values[COX_RUN][i] - m->values[COX_BASELINE][i];
}

/* values: scratch [n_items]. */
static cox_status summarise(const groups *all, const group *g, const cox_measure *m, int column,
                            double *values, summary *out)
{
    const cox_evaluation *e = all->e;
    const cox_bootstrap bootstrap = {(uint64_t)all->options->seed, (int32_t)all->options->resamples};
    int32_t n = 0;
    int64_t hits = 0;
    for (int32_t i = 0; i < e->n_items; i++) {
        double value = is_in(all, g, i) ? value_of(m, column, i) : (double)NAN;
        if (isnan(value)) continue;
        values[n++] = value;
        hits += value > 0;
    }
    out->n = n;
    if (n == 0) return COX_OK;
    if (m->is_rate && column != DIFFERENCE) {
        out->interval = cox_interval_wilson(hits, n);
        return COX_OK;
    }
    return cox_interval_mean(values, n, &bootstrap, &out->interval);
}

static cox_status fill(const groups *all, group *g)
{
    const cox_evaluation *e = all->e;
    double *values = malloc((size_t)e->n_items * sizeof *values);
    g->cells = calloc((size_t)e->n_measures, sizeof *g->cells);
    cox_status status = values && g->cells ? COX_OK : cox_no_memory("a table");
    for (int32_t i = 0; i < e->n_items; i++) g->n_items += is_in(all, g, i);
    for (int32_t m = 0; m < e->n_measures; m++) {
        for (int c = 0; c < N_COLUMNS && status == COX_OK; c++)
            status = summarise(all, g, &e->measures[m], c, values, &g->cells[m][c]);
    }
    free(values);
    return status;
}

/* All prompts first, then the values of the field in the order in which they come. */
static cox_status make_groups(groups *all)
{
    const cox_evaluation *e = all->e;
    all->groups = calloc((size_t)e->n_items + 1, sizeof *all->groups);
    all->of = calloc((size_t)e->n_items + 1, sizeof *all->of);
    if (!all->groups || !all->of) return cox_no_memory("groups");
    all->n = 1;
    for (int32_t i = 0; i < e->n_items && all->options->by; i++) {
        const char *value = cox_item_field(&e->items[i], all->options->by);
        int32_t g = 1;
        while (value && g < all->n && strcmp(all->groups[g].value, value) != 0) g++;
        if (!value) continue;
        if (g == all->n) all->groups[all->n++] = (group){.value = value, .number = g};
        all->of[i] = g;
    }
    if (all->options->by && all->n == 1)
        return cox_fail(COX_INVALID, "--by %s: no prompt has that field as a string", all->options->by);
    cox_status status = COX_OK;
    for (int32_t g = 0; g < all->n && status == COX_OK; g++) status = fill(all, &all->groups[g]);
    return status;
}

static bool is_nll(const cox_measure *m)
{
    return strcmp(m->name, "nll") == 0;
}

/* Perplexity is exp of the mean negative log-likelihood, and so are its interval's ends. */
static summary perplexity_of(const summary *nll)
{
    const cox_interval *i = &nll->interval;
    return (summary){nll->n,
                     {cox_perplexity(-i->value, 1), cox_perplexity(-i->low, 1), cox_perplexity(-i->high, 1)}};
}

/* --- Table --- */

static void print_cell(const summary *s, bool is_rate, bool has_sign)
{
    char text[64] = "";
    double unit = is_rate ? 100 : 1;
    const cox_interval *i = &s->interval;
    const char *format = is_rate    ? has_sign ? "%+6.1f [%+.1f, %+.1f]" : "%6.1f [%.1f, %.1f]"
                         : has_sign ? "%+.4g [%+.4g, %+.4g]"
                                    : "%.4g [%.4g, %.4g]";
    if (s->n > 0) snprintf(text, sizeof text, format, unit * i->value, unit * i->low, unit * i->high);
    printf("  %-28s", text);
}

static void print_row(const char *name, const summary *cells, bool is_rate, int n_columns)
{
    printf("  %-20.40s %6lld", name, (long long)cells[COX_RUN].n);
    for (int c = 0; c < n_columns; c++) print_cell(&cells[c], is_rate, c == DIFFERENCE);
    putchar('\n');
}

static bool has_baseline(const cox_evaluation *e)
{
    for (int32_t m = 0; m < e->n_measures; m++) {
        if (e->measures[m].values[COX_BASELINE]) return true;
    }
    return false;
}

static void print_missing(const cox_evaluation *e)
{
    const char *const paths[COX_N_SIDES] = {e->options->results, e->options->baseline};
    for (int side = 0; side < COX_N_SIDES; side++) {
        if (e->n_missing[side] + e->n_failed[side] == 0) continue;
        printf("%s: %d prompts have no answer, %d failed; they are left out\n", paths[side],
               (int)e->n_missing[side], (int)e->n_failed[side]);
    }
}

static void print_table(const groups *all)
{
    const cox_evaluation *e = all->e;
    int n_columns = has_baseline(e) ? N_COLUMNS : 1;
    printf("rates in %%, 95%% intervals: Wilson's of rates, of means and paired differences bootstrap\n");
    print_missing(e);
    for (int32_t g = 0; g < all->n; g++) {
        const group *one = &all->groups[g];
        printf("%s%s%s: %d prompts\n  %-20s %6s", one->value ? all->options->by : "all",
               one->value ? " " : "", one->value ? one->value : "", (int)one->n_items, "", "n");
        for (int c = 0; c < n_columns; c++) printf("  %-28s", column_names[c]);
        putchar('\n');
        for (int32_t m = 0; m < e->n_measures; m++) {
            const summary *cells = one->cells[m];
            if (cells[COX_RUN].n == 0 && cells[COX_BASELINE].n == 0) continue;
            print_row(e->measures[m].name, cells, e->measures[m].is_rate, n_columns);
            if (!is_nll(&e->measures[m])) continue;
            const summary both[N_COLUMNS] = {perplexity_of(&cells[COX_RUN]),
                                             perplexity_of(&cells[COX_BASELINE])};
            print_row("perplexity", both, false, n_columns);
        }
    }
}

/* --- JSON --- */

static json_t *summary_json(const summary *s)
{
    if (s->n == 0) return json_null();
    return json_pack("{s:I, s:f, s:f, s:f}", "n", (json_int_t)s->n, "value", s->interval.value, "low",
                     s->interval.low, "high", s->interval.high);
}

static json_t *measure_json(const char *name, const char *kind, const summary *cells)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", name, "kind", kind, "run",
                     summary_json(&cells[COX_RUN]), "baseline", summary_json(&cells[COX_BASELINE]),
                     "difference", summary_json(&cells[DIFFERENCE]));
}

static json_t *group_json(const cox_evaluation *e, const group *g)
{
    json_t *measures = json_array();
    for (int32_t m = 0; m < e->n_measures; m++) {
        const summary *cells = g->cells[m];
        if (cells[COX_RUN].n == 0 && cells[COX_BASELINE].n == 0) continue;
        json_array_append_new(
            measures, measure_json(e->measures[m].name, e->measures[m].is_rate ? "rate" : "mean", cells));
        if (!is_nll(&e->measures[m])) continue;
        const summary both[N_COLUMNS] = {perplexity_of(&cells[COX_RUN]), perplexity_of(&cells[COX_BASELINE])};
        json_array_append_new(measures, measure_json("perplexity", "perplexity", both));
    }
    return json_pack("{s:s?, s:i, s:o}", "value", g->value, "prompts", (int)g->n_items, "measures", measures);
}

static cox_status print_json(const groups *all)
{
    const cox_evaluation *e = all->e;
    const cox_options *o = all->options;
    json_t *json = json_pack(
        "{s:s, s:s?, s:s?, s:s?, s:s?, s:s?, s:s?, s:{s:I, s:I}, s:[i,i], s:[i,i], s:I, s:[], s:[]}", "made",
        "evaluate", "model", o->model, "steer", o->plan, "rules", o->rules, "results", o->results, "baseline",
        o->baseline, "by", o->by, "bootstrap", "seed", (json_int_t)o->seed, "resamples",
        (json_int_t)o->resamples, "missing", (int)e->n_missing[0], (int)e->n_missing[1], "failed",
        (int)e->n_failed[0], (int)e->n_failed[1], "rows_steered", (json_int_t)e->n_rows_steered, "prompts",
        "groups");
    if (!json) return cox_fail(COX_INVALID, "a file's name is not valid UTF-8, or memory ran out");
    for (size_t i = 0; i < o->prompt_files.n; i++)
        json_array_append_new(json_object_get(json, "prompts"), json_string(o->prompt_files.items[i]));
    for (int32_t g = 0; g < all->n; g++)
        json_array_append_new(json_object_get(json, "groups"), group_json(e, &all->groups[g]));
    return cox_output_json(json);
}

/* --- Files --- */

static void print_csv_row(FILE *file, const group *g, const char *name, const char *kind,
                          const summary *cells)
{
    cox_csv_print(file, g->value ? g->value : "");
    fputc(',', file);
    cox_csv_print(file, name);
    fprintf(file, ",%s", kind);
    for (int c = 0; c < N_COLUMNS; c++) {
        const cox_interval *i = &cells[c].interval;
        if (cells[c].n == 0) {
            fputs(",0,,,", file);
        } else {
            fprintf(file, ",%lld,%.12g,%.12g,%.12g", (long long)cells[c].n, i->value, i->low, i->high);
        }
    }
    fputc('\n', file);
}

static void print_csv(FILE *file, const void *context)
{
    const groups *all = context;
    const cox_evaluation *e = all->e;
    fputs("group,measure,kind", file);
    for (int c = 0; c < N_COLUMNS; c++) {
        const char *name = column_names[c];
        fprintf(file, ",%s_n,%s,%s_low,%s_high", name, name, name, name);
    }
    fputc('\n', file);
    for (int32_t g = 0; g < all->n; g++) {
        for (int32_t m = 0; m < e->n_measures; m++) {
            const summary *cells = all->groups[g].cells[m];
            print_csv_row(file, &all->groups[g], e->measures[m].name,
                          e->measures[m].is_rate ? "rate" : "mean", cells);
            if (!is_nll(&e->measures[m])) continue;
            const summary both[N_COLUMNS] = {perplexity_of(&cells[COX_RUN]),
                                             perplexity_of(&cells[COX_BASELINE])};
            print_csv_row(file, &all->groups[g], "perplexity", "perplexity", both);
        }
    }
}

static json_t *side_json(const cox_evaluation *e, int32_t i, int side)
{
    json_t *json = json_object();
    if (e->items[i].answers[side].text)
        json_object_set_new(json, "text", json_string(e->items[i].answers[side].text));
    for (int32_t m = 0; m < e->n_measures; m++) {
        const cox_measure *measure = &e->measures[m];
        if (!measure->values[side] || isnan(measure->values[side][i])) continue;
        double value = measure->values[side][i];
        json_object_set_new(json, measure->name,
                            measure->is_rate ? json_boolean(value > 0) : json_real(value));
    }
    return json;
}

static void print_items(FILE *file, const void *context)
{
    const cox_evaluation *e = context;
    for (int32_t i = 0; i < e->n_items; i++) {
        json_t *json =
            json_pack("{s:s, s:O?, s:o, s:o}", "custom_id", e->items[i].id, "line", e->items[i].line, "run",
                      side_json(e, i, COX_RUN), "baseline", side_json(e, i, COX_BASELINE));
        if (json) json_dumpf(json, file, JSON_COMPACT);
        fputc('\n', file);
        json_decref(json);
    }
}

cox_status cox_evaluation_print(const cox_evaluation *e, const cox_options *options)
{
    groups all = {.e = e, .options = options};
    cox_status status = make_groups(&all);
    if (status == COX_OK) status = cox_output_write("--csv", options->csv, print_csv, &all);
    if (status == COX_OK) status = cox_output_write("--items", options->items, print_items, e);
    if (status == COX_OK && options->is_json) {
        status = print_json(&all);
    } else if (status == COX_OK) {
        print_table(&all);
    }
    for (int32_t g = 0; g < all.n; g++) free(all.groups[g].cells);
    free(all.groups);
    free(all.of);
    return status;
}
