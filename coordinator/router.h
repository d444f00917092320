/* Router logits to routes as the engine asks for them: the rules of model/route_rules.h without demands. */
#ifndef COX_COORDINATOR_ROUTER_H
#define COX_COORDINATOR_ROUTER_H

#include "model/route_rules.h"

/* logits: f32 [n_experts]; scratch: f32 [cox_routes_scratch_floats]; [out] routes [top_k]. */
void cox_router_choose(const cox_kernels *kernels, const cox_router_config *config, const float *logits,
                       float *scratch, cox_route *routes);

#endif
