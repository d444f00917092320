/* Lines, ids, the set of custom_ids, available memory, and how progress looks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/progress.h"
#include "run/io.h"
#include "run/memory.h"
#include "cli/seen.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/cox-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *write_file(const char *name, const char *text, size_t n)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(path, 0777);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
    return path;
}

static void test_lines_of_a_file(void **state)
{
    (void)state;
    static const char text[] = "one\n\ntwo\r\nthree"; /* the last one without a newline */
    static const char *const wanted[] = {"one", "", "two\r", "three"};
    cox_lines *lines = NULL;
    assert_int_equal(cox_lines_open(&lines, write_file("lines", text, sizeof text - 1)), COX_OK);
    for (int i = 0; i < 5; i++) {
        cox_line_result result;
        const char *line = NULL;
        size_t n = 0;
        assert_int_equal(cox_lines_next(lines, 0, &result, &line, &n), COX_OK);
        if (i == 4) {
            assert_int_equal(result, COX_LINE_END);
            break;
        }
        assert_int_equal(result, COX_LINE_READY);
        assert_int_equal(n, strlen(wanted[i]));
        assert_memory_equal(line, wanted[i], n);
    }
    assert_true(cox_lines_done_bytes(lines) == sizeof text - 1);
    assert_true(cox_lines_total_bytes(lines) == sizeof text - 1);
    cox_lines_close(lines);
}

static void test_long_lines(void **state)
{
    (void)state;
    size_t n_long = (size_t)COX_LINE_MAX_BYTES + 200000, n_middle = 3 << 20;
    char *text = malloc(n_long + n_middle + 64);
    assert_non_null(text);
    memset(text, 'x', n_long + n_middle + 64);
    text[n_middle] = '\n';
    text[n_middle + 1 + n_long] = '\n';
    memcpy(text + n_middle + 2 + n_long, "end\n", 4);
    cox_lines *lines = NULL;
    assert_int_equal(cox_lines_open(&lines, write_file("long", text, n_middle + 2 + n_long + 4)), COX_OK);
    free(text);
    const cox_line_result results[] = {COX_LINE_READY, COX_LINE_TOO_LONG, COX_LINE_READY, COX_LINE_END};
    const size_t lengths[] = {n_middle, 0, 3, 0};
    for (int i = 0; i < 4; i++) {
        cox_line_result result;
        const char *line = NULL;
        size_t n = 0;
        assert_int_equal(cox_lines_next(lines, 0, &result, &line, &n), COX_OK);
        assert_int_equal(result, results[i]);
        if (result == COX_LINE_READY) assert_int_equal(n, lengths[i]);
    }
    cox_lines_close(lines);
}

static void test_a_pipe_without_data_does_not_block(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    cox_lines *lines = NULL;
    assert_int_equal(cox_lines_open(&lines, path), COX_OK);
    cox_line_result result;
    const char *line = NULL;
    size_t n = 0;
    assert_int_equal(cox_lines_next(lines, 0, &result, &line, &n), COX_OK);
    assert_int_equal(result, COX_LINE_NONE_NOW);
    assert_int_equal(write(ends[1], "ab\nc", 4), 4);
    assert_int_equal(cox_lines_next(lines, 0, &result, &line, &n), COX_OK);
    assert_true(result == COX_LINE_READY && n == 2);
    assert_int_equal(cox_lines_next(lines, 0, &result, &line, &n), COX_OK);
    assert_int_equal(result, COX_LINE_NONE_NOW);
    close(ends[1]);
    assert_int_equal(cox_lines_next(lines, 1, &result, &line, &n), COX_OK);
    assert_true(result == COX_LINE_READY && n == 1 && *line == 'c');
    assert_int_equal(cox_lines_next(lines, 1, &result, &line, &n), COX_OK);
    assert_int_equal(result, COX_LINE_END);
    cox_lines_close(lines);
    close(ends[0]);
}

static void test_ids(void **state)
{
    (void)state;
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(cox_io_parse_ids("[1, 22,\n3] 0,\n", "here", &ids, &n), COX_OK);
    assert_int_equal(n, 4);
    assert_true(ids[0] == 1 && ids[1] == 22 && ids[2] == 3 && ids[3] == 0);
    free(ids);
    assert_int_equal(cox_io_parse_ids(" [ ]\n", "here", &ids, &n), COX_OK);
    assert_int_equal(n, 0);
    free(ids);
    static const char *const bad[] = {"1,x",  "1 -2",  "1.5", "99999999999", "0x10",
                                      "1,,2", "1, ,2", ",1",  "1,,"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(cox_io_parse_ids(bad[i], "here", &ids, &n), COX_INVALID);
        assert_non_null(strstr(cox_status_message(), "here"));
    }
}

