/* Reading a grid: every key checked, because a sweep that silently does less than it says is a wrong map. */
#include "study/sweep_grid.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/nearest.h"

typedef struct reader {
    cox_sweep_grid *grid;
    const cox_model *model;
    const json_t *json; /* the block's */
    char where[600];
} reader;

static const char *const control_names[] = {"direction", "random_direction", "random_expert"};

const char *cox_sweep_control_name(cox_sweep_control control)
{
    return control_names[control];
}

/* words: the known ones, parted by ", ". */
static cox_status unknown_word(const reader *r, const char *key, const char *word, const char *words)
{
    cox_nearest nearest = cox_nearest_to(word, strlen(word));
    cox_nearest_offer_words(&nearest, words, ", ");
    return cox_fail(COX_INVALID, "%s: key %s is \"%.60s\"; a grid takes %s%s", r->where, key, word, words,
                    nearest.hint);
}

/* --- Lists --- */

/* [out] *list: integers of [low, high] from a list; *n is at least 1. */
static cox_status read_integers(const reader *r, const char *key, const json_t *value, int32_t low,
                                int32_t high, int32_t **list, int32_t *n)
{
    size_t n_items = json_array_size(value);
    if (!json_is_array(value) || n_items == 0)
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a list of integers", r->where, key);
    *list = cox_arena_array(r->grid->arena, n_items, sizeof **list);
    if (!*list) return COX_NO_MEMORY;
    for (size_t i = 0; i < n_items; i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t number = json_integer_value(item);
        if (!json_is_integer(item) || number < low || number > high) {
            return cox_fail(COX_INVALID, "%s: key \"%s\": item %zu must be an integer from %d to %d",
                            r->where, key, i, (int)low, (int)high);
        }
        (*list)[i] = (int32_t)number;
        for (size_t j = 0; j < i; j++) {
            if ((*list)[j] == (*list)[i])
                return cox_fail(COX_INVALID, "%s: key \"%s\": %d is listed twice", r->where, key,
                                (int)(*list)[i]);
        }
    }
    *n = (int32_t)n_items;
    return COX_OK;
}

static cox_status one_integer(const reader *r, int32_t value, int32_t **list, int32_t *n)
{
    *list = cox_arena_array(r->grid->arena, 1, sizeof **list);
    if (!*list) return COX_NO_MEMORY;
    **list = value;
    *n = 1;
    return COX_OK;
}

static bool is_word(const json_t *value, const char *word)
{
    return json_is_string(value) && strcmp(json_string_value(value), word) == 0;
}

static cox_status read_layers(const reader *r, cox_sweep_block *b)
{
    const json_t *value = json_object_get(r->json, "layers");
    const cox_model *model = r->model;
    if (!value || is_word(value, "all")) {
        b->layers = cox_arena_array(r->grid->arena, (size_t)model->n_layers, sizeof *b->layers);
        if (!b->layers) return COX_NO_MEMORY;
        for (int32_t l = 0; l < model->n_layers; l++) {
            if (!cox_site_needs_experts(b->site) || model->layers[l].is_moe) b->layers[b->n_layers++] = l;
        }
        if (b->n_layers > 0) return COX_OK;
        return cox_fail(COX_INVALID, "%s: no layer of the model has experts", r->where);
    }
    cox_status status = read_integers(r, "layers", value, 0, model->n_layers - 1, &b->layers, &b->n_layers);
    for (int32_t i = 0; i < b->n_layers && status == COX_OK; i++) {
        if (cox_site_needs_experts(b->site) && !model->layers[b->layers[i]].is_moe)
            status = cox_fail(COX_INVALID, "%s: layer %d has no experts", r->where, (int)b->layers[i]);
    }
    return status;
}

static cox_status read_experts(const reader *r, cox_sweep_block *b)
{
    const json_t *value = json_object_get(r->json, "experts");
    if (b->site != COX_SITE_EXPERT_OUT) {
        if (value)
            return cox_fail(COX_INVALID, "%s: key \"experts\" belongs to site expert_out only", r->where);
        return one_integer(r, -1, &b->experts, &b->n_experts);
    }
    b->is_together = is_word(value, "together");
    if (b->is_together) return one_integer(r, -1, &b->experts, &b->n_experts);
    int32_t n = r->model->router.n_experts;
    if (json_is_array(value)) return read_integers(r, "experts", value, 0, n - 1, &b->experts, &b->n_experts);
    if (value && !is_word(value, "each"))
        return cox_fail(COX_INVALID, "%s: key \"experts\" must be \"each\", \"together\" or a list",
                        r->where);
    b->experts = cox_arena_array(r->grid->arena, (size_t)n, sizeof *b->experts);
    if (!b->experts) return COX_NO_MEMORY;
    for (int32_t e = 0; e < n; e++) b->experts[e] = e;
    b->n_experts = n;
    return COX_OK;
}

