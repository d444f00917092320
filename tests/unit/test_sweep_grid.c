/* Grids: the number and order of cells, the plan of a cell as a person would write it, and what is refused.
 */
#include "study/sweep_grid.h"
#include "steering_model.h"

static cox_status parse(cox_sweep_grid **grid, const char *text)
{
    char *copy = strdup(text);
    for (char *c = copy; *c; c++) {
        if (*c == '\'') *c = '"';
    }
    json_t *json = json_loads(copy, 0, NULL);
    if (!json) fail_msg("the test's grid is not JSON: %s", copy);
    cox_model model = test_model();
    cox_status status = cox_sweep_grid_parse(grid, json, "grid", &model);
    json_decref(json);
    free(copy);
    return status;
}

static void test_cells(void **state)
{
    (void)state;
    cox_sweep_grid *grid = NULL;
    if (parse(&grid,
              "{'version': 1, 'blocks': [{'name': 'residual', 'site': 'resid_post', 'op': 'ablate', "
              "'vectors': 'r.safetensors', 'layers': [1, 3]}, {'name': 'experts', 'site': 'expert_out', "
              "'vectors': 'e.safetensors', 'layers': [2], 'sources': [-1, -3], 'weightings': ['routed', "
              "'soft'], 'positions': ['all', {'last': 1}], 'strengths': [-4, 0.5, 8]}]}") != COX_OK)
        fail_msg("%s", cox_status_message());
    assert_int_equal(grid->n_cells, 2 + M_EXPERTS * 2 * 2 * 2 * 3);
    cox_sweep_cell cell = cox_sweep_cell_at(grid, 1);
    assert_string_equal(cell.block->name, "residual");
    assert_int_equal(cell.layer, 3);
    assert_int_equal(cell.expert, -1);
    /* strengths fastest, then positions, weightings, sources, experts */
    cell = cox_sweep_cell_at(grid, 2 + 1 + 3 * (1 + 2 * (1 + 2 * (1 + 2 * 5))));
    assert_true(cell.strength == 0.5F);
    assert_int_equal(json_integer_value(json_object_get(cell.positions, "last")), 1);
    assert_int_equal(cell.weighting, COX_WEIGHTING_SOFT);
    assert_int_equal(cell.source, -3);
    assert_int_equal(cell.expert, 5);
    assert_int_equal(cell.layer, 2);
    json_t *plan = cox_sweep_cell_plan(grid, &cell, "e.safetensors", "r");
    char *text = json_dumps(plan, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(
        text, "{\"interventions\":[{\"expert\":5,\"layer\":2,\"op\":\"add\",\"positions\":{\"last\":1},"
              "\"site\":\"expert_out\",\"strength\":0.5,\"vector\":\"e.safetensors#expert_out.2.5@-3\","
              "\"weighting\":\"soft\"}]}");
    free(text);
    json_decref(plan);
    cox_sweep_grid_free(grid);
}

static void test_together_and_apply(void **state)
{
    (void)state;
    cox_sweep_grid *grid = NULL;
    if (parse(&grid,
              "{'version': 1, 'blocks': [{'name': 'layer', 'site': 'expert_out', 'experts': 'together', "
              "'vectors': 'e', 'weightings': ['routed']}, {'name': 'all', 'site': 'resid_pre', 'op': "
              "'ablate', 'vectors': 'r', 'apply': {'sites': ['resid_pre', 'resid_mid'], 'layers': "
              "'all'}}]}") != COX_OK)
        fail_msg("%s", cox_status_message());
    cox_sweep_cell cell = cox_sweep_cell_at(grid, 0);
    json_t *plan = cox_sweep_cell_plan(grid, &cell, "e", "r");
    json_t *list = json_object_get(plan, "interventions");
    assert_int_equal(json_array_size(list), M_EXPERTS);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 3), "expert")), 3);
    json_decref(plan);
    cell = cox_sweep_cell_at(grid, grid->n_cells - 1);
    plan = cox_sweep_cell_plan(grid, &cell, "r", "x");
    list = json_object_get(plan, "interventions");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "layer")), "all");
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "vector_site")),
                        "resid_pre");
    assert_null(json_object_get(json_array_get(list, 0), "vector_site"));
    json_decref(plan);
    cox_sweep_grid_free(grid);
}

static void test_controls(void **state)
{
    (void)state;
    cox_sweep_grid *grid = NULL;
    if (parse(&grid,
              "{'version': 1, 'blocks': [{'name': 'd', 'site': 'expert_out', 'vectors': 'e', 'layers': [0], "
              "'weightings': ['routed'], 'control': 'random_direction', 'seeds': 2}, {'name': 'e', "
              "'site': 'expert_out', 'vectors': 'e', 'layers': [0], 'weightings': ['routed'], "
              "'control': 'random_expert', 'seeds': 3}]}") != COX_OK)
        fail_msg("%s", cox_status_message());
    assert_int_equal(grid->n_cells, M_EXPERTS * 5);
    cox_sweep_cell cell = cox_sweep_cell_at(grid, 1);
    json_t *plan = cox_sweep_cell_plan(grid, &cell, "e", "x");
    json_t *first = json_array_get(json_object_get(plan, "interventions"), 0);
    assert_string_equal(json_string_value(json_object_get(first, "vector")), "x#expert_out.0.0~2");
    json_decref(plan);
    for (int64_t c = 2 * M_EXPERTS; c < grid->n_cells; c++) { /* never its own */
        char own[96], name[96];
        cell = cox_sweep_cell_at(grid, c);
        int32_t other = cox_sweep_other_expert(grid, &cell, cell.expert);
        assert_in_range(other, 0, M_EXPERTS - 1);
        assert_int_not_equal(other, cell.expert);
        snprintf(own, sizeof own, "expert_out.0.%d~expert%d", (int)cell.expert, (int)other);
        cox_sweep_control_tensor_name(grid, &cell, cell.expert, name);
        assert_string_equal(own, name);
    }
    cox_sweep_grid_free(grid);
}

