/*
 * The journal and its file of results; the format is in docs/formats.md. The journal is text: a line of JSON
 * about the run, then "done KEY BYTES CHECKSUM" for each result, in the order of their lines in the file of
 * results, and "synced RESULTS BYTES" after each time that both files had reached the disk. What a kill
 * leaves behind lies after the last whole entry; what a power failure may leave behind lies after the last
 * "synced". So damage before that was done by somebody else and is an error; all other is cut and computed
 * again.
 */
#include "run/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <sha256.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/counters.h"
#include "base/json.h"

static const double SYNC_EVERY_S = 1, LOCK_WAIT_S = 10;
enum { VERSION = 1, HEADER_MAX_BYTES = 1 << 16, ENTRY_BYTES = 128, CHECKSUM_DIGITS = 32 };

struct cox_journal {
    const char *results_path;
    char *path; /* of the journal */
    int fd, results_fd;
    FILE *log, *results;                         /* for reading, during open */
    uint64_t n_results, n_result_bytes, n_bytes; /* whole results, their bytes, bytes of the journal */
    uint64_t n_synced;                           /* results when both files last reached the disk */
    double synced_s;
    uint64_t *keys; /* [n_key_words] one bit for each key */
    size_t n_key_words;
    cox_cluster *cluster;
    cox_journal_found found;
};

static cox_status fail_io(const char *path, const char *what)
{
    return cox_fail(COX_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

static void keep_alive(const cox_journal *j, const char *what)
{
    if (j->cluster) cox_cluster_keepalive(j->cluster, what);
}

/* --- Keys --- */

bool cox_journal_has(const cox_journal *j, uint64_t key)
{
    return key / 64 < j->n_key_words && (j->keys[key / 64] >> (key % 64) & 1);
}

static cox_status make_room(cox_journal *j, uint64_t key)
{
    if (key / 64 < j->n_key_words) return COX_OK;
    if (key / 64 > SIZE_MAX / 32) return cox_no_memory(j->path);
    size_t n_words = 2 * (size_t)(key / 64) + 64;
    uint64_t *larger = realloc(j->keys, n_words * sizeof *larger);
    if (!larger) return cox_no_memory(j->path);
    memset(larger + j->n_key_words, 0, (n_words - j->n_key_words) * sizeof *larger);
    j->keys = larger;
    j->n_key_words = n_words;
    return COX_OK;
}

/* --- Lines of the journal --- */

/* "done KEY BYTES CHECKSUM\n". The checksum: half of the SHA-256 of "KEY " and the line. */
static size_t format_entry(char entry[ENTRY_BYTES], uint64_t key, const char *line, size_t n)
{
    char prefix[32], checksum[SHA256_DIGEST_STRING_LENGTH];
    SHA2_CTX sha;
    int n_prefix = snprintf(prefix, sizeof prefix, "%" PRIu64 " ", key);
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)prefix, (size_t)n_prefix);
    SHA256Update(&sha, (const uint8_t *)line, n);
    SHA256End(&sha, checksum);
    return (size_t)snprintf(entry, ENTRY_BYTES, "done %" PRIu64 " %zu %.*s\n", key, n, CHECKSUM_DIGITS,
                            checksum);
}

static size_t format_mark(char mark[ENTRY_BYTES], uint64_t n_results, uint64_t n_bytes)
{
    return (size_t)snprintf(mark, ENTRY_BYTES, "synced %" PRIu64 " %" PRIu64 "\n", n_results, n_bytes);
}

