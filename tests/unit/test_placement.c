/* Placement: round robin, files with replicas, what a bad file gets, printing and reading back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/placement.h"

static const int32_t ranks[] = {1, 2, 3};

static void test_round_robin(void **state)
{
    (void)state;
    const uint8_t is_moe[] = {0, 1, 1};
    cox_placement *p = NULL;
    assert_int_equal(cox_placement_round_robin(&p, 3, is_moe, 8, ranks, 3), COX_OK);
    const cox_expert_id *ids = NULL;
    const int32_t *hosts = NULL;
    for (int32_t r = 0; r < 3; r++) assert_int_equal(cox_placement_local(p, 0, ranks[r], &ids), 0);
    assert_int_equal(cox_placement_hosts(p, 0, (cox_expert_id){0}, &hosts), 0);
    assert_int_equal(cox_placement_local(p, 1, 0, &ids), 0); /* rank 0 hosts nothing */
    for (int32_t layer = 1; layer < 3; layer++) {
        int32_t total = 0;
        for (int32_t r = 0; r < 3; r++) {
            int32_t n = cox_placement_local(p, layer, ranks[r], &ids);
            assert_in_range(n, 2, 3);
            for (int32_t i = 0; i < n; i++) {
                assert_true(i == 0 || ids[i - 1].value < ids[i].value);
                assert_int_equal((ids[i].value + layer) % 3, r);
                assert_int_equal(cox_placement_hosts(p, layer, ids[i], &hosts), 1);
                assert_int_equal(hosts[0], ranks[r]);
                cox_local_expert local;
                assert_int_equal(cox_placement_seat(p, layer, ids[i], 0, &local), r);
                assert_int_equal(local.value, i);
            }
            total += n;
        }
        assert_int_equal(total, 8);
    }
    cox_placement_destroy(p);
}

/* More ranks than experts of a layer: the experts of all layers in a row, and more than these are refused. */
static void test_few_experts(void **state)
{
    (void)state;
    const uint8_t is_moe[] = {0, 1, 1};
    cox_placement *p = NULL;
    assert_int_equal(cox_placement_round_robin(&p, 3, is_moe, 2, ranks, 3), COX_OK);
    const int32_t seats[2][2] = {{0, 1}, {2, 0}};
    for (int32_t m = 0; m < 2; m++) {
        for (int32_t e = 0; e < 2; e++) {
            cox_local_expert local;
            const int32_t *hosts = NULL;
            assert_int_equal(cox_placement_hosts(p, m + 1, (cox_expert_id){e}, &hosts), 1);
            assert_int_equal(cox_placement_seat(p, m + 1, (cox_expert_id){e}, 0, &local), seats[m][e]);
        }
    }
    cox_placement_destroy(p);
    assert_int_equal(cox_placement_round_robin(&p, 2, is_moe, 2, ranks, 3), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "at most 2 ranks"));
}

static cox_status parse(cox_placement **p, const char *text)
{
    const uint8_t is_moe[] = {1, 0};
    return cox_placement_parse(p, text, strlen(text), "p.json", 2, is_moe, 4, ranks, 3);
}

static void test_file(void **state)
{
    (void)state;
    cox_placement *p = NULL;
    assert_int_equal(parse(&p, "{\"n_experts\": 4, \"layers\": {\"0\": [3, [2, 1], 1, [1, 3, 2]]}}"), COX_OK);
    const int32_t *hosts = NULL;
    assert_int_equal(cox_placement_hosts(p, 0, (cox_expert_id){1}, &hosts), 2);
    assert_int_equal(hosts[0], 1);
    assert_int_equal(hosts[1], 2);
    const cox_expert_id *ids = NULL;
    assert_int_equal(cox_placement_local(p, 0, 1, &ids), 3);
    assert_int_equal(ids[0].value, 1);
    assert_int_equal(ids[2].value, 3);
    cox_local_expert local;
    assert_int_equal(cox_placement_seat(p, 0, (cox_expert_id){3}, 2, &local), 2);
    assert_int_equal(local.value, 1); /* rank 3 has experts 0 and 3 */
    char *text = NULL, *again = NULL;
    assert_int_equal(cox_placement_print(p, &text), COX_OK);
    cox_placement *q = NULL;
    assert_int_equal(parse(&q, text), COX_OK);
    assert_int_equal(cox_placement_print(q, &again), COX_OK);
    assert_string_equal(text, again);
    assert_non_null(strstr(text, "[3, [1, 2], 1, [1, 2, 3]]"));
    free(text);
    free(again);
    cox_placement_destroy(p);
    cox_placement_destroy(q);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3]}}", "layers.0 must be a list of 4"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, 0]}}", "layer 0, expert 3: not a rank"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, []]}}", "layer 0, expert 3 has no rank"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, [2, 2]]}}", "rank 2 is listed twice"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, [1, 2, 3, 1]]}}", "listed twice"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, \"1\"]}}", "not a rank"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, 1], \"1\": [1, 1, 1, 1]}}",
         "layer 1 has no experts"},
        {"{\"n_experts\": 4, \"layers\": {\"0\": [1, 2, 3, 1], \"7\": []}}", "layers that this model"},
        {"{\"n_experts\": 5, \"layers\": {}}", "n_experts is 5"},
        {"{\"layers\": {}}", "n_experts"},
        {"{\"n_experts\": 4}", "\"layers\" must be an object"},
        {"{", "p.json"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cox_placement *p = NULL;
        assert_int_equal(parse(&p, bad[i].text), COX_BAD_FILE);
        assert_null(p);
        assert_non_null(strstr(cox_status_message(), bad[i].says));
        assert_non_null(strstr(cox_status_message(), "p.json"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_robin),
        cmocka_unit_test(test_few_experts),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
