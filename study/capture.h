/*
 * What flows through the model at chosen sites, layers, experts and tokens of prompts, into a folder: rows as
 * they are, or each input file's count, mean and variance. Below: what is asked for, as columns of a table
 * whose rows are tokens, and the two things that become of it.
 */
#ifndef COX_STUDY_CAPTURE_H
#define COX_STUDY_CAPTURE_H

#include "study/prompt_pass.h"

typedef struct cox_capture_options {
    const char *const *inputs; /* [n_inputs] files of prompts */
    size_t n_inputs;
    int64_t limit;          /* prompts of each; 0: all */
    const char *output;     /* the folder */
    bool has_force;         /* it may hold something */
    const char *sites;      /* names with commas, or "all"; NULL: resid_post, with has_routes none */
    const char *layers;     /* indices with commas, or "all" */
    const char *experts;    /* of expert_out, likewise; NULL: all */
    const char *positions;  /* "last", "-K" with commas, or "all" */
    bool is_counterfactual; /* at expert_out: of all experts asked for, routed or not */
    bool has_routes, has_statistics;
} cox_capture_options;

typedef struct cox_captured {
    int64_t n_rows;
    int32_t n_prompts, n_columns, n_shards; /* n_shards 0: statistics */
} cox_captured;

typedef struct cox_capture cox_capture;

/* What is asked, as far as it needs no model. [out] owned by the caller. options: borrowed, outliving it.
 * Errors: INVALID (names the option), NO_MEMORY. */
cox_status cox_capture_create(cox_capture **capture, const cox_capture_options *options);
/* [out] *captured: on rank 0. Collective. Errors: those of cox_prompts_read and of the engine, INVALID, IO,
 * NO_MEMORY. */
cox_status cox_capture_compute(cox_capture *capture, cox_run *run, cox_captured *captured);
void cox_capture_destroy(cox_capture *capture); /* NULL is allowed */

/* --- What its files share --- */

/* One site of one layer. Rows lie as [n_units, width]. */
typedef struct cox_capture_column {
    cox_site site;
    int32_t layer;
    int32_t n_units; /* at expert_out: experts asked for, or, of rows and routed, as many as a row can have */
    int32_t width;
    size_t first;      /* floats of the columns before it */
    size_t first_unit; /* units of the columns before it */
} cox_capture_column;

struct cox_capture {
    const cox_capture_options *options;
    cox_run *run; /* borrowed, while it computes */
    cox_pass_work work;
    bool is_routed; /* units of expert_out are the routed experts of each row, not those asked for */
    int32_t *layers, *experts, *from_end;
    int32_t n_layers, n_experts, n_positions; /* n_positions 0: all */
    unsigned sites;                           /* sum of 1 << cox_site */
    cox_capture_column *columns;              /* [n_columns] by layer, then site */
    int32_t n_columns;
    size_t n_floats, n_units;         /* of all columns */
    int32_t *column_of;               /* [the model's layers, COX_N_SITES] or -1 */
    int32_t *unit_of;                 /* [the model's experts] index in experts, or -1 */
    uint8_t *site_mask, *expert_mask; /* for the pass */
    int32_t *blocks;                  /* [prompts], made by rows or statistics */
    int32_t n_blocks;
};

static inline const cox_capture_column *cox_capture_at(const cox_capture *c, cox_site site, int32_t layer)
{
    return &c->columns[c->column_of[layer * COX_N_SITES + (int32_t)site]];
}

/* Rows of a prompt. */
static inline int32_t cox_capture_n_rows(const cox_capture *c, const cox_pass_prompt *prompt)
{
    return c->n_positions ? c->n_positions : prompt->n_tokens;
}

/* The pass with this sink; c->blocks are made. Collective. */
cox_status cox_capture_run(cox_capture *c, const cox_pass_sink *sink, bool wants_routes, cox_status status);

/* FOLDER/name; malloc'ed. */
char *cox_capture_path(const cox_capture *c, const char *name);

/* Errors: NO_MEMORY, when so many bytes are more than this machine has left. */
cox_status cox_capture_check_room(double n_bytes);

/* capture_rows.c: shards; [out] *shards on rank 0: what the index says of them. Collective. */
cox_status cox_capture_rows(cox_capture *c, struct json_t **shards);
/* capture_statistics.c: one file. Collective. */
cox_status cox_capture_statistics(cox_capture *c);

#endif
