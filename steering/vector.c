/*
 * Reads the vector file: safetensors (its tensors checked by model/safetensors.c), and what __metadata__'s
 * key "coxswain" says of each tensor. A file without that key is a plain one, whose vectors say nothing of
 * themselves.
 */
#include "steering/vector.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/nearest.h"
#include "model/safetensors.h"
#include "steering/internal.h"

static const char *const site_names[COX_N_SITES] = {
#define X(name, text, words) text,
    COX_SITE_LIST(X)
#undef X
};

static const char *const site_words[COX_N_SITES] = {
#define X(name, text, words) words,
    COX_SITE_LIST(X)
#undef X
};

const char *cox_site_name(cox_site site)
{
    return site >= 0 && site < COX_N_SITES ? site_names[site] : "unstated";
}

const char *cox_site_words(cox_site site)
{
    return site_words[site];
}

int32_t cox_site_width(cox_site site, int32_t d_model, int32_t n_experts)
{
    return site == COX_SITE_ROUTER_LOGITS ? n_experts : d_model;
}

int32_t cox_site_widest(int32_t d_model, int32_t n_experts)
{
    int32_t widest = 0;
    for (cox_site site = 0; site < COX_N_SITES; site++) {
        int32_t width = cox_site_width(site, d_model, n_experts);
        if (width > widest) widest = width;
    }
    return widest;
}

bool cox_site_needs_experts(cox_site site)
{
    return site == COX_SITE_EXPERT_OUT || site == COX_SITE_ROUTER_LOGITS;
}

cox_site cox_site_find(const char *name)
{
    for (int i = 0; i < COX_N_SITES; i++) {
        if (strcmp(site_names[i], name) == 0) return (cox_site)i;
    }
    return COX_SITE_UNSTATED;
}

const char *cox_site_list(char list[COX_SITE_LIST_BYTES])
{
    size_t n = 0;
    for (int i = 0; i < COX_N_SITES; i++)
        n += (size_t)snprintf(list + n, COX_SITE_LIST_BYTES - n, "%s%s", i ? ", " : "", site_names[i]);
    return list;
}

cox_status cox_site_unknown(const char *where, const char *name)
{
    char list[COX_SITE_LIST_BYTES];
    cox_nearest nearest = cox_nearest_to(name, strlen(name));
    cox_nearest_offer_all(&nearest, site_names, COX_N_SITES);
    return cox_fail(COX_INVALID, "%s: unknown site \"%.100s\"; the sites are %s%s", where, name,
                    cox_site_list(list), nearest.hint);
}

cox_status cox__check_finite(const char *where, const float *data, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!isfinite(data[i])) {
            return cox_fail(COX_BAD_FILE, "%s: element %d is %s", where, (int)i,
                            isnan(data[i]) ? "NaN" : "infinite");
        }
    }
    return COX_OK;
}

