/*
 * What steering a request asks for: JSON as a person writes it, a validated list of interventions in memory,
 * and the protobuf form that crosses ranks. Every operation is h + s D(h); formulas in docs/steering.md. Pure
 * functions: no MPI, no engine.
 */
#ifndef COX_STEERING_PLAN_H
#define COX_STEERING_PLAN_H

#include <jansson.h>

#include "base/arena.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "steering/vector.h"

// clang-format off
#define COX_OP_LIST(X)        \
    X(ADD, "add")             \
    X(ABLATE, "ablate")       \
    X(CLAMP, "clamp")         \
    X(AFFINE, "affine")       \
    X(SCALE, "scale")         \
    X(ROTATE, "rotate")       \
    X(BIAS, "bias")           \
    X(FORCE_OUT, "force_out") \
    X(FORCE_IN, "force_in")   \
    X(PIN, "pin")
// clang-format on
typedef enum cox_op {
#define X(name, text) COX_OP_##name,
    COX_OP_LIST(X)
#undef X
        COX_N_OPS
} cox_op;

#define COX_WEIGHTING_LIST(X) \
    X(ROUTED, "routed") X(POST_GATE, "post_gate") X(SOFT, "soft") X(UNWEIGHTED, "unweighted")
typedef enum cox_weighting {
#define X(name, text) COX_WEIGHTING_##name,
    COX_WEIGHTING_LIST(X)
#undef X
        COX_N_WEIGHTINGS
} cox_weighting;

const char *cox_op_name(cox_op op);
const char *cox_weighting_name(cox_weighting weighting);

/* Token positions of a sequence with n_prompt prompt tokens; positions count from 0. */
typedef enum cox_span {
    COX_SPAN_ALL,
    COX_SPAN_PROMPT,
    COX_SPAN_GENERATED,
    COX_SPAN_LAST,
    COX_SPAN_RANGE
} cox_span;
typedef struct cox_positions {
    cox_span span;
    int32_t from, to; /* RANGE: from <= position < to; LAST: the last `from` tokens of the prompt */
} cox_positions;
bool cox_positions_contain(const cox_positions *positions, int32_t position, int32_t n_prompt);
/* [out] the positions from <= p < to that they are in such a sequence; *to is INT32_MAX where it is open. */
void cox_positions_resolve(const cox_positions *positions, int32_t n_prompt, int32_t *from, int32_t *to);

/* Routes to be taken instead of the router's choice, by layer and position; from a recorded file
 * (docs/formats.md). */
typedef struct cox_pinned_routes cox_pinned_routes;
/* The experts [top_k] pinned for a position in a layer; NULL when the record has none. */
const int32_t *cox_pinned_routes_find(const cox_pinned_routes *routes, int32_t layer, int32_t position);

/* Writes such a file. layers: [n_layers] of [n_tokens, top_k] experts, NULL where nothing was recorded.
 * Errors: INVALID, IO. */
cox_status cox_pinned_routes_write(const char *path, const int32_t *const *layers, int32_t n_layers,
                                   int32_t n_tokens, int32_t top_k, const char *model_fingerprint);

/* A traced run: what each choice was made of, column j the j-th choice. All [n_tokens, top_k]; experts NULL:
 * nothing of this layer; the others NULL: left out. */
typedef struct cox_routes_layer {
    const int32_t *experts;
    const float *logits, *weights, *margins; /* router logit, gate weight, logit minus the next lower one */
    const int32_t *ranks;                    /* that computed the expert */
} cox_routes_layer;
/* The same file with all of these beside the experts; pinning reads it too. Errors: INVALID, IO. */
cox_status cox_traced_routes_write(const char *path, const cox_routes_layer *layers, int32_t n_layers,
                                   int32_t n_tokens, int32_t top_k, const char *model_fingerprint);

typedef struct cox_intervention {
    cox_site site;
    cox_op op;
    cox_weighting weighting; /* of expert_out */
    float strength;          /* s; 0 is skipped */
    uint8_t *layers;         /* [n_layers] 1 where it applies */
    uint8_t *experts;        /* [n_experts] 1 where it applies; NULL where the site has none */
    int32_t width; /* of the vectors: d_model; at router_logits n_experts, and only `when` is a vector */
    const float *vector;        /* [width] v, raw; NULL where the operation has none */
    const float *unit;          /* [width] u = v/|v|, in f32 from an f64 norm */
    const float *unit2;         /* [width] rotate: the second unit vector of the plane, orthogonal to u */
    float reference_dot;        /* affine: u . reference */
    float value, alpha, factor; /* clamp, bias: value; affine: alpha; scale: factor */
    float cosine, sine;         /* rotate */
    bool preserve_norm;
    cox_positions positions;
    const float *when; /* [width] unit vector of the condition; NULL: none */
    float cosine_above;
    const cox_pinned_routes *pinned;
    float vector_norm; /* |v|, from f64 */
    uint64_t hash;     /* over everything above except layers */
} cox_intervention;

typedef struct cox_plan {
    const char *name;                /* "" when it has none; not part of hash or bytes */
    cox_intervention *interventions; /* [n] in the order in which they apply at one site */
    int32_t n;
    int32_t n_layers, n_experts, d_model; /* of the model that it is for */
    const int32_t *site_offsets; /* [n_layers * COX_N_SITES + 1] offsets into site_list; see cox_plan_at */
    const int32_t *site_list;
    uint64_t hash;    /* over everything that has an effect; equal plans have equal hashes and bytes */
    bool was_forced;  /* a fingerprint mismatch was overridden */
    const char *note; /* of a plan from JSON: what a warning should say of it; NULL: nothing */
    int32_t n_owners; /* who will free it */
    cox_arena *arena; /* owns everything */
} cox_plan;

