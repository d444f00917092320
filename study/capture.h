/* What the files of `coxswain capture` share: what is asked for, as columns of a table whose rows are tokens,
 * and the two things that become of it. */
#ifndef COX_CLI_CAPTURE_H
#define COX_CLI_CAPTURE_H

#include "study/prompt_pass.h"

/* One site of one layer. Rows lie as [n_units, width]. */
typedef struct cox_capture_column {
    cox_site site;
    int32_t layer;
    int32_t n_units; /* at expert_out: experts asked for, or, of rows and routed, as many as a row can have */
    int32_t width;
    size_t first;      /* floats of the columns before it */
    size_t first_unit; /* units of the columns before it */
} cox_capture_column;

typedef struct cox_capture {
    const cox_options *options;
    cox_run run;
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
} cox_capture;

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
