/* Small text files of the kernel. */
#include "run/memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number behind `key` at the start of a line of a file; key "" takes the first word. False: absent. */
static bool read_number(const char *path, const char *key, uint64_t *value)
{
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char line[512];
    bool found = false;
    size_t n = strlen(key);
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, n) != 0) continue;
        char *end = NULL;
        unsigned long long number = strtoull(line + n, &end, 10);
        if (end == line + n) continue; /* "max": no limit */
        *value = number;
        found = true;
    }
    fclose(file);
    return found;
}

uint64_t cox_memory_resident_bytes(void)
{
    uint64_t kilobytes = 0;
    return read_number("/proc/self/status", "VmRSS:", &kilobytes) ? kilobytes * 1024 : 0;
}

/* What one control group leaves: limit - (usage - page cache). */
static uint64_t group_leaves(const char *folder, const char *limit_name, const char *usage_name,
                             const char *cache_key)
{
    char path[PATH_MAX];
    uint64_t limit = 0, usage = 0, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    if (!read_number(path, "", &limit)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/%s", folder, usage_name);
    if (!read_number(path, "", &usage)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_number(path, cache_key, &cache);
    uint64_t held = usage > cache ? usage - cache : 0;
    return limit > held ? limit - held : 0;
}

/* The least that a group and its ancestors leave. group: "/a/b". */
static uint64_t groups_leave(const char *mount, char *group, bool is_v2)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        char folder[PATH_MAX];
        snprintf(folder, sizeof folder, "%s%s", mount, group);
        uint64_t leaves =
            is_v2 ? group_leaves(folder, "memory.max", "memory.current", "file ")
                  : group_leaves(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache ");
        if (leaves < least) least = leaves;
        char *slash = strrchr(group, '/');
        if (!slash || group[0] == '\0') return least;
        *slash = '\0';
    }
}

static uint64_t control_group_leaves(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return UINT64_MAX;
    uint64_t least = UINT64_MAX;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        bool is_v2 = controllers[1] == '\0';
        if (!is_v2 && !strstr(controllers, "memory")) continue;
        if (strcmp(group, "/") == 0) group[0] = '\0';
        char mount[PATH_MAX];
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, is_v2 ? "" : "/memory");
        uint64_t leaves = groups_leave(mount, group, is_v2);
        if (leaves < least) least = leaves;
    }
    fclose(file);
    return least;
}

uint64_t cox_memory_available_under(const char *root)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    uint64_t kilobytes = 0, machine = UINT64_MAX;
    if (read_number(path, "MemAvailable:", &kilobytes)) machine = kilobytes * 1024;
    uint64_t group = control_group_leaves(root);
    return group < machine ? group : machine;
}

uint64_t cox_memory_available_bytes(void)
{
    return cox_memory_available_under("");
}
