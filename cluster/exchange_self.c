/*
 * The back-end of one process: nothing moves. The coordinator computes its own experts' rows out of the
 * packed segment, and their outputs stand where a reply would have arrived (exchange.c).
 */
#include "cluster/exchange_internal.h"

static cox_status self_create(cox_exchange *x)
{
    (void)x;
    return COX_OK;
}

static void self_nothing(cox_exchange *x)
{
    (void)x;
}

static void self_dispatch(cox_exchange *x, int32_t slot)
{
    (void)x, (void)slot;
}

static bool self_is_answered(cox_exchange *x, int32_t slot)
{
    (void)x, (void)slot;
    return true;
}

static void self_blame(cox_exchange *x, int32_t slot, const cox__wait *wait)
{
    (void)x, (void)slot, (void)wait;
}

static bool self_serve(cox_exchange *x)
{
    (void)x;
    return false;
}

const cox__backend cox__backend_self = {.name = "self",
                                        .create = self_create,
                                        .destroy = self_nothing,
                                        .dispatch = self_dispatch,
                                        .is_answered = self_is_answered,
                                        .blame = self_blame,
                                        .serve = self_serve,
                                        .last = self_nothing};
