/*
 * Rows on show (cox_observation): they are the rows that transformers recorded, they add up from site to
 * site, they are what flows on after a plan's interventions, each is shown once whatever the schedule, and
 * showing costs the heap nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "tests/support/allocations.h"
#include "tests/support/harness.h"

static const char folder[] = "tests/golden/models/qwen3_moe-dense-bf16"; /* some layers have no experts */
enum { MAX_POSITIONS = 256, EVERY = (1 << COX_N_SITES) - 1 - (1 << COX_SITE_EXPERT_OUT) };
static const cox_positions everywhere = {.span = COX_SPAN_ALL};

static cox_cluster *cluster;

/* What was shown of one sequence. */
typedef struct seen {
    harness *h;
    float *rows; /* [sites, layers, MAX_POSITIONS, width] */
    int32_t *n;  /* [sites, layers, MAX_POSITIONS] times shown */
    int32_t n_layers, width, n_all;
    uint8_t sites[64];
} seen;

static size_t place(const seen *s, cox_site site, int32_t layer, int32_t position)
{
    return ((size_t)site * (size_t)s->n_layers + (size_t)layer) * MAX_POSITIONS + (size_t)position;
}

static float *row_of(const seen *s, cox_site site, int32_t layer, int32_t position)
{
    return s->rows + place(s, site, layer, position) * (size_t)s->width;
}

static int32_t times(const seen *s, cox_site site, int32_t layer, int32_t position)
{
    return s->n[place(s, site, layer, position)];
}

static void keep(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert, int32_t position,
                 const float *h)
{
    seen *s = context;
    assert_int_equal(expert, -1);
    assert_int_equal(id, 0);
    const cox_model *model = harness_model(s->h);
    int32_t width = cox_site_width(site, model->d_model, model->router.n_experts);
    memcpy(row_of(s, site, layer, position), h, (size_t)width * sizeof *h);
    s->n[place(s, site, layer, position)]++;
    s->n_all++;
}

static void forget(seen *s)
{
    memset(s->n, 0, (size_t)COX_N_SITES * (size_t)s->n_layers * MAX_POSITIONS * sizeof *s->n);
    s->n_all = 0;
}

static void open_model(seen *s, const char *path, cox_engine_options options)
{
    harness_config config = harness_config_defaults(path);
    config.engine = options;
    config.on_rows = keep;
    config.rows_context = s;
    *s = (seen){0};
    if (harness_open(&s->h, cluster, &config) != COX_OK) fail_msg("%s", cox_status_message());
    const cox_model *model = harness_model(s->h);
    s->n_layers = model->n_layers;
    s->width = model->d_model > model->router.n_experts ? model->d_model : model->router.n_experts;
    size_t n = (size_t)COX_N_SITES * (size_t)s->n_layers * MAX_POSITIONS;
    s->rows = calloc(n * (size_t)s->width, sizeof *s->rows);
    s->n = calloc(n, sizeof *s->n);
    memset(s->sites, EVERY, sizeof s->sites);
}

static void close_model(seen *s)
{
    assert_int_equal(harness_finish(s->h), COX_OK);
    harness_close(s->h);
    free(s->rows);
    free(s->n);
}

/* Runs the prompt, observed; returns how much of it came from the prefix cache. */
static int32_t run(seen *s, const golden *g, cox_positions positions, int32_t max_tokens, cox_plan *plan)
{
    forget(s);
    const cox_observation observation = {.sites = s->sites, .positions = positions};
    harness_result result = {.tokens = calloc((size_t)max_tokens + 1, sizeof(int32_t))};
    const cox_sequence_request request = {.prompt = g->prompt,
                                          .n_prompt = g->n_prompt,
                                          .max_tokens = max_tokens,
                                          .sampling = cox_sampling_defaults(),
                                          .ignore_eos = true,
                                          .plan = plan,
                                          .observation = &observation};
    harness_expect(s->h, &result);
    if (cox_engine_submit(harness_engine(s->h), &request) != COX_OK) fail_msg("%s", cox_status_message());
    while (cox_engine_n_sequences(harness_engine(s->h)))
        assert_int_equal(cox_engine_step(harness_engine(s->h)), COX_OK);
    int32_t n_cached = result.n_cached;
    harness_result_free(&result);
    return n_cached;
}

