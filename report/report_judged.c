/* Answers to prompts that took no part in choosing, in memory: reading their table, which cell of the sweep a
 * row is about, the best plan of an aim and its controls; and which cell the whole page names. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"

static const char *const aims[] = {"weaken", "strengthen"};

/* --- Reading --- */

/* Those that show the behaviour among answers, both whole. */
static cox_status check_counts(const cox_csv *t, size_t row, const char *label, const cox_report_heldout *h,
                               int set)
{
    double n = h->n[set], yes = h->yes[set];
    if (n < 1e9 && yes >= 0 && yes <= n && floor(n) == n && floor(yes) == yes) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: line %zu: %g (\"%c_%.60s\") of %g answers (\"%c_n\")", t->where,
                    t->lines[row], yes, "ab"[set], label, n, "ab"[set]);
}

/* "[[CELL, MEAN, LOW, HIGH], ...]" */
static cox_status read_passed(const cox_csv *t, size_t row, cox_report_heldout *h)
{
    const char *text = "";
    cox_status status = cox_csv_text(t, row, "passed_over", &text);
    if (status != COX_OK || !*text) return status;
    json_t *list = json_loads(text, 0, NULL), *item;
    size_t i;
    bool is_right = json_is_array(list);
    h->passed = calloc(json_array_size(list) + 1, sizeof *h->passed);
    json_array_foreach(list, i, item)
    {
        is_right = is_right && json_array_size(item) == 4 && json_is_integer(json_array_get(item, 0));
        for (size_t k = 1; k < 4; k++) is_right = is_right && json_is_number(json_array_get(item, k));
        if (!is_right || !h->passed) break;
        h->passed[h->n_passed++] = (cox_report_passed){json_integer_value(json_array_get(item, 0)),
                                                       {json_number_value(json_array_get(item, 1)),
                                                        json_number_value(json_array_get(item, 2)),
                                                        json_number_value(json_array_get(item, 3))}};
    }
    json_decref(list);
    if (!h->passed) return cox_no_memory(t->where);
    if (is_right) return COX_OK;
    return cox_fail(COX_BAD_FILE,
                    "%s: line %zu, column \"passed_over\": not a list of [cell, mean, low, high]", t->where,
                    t->lines[row]);
}

/* Columns that tables of before, or of others, may not have. */
static cox_status read_calm(const cox_csv *t, size_t row, cox_report_heldout *h)
{
    const char *calm = "";
    cox_status status = COX_OK;
    h->calm_change.value = (double)NAN;
    if (cox_csv_has(t, "calm")) status = cox_csv_text(t, row, "calm", &calm);
    if (strcmp(calm, "True") == 0) h->calm = COX_REPORT_CALM;
    if (strcmp(calm, "False") == 0) h->calm = COX_REPORT_NOT_CALM;
    if (cox_csv_has(t, "calm_mean") && status == COX_OK) {
        status = cox_csv_number(t, row, "calm_mean", true, &h->calm_change.value);
        bool is_empty = isnan(h->calm_change.value);
        if (status == COX_OK) status = cox_csv_number(t, row, "calm_low", is_empty, &h->calm_change.low);
        if (status == COX_OK) status = cox_csv_number(t, row, "calm_high", is_empty, &h->calm_change.high);
    }
    return status == COX_OK && cox_csv_has(t, "passed_over") ? read_passed(t, row, h) : status;
}

static cox_status read_row(const cox_csv *t, size_t row, const char *label, cox_report_heldout *h)
{
    cox_status status = cox_csv_text(t, row, "family", &h->family);
    if (status == COX_OK) status = cox_csv_text(t, row, "aim", &h->aim);
    if (status == COX_OK) status = cox_csv_text(t, row, "control", &h->control);
    for (int s = 0; s < COX_REPORT_N_SETS; s++) {
        const struct {
            const char *name;
            double *out;
        } numbers[] = {{"n", &h->n[s]},
                       {label, &h->yes[s]},
                       {"effect", &h->effect[s].value},
                       {"effect_low", &h->effect[s].low},
                       {"effect_high", &h->effect[s].high}};
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == COX_OK; i++) {
            char name[128];
            snprintf(name, sizeof name, "%c_%s", "ab"[s], numbers[i].name);
            status = cox_csv_number(t, row, name, i == 0 || !(h->n[s] > 0), numbers[i].out);
        }
        if (status == COX_OK && h->n[s] > 0) status = check_counts(t, row, label, h, s);
    }
    return status == COX_OK ? read_calm(t, row, h) : status;
}

