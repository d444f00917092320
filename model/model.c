/*
 * Opens a model folder: config.json and generation_config.json, then the checkpoint, then each tensor by
 * its place. What the config means is in configure.c and family_*.c, what the tensors are in tensors.c.
 */
#include "model/model.h"

#include <stdlib.h>
#include <inttypes.h>
#include <sha2.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/configure.h"
#include "model/folder.h"
#include "model/quantization.h"
#include "model/tensors.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* Reads a whole file. [out] *text in `arena`; NULL with OK when there is no such file and it is optional. */
static cox_status read_text(const char *path, bool is_optional, cox_arena *arena, char **text,
                            size_t *n_bytes)
{
    *text = NULL;
    *n_bytes = 0;
    char *bytes = NULL;
    size_t n = 0;
    cox_status status = cox_file_read(path, MAX_CONFIG_BYTES, &bytes, &n);
    if (status == COX_NOT_FOUND && is_optional) return COX_OK;
    if (status == COX_NOT_FOUND) {
        return cox_fail(status, "%s; give the folder of a Hugging Face model that this machine can see",
                        cox_status_message());
    }
    if (status != COX_OK) return status;
    *text = cox_arena_alloc(arena, n + 1);
    if (*text) memcpy(*text, bytes, n + 1);
    *n_bytes = n;
    free(bytes);
    return *text ? COX_OK : COX_NO_MEMORY;
}

static char *path_in(cox_arena *arena, const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = cox_arena_alloc(arena, n);
    if (path) snprintf(path, n, "%s/%s", folder, name);
    return path;
}

/* [out] *json: NULL when the file is optional and missing; *text, *n_bytes: its bytes, in the model's arena.
 */
static cox_status load_config(cox_model *m, const char *name, bool is_optional, json_t **json,
                              cox__config *config, char **text, size_t *n_bytes)
{
    *config = (cox__config){.where = path_in(m->arena, m->folder, name)};
    if (!config->where) return COX_NO_MEMORY;
    cox_status status = read_text(config->where, is_optional, m->arena, text, n_bytes);
    if (status != COX_OK || !*text) return status;
    status = cox_json_load_python_text(json, *text, *n_bytes, config->where);
    if (status != COX_OK) return status;
    config->object = *json;
    if (json_is_object(*json)) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: must be a JSON object", config->where);
}

static void hash_text(SHA2_CTX *sha, const char *text)
{
    SHA256Update(sha, (const uint8_t *)text, strlen(text) + 1); /* the NUL separates */
}

static void fingerprint(cox_model *m, const char *config, size_t n_config_bytes)
{
    SHA2_CTX sha;
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)config, n_config_bytes);
    hash_text(&sha, "");
    for (size_t i = 0; i < cox_checkpoint_n_tensors(m->checkpoint); i++) { /* sorted by name */
        const cox_tensor *tensor = cox_checkpoint_tensor(m->checkpoint, i);
        hash_text(&sha, tensor->name);
        hash_text(&sha, tensor->dtype_name);
        char shape[128];
        int n = snprintf(shape, sizeof shape, "%d", (int)tensor->n_dims);
        for (int32_t d = 0; d < tensor->n_dims && d < COX_TENSOR_MAX_DIMS; d++) {
            n += snprintf(shape + n, sizeof shape - (size_t)n, " %" PRId64, tensor->shape[d]);
        }
        hash_text(&sha, shape);
    }
    SHA256End(&sha, m->fingerprint);
}

static cox_status open_configs(cox_model *m, cox__config_flags *flags, char **text, size_t *n_bytes)
{
    json_t *json = NULL, *generation_json = NULL;
    cox__config config, generation;
    char *generation_text;
    size_t n_generation_bytes;
    cox_status status = load_config(m, "config.json", false, &json, &config, text, n_bytes);
    if (status == COX_OK) status = cox__model_identify(&config, m, flags);
    if (status == COX_OK) status = cox__folder_check_weights(m->folder);
    if (status == COX_OK) status = cox__model_configure(&config, m, flags);
    if (status == COX_OK) {
        status = load_config(m, "generation_config.json", true, &generation_json, &generation,
                             &generation_text, &n_generation_bytes);
        if (status == COX_OK) status = cox__model_configure_generation(&generation, m);
        if (status == COX_BAD_FILE) { /* only who generates text needs it */
            m->end_error = cox_arena_strdup(m->arena, cox_status_message());
            status = m->end_error ? COX_OK : COX_NO_MEMORY;
        }
    }
    json_decref(generation_json);
    json_decref(json);
    return status;
}

/* Tensors of a layer that the config does not have: another model's config, or a cut one. */
static cox_status check_layers(const cox_model *m)
{
    static const char prefix[] = "model.layers.";
    for (size_t i = 0; i < cox_checkpoint_n_tensors(m->checkpoint); i++) {
        const char *name = cox_checkpoint_tensor(m->checkpoint, i)->name;
        if (strncmp(name, prefix, sizeof prefix - 1) != 0) continue;
        long layer = strtol(name + sizeof prefix - 1, NULL, 10);
        if (layer < m->n_layers) continue;
        return cox_fail(COX_BAD_FILE,
                        "%s/config.json: key \"num_hidden_layers\" is %d, but the checkpoint has a tensor "
                        "\"%s\"; one of the two belongs to another model",
                        m->folder, (int)m->n_layers, name);
    }
    return COX_OK;
}

static cox_status open_parts(cox_model *m)
{
    cox__config_flags flags;
    char *config = NULL;
    size_t n_config_bytes = 0;
    cox_status status = cox__folder_check(m->folder);
    if (status == COX_OK) status = open_configs(m, &flags, &config, &n_config_bytes);
    if (status == COX_OK) status = cox_checkpoint_open(&m->checkpoint, m->folder);
    if (status == COX_OK) status = check_layers(m);
    if (status == COX_OK) status = cox__model_bind(m, flags.is_tied, flags.is_mxfp4);
    if (status == COX_BAD_FILE && m->checkpoint)
        status = cox__quantization_explain(m->checkpoint, m->folder, status);
    if (status == COX_OK) fingerprint(m, config, n_config_bytes);
    return status;
}

cox_status cox_model_open(cox_model **model, const char *folder)
{
    if (!*folder) return cox_fail(COX_INVALID, "the model is \"\": give the folder of a Hugging Face model");
    cox_arena *arena = NULL;
    cox_status status = cox_arena_create(&arena, "model", 0);
    if (status != COX_OK) return status;
    cox_model *m = cox_arena_alloc(arena, sizeof *m);
    if (!m) {
        cox_arena_destroy(arena);
        return COX_NO_MEMORY;
    }
    m->arena = arena;
    m->folder = cox_arena_strdup(arena, folder);
    status = m->folder ? open_parts(m) : COX_NO_MEMORY;
    if (status != COX_OK) {
        cox_model_close(m);
        return status;
    }
    *model = m;
    return COX_OK;
}

void cox_model_close(cox_model *model)
{
    if (!model) return;
    cox_checkpoint_close(model->checkpoint);
    cox_arena_destroy(model->arena);
}

cox_status cox_model_check_ends(const cox_model *model)
{
    return model->end_error ? cox_fail(COX_BAD_FILE, "%s", model->end_error) : COX_OK;
}