/* What was generated belongs to the prompt. */
static golden *long_golden(void)
{
    golden *g = golden_load(folder);
    g->prompt = realloc(g->prompt, (size_t)(g->n_prompt + g->n_greedy) * sizeof *g->prompt);
    memcpy(g->prompt + g->n_prompt, g->greedy, (size_t)g->n_greedy * sizeof *g->prompt);
    g->n_prompt += g->n_greedy;
    return g;
}

static void expect_close(const float *got, const float *wanted, int32_t n, const char *what, int32_t layer)
{
    float low = INFINITY, high = -INFINITY, worst = 0;
    for (int32_t i = 0; i < n; i++) {
        low = fminf(low, wanted[i]), high = fmaxf(high, wanted[i]);
        worst = fmaxf(worst, fabsf(got[i] - wanted[i]));
    }
    if (!(worst <= 1e-4F * (high - low)))
        fail_msg("%s of layer %d: %g off in a range of %g", what, layer, (double)worst, (double)(high - low));
}

static void test_rows_are_those_that_transformers_recorded(void **state)
{
    (void)state;
    char **folders = golden_list();
    for (char **f = folders; *f; f++) {
        golden *g = golden_load(*f);
        if (!g->hidden) {
            golden_free(g);
            continue;
        }
        seen s;
        open_model(&s, g->model, cox_engine_options_defaults());
        run(&s, g, everywhere, 0, NULL);
        const cox_model *model = harness_model(s.h);
        int32_t d_model = model->d_model, n_experts = model->router.n_experts, n_sparse = 0;
        for (int32_t l = 0; l < s.n_layers; l++) {
            for (int32_t end = 0; end < 2; end++) {
                int32_t position = end ? g->n_prompt - 1 : 0;
                const float *before = g->hidden + (size_t)(2 * l + end) * (size_t)d_model;
                const float *after = before + 2 * (size_t)d_model;
                expect_close(row_of(&s, COX_SITE_RESID_PRE, l, position), before, d_model, "resid_pre", l);
                expect_close(row_of(&s, COX_SITE_RESID_POST, l, position), after, d_model, "resid_post", l);
                if (!model->layers[l].is_moe) continue;
                expect_close(row_of(&s, COX_SITE_ROUTER_LOGITS, l, position),
                             g->router_logits + (size_t)(2 * n_sparse + end) * (size_t)n_experts, n_experts,
                             "router_logits", l);
            }
            n_sparse += model->layers[l].is_moe;
        }
        close_model(&s);
        golden_free(g);
    }
    golden_list_free(folders);
}

static void expect_sum(const seen *s, cox_site sum, cox_site a, cox_site b, int32_t l, int32_t position)
{
    for (int32_t i = 0; i < harness_model(s->h)->d_model; i++) {
        float both = row_of(s, a, l, position)[i] + row_of(s, b, l, position)[i];
        assert_memory_equal(&both, &row_of(s, sum, l, position)[i], sizeof both);
    }
}

static void test_sites_add_up_and_every_row_is_shown_once(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    enum { N_MORE = 20 };
    run(&s, g, everywhere, N_MORE, NULL);
    const cox_model *model = harness_model(s.h);
    int32_t n_rows = g->n_prompt + N_MORE - 1; /* the last token is never fed */
    for (int32_t l = 0; l < s.n_layers; l++) {
        for (int32_t p = 0; p < MAX_POSITIONS; p++) {
            for (cox_site site = 0; site < COX_N_SITES; site++) {
                bool is_there = p < n_rows && site != COX_SITE_EXPERT_OUT &&
                                (site != COX_SITE_ROUTER_LOGITS || model->layers[l].is_moe);
                assert_int_equal(times(&s, site, l, p), is_there);
            }
            if (p >= n_rows) continue;
            expect_sum(&s, COX_SITE_RESID_MID, COX_SITE_RESID_PRE, COX_SITE_ATTN_OUT, l, p);
            expect_sum(&s, COX_SITE_RESID_POST, COX_SITE_RESID_MID, COX_SITE_MOE_OUT, l, p);
        }
    }
    close_model(&s);
    golden_free(g);
}

