/*
 * GGUF control vectors. The reader walks the header with a cursor that never passes the end: every length is
 * checked against what is left before it is used, so a wrong number is an error and not a read outside the
 * file.
 */
#include "steering/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "steering/internal.h"

/* Types of metadata values, as the format numbers them. */
enum {
    TYPE_U8,
    TYPE_I8,
    TYPE_U16,
    TYPE_I16,
    TYPE_U32,
    TYPE_I32,
    TYPE_F32,
    TYPE_BOOL,
    TYPE_STRING,
    TYPE_ARRAY,
    TYPE_U64,
    TYPE_I64,
    TYPE_F64,
    N_TYPES,
    TENSOR_F32 = 0, /* of tensors, numbered on their own */
    MAX_KEYS = 4096,
    DEFAULT_ALIGNMENT = 32,
};

static const unsigned char type_bytes[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct cursor {
    const char *path;
    const unsigned char *at, *end;
} cursor;

static cox_status truncated(const cursor *c)
{
    return cox_fail(COX_BAD_FILE, "%s: the GGUF header is truncated or damaged", c->path);
}

static bool has(const cursor *c, uint64_t n_bytes)
{
    return n_bytes <= (uint64_t)(c->end - c->at);
}

/* n bytes, little-endian, 1 to 8 of them. */
static bool take_number(cursor *c, unsigned n, uint64_t *out)
{
    if (!has(c, n)) return false;
    *out = 0;
    for (unsigned i = n; i > 0; i--) *out = *out << 8 | c->at[i - 1];
    c->at += n;
    return true;
}

/* [out] *text points into the file, not terminated. */
static bool take_string(cursor *c, const char **text, size_t *n_bytes)
{
    uint64_t n = 0;
    if (!take_number(c, 8, &n) || !has(c, n)) return false;
    *text = (const char *)c->at;
    *n_bytes = (size_t)n;
    c->at += n;
    return true;
}

static json_t *number_json(unsigned type, uint64_t bits)
{
    float single;
    double real;
    uint32_t low = (uint32_t)bits;
    switch (type) {
    case TYPE_I8: return json_integer((int8_t)bits);
    case TYPE_I16: return json_integer((int16_t)bits);
    case TYPE_I32: return json_integer((int32_t)bits);
    case TYPE_BOOL: return json_boolean(bits != 0);
    case TYPE_F32:
        memcpy(&single, &low, sizeof single);
        return isfinite(single) ? json_real((double)single) : json_null();
    case TYPE_F64: memcpy(&real, &bits, sizeof real); return isfinite(real) ? json_real(real) : json_null();
    default: return json_integer((json_int_t)bits);
    }
}

/* [out] *value: NULL for arrays and for text that is not UTF-8, which are skipped. */
static bool take_value(cursor *c, unsigned type, json_t **value)
{
    *value = NULL;
    uint64_t bits = 0, item_type = 0, n_items = 0;
    const char *text;
    size_t n_bytes;
    if (type >= N_TYPES) return false;
    if (type == TYPE_STRING) {
        if (!take_string(c, &text, &n_bytes)) return false;
        *value = json_stringn(text, n_bytes);
        return true;
    }
    if (type != TYPE_ARRAY) {
        if (!take_number(c, type_bytes[type], &bits)) return false;
        *value = number_json(type, bits);
        return true;
    }
    if (!take_number(c, 4, &item_type) || !take_number(c, 8, &n_items) || item_type >= N_TYPES ||
        item_type == TYPE_ARRAY) {
        return false;
    }
    if (item_type == TYPE_STRING) {
        for (uint64_t i = 0; i < n_items; i++) {
            if (!take_string(c, &text, &n_bytes)) return false;
        }
        return true;
    }
    uint64_t item_bytes = type_bytes[item_type];
    if (n_items > (uint64_t)(c->end - c->at) / item_bytes) return false;
    c->at += n_items * item_bytes;
    return true;
}

static cox_status read_keys(cursor *c, uint64_t n_keys, json_t *keys)
{
    for (uint64_t i = 0; i < n_keys; i++) {
        const char *text;
        size_t n_bytes;
        uint64_t type = 0;
        json_t *value = NULL;
        if (!take_string(c, &text, &n_bytes) || !take_number(c, 4, &type) ||
            !take_value(c, (unsigned)type, &value)) {
            return truncated(c);
        }
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)(n_bytes < 127 ? n_bytes : 127), text);
        if (json_object_get(keys, key)) {
            json_decref(value);
            return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is there twice", c->path, key);
        }
        if (value) json_object_set_new(keys, key, value); /* a key that is not UTF-8 is left out */
    }
    return COX_OK;
}

