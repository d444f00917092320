/* The one parser of options and the one printer of --help; the rows are in option_table.c. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "cli/commands.h"
#include "cli/option_table.h"

void cox_options_defaults(cox_options *options, cox_command command)
{
    *options = (cox_options){.command = command,
                             .coordinators = 1,
                             .experts_on = "workers",
                             .exchange = "auto",
                             .kernel = "auto",
                             .prefill_chunk = 512,
                             .residual_memory_bytes = UINT64_MAX,
                             .max_tokens = 256,
                             .n_best = 1,
                             .shown_cell = -1,
                             .max_kl = 1,
                             .drain_time_s = 10,
                             .site = "resid_post",
                             .layer = "all",
                             .position = "last",
                             .last = 5,
                             .measure = "top1",
                             .top = 20,
                             .resamples = 2000,
                             .method = "mean-difference",
                             .layers = "all",
                             .positions = "last",
                             .logprobs = -1,
                             .top_p = 1.0,
                             .repetition_penalty = 1.0,
                             .n_requests = 256,
                             .n_prompt_tokens = 32,
                             .n_new_tokens = 32,
                             .n_rounds = 9,
                             .n_cells = 100,
                             .relative_norm = 0.1,
                             .facts = {.layer = -1, .expert = -1},
                             .progress = "auto"};
}

void cox_options_free(cox_options *options)
{
    free(options->prompts.items);
    free(options->prompt_files.items);
    free(options->stops.items);
    free(options->filter_phrases.items);
    free(options->inputs.items);
    free(options->plans.items);
    free(options->plain.items);
    free(options->without.items);
}

/* --- Values --- */

static cox_status bad_value(const cox_option_row *row, const char *text, const char *wanted)
{
    return cox_fail(COX_INVALID, "%s \"%s\": must be %s", row->name, text, wanted);
}

static cox_status read_integer(const cox_option_row *row, const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0') return bad_value(row, text, "a whole number");
    if (errno != 0 || (double)value < row->low || (double)value > row->high) {
        return cox_fail(COX_INVALID, "%s %s: outside %.0f to %.0f", row->name, text, row->low, row->high);
    }
    *out = value;
    return COX_OK;
}

static cox_status read_number(const cox_option_row *row, const char *text, double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) return bad_value(row, text, "a number");
    if (value < row->low || value > row->high) {
        return cox_fail(COX_INVALID, "%s %s: outside %g to %g", row->name, text, row->low, row->high);
    }
    *out = value;
    return COX_OK;
}

