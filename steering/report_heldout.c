/* Answers to prompts that took no part in choosing: the plans that were chosen, and controls at their places.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "steering/heatmap.h"
#include "steering/report.h"

static const char *const aims[] = {"weaken", "strengthen"};
static const char *const titles[] = {"Weaken: prompts of A", "Strengthen: prompts of B"};

/* --- Reading --- */

/* Refusals among answers, both whole. */
static cox_status check_counts(const cox_csv *t, size_t row, const cox_report_heldout *h, int set)
{
    double n = h->n[set], yes = h->yes[set];
    if (n < 1e9 && yes >= 0 && yes <= n && floor(n) == n && floor(yes) == yes) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: line %zu: %g refusals (\"%c_refused\") of %g answers (\"%c_n\")",
                    t->where, t->lines[row], yes, "ab"[set], n, "ab"[set]);
}

static cox_status read_row(const cox_csv *t, size_t row, cox_report_heldout *h)
{
    cox_status status = cox_csv_text(t, row, "family", &h->family);
    if (status == COX_OK) status = cox_csv_text(t, row, "aim", &h->aim);
    if (status == COX_OK) status = cox_csv_text(t, row, "control", &h->control);
    for (int s = 0; s < COX_REPORT_N_SETS; s++) {
        const struct {
            const char *name;
            double *out;
        } numbers[] = {{"n", &h->n[s]},
                       {"refused", &h->yes[s]},
                       {"effect", &h->effect[s].value},
                       {"effect_low", &h->effect[s].low},
                       {"effect_high", &h->effect[s].high}};
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == COX_OK; i++) {
            char name[32];
            snprintf(name, sizeof name, "%c_%s", "ab"[s], numbers[i].name);
            status = cox_csv_number(t, row, name, i == 0 || !(h->n[s] > 0), numbers[i].out);
        }
        if (status == COX_OK && h->n[s] > 0) status = check_counts(t, row, h, s);
    }
    return status;
}

cox_status cox_report_heldouts_read(cox_report_heldouts *heldouts, cox_csv *table)
{
    *heldouts =
        (cox_report_heldouts){.table = *table, .items = calloc(table->n_rows + 1, sizeof *heldouts->items)};
    *table = (cox_csv){0};
    const cox_csv *t = &heldouts->table;
    cox_status status = heldouts->items ? COX_OK : cox_fail(COX_NO_MEMORY, "%s: out of memory", t->where);
    for (; heldouts->n < t->n_rows && status == COX_OK; heldouts->n++)
        status = read_row(t, heldouts->n, &heldouts->items[heldouts->n]);
    if (status == COX_OK && heldouts->n == 0)
        status = cox_fail(COX_BAD_FILE, "%s: there are no rows in it", t->where);
    if (status != COX_OK) cox_report_heldouts_free(heldouts);
    return status;
}

void cox_report_heldouts_free(cox_report_heldouts *heldouts)
{
    cox_csv_free(&heldouts->table);
    free(heldouts->items);
    *heldouts = (cox_report_heldouts){0};
}

/* --- Which cell a row is about --- */

static const char *const place_columns[] = {"layer",  "expert",    "weighting",
                                            "source", "positions", "strength"};
enum { N_PLACE_COLUMNS = sizeof place_columns / sizeof *place_columns };

/* A column's text, "" where there is no such column. */
static const char *text_at(const cox_report *r, const cox_report_heldout *h, const char *column)
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
    const char *expert = text_at(r, h, "expert"), *weighting = text_at(r, h, "weighting");
    long layer = strtol(text_at(r, h, "layer"), NULL, 10), source = strtol(text_at(r, h, "source"), NULL, 10);
    double strength = strtod(text_at(r, h, "strength"), NULL);
    for (size_t i = 0; i < r->cells.n; i++) {
        const cox_report_cell *c = &r->cells.items[i];
        if (c->layer == layer && c->source == source && c->strength == strength &&
            !cox_report_is_control(c) && strcmp(c->family, h->family) == 0 &&
            strcmp(c->expert_text, expert) == 0 && strcmp(c->weighting, weighting) == 0 &&
            is_same_scope(c->positions, text_at(r, h, "positions")))
            return c;
    }
    return NULL;
}

