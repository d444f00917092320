/* What attention and experts write along a direction, layer by layer: bars, and the numbers as a table. */
#include <math.h>
#include <stdlib.h>

#include "report/heatmap.h"
#include "report/report.h"

static const cox_report_part *find(const cox_report *r, cox_report_part_kind kind, int32_t layer)
{
    for (size_t i = 0; i < r->parts.n; i++) {
        const cox_report_part *p = &r->parts.items[i];
        if (p->kind == kind && p->layer == layer) return p;
    }
    return NULL;
}

static int32_t count_layers(const cox_report *r)
{
    int32_t n = 0;
    for (size_t i = 0; i < r->parts.n; i++) {
        if (r->parts.items[i].layer >= n) n = r->parts.items[i].layer + 1;
    }
    return n;
}

/* --- Bars --- */

enum { BAR = 24, STEP = 66, LEFT = 48, TOP = 10, TALL = 180 };

static void print_bar(FILE *file, const cox_report_part *p, double x, double zero, double scale)
{
    double height = fabs(p->share) * scale;
    fprintf(file,
            "<rect class=\"bar %s\" x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\"><title>layer %d, %s: "
            "%.1f%%, ",
            p->kind == COX_REPORT_ATTENTION ? "a" : "b", x, p->share > 0 ? zero - height : zero, BAR, height,
            (int)p->layer, p->kind == COX_REPORT_ATTENTION ? "attention" : "experts", 100 * p->share);
    cox_report_print_interval(file, &p->difference);
    fputs("</title></rect>\n", file);
}

static void print_bars(FILE *file, const cox_report *r, int32_t n_layers)
{
    static const cox_report_part_kind kinds[] = {COX_REPORT_ATTENTION, COX_REPORT_BLOCK};
    double low = 0, high = 0;
    for (size_t i = 0; i < r->parts.n; i++) {
        const cox_report_part *p = &r->parts.items[i];
        if (p->kind != COX_REPORT_ATTENTION && p->kind != COX_REPORT_BLOCK) continue;
        low = p->share < low ? p->share : low;
        high = p->share > high ? p->share : high;
    }
    if (!(high > low)) return;
    double scale = TALL / (high - low), zero = TOP + high * scale;
    int width = LEFT + n_layers * STEP + 10, height = TOP + TALL + 40;
    fprintf(file,
            "<div class=\"scroll\"><svg class=\"bars\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
            "role=\"img\" "
            "aria-label=\"shares of the direction by layer\">\n",
            width, height, width, height);
    const double marks[] = {low, 0, high};
    for (int i = 0; i < 3; i++) {
        double y = zero - marks[i] * scale;
        if (marks[i] == 0 || fabs(marks[i]) * scale > 14)
            fprintf(file,
                    "<line class=\"%s\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/><text class=\"end\" "
                    "x=\"%d\" y=\"%.1f\">"
                    "%.0f%%</text>\n",
                    i == 1 ? "zero" : "grid", LEFT, y, width, y, LEFT - 6, y + 4, 100 * marks[i]);
    }
    for (int32_t l = 0; l < n_layers; l++) {
        double x = LEFT + 6 + l * STEP;
        for (int k = 0; k < 2; k++) {
            const cox_report_part *p = find(r, kinds[k], l);
            if (p) print_bar(file, p, x + k * (BAR + 1), zero, scale);
        }
        fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%d\">%s%d</text>\n", x + BAR, TOP + TALL + 18,
                n_layers <= 30 && l == 0 ? "layer " : "", (int)l);
    }
    fputs("</svg></div>\n", file);
}

/* --- Tables --- */

static void print_number_cell(FILE *file, const cox_interval *i)
{
    fputs("<td class=\"n\">", file);
    cox_report_print_interval(file, i);
    fputs("</td>", file);
}

static void print_effects(FILE *file, const cox_report_part *p)
{
    for (int s = 0; s < COX_REPORT_N_SETS; s++) {
        if (p && p->has_effect)
            print_number_cell(file, &p->effect[s]);
        else
            fputs("<td></td>", file);
    }
}

static bool has_effects(const cox_report *r, cox_report_part_kind kind)
{
    for (size_t i = 0; i < r->parts.n; i++) {
        if (r->parts.items[i].kind == kind && r->parts.items[i].has_effect) return true;
    }
    return false;
}

static void print_layer_table(FILE *file, const cox_report *r, int32_t n_layers)
{
    static const cox_report_part_kind kinds[] = {COX_REPORT_ATTENTION, COX_REPORT_BLOCK, COX_REPORT_AFTER};
    fputs("<div class=\"scroll\"><table><thead><tr><th class=\"n\">layer</th><th class=\"n\">attention "
          "writes</th>"
          "<th class=\"n\">share</th><th class=\"n\">experts write</th><th class=\"n\">share</th>"
          "<th class=\"n\">after the layer</th><th class=\"n\">share</th></tr></thead>\n<tbody>\n",
          file);
    for (int32_t l = 0; l < n_layers; l++) {
        fprintf(file, "<tr><th class=\"n\">%d</th>", (int)l);
        for (int k = 0; k < 3; k++) {
            const cox_report_part *p = find(r, kinds[k], l);
            if (p) {
                print_number_cell(file, &p->difference);
                fputs("<td class=\"n\">", file);
                cox_report_print_percent(file, p->share, 1);
                fputs("</td>", file);
            } else {
                fputs("<td></td><td></td>", file);
            }
        }
        fputs("</tr>\n", file);
    }
    fputs("</tbody></table></div>\n", file);
}

