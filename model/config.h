/*
 * Access to config.json and the objects within it: typed keys with bounds, aliases, and the difference
 * between an absent key (the family's default holds) and null (transformers' None). What the keys mean
 * is said in model.c and family_*.c.
 */
#ifndef COX_MODEL_CONFIG_H
#define COX_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

/* An object of a config file, borrowed, and its name in messages ("dir/config.json"). */
typedef struct cox__config {
    const json_t *object;
    const char *where;
} cox__config;

/* Present, and null or not null. */
bool cox__config_is_null(const cox__config *config, const char *key);
bool cox__config_has(const cox__config *config, const char *key);
/* Present, be it null. */
bool cox__config_is_given(const cox__config *config, const char *key);
/* Whether Python takes the value for true: present, and not null, false, 0, "", [] or {}. */
bool cox__config_is_truthy(const cox__config *config, const char *key);

/*
 * [out] *out is left as it is when the key is absent or null. Errors: BAD_FILE (wrong type, or outside
 * [low, high]). A number may be infinite, also in the words of transformers, {"__float__": "Infinity"}.
 */
cox_status cox__config_int(const cox__config *config, const char *key, int32_t low, int32_t high,
                           int32_t *out);
cox_status cox__config_number(const cox__config *config, const char *key, double low, double high,
                              double *out);
cox_status cox__config_bool(const cox__config *config, const char *key, bool *out);
cox_status cox__config_string(const cox__config *config, const char *key, const char **out);

/* An array, or NULL when absent or null. Errors: BAD_FILE. */
cox_status cox__config_array(const cox__config *config, const char *key, const json_t **out);

/* The object at `key` as a config of its own, named "where: key" (text in `arena`); out->object is NULL
 * when the key is absent or null. Errors: BAD_FILE, NO_MEMORY. */
cox_status cox__config_object(const cox__config *config, const char *key, cox_arena *arena, cox__config *out);

/* A token id or a list of them, at most `max`; one that can be no id is kept as -1. [out] *n; left as it is
 * when the key is absent or null. Errors: BAD_FILE, UNSUPPORTED (more than max). */
cox_status cox__config_ids(const cox__config *config, const char *key, int32_t *ids, int32_t max, int32_t *n);

#endif
