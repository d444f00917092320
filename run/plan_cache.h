/*
 * Plans of requests, on rank 0, which alone reads files: JSON or a plan's path to the packed plan that any
 * coordinator can use; the first plan's note (steering/plan.h) is a warning on standard error. A plan is
 * compiled once in a run: what has been read is kept by its JSON text and folder, so plan and vector files
 * that change during a run are not read again.
 */
#ifndef COX_RUN_PLAN_CACHE_H
#define COX_RUN_PLAN_CACHE_H

#include <stdbool.h>

#include "base/status.h"
#include "model/model.h"
#include "proto/request.h"

typedef struct cox_plan_cache cox_plan_cache;

/* model: borrowed. force: accept vectors of another model or tokenizer. Errors: NO_MEMORY. */
cox_status cox_plan_cache_create(cox_plan_cache **steer, const cox_model *model, bool force);
void cox_plan_cache_destroy(cox_plan_cache *steer); /* NULL is allowed */

/* Replaces the JSON text of request->steering by the compiled plan; paths are relative to `folder`. Errors:
 * those of cox_plan_from_json and cox_plan_load, INVALID. */
cox_status cox_plan_cache_compile(cox_plan_cache *steer, cox_request *request, const char *folder);
/* Gives the request the plan of a file. */
cox_status cox_plan_cache_load(cox_plan_cache *steer, cox_request *request, const char *path);
/* Reads the plan of a file, so that its errors come before any token. */
cox_status cox_plan_cache_check(cox_plan_cache *steer, const char *path);

#endif
