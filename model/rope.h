/*
 * Rotary position embedding: the config's parameters in both spellings, and the table of inverse
 * frequencies that follows from them, in the arithmetic of transformers' modeling_rope_utils.py.
 */
#ifndef COX_MODEL_ROPE_H
#define COX_MODEL_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "model/config.h"

typedef enum cox__rope_type {
    COX__ROPE_DEFAULT,
    COX__ROPE_LINEAR,
    COX__ROPE_LLAMA3,
    COX__ROPE_YARN
} cox__rope_type;

typedef struct cox__rope_params {
    cox__rope_type type;
    double theta;
    double factor;                            /* of every type but default */
    double original_positions;                /* llama3, yarn */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn, as all that follows */
    double mscale, mscale_all_dim;            /* 0: not given */
    double attention_factor;                  /* negative: follows from factor and mscale */
    bool truncate;
} cox__rope_params;

/*
 * Reads `rope_scaling` (which wins when it is not empty) or `rope_parameters`, with `rope_theta` inside or
 * beside them. missing: what holds when neither is there; missing->theta is also the family's default theta.
 * Errors: BAD_FILE; UNSUPPORTED for a type that is not built, by name; NO_MEMORY.
 */
cox_status cox__rope_read(const cox__config *config, const cox__rope_params *missing, int32_t max_positions,
                          cox_arena *arena, cox__rope_params *params);

/* [out] inv_freq [head_dim/2] f32, *attention_factor. */
void cox__rope_table(const cox__rope_params *params, int32_t head_dim, float *inv_freq,
                     float *attention_factor);

#endif
