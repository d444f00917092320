/* Wrappers of jansson that turn every mistake into a message with file and key. */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alive.h"
#include "base/file.h"
#include "base/json_internal.h"
#include "base/nearest.h"

/* jansson's text, except where that speaks to programmers, or of valid JSON that it cannot hold. */
static const char *reason(const json_error_t *error)
{
    switch (json_error_code(error)) {
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return "the character NUL (\\u0000) cannot be part of a text here; leave it out";
    case json_error_numeric_overflow:
        return "a number is too large; whole numbers end at 9223372036854775807, others near 1.8e308";
    default: break;
    }
    if (strncmp(error->text, "invalid Unicode '\\u", 19) == 0)
        return "half of a surrogate pair (\\ud800 to \\udfff alone) is no character";
    return error->text;
}

static cox_status check_loaded(json_t *value, const json_error_t *error, const char *where)
{
    if (value) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: not valid JSON at line %d, column %d: %s", where, error->line,
                    error->column, reason(error));
}

static cox_status open_file(FILE **file, const char *path)
{
    *file = fopen(path, "rb");
    if (*file) return COX_OK;
    return cox_fail(errno == ENOENT ? COX_NOT_FOUND : COX_IO, "%s: cannot open: %s", path, strerror(errno));
}

/* jansson's reader: the next bytes of a file. A vocabulary of tens of megabytes takes a second or more. */
static size_t read_piece(void *buffer, size_t n_bytes, void *file)
{
    cox_alive();
    size_t n = fread(buffer, 1, n_bytes, file);
    return n == 0 && ferror((FILE *)file) ? (size_t)-1 : n;
}

cox_status cox_json_load_file(json_t **value, const char *path)
{
    FILE *file = NULL;
    cox_status status = open_file(&file, path);
    if (status != COX_OK) return status;
    json_error_t error;
    json_t *loaded = json_load_callback(read_piece, file, JSON_REJECT_DUPLICATES, &error);
    fclose(file);
    status = check_loaded(loaded, &error, path);
    if (status == COX_OK) *value = loaded;
    return status;
}

cox_status cox_json_load_text(json_t **value, const char *text, size_t n_bytes, const char *where)
{
    json_error_t error;
    json_t *loaded = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    cox_status status = check_loaded(loaded, &error, where);
    if (status == COX_OK) *value = loaded;
    return status;
}

cox_status cox_json_load_python_text(json_t **value, const char *text, size_t n_bytes, const char *where)
{
    char *copy = malloc(n_bytes + 1);
    if (!copy) return cox_fail(COX_NO_MEMORY, "%s: out of memory for %zu bytes", where, n_bytes);
    memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    cox__json_tame(copy);
    json_error_t error;
    json_t *loaded = json_loadb(copy, n_bytes, JSON_ALLOW_NUL, &error);
    free(copy);
    cox_status status = check_loaded(loaded, &error, where);
    if (status == COX_OK) *value = loaded;
    return status;
}

cox_status cox_json_load_python_file(json_t **value, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    cox_status status = cox_file_read(path, SIZE_MAX, &text, &n);
    if (status == COX_OK) status = cox_json_load_python_text(value, text, n, path);
    free(text);
    return status;
}

/* [out] *found: the value, or NULL when absent or null and not required. */
static cox_status find(const json_t *object, const char *where, const char *key, bool required,
                       const json_t **found)
{
    const json_t *value = json_object_get(object, key);
    if (value && json_is_null(value)) value = NULL;
    if (!value && required) return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is missing", where, key);
    *found = value;
    return COX_OK;
}

static cox_status wrong_type(const char *where, const char *key, const char *wanted)
{
    return cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be %s", where, key, wanted);
}

/* A number that was too large for the file's reader is infinite again. */
static double number_of(const json_t *value)
{
    double number = json_number_value(value);
    return fabs(number) == COX__JSON_INFINITE ? copysign(INFINITY, number) : number;
}

cox_status cox_json_int(const json_t *object, const char *where, const char *key, bool required, int64_t low,
                        int64_t high, int64_t *out)
{
    const json_t *value = NULL;
    cox_status status = find(object, where, key, required, &value);
    if (status != COX_OK || !value) return status;
    if (json_is_real(value) && fabs(number_of(value)) >= 0x1p63) {
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is %g, outside %lld to %lld", where, key,
                        number_of(value), (long long)low, (long long)high);
    }
    if (!json_is_integer(value)) return wrong_type(where, key, "a whole number");
    json_int_t number = json_integer_value(value);
    if (number < low || number > high) {
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is %lld, outside %lld to %lld", where, key,
                        (long long)number, (long long)low, (long long)high);
    }
    *out = number;
    return COX_OK;
}

cox_status cox_json_number(const json_t *object, const char *where, const char *key, bool required,
                           double *out)
{
    const json_t *value = NULL;
    cox_status status = find(object, where, key, required, &value);
    if (status != COX_OK || !value) return status;
    if (!json_is_number(value)) return wrong_type(where, key, "a number");
    *out = number_of(value);
    return COX_OK;
}

cox_status cox_json_bool(const json_t *object, const char *where, const char *key, bool required, bool *out)
{
    const json_t *value = NULL;
    cox_status status = find(object, where, key, required, &value);
    if (status != COX_OK || !value) return status;
    if (!json_is_boolean(value)) return wrong_type(where, key, "true or false");
    *out = json_boolean_value(value);
    return COX_OK;
}

cox_status cox_json_string(const json_t *object, const char *where, const char *key, bool required,
                           const char **out)
{
    const json_t *value = NULL;
    cox_status status = find(object, where, key, required, &value);
    if (status != COX_OK || !value) return status;
    if (!json_is_string(value)) return wrong_type(where, key, "a string");
    if (strlen(json_string_value(value)) != json_string_length(value)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"%s\" holds the character NUL or half of a surrogate pair",
                        where, key);
    }
    *out = json_string_value(value);
    return COX_OK;
}

static cox_status unknown_key(const char *where, const char *key, const char *const *keys, size_t n)
{
    char list[1024] = "";
    size_t length = 0;
    for (size_t i = 0; i < n && length < sizeof list; i++)
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s", i ? ", " : "", keys[i]);
    cox_nearest nearest = cox_nearest_to(key, strlen(key));
    cox_nearest_offer_all(&nearest, keys, n);
    return cox_fail(COX_BAD_FILE, "%s: unknown key \"%.100s\"; the keys are %s%s", where, key, list,
                    nearest.hint);
}

cox_status cox_json_check_keys(const json_t *object, const char *where, const char *const *keys, size_t n)
{
    if (!json_is_object(object)) return cox_fail(COX_BAD_FILE, "%s: must be an object", where);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (i < n && strcmp(keys[i], key) != 0) i++;
        if (i == n && !json_is_null(value)) return unknown_key(where, key, keys, n);
    }
    return COX_OK;
}

cox_status cox_json_load_line(json_t **value, const char *text, size_t n_bytes, const char *where,
                              const char *form)
{
    json_error_t error;
    cox_status status = COX_OK;
    json_t *loaded = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!loaded) { /* which line it is of its file is in `where` */
        status = cox_fail(COX_BAD_FILE, "%s: not valid JSON at column %d: %s", where, error.column,
                          reason(&error));
    } else if (!json_is_object(loaded)) {
        status = cox_fail(COX_BAD_FILE, "%s: not a JSON object", where);
    }
    if (status == COX_OK) {
        *value = loaded;
        return COX_OK;
    }
    json_decref(loaded);
    return cox_fail(status, "%s; a line is %s", cox_status_message(), form);
}
