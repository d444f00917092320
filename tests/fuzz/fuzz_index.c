/* A shard index of any bytes: an error, or sorted entries whose shards are plain file names. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *index = NULL;
    cox_arena *arena = NULL;
    cox__index_entry *entries = NULL;
    size_t n = 0;
    if (cox_json_load_python_text(&index, (const char *)data, size, "fuzz") != COX_OK) return 0;
    if (cox_arena_create(&arena, "fuzz", 0) == COX_OK &&
        cox__index_parse(index, "fuzz", arena, &entries, &n) == COX_OK) {
        if (n == 0) abort();
        for (size_t i = 0; i < n; i++) {
            if (!*entries[i].shard || strchr(entries[i].shard, '/')) abort();
            if (i && strcmp(entries[i - 1].shard, entries[i].shard) > 0) abort();
        }
    }
    cox_arena_destroy(arena);
    json_decref(index);
    return 0;
}