/* [out] *text: the journal's first line, malloc'ed. */
static cox_status format_header(const cox_journal *j, const json_t *run, char **text, size_t *n)
{
    json_t *header = json_pack("{s:i, s:O}", "coxswain_journal", VERSION, "run", run);
    char *line = header ? json_dumps(header, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(header);
    if (!line) return cox_no_memory(j->path);
    *n = strlen(line);
    line[(*n)++] = '\n'; /* in place of the NUL */
    *text = line;
    if (*n < HEADER_MAX_BYTES) return COX_OK;
    free(line);
    return cox_fail(COX_INTERNAL, "%s: %zu bytes describe the run; at most %d", j->path, *n,
                    HEADER_MAX_BYTES);
}

/* --- Writing --- */

static cox_status write_all(int fd, const char *path, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t wrote = write(fd, data, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return fail_io(path, "write");
        data += wrote;
        n -= (size_t)wrote;
    }
    return COX_OK;
}

static cox_status cut_file(int fd, const char *path, uint64_t n_bytes)
{
    struct stat file;
    if (fstat(fd, &file) == 0 && (uint64_t)file.st_size == n_bytes) return COX_OK;
    return ftruncate(fd, (off_t)n_bytes) == 0 ? COX_OK : fail_io(path, "cut");
}

static cox_status cut(cox_journal *j)
{
    cox_status status = cut_file(j->results_fd, j->results_path, j->n_result_bytes);
    return status == COX_OK ? cut_file(j->fd, j->path, j->n_bytes) : status;
}

/* To the disk, then a mark that says so, which gets there with the next sync. */
static cox_status sync_both(cox_journal *j)
{
    keep_alive(j, "bringing results to the disk");
    if (fdatasync(j->results_fd) != 0) return fail_io(j->results_path, "bring to the disk");
    if (fdatasync(j->fd) != 0) return fail_io(j->path, "bring to the disk");
    keep_alive(j, "bringing results to the disk");
    j->synced_s = cox_now_s();
    char mark[ENTRY_BYTES];
    size_t n = format_mark(mark, j->n_results, j->n_result_bytes);
    cox_status status = write_all(j->fd, j->path, mark, n);
    if (status == COX_OK) {
        j->n_bytes += n;
        j->n_synced = j->n_results;
    }
    return status;
}

cox_status cox_journal_tick(cox_journal *j)
{
    if (j->n_synced == j->n_results || cox_now_s() - j->synced_s < SYNC_EVERY_S) return COX_OK;
    return sync_both(j);
}

cox_status cox_journal_append(cox_journal *j, uint64_t key, const char *line, size_t n)
{
    if (cox_journal_has(j, key) || n == 0 || memchr(line, '\n', n) != line + n - 1)
        return cox_fail(COX_INTERNAL, "%s: result %" PRIu64 " is there already, or not one line", j->path,
                        key);
    cox_status status = make_room(j, key);
    if (status != COX_OK) return status;
    char entry[ENTRY_BYTES];
    size_t n_entry = format_entry(entry, key, line, n);
    status = write_all(j->results_fd, j->results_path, line, n);
    if (status == COX_OK) status = write_all(j->fd, j->path, entry, n_entry);
    if (status != COX_OK) {
        char reason[512];
        snprintf(reason, sizeof reason, "%s", cox_status_message());
        cut(j); /* if that fails too, the next run does it */
        return cox_fail(status, "%s", reason);
    }
    j->keys[key / 64] |= (uint64_t)1 << (key % 64);
    j->n_results++;
    j->n_result_bytes += n;
    j->n_bytes += n_entry;
    return cox_journal_tick(j);
}

/* --- Whose run it is --- */

static void describe(char *text, size_t n, const json_t *value)
{
    char *dump = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    snprintf(text, n, strlen(dump ? dump : "") > 24 ? "%.20s..." : "%s", dump ? dump : "absent");
    free(dump);
}

/* Adds what differs at a key to the message. */
static void add_difference(char *text, size_t n, const char *key, const json_t *theirs, const json_t *ours)
{
    char there[48], here[48];
    size_t length = strlen(text);
    describe(there, sizeof there, theirs);
    describe(here, sizeof here, ours);
    snprintf(text + length, n - length, "%s%s was %s and is %s", length > 0 ? "; " : "", key, there, here);
}

static cox_status compare_runs(const cox_journal *j, const json_t *theirs, const json_t *ours)
{
    char differences[1024] = "";
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)ours, key, value)
    {
        const json_t *other = json_object_get(theirs, key);
        if (!json_equal(other, value)) add_difference(differences, sizeof differences, key, other, value);
    }
    json_object_foreach((json_t *)(uintptr_t)theirs, key, value)
    {
        if (!json_object_get(ours, key)) add_difference(differences, sizeof differences, key, value, NULL);
    }
    if (!*differences) return COX_OK;
    return cox_fail(COX_INVALID,
                    "%s exists and is of another run (%s): %s; choose another file, or give --force to begin "
                    "anew",
                    j->results_path, j->path, differences);
}

/* [out] *is_there: there is a whole header, and it is this run's. A torn one is as good as none: it is
 * complete before the file of results is made. */
static cox_status read_header(cox_journal *j, const json_t *run, bool *is_there)
{
    char *text = malloc(HEADER_MAX_BYTES);
    if (!text) return cox_no_memory(j->path);
    ssize_t n = pread(j->fd, text, HEADER_MAX_BYTES, 0);
    const char *end = n > 0 ? memchr(text, '\n', (size_t)n) : NULL;
    cox_status status = n < 0 ? fail_io(j->path, "read") : COX_OK;
    if (!end && n == HEADER_MAX_BYTES) status = cox_fail(COX_BAD_FILE, "%s: not a journal", j->path);
    if (end) {
        json_t *header = NULL;
        int64_t version = 0;
        j->n_bytes = (uint64_t)(end + 1 - text);
        status = cox_json_load_text(&header, text, (size_t)(end - text), j->path);
        if (status == COX_OK)
            status = cox_json_int(header, j->path, "coxswain_journal", true, 1, INT32_MAX, &version);
        if (status == COX_OK && version != VERSION) {
            status = cox_fail(COX_UNSUPPORTED, "%s: a journal of version %d; this program knows %d", j->path,
                              (int)version, VERSION);
        }
        if (status == COX_OK) status = compare_runs(j, json_object_get(header, "run"), run);
        if (status == COX_OK) *is_there = true;
        json_decref(header);
    }
    free(text);
    return status;
}

