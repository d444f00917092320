/* Each plan has a generator of its own, so that plan i does not depend on how many there are. */
#include "tests/support/mixed_plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "steering/vector_math.h"

enum { N_VECTORS = 4, N_PINNED = 24 }; /* vectors of a plan's file; tokens of its recorded routes */
static const char *const vector_names[N_VECTORS] = {"a", "b", "c", "router"};

typedef struct draw {
    uint64_t state;
    int32_t plan;
    const cox_model *model;
    double strength;
} draw;

static uint32_t next(draw *d)
{
    uint64_t z = d->state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static int32_t below(draw *d, int32_t n)
{
    return (int32_t)(next(d) % (uint32_t)n);
}

static double between(draw *d, double low, double high)
{
    return low + (high - low) * ((double)next(d) / 4294967296.0);
}

static draw draw_of(const cox_model *model, int32_t plan, double strength)
{
    return (draw){
        .state = 77 + (uint64_t)plan * 1000003u, .plan = plan, .model = model, .strength = strength};
}

static int32_t moe_layer(draw *d)
{
    for (;;) {
        int32_t l = below(d, d->model->n_layers);
        if (d->model->layers[l].is_moe) return l;
    }
}

/* --- Files --- */

static cox_status write_vectors(const char *folder, const cox_model *model, int32_t plan)
{
    cox_vector vectors[N_VECTORS];
    char path[512];
    cox_status status = COX_OK;
    for (int i = 0; i < N_VECTORS; i++) {
        int32_t width = i == 3 ? model->router.n_experts : model->d_model;
        float *data = calloc((size_t)width, sizeof *data);
        if (!data) abort();
        cox_vector_random((uint64_t)(plan * N_VECTORS + i), 1, width, data);
        vectors[i] = (cox_vector){.name = vector_names[i],
                                  .data = data,
                                  .width = width,
                                  .norm = 1,
                                  .site = COX_SITE_UNSTATED,
                                  .layer = -1,
                                  .expert = -1};
    }
    snprintf(path, sizeof path, "%s/%d.safetensors", folder, (int)plan);
    status = cox_vector_file_write(path, vectors, N_VECTORS);
    for (int i = 0; i < N_VECTORS; i++) free(vectors[i].data);
    return status;
}

static cox_status write_routes(const char *folder, const cox_model *model, int32_t plan)
{
    draw d = draw_of(model, plan, 1);
    int32_t top_k = model->router.top_k, n_experts = model->router.n_experts;
    size_t n_routes = (size_t)N_PINNED * (size_t)top_k;
    int32_t *rows = calloc(n_routes, sizeof *rows);
    const int32_t **layers = calloc((size_t)model->n_layers, sizeof *layers);
    if (!rows || !layers) abort();
    for (int32_t t = 0; t < N_PINNED; t++) {
        int32_t first = below(&d, n_experts);
        for (int32_t j = 0; j < top_k; j++) rows[t * top_k + j] = (first + j) % n_experts;
    }
    for (int32_t l = 0; l < model->n_layers; l++) layers[l] = model->layers[l].is_moe ? rows : NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/routes-%d.safetensors", folder, (int)plan);
    cox_status status =
        cox_pinned_routes_write(path, layers, model->n_layers, N_PINNED, top_k, model->fingerprint);
    free(layers);
    free(rows);
    return status;
}

cox_status mixed_plans_write(const char *folder, const cox_model *model, int32_t n)
{
    cox_status status = COX_OK;
    for (int32_t i = 0; i < n && status == COX_OK; i++) {
        status = write_vectors(folder, model, i);
        if (status == COX_OK) status = write_routes(folder, model, i);
    }
    return status;
}

/* --- Interventions --- */

static void set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) != 0) abort();
}

static void set_vector(json_t *object, const char *key, const draw *d, int vector)
{
    char text[64];
    snprintf(text, sizeof text, "%d.safetensors#%s", (int)d->plan, vector_names[vector]);
    set(object, key, json_string(text));
}

static void set_positions(draw *d, json_t *json)
{
    static const char *const words[] = {"all", "prompt", "generated"};
    int32_t kind = below(d, 8), from = below(d, 8);
    if (kind < 4) return; /* all rows */
    if (kind < 6) set(json, "positions", json_string(words[kind - 3]));
    if (kind == 6) set(json, "positions", json_pack("{s:i}", "last", 1 + from));
    if (kind == 7) set(json, "positions", json_pack("{s:i,s:i}", "from", from, "to", from + 1 + below(d, 9)));
}

static void set_when(draw *d, json_t *json, int vector)
{
    if (below(d, 3)) return;
    json_t *when = json_pack("{s:f}", "cosine_above", between(d, -0.2, 0.1));
    set_vector(when, "vector", d, vector);
    set(json, "when", when);
}

static json_t *intervention(draw *d, const char *site, const char *op, int32_t layer)
{
    json_t *json = json_pack("{s:s,s:s,s:i}", "site", site, "op", op, "layer", (int)layer);
    if (!json) abort();
    set_positions(d, json);
    return json;
}

/* A vector operation at a site of d_model-wide rows, with everything that it takes. */
static json_t *row_operation(draw *d, const char *site, int32_t layer)
{
    static const char *const ops[] = {"add", "ablate", "clamp", "affine", "scale", "rotate"};
    int32_t op = below(d, 6);
    json_t *json = intervention(d, site, ops[op], layer);
    set(json, "strength", json_real(d->strength * between(d, 0.3, 1.5)));
    if (op != 4) set_vector(json, "vector", d, 0);
    if (op == 2) set(json, "value", json_real(between(d, -2, 2)));
    if (op == 3) set_vector(json, "reference", d, 1), set(json, "alpha", json_real(between(d, -1, 1)));
    if (op == 4) set(json, "factor", json_real(between(d, 0.5, 1.5)));
    if (op == 5) set_vector(json, "vector2", d, 1), set(json, "degrees", json_real(between(d, -180, 180)));
    if (below(d, 4) == 0) set(json, "preserve_norm", json_true());
    set_when(d, json, 2);
    return json;
}

