/* Files beside the printed result. */
#include "run/outputs.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

cox_status cox_output_check(const char *option, const char *path, bool has_force)
{
    if (!path || has_force || access(path, F_OK) != 0) return COX_OK;
    return cox_fail(COX_INVALID, "%s %s exists; remove it, choose another name, or give --force", option,
                    path);
}

cox_status cox_output_write(const char *option, const char *path,
                            void (*print)(FILE *file, const void *context), const void *context)
{
    if (!path) return COX_OK;
    size_t n = strlen(path) + 16;
    char *temporary = malloc(n);
    if (!temporary) return cox_no_memory("an output's name");
    snprintf(temporary, n, "%s.XXXXXX", path);
    int descriptor = mkstemp(temporary);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    cox_status status = COX_OK;
    if (file) {
        mode_t mask = umask(0);
        umask(mask);
        print(file, context);
        bool is_bad = fchmod(descriptor, 0666 & ~mask) != 0 || ferror(file) != 0;
        if (fclose(file) != 0 || is_bad || rename(temporary, path) != 0)
            status = cox_fail(COX_IO, "%s %s: cannot write: %s", option, path, strerror(errno));
        if (status != COX_OK) unlink(temporary);
    } else {
        status = cox_fail(COX_IO, "%s %s: cannot create: %s", option, path, strerror(errno));
        if (descriptor >= 0) close(descriptor);
    }
    free(temporary);
    return status;
}

cox_status cox_output_folder(const char *option, const char *folder, bool is_forced)
{
    if (mkdir(folder, 0777) == 0) return COX_OK;
    if (errno != EEXIST)
        return cox_fail(COX_IO, "%s %s: cannot make the folder: %s", option, folder, strerror(errno));
    DIR *directory = opendir(folder);
    if (!directory) return cox_fail(COX_IO, "%s %s: %s", option, folder, strerror(errno));
    bool is_empty = true;
    for (const struct dirent *entry; (entry = readdir(directory));)
        is_empty = is_empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    closedir(directory);
    if (is_empty || is_forced) return COX_OK;
    return cox_fail(COX_INVALID, "%s %s is not empty; choose another folder, or give --force", option,
                    folder);
}

void cox_csv_print(FILE *file, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, file);
        return;
    }
    fputc('"', file);
    for (; *text; text++) {
        if (*text == '"') fputc('"', file);
        fputc(*text, file);
    }
    fputc('"', file);
}

cox_status cox_output_json(struct json_t *json)
{
    char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
    if (!text) return cox_no_memory("the result as JSON");
    puts(text);
    free(text);
    return COX_OK;
}
