/* Axes with round numbers, and the two kinds of marks. */
#include "report/report_axes.h"

#include <math.h>

#include "report/heatmap.h"
#include "report/report.h"

enum {
    WIDTH = 360,
    HEIGHT = 250,
    LEFT = 48,
    RIGHT = 10,
    TOP = 10,
    BOTTOM = 42,
    LABEL_WIDTH = 30,
    MAX_STEPS = 20
};

cox_axes cox_axes_begin(const char *x_name, const char *y_name)
{
    double far = (double)INFINITY;
    return (cox_axes){.low = {far, far}, .high = {-far, -far}, .names = {x_name, y_name}};
}

void cox_axes_widen(cox_axes *a, int axis, double value)
{
    if (!isfinite(value)) return;
    if (value < a->low[axis]) a->low[axis] = value;
    if (value > a->high[axis]) a->high[axis] = value;
}

void cox_axes_widen_interval(cox_axes *a, const cox_interval *i)
{
    cox_axes_widen(a, 1, i->value);
    cox_axes_widen(a, 1, i->low);
    cox_axes_widen(a, 1, i->high);
}

static double bent(const cox_axes *a, double x)
{
    return a->bend > 0 ? asinh(x / a->bend) : x;
}

double cox_axes_x(const cox_axes *a, double x)
{
    double low = bent(a, a->low[0]), high = bent(a, a->high[0]);
    double room = 0.05; /* on both sides, so that marks stand off the frame */
    return LEFT + (WIDTH - LEFT - RIGHT) * (room + (1 - 2 * room) * (bent(a, x) - low) / (high - low));
}

double cox_axes_y(const cox_axes *a, double y)
{
    double room = 0.05;
    return HEIGHT - BOTTOM -
           (HEIGHT - TOP - BOTTOM) * (room + (1 - 2 * room) * (y - a->low[1]) / (a->high[1] - a->low[1]));
}

bool cox_axes_holds(double x, double y)
{
    return x >= LEFT && x <= WIDTH - RIGHT && y >= TOP && y <= HEIGHT - BOTTOM;
}

/* 1, 2 or 5 times a power of ten: some five steps. */
static double step_of(double range)
{
    double power = pow(10, floor(log10(range / 5))), step = range / 5 / power;
    return power * (step < 1.5 ? 1 : step < 3.5 ? 2 : step < 7.5 ? 5 : 10);
}

static void print_label(FILE *file, double value)
{
    fprintf(file, "%s%.4g", value < 0 ? "\xe2\x88\x92" : "", fabs(value));
}

static void print_x(FILE *file, const cox_axes *a, double value, bool has_label)
{
    double x = cox_axes_x(a, value);
    bool is_zero = value == 0 && (!a->ticks || a->bend > 0); /* else names, not amounts */
    fprintf(file, "<line class=\"%s\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>",
            is_zero ? "zero" : "grid", x, TOP, x, HEIGHT - BOTTOM);
    if (has_label) {
        fprintf(file, "<text class=\"mid\" x=\"%.1f\" y=\"%d\">", x, HEIGHT - BOTTOM + 15);
        print_label(file, value);
        fputs("</text>", file);
    }
    fputc('\n', file);
}

static void print_y(FILE *file, const cox_axes *a, double value)
{
    double y = cox_axes_y(a, value);
    fprintf(file,
            "<line class=\"%s\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/><text class=\"end\" x=\"%d\" "
            "y=\"%.1f\">",
            value == 0 ? "zero" : "grid", LEFT, y, WIDTH - RIGHT, y, LEFT - 6, y + 4);
    print_label(file, value);
    fputs("</text>\n", file);
}

/* Labels that would run into each other are left out, from the ends of the axis inwards. */
static void print_ticks(FILE *file, const cox_axes *a)
{
    double left = -(double)INFINITY, right = (double)INFINITY;
    size_t n = a->n_ticks;
    for (size_t i = 0; i < (n + 1) / 2; i++) {
        size_t sides[2] = {i, n - 1 - i};
        for (int s = 0; s < (sides[0] == sides[1] ? 1 : 2); s++) {
            double value = a->ticks[sides[s]], x = cox_axes_x(a, value);
            bool fits = x - left >= LABEL_WIDTH && right - x >= LABEL_WIDTH;
            if (fits && s == 0) left = x;
            if (fits && s == 1) right = x;
            print_x(file, a, value, fits);
        }
    }
}

void cox_axes_print(FILE *file, cox_axes *a, const char *label)
{
    for (int axis = 0; axis < 2; axis++) {
        if (!(a->high[axis] > a->low[axis])) a->low[axis] -= 1, a->high[axis] += 1;
    }
    fprintf(file, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    cox_xml_print(file, label);
    fputs("\">\n", file);
    for (int axis = 0; axis < 2; axis++) {
        double step = step_of(a->high[axis] - a->low[axis]);
        if (axis == 0 && a->ticks) continue;
        double first = ceil(a->low[axis] / step);
        for (int i = 0; i < MAX_STEPS && (first + i) * step <= a->high[axis] + 1e-9 * step; i++) {
            if (axis == 0)
                print_x(file, a, (first + i) * step, true);
            else
                print_y(file, a, (first + i) * step);
        }
    }
    if (a->ticks) print_ticks(file, a);
    fprintf(file, "<text class=\"mid\" x=\"%d\" y=\"%d\">", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
    cox_xml_print(file, a->names[0]);
    fprintf(file, "</text><text class=\"mid\" transform=\"translate(11 %d) rotate(-90)\">",
            (TOP + HEIGHT - BOTTOM) / 2);
    cox_xml_print(file, a->names[1]);
    fputs("</text>\n", file);
}

void cox_axes_mark_begin(FILE *file, const cox_axes *a, int set, double at, const cox_interval *i, double dx,
                         bool has_whisker, bool is_faint)
{
    double x = cox_axes_x(a, at) + dx, y = cox_axes_y(a, i->value);
    fprintf(file, "<g class=\"%c%s\">", "ab"[set], is_faint ? " faint" : "");
    if (has_whisker && isfinite(i->low) && isfinite(i->high))
        fprintf(file, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", x, cox_axes_y(a, i->low), x,
                cox_axes_y(a, i->high));
    if (set == COX_REPORT_A)
        fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.6\"><title>", x, y);
    else
        fprintf(file, "<rect x=\"%.1f\" y=\"%.1f\" width=\"6.4\" height=\"6.4\"><title>", x - 3.2, y - 3.2);
}

void cox_axes_mark_end(FILE *file, int set)
{
    fprintf(file, "</title></%s></g>\n", set == COX_REPORT_A ? "circle" : "rect");
}
