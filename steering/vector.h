/*
 * Steering vectors and their files. A file is safetensors: f32 tensors of one dimension, with metadata that
 * says of each what it is for: site, layer, expert, operation, weighting, positions, raw norm, fingerprints
 * of model and tokenizer, and where it came from. The format is described in docs/formats.md. GGUF control
 * vectors (llama.cpp, repeng) are imported and, where they can say what ours says, exported.
 */
#ifndef COX_STEERING_VECTOR_H
#define COX_STEERING_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Where in a block a row may be steered: name in plans, name for people. The order is the order in which a
 * layer passes them. A packed plan has the number: one in the middle changes the identity of stored results.
 */
// clang-format off
#define COX_SITE_LIST(X)                                                   \
    X(RESID_PRE, "resid_pre", "the residual stream before the block")      \
    X(ATTN_OUT, "attn_out", "the attention's output")                      \
    X(RESID_MID, "resid_mid", "the residual stream after attention")       \
    X(ROUTER_LOGITS, "router_logits", "the router's logits, before top-k") \
    X(EXPERT_OUT, "expert_out", "the output of single experts")            \
    X(MOE_OUT, "moe_out", "what the FFN block adds")                       \
    X(RESID_POST, "resid_post", "the residual stream after the block")
// clang-format on

typedef enum cox_site {
#define X(name, text, words) COX_SITE_##name,
    COX_SITE_LIST(X)
#undef X
        COX_N_SITES,
    COX_SITE_UNSTATED = -1
} cox_site;
/* Sets of sites are masks of 1 << cox_site in one byte: plans in use, observations, captures. */
_Static_assert(COX_N_SITES <= 8, "masks of sites are uint8_t");
const char *cox_site_name(cox_site site);
const char *cox_site_words(cox_site site);
/* Floats of a row there; of the widest of all sites. */
int32_t cox_site_width(cox_site site, int32_t d_model, int32_t n_experts);
int32_t cox_site_widest(int32_t d_model, int32_t n_experts);
/* Only layers with experts have it. */
bool cox_site_needs_experts(cox_site site);
/* COX_SITE_UNSTATED when there is none of that name. */
cox_site cox_site_find(const char *name);
/* [out] list: all names, with commas between; returns it. */
enum { COX_SITE_LIST_BYTES = 128 };
const char *cox_site_list(char list[COX_SITE_LIST_BYTES]);
/* INVALID, "WHERE: unknown site ...", with all names and the nearest one. */
cox_status cox_site_unknown(const char *where, const char *name);

typedef struct cox_vector {
    const char *name; /* the tensor's */
    float *data;      /* [width] raw, as stored */
    int32_t width;
    float norm;
    cox_site site;                                         /* or UNSTATED */
    int32_t layer, expert;                                 /* -1: unstated */
    const char *operation, *weighting;                     /* NULL: unstated */
    const char *positions;                                 /* JSON text of the plan field, or NULL */
    const char *model_fingerprint, *tokenizer_fingerprint; /* hex, or NULL */
    const char *provenance;                                /* JSON text, or NULL */
} cox_vector;

typedef struct cox_vector_file {
    const char *path;
    cox_vector *vectors; /* [n] sorted by name */
    size_t n;
    bool is_gguf;            /* a control vector: all of them together are one thing */
    const char *model_hint;  /* the kind of model that a control vector says it is for; NULL: it does not */
    struct cox_arena *arena; /* owns everything */
} cox_vector_file;

/* Safetensors, or GGUF (steering/gguf.h), told apart by their first bytes. [out] owned by the caller.
 * Errors: those of GGUF; NOT_FOUND, IO, BAD_FILE (also: not f32, not one dimension, non-finite
 * values (position named), metadata that contradicts the tensors, larger than the limits in docs/formats.md).
 */
cox_status cox_vector_file_read(cox_vector_file **file, const char *path);
/* Writes through a temporary file and rename. */
cox_status cox_vector_file_write(const char *path, const cox_vector *vectors, size_t n);
void cox_vector_file_free(cox_vector_file *file); /* NULL is allowed */
/*
 * By name; else, of a name as `direction` gives them, SITE.LAYER[.EXPERT][@POSITION], the one vector that
 * says so of itself: site, layer and expert, and the position of its provenance ("last" is -1; a name without
 * "@" takes any). name NULL: the only one. NULL with a message when there is none, or when there are several.
 */
const cox_vector *cox_vector_find(const cox_vector_file *file, const char *name);

/* SHA-256 in hex of <folder>/tokenizer.json's bytes: what vectors and results name a tokenizer by; "" when
 * there is none (then vectors are not compared with it). Errors: IO, BAD_FILE. */
cox_status cox_tokenizer_fingerprint(const char *folder, char fingerprint[65]);

/* sum_i a[i] b[i] in f64, in ascending index. */
double cox_dot_f64(const float *a, const float *b, int32_t n);

#endif
