/*
 * Rows as they are, in shards: blocks of prompts that hold at most SHARD_PROMPTS and, unless one prompt alone
 * has more, SHARD_BYTES. A shard is computed, held and written by one coordinator; which prompts it has does
 * not depend on how many coordinators there are, so the files do not either.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/capture.h"
#include "steering/tensor_file.h"

enum { SHARD_PROMPTS = 32, SHARD_BYTES = 128 << 20, NAME_BYTES = 64, ROUTE_TENSORS = 4 };

/* Routes of a layer: [rows, top_k] each. */
typedef struct routes {
    int32_t *experts;
    float *logits, *weights, *margins;
} routes;

typedef struct shards {
    cox_capture *c;
    int32_t *first_rows; /* [prompts] where a prompt's rows begin in its shard */
    int32_t *n_rows;     /* [n_blocks] */
    int32_t *n_prompts;  /* [n_blocks] */
    int32_t *first;      /* [n_blocks] its first prompt */
    int32_t n_most_rows; /* of a shard of this coordinator */
    int32_t n_done;      /* prompts of the current shard */
    /* the current shard */
    float *rows;                  /* [n_floats, n_rows]: column after column */
    int32_t *experts;             /* [n_units, n_rows] alike; -1: none. Of expert_out when routed */
    int32_t *prompts, *positions; /* [n_rows] */
    routes *routes;               /* [the model's layers]; experts NULL: not asked for */
} shards;

/* --- Which prompts a shard has --- */

static double row_bytes(const cox_capture *c)
{
    double of_routes = c->options->has_routes ? 16.0 * c->n_layers * c->run->model->router.top_k : 0;
    return 4.0 * (double)c->n_floats + 4.0 * (double)c->n_units + 8 + of_routes;
}

static cox_status divide(shards *s)
{
    cox_capture *c = s->c;
    size_t n = (size_t)c->work.n + 1;
    c->blocks = calloc(n, sizeof *c->blocks);
    s->first_rows = calloc(n, sizeof *s->first_rows);
    s->n_rows = calloc(n, sizeof *s->n_rows);
    s->n_prompts = calloc(n, sizeof *s->n_prompts);
    s->first = calloc(n, sizeof *s->first);
    if (!c->blocks || !s->first_rows || !s->n_rows || !s->n_prompts || !s->first)
        return cox_no_memory("captured rows");
    for (int32_t i = 0, b = -1; i < c->work.n; i++) {
        int32_t rows = cox_capture_n_rows(c, &c->work.prompts[i]);
        if (b < 0 || s->n_prompts[b] == SHARD_PROMPTS || (s->n_rows[b] + rows) * row_bytes(c) > SHARD_BYTES) {
            s->first[++b] = i;
            c->n_blocks = b + 1;
        }
        c->blocks[i] = b;
        s->first_rows[i] = s->n_rows[b];
        s->n_rows[b] += rows;
        s->n_prompts[b]++;
    }
    for (int32_t b = 0; b < c->n_blocks; b++) {
        if (cox_pass_is_mine(c->run, b) && s->n_rows[b] > s->n_most_rows) s->n_most_rows = s->n_rows[b];
    }
    return COX_OK;
}

static cox_status take_routes(shards *s)
{
    const cox_model *model = s->c->run->model;
    size_t n = (size_t)s->n_most_rows * (size_t)model->router.top_k + 1;
    s->routes = calloc((size_t)model->n_layers, sizeof *s->routes);
    if (!s->routes) return cox_no_memory("captured rows");
    for (int32_t i = 0; i < s->c->n_layers && s->c->options->has_routes; i++) {
        routes *r = &s->routes[s->c->layers[i]];
        if (!model->layers[s->c->layers[i]].is_moe) continue;
        r->experts = malloc(n * sizeof *r->experts);
        r->logits = malloc(n * sizeof *r->logits);
        r->weights = malloc(n * sizeof *r->weights);
        r->margins = malloc(n * sizeof *r->margins);
        if (!r->experts || !r->logits || !r->weights || !r->margins) return cox_no_memory("captured rows");
    }
    return COX_OK;
}

