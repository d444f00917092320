/* What a tokenizer is known by: the bytes of the file that defines it. */
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>

#include "steering/internal.h"

cox_status cox_tokenizer_fingerprint(const char *folder, char fingerprint[65])
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return cox_fail(COX_INVALID, "%.200s...: path is too long", folder);
    unsigned char *data = NULL;
    size_t n_bytes = 0;
    cox_status status = cox__file_read(path, &data, &n_bytes);
    if (status == COX_NOT_FOUND) { /* work on token ids needs none */
        fingerprint[0] = '\0';
        return COX_OK;
    }
    if (status != COX_OK) return status;
    SHA256Data(data, n_bytes, fingerprint);
    free(data);
    return COX_OK;
}
