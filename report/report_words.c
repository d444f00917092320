/* Numbers and names as the page says them. All text goes through cox_xml_print. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

const char *cox_report_control_words(const char *kind)
{
    if (strcmp(kind, "random_direction") == 0) return "random direction of the same norm";
    return strcmp(kind, "random_expert") == 0 ? "direction of another expert" : kind;
}

void cox_report_print_change(FILE *file, const char *label, double before, double after)
{
    fputs("<span class=\"change\"><b>", file);
    cox_xml_print(file, label);
    fputs("</b> ", file);
    cox_report_print_percent(file, before, 0);
    fputs(" \xe2\x86\x92 ", file);
    cox_report_print_percent(file, after, 0);
    fputs("</span>", file);
}

void cox_report_print_number(FILE *file, double value, bool has_sign)
{
    if (isnan(value)) {
        fputs("not finite", file);
        return;
    }
    const char *sign = value < 0               ? "\xe2\x88\x92"
                       : has_sign && value > 0 ? "+"
                                               : ""; /* a minus as wide as a plus */
    double size = fabs(value);
    if (size >= 0.01 || size == 0)
        fprintf(file, "%s%.*f", sign, size >= 100 ? 0 : size >= 10 ? 1 : 2, size);
    else
        fprintf(file, "%s%.1g", sign, size);
}

void cox_report_print_strength(FILE *file, double strength)
{
    fprintf(file, "%s%g", strength < 0 ? "\xe2\x88\x92" : "", fabs(strength));
}

void cox_report_print_source(FILE *file, const cox_report_cell *c)
{
    if (c->source != 0)
        fprintf(file, ", vector of token %s%d", c->source < 0 ? "\xe2\x88\x92" : "", abs(c->source));
}

void cox_report_print_unnamed(FILE *file, const json_t *about)
{
    if (!about)
        fputs("<p class=\"soft\">The table that was given does not name its model; that it is the "
              "sweep\xe2\x80\x99s was not checked.</p>\n",
              file);
}

void cox_report_print_percent(FILE *file, double share, int n_digits)
{
    bool is_zero = fabs(100 * share) < (n_digits > 0 ? 0.05 : 0.5);
    fprintf(file, "%s%.*f%%", share < 0 && !is_zero ? "\xe2\x88\x92" : "", n_digits,
            is_zero ? 0 : fabs(100 * share));
}

void cox_report_print_ends(FILE *file, const cox_interval *i)
{
    fputc('[', file);
    cox_report_print_number(file, i->low, true);
    fputs(", ", file);
    cox_report_print_number(file, i->high, true);
    fputc(']', file);
}

void cox_report_print_interval(FILE *file, const cox_interval *i)
{
    cox_report_print_number(file, i->value, true);
    if (isnan(i->value)) return;
    fputc(' ', file);
    cox_report_print_ends(file, i);
}

void cox_report_print_points(FILE *file, const cox_interval *p)
{
    const double values[3] = {p->value, p->low, p->high};
    static const char *const between[] = {"", " points [", ", "};
    for (int i = 0; i < 3; i++) {
        bool is_zero = fabs(values[i]) < 0.5;
        fprintf(file, "%s%s%.0f", between[i],
                is_zero         ? ""
                : values[i] < 0 ? "\xe2\x88\x92"
                                : "+",
                is_zero ? 0 : fabs(values[i]));
    }
    fputc(']', file);
}

/* A word, or compact JSON such as {"last":2}. */
static void print_positions(FILE *file, const cox_report_cell *c)
{
    char text[200];
    size_t n = 0;
    for (const char *from = c->positions; *from && n + 2 < sizeof text; from++) {
        if (strchr("{}\"", *from)) continue;
        text[n++] = *from == ':' ? ' ' : *from;
        if (*from == ',') text[n++] = ' ';
    }
    text[n] = '\0';
    cox_xml_print(file, text);
}

void cox_report_print_place(FILE *file, const cox_report_cell *c)
{
    fprintf(file, "layer %d", (int)c->layer);
    if (c->expert >= 0)
        fprintf(file, ", expert %d", (int)c->expert);
    else if (*c->expert_text)
        fputs(", all experts", file);
}

/* What is done where: a block may steer with its vector at other places than the vector's own. */
void cox_report_print_operation(FILE *file, const cox_report_cell *c)
{
    size_t i;
    const json_t *site, *sites = json_object_get(c->apply, "sites");
    const char *layers = json_string_value(json_object_get(c->apply, "layers"));
    cox_xml_print(file, c->op);
    fputs(" at ", file);
    if (json_array_size(sites) == 0) cox_xml_print(file, c->site);
    json_array_foreach(sites, i, site)
    {
        if (i > 0) fputs(i + 1 == json_array_size(sites) ? " and " : ", ", file);
        cox_xml_print(file, json_is_string(site) ? json_string_value(site) : "");
    }
    if (layers && strcmp(layers, "all") == 0) fputs(" of all layers", file);
    if (*c->weighting) {
        fputs(", ", file);
        cox_xml_print(file, c->weighting);
    }
}

void cox_report_print_how(FILE *file, const cox_report_cell *c)
{
    cox_report_print_place(file, c);
    fputs(": ", file);
    cox_report_print_operation(file, c);
    fputs(", strength ", file);
    cox_report_print_strength(file, c->strength);
    fputs(", positions ", file);
    print_positions(file, c);
    cox_report_print_source(file, c);
}

void cox_report_print_group(FILE *file, const cox_report_cell *c)
{
    cox_xml_print(file, c->family);
    fputs(": ", file);
    cox_report_print_operation(file, c);
    fputs(", positions ", file);
    print_positions(file, c);
}

void cox_report_panel_begin(FILE *file, const cox_report *r, const cox_report_group *g, bool is_open)
{
    fprintf(file, "<details class=\"panel\"%s><summary>", is_open ? " open=\"open\"" : "");
    cox_report_print_group(file, &r->cells.items[g->first]);
    fputs("</summary>\n", file);
}

void cox_report_panel_end(FILE *file)
{
    fputs("</details>\n", file);
}

void cox_report_print_whiskers(FILE *file, const cox_interval *all, size_t n, int set, double low,
                               double high)
{
    enum { WIDTH = 120 };
    double scale = (WIDTH - 8) / (high - low), zero = 4 - low * scale;
    if (n == 1 && isnan(all->value)) return;
    fprintf(file,
            "<svg class=\"whisker %c\" width=\"%d\" height=\"16\" viewBox=\"0 0 %d 16\"><line class=\"zero\" "
            "x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"16\"/>",
            "ab"[set], WIDTH, WIDTH, zero, zero);
    for (size_t i = 0; i < n; i++) {
        const double values[3] = {all[i].low, all[i].value, all[i].high};
        double ends[3];
        if (isnan(all[i].value)) continue;
        for (int k = 0; k < 3; k++) ends[k] = fmin(fmax(4 + (values[k] - low) * scale, 1), WIDTH - 1);
        fprintf(file, "<line x1=\"%.1f\" y1=\"8\" x2=\"%.1f\" y2=\"8\"/>", ends[0], ends[2]);
        if (set == COX_REPORT_A)
            fprintf(file, "<circle cx=\"%.1f\" cy=\"8\" r=\"3.6\"/>", ends[1]);
        else
            fprintf(file, "<rect x=\"%.1f\" y=\"4.8\" width=\"6.4\" height=\"6.4\"/>", ends[1] - 3.2);
    }
    fputs("</svg>", file);
}
