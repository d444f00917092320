/*
 * A plan as bytes (proto/plan.proto) and back. Rows are held once and referred to by number in order of first
 * use, so equal plans have equal bytes. Bytes from another rank are checked like any from outside: a rank
 * must not crash on them.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/plan.pb-c.h"
#include "steering/internal.h"

/* What is being packed; all arrays are taken for the most that can be needed. */
typedef struct packer {
    const cox_plan *plan;
    Cox__Plan out;
    Cox__Intervention *interventions;
    Cox__PinnedRoutes *routes;
    const cox_pinned_routes **route_sources;
} packer;

static void *take(size_t n, size_t size)
{
    return calloc(n ? n : 1, size);
}

static void packer_release(packer *p)
{
    for (size_t i = 0; i < p->out.n_routes; i++) {
        for (size_t l = 0; l < p->routes[i].n_layers; l++) free(p->routes[i].layers[l]);
        free(p->routes[i].layers);
    }
    for (size_t i = 0; p->out.interventions && i < p->out.n_interventions; i++)
        free(p->out.interventions[i]->layers.data);
    free(p->route_sources);
    free(p->out.routes);
    free(p->routes);
    free(p->out.rows);
    free(p->out.interventions);
    free(p->interventions);
}

static bool packer_prepare(packer *p, const cox_plan *plan)
{
    size_t n = (size_t)plan->n;
    *p = (packer){.plan = plan, .out = COX__PLAN__INIT};
    p->interventions = take(n, sizeof *p->interventions);
    p->out.interventions = take(n, sizeof *p->out.interventions);
    p->out.rows = take(3 * n, sizeof *p->out.rows);
    p->routes = take(n, sizeof *p->routes);
    p->out.routes = take(n, sizeof *p->out.routes);
    p->route_sources = take(n, sizeof *p->route_sources);
    p->out.n_layers = plan->n_layers;
    p->out.n_experts = plan->n_experts;
    p->out.d_model = plan->d_model;
    return p->interventions && p->out.interventions && p->out.rows && p->routes && p->out.routes &&
           p->route_sources;
}

/* 1 + the row's number; rows are the same when their pointers are, because a plan holds each once. */
static int32_t row_number(packer *p, const float *row, int32_t width)
{
    if (!row) return 0;
    for (size_t i = 0; i < p->out.n_rows; i++) {
        if (p->out.rows[i].data == (const uint8_t *)row &&
            p->out.rows[i].len == (size_t)width * sizeof *row) {
            return (int32_t)i + 1;
        }
    }
    p->out.rows[p->out.n_rows++] = (ProtobufCBinaryData){
        .data = (uint8_t *)row, .len = (size_t)width * sizeof *row}; /* packing only reads */
    return (int32_t)p->out.n_rows;
}

static bool put_routes(packer *p, const cox_pinned_routes *routes)
{
    Cox__PinnedRoutes *out = &p->routes[p->out.n_routes];
    cox__pinned_routes__init(out);
    out->n_tokens = routes->n_tokens;
    out->top_k = routes->top_k;
    out->layers = take((size_t)routes->n_layers, sizeof *out->layers);
    p->route_sources[p->out.n_routes] = routes;
    p->out.routes[p->out.n_routes++] = out;
    if (!out->layers) return false;
    for (int32_t l = 0; l < routes->n_layers; l++) {
        if (!routes->layers[l]) continue;
        Cox__PinnedLayer *layer = malloc(sizeof *layer);
        if (!layer) return false;
        cox__pinned_layer__init(layer);
        layer->layer = l;
        layer->experts.data = (uint8_t *)routes->layers[l];
        layer->experts.len = (size_t)routes->n_tokens * (size_t)routes->top_k * sizeof **routes->layers;
        out->layers[out->n_layers++] = layer;
    }
    return true;
}

/* 1 + the number, 0 for NULL, -1 without memory. */
static int32_t routes_number(packer *p, const cox_pinned_routes *routes)
{
    if (!routes) return 0;
    for (size_t i = 0; i < p->out.n_routes; i++) {
        if (p->route_sources[i] == routes) return (int32_t)i + 1;
    }
    return put_routes(p, routes) ? (int32_t)p->out.n_routes : -1;
}