static cox_status read_sources(const reader *r, cox_sweep_block *b)
{
    const json_t *value = json_object_get(r->json, "sources");
    if (!value) return one_integer(r, 0, &b->sources, &b->n_sources);
    return read_integers(r, "sources", value, -(1 << 20), -1, &b->sources, &b->n_sources);
}

static cox_status read_strengths(const reader *r, cox_sweep_block *b)
{
    const json_t *value = json_object_get(r->json, "strengths");
    size_t n = value ? json_array_size(value) : 1;
    if (value && (!json_is_array(value) || n == 0))
        return cox_fail(COX_BAD_FILE, "%s: key \"strengths\" must be a list of numbers", r->where);
    b->strengths = cox_arena_array(r->grid->arena, n, sizeof *b->strengths);
    if (!b->strengths) return COX_NO_MEMORY;
    b->strengths[0] = 1;
    for (size_t i = 0; value && i < n; i++) {
        const json_t *item = json_array_get(value, i);
        b->strengths[i] = (float)json_number_value(item);
        if (!json_is_number(item) || !isfinite(b->strengths[i]))
            return cox_fail(COX_INVALID, "%s: key \"strengths\": item %zu is not a finite number", r->where,
                            i);
    }
    b->n_strengths = (int32_t)n;
    return COX_OK;
}

static cox_status read_positions(const reader *r, cox_sweep_block *b)
{
    json_t *value = json_object_get(r->json, "positions");
    if (!value) {
        value = json_pack("[s]", "all");
        if (!value || json_object_set_new((json_t *)r->json, "positions", value) != 0)
            return cox_no_memory(r->where);
    }
    if (!json_is_array(value) || json_array_size(value) == 0)
        return cox_fail(COX_BAD_FILE, "%s: key \"positions\" must be a list of scopes", r->where);
    b->positions = value;
    return COX_OK;
}

/* --- Names --- */

static cox_status find_weighting(const reader *r, const char *name, cox_weighting *out)
{
    for (int i = 0; i < COX_N_WEIGHTINGS; i++) {
        if (name && strcmp(cox_weighting_name((cox_weighting)i), name) == 0) {
            *out = (cox_weighting)i;
            return COX_OK;
        }
    }
    return unknown_word(r, "\"weightings\"", name ? name : "", "routed, post_gate, soft, unweighted");
}

static cox_status read_weightings(const reader *r, cox_sweep_block *b)
{
    const json_t *value = json_object_get(r->json, "weightings");
    bool has_them = b->site == COX_SITE_EXPERT_OUT;
    size_t n = value ? json_array_size(value) : 1;
    if (value && !has_them)
        return cox_fail(COX_INVALID, "%s: key \"weightings\" belongs to site expert_out only", r->where);
    if (has_them && !json_is_array(value))
        return cox_fail(COX_INVALID, "%s: expert_out needs key \"weightings\", a list", r->where);
    b->weightings = cox_arena_array(r->grid->arena, n ? n : 1, sizeof *b->weightings);
    if (!b->weightings) return COX_NO_MEMORY;
    cox_status status = n ? COX_OK : find_weighting(r, NULL, b->weightings);
    for (size_t i = 0; i < n && has_them && status == COX_OK; i++) {
        status = find_weighting(r, json_string_value(json_array_get(value, i)), &b->weightings[i]);
        if (status == COX_OK && b->op != COX_OP_ADD && b->weightings[i] != COX_WEIGHTING_ROUTED) {
            status = cox_fail(COX_INVALID, "%s: weighting \"%s\" takes op \"add\" only", r->where,
                              cox_weighting_name(b->weightings[i]));
        }
    }
    b->n_weightings = (int32_t)n;
    return status;
}

