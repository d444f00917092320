/*
 * JSON to interventions: one key after the other, everything refused that is not understood, because a plan
 * that silently does less than it says spoils an experiment. What a plan leaves out the vector file's
 * metadata may say (site, layer, expert, operation, weighting, positions); the plan's own fields win.
 * Formulas are in docs/steering.md.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/nearest.h"
#include "steering/internal.h"
#include "steering/parse.h"

static const char *const op_names[] = {
#define X(name, text) text,
    COX_OP_LIST(X)
#undef X
};

static const char *const weighting_names[] = {
#define X(name, text) text,
    COX_WEIGHTING_LIST(X)
#undef X
};

const char *cox_op_name(cox_op op)
{
    return op_names[op];
}

const char *cox_weighting_name(cox_weighting weighting)
{
    return weighting_names[weighting];
}

#define OP(name) (1u << COX_OP_##name)
enum {
    DIRECTION_OPS = OP(ADD) | OP(ABLATE) | OP(CLAMP) | OP(AFFINE) | OP(ROTATE),
    ROW_OPS = DIRECTION_OPS | OP(SCALE),
    EXPERT_OPS = OP(BIAS) | OP(FORCE_OUT) | OP(FORCE_IN),
    ROUTER_OPS = EXPERT_OPS | OP(PIN),
    ALL_OPS = ROW_OPS | ROUTER_OPS,
};

/* Which keys an operation takes, and which it cannot do without. */
static const struct {
    const char *key;
    unsigned takes, needs;
} keys[] = {
    {"site", ALL_OPS, 0},
    {"op", ALL_OPS, 0},
    {"layer", ALL_OPS, 0},
    {"strength", ALL_OPS, 0},
    {"positions", ALL_OPS, 0},
    {"when", ALL_OPS, 0},
    {"vector_site", ALL_OPS, 0},
    {"expert", ROW_OPS | EXPERT_OPS, 0},
    {"weighting", ROW_OPS, 0},
    {"preserve_norm", ROW_OPS, 0},
    {"vector", DIRECTION_OPS, DIRECTION_OPS},
    {"value", OP(CLAMP) | OP(BIAS), OP(CLAMP) | OP(BIAS)},
    {"reference", OP(AFFINE), OP(AFFINE)},
    {"alpha", OP(AFFINE), OP(AFFINE)},
    {"factor", OP(SCALE), OP(SCALE)},
    {"vector2", OP(ROTATE), OP(ROTATE)},
    {"degrees", OP(ROTATE), OP(ROTATE)},
    {"routes", OP(PIN), OP(PIN)},
};
enum { N_KEYS = sizeof keys / sizeof *keys };

static cox_status check_known_keys(const json_t *json, const char *where)
{
    const char *known[N_KEYS];
    for (int i = 0; i < N_KEYS; i++) known[i] = keys[i].key;
    return cox_json_check_keys(json, where, known, N_KEYS);
}

static bool is_given(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    return value && !json_is_null(value);
}

static cox_status check_op_keys(const json_t *json, const char *where, cox_op op)
{
    for (int i = 0; i < N_KEYS; i++) {
        bool is_there = is_given(json, keys[i].key);
        if (is_there && !(keys[i].takes >> op & 1u)) {
            return cox_fail(COX_INVALID, "%s: key \"%s\" does not belong to op \"%s\"", where, keys[i].key,
                            op_names[op]);
        }
        if (!is_there && keys[i].needs >> op & 1u) {
            return cox_fail(COX_INVALID, "%s: op \"%s\" needs key \"%s\"", where, op_names[op], keys[i].key);
        }
    }
    return COX_OK;
}

static void list_ops(char *text, size_t n, unsigned ops)
{
    *text = '\0';
    for (int i = 0; i < COX_N_OPS; i++) {
        if (ops >> i & 1u)
            snprintf(text + strlen(text), n - strlen(text), "%s%s", *text ? ", " : "", op_names[i]);
    }
}

static cox_status find_op(const char *where, const char *name, cox_op *op)
{
    for (int i = 0; i < COX_N_OPS; i++) {
        if (strcmp(op_names[i], name) == 0) {
            *op = (cox_op)i;
            return COX_OK;
        }
    }
    char list[256];
    list_ops(list, sizeof list, ALL_OPS);
    cox_nearest nearest = cox_nearest_to(name, strlen(name));
    cox_nearest_offer_all(&nearest, op_names, COX_N_OPS);
    return cox_fail(COX_INVALID, "%s: unknown op \"%.100s\"; the operations are %s%s", where, name, list,
                    nearest.hint);
}

