/*
 * Count, mean and variance of each class (an input file) at each place, and no rows: a prompt's own moments
 * in the order of its rows, merged into its block's in the order of prompts, gathered, and merged in the
 * order of blocks (study/direction.h), so the bits do not depend on who computed what.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "study/capture.h"
#include "study/direction.h"
#include "study/moments.h"
#include "steering/tensor_file.h"

enum { MAX_WINDOW = 128, WINDOW_BYTES = 256 << 20, NAME_BYTES = 64, TENSORS = 3 };

typedef struct statistics {
    cox_capture *c;
    size_t n_places;           /* positions by themselves, or 1: of all */
    size_t n_counts, n_values; /* of a set of moments: counts, then means, then squares, each values */
    int32_t window, n_mine;    /* n_mine: blocks of this coordinator */
    int32_t *n_blocks;         /* [files] */
    double *prompts;           /* [window] sets of moments */
    double *blocks;            /* [n_mine] sets */
    double *classes;           /* [files] sets, on rank 0 */
} statistics;

static size_t set_size(const statistics *s)
{
    return s->n_counts + 2 * s->n_values;
}

/* --- Places in a set of moments --- */

typedef struct cell {
    double *count, *mean, *squares;
} cell;

static cell cell_at(const statistics *s, double *set, size_t place, const cox_capture_column *column,
                    size_t unit)
{
    size_t count = place * s->c->n_units + column->first_unit + unit;
    size_t value = place * s->c->n_floats + column->first + unit * (size_t)column->width;
    double *means = set + s->n_counts;
    return (cell){set + count, means + value, means + s->n_values + value};
}

static void merge(const statistics *s, double *set, double *other)
{
    for (size_t place = 0; place < s->n_places; place++) {
        for (int32_t i = 0; i < s->c->n_columns; i++) {
            const cox_capture_column *column = &s->c->columns[i];
            for (size_t unit = 0; unit < (size_t)column->n_units; unit++) {
                cell to = cell_at(s, set, place, column, unit), from = cell_at(s, other, place, column, unit);
                cox_moments_merge(to.count, to.mean, to.squares, *from.count, from.mean, from.squares,
                                  (size_t)column->width);
            }
        }
    }
}

/* --- The pass --- */

static void on_row(void *context, const cox_pass_prompt *prompt, cox_site site, int32_t layer, int32_t expert,
                   int32_t place, const float *h)
{
    statistics *s = context;
    const cox_capture_column *column = cox_capture_at(s->c, site, layer);
    double *set = s->prompts + (size_t)(prompt->index % s->window) * set_size(s);
    size_t unit = site == COX_SITE_EXPERT_OUT ? (size_t)s->c->unit_of[expert] : 0;
    cell at = cell_at(s, set, s->c->n_positions ? (size_t)place : 0, column, unit);
    cox_moments_add(at.count, at.mean, at.squares, h, (size_t)column->width);
}

static cox_status on_statistics_done(void *context, const cox_pass_prompt *prompt)
{
    statistics *s = context;
    double *set = s->prompts + (size_t)(prompt->index % s->window) * set_size(s);
    for (size_t i = 0; i < set_size(s); i++) {
        if (!isfinite(set[i]))
            return cox_fail(COX_INVALID, "a captured row is not finite, or too large for f64");
    }
    int32_t block = s->c->blocks[prompt->number] / cox_cluster_n_coordinators(s->c->run->cluster);
    merge(s, s->blocks + (size_t)block * set_size(s), set);
    memset(set, 0, set_size(s) * sizeof *set);
    return COX_OK;
}

/* --- Memory --- */

static cox_status divide(statistics *s)
{
    cox_capture *c = s->c;
    c->blocks = calloc((size_t)c->work.n + 1, sizeof *c->blocks);
    s->n_blocks = calloc((size_t)c->work.n_files, sizeof *s->n_blocks);
    if (!c->blocks || !s->n_blocks) return cox_no_memory("statistics of rows");
    for (int32_t f = 0, i = 0; f < c->work.n_files; f++) {
        for (int32_t k = 0; k < c->work.of_file[f]; k++, i++) c->blocks[i] = c->n_blocks + cox_class_block(k);
        s->n_blocks[f] = cox_class_n_blocks(c->work.of_file[f]);
        c->n_blocks += s->n_blocks[f];
    }
    return COX_OK;
}

static cox_status statistics_take_memory(statistics *s)
{
    cox_capture *c = s->c;
    int32_t n_coordinators = cox_cluster_n_coordinators(c->run->cluster);
    s->n_places = (size_t)(c->n_positions ? c->n_positions : 1);
    s->n_counts = s->n_places * c->n_units;
    s->n_values = s->n_places * c->n_floats;
    cox_status status = divide(s);
    if (status != COX_OK || !cox_cluster_is_coordinator(c->run->cluster)) return status;
    s->n_mine = (c->n_blocks - c->run->rank + n_coordinators - 1) / n_coordinators;
    if (s->n_mine < 0) s->n_mine = 0;
    size_t bytes = set_size(s) * sizeof(double), fitting = WINDOW_BYTES / bytes;
    s->window = fitting > MAX_WINDOW ? MAX_WINDOW : fitting < 4 ? 4 : (int32_t)fitting;
    status = cox_capture_check_room((double)bytes * (s->window + s->n_mine));
    if (status != COX_OK) return status;
    s->prompts = calloc((size_t)s->window, bytes);
    s->blocks = calloc((size_t)s->n_mine + 1, bytes);
    return s->prompts && s->blocks ? COX_OK : cox_no_memory("statistics of rows");
}

