/* CSV files with a line of column names, as our commands and spreadsheets write them: fields in quotes may
 * hold commas, quotes twice and ends of lines. Columns are found by name, in any order; others are ignored.
 */
#ifndef COX_REPORT_CSV_H
#define COX_REPORT_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_csv {
    const char *where; /* the file's name, for messages; borrowed */
    char *text;        /* owned; what fields point into */
    char **fields;     /* [n_rows, n_columns] */
    char **names;      /* [n_columns] */
    size_t *lines;     /* [n_rows] line of the file where the row begins, from 1 */
    size_t n_rows, n_columns;
} cox_csv;

/* text: n bytes and a NUL, malloc'ed; taken over, also on failure. Errors, naming file, line and column:
 * BAD_FILE (not UTF-8, rows of different lengths, a quote that does not end), NO_MEMORY. */
cox_status cox_csv_parse(cox_csv *csv, char *text, size_t n, const char *where);
void cox_csv_free(cox_csv *csv);

bool cox_csv_has(const cox_csv *csv, const char *column);

/* Fields of one row by the names of their columns. Errors, naming file, line and column: BAD_FILE (no such
 * column, not what is asked for). */
cox_status cox_csv_text(const cox_csv *csv, size_t row, const char *column, const char **out);
/* An empty field is NaN where that `may_be_empty`; else a finite number. */
cox_status cox_csv_number(const cox_csv *csv, size_t row, const char *column, bool may_be_empty, double *out);
cox_status cox_csv_int(const cox_csv *csv, size_t row, const char *column, int64_t low, int64_t high,
                       int64_t *out);

#endif
