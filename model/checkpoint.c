/*
 * Files and mappings of a checkpoint. Every shard is mapped whole, read-only and shared, so ranks on one
 * machine share the page cache, and only pages that a rank touches count as its own. Tensors are kept
 * sorted by name. The formats themselves are model/safetensors.c's.
 */
#include "model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/json.h"
#include "model/folder.h"
#include "model/mapping.h"
#include "model/safetensors.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

typedef struct shard {
    const char *path;
    const char *name; /* the end of path, without the folder */
    int fd;           /* kept to see whether the file has shrunk */
    unsigned char *data;
    size_t n_bytes;
    cox__mapping mapping; /* data and n_bytes once more, for who comes upon a page that is gone */
    cox_tensor *tensors;  /* [n_tensors], merged into the checkpoint's list afterwards */
    size_t n_tensors;
} shard;

struct cox_checkpoint {
    cox_arena *arena;
    const char *folder;
    shard *shards;
    size_t n_shards;
    cox_tensor *tensors; /* sorted by name */
    size_t n_tensors;
};

static char *join(cox_arena *arena, const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = cox_arena_alloc(arena, n);
    if (path) snprintf(path, n, "%s/%s", folder, name);
    return path;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

static cox_status shard_map(shard *s)
{
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) {
        return cox_fail(errno == ENOENT ? COX_NOT_FOUND : COX_IO,
                        "%s: cannot open this shard: %s; copy or download it again", s->path,
                        strerror(errno));
    }
    struct stat info;
    if (fstat(s->fd, &info) != 0) return cox_fail(COX_IO, "%s: cannot stat: %s", s->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return cox_fail(COX_BAD_FILE, "%s: is not a regular file", s->path);
    if (info.st_size == 0) {
        return cox_fail(COX_BAD_FILE, "%s: the file is empty; copy or download it again", s->path);
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, s->fd, 0);
    if (data == MAP_FAILED) return cox_fail(COX_IO, "%s: cannot map: %s", s->path, strerror(errno));
    s->data = data;
    s->n_bytes = (size_t)info.st_size;
    s->mapping = (cox__mapping){.data = data, .n_bytes = s->n_bytes, .path = s->path};
    cox__mapping_watch(&s->mapping);
    return COX_OK;
}

static cox_status shard_open(cox_checkpoint *c, shard *s, const char *name)
{
    s->fd = -1;
    s->path = join(c->arena, c->folder, name);
    if (!s->path) return COX_NO_MEMORY;
    s->name = s->path + strlen(c->folder) + 1;
    cox_status status = shard_map(s);
    if (status != COX_OK) return status;
    return cox__safetensors_parse(s->path, s->data, s->n_bytes, c->arena, &s->tensors, &s->n_tensors);
}

static cox_status open_shards(cox_checkpoint *c, const char *const *names, size_t n)
{
    c->shards = cox_arena_array(c->arena, n, sizeof *c->shards);
    if (!c->shards) return COX_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        c->n_shards = i + 1; /* so that close sees a half-opened one too */
        cox_status status = shard_open(c, &c->shards[i], names[i]);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cox_tensor *)a)->name, ((const cox_tensor *)b)->name);
}

/* Merges the shards' lists, sorted by name; a name may occur once. */
static cox_status collect(cox_checkpoint *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_shards; i++) n += c->shards[i].n_tensors;
    c->tensors = cox_arena_array(c->arena, n, sizeof *c->tensors);
    if (!c->tensors) return COX_NO_MEMORY;
    for (size_t i = 0; i < c->n_shards; i++) {
        memcpy(c->tensors + c->n_tensors, c->shards[i].tensors, c->shards[i].n_tensors * sizeof *c->tensors);
        c->n_tensors += c->shards[i].n_tensors;
    }
    qsort(c->tensors, n, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(c->tensors[i - 1].name, c->tensors[i].name) != 0) continue;
        return cox_fail(
            COX_BAD_FILE,
            "tensor \"%s\" is in %s and in %s too; the folder mixes two checkpoints: download it again into "
            "an empty folder",
            c->tensors[i].name, c->tensors[i - 1].shard, c->tensors[i].shard);
    }
    return COX_OK;
}

/* Every tensor of the index must be in the shard that it names. Tensors that the index leaves out are kept.
 */
static cox_status check_index(const cox_checkpoint *c, const char *path, const cox__index_entry *entries,
                              size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const cox_tensor *tensor = cox_checkpoint_find(c, entries[i].tensor);
        if (!tensor) {
            return cox_fail(
                COX_BAD_FILE,
                "%s: tensor \"%s\" should be in shard %s but is not; index and shards are of different "
                "checkpoints: download the folder again",
                path, entries[i].tensor, entries[i].shard);
        }
        if (strcmp(tensor->shard + strlen(c->folder) + 1, entries[i].shard) != 0) {
            return cox_fail(
                COX_BAD_FILE,
                "%s: tensor \"%s\" should be in shard %s but is in %s; index and shards are of different "
                "checkpoints: download the folder again",
                path, entries[i].tensor, entries[i].shard, tensor->shard);
        }
    }
    return COX_OK;
}

