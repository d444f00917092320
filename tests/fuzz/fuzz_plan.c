/*
 * A plan of any bytes: first byte 0: packed, else JSON (whose vectors, "v.safetensors", lie in a folder made
 * once). An error, or a plan whose every intervention can be applied, explained, packed and unpacked to an
 * equal one.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "steering/internal.h"
#include "steering/route_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 3, WIDTH = 5, EXPERTS = 6, TOP_K = 2 };
static const cox_layer_spec layers[LAYERS] = {{true, 0}, {false, 0}, {true, 0}};
static const cox_model model = {
    .family_name = "fuzz",
    .n_layers = LAYERS,
    .d_model = WIDTH,
    .max_positions = 32,
    .layers = layers,
    .router = {.rule = COX_ROUTER_SOFTMAX_TOPK, .n_experts = EXPERTS, .top_k = TOP_K},
    .fingerprint = "f"};
static char folder[] = "/tmp/cox-fuzz-plan-XXXXXX";

static void remove_folder(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/v.safetensors", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/r.safetensors", folder);
    unlink(path);
    rmdir(folder);
}

static void make_folder(void)
{
    static bool is_made;
    if (is_made) return;
    is_made = true;
    if (!mkdtemp(folder)) abort();
    atexit(remove_folder);
    float a[WIDTH] = {1, 2, 3, 4, 5}, b[WIDTH] = {1, -1, 1, -1, 1}, z[EXPERTS] = {0, 0, 0, 1, 0, 0};
    const int32_t record[2 * TOP_K] = {0, 1, 2, 3};
    const int32_t *routes[LAYERS] = {record, NULL, record};
    const cox_vector vectors[] = {
        {.name = "a", .data = a, .width = WIDTH, .site = COX_SITE_RESID_POST, .layer = 1, .expert = 2},
        {.name = "b", .data = b, .width = WIDTH, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1},
        {.name = "z", .data = z, .width = EXPERTS, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1}};
    char path[64];
    snprintf(path, sizeof path, "%s/v.safetensors", folder);
    if (cox_vector_file_write(path, vectors, 3) != COX_OK) abort();
    snprintf(path, sizeof path, "%s/r.safetensors", folder);
    if (cox_pinned_routes_write(path, routes, LAYERS, 2, TOP_K, NULL) != COX_OK) abort();
}

static void use_rows(const cox_plan *plan, const cox_kernels *kernels)
{
    float h[WIDTH] = {1, 2, 3, 4, 5}, scratch[WIDTH];
    cox_steer_effect effect;
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        if (v->site != COX_SITE_ROUTER_LOGITS) cox_intervention_apply(v, kernels, h, scratch, &effect);
    }
}

static void use_routes(const cox_plan *plan, const cox_kernels *kernels, int32_t layer)
{
    int32_t n = 0;
    const int32_t *list = cox_plan_at(plan, layer, COX_SITE_ROUTER_LOGITS, &n);
    cox_steer_effect *effects = calloc((size_t)n + 1, sizeof *effects);
    void *scratch = malloc(cox_route_edit_scratch_bytes(&model.router));
    float logits[EXPERTS] = {1, 2, 3, 3, 2, 1};
    cox_route routes[TOP_K];
    const cox_row_place place = {layer, 1, 2};
    cox_route_edit_apply(kernels, &model.router, NULL, plan, list, n, &place, logits, scratch, routes,
                         effects);
    for (int32_t j = 0; j < TOP_K; j++) {
        if (routes[j].expert < 0 || routes[j].expert >= EXPERTS) abort();
    }
    if (routes[0].expert == routes[1].expert) abort();
    free(scratch);
    free(effects);
}

static void check_copy(const cox_plan *plan)
{
    void *data = NULL;
    size_t n_bytes = 0;
    int32_t n_kept = 0;
    const int32_t *indices = NULL;
    cox_plan *copy = NULL;
    if (cox_plan_pack(plan, NULL, NULL, &data, &n_bytes, &n_kept) != COX_OK) abort();
    if (cox_plan_unpack(&copy, &indices, data, n_bytes) != COX_OK || !cox_plan_equal(plan, copy)) abort();
    cox_plan_free(copy);
    free(data);
}

static void run_json(const uint8_t *data, size_t size, const cox_kernels *kernels)
{
    json_t *json = NULL;
    cox_plan *plan = NULL;
    if (cox_json_load_text(&json, (const char *)data, size, "fuzz") != COX_OK) return;
    if (!json_object_get(json, "plan") && /* it would open files of any name */
        cox_plan_from_json(&plan, json, "fuzz", folder, &model, "t", false) == COX_OK) {
        char *text = NULL;
        use_rows(plan, kernels);
        use_routes(plan, kernels, 0);
        use_routes(plan, kernels, 2);
        check_copy(plan);
        if (cox_plan_explain(plan, &model, NULL, NULL, &text) != COX_OK) abort();
        free(text);
        cox_plan_free(plan);
    }
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_folder();
    const cox_kernels *kernels = NULL;
    if (size == 0 || cox_kernels_select(&kernels, "reference") != COX_OK) return 0;
    if (data[0] != 0) {
        run_json(data, size, kernels);
        return 0;
    }
    cox_plan *plan = NULL;
    const int32_t *indices = NULL;
    if (cox_plan_unpack(&plan, &indices, data + 1, size - 1) != COX_OK) return 0;
    if (plan->d_model == WIDTH && plan->n_experts == EXPERTS) use_rows(plan, kernels);
    check_copy(plan);
    cox_plan_free(plan);
    return 0;
}
