/* Whole files: regular ones, empty ones, pipes in pieces, a bound at the last byte, what is refused, and a
 * wait that ends the reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

enum { N_BYTES = 300000 };

static char folder[64], path[128], bytes[N_BYTES];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/cox-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/file", folder);
    for (size_t i = 0; i < N_BYTES; i++) bytes[i] = (char)(i * i % 251);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_file(size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static void check_bytes(char *data, size_t n, size_t wanted)
{
    assert_int_equal(n, wanted);
    assert_memory_equal(data, bytes, wanted);
    assert_int_equal(data[n], '\0');
    free(data);
}

static void test_regular(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 65535, 65536, N_BYTES};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *data = NULL;
        size_t n = 99;
        write_file(sizes[i]);
        assert_int_equal(cox_file_read(path, sizes[i], &data, &n), COX_OK);
        check_bytes(data, n, sizes[i]);
        assert_int_equal(cox_file_read_regular(path, SIZE_MAX, &data, &n), COX_OK);
        check_bytes(data, n, sizes[i]);
    }
}

/* Nothing is written on failure, and the message names the file. */
static void refused(cox_status status, cox_status wanted, const char *data, const char *words)
{
    assert_int_equal(status, wanted);
    assert_null(data);
    assert_non_null(strstr(cox_status_message(), path));
    assert_non_null(strstr(cox_status_message(), words));
}

static void test_refused(void **state)
{
    (void)state;
    char *data = NULL;
    size_t n = 0;
    unlink(path);
    refused(cox_file_read(path, SIZE_MAX, &data, &n), COX_NOT_FOUND, data, "cannot open");
    write_file(11);
    refused(cox_file_read(path, 10, &data, &n), COX_BAD_FILE, data, "more than the 10 bytes");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes to it, ever */
    refused(cox_file_read_regular(path, SIZE_MAX, &data, &n), COX_BAD_FILE, data, "not a regular file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(cox_file_read(path, SIZE_MAX, &data, &n), COX_IO, data, "cannot read");
    refused(cox_file_read_regular(path, SIZE_MAX, &data, &n), COX_BAD_FILE, data, "not a regular file");
    rmdir(path);
}

/* The reading end of a pipe that a child fills with all bytes. */
static int open_pipe(pid_t *child)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    *child = fork();
    if (*child == 0) {
        close(ends[0]);
        for (size_t done = 0; done < N_BYTES;) {
            ssize_t n = write(ends[1], bytes + done, N_BYTES - done);
            if (n <= 0) _exit(1);
            done += (size_t)n;
        }
        _exit(0);
    }
    close(ends[1]);
    return ends[0];
}

static cox_status count_down(void *user, int descriptor)
{
    int *left = user;
    assert_true(descriptor >= 0);
    return (*left)-- > 0 ? COX_OK : cox_fail(COX_REQUEUE, "%s: enough", path);
}

static void test_pipe(void **state)
{
    (void)state;
    for (int turn = 0; turn < 3; turn++) { /* whole, too large by one byte, ended by the wait */
        char *data = NULL;
        size_t n = 0;
        pid_t child;
        int end = open_pipe(&child), left = turn == 2 ? 2 : INT32_MAX;
        cox_status status =
            cox_file_read_from(end, path, turn == 1 ? N_BYTES - 1 : SIZE_MAX, count_down, &left, &data, &n);
        close(end);
        waitpid(child, NULL, 0);
        if (turn == 0) {
            assert_int_equal(status, COX_OK);
            check_bytes(data, n, N_BYTES);
        } else {
            refused(status, turn == 1 ? COX_BAD_FILE : COX_REQUEUE, data, turn == 1 ? "more than" : "enough");
        }
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    assert_int_equal(cox_no_memory("a test"), COX_NO_MEMORY);
    assert_string_equal(cox_status_message(), "out of memory for a test");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_regular),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
