/* Files over plain descriptors, so that one write() is one line and a pipe can be polled. */
#include "run/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "cluster/drain.h"

enum { READ_BYTES = 1 << 16 };

static cox_status fail_open(const char *path)
{
    return cox_fail(errno == ENOENT ? COX_NOT_FOUND : COX_IO, "%s: cannot open: %s", path, strerror(errno));
}

static int open_input(const char *path)
{
    return strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
}

static void close_input(int fd)
{
    if (fd > STDIN_FILENO) close(fd);
}

/* Until the descriptor is ready, saying now and then that this rank lives. */
static void await_ready(cox_cluster *cluster, int fd, short events, const char *what)
{
    struct pollfd waiting = {.fd = fd, .events = events};
    while (cluster && poll(&waiting, 1, 500) == 0) cox_cluster_keepalive(cluster, what);
}

typedef struct source {
    cox_cluster *cluster;
    const char *path;
} source;

static cox_status await_input(void *user, int fd)
{
    const source *s = user;
    await_ready(s->cluster, fd, POLLIN, "waiting for input");
    if (!cox_drain_is_wanted()) return COX_OK;
    return cox_fail(COX_REQUEUE, "stopped by a signal while reading %s", s->path);
}

cox_status cox_io_read_all(cox_cluster *cluster, const char *path, char **text, size_t *n)
{
    int fd = open_input(path);
    if (fd < 0) return fail_open(path);
    source from = {cluster, path};
    cox_status status = cox_file_read_from(fd, path, SIZE_MAX, await_input, &from, text, n);
    close_input(fd);
    return status;
}

