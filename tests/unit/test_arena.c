/* Arenas: alignment, zeroing, reuse after reset without new heap chunks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"

static void test_alignment_and_zeroing(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 256), COX_OK);
    for (size_t n = 0; n < 200; n++) {
        unsigned char *memory = cox_arena_alloc(arena, n);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % COX_ARENA_ALIGN, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(memory[i], 0);
        memset(memory, 0xab, n);
    }
    cox_arena_destroy(arena);
}

static void test_reset_takes_nothing_from_the_heap(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 1024), COX_OK);
    for (int i = 0; i < 10; i++) assert_non_null(cox_arena_alloc(arena, 700));
    uint64_t before = cox_heap_allocations();
    size_t reserved = cox_arena_reserved_bytes(arena);
    for (int round = 0; round < 5; round++) {
        cox_arena_reset(arena);
        assert_int_equal(cox_arena_used_bytes(arena), 0);
        for (int i = 0; i < 10; i++) assert_non_null(cox_arena_alloc(arena, 700));
    }
    assert_int_equal(cox_heap_allocations(), before);
    assert_int_equal(cox_arena_reserved_bytes(arena), reserved);
    cox_arena_destroy(arena);
}

static void test_impossible_sizes_are_refused(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    assert_null(cox_arena_array(arena, SIZE_MAX / 2, 4));
    assert_non_null(strstr(cox_status_message(), "test phase"));
    cox_arena_destroy(arena);
}

static void count_pulse(void *context)
{
    (*(int *)context)++;
}

/* Long zeroing says in between that it lives; short does not. */
static void test_pulses(void **state)
{
    (void)state;
    cox_arena *arena = NULL;
    int n_pulses = 0;
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    cox_arena_set_pulse(arena, count_pulse, &n_pulses);
    assert_non_null(cox_arena_alloc(arena, 1000));
    assert_int_equal(n_pulses, 0);
    unsigned char *memory = cox_arena_alloc(arena, (size_t)150 << 20);
    assert_non_null(memory);
    assert_int_equal(n_pulses, 2);
    assert_int_equal(memory[((size_t)150 << 20) - 1], 0);
    cox_arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment_and_zeroing),
        cmocka_unit_test(test_reset_takes_nothing_from_the_heap),
        cmocka_unit_test(test_impossible_sizes_are_refused),
        cmocka_unit_test(test_pulses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