/* --- What is there --- */

/* Is this line of the journal the next entry, and the line of the file of results what it says? Then it
 * counts. */
static cox_status take_entry(cox_journal *j, const char *text, uint64_t n_file_bytes, char **line,
                             size_t *capacity, const cox_journal_options *options, bool *is_good)
{
    uint64_t key = 0, n = 0;
    char expected[ENTRY_BYTES];
    *is_good = false;
    if (sscanf(text, "done %" SCNu64 " %" SCNu64, &key, &n) != 2) return COX_OK;
    if (n == 0 || n > n_file_bytes - j->n_result_bytes) return COX_OK;
    if (n > *capacity) {
        char *larger = realloc(*line, n);
        if (!larger) return cox_no_memory(j->path);
        *line = larger;
        *capacity = n;
    }
    if (fread(*line, 1, n, j->results) != n) {
        return ferror(j->results) ? fail_io(j->results_path, "read") : COX_OK;
    }
    size_t n_entry = format_entry(expected, key, *line, n);
    if (strcmp(text, expected) != 0 || cox_journal_has(j, key)) return COX_OK;
    cox_status status = make_room(j, key);
    if (status == COX_OK && options->on_result) {
        status = options->on_result(options->context, key, *line, n);
    }
    if (status != COX_OK) return status;
    j->keys[key / 64] |= (uint64_t)1 << (key % 64);
    j->n_results++;
    j->n_result_bytes += n;
    j->n_bytes += n_entry;
    *is_good = true;
    return COX_OK;
}

/* Behind an entry that is not good: had its result reached the disk? */
static cox_status look_for_marks(cox_journal *j, char text[ENTRY_BYTES])
{
    uint64_t n_results = 0, n_bytes = 0;
    char expected[ENTRY_BYTES];
    do {
        if (sscanf(text, "synced %" SCNu64 " %" SCNu64, &n_results, &n_bytes) != 2) continue;
        format_mark(expected, n_results, n_bytes);
        if (strcmp(text, expected) != 0 || n_results <= j->n_results) continue;
        return cox_fail(COX_BAD_FILE,
                        "%s: line %" PRIu64 " (from byte %" PRIu64 " on) is not what %s says was written "
                        "there; restore the file, or give --force to begin anew",
                        j->results_path, j->n_results + 1, j->n_result_bytes, j->path);
    } while (fgets(text, ENTRY_BYTES, j->log));
    return ferror(j->log) ? fail_io(j->path, "read") : COX_OK;
}

static cox_status read_entries(cox_journal *j, uint64_t n_file_bytes, const cox_journal_options *options)
{
    char text[ENTRY_BYTES], expected[ENTRY_BYTES], *line = NULL;
    size_t capacity = 0;
    cox_status status = COX_OK;
    while (status == COX_OK && fgets(text, sizeof text, j->log)) {
        bool is_good = false;
        keep_alive(j, "reading the journal");
        size_t n_mark = format_mark(expected, j->n_results, j->n_result_bytes);
        if (strcmp(text, expected) == 0) {
            j->n_bytes += n_mark;
            j->n_synced = j->n_results;
            continue;
        }
        status = take_entry(j, text, n_file_bytes, &line, &capacity, options, &is_good);
        if (status == COX_OK && !is_good) {
            status = look_for_marks(j, text);
            break;
        }
    }
    free(line);
    return status;
}

/* Counts the whole results and cuts off the rest. */
static cox_status read_results(cox_journal *j, const cox_journal_options *options)
{
    struct stat file;
    if (fstat(j->results_fd, &file) != 0) return fail_io(j->results_path, "look at");
    j->log = fopen(j->path, "re");
    j->results = fopen(j->results_path, "re");
    cox_status status = COX_OK;
    if (!j->log || fseeko(j->log, (off_t)j->n_bytes, SEEK_SET) != 0) status = fail_io(j->path, "read");
    if (status == COX_OK && !j->results) status = fail_io(j->results_path, "read");
    if (status == COX_OK) status = read_entries(j, (uint64_t)file.st_size, options);
    if (j->log) fclose(j->log);
    if (j->results) fclose(j->results);
    j->log = j->results = NULL;
    if (status != COX_OK) return status;
    j->found.n_results = j->n_results;
    j->found.n_cut_bytes = (uint64_t)file.st_size - j->n_result_bytes;
    return cut(j);
}

