#include "base/path.h"

#include <stdlib.h>
#include <string.h>

char *cox_path_seen_from(const char *home, const char *path)
{
    size_t same = 0, i = 0, n_up = 0; /* same: bytes of the folders that both are in */
    for (; home[i] && home[i] == path[i]; i++) {
        if (path[i] == '/') same = i + 1;
    }
    if (!home[i] && path[i] == '/') same = i + 1;
    for (i = same; i < strlen(home); i++) n_up += i == same || home[i] == '/';
    char *seen = malloc(3 * n_up + strlen(path + same) + 1);
    if (!seen) return NULL;
    for (i = 0; i < n_up; i++) memcpy(seen + 3 * i, "../", 3);
    memcpy(seen + 3 * n_up, path + same, strlen(path + same) + 1);
    return seen;
}
