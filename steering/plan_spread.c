/*
 * An intervention that means every vector of a file, each at its own layer ("layer": "from vector", or no
 * layer at all where the file is a GGUF control vector), becomes one intervention a vector, as a person would
 * write them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

static bool is_from_vector(const json_t *item, const char *key)
{
    const char *text = json_string_value(json_object_get(item, key));
    return text && strcmp(text, "from vector") == 0;
}

static bool is_given(const json_t *item, const char *key)
{
    const json_t *value = json_object_get(item, key);
    return value && !json_is_null(value) && !is_from_vector(item, key);
}

static int by_place(const void *a, const void *b)
{
    const cox_vector *x = *(const cox_vector *const *)a, *y = *(const cox_vector *const *)b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->expert != y->expert) return x->expert < y->expert ? -1 : 1;
    if (x->site != y->site) return x->site < y->site ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Each vector has a layer that the model has, and no two are for one place. list [n] by place. */
static cox_status check_places(const cox__plan_builder *builder, const char *where, const json_t *item,
                               const cox_vector *const *list, size_t n)
{
    bool is_same_expert = is_given(item, "expert");
    for (size_t i = 0; i < n; i++) {
        const cox_vector *v = list[i], *before = i > 0 ? list[i - 1] : NULL;
        if (v->layer < 0) {
            return cox_fail(COX_INVALID,
                            "%s: vector \"%.200s\" does not say its layer, which \"from vector\" needs",
                            where, v->name);
        }
        if (v->layer >= builder->model->n_layers) {
            return cox_fail(
                COX_INVALID, "%s: vector \"%.200s\" is for layer %d; the model has %d layers, 0 to %d", where,
                v->name, (int)v->layer, (int)builder->model->n_layers, (int)builder->model->n_layers - 1);
        }
        if (before && before->layer == v->layer && before->site == v->site &&
            (is_same_expert || before->expert == v->expert)) {
            return cox_fail(
                COX_INVALID,
                "%s: vectors \"%.200s\" and \"%.200s\" are for one place; say which after a \"#\"", where,
                before->name, v->name);
        }
    }
    return COX_OK;
}

/* Takes the item over. */
static cox_status add(json_t *spread, json_t *item, const char *label)
{
    json_t *entry = json_pack("{s:o, s:s}", "item", item, "label", label);
    if (entry && json_array_append_new(spread, entry) == 0) return COX_OK;
    return cox_no_memory("a plan");
}

/* What the item would be for vector v: by name, at its layer. */
static cox_status add_vector(json_t *spread, const json_t *item, const char *path, const cox_vector *v,
                             const char *label)
{
    char whole[1024];
    snprintf(whole, sizeof whole, "%s, vector \"%.200s\"", label, v->name);
    json_t *copy = json_copy((json_t *)item);
    if (!copy || json_object_set_new(copy, "vector", json_sprintf("%s#%s", path, v->name)) != 0 ||
        json_object_set_new(copy, "layer", json_integer(v->layer)) != 0) {
        json_decref(copy);
        return cox_no_memory("a plan");
    }
    if (is_from_vector(copy, "expert")) json_object_del(copy, "expert");
    return add(spread, copy, whole);
}

static cox_status add_file(cox__plan_builder *builder, json_t *spread, const json_t *item, const char *where,
                           const char *label, const cox_vector_file *file)
{
    const char *path = json_string_value(json_object_get(item, "vector"));
    const cox_vector **list = malloc(file->n * sizeof *list);
    if (!list) return cox_no_memory(where);
    for (size_t i = 0; i < file->n; i++) list[i] = &file->vectors[i];
    qsort(list, file->n, sizeof *list, by_place);
    cox_status status = check_places(builder, where, item, list, file->n);
    for (size_t i = 0; i < file->n && status == COX_OK; i++)
        status = add_vector(spread, item, path, list[i], label);
    free(list);
    return status;
}

/* One vector says its own layer and expert when the plan says neither. */
static cox_status add_one(json_t *spread, const json_t *item, const char *label)
{
    json_t *copy = json_is_object(item) ? json_copy((json_t *)item) : json_incref((json_t *)item);
    if (!copy) return cox_no_memory("a plan");
    if (is_from_vector(copy, "layer")) json_object_del(copy, "layer");
    if (is_from_vector(copy, "expert")) json_object_del(copy, "expert");
    return add(spread, copy, label);
}

static cox_status spread_item(cox__plan_builder *builder, json_t *spread, const json_t *item, size_t number)
{
    char label[64], where[1024];
    snprintf(label, sizeof label, "intervention %zu", number);
    snprintf(where, sizeof where, "%.900s: %s", builder->where, label);
    const char *path = json_string_value(json_object_get(item, "vector"));
    bool is_wanted = is_from_vector(item, "layer");
    if (!path && (is_wanted || is_from_vector(item, "expert")))
        return cox_fail(COX_INVALID, "%s: \"from vector\" needs key \"vector\"", where);
    if (!path || strrchr(path, '#') || is_given(item, "layer")) return add_one(spread, item, label);
    const cox_vector_file *file = NULL;
    cox_status status = cox__plan_open_file(builder, path, &file);
    if (status != COX_OK) return cox_fail_in(status, "%s: key \"vector\"", where);
    if (file->n == 1 || !(is_wanted || file->is_gguf)) return add_one(spread, item, label);
    return add_file(builder, spread, item, where, label, file);
}

cox_status cox__plan_spread(cox__plan_builder *builder, const json_t *list, json_t **spread)
{
    json_t *fresh = json_array();
    cox_status status = fresh ? COX_OK : cox_no_memory(builder->where);
    for (size_t i = 0; i < json_array_size(list) && status == COX_OK; i++)
        status = spread_item(builder, fresh, json_array_get(list, i), i);
    if (status == COX_OK && json_array_size(fresh) > COX_PLAN_MAX_INTERVENTIONS) {
        status = cox_fail(COX_INVALID, "%s: %zu interventions are more than the %d that a plan may have",
                          builder->where, json_array_size(fresh), COX_PLAN_MAX_INTERVENTIONS);
    }
    if (status == COX_OK)
        *spread = fresh;
    else
        json_decref(fresh);
    return status;
}