/* --- Opening --- */

/* Of a job that was killed, processes may live for a moment. */
static cox_status lock(cox_journal *j)
{
    for (double begin_s = cox_now_s(); flock(j->fd, LOCK_EX | LOCK_NB) != 0;) {
        if (errno != EWOULDBLOCK) return COX_OK; /* a file system without locks */
        if (cox_now_s() - begin_s > LOCK_WAIT_S)
            return cox_fail(COX_BUSY, "%s: another run is writing it", j->results_path);
        keep_alive(j, "waiting for another run's journal");
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return COX_OK;
}

static cox_status refuse_existing(const cox_journal *j)
{
    return cox_fail(COX_INVALID,
                    "%s exists and has no journal (%s), so it cannot be continued; remove it, choose another "
                    "name, or give --force",
                    j->results_path, j->path);
}

/* The name of a new file must reach the disk too. */
static cox_status sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(copy);
    if (fd < 0) return fail_io(path, "open the folder");
    cox_status status = fsync(fd) == 0 || errno == EINVAL ? COX_OK : fail_io(path, "sync the folder");
    close(fd);
    return status;
}

/* Empties both files and says whose the journal is. Results go first: those that a journal does not know are
 * nobody's, and the same command would stumble over them. */
static cox_status begin(cox_journal *j, const json_t *run)
{
    char *header = NULL;
    size_t n = 0;
    cox_status status = format_header(j, run, &header, &n);
    if (status != COX_OK) return status;
    if (truncate(j->results_path, 0) != 0 && errno != ENOENT) status = fail_io(j->results_path, "empty");
    if (status == COX_OK && ftruncate(j->fd, 0) != 0) status = fail_io(j->path, "empty");
    if (status == COX_OK) status = write_all(j->fd, j->path, header, n);
    free(header);
    if (status == COX_OK && fsync(j->fd) != 0) status = fail_io(j->path, "bring to the disk");
    j->n_bytes = n;
    return status;
}

static cox_status open_results(cox_journal *j)
{
    j->results_fd = open(j->results_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return j->results_fd >= 0 ? sync_folder(j->results_path) : fail_io(j->results_path, "open for writing");
}

/* An empty file is as good as none: there is nothing to lose. */
static bool has_results(const cox_journal *j)
{
    struct stat file;
    return stat(j->results_path, &file) == 0 && file.st_size > 0;
}

static cox_status open_both(cox_journal *j, const cox_journal_options *options)
{
    if (!options->begins_anew && has_results(j) && access(j->path, F_OK) != 0) return refuse_existing(j);
    j->fd = open(j->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (j->fd < 0) return fail_io(j->path, "open for writing");
    cox_status status = lock(j);
    if (status != COX_OK) return status;
    bool is_ours = false, is_there = has_results(j); /* again: now nobody else writes */
    if (!options->begins_anew) {
        status = read_header(j, options->run, &is_ours);
        if (status == COX_OK && is_there && !is_ours) status = refuse_existing(j);
        if (!is_there) status = COX_OK; /* whoever removed the results wants others */
    }
    bool goes_on = is_there && is_ours;
    if (status == COX_OK && !goes_on) status = begin(j, options->run);
    if (status == COX_OK) status = open_results(j);
    j->found.is_resumed = is_ours;
    return status == COX_OK && goes_on ? read_results(j, options) : status;
}

static void journal_release(cox_journal *j)
{
    if (j->results_fd >= 0) close(j->results_fd);
    if (j->fd >= 0) close(j->fd); /* unlocks */
    free(j->keys);
    free(j->path);
    free(j);
}

cox_status cox_journal_open(cox_journal **journal, const cox_journal_options *options)
{
    cox_journal *j = calloc(1, sizeof *j);
    if (!j) return cox_no_memory(options->path);
    *j =
        (cox_journal){.results_path = options->path, .fd = -1, .results_fd = -1, .cluster = options->cluster};
    if (asprintf(&j->path, "%s.journal", options->path) < 0) {
        free(j);
        return cox_no_memory(options->path);
    }
    cox_status status = open_both(j, options);
    if (status != COX_OK) {
        journal_release(j);
        return status;
    }
    j->synced_s = cox_now_s();
    *journal = j;
    return COX_OK;
}

bool cox_journal_is_there(const char *path)
{
    char *journal = NULL;
    if (asprintf(&journal, "%s.journal", path) < 0) return false;
    bool is_there = access(journal, F_OK) == 0;
    free(journal);
    return is_there;
}

cox_journal_found cox_journal_what_was_found(const cox_journal *j)
{
    return j->found;
}

cox_status cox_journal_close(cox_journal *j)
{
    if (!j) return COX_OK;
    cox_status status = j->n_synced == j->n_results ? COX_OK : sync_both(j);
    journal_release(j);
    return status;
}
