/*
 * The engine's promises on one rank, on a recorded model: the step takes nothing from the heap, sequences
 * that lose their pages come back with the same bits, prefixes are reused, limits and errors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/internal.h"
#include "tests/support/allocations.h"
#include "tests/support/harness.h"

static const char folder[] = "tests/golden/models/qwen3_moe-dense-bf16";
static cox_cluster *cluster;
static golden *g;

static harness *open_with(cox_engine_options options)
{
    harness_config config = harness_config_defaults(folder);
    config.engine = options;
    harness *h = NULL;
    if (harness_open(&h, cluster, &config) != COX_OK) fail_msg("%s", cox_status_message());
    return h;
}

static harness_request request(int32_t max_tokens)
{
    return (harness_request){.prompt = g->prompt,
                             .n_prompt = g->n_prompt,
                             .max_tokens = max_tokens,
                             .ignore_eos = true,
                             .sampling = cox_sampling_defaults()};
}

static void test_the_step_takes_nothing_from_the_heap(void **state)
{
    (void)state;
    harness *h = open_with(cox_engine_options_defaults());
    cox_engine *engine = harness_engine(h);
    harness_request requests[3] = {request(8), request(20), request(15)};
    harness_result results[3];
    assert_int_equal(harness_run(h, requests, 1, results), COX_OK); /* OpenMP's own first use */
    harness_result_free(&results[0]);
    for (uint64_t i = 0; i < 3; i++) {
        results[i] = (harness_result){.tokens = calloc(21, sizeof(int32_t))};
        cox_sequence_request r = {.id = i,
                                  .prompt = g->prompt,
                                  .n_prompt = g->n_prompt - (int32_t)i,
                                  .max_tokens = 20,
                                  .sampling = cox_sampling_defaults(),
                                  .ignore_eos = true,
                                  .wants_digest = true};
        assert_int_equal(cox_engine_submit(engine, &r), COX_OK);
    }
    harness_expect(h, results);
    uint64_t arenas = cox_heap_allocations(), heap = test_allocations();
    int n_steps = 0;
    while (cox_engine_n_sequences(engine)) {
        assert_int_equal(cox_engine_step(engine), COX_OK);
        n_steps++;
    }
    assert_true(n_steps >= 20);
    assert_int_equal(cox_heap_allocations(), arenas);
    assert_int_equal(test_allocations(), heap);
    void *volatile sign_that_counting_works = malloc(1);
    assert_int_equal(test_allocations(), heap + 1);
    free(sign_that_counting_works);
    for (int i = 0; i < 3; i++) harness_result_free(&results[i]);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
}

static void test_sequences_that_lose_their_pages_come_back_the_same(void **state)
{
    (void)state;
    enum { N = 6 };
    char expected[N][65];
    uint64_t rows[2] = {0};
    for (int is_tight = 0; is_tight < 2; is_tight++) {
        cox_engine_options options = cox_engine_options_defaults();
        options.has_prefix_cache = false; /* so that a recomputed row is counted */
        if (is_tight) options.kv_bytes = 5 * harness_page_bytes(folder); /* each wants two to four pages */
        harness *h = open_with(options);
        harness_request requests[N];
        harness_result results[N];
        for (int i = 0; i < N; i++) requests[i] = request(50 + i);
        assert_int_equal(harness_run(h, requests, N, results), COX_OK);
        for (int i = 0; i < N; i++) {
            assert_int_equal(results[i].n_tokens, 50 + i);
            assert_int_equal(results[i].finish, COX_FINISH_LENGTH);
            assert_memory_equal(results[i].tokens, g->greedy, 50 * sizeof(int32_t));
            if (is_tight) assert_string_equal(results[i].digest, expected[i]);
            memcpy(expected[i], results[i].digest, 65);
            harness_result_free(&results[i]);
        }
        rows[is_tight] = cox_engine_counters(harness_engine(h))->rows_computed;
        assert_int_equal(harness_finish(h), COX_OK);
        harness_close(h);
    }
    assert_true(rows[1] > rows[0]); /* something was recomputed, or this test shows nothing */
}

/* Waiting, in the prompt's chunks, generating, given up for others: what is cancelled leaves no page, and the
 * others' bits are theirs. (Many plans, ranks and coordinators: tests/mpi/steer_mix.c.) */
static void test_cancelled_sequences_leave_nothing(void **state)
{
    (void)state;
    enum { N = 24 };
    cox_engine_options options = cox_engine_options_defaults();
    options.prefill_chunk = 5;
    options.max_rows = 32;
    options.kv_bytes = 9 * harness_page_bytes(folder);
    harness *h = open_with(options);
    harness_request requests[N], alone = request(30);
    harness_result results[N], expected;
    assert_int_equal(harness_run(h, &alone, 1, &expected), COX_OK);
    for (int i = 0; i < N; i++) requests[i] = alone;
    assert_int_equal(harness_submit(h, requests, N, results), COX_OK);
    for (int step = 0; cox_engine_n_sequences(harness_engine(h)) > 0; step++) {
        for (int i = 0; i < N; i += 2) { /* before steps 0, 3, 6, ... */
            if (step == 3 * (i / 2)) cox_engine_cancel(harness_engine(h), (uint64_t)i);
        }
        assert_int_equal(cox_engine_step(harness_engine(h)), COX_OK);
    }
    int n_cancelled = 0;
    for (int i = 0; i < N; i++) {
        bool is_cut = results[i].finish == COX_FINISH_CANCELLED;
        n_cancelled += is_cut;
        assert_true(!is_cut || i % 2 == 0);
        if (!is_cut) assert_string_equal(results[i].digest, expected.digest);
        harness_result_free(&results[i]);
    }
    assert_true(n_cancelled >= N / 4);
    harness_result_free(&expected);
    assert_int_equal(cox_kv_n_free_pages(harness_engine(h)->kv), harness_engine(h)->kv_shape.n_pages);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
}