/* Fills mask [n_layers] then [n_experts]; false when nothing remains on these hosts. */
static bool masks_of(const cox_plan *plan, const cox_intervention *v, cox_hosts_function *hosts,
                     void *context, uint8_t *mask)
{
    uint8_t *layers = mask, *experts = mask + plan->n_layers;
    if (!hosts) {
        memcpy(layers, v->layers, (size_t)plan->n_layers);
        if (v->experts) memcpy(experts, v->experts, (size_t)plan->n_experts);
        return true;
    }
    bool is_any = false;
    if (v->site != COX_SITE_EXPERT_OUT || v->weighting != COX_WEIGHTING_ROUTED || v->strength == 0)
        return false;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        for (int32_t e = 0; v->layers[l] && e < plan->n_experts; e++) {
            if (!v->experts[e] || !hosts(context, l, e)) continue;
            layers[l] = experts[e] = 1;
            is_any = true;
        }
    }
    return is_any;
}

static bool put_intervention(packer *p, int32_t index, uint8_t *mask)
{
    const cox_intervention *v = &p->plan->interventions[index];
    Cox__Intervention *out = &p->interventions[index];
    cox__intervention__init(out);
    out->index = index;
    out->site = (int32_t)v->site;
    out->op = (int32_t)v->op;
    out->weighting = (int32_t)v->weighting;
    out->strength = v->strength;
    out->layers = (ProtobufCBinaryData){.data = mask, .len = (size_t)p->plan->n_layers};
    if (v->experts) {
        out->experts =
            (ProtobufCBinaryData){.data = mask + p->plan->n_layers, .len = (size_t)p->plan->n_experts};
    }
    out->width = v->width;
    out->vector = row_number(p, v->vector, v->width);
    out->unit2 = row_number(p, v->unit2, v->width);
    out->when = row_number(p, v->when, v->width);
    out->reference_dot = v->reference_dot;
    out->value = v->value;
    out->alpha = v->alpha;
    out->factor = v->factor;
    out->cosine = v->cosine;
    out->sine = v->sine;
    out->preserve_norm = v->preserve_norm;
    out->span = (int32_t)v->positions.span;
    out->from = v->positions.from;
    out->to = v->positions.to;
    out->cosine_above = v->cosine_above;
    out->routes = routes_number(p, v->pinned);
    p->out.interventions[p->out.n_interventions++] = out; /* owns mask from here on */
    return out->routes >= 0;
}

static cox_status fill(packer *p, cox_hosts_function *hosts, void *context)
{
    for (int32_t i = 0; i < p->plan->n; i++) {
        uint8_t *mask = take((size_t)p->plan->n_layers + (size_t)p->plan->n_experts, 1);
        if (!mask) return COX_NO_MEMORY;
        if (!masks_of(p->plan, &p->plan->interventions[i], hosts, context, mask))
            free(mask);
        else if (!put_intervention(p, i, mask))
            return COX_NO_MEMORY;
    }
    return COX_OK;
}

cox_status cox_plan_pack(const cox_plan *plan, cox_hosts_function *hosts, void *context, void **data,
                         size_t *n_bytes, int32_t *n_kept)
{
    packer p;
    cox_status status = packer_prepare(&p, plan) ? fill(&p, hosts, context) : COX_NO_MEMORY;
    size_t n = status == COX_OK ? cox__plan__get_packed_size(&p.out) : 0;
    uint8_t *bytes = status == COX_OK ? malloc(n ? n : 1) : NULL;
    if (bytes) {
        cox__plan__pack(&p.out, bytes);
        *data = bytes;
        *n_bytes = n;
        *n_kept = (int32_t)p.out.n_interventions;
    } else {
        status = cox_fail(COX_NO_MEMORY, "out of memory for packing plan \"%s\"", plan->name);
    }
    packer_release(&p);
    return status;
}

/* --- Unpacking --- */

static cox_status malformed(const char *what)
{
    return cox_fail(COX_BAD_FILE, "a packed plan is malformed: %s", what);
}

/* A copy of a mask of n bytes, each 0 or 1. */
static uint8_t *copy_mask(cox_arena *arena, const ProtobufCBinaryData *mask, int32_t n)
{
    if (mask->len != (size_t)n) return NULL;
    uint8_t *copy = cox_arena_alloc(arena, (size_t)n);
    for (int32_t i = 0; copy && i < n; i++) {
        if (mask->data[i] > 1) return NULL;
        copy[i] = mask->data[i];
    }
    return copy;
}