static cox_status wrong_glp(const char *path, const char *key, const char *value, const char *known)
{
    return cox_fail(COX_UNSUPPORTED, "%s: GLP key \"%s\" is %s%s%s; known: %s", path, key,
                    value ? "\"" : "missing", value ? value : "", value ? "\"" : "", known);
}

/* [out] *op: the operation that the file asks for. */
static cox_status check_keys(const char *path, const json_t *keys, const char **op)
{
    const char *architecture = json_string_value(json_object_get(keys, "general.architecture"));
    if (!architecture || strcmp(architecture, "controlvector") != 0) {
        return cox_fail(COX_BAD_FILE,
                        "%s: general.architecture is \"%.60s\", not \"controlvector\": not a control vector",
                        path, architecture ? architecture : "");
    }
    *op = "add";
    bool is_glp = false;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)keys, key, value) is_glp |= strncmp(key, "glp.", 4) == 0;
    if (!is_glp) return COX_OK;
    const char *mode = json_string_value(json_object_get(keys, "glp.mode"));
    const char *hook = json_string_value(json_object_get(keys, "glp.hook_point"));
    if (!mode || (strcmp(mode, "add") != 0 && strcmp(mode, "project") != 0)) {
        return wrong_glp(path, "glp.mode", mode, "add, project");
    }
    if (!hook || strcmp(hook, "residual_stream_post_layer") != 0) {
        return wrong_glp(path, "glp.hook_point", hook, "residual_stream_post_layer");
    }
    const json_t *zero_based = json_object_get(keys, "glp.layer_ids_zero_based");
    if (zero_based && !json_is_true(zero_based)) {
        return wrong_glp(path, "glp.layer_ids_zero_based", "false", "true");
    }
    if (strcmp(mode, "project") == 0) *op = "ablate";
    return COX_OK;
}

/* "unknown" is what our own export says when it is told nothing. */
static cox_status take_hint(const json_t *keys, cox_vector_file *out)
{
    const char *hint = json_string_value(json_object_get(keys, "controlvector.model_hint"));
    if (!hint || !*hint || strcmp(hint, "unknown") == 0) return COX_OK;
    out->model_hint = cox_arena_strdup(out->arena, hint);
    return out->model_hint ? COX_OK : COX_NO_MEMORY;
}

bool cox_gguf_is_foreign(const cox_vector_file *file, const cox_model *model, char note[COX_GGUF_NOTE_BYTES])
{
    if (!file->model_hint || cox_model_is_called(model, file->model_hint)) return false;
    snprintf(note, COX_GGUF_NOTE_BYTES,
             "%.300s: its hint says that it was made for \"%.60s\", and this model is %s; only the width was "
             "compared",
             file->path, file->model_hint, model->family_name);
    return true;
}

/* A tensor's entry: a name, and where its data begins, counted from the data's start. */
typedef struct entry {
    char name[64];
    int32_t layer, width;
    uint64_t offset;
} entry;

static cox_status read_entry(cursor *c, entry *out)
{
    const char *text;
    size_t n_bytes;
    uint64_t n_dims = 0, width = 0, type = 0;
    if (!take_string(c, &text, &n_bytes) || !take_number(c, 4, &n_dims)) return truncated(c);
    snprintf(out->name, sizeof out->name, "%.*s", (int)(n_bytes < 63 ? n_bytes : 63), text);
    if (n_dims != 1) {
        return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has %" PRIu64 " dimensions, not one", c->path,
                        out->name, n_dims);
    }
    if (!take_number(c, 8, &width) || !take_number(c, 4, &type) || !take_number(c, 8, &out->offset))
        return truncated(c);
    if (type != TENSOR_F32) {
        return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has type %" PRIu64 ", not F32", c->path, out->name,
                        type);
    }
    if (width < 1 || width > COX__MAX_WIDTH) {
        return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has width %" PRIu64 ", outside 1 to %d", c->path,
                        out->name, width, COX__MAX_WIDTH);
    }
    int layer = -1;
    char again[64] = "";
    if (sscanf(out->name, "direction.%6d", &layer) == 1) snprintf(again, sizeof again, "direction.%d", layer);
    if (n_bytes != strlen(again) || strcmp(out->name, again) != 0 ||
        layer < 0) { /* just as it would be written */
        return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" is not \"direction.N\"", c->path, out->name);
    }
    out->layer = layer;
    out->width = (int32_t)width;
    return COX_OK;
}

