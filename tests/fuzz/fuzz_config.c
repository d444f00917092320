/* A config.json of any bytes: an error, or dimensions that the rest of the program may rely on. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/configure.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const cox_model *m)
{
    if (m->n_layers < 1 || m->d_model < 1 || m->head_dim < 2 || m->vocab_size < 1 || m->max_positions < 1)
        abort();
    if (m->n_heads % m->n_kv_heads != 0 || m->router.top_k < 1 || m->router.top_k > m->router.n_experts)
        abort();
    if ((int64_t)m->n_heads * m->head_dim > INT32_MAX || m->d_expert < 1) abort();
    if (m->rope.n_rot % 2 != 0 || m->rope.n_rot > m->head_dim || !isfinite(m->rope.attention_factor)) abort();
    for (int32_t i = 0; i < m->rope.n_rot / 2; i++) {
        if (!isfinite(m->rope.inv_freq[i])) abort();
    }
    for (int32_t i = 0; i < m->n_layers; i++) {
        if (m->layers[i].window < 0 || (!m->layers[i].is_moe && m->d_dense < 1)) abort();
    }
    for (int32_t i = 0; i < m->n_eos; i++) {
        if (m->eos_ids[i] < 0 || m->eos_ids[i] >= m->vocab_size) abort();
    }
    if (m->bos_id >= m->vocab_size) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = NULL;
    if (cox_json_load_python_text(&json, (const char *)data, size, "fuzz") != COX_OK) return 0;
    cox_model model = {.folder = "fuzz"};
    cox__config_flags flags;
    const cox__config config = {json, "fuzz"};
    if (cox_arena_create(&model.arena, "fuzz", 0) == COX_OK &&
        cox__model_configure(&config, &model, &flags) == COX_OK &&
        cox__model_configure_generation(&config, &model) == COX_OK) {
        check(&model);
    }
    cox_arena_destroy(model.arena);
    json_decref(json);
    return 0;
}