cox_status cox_report_heldouts_check(const cox_report *r)
{
    const cox_csv *t = &r->heldouts.table;
    for (size_t i = 0; i < r->heldouts.n && has_places(r); i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        if (!*h->aim || cox_report_heldout_cell(r, h)) continue;
        return cox_fail(COX_INVALID,
                        "%s: line %zu: the sweep has no cell of family \"%.60s\" at this place and strength "
                        "(layer %.20s, expert \"%.20s\", strength %.20s): the table is of another sweep",
                        t->where, t->lines[i], h->family, text_at(r, h, "layer"), text_at(r, h, "expert"),
                        text_at(r, h, "strength"));
    }
    return COX_OK;
}

/* --- Cards --- */

static bool is_plan(const cox_report_heldout *h, int set)
{
    return !*h->control && strcmp(h->aim, aims[set]) == 0 && h->n[set] > 0;
}

static const cox_report_heldout *find_clean(const cox_report *r)
{
    for (size_t i = 0; i < r->heldouts.n; i++) {
        if (!*r->heldouts.items[i].aim) return &r->heldouts.items[i];
    }
    return NULL;
}

static const char *const labels[] = {"answered", "well_formed", "well_formed_refusal", "fell_apart"};
enum { N_LABELS = sizeof labels / sizeof *labels, MAX_DRAWS_SHOWN = 64 };

/* NaN: the rules do not ask, or the table does not say. */
static double share_of(const cox_report *r, const cox_report_heldout *h, int set, const char *label)
{
    char column[48];
    double share = (double)NAN;
    snprintf(column, sizeof column, "%c_%s", "ab"[set], label);
    bool is_number = sscanf(text_at(r, h, column), "%lf", &share) == 1 && isfinite(share);
    return is_number ? share : (double)NAN;
}

/* By the effect; of equal ones by what is answered, or refused in good form. */
static bool is_better(const cox_report *r, const cox_report_heldout *x, const cox_report_heldout *y, int set)
{
    double sign = set == COX_REPORT_A ? -1 : 1, dx = sign * x->effect[set].value,
           dy = sign * y->effect[set].value;
    const char *good = set == COX_REPORT_A ? "answered" : "well_formed_refusal";
    return dx == dy ? share_of(r, x, set, good) > share_of(r, y, set, good) : dx > dy;
}

/* The first n_labels labels without the plan and with it. */
static void print_shares(FILE *file, const cox_report *r, const cox_report_heldout *clean,
                         const cox_report_heldout *h, int set, int n_labels)
{
    bool has_any = false;
    for (int l = 0; l < n_labels; l++) {
        double before = share_of(r, clean, set, labels[l]), after = share_of(r, h, set, labels[l]);
        if (isnan(before) || isnan(after)) continue;
        fputs(has_any ? " " : "", file);
        cox_report_print_change(file, labels[l], before, after);
        has_any = true;
    }
}

/* A plan's controls of one kind. */
typedef struct {
    size_t n;
    double yes, mean;                    /* of refusals and of effects: the mean over the draws */
    double least, most;                  /* effects of draws */
    cox_interval widest;                 /* the interval that reaches farthest from 0 */
    cox_interval drawn[MAX_DRAWS_SHOWN]; /* the first of them, for the picture */
} draws;

static draws gather_draws(const cox_report *r, const cox_report_heldout *plan, int set, const char *kind)
{
    draws all = {.least = (double)INFINITY, .most = -(double)INFINITY};
    for (size_t i = 0; i < r->heldouts.n; i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        if (strcmp(h->control, kind) != 0 || strcmp(h->aim, plan->aim) != 0 ||
            strcmp(h->family, plan->family) != 0 || !(h->n[set] > 0))
            continue;
        const cox_interval *e = &h->effect[set], *w = &all.widest;
        if (all.n < MAX_DRAWS_SHOWN) all.drawn[all.n] = *e;
        if (all.n == 0 || fmax(fabs(e->low), fabs(e->high)) > fmax(fabs(w->low), fabs(w->high)))
            all.widest = *e;
        all.least = fmin(all.least, e->value);
        all.most = fmax(all.most, e->value);
        all.yes += h->yes[set];
        all.mean += e->value;
        all.n++;
    }
    if (all.n > 0) {
        all.yes /= (double)all.n;
        all.mean /= (double)all.n;
    }
    return all;
}

