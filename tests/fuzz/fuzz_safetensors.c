/* A safetensors file of any bytes: an error, or tensors that lie within it one after the other. */
#include <stdint.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cox_arena *arena = NULL;
    cox_tensor *tensors = NULL;
    size_t n = 0;
    if (cox_arena_create(&arena, "fuzz", 0) != COX_OK) return 0;
    if (cox__safetensors_parse("fuzz", data, size, arena, &tensors, &n) == COX_OK) {
        const uint8_t *end = NULL;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *first = tensors[i].data;
            if (first < data || first > data + size || tensors[i].n_bytes > (size_t)(data + size - first))
                abort();
            if (end && first != end) abort();
            if (!tensors[i].name || !tensors[i].dtype_name || tensors[i].n_dims < 0) abort();
            end = first + tensors[i].n_bytes;
        }
        if (end && end != data + size) abort();
    }
    cox_arena_destroy(arena);
    return 0;
}
