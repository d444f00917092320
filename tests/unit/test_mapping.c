/* SIGBUS from a page of a mapped file that is gone: which file is named, and what is not ours is passed on.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"
#include "model/mapping.h"

enum { N_BYTES = 1 << 16, EXIT_BEFORE = 77 };

static unsigned char *map_file(void)
{
    char path[] = "/tmp/coxswain-mapping-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && unlink(path) == 0 && ftruncate(fd, N_BYTES) == 0);
    unsigned char *data = mmap(NULL, N_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(data != MAP_FAILED && ftruncate(fd, 0) == 0);
    close(fd);
    return data;
}

static void on_sigbus_before(int number)
{
    (void)number;
    _exit(EXIT_BEFORE);
}

/* What a process says and how it ends that watches files b, a and c, forgets c and then `act`s. */
static int run(void (*act)(unsigned char *const *data), char text[512])
{
    int ends[2], state = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGBUS, on_sigbus_before);
        unsigned char *data[3] = {map_file(), map_file(), map_file()};
        cox__mapping a = {data[0], N_BYTES, "folder/a", NULL}, b = {data[1], N_BYTES, "folder/b", NULL},
                     c = {data[2], N_BYTES, "folder/c", NULL};
        cox__mapping_watch(&b);
        cox__mapping_watch(&a);
        cox__mapping_watch(&c);
        cox__mapping_forget(&c);
        cox__mapping_forget(&c);
        cox_mapping_set_owner("rank 3 on node", NULL);
        act(data);
        _exit(0);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], text, 511);
    close(ends[0]);
    text[n > 0 ? n : 0] = '\0';
    assert_int_equal(waitpid(pid, &state, 0), pid);
    assert_true(WIFEXITED(state));
    return WEXITSTATUS(state);
}

static void touch_last_of_b(unsigned char *const *data)
{
    (void)((volatile unsigned char *)data[1])[N_BYTES - 1];
}

static void touch_first_of_a(unsigned char *const *data)
{
    (void)((volatile unsigned char *)data[0])[0];
}

static void touch_c(unsigned char *const *data)
{
    (void)((volatile unsigned char *)data[2])[0];
}

static void send_signal(unsigned char *const *data)
{
    (void)data;
    raise(SIGBUS);
}

static void test_the_file_is_named(void **state)
{
    (void)state;
    char text[512];
    assert_int_equal(run(touch_last_of_b, text), cox_status_exit_code(COX_IO));
    assert_non_null(strstr(text, "coxswain: rank 3 on node: folder/b: the file was truncated"));
    assert_int_equal(run(touch_first_of_a, text), cox_status_exit_code(COX_IO));
    assert_non_null(strstr(text, "coxswain: rank 3 on node: folder/a: the file was truncated"));
}

static void test_what_is_not_ours_is_passed_on(void **state)
{
    (void)state;
    char text[512];
    assert_int_equal(run(touch_c, text), EXIT_BEFORE);
    assert_string_equal(text, "");
    assert_int_equal(run(send_signal, text), EXIT_BEFORE);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_file_is_named),
                                       cmocka_unit_test(test_what_is_not_ours_is_passed_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
