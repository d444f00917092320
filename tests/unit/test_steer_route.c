/*
 * Edits of the router's choice under every family's rule, against tests/golden/steer_ops/routes.json (made by
 * scripts/references/steering_ops.py, where transformers' own gates vouch for the unedited cases).
 */
#include "steering_model.h"

#include <math.h>

#include "steering/route_edit.h"

enum { MAX_EXPERTS = 32, MAX_EDITS = 8 };

static void floats_of(const json_t *list, float *out, int32_t n)
{
    assert_int_equal(json_array_size(list), n);
    for (int32_t i = 0; i < n; i++) out[i] = (float)json_number_value(json_array_get(list, (size_t)i));
}

static cox_router_config config_of(const json_t *json, int32_t n_experts)
{
    static const struct {
        const char *name;
        cox_router_rule rule;
    } rules[] = {{"softmax_topk", COX_ROUTER_SOFTMAX_TOPK},
                 {"topk_softmax", COX_ROUTER_TOPK_SOFTMAX},
                 {"softmax_groups", COX_ROUTER_SOFTMAX_GROUPS},
                 {"sigmoid_groups", COX_ROUTER_SIGMOID_GROUPS},
                 {"sparsemixer", COX_ROUTER_SPARSEMIXER}};
    cox_router_config config = {.n_experts = n_experts};
    const char *name = json_string_value(json_object_get(json, "rule"));
    size_t i = 0;
    while (strcmp(rules[i].name, name) != 0) assert_true(++i < sizeof rules / sizeof *rules);
    config.rule = rules[i].rule;
    config.top_k = (int32_t)json_integer_value(json_object_get(json, "top_k"));
    config.n_groups = (int32_t)json_integer_value(json_object_get(json, "n_groups"));
    config.topk_groups = (int32_t)json_integer_value(json_object_get(json, "topk_groups"));
    config.normalize = json_is_true(json_object_get(json, "normalize"));
    config.scaling = (float)json_number_value(json_object_get(json, "scaling"));
    config.jitter = (float)json_number_value(json_object_get(json, "jitter"));
    return config;
}

/* What the golden's edits are as a plan for layer 0; a pin's routes go into a file. */
static cox_plan *plan_of(const json_t *edits, cox_model *model)
{
    json_t *list = json_array(), *edit;
    size_t i;
    json_array_foreach((json_t *)edits, i, edit)
    {
        json_t *copy = json_deep_copy(edit);
        json_object_set_new(copy, "site", json_string("router_logits"));
        json_object_set_new(copy, "layer", json_integer(0));
        const json_t *experts = json_object_get(edit, "experts");
        if (experts) {
            int32_t pinned[COX_MAX_TOP_K];
            for (size_t j = 0; j < json_array_size(experts); j++) {
                pinned[j] = (int32_t)json_integer_value(json_array_get(experts, j));
            }
            const int32_t *layers[M_LAYERS] = {pinned};
            assert_int_equal(cox_pinned_routes_write(path_of("pin.safetensors"), layers, M_LAYERS, 1,
                                                     model->router.top_k, NULL),
                             COX_OK);
            json_object_del(copy, "experts");
            json_object_set_new(copy, "routes", json_string("pin.safetensors"));
        }
        json_array_append_new(list, copy);
    }
    json_t *json = json_pack("{s:o}", "interventions", list);
    cox_plan *plan = NULL;
    if (cox_plan_from_json(&plan, json, "plan", test_folder, model, NULL, false) != COX_OK)
        fail_msg("%s", cox_status_message());
    json_decref(json);
    return plan;
}

