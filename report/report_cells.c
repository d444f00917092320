/* The rows of a sweep's cells.csv, sorted into groups and places, with the best cell of each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"

enum { MAX_INDEX = 4096, MAX_SEED = 1 << 24 }; /* of layers and experts: a map has a cell for each */

/* --- Reading --- */

static cox_status read_small(const cox_csv *t, size_t row, const char *column, int64_t low, int64_t high,
                             int32_t *out)
{
    int64_t value = 0;
    cox_status status = cox_csv_int(t, row, column, low, high, &value);
    *out = (int32_t)value;
    return status;
}

static cox_status read_interval(const cox_csv *t, size_t row, const char *name, cox_interval *out)
{
    char low[32], high[32];
    snprintf(low, sizeof low, "%s_low", name);
    snprintf(high, sizeof high, "%s_high", name);
    cox_status status = cox_csv_number(t, row, name, true, &out->value);
    if (status == COX_OK) status = cox_csv_number(t, row, low, true, &out->low);
    return status == COX_OK ? cox_csv_number(t, row, high, true, &out->high) : status;
}

static cox_status read_cell(const cox_csv *t, size_t row, cox_report_cell *c)
{
    const struct {
        const char *name, **out;
    } texts[] = {{"block", &c->block},        {"site", &c->site},          {"op", &c->op},
                 {"control", &c->control},    {"expert", &c->expert_text}, {"weighting", &c->weighting},
                 {"positions", &c->positions}};
    cox_status status = COX_OK;
    for (size_t i = 0; i < sizeof texts / sizeof *texts && status == COX_OK; i++)
        status = cox_csv_text(t, row, texts[i].name, texts[i].out);
    if (status == COX_OK) status = cox_csv_int(t, row, "cell", 0, INT64_MAX, &c->number);
    if (status == COX_OK) status = read_small(t, row, "seed", 0, MAX_SEED, &c->seed);
    if (status == COX_OK) status = read_small(t, row, "layer", 0, MAX_INDEX, &c->layer);
    if (status == COX_OK) status = read_small(t, row, "source", -MAX_SEED, MAX_SEED, &c->source);
    c->expert = -1;
    if (status == COX_OK && *c->expert_text && strcmp(c->expert_text, "together") != 0)
        status = read_small(t, row, "expert", 0, MAX_INDEX, &c->expert);
    if (status == COX_OK) status = cox_csv_number(t, row, "strength", false, &c->strength);
    if (status == COX_OK) status = read_interval(t, row, "change_a", &c->change[COX_REPORT_A]);
    if (status == COX_OK) status = read_interval(t, row, "change_b", &c->change[COX_REPORT_B]);
    return status == COX_OK ? cox_csv_number(t, row, "kl", true, &c->kl) : status;
}

/* Blocks of a family mostly stand together, so the last family is looked at first. */
static cox_status name_family(cox_report_cells *cells, cox_report_cell *c)
{
    size_t n = strcspn(c->block, ".");
    int32_t i = cells->n_families - 1;
    while (i >= 0 && (strncmp(cells->families[i], c->block, n) != 0 || cells->families[i][n] != '\0')) i--;
    if (i < 0) {
        i = cells->n_families;
        cells->families[i] = strndup(c->block, n);
        if (!cells->families[i]) return cox_no_memory(cells->table.where);
        cells->n_families++;
    }
    c->family = cells->families[i];
    c->family_index = i;
    return COX_OK;
}

static bool is_same(const json_t *x, const json_t *y)
{
    return x == y || json_equal(x, y);
}

static void find_apply(const json_t *grid, cox_report_cell *c)
{
    size_t i;
    const json_t *item, *blocks = json_object_get(grid, "blocks");
    c->apply = NULL;
    c->apply_index = -1;
    json_array_foreach(blocks, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, c->block) == 0) c->apply = json_object_get(item, "apply");
    }
    json_array_foreach(blocks, i, item)
    {
        if (c->apply && c->apply_index < 0 && is_same(json_object_get(item, "apply"), c->apply))
            c->apply_index = (int32_t)i;
    }
}

