/* Numbers and names as the page says them. All text goes through cox_xml_print. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "steering/heatmap.h"
#include "steering/report.h"

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

void cox_report_print_interval(FILE *file, const cox_interval *i)
{
    cox_report_print_number(file, i->value, true);
    if (isnan(i->value)) return;
    fputs(" [", file);
    cox_report_print_number(file, i->low, true);
    fputs(", ", file);
    cox_report_print_number(file, i->high, true);
    fputs("]", file);
}

void cox_report_print_rate(FILE *file, const cox_interval *rate)
{
    fprintf(file, "%.0f%% [%.0f, %.0f]", 100 * rate->value, 100 * rate->low, 100 * rate->high);
}

/* A word, or compact JSON such as {"last":2}. */
void cox_report_print_positions(FILE *file, const cox_report_cell *c)
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

void cox_report_print_group(FILE *file, const cox_report_cell *c)
{
    cox_xml_print(file, c->block);
    fputs(": ", file);
    cox_xml_print(file, c->op);
    fputs(", ", file);
    cox_xml_print(file, c->site);
    if (*c->weighting) {
        fputs(", ", file);
        cox_xml_print(file, c->weighting);
    }
    fputs(", positions ", file);
    cox_report_print_positions(file, c);
}
