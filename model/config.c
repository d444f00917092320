/* Typed access to config files; see config.h. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

bool cox__config_is_null(const cox__config *config, const char *key)
{
    return json_is_null(json_object_get(config->object, key));
}

bool cox__config_has(const cox__config *config, const char *key)
{
    const json_t *value = json_object_get(config->object, key);
    return value && !json_is_null(value);
}

bool cox__config_is_given(const cox__config *config, const char *key)
{
    return json_object_get(config->object, key) != NULL;
}

bool cox__config_is_truthy(const cox__config *config, const char *key)
{
    const json_t *value = json_object_get(config->object, key);
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return json_object_size(value) > 0;
    case JSON_ARRAY: return json_array_size(value) > 0;
    case JSON_STRING: return json_string_length(value) > 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(value) != 0;
    case JSON_TRUE: return true;
    default: return false;
    }
}

cox_status cox__config_int(const cox__config *config, const char *key, int32_t low, int32_t high,
                           int32_t *out)
{
    int64_t wide = *out;
    cox_status status = cox_json_int(config->object, config->where, key, false, low, high, &wide);
    if (status == COX_OK) *out = (int32_t)wide;
    return status;
}

/* {"__float__": "Infinity"}: how transformers writes what JSON has no number for. */
static bool read_tagged(const json_t *value, double *number)
{
    const char *name =
        json_object_size(value) == 1 ? json_string_value(json_object_get(value, "__float__")) : NULL;
    if (!name) return false;
    if (strcmp(name, "Infinity") == 0)
        *number = INFINITY;
    else if (strcmp(name, "-Infinity") == 0)
        *number = -INFINITY;
    else if (strcmp(name, "NaN") == 0)
        *number = NAN;
    else
        return false;
    return true;
}

cox_status cox__config_number(const cox__config *config, const char *key, double low, double high,
                              double *out)
{
    double value = 0;
    if (!cox__config_has(config, key)) return COX_OK;
    cox_status status = COX_OK;
    if (!read_tagged(json_object_get(config->object, key), &value))
        status = cox_json_number(config->object, config->where, key, false, &value);
    if (status != COX_OK) return status;
    if (!(value >= low && value <= high)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is %g, outside %g to %g", config->where, key, value,
                        low, high);
    }
    *out = value;
    return COX_OK;
}

cox_status cox__config_bool(const cox__config *config, const char *key, bool *out)
{
    return cox_json_bool(config->object, config->where, key, false, out);
}

cox_status cox__config_string(const cox__config *config, const char *key, const char **out)
{
    return cox_json_string(config->object, config->where, key, false, out);
}

cox_status cox__config_array(const cox__config *config, const char *key, const json_t **out)
{
    *out = NULL;
    if (!cox__config_has(config, key)) return COX_OK;
    const json_t *value = json_object_get(config->object, key);
    if (!json_is_array(value))
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a list", config->where, key);
    *out = value;
    return COX_OK;
}

cox_status cox__config_object(const cox__config *config, const char *key, cox_arena *arena, cox__config *out)
{
    *out = (cox__config){.where = config->where};
    if (!cox__config_has(config, key)) return COX_OK;
    const json_t *value = json_object_get(config->object, key);
    if (!json_is_object(value))
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be an object", config->where, key);
    size_t n = strlen(config->where) + strlen(key) + 3;
    char *where = cox_arena_alloc(arena, n);
    if (!where) return COX_NO_MEMORY;
    snprintf(where, n, "%s: %s", config->where, key);
    *out = (cox__config){.object = value, .where = where};
    return COX_OK;
}

cox_status cox__config_ids(const cox__config *config, const char *key, int32_t *ids, int32_t max, int32_t *n)
{
    if (!cox__config_has(config, key)) return COX_OK;
    const json_t *value = json_object_get(config->object, key);
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > (size_t)max) {
        return cox_fail(COX_UNSUPPORTED, "%s: key \"%s\" has %zu ids, more than the %d that are built",
                        config->where, key, count, (int)max);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        bool is_beyond = json_is_real(id) && fabs(json_real_value(id)) >= 9e18; /* of 64 bits */
        if (!json_is_integer(id) && !is_beyond) {
            return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a token id or a list of them",
                            config->where, key);
        }
        json_int_t number = json_integer_value(id);
        ids[i] = is_beyond || number < 0 || number > INT32_MAX ? -1 : (int32_t)number;
    }
    *n = (int32_t)count;
    return COX_OK;
}