/* "-0.5 points on average of 8 draws, from -2 to 0"; of one draw its effect and interval. */
static void print_draws(FILE *file, const draws *d)
{
    if (d->n == 1) {
        cox_report_print_interval(file, &d->widest);
        fputs(" points (one draw)", file);
        return;
    }
    cox_report_print_number(file, d->mean, true);
    fprintf(file, " points on average of %zu draws, from ", d->n);
    cox_report_print_number(file, d->least, true);
    fputs(" to ", file);
    cox_report_print_number(file, d->most, true);
}

static void print_control_line(FILE *file, const cox_report *r, const cox_report_heldout *plan, int set,
                               const char *kind)
{
    draws d = gather_draws(r, plan, set, kind);
    if (d.n == 0) return;
    fprintf(file, "<p>Control, %s: ", cox_report_control_words(kind));
    print_draws(file, &d);
    if (d.n > 1) {
        fputs("; the draw that reaches farthest: ", file);
        cox_report_print_interval(file, &d.widest);
    }
    fputs(".</p>\n", file);
}

static void print_refused(FILE *file, const cox_report *r, const cox_report_heldout *clean,
                          const cox_report_heldout *h, int set)
{
    cox_interval rate = cox_interval_wilson((int64_t)h->yes[set], (int64_t)h->n[set]);
    fputs("<p class=\"big\">", file);
    cox_report_print_percent(file, clean->yes[set] / clean->n[set], 0);
    fputs(" \xe2\x86\x92 ", file);
    cox_report_print_percent(file, h->yes[set] / h->n[set], 0);
    fprintf(file,
            "</p>\n<p><b>refused</b>, %c: %.0f of %.0f answers without, %.0f of %.0f with it (95%% interval "
            "%.0f to %.0f%%): ",
            "AB"[set], clean -> yes[set], clean -> n[set], h -> yes[set], h -> n[set], 100 * rate.low,
            100 * rate.high);
    cox_report_print_interval(file, &h->effect[set]);
    fputs(" points.</p>\n<p>", file);
    print_shares(file, r, clean, h, set, N_LABELS);
    fputs("</p>\n", file);
}

static void print_place(FILE *file, const cox_report *r, const cox_report_heldout *h)
{
    const cox_report_cell *cell = cox_report_heldout_cell(r, h);
    bool has_any = false;
    if (cell) {
        cox_report_print_how(file, cell);
        fprintf(file, " (cell %lld)", (long long)cell->number);
    }
    for (size_t i = 0; i < N_PLACE_COLUMNS && !cell; i++) {
        const char *text = text_at(r, h, place_columns[i]);
        if (!*text) continue;
        fprintf(file, "%s%s ", has_any ? ", " : "", place_columns[i]);
        for (; *text; text++) { /* positions are JSON: without its marks */
            if (!strchr("{}\"", *text)) cox_xml_print(file, (char[]){*text, '\0'});
        }
        has_any = true;
    }
}

bool cox_report_print_heldout_card(FILE *file, const cox_report *r, bool is_single, int set)
{
    const cox_report_heldout *clean = find_clean(r), *best = NULL;
    int n = 0;
    for (size_t i = 0; i < r->heldouts.n; i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        const char *expert = text_at(r, h, "expert");
        if (!is_plan(h, set) || (is_single && (*expert < '0' || *expert > '9'))) continue;
        n++;
        if (!best || is_better(r, h, best, set)) best = h;
    }
    if (!best || !clean || !(clean->n[set] > 0)) return false;
    fprintf(file, "<div class=\"card\"><h3>%s%s: held-out prompts</h3>\n", set ? "Strengthen" : "Weaken",
            is_single ? ", one expert" : "");
    print_refused(file, r, clean, best, set);
    int other = 1 - set;
    if (best->n[other] > 0 && clean->n[other] > 0) {
        fprintf(file, "<p>On %c: ", "AB"[other]);
        cox_report_print_change(file, "refused", clean->yes[other] / clean->n[other],
                                best->yes[other] / best->n[other]);
        fputs(" ", file);
        print_shares(file, r, clean, best, other, 2); /* good answers */
        fputs("</p>\n", file);
    }
    print_control_line(file, r, best, set, "random_direction");
    print_control_line(file, r, best, set, "random_expert");
    fputs("<p class=\"soft\">", file);
    cox_xml_print(file, best->family);
    fputs(": ", file);
    print_place(file, r, best);
    fputs(". Chosen on validation prompts", file);
    if (n > 1) fprintf(file, "; of the %d plans that were judged here the one with the largest effect", n);
    fputs(".</p></div>\n", file);
    return true;
}

