/*
 * The rows of a plan: "path#tensor" read once per file, checked against the model, and kept once per plan
 * however many interventions use it, so that 4096 interventions with one vector cost one vector.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/gguf.h"
#include "steering/internal.h"

static uint64_t hash_row(const float *data, int32_t width)
{
    uint64_t hash = 14695981039346656037u ^ (uint64_t)width; /* FNV-1a over words */
    for (int32_t i = 0; i < width; i++) {
        uint32_t bits;
        memcpy(&bits, &data[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
}

static cox_status add_row(cox__plan_builder *builder, const float *data, int32_t width, uint64_t hash)
{
    size_t n_bytes = (size_t)width * sizeof *data;
    if (builder->n_bytes + n_bytes > COX_PLAN_MAX_BYTES) {
        return cox_fail(COX_INVALID,
                        "%s: intervention %d: with it the plan's vectors take more than %d bytes",
                        builder->where, (int)builder->plan->n, COX_PLAN_MAX_BYTES);
    }
    if (builder->n_rows == builder->room_rows) {
        size_t room = builder->room_rows ? 2 * builder->room_rows : 16;
        cox__row *rows = realloc(builder->rows, room * sizeof *rows);
        if (!rows) return cox_no_memory(builder->where);
        builder->rows = rows;
        builder->room_rows = room;
    }
    float *copy = cox_arena_alloc(builder->plan->arena, n_bytes);
    if (!copy) return COX_NO_MEMORY;
    memcpy(copy, data, n_bytes);
    builder->rows[builder->n_rows++] = (cox__row){copy, width, hash};
    builder->n_bytes += n_bytes;
    return COX_OK;
}

const float *cox__plan_keep_row(cox__plan_builder *builder, const float *data, int32_t width,
                                cox_status *status)
{
    uint64_t hash = hash_row(data, width);
    for (size_t i = 0; i < builder->n_rows; i++) {
        const cox__row *row = &builder->rows[i];
        if (row->hash == hash && row->width == width &&
            memcmp(row->data, data, (size_t)width * sizeof *data) == 0) {
            return row->data;
        }
    }
    *status = add_row(builder, data, width, hash);
    return *status == COX_OK ? builder->rows[builder->n_rows - 1].data : NULL;
}

bool cox__unit_of(const float *v, int32_t width, float *unit)
{
    double norm = sqrt(cox_dot_f64(v, v, width));
    if (!(norm > 0)) return false;
    for (int32_t i = 0; i < width; i++) unit[i] = (float)((double)v[i] / norm);
    return true;
}

char *cox__plan_path(const cox__plan_builder *builder, const char *path)
{
    char *full = NULL;
    int n = *path == '/' || !builder->folder ? asprintf(&full, "%s", path)
                                             : asprintf(&full, "%s/%s", builder->folder, path);
    if (n >= 0) return full;
    cox_no_memory(builder->where);
    return NULL;
}

/* The file at `path`, read before or now. */
static cox_status read_file(cox__plan_builder *builder, const char *path, const cox_vector_file **file)
{
    cox_vector_cache *cache = builder->files;
    for (size_t i = 0; i < cache->n; i++) {
        if (strcmp(cache->files[i]->path, path) == 0) {
            *file = cache->files[i];
            return COX_OK;
        }
    }
    cox_vector_file **files = realloc(cache->files, (cache->n + 1) * sizeof *files);
    if (!files) return cox_no_memory(builder->where);
    cache->files = files;
    cox_status status = cox_vector_file_read(&files[cache->n], path);
    if (status == COX_OK) *file = files[cache->n++];
    return status;
}

cox_status cox__plan_open_file(cox__plan_builder *builder, const char *path, const cox_vector_file **file)
{
    char *full = cox__plan_path(builder, path);
    cox_status status = full ? read_file(builder, full, file) : COX_NO_MEMORY;
    free(full);
    return status;
}

/* what: "model" or "tokenizer". */
static cox_status check_fingerprint(cox__plan_builder *builder, const char *where, const char *what,
                                    const char *made_for, const char *ours)
{
    if (!made_for || !ours || !*ours || strcmp(made_for, ours) == 0) return COX_OK;
    if (builder->is_forced) {
        builder->plan->was_forced = true;
        return COX_OK;
    }
    return cox_fail(COX_INVALID,
                    "%s: the vector was made for another %s (fingerprint %.12s..., this one has %.12s...); "
                    "--force-steering uses it all the same and the result says so",
                    where, what, made_for, ours);
}

/* The first one counts. */
static cox_status note_hint(cox__plan_builder *builder, const cox_vector_file *file)
{
    char note[COX_GGUF_NOTE_BYTES];
    cox_plan *plan = builder->plan;
    if (plan->note || !cox_gguf_is_foreign(file, builder->model, note)) return COX_OK;
    plan->note = cox_arena_strdup(plan->arena, note);
    return plan->note ? COX_OK : COX_NO_MEMORY;
}

cox_status cox__plan_find_vector(cox__plan_builder *builder, const char *where, const char *text,
                                 const cox_vector **vector)
{
    char *path = cox__plan_path(builder, text);
    if (!path) return COX_NO_MEMORY;
    char *name = strrchr(path, '#');
    if (name) *name++ = '\0';
    const cox_vector_file *file = NULL;
    const cox_vector *found = NULL;
    cox_status status = read_file(builder, path, &file);
    if (status == COX_OK) {
        found = cox_vector_find(file, name);
        if (!found) status = name ? COX_NOT_FOUND : COX_INVALID;
    }
    free(path);
    if (status != COX_OK) return cox_fail_in(status, "%s", where);
    status =
        check_fingerprint(builder, where, "model", found->model_fingerprint, builder->model->fingerprint);
    if (status == COX_OK) {
        status = check_fingerprint(builder, where, "tokenizer", found->tokenizer_fingerprint,
                                   builder->tokenizer_fingerprint);
    }
    if (status == COX_OK) status = note_hint(builder, file);
    if (status == COX_OK) *vector = found;
    return status;
}

void cox_vector_cache_release(cox_vector_cache *cache)
{
    for (size_t i = 0; i < cache->n; i++) cox_vector_file_free(cache->files[i]);
    free(cache->files);
    *cache = (cox_vector_cache){0};
}

void cox__plan_builder_release(cox__plan_builder *builder)
{
    free(builder->rows);
}
