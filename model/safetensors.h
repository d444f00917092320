/*
 * The two file formats of a checkpoint, parsed from memory: the header of a safetensors file (an 8-byte
 * little-endian length, that many bytes of JSON, then the data that the JSON describes), and the index
 * that says which shard holds which tensor. Everything in them comes from outside, so every number is
 * checked here; model/checkpoint.c does the files and the mapping.
 */
#ifndef COX_MODEL_SAFETENSORS_H
#define COX_MODEL_SAFETENSORS_H

#include <jansson.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/status.h"
#include "model/checkpoint.h"

/* The limit that the safetensors library sets to a header, bytes. */
enum { COX__SAFETENSORS_MAX_HEADER_BYTES = 100000000 };

/*
 * Reads the tensors of one file of n_bytes at `file`, which `path` names in messages. As the
 * safetensors library does, it refuses tensors that lie outside the file, overlap, or leave bytes that
 * belong to none. [out] *tensors: array and names in `arena`, `data` pointing into `file`, sorted by
 * address. `path` must live as long. Errors: BAD_FILE, NO_MEMORY.
 */
cox_status cox__safetensors_parse(const char *path, const unsigned char *file, size_t n_bytes,
                                  cox_arena *arena, cox_tensor **tensors, size_t *n_tensors);

typedef struct cox__index_entry {
    const char *tensor, *shard; /* name; file name without folder */
} cox__index_entry;

/* Reads model.safetensors.index.json. [out] *entries: in `arena`, sorted by shard, then tensor.
 * Shard names that leave the folder are refused. Errors: BAD_FILE, NO_MEMORY. */
cox_status cox__index_parse(const json_t *index, const char *where, cox_arena *arena,
                            cox__index_entry **entries, size_t *n_entries);

#endif
