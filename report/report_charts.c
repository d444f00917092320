/* Dose-response curves of the best places, and what the best cell of each layer does where experts do not
 * matter. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "report/heatmap.h"
#include "report/report.h"
#include "report/report_axes.h"

enum { MAX_CURVES = 6, N_OPEN = 3 }; /* of a group: half by what they do on A, half by B; seen at once */

typedef struct curve {
    size_t first, end; /* range of cells.items */
} curve;

/* --- Curves --- */

/* The curve that holds a cell. */
static curve curve_of(const cox_report_cells *cells, const cox_report_place *p, const cox_report_cell *cell)
{
    curve c = {p->first, p->first};
    while (c.end <= (size_t)(cell - cells->items)) {
        c.first = c.end;
        c.end = cox_report_curve_end(cells, p, c.first);
    }
    return c;
}

/* [out] curves: of the places with the largest effects. */
static size_t choose_curves(const cox_report *r, const cox_report_group *g, curve curves[MAX_CURVES])
{
    size_t n = 0;
    for (int want = 0; want < MAX_CURVES; want++) {
        int set = want % 2 ? COX_REPORT_B : COX_REPORT_A;
        double top = -(double)INFINITY;
        curve chosen = {0, 0};
        for (size_t i = g->first_place; i < g->first_place + g->n_places; i++) {
            const cox_report_place *p = &r->cells.places[i];
            if (!p->best[set]) continue;
            double size = p->best[set]->change[set].value * (set == COX_REPORT_A ? -1 : 1);
            curve c = curve_of(&r->cells, p, p->best[set]);
            bool is_taken = c.end - c.first < 2;
            for (size_t k = 0; k < n; k++) is_taken = is_taken || curves[k].first == c.first;
            if (is_taken || !(size > top)) continue;
            top = size;
            chosen = c;
        }
        if (chosen.end > 0) curves[n++] = chosen;
    }
    return n;
}

static void print_line(FILE *file, const cox_report *r, const cox_axes *a, curve c, int set)
{
    double dx = set == COX_REPORT_A ? -2 : 2; /* so that intervals do not cover each other */
    fprintf(file, "<polyline class=\"%c\" points=\"", "ab"[set]);
    for (size_t i = c.first; i < c.end; i++) {
        const cox_report_cell *cell = &r->cells.items[i];
        if (i > c.first && cell[-1].strength < 0 && cell->strength > 0) /* strength 0 is the clean run */
            fprintf(file, "%.1f,%.1f ", cox_axes_x(a, 0) + dx, cox_axes_y(a, 0));
        if (!isnan(cell->change[set].value))
            fprintf(file, "%.1f,%.1f ", cox_axes_x(a, cell->strength) + dx,
                    cox_axes_y(a, cell->change[set].value));
    }
    fputs("\"/>\n", file);
    for (size_t i = c.first; i < c.end; i++) {
        const cox_report_cell *cell = &r->cells.items[i];
        if (isnan(cell->change[set].value)) continue;
        cox_axes_mark_begin(file, a, set, cell->strength, &cell->change[set], dx, true,
                            !cox_report_counts(&r->cells, cell, set));
        fprintf(file, "strength %g, %c: ", cell->strength, "AB"[set]);
        cox_report_print_interval(file, &cell->change[set]);
        fputs(", KL ", file);
        cox_report_print_number(file, cell->kl, false);
        fprintf(file, ", cell %lld", (long long)cell->number);
        cox_axes_mark_end(file, set);
    }
}

