/* Routes are kept as they come, per layer and position, and turned into the record's tensors at the end. */
#include "coordinator/telemetry.h"

#include <stdlib.h>
#include <string.h>

/* The words for an intervention, which the engine's counts leave out. */
typedef struct kind {
    cox_site site;
    cox_op op;
} kind;

struct cox__telemetry {
    char *plan_name; /* NULL: the request has no plan */
    bool was_forced, wants_routes;
    kind *kinds; /* [n_kinds], by intervention */
    int32_t n_kinds;
    int32_t n_layers, top_k, n_tokens, capacity; /* positions so far, and room for them */
    cox_traced_route **routes;                   /* [n_layers] of [capacity, top_k]; NULL where none came */
};

static cox_status copy_plan(cox__telemetry *t, const cox_request *request, const cox_plan *plan)
{
    t->plan_name = strdup(request->steering->name);
    t->kinds = calloc((size_t)plan->n + 1, sizeof *t->kinds);
    if (!t->plan_name || !t->kinds) return cox_no_memory("what an answer tells of its steering and routes");
    t->was_forced = request->steering->was_forced;
    t->n_kinds = plan->n;
    for (int32_t i = 0; i < plan->n; i++)
        t->kinds[i] = (kind){plan->interventions[i].site, plan->interventions[i].op};
    return COX_OK;
}

cox_status cox__telemetry_create(cox__telemetry **telemetry, const cox_model *model,
                                 const cox_request *request, const cox_plan *plan)
{
    cox__telemetry *t = calloc(1, sizeof *t);
    if (!t) return cox_no_memory("what an answer tells of its steering and routes");
    t->n_layers = model->n_layers;
    t->top_k = model->router.top_k;
    t->wants_routes = request->wants_routes;
    t->routes = calloc((size_t)t->n_layers + 1, sizeof *t->routes);
    cox_status status = t->routes ? COX_OK : cox_no_memory("what an answer tells of its steering and routes");
    if (status == COX_OK && plan) status = copy_plan(t, request, plan);
    if (status == COX_OK) {
        *telemetry = t;
    } else {
        cox__telemetry_destroy(t);
    }
    return status;
}

void cox__telemetry_destroy(cox__telemetry *telemetry)
{
    if (!telemetry) return;
    for (int32_t l = 0; telemetry->routes && l < telemetry->n_layers; l++) free(telemetry->routes[l]);
    free(telemetry->routes);
    free(telemetry->kinds);
    free(telemetry->plan_name);
    free(telemetry);
}

/* --- Routes --- */

/* Room for `position` in all layers that have routes. */
static cox_status grow(cox__telemetry *t, int32_t position)
{
    int32_t capacity = 2 * (position + 1);
    for (int32_t l = 0; l < t->n_layers; l++) {
        if (!t->routes[l]) continue;
        cox_traced_route *larger =
            realloc(t->routes[l], (size_t)capacity * (size_t)t->top_k * sizeof **t->routes);
        if (!larger) return cox_no_memory("what an answer tells of its steering and routes");
        t->routes[l] = larger;
    }
    t->capacity = capacity;
    return COX_OK;
}

cox_status cox__telemetry_put_routes(cox__telemetry *t, int32_t layer, int32_t position,
                                     const cox_traced_route *routes)
{
    size_t top_k = (size_t)t->top_k;
    cox_status status = position < t->capacity ? COX_OK : grow(t, position);
    if (status != COX_OK) return status;
    if (!t->routes[layer]) t->routes[layer] = malloc((size_t)t->capacity * top_k * sizeof **t->routes);
    if (!t->routes[layer]) return cox_no_memory("what an answer tells of its steering and routes");
    memcpy(t->routes[layer] + (size_t)position * top_k, routes, top_k * sizeof *routes);
    if (position >= t->n_tokens) t->n_tokens = position + 1;
    return COX_OK;
}

/* One field of all routes of a layer, 4 bytes each, at `offset` in a route. */
static bool put_field(ProtobufCBinaryData *out, const cox_traced_route *routes, size_t n, size_t offset)
{
    out->data = malloc(4 * n);
    if (!out->data) return false;
    out->len = 4 * n;
    for (size_t i = 0; i < n; i++) memcpy(out->data + 4 * i, (const char *)&routes[i] + offset, 4);
    return true;
}