/* --- Order --- */

static int order_of(double x, double y)
{
    return (x > y) - (x < y);
}

static int compare_groups(const cox_report_cell *x, const cox_report_cell *y)
{
    int order = x->family_index - y->family_index;
    if (order == 0) order = strcmp(x->site, y->site);
    if (order == 0) order = strcmp(x->op, y->op);
    if (order == 0) order = x->apply_index - y->apply_index;
    if (order == 0) order = strcmp(x->control, y->control);
    if (order == 0) order = strcmp(x->weighting, y->weighting);
    return order == 0 ? strcmp(x->positions, y->positions) : order;
}

static int compare_places(const cox_report_cell *x, const cox_report_cell *y)
{
    int order = compare_groups(x, y);
    if (order == 0) order = x->layer - y->layer;
    return order == 0 ? x->expert - y->expert : order;
}

static int compare_curves(const cox_report_cell *x, const cox_report_cell *y)
{
    int order = compare_places(x, y);
    if (order == 0) order = y->source - x->source; /* from the last token on */
    return order == 0 ? x->seed - y->seed : order;
}

static int compare_cells(const void *a, const void *b)
{
    const cox_report_cell *x = a, *y = b;
    int order = compare_curves(x, y);
    if (order == 0) order = order_of(x->strength, y->strength);
    return order == 0 ? (x->number > y->number) - (x->number < y->number) : order;
}

bool cox_report_counts(const cox_report_cells *cells, const cox_report_cell *c, int set)
{
    return !isnan(c->change[set].value) && (isinf(cells->max_kl[set]) || c->kl <= cells->max_kl[set]);
}

static void consider(const cox_report_cells *cells, cox_report_place *p, const cox_report_cell *c, int set)
{
    double sign = set == COX_REPORT_A ? -1 : 1;
    const cox_report_cell **best = &p->best[set];
    if (!cox_report_counts(cells, c, set)) return;
    if (!*best || sign * c->change[set].value > sign * (*best)->change[set].value) *best = c;
}

static void make_groups(cox_report_cells *cells)
{
    for (size_t i = 0; i < cells->n; i++) {
        const cox_report_cell *c = &cells->items[i];
        bool is_new_group = i == 0 || compare_groups(c - 1, c) != 0;
        if (is_new_group)
            cells->groups[cells->n_groups++] = (cox_report_group){.first = i, .first_place = cells->n_places};
        cox_report_group *g = &cells->groups[cells->n_groups - 1];
        if (is_new_group || compare_places(c - 1, c) != 0) {
            cells->places[cells->n_places++] =
                (cox_report_place){.layer = c->layer, .expert = c->expert, .first = i};
            g->n_places++;
        }
        cox_report_place *p = &cells->places[cells->n_places - 1];
        g->n++;
        p->n++;
        if (c->expert >= g->n_experts) g->n_experts = c->expert + 1;
        for (int set = 0; set < COX_REPORT_N_SETS; set++) consider(cells, p, c, set);
    }
}

cox_status cox_report_cells_read(cox_report_cells *cells, cox_csv *table, const json_t *grid,
                                 const double max_kl[COX_REPORT_N_SETS])
{
    size_t n = table->n_rows;
    *cells = (cox_report_cells){.table = *table,
                                .max_kl = {max_kl[COX_REPORT_A], max_kl[COX_REPORT_B]},
                                .items = calloc(n + 1, sizeof *cells->items),
                                .groups = calloc(n + 1, sizeof *cells->groups),
                                .places = calloc(n + 1, sizeof *cells->places),
                                .families = calloc(n + 1, sizeof *cells->families)};
    cox_status status = COX_OK;
    if (!cells->items || !cells->groups || !cells->places || !cells->families)
        status = cox_no_memory(table->where);
    else if (n == 0)
        status = cox_fail(COX_BAD_FILE, "%s: there are no cells in it", table->where);
    for (; cells->n < n && status == COX_OK; cells->n++) {
        cox_report_cell *c = &cells->items[cells->n];
        status = read_cell(&cells->table, cells->n, c);
        if (status == COX_OK) status = name_family(cells, c);
        bool is_same_block = status == COX_OK && cells->n > 0 && strcmp(c[-1].block, c->block) == 0;
        if (is_same_block)
            c->apply = c[-1].apply, c->apply_index = c[-1].apply_index;
        else if (status == COX_OK)
            find_apply(grid, c);
    }
    *table = (cox_csv){0};
    if (status == COX_OK) {
        qsort(cells->items, n, sizeof *cells->items, compare_cells);
        make_groups(cells);
    } else {
        cox_report_cells_free(cells);
    }
    return status;
}

