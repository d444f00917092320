/* Plans that coordinators have sent to this expert host, by id, and their application to replies. */
#ifndef COX_WORKER_PLANS_H
#define COX_WORKER_PLANS_H

#include "base/status.h"
#include "cluster/cluster.h"
#include "cluster/exchange.h"
#include "kernels/kernels.h"
#include "steering/row_tag.h"

typedef struct cox_worker_plans cox_worker_plans;

/* Errors: NO_MEMORY. d_model: of the rows. */
cox_status cox_worker_plans_create(cox_worker_plans **plans, cox_cluster *cluster, const cox_kernels *kernels,
                                   int32_t d_model);
void cox_worker_plans_destroy(cox_worker_plans *plans); /* NULL is allowed */

/*
 * Steers the replies of all rows with a plan, in place, and writes their tags. experts [n_local]: global ids
 * of this rank's experts in the layer. A plan whose letter is still on its way is waited for. Errors:
 * INTERNAL (it never came), BAD_FILE, NO_MEMORY.
 */
cox_status cox_worker_plans_steer(cox_worker_plans *plans, const cox_work *work,
                                  const cox_expert_id *experts);

/* Plans held now, and rows that interventions have touched so far, of all plans. For tests. */
int32_t cox_worker_plans_count(const cox_worker_plans *plans);
uint64_t cox_worker_plans_n_hits(const cox_worker_plans *plans);

#endif