/* data [n_bytes]: what follows the header. */
static cox_status fill_vector(const char *path, const entry *from, const unsigned char *data, size_t n_bytes,
                              const char *op, const char *provenance, cox_arena *arena, cox_vector *out)
{
    size_t n_wanted = 4 * (size_t)from->width;
    char where[1200];
    snprintf(where, sizeof where, "%.1000s: tensor \"%s\"", path, from->name);
    if (from->offset > n_bytes || n_wanted > n_bytes - (size_t)from->offset) {
        return cox_fail(COX_BAD_FILE, "%s: its data lie outside the file", where);
    }
    *out = (cox_vector){.name = cox_arena_strdup(arena, from->name),
                        .data = cox_arena_alloc(arena, n_wanted),
                        .width = from->width,
                        .site = COX_SITE_RESID_POST,
                        .layer = from->layer,
                        .expert = -1,
                        .operation = op,
                        .provenance = provenance};
    if (!out->name || !out->data) return COX_NO_MEMORY;
    memcpy(out->data, data + from->offset, n_wanted);
    out->norm = (float)sqrt(cox_dot_f64(out->data, out->data, out->width));
    cox_status status = cox__check_finite(where, out->data, out->width);
    if (status == COX_OK && !isfinite(out->norm))
        status = cox_fail(COX_BAD_FILE, "%s: its norm is too large for f32", where);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cox_vector *)a)->name, ((const cox_vector *)b)->name);
}

static cox_status read_tensors(cursor *c, const unsigned char *file, uint64_t n_tensors, const json_t *keys,
                               const char *op, const char *provenance, cox_vector_file *out)
{
    uint64_t alignment = DEFAULT_ALIGNMENT;
    const json_t *stated = json_object_get(keys, "general.alignment");
    if (stated) alignment = (uint64_t)json_integer_value(stated);
    if (alignment < 1 || alignment > 1 << 20)
        return cox_fail(COX_BAD_FILE, "%s: general.alignment is wrong", c->path);
    entry *entries = calloc((size_t)n_tensors, sizeof *entries);
    if (!entries) return cox_no_memory(c->path);
    cox_status status = COX_OK;
    for (uint64_t i = 0; i < n_tensors && status == COX_OK; i++) status = read_entry(c, &entries[i]);
    uint64_t header = (uint64_t)(c->at - file), start = (header + alignment - 1) / alignment * alignment;
    uint64_t n_all = (uint64_t)(c->end - file);
    size_t n_data = start < n_all ? (size_t)(n_all - start) : 0;
    out->vectors = cox_arena_array(out->arena, (size_t)n_tensors, sizeof *out->vectors);
    if (!out->vectors) status = COX_NO_MEMORY;
    for (uint64_t i = 0; i < n_tensors && status == COX_OK; i++) {
        status = fill_vector(c->path, &entries[i], n_data ? file + start : file, n_data, op, provenance,
                             out->arena, &out->vectors[i]);
        if (status == COX_OK && entries[i].width != entries[0].width) {
            status = cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" has width %d, \"%s\" has %d", c->path,
                              entries[i].name, (int)entries[i].width, entries[0].name, (int)entries[0].width);
        }
    }
    free(entries);
    if (status != COX_OK) return status;
    out->n = (size_t)n_tensors;
    qsort(out->vectors, out->n, sizeof *out->vectors, by_name);
    for (size_t i = 1; i < out->n; i++) {
        if (strcmp(out->vectors[i].name, out->vectors[i - 1].name) == 0) {
            return cox_fail(COX_BAD_FILE, "%s: tensor \"%s\" is there twice", c->path, out->vectors[i].name);
        }
    }
    return COX_OK;
}

/* {"format": "gguf", "metadata": {...}} as text in the arena; NULL without memory. */
static const char *provenance_of(const json_t *keys, cox_arena *arena)
{
    json_t *json = json_pack("{s:s,s:O}", "format", "gguf", "metadata", keys);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    const char *copy = text ? cox_arena_strdup(arena, text) : NULL;
    free(text);
    json_decref(json);
    return copy;
}