/* --- Table --- */

/* Shares of labels, of both sets. */
static void print_labels(FILE *file, const cox_report *r, const cox_report_heldout *h)
{
    for (int s = 0; s < COX_REPORT_N_SETS; s++) {
        fprintf(file, "<td class=\"rates\" data-name=\"answers, %c\">", "AB"[s]);
        if (h->n[s] > 0) {
            fputs("<span>refused ", file);
            cox_report_print_percent(file, h->yes[s] / h->n[s], 0);
            fputs("</span>", file);
        }
        for (int l = 0; l < N_LABELS && h->n[s] > 0; l++) {
            double share = share_of(r, h, s, labels[l]);
            if (isnan(share)) continue;
            fprintf(file, "<br/><span>%s ", labels[l]);
            cox_report_print_percent(file, share, 0);
            fputs("</span>", file);
        }
        fputs("</td>", file);
    }
}

static const char to_effect[] = "</td><td class=\"n\" data-name=\"effect in points\">";

static void print_row(FILE *file, const cox_report *r, const cox_report_heldout *h, int set)
{
    fputs("<tr class=\"head\"><th>", file);
    cox_xml_print(file, h->family);
    fputs("</th><td class=\"how\">", file);
    print_place(file, r, h);
    fprintf(file, "</td><td class=\"n\" data-name=\"refused\">%.0f of %.0f%s", h->yes[set], h->n[set],
            to_effect);
    cox_report_print_interval(file, &h->effect[set]);
    fputs("<br/>", file);
    cox_report_print_whiskers(file, &h->effect[set], 1, set, -100, 100);
    fputs("</td>", file);
    print_labels(file, r, h);
    fputs("</tr>\n", file);
}

static void print_control_row(FILE *file, const cox_report *r, const cox_report_heldout *plan, int set,
                              const char *kind)
{
    draws d = gather_draws(r, plan, set, kind);
    if (d.n == 0) return;
    fprintf(file, "<tr><th></th><td class=\"how\">control: %s</td><td class=\"n\" data-name=\"refused\">",
            cox_report_control_words(kind));
    cox_report_print_number(file, d.yes, false);
    fprintf(file, " of %.0f%s", plan->n[set], to_effect);
    print_draws(file, &d);
    fputs("<br/>", file);
    cox_report_print_whiskers(file, d.drawn, d.n < MAX_DRAWS_SHOWN ? d.n : MAX_DRAWS_SHOWN, set, -100, 100);
    fputs("</td><td></td><td></td></tr>\n", file);
}

void cox_report_print_heldouts(FILE *file, const cox_report *r)
{
    const cox_report_heldouts *all = &r->heldouts;
    if (all->n == 0) {
        fputs("<p class=\"none\">No answers to held-out prompts were given (--heldout).</p>\n", file);
        return;
    }
    const cox_report_heldout *clean = find_clean(r);
    if (!cox_csv_has(&all->table, "model_fingerprint")) cox_report_print_unnamed(file, NULL);
    fputs("<p class=\"soft\">Plans that were chosen on other prompts, and controls at the same places. "
          "Effects are refusals with the "
          "plan less those without it, in points with 95% intervals.</p>\n",
          file);
    if (clean) {
        fputs("<p>Without a plan: ", file);
        for (int s = 0; s < COX_REPORT_N_SETS; s++) {
            if (clean->n[s] > 0)
                fprintf(file, "%s%c refused %.0f of %.0f", s ? ", " : "", "AB"[s], clean -> yes[s],
                        clean -> n[s]);
        }
        fputs(".</p>\n", file);
    }
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        fprintf(file,
                "<h3>%s</h3>\n<div class=\"scroll\"><table "
                "class=\"controls stack\"><thead><tr><th>steered</th><th>place</th>"
                "<th class=\"n\">refused</th><th class=\"n\">effect in points</th><th>answers, "
                "A</th><th>answers, B</th></tr>"
                "</thead>\n<tbody>\n",
                titles[set]);
        for (size_t i = 0; i < all->n; i++) {
            if (strcmp(all->items[i].aim, aims[set]) != 0 || !is_plan(&all->items[i], set)) continue;
            print_row(file, r, &all->items[i], set);
            print_control_row(file, r, &all->items[i], set, "random_direction");
            print_control_row(file, r, &all->items[i], set, "random_expert");
        }
        fputs("</tbody></table></div>\n", file);
    }
}
