/*
 * An expert host: the weights of this rank's experts and the grouped FFN over the rows that the exchange
 * brings. It keeps no request state, so any coordinator can use it. Knows nothing of gate weights: it
 * returns pre-gate rows (a sum taken here would make results depend on the placement).
 */
#ifndef COX_WORKER_WORKER_H
#define COX_WORKER_WORKER_H

#include <stdint.h>

#include "base/status.h"
#include "cluster/cluster.h"
#include "cluster/exchange.h"
#include "cluster/placement.h"
#include "kernels/kernels.h"
#include "model/model.h"

typedef struct cox_worker cox_worker;

/* Bytes that create takes beside the experts' own (cox_model_expert_bytes). */
size_t cox_worker_scratch_bytes(const cox_model *model, const cox_kernels *kernels, int32_t n_threads);

/* Loads the experts that `placement` gives to this rank and takes all scratch. Everything is borrowed.
 * Not collective. Errors: IO, NO_MEMORY. */
cox_status cox_worker_create(cox_worker **worker, const cox_model *model, const cox_kernels *kernels,
                             cox_cluster *cluster, const cox_placement *placement,
                             cox_load_progress *progress, void *progress_context);
void cox_worker_destroy(cox_worker *worker); /* NULL is allowed */

/* The plans that it holds; see worker/plans.h. */
const struct cox_worker_plans *cox_worker_steering(const cox_worker *worker);

/* This worker as the exchange's host, which borrows it; it computes all in begin. Rows and replies are
 * d_model + COX_ROW_TAIL floats (steering/row_tag.h). NULL is allowed: no host. Computing takes no memory. */
cox_host cox_worker_host(cox_worker *worker);

#endif