/* --- Cancelled within a step: by a callback, also that of another sequence --- */

static struct {
    cox_engine *engine;
    bool is_cancelled[8];
    int n_tokens[8], n_done[8], n_late;
    cox_finish finish[8];
} caller;

/* The second token of sequence 0 is the last that anybody hears of. */
static bool cancel_all(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context, (void)token, (void)logprobs;
    caller.n_late += caller.is_cancelled[id];
    caller.n_tokens[id]++;
    if (id != 0 || caller.n_tokens[0] < 2) return false;
    for (uint64_t i = 0; i < 8; i++) {
        caller.is_cancelled[i] = true;
        cox_engine_cancel(caller.engine, i);
    }
    return true;
}

static void note_end(void *context, uint64_t id, const cox_sequence_result *result)
{
    (void)context;
    caller.n_done[id]++;
    caller.finish[id] = result->finish;
}

static void test_a_callback_may_cancel(void **state)
{
    (void)state;
    harness *h = open_with(cox_engine_options_defaults());
    cox_engine *engine = caller.engine = harness_engine(h);
    engine->events.on_token = cancel_all;
    engine->events.on_done = note_end;
    for (uint64_t i = 0; i < 8; i++) { /* of those behind 0, some would end with their second token too */
        cox_sequence_request r = {.id = i,
                                  .prompt = g->prompt,
                                  .n_prompt = g->n_prompt,
                                  .max_tokens = 2 + (int32_t)i % 3,
                                  .sampling = cox_sampling_defaults(),
                                  .ignore_eos = true};
        assert_int_equal(cox_engine_submit(engine, &r), COX_OK);
    }
    while (!caller.is_cancelled[0]) assert_int_equal(cox_engine_step(engine), COX_OK);
    for (int i = 0; i < 8; i++) assert_int_equal(caller.n_done[i], 0);
    assert_int_equal(cox_engine_n_sequences(engine), 8);
    uint64_t n_steps = engine->counters.steps;
    assert_int_equal(cox_engine_step(engine), COX_OK);
    assert_int_equal(cox_engine_n_sequences(engine), 0);
    assert_true(engine->counters.steps == n_steps); /* nothing is computed for nobody */
    for (int i = 0; i < 8; i++) {
        assert_int_equal(caller.n_done[i], 1);
        assert_int_equal(caller.finish[i], COX_FINISH_CANCELLED);
    }
    assert_int_equal(caller.n_late, 0);
    assert_int_equal(cox_kv_n_free_pages(engine->kv), engine->kv_shape.n_pages);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
}

static void test_prefixes_are_reused(void **state)
{
    (void)state;
    harness *h = open_with(cox_engine_options_defaults());
    int32_t all[128];
    memcpy(all, g->prompt, (size_t)g->n_prompt * sizeof *all);
    memcpy(all + g->n_prompt, g->greedy, 50 * sizeof *all);
    harness_request r = request(5);
    r.prompt = all, r.n_prompt = g->n_prompt + 50;
    harness_result first, second;
    assert_int_equal(harness_run(h, &r, 1, &first), COX_OK);
    assert_int_equal(harness_run(h, &r, 1, &second), COX_OK);
    assert_int_equal(first.n_cached, 0);
    assert_int_equal(second.n_cached, r.n_prompt - 1); /* the end of the prompt too */
    assert_string_equal(first.digest, second.digest);
    harness_result_free(&first);
    harness_result_free(&second);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
}

static void expect_refusal(harness *h, cox_sequence_request r, cox_status status, const char *words)
{
    assert_int_equal(cox_engine_submit(harness_engine(h), &r), status);
    assert_non_null(strstr(cox_status_message(), words));
    assert_int_equal(cox_engine_n_sequences(harness_engine(h)), 0);
}

