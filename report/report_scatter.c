/* Routing difference against steering effect, expert by expert: does detection predict response? */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"
#include "report/report_axes.h"

enum { MANY_POINTS = 200, N_LABELS = 4, LEAST_POINTS = 3 };

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

/* Of a rank correlation over n > 3 pairs: Fisher's transformation, its variance as in Bonett and Wright
 * (2000). NaN in, NaN out. */
static cox_interval interval_of(double r, size_t n)
{
    r = fmax(-1, fmin(1, r));
    double half = COX_Z_95 * sqrt((1 + r * r / 2) / ((double)n - 3));
    if (isnan(r) || fabs(r) == 1) return (cox_interval){r, r, r};
    return (cox_interval){r, tanh(atanh(r) - half), tanh(atanh(r) + half)};
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
    cox_report_relation relation = {0, {(double)NAN, (double)NAN, (double)NAN}};
    size_t room = r->routes.n;
    double *memory = calloc(4 * room + 1, sizeof *memory);
    double *x = memory, *y = memory + room, *rx = y + room, *ry = rx + room;
    for (size_t i = 0; i < room && memory; i++) {
        double effect = largest_effect(&r->cells, family, set, &r->routes.items[i]);
        if (isnan(effect)) continue;
        x[relation.n] = fabs(r->routes.items[i].difference.value);
        y[relation.n++] = effect;
    }
    if (relation.n >= COX_REPORT_LEAST_EXPERTS) {
        rank(x, relation.n, rx);
        rank(y, relation.n, ry);
        relation.spearman = interval_of(correlate(rx, ry, relation.n), relation.n);
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

/* --- Names beside points --- */

typedef struct box {
    double left, top, right, bottom;
} box;

typedef struct labels {
    box *taken; /* [n_labels + n_marks]: labels first, then marks */
    size_t n_labels, n_marks;
} labels;

static bool is_apart(const box *x, const box *y)
{
    return x->right <= y->left || y->right <= x->left || x->bottom <= y->top || y->bottom <= x->top;
}

static bool is_free(const labels *all, const box *b, bool may_cover_marks)
{
    size_t n = all->n_labels + (may_cover_marks ? 0 : all->n_marks);
    bool is_so = cox_axes_holds(b->left, b->top) && cox_axes_holds(b->right, b->bottom);
    for (size_t i = 0; i < n && is_so; i++) is_so = is_apart(b, &all->taken[i]);
    return is_so;
}

/* Beside, above or below the mark, off other labels and if possible off other marks; not at all where there
 * is no room. */
static void print_label(FILE *file, labels *all, double x, double y, const cox_report_place *place)
{
    enum { HEIGHT = 12, OFF = 7, N_SIDES = 6 };
    char text[40];
    snprintf(text, sizeof text, "L%d E%d", (int)place->layer, (int)place->expert);
    double width = 7.2 * (double)strlen(text); /* at 11 px, bold, with room between */
    const double lefts[N_SIDES] = {x + OFF,       x - OFF - width, x - width / 2,
                                   x - width / 2, x + OFF,         x - OFF - width},
                 middles[N_SIDES] = {
                     y, y, y - OFF - HEIGHT / 2.0, y + OFF + HEIGHT / 2.0, y - OFF - 4.0, y + OFF + 4.0};
    for (int k = 0; k < 2 * N_SIDES; k++) {
        int side = k % N_SIDES;
        box b = {lefts[side], middles[side] - HEIGHT / 2.0, lefts[side] + width,
                 middles[side] + HEIGHT / 2.0};
        if (!is_free(all, &b, k >= N_SIDES)) continue;
        fprintf(file, "<text class=\"tag mid\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", (b.left + b.right) / 2,
                middles[side] + 3.5, text);
        all->taken[all->n_labels + all->n_marks] = all->taken[all->n_labels]; /* a mark makes room */
        all->taken[all->n_labels++] = b;
        return;
    }
}

/* Names the expert that the page names, and those with the largest effects; the rest is found by hovering. */
static void print_labels(FILE *file, const cox_report *r, const cox_axes *a, const cox_report_place *places,
                         size_t n, int set, const size_t *route_of)
{
    enum { MARK = 4 };
    const cox_report_cell *named = r->named[1][set];
    labels all = {.taken = calloc(n + N_LABELS + 2, sizeof *all.taken)};
    double *x = calloc(2 * n + 1, sizeof *x), *y = x + n, last = (double)INFINITY;
    for (size_t i = 0; i < n && x && all.taken; i++) {
        if (route_of[i] == SIZE_MAX) continue;
        x[i] = cox_axes_x(a, 100 * r->routes.items[route_of[i]].difference.value);
        y[i] = cox_axes_y(a, places[i].best[set]->change[set].value);
        all.taken[all.n_marks++] = (box){x[i] - MARK, y[i] - MARK, x[i] + MARK, y[i] + MARK};
    }
    for (size_t i = 0; i < n && x && all.taken && named; i++) {
        if (route_of[i] != SIZE_MAX && places[i].layer == named->layer && places[i].expert == named->expert)
            print_label(file, &all, x[i], y[i], &places[i]);
    }
    for (int label = 0; label < N_LABELS && x && all.taken; label++) {
        size_t best = SIZE_MAX;
        double top = 0;
        for (size_t i = 0; i < n; i++) {
            if (route_of[i] == SIZE_MAX) continue;
            double size = places[i].best[set]->change[set].value * (set == COX_REPORT_A ? -1 : 1);
            if (size > top && size < last) best = i, top = size;
        }
        if (best == SIZE_MAX) break;
        last = top;
        bool is_named = named && places[best].layer == named->layer && places[best].expert == named->expert;
        if (!is_named) print_label(file, &all, x[best], y[best], &places[best]);
    }
    free(x);
    free(all.taken);
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
        if (n < LEAST_POINTS) continue;
        if (!has_any) cox_report_panel_begin(file, r, g, cox_report_has_named(r, g));
        if (!has_any) fputs("<div class=\"cards\">\n", file);
        has_any = true;
        fprintf(file, "<figure class=\"card\"><figcaption><b>%s</b>: %zu experts</figcaption>\n",
                set ? "Strengthen" : "Weaken", n);
        print_points(file, r, g, set, route_of, n);
        fputs("</figure>\n", file);
    }
    if (has_any) fputs("</div>\n", file);
    if (has_any) cox_report_panel_end(file);
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
    if (a.n < LEAST_POINTS && b.n < LEAST_POINTS) return false;
    fputs("<p><b>", file);
    cox_xml_print(file, r->cells.families[family]);
    fputs("</b>: ", file);
    if (isnan(a.spearman.value) && isnan(b.spearman.value)) {
        fprintf(file, "no rank correlation over %zu experts (fewer than %d, or all equal).</p>\n", a.n,
                COX_REPORT_LEAST_EXPERTS);
        return true;
    }
    fputs("rank correlation (Spearman\xe2\x80\x99s \xcf\x81, 95% interval) of the size of an "
          "expert\xe2\x80\x99s "
          "routing difference, whatever its sign, with the largest fall of A\xe2\x80\x99s log-odds that any "
          "cell of that expert reaches within the KL limit: <b>",
          file);
    cox_report_print_interval(file, &a.spearman);
    fprintf(file, "</b> over %zu experts; with the largest rise of B\xe2\x80\x99s: <b>", a.n);
    cox_report_print_interval(file, &b.spearman);
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
