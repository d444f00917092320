/* The dispatch plan against its definition, and the exchange of one process from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/exchange.h"

enum { N_LAYERS = 3, N_EXPERTS = 8, TOP_K = 3, MAX_ROWS = 70, D_MODEL = 20 };

typedef struct fixture {
    cox_cluster *cluster;
    cox_placement *placement;
    cox_arena *arena;
    cox_dispatch_plan *plan;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    const int32_t *ranks = NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    if (!f || cox_cluster_create(&f->cluster, &options) != COX_OK) return -1;
    int32_t n = cox_cluster_expert_ranks(f->cluster, &ranks);
    if (cox_placement_round_robin(&f->placement, N_LAYERS, NULL, N_EXPERTS, ranks, n) != COX_OK) return -1;
    if (cox_arena_create(&f->arena, "test", 0) != COX_OK) return -1;
    if (cox_dispatch_plan_create(&f->plan, f->arena, f->cluster, MAX_ROWS, TOP_K) != COX_OK) return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    cox_arena_destroy(f->arena);
    cox_placement_destroy(f->placement);
    cox_cluster_destroy(f->cluster);
    free(f);
    return 0;
}

static void choose(cox_expert_id *experts, int32_t n_rows, int32_t seed)
{
    for (int32_t i = 0; i < n_rows; i++) {
        for (int32_t j = 0; j < TOP_K; j++)
            experts[i * TOP_K + j].value = (7 * i + seed + (TOP_K - j) * 3) % N_EXPERTS;
    }
}

static void test_cluster_of_one(void **state)
{
    fixture *f = *state;
    const int32_t *ranks = NULL;
    assert_int_equal(cox_cluster_size(f->cluster), 1);
    assert_int_equal(cox_cluster_rank(f->cluster), 0);
    assert_int_equal(cox_cluster_expert_ranks(f->cluster, &ranks), 1);
    assert_int_equal(ranks[0], 0);
    assert_true(cox_cluster_is_coordinator(f->cluster));
    assert_true(cox_cluster_n_threads(f->cluster) >= 1);
    assert_int_equal(cox_cluster_agree(f->cluster, COX_OK), COX_OK);
    assert_int_equal(cox_cluster_agree(f->cluster, cox_fail(COX_BAD_FILE, "x")), COX_BAD_FILE);
    void *all = NULL;
    size_t *offsets = NULL;
    assert_int_equal(cox_cluster_gather(f->cluster, "abc", 3, &all, &offsets), COX_OK);
    assert_int_equal(offsets[1], 3);
    assert_memory_equal(all, "abc", 3);
    free(all);
    free(offsets);
    int32_t from = -1;
    size_t n = 0;
    void *mail = NULL;
    assert_int_equal(cox_mailbox_send(f->cluster, COX_MAIL_SESSION, 0, "one", 4), COX_OK);
    assert_int_equal(cox_mailbox_send(f->cluster, COX_MAIL_SESSION, 0, "second", 7), COX_OK);
    assert_int_equal(cox_mailbox_poll(f->cluster, COX_MAIL_SESSION, &from, &mail, &n), COX_OK);
    assert_string_equal(mail, "one");
    free(mail);
    assert_int_equal(cox_mailbox_poll(f->cluster, COX_MAIL_SESSION, &from, &mail, &n), COX_OK);
    assert_string_equal(mail, "second");
    assert_int_equal(n, 7);
    assert_int_equal(from, 0);
    free(mail);
    assert_int_equal(cox_mailbox_poll(f->cluster, COX_MAIL_SESSION, &from, &mail, &n), COX_OK);
    assert_null(mail);
}

static void test_bad_options(void **state)
{
    (void)state;
    cox_cluster *c = NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_coordinators = 2;
    assert_int_equal(cox_cluster_create(&c, &options), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "2 coordinators on 1 ranks"));
}

static void test_plan(void **state)
{
    fixture *f = *state;
    cox_expert_id experts[MAX_ROWS * TOP_K];
    const int32_t n_rows = 33;
    uint64_t before = cox_heap_allocations();
    for (int32_t layer = 0; layer < N_LAYERS; layer++) {
        choose(experts, n_rows, layer);
        cox_dispatch_plan_build(f->plan, f->placement, layer, experts, n_rows);
        const cox_dispatch_plan *p = f->plan;
        assert_int_equal(p->n_rows, n_rows);
        assert_int_equal(p->row_offsets[1], n_rows);
        assert_int_equal(p->route_offsets[1], n_rows * TOP_K);
        for (int32_t i = 0; i < n_rows; i++) {
            assert_int_equal(p->rows[i], i);
            assert_int_equal(p->row_routes[i], i * TOP_K);
            for (int32_t j = 0; j < TOP_K; j++) {
                int32_t reply = p->reply_index[i * TOP_K + j];
                assert_in_range(reply, i * TOP_K + 1, i * TOP_K + TOP_K);
                assert_int_equal(p->experts[reply - 1].value, experts[i * TOP_K + j].value);
            }
        }
        for (int32_t r = 0; r < n_rows * TOP_K; r++) {
            assert_true(r % TOP_K == 0 || p->experts[r - 1].value < p->experts[r].value);
        }
    }
    assert_int_equal(cox_heap_allocations(), before);
}

/* Rows with fewer routes than top_k: those that are there stand one after the other. */
static void test_plan_with_holes(void **state)
{
    fixture *f = *state;
    const cox_expert_id experts[2 * TOP_K] = {{-1}, {5}, {-1}, {4}, {-1}, {2}};
    cox_dispatch_plan_build(f->plan, f->placement, 1, experts, 2);
    const cox_dispatch_plan *p = f->plan;
    assert_int_equal(p->row_offsets[1], 2);
    assert_int_equal(p->route_offsets[1], 3);
    assert_int_equal(p->row_routes[1], 1);
    assert_int_equal(p->row_routes[2], 3);
    const int32_t sorted[3] = {5, 2, 4};
    for (int32_t r = 0; r < 3; r++) assert_int_equal(p->experts[r].value, sorted[r]);
    assert_int_equal(p->reply_index[1], 1);
    assert_int_equal(p->reply_index[3], 3);
    assert_int_equal(p->reply_index[5], 2);
}