/* --- All together --- */

/* On rank 0: the blocks of all coordinators in order. */
static cox_status add_up(statistics *s, double *all, const size_t *offsets)
{
    int32_t n_coordinators = cox_cluster_n_coordinators(s->c->run->cluster);
    s->classes = calloc((size_t)s->c->work.n_files, set_size(s) * sizeof *s->classes);
    if (!s->classes) return cox_no_memory("statistics of rows");
    for (int32_t f = 0, block = 0; f < s->c->work.n_files; f++) {
        for (int32_t i = 0; i < s->n_blocks[f]; i++, block++) {
            double *from = all + offsets[block % n_coordinators] / sizeof *all;
            merge(s, s->classes + (size_t)f * set_size(s),
                  from + (size_t)(block / n_coordinators) * set_size(s));
        }
    }
    return COX_OK;
}

/* Tensors of one column over all classes: [files, places, units(, width)]. */
static void fill(const statistics *s, const cox_capture_column *column, int64_t *counts, double *means,
                 double *variances)
{
    size_t width = (size_t)column->width;
    for (int32_t f = 0; f < s->c->work.n_files; f++) {
        for (size_t place = 0; place < s->n_places; place++) {
            for (size_t unit = 0; unit < (size_t)column->n_units; unit++) {
                cell at = cell_at(s, s->classes + (size_t)f * set_size(s), place, column, unit);
                *counts++ = (int64_t)*at.count;
                for (size_t i = 0; i < width; i++) {
                    *means++ = at.mean[i];
                    *variances++ = *at.count > 0 ? at.squares[i] / *at.count : 0;
                }
            }
        }
    }
}

static cox_status write_file(const statistics *s)
{
    static const char *const kinds[TENSORS] = {"count", "mean", "variance"};
    static const char *const dtypes[TENSORS] = {"I64", "F64", "F64"};
    const cox_capture *c = s->c;
    size_t n = (size_t)c->n_columns, n_files = (size_t)c->work.n_files;
    cox_tensor_out *tensors = calloc(TENSORS * n, sizeof *tensors);
    char(*names)[NAME_BYTES] = calloc(TENSORS * n, sizeof *names);
    int64_t *counts = malloc(n_files * s->n_counts * sizeof *counts), *count = counts;
    double *values = malloc(2 * n_files * s->n_values * sizeof *values), *value = values;
    char *path = cox_capture_path(c, "statistics.safetensors");
    cox_status status =
        tensors && names && counts && values && path ? COX_OK : cox_no_memory("statistics of rows");
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        const cox_capture_column *column = &c->columns[i];
        size_t n_units = n_files * s->n_places * (size_t)column->n_units,
               n_own = n_units * (size_t)column->width;
        const void *const data[TENSORS] = {count, value, value + n_own};
        fill(s, column, count, value, value + n_own);
        count += n_units, value += 2 * n_own;
        for (size_t k = 0; k < TENSORS; k++) {
            char *name = names[TENSORS * i + k];
            snprintf(name, NAME_BYTES, "%s.%d.%s", cox_site_name(column->site), (int)column->layer, kinds[k]);
            tensors[TENSORS * i + k] = (cox_tensor_out){
                name,
                dtypes[k],
                {(int64_t)n_files, (int64_t)s->n_places, column->n_units, k == 0 ? 0 : column->width},
                data[k]};
        }
    }
    if (status == COX_OK) status = cox_tensor_file_write(path, tensors, TENSORS * n, NULL);
    free(path);
    free(values);
    free(counts);
    free(names);
    free(tensors);
    return status;
}

/* Collective; every rank has finished. */
static cox_status gather(statistics *s)
{
    void *all = NULL;
    size_t *offsets = NULL, n_bytes = (size_t)s->n_mine * set_size(s) * sizeof *s->blocks;
    cox_status status = cox_cluster_gather(s->c->run->cluster, s->blocks, n_bytes, &all, &offsets);
    bool is_front = cox_run_is_front(s->c->run);
    if (status == COX_OK && is_front) status = add_up(s, all, offsets);
    if (status == COX_OK && is_front) status = write_file(s);
    free(all);
    free(offsets);
    return cox_run_agree(s->c->run, status);
}

cox_status cox_capture_statistics(cox_capture *c)
{
    statistics s = {.c = c, .window = 1};
    cox_status status = statistics_take_memory(&s);
    const cox_pass_sink sink = {
        .context = &s, .name = "capture", .window = s.window, .row = on_row, .done = on_statistics_done};
    status = cox_capture_run(c, &sink, false, status);
    if (status == COX_OK) status = gather(&s);
    free(s.classes);
    free(s.blocks);
    free(s.prompts);
    free(s.n_blocks);
    return status;
}
