/* A vector file, and a file of pinned routes, of any bytes: an error, or rows that are finite, sorted and in
 * range. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_vectors(const cox_vector_file *file)
{
    if (file->n == 0) abort();
    for (size_t i = 0; i < file->n; i++) {
        const cox_vector *v = &file->vectors[i];
        if (!v->name || v->width < 1 || !isfinite(v->norm) || v->layer < -1 || v->expert < -1) abort();
        if (i && strcmp(file->vectors[i - 1].name, v->name) >= 0) abort();
        for (int32_t j = 0; j < v->width; j++) {
            if (!isfinite(v->data[j])) abort();
        }
    }
}

static void check_routes(const cox_pinned_routes *routes)
{
    for (int32_t l = 0; l < 4; l++) {
        const int32_t *row = cox_pinned_routes_find(routes, l, 0);
        if (row && (row[0] < 0 || row[0] >= 8 || row[1] < 0 || row[1] >= 8 || row[0] == row[1])) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cox_vector_file *file = NULL;
    if (cox__vector_file_parse(&file, "fuzz", data, size) == COX_OK) {
        check_vectors(file);
        cox_vector_file_free(file);
    }
    cox_arena *arena = NULL;
    cox_pinned_routes *routes = NULL;
    if (cox_arena_create(&arena, "fuzz", 0) != COX_OK) return 0;
    if (cox__pinned_parse(&routes, "fuzz", data, size, 4, 8, 2, arena) == COX_OK) check_routes(routes);
    cox_arena_destroy(arena);
    return 0;
}
