/* A GGUF control vector of any bytes: an error, or named rows of one width that are finite. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cox_vector_file *file = NULL;
    if (cox__gguf_parse(&file, "fuzz", data, size) != COX_OK) return 0;
    if (file->n == 0) abort();
    for (size_t i = 0; i < file->n; i++) {
        const cox_vector *v = &file->vectors[i];
        if (v->site != COX_SITE_RESID_POST || v->layer < 0 || v->width != file->vectors[0].width) abort();
        if (i && strcmp(file->vectors[i - 1].name, v->name) >= 0) abort();
        for (int32_t j = 0; j < v->width; j++) {
            if (!isfinite(v->data[j])) abort();
        }
    }
    cox_vector_file_free(file);
    return 0;
}