void cox_report_cells_free(cox_report_cells *cells)
{
    cox_csv_free(&cells->table);
    free(cells->items);
    free(cells->groups);
    free(cells->places);
    for (int32_t i = 0; i < cells->n_families; i++) free(cells->families[i]);
    free(cells->families);
    *cells = (cox_report_cells){0};
}

/* --- Look-ups --- */

size_t cox_report_curve_end(const cox_report_cells *cells, const cox_report_place *place, size_t i)
{
    size_t first = i;
    while (i < place->first + place->n && compare_curves(&cells->items[first], &cells->items[i]) == 0) i++;
    return i;
}

bool cox_report_is_control(const cox_report_cell *cell)
{
    return strcmp(cell->control, "direction") != 0;
}

bool cox_report_is_control_of(const cox_report_cell *control, const cox_report_cell *c)
{
    return cox_report_is_control(control) && is_same(control->apply, c->apply) &&
           control->layer == c->layer && control->strength == c->strength && control->source == c->source &&
           strcmp(control->site, c->site) == 0 && strcmp(control->op, c->op) == 0 &&
           strcmp(control->expert_text, c->expert_text) == 0 &&
           strcmp(control->weighting, c->weighting) == 0 && strcmp(control->positions, c->positions) == 0;
}

const cox_report_cell *cox_report_cell_numbered(const cox_report_cells *cells, int64_t number)
{
    for (size_t i = 0; i < cells->n; i++) {
        if (cells->items[i].number == number) return &cells->items[i];
    }
    return NULL;
}

/* By answers where there are any; higher is better, NaN: not to be shown. */
static double answer_score(const cox_report *r, const cox_report_cell *c, int set)
{
    if (r->rates.n_labels == 0) return (double)NAN;
    const cox_report_rate *rate = cox_report_rate_of(&r->rates, c->number, set, cox_report_label(r));
    const cox_report_rate *apart = cox_report_rate_of(&r->rates, c->number, set, "fell_apart");
    if (!rate) return (double)NAN;
    double fallen = apart ? apart->rate.value : 0;
    return set == COX_REPORT_A ? 1 - rate->rate.value - fallen : rate->rate.value - fallen;
}

const cox_report_cell *cox_report_pick(const cox_report *r, int32_t family, bool is_single, int set)
{
    const cox_report_cell *best[2] = {NULL, NULL}; /* by change, by answers */
    double top[2] = {0, -(double)INFINITY};
    for (size_t i = 0; i < r->cells.n; i++) {
        const cox_report_cell *c = &r->cells.items[i];
        bool is_asked = !cox_report_is_control(c) && (family < 0 || c->family_index == family);
        if (!is_asked || (is_single && c->expert < 0) || !cox_report_counts(&r->cells, c, set)) continue;
        double change = set == COX_REPORT_A ? -c->change[set].value : c->change[set].value;
        double score = change > 0 ? answer_score(r, c, set) : (double)NAN;
        bool is_better = score > top[1];
        if (best[1] && score == top[1]) is_better = c->kl < best[1]->kl;
        if (is_better) best[1] = c, top[1] = score;
        if (change > top[0]) best[0] = c, top[0] = change;
    }
    return best[1] ? best[1] : best[0];
}