/* The "expert": e of a layer turns v into (e + 1) v + layer. */
static cox_status host(void *context, const cox_work *work)
{
    int *calls = context;
    if (++*calls == 100) return cox_fail(COX_IO, "the host failed");
    for (int32_t i = 0; i < work->n_rows; i++) {
        for (int32_t r = work->route_offsets[i]; r < work->route_offsets[i + 1]; r++) {
            for (int32_t k = 0; k < D_MODEL; k++) {
                work->replies[r * D_MODEL + k] =
                    (float)(work->experts[r].value + 1) * work->rows[i * D_MODEL + k] + (float)work->layer;
            }
        }
    }
    return COX_OK;
}

static void test_self(void **state)
{
    fixture *f = *state;
    int calls = 0;
    cox_exchange_options options = {.kind = COX_EXCHANGE_AUTO,
                                    .n_slots = 2,
                                    .max_rows = MAX_ROWS,
                                    .row_width = D_MODEL,
                                    .top_k = TOP_K,
                                    .placement = f->placement,
                                    .host = {&calls, host, cox_host_done}};
    cox_exchange *x = NULL;
    assert_int_equal(cox_exchange_create(&x, f->cluster, &options), COX_OK);
    assert_string_equal(cox_exchange_name(x), "self");
    cox_expert_id experts[MAX_ROWS * TOP_K];
    float rows[MAX_ROWS * D_MODEL];
    uint64_t before = cox_heap_allocations();
    for (int32_t step = 0; step < 6; step++) {
        int32_t n_rows = step == 0 ? MAX_ROWS : step == 1 ? 0 : 5 + step, layer = step % N_LAYERS;
        for (int32_t i = 0; i < n_rows * D_MODEL; i++) rows[i] = (float)(i + step);
        choose(experts, n_rows, step);
        cox_dispatch_plan_build(f->plan, f->placement, layer, experts, n_rows);
        assert_int_equal(cox_exchange_dispatch_begin(x, step % 2, layer, f->plan, rows), COX_OK);
        assert_int_equal(cox_exchange_dispatch_begin(x, step % 2, layer, f->plan, rows), COX_INVALID);
        memset(rows, 0, sizeof rows); /* may be reused as soon as dispatch_begin returns */
        const float *replies = NULL;
        assert_int_equal(cox_exchange_dispatch_end(x, step % 2), COX_OK);
        assert_int_equal(cox_exchange_combine_begin(x, step % 2), COX_OK);
        assert_int_equal(cox_exchange_combine_end(x, step % 2, &replies), COX_OK);
        for (int32_t r = 0; r < n_rows * TOP_K; r++) {
            const float *got = replies + (size_t)f->plan->reply_index[r] * D_MODEL;
            for (int32_t k = 0; k < D_MODEL; k++) {
                float in = (float)(r / TOP_K * D_MODEL + k + step);
                assert_true(got[k] == (float)(experts[r].value + 1) * in + (float)layer);
            }
        }
    }
    assert_int_equal(cox_heap_allocations(), before);
    assert_int_equal(calls, 5); /* none for the step without rows */
    assert_int_equal(cox_exchange_counters(x)->rows_served, MAX_ROWS + 7 + 8 + 9 + 10);
    calls = 99;
    choose(experts, 1, 0);
    const float *replies = NULL;
    cox_dispatch_plan_build(f->plan, f->placement, 0, experts, 1);
    assert_int_equal(cox_exchange_dispatch_begin(x, 0, 0, f->plan, rows), COX_OK);
    assert_int_equal(cox_exchange_dispatch_end(x, 0), COX_IO);
    assert_string_equal(cox_status_message(), "the host failed");
    assert_int_equal(cox_exchange_combine_end(x, 0, &replies), COX_OK); /* the slot is free again */
    assert_int_equal(cox_exchange_finish(x, COX_OK), COX_OK);
    assert_int_equal(cox_exchange_serve(x), COX_OK);
    cox_exchange_destroy(x);
}