static cox_status read_op(const reader *r, cox_sweep_block *b)
{
    const char *name = "add";
    cox_status status = cox_json_string(r->json, r->where, "op", false, &name);
    if (status != COX_OK) return status;
    b->op = strcmp(name, "ablate") == 0 ? COX_OP_ABLATE : COX_OP_ADD;
    if (strcmp(name, cox_op_name(b->op)) == 0) return COX_OK;
    return unknown_word(r, "\"op\"", name, "add, ablate");
}

static cox_status read_site(const reader *r, cox_sweep_block *b)
{
    const char *name = NULL;
    cox_status status = cox_json_string(r->json, r->where, "site", true, &name);
    if (status != COX_OK) return status;
    b->site = cox_site_find(name);
    if (b->site != COX_SITE_UNSTATED && b->site != COX_SITE_ROUTER_LOGITS) return COX_OK;
    return unknown_word(r, "\"site\"", name,
                        "resid_pre, attn_out, resid_mid, expert_out, moe_out, resid_post");
}

/* {"apply": {"sites": [...], "layers": "all"}}: the vector at more places than its own. */
static cox_status read_apply(const reader *r, cox_sweep_block *b)
{
    static const char *const known[] = {"sites", "layers"};
    const json_t *apply = json_object_get(r->json, "apply");
    if (!apply) return COX_OK;
    if (!json_is_object(apply) || b->site == COX_SITE_EXPERT_OUT)
        return cox_fail(COX_INVALID, "%s: key \"apply\" is an object, and not for expert_out", r->where);
    cox_status status = cox_json_check_keys(apply, r->where, known, 2);
    if (status != COX_OK) return status;
    const json_t *layers = json_object_get(apply, "layers"), *sites = json_object_get(apply, "sites");
    if (layers && !is_word(layers, "all") && !is_word(layers, "own"))
        return cox_fail(COX_INVALID, "%s: key \"apply\".\"layers\" must be \"all\" or \"own\"", r->where);
    b->applies_everywhere = is_word(layers, "all");
    size_t n = json_array_size(sites);
    if (sites && (!json_is_array(sites) || n == 0))
        return cox_fail(COX_INVALID, "%s: key \"apply\".\"sites\" must be a list of sites", r->where);
    b->apply_sites = cox_arena_array(r->grid->arena, n ? n : 1, sizeof *b->apply_sites);
    if (!b->apply_sites) return COX_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(sites, i));
        cox_site site = name ? cox_site_find(name) : COX_SITE_UNSTATED;
        if (site == COX_SITE_UNSTATED || cox_site_needs_experts(site))
            return unknown_word(r, "\"apply\".\"sites\"", name ? name : "",
                                "resid_pre, attn_out, resid_mid, moe_out, resid_post");
        b->apply_sites[b->n_apply_sites++] = site;
    }
    return COX_OK;
}

static cox_status read_control(const reader *r, cox_sweep_block *b)
{
    const char *name = control_names[0];
    int64_t n_seeds = 1;
    b->n_seeds = 1;
    cox_status status = cox_json_string(r->json, r->where, "control", false, &name);
    if (status == COX_OK) status = cox_json_int(r->json, r->where, "seeds", false, 1, 1 << 20, &n_seeds);
    if (status != COX_OK) return status;
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, control_names[i]) != 0) continue;
        b->control = (cox_sweep_control)i;
        b->n_seeds = (int32_t)n_seeds;
        if (i == COX_SWEEP_DIRECTION && json_object_get(r->json, "seeds"))
            return cox_fail(COX_INVALID, "%s: key \"seeds\" belongs to a control", r->where);
        if (i == COX_SWEEP_RANDOM_EXPERT &&
            (b->site != COX_SITE_EXPERT_OUT || r->model->router.n_experts < 2))
            return cox_fail(COX_INVALID, "%s: control \"random_expert\" is for expert_out", r->where);
        int32_t n_others = r->model->router.n_experts - 1;
        if (i == COX_SWEEP_RANDOM_EXPERT && n_seeds > n_others) {
            return cox_fail(COX_INVALID,
                            "%s: key \"seeds\" is %d, but an expert of this model has %d others, each drawn "
                            "once; ask for at most %d",
                            r->where, (int)n_seeds, (int)n_others, (int)n_others);
        }
        return COX_OK;
    }
    return unknown_word(r, "\"control\"", name, "random_direction, random_expert");
}

/* --- Blocks --- */

