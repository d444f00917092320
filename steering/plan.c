/*
 * The plan in memory: its making and end, positions, the index by layer and site that the engine's step
 * reads, and what makes two plans equal.
 */
#include "steering/plan.h"

#include <math.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "steering/internal.h"

bool cox_positions_contain(const cox_positions *positions, int32_t position, int32_t n_prompt)
{
    switch (positions->span) {
    case COX_SPAN_ALL: return true;
    case COX_SPAN_PROMPT: return position < n_prompt;
    case COX_SPAN_GENERATED: return position >= n_prompt;
    case COX_SPAN_LAST: return position < n_prompt && position >= n_prompt - positions->from;
    case COX_SPAN_RANGE: return position >= positions->from && position < positions->to;
    }
    return false;
}

void cox_positions_resolve(const cox_positions *positions, int32_t n_prompt, int32_t *from, int32_t *to)
{
    *from = 0, *to = INT32_MAX;
    switch (positions->span) {
    case COX_SPAN_ALL: break;
    case COX_SPAN_PROMPT: *to = n_prompt; break;
    case COX_SPAN_GENERATED: *from = n_prompt; break;
    case COX_SPAN_LAST:
        *from = n_prompt > positions->from ? n_prompt - positions->from : 0;
        *to = n_prompt;
        break;
    case COX_SPAN_RANGE: *from = positions->from, *to = positions->to; break;
    }
}

cox_status cox__plan_create(cox_plan **plan, int32_t n_layers, int32_t n_experts, int32_t d_model)
{
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "plan", 0);
    if (status != COX_OK) return status;
    cox_plan *fresh = cox_arena_alloc(arena, sizeof *fresh);
    if (!fresh) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    *fresh = (cox_plan){.name = "",
                        .n_layers = n_layers,
                        .n_experts = n_experts,
                        .d_model = d_model,
                        .n_owners = 1,
                        .arena = arena};
    *plan = fresh;
    return COX_OK;
}

cox_plan *cox_plan_share(cox_plan *plan)
{
    plan->n_owners++;
    return plan;
}

void cox_plan_free(cox_plan *plan)
{
    if (plan && --plan->n_owners == 0) cox_arena_destroy(plan->arena);
}

const int32_t *cox_plan_at(const cox_plan *plan, int32_t layer, cox_site site, int32_t *n)
{
    const int32_t *offset = &plan->site_offsets[layer * COX_N_SITES + (int32_t)site];
    *n = offset[1] - offset[0];
    return plan->site_list + offset[0];
}

static bool is_at(const cox_intervention *v, int32_t layer, int32_t site)
{
    return (int32_t)v->site == site && v->strength != 0 && v->layers[layer];
}

static cox_status build_index(cox_plan *plan)
{
    int32_t n_places = plan->n_layers * COX_N_SITES;
    int32_t *offsets = cox_arena_array(plan->arena, (size_t)n_places + 1, sizeof *offsets);
    if (!offsets) return COX_NO_MEMORY;
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        for (int32_t l = 0; l < plan->n_layers; l++) {
            if (is_at(v, l, (int32_t)v->site)) offsets[l * COX_N_SITES + (int32_t)v->site + 1]++;
        }
    }
    for (int32_t p = 0; p < n_places; p++) offsets[p + 1] += offsets[p];
    int32_t *list = cox_arena_array(plan->arena, (size_t)offsets[n_places], sizeof *list);
    int32_t *next = cox_arena_array(plan->arena, (size_t)n_places, sizeof *next);
    if (!list || !next) return COX_NO_MEMORY;
    memcpy(next, offsets, (size_t)n_places * sizeof *next);
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        for (int32_t l = 0; l < plan->n_layers; l++) {
            if (is_at(v, l, (int32_t)v->site)) list[next[l * COX_N_SITES + (int32_t)v->site]++] = i;
        }
    }
    plan->site_offsets = offsets;
    plan->site_list = list;
    return COX_OK;
}

static void hash_row(SHA2_CTX *sha, const float *row, int32_t width)
{
    const uint8_t is_there = row != NULL;
    SHA256Update(sha, &is_there, 1);
    if (row) SHA256Update(sha, (const uint8_t *)row, (size_t)width * sizeof *row);
}

static uint64_t first_bytes(SHA2_CTX *sha)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256Final(digest, sha);
    uint64_t hash = 0;
    for (int i = 7; i >= 0; i--) hash = hash << 8 | digest[i];
    return hash;
}