static cox_status shards_take_memory(shards *s)
{
    cox_status status = divide(s);
    if (status == COX_OK) status = cox_capture_check_room(s->n_most_rows * row_bytes(s->c));
    if (status != COX_OK) return status;
    size_t n = (size_t)s->n_most_rows;
    s->rows = malloc(n * s->c->n_floats * sizeof *s->rows + 1);
    s->experts = malloc(n * s->c->n_units * sizeof *s->experts + 1);
    s->prompts = malloc(n * sizeof *s->prompts + 1);
    s->positions = malloc(n * sizeof *s->positions + 1);
    if (!s->rows || !s->experts || !s->prompts || !s->positions) return cox_no_memory("captured rows");
    return take_routes(s);
}

/* --- The pass --- */

static void start_shard(shards *s, int32_t block)
{
    size_t n = (size_t)s->n_rows[block];
    memset(s->rows, 0, n * s->c->n_floats * sizeof *s->rows);
    memset(s->experts, -1, n * s->c->n_units * sizeof *s->experts);
}

/* Row of a prompt's place in its shard. */
static size_t row_of(const shards *s, const cox_pass_prompt *prompt, int32_t place)
{
    return (size_t)(s->first_rows[prompt->number] + place);
}

static void on_row(void *context, const cox_pass_prompt *prompt, cox_site site, int32_t layer, int32_t expert,
                   int32_t place, const float *h)
{
    shards *s = context;
    const cox_capture_column *column = cox_capture_at(s->c, site, layer);
    size_t n_rows = (size_t)s->n_rows[s->c->blocks[prompt->number]], n_units = (size_t)column->n_units;
    size_t row = row_of(s, prompt, place), unit = 0, width = (size_t)column->width;
    if (site == COX_SITE_EXPERT_OUT && s->c->is_routed) { /* they come in ascending order */
        int32_t *experts = s->experts + column->first_unit * n_rows + row * n_units;
        while (experts[unit] >= 0) unit++;
        experts[unit] = expert;
    } else if (site == COX_SITE_EXPERT_OUT) {
        unit = (size_t)s->c->unit_of[expert];
    }
    memcpy(s->rows + column->first * n_rows + (row * n_units + unit) * width, h, width * sizeof *h);
}

static void on_shards_routes(void *context, const cox_pass_prompt *prompt, int32_t layer, int32_t place,
                             const cox_traced_route *traced)
{
    shards *s = context;
    const routes *r = &s->routes[layer];
    int32_t top_k = s->c->run->model->router.top_k;
    size_t at = row_of(s, prompt, place) * (size_t)top_k;
    if (!r->experts) return;
    for (int32_t j = 0; j < top_k; j++, at++) {
        r->experts[at] = traced[j].expert;
        r->logits[at] = traced[j].logit;
        r->weights[at] = traced[j].weight;
        r->margins[at] = traced[j].margin;
    }
}

/* --- Writing --- */

typedef struct sheet {
    cox_tensor_out *tensors;
    char (*names)[NAME_BYTES];
    size_t n;
} sheet;

static cox_tensor_out *add(sheet *out, const char *dtype, const void *data, int64_t n_rows, int64_t n_columns)
{
    cox_tensor_out *tensor = &out->tensors[out->n];
    *tensor = (cox_tensor_out){out->names[out->n], dtype, {n_rows, n_columns}, data};
    out->n++;
    return tensor;
}

static void add_column(sheet *out, const shards *s, const cox_capture_column *column, int64_t n_rows)
{
    const char *site = cox_site_name(column->site);
    snprintf(out->names[out->n], NAME_BYTES, "%s.%d", site, (int)column->layer);
    cox_tensor_out *tensor = add(out, "F32", s->rows + column->first * (size_t)n_rows, n_rows, column->width);
    if (column->site != COX_SITE_EXPERT_OUT) return;
    tensor->dims[1] = column->n_units, tensor->dims[2] = column->width;
    if (!s->c->is_routed) return;
    snprintf(out->names[out->n], NAME_BYTES, "%s.%d.experts", site, (int)column->layer);
    add(out, "I32", s->experts + column->first_unit * (size_t)n_rows, n_rows, column->n_units);
}

static void add_routes(sheet *out, const routes *r, int32_t layer, int64_t n_rows, int32_t top_k)
{
    static const char *const suffixes[ROUTE_TENSORS] = {"", ".logits", ".weights", ".margins"};
    const void *const data[ROUTE_TENSORS] = {r->experts, r->logits, r->weights, r->margins};
    for (int i = 0; i < ROUTE_TENSORS; i++) {
        snprintf(out->names[out->n], NAME_BYTES, "layer.%d%s", (int)layer, suffixes[i]);
        add(out, i == 0 ? "I32" : "F32", data[i], n_rows, top_k);
    }
}

