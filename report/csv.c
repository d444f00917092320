/* One pass over the text that ends each field where it stands; then look-ups. */
#include "report/csv.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    char *at;
    size_t line;
    bool ends_row, ends_file;
} reader;

/* The next field, unquoted in place. NULL: quotes that do not end, or something behind them. */
static char *take_field(reader *r)
{
    char *start = r->at, *from = start, *to = start;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || from[1] == '"'); from++) {
            from += *from == '"';
            r->line += *from == '\n';
            *to++ = *from;
        }
        if (*from++ != '"') return NULL;
    } else {
        while (*from && !strchr(",\r\n", *from)) from++;
        to = from;
    }
    if (from[0] == '\r' && from[1] == '\n') from++;
    if (*from && *from != ',' && *from != '\n') return NULL;
    r->ends_row = *from != ',';
    r->ends_file = !*from || (*from == '\n' && !from[1]);
    r->line += *from == '\n';
    r->at = from + (*from != '\0');
    *to = '\0';
    return start;
}

static cox_status read_rows(cox_csv *csv, size_t n_room)
{
    reader r = {.at = csv->text, .line = 1};
    size_t n = 0, n_in_row = 0, begun = 1;
    while (!r.ends_file) {
        if (n_in_row == 0) begun = r.line;
        char *field = n < n_room ? take_field(&r) : NULL;
        if (!field)
            return cox_fail(COX_BAD_FILE,
                            "%s: line %zu, column %zu: a quote that does not end, or text behind it",
                            csv->where, begun, n_in_row + 1);
        csv->fields[n++] = field;
        n_in_row++;
        if (!r.ends_row) continue;
        if (csv->n_columns == 0) {
            csv->n_columns = n_in_row;
        } else if (n_in_row == csv->n_columns) {
            csv->lines[csv->n_rows++] = begun;
        } else {
            return cox_fail(COX_BAD_FILE, "%s: line %zu has %zu columns, the first line has %zu", csv->where,
                            begun, n_in_row, csv->n_columns);
        }
        n_in_row = 0;
    }
    csv->names = csv->fields;
    csv->fields += csv->n_columns;
    return COX_OK;
}

cox_status cox_csv_parse(cox_csv *csv, char *text, size_t n, const char *where)
{
    size_t n_fields = 1, n_lines = 1;
    for (size_t i = 0; i < n; i++) {
        n_fields += text[i] == ',' || text[i] == '\n';
        n_lines += text[i] == '\n';
    }
    *csv = (cox_csv){.where = where, .text = text};
    csv->fields = calloc(n_fields + 1, sizeof *csv->fields);
    csv->lines = calloc(n_lines, sizeof *csv->lines);
    char **begin = csv->fields;
    json_t *checked = json_stringn(text, n); /* refuses what is not UTF-8 */
    cox_status status = COX_OK;
    if (!csv->fields || !csv->lines)
        status = cox_no_memory(where);
    else if (!checked || strlen(text) != n)
        status = cox_fail(COX_BAD_FILE, "%s: not UTF-8 text", where);
    else
        status = read_rows(csv, n_fields);
    json_decref(checked);
    if (status == COX_OK) return status;
    free(begin);
    csv->fields = csv->names = NULL;
    cox_csv_free(csv);
    return status;
}

void cox_csv_free(cox_csv *csv)
{
    free(csv->names); /* where the list of all fields begins */
    free(csv->lines);
    free(csv->text);
    *csv = (cox_csv){0};
}

/* n_columns: not there. */
static size_t find(const cox_csv *csv, const char *column)
{
    size_t i = 0;
    while (i < csv->n_columns && strcmp(csv->names[i], column) != 0) i++;
    return i;
}

bool cox_csv_has(const cox_csv *csv, const char *column)
{
    return find(csv, column) < csv->n_columns;
}

cox_status cox_csv_text(const cox_csv *csv, size_t row, const char *column, const char **out)
{
    size_t i = find(csv, column);
    if (i == csv->n_columns)
        return cox_fail(COX_BAD_FILE, "%s: line 1: there is no column \"%s\"", csv->where, column);
    *out = csv->fields[row * csv->n_columns + i];
    return COX_OK;
}

static cox_status wrong(const cox_csv *csv, size_t row, const char *column, const char *text,
                        const char *wanted)
{
    return cox_fail(COX_BAD_FILE, "%s: line %zu, column \"%s\": \"%.40s\" is not %s", csv->where,
                    csv->lines[row], column, text, wanted);
}

cox_status cox_csv_number(const cox_csv *csv, size_t row, const char *column, bool may_be_empty, double *out)
{
    const char *text = NULL;
    char *end = NULL;
    cox_status status = cox_csv_text(csv, row, column, &text);
    if (status != COX_OK) return status;
    double value = strtod(text, &end);
    bool is_empty = may_be_empty && !*text;
    if (!is_empty &&
        (end == text || *end || !isfinite(value) || strspn(text, "+-.0123456789eE") != strlen(text)))
        return wrong(csv, row, column, text, "a number");
    *out = is_empty ? (double)NAN : value;
    return COX_OK;
}

cox_status cox_csv_int(const cox_csv *csv, size_t row, const char *column, int64_t low, int64_t high,
                       int64_t *out)
{
    const char *text = NULL;
    char *end = NULL;
    cox_status status = cox_csv_text(csv, row, column, &text);
    if (status != COX_OK) return status;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high)
        return wrong(csv, row, column, text, "a whole number in range");
    *out = value;
    return COX_OK;
}
