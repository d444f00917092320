/*
 * Many different plans for a model, drawn from a seed: every site, operation, weighting, router edit, scope
 * and condition comes up. Request i always gets the same plan. Vectors and recorded routes are files of a
 * folder, written once.
 */
#ifndef COX_TESTS_SUPPORT_MIXED_PLANS_H
#define COX_TESTS_SUPPORT_MIXED_PLANS_H

#include "steering/plan.h"

/* Writes what plans 0..n-1 read into an empty folder. */
cox_status mixed_plans_write(const char *folder, const cox_model *model, int32_t n);
/* Removes these files and the folder. */
void mixed_plans_remove(const char *folder, int32_t n);

/* Plan i as JSON; owned by the caller. strength: multiplies every strength; force_in, force_out and pin,
 * which are all or nothing, get 0 or 1. */
json_t *mixed_plans_json(const cox_model *model, int32_t i, double strength);

/* Plan i compiled. Errors: as cox_plan_from_json. */
cox_status mixed_plans_make(cox_plan **plan, const char *folder, const cox_model *model, int32_t i,
                            double strength);

#endif