static void test_only_what_was_asked_for_is_shown(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    memset(s.sites, 0, sizeof s.sites);
    s.sites[1] = 1 << COX_SITE_ATTN_OUT;
    run(&s, g, (cox_positions){.span = COX_SPAN_LAST, .from = 3}, 5, NULL);
    assert_int_equal(s.n_all, 3);
    for (int32_t k = 1; k <= 3; k++) assert_int_equal(times(&s, COX_SITE_ATTN_OUT, 1, g->n_prompt - k), 1);
    run(&s, g, (cox_positions){.span = COX_SPAN_GENERATED}, 5, NULL);
    assert_int_equal(s.n_all, 4);
    assert_int_equal(times(&s, COX_SITE_ATTN_OUT, 1, g->n_prompt), 1);
    run(&s, g, (cox_positions){COX_SPAN_RANGE, 2, 4}, 5, NULL);
    assert_int_equal(s.n_all, 2);
    assert_int_equal(times(&s, COX_SITE_ATTN_OUT, 1, 2), 1);
    close_model(&s);
    golden_free(g);
}

/* Short chunks, micro-batches, and pages that run out under other sequences: the same rows, each once. */
static void test_the_schedule_changes_no_row(void **state)
{
    (void)state;
    enum { N_MORE = 50, N_OTHERS = 5 };
    golden *g = golden_load(folder);
    seen calm, busy;
    open_model(&calm, folder, cox_engine_options_defaults());
    run(&calm, g, everywhere, N_MORE, NULL);
    cox_engine_options options = cox_engine_options_defaults();
    options.has_prefix_cache = false; /* so that what lost its pages is computed again */
    options.prefill_chunk = 3;
    options.n_slots = 2;
    options.kv_bytes = 5 * harness_page_bytes(folder);
    open_model(&busy, folder, options);
    harness_result results[N_OTHERS + 1];
    const cox_observation observation = {.sites = busy.sites, .positions = everywhere};
    for (uint64_t i = 0; i <= N_OTHERS; i++) { /* the observed one, 0, is the youngest: it loses its pages */
        results[N_OTHERS - i] = (harness_result){.tokens = calloc(N_MORE + 1, sizeof(int32_t))};
        const cox_sequence_request request = {.id = N_OTHERS - i,
                                              .prompt = g->prompt,
                                              .n_prompt = g->n_prompt,
                                              .max_tokens = N_MORE,
                                              .sampling = cox_sampling_defaults(),
                                              .ignore_eos = true,
                                              .observation = i == N_OTHERS ? &observation : NULL};
        assert_int_equal(cox_engine_submit(harness_engine(busy.h), &request), COX_OK);
    }
    harness_expect(busy.h, results);
    while (cox_engine_n_sequences(harness_engine(busy.h)))
        assert_int_equal(cox_engine_step(harness_engine(busy.h)), COX_OK);
    int32_t n_rows = (g->n_prompt + N_MORE - 1) * (N_OTHERS + 1);
    assert_true(cox_engine_counters(harness_engine(busy.h))->rows_computed > (uint64_t)n_rows);
    size_t n = (size_t)COX_N_SITES * (size_t)calm.n_layers * MAX_POSITIONS;
    assert_memory_equal(calm.n, busy.n, n * sizeof *calm.n);
    assert_memory_equal(calm.rows, busy.rows, n * (size_t)calm.width * sizeof *calm.rows);
    for (int i = 0; i <= N_OTHERS; i++) harness_result_free(&results[i]);
    close_model(&calm);
    close_model(&busy);
    golden_free(g);
}

static void test_observed_rows_are_computed_and_others_reused(void **state)
{
    (void)state;
    golden *g = long_golden();
    assert_true(g->n_prompt > 2 * COX_KV_BLOCK && g->n_prompt < MAX_POSITIONS);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    const cox_positions last = {.span = COX_SPAN_LAST, .from = 1};
    assert_int_equal(run(&s, g, last, 1, NULL), 0);
    float first[512];
    memcpy(first, row_of(&s, COX_SITE_RESID_POST, 0, g->n_prompt - 1), (size_t)s.width * sizeof *first);
    assert_int_equal(run(&s, g, last, 1, NULL), g->n_prompt - 1);
    assert_memory_equal(first, row_of(&s, COX_SITE_RESID_POST, 0, g->n_prompt - 1),
                        (size_t)harness_model(s.h)->d_model * sizeof *first);
    assert_int_equal(run(&s, g, (cox_positions){COX_SPAN_RANGE, COX_KV_BLOCK + 3, g->n_prompt}, 1, NULL),
                     COX_KV_BLOCK + 3);
    assert_int_equal(run(&s, g, everywhere, 1, NULL), 0);
    assert_int_equal(times(&s, COX_SITE_RESID_PRE, 0, 0), 1);
    close_model(&s);
    golden_free(g);
}