static void check_case(size_t number_of_case, const json_t *json, int32_t n_experts,
                       const cox_kernels *kernels)
{
    cox_model model = test_model();
    model.router = config_of(json_object_get(json, "config"), n_experts);
    const int32_t k = model.router.top_k;
    float logits[MAX_EXPERTS], biased[MAX_EXPERTS], correction[MAX_EXPERTS];
    floats_of(json_object_get(json, "logits"), logits, n_experts);
    const json_t *given = json_object_get(json, "correction");
    bool is_corrected = json_is_array(given);
    if (is_corrected) floats_of(given, correction, n_experts);
    cox_plan *plan = plan_of(json_object_get(json, "edits"), &model);
    int32_t n = 0;
    const int32_t *list = cox_plan_at(plan, 0, COX_SITE_ROUTER_LOGITS, &n);
    assert_int_equal(n, json_array_size(json_object_get(json, "edits")));
    void *scratch = malloc(cox_route_edit_scratch_bytes(&model.router));
    cox_route routes[COX_MAX_TOP_K];
    cox_steer_effect effects[MAX_EDITS];
    memcpy(biased, logits, sizeof logits);
    const cox_row_place place = {.layer = 0, .position = 0, .n_prompt = 1};
    cox_route_edit_apply(kernels, &model.router, is_corrected ? correction : NULL, plan, list, n, &place,
                         biased, scratch, routes, effects);
    const json_t *experts = json_object_get(json, "experts"), *weights = json_object_get(json, "weights");
    for (int32_t j = 0; j < k; j++) {
        double weight = json_number_value(json_array_get(weights, (size_t)j));
        if (routes[j].expert != json_integer_value(json_array_get(experts, (size_t)j)) ||
            !(fabs((double)routes[j].weight - weight) <= 2e-6 * fmax(1, fabs(weight)))) {
            fail_msg("case %zu, place %d: expert %d weight %.9g, not %lld %.9g", number_of_case, (int)j,
                     (int)routes[j].expert, (double)routes[j].weight,
                     (long long)json_integer_value(json_array_get(experts, (size_t)j)), weight);
        }
        assert_true(routes[j].logit == biased[routes[j].expert]);
    }
    for (int32_t i = 0; i < n; i++) {
        assert_true(effects[i].was_applied);
        assert_int_equal(effects[i].norm_added > 0, plan->interventions[i].op == COX_OP_BIAS);
    }
    if (n == 0) { /* and the same bits as without a plan */
        cox_route unedited[COX_MAX_TOP_K];
        memset(unedited, 0, sizeof unedited);
        cox_routes_choose(kernels, &model.router, is_corrected ? correction : NULL, logits, NULL, scratch,
                          unedited);
        assert_memory_equal(unedited, routes, (size_t)k * sizeof *routes);
    }
    free(scratch);
    cox_plan_free(plan);
}

static void test_goldens(void **state)
{
    (void)state;
    json_t *json = NULL, *item;
    if (cox_json_load_file(&json, "tests/golden/steer_ops/routes.json") != COX_OK)
        fail_msg("%s", cox_status_message());
    const int32_t n_experts = (int32_t)json_integer_value(json_object_get(json, "n_experts"));
    assert_in_range(n_experts, 1, MAX_EXPERTS);
    const json_t *cases = json_object_get(json, "cases");
    assert_true(json_array_size(cases) > 100);
    const cox_kernels *sets[] = {kernels_named("reference"), kernels_named(NULL)};
    size_t i;
    for (size_t s = 0; s < 2; s++) {
        json_array_foreach((json_t *)cases, i, item) check_case(i, item, n_experts, sets[s]);
    }
    json_decref(json);
}

/* Positions, strength 0, conditions and records that end: the row's routes are the natural ones, bit for bit.
 */
static void test_rows_out_of_scope(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    static const int32_t record[2 * M_TOP_K] = {6, 7, 6, 7};
    const int32_t *layers[M_LAYERS] = {record};
    float cue[M_EXPERTS] = {1, 1, 1, 1, 1, 1, 1, 1};
    assert_int_equal(cox_pinned_routes_write(path_of("two.safetensors"), layers, M_LAYERS, 2, M_TOP_K, NULL),
                     COX_OK);
    const cox_vector vector = {
        .name = "cue", .data = cue, .width = M_EXPERTS, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1};
    assert_int_equal(cox_vector_file_write(path_of("cue.safetensors"), &vector, 1), COX_OK);
    static const char biased_when[] = "'op': 'bias', 'expert': 7, 'value': 9,"
                                      "'when': {'vector': 'cue.safetensors', 'cosine_above': 0.999}";
    const char *const edits[] = {"'op': 'force_in', 'expert': 7, 'positions': 'generated'",
                                 "'op': 'force_out', 'expert': 0, 'strength': 0",
                                 "'op': 'pin', 'routes': 'two.safetensors'", biased_when};
    for (size_t i = 0; i < 4; i++) {
        char text[512];
        snprintf(text, sizeof text, "{'interventions': [{'site': 'router_logits', 'layer': 0, %s}]}",
                 edits[i]);
        if (load_plan(&plan, text, &model, false) != COX_OK) fail_msg("%s", cox_status_message());
        int32_t n = 0;
        const int32_t *list = cox_plan_at(plan, 0, COX_SITE_ROUTER_LOGITS, &n);
        float logits[M_EXPERTS] = {8, 7, 6, 5, 4, 3, 2, 1}, scratch[128];
        cox_route routes[M_TOP_K];
        cox_steer_effect effects[1] = {{0}};
        const cox_row_place place = {.layer = 0, .position = 2, .n_prompt = 5};
        assert_true(cox_route_edit_scratch_bytes(&model.router) <= sizeof scratch);
        cox_route_edit_apply(kernels_named(NULL), &model.router, NULL, plan, list, n, &place, logits, scratch,
                             routes, effects);
        assert_false(effects[0].was_applied);
        assert_int_equal(routes[0].expert, 0);
        assert_int_equal(routes[1].expert, 1);
        assert_true(logits[7] == 1);
        cox_plan_free(plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens),
                                       cmocka_unit_test(test_rows_out_of_scope)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