/* The same bits as among all positions, and of no position before. */
static void test_logits_from_a_position_on(void **state)
{
    (void)state;
    size_t vocab_size = (size_t)g->vocab_size, n = (size_t)g->n_prompt * vocab_size;
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        harness *h = open_with(cox_engine_options_defaults());
        harness_result result = {.tokens = calloc(1, sizeof(int32_t)), .logits = calloc(n, sizeof(float))};
        const cox_sequence_request r = {.prompt = g->prompt,
                                        .n_prompt = g->n_prompt,
                                        .sampling = cox_sampling_defaults(),
                                        .wants_logits = true,
                                        .logits_from = i ? g->n_prompt - 2 : 0};
        harness_expect(h, &result);
        assert_int_equal(cox_engine_submit(harness_engine(h), &r), COX_OK);
        while (cox_engine_n_sequences(harness_engine(h)))
            assert_int_equal(cox_engine_step(harness_engine(h)), COX_OK);
        logits[i] = result.logits;
        result.logits = NULL;
        harness_result_free(&result);
        assert_int_equal(harness_finish(h), COX_OK);
        harness_close(h);
    }
    size_t n_before = n - 2 * vocab_size;
    for (size_t i = 0; i < n_before; i++) assert_true(logits[1][i] == 0);
    assert_memory_equal(logits[0] + n_before, logits[1] + n_before, 2 * vocab_size * sizeof(float));
    free(logits[0]);
    free(logits[1]);
}

/* Of a prompt with an answer, and no row more than the answer takes by itself. */
static void test_logits_of_the_prompt_only(void **state)
{
    (void)state;
    size_t vocab_size = (size_t)g->vocab_size, n_all = (size_t)g->n_prompt + 4;
    uint64_t rows[2];
    for (int wants = 0; wants < 2; wants++) {
        harness *h = open_with(cox_engine_options_defaults());
        harness_result result = {.tokens = calloc(5, sizeof(int32_t)),
                                 .logits = calloc(n_all * vocab_size, sizeof(float))};
        const cox_sequence_request r = {.prompt = g->prompt,
                                        .n_prompt = g->n_prompt,
                                        .max_tokens = 4,
                                        .sampling = cox_sampling_defaults(),
                                        .ignore_eos = true,
                                        .wants_logits = wants,
                                        .logits_end = wants ? g->n_prompt : 0};
        harness_expect(h, &result);
        assert_int_equal(cox_engine_submit(harness_engine(h), &r), COX_OK);
        while (cox_engine_n_sequences(harness_engine(h)))
            assert_int_equal(cox_engine_step(harness_engine(h)), COX_OK);
        assert_memory_equal(result.tokens, g->greedy, 4 * sizeof(int32_t));
        assert_int_equal(result.n_logits, wants ? g->n_prompt : 0);
        rows[wants] = cox_engine_counters(harness_engine(h))->rows_computed;
        harness_result_free(&result);
        assert_int_equal(harness_finish(h), COX_OK);
        harness_close(h);
    }
    assert_int_equal(rows[0], rows[1]);
}

static void test_requests_that_cannot_be_served_are_refused(void **state)
{
    (void)state;
    cox_engine_options options = cox_engine_options_defaults();
    options.kv_bytes = 2 * harness_page_bytes(folder);
    harness *h = open_with(options);
    static int32_t ids[100000];
    cox_sequence_request r = {
        .prompt = ids, .n_prompt = 65, .max_tokens = 1, .sampling = cox_sampling_defaults()};
    expect_refusal(h, r, COX_TOO_LONG, "--kv-memory");
    r.n_prompt = 100000;
    expect_refusal(h, r, COX_TOO_LONG, "context");
    r.n_prompt = 0;
    expect_refusal(h, r, COX_INVALID, "no tokens");
    r.n_prompt = 3, ids[2] = g->vocab_size;
    expect_refusal(h, r, COX_INVALID, "token 2");
    ids[2] = -1;
    expect_refusal(h, r, COX_INVALID, "vocabulary");
    ids[2] = 0, r.sampling.top_p = -1;
    expect_refusal(h, r, COX_INVALID, "top_p");
    r.sampling.top_p = 1, r.sampling.frequency_penalty = 3;
    expect_refusal(h, r, COX_INVALID, "frequency_penalty");
    const cox_logit_bias bias = {g->vocab_size, 1};
    r.sampling.frequency_penalty = 0, r.sampling.biases = &bias, r.sampling.n_biases = 1;
    expect_refusal(h, r, COX_INVALID, "logit_bias names token");
    r.sampling.n_biases = 0, r.wants_logits = true, r.logits_end = 2;
    expect_refusal(h, r, COX_INVALID, "within the prompt");
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);

    options.kv_bytes = 1;
    harness_config config = harness_config_defaults(folder);
    config.engine = options;
    assert_int_equal(harness_open(&h, cluster, &config), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "--kv-memory"));
}

static int open_cluster(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    g = golden_load(folder);
    return cox_cluster_create(&cluster, &options);
}

static int close_cluster(void **state)
{
    (void)state;
    golden_free(g);
    cox_cluster_destroy(cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_step_takes_nothing_from_the_heap),
        cmocka_unit_test(test_sequences_that_lose_their_pages_come_back_the_same),
        cmocka_unit_test(test_cancelled_sequences_leave_nothing),
        cmocka_unit_test(test_a_callback_may_cancel),
        cmocka_unit_test(test_prefixes_are_reused),
        cmocka_unit_test(test_logits_from_a_position_on),
        cmocka_unit_test(test_logits_of_the_prompt_only),
        cmocka_unit_test(test_requests_that_cannot_be_served_are_refused),
    };
    return cmocka_run_group_tests(tests, open_cluster, close_cluster);
}
