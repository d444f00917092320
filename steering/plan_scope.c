/*
 * Where an intervention applies (layers, experts, positions, condition) and what it applies (its vectors and
 * numbers), each checked against the model: an index that the model does not have, a layer without experts,
 * an empty range are refused, because nothing could reach them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "steering/parse.h"

cox_status cox__parse_number(const json_t *json, const char *where, const char *key, float *out)
{
    double number = (double)*out;
    cox_status status = cox_json_number(json, where, key, false, &number);
    if (status != COX_OK) return status;
    if (!isfinite((float)number)) {
        return cox_fail(COX_INVALID, "%s: key \"%s\" is %g, which is not finite in f32", where, key, number);
    }
    *out = (float)number;
    return COX_OK;
}

/* Sets flags[i] for an index or a list of indices below n. what: "layer" or "expert". */
static cox_status set_indices(const json_t *value, const char *where, const char *what, int32_t n,
                              uint8_t *flags)
{
    size_t n_listed = json_is_array(value) ? json_array_size(value) : 1;
    if (n_listed == 0)
        return cox_fail(COX_INVALID, "%s: key \"%s\" is an empty list: nothing is there to steer", where,
                        what);
    for (size_t i = 0; i < n_listed; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(item)) {
            return cox_fail(COX_BAD_FILE,
                            "%s: key \"%s\" must be an index, a list of them%s, \"all\" or \"from vector\"",
                            where, what, strcmp(what, "expert") == 0 ? ", \"shared\"" : "");
        }
        json_int_t index = json_integer_value(item);
        if (index < 0 || index >= n) {
            return cox_fail(COX_INVALID, "%s: %s %lld is out of range: the model has %d %ss, 0 to %d", where,
                            what, (long long)index, (int)n, what, (int)n - 1);
        }
        if (flags[index]) {
            return cox_fail(COX_INVALID, "%s: %s %lld is listed twice", where, what, (long long)index);
        }
        flags[index] = 1;
    }
    return COX_OK;
}

static cox_status set_all_layers(const cox__parse *parse, cox_intervention *out)
{
    const cox_model *m = parse->builder->model;
    bool is_any = false;
    for (int32_t l = 0; l < m->n_layers; l++) {
        out->layers[l] = !cox_site_needs_experts(out->site) || m->layers[l].is_moe;
        is_any |= out->layers[l];
    }
    if (is_any) return COX_OK;
    return cox_fail(COX_INVALID, "%s: no layer of this model has experts, so nothing reaches %s",
                    parse->where, cox_site_name(out->site));
}

cox_status cox__parse_layers(const cox__parse *parse, cox_intervention *out)
{
    const cox_model *m = parse->builder->model;
    out->layers = cox_arena_alloc(parse->builder->plan->arena, (size_t)m->n_layers);
    if (!out->layers) return COX_NO_MEMORY;
    const json_t *value = json_object_get(parse->json, "layer");
    if (json_is_string(value) && strcmp(json_string_value(value), "all") == 0)
        return set_all_layers(parse, out);
    json_t *from_vector = NULL;
    if (!value || json_is_null(value)) {
        if (!parse->vector || parse->vector->layer < 0) {
            return cox_fail(COX_INVALID, "%s: key \"layer\" is missing, and no vector says it", parse->where);
        }
        value = from_vector = json_integer(parse->vector->layer);
    }
    cox_status status = set_indices(value, parse->where, "layer", m->n_layers, out->layers);
    json_decref(from_vector);
    for (int32_t l = 0; l < m->n_layers && status == COX_OK; l++) {
        if (out->layers[l] && cox_site_needs_experts(out->site) && !m->layers[l].is_moe) {
            status = cox_fail(COX_INVALID,
                              "%s: layer %d has no experts (its FFN is dense), so nothing reaches %s there",
                              parse->where, (int)l, cox_site_name(out->site));
        }
    }
    return status;
}

