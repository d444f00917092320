/*
 * Parsers of the safetensors header and of the shard index. Sizes are computed in 64 bits with overflow
 * checks before anything is compared with the file, so no number in a header can lead outside it.
 */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

typedef struct dtype_info {
    const char *name; /* as the format spells it */
    cox_tensor_dtype dtype;
    unsigned bits;
} dtype_info;

static const dtype_info dtypes[] = {
    {"F64", COX_TENSOR_F64, 64},
    {"F32", COX_TENSOR_F32, 32},
    {"F16", COX_TENSOR_F16, 16},
    {"BF16", COX_TENSOR_BF16, 16},
    {"I64", COX_TENSOR_I64, 64},
    {"I32", COX_TENSOR_I32, 32},
    {"U8", COX_TENSOR_U8, 8},
    {"I8", COX_TENSOR_I8, 8},
    {"BOOL", COX_TENSOR_BOOL, 8},
    {"I16", COX_TENSOR_OTHER, 16},
    {"U16", COX_TENSOR_OTHER, 16},
    {"U32", COX_TENSOR_OTHER, 32},
    {"U64", COX_TENSOR_OTHER, 64},
    {"C64", COX_TENSOR_OTHER, 64},
    {"F8_E4M3", COX_TENSOR_OTHER, 8},
    {"F8_E5M2", COX_TENSOR_OTHER, 8},
    {"F8_E8M0", COX_TENSOR_OTHER, 8},
    {"F4", COX_TENSOR_OTHER, 4},
    {"F6_E2M3", COX_TENSOR_OTHER, 6},
    {"F6_E3M2", COX_TENSOR_OTHER, 6},
    {"F8_E4M3FNUZ", COX_TENSOR_OTHER, 8},
    {"F8_E5M2FNUZ", COX_TENSOR_OTHER, 8},
};

static cox_status header_length(const char *path, const unsigned char *file, size_t n_bytes, size_t *length)
{
    if (n_bytes < 8) {
        return cox_fail(COX_BAD_FILE,
                        "%s: %zu bytes are too few for a safetensors file; copy or download it again", path,
                        n_bytes);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | file[i];
    if (n > COX__SAFETENSORS_MAX_HEADER_BYTES) {
        return cox_fail(COX_BAD_FILE,
                        "%s: header of %" PRIu64
                        " bytes is larger than the allowed %d; this is not a safetensors "
                        "file, or its start is damaged; fetch it again (a git-lfs pointer: git lfs pull)",
                        path, n, COX__SAFETENSORS_MAX_HEADER_BYTES);
    }
    if (n > n_bytes - 8) {
        return cox_fail(COX_BAD_FILE,
                        "%s: truncated: the header has %" PRIu64
                        " bytes, the file only %zu; copy or download it again",
                        path, n, n_bytes);
    }
    *length = (size_t)n;
    return COX_OK;
}

/* Fills dtype and shape; [out] *wanted_bytes: what they need, or UINT64_MAX for an unknown dtype. */
static cox_status read_type(const json_t *entry, const char *where, cox_arena *arena, cox_tensor *tensor,
                            uint64_t *wanted_bytes)
{
    const char *name = NULL;
    cox_status status = cox_json_string(entry, where, "dtype", true, &name);
    if (status != COX_OK) return status;
    unsigned bits = 0;
    tensor->dtype = COX_TENSOR_OTHER;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        tensor->dtype = dtypes[i].dtype;
        tensor->dtype_name = dtypes[i].name;
        bits = dtypes[i].bits;
    }
    if (!tensor->dtype_name) tensor->dtype_name = cox_arena_strdup(arena, name);
    if (!tensor->dtype_name) return COX_NO_MEMORY;

    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > 64) {
        return cox_fail(COX_BAD_FILE, "%s: key \"shape\" must be a list of at most 64 whole numbers", where);
    }
    tensor->n_dims = (int32_t)json_array_size(shape);
    uint64_t n_bits = bits;
    bool is_too_large = false, is_empty = false;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0) {
            return cox_fail(COX_BAD_FILE, "%s: key \"shape\" must hold whole numbers from 0", where);
        }
        int64_t value = json_integer_value(dim);
        if (i < COX_TENSOR_MAX_DIMS) tensor->shape[i] = value;
        if (__builtin_mul_overflow(n_bits, (uint64_t)value, &n_bits)) is_too_large = true;
        if (value == 0) is_empty = true;
    }
    if (is_empty)
        n_bits = 0;
    else if (is_too_large)
        return cox_fail(COX_BAD_FILE, "%s: shape is too large", where);
    if (n_bits % 8 != 0) return cox_fail(COX_BAD_FILE, "%s: shape does not fill whole bytes", where);
    *wanted_bytes = bits ? n_bits / 8 : UINT64_MAX;
    return COX_OK;
}