/*
 * From JSON (the object {"name", "interventions": [...]}) for one model. where: names it in messages; folder:
 * vector paths are relative to it. force: accept vectors of another model or tokenizer (recorded in
 * was_forced). Refused, naming the intervention and key: unknown site, operation, weighting or key; layer or
 * expert out of range; wrong width; non-finite values; a vector for another site, model or tokenizer; an
 * operation that the site does not allow (docs/steering.md has the matrix); what nothing can reach; more than
 * the limits. Errors: INVALID, BAD_FILE, NOT_FOUND, UNSUPPORTED.
 */
cox_status cox_plan_from_json(cox_plan **plan, const json_t *json, const char *where, const char *folder,
                              const cox_model *model, const char *tokenizer_fingerprint, bool force);
/* Vector files that many plans name, each read once. A cache may outlive the plans; zero it to begin with. */
typedef struct cox_vector_cache {
    cox_vector_file **files; /* [n] */
    size_t n;
} cox_vector_cache;
void cox_vector_cache_release(cox_vector_cache *cache);
/* The same with files taken from a cache, and added to it. */
cox_status cox_plan_from_json_cached(cox_plan **plan, const json_t *json, const char *where,
                                     const char *folder, const cox_model *model,
                                     const char *tokenizer_fingerprint, bool force, cox_vector_cache *cache);
/* A plan file, or {"plan": "path"}. */
cox_status cox_plan_load(cox_plan **plan, const char *path, const cox_model *model,
                         const char *tokenizer_fingerprint, bool force);
/* One more owner of an unchanging plan; each frees it. Not for two threads at once. */
cox_plan *cox_plan_share(cox_plan *plan);
void cox_plan_free(cox_plan *plan); /* NULL is allowed */

/* Interventions at a site of a layer whose strength is not 0: indices in plan order. Constant time, no
 * allocation. */
const int32_t *cox_plan_at(const cox_plan *plan, int32_t layer, cox_site site, int32_t *n);
/*
 * The plan of one intervention: `ablate` of vector [model->d_model] with strength 1 at every position, at a
 * site of the residual stream's width, in one layer (-1: in all), of one expert at expert_out (weighting
 * routed; else -1). Errors: INVALID (the vector is 0), NO_MEMORY.
 */
cox_status cox_plan_make_ablation(cox_plan **plan, const cox_model *model, const float *vector, cox_site site,
                                  int32_t layer, int32_t expert);
/*
 * The plan for a sequence whose prompt and continuation are fed together: positions of a phase ("prompt",
 * "generated", the last k) become the ranges that they are with n_prompt prompt tokens. [out] *fixed: a plan
 * of its own, unnamed. Errors: NO_MEMORY.
 */
cox_status cox_plan_fix_positions(const cox_plan *plan, int32_t n_prompt, cox_plan **fixed);
/* Same effect on every row: the same bytes but for the name. */
bool cox_plan_equal(const cox_plan *a, const cox_plan *b);

/* Limits; more is refused. The packed plan without its masks is at most COX_PLAN_MAX_BYTES. */
enum { COX_PLAN_MAX_INTERVENTIONS = 4096, COX_PLAN_MAX_BYTES = 256 << 20, COX_PLAN_MAX_STACK = 4 };

/*
 * The protobuf form. layer_experts: which interventions to keep: NULL for all, else only what expert hosts
 * apply (expert_out with weighting routed) on the experts that hosts(context, layer, expert) says are there;
 * vectors of other interventions are not in the bytes. *n_kept: interventions that remain. [out] *data
 * malloc'ed. Interventions keep their index in the original plan (statistics name them by it).
 */
typedef bool cox_hosts_function(void *context, int32_t layer, int32_t expert);
cox_status cox_plan_pack(const cox_plan *plan, cox_hosts_function *hosts, void *context, void **data,
                         size_t *n_bytes, int32_t *n_kept);
/* [out] *indices: [plan->n] index in the original plan; owned by the plan. Errors: BAD_FILE, NO_MEMORY. */
cox_status cox_plan_unpack(cox_plan **plan, const int32_t **indices, const void *data, size_t n_bytes);

/* Words for people: what happens where, on which rank (ranks_of names the hosts of an expert); malloc'ed. */
typedef int32_t cox_ranks_function(void *context, int32_t layer, int32_t expert, const int32_t **ranks);
cox_status cox_plan_explain(const cox_plan *plan, const cox_model *model, cox_ranks_function *ranks_of,
                            void *context, char **text);

/* --- Application to one row --- */

/* What one application did, for the record of hits. */
typedef struct cox_steer_effect {
    bool was_applied; /* the condition held and the strength is not 0 */
    float norm_there; /* |h| before */
    float norm_added; /* |h' - h| */
} cox_steer_effect;

/*
 * h [width] becomes h + s D(h) (rescaled to |h| with preserve_norm), for the vector operations (ADD to
 * ROTATE); arithmetic in f32 by the fixed tree, so the same bits everywhere. The caller has checked layer,
 * expert and position. scratch: [width].
 */
void cox_intervention_apply(const cox_intervention *intervention, const cox_kernels *kernels, float *h,
                            float *scratch, cox_steer_effect *effect);

/* Strength is not 0 and the condition, if there is one, holds on the row h [width], whose norm is |h|. */
bool cox_intervention_is_met(const cox_intervention *intervention, const cox_kernels *kernels, const float *h,
                             float norm_there);

#endif
