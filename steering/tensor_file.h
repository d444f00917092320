/* Whole safetensors files of several tensors of any shape, for what commands record. Reading is
 * model/checkpoint.h's business. */
#ifndef COX_STEERING_TENSOR_FILE_H
#define COX_STEERING_TENSOR_FILE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "model/checkpoint.h"

typedef struct cox_tensor_out {
    const char *name, *dtype;          /* "F32", "F64", "I32", "I64" */
    int64_t dims[COX_TENSOR_MAX_DIMS]; /* up to the first 0 */
    const void *data;                  /* C order, borrowed */
} cox_tensor_out;

/* Writes beside the path, then renames. metadata: object of strings, or NULL. Errors: INVALID (a name that is
 * not UTF-8), IO, NO_MEMORY. */
cox_status cox_tensor_file_write(const char *path, const cox_tensor_out *tensors, size_t n,
                                 const json_t *metadata);

#endif
