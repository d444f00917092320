/*
 * Outputs of experts on show: routed ones are the terms of the layer's sum, counterfactual ones are there for
 * every expert asked for, are what transformers gives when the router is forced, and have the routed one's
 * bits where the row was routed, whatever the schedule and whatever the row's plan does at expert_out; and
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
#include <stdio.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "tests/support/allocations.h"
#include "tests/support/harness.h"

static const char folder[] = "tests/golden/models/qwen3_moe-dense-bf16"; /* some layers have no experts */
enum { MAX_POSITIONS = 96 };
static const cox_positions everywhere = {.span = COX_SPAN_ALL};

static cox_cluster *cluster;

/* What was shown of one sequence; sums at moe_out have the place behind the last expert. */
typedef struct seen {
    harness *h;
    float *rows; /* [n_layers, MAX_POSITIONS, n_experts + 1, d_model] */
    int32_t *n;  /* [n_layers, MAX_POSITIONS, n_experts + 1] times shown */
    int32_t n_all, n_layers, n_experts, d_model, last_layer, last_position, last_expert;
} seen;

static size_t place(const seen *s, int32_t layer, int32_t position, int32_t expert)
{
    return ((size_t)layer * MAX_POSITIONS + (size_t)position) * (size_t)(s->n_experts + 1) + (size_t)expert;
}

static float *row_of(const seen *s, int32_t layer, int32_t position, int32_t expert)
{
    return s->rows + place(s, layer, position, expert) * (size_t)s->d_model;
}

static int32_t times(const seen *s, int32_t layer, int32_t position, int32_t expert)
{
    return s->n[place(s, layer, position, expert)];
}

static size_t n_places(const seen *s)
{
    return (size_t)s->n_layers * MAX_POSITIONS * (size_t)(s->n_experts + 1);
}

static void keep(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert, int32_t position,
                 const float *h)
{
    seen *s = context;
    assert_int_equal(id, 0);
    assert_true(position >= 0 && position < MAX_POSITIONS);
    if (site == COX_SITE_EXPERT_OUT) {
        assert_true(harness_model(s->h)->layers[layer].is_moe);
        bool is_next = layer != s->last_layer || position > s->last_position ||
                       (position == s->last_position && expert > s->last_expert);
        assert_true(is_next && expert >= 0 && expert < s->n_experts);
        s->last_layer = layer, s->last_position = position, s->last_expert = expert;
    } else {
        assert_int_equal(expert, -1);
        expert = s->n_experts;
    }
    memcpy(row_of(s, layer, position, expert), h, (size_t)s->d_model * sizeof *h);
    s->n[place(s, layer, position, expert)]++;
    s->n_all++;
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
    s->n_experts = model->router.n_experts;
    s->d_model = model->d_model;
    s->rows = calloc(n_places(s) * (size_t)s->d_model, sizeof *s->rows);
    s->n = calloc(n_places(s), sizeof *s->n);
}

static void close_model(seen *s)
{
    assert_int_equal(harness_finish(s->h), COX_OK);
    harness_close(s->h);
    free(s->rows);
    free(s->n);
}

static void forget(seen *s)
{
    memset(s->n, 0, n_places(s) * sizeof *s->n);
    memset(s->rows, 0, n_places(s) * (size_t)s->d_model * sizeof *s->rows);
    s->n_all = 0;
    s->last_layer = s->last_position = s->last_expert = -1;
}

static void run(seen *s, const golden *g, const cox_observation *observation, int32_t max_tokens,
                cox_plan *plan)
{
    forget(s);
    harness_result result = {.tokens = calloc((size_t)max_tokens + 1, sizeof(int32_t))};
    const cox_sequence_request request = {.prompt = g->prompt,
                                          .n_prompt = g->n_prompt,
                                          .max_tokens = max_tokens,
                                          .sampling = cox_sampling_defaults(),
                                          .ignore_eos = true,
                                          .plan = plan,
                                          .observation = observation};
    harness_expect(s->h, &result);
    if (cox_engine_submit(harness_engine(s->h), &request) != COX_OK) fail_msg("%s", cox_status_message());
    while (cox_engine_n_sequences(harness_engine(s->h)))
        assert_int_equal(cox_engine_step(harness_engine(s->h)), COX_OK);
    harness_result_free(&result);
}

