/* From the lines of stage 1 to tables, and the choice of cells whose answers are generated. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/sweep.h"

/* --- Reading --- */

/* Values of one set in one line; what is not finite is NaN. */
static cox_status read_values(const json_t *line, const char *where, const char *set, const char *name,
                              int32_t n, double *out)
{
    const json_t *list = json_object_get(json_object_get(line, set), name);
    if (json_array_size(list) != (size_t)n)
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\".\"%s\" must be a list of %d numbers", where, set, name,
                        (int)n);
    for (int32_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        out[i] = json_is_number(item) ? json_number_value(item) : (double)NAN;
    }
    return COX_OK;
}

static double mean_of(const double *values, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += values[i];
    return sum / n;
}

typedef struct lines {
    const cox_sweep *sweep;
    json_t **items; /* [n_cells + 1] by key */
} lines;

static cox_status keep_line(lines *l, const char *text, size_t n, const char *where)
{
    json_t *json = NULL;
    int64_t cell = 0, n_cells = l->sweep->grid->n_cells;
    cox_status status = cox_json_load_text(&json, text, n, where);
    if (status == COX_OK) status = cox_json_int(json, where, "cell", true, -1, n_cells - 1, &cell);
    if (status == COX_OK && l->items[cell + 1])
        status = cox_fail(COX_BAD_FILE, "%s: cell %" PRId64 " stands there twice", where, cell);
    if (status == COX_OK)
        l->items[cell + 1] = json;
    else
        json_decref(json);
    return status;
}

static cox_status read_lines(lines *l)
{
    char *path = cox_sweep_path(l->sweep, "stage1.jsonl"), *text = NULL;
    if (!path) return COX_NO_MEMORY;
    size_t room = 0;
    FILE *file = fopen(path, "r");
    cox_status status = file ? COX_OK : cox_fail(COX_IO, "%s: %s", path, strerror(errno));
    for (int64_t number = 1; status == COX_OK; number++) {
        ssize_t n = getline(&text, &room, file);
        if (n <= 0) break;
        char where[1100];
        snprintf(where, sizeof where, "%.1000s: line %" PRId64, path, number);
        status = keep_line(l, text, (size_t)n, where);
    }
    if (file) fclose(file);
    free(text);
    free(path);
    return status;
}

/* --- Rows --- */

typedef struct paired {
    double *clean, *steered, *change; /* [n] */
    int32_t n;
} paired;

static cox_status compare(const json_t *clean, const json_t *line, const char *set, paired *p, double *mean,
                          cox_interval *change)
{
    const cox_bootstrap bootstrap = {.n_resamples = 1000};
    cox_status status = read_values(clean, "the clean run", set, "log_odds", p->n, p->clean);
    if (status == COX_OK) status = read_values(line, "stage1.jsonl", set, "log_odds", p->n, p->steered);
    if (status != COX_OK) return status;
    for (int32_t i = 0; i < p->n; i++) p->change[i] = p->steered[i] - p->clean[i];
    *mean = mean_of(p->steered, p->n);
    *change = (cox_interval){(double)NAN, (double)NAN, (double)NAN};
    return isfinite(*mean) ? cox_interval_mean(p->change, p->n, &bootstrap, change) : COX_OK;
}

static cox_status make_row(const cox_sweep *s, const json_t *clean, const json_t *line, paired *p,
                           cox_sweep_row *row)
{
    const char *neutral = s->n_sets == 3 ? "neutral" : "b";
    int32_t n_neutral = s->sets[s->n_sets - 1].n;
    int64_t n_idle = 0;
    p->n = s->sets[COX_SWEEP_A].n;
    cox_status status = compare(clean, line, "a", p, &row->log_odds_a, &row->change_a);
    p->n = s->sets[COX_SWEEP_B].n;
    if (status == COX_OK) status = compare(clean, line, "b", p, &row->log_odds_b, &row->change_b);
    if (status == COX_OK) status = read_values(line, "stage1.jsonl", neutral, "kl", n_neutral, p->change);
    if (status == COX_OK) status = cox_json_int(line, "stage1.jsonl", "idle", true, 0, INT32_MAX, &n_idle);
    row->kl = status == COX_OK ? mean_of(p->change, n_neutral) : 0;
    row->n_idle = (int32_t)n_idle;
    return status;
}