static void test_rows_are_shown_after_the_plan_has_changed_them(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    static const char *const sites[] = {"resid_pre", "attn_out", "resid_mid", "moe_out", "resid_post"};
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        json_t *json = json_pack("{s:[{s:s, s:s, s:s, s:f}]}", "interventions", "site", sites[i], "layer",
                                 "all", "op", "scale", "factor", 0.0);
        cox_plan *plan = NULL;
        if (cox_plan_from_json(&plan, json, "plan", NULL, harness_model(s.h), NULL, false) != COX_OK)
            fail_msg("%s", cox_status_message());
        json_decref(json);
        run(&s, g, everywhere, 0, plan);
        for (int32_t l = 0; l < s.n_layers; l++) {
            const float *h = row_of(&s, cox_site_find(sites[i]), l, 5);
            for (int32_t k = 0; k < harness_model(s.h)->d_model; k++) assert_true(h[k] == 0);
        }
    }
    close_model(&s);
    golden_free(g);
}

static void test_showing_takes_nothing_from_the_heap(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    run(&s, g, everywhere, 2, NULL); /* OpenMP's own first use */
    forget(&s);
    const cox_observation observation = {.sites = s.sites, .positions = everywhere};
    harness_result results[3];
    for (uint64_t i = 0; i < 3;
         i++) { /* three: libgomp takes memory when loops with and without threads alternate */
        results[i] = (harness_result){.tokens = calloc(21, sizeof(int32_t))};
        const cox_sequence_request request = {.id = i,
                                              .prompt = g->prompt,
                                              .n_prompt = g->n_prompt - (int32_t)i,
                                              .max_tokens = 20,
                                              .sampling = cox_sampling_defaults(),
                                              .ignore_eos = true,
                                              .observation = i == 0 ? &observation : NULL};
        assert_int_equal(cox_engine_submit(harness_engine(s.h), &request), COX_OK);
    }
    harness_expect(s.h, results);
    uint64_t arenas = cox_heap_allocations(), heap = test_allocations();
    while (cox_engine_n_sequences(harness_engine(s.h)))
        assert_int_equal(cox_engine_step(harness_engine(s.h)), COX_OK);
    assert_int_equal(cox_heap_allocations(), arenas);
    assert_int_equal(test_allocations(), heap);
    assert_true(s.n_all > 0);
    for (int i = 0; i < 3; i++) harness_result_free(&results[i]);
    close_model(&s);
    golden_free(g);
}

static void test_what_cannot_be_shown_is_refused(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    const uint8_t sites[64] = {[1] = 1 << COX_SITE_ATTN_OUT};
    const cox_observation observation = {.sites = sites, .positions = everywhere};
    const cox_sequence_request request = {.prompt = g->prompt,
                                          .n_prompt = g->n_prompt,
                                          .sampling = cox_sampling_defaults(),
                                          .observation = &observation};
    harness_config config = harness_config_defaults(folder);
    harness *deaf = NULL;
    assert_int_equal(harness_open(&deaf, cluster, &config), COX_OK);
    assert_int_equal(cox_engine_submit(harness_engine(deaf), &request), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "nobody listens"));
    assert_int_equal(harness_finish(deaf), COX_OK);
    harness_close(deaf);
    golden_free(g);
}

static int open_cluster(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    return cox_cluster_create(&cluster, &options);
}

static int close_cluster(void **state)
{
    (void)state;
    cox_cluster_destroy(cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_those_that_transformers_recorded),
        cmocka_unit_test(test_sites_add_up_and_every_row_is_shown_once),
        cmocka_unit_test(test_only_what_was_asked_for_is_shown),
        cmocka_unit_test(test_the_schedule_changes_no_row),
        cmocka_unit_test(test_observed_rows_are_computed_and_others_reused),
        cmocka_unit_test(test_rows_are_shown_after_the_plan_has_changed_them),
        cmocka_unit_test(test_showing_takes_nothing_from_the_heap),
        cmocka_unit_test(test_what_cannot_be_shown_is_refused),
    };
    return cmocka_run_group_tests(tests, open_cluster, close_cluster);
}