/* 4096, 512K, 512M, 4G, 1T, with an optional B or iB behind the letter; powers of 1024. */
static cox_status read_bytes(const cox_option_row *row, const char *text, uint64_t *out)
{
    static const char letters[] = "KMGT";
    char *end = NULL;
    double value = strtod(text, &end);
    const char *letter = *end ? strchr(letters, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    double unit = 1.0;
    if (letter) {
        end++;
        unit = pow(1024.0, (double)(letter - letters + 1));
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (end == text || *end != '\0' || !(value >= 0.0 && value > row->low))
        return bad_value(row, text, "a number of bytes such as 512M or 4G");
    if (value * unit > 1e18) return bad_value(row, text, "below 1e18 bytes");
    *out = (uint64_t)(value * unit);
    return COX_OK;
}

static cox_status read_choice(const cox_option_row *row, const char *text, const char **out)
{
    size_t n = strlen(text);
    for (const char *word = row->value; n > 0 && *word;) {
        size_t length = strcspn(word, "|");
        if (length == n && memcmp(word, text, n) == 0) {
            *out = text;
            return COX_OK;
        }
        word += length + (word[length] == '|');
    }
    cox_nearest nearest = cox_nearest_to(text, n);
    cox_nearest_offer_words(&nearest, row->value, "|");
    return cox_fail(COX_INVALID, "%s \"%s\": must be one of %s%s", row->name, text, row->value, nearest.hint);
}

static cox_status add_text(const char *text, cox_texts *list)
{
    const char **larger = realloc(list->items, (list->n + 1) * sizeof *larger);
    if (!larger) return cox_no_memory("the options");
    list->items = larger;
    list->items[list->n++] = text;
    return COX_OK;
}

static cox_status store(const cox_option_row *row, const char *text, cox_options *options)
{
    void *field = (char *)options + row->offset;
    switch (row->kind) {
    case COX_OPTION_FLAG: *(bool *)field = true; return COX_OK;
    case COX_OPTION_INTEGER: return read_integer(row, text, field);
    case COX_OPTION_NUMBER: return read_number(row, text, field);
    case COX_OPTION_TEXT_VALUE: *(const char **)field = text; return COX_OK;
    case COX_OPTION_TEXTS: return add_text(text, field);
    case COX_OPTION_CHOICE: return read_choice(row, text, field);
    case COX_OPTION_BYTES: return read_bytes(row, text, field);
    }
    return COX_INTERNAL;
}

/* --- Parsing --- */

static bool takes(const cox_option_row *row, cox_command command)
{
    return row->commands & (1 << command | cox_command_takes(command));
}

static const cox_option_row *find_row(const char *name, size_t length, cox_command command)
{
    for (size_t i = 0; i < cox__n_options; i++) {
        if (!takes(&cox__option_table[i], command)) continue;
        if (strlen(cox__option_table[i].name) == length &&
            memcmp(cox__option_table[i].name, name, length) == 0)
            return &cox__option_table[i];
    }
    return NULL;
}

static bool has_bit(const cox_options *options, size_t row)
{
    return options->given[row / 64] >> row % 64 & 1;
}

bool cox_options_is_given(const cox_options *options, const char *name)
{
    const cox_option_row *row = find_row(name, strlen(name), options->command);
    return row && has_bit(options, (size_t)(row - cox__option_table));
}

static cox_status unknown_option(const char *name, size_t length, cox_command command)
{
    cox_nearest nearest = cox_nearest_to(name, length);
    for (size_t i = 0; i < cox__n_options; i++) {
        if (takes(&cox__option_table[i], command))
            cox_nearest_offer(&nearest, cox__option_table[i].name, strlen(cox__option_table[i].name));
    }
    return cox_fail(COX_INVALID, "unknown option %.*s%s", (int)length, name, nearest.hint);
}

static cox_status check_required(const cox_options *options)
{
    for (size_t i = 0; i < cox__n_options; i++) {
        if (cox__option_table[i].is_required && takes(&cox__option_table[i], options->command) &&
            !has_bit(options, i)) {
            return cox_fail(COX_INVALID, "%s %s is missing", cox__option_table[i].name,
                            cox__option_table[i].value);
        }
    }
    return COX_OK;
}

cox_status cox_options_parse(cox_options *options, int argc, char *const argv[])
{
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        if (strncmp(argument, "--", 2) != 0) {
            if (cox_command_takes(options->command) & COX_TAKES_FILES) {
                cox_status status = add_text(argument, &options->plain);
                if (status != COX_OK) return status;
                continue;
            }
            return cox_fail(COX_INVALID, "\"%s\" is not an option; every value needs one before it",
                            argument);
        }
        size_t length = strcspn(argument, "=");
        const cox_option_row *row = find_row(argument, length, options->command);
        if (!row) return unknown_option(argument, length, options->command);
        const char *value = argument[length] == '=' ? argument + length + 1 : NULL;
        if (row->kind == COX_OPTION_FLAG && value)
            return cox_fail(COX_INVALID, "%s takes no value", row->name);
        if (row->kind != COX_OPTION_FLAG && !value) {
            if (i + 1 >= argc) return cox_fail(COX_INVALID, "%s needs a value (%s)", row->name, row->value);
            value = argv[++i];
        }
        if (row->kind != COX_OPTION_TEXTS && row->kind != COX_OPTION_FLAG &&
            has_bit(options, (size_t)(row - cox__option_table))) {
            return cox_fail(COX_INVALID, "%s is given twice", row->name);
        }
        options->given[(row - cox__option_table) / 64] |= UINT64_C(1) << (row - cox__option_table) % 64;
        cox_status status = store(row, value, options);
        if (status != COX_OK) return status;
    }
    return options->has_help ? COX_OK : check_required(options);
}

void cox_options_print_help(cox_command command, FILE *file)
{
    cox_command_print_about(command, file);
    for (size_t i = 0; i < cox__n_options; i++) {
        if (!takes(&cox__option_table[i], command)) continue;
        char left[80];
        snprintf(left, sizeof left, "%s%s%s", cox__option_table[i].name,
                 cox__option_table[i].value ? " " : "",
                 cox__option_table[i].value ? cox__option_table[i].value : "");
        if (strlen(left) > 24) {
            fprintf(file, "  %s\n  %-26s%s\n", left, "", cox__option_table[i].help);
        } else {
            fprintf(file, "  %-26s%s\n", left, cox__option_table[i].help);
        }
    }
    fprintf(file, "\nExit codes: 0 done; 2 wrong options; 3 not found; 4 malformed file; 5 not supported;\n"
                  "6 not enough memory; 7 too long; 8 in use by another run; 9 input or output failed;\n"
                  "10 another rank failed; 11 internal; 75 stopped, the same command goes on.\n");
}