/* [out] *row: NULL for number 0. */
static bool find_row(const Cox__Plan *in, const float *const *rows, int32_t number, int32_t width,
                     const float **row)
{
    *row = NULL;
    if (number == 0) return true;
    if (number < 0 || (size_t)number > in->n_rows || in->rows[number - 1].len != (size_t)width * sizeof **row)
        return false;
    *row = rows[number - 1];
    return true;
}

static cox_status fill_unit(cox_plan *plan, cox_intervention *v, int32_t n_before)
{
    for (int32_t i = 0; i < n_before; i++) { /* of the same row, worked out before */
        const cox_intervention *other = &plan->interventions[i];
        if (other->vector == v->vector && other->width == v->width && other->unit) {
            v->unit = other->unit;
            return COX_OK;
        }
    }
    float *unit = cox_arena_array(plan->arena, (size_t)v->width, sizeof *unit);
    if (!unit) return COX_NO_MEMORY;
    if (!cox__unit_of(v->vector, v->width, unit)) return malformed("a direction of norm 0");
    v->unit = unit;
    return COX_OK;
}

static bool is_sound(const Cox__Intervention *in, const cox_plan *plan)
{
    bool is_router = in->site == COX_SITE_ROUTER_LOGITS;
    return in->site >= 0 && in->site < COX_N_SITES && in->op >= 0 && in->op < COX_N_OPS &&
           in->weighting >= 0 && in->weighting < COX_N_WEIGHTINGS && in->span >= 0 &&
           in->span <= COX_SPAN_RANGE && in->from >= 0 && in->to >= 0 &&
           in->width == cox_site_width((cox_site)in->site, plan->d_model, plan->n_experts) &&
           is_router == (in->op >= COX_OP_BIAS) &&
           (in->experts.len != 0) ==
               (in->site == COX_SITE_EXPERT_OUT || (is_router && in->op != COX_OP_PIN)) &&
           (in->vector != 0) == (in->op == COX_OP_ADD || cox__op_has_direction((cox_op)in->op)) &&
           (in->unit2 != 0) == (in->op == COX_OP_ROTATE) && (in->routes != 0) == (in->op == COX_OP_PIN);
}

static cox_status unpack_one(const Cox__Plan *in, const float *const *rows,
                             const cox_pinned_routes *const *routes, cox_plan *plan, int32_t i)
{
    const Cox__Intervention *from = in->interventions[i];
    cox_intervention *v = &plan->interventions[i];
    if (!is_sound(from, plan)) return malformed("an intervention contradicts itself");
    *v = (cox_intervention){.site = (cox_site)from->site,
                            .op = (cox_op)from->op,
                            .weighting = (cox_weighting)from->weighting,
                            .strength = from->strength,
                            .width = from->width,
                            .reference_dot = from->reference_dot,
                            .value = from->value,
                            .alpha = from->alpha,
                            .factor = from->factor,
                            .cosine = from->cosine,
                            .sine = from->sine,
                            .preserve_norm = from->preserve_norm,
                            .positions = {(cox_span)from->span, from->from, from->to},
                            .cosine_above = from->cosine_above};
    v->layers = copy_mask(plan->arena, &from->layers, plan->n_layers);
    if (from->experts.len) v->experts = copy_mask(plan->arena, &from->experts, plan->n_experts);
    if (!v->layers || (from->experts.len && !v->experts)) return malformed("a mask of layers or experts");
    if (!find_row(in, rows, from->vector, v->width, &v->vector) ||
        !find_row(in, rows, from->unit2, v->width, &v->unit2) ||
        !find_row(in, rows, from->when, v->width, &v->when)) {
        return malformed("a row's number or width");
    }
    if (from->routes < 0 || (size_t)from->routes > in->n_routes)
        return malformed("the number of pinned routes");
    if (from->routes) v->pinned = routes[from->routes - 1];
    if (v->vector) v->vector_norm = (float)sqrt(cox_dot_f64(v->vector, v->vector, v->width));
    return cox__op_has_direction(v->op) ? fill_unit(plan, v, i) : COX_OK;
}