/* The site, from the plan or the vector, and what it allows. */
static cox_status read_site(const cox__parse *parse, cox_intervention *out)
{
    const char *name = NULL;
    cox_status status = cox_json_string(parse->json, parse->where, "site", false, &name);
    if (status != COX_OK) return status;
    out->site = name ? cox_site_find(name) : parse->vector ? parse->vector->site : COX_SITE_UNSTATED;
    if (out->site == COX_SITE_UNSTATED && name) return cox_site_unknown(parse->where, name);
    if (out->site == COX_SITE_UNSTATED) {
        char list[COX_SITE_LIST_BYTES];
        return cox_fail(COX_INVALID, "%s: key \"site\" is missing, and no vector says it; the sites are %s",
                        parse->where, cox_site_list(list));
    }
    unsigned allowed = out->site == COX_SITE_ROUTER_LOGITS ? ROUTER_OPS : ROW_OPS;
    if (allowed >> out->op & 1u) return COX_OK;
    char list[256];
    list_ops(list, sizeof list, allowed);
    return cox_fail(COX_INVALID, "%s: op \"%s\" is not possible at %s, which takes %s", parse->where,
                    op_names[out->op], cox_site_name(out->site), list);
}

static cox_status find_weighting(const char *where, const char *name, cox_weighting *weighting)
{
    for (int i = 0; i < COX_N_WEIGHTINGS; i++) {
        if (strcmp(weighting_names[i], name) == 0) {
            *weighting = (cox_weighting)i;
            return COX_OK;
        }
    }
    cox_nearest nearest = cox_nearest_to(name, strlen(name));
    cox_nearest_offer_all(&nearest, weighting_names, COX_N_WEIGHTINGS);
    return cox_fail(
        COX_INVALID,
        "%s: unknown weighting \"%.100s\"; the weightings are routed, post_gate, soft, unweighted%s", where,
        name, nearest.hint);
}

static cox_status read_weighting(const cox__parse *parse, cox_intervention *out)
{
    const char *name = NULL;
    cox_status status = cox_json_string(parse->json, parse->where, "weighting", false, &name);
    if (status != COX_OK) return status;
    if (out->site != COX_SITE_EXPERT_OUT) {
        if (!name) return COX_OK;
        return cox_fail(COX_INVALID, "%s: key \"weighting\" belongs to expert_out only, not to %s",
                        parse->where, cox_site_name(out->site));
    }
    if (!name && parse->vector) name = parse->vector->weighting;
    if (!name) {
        return cox_fail(COX_INVALID,
                        "%s: expert_out needs key \"weighting\": routed, post_gate, soft or unweighted",
                        parse->where);
    }
    status = find_weighting(parse->where, name, &out->weighting);
    if (status != COX_OK || out->weighting == COX_WEIGHTING_ROUTED) return status;
    if (out->op != COX_OP_ADD) {
        return cox_fail(
            COX_INVALID,
            "%s: weighting \"%s\" takes op \"add\" only, because its rows may never have visited the "
            "expert; \"%s\" needs weighting \"routed\"",
            parse->where, name, op_names[out->op]);
    }
    if (out->preserve_norm || is_given(parse->json, "when")) {
        return cox_fail(
            COX_INVALID,
            "%s: weighting \"%s\" takes no \"preserve_norm\" and no \"when\": it has no row of its own",
            parse->where, name);
    }
    return COX_OK;
}

static cox_status read_vector(cox__parse *parse, const char *key, const cox_vector **vector)
{
    const char *text = NULL;
    cox_status status = cox_json_string(parse->json, parse->where, key, false, &text);
    if (status != COX_OK || !text) return status;
    char where[1200];
    snprintf(where, sizeof where, "%s: key \"%s\"", parse->where, key);
    return cox__plan_find_vector(parse->builder, where, text, vector);
}