cox_status cox__parse_experts(const cox__parse *parse, cox_intervention *out)
{
    const cox_model *m = parse->builder->model;
    const json_t *value = json_object_get(parse->json, "expert");
    if (json_is_null(value)) value = NULL;
    if (!cox_site_needs_experts(out->site)) {
        if (!value) return COX_OK;
        return cox_fail(COX_INVALID,
                        "%s: key \"expert\" belongs to expert_out and router_logits only, not to %s",
                        parse->where, cox_site_name(out->site));
    }
    if (out->op == COX_OP_PIN) return COX_OK; /* the keys have been checked: it has none */
    out->experts = cox_arena_alloc(parse->builder->plan->arena, (size_t)m->router.n_experts);
    if (!out->experts) return COX_NO_MEMORY;
    const char *text = json_string_value(value);
    if (text && strcmp(text, "all") == 0) {
        memset(out->experts, 1, (size_t)m->router.n_experts);
        return COX_OK;
    }
    if (text && strcmp(text, "shared") == 0) {
        return cox_fail(COX_UNSUPPORTED, "%s: expert \"shared\": family %s has no shared expert",
                        parse->where, m->family_name);
    }
    if (value) return set_indices(value, parse->where, "expert", m->router.n_experts, out->experts);
    if (!parse->vector || parse->vector->expert < 0) {
        return cox_fail(COX_INVALID, "%s: key \"expert\" is missing, and no vector says it", parse->where);
    }
    json_t *from_vector = json_integer(parse->vector->expert);
    cox_status status = set_indices(from_vector, parse->where, "expert", m->router.n_experts, out->experts);
    json_decref(from_vector);
    return status;
}

static cox_status read_span(const cox__parse *parse, const json_t *value, cox_positions *out)
{
    const char *text = json_string_value(value);
    if (text && strcmp(text, "all") == 0)
        out->span = COX_SPAN_ALL;
    else if (text && strcmp(text, "prompt") == 0)
        out->span = COX_SPAN_PROMPT;
    else if (text && strcmp(text, "generated") == 0)
        out->span = COX_SPAN_GENERATED;
    else {
        return cox_fail(COX_INVALID,
                        "%s: key \"positions\" must be \"all\", \"prompt\", \"generated\", {\"last\": k} or "
                        "{\"from\": a, \"to\": b}",
                        parse->where);
    }
    return COX_OK;
}

static cox_status read_range(const cox__parse *parse, const json_t *value, cox_positions *out)
{
    int64_t from = 0, to = 0, last = 0;
    int32_t max = parse->builder->model->max_positions;
    char where[1200];
    snprintf(where, sizeof where, "%s: positions", parse->where);
    cox_status status = COX_OK;
    if (json_object_get(value, "last") && json_object_size(value) == 1) {
        status = cox_json_int(value, where, "last", true, INT32_MIN, INT32_MAX, &last);
        *out = (cox_positions){COX_SPAN_LAST, (int32_t)last, 0};
        if (status == COX_OK && last < 1) {
            status = cox_fail(COX_INVALID, "%s: the last %d tokens are none: nothing is there to steer",
                              where, (int)last);
        }
        return status;
    }
    if (!json_object_get(value, "from") || !json_object_get(value, "to") || json_object_size(value) != 2) {
        return read_span(parse, NULL, out);
    }
    status = cox_json_int(value, where, "from", true, 0, INT32_MAX, &from);
    if (status == COX_OK) status = cox_json_int(value, where, "to", true, 0, INT32_MAX, &to);
    if (status != COX_OK) return status;
    *out = (cox_positions){COX_SPAN_RANGE, (int32_t)from, (int32_t)to};
    if (from >= to) {
        return cox_fail(COX_INVALID,
                        "%s: from %d to %d is empty (\"to\" is not included): nothing is there to steer",
                        where, (int)from, (int)to);
    }
    if (from >= max) {
        return cox_fail(COX_INVALID, "%s: from %d is beyond the model's %d positions: nothing reaches it",
                        where, (int)from, (int)max);
    }
    return COX_OK;
}

cox_status cox__parse_positions(const cox__parse *parse, cox_intervention *out)
{
    const json_t *value = json_object_get(parse->json, "positions");
    json_t *from_vector = NULL;
    if ((!value || json_is_null(value)) && parse->vector && parse->vector->positions) {
        value = from_vector = json_loads(parse->vector->positions, JSON_DECODE_ANY, NULL);
    }
    cox_status status = COX_OK;
    if (json_is_object(value))
        status = read_range(parse, value, &out->positions);
    else if (value && !json_is_null(value))
        status = read_span(parse, value, &out->positions);
    json_decref(from_vector);
    return status;
}

