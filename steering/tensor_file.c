/* Tensors of any shape in one safetensors file. */
#include "steering/tensor_file.h"

#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

cox_status cox_tensor_file_write(const char *path, const cox_tensor_out *tensors, size_t n,
                                 const json_t *metadata)
{
    cox__tensor_head *heads = calloc(n + 1, sizeof *heads);
    const void **parts = calloc(n + 1, sizeof *parts);
    size_t *part_bytes = calloc(n + 1, sizeof *part_bytes);
    unsigned char *header = NULL;
    cox_status status = COX_OK;
    if (!heads || !parts || !part_bytes) {
        status = cox_no_memory(path);
    } else {
        for (size_t i = 0; i < n; i++) {
            heads[i].name = tensors[i].name, heads[i].dtype = tensors[i].dtype;
            memcpy(heads[i].dims, tensors[i].dims, sizeof heads[i].dims);
            parts[i + 1] = tensors[i].data;
            part_bytes[i + 1] = cox__tensor_bytes(&heads[i]);
        }
        status = cox__safetensors_header(heads, n, metadata, &header, &part_bytes[0]);
        parts[0] = header;
    }
    if (status == COX_OK) status = cox__file_write(path, parts, part_bytes, n + 1);
    free(header);
    free(part_bytes);
    free(parts);
    free(heads);
    return status;
}
