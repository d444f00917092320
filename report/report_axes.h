/* Two axes of a chart, in the page's SVG. A is a filled circle on a solid line, B an empty square on a broken
 * one, so that they differ without colour; every mark has its numbers in a <title>, which browsers show on
 * hover. */
#ifndef COX_REPORT_AXES_H
#define COX_REPORT_AXES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "study/metrics.h"

typedef struct cox_axes {
    double low[2], high[2]; /* x, y; all that is to be seen */
    const char *names[2];
    double bend; /* of x: above 0 it is drawn as asinh(x / bend), nearly logarithmic on both sides of 0 */
    const double *ticks; /* [n_ticks] of x, ascending; NULL: round numbers */
    size_t n_ticks;
} cox_axes;

/* Nothing is seen yet; then all that has to be. NaN is left out. */
cox_axes cox_axes_begin(const char *x_name, const char *y_name);
void cox_axes_widen(cox_axes *axes, int axis, double value);
void cox_axes_widen_interval(cox_axes *axes, const cox_interval *interval);

/* <svg ...> with the axes; the caller prints marks and </svg>. label: what is drawn, for those who do not see
 * it. */
void cox_axes_print(FILE *file, cox_axes *axes, const char *label);
double cox_axes_x(const cox_axes *axes, double x);
double cox_axes_y(const cox_axes *axes, double y);
/* Is a point of the picture, such as these two give, inside the frame? */
bool cox_axes_holds(double x, double y);

/* A mark with its interval, moved sideways by dx, open for the text of its title: the caller prints that,
 * then calls _end. is_faint: one that does not count. */
void cox_axes_mark_begin(FILE *file, const cox_axes *axes, int set, double x, const cox_interval *y,
                         double dx, bool has_whisker, bool is_faint);
void cox_axes_mark_end(FILE *file, int set);

#endif