cox_status cox_io_write_all(cox_cluster *cluster, int fd, const void *data, size_t n, const char *where)
{
    for (size_t done = 0; done < n;) {
        await_ready(cluster, fd, POLLOUT, "waiting for room in the output");
        ssize_t wrote = write(fd, (const char *)data + done, n - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return cox_fail(COX_IO, "%s: cannot write: %s", where, strerror(errno));
        done += (size_t)wrote;
    }
    return COX_OK;
}

static const char ID_SEPARATORS[] = " \t\r\n,[]";

/* Skips what stands before, between and behind ids; false: beside one of its commas an id is missing. The
 * last id may have a comma too. */
static bool skip_separators(const char **at, bool is_first)
{
    const char *end = *at + strspn(*at, ID_SEPARATORS);
    int n_commas = 0;
    for (; *at < end; (*at)++) n_commas += **at == ',';
    return n_commas <= (is_first ? 0 : 1);
}

cox_status cox_io_parse_ids(const char *text, const char *where, int32_t **ids, size_t *n)
{
    int32_t *list = NULL;
    size_t count = 0, capacity = 0;
    cox_status status = COX_OK;
    const char *at = text;
    bool is_whole = skip_separators(&at, true);
    while (*at && is_whole) {
        char *end = NULL;
        size_t length = strcspn(at, ID_SEPARATORS);
        errno = 0;
        long long value = strtoll(at, &end, 10);
        if (end != at + length || errno != 0 || value < 0 || value > INT32_MAX) {
            int shown = length > 40 ? 40 : (int)length;
            status = cox_fail(COX_INVALID, "%s: \"%.*s\" is not a token id", where, shown, at);
            break;
        }
        if (count == capacity) {
            capacity = 2 * capacity + 64;
            int32_t *larger = realloc(list, capacity * sizeof *larger);
            if (!larger) {
                status = cox_no_memory(where);
                break;
            }
            list = larger;
        }
        list[count++] = (int32_t)value;
        at = end;
        is_whole = skip_separators(&at, false);
    }
    if (status == COX_OK && !is_whole)
        status = cox_fail(COX_INVALID, "%s: a token id is missing beside a comma", where);
    if (status != COX_OK) {
        free(list);
        return status;
    }
    *ids = list;
    *n = count;
    return COX_OK;
}

/* --- Lines --- */

struct cox_lines {
    const char *path;
    int fd;
    char
        *bytes; /* [n_bytes] read; [start..n_bytes) not handed out yet, without a newline before `searched` */
    size_t start, searched, n_bytes, capacity;
    uint64_t done, total;
    bool is_at_end, is_skipping; /* skipping: the rest of a line that is too long */
};

cox_status cox_lines_open(cox_lines **lines, const char *path)
{
    int fd = open_input(path);
    if (fd < 0) return fail_open(path);
    struct stat file;
    cox_lines *l = calloc(1, sizeof *l);
    if (!l || fstat(fd, &file) != 0 || S_ISDIR(file.st_mode)) {
        cox_status status =
            l ? cox_fail(COX_IO, "%s: not a file that can be read", path) : cox_no_memory(path);
        free(l);
        close_input(fd);
        return status;
    }
    l->path = path;
    l->fd = fd;
    l->total = S_ISREG(file.st_mode) ? (uint64_t)file.st_size : 0;
    *lines = l;
    return COX_OK;
}

void cox_lines_close(cox_lines *lines)
{
    if (!lines) return;
    close_input(lines->fd);
    free(lines->bytes);
    free(lines);
}

/* Hands out [start, end) and continues at `next`. */
static void hand_out(cox_lines *l, size_t end, size_t next, const char **line, size_t *n)
{
    *line = l->bytes + l->start;
    *n = end - l->start;
    l->done += next - l->start;
    l->start = l->searched = next;
}

static cox_status make_room(cox_lines *l)
{
    if (l->start > 0) {
        memmove(l->bytes, l->bytes + l->start, l->n_bytes - l->start);
        l->n_bytes -= l->start;
        l->searched -= l->start;
        l->start = 0;
    }
    if (l->n_bytes + READ_BYTES <= l->capacity) return COX_OK;
    size_t capacity = 2 * l->capacity + READ_BYTES;
    char *larger = realloc(l->bytes, capacity);
    if (!larger) return cox_no_memory(l->path);
    l->bytes = larger;
    l->capacity = capacity;
    return COX_OK;
}

/* Reads once. *got_none: nothing came within wait_s. */
static cox_status read_more(cox_lines *l, double wait_s, bool *got_none)
{
    cox_status status = make_room(l);
    if (status != COX_OK) return status;
    struct pollfd waiting = {.fd = l->fd, .events = POLLIN};
    if (l->total == 0 && poll(&waiting, 1, (int)(wait_s * 1000)) <= 0) { /* below 0: a signal came */
        *got_none = true;
        return COX_OK;
    }
    ssize_t got = read(l->fd, l->bytes + l->n_bytes, READ_BYTES);
    if (got < 0 && errno != EINTR) return cox_fail(COX_IO, "%s: cannot read: %s", l->path, strerror(errno));
    if (got == 0) l->is_at_end = true;
    if (got > 0) l->n_bytes += (size_t)got;
    return COX_OK;
}

cox_status cox_lines_next(cox_lines *l, double wait_s, cox_line_result *result, const char **line, size_t *n)
{
    for (;;) {
        char *newline =
            l->n_bytes > l->searched ? memchr(l->bytes + l->searched, '\n', l->n_bytes - l->searched) : NULL;
        size_t end = newline ? (size_t)(newline - l->bytes) : l->n_bytes;
        bool is_line = newline || (l->is_at_end && end > l->start);
        if (is_line) {
            bool was_skipping = l->is_skipping;
            l->is_skipping = false;
            hand_out(l, end, newline ? end + 1 : end, line, n);
            if (was_skipping) continue;
            *result = COX_LINE_READY;
            return COX_OK;
        }
        if (l->is_at_end) {
            *result = COX_LINE_END;
            return COX_OK;
        }
        l->searched = l->n_bytes;
        if (l->n_bytes - l->start > COX_LINE_MAX_BYTES || l->is_skipping) {
            bool was_skipping = l->is_skipping;
            l->is_skipping = true;
            hand_out(l, l->n_bytes, l->n_bytes, line, n);
            if (!was_skipping) {
                *result = COX_LINE_TOO_LONG;
                return COX_OK;
            }
        }
        bool got_none = false;
        cox_status status = read_more(l, wait_s, &got_none);
        if (status != COX_OK) return status;
        if (got_none) {
            *result = COX_LINE_NONE_NOW;
            return COX_OK;
        }
    }
}

uint64_t cox_lines_done_bytes(const cox_lines *lines)
{
    return lines->done;
}

uint64_t cox_lines_total_bytes(const cox_lines *lines)
{
    return lines->total;
}