static cox_status put_layer(Cox__TracedRoutes *out, int32_t layer, const cox_traced_route *routes, size_t n)
{
    Cox__TracedLayer *traced = malloc(sizeof *traced);
    if (!traced) return cox_no_memory("what an answer tells of its steering and routes");
    cox__traced_layer__init(traced);
    out->layers[out->n_layers++] = traced;
    traced->layer = layer;
    bool is_whole = put_field(&traced->experts, routes, n, offsetof(cox_traced_route, expert)) &&
                    put_field(&traced->logits, routes, n, offsetof(cox_traced_route, logit)) &&
                    put_field(&traced->weights, routes, n, offsetof(cox_traced_route, weight)) &&
                    put_field(&traced->margins, routes, n, offsetof(cox_traced_route, margin)) &&
                    put_field(&traced->ranks, routes, n, offsetof(cox_traced_route, rank));
    return is_whole ? COX_OK : cox_no_memory("what an answer tells of its steering and routes");
}

/* What has been put in *record is the record's to free, also on failure. */
static cox_status report_routes(const cox__telemetry *t, cox_record *record)
{
    Cox__TracedRoutes *out = malloc(sizeof *out);
    if (!out) return cox_no_memory("what an answer tells of its steering and routes");
    cox__traced_routes__init(out);
    record->routes = out;
    out->n_tokens = t->n_tokens;
    out->top_k = t->top_k;
    out->layers = calloc((size_t)t->n_layers + 1, sizeof(Cox__TracedLayer *));
    cox_status status =
        out->layers ? COX_OK : cox_no_memory("what an answer tells of its steering and routes");
    for (int32_t l = 0; l < t->n_layers && status == COX_OK; l++) {
        if (t->routes[l]) status = put_layer(out, l, t->routes[l], (size_t)t->n_tokens * (size_t)t->top_k);
    }
    return status;
}

/* --- Hits --- */

static cox_status put_hits(const cox__telemetry *t, const cox_steer_hits *hits, Cox__SteeringRecord *out)
{
    Cox__SteerHits *entry = malloc(sizeof *entry);
    if (!entry) return cox_no_memory("what an answer tells of its steering and routes");
    cox__steer_hits__init(entry);
    out->hits[out->n_hits++] = entry;
    entry->intervention = hits->intervention;
    entry->layer = hits->layer;
    entry->expert = hits->expert;
    entry->n_prompt = hits->n_prompt;
    entry->n_generated = hits->n_generated;
    entry->norm_there = hits->norm_there;
    entry->norm_added = hits->norm_added;
    const kind *k = &t->kinds[hits->intervention];
    cox_status status = cox_request_set(&entry->site, cox_site_name(k->site));
    return status != COX_OK ? status : cox_request_set(&entry->op, cox_op_name(k->op));
}

/* Hits come sorted by intervention; those in between that touched nothing get an entry of zeros. */
static cox_status report_hits(const cox__telemetry *t, const cox_sequence_result *result, cox_record *record)
{
    Cox__SteeringRecord *out = malloc(sizeof *out);
    if (!out) return cox_no_memory("what an answer tells of its steering and routes");
    cox__steering_record__init(out);
    record->steering = out;
    out->was_forced = t->was_forced;
    out->hits = calloc((size_t)result->n_hits + (size_t)t->n_kinds + 1, sizeof(Cox__SteerHits *));
    cox_status status = out->hits ? cox_request_set(&out->plan, t->plan_name)
                                  : cox_no_memory("what an answer tells of its steering and routes");
    int32_t next = 0;
    for (int32_t i = 0; i < t->n_kinds && status == COX_OK; i++) {
        const cox_steer_hits none = {.intervention = i, .layer = -1, .expert = -1};
        if (next == result->n_hits || result->hits[next].intervention != i) status = put_hits(t, &none, out);
        while (status == COX_OK && next < result->n_hits && result->hits[next].intervention == i)
            status = put_hits(t, &result->hits[next++], out);
    }
    return status;
}

cox_status cox__telemetry_report(const cox__telemetry *t, const cox_sequence_result *result,
                                 cox_record *record)
{
    cox_status status = t->plan_name ? report_hits(t, result, record) : COX_OK;
    return status == COX_OK && t->wants_routes ? report_routes(t, record) : status;
}