static cox_status open_indexed(cox_checkpoint *c, const char *path)
{
    json_t *index = NULL;
    cox_status status = cox_json_load_python_file(&index, path);
    if (status != COX_OK) return status;
    cox__index_entry *entries = NULL;
    size_t n = 0, n_names = 0;
    status = cox__index_parse(index, path, c->arena, &entries, &n);
    json_decref(index);
    if (status != COX_OK) return status;
    const char **names = cox_arena_array(c->arena, n, sizeof *names);
    if (!names) return COX_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(entries[i - 1].shard, entries[i].shard) != 0)
            names[n_names++] = entries[i].shard;
    }
    status = open_shards(c, names, n_names);
    if (status == COX_NOT_FOUND) status = cox_fail_in(status, "%s lists a shard that is missing", path);
    if (status == COX_OK) status = collect(c);
    return status == COX_OK ? check_index(c, path, entries, n) : status;
}

static cox_status open_folder(cox_checkpoint *c)
{
    const char *single = join(c->arena, c->folder, "model.safetensors");
    const char *index = join(c->arena, c->folder, "model.safetensors.index.json");
    if (!single || !index) return COX_NO_MEMORY;
    if (exists(single)) {
        cox_status status = open_shards(c, (const char *const[]){"model.safetensors"}, 1);
        return status == COX_OK ? collect(c) : status;
    }
    if (exists(index)) return open_indexed(c, index);
    return cox__folder_check_weights(c->folder);
}

cox_status cox_checkpoint_open(cox_checkpoint **checkpoint, const char *folder)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "checkpoint", 0);
    if (status != COX_OK) return status;
    cox_checkpoint *c = cox_arena_alloc(arena, sizeof *c);
    if (!c) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    c->arena = arena;
    c->folder = cox_arena_strdup(arena, folder);
    status = c->folder ? open_folder(c) : COX_NO_MEMORY;
    if (status != COX_OK) {
        cox_checkpoint_close(c);
        return status;
    }
    *checkpoint = c;
    return COX_OK;
}

void cox_checkpoint_close(cox_checkpoint *checkpoint)
{
    if (!checkpoint) return;
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        shard *s = &checkpoint->shards[i];
        cox__mapping_forget(&s->mapping);
        if (s->data) munmap(s->data, s->n_bytes);
        if (s->fd >= 0) close(s->fd);
    }
    cox_arena_destroy(checkpoint->arena);
}

const cox_tensor *cox_checkpoint_find(const cox_checkpoint *checkpoint, const char *name)
{
    cox_tensor key = {.name = name};
    return bsearch(&key, checkpoint->tensors, checkpoint->n_tensors, sizeof key, by_name);
}

size_t cox_checkpoint_n_tensors(const cox_checkpoint *checkpoint)
{
    return checkpoint->n_tensors;
}

const cox_tensor *cox_checkpoint_tensor(const cox_checkpoint *checkpoint, size_t i)
{
    return &checkpoint->tensors[i];
}

/* The shard in whose mapping the bytes lie, or NULL. */
static const shard *owner(const cox_checkpoint *c, const unsigned char *data, size_t n_bytes)
{
    for (size_t i = 0; i < c->n_shards; i++) {
        const shard *s = &c->shards[i];
        uintptr_t first = (uintptr_t)s->data, at = (uintptr_t)data;
        if (at >= first && at - first <= s->n_bytes && n_bytes <= s->n_bytes - (at - first)) return s;
    }
    return NULL;
}

static cox_status check_size(const shard *s)
{
    struct stat info;
    if (fstat(s->fd, &info) != 0) return cox_fail(COX_IO, "%s: cannot stat: %s", s->path, strerror(errno));
    if ((size_t)info.st_size < s->n_bytes) {
        return cox_fail(COX_IO, "%s: shrank from %zu to %lld bytes while in use; copy it again and restart",
                        s->path, s->n_bytes, (long long)info.st_size);
    }
    return COX_OK;
}

/* For kernels without MADV_POPULATE_READ. */
static void touch(const unsigned char *first, const unsigned char *end, size_t page)
{
    for (const volatile unsigned char *p = first; p < end; p += page) (void)*p;
}

cox_status cox_checkpoint_populate(const cox_checkpoint *checkpoint, const void *data, size_t n_bytes)
{
    if (n_bytes == 0) return COX_OK;
    const shard *s = owner(checkpoint, data, n_bytes);
    if (!s)
        return cox_fail(COX_INTERNAL, "%s: bytes to read in are not of this checkpoint", checkpoint->folder);
    cox_status status = check_size(s); /* touching a page beyond the end would be a SIGBUS */
    if (status != COX_OK) return status;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t offset = (size_t)((const unsigned char *)data - s->data);
    unsigned char *first = s->data + offset / page * page;
    size_t length = offset % page + n_bytes;
    madvise(first, length, MADV_WILLNEED); /* starts large reads; only a hint */
    if (madvise(first, length, MADV_POPULATE_READ) == 0) return COX_OK;
    if (errno != EINVAL && errno != ENOSYS) {
        return cox_fail(COX_IO, "%s: cannot read %zu bytes at %zu: %s", s->path, n_bytes, offset,
                        strerror(errno));
    }
    touch(first, first + length, page);
    return COX_OK;
}

void cox_checkpoint_release(const cox_checkpoint *checkpoint, const void *data, size_t n_bytes)
{
    const shard *s = owner(checkpoint, data, n_bytes);
    if (!s) return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t offset = (size_t)((const unsigned char *)data - s->data);
    size_t first = (offset + page - 1) / page * page, end = (offset + n_bytes) / page * page;
    if (end > first)
        madvise(s->data + first, end - first, MADV_DONTNEED); /* of a file mapping: nothing is lost */
}