double cox_dot_f64(const float *a, const float *b, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static cox_status read_tensor(const char *path, const cox_tensor *tensor, cox_arena *arena,
                              cox_vector *vector)
{
    char where[1024];
    snprintf(where, sizeof where, "%s: tensor \"%.300s\"", path, tensor->name);
    if (tensor->dtype != COX_TENSOR_F32 || tensor->n_dims != 1) {
        return cox_fail(COX_BAD_FILE, "%s: is %.20s of %d dimensions; a vector is F32 of one dimension",
                        where, tensor->dtype_name, (int)tensor->n_dims);
    }
    if (tensor->shape[0] < 1 || tensor->shape[0] > COX__MAX_WIDTH) {
        return cox_fail(COX_BAD_FILE, "%s: width %lld is outside 1 to %d", where, (long long)tensor->shape[0],
                        COX__MAX_WIDTH);
    }
    *vector = (cox_vector){.name = cox_arena_strdup(arena, tensor->name),
                           .width = (int32_t)tensor->shape[0],
                           .data = cox_arena_alloc(arena, tensor->n_bytes),
                           .site = COX_SITE_UNSTATED,
                           .layer = -1,
                           .expert = -1};
    if (!vector->name || !vector->data) return COX_NO_MEMORY;
    memcpy(vector->data, tensor->data, tensor->n_bytes); /* may be unaligned in the file */
    vector->norm = (float)sqrt(cox_dot_f64(vector->data, vector->data, vector->width));
    cox_status status = cox__check_finite(where, vector->data, vector->width);
    if (status == COX_OK && !isfinite(vector->norm))
        status = cox_fail(COX_BAD_FILE, "%s: its norm is too large for f32", where);
    return status;
}

/* [out] *out: a copy in the arena; left as it is when the key is absent or null. */
static cox_status copy_string(const json_t *object, const char *where, const char *key, cox_arena *arena,
                              const char **out)
{
    const char *text = NULL;
    cox_status status = cox_json_string(object, where, key, false, &text);
    if (status != COX_OK || !text) return status;
    *out = cox_arena_strdup(arena, text);
    return *out ? COX_OK : COX_NO_MEMORY;
}

/* The same for any JSON value, kept as compact text. */
static cox_status copy_json(const json_t *object, const char *key, cox_arena *arena, const char **out)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value)) return COX_OK;
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    if (!text) return cox_no_memory("a vector's metadata");
    *out = cox_arena_strdup(arena, text);
    free(text);
    return *out ? COX_OK : COX_NO_MEMORY;
}

static const char *const known_keys[] = {"site",
                                         "layer",
                                         "expert",
                                         "operation",
                                         "weighting",
                                         "positions",
                                         "norm",
                                         "model_fingerprint",
                                         "tokenizer_fingerprint",
                                         "provenance"};

static cox_status read_place(const json_t *entry, const char *where, cox_vector *vector)
{
    const char *site = NULL;
    int64_t layer = -1, expert = -1;
    cox_status status = cox_json_string(entry, where, "site", false, &site);
    if (status == COX_OK) status = cox_json_int(entry, where, "layer", false, 0, INT32_MAX, &layer);
    if (status == COX_OK) status = cox_json_int(entry, where, "expert", false, 0, INT32_MAX, &expert);
    if (status != COX_OK) return status;
    if (site) vector->site = cox_site_find(site);
    if (site && vector->site == COX_SITE_UNSTATED) {
        cox_site_unknown(where, site);
        return COX_BAD_FILE;
    }
    vector->layer = (int32_t)layer;
    vector->expert = (int32_t)expert;
    return COX_OK;
}

static cox_status read_norm(const json_t *entry, const char *where, const cox_vector *vector)
{
    double norm = (double)vector->norm;
    cox_status status = cox_json_number(entry, where, "norm", false, &norm);
    if (status != COX_OK) return status;
    if (!(fabs(norm - (double)vector->norm) <= 1e-3 * (double)vector->norm)) {
        return cox_fail(COX_BAD_FILE,
                        "%s: the metadata says norm %g, the tensor has %g; the file is damaged or was edited",
                        where, norm, (double)vector->norm);
    }
    return COX_OK;
}

static cox_status read_facts(const char *path, const json_t *entry, cox_arena *arena, cox_vector *vector)
{
    char where[1024];
    snprintf(where, sizeof where, "%s: tensor \"%.300s\"", path, vector->name);
    if (!json_is_object(entry)) return cox_fail(COX_BAD_FILE, "%s: its metadata must be an object", where);
    cox_status status = cox_json_check_keys(entry, where, known_keys, sizeof known_keys / sizeof *known_keys);
    if (status == COX_OK) status = read_place(entry, where, vector);
    if (status == COX_OK) status = copy_string(entry, where, "operation", arena, &vector->operation);
    if (status == COX_OK) status = copy_string(entry, where, "weighting", arena, &vector->weighting);
    if (status == COX_OK) status = copy_json(entry, "positions", arena, &vector->positions);
    if (status == COX_OK) status = read_norm(entry, where, vector);
    if (status == COX_OK)
        status = copy_string(entry, where, "model_fingerprint", arena, &vector->model_fingerprint);
    if (status == COX_OK) {
        status = copy_string(entry, where, "tokenizer_fingerprint", arena, &vector->tokenizer_fingerprint);
    }
    if (status == COX_OK) status = copy_json(entry, "provenance", arena, &vector->provenance);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cox_vector *)a)->name, ((const cox_vector *)b)->name);
}