static void hash_pinned(SHA2_CTX *sha, const cox_pinned_routes *routes)
{
    for (int32_t l = 0; routes && l < routes->n_layers; l++) {
        const uint8_t is_there = routes->layers[l] != NULL;
        SHA256Update(sha, &is_there, 1);
        if (!is_there) continue;
        size_t n = (size_t)routes->n_tokens * (size_t)routes->top_k;
        SHA256Update(sha, (const uint8_t *)routes->layers[l], n * sizeof *routes->layers[l]);
    }
}

static uint64_t hash_intervention(const cox_intervention *v, int32_t n_experts)
{
    SHA2_CTX sha;
    SHA256Init(&sha);
    const int32_t whole[] = {(int32_t)v->site,           (int32_t)v->op,    (int32_t)v->weighting,
                             (int32_t)v->positions.span, v->positions.from, v->positions.to,
                             v->preserve_norm,           v->width,          v->experts != NULL,
                             v->pinned != NULL};
    const float real[] = {v->strength, v->reference_dot, v->value, v->alpha,
                          v->factor,   v->cosine,        v->sine,  v->cosine_above};
    SHA256Update(&sha, (const uint8_t *)whole, sizeof whole);
    SHA256Update(&sha, (const uint8_t *)real, sizeof real);
    if (v->experts) SHA256Update(&sha, v->experts, (size_t)n_experts);
    hash_row(&sha, v->vector, v->width);
    hash_row(&sha, v->unit2, v->width);
    hash_row(&sha, v->when, v->width);
    hash_pinned(&sha, v->pinned);
    return first_bytes(&sha);
}

/* -0 becomes 0: they have the same effect, but not the same hash, and protobuf sends neither. */
static void drop_sign_of_zeros(cox_intervention *v)
{
    float *const numbers[] = {&v->strength, &v->reference_dot, &v->value, &v->alpha,
                              &v->factor,   &v->cosine,        &v->sine,  &v->cosine_above};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) *numbers[i] += 0.0f;
}

cox_status cox__plan_finish(cox_plan *plan)
{
    SHA2_CTX sha;
    SHA256Init(&sha);
    for (int32_t i = 0; i < plan->n; i++) {
        cox_intervention *v = &plan->interventions[i];
        drop_sign_of_zeros(v);
        v->hash = hash_intervention(v, plan->n_experts);
        SHA256Update(&sha, (const uint8_t *)&v->hash, sizeof v->hash);
        SHA256Update(&sha, v->layers, (size_t)plan->n_layers);
    }
    plan->hash = first_bytes(&sha);
    return build_index(plan);
}

static cox_status fill_ablation(cox_plan *plan, const float *vector, cox_site site, int32_t layer,
                                int32_t expert)
{
    size_t width = (size_t)plan->d_model;
    cox_intervention *v = cox_arena_alloc(plan->arena, sizeof *v);
    uint8_t *layers = cox_arena_alloc(plan->arena, (size_t)plan->n_layers);
    uint8_t *experts = expert < 0 ? NULL : cox_arena_alloc(plan->arena, (size_t)plan->n_experts);
    float *copy = cox_arena_array(plan->arena, width, sizeof *copy);
    float *unit = cox_arena_array(plan->arena, width, sizeof *unit);
    if (!v || !layers || (expert >= 0 && !experts) || !copy || !unit) return COX_NO_MEMORY;
    memcpy(copy, vector, width * sizeof *copy);
    for (int32_t l = 0; l < plan->n_layers; l++) layers[l] = layer < 0 || l == layer;
    if (experts) experts[expert] = 1;
    if (!cox__unit_of(copy, plan->d_model, unit)) return cox_fail(COX_INVALID, "a direction of norm 0");
    *v = (cox_intervention){.site = site,
                            .op = COX_OP_ABLATE,
                            .weighting = COX_WEIGHTING_ROUTED,
                            .strength = 1,
                            .layers = layers,
                            .experts = experts,
                            .width = plan->d_model,
                            .vector = copy,
                            .unit = unit,
                            .positions = {.span = COX_SPAN_ALL}};
    v->vector_norm = (float)sqrt(cox_dot_f64(copy, copy, plan->d_model));
    plan->interventions = v;
    plan->n = 1;
    return cox__plan_finish(plan);
}

cox_status cox_plan_make_ablation(cox_plan **plan, const cox_model *model, const float *vector, cox_site site,
                                  int32_t layer, int32_t expert)
{
    cox_plan *fresh = NULL;
    cox_status status = cox__plan_create(&fresh, model->n_layers, model->router.n_experts, model->d_model);
    if (status != COX_OK) return status;
    status = fill_ablation(fresh, vector, site, layer, expert);
    if (status != COX_OK)
        cox_plan_free(fresh);
    else
        *plan = fresh;
    return status;
}