static cox_plan *make_plan(const seen *s, const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    cox_plan *plan = NULL;
    if (cox_plan_from_json(&plan, json, "plan", NULL, harness_model(s->h), NULL, false) != COX_OK)
        fail_msg("%s", cox_status_message());
    json_decref(json);
    return plan;
}

static const uint8_t at_experts[64] = {[0 ... 63] = 1 << COX_SITE_EXPERT_OUT};
static const uint8_t at_both[64] = {[0 ... 63] = 1 << COX_SITE_EXPERT_OUT | 1 << COX_SITE_MOE_OUT};

/* Every recorded model: top_k outputs at every position, and the very same among those of all experts. */
static void test_counterfactual_outputs_are_the_routed_ones_where_routed(void **state)
{
    (void)state;
    char **folders = golden_list();
    for (char **f = folders; *f; f++) {
        golden *g = golden_load(*f);
        if (g->n_prompt > MAX_POSITIONS - 8) g->n_prompt = MAX_POSITIONS - 8;
        seen routed, all;
        open_model(&routed, g->model, cox_engine_options_defaults());
        open_model(&all, g->model, cox_engine_options_defaults());
        run(&routed, g, &(cox_observation){.sites = at_experts, .positions = everywhere}, 3, NULL);
        run(&all, g,
            &(cox_observation){.sites = at_experts, .positions = everywhere, .is_counterfactual = true}, 3,
            NULL);
        const cox_model *model = harness_model(all.h);
        int32_t n_rows = g->n_prompt + 2, n_same = 0, n_moe = 0;
        for (int32_t l = 0; l < all.n_layers; l++) {
            n_moe += model->layers[l].is_moe;
            for (int32_t p = 0; p < n_rows && model->layers[l].is_moe; p++) {
                for (int32_t e = 0; e < all.n_experts; e++) {
                    assert_int_equal(times(&all, l, p, e), 1);
                    if (!times(&routed, l, p, e)) continue;
                    n_same++;
                    assert_memory_equal(row_of(&all, l, p, e), row_of(&routed, l, p, e),
                                        (size_t)all.d_model * sizeof(float));
                }
            }
        }
        assert_int_equal(n_same, n_rows * n_moe * model->router.top_k);
        assert_int_equal(all.n_all, n_rows * n_moe * all.n_experts);
        close_model(&routed);
        close_model(&all);
        golden_free(g);
    }
    golden_list_free(folders);
}

/* The recorded outputs of a random model's experts, or NULL; the reader wants a checkpoint's name. */
static cox_checkpoint *recorded_outputs(const char *model)
{
    char path[256], target[4096], folder_of_link[] = "/tmp/coxswain-experts-XXXXXX", link[64];
    snprintf(path, sizeof path, "tests/golden/experts/%s.safetensors", strrchr(model, '/') + 1);
    if (!realpath(path, target)) return NULL;
    assert_non_null(mkdtemp(folder_of_link));
    snprintf(link, sizeof link, "%s/model.safetensors", folder_of_link);
    assert_int_equal(symlink(target, link), 0);
    cox_checkpoint *file = NULL;
    if (cox_checkpoint_open(&file, folder_of_link) != COX_OK) fail_msg("%s", cox_status_message());
    unlink(link);
    rmdir(folder_of_link);
    return file;
}

static double distance_of_norm(const float *found, const float *wanted, int32_t n)
{
    double off = 0, norm = 0;
    for (int32_t i = 0; i < n; i++) {
        off += ((double)found[i] - (double)wanted[i]) * ((double)found[i] - (double)wanted[i]);
        norm += (double)wanted[i] * (double)wanted[i];
    }
    return sqrt(off / norm);
}

/* What transformers' own expert blocks give when the router is forced, at the first and last token of the
 * prompt, for every random model (scripts/references/expert_directions.py). */