/* The strengths of all the curves as ticks; [out] ticks: room for them. */
static void set_x(const cox_report *r, const curve *curves, size_t n, double *ticks, cox_axes *a)
{
    double least = (double)INFINITY;
    size_t n_all = 0, n_kept = 0;
    for (size_t k = 0; k < n; k++) {
        for (size_t i = curves[k].first; i < curves[k].end; i++) {
            double s = r->cells.items[i].strength;
            ticks[n_all++] = s;
            if (s != 0 && fabs(s) < least) least = fabs(s);
        }
    }
    ticks[n_all++] = 0;
    qsort(ticks, n_all, sizeof *ticks, cox_compare_doubles);
    for (size_t i = 0; i < n_all; i++) {
        if (i == 0 || ticks[i] != ticks[i - 1]) ticks[n_kept++] = ticks[i];
    }
    cox_axes_widen(a, 0, ticks[0]);
    cox_axes_widen(a, 0, ticks[n_kept - 1]);
    a->ticks = ticks;
    a->n_ticks = n_kept;
    a->bend = isfinite(least) ? least : 0;
}

static void print_curve(FILE *file, const cox_report *r, cox_axes *a, curve c, bool is_alone)
{
    const cox_report_cell *cell = &r->cells.items[c.first];
    fputs("<figure class=\"card\"><figcaption>", file);
    if (is_alone) {
        cox_report_print_group(file, cell);
        fputs("; ", file);
    }
    cox_report_print_place(file, cell);
    cox_report_print_source(file, cell);
    fputs("</figcaption>\n", file);
    cox_axes_print(file, a, "change of the log-odds by strength");
    for (int set = 0; set < COX_REPORT_N_SETS; set++) print_line(file, r, a, c, set);
    fputs("</svg></figure>\n", file);
}

/* A group with one place has no heading of its own; its chart says what it is. */
static void print_cards(FILE *file, const cox_report *r, cox_axes *a, const curve *curves, size_t n,
                        bool is_alone)
{
    if (is_alone) {
        for (size_t k = 0; k < n; k++) print_curve(file, r, a, curves[k], true);
        return;
    }
    fputs("<div class=\"cards\">\n", file);
    for (size_t k = 0; k < n; k++) {
        if (k == N_OPEN)
            fprintf(file, "</div>\n<details><summary>%zu more place%s</summary>\n<div class=\"cards\">\n",
                    n - k, n - k == 1 ? "" : "s");
        print_curve(file, r, a, curves[k], false);
    }
    fputs(n > N_OPEN ? "</div></details>\n" : "</div>\n", file);
}

static bool print_curves_of(FILE *file, const cox_report *r, const cox_report_group *g)
{
    curve curves[MAX_CURVES];
    size_t n = cox_report_is_control(&r->cells.items[g->first]) ? 0 : choose_curves(r, g, curves),
           n_cells = 1;
    for (size_t k = 0; k < n; k++) n_cells += curves[k].end - curves[k].first;
    double *ticks = n > 0 ? calloc(n_cells, sizeof *ticks) : NULL;
    if (!ticks) return false;
    cox_axes a = cox_axes_begin("strength", "change of log-odds");
    cox_axes_widen(&a, 1, 0);
    for (size_t k = 0; k < n; k++) {
        for (size_t i = curves[k].first; i < curves[k].end; i++) {
            for (int s = 0; s < COX_REPORT_N_SETS; s++)
                cox_axes_widen_interval(&a, &r->cells.items[i].change[s]);
        }
    }
    set_x(r, curves, n, ticks, &a);
    if (g->n_places > 1) cox_report_panel_begin(file, r, g, cox_report_has_named(r, g));
    print_cards(file, r, &a, curves, n, g->n_places == 1);
    if (g->n_places > 1) cox_report_panel_end(file);
    free(ticks);
    return true;
}

/* What is named first, the rest behind a fold (open where nothing is named). false: there is nothing. */
static bool print_folded(FILE *file, const cox_report *r, bool (*print)(FILE *, const cox_report *, bool),
                         const char *rest)
{
    bool has_any = print(file, r, true), has_more = false;
    char *text = NULL;
    size_t n = 0;
    FILE *others = open_memstream(&text, &n);
    if (others) has_more = print(others, r, false);
    if (others) fclose(others);
    if (has_more)
        fprintf(file, "<details%s><summary>%s</summary>\n%s</details>\n", has_any ? "" : " open=\"open\"",
                rest, text);
    free(text);
    return has_any || has_more;
}

