/* Layer x expert maps of the best effect, both directions. Strength of the colour grows with the effect, over
 * the page's own background; its sign and size stand in the cell, so that a map can be read in black and
 * white. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

enum { LEFT = 44, TOP = 6, BOTTOM = 38, RIGHT = 6, MANY_COLUMNS = 24 };

typedef struct map {
    const cox_report *report;
    const cox_report_group *group;
    const cox_report_place *places; /* [group->n_places] */
    int set;
    int32_t *layers; /* [n_layers] that were swept, ascending */
    int32_t n_layers, n_columns;
    int width, height; /* of a cell */
    double top;        /* the largest effect */
} map;

static const cox_report_place *place_at(const map *m, int32_t layer, int32_t expert)
{
    for (size_t i = 0; i < m->group->n_places; i++) {
        if (m->places[i].layer == layer && m->places[i].expert == expert) return &m->places[i];
    }
    return NULL;
}

static void print_title(FILE *file, const map *m, const cox_report_place *p, int32_t layer, int32_t expert)
{
    const cox_report_cell *best = p ? p->best[m->set] : NULL;
    fprintf(file, "<title>layer %d, expert %d: ", (int)layer, (int)expert);
    if (!p) {
        fputs("not in the sweep</title>", file);
        return;
    }
    if (!best) {
        fputs("no cell within the limit of the KL divergence</title>", file);
        return;
    }
    cox_report_print_interval(file, &best->change[m->set]);
    fputs(" at strength ", file);
    cox_report_print_strength(file, best->strength);
    cox_report_print_source(file, best);
    fputs(", KL ", file);
    cox_report_print_number(file, best->kl, false);
    fprintf(file, ", cell %lld</title>", (long long)best->number);
}

static void print_cell(FILE *file, const map *m, int32_t row, int32_t expert)
{
    const cox_report_place *p = place_at(m, m->layers[row], expert);
    const cox_report_cell *best = p ? p->best[m->set] : NULL;
    int x = LEFT + expert * m->width, y = TOP + row * m->height;
    const cox_interval *i = best ? &best->change[m->set] : NULL;
    double share = best && m->top > 0 ? i->value / m->top : 0;
    fprintf(file, "<rect class=\"cell %s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"",
            !best       ? "none"
            : share < 0 ? "down"
                        : "up",
            x, y, m->width - 1, m->height - 1);
    if (best) fprintf(file, " fill-opacity=\"%.3f\"", fabs(share));
    fputc('>', file);
    print_title(file, m, p, m->layers[row], expert);
    fputs("</rect>", file);
    bool is_certain = best && (i->low > 0 || i->high < 0);
    bool has_text = best && (m->n_columns <= MANY_COLUMNS || is_certain);
    if (!best)
        fprintf(file, "<path class=\"none\" d=\"M%d %dl%d %d\"/>", x, y + m->height - 1, m->width - 1,
                1 - m->height);
    if (has_text) {
        const char *depth = fabs(share) > 0.85 ? "strong" : fabs(share) > 0.6 ? "middle" : "weak";
        fprintf(file, "<text class=\"%s%s\" x=\"%.1f\" y=\"%.1f\">", depth, is_certain ? "" : " unsure",
                x + (m->width - 1) / 2.0, y + (m->height - 1) / 2.0 + 3.5);
        if (m->n_columns > MANY_COLUMNS)
            fputs(i->value > 0 ? "+" : "\xe2\x88\x92", file);
        else if (fabs(i->value) < 0.05)
            fputs("0", file);
        else
            fprintf(file, "%s%.*f", i->value < 0 ? "\xe2\x88\x92" : "", fabs(i->value) < 9.95 ? 1 : 0,
                    fabs(i->value));
        fputs("</text>", file);
    }
    fputc('\n', file);
}

static void print_legend(FILE *file, const map *m, int y)
{
    enum { STEPS = 8, STEP = 14 };
    int x = LEFT + 74;
    fprintf(file, "<text x=\"%d\" y=\"%d\">expert</text>", LEFT, y);
    const char *side = m->set == COX_REPORT_A ? "down" : "up";
    fprintf(file, "<text class=\"end\" x=\"%d\" y=\"%d\">0</text>", x - 4, y);
    for (int i = 0; i < STEPS; i++)
        fprintf(file,
                "<rect class=\"key %s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"9\" fill-opacity=\"%.3f\"/>",
                side, x + i * STEP, y - 9, STEP, (i + 0.5) / STEPS);
    fprintf(file, "<text x=\"%d\" y=\"%d\">", x + STEPS * STEP + 4, y);
    cox_report_print_number(file, m->set == COX_REPORT_A ? -m->top : m->top, true);
    fputs("</text>\n", file);
}

/* --- The same as a table: for those who cannot hover --- */