static cox_status read_block(const reader *r, cox_sweep_block *b)
{
    static const char *const known[] = {"name",    "site",      "layers",     "experts", "op",
                                        "vectors", "sources",   "weightings", "apply",   "control",
                                        "seeds",   "positions", "strengths"};
    cox_status status = cox_json_check_keys(r->json, r->where, known, sizeof known / sizeof *known);
    const char *name = "";
    if (status == COX_OK) status = cox_json_string(r->json, r->where, "name", true, &name);
    if (status == COX_OK) status = cox_json_string(r->json, r->where, "vectors", true, &b->vectors);
    b->name = name;
    if (status == COX_OK) status = read_site(r, b);
    if (status == COX_OK) status = read_op(r, b);
    if (status == COX_OK) status = read_layers(r, b);
    if (status == COX_OK) status = read_experts(r, b);
    if (status == COX_OK) status = read_sources(r, b);
    if (status == COX_OK) status = read_control(r, b);
    if (status == COX_OK) status = read_weightings(r, b);
    if (status == COX_OK) status = read_positions(r, b);
    if (status == COX_OK) status = read_strengths(r, b);
    if (status == COX_OK) status = read_apply(r, b);
    if (status != COX_OK) return status;
    b->n_cells = 1;
    const int64_t sizes[] = {b->n_layers,   b->n_experts,    b->n_sources,
                             b->n_seeds,    b->n_weightings, (int64_t)json_array_size(b->positions),
                             b->n_strengths};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        b->n_cells *= sizes[i];
        if (b->n_cells > COX_SWEEP_MAX_CELLS)
            return cox_fail(COX_INVALID, "%s: more than %d cells", r->where, COX_SWEEP_MAX_CELLS);
    }
    return COX_OK;
}

static cox_status read_blocks(cox_sweep_grid *grid, const char *where, const cox_model *model)
{
    static const char *const known[] = {"version", "blocks"};
    int64_t version = 0;
    cox_status status = cox_json_check_keys(grid->json, where, known, 2);
    if (status == COX_OK) status = cox_json_int(grid->json, where, "version", true, 1, 1, &version);
    if (status != COX_OK) return status;
    const json_t *list = json_object_get(grid->json, "blocks");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > 4096)
        return cox_fail(COX_BAD_FILE, "%s: key \"blocks\" must be a list of 1 to 4096 blocks", where);
    grid->blocks = cox_arena_array(grid->arena, n, sizeof *grid->blocks);
    if (!grid->blocks) return COX_NO_MEMORY;
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        reader r = {.grid = grid, .model = model, .json = json_array_get(list, i)};
        snprintf(r.where, sizeof r.where, "%.500s: block %zu", where, i);
        cox_sweep_block *b = &grid->blocks[grid->n_blocks++];
        status = read_block(&r, b);
        b->first = grid->n_cells;
        grid->n_cells += b->n_cells;
        if (status == COX_OK && grid->n_cells > COX_SWEEP_MAX_CELLS)
            status = cox_fail(COX_INVALID, "%s: more than %d cells", where, COX_SWEEP_MAX_CELLS);
        for (size_t j = 0; j < i && status == COX_OK; j++) {
            if (strcmp(grid->blocks[j].name, b->name) == 0)
                status = cox_fail(COX_INVALID, "%s: blocks %zu and %zu are both called \"%s\"", where, j, i,
                                  b->name);
        }
    }
    return status;
}

cox_status cox_sweep_grid_parse(cox_sweep_grid **grid, json_t *json, const char *where,
                                const cox_model *model)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "grid", 0);
    if (status != COX_OK) return status;
    cox_sweep_grid *fresh = cox_arena_alloc(arena, sizeof *fresh);
    if (!fresh) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    *fresh =
        (cox_sweep_grid){.json = json_deep_copy(json), .n_experts = model->router.n_experts, .arena = arena};
    status = fresh->json ? COX_OK : cox_no_memory(where);
    if (status == COX_OK) status = read_blocks(fresh, where, model);
    if (status == COX_OK) {
        *grid = fresh;
    } else {
        cox_sweep_grid_free(fresh);
    }
    return status;
}

void cox_sweep_grid_free(cox_sweep_grid *grid)
{
    if (!grid) return;
    json_decref(grid->json);
    cox_arena_destroy(grid->arena);
}
