/*
 * What an answer tells beside its text, gathered while the request runs: the rows that its plan touched, and
 * the routes of its rows. Knows the record, not the session.
 */
#ifndef COX_COORDINATOR_TELEMETRY_H
#define COX_COORDINATOR_TELEMETRY_H

#include "coordinator/engine.h"
#include "proto/record.h"

typedef struct cox__telemetry cox__telemetry;

/* plan: of the request, or NULL; only looked at here, since the engine takes it over. [out] owned by the
 * caller. Errors: NO_MEMORY. */
cox_status cox__telemetry_create(cox__telemetry **telemetry, const cox_model *model, bool wants_routes,
                                 const cox_plan *plan);
void cox__telemetry_destroy(cox__telemetry *telemetry); /* NULL is allowed */

/* Keeps the routes [top_k] of a row. Errors: NO_MEMORY. */
cox_status cox__telemetry_put_routes(cox__telemetry *telemetry, int32_t layer, int32_t position,
                                     const cox_traced_route *routes);

/* Fills the record's steering (of a request with a plan) and routes (of one that wants them). Errors:
 * NO_MEMORY. */
cox_status cox__telemetry_report(const cox__telemetry *telemetry, const cox_sequence_result *result,
                                 cox_record *record);

#endif