static int compare_sizes(const cox_report_place *x, const cox_report_place *y, int set)
{
    double sign = set == COX_REPORT_A ? 1 : -1;
    double dx = sign * x->best[set]->change[set].value, dy = sign * y->best[set]->change[set].value;
    if (dx != dy) return dx < dy ? -1 : 1;
    return x->layer != y->layer ? x->layer - y->layer : x->expert - y->expert;
}

static int compare_weaken(const void *a, const void *b)
{
    return compare_sizes(*(const cox_report_place *const *)a, *(const cox_report_place *const *)b,
                         COX_REPORT_A);
}

static int compare_strengthen(const void *a, const void *b)
{
    return compare_sizes(*(const cox_report_place *const *)a, *(const cox_report_place *const *)b,
                         COX_REPORT_B);
}

static void print_table(FILE *file, const map *m)
{
    const cox_report_place **order = calloc(m->group->n_places, sizeof *order);
    size_t n = 0;
    for (size_t i = 0; i < m->group->n_places && order; i++) {
        if (m->places[i].best[m->set]) order[n++] = &m->places[i];
    }
    if (n > 0) qsort(order, n, sizeof *order, m->set == COX_REPORT_A ? compare_weaken : compare_strengthen);
    size_t n_shown = n < (size_t)m->report->n_rows ? n : (size_t)m->report->n_rows;
    fprintf(
        file,
        "<details><summary>the %zu best of %zu as a table</summary>\n<div class=\"scroll\"><table><thead><tr>"
        "<th>expert</th><th class=\"n\">change of log-odds</th><th class=\"n\">strength</th><th "
        "class=\"n\">KL</th>"
        "<th class=\"n\">cell</th></tr></thead>\n<tbody>\n",
        n_shown, n);
    for (size_t i = 0; i < n_shown; i++) {
        const cox_report_cell *c = order[i]->best[m->set];
        fputs("<tr><th>", file);
        cox_report_print_place(file, c);
        fputs("</th><td class=\"n\">", file);
        cox_report_print_interval(file, &c->change[m->set]);
        fputs("</td><td class=\"n\">", file);
        cox_report_print_strength(file, c->strength);
        fputs("</td><td class=\"n\">", file);
        cox_report_print_number(file, c->kl, false);
        fprintf(file, "</td><td class=\"n\">%lld</td></tr>\n", (long long)c->number);
    }
    fputs("</tbody></table></div></details>\n", file);
    free(order);
}

/* --- The expert that the page names --- */

static const cox_report_place *named_place(const map *m)
{
    const cox_report_cell *named = m->report->named[1][m->set];
    return named ? place_at(m, named->layer, named->expert) : NULL;
}

static void print_frame(FILE *file, const map *m)
{
    const cox_report_place *p = named_place(m);
    int32_t row = 0;
    while (p && m->layers[row] != p->layer) row++;
    if (p)
        fprintf(file, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
                LEFT + p->expert * m->width - 1, TOP + row * m->height - 1, m->width + 1, m->height + 1);
}

/* Why another expert has the largest number here. */
static const char *why_other(const cox_report *r, const cox_report_cell *largest, int set)
{
    const cox_report_heldout *plan = cox_report_heldout_best(r, NULL, true, set, NULL);
    for (size_t i = 0; plan && i < plan->n_passed; i++) {
        if (plan->passed[i].cell == largest->number) return "it was passed over: the place is not calm";
    }
    if (r->rates.n_labels > 0 && !cox_report_rate_of(&r->rates, largest->number, set, cox_report_label(r)))
        return "its cell was not among those that answered";
    if (plan)
        return "plans are taken by answers to validation prompts and judged by held-out ones, not by "
               "log-odds";
    return "where there are answers, the choice is by them, not by log-odds";
}

static void print_named(FILE *file, const map *m)
{
    const cox_report_place *p = named_place(m), *largest = NULL;
    const cox_report_cell *named = m->report->named[1][m->set];
    for (size_t i = 0; i < m->group->n_places; i++) {
        const cox_report_place *q = &m->places[i];
        if (q->best[m->set] && (!largest || compare_sizes(q, largest, m->set) < 0)) largest = q;
    }
    if (!named) return;
    fputs(p ? "<p class=\"soft\">Framed: " : "<p class=\"soft\">Not in this map: ", file);
    cox_report_print_place(file, named);
    fputs(", the expert of verdict, card and table (cell ", file);
    fprintf(file, "%lld, ", (long long)named->number);
    cox_report_print_number(file, named->change[m->set].value, true);
    fputs(" at strength ", file);
    cox_report_print_strength(file, named->strength);
    fputc(')', file);
    bool is_here = named >= &m->report->cells.items[m->group->first] &&
                   named < &m->report->cells.items[m->group->first + m->group->n];
    if (p && !is_here) {
        fputs(", steered there as ", file);
        cox_report_print_group(file, named);
    }
    if (largest && largest != p) {
        fputs(". The largest number here is that of ", file);
        cox_report_print_place(file, largest->best[m->set]);
        fprintf(file, "; %s", why_other(m->report, largest->best[m->set], m->set));
    }
    fputs(".</p>\n", file);
}

