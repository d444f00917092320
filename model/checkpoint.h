/*
 * A folder of safetensors shards, mapped read-only. Opening reads only the headers; data pages are
 * touched by whoever uses a tensor, so a rank's resident memory is its own tensors. Everything that the
 * format can get wrong is found when opening: missing or truncated shards, tensors outside their file,
 * overlapping or duplicate tensors, byte counts that contradict shape and dtype, an index that
 * contradicts the shards.
 */
#ifndef COX_MODEL_CHECKPOINT_H
#define COX_MODEL_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_checkpoint cox_checkpoint;

/* Element types of safetensors that we can meet; U8 carries MXFP4 blocks and scales. */
typedef enum cox_tensor_dtype {
    COX_TENSOR_F64,
    COX_TENSOR_F32,
    COX_TENSOR_F16,
    COX_TENSOR_BF16,
    COX_TENSOR_I64,
    COX_TENSOR_I32,
    COX_TENSOR_U8,
    COX_TENSOR_I8,
    COX_TENSOR_BOOL,
    COX_TENSOR_OTHER
} cox_tensor_dtype;

enum { COX_TENSOR_MAX_DIMS = 4 };
typedef struct cox_tensor {
    const char *name;  /* owned by the checkpoint */
    const char *shard; /* path of its file, for messages */
    cox_tensor_dtype dtype;
    const char *dtype_name; /* as the file spells it, for messages */
    int32_t n_dims; /* may be larger than COX_TENSOR_MAX_DIMS; then shape has only the first of them */
    int64_t shape[COX_TENSOR_MAX_DIMS];
    const void *data; /* mapped, read-only */
    size_t n_bytes;
} cox_tensor;

/* Reads <folder>/model.safetensors or, where there is none, the shards that
 * <folder>/model.safetensors.index.json lists (transformers' order of preference).
 * [out] owned by the caller. Not collective. Errors: NOT_FOUND, IO, BAD_FILE, NO_MEMORY. */
cox_status cox_checkpoint_open(cox_checkpoint **checkpoint, const char *folder);
void cox_checkpoint_close(cox_checkpoint *checkpoint); /* NULL is allowed */

/* NULL when there is none. */
const cox_tensor *cox_checkpoint_find(const cox_checkpoint *checkpoint, const char *name);
size_t cox_checkpoint_n_tensors(const cox_checkpoint *checkpoint);
const cox_tensor *cox_checkpoint_tensor(const cox_checkpoint *checkpoint, size_t i);

/* Faults in a range of mapped bytes (so that later use does not wait for the disk). Errors: IO (a shard
 * that shrank or cannot be read). */
cox_status cox_checkpoint_populate(const cox_checkpoint *checkpoint, const void *data, size_t n_bytes);

/* Lets go of the resident pages that lie wholly within a range of mapped bytes (after they were copied);
 * they are read again when touched. */
void cox_checkpoint_release(const cox_checkpoint *checkpoint, const void *data, size_t n_bytes);

#endif