static cox_status make_rows(const lines *l, cox_sweep_table *table)
{
    const cox_sweep *s = l->sweep;
    size_t most = 1;
    for (int32_t i = 0; i < s->n_sets; i++) most = (size_t)s->sets[i].n > most ? (size_t)s->sets[i].n : most;
    double *memory = calloc(3 * most, sizeof *memory);
    table->rows = calloc((size_t)s->grid->n_cells, sizeof *table->rows);
    cox_status status = memory && table->rows ? COX_OK : cox_no_memory("the tables");
    if (status == COX_OK && !l->items[0])
        status = cox_fail(COX_BAD_FILE, "stage1.jsonl: the clean run is missing");
    paired p = {.clean = memory, .steered = memory + most, .change = memory + 2 * most};
    cox_sweep_row clean = {0};
    if (status == COX_OK) status = make_row(s, l->items[0], l->items[0], &p, &clean);
    table->clean_a = clean.log_odds_a;
    table->clean_b = clean.log_odds_b;
    for (int64_t c = 0; c < s->grid->n_cells && status == COX_OK; c++) {
        if (!l->items[c + 1]) continue;
        table->rows[table->n].cell = c;
        status = make_row(s, l->items[0], l->items[c + 1], &p, &table->rows[table->n]);
        table->n++;
    }
    free(memory);
    return status;
}

cox_status cox_sweep_read_table(const cox_sweep *sweep, cox_sweep_table *table)
{
    size_t n = (size_t)sweep->grid->n_cells + 1;
    lines l = {.sweep = sweep, .items = calloc(n, sizeof *l.items)};
    *table = (cox_sweep_table){0};
    cox_status status = l.items ? read_lines(&l) : cox_no_memory("the tables");
    if (status == COX_OK) status = make_rows(&l, table);
    for (size_t i = 0; l.items && i < n; i++) json_decref(l.items[i]);
    free(l.items);
    if (status == COX_OK) return COX_OK;
    free(table->rows);
    *table = (cox_sweep_table){0};
    return status;
}

/* --- CSV --- */

static void print_number(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, ",%.9g", value);
    else
        fputc(',', out);
}

static void print_interval(FILE *out, cox_interval i)
{
    print_number(out, i.value);
    print_number(out, i.low);
    print_number(out, i.high);
}

/* A field with commas or quotes in it. */
static void print_quoted(FILE *out, const char *text)
{
    fputs(",\"", out);
    for (; *text; text++) fprintf(out, *text == '"' ? "\"\"" : "%c", *text);
    fputc('"', out);
}

static void print_row(FILE *out, const cox_sweep *s, const cox_sweep_row *row)
{
    const cox_sweep_cell cell = cox_sweep_cell_at(s->grid, row->cell);
    const cox_sweep_block *b = cell.block;
    const char *word = json_string_value(cell.positions);
    char *positions = word ? strdup(word) : json_dumps(cell.positions, JSON_COMPACT);
    fprintf(out, "%" PRId64, row->cell);
    print_quoted(out, b->name);
    fprintf(out, ",%s,%s,%s,%d,%d,", cox_site_name(b->site), cox_op_name(b->op),
            cox_sweep_control_name(b->control), (int)cell.seed, (int)cell.layer);
    if (b->is_together) fputs("together", out);
    if (cell.expert >= 0) fprintf(out, "%d", (int)cell.expert);
    fprintf(out, ",%s,%d", b->site == COX_SITE_EXPERT_OUT ? cox_weighting_name(cell.weighting) : "",
            (int)cell.source);
    print_quoted(out, positions ? positions : "");
    free(positions);
    fprintf(out, ",%.9g,%d", (double)cell.strength, (int)row->n_idle);
    print_number(out, row->log_odds_a);
    print_interval(out, row->change_a);
    print_number(out, row->log_odds_b);
    print_interval(out, row->change_b);
    print_number(out, row->kl);
    fputc('\n', out);
}

cox_status cox_sweep_write_csv(const cox_sweep *sweep, const cox_sweep_table *table)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) return cox_no_memory("cells.csv");
    fputs("cell,block,site,op,control,seed,layer,expert,weighting,source,positions,strength,idle,"
          "log_odds_a,change_a,change_a_low,change_a_high,"
          "log_odds_b,change_b,change_b_low,change_b_high,kl\n",
          out);
    for (int64_t i = 0; i < table->n; i++) print_row(out, sweep, &table->rows[i]);
    fclose(out);
    cox_status status = cox_sweep_write_file(sweep, "cells.csv", text, n);
    free(text);
    return status;
}

/* --- The choice --- */

/* Higher is better; NaN: not to be chosen. */
static double score(const cox_sweep *s, const cox_sweep_row *row, bool is_weakening)
{
    bool is_within = row->kl <= s->options->max_kl || (!is_weakening && s->n_sets < 3);
    if (!is_within) return (double)NAN;
    return is_weakening ? -row->change_a.value : row->change_b.value;
}