/* The vector under a key of `json`, checked for site and width. */
static cox_status read_row(const cox__parse *parse, const json_t *json, const char *where, const char *key,
                           const cox_intervention *out, const cox_vector **vector)
{
    const char *text = NULL, *made_at = NULL;
    cox_status status = cox_json_string(json, where, key, true, &text);
    char place[1400];
    snprintf(place, sizeof place, "%s: key \"%s\"", where, key);
    if (status == COX_OK) status = cox__plan_find_vector(parse->builder, place, text, vector);
    if (status == COX_OK) status = cox_json_string(parse->json, parse->where, "vector_site", false, &made_at);
    if (status != COX_OK) return status;
    const cox_vector *v = *vector;
    const cox_site wanted = made_at ? cox_site_find(made_at) : out->site;
    if (wanted == COX_SITE_UNSTATED)
        return cox_fail_in(cox_site_unknown("key \"vector_site\"", made_at), "%s", parse->where);
    if (v->site != COX_SITE_UNSTATED && v->site != wanted) {
        return cox_fail(COX_INVALID,
                        "%s: the vector was made at %s, not %s; to use it at %s all the same, add "
                        "\"vector_site\": \"%s\"",
                        place, cox_site_name(v->site), cox_site_name(wanted), cox_site_name(out->site),
                        cox_site_name(v->site));
    }
    if (v->width != out->width) {
        return cox_fail(COX_INVALID, "%s: the vector has width %d, but %s of this model has %d", place,
                        (int)v->width, cox_site_name(out->site), (int)out->width);
    }
    return COX_OK;
}

/* The unit vector of v as a row of the plan. */
static cox_status keep_unit(const cox__parse *parse, const char *key, const cox_vector *v, const float **unit)
{
    float *scratch = malloc((size_t)v->width * sizeof *scratch);
    if (!scratch) return cox_no_memory(parse->where);
    cox_status status = COX_OK;
    if (cox__unit_of(v->data, v->width, scratch))
        *unit = cox__plan_keep_row(parse->builder, scratch, v->width, &status);
    else
        status = cox_fail(COX_INVALID, "%s: key \"%s\": the vector is zero, it has no direction",
                          parse->where, key);
    free(scratch);
    return status;
}

/* unit2 = (v2 - u (u.v2)) / its norm, in f64. */
static cox_status keep_second_unit(const cox__parse *parse, const cox_vector *v2, cox_intervention *out)
{
    const cox_vector *v = parse->vector;
    double norm2 = cox_dot_f64(v->data, v->data, v->width),
           share = cox_dot_f64(v->data, v2->data, v->width) / norm2;
    double left = 0;
    for (int32_t i = 0; i < v->width; i++) {
        double x = (double)v2->data[i] - share * (double)v->data[i];
        left += x * x;
    }
    if (!(left > 1e-10 * cox_dot_f64(v2->data, v2->data, v->width))) {
        return cox_fail(
            COX_INVALID,
            "%s: key \"vector2\": the vector is parallel to \"vector\" or zero; they span no plane",
            parse->where);
    }
    float *scratch = malloc((size_t)v->width * sizeof *scratch);
    if (!scratch) return cox_no_memory(parse->where);
    for (int32_t i = 0; i < v->width; i++) {
        scratch[i] = (float)(((double)v2->data[i] - share * (double)v->data[i]) / sqrt(left));
    }
    cox_status status = COX_OK;
    out->unit2 = cox__plan_keep_row(parse->builder, scratch, v->width, &status);
    free(scratch);
    return status;
}