static json_t *residual(draw *d)
{
    static const char *const sites[] = {"resid_pre", "attn_out", "resid_mid", "moe_out", "resid_post"};
    const char *site = sites[below(d, 5)];
    return row_operation(d, site, below(d, d->model->n_layers));
}

static json_t *routed(draw *d, bool is_single)
{
    json_t *json = row_operation(d, "expert_out", moe_layer(d));
    int32_t n_experts = d->model->router.n_experts, first = below(d, n_experts);
    set(json, "weighting", json_string("routed"));
    if (is_single) {
        set(json, "expert", json_integer(first));
    } else if (below(d, 2)) {
        set(json, "expert", json_string("all"));
    } else {
        set(json, "expert", json_pack("[i,i]", (int)first, (int)((first + 1) % n_experts)));
    }
    return json;
}

static json_t *term(draw *d)
{
    static const char *const weightings[] = {"post_gate", "soft", "unweighted"};
    json_t *json = intervention(d, "expert_out", "add", moe_layer(d));
    set(json, "weighting", json_string(weightings[below(d, 3)]));
    set(json, "strength", json_real(d->strength * between(d, 0.3, 1.5)));
    set(json, "expert",
        below(d, 3) ? json_integer(below(d, d->model->router.n_experts)) : json_string("all"));
    set_vector(json, "vector", d, 0);
    return json;
}

static bool names_expert(const json_t *list, int32_t expert)
{
    size_t i, j;
    const json_t *item, *one;
    json_array_foreach(list, i, item)
    {
        const json_t *experts = json_object_get(item, "expert");
        if (json_is_integer(experts) && json_integer_value(experts) == expert) return true;
        json_array_foreach(experts, j, one) if (json_integer_value(one) == expert) return true;
    }
    return false;
}

/* The one drawn, or the next that no intervention names: forced out, it would leave that one without rows. */
static int32_t forced_expert(draw *d, const json_t *list)
{
    int32_t n_experts = d->model->router.n_experts, drawn = below(d, n_experts);
    for (int32_t i = 0; i < n_experts; i++) {
        if (!names_expert(list, (drawn + i) % n_experts)) return (drawn + i) % n_experts;
    }
    return -1;
}

/* A bias, and beside it one expert forced in or out where the model has experts to spare; or pinned routes.
 */
static void add_router_edits(draw *d, json_t *list)
{
    static const char *const ops[] = {"force_out", "force_in"};
    int32_t layer = moe_layer(d), n_experts = d->model->router.n_experts, kind = below(d, 3);
    int32_t top_k = d->model->router.top_k;
    if (kind == 1 && top_k == 1) kind = 2; /* one forced in as the only one would leave the others no rows */
    json_t *edit = intervention(d, "router_logits", kind < 2 ? ops[kind] : "pin", layer);
    set(edit, "strength", json_integer(d->strength != 0));
    int32_t forced = kind < 2 ? forced_expert(d, list) : 0;
    if (kind < 2) set(edit, "expert", json_integer(forced));
    if (kind == 2) {
        char path[64];
        snprintf(path, sizeof path, "routes-%d.safetensors", (int)d->plan);
        set(edit, "routes", json_string(path));
    }
    bool is_possible = forced >= 0 && (kind > 0 || n_experts > top_k);
    if (is_possible) json_array_append(list, edit);
    json_decref(edit);
    json_t *bias = intervention(d, "router_logits", "bias", layer);
    set(bias, "strength", json_real(d->strength));
    set(bias, "value", json_real(between(d, -3, 3)));
    set(bias, "expert", json_integer(below(d, n_experts)));
    set_when(d, bias, 3);
    json_array_append_new(list, bias);
}

json_t *mixed_plans_json(const cox_model *model, int32_t i, double strength)
{
    draw d = draw_of(model, i, strength);
    json_t *list = json_array();
    switch (i % 8) {
    case 0:
    case 1: json_array_append_new(list, residual(&d)); break;
    case 2:
    case 3: json_array_append_new(list, routed(&d, true)); break;
    case 4: json_array_append_new(list, routed(&d, false)); break;
    case 5: json_array_append_new(list, term(&d)); break;
    case 6: add_router_edits(&d, list); break;
    default: /* a stack of everything */
        json_array_append_new(list, residual(&d));
        json_array_append_new(list, routed(&d, true));
        json_array_append_new(list, routed(&d, false));
        json_array_append_new(list, term(&d));
        json_array_append_new(list, residual(&d));
        if (below(&d, 2)) add_router_edits(&d, list);
    }
    char name[32];
    snprintf(name, sizeof name, "mix %d", (int)i);
    json_t *plan = json_pack("{s:s,s:o}", "name", name, "interventions", list);
    if (!plan) abort();
    return plan;
}

cox_status mixed_plans_make(cox_plan **plan, const char *folder, const cox_model *model, int32_t i,
                            double strength)
{
    json_t *json = mixed_plans_json(model, i, strength);
    cox_status status = cox_plan_from_json(plan, json, "mixed plan", folder, model, NULL, false);
    json_decref(json);
    return status;
}

void mixed_plans_remove(const char *folder, int32_t n)
{
    char path[512];
    for (int32_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%d.safetensors", folder, (int)i);
        unlink(path);
        snprintf(path, sizeof path, "%s/routes-%d.safetensors", folder, (int)i);
        unlink(path);
    }
    rmdir(folder);
}
