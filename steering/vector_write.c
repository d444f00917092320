/* Writes the vector file: safetensors whose __metadata__ says of each tensor what it is for
 * (docs/formats.md). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "steering/internal.h"

/* A string, or JSON text, under `key`; nothing when it is NULL. */
static cox_status put_text(json_t *entry, const char *key, const char *text)
{
    if (text && json_object_set_new(entry, key, json_string(text)) != 0) {
        return cox_fail(COX_INVALID, "a vector's %s is not valid UTF-8", key);
    }
    return COX_OK;
}

static cox_status put_json(json_t *entry, const char *key, const char *text)
{
    if (!text) return COX_OK;
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value) return cox_fail(COX_INVALID, "a vector's %s is not JSON: %.200s", key, text);
    json_object_set_new(entry, key, value);
    return COX_OK;
}

static cox_status put_facts(json_t *tensors, const cox_vector *vector)
{
    json_t *entry = json_object();
    if (!entry || json_object_set_new(tensors, vector->name, entry) != 0) {
        return cox_fail(COX_INVALID, "a vector's name is not valid UTF-8");
    }
    if (vector->site != COX_SITE_UNSTATED)
        json_object_set_new(entry, "site", json_string(cox_site_name(vector->site)));
    if (vector->layer >= 0) json_object_set_new(entry, "layer", json_integer(vector->layer));
    if (vector->expert >= 0) json_object_set_new(entry, "expert", json_integer(vector->expert));
    double norm = sqrt(cox_dot_f64(vector->data, vector->data, vector->width));
    json_object_set_new(entry, "norm", json_real(norm));
    cox_status status = put_text(entry, "operation", vector->operation);
    if (status == COX_OK) status = put_text(entry, "weighting", vector->weighting);
    if (status == COX_OK) status = put_json(entry, "positions", vector->positions);
    if (status == COX_OK) status = put_text(entry, "model_fingerprint", vector->model_fingerprint);
    if (status == COX_OK) status = put_text(entry, "tokenizer_fingerprint", vector->tokenizer_fingerprint);
    if (status == COX_OK) status = put_json(entry, "provenance", vector->provenance);
    return status;
}

/* [out] *metadata: {"coxswain": JSON text}. */
static cox_status all_facts(const cox_vector *const *vectors, size_t n, json_t **metadata)
{
    json_t *tensors = json_object();
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++) status = put_facts(tensors, vectors[i]);
    json_t *all = json_pack("{s:i,s:o}", "version", 1, "tensors", tensors);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(all);
    if (status == COX_OK && !text) status = cox_no_memory("the metadata of vectors");
    if (status == COX_OK) *metadata = json_pack("{s:s}", "coxswain", text);
    free(text);
    return status;
}

static int by_name(const void *a, const void *b)
{
    const cox_vector *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static cox_status check(const char *path, const cox_vector *const *vectors, size_t n)
{
    if (n == 0 || n > COX__MAX_VECTORS) {
        return cox_fail(COX_INVALID, "%s: %zu vectors; a vector file has 1 to %d", path, n, COX__MAX_VECTORS);
    }
    size_t n_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const cox_vector *v = vectors[i];
        if (!*v->name || strcmp(v->name, "__metadata__") == 0 ||
            (i && strcmp(v->name, vectors[i - 1]->name) == 0)) {
            return cox_fail(COX_INVALID, "%s: \"%s\" is not a name for a vector, or two have it", path,
                            v->name);
        }
        if (v->width < 1 || v->width > COX__MAX_WIDTH) {
            return cox_fail(COX_INVALID, "%s: vector \"%s\" has width %d", path, v->name, (int)v->width);
        }
        cox_status status = cox__check_finite(v->name, v->data, v->width);
        if (status != COX_OK) return status;
        n_bytes += 4 * (size_t)v->width;
    }
    if (n_bytes > COX__MAX_FILE_BYTES / 2) {
        return cox_fail(COX_INVALID, "%s: %zu bytes of vectors are too many; use several files", path,
                        n_bytes);
    }
    return COX_OK;
}

static cox_status write_sorted(const char *path, const cox_vector *const *vectors, size_t n)
{
    cox_status status = check(path, vectors, n);
    json_t *metadata = NULL;
    if (status == COX_OK) status = all_facts(vectors, n, &metadata);
    if (status != COX_OK) return status;
    cox__tensor_head *heads = calloc(n, sizeof *heads);
    const void **parts = calloc(n + 1, sizeof *parts);
    size_t *part_bytes = calloc(n + 1, sizeof *part_bytes);
    unsigned char *header = NULL;
    if (!heads || !parts || !part_bytes) {
        status = cox_no_memory(path);
    } else {
        for (size_t i = 0; i < n; i++) {
            heads[i] = (cox__tensor_head){vectors[i]->name, "F32", {vectors[i]->width, 0}};
            parts[i + 1] = vectors[i]->data;
            part_bytes[i + 1] = 4 * (size_t)vectors[i]->width;
        }
        status = cox__safetensors_header(heads, n, metadata, &header, &part_bytes[0]);
        parts[0] = header;
        if (status == COX_OK) status = cox__file_write(path, parts, part_bytes, n + 1);
    }
    free(header);
    free(part_bytes);
    free(parts);
    free(heads);
    json_decref(metadata);
    return status;
}

cox_status cox_vector_file_write(const char *path, const cox_vector *vectors, size_t n)
{
    const cox_vector **sorted = calloc(n ? n : 1, sizeof *sorted);
    if (!sorted) return cox_no_memory(path);
    for (size_t i = 0; i < n; i++) sorted[i] = &vectors[i];
    qsort(sorted, n, sizeof *sorted, by_name);
    cox_status status = write_sorted(path, sorted, n);
    free(sorted);
    return status;
}
