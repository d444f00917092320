/*
 * Writing of recorded routes: the experts that pinned.c reads again, and beside them what a person wants to
 * know of a choice. All tensors of a layer have the shape [n_tokens, top_k].
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

/* The tensors of a layer: "layer.<l>" and its companions. */
enum { N_TENSORS = 5, NAME_BYTES = 32 };
static const struct {
    const char *suffix, *dtype;
} kinds[N_TENSORS] = {
    {"", "I32"}, {".logits", "F32"}, {".weights", "F32"}, {".margins", "F32"}, {".ranks", "I32"}};

bool cox__is_routes_companion(const char *suffix)
{
    for (size_t i = 1; i < N_TENSORS; i++) {
        if (strcmp(kinds[i].suffix, suffix) == 0) return true;
    }
    return false;
}

typedef struct writer {
    cox__tensor_head *heads;   /* [n] */
    char (*names)[NAME_BYTES]; /* [n] */
    const void **parts;        /* [n+1], the header first */
    size_t *part_bytes, n;
} writer;

static void put(writer *w, int32_t layer, int kind, const void *data, int32_t n_tokens, int32_t top_k)
{
    if (!data) return;
    size_t i = w->n++;
    snprintf(w->names[i], NAME_BYTES, "layer.%d%s", (int)layer, kinds[kind].suffix);
    w->heads[i] = (cox__tensor_head){w->names[i], kinds[kind].dtype, {n_tokens, top_k}};
    w->parts[i + 1] = data;
    w->part_bytes[i + 1] = 4 * (size_t)n_tokens * (size_t)top_k;
}

static cox_status write_tensors(writer *w, const char *path, const char *model_fingerprint)
{
    json_t *metadata = model_fingerprint ? json_pack("{s:s}", "model_fingerprint", model_fingerprint) : NULL;
    unsigned char *header = NULL;
    cox_status status = cox__safetensors_header(w->heads, w->n, metadata, &header, &w->part_bytes[0]);
    w->parts[0] = header;
    if (status == COX_OK) status = cox__file_write(path, w->parts, w->part_bytes, w->n + 1);
    free(header);
    json_decref(metadata);
    return status;
}

cox_status cox_traced_routes_write(const char *path, const cox_routes_layer *layers, int32_t n_layers,
                                   int32_t n_tokens, int32_t top_k, const char *model_fingerprint)
{
    size_t room = (size_t)n_layers * N_TENSORS + 1;
    writer w = {.heads = calloc(room, sizeof *w.heads),
                .names = calloc(room, sizeof *w.names),
                .parts = calloc(room, sizeof *w.parts),
                .part_bytes = calloc(room, sizeof *w.part_bytes)};
    cox_status status = COX_OK;
    if (!w.heads || !w.names || !w.parts || !w.part_bytes) {
        status = cox_no_memory(path);
    } else {
        for (int32_t l = 0; l < n_layers; l++) {
            const cox_routes_layer *layer = &layers[l];
            const void *const data[N_TENSORS] = {layer->experts, layer->logits, layer->weights,
                                                 layer->margins, layer->ranks};
            for (int k = 0; k < N_TENSORS && layer->experts; k++) put(&w, l, k, data[k], n_tokens, top_k);
        }
        if (w.n == 0 || n_tokens < 1)
            status = cox_fail(COX_INVALID, "%s: there are no routes to write", path);
    }
    if (status == COX_OK) status = write_tensors(&w, path, model_fingerprint);
    free(w.part_bytes);
    free(w.parts);
    free(w.names);
    free(w.heads);
    return status;
}

cox_status cox_pinned_routes_write(const char *path, const int32_t *const *layers, int32_t n_layers,
                                   int32_t n_tokens, int32_t top_k, const char *model_fingerprint)
{
    cox_routes_layer *experts = calloc((size_t)n_layers + 1, sizeof *experts);
    if (!experts) return cox_no_memory(path);
    for (int32_t l = 0; l < n_layers; l++) experts[l].experts = layers[l];
    cox_status status = cox_traced_routes_write(path, experts, n_layers, n_tokens, top_k, model_fingerprint);
    free(experts);
    return status;
}
