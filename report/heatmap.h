/*
 * A map of numbers by layer and expert as a picture: an SVG of its own, without script or network, for light
 * and dark pages. Signs are drawn where a number is certain, so that it can be read in black and white.
 */
#ifndef COX_REPORT_HEATMAP_H
#define COX_REPORT_HEATMAP_H

#include <stdint.h>
#include <stdio.h>

#include "study/metrics.h"

typedef struct cox_heatmap {
    const char *title, *unit;           /* UTF-8; unit: behind numbers, "" when there is none */
    const char *row_name, *column_name; /* "layer", "expert" */
    int32_t n_rows, n_columns;
    const cox_interval *cells; /* [n_rows, n_columns]; a NaN value is no cell */
} cox_heatmap;

/* Orange above 0, blue below; the strongest colour is the largest absolute value. A cell whose interval does
 * not hold 0 shows its sign; hovering names it with its interval. Errors of the file are the caller's to ask
 * for (ferror). */
void cox_heatmap_print(FILE *file, const cox_heatmap *map);

/* Text for XML and HTML: & < > and quotes replaced by their names, control characters by U+FFFD. */
void cox_xml_print(FILE *file, const char *text);

#endif