cox_status cox_report_heldouts_read(cox_report_heldouts *heldouts, cox_csv *table)
{
    *heldouts =
        (cox_report_heldouts){.table = *table, .items = calloc(table->n_rows + 1, sizeof *heldouts->items)};
    *table = (cox_csv){0};
    const cox_csv *t = &heldouts->table;
    cox_status status = heldouts->items ? COX_OK : cox_no_memory(t->where);
    heldouts->behaviour = "refused";
    if (status == COX_OK && t->n_rows > 0 && cox_csv_has(t, "behaviour"))
        status = cox_csv_text(t, 0, "behaviour", &heldouts->behaviour);
    for (; heldouts->n < t->n_rows && status == COX_OK; heldouts->n++)
        status = read_row(t, heldouts->n, heldouts->behaviour, &heldouts->items[heldouts->n]);
    if (status == COX_OK && heldouts->n == 0)
        status = cox_fail(COX_BAD_FILE, "%s: there are no rows in it", t->where);
    if (status != COX_OK) cox_report_heldouts_free(heldouts);
    return status;
}

void cox_report_heldouts_free(cox_report_heldouts *heldouts)
{
    for (size_t i = 0; i < heldouts->n; i++) free(heldouts->items[i].passed);
    cox_csv_free(&heldouts->table);
    free(heldouts->items);
    *heldouts = (cox_report_heldouts){0};
}

/* --- Which cell a row is about --- */

static const char *const place_columns[] = {"layer",  "expert",    "weighting",
                                            "source", "positions", "strength"};
enum { N_PLACE_COLUMNS = sizeof place_columns / sizeof *place_columns };

const char *cox_report_heldout_text(const cox_report *r, const cox_report_heldout *h, const char *column)
{
    const char *text = "";
    if (cox_csv_has(&r->heldouts.table, column))
        (void)cox_csv_text(&r->heldouts.table, (size_t)(h - r->heldouts.items), column, &text);
    return text;
}

static bool has_places(const cox_report *r)
{
    bool has_all = true;
    for (size_t i = 0; i < N_PLACE_COLUMNS; i++)
        has_all = has_all && cox_csv_has(&r->heldouts.table, place_columns[i]);
    return has_all;
}

/* Scopes as a table of a sweep has them (a word, or JSON) and as JSON, in which a word has quotes. */
static bool is_same_scope(const char *of_cell, const char *text)
{
    json_t *given = json_loads(text, JSON_DECODE_ANY, NULL), *own = json_loads(of_cell, 0, NULL);
    const char *word = json_string_value(given);
    bool is_same = own ? json_equal(own, given) : strcmp(word ? word : text, of_cell) == 0;
    json_decref(given);
    json_decref(own);
    return is_same;
}

const cox_report_cell *cox_report_heldout_cell(const cox_report *r, const cox_report_heldout *h)
{
    if (!has_places(r)) return NULL;
    const char *expert = cox_report_heldout_text(r, h, "expert"),
               *weighting = cox_report_heldout_text(r, h, "weighting");
    long layer = strtol(cox_report_heldout_text(r, h, "layer"), NULL, 10),
         source = strtol(cox_report_heldout_text(r, h, "source"), NULL, 10);
    double strength = strtod(cox_report_heldout_text(r, h, "strength"), NULL);
    for (size_t i = 0; i < r->cells.n; i++) {
        const cox_report_cell *c = &r->cells.items[i];
        if (c->layer == layer && c->source == source && c->strength == strength &&
            !cox_report_is_control(c) && strcmp(c->family, h->family) == 0 &&
            strcmp(c->expert_text, expert) == 0 && strcmp(c->weighting, weighting) == 0 &&
            is_same_scope(c->positions, cox_report_heldout_text(r, h, "positions")))
            return c;
    }
    return NULL;
}

cox_status cox_report_heldouts_check(const cox_report *r)
{
    const cox_csv *t = &r->heldouts.table;
    for (size_t i = 0; i < r->heldouts.n && has_places(r); i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        for (size_t k = 0; k < h->n_passed; k++) {
            if (!cox_report_cell_numbered(&r->cells, h->passed[k].cell))
                return cox_fail(
                    COX_INVALID,
                    "%s: line %zu: the sweep has no cell %lld (\"passed_over\"): the table is of another "
                    "sweep",
                    t->where, t->lines[i], (long long)h->passed[k].cell);
        }
        if (!*h->aim || cox_report_heldout_cell(r, h)) continue;
        return cox_fail(COX_INVALID,
                        "%s: line %zu: the sweep has no cell of family \"%.60s\" at this place and strength "
                        "(layer %.20s, expert \"%.20s\", strength %.20s): the table is of another sweep",
                        t->where, t->lines[i], h->family, cox_report_heldout_text(r, h, "layer"),
                        cox_report_heldout_text(r, h, "expert"), cox_report_heldout_text(r, h, "strength"));
    }
    return COX_OK;
}

/* --- The best plan of an aim, and its controls --- */

bool cox_report_is_plan(const cox_report_heldout *h, int set)
{
    return !*h->control && strcmp(h->aim, aims[set]) == 0 && h->n[set] > 0;
}

