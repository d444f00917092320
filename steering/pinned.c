/*
 * Pinned routes: for every token of a recorded run, the experts that each layer chose. A safetensors file of
 * i32 [n_tokens, top_k] tensors "layer.<l>", so that numpy reads it; `--trace-routes` writes it, with logits,
 * weights, margins and ranks beside, which replaying does not need. Replaying it tells what a vector does by
 * itself from what it does by changing the routes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "steering/internal.h"

const int32_t *cox_pinned_routes_find(const cox_pinned_routes *routes, int32_t layer, int32_t position)
{
    if (layer >= routes->n_layers || !routes->layers[layer] || position < 0 || position >= routes->n_tokens)
        return NULL;
    return routes->layers[layer] + (size_t)position * (size_t)routes->top_k;
}

cox_status cox__pinned_check(const char *where, const int32_t *rows, int32_t n_tokens, int32_t top_k,
                             int32_t n_experts)
{
    for (int32_t t = 0; t < n_tokens; t++) {
        const int32_t *row = rows + (size_t)t * (size_t)top_k;
        for (int32_t j = 0; j < top_k; j++) {
            if (row[j] < 0 || row[j] >= n_experts) {
                return cox_fail(COX_BAD_FILE, "%s: token %d has expert %d; the model has 0 to %d", where,
                                (int)t, (int)row[j], (int)n_experts - 1);
            }
            for (int32_t i = 0; i < j; i++) {
                if (row[i] == row[j]) {
                    return cox_fail(COX_BAD_FILE, "%s: token %d has expert %d twice", where, (int)t,
                                    (int)row[j]);
                }
            }
        }
    }
    return COX_OK;
}

static cox_status read_layer(cox_pinned_routes *routes, const char *path, const cox_tensor *tensor,
                             int32_t n_experts, cox_arena *arena)
{
    char where[1024];
    snprintf(where, sizeof where, "%.700s: tensor \"%.200s\"", path, tensor->name);
    char again[32]; /* just as it would be written: neither "layer.+1" nor "layer.4294967297" */
    int layer = -1;
    bool is_read = sscanf(tensor->name, "layer.%9d", &layer) == 1 && layer >= 0 && layer < routes->n_layers;
    size_t n_read = (size_t)snprintf(again, sizeof again, "layer.%d", layer);
    is_read = is_read && strncmp(tensor->name, again, n_read) == 0;
    if (is_read && cox__is_routes_companion(tensor->name + n_read)) return COX_OK;
    if (!is_read || tensor->name[n_read]) {
        return cox_fail(COX_BAD_FILE, "%s: is not \"layer.<l>\" of a layer of this model (0 to %d)", where,
                        (int)routes->n_layers - 1);
    }
    if (tensor->dtype != COX_TENSOR_I32 || tensor->n_dims != 2 || tensor->shape[1] != routes->top_k ||
        tensor->shape[0] < 1 || tensor->shape[0] > INT32_MAX) {
        return cox_fail(COX_BAD_FILE, "%s: must be I32 [n_tokens, %d] for this model", where,
                        (int)routes->top_k);
    }
    if (routes->n_tokens && tensor->shape[0] != routes->n_tokens) {
        return cox_fail(COX_BAD_FILE, "%s: has %lld tokens, another layer has %d", where,
                        (long long)tensor->shape[0], (int)routes->n_tokens);
    }
    if (routes->layers[layer]) return cox_fail(COX_BAD_FILE, "%s: layer %d is there twice", where, layer);
    routes->n_tokens = (int32_t)tensor->shape[0];
    int32_t *rows = cox_arena_alloc(arena, tensor->n_bytes);
    if (!rows) return COX_NO_MEMORY;
    memcpy(rows, tensor->data, tensor->n_bytes);
    routes->layers[layer] = rows;
    return cox__pinned_check(where, rows, routes->n_tokens, routes->top_k, n_experts);
}

cox_status cox__pinned_parse(cox_pinned_routes **routes, const char *path, const unsigned char *data,
                             size_t n_bytes, int32_t n_layers, int32_t n_experts, int32_t top_k,
                             cox_arena *arena)
{
    cox_tensor *tensors = NULL;
    size_t n = 0;
    cox_status status = cox__safetensors_parse(path, data, n_bytes, arena, &tensors, &n);
    if (status != COX_OK) return status;
    cox_pinned_routes *fresh = cox_arena_alloc(arena, sizeof *fresh);
    if (!fresh) return COX_NO_MEMORY;
    *fresh = (cox_pinned_routes){.n_layers = n_layers, .top_k = top_k};
    fresh->layers = cox_arena_array(arena, (size_t)n_layers, sizeof *fresh->layers);
    if (!fresh->layers) return COX_NO_MEMORY;
    for (size_t i = 0; i < n && status == COX_OK; i++)
        status = read_layer(fresh, path, &tensors[i], n_experts, arena);
    if (status == COX_OK && fresh->n_tokens == 0)
        status = cox_fail(COX_BAD_FILE, "%s: holds no layers", path);
    if (status == COX_OK) *routes = fresh;
    return status;
}

/* Layers and positions that the intervention names and the record does not have. */
static cox_status match_scope(const char *where, const char *path, const cox_pinned_routes *routes,
                              bool is_all, cox_intervention *out)
{
    bool is_any = false;
    for (int32_t l = 0; l < routes->n_layers; l++) {
        if (!out->layers[l]) continue;
        if (!routes->layers[l] && !is_all) {
            return cox_fail(COX_INVALID, "%s: %s has no routes of layer %d", where, path, (int)l);
        }
        out->layers[l] = routes->layers[l] != NULL;
        is_any |= out->layers[l];
    }
    if (!is_any) return cox_fail(COX_INVALID, "%s: %s has no routes of a layer with experts", where, path);
    if (out->positions.span == COX_SPAN_RANGE && out->positions.from >= routes->n_tokens) {
        return cox_fail(COX_INVALID,
                        "%s: positions from %d, but %s has routes of %d tokens: nothing reaches them", where,
                        (int)out->positions.from, path, (int)routes->n_tokens);
    }
    return COX_OK;
}

cox_status cox__pinned_load(cox__plan_builder *builder, const char *where, const char *path, bool is_all,
                            cox_intervention *out)
{
    const cox_model *m = builder->model;
    unsigned char *data = NULL;
    size_t n_bytes = 0;
    cox_pinned_routes *routes = NULL;
    cox_status status = cox__file_read(path, &data, &n_bytes);
    if (status == COX_OK) {
        status = cox__pinned_parse(&routes, path, data, n_bytes, m->n_layers, m->router.n_experts,
                                   m->router.top_k, builder->plan->arena);
    }
    free(data);
    if (status != COX_OK) return cox_fail_in(status, "%s: key \"routes\"", where);
    builder->n_bytes += n_bytes;
    if (builder->n_bytes > COX_PLAN_MAX_BYTES) {
        return cox_fail(COX_INVALID, "%s: the plan's vectors and routes take more than %d bytes", where,
                        COX_PLAN_MAX_BYTES);
    }
    out->pinned = routes;
    return match_scope(where, path, routes, is_all, out);
}
