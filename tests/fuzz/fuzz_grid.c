/* A sweep's grid of any bytes: an error, or cells that lie within the model and become plans. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/sweep_grid.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 3, EXPERTS = 6 };
static const cox_layer_spec layers[LAYERS] = {{true, 0}, {false, 0}, {true, 0}};
static const cox_model model = {.family_name = "fuzz",
                                .n_layers = LAYERS,
                                .d_model = 5,
                                .max_positions = 32,
                                .layers = layers,
                                .router = {.rule = COX_ROUTER_SOFTMAX_TOPK, .n_experts = EXPERTS, .top_k = 2},
                                .fingerprint = "f"};

static void check_cell(const cox_sweep_grid *grid, int64_t number)
{
    const cox_sweep_cell cell = cox_sweep_cell_at(grid, number);
    const cox_sweep_block *b = cell.block;
    if (cell.layer < 0 || cell.layer >= LAYERS || cell.expert < -1 || cell.expert >= EXPERTS) abort();
    if (!isfinite(cell.strength) || !cell.positions || cell.seed < 0 || cell.seed > b->n_seeds) abort();
    if (b->site == COX_SITE_EXPERT_OUT && !layers[cell.layer].is_moe) abort();
    json_t *plan = cox_sweep_cell_plan(grid, &cell, "v", "r"), *words = cox_sweep_cell_json(&cell);
    if (json_array_size(json_object_get(plan, "interventions")) == 0 || !words) abort();
    json_decref(plan);
    json_decref(words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = NULL;
    cox_sweep_grid *grid = NULL;
    if (cox_json_load_text(&json, (const char *)data, size, "fuzz") != COX_OK) return 0;
    if (cox_sweep_grid_parse(&grid, json, "fuzz", &model) == COX_OK) {
        int64_t step = grid->n_cells / 16 + 1;
        for (int64_t c = 0; c < grid->n_cells; c += step) check_cell(grid, c);
        check_cell(grid, grid->n_cells - 1);
        cox_sweep_grid_free(grid);
    }
    json_decref(json);
    return 0;
}