static void test_missing_files_are_named(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    cox_lines *lines = NULL;
    assert_int_equal(cox_io_read_all(NULL, "/nowhere/at-all", &text, &n), COX_NOT_FOUND);
    assert_non_null(strstr(cox_status_message(), "/nowhere/at-all"));
    assert_int_equal(cox_lines_open(&lines, "/nowhere/at-all"), COX_NOT_FOUND);
    assert_int_equal(cox_lines_open(&lines, folder), COX_IO);
}

static void test_seen(void **state)
{
    (void)state;
    cox_seen *seen = NULL;
    assert_int_equal(cox_seen_create(&seen), COX_OK);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 5000; i++) {
            char id[32];
            bool is_new = false;
            snprintf(id, sizeof id, "request-%d", i);
            assert_int_equal(cox_seen_add(seen, id, &is_new), COX_OK);
            assert_int_equal(is_new, round == 0);
        }
    }
    cox_seen_destroy(seen);
}

static void test_available_memory(void **state)
{
    (void)state;
    assert_true(cox_memory_resident_bytes() > 100000);
    assert_true(cox_memory_available_bytes() < UINT64_MAX);
    static const char info[] = "MemTotal: 9000 kB\nMemAvailable:    5000 kB\n";
    write_file("proc/meminfo", info, sizeof info - 1);
    assert_true(cox_memory_available_under(folder) == 5000 * 1024);
    static const char group[] = "0::/jobs/one\n";
    write_file("proc/self/cgroup", group, sizeof group - 1);
    assert_true(cox_memory_available_under(folder) == 5000 * 1024);
    /* The inner group has no limit, the outer one 3,000,000 bytes, of which 1,000,000 are used, 400,000 of
     * them cache. */
    write_file("sys/fs/cgroup/jobs/one/memory.max", "max\n", 4);
    write_file("sys/fs/cgroup/jobs/one/memory.current", "10\n", 3);
    write_file("sys/fs/cgroup/jobs/memory.max", "3000000\n", 8);
    write_file("sys/fs/cgroup/jobs/memory.current", "1000000\n", 8);
    static const char stat_text[] = "anon 600000\nfile 400000\n";
    write_file("sys/fs/cgroup/jobs/memory.stat", stat_text, sizeof stat_text - 1);
    assert_true(cox_memory_available_under(folder) == 2400000);
}

static void test_progress_lines(void **state)
{
    (void)state;
    char *text = NULL, bytes[32];
    size_t n = 0;
    cox_progress progress;
    cox_progress_begin(&progress, "loading", COX_PROGRESS_BAR, COX_PROGRESS_BYTES);
    progress.file = open_memstream(&text, &n);
    progress.started_s -= 2; /* began two seconds ago */
    cox_progress_update(&progress, 1 << 20, 4 << 20, NULL);
    cox_progress_update(&progress, 2 << 20, 4 << 20, NULL); /* too soon: not drawn */
    cox_progress_end(&progress, 4 << 20, 4 << 20, "done");
    fclose(progress.file);
    assert_non_null(strstr(text, "\rloading:  25% |"));
    assert_non_null(strstr(text, "1.00 MiB/4.00 MiB [0:02<0:06, 512.0 KiB/s]"));
    assert_null(strstr(text, " 50%"));
    assert_non_null(strstr(text, "100% |"));
    assert_non_null(strstr(text, ", done]"));
    free(text);
    cox_format_bytes(bytes, sizeof bytes, 1023);
    assert_string_equal(bytes, "1023 B");
    cox_format_duration(bytes, sizeof bytes, 3723);
    assert_string_equal(bytes, "1:02:03");

    cox_progress_begin(&progress, "batch", COX_PROGRESS_LOG, COX_PROGRESS_COUNT);
    progress.file = open_memstream(&text, &n);
    cox_progress_update(&progress, 1, 10, NULL); /* within the first minute: nothing */
    progress.drawn_s -= 61;
    progress.started_s -= 61;
    cox_progress_update(&progress, 5, 10, "3 tok/s");
    fclose(progress.file);
    assert_string_equal(text, "batch:  50% 5/10 [1:01<1:01, 0.1/s, 3 tok/s]\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_of_a_file),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_a_pipe_without_data_does_not_block),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_missing_files_are_named),
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_available_memory),
        cmocka_unit_test(test_progress_lines),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