static void test_outputs_are_those_of_transformers(void **state)
{
    (void)state;
    char **folders = golden_list();
    int32_t n_models = 0;
    double worst = 0;
    for (char **f = folders; *f; f++) {
        cox_checkpoint *recorded = recorded_outputs(*f);
        if (!recorded) continue; /* a trained model: test_expert_directions.c */
        golden *g = golden_load(*f);
        assert_true(g->n_prompt <= MAX_POSITIONS);
        seen s;
        open_model(&s, g->model, cox_engine_options_defaults());
        run(&s, g,
            &(cox_observation){.sites = at_experts, .positions = everywhere, .is_counterfactual = true}, 0,
            NULL);
        for (int32_t l = 0; l < s.n_layers; l++) {
            char name[32];
            snprintf(name, sizeof name, "layer.%d", l);
            const cox_tensor *tensor = cox_checkpoint_find(recorded, name);
            assert_int_equal(tensor != NULL, harness_model(s.h)->layers[l].is_moe);
            for (int32_t i = 0; i < 2 * s.n_experts && tensor; i++) {
                int32_t position = i < s.n_experts ? 0 : g->n_prompt - 1;
                const float *wanted =
                    (const float *)(const void *)tensor->data + (size_t)i * (size_t)s.d_model;
                worst = fmax(worst,
                             distance_of_norm(row_of(&s, l, position, i % s.n_experts), wanted, s.d_model));
            }
        }
        n_models++;
        close_model(&s);
        cox_checkpoint_close(recorded);
        golden_free(g);
    }
    golden_list_free(folders);
    printf("%d models, worst difference %.3g of the norm of FFN_e(x)\n", n_models, worst);
    assert_true(n_models >= 11 && worst < 1e-5);
}

/* With one expert's output at moe_out alone (the others scaled to nothing by a plan), what is shown is what
 * the layer adds, gate weight aside: both point the same way. */
static void test_routed_outputs_are_what_the_layer_sums(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    enum { LAYER = 1, EXPERT = 3 };
    assert_true(harness_model(s.h)->layers[LAYER].is_moe);
    char text[512];
    int n = snprintf(text, sizeof text,
                     "{\"interventions\": [{\"site\": \"expert_out\", \"layer\": %d, \"op\": \"scale\", "
                     "\"factor\": 0, \"weighting\": \"routed\", \"expert\": [",
                     LAYER);
    for (int32_t e = 0, first = 1; e < s.n_experts; e++) {
        if (e == EXPERT) continue;
        n += snprintf(text + n, sizeof text - (size_t)n, first ? "%d" : ",%d", e);
        first = 0;
    }
    snprintf(text + n, sizeof text - (size_t)n, "]}]}");
    run(&s, g, &(cox_observation){.sites = at_both, .positions = everywhere}, 0, make_plan(&s, text));
    int32_t n_routed = 0;
    for (int32_t p = 0; p < g->n_prompt; p++) {
        double dot = 0, own = 0, sum = 0;
        for (int32_t i = 0; i < s.d_model; i++) {
            double y = (double)row_of(&s, LAYER, p, EXPERT)[i],
                   m = (double)row_of(&s, LAYER, p, s.n_experts)[i];
            dot += y * m, own += y * y, sum += m * m;
        }
        if (!times(&s, LAYER, p, EXPERT)) {
            assert_true(sum == 0);
            continue;
        }
        n_routed++;
        assert_true(own > 0 && sum > 0 && fabs(dot / sqrt(own * sum) - 1) < 1e-6);
    }
    assert_true(n_routed > 0 && n_routed < g->n_prompt);
    close_model(&s);
    golden_free(g);
}

/* A plan changes what routed outputs go on as, and not what other experts would have given. */
static void test_counterfactual_outputs_are_not_steered(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen clean, steered;
    open_model(&clean, folder, cox_engine_options_defaults());
    open_model(&steered, folder, cox_engine_options_defaults());
    static const char text[] =
        "{\"interventions\": [{\"site\": \"expert_out\", \"layer\": 1, \"expert\": \"all\", "
        "\"op\": \"scale\", \"factor\": 0, \"weighting\": \"routed\"}]}";
    uint8_t sites[64] = {[1] = 1 << COX_SITE_EXPERT_OUT}; /* above it inputs differ */
    cox_observation observation = {.sites = sites, .positions = everywhere, .is_counterfactual = true};
    run(&clean, g, &observation, 0, NULL);
    run(&steered, g, &observation, 0, make_plan(&steered, text));
    assert_int_equal(clean.n_all, g->n_prompt * clean.n_experts);
    assert_memory_equal(clean.rows, steered.rows, n_places(&clean) * (size_t)clean.d_model * sizeof(float));
    observation.is_counterfactual = false;
    run(&steered, g, &observation, 0, make_plan(&steered, text));
    assert_int_equal(steered.n_all, g->n_prompt * harness_model(steered.h)->router.top_k);
    for (size_t i = 0; i < n_places(&steered) * (size_t)steered.d_model; i++)
        assert_true(steered.rows[i] == 0);
    close_model(&clean);
    close_model(&steered);
    golden_free(g);
}

