/* Counters add up field by field, and the clock gives each moment to one stage. */
#include "base/counters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_add_takes_every_field(void **state)
{
    (void)state;
    cox_counters one = {0}, sum = {0};
    uint64_t n = 0;
#define X(name, what) one.name = ++n;
    COX_COUNT_LIST(X)
#undef X
#define X(name, what) one.name##_s = (double)++n;
    COX_STAGE_LIST(X)
#undef X
    cox_counters_add(&sum, &one);
    cox_counters_add(&sum, &one);
#define X(name, what) assert_true(sum.name == 2 * one.name);
    COX_COUNT_LIST(X)
#undef X
#define X(name, what) assert_true(sum.name##_s == 2 * one.name##_s);
    COX_STAGE_LIST(X)
#undef X
}

static void test_compute_is_all_but_waiting_and_dispatch(void **state)
{
    (void)state;
    const cox_counters c = {.attention_s = 1, .experts_s = 2, .sample_s = 4, .wait_s = 8, .dispatch_s = 16};
    assert_true(cox_counters_compute_s(&c) == 7);
}

static void spend(double seconds)
{
    for (double until_s = cox_now_s() + seconds; cox_now_s() < until_s;) {
    }
}

static void test_time_of_a_stage_belongs_to_no_other(void **state)
{
    (void)state;
    if (!COX_HAS_STAGE_TIMES) skip();
    cox_stage_clock clock = {0};
    double a_s = 0, b_s = 0, begin_s = cox_now_s();
    assert_null(cox_stage_enter(&clock, &a_s));
    spend(0.002);
    double *before_s = cox_stage_enter(&clock, &b_s);
    assert_ptr_equal(before_s, &a_s);
    spend(0.004);
    cox_stage_enter(&clock, before_s);
    spend(0.002);
    cox_stage_enter(&clock, NULL);
    double all_s = cox_now_s() - begin_s, sum_s = a_s + b_s;
    spend(0.002); /* nobody's */
    assert_null(cox_stage_enter(&clock, NULL));
    assert_true(a_s + b_s == sum_s);
    assert_true(sum_s <= all_s && a_s >= 0.004 && b_s >= 0.004);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_takes_every_field),
        cmocka_unit_test(test_compute_is_all_but_waiting_and_dispatch),
        cmocka_unit_test(test_time_of_a_stage_belongs_to_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
