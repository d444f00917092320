/* Lines to a journaled file, or to a descriptor. */
#include "run/results.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/io.h"

struct cox_results {
    cox_cluster *cluster;
    const char *path;
    cox_journal *journal; /* or NULL, and then a descriptor */
    int fd;
};

/* What there is, or will be: something that can be read back and cut. */
static bool is_regular(const char *path)
{
    struct stat file;
    return strcmp(path, "-") != 0 && (stat(path, &file) != 0 || S_ISREG(file.st_mode));
}

static cox_status open_plain(cox_results *r, bool has_force)
{
    if (strcmp(r->path, "-") == 0) {
        r->fd = STDOUT_FILENO;
        return COX_OK;
    }
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND | (has_force ? O_TRUNC : O_EXCL);
    r->fd = open(r->path, flags, 0666);
    if (r->fd >= 0) return COX_OK;
    if (errno == EEXIST)
        return cox_fail(COX_INVALID, "%s exists; remove it, choose another name, or give --force", r->path);
    return cox_fail(COX_IO, "%s: cannot create: %s", r->path, strerror(errno));
}

cox_status cox_results_open(cox_results **results, const cox_journal_options *options)
{
    const char *path = options->path;
    cox_results *r = calloc(1, sizeof *r);
    if (!r) return cox_no_memory(path);
    *r = (cox_results){.cluster = options->cluster, .path = path, .fd = -1};
    cox_status status = options->run && is_regular(path) ? cox_journal_open(&r->journal, options)
                                                         : open_plain(r, options->begins_anew);
    if (status != COX_OK) {
        free(r);
        return cox_fail_in(status, "--output");
    }
    *results = r;
    return COX_OK;
}

cox_journal_found cox_results_what_was_found(const cox_results *r)
{
    return r->journal ? cox_journal_what_was_found(r->journal) : (cox_journal_found){.n_results = 0};
}

bool cox_results_has(const cox_results *r, uint64_t key)
{
    return r->journal && cox_journal_has(r->journal, key);
}

bool cox_results_has_journal(const cox_results *r)
{
    return r->journal != NULL;
}

cox_status cox_results_write(cox_results *r, uint64_t key, const char *line, size_t n)
{
    return r->journal ? cox_journal_append(r->journal, key, line, n)
                      : cox_io_write_all(r->cluster, r->fd, line, n, r->path);
}

cox_status cox_results_tick(cox_results *r)
{
    return r->journal ? cox_journal_tick(r->journal) : COX_OK;
}

cox_status cox_results_close(cox_results *r)
{
    if (!r) return COX_OK;
    cox_status status = cox_journal_close(r->journal);
    if (r->fd > STDERR_FILENO && close(r->fd) != 0 && status == COX_OK)
        status = cox_fail(COX_IO, "%s: cannot write: %s", r->path, strerror(errno));
    free(r);
    return status;
}