static cox_status unpack_rows(const Cox__Plan *in, cox_arena *arena, const float **rows)
{
    for (size_t i = 0; i < in->n_rows; i++) {
        if (in->rows[i].len == 0 || in->rows[i].len % sizeof **rows != 0) return malformed("a row's length");
        float *row = cox_arena_alloc(arena, in->rows[i].len);
        if (!row) return COX_NO_MEMORY;
        memcpy(row, in->rows[i].data, in->rows[i].len);
        if (cox__check_finite("a packed plan", row, (int32_t)(in->rows[i].len / sizeof *row)) != COX_OK)
            return COX_BAD_FILE;
        rows[i] = row;
    }
    return COX_OK;
}

static cox_status unpack_routes(const Cox__PinnedRoutes *in, cox_plan *plan, const cox_pinned_routes **routes)
{
    cox_pinned_routes *fresh = cox_arena_alloc(plan->arena, sizeof *fresh);
    if (!fresh) return COX_NO_MEMORY;
    *fresh = (cox_pinned_routes){.n_layers = plan->n_layers, .top_k = in->top_k, .n_tokens = in->n_tokens};
    fresh->layers = cox_arena_array(plan->arena, (size_t)plan->n_layers, sizeof *fresh->layers);
    if (!fresh->layers) return COX_NO_MEMORY;
    if (in->n_tokens < 1 || in->top_k < 1 || in->top_k > plan->n_experts) return malformed("pinned routes");
    for (size_t i = 0; i < in->n_layers; i++) {
        const Cox__PinnedLayer *layer = in->layers[i];
        size_t n = (size_t)in->n_tokens * (size_t)in->top_k;
        if (layer->layer < 0 || layer->layer >= plan->n_layers ||
            layer->experts.len != n * sizeof **fresh->layers) {
            return malformed("pinned routes of a layer");
        }
        int32_t *rows = cox_arena_alloc(plan->arena, layer->experts.len);
        if (!rows) return COX_NO_MEMORY;
        memcpy(rows, layer->experts.data, layer->experts.len);
        cox_status status =
            cox__pinned_check("a packed plan", rows, in->n_tokens, in->top_k, plan->n_experts);
        if (status != COX_OK) return status;
        fresh->layers[layer->layer] = rows;
    }
    *routes = fresh;
    return COX_OK;
}

static cox_status unpack_into(const Cox__Plan *in, cox_plan *plan, const int32_t **indices)
{
    size_t n = in->n_interventions;
    const float **rows = cox_arena_array(plan->arena, in->n_rows, sizeof *rows);
    const cox_pinned_routes **routes = cox_arena_array(plan->arena, in->n_routes, sizeof *routes);
    int32_t *originals = cox_arena_array(plan->arena, n, sizeof *originals);
    plan->interventions = cox_arena_array(plan->arena, n, sizeof *plan->interventions);
    if (!rows || !routes || !originals || !plan->interventions) return COX_NO_MEMORY;
    cox_status status = unpack_rows(in, plan->arena, rows);
    for (size_t i = 0; i < in->n_routes && status == COX_OK; i++)
        status = unpack_routes(in->routes[i], plan, &routes[i]);
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        originals[i] = in->interventions[i]->index;
        status = unpack_one(in, rows, routes, plan, (int32_t)i);
        plan->n++;
    }
    if (status == COX_OK) status = cox__plan_finish(plan);
    if (status == COX_OK) *indices = originals;
    return status;
}

cox_status cox_plan_unpack(cox_plan **plan, const int32_t **indices, const void *data, size_t n_bytes)
{
    Cox__Plan *in = cox__plan__unpack(NULL, n_bytes, data);
    if (!in) return malformed("not protobuf of a plan");
    cox_plan *fresh = NULL;
    cox_status status = COX_OK;
    if (in->n_layers < 1 || in->n_layers > COX__MAX_LAYERS || in->n_experts < 0 ||
        in->n_experts > COX__MAX_WIDTH || in->d_model < 1 || in->d_model > COX__MAX_WIDTH ||
        in->n_interventions > COX_PLAN_MAX_INTERVENTIONS) {
        status = malformed("its dimensions");
    }
    if (status == COX_OK) status = cox__plan_create(&fresh, in->n_layers, in->n_experts, in->d_model);
    if (status == COX_OK) status = unpack_into(in, fresh, indices);
    cox__plan__free_unpacked(in, NULL);
    if (status != COX_OK)
        cox_plan_free(fresh);
    else
        *plan = fresh;
    return status;
}
