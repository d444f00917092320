/*
 * Files whole: written beside their place and renamed; and the parts of the safetensors
 * format that model/safetensors.c leaves out, its metadata and the writing of a header.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "steering/internal.h"

cox_status cox__file_read(const char *path, unsigned char **data, size_t *n_bytes)
{
    char *bytes = NULL;
    cox_status status = cox_file_read_regular(path, COX__MAX_FILE_BYTES, &bytes, n_bytes);
    if (status == COX_OK) *data = (unsigned char *)bytes;
    return status;
}

static bool write_all(int descriptor, const void *data, size_t n)
{
    const char *at = data;
    while (n > 0) {
        ssize_t done = write(descriptor, at, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return false;
        at += done;
        n -= (size_t)done;
    }
    return true;
}

cox_status cox__file_write(const char *path, const void *const *parts, const size_t *part_bytes,
                           size_t n_parts)
{
    char beside[4096];
    int n = snprintf(beside, sizeof beside, "%s.%ld.partial", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof beside)
        return cox_fail(COX_INVALID, "%.200s...: path is too long", path);
    int descriptor = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0) return cox_fail(COX_IO, "%s: cannot create: %s", beside, strerror(errno));
    bool is_good = true;
    for (size_t i = 0; i < n_parts && is_good; i++) is_good = write_all(descriptor, parts[i], part_bytes[i]);
    is_good = is_good && fsync(descriptor) == 0;
    int reason = errno;
    if (close(descriptor) != 0 && is_good) {
        is_good = false;
        reason = errno;
    }
    if (is_good && rename(beside, path) == 0) return COX_OK;
    if (is_good) reason = errno;
    unlink(beside);
    return cox_fail(COX_IO, "%s: cannot write: %s", path, strerror(reason));
}

cox_status cox__safetensors_metadata(const char *path, const unsigned char *file, size_t n_bytes,
                                     json_t **metadata)
{
    *metadata = NULL;
    uint64_t length = 0;
    for (int i = 7; i >= 0 && n_bytes >= 8; i--) length = length << 8 | file[i];
    if (n_bytes < 8 || length > n_bytes - 8) return cox_fail(COX_BAD_FILE, "%s: truncated", path);
    json_t *header = NULL;
    cox_status status = cox_json_load_text(&header, (const char *)file + 8, (size_t)length, path);
    if (status != COX_OK) return status;
    json_t *found = json_object_get(header, "__metadata__");
    const char *key;
    json_t *value;
    if (found && !json_is_object(found))
        status = cox_fail(COX_BAD_FILE, "%s: __metadata__ is not an object", path);
    json_object_foreach(found, key, value)
    {
        if (status == COX_OK && !json_is_string(value)) {
            status = cox_fail(COX_BAD_FILE, "%s: __metadata__ key \"%.200s\" is not a string", path, key);
        }
    }
    if (status == COX_OK && found) *metadata = json_incref(found);
    json_decref(header);
    return status;
}

size_t cox__tensor_bytes(const cox__tensor_head *head)
{
    size_t n = strcmp(head->dtype + 1, "64") == 0 ? 8 : 4;
    for (int i = 0; i < COX_TENSOR_MAX_DIMS && head->dims[i] > 0; i++) n *= (size_t)head->dims[i];
    return n;
}

static json_t *shape_json(const cox__tensor_head *head)
{
    json_t *shape = json_array();
    for (int i = 0; i < COX_TENSOR_MAX_DIMS && head->dims[i] > 0; i++)
        json_array_append_new(shape, json_integer((json_int_t)head->dims[i]));
    return shape;
}

static json_t *header_json(const cox__tensor_head *heads, size_t n, const json_t *metadata)
{
    json_t *header = json_object();
    if (!header) return NULL;
    if (metadata) json_object_set(header, "__metadata__", (json_t *)metadata);
    size_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        size_t end = offset + cox__tensor_bytes(&heads[i]);
        json_t *entry = json_pack("{s:s,s:o,s:[I,I]}", "dtype", heads[i].dtype, "shape",
                                  shape_json(&heads[i]), "data_offsets", (json_int_t)offset, (json_int_t)end);
        if (!entry || json_object_set_new(header, heads[i].name, entry) != 0) {
            json_decref(header);
            return NULL;
        }
        offset = end;
    }
    return header;
}

cox_status cox__safetensors_header(const cox__tensor_head *heads, size_t n, const json_t *metadata,
                                   unsigned char **text, size_t *n_bytes)
{
    json_t *header = header_json(heads, n, metadata);
    char *json = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!json) return cox_fail(COX_INVALID, "a tensor name or metadata is not valid UTF-8");
    size_t length = strlen(json), padded = (length + 7) / 8 * 8;
    unsigned char *bytes = malloc(8 + padded);
    if (bytes) {
        for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)padded >> 8 * i);
        memcpy(bytes + 8, json, length);
        memset(bytes + 8 + length, ' ', padded - length);
        *text = bytes;
        *n_bytes = 8 + padded;
    }
    free(json);
    return bytes ? COX_OK : cox_no_memory("a file's header");
}