/* What ablating the direction at one place alone does. */
static void print_effect_table(FILE *file, const cox_report *r, int32_t n_layers)
{
    if (!has_effects(r, COX_REPORT_ATTENTION) && !has_effects(r, COX_REPORT_BLOCK)) return;
    fputs("<h3>Ablated there alone: change of the log-odds</h3>\n<div class=\"scroll\"><table><thead><tr><th "
          "class=\"n\">layer</th>"
          "<th class=\"n\">in attention: A</th><th class=\"n\">B</th><th class=\"n\">in the experts: "
          "A</th><th class=\"n\">B</th></tr>"
          "</thead>\n<tbody>\n",
          file);
    for (int32_t l = 0; l < n_layers; l++) {
        fprintf(file, "<tr><th class=\"n\">%d</th>", (int)l);
        print_effects(file, find(r, COX_REPORT_ATTENTION, l));
        print_effects(file, find(r, COX_REPORT_BLOCK, l));
        fputs("</tr>\n", file);
    }
    fputs("</tbody></table></div>\n", file);
}

static double size_of(const cox_report_part *p)
{
    return fabs(p->has_effect ? p->effect[COX_REPORT_A].value : p->difference.value);
}

static int compare(const void *a, const void *b)
{
    const cox_report_part *x = *(const cox_report_part *const *)a, *y = *(const cox_report_part *const *)b;
    double dx = size_of(x), dy = size_of(y);
    if (dx != dy) return dx < dy ? 1 : -1;
    return x->layer != y->layer ? x->layer - y->layer : x->expert - y->expert;
}

static void print_experts(FILE *file, const cox_report *r)
{
    const cox_report_part **order = calloc(r->parts.n, sizeof *order);
    bool effects = has_effects(r, COX_REPORT_EXPERT);
    size_t n = 0;
    for (size_t i = 0; i < r->parts.n && order; i++) {
        if (r->parts.items[i].kind == COX_REPORT_EXPERT) order[n++] = &r->parts.items[i];
    }
    if (n > 0) {
        qsort(order, n, sizeof *order, compare);
        size_t n_shown = n < (size_t)r->n_rows ? n : (size_t)r->n_rows;
        fprintf(file,
                "<details><summary>The %zu of %zu single experts with the largest %s</summary>\n<div "
                "class=\"scroll\">"
                "<table><thead><tr><th class=\"n\">layer</th><th class=\"n\">expert</th><th "
                "class=\"n\">writes, A less B"
                "</th><th class=\"n\">share</th><th class=\"n\">mean on A</th><th class=\"n\">mean on "
                "B</th>%s</tr></thead>\n"
                "<tbody>\n",
                n_shown, n, effects ? "effect on A" : "difference",
                effects ? "<th class=\"n\">ablated there: A</th><th class=\"n\">B</th>" : "");
        for (size_t i = 0; i < n_shown; i++) {
            const cox_report_part *p = order[i];
            fprintf(file, "<tr><th class=\"n\">%d</th><th class=\"n\">%d</th>", (int)p->layer,
                    (int)p->expert);
            print_number_cell(file, &p->difference);
            fputs("<td class=\"n\">", file);
            cox_report_print_percent(file, p->share, 1);
            fputs("</td>", file);
            for (int s = 0; s < COX_REPORT_N_SETS; s++) {
                fputs("<td class=\"n\">", file);
                cox_report_print_number(file, p->mean[s], true);
                fputs("</td>", file);
            }
            if (effects) print_effects(file, p);
            fputs("</tr>\n", file);
        }
        fputs("</tbody></table></div></details>\n", file);
    }
    free(order);
}

void cox_report_print_parts(FILE *file, const cox_report *r)
{
    if (r->parts.n == 0) {
        fputs("<p class=\"none\">No decomposition was given (--decompose).</p>\n", file);
        return;
    }
    int32_t n_layers = count_layers(r);
    cox_report_print_unnamed(file, r->parts.about);
    const char *vector = json_string_value(json_object_get(r->parts.about, "vector"));
    fputs("<p>What each layer\xe2\x80\x99s attention and experts write along ", file);
    if (vector) {
        fputs("the direction <code>", file);
        cox_xml_print(file, vector);
        fputs("</code>", file);
    } else {
        fputs("one direction of the residual stream", file);
    }
    fputs(": mean projection on A less that on B, as a share of what stands after the layer where the "
          "direction was taken. A part "
          "that writes much need not be the one whose steering does much.</p>\n"
          "<p class=\"legend\"><svg width=\"16\" height=\"14\"><rect class=\"bar a\" x=\"1\" y=\"1\" "
          "width=\"13\" height=\"12\"/></svg> "
          "attention <svg width=\"16\" height=\"14\"><rect class=\"bar b\" x=\"1\" y=\"1\" width=\"13\" "
          "height=\"12\"/></svg> "
          "experts</p>\n",
          file);
    print_bars(file, r, n_layers);
    print_layer_table(file, r, n_layers);
    print_effect_table(file, r, n_layers);
    print_experts(file, r);
}