static bool applies_alike(const cox_sweep_block *a, const cox_sweep_block *b)
{
    return a->n_apply_sites == b->n_apply_sites && a->applies_everywhere == b->applies_everywhere &&
           (a->n_apply_sites == 0 ||
            memcmp(a->apply_sites, b->apply_sites, (size_t)a->n_apply_sites * sizeof *a->apply_sites) == 0);
}

static bool is_same_place(const cox_sweep_cell *a, const cox_sweep_cell *b)
{
    return a->block->site == b->block->site && a->block->op == b->block->op &&
           a->block->is_together == b->block->is_together && applies_alike(a->block, b->block) &&
           a->layer == b->layer && a->expert == b->expert && a->source == b->source &&
           a->weighting == b->weighting && a->strength == b->strength &&
           json_equal(a->positions, b->positions);
}

/* Marks the n_best of one block. */
static void mark_best(const cox_sweep *s, const cox_sweep_table *table, const cox_sweep_block *block,
                      bool is_weakening, uint8_t *is_chosen)
{
    for (int64_t k = 0; k < s->options->n_best; k++) {
        int64_t best = -1;
        double best_score = 0; /* a cell that does nothing, or the opposite, is not chosen */
        for (int64_t i = 0; i < table->n; i++) {
            int64_t cell = table->rows[i].cell;
            if (cell < block->first || cell >= block->first + block->n_cells || is_chosen[cell]) continue;
            double value = score(s, &table->rows[i], is_weakening);
            if (value > best_score) best = cell, best_score = value;
        }
        if (best < 0) return;
        is_chosen[best] = 1;
    }
}

static void mark_controls(const cox_sweep *s, const uint8_t *is_chosen, uint8_t *is_control)
{
    for (int64_t c = 0; c < s->grid->n_cells; c++) {
        const cox_sweep_cell control = cox_sweep_cell_at(s->grid, c);
        if (control.block->control == COX_SWEEP_DIRECTION) continue;
        for (int64_t d = 0; d < s->grid->n_cells && !is_control[c]; d++) {
            if (!is_chosen[d]) continue;
            const cox_sweep_cell cell = cox_sweep_cell_at(s->grid, d);
            is_control[c] = is_same_place(&cell, &control);
        }
    }
}

cox_status cox_sweep_choose(const cox_sweep *sweep, const cox_sweep_table *table, int64_t **cells, int64_t *n)
{
    size_t n_cells = (size_t)sweep->grid->n_cells;
    uint8_t *is_chosen = calloc(n_cells, 1), *is_control = calloc(n_cells, 1);
    *cells = malloc((n_cells + 1) * sizeof **cells);
    *n = 0;
    if (is_chosen && is_control && *cells) {
        for (int32_t b = 0; b < sweep->grid->n_blocks; b++) {
            const cox_sweep_block *block = &sweep->grid->blocks[b];
            if (block->control != COX_SWEEP_DIRECTION) continue;
            mark_best(sweep, table, block, true, is_chosen);
            mark_best(sweep, table, block, false, is_chosen);
        }
        mark_controls(sweep, is_chosen, is_control);
        for (size_t c = 0; c < n_cells; c++) {
            if (is_chosen[c] || is_control[c]) (*cells)[(*n)++] = (int64_t)c;
        }
    }
    bool has_memory = is_chosen && is_control && *cells;
    free(is_chosen);
    free(is_control);
    return has_memory ? COX_OK : cox_no_memory("the choice of cells");
}

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *interval_json(cox_interval i)
{
    return json_pack("[o, o, o]", real(i.value), real(i.low), real(i.high));
}

cox_status cox_sweep_write_best(const cox_sweep *sweep, const cox_sweep_table *table, const int64_t *cells,
                                int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        const cox_sweep_cell cell = cox_sweep_cell_at(sweep->grid, cells[i]);
        const cox_sweep_row *row = table->rows;
        while (row->cell != cells[i]) row++;
        json_t *item = cox_sweep_cell_json(&cell);
        json_object_set_new(item, "change_a", interval_json(row->change_a));
        json_object_set_new(item, "change_b", interval_json(row->change_b));
        json_object_set_new(item, "kl", real(row->kl));
        json_object_set_new(item, "plan", cox_sweep_plan(sweep, &cell, true));
        json_array_append_new(list, item);
    }
    int32_t label = cox_rules_behaviour(sweep->rules);
    json_t *json = json_pack("{s:s?, s:{s:o, s:o}, s:o}", "behaviour",
                             label < 0 ? NULL : cox_rules_label(sweep->rules, label), "clean", "log_odds_a",
                             real(table->clean_a), "log_odds_b", real(table->clean_b), "cells", list);
    char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(json);
    if (!text) return cox_no_memory("best.json");
    cox_status status = cox_sweep_write_file(sweep, "best.json", text, strlen(text));
    free(text);
    return status;
}