/* data: the file's data, n_data bytes. */
static cox_status read_entry(const json_t *entry, const char *where, const unsigned char *data, size_t n_data,
                             cox_arena *arena, cox_tensor *tensor)
{
    if (!json_is_object(entry)) return cox_fail(COX_BAD_FILE, "%s: must be a JSON object", where);
    uint64_t wanted = 0;
    cox_status status = read_type(entry, where, arena, tensor, &wanted);
    if (status != COX_OK) return status;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"data_offsets\" must be two whole numbers", where);
    }
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin) {
        return cox_fail(COX_BAD_FILE, "%s: data_offsets [%" PRId64 ", %" PRId64 "] are not a range", where,
                        begin, end);
    }
    if ((uint64_t)end > n_data) {
        return cox_fail(COX_BAD_FILE,
                        "%s: bytes %" PRId64 " to %" PRId64
                        " lie outside the file, which has %zu bytes of data; "
                        "it is truncated or damaged: copy or download it again",
                        where, begin, end, n_data);
    }
    if (wanted != UINT64_MAX && (uint64_t)(end - begin) != wanted) {
        return cox_fail(COX_BAD_FILE,
                        "%s: data_offsets hold %" PRId64 " bytes, but dtype %s and shape need %" PRIu64
                        "; the file is damaged: copy or download it again",
                        where, end - begin, tensor->dtype_name, wanted);
    }
    tensor->data = data + begin;
    tensor->n_bytes = (size_t)(end - begin);
    return COX_OK;
}

static int by_address(const void *a, const void *b)
{
    const cox_tensor *left = a, *right = b;
    const unsigned char *p = left->data, *q = right->data;
    if (p != q) return p < q ? -1 : 1;
    if (left->n_bytes != right->n_bytes) return left->n_bytes < right->n_bytes ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* Sorted tensors must follow each other without overlap or gap and end with the file. */
static cox_status check_coverage(const char *path, const unsigned char *data, size_t n_data,
                                 const cox_tensor *tensors, size_t n)
{
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const unsigned char *)tensors[i].data - data);
        if (begin < end) {
            return cox_fail(
                COX_BAD_FILE,
                "%s: tensors \"%s\" and \"%s\" overlap; the file is damaged: copy or download it again", path,
                tensors[i - 1].name, tensors[i].name);
        }
        if (begin > end) {
            return cox_fail(
                COX_BAD_FILE,
                "%s: %zu bytes before tensor \"%s\" belong to no tensor; the file is damaged: copy or "
                "download it again",
                path, begin - end, tensors[i].name);
        }
        end = begin + tensors[i].n_bytes;
    }
    if (end != n_data) {
        return cox_fail(
            COX_BAD_FILE,
            "%s: %zu bytes follow the last tensor; the file is damaged: copy or download it again", path,
            n_data - end);
    }
    return COX_OK;
}

static cox_status read_header(const char *path, const json_t *header, const unsigned char *data,
                              size_t n_data, cox_arena *arena, cox_tensor **tensors, size_t *n_tensors)
{
    if (!json_is_object(header)) return cox_fail(COX_BAD_FILE, "%s: header is not a JSON object", path);
    cox_tensor *list = cox_arena_array(arena, json_object_size(header), sizeof *list);
    if (!list) return COX_NO_MEMORY;
    size_t n = 0;
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        char where[1024];
        snprintf(where, sizeof where, "%s: tensor \"%.400s\"", path, name);
        list[n].shard = path;
        list[n].name = cox_arena_strdup(arena, name);
        if (!list[n].name) return COX_NO_MEMORY;
        cox_status status = read_entry(entry, where, data, n_data, arena, &list[n]);
        if (status != COX_OK) return status;
        n++;
    }
    qsort(list, n, sizeof *list, by_address);
    cox_status status = check_coverage(path, data, n_data, list, n);
    if (status != COX_OK) return status;
    *tensors = list;
    *n_tensors = n;
    return COX_OK;
}

cox_status cox__safetensors_parse(const char *path, const unsigned char *file, size_t n_bytes,
                                  cox_arena *arena, cox_tensor **tensors, size_t *n_tensors)
{
    size_t length = 0;
    cox_status status = header_length(path, file, n_bytes, &length);
    if (status != COX_OK) return status;
    char where[1024];
    snprintf(where, sizeof where, "%s: header", path);
    json_t *header = NULL;
    status = cox_json_load_text(&header, (const char *)file + 8, length, where);
    if (status != COX_OK) return status;
    status = read_header(path, header, file + 8 + length, n_bytes - 8 - length, arena, tensors, n_tensors);
    json_decref(header);
    return status;
}

static int by_shard(const void *a, const void *b)
{
    const cox__index_entry *left = a, *right = b;
    int order = strcmp(left->shard, right->shard);
    return order ? order : strcmp(left->tensor, right->tensor);
}

cox_status cox__index_parse(const json_t *index, const char *where, cox_arena *arena,
                            cox__index_entry **entries, size_t *n_entries)
{
    const json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return cox_fail(COX_BAD_FILE, "%s: key \"weight_map\" must be an object of tensor and shard names",
                        where);
    }
    cox__index_entry *list = cox_arena_array(arena, json_object_size(map), sizeof *list);
    if (!list) return COX_NO_MEMORY;
    size_t n = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value)
    {
        const char *shard = json_string_value(value);
        if (!shard || !*shard || strchr(shard, '/') || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0) {
            return cox_fail(COX_BAD_FILE,
                            "%s: shard of tensor \"%.400s\" must be the name of a file in the folder", where,
                            name);
        }
        list[n].tensor = cox_arena_strdup(arena, name);
        list[n].shard = cox_arena_strdup(arena, shard);
        if (!list[n].tensor || !list[n].shard) return COX_NO_MEMORY;
        n++;
    }
    qsort(list, n, sizeof *list, by_shard);
    *entries = list;
    *n_entries = n;
    return COX_OK;
}
