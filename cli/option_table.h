/* The rows that parsing, checking and --help read. */
#ifndef COX_CLI_OPTION_TABLE_H
#define COX_CLI_OPTION_TABLE_H

#include "cli/options.h"

typedef enum cox_option_kind {
    COX_OPTION_FLAG,
    COX_OPTION_INTEGER,
    COX_OPTION_NUMBER,
    COX_OPTION_TEXT_VALUE,
    COX_OPTION_TEXTS,
    COX_OPTION_CHOICE,
    COX_OPTION_BYTES
} cox_option_kind;

typedef struct cox_option_row {
    const char *name;
    int commands; /* bits of commands and of groups */
    cox_option_kind kind;
    size_t offset;     /* in cox_options */
    const char *value; /* what --help calls it; of CHOICE the allowed words with | between */
    double low, high;  /* of INTEGER and NUMBER; BYTES: above low */
    bool is_required;
    const char *help;
} cox_option_row;

extern const cox_option_row cox__option_table[]; /* [cox__n_options] */
extern const size_t cox__n_options;

#endif
