/* Routing difference against steering effect, expert by expert: does detection predict response? */
#include <math.h>
#include <stdlib.h>

#include "steering/report.h"
#include "steering/report_axes.h"

enum { MANY_POINTS = 200, N_LABELS = 4 };

/* --- Correlation --- */

static double correlate(const double *x, const double *y, size_t n)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < n; i++) mx += x[i] / (double)n, my += y[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : (double)NAN;
}

/* Ranks, ties at their mean. */
static void rank(const double *values, size_t n, double *ranks)
{
    for (size_t i = 0; i < n; i++) {
        size_t below = 0, same = 0;
        for (size_t k = 0; k < n; k++) {
            below += values[k] < values[i];
            same += values[k] == values[i];
        }
        ranks[i] = (double)below + ((double)same - 1) / 2;
    }
}

void cox_report_relate(const cox_report *r, const cox_report_group *g, int set, size_t *route_of,
                       cox_report_relation *relation)
{
    const cox_report_place *places = &r->cells.places[g->first_place];
    double *memory = calloc(4 * g->n_places + 1, sizeof *memory);
    double *x = memory, *y = memory + g->n_places, *rx = y + g->n_places, *ry = rx + g->n_places;
    size_t n = 0;
    for (size_t i = 0; i < g->n_places; i++) {
        route_of[i] = SIZE_MAX;
        for (size_t k = 0; k < r->routes.n && places[i].best[set]; k++) {
            if (r->routes.items[k].layer == places[i].layer && r->routes.items[k].expert == places[i].expert)
                route_of[i] = k;
        }
        if (!memory || route_of[i] == SIZE_MAX) continue;
        x[n] = r->routes.items[route_of[i]].difference.value;
        y[n++] = places[i].best[set]->change[set].value;
    }
    *relation = (cox_report_relation){n, (double)NAN, (double)NAN};
    if (memory && n > 2) {
        rank(x, n, rx);
        rank(y, n, ry);
        relation->pearson = correlate(x, y, n);
        relation->spearman = correlate(rx, ry, n);
    }
    free(memory);
}

/* --- Pictures --- */

/* Names beside the largest effects, but not on top of each other; the rest is found by hovering. */
static void print_labels(FILE *file, const cox_report *r, const cox_axes *a, const cox_report_place *places,
                         size_t n, int set, const size_t *route_of)
{
    double last = (double)INFINITY, xs[N_LABELS], ys[N_LABELS];
    for (int label = 0, n_printed = 0; label < N_LABELS; label++) {
        size_t best = SIZE_MAX;
        double top = 0;
        for (size_t i = 0; i < n; i++) {
            if (route_of[i] == SIZE_MAX) continue;
            double size = places[i].best[set]->change[set].value * (set == COX_REPORT_A ? -1 : 1);
            if (size > top && size < last) best = i, top = size;
        }
        if (best == SIZE_MAX) return;
        last = top;
        double x = cox_axes_x(a, 100 * r->routes.items[route_of[best]].difference.value);
        double y = cox_axes_y(a, places[best].best[set]->change[set].value);
        bool is_free = true, is_right = x > 280;
        for (int k = 0; k < n_printed; k++)
            is_free = is_free && (fabs(y - ys[k]) > 12 || fabs(x - xs[k]) > 54);
        if (!is_free) continue;
        xs[n_printed] = x;
        ys[n_printed++] = y;
        fprintf(file, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">L%d E%d</text>\n",
                is_right ? "tag end" : "tag", x + (is_right ? -7 : 7), y + 3.5, (int)places[best].layer,
                (int)places[best].expert);
    }
}

static void print_points(FILE *file, const cox_report *r, const cox_report_group *g, int set,
                         const size_t *route_of, size_t n_points)
{
    const cox_report_place *places = &r->cells.places[g->first_place];
    cox_axes a = cox_axes_begin("routing difference, A less B, points (top-1)",
                                set ? "highest change on B" : "lowest change on A");
    cox_axes_widen(&a, 0, 0);
    cox_axes_widen(&a, 1, 0);
    for (size_t i = 0; i < g->n_places; i++) {
        if (route_of[i] == SIZE_MAX) continue;
        cox_axes_widen(&a, 0, 100 * r->routes.items[route_of[i]].difference.value);
        cox_axes_widen_interval(&a, &places[i].best[set]->change[set]);
    }
    cox_axes_print(file, &a, "routing difference against steering effect");
    for (size_t i = 0; i < g->n_places; i++) {
        if (route_of[i] == SIZE_MAX) continue;
        const cox_interval *d = &r->routes.items[route_of[i]].difference;
        const cox_report_cell *c = places[i].best[set];
        cox_axes_mark_begin(file, &a, set, 100 * d->value, &c->change[set], 0, n_points <= MANY_POINTS,
                            false);
        cox_report_print_place(file, c);
        fputs(": routing difference ", file);
        cox_report_print_interval(file, &(cox_interval){100 * d->value, 100 * d->low, 100 * d->high});
        fputs(" points, effect ", file);
        cox_report_print_interval(file, &c->change[set]);
        cox_axes_mark_end(file, set);
    }
    print_labels(file, r, &a, places, g->n_places, set, route_of);
    fputs("</svg>", file);
}

static bool print_group(FILE *file, const cox_report *r, const cox_report_group *g)
{
    size_t *route_of = calloc(g->n_places, sizeof *route_of);
    bool has_any = false;
    for (int set = 0; set < COX_REPORT_N_SETS && route_of; set++) {
        cox_report_relation relation;
        cox_report_relate(r, g, set, route_of, &relation);
        if (relation.n < 3) continue;
        if (!has_any) {
            fputs("<h3>", file);
            cox_report_print_group(file, &r->cells.items[g->first]);
            fputs("</h3>\n<div class=\"cards\">\n", file);
        }
        has_any = true;
        fprintf(file, "<figure class=\"card\"><figcaption><b>%s</b>: %zu experts, Pearson\xe2\x80\x99s r ",
                set ? "Strengthen" : "Weaken", relation.n);
        cox_report_print_number(file, relation.pearson, true);
        fputs(", Spearman\xe2\x80\x99s \xcf\x81 ", file);
        cox_report_print_number(file, relation.spearman, true);
        fputs("</figcaption>\n", file);
        print_points(file, r, g, set, route_of, relation.n);
        fputs("</figure>\n", file);
    }
    if (has_any) fputs("</div>\n", file);
    free(route_of);
    return has_any;
}

void cox_report_print_scatters(FILE *file, const cox_report *r)
{
    bool has_any = false;
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        const cox_report_group *g = &r->cells.groups[i];
        if (g->n_experts > 0 && !cox_report_is_control(&r->cells.items[g->first]))
            has_any = print_group(file, r, g) || has_any;
    }
    if (!has_any)
        fputs(
            r->routes.n
                ? "<p class=\"none\">Fewer than three of the experts of the routing file were steered.</p>\n"
                : "<p class=\"none\">No routing differences were given (--routes).</p>\n",
            file);
}