/* Of groups with one place those where what the page names is in, or the others. */
static bool print_singles_where(FILE *file, const cox_report *r, bool is_named)
{
    bool has_any = false;
    fputs("<div class=\"cards single\">\n", file);
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        const cox_report_group *g = &r->cells.groups[i];
        if (g->n_places == 1 && cox_report_has_named(r, g) == is_named)
            has_any = print_curves_of(file, r, g) || has_any;
    }
    fputs("</div>\n", file);
    return has_any;
}

void cox_report_print_curves(FILE *file, const cox_report *r)
{
    bool has_any = false;
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        if (r->cells.groups[i].n_places > 1)
            has_any = print_curves_of(file, r, &r->cells.groups[i]) || has_any;
    }
    has_any = print_folded(file, r, print_singles_where, "places of other ways of steering") || has_any;
    if (!has_any) fputs("<p class=\"none\">No place was steered with more than one strength.</p>\n", file);
}

/* --- By layer --- */

static bool print_layers_of(FILE *file, const cox_report *r, const cox_report_group *g)
{
    const cox_report_place *places = &r->cells.places[g->first_place];
    if (g->n_experts > 0 || g->n_places < 2 || cox_report_is_control(&r->cells.items[g->first])) return false;
    cox_axes a = cox_axes_begin("layer", "best change of log-odds");
    double *ticks = calloc(g->n_places, sizeof *ticks);
    if (!ticks) return false;
    cox_axes_widen(&a, 1, 0);
    for (size_t i = 0; i < g->n_places; i++) {
        ticks[i] = places[i].layer;
        cox_axes_widen(&a, 0, ticks[i]);
        for (int s = 0; s < COX_REPORT_N_SETS; s++) {
            if (places[i].best[s]) cox_axes_widen_interval(&a, &places[i].best[s]->change[s]);
        }
    }
    a.ticks = ticks;
    a.n_ticks = g->n_places;
    fputs("<figure class=\"card\"><figcaption>", file);
    cox_report_print_group(file, &r->cells.items[g->first]);
    fputs("</figcaption>\n", file);
    cox_axes_print(file, &a, "best effect by layer");
    for (size_t i = 0; i < g->n_places; i++) {
        for (int s = 0; s < COX_REPORT_N_SETS; s++) {
            const cox_report_cell *best = places[i].best[s];
            if (!best) continue;
            cox_axes_mark_begin(file, &a, s, places[i].layer, &best->change[s], s ? 4 : -4, true, false);
            fprintf(file, "layer %d, %s: ", (int)places[i].layer, s ? "strengthen, B" : "weaken, A");
            cox_report_print_interval(file, &best->change[s]);
            fputs(" at strength ", file);
            cox_report_print_strength(file, best->strength);
            fprintf(file, ", cell %lld", (long long)best->number);
            cox_axes_mark_end(file, s);
        }
    }
    fputs("</svg></figure>\n", file);
    free(ticks);
    return true;
}

/* Those where what the page names is in, or the others. */
static bool print_layers_where(FILE *file, const cox_report *r, bool is_named)
{
    bool has_any = false;
    fputs("<div class=\"cards\">\n", file);
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        const cox_report_group *g = &r->cells.groups[i];
        if (cox_report_has_named(r, g) == is_named) has_any = print_layers_of(file, r, g) || has_any;
    }
    fputs("</div>\n", file);
    return has_any;
}

void cox_report_print_layers(FILE *file, const cox_report *r)
{
    if (!print_folded(file, r, print_layers_where, "other ways of steering"))
        fputs("<p class=\"none\">No block of this sweep steers the residual stream, or all experts, at "
              "several layers.</p>\n",
              file);
}