static cox_status read_rotation(const cox__parse *parse, cox_intervention *out)
{
    const cox_vector *v2 = NULL;
    cox_status status = read_row(parse, parse->json, parse->where, "vector2", out, &v2);
    if (status == COX_OK) status = keep_second_unit(parse, v2, out);
    double degrees = 0;
    if (status == COX_OK) status = cox_json_number(parse->json, parse->where, "degrees", true, &degrees);
    if (status != COX_OK) return status;
    if (!(fabs(degrees) <= 360)) {
        return cox_fail(COX_INVALID, "%s: key \"degrees\" is %g, outside -360 to 360", parse->where, degrees);
    }
    double sine, cosine;
    cox_sincos_f64(degrees * (3.14159265358979323846 / 180), &sine, &cosine);
    out->cosine = (float)cosine;
    out->sine = (float)sine;
    return COX_OK;
}

static cox_status read_reference(const cox__parse *parse, cox_intervention *out)
{
    const cox_vector *reference = NULL;
    cox_status status = read_row(parse, parse->json, parse->where, "reference", out, &reference);
    if (status == COX_OK) status = cox__parse_number(parse->json, parse->where, "alpha", &out->alpha);
    if (status != COX_OK) return status;
    const cox_vector *v = parse->vector;
    double norm = sqrt(cox_dot_f64(v->data, v->data, v->width));
    out->reference_dot = (float)(cox_dot_f64(v->data, reference->data, v->width) / norm);
    if (isfinite(out->reference_dot)) return COX_OK;
    return cox_fail(COX_INVALID, "%s: key \"reference\": its product with \"vector\" is too large",
                    parse->where);
}

static cox_status read_routes(const cox__parse *parse, cox_intervention *out)
{
    const char *text = NULL;
    cox_status status = cox_json_string(parse->json, parse->where, "routes", true, &text);
    if (status != COX_OK) return status;
    char *path = cox__plan_path(parse->builder, text);
    if (!path) return COX_NO_MEMORY;
    const json_t *layer = json_object_get(parse->json, "layer");
    status = cox__pinned_load(parse->builder, parse->where, path, json_is_string(layer), out);
    free(path);
    return status;
}

cox_status cox__parse_fields(const cox__parse *parse, cox_intervention *out)
{
    cox_status status = COX_OK;
    if (parse->vector) { /* found before; its site and width are checked now that the site is known */
        const cox_vector *v = NULL;
        status = read_row(parse, parse->json, parse->where, "vector", out, &v);
        if (status == COX_OK) out->vector = cox__plan_keep_row(parse->builder, v->data, v->width, &status);
        if (status == COX_OK) out->vector_norm = v->norm;
        if (status == COX_OK && cox__op_has_direction(out->op))
            status = keep_unit(parse, "vector", v, &out->unit);
    }
    if (status == COX_OK) status = cox__parse_number(parse->json, parse->where, "value", &out->value);
    if (status == COX_OK) status = cox__parse_number(parse->json, parse->where, "factor", &out->factor);
    if (status == COX_OK && out->op == COX_OP_ROTATE) status = read_rotation(parse, out);
    if (status == COX_OK && out->op == COX_OP_AFFINE) status = read_reference(parse, out);
    if (status == COX_OK && out->op == COX_OP_PIN) status = read_routes(parse, out);
    return status;
}

cox_status cox__parse_when(const cox__parse *parse, cox_intervention *out)
{
    const json_t *when = json_object_get(parse->json, "when");
    if (!when || json_is_null(when)) return COX_OK;
    char where[1200];
    snprintf(where, sizeof where, "%s: when", parse->where);
    if (!json_is_object(when) || json_object_size(when) != 2 || !json_object_get(when, "vector") ||
        !json_object_get(when, "cosine_above")) {
        return cox_fail(COX_INVALID, "%s: must be {\"vector\": path, \"cosine_above\": number}", where);
    }
    double threshold = 0;
    cox_status status = cox_json_number(when, where, "cosine_above", true, &threshold);
    if (status != COX_OK) return status;
    if (!(threshold >= -1 && threshold < 1)) {
        return cox_fail(COX_INVALID,
                        "%s: key \"cosine_above\" is %g; a cosine above it is possible from -1 to below 1",
                        where, threshold);
    }
    out->cosine_above = (float)threshold;
    const cox_vector *v = NULL;
    status = read_row(parse, when, where, "vector", out, &v);
    return status == COX_OK ? keep_unit(parse, "when", v, &out->when) : status;
}