static void number_rows(shards *s, int32_t block)
{
    const cox_capture *c = s->c;
    int32_t end = s->first[block] + s->n_prompts[block];
    for (int32_t i = s->first[block], row = 0; i < end; i++) {
        const cox_pass_prompt *prompt = &c->work.prompts[i];
        for (int32_t k = 0; k < cox_capture_n_rows(c, prompt); k++, row++) {
            s->prompts[row] = i;
            s->positions[row] = c->n_positions ? prompt->n_tokens - c->from_end[k] : k;
        }
    }
}

static void shard_name(char name[NAME_BYTES], int32_t block)
{
    snprintf(name, NAME_BYTES, "rows-%05d.safetensors", (int)block);
}

static cox_status write_shard(shards *s, int32_t block)
{
    const cox_capture *c = s->c;
    const cox_model *model = c->run->model;
    size_t room = 2 + 2 * (size_t)c->n_columns + ROUTE_TENSORS * (size_t)model->n_layers;
    sheet out = {.tensors = calloc(room, sizeof *out.tensors), .names = calloc(room, sizeof *out.names)};
    char file[NAME_BYTES];
    shard_name(file, block);
    char *path = cox_capture_path(c, file);
    cox_status status = out.tensors && out.names && path ? COX_OK : cox_no_memory("captured rows");
    if (status == COX_OK) {
        int32_t n_rows = s->n_rows[block];
        number_rows(s, block);
        strcpy(out.names[0], "prompt");
        add(&out, "I32", s->prompts, n_rows, 0);
        strcpy(out.names[1], "position");
        add(&out, "I32", s->positions, n_rows, 0);
        for (int32_t i = 0; i < c->n_columns; i++) add_column(&out, s, &c->columns[i], n_rows);
        for (int32_t l = 0; l < model->n_layers; l++) {
            if (s->routes[l].experts) add_routes(&out, &s->routes[l], l, n_rows, model->router.top_k);
        }
        cox_cluster_keepalive(c->run->cluster, "writing captured rows");
        status = cox_tensor_file_write(path, out.tensors, out.n, NULL);
    }
    free(path);
    free(out.names);
    free(out.tensors);
    return status;
}

static cox_status on_shards_done(void *context, const cox_pass_prompt *prompt)
{
    shards *s = context;
    const cox_capture *c = s->c;
    int32_t block = c->blocks[prompt->number], next = block + cox_cluster_n_coordinators(c->run->cluster);
    if (++s->n_done < s->n_prompts[block]) return COX_OK;
    cox_status status = write_shard(s, block);
    s->n_done = 0;
    if (next < c->n_blocks) start_shard(s, next);
    return status;
}

static json_t *shards_json(const shards *s)
{
    json_t *list = json_array();
    for (int32_t b = 0; b < s->c->n_blocks; b++) {
        char file[NAME_BYTES];
        shard_name(file, b);
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:i}", "file", file, "first_prompt",
                                              (int)s->first[b], "prompts", (int)s->n_prompts[b], "rows",
                                              (int)s->n_rows[b]));
    }
    return list;
}

cox_status cox_capture_rows(cox_capture *c, json_t **list)
{
    shards s = {.c = c};
    const cox_pass_sink sink = {.context = &s,
                                .name = "capture",
                                .window = SHARD_PROMPTS,
                                .is_by_block = true,
                                .row = on_row,
                                .routes = on_shards_routes,
                                .done = on_shards_done};
    cox_status status = shards_take_memory(&s);
    bool has_work = c->run->rank < c->n_blocks && cox_cluster_is_coordinator(c->run->cluster);
    if (status == COX_OK && has_work) start_shard(&s, c->run->rank);
    status = cox_capture_run(c, &sink, c->options->has_routes, status);
    if (status == COX_OK && cox_run_is_front(c->run)) *list = shards_json(&s);
    for (int32_t l = 0; s.routes && l < c->run->model->n_layers; l++) {
        free(s.routes[l].experts);
        free(s.routes[l].logits);
        free(s.routes[l].weights);
        free(s.routes[l].margins);
    }
    free(s.routes);
    free(s.positions);
    free(s.prompts);
    free(s.experts);
    free(s.rows);
    free(s.first);
    free(s.n_prompts);
    free(s.n_rows);
    free(s.first_rows);
    return status;
}