static void test_only_the_experts_and_rows_asked_for_are_shown(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    uint8_t *experts = calloc((size_t)s.n_layers * (size_t)s.n_experts, 1);
    experts[1 * s.n_experts + 0] = experts[1 * s.n_experts + s.n_experts - 1] = 1;
    cox_observation observation = {.sites = at_experts,
                                   .positions = {.span = COX_SPAN_LAST, .from = 2},
                                   .experts = experts,
                                   .is_counterfactual = true};
    run(&s, g, &observation, 4, NULL);
    assert_int_equal(s.n_all, 4);
    assert_int_equal(times(&s, 1, g->n_prompt - 2, 0), 1);
    assert_int_equal(times(&s, 1, g->n_prompt - 1, s.n_experts - 1), 1);
    observation.is_counterfactual = false;
    observation.positions = everywhere;
    run(&s, g, &observation, 4, NULL);
    for (int32_t p = 0; p < g->n_prompt; p++) {
        for (int32_t e = 1; e < s.n_experts - 1; e++) assert_int_equal(times(&s, 1, p, e), 0);
    }
    close_model(&s);
    free(experts);
    golden_free(g);
}

/* Steps of few rows, so that copies need several exchanges; micro-batches in flight; recomputation. */
static void test_the_schedule_changes_no_output(void **state)
{
    (void)state;
    enum { N_MORE = 40, N_OTHERS = 5 };
    golden *g = golden_load(folder);
    seen calm, busy;
    const cox_observation observation = {
        .sites = at_experts, .positions = everywhere, .is_counterfactual = true};
    open_model(&calm, folder, cox_engine_options_defaults());
    run(&calm, g, &observation, N_MORE, NULL);
    cox_engine_options options = cox_engine_options_defaults();
    options.has_prefix_cache = false; /* so that what lost its pages is computed again */
    options.max_rows = 40;
    options.prefill_chunk = 7;
    options.n_slots = 2;
    options.kv_bytes = 5 * harness_page_bytes(folder);
    open_model(&busy, folder, options);
    forget(&busy);
    harness_result results[N_OTHERS + 1];
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
    uint64_t arenas = cox_heap_allocations();
    while (cox_engine_n_sequences(harness_engine(busy.h)))
        assert_int_equal(cox_engine_step(harness_engine(busy.h)), COX_OK);
    assert_int_equal(cox_heap_allocations(), arenas);
    assert_memory_equal(calm.n, busy.n, n_places(&calm) * sizeof *calm.n);
    assert_memory_equal(calm.rows, busy.rows, n_places(&calm) * (size_t)calm.d_model * sizeof *calm.rows);
    for (int i = 0; i <= N_OTHERS; i++) harness_result_free(&results[i]);
    close_model(&calm);
    close_model(&busy);
    golden_free(g);
}

static void test_showing_takes_nothing_from_the_heap(void **state)
{
    (void)state;
    golden *g = golden_load(folder);
    seen s;
    open_model(&s, folder, cox_engine_options_defaults());
    const cox_observation observation = {
        .sites = at_experts, .positions = everywhere, .is_counterfactual = true};
    run(&s, g, &observation, 2, NULL); /* OpenMP's own first use */
    forget(&s);
    harness_result results[3];
    for (uint64_t i = 0; i < 3; i++) { /* three: libgomp takes memory when loops with and without threads
                                          alternate */
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
    for (int i = 0; i < 3; i++) harness_result_free(&results[i]);
    close_model(&s);
    golden_free(g);
}

static int open_cluster(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    return cox_cluster_create(&cluster, &options) == COX_OK ? 0 : -1;
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
        cmocka_unit_test(test_counterfactual_outputs_are_the_routed_ones_where_routed),
        cmocka_unit_test(test_outputs_are_those_of_transformers),
        cmocka_unit_test(test_routed_outputs_are_what_the_layer_sums),
        cmocka_unit_test(test_counterfactual_outputs_are_not_steered),
        cmocka_unit_test(test_only_the_experts_and_rows_asked_for_are_shown),
        cmocka_unit_test(test_the_schedule_changes_no_output),
        cmocka_unit_test(test_showing_takes_nothing_from_the_heap),
    };
    return cmocka_run_group_tests(tests, open_cluster, close_cluster);
}