/* --- The map --- */

static void print_map(FILE *file, map *m)
{
    m->top = 0;
    for (size_t i = 0; i < m->group->n_places; i++) {
        const cox_report_cell *c = m->places[i].best[m->set];
        if (c && fabs(c->change[m->set].value) > m->top) m->top = fabs(c->change[m->set].value);
    }
    int width = LEFT + m->n_columns * m->width + RIGHT, height = TOP + m->n_layers * m->height + BOTTOM;
    if (width < 300) width = 300;
    fprintf(file,
            "<figure><figcaption>%s</figcaption>\n<div class=\"scroll\"><svg class=\"map\" viewBox=\"0 0 %d "
            "%d\" width=\"%d\" "
            "height=\"%d\" role=\"img\" aria-label=\"best effect by layer and expert\">\n",
            m->set == COX_REPORT_A ? "<b>Weaken</b>: lowest change of the log-odds on A"
                                   : "<b>Strengthen</b>: highest change of the log-odds on B",
            width, height, width, height);
    for (int32_t row = 0; row < m->n_layers; row++) {
        fprintf(file, "<text class=\"end\" x=\"%d\" y=\"%.1f\">%s%d</text>\n", LEFT - 5,
                TOP + (row + 0.5) * m->height + 3.5, row == 0 ? "layer " : "", (int)m->layers[row]);
        for (int32_t e = 0; e < m->n_columns; e++) print_cell(file, m, row, e);
    }
    for (int32_t e = 0; e<m->n_columns; e += m->n_columns> MANY_COLUMNS ? 4 : 1)
        fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%d\">%d</text>", LEFT + (e + 0.5) * m->width,
                TOP + m->n_layers * m->height + 13, (int)e);
    print_frame(file, m);
    print_legend(file, m, height - 6);
    fputs("</svg></div>\n", file);
    print_named(file, m);
    print_table(file, m);
    fputs("</figure>\n", file);
}

/* A family about a few experts, far apart, has no map; curves and the scatter show it. */
static bool is_worth(const cox_report_cells *cells, const cox_report_group *g)
{
    const cox_report_place *places = &cells->places[g->first_place];
    size_t n_layers = 1;
    for (size_t i = 1; i < g->n_places; i++) n_layers += places[i].layer != places[i - 1].layer;
    return g->n_experts > 0 && g->n_places > 1 && 2 * g->n_places >= n_layers * (size_t)g->n_experts &&
           !cox_report_is_control(&cells->items[g->first]);
}

static void print_group(FILE *file, const cox_report *r, const cox_report_group *g, bool is_open)
{
    map m = {.report = r, .group = g, .places = &r->cells.places[g->first_place], .n_columns = g->n_experts};
    m.layers = calloc(g->n_places, sizeof *m.layers);
    if (!m.layers) return;
    for (size_t i = 0; i < g->n_places; i++) {
        if (m.n_layers == 0 || m.layers[m.n_layers - 1] != m.places[i].layer)
            m.layers[m.n_layers++] = m.places[i].layer;
    }
    m.width = m.n_columns > MANY_COLUMNS ? 17 : 35;
    m.height = m.n_columns > MANY_COLUMNS ? 17 : 26;
    cox_report_panel_begin(file, r, g, is_open);
    fputs("<div class=\"maps\">\n", file);
    for (m.set = 0; m.set < COX_REPORT_N_SETS; m.set++) print_map(file, &m);
    fputs("</div>\n", file);
    cox_report_panel_end(file);
    free(m.layers);
}

/* A group that steers as the named cells do: it, or one of another family. */
static bool is_alike(const cox_report *r, const cox_report_group *g)
{
    const cox_report_cell *c = &r->cells.items[g->first];
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        const cox_report_cell *named = r->named[1][set];
        if (named && strcmp(c->site, named->site) == 0 && strcmp(c->op, named->op) == 0 &&
            strcmp(c->weighting, named->weighting) == 0 && strcmp(c->positions, named->positions) == 0)
            return true;
    }
    return false;
}

void cox_report_print_maps(FILE *file, const cox_report *r)
{
    size_t n = 0;
    bool has_named = false; /* in a map; else maps of other families that steer alike are open */
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        const cox_report_group *g = &r->cells.groups[i];
        has_named = has_named || (is_worth(&r->cells, g) && cox_report_has_named(r, g));
    }
    for (size_t i = 0; i < r->cells.n_groups; i++) {
        const cox_report_group *g = &r->cells.groups[i];
        if (!is_worth(&r->cells, g)) continue;
        print_group(file, r, g, has_named ? cox_report_has_named(r, g) : is_alike(r, g));
        n++;
    }
    if (n == 0)
        fputs("<p class=\"none\">No family of blocks steers most experts of its layers one by one.</p>\n",
              file);
}