/* text: the value of the metadata's key "coxswain". */
static cox_status read_all_facts(cox_vector_file *file, const char *text)
{
    char where[1024];
    snprintf(where, sizeof where, "%.900s: __metadata__ key \"coxswain\"", file->path);
    json_t *json = NULL;
    cox_status status = cox_json_load_text(&json, text, strlen(text), where);
    if (status != COX_OK) return status;
    int64_t version = 0;
    status = cox_json_int(json, where, "version", true, 1, 1, &version);
    const json_t *tensors = json_object_get(json, "tensors");
    if (status == COX_OK && !json_is_object(tensors)) {
        status = cox_fail(COX_BAD_FILE, "%s: key \"tensors\" must be an object", where);
    }
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)tensors, name, entry)
    {
        if (status != COX_OK) break;
        const cox_vector wanted = {.name = name};
        cox_vector *vector = bsearch(&wanted, file->vectors, file->n, sizeof wanted, by_name);
        if (!vector)
            status =
                cox_fail(COX_BAD_FILE, "%s: names tensor \"%.200s\", which is not in the file", where, name);
        else
            status = read_facts(file->path, entry, file->arena, vector);
    }
    json_decref(json);
    return status;
}

static cox_status parse_into(cox_vector_file *file, const unsigned char *data, size_t n_bytes)
{
    cox_tensor *tensors = NULL;
    size_t n = 0;
    cox_status status = cox__safetensors_parse(file->path, data, n_bytes, file->arena, &tensors, &n);
    if (status != COX_OK) return status;
    if (n == 0 || n > COX__MAX_VECTORS) {
        return cox_fail(COX_BAD_FILE, "%s: holds %zu tensors; a vector file has 1 to %d", file->path, n,
                        COX__MAX_VECTORS);
    }
    file->vectors = cox_arena_array(file->arena, n, sizeof *file->vectors);
    if (!file->vectors) return COX_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        status = read_tensor(file->path, &tensors[i], file->arena, &file->vectors[i]);
        if (status != COX_OK) return status;
    }
    file->n = n;
    qsort(file->vectors, n, sizeof *file->vectors, by_name);
    json_t *metadata = NULL;
    status = cox__safetensors_metadata(file->path, data, n_bytes, &metadata);
    const char *text = json_string_value(json_object_get(metadata, "coxswain"));
    if (status == COX_OK && text) status = read_all_facts(file, text);
    json_decref(metadata);
    return status;
}

cox_status cox__vector_file_parse(cox_vector_file **file, const char *path, const unsigned char *data,
                                  size_t n_bytes)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "vector file", 0);
    if (status != COX_OK) return status;
    cox_vector_file *fresh = cox_arena_alloc(arena, sizeof *fresh);
    if (fresh) *fresh = (cox_vector_file){.path = cox_arena_strdup(arena, path), .arena = arena};
    status = fresh && fresh->path ? parse_into(fresh, data, n_bytes) : COX_NO_MEMORY;
    if (status != COX_OK)
        cox_arena_destroy(arena);
    else
        *file = fresh;
    return status;
}

cox_status cox_vector_file_read(cox_vector_file **file, const char *path)
{
    unsigned char *data = NULL;
    size_t n_bytes = 0;
    cox_status status = cox__file_read(path, &data, &n_bytes);
    if (status != COX_OK) return status;
    /* as a safetensors header's length these four bytes would say more than it may have */
    const char *ending = strrchr(path, '.');
    bool is_gguf = (n_bytes >= 4 && memcmp(data, "GGUF", 4) == 0) || (ending && strcmp(ending, ".gguf") == 0);
    status = is_gguf ? cox__gguf_parse(file, path, data, n_bytes)
                     : cox__vector_file_parse(file, path, data, n_bytes);
    free(data);
    return status;
}

void cox_vector_file_free(cox_vector_file *file)
{
    if (file) cox_arena_destroy(file->arena);
}
