/* A model of which only the dimensions exist, and a folder of its own for files: all that plans ask of a
 * model. */
#ifndef COX_TESTS_STEERING_MODEL_H
#define COX_TESTS_STEERING_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "steering/plan.h"

enum { M_LAYERS = 4, M_WIDTH = 19, M_EXPERTS = 8, M_TOP_K = 2, M_POSITIONS = 64 };

/* Layer 1 is dense, the others have experts. */
static const cox_layer_spec test_layers[M_LAYERS] = {{true, 0}, {false, 0}, {true, 0}, {true, 0}};

static inline cox_model test_model(void)
{
    return (cox_model){.family_name = "olmoe",
                       .n_layers = M_LAYERS,
                       .d_model = M_WIDTH,
                       .max_positions = M_POSITIONS,
                       .layers = test_layers,
                       .router = {.rule = COX_ROUTER_SOFTMAX_TOPK, .n_experts = M_EXPERTS, .top_k = M_TOP_K},
                       .fingerprint = "aaaa"};
}

static char test_folder[64];

static inline int make_folder(void **state)
{
    (void)state;
    strcpy(test_folder, "/tmp/cox-steering-XXXXXX");
    return mkdtemp(test_folder) ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *info, int flag, struct FTW *where)
{
    (void)info, (void)flag, (void)where;
    return remove(path);
}

static inline int remove_folder(void **state)
{
    (void)state;
    return nftw(test_folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Path of a file in the folder; static, two at a time. */
static inline const char *path_of(const char *name)
{
    static char paths[2][256];
    static int turn;
    turn = !turn;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", test_folder, name);
    return paths[turn];
}

/* Deterministic numbers of about unit size. */
static inline float number(uint32_t seed)
{
    seed = (seed ^ 61u) ^ (seed >> 16);
    seed *= 9u;
    seed ^= seed >> 4;
    seed *= 0x27d4eb2du;
    seed ^= seed >> 15;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static inline void fill(float *row, int32_t n, uint32_t seed)
{
    for (int32_t i = 0; i < n; i++) row[i] = number(seed * 1000u + (uint32_t)i);
}

/* A plan from text with ' for "; paths are relative to the test's folder. */
static inline cox_status load_plan(cox_plan **plan, const char *text, const cox_model *model, bool force)
{
    char *copy = strdup(text);
    for (char *c = copy; *c; c++) {
        if (*c == '\'') *c = '"';
    }
    json_t *json = NULL;
    cox_status status = cox_json_load_text(&json, copy, strlen(copy), "plan");
    if (status == COX_OK) status = cox_plan_from_json(plan, json, "plan", test_folder, model, "tttt", force);
    json_decref(json);
    free(copy);
    return status;
}

static inline const cox_kernels *kernels_named(const char *name)
{
    const cox_kernels *kernels = NULL;
    return cox_kernels_select(&kernels, name) == COX_OK ? kernels : NULL;
}

#endif
