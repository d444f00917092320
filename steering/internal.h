/*
 * What the files of this folder share: whole files in memory and atomic writes, the rows and places that a
 * plan is built of. Sizes come from outside bytes everywhere here, so each is bounded before it is used.
 */
#ifndef COX_STEERING_INTERNAL_H
#define COX_STEERING_INTERNAL_H

#include <jansson.h>

#include "model/checkpoint.h"
#include "steering/plan.h"
#include "steering/tensor_file.h"
#include "steering/vector.h"

enum {
    COX__MAX_FILE_BYTES = 256 << 20, /* of a vector, routes or GGUF file */
    COX__MAX_WIDTH = 1 << 20,        /* of a vector */
    COX__MAX_VECTORS = 1 << 16,      /* in a file */
    COX__MAX_LAYERS = 1 << 16,
    COX__MAX_ROUTER_EDITS = 256, /* force_in, force_out and pin at one layer */
};

/* --- file.c --- */

/* A whole regular file of at most COX__MAX_FILE_BYTES: base/file.h. */
cox_status cox__file_read(const char *path, unsigned char **data, size_t *n_bytes);
/* Writes beside the path, flushes to the disk, then renames: the path has the old file or the new one.
 * Errors: IO. */
cox_status cox__file_write(const char *path, const void *const *parts, const size_t *part_bytes,
                           size_t n_parts);

/* The value of "__metadata__"[key], or NULL; header: of a safetensors file whose tensors have been parsed.
 * [out] *metadata: owned, to be decref'ed; NULL when the file has none. Errors: BAD_FILE. */
cox_status cox__safetensors_metadata(const char *path, const unsigned char *file, size_t n_bytes,
                                     json_t **metadata);
typedef struct cox__tensor_head {
    const char *name, *dtype;          /* "F32", "I32"; "F64", "I64" */
    int64_t dims[COX_TENSOR_MAX_DIMS]; /* up to the first 0 */
} cox__tensor_head;
size_t cox__tensor_bytes(const cox__tensor_head *head);
/* Header of n tensors laid one after the other. metadata: object of strings. [out] *text malloc'ed, the
 * 8-byte length in front, a multiple of 8 bytes in all. */
cox_status cox__safetensors_header(const cox__tensor_head *heads, size_t n, const json_t *metadata,
                                   unsigned char **text, size_t *n_bytes);

/* --- vector.c --- */

/* From a file's bytes; parse errors name `path`. The fuzz target's entry. */
cox_status cox__vector_file_parse(cox_vector_file **file, const char *path, const unsigned char *data,
                                  size_t n_bytes);
/* Errors: BAD_FILE naming the first element that is NaN or infinite. */
cox_status cox__check_finite(const char *where, const float *data, int32_t n);

/* --- gguf.c --- */

/* From a file's bytes, as steering/gguf.h says. */
cox_status cox__gguf_parse(cox_vector_file **file, const char *path, const unsigned char *data,
                           size_t n_bytes);

/* --- plan_vectors.c: the rows of a plan --- */

typedef struct cox__row {
    const float *data;
    int32_t width;
    uint64_t hash;
} cox__row;

typedef struct cox__plan_builder {
    cox_plan *plan;
    const cox_model *model;
    const char *where, *folder, *tokenizer_fingerprint;
    bool is_forced;          /* accept other fingerprints */
    cox_vector_cache *files; /* read so far */
    cox__row *rows;          /* distinct rows, in the plan's arena */
    size_t n_rows, room_rows, n_bytes;
} cox__plan_builder;

/* The row that equals data [width], kept once per plan. NULL: NO_MEMORY, or the plan's size limit (INVALID),
 * with a message; *status says which. */
const float *cox__plan_keep_row(cox__plan_builder *builder, const float *data, int32_t width,
                                cox_status *status);

/* "path#tensor" read and checked against the model: [out] *vector lives as long as the builder. where: names
 * the intervention and key. */
cox_status cox__plan_find_vector(cox__plan_builder *builder, const char *where, const char *text,
                                 const cox_vector **vector);
/* The vector file at `path`, relative to the plan's folder, read before or now; it lives as long as the
 * cache. */
cox_status cox__plan_open_file(cox__plan_builder *builder, const char *path, const cox_vector_file **file);
/* The path relative to the plan's folder; malloc'ed. */
char *cox__plan_path(const cox__plan_builder *builder, const char *path);
void cox__plan_builder_release(cox__plan_builder *builder);

/* --- plan_spread.c --- */

/* [out] *spread: [{"item": intervention, "label": "intervention 3"}] with one entry for each vector that
 * `list` means; owned by the caller. Errors: those of reading vectors; INVALID (too many; a vector's layer,
 * or none). */
cox_status cox__plan_spread(cox__plan_builder *builder, const json_t *list, json_t **spread);

/* --- plan_parse.c --- */

cox_status cox__plan_parse(cox__plan_builder *builder, const json_t *json);
/* --- plan_check.c: what only the whole plan can tell --- */
cox_status cox__plan_check(const cox_plan *plan, const cox_model *model, const char *where);
/* plan_reach.c, the last part of it: refuses what no row can reach. */
cox_status cox__plan_check_reach(const cox_plan *plan, const cox_model *model, const char *where);

/* --- plan.c --- */
cox_status cox__plan_create(cox_plan **plan, int32_t n_layers, int32_t n_experts, int32_t d_model);
/* Fills the index by layer and site, and the hashes, of a plan whose interventions are complete. */
cox_status cox__plan_finish(cox_plan *plan);
/* The operation uses u = v/|v|. */
bool cox__op_has_direction(cox_op op);
/* u = v/|v| in f32 from an f64 norm; false when the norm is 0. */
bool cox__unit_of(const float *v, int32_t width, float *unit);

/* --- pinned.c --- */
struct cox_pinned_routes {
    int32_t n_layers, top_k, n_tokens;
    const int32_t **layers; /* [n_layers] of [n_tokens, top_k], NULL where none */
};

/* Reads and checks the file for an intervention whose layers are set; is_all: "layer" was "all", so that
 * layers without a record are dropped, not refused. */
cox_status cox__pinned_load(cox__plan_builder *builder, const char *where, const char *path, bool is_all,
                            cox_intervention *out);
/* Every row names top_k different experts that the model has. Errors: BAD_FILE. */
cox_status cox__pinned_check(const char *where, const int32_t *rows, int32_t n_tokens, int32_t top_k,
                             int32_t n_experts);
/* What stands beside "layer.<l>" in a file that a trace wrote: ".logits" and so on. */
bool cox__is_routes_companion(const char *suffix);
cox_status cox__pinned_parse(cox_pinned_routes **routes, const char *path, const unsigned char *data,
                             size_t n_bytes, int32_t n_layers, int32_t n_experts, int32_t top_k,
                             cox_arena *arena);

#endif
