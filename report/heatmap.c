/* Cells as rectangles of a group per row; sizes follow from the number of columns. */
#include "report/heatmap.h"

#include <math.h>

enum { LEFT = 56, TOP = 64, BOTTOM = 80, RIGHT = 32, LEGEND_WIDTH = 160 };

void cox_xml_print(FILE *file, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&': fputs("&amp;", file); break;
        case '<': fputs("&lt;", file); break;
        case '>': fputs("&gt;", file); break;
        case '"': fputs("&quot;", file); break;
        case '\t':
        case '\n':
        case '\r': fputc(*text, file); break;
        default:
            if ((unsigned char)*text < ' ')
                fputs("\xef\xbf\xbd", file); /* XML has no place for control characters */
            else
                fputc(*text, file);
        }
    }
}

/* share in [-1, 1]: blue, grey-white, orange; lightness falls alike on both sides. */
static void print_colour(FILE *file, double share)
{
    static const double ends[2][3] = {{33, 90, 160}, {190, 85, 10}}, middle = 244;
    const double *end = ends[share > 0];
    double strength = fabs(share);
    int rgb[3];
    for (int i = 0; i < 3; i++) rgb[i] = (int)lrint(middle + (end[i] - middle) * strength);
    fprintf(file, "#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
}

static double largest(const cox_heatmap *map)
{
    double top = 0;
    for (int64_t i = 0; i < (int64_t)map->n_rows * map->n_columns; i++) {
        if (fabs(map->cells[i].value) > top) top = fabs(map->cells[i].value); /* NaN is not above */
    }
    return top;
}

static void print_style(FILE *file)
{
    fputs("<style>text{font:12px system-ui,sans-serif;fill:#222}.s{font-size:10px;text-anchor:middle;"
          "dominant-baseline:central;pointer-events:none}.s.k{fill:#111}.s.w{fill:#fff}.r{text-anchor:end;"
          "dominant-baseline:central}.c{text-anchor:middle}.t{font-size:14px;font-weight:600}"
          "rect{stroke:#8884;stroke-width:.5}.b{fill:#fff;stroke:none}"
          "@media(prefers-color-scheme:dark){text{fill:#ddd}.b{fill:#181818}}</style>\n",
          file);
}

static void print_cell(FILE *file, const cox_heatmap *map, int32_t row, int32_t column, int32_t size,
                       double top)
{
    const cox_interval *cell = &map->cells[(int64_t)row * map->n_columns + column];
    if (isnan(cell->value)) return;
    double share = top > 0 ? cell->value / top : 0;
    int32_t x = LEFT + column * size, y = TOP + row * size;
    fprintf(file, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"", x, y, size, size);
    print_colour(file, share);
    fprintf(file, "\"><title>%s %d, %s %d: %.4g%s [%.4g, %.4g]</title></rect>\n", map->row_name, row,
            map->column_name, column, cell->value, map->unit, cell->low, cell->high);
    if (cell->low <= 0 && cell->high >= 0) return;
    fprintf(file, "<text class=\"s %s\" x=\"%g\" y=\"%g\">%s</text>\n", fabs(share) > 0.55 ? "w" : "k",
            x + size / 2.0, y + size / 2.0, cell->value > 0 ? "+" : "\xe2\x88\x92");
}

static void print_axes(FILE *file, const cox_heatmap *map, int32_t size)
{
    for (int32_t r = 0; r < map->n_rows; r++) {
        fprintf(file, "<text class=\"r\" x=\"%d\" y=\"%g\">%d</text>\n", LEFT - 8, TOP + (r + 0.5) * size, r);
    }
    int32_t step = 1 + 24 / size; /* labels need some 24 pixels */
    for (int32_t c = 0; c < map->n_columns; c += step) {
        fprintf(file, "<text class=\"c\" x=\"%g\" y=\"%d\">%d</text>\n", LEFT + (c + 0.5) * size,
                TOP + map->n_rows * size + 16, c);
    }
    fputs("<text x=\"8\" y=\"54\">", file);
    cox_xml_print(file, map->row_name);
    fprintf(file, "</text>\n<text x=\"%d\" y=\"%d\">", LEFT, TOP + map->n_rows * size + 32);
    cox_xml_print(file, map->column_name);
    fputs("</text>\n", file);
}

static void print_legend(FILE *file, const cox_heatmap *map, int32_t width, int32_t height, double top)
{
    enum { STEPS = 20 };
    int32_t x = width - RIGHT - LEGEND_WIDTH, y = height - 38;
    for (int i = 0; i < STEPS; i++) {
        fprintf(file, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"10\" fill=\"",
                x + i * LEGEND_WIDTH / STEPS, y, LEGEND_WIDTH / STEPS);
        print_colour(file, (2.0 * i + 1) / STEPS - 1);
        fputs("\"/>\n", file);
    }
    for (int i = -1; i <= 1; i++) {
        fprintf(file, "<text class=\"c\" x=\"%d\" y=\"%d\">%.3g", x + (i + 1) * LEGEND_WIDTH / 2, y + 24,
                i * top);
        cox_xml_print(file, map->unit);
        fputs("</text>\n", file);
    }
}

void cox_heatmap_print(FILE *file, const cox_heatmap *map)
{
    int32_t size = 960 / map->n_columns;
    size = size < 10 ? 10 : size > 30 ? 30 : size;
    int32_t width = LEFT + map->n_columns * size + RIGHT, height = TOP + map->n_rows * size + BOTTOM;
    if (width < 560) width = 560;
    double top = largest(map);
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
            "role=\"img\">\n<title>",
            width, height, width, height);
    cox_xml_print(file, map->title);
    fputs("</title>\n", file);
    print_style(file);
    fprintf(file, "<rect class=\"b\" width=\"%d\" height=\"%d\"/>\n<text class=\"t\" x=\"8\" y=\"22\">",
            width, height);
    cox_xml_print(file, map->title);
    fputs("</text>\n", file);
    for (int32_t r = 0; r < map->n_rows; r++) {
        for (int32_t c = 0; c < map->n_columns; c++) print_cell(file, map, r, c, size, top);
    }
    print_axes(file, map, size);
    print_legend(file, map, width, height, top);
    fputs("</svg>\n", file);
}