cox_status cox_plan_fix_positions(const cox_plan *plan, int32_t n_prompt, cox_plan **fixed)
{
    void *data = NULL;
    size_t n_bytes = 0;
    int32_t n_kept = 0;
    const int32_t *indices = NULL;
    cox_plan *copy = NULL;
    cox_status status = cox_plan_pack(plan, NULL, NULL, &data, &n_bytes, &n_kept);
    if (status == COX_OK) status = cox_plan_unpack(&copy, &indices, data, n_bytes);
    free(data);
    for (int32_t i = 0; status == COX_OK && i < copy->n; i++) {
        cox_positions *positions = &copy->interventions[i].positions;
        if (positions->span == COX_SPAN_ALL || positions->span == COX_SPAN_RANGE) continue;
        cox_positions range = {.span = COX_SPAN_RANGE};
        cox_positions_resolve(positions, n_prompt, &range.from, &range.to);
        *positions = range;
    }
    if (status == COX_OK) status = cox__plan_finish(copy);
    if (status != COX_OK)
        cox_plan_free(copy);
    else
        *fixed = copy;
    return status;
}

bool cox_plan_equal(const cox_plan *a, const cox_plan *b)
{
    if (a == b) return true;
    if (a->hash != b->hash || a->n != b->n) return false;
    void *data[2] = {NULL, NULL};
    size_t n_bytes[2] = {0, 0};
    int32_t n_kept = 0;
    bool is_equal = cox_plan_pack(a, NULL, NULL, &data[0], &n_bytes[0], &n_kept) == COX_OK &&
                    cox_plan_pack(b, NULL, NULL, &data[1], &n_bytes[1], &n_kept) == COX_OK &&
                    n_bytes[0] == n_bytes[1] && memcmp(data[0], data[1], n_bytes[0]) == 0;
    free(data[0]);
    free(data[1]);
    return is_equal;
}

cox_status cox_plan_from_json(cox_plan **plan, const json_t *json, const char *where, const char *folder,
                              const cox_model *model, const char *tokenizer_fingerprint, bool force)
{
    cox_vector_cache cache = {0};
    cox_status status =
        cox_plan_from_json_cached(plan, json, where, folder, model, tokenizer_fingerprint, force, &cache);
    cox_vector_cache_release(&cache);
    return status;
}

cox_status cox_plan_from_json_cached(cox_plan **plan, const json_t *json, const char *where,
                                     const char *folder, const cox_model *model,
                                     const char *tokenizer_fingerprint, bool force, cox_vector_cache *cache)
{
    cox_plan *fresh = NULL;
    cox_status status = cox__plan_create(&fresh, model->n_layers, model->router.n_experts, model->d_model);
    if (status != COX_OK) return status;
    cox__plan_builder builder = {.plan = fresh,
                                 .model = model,
                                 .where = where,
                                 .folder = folder,
                                 .tokenizer_fingerprint = tokenizer_fingerprint,
                                 .is_forced = force,
                                 .files = cache};
    const json_t *path = json_object_get(json, "plan");
    if (path && json_object_size(json) == 1) { /* {"plan": "path"} */
        cox_plan_free(fresh);
        if (!json_is_string(path))
            return cox_fail(COX_BAD_FILE, "%s: key \"plan\" must be the path of a plan's file", where);
        char *full = cox__plan_path(&builder, json_string_value(path));
        if (!full) return COX_NO_MEMORY;
        status = cox_plan_load(plan, full, model, tokenizer_fingerprint, force);
        free(full);
        return status;
    }
    status = cox__plan_parse(&builder, json);
    cox__plan_builder_release(&builder);
    if (status == COX_OK) status = cox__plan_check(fresh, model, where);
    if (status == COX_OK) status = cox__plan_finish(fresh);
    if (status != COX_OK)
        cox_plan_free(fresh);
    else
        *plan = fresh;
    return status;
}

/* The part of a path before its last "/"; malloc'ed. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

cox_status cox_plan_load(cox_plan **plan, const char *path, const cox_model *model,
                         const char *tokenizer_fingerprint, bool force)
{
    unsigned char *text = NULL;
    size_t n_bytes = 0;
    json_t *json = NULL;
    char *folder = folder_of(path);
    if (!folder) return cox_no_memory(path);
    cox_status status = cox__file_read(path, &text, &n_bytes);
    if (status == COX_OK) status = cox_json_load_text(&json, (const char *)text, n_bytes, path);
    if (status == COX_OK && json_object_get(json, "plan")) { /* a file that names a file could name itself */
        status = cox_fail(COX_BAD_FILE, "%s: a plan's file holds \"interventions\", not \"plan\"", path);
    }
    if (status == COX_OK)
        status = cox_plan_from_json(plan, json, path, folder, model, tokenizer_fingerprint, force);
    json_decref(json);
    free(text);
    free(folder);
    return status;
}
