/* A grid's cells: where the n-th stands, and the plan that a person would write for it. */
#include <stdio.h>
#include <string.h>

#include "steering/random.h"
#include "study/sweep_grid.h"

/* The lowest digit of *rest in base n, taken off. */
static int32_t take(int64_t *rest, int64_t n)
{
    int32_t digit = (int32_t)(*rest % n);
    *rest /= n;
    return digit;
}

cox_sweep_cell cox_sweep_cell_at(const cox_sweep_grid *grid, int64_t number)
{
    int32_t i = 0;
    while (number >= grid->blocks[i].first + grid->blocks[i].n_cells) i++;
    const cox_sweep_block *b = &grid->blocks[i];
    int64_t rest = number - b->first;
    cox_sweep_cell cell = {.number = number, .block = b};
    cell.strength = b->strengths[take(&rest, b->n_strengths)];
    cell.positions =
        json_array_get(b->positions, (size_t)take(&rest, (int64_t)json_array_size(b->positions)));
    cell.weighting = b->weightings[take(&rest, b->n_weightings)];
    cell.seed = take(&rest, b->n_seeds) + (b->control != COX_SWEEP_DIRECTION);
    cell.source = b->sources[take(&rest, b->n_sources)];
    cell.expert = b->experts[take(&rest, b->n_experts)];
    cell.layer = b->layers[rest];
    return cell;
}

/* The place that step `step` of a Fisher-Yates shuffle of the n others swaps with its own: one of step..n-1.
 */
static int32_t swapped_with(const cox_sweep_cell *cell, int32_t expert, int32_t n, int32_t step)
{
    cox_random random = {((uint64_t)(uint32_t)(step + 1) << 40) ^ ((uint64_t)(uint32_t)cell->layer << 20) ^
                         (uint64_t)(uint32_t)expert};
    cox_random_next(&random);
    return step + cox_random_below(&random, n - step);
}

/* A shuffle, so that no two seeds draw the same expert; traced back from where its step `seed` puts one,
 * which needs no memory, and is the same however many draws are asked for. */
int32_t cox_sweep_other_expert(const cox_sweep_grid *grid, const cox_sweep_cell *cell, int32_t expert)
{
    int32_t n = grid->n_experts - 1, at = swapped_with(cell, expert, n, cell->seed - 1);
    for (int32_t step = cell->seed - 2; step >= 0; step--) {
        if (at == swapped_with(cell, expert, n, step)) at = step;
    }
    return (expert + 1 + at) % grid->n_experts;
}

void cox_sweep_tensor_name(const cox_sweep_cell *cell, int32_t expert, char name[64])
{
    char where[16] = "", position[16] = "";
    if (expert >= 0) snprintf(where, sizeof where, ".%d", (int)expert);
    if (cell->source) snprintf(position, sizeof position, "@%d", (int)cell->source);
    snprintf(name, 64, "%s.%d%s%s", cox_site_name(cell->block->site), (int)cell->layer, where, position);
}

void cox_sweep_control_tensor_name(const cox_sweep_grid *grid, const cox_sweep_cell *cell, int32_t expert,
                                   char name[96])
{
    char tensor[64];
    cox_sweep_tensor_name(cell, expert, tensor);
    if (cell->block->control == COX_SWEEP_RANDOM_EXPERT)
        snprintf(name, 96, "%s~expert%d", tensor, (int)cox_sweep_other_expert(grid, cell, expert));
    else
        snprintf(name, 96, "%s~%d", tensor, (int)cell->seed);
}

/* One intervention at `site`, of expert `expert` (-1: the site has none). */
static json_t *intervention(const cox_sweep_grid *grid, const cox_sweep_cell *cell, cox_site site,
                            int32_t expert, const char *vectors, const char *randoms)
{
    const cox_sweep_block *b = cell->block;
    bool is_control = b->control != COX_SWEEP_DIRECTION;
    char name[96];
    if (is_control)
        cox_sweep_control_tensor_name(grid, cell, expert, name);
    else
        cox_sweep_tensor_name(cell, expert, name);
    json_t *json = json_pack("{s:s, s:s, s:s, s:o*, s:f, s:O}", "site", cox_site_name(site), "op",
                             cox_op_name(b->op), "vector_site", cox_site_name(b->site), "vector",
                             json_sprintf("%s#%s", is_control ? randoms : vectors, name), "strength",
                             (double)cell->strength, "positions", cell->positions);
    if (!json) return NULL;
    if (site == b->site) json_object_del(json, "vector_site");
    json_object_set_new(json, "layer",
                        b->applies_everywhere ? json_string("all") : json_integer(cell->layer));
    if (expert < 0) return json;
    json_object_set_new(json, "expert", json_integer(expert));
    json_object_set_new(json, "weighting", json_string(cox_weighting_name(cell->weighting)));
    return json;
}

json_t *cox_sweep_cell_plan(const cox_sweep_grid *grid, const cox_sweep_cell *cell, const char *vectors,
                            const char *randoms)
{
    const cox_sweep_block *b = cell->block;
    json_t *list = json_array();
    int32_t n_experts = b->is_together ? grid->n_experts : 1;
    int32_t n_sites = b->n_apply_sites ? b->n_apply_sites : 1;
    for (int32_t e = 0; e < n_experts; e++) {
        for (int32_t s = 0; s < n_sites; s++) {
            cox_site site = b->n_apply_sites ? b->apply_sites[s] : b->site;
            int32_t expert = b->is_together ? e : cell->expert;
            json_t *item = intervention(grid, cell, site, expert, vectors, randoms);
            if (!list || json_array_append_new(list, item) != 0) {
                json_decref(list);
                return NULL;
            }
        }
    }
    return json_pack("{s:o}", "interventions", list);
}

json_t *cox_sweep_cell_json(const cox_sweep_cell *cell)
{
    const cox_sweep_block *b = cell->block;
    json_t *json = json_pack("{s:I, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:O, s:f}", "cell",
                             (json_int_t)cell->number, "block", b->name, "site", cox_site_name(b->site), "op",
                             cox_op_name(b->op), "control", cox_sweep_control_name(b->control), "seed",
                             (int)cell->seed, "layer", (int)cell->layer, "source", (int)cell->source,
                             "positions", cell->positions, "strength", (double)cell->strength);
    if (!json || b->site != COX_SITE_EXPERT_OUT) return json;
    json_object_set_new(json, "expert",
                        b->is_together ? json_string("together") : json_integer(cell->expert));
    json_object_set_new(json, "weighting", json_string(cox_weighting_name(cell->weighting)));
    return json;
}