/* A host that computes later: in its last poll, from the memory that it was given at the beginning. */
typedef struct slow_host {
    const cox_work *work; /* NULL: nothing under way */
    int n_begun, n_left, n_polls;
    bool fails;
} slow_host;

static cox_status slow_begin(void *context, const cox_work *work)
{
    slow_host *s = context;
    assert_null(s->work); /* one at a time */
    s->work = work;
    s->n_left = s->n_begun++ % 4;
    for (int32_t i = 0; i < work->n_routes * D_MODEL; i++) work->replies[i] = -1;
    return COX_OK;
}

static cox_status slow_poll(void *context, bool *is_done)
{
    slow_host *s = context;
    int calls = 0;
    assert_non_null(s->work); /* never again after the end */
    s->n_polls++;
    if (s->n_left-- > 0) return COX_OK;
    const cox_work *work = s->work;
    s->work = NULL;
    if (s->fails) return cox_fail(COX_IO, "the device was lost");
    *is_done = true;
    return host(&calls, work);
}

static void test_a_host_that_is_polled(void **state)
{
    fixture *f = *state;
    slow_host slow = {0};
    cox_exchange_options options = {.kind = COX_EXCHANGE_SELF,
                                    .n_slots = 2,
                                    .max_rows = MAX_ROWS,
                                    .row_width = D_MODEL,
                                    .top_k = TOP_K,
                                    .placement = f->placement,
                                    .host = {&slow, slow_begin, NULL}};
    cox_exchange *x = NULL;
    assert_int_equal(cox_exchange_create(&x, f->cluster, &options), COX_INVALID); /* a host has both */
    options.host.poll = slow_poll;
    assert_int_equal(cox_exchange_create(&x, f->cluster, &options), COX_OK);
    cox_expert_id experts[MAX_ROWS * TOP_K];
    float rows[MAX_ROWS * D_MODEL];
    for (int32_t i = 0; i < MAX_ROWS * D_MODEL; i++) rows[i] = (float)i;
    choose(experts, MAX_ROWS, 1);
    cox_dispatch_plan_build(f->plan, f->placement, 1, experts, MAX_ROWS);
    for (int step = 0; step < 9; step++) {
        const float *replies = NULL;
        slow.fails = step == 5;
        assert_int_equal(cox_exchange_dispatch_begin(x, step % 2, 1, f->plan, rows), COX_OK);
        cox_status own = cox_exchange_dispatch_end(x, step % 2);
        assert_int_equal(own, step == 5 ? COX_IO : COX_OK);
        if (step == 5) assert_string_equal(cox_status_message(), "the device was lost");
        assert_null(slow.work);
        assert_int_equal(cox_exchange_combine_end(x, step % 2, &replies), COX_OK);
        for (int32_t r = 0; r < MAX_ROWS * TOP_K && step != 5; r++) {
            const float *got = replies + (size_t)f->plan->reply_index[r] * D_MODEL;
            float in = (float)(r / TOP_K * D_MODEL);
            assert_true(got[0] == (float)(experts[r].value + 1) * in + 1);
        }
    }
    assert_int_equal(slow.n_begun, 9);
    assert_int_equal(slow.n_polls, 9 + 2 * (0 + 1 + 2 + 3));
    assert_int_equal(cox_exchange_finish(x, COX_OK), COX_OK);
    cox_exchange_destroy(x);
}

static void test_predicted_bytes(void **state)
{
    (void)state;
    cox_exchange_options o = {.n_slots = 2, .max_rows = 512, .row_width = 2048, .top_k = 8};
    size_t rows = (size_t)512 * 2048 * 4;
    size_t alone = cox_exchange_bytes(&o, 1, 1, 1, true, true);
    assert_in_range(alone, 2 * (rows + 8 * rows), 2 * (rows + 8 * rows) + (1 << 20));
    size_t worker = cox_exchange_bytes(&o, 1, 3, 4, false, true);
    assert_in_range(worker, 2 * (rows + 8 * rows), 2 * (rows + 8 * rows) + (1 << 20));
    size_t coordinator = cox_exchange_bytes(&o, 1, 3, 4, true, false);
    assert_in_range(coordinator, 2 * (3 * rows + 8 * rows), 2 * (3 * rows + 8 * rows) + (1 << 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cluster_of_one),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_plan_with_holes),
        cmocka_unit_test(test_self),
        cmocka_unit_test(test_a_host_that_is_polled),
        cmocka_unit_test(test_predicted_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