/* Each other expert once, and the k-th draw is the same however many there are. */
static void test_other_experts(void **state)
{
    (void)state;
    cox_sweep_grid *few = NULL, *all = NULL;
    char text[300];
    for (int k = 0; k < 2; k++) {
        snprintf(text, sizeof text,
                 "{'version': 1, 'blocks': [{'name': 'e', 'site': 'expert_out', 'vectors': 'e', "
                 "'weightings': ['routed'], 'control': 'random_expert', 'seeds': %d}]}",
                 k ? M_EXPERTS - 1 : 2);
        if (parse(k ? &all : &few, text) != COX_OK) fail_msg("%s", cox_status_message());
    }
    for (int64_t c = 0; c < all->n_cells; c += M_EXPERTS - 1) { /* seeds vary fastest here */
        bool is_drawn[M_EXPERTS] = {false};
        for (int32_t k = 0; k < M_EXPERTS - 1; k++) {
            cox_sweep_cell cell = cox_sweep_cell_at(all, c + k);
            int32_t other = cox_sweep_other_expert(all, &cell, cell.expert);
            assert_int_equal(cell.seed, k + 1);
            assert_false(is_drawn[other] || other == cell.expert);
            is_drawn[other] = true;
            if (k > 1) continue;
            cox_sweep_cell same = cox_sweep_cell_at(few, c / (M_EXPERTS - 1) * 2 + k);
            assert_int_equal(cox_sweep_other_expert(few, &same, same.expert), other);
        }
    }
    cox_sweep_grid_free(few);
    cox_sweep_grid_free(all);
}

static void refused(const char *text, const char *words)
{
    cox_sweep_grid *grid = NULL;
    if (parse(&grid, text) == COX_OK || !strstr(cox_status_message(), words))
        fail_msg("%s: %s", text, cox_status_message());
}

static void test_refusals(void **state)
{
    (void)state;
    refused("{'version': 2, 'blocks': []}", "outside 1 to 1");
    refused("{'version': 1, 'blocks': []}", "1 to 4096 blocks");
    refused("{'version': 1, 'blocks': [{'site': 'resid_post', 'vectors': 'v'}]}", "\"name\" is missing");
#define ONE(fields) "{'version': 1, 'blocks': [{'name': 'n', 'vectors': 'v', " fields "}]}"
    refused(ONE("'site': 'nowhere'"), "\"nowhere\"");
    refused(ONE("'site': 'resid_psot'"), "did you mean \"resid_post\"");
    refused(ONE("'site': 'resid_post', 'op': 'ablat'"), "did you mean \"ablate\"");
    refused(ONE("'site': 'resid_post', 'apply': {'sites': ['resid_mdi']}"), "did you mean \"resid_mid\"");
    refused(ONE("'site': 'expert_out', 'weightings': ['sof']"), "did you mean \"soft\"");
    refused(ONE("'site': 'resid_post', 'control': 'random_diretion'"), "did you mean \"random_direction\"");
    refused(ONE("'site': 'resid_post', 'layer': 3"), "unknown key \"layer\"");
    refused(ONE("'site': 'resid_post', 'layers': [77]"), "\"layers\": item 0");
    refused(ONE("'site': 'resid_post', 'layers': [1, 1]"), "listed twice");
    refused(ONE("'site': 'resid_post', 'weightings': ['soft']"), "\"weightings\" belongs to site expert_out");
    refused(ONE("'site': 'resid_post', 'experts': [1]"), "\"experts\" belongs to site expert_out");
    refused(ONE("'site': 'expert_out'"), "needs key \"weightings\"");
    refused(ONE("'site': 'expert_out', 'weightings': ['soft'], 'op': 'ablate'"), "takes op \"add\" only");
    refused(ONE("'site': 'resid_post', 'strengths': [1, 'x']"), "\"strengths\": item 1");
    refused(ONE("'site': 'resid_post', 'seeds': 3"), "\"seeds\" belongs to a control");
    refused(ONE("'site': 'resid_post', 'control': 'random_expert'"), "is for expert_out");
    refused(ONE("'site': 'resid_post', 'sources': [0]"), "\"sources\": item 0");
    refused(ONE("'site': 'expert_out', 'weightings': ['soft'], 'control': 'random_expert', 'seeds': 999"),
            "block 0: key \"seeds\" is 999, but an expert of this model has");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cells),
                                       cmocka_unit_test(test_together_and_apply),
                                       cmocka_unit_test(test_controls), cmocka_unit_test(test_other_experts),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
