/*
 * A declared grid of steering plans: blocks of sites x layers x experts x source positions x weightings x
 * scopes x strengths, every combination a cell. A cell is a plan as a person would write it, so what a sweep
 * says of a cell anybody can run again as a request of `coxswain batch`. The format is in docs/formats.md.
 * Pure functions: no MPI, no engine.
 */
#ifndef COX_STUDY_SWEEP_GRID_H
#define COX_STUDY_SWEEP_GRID_H

#include <jansson.h>

#include "base/arena.h"
#include "model/model.h"
#include "steering/plan.h"

/* What a cell steers with: the vector that was made for its place, or something that should do nothing. */
typedef enum cox_sweep_control {
    COX_SWEEP_DIRECTION,
    COX_SWEEP_RANDOM_DIRECTION, /* a random direction of the vector's norm, drawn by seed */
    COX_SWEEP_RANDOM_EXPERT     /* that of another expert of the layer, each drawn once, at the same norm */
} cox_sweep_control;
const char *cox_sweep_control_name(cox_sweep_control control);

typedef struct cox_sweep_block {
    const char *name;
    cox_site site;       /* of the vectors, and of the interventions unless apply_sites says others */
    cox_op op;           /* add or ablate */
    const char *vectors; /* path of the vector file, relative to the grid's folder */
    bool is_together;    /* all experts of a layer in one cell, each with its own vector */
    int32_t *layers, n_layers;
    int32_t *experts, n_experts; /* {-1} where the site has none, or together */
    int32_t *sources, n_sources; /* token that the vector was made at, counted from the end: -1 is the last;
                                    {0}: the file does not say ("SITE.LAYER", no "@") */
    cox_sweep_control control;
    int32_t n_seeds; /* of a control; else 1 */
    cox_weighting *weightings;
    int32_t n_weightings; /* 1 where the site has none */
    json_t *positions;    /* list of the plan's "positions", borrowed from the grid */
    float *strengths;
    int32_t n_strengths;
    cox_site *apply_sites; /* [n_apply_sites]; n_apply_sites 0: the vector's own site */
    int32_t n_apply_sites;
    bool applies_everywhere; /* at every layer, not only the vector's own */
    int64_t first, n_cells;  /* numbers of its cells */
} cox_sweep_block;

typedef struct cox_sweep_grid {
    cox_sweep_block *blocks;
    int32_t n_blocks, n_experts; /* n_experts: of a layer of the model */
    int64_t n_cells;
    json_t *json; /* as read; owned */
    cox_arena *arena;
} cox_sweep_grid;

/* Where a cell stands in its block. */
typedef struct cox_sweep_cell {
    int64_t number;
    const cox_sweep_block *block;
    int32_t layer, expert, source, seed; /* expert -1: none, or all together; seed: 0, or 1..n_seeds */
    cox_weighting weighting;
    const json_t *positions;
    float strength;
} cox_sweep_cell;

enum { COX_SWEEP_MAX_CELLS = 1 << 24 };

/* where: the file's name in messages. Errors, naming block and key: BAD_FILE, INVALID (unknown key or name,
 * layer or expert out of range, a site, operation or weighting that does not fit), UNSUPPORTED. */
cox_status cox_sweep_grid_parse(cox_sweep_grid **grid, json_t *json, const char *where,
                                const cox_model *model);
void cox_sweep_grid_free(cox_sweep_grid *grid); /* NULL is allowed */

/* Cell 0 <= number < n_cells. Blocks in the order of the file; within one strengths vary fastest, then
 * positions, weightings, seeds, sources, experts, layers: neighbours have most in common. */
cox_sweep_cell cox_sweep_cell_at(const cox_sweep_grid *grid, int64_t number);

/* The tensor of a cell (or, together, of its expert `expert`): SITE.LAYER[.EXPERT][@POS]. */
void cox_sweep_tensor_name(const cox_sweep_cell *cell, int32_t expert, char name[64]);
/* Of a control: what stands in its place in the file of random vectors, which has the same norm: the name
 * above and "~SEED" (random_direction) or "~expertN" (random_expert, the direction of expert N). */
void cox_sweep_control_tensor_name(const cox_sweep_grid *grid, const cox_sweep_cell *cell, int32_t expert,
                                   char name[96]);
/* Whose direction a random_expert control puts at an expert: another one of the layer, for each seed of 1 to
 * n_experts - 1 a different one. */
int32_t cox_sweep_other_expert(const cox_sweep_grid *grid, const cox_sweep_cell *cell, int32_t expert);

/* The plan of a cell; vectors: path of its block's file, randoms: of the file of its controls' vectors. Owned
 * by the caller; NULL: out of memory. */
json_t *cox_sweep_cell_plan(const cox_sweep_grid *grid, const cox_sweep_cell *cell, const char *vectors,
                            const char *randoms);

/* Places in words for tables: {"block", "site", "layer", ...}; owned by the caller. NULL: out of memory. */
json_t *cox_sweep_cell_json(const cox_sweep_cell *cell);

#endif
