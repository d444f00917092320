/* The two files that read interventions: plan_parse.c (what it is) and plan_scope.c (where, and with what).
 */
#ifndef COX_STEERING_PARSE_H
#define COX_STEERING_PARSE_H

#include "steering/internal.h"

/* One intervention being read. */
typedef struct cox__parse {
    cox__plan_builder *builder;
    const json_t *json;
    const char *where;        /* "plan.json: intervention 3" */
    const cox_vector *vector; /* of key "vector", or NULL */
} cox__parse;

/* An f32, left as it is when the key is absent. Errors: BAD_FILE, INVALID (not finite in f32). */
cox_status cox__parse_number(const json_t *json, const char *where, const char *key, float *out);
/* Each fills its part of *out, whose site, op and weighting are set. */
cox_status cox__parse_layers(const cox__parse *parse, cox_intervention *out);
cox_status cox__parse_experts(const cox__parse *parse, cox_intervention *out);
cox_status cox__parse_positions(const cox__parse *parse, cox_intervention *out);
cox_status cox__parse_fields(const cox__parse *parse, cox_intervention *out);
cox_status cox__parse_when(const cox__parse *parse, cox_intervention *out);

#endif
