/*
 * The one JSON reader: jansson with messages that name the file and the key. Every getter takes
 * `where`, the name that messages give to the object ("models/x/config.json" or "line 3").
 */
#ifndef COX_BASE_JSON_H
#define COX_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Reads a file whose top level is a JSON object or array; UTF-8, no duplicate keys.
 * [out] *value: owned by the caller (json_decref). Errors: NOT_FOUND, IO, BAD_FILE (with line). */
cox_status cox_json_load_file(json_t **value, const char *path);

/* The same from n bytes of memory. */
cox_status cox_json_load_text(json_t **value, const char *text, size_t n_bytes, const char *where);

/* The same of a line that is an object. form: what such a line looks like, for the message: "{\"prompt\":
 * ...}". */
cox_status cox_json_load_line(json_t **value, const char *text, size_t n_bytes, const char *where,
                              const char *form);

/*
 * The same for files that transformers reads with Python's json (config.json and its neighbours): also takes
 * what that takes, so that no file fails for a key that is not read.
 * - Of duplicate keys the last one counts.
 * - Whole numbers beyond 64 bits become numbers; for a getter they are out of range. Infinity and numbers
 * beyond doubles are infinite; cox_json_number gives INFINITY.
 * - NaN is no number, no word and no list.
 * - Texts may hold NUL; so does one with half of a surrogate pair. cox_json_string refuses both.
 */
cox_status cox_json_load_python_file(json_t **value, const char *path);
cox_status cox_json_load_python_text(json_t **value, const char *text, size_t n_bytes, const char *where);

/*
 * Typed access. When the key is absent or null: *out is left as it is and the status is OK, unless
 * `required`, then BAD_FILE. A wrong type, or a number outside [low, high], is BAD_FILE.
 */
cox_status cox_json_int(const json_t *object, const char *where, const char *key, bool required, int64_t low,
                        int64_t high, int64_t *out);
cox_status cox_json_number(const json_t *object, const char *where, const char *key, bool required,
                           double *out);
cox_status cox_json_bool(const json_t *object, const char *where, const char *key, bool required, bool *out);
/* [out] *out lives as long as the object. */
cox_status cox_json_string(const json_t *object, const char *where, const char *key, bool required,
                           const char **out);

/*
 * Refuses a value that is not an object, and an object with a key that is not among the n `keys`. As
 * everywhere here a null counts as absent. Errors: BAD_FILE, naming the key and the n known ones.
 */
cox_status cox_json_check_keys(const json_t *object, const char *where, const char *const *keys, size_t n);

#endif
