/* The engine's routing; the rules are in model/route_rules.c, where steering finds them too. */
#include "coordinator/router.h"

void cox_router_choose(const cox_kernels *kernels, const cox_router_config *config, const float *logits,
                       float *scratch, cox_route *routes)
{
    cox_routes_choose(kernels, config, NULL, logits, NULL, scratch, routes);
}