/* Operation first, because it says which keys there are; the vector may name it. */
static cox_status read_op(cox__parse *parse, cox_intervention *out)
{
    cox_status status = check_known_keys(parse->json, parse->where);
    const char *name = NULL;
    if (status == COX_OK) status = cox_json_string(parse->json, parse->where, "op", false, &name);
    if (status == COX_OK && name) status = find_op(parse->where, name, &out->op);
    if (status == COX_OK && name) status = check_op_keys(parse->json, parse->where, out->op);
    if (status == COX_OK) status = read_vector(parse, "vector", &parse->vector);
    if (status != COX_OK || name) return status;
    if (!parse->vector || !parse->vector->operation) {
        return cox_fail(COX_INVALID, "%s: key \"op\" is missing, and no vector says it", parse->where);
    }
    status = find_op(parse->where, parse->vector->operation, &out->op);
    return status == COX_OK ? check_op_keys(parse->json, parse->where, out->op) : status;
}

static cox_status read_intervention(cox__parse *parse, cox_intervention *out)
{
    out->strength = 1;
    out->positions.span = COX_SPAN_ALL;
    cox_status status = read_op(parse, out);
    if (status == COX_OK) status = read_site(parse, out);
    if (status == COX_OK) {
        const cox_model *model = parse->builder->model;
        out->width = cox_site_width(out->site, model->d_model, model->router.n_experts);
        status = cox_json_bool(parse->json, parse->where, "preserve_norm", false, &out->preserve_norm);
    }
    if (status == COX_OK) status = read_weighting(parse, out);
    if (status == COX_OK) status = cox__parse_number(parse->json, parse->where, "strength", &out->strength);
    if (status != COX_OK) return status;
    if (out->op >= COX_OP_FORCE_OUT && out->strength != 1 && out->strength != 0) {
        return cox_fail(COX_INVALID, "%s: op \"%s\" has strength 1 or 0, not %g", parse->where,
                        op_names[out->op], (double)out->strength);
    }
    status = cox__parse_layers(parse, out);
    if (status == COX_OK) status = cox__parse_experts(parse, out);
    if (status == COX_OK) status = cox__parse_positions(parse, out);
    if (status == COX_OK) status = cox__parse_fields(parse, out);
    if (status == COX_OK) status = cox__parse_when(parse, out);
    return status;
}

static cox_status check_plan_keys(const json_t *json, const char *where)
{
    if (!json_is_object(json)) return cox_fail(COX_BAD_FILE, "%s: a plan is a JSON object", where);
    static const char *const known[] = {"name", "interventions"};
    return cox_json_check_keys(json, where, known, 2);
}

/* spread: of cox__plan_spread. */
static cox_status read_interventions(cox__plan_builder *builder, const json_t *spread)
{
    cox_plan *plan = builder->plan;
    plan->interventions = cox_arena_array(plan->arena, json_array_size(spread), sizeof *plan->interventions);
    if (!plan->interventions) return COX_NO_MEMORY;
    for (size_t i = 0; i < json_array_size(spread); i++) {
        const json_t *entry = json_array_get(spread, i);
        char where[1024];
        snprintf(where, sizeof where, "%.700s: %s", builder->where,
                 json_string_value(json_object_get(entry, "label")));
        cox__parse parse = {.builder = builder, .json = json_object_get(entry, "item"), .where = where};
        if (!json_is_object(parse.json)) return cox_fail(COX_BAD_FILE, "%s: must be an object", where);
        cox_status status = read_intervention(&parse, &plan->interventions[i]);
        if (status != COX_OK) return status;
        plan->n++;
    }
    return COX_OK;
}

cox_status cox__plan_parse(cox__plan_builder *builder, const json_t *json)
{
    cox_plan *plan = builder->plan;
    cox_status status = check_plan_keys(json, builder->where);
    const char *name = "";
    if (status == COX_OK) status = cox_json_string(json, builder->where, "name", false, &name);
    if (status != COX_OK) return status;
    const json_t *list = json_object_get(json, "interventions");
    if (!json_is_array(list)) {
        return cox_fail(COX_BAD_FILE,
                        "%s: key \"interventions\" must be a list (an empty one steers nothing)",
                        builder->where);
    }
    plan->name = cox_arena_strdup(plan->arena, name);
    if (!plan->name) return COX_NO_MEMORY;
    json_t *spread = NULL;
    status = cox__plan_spread(builder, list, &spread);
    if (status == COX_OK) status = read_interventions(builder, spread);
    json_decref(spread);
    return status;
}
