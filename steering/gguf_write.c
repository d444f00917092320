/* Writes a GGUF control vector, version 3, and refuses by name what GGUF has no words for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/gguf.h"
#include "steering/internal.h"

enum { ALIGNMENT = 32, TYPE_U32 = 4, TYPE_STRING = 8, TENSOR_F32 = 0 };

static cox_status refuse(const cox_vector *v, const char *why)
{
    return cox_fail(COX_UNSUPPORTED, "vector \"%s\": GGUF cannot say %s; keep it as safetensors", v->name,
                    why);
}

static cox_status check_one(const cox_vector *v)
{
    char why[256];
    if (v->site != COX_SITE_RESID_POST) {
        snprintf(why, sizeof why, "site %s, only resid_post", cox_site_name(v->site));
        return refuse(v, why);
    }
    if (v->layer < 0) return refuse(v, "a vector without its layer");
    if (v->layer == 0) return refuse(v, "resid_post of block 0 (llama.cpp refuses direction.0)");
    if (v->expert >= 0 || v->weighting) return refuse(v, "an expert or a weighting");
    if (v->operation && strcmp(v->operation, "add") != 0) {
        snprintf(why, sizeof why, "operation \"%.60s\", only \"add\"", v->operation);
        return refuse(v, why);
    }
    if (v->positions && strcmp(v->positions, "\"all\"") != 0) {
        snprintf(why, sizeof why, "positions %.60s, only \"all\"", v->positions);
        return refuse(v, why);
    }
    return cox__check_finite(v->name, v->data, v->width);
}

static int by_layer(const void *a, const void *b)
{
    const cox_vector *const *left = a, *const *right = b;
    return ((*left)->layer > (*right)->layer) - ((*left)->layer < (*right)->layer);
}

static void put_number(FILE *out, uint64_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++) fputc((int)(value >> 8 * i & 255), out);
}

static void put_string(FILE *out, const char *text)
{
    put_number(out, strlen(text), 8);
    fwrite(text, 1, strlen(text), out);
}

static uint64_t padded(uint64_t n_bytes)
{
    return (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_header(FILE *out, const cox_vector *const *vectors, size_t n, const char *model_hint)
{
    fwrite("GGUF", 1, 4, out);
    put_number(out, 3, 4);
    put_number(out, n, 8);
    put_number(out, 3, 8);
    put_string(out, "general.architecture");
    put_number(out, TYPE_STRING, 4);
    put_string(out, "controlvector");
    put_string(out, "controlvector.model_hint");
    put_number(out, TYPE_STRING, 4);
    put_string(out, model_hint);
    put_string(out, "controlvector.layer_count");
    put_number(out, TYPE_U32, 4);
    put_number(out, n, 4);
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "direction.%d", (int)vectors[i]->layer);
        put_string(out, name);
        put_number(out, 1, 4);
        put_number(out, (uint64_t)vectors[i]->width, 8);
        put_number(out, TENSOR_F32, 4);
        put_number(out, offset, 8);
        offset = padded(offset + 4 * (uint64_t)vectors[i]->width);
    }
}

static void put_padding(FILE *out)
{
    for (long at = ftell(out); at % ALIGNMENT != 0; at++) fputc(0, out);
}

static cox_status write_sorted(const char *path, const cox_vector *const *vectors, size_t n,
                               const char *model_hint)
{
    for (size_t i = 1; i < n; i++) {
        if (vectors[i]->layer == vectors[i - 1]->layer)
            return refuse(vectors[i], "two vectors for one block");
        if (vectors[i]->width != vectors[0]->width) return refuse(vectors[i], "vectors of different widths");
    }
    char *data = NULL;
    size_t n_bytes = 0;
    FILE *out = open_memstream(&data, &n_bytes);
    if (!out) return cox_no_memory(path);
    put_header(out, vectors, n, model_hint);
    put_padding(out);
    for (size_t i = 0; i < n; i++) {
        fwrite(vectors[i]->data, sizeof *vectors[i]->data, (size_t)vectors[i]->width, out);
        put_padding(out);
    }
    cox_status status = fclose(out) == 0 ? COX_OK : cox_no_memory(path);
    const void *parts[] = {data};
    if (status == COX_OK) status = cox__file_write(path, parts, &n_bytes, 1);
    free(data);
    return status;
}

cox_status cox_gguf_write(const char *path, const cox_vector *vectors, size_t n, const char *model_hint)
{
    if (n == 0 || n > COX__MAX_VECTORS)
        return cox_fail(COX_INVALID, "%s: %zu vectors cannot be exported", path, n);
    const cox_vector **sorted = calloc(n, sizeof *sorted);
    if (!sorted) return cox_no_memory(path);
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        sorted[i] = &vectors[i];
        status = check_one(&vectors[i]);
    }
    if (status == COX_OK) {
        qsort(sorted, n, sizeof *sorted, by_layer);
        status = write_sorted(path, sorted, n, model_hint);
    }
    free(sorted);
    return status;
}