const cox_report_heldout *cox_report_heldout_clean(const cox_report *r)
{
    for (size_t i = 0; i < r->heldouts.n; i++) {
        if (!*r->heldouts.items[i].aim) return &r->heldouts.items[i];
    }
    return NULL;
}

double cox_report_heldout_share(const cox_report *r, const cox_report_heldout *h, int set, const char *label)
{
    char column[128];
    double share = (double)NAN;
    snprintf(column, sizeof column, "%c_%s", "ab"[set], label);
    bool is_number = sscanf(cox_report_heldout_text(r, h, column), "%lf", &share) == 1 && isfinite(share);
    return is_number ? share : (double)NAN;
}

/* By the effect; of equal ones by what is answered, or shown in good form. */
static bool is_better(const cox_report *r, const cox_report_heldout *x, const cox_report_heldout *y, int set)
{
    char shown[128];
    cox_report_label_well_shown(r, shown, sizeof shown);
    double sign = set == COX_REPORT_A ? -1 : 1, dx = sign * x->effect[set].value,
           dy = sign * y->effect[set].value;
    const char *good = set == COX_REPORT_A ? "answered" : shown;
    return dx == dy ? cox_report_heldout_share(r, x, set, good) > cox_report_heldout_share(r, y, set, good)
                    : dx > dy;
}

const cox_report_heldout *cox_report_heldout_best(const cox_report *r, const char *family, bool is_single,
                                                  int set, int *n_plans)
{
    const cox_report_heldout *best = NULL;
    int n = 0;
    for (size_t i = 0; i < r->heldouts.n; i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        const char *expert = cox_report_heldout_text(r, h, "expert");
        if (!cox_report_is_plan(h, set) || (family && strcmp(family, h->family) != 0)) continue;
        if (is_single && (*expert < '0' || *expert > '9')) continue;
        n++;
        if (!best || is_better(r, h, best, set)) best = h;
    }
    if (n_plans) *n_plans = n;
    return best;
}

/* Is an effect at least as large, in the aim's direction, as the near end of the plan's interval? */
static bool reaches(double effect, const cox_interval *plan, int set)
{
    return set == COX_REPORT_A ? effect <= plan->high : effect >= plan->low;
}

cox_report_draws cox_report_heldout_draws(const cox_report *r, const cox_report_heldout *plan, int set,
                                          const char *kind)
{
    cox_report_draws all = {.least = (double)INFINITY, .most = -(double)INFINITY};
    for (size_t i = 0; i < r->heldouts.n; i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        if (strcmp(h->control, kind) != 0 || strcmp(h->aim, plan->aim) != 0 ||
            strcmp(h->family, plan->family) != 0 || !(h->n[set] > 0))
            continue;
        const cox_interval *e = &h->effect[set], *w = &all.widest;
        if (all.n < COX_REPORT_MAX_DRAWS) all.drawn[all.n] = *e;
        if (all.n == 0 || fmax(fabs(e->low), fabs(e->high)) > fmax(fabs(w->low), fabs(w->high)))
            all.widest = *e;
        all.least = fmin(all.least, e->value);
        all.most = fmax(all.most, e->value);
        all.yes += h->yes[set];
        all.mean += e->value;
        all.n_reach += reaches(e->value, &plan->effect[set], set);
        all.n++;
    }
    if (all.n > 0) {
        all.yes /= (double)all.n;
        all.mean /= (double)all.n;
    }
    return all;
}

/* --- What the page names --- */

const char *cox_report_label(const cox_report *r)
{
    if (r->behaviour) return r->behaviour;
    if (r->heldouts.n > 0) return r->heldouts.behaviour;
    return r->rates.n_labels > 0 ? r->rates.labels[0] : "the behaviour";
}

void cox_report_label_well_shown(const cox_report *r, char *out, size_t n)
{
    const char *label = cox_report_label(r);
    snprintf(out, n, "well_formed_%.80s", strcmp(label, "refused") == 0 ? "refusal" : label);
}

const cox_report_cell *cox_report_named(const cox_report *r, int32_t family, bool is_single, int set)
{
    const char *name = family < 0 ? NULL : r->cells.families[family];
    const cox_report_heldout *best = cox_report_heldout_best(r, name, is_single, set, NULL);
    const cox_report_cell *cell = best ? cox_report_heldout_cell(r, best) : NULL;
    return cell ? cell : cox_report_pick(r, family, is_single, set);
}

bool cox_report_has_named(const cox_report *r, const cox_report_group *g)
{
    for (int k = 0; k < 2 * COX_REPORT_N_SETS; k++) {
        const cox_report_cell *c = r->named[k % 2][k / 2];
        size_t i = c ? (size_t)(c - r->cells.items) : SIZE_MAX;
        if (c && i >= g->first && i < g->first + g->n) return true;
    }
    return false;
}
