/*
 * Plans of requests, on rank 0, which alone reads files: JSON or a plan's path to the compiled plan;
 * the first plan's note (steering/plan.h) is a warning on standard error. A plan
 * is compiled once in a run: what has been read is kept by its JSON text and folder, so plan and vector files
 * that change during a run are not read again.
 */
#ifndef COX_RUN_PLAN_CACHE_H
#define COX_RUN_PLAN_CACHE_H

#include <stdbool.h>

#include "base/status.h"
#include "model/model.h"
#include "steering/plan.h"

typedef struct cox_plan_cache cox_plan_cache;

/* model: borrowed. force: accept vectors of another model or tokenizer. Errors: NO_MEMORY. */
cox_status cox_plan_cache_create(cox_plan_cache **steer, const cox_model *model, bool force);
void cox_plan_cache_destroy(cox_plan_cache *steer); /* NULL is allowed */

/* The plan of a request's JSON text; paths in it are relative to `folder`. [out] *plan: the caller's share
 * (cox_plan_free), not to be changed. Errors: those of cox_plan_from_json and cox_plan_load, INVALID. */
cox_status cox_plan_cache_compile(cox_plan_cache *steer, const char *json, const char *folder,
                                  cox_plan **plan);
/* The same of a plan's file. */
cox_status cox_plan_cache_load(cox_plan_cache *steer, const char *path, cox_plan **plan);
/* Reads the plan of a file, so that its errors come before any token. */
cox_status cox_plan_cache_check(cox_plan_cache *steer, const char *path);

#endif
