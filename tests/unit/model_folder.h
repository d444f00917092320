/*
 * For tests of model folders: copies a golden model to a temporary folder, and edits configs and safetensors
 * headers there. Everything fails the test at once when the machine does not let it work.
 */
#ifndef COX_TESTS_MODEL_FOLDER_H
#define COX_TESTS_MODEL_FOLDER_H

#include <dirent.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"

#define GOLDEN "tests/golden/models/"

typedef struct folder {
    char path[64];
    char file[400]; /* last result of folder_file */
} folder;

/* A safetensors file taken apart. */
typedef struct shard {
    json_t *header;
    unsigned char *data; /* [n_bytes], room for 64 more */
    size_t n_bytes;
} shard;

static inline const char *folder_file(folder *f, const char *name)
{
    snprintf(f->file, sizeof f->file, "%s/%s", f->path, name);
    return f->file;
}

static inline void write_bytes(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static inline unsigned char *read_bytes(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot open %s", path);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *n = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*n + 64);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, file), *n);
    fclose(file);
    return bytes;
}

static inline folder folder_create(void)
{
    folder f;
    const char *tmp = getenv("TMPDIR");
    if (!tmp || strlen(tmp) > 40) tmp = "/tmp";
    snprintf(f.path, sizeof f.path, "%s/cox-test-XXXXXX", tmp);
    assert_non_null(mkdtemp(f.path));
    return f;
}

/* A copy of the golden model `name`. */
static inline folder folder_copy(const char *name)
{
    folder f = folder_create();
    char source[256];
    snprintf(source, sizeof source, GOLDEN "%s", name);
    DIR *dir = opendir(source);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        char path[600];
        snprintf(path, sizeof path, "%s/%s", source, entry->d_name);
        size_t n;
        unsigned char *bytes = read_bytes(path, &n);
        write_bytes(folder_file(&f, entry->d_name), bytes, n);
        free(bytes);
    }
    closedir(dir);
    return f;
}

static inline void folder_remove(folder *f)
{
    DIR *dir = opendir(f->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] != '.') unlink(folder_file(f, entry->d_name));
    }
    closedir(dir);
    rmdir(f->path);
}

static inline json_t *json_read(folder *f, const char *name)
{
    json_t *value = json_load_file(folder_file(f, name), 0, NULL);
    assert_non_null(value);
    return value;
}

static inline void json_write(folder *f, const char *name, json_t *value)
{
    assert_int_equal(json_dump_file(value, folder_file(f, name), 0), 0);
    json_decref(value);
}

/* Sets a key of config.json to a JSON text; NULL removes it. */
static inline void config_set(folder *f, const char *key, const char *text)
{
    json_t *config = json_read(f, "config.json");
    if (text) {
        json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        json_object_set_new(config, key, value);
    } else {
        json_object_del(config, key);
    }
    json_write(f, "config.json", config);
}

static inline shard shard_read(folder *f, const char *name)
{
    size_t n;
    unsigned char *bytes = read_bytes(folder_file(f, name), &n);
    uint64_t length;
    memcpy(&length, bytes, 8);
    shard s = {.header = json_loadb((const char *)bytes + 8, length, 0, NULL), .n_bytes = n - 8 - length};
    assert_non_null(s.header);
    s.data = malloc(s.n_bytes + 64);
    assert_non_null(s.data);
    memcpy(s.data, bytes + 8 + length, s.n_bytes);
    memset(s.data + s.n_bytes, 0, 64);
    free(bytes);
    return s;
}

/* Writes a file of a header text and data. */
static inline void shard_write_text(folder *f, const char *name, const char *header, size_t n_header,
                                    const void *data, size_t n_bytes)
{
    FILE *file = fopen(folder_file(f, name), "wb");
    assert_non_null(file);
    uint64_t length = n_header;
    assert_int_equal(fwrite(&length, 8, 1, file), 1);
    assert_int_equal(fwrite(header, 1, n_header, file), n_header);
    if (n_bytes) assert_int_equal(fwrite(data, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

/* Writes and frees. */
static inline void shard_write(folder *f, const char *name, shard s)
{
    char *text = json_dumps(s.header, JSON_COMPACT);
    shard_write_text(f, name, text, strlen(text), s.data, s.n_bytes);
    free(text);
    free(s.data);
    json_decref(s.header);
}

static inline json_t *shard_entry(const shard *s, const char *tensor)
{
    json_t *entry = json_object_get(s->header, tensor);
    if (!entry) fail_msg("no tensor %s", tensor);
    return entry;
}

/* The message must contain every text of the NULL-ended list. */
static inline void expect_message(cox_status status, cox_status wanted, const char *const *texts)
{
    if (status != wanted) {
        fail_msg("status %s, wanted %s; message: %s", cox_status_name(status), cox_status_name(wanted),
                 cox_status_message());
    }
    for (; *texts; texts++) {
        if (!strstr(cox_status_message(), *texts))
            fail_msg("\"%s\" is not in: %s", *texts, cox_status_message());
    }
}
#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
