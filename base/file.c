/* The one reader of whole files: regular ones in one piece, pipes in pieces that grow. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alive.h"

enum { PIECE_BYTES = 1 << 16 };

/* Room for another piece and the NUL. */
static cox_status make_room(char **bytes, size_t length, size_t *capacity, const char *name)
{
    if (*capacity > length + 1) return COX_OK;
    size_t wanted = 2 * length + PIECE_BYTES;
    char *larger = realloc(*bytes, wanted);
    if (!larger) return cox_no_memory(name);
    *bytes = larger;
    *capacity = wanted;
    return COX_OK;
}

static cox_status too_large(const char *name, size_t most_bytes)
{
    return cox_fail(COX_BAD_FILE, "%s: has more than the %zu bytes that are read", name, most_bytes);
}

/* The room for a regular file, in one piece with a byte to see its end by. */
static cox_status begin(int descriptor, const char *name, size_t most_bytes, char **bytes, size_t *capacity)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0) return cox_fail(COX_IO, "%s: cannot read: %s", name, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size <= 0) return COX_OK;
    if ((uintmax_t)info.st_size > most_bytes) return too_large(name, most_bytes);
    size_t wanted = (size_t)info.st_size + 2;
    *bytes = malloc(wanted);
    if (!*bytes) return cox_fail(COX_NO_MEMORY, "%s: out of memory for its %zu bytes", name, wanted - 2);
    *capacity = wanted;
    return COX_OK;
}

/* [in, out] *length of *bytes; [out] *is_at_end */
static cox_status read_piece(int descriptor, const char *name, char *bytes, size_t capacity, size_t *length,
                             bool *is_at_end)
{
    cox_alive();
    size_t room = capacity - *length - 1;
    ssize_t got = read(descriptor, bytes + *length, room > 16 * PIECE_BYTES ? 16 * PIECE_BYTES : room);
    if (got < 0 && errno != EINTR) return cox_fail(COX_IO, "%s: cannot read: %s", name, strerror(errno));
    if (got > 0) *length += (size_t)got;
    *is_at_end = got == 0;
    return COX_OK;
}

cox_status cox_file_read_from(int descriptor, const char *name, size_t most_bytes, cox_file_wait *wait,
                              void *user, char **data, size_t *n_bytes)
{
    char *bytes = NULL;
    size_t length = 0, capacity = 0;
    bool is_at_end = false;
    cox_status status = begin(descriptor, name, most_bytes, &bytes, &capacity);
    while (status == COX_OK && !is_at_end) {
        status = make_room(&bytes, length, &capacity, name);
        if (status == COX_OK && wait) status = wait(user, descriptor);
        if (status == COX_OK) status = read_piece(descriptor, name, bytes, capacity, &length, &is_at_end);
        if (status == COX_OK && length > most_bytes) status = too_large(name, most_bytes);
    }
    if (status != COX_OK) {
        free(bytes);
        return status;
    }
    bytes[length] = '\0';
    *data = bytes;
    *n_bytes = length;
    return COX_OK;
}

static cox_status read_path(const char *path, bool is_regular, size_t most_bytes, char **data,
                            size_t *n_bytes)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | (is_regular ? O_NONBLOCK : 0));
    if (descriptor < 0) {
        return cox_fail(errno == ENOENT ? COX_NOT_FOUND : COX_IO, "%s: cannot open: %s", path,
                        strerror(errno));
    }
    struct stat info;
    cox_status status = COX_OK;
    if (is_regular && fstat(descriptor, &info) == 0 && !S_ISREG(info.st_mode))
        status = cox_fail(COX_BAD_FILE, "%s: is not a regular file", path);
    if (status == COX_OK)
        status = cox_file_read_from(descriptor, path, most_bytes, NULL, NULL, data, n_bytes);
    close(descriptor);
    return status;
}

cox_status cox_file_read(const char *path, size_t most_bytes, char **data, size_t *n_bytes)
{
    return read_path(path, false, most_bytes, data, n_bytes);
}

cox_status cox_file_read_regular(const char *path, size_t most_bytes, char **data, size_t *n_bytes)
{
    return read_path(path, true, most_bytes, data, n_bytes);
}
