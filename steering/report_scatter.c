/* Routing difference against steering effect, expert by expert: does detection predict response? */
#include <math.h>
#include <stdlib.h>

#include "steering/heatmap.h"
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

/* Places of a group are in the order of layers and experts. NULL: none of that expert. */
static const cox_report_place *find_place(const cox_report_cells *cells, const cox_report_group *g,
                                          const cox_report_route *route)
{
    size_t low = g->first_place, end = low + g->n_places;
    for (size_t high = end; low < high;) {
        size_t middle = low + (high - low) / 2;
        const cox_report_place *p = &cells->places[middle];
        bool is_before = p->layer != route->layer ? p->layer < route->layer : p->expert < route->expert;
        if (is_before)
            low = middle + 1;
        else
            high = middle;
    }
    const cox_report_place *p = &cells->places[low];
    return low < end && p->layer == route->layer && p->expert == route->expert ? p : NULL;
}

/* Of an expert of a family the largest change in the aim's direction, of all weightings and positions; at
 * least 0. NaN: no cell that counts. */
static double largest_effect(const cox_report_cells *cells, int32_t family, int set,
                             const cox_report_route *route)
{
    double largest = (double)NAN;
    for (size_t i = 0; i < cells->n_groups; i++) {
        const cox_report_group *g = &cells->groups[i];
        const cox_report_cell *first = &cells->items[g->first];
        if (first->family_index != family || cox_report_is_control(first)) continue;
        const cox_report_place *p = find_place(cells, g, route);
        if (!p || !p->best[set]) continue;
        double change = p->best[set]->change[set].value;
        largest = fmax(fmax(largest, set == COX_REPORT_A ? -change : change), 0);
    }
    return largest;
}

cox_report_relation cox_report_relate(const cox_report *r, int32_t family, int set)
{
    cox_report_relation relation = {0, (double)NAN};
    size_t room = r->routes.n;
    double *memory = calloc(4 * room + 1, sizeof *memory);
    double *x = memory, *y = memory + room, *rx = y + room, *ry = rx + room;
    for (size_t i = 0; i < room && memory; i++) {
        double effect = largest_effect(&r->cells, family, set, &r->routes.items[i]);
        if (isnan(effect)) continue;
        x[relation.n] = fabs(r->routes.items[i].difference.value);
        y[relation.n++] = effect;
    }
    if (relation.n > 2) {
        rank(x, relation.n, rx);
        rank(y, relation.n, ry);
        relation.spearman = correlate(rx, ry, relation.n);
    }
    free(memory);
    return relation;
}

/* --- Pictures --- */

/* [out] route_of: [group->n_places] index into routes.items, SIZE_MAX: not to be drawn. How many are. */
static size_t find_routes(const cox_report *r, const cox_report_group *g, int set, size_t *route_of)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n_places; i++) route_of[i] = SIZE_MAX;
    for (size_t k = 0; k < r->routes.n; k++) {
        const cox_report_place *p = find_place(&r->cells, g, &r->routes.items[k]);
        if (!p || !p->best[set]) continue;
        size_t *of = &route_of[p - &r->cells.places[g->first_place]];
        n += *of == SIZE_MAX; /* a file may have an expert twice */
        *of = k;
    }
    return n;
}

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

static void print_group(FILE *file, const cox_report *r, const cox_report_group *g)
{
    size_t *route_of = calloc(g->n_places, sizeof *route_of);
    bool has_any = false;
    for (int set = 0; set < COX_REPORT_N_SETS && route_of; set++) {
        size_t n = find_routes(r, g, set, route_of);
        if (n < 3) continue;
        if (!has_any) {
            fputs("<h3>", file);
            cox_report_print_group(file, &r->cells.items[g->first]);
            fputs("</h3>\n<div class=\"cards\">\n", file);
        }
        has_any = true;
        fprintf(file, "<figure class=\"card\"><figcaption><b>%s</b>: %zu experts</figcaption>\n",
                set ? "Strengthen" : "Weaken", n);
        print_points(file, r, g, set, route_of, n);
        fputs("</figure>\n", file);
    }
    if (has_any) fputs("</div>\n", file);
    free(route_of);
}

static bool has_single_experts(const cox_report *r, const cox_report_group *g, int32_t family)
{
    const cox_report_cell *first = &r->cells.items[g->first];
    return first->family_index == family && g->n_experts > 0 && !cox_report_is_control(first);
}

/* What routing tells of a family, in words: the numbers are of all its groups together. */
static bool print_relation(FILE *file, const cox_report *r, int32_t family)
{
    const cox_report_relation a = cox_report_relate(r, family, COX_REPORT_A),
                              b = cox_report_relate(r, family, COX_REPORT_B);
    if (a.n < 3 && b.n < 3) return false;
    fputs("<p><b>", file);
    cox_xml_print(file, r->cells.families[family]);
    fputs("</b>: rank correlation (Spearman\xe2\x80\x99s \xcf\x81) of the size of an expert\xe2\x80\x99s "
          "routing difference, whatever its sign, with the largest fall of A\xe2\x80\x99s log-odds that any "
          "cell of that expert reaches within the KL limit: <b>",
          file);
    cox_report_print_number(file, a.spearman, true);
    fprintf(file, "</b> over %zu experts; with the largest rise of B\xe2\x80\x99s: <b>", a.n);
    cox_report_print_number(file, b.spearman, true);
    fprintf(file, "</b> over %zu. Near 0: routing does not tell where to steer.</p>\n", b.n);
    return true;
}

void cox_report_print_scatters(FILE *file, const cox_report *r)
{
    bool has_any = false;
    if (r->routes.n > 0) cox_report_print_unnamed(file, r->routes.about);
    for (int32_t family = 0; family < r->cells.n_families && r->routes.n > 0; family++) {
        if (!print_relation(file, r, family)) continue;
        has_any = true;
        for (size_t i = 0; i < r->cells.n_groups; i++) {
            const cox_report_group *g = &r->cells.groups[i];
            if (has_single_experts(r, g, family)) print_group(file, r, g);
        }
    }
    if (!has_any)
        fputs(
            r->routes.n
                ? "<p class=\"none\">Fewer than three of the experts of the routing file were steered.</p>\n"
                : "<p class=\"none\">No routing differences were given (--routes).</p>\n",
            file);
}