static cox_status parse_into(cox_vector_file *out, const unsigned char *data, size_t n_bytes)
{
    cursor c = {out->path, data, data + n_bytes};
    uint64_t version = 0, n_tensors = 0, n_keys = 0;
    if (!has(&c, 4) || memcmp(c.at, "GGUF", 4) != 0)
        return cox_fail(COX_BAD_FILE, "%s: is not a GGUF file", out->path);
    c.at += 4;
    if (!take_number(&c, 4, &version)) return truncated(&c);
    if (version != 2 && version != 3) {
        return cox_fail(COX_BAD_FILE, "%s: GGUF version %" PRIu64 "; 2 and 3 are read (little-endian)",
                        out->path, version);
    }
    if (!take_number(&c, 8, &n_tensors) || !take_number(&c, 8, &n_keys)) return truncated(&c);
    if (n_tensors < 1 || n_tensors > COX__MAX_VECTORS || n_keys > MAX_KEYS) {
        return cox_fail(COX_BAD_FILE,
                        "%s: %" PRIu64 " tensors and %" PRIu64 " keys are not a control vector's", out->path,
                        n_tensors, n_keys);
    }
    json_t *keys = json_object();
    cox_status status = keys ? read_keys(&c, n_keys, keys) : COX_NO_MEMORY;
    const char *op = NULL, *provenance = NULL;
    if (status == COX_OK) status = check_keys(out->path, keys, &op);
    if (status == COX_OK) status = take_hint(keys, out);
    if (status == COX_OK && !(provenance = provenance_of(keys, out->arena))) status = COX_NO_MEMORY;
    if (status == COX_OK) status = read_tensors(&c, data, n_tensors, keys, op, provenance, out);
    json_decref(keys);
    return status;
}

static cox_status start_file(const char *path, cox_vector_file **file)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "vector file", 0);
    if (status != COX_OK) return status;
    cox_vector_file *fresh = cox_arena_alloc(arena, sizeof *fresh);
    if (fresh) *fresh = (cox_vector_file){.path = cox_arena_strdup(arena, path), .arena = arena};
    if (fresh && fresh->path) {
        *file = fresh;
        return COX_OK;
    }
    cox_arena_destroy(arena);
    return COX_NO_MEMORY;
}

cox_status cox__gguf_parse(cox_vector_file **file, const char *path, const unsigned char *data,
                           size_t n_bytes)
{
    cox_vector_file *fresh = NULL;
    cox_status status = start_file(path, &fresh);
    if (status == COX_OK) status = parse_into(fresh, data, n_bytes);
    if (status == COX_OK) fresh->is_gguf = true;
    if (status == COX_OK)
        *file = fresh;
    else
        cox_vector_file_free(fresh);
    return status;
}

cox_status cox_raw_vector_read(cox_vector_file **file, const char *path, const char *name)
{
    unsigned char *data = NULL;
    size_t n_bytes = 0;
    cox_vector_file *fresh = NULL;
    cox_status status = cox__file_read(path, &data, &n_bytes);
    if (status == COX_OK && (n_bytes == 0 || n_bytes % 4 != 0 || n_bytes / 4 > COX__MAX_WIDTH)) {
        status = cox_fail(COX_BAD_FILE, "%s: %zu bytes are not one vector of f32 (4 bytes each, at most %d)",
                          path, n_bytes, COX__MAX_WIDTH);
    }
    if (status == COX_OK) status = start_file(path, &fresh);
    if (status == COX_OK) {
        const entry whole = {.width = (int32_t)(n_bytes / 4), .layer = -1};
        fresh->n = 1;
        fresh->vectors = cox_arena_alloc(fresh->arena, sizeof *fresh->vectors);
        status = fresh->vectors
                     ? fill_vector(path, &whole, data, n_bytes, NULL, NULL, fresh->arena, fresh->vectors)
                     : COX_NO_MEMORY;
        if (status == COX_OK) {
            fresh->vectors->site = COX_SITE_UNSTATED;
            fresh->vectors->name = cox_arena_strdup(fresh->arena, name);
            if (!fresh->vectors->name) status = COX_NO_MEMORY;
        }
    }
    free(data);
    if (status == COX_OK)
        *file = fresh;
    else
        cox_vector_file_free(fresh);
    return status;
}
