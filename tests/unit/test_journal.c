/* The journal: results cut off anywhere are found again up to the last whole one, damage and other runs are
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "run/journal.h"

enum { N_RESULTS = 6 };

static char folder[64], results[128], log_path[128];

static int make_folder(void **state)
{
    (void)state;
    const char *memory = "/dev/shm"; /* thousands of files are synced */
    snprintf(folder, sizeof folder, "%s/cox-test-XXXXXX", access(memory, W_OK) == 0 ? memory : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(results, sizeof results, "%s/results", folder);
    snprintf(log_path, sizeof log_path, "%s/results.journal", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* What open calls on_result with. */
typedef struct heard {
    int n;
    uint64_t keys[64];
    char lines[64][64];
} heard;

static cox_status on_result(void *context, uint64_t key, const char *line, size_t n)
{
    heard *h = context;
    assert_in_range(h->n, 0, 63);
    assert_in_range(n, 1, 63);
    h->keys[h->n] = key;
    memcpy(h->lines[h->n], line, n);
    h->lines[h->n++][n] = '\0';
    return COX_OK;
}

static cox_status open_run(cox_journal **j, int seed, bool begins_anew, heard *h)
{
    json_t *run = json_pack("{s:s, s:i, s:f}", "command", "test", "seed", seed, "temperature", 0.1);
    memset(h, 0, sizeof *h);
    const cox_journal_options options = {
        .path = results, .run = run, .begins_anew = begins_anew, .on_result = on_result, .context = h};
    cox_status status = cox_journal_open(j, &options);
    json_decref(run);
    return status;
}

static size_t result(char line[64], uint64_t key)
{
    return (size_t)snprintf(line, 64, "{\"cell\": %d, \"value\": \"%.*s\"}\n", (int)key, (int)(key % 17),
                            "................");
}

static void append(cox_journal *j, uint64_t key)
{
    char line[64];
    size_t n = result(line, key);
    assert_int_equal(cox_journal_append(j, key, line, n), COX_OK);
}

static const uint64_t keys[N_RESULTS] = {3, 0, 200, 7, 64, 63};

/* Six results; `is_synced`: and a mark that all have reached the disk. */
static void write_run(bool is_synced)
{
    cox_journal *j = NULL;
    heard h;
    assert_int_equal(open_run(&j, 1, true, &h), COX_OK);
    for (int i = 0; i < N_RESULTS; i++) append(j, keys[i]);
    assert_int_equal(cox_journal_close(j), COX_OK);
    if (is_synced) return;
    char command[256];
    snprintf(command, sizeof command, "sed -i /^synced/d '%s'", log_path);
    assert_int_equal(system(command), 0);
}

static off_t size_of(const char *path)
{
    struct stat file;
    assert_int_equal(stat(path, &file), 0);
    return file.st_size;
}

/* What was found is right, the rest can be added, and then all is there once. */
static void complete_run(int n_least, int n_most)
{
    cox_journal *j = NULL;
    heard h;
    assert_int_equal(open_run(&j, 1, false, &h), COX_OK);
    assert_in_range(h.n, n_least, n_most);
    assert_true(cox_journal_what_was_found(j).is_resumed);
    assert_int_equal(cox_journal_what_was_found(j).n_results, h.n);
    for (int i = 0; i < N_RESULTS; i++) {
        char line[64];
        result(line, keys[i]);
        assert_int_equal(cox_journal_has(j, keys[i]), i < h.n);
        if (i < h.n) assert_string_equal(h.lines[i], line);
        if (i < h.n) continue;
        append(j, keys[i]);
    }
    assert_false(cox_journal_has(j, 1));
    assert_false(cox_journal_has(j, UINT64_MAX));
    assert_int_equal(cox_journal_close(j), COX_OK);
    assert_int_equal(open_run(&j, 1, false, &h), COX_OK);
    assert_int_equal(h.n, N_RESULTS);
    for (int i = 0; i < N_RESULTS; i++) assert_int_equal(h.keys[i], keys[i]);
    assert_int_equal(cox_journal_what_was_found(j).n_cut_bytes, 0);
    assert_int_equal(cox_journal_close(j), COX_OK);
}

/* Killed after any byte of the journal or of the results. */
static void test_cut_off_anywhere(void **state)
{
    (void)state;
    write_run(false);
    off_t n_log = size_of(log_path), n_results = size_of(results);
    char *text = calloc(1, (size_t)n_log + 1);
    int fd = open(log_path, O_RDONLY);
    assert_int_equal(read(fd, text, (size_t)n_log), n_log);
    close(fd);
    off_t header = strchr(text, '\n') + 1 - text;
    free(text);
    for (off_t n = header; n <= n_log; n++) {
        write_run(false);
        assert_int_equal(truncate(log_path, n), 0);
        complete_run(0, n == n_log ? N_RESULTS : N_RESULTS - 1);
    }
    for (off_t n = 1; n <= n_results; n++) {
        write_run(false);
        assert_int_equal(truncate(results, n), 0);
        complete_run(0, n == n_results ? N_RESULTS : N_RESULTS - 1);
    }
}

/* What a power failure leaves: zeros where the end was to be. */
static void test_lost_blocks(void **state)
{
    (void)state;
    const char *const paths[] = {results, log_path};
    for (int i = 0; i < 2; i++) {
        write_run(false);
        off_t n = size_of(paths[i]);
        assert_int_equal(truncate(paths[i], n - 40), 0);
        assert_int_equal(truncate(paths[i], n), 0);
        complete_run(1, N_RESULTS - 1);
    }
}

static void test_what_follows_is_cut(void **state)
{
    (void)state;
    write_run(true);
    FILE *file = fopen(results, "a");
    fputs("{\"cell\": 1, \"val", file);
    fclose(file);
    file = fopen(log_path, "a");
    fputs("done 1 20 0123", file);
    fclose(file);
    cox_journal *j = NULL;
    heard h;
    assert_int_equal(open_run(&j, 1, false, &h), COX_OK);
    assert_int_equal(h.n, N_RESULTS);
    assert_int_equal(cox_journal_what_was_found(j).n_cut_bytes, 16);
    assert_int_equal(cox_journal_close(j), COX_OK);
}

static void flip(const char *path, off_t at)
{
    char byte;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Every byte of results that had reached the disk is watched, and so is every byte of their entries. */
static void test_damage_is_refused(void **state)
{
    (void)state;
    cox_journal *j = NULL;
    heard h;
    write_run(true);
    off_t n = size_of(results), n_log = size_of(log_path);
    for (off_t at = 0; at < n; at++) {
        flip(results, at);
        assert_int_equal(open_run(&j, 1, false, &h), COX_BAD_FILE);
        assert_non_null(strstr(cox_status_message(), "is not what"));
        flip(results, at);
    }
    for (off_t at = n_log - 60; at < n_log - 15; at++) { /* in the last entry */
        flip(log_path, at);
        assert_int_equal(open_run(&j, 1, false, &h), COX_BAD_FILE);
        flip(log_path, at);
    }
    assert_int_equal(size_of(results), n); /* nothing was cut */
    assert_int_equal(size_of(log_path), n_log);
    complete_run(N_RESULTS, N_RESULTS);
}

static void test_other_runs_are_refused(void **state)
{
    (void)state;
    cox_journal *j = NULL;
    heard h;
    write_run(true);
    assert_int_equal(open_run(&j, 2, false, &h), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "seed was 1 and is 2;"));
    assert_null(strstr(cox_status_message(), "temperature"));
    assert_int_equal(unlink(log_path), 0);
    assert_int_equal(open_run(&j, 1, false, &h), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "has no journal"));
    assert_int_equal(access(log_path, F_OK), -1);
    assert_int_equal(open_run(&j, 2, true, &h), COX_OK);
    append(j, 5);
    assert_int_equal(cox_journal_close(j), COX_OK);
    assert_int_equal(unlink(results), 0); /* then the journal means nothing, whose run it may be of */
    assert_int_equal(open_run(&j, 1, false, &h), COX_OK);
    assert_false(cox_journal_has(j, 5));
    assert_int_equal(cox_journal_close(j), COX_OK);
    FILE *file = fopen(log_path, "w");
    fputs("{\"coxswain_journal\": 99, \"run\": {}}\n", file);
    fclose(file);
    file = fopen(results, "w");
    fputs("x\n", file);
    fclose(file);
    assert_int_equal(open_run(&j, 1, false, &h), COX_UNSUPPORTED);
    file = fopen(log_path, "w");
    fputs("some text\n", file);
    fclose(file);
    assert_int_equal(open_run(&j, 1, false, &h), COX_BAD_FILE);
}

static void test_one_writer_and_each_key_once(void **state)
{
    (void)state;
    cox_journal *j = NULL, *other = NULL;
    heard h;
    assert_int_equal(open_run(&j, 1, true, &h), COX_OK);
    append(j, 9);
    assert_int_equal(cox_journal_append(j, 9, "x\n", 2), COX_INTERNAL);
    assert_int_equal(cox_journal_append(j, 10, "x\ny\n", 4), COX_INTERNAL);
    assert_int_equal(cox_journal_append(j, 10, "x", 1), COX_INTERNAL);
    assert_int_equal(open_run(&other, 1, false, &h), COX_BUSY);
    assert_int_equal(cox_journal_close(j), COX_OK);
    assert_int_equal(open_run(&other, 1, false, &h), COX_OK);
    assert_int_equal(h.n, 1);
    assert_int_equal(cox_journal_close(other), COX_OK);
}

/* A disk that is full after any number of bytes. */
static void test_full_disk(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    write_run(false);
    off_t n_most = size_of(log_path);
    for (off_t n = 150; n < n_most; n += 7) {
        cox_journal *j = NULL;
        heard h;
        char line[64];
        cox_status status = COX_OK;
        assert_int_equal(open_run(&j, 1, true, &h), COX_OK);
        small = before;
        small.rlim_cur = (rlim_t)n;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        int n_written = 0;
        for (; n_written < N_RESULTS && status == COX_OK; n_written++) {
            size_t n_line = result(line, keys[n_written]);
            status = cox_journal_append(j, keys[n_written], line, n_line);
        }
        assert_int_equal(status, COX_IO);
        n_written--;
        cox_journal_close(j); /* may fail too */
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        FILE *file = fopen(results, "r"); /* whole lines only */
        int n_lines = 0;
        while (fgets(line, sizeof line, file)) {
            assert_int_equal(line[strlen(line) - 1], '\n');
            n_lines++;
        }
        fclose(file);
        assert_int_equal(n_lines, n_written);
        complete_run(n_written, n_written);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_off_anywhere),
        cmocka_unit_test(test_lost_blocks),
        cmocka_unit_test(test_what_follows_is_cut),
        cmocka_unit_test(test_damage_is_refused),
        cmocka_unit_test(test_other_runs_are_refused),
        cmocka_unit_test(test_one_writer_and_each_key_once),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
