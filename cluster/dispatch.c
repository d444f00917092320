/*
 * The dispatch plan: who gets which rows. Two passes over the routes: the first counts rows and routes of
 * each destination, the second writes them at their places. Pure and without allocation; what other folders
 * may read is the public struct, the scratch of the build stands behind it.
 */
#include <assert.h>
#include <string.h>

#include "cluster/exchange.h"

/* Rows of one block take the same replica of an expert: a small batch activates one copy only (its weights
 * are read once), a long prefill spreads over all copies. */
enum { ROWS_OF_A_REPLICA = 32 };

typedef struct full_plan {
    cox_dispatch_plan plan; /* first: the public pointer is this one */
    int32_t max_rows;
    int32_t *route_destinations; /* [max_rows*top_k] index of the destination of each route */
    int32_t *route_locals;       /* [max_rows*top_k] */
    int32_t *row_at, *route_at;  /* [n_destinations] where the next row and route go */
    int32_t *last_row;           /* [n_destinations] the last row counted there */
    int32_t *order;              /* [top_k] choices of one row by ascending expert */
} full_plan;

cox_status cox_dispatch_plan_create(cox_dispatch_plan **plan, cox_arena *arena, const cox_cluster *cluster,
                                    int32_t max_rows, int32_t top_k)
{
    if (max_rows < 1 || top_k < 1 || (int64_t)max_rows * top_k > INT32_MAX / 2) {
        return cox_fail(COX_INVALID,
                        "a dispatch plan of %d rows and top-%d: both must be positive and their product"
                        " below 2^30",
                        (int)max_rows, (int)top_k);
    }
    full_plan *f = cox_arena_alloc(arena, sizeof *f);
    if (!f) return COX_NO_MEMORY;
    const int32_t *destinations = NULL;
    int32_t n = cox_cluster_expert_ranks(cluster, &destinations);
    size_t routes = (size_t)max_rows * (size_t)top_k;
    size_t packed = (size_t)max_rows * (size_t)(top_k < n ? top_k : n);
    cox_dispatch_plan *p = &f->plan;
    *p = (cox_dispatch_plan){.top_k = top_k, .n_destinations = n, .destinations = destinations};
    f->max_rows = max_rows;
    p->row_offsets = cox_arena_array(arena, (size_t)n + 1, sizeof(int32_t));
    p->rows = cox_arena_array(arena, packed, sizeof(int32_t));
    p->route_offsets = cox_arena_array(arena, (size_t)n + 1, sizeof(int32_t));
    p->row_routes = cox_arena_array(arena, packed + 1, sizeof(int32_t));
    p->experts = cox_arena_array(arena, routes, sizeof(cox_local_expert));
    p->reply_index = cox_arena_array(arena, routes, sizeof(int32_t));
    f->route_destinations = cox_arena_array(arena, routes, sizeof(int32_t));
    f->route_locals = cox_arena_array(arena, routes, sizeof(int32_t));
    f->row_at = cox_arena_array(arena, (size_t)n, sizeof(int32_t));
    f->route_at = cox_arena_array(arena, (size_t)n, sizeof(int32_t));
    f->last_row = cox_arena_array(arena, (size_t)n, sizeof(int32_t));
    f->order = cox_arena_array(arena, (size_t)top_k, sizeof(int32_t));
    if (!p->row_offsets || !p->rows || !p->route_offsets || !p->row_routes || !p->experts ||
        !p->reply_index || !f->route_destinations || !f->route_locals || !f->row_at || !f->route_at ||
        !f->last_row || !f->order) {
        return COX_NO_MEMORY;
    }
    *plan = p;
    return COX_OK;
}

/* Offsets start at 0 and never decrease. */
static void assert_offsets(const int32_t *offsets, int32_t n)
{
    assert(offsets[0] == 0);
    for (int32_t i = 0; i < n; i++) assert(offsets[i] <= offsets[i + 1]);
    (void)offsets, (void)n;
}

/* Finds each route's host and sums up what every destination gets. */
static void count_routes(full_plan *f, const cox_placement *placement, int32_t layer,
                         const cox_expert_id *experts)
{
    cox_dispatch_plan *p = &f->plan;
    int32_t n = p->n_destinations;
    memset(p->row_offsets, 0, ((size_t)n + 1) * sizeof(int32_t));
    memset(p->route_offsets, 0, ((size_t)n + 1) * sizeof(int32_t));
    for (int32_t d = 0; d < n; d++) f->last_row[d] = -1;
    for (int32_t row = 0; row < p->n_rows; row++) {
        for (int32_t route = row * p->top_k; route < (row + 1) * p->top_k; route++) {
            const int32_t *hosts = NULL;
            if (experts[route].value < 0) continue;
            int32_t n_hosts = cox_placement_hosts(placement, layer, experts[route], &hosts);
            assert(n_hosts > 0);
            int32_t replica = (row / ROWS_OF_A_REPLICA + experts[route].value) % n_hosts;
            cox_local_expert local;
            int32_t d = cox_placement_seat(placement, layer, experts[route], replica, &local);
            assert(p->destinations[d] == hosts[replica]);
            f->route_destinations[route] = d;
            f->route_locals[route] = local.value;
            p->route_offsets[d + 1]++;
            if (f->last_row[d] != row) p->row_offsets[d + 1]++;
            f->last_row[d] = row;
        }
    }
    for (int32_t d = 0; d < n; d++) {
        p->row_offsets[d + 1] += p->row_offsets[d];
        p->route_offsets[d + 1] += p->route_offsets[d];
        f->row_at[d] = p->row_offsets[d];
        f->route_at[d] = p->route_offsets[d];
        f->last_row[d] = -1;
    }
}

/* The row's choices, by ascending expert id. */
static void sort_choices(full_plan *f, const cox_expert_id *experts)
{
    for (int32_t j = 0; j < f->plan.top_k; j++) {
        int32_t at = j;
        for (; at > 0 && experts[f->order[at - 1]].value > experts[j].value; at--)
            f->order[at] = f->order[at - 1];
        f->order[at] = j;
    }
}

void cox_dispatch_plan_build(cox_dispatch_plan *plan, const cox_placement *placement, int32_t layer,
                             const cox_expert_id *experts, int32_t n_rows)
{
    full_plan *f = (full_plan *)plan;
    assert(n_rows >= 0 && n_rows <= f->max_rows);
    plan->n_rows = n_rows;
    count_routes(f, placement, layer, experts);
    for (int32_t row = 0; row < n_rows; row++) {
        sort_choices(f, experts + (size_t)row * (size_t)plan->top_k);
        for (int32_t j = 0; j < plan->top_k; j++) {
            int32_t route = row * plan->top_k + f->order[j];
            if (experts[route].value < 0) continue;
            int32_t d = f->route_destinations[route];
            if (f->last_row[d] != row) {
                f->last_row[d] = row;
                plan->rows[f->row_at[d]] = row;
                plan->row_routes[f->row_at[d]++] = f->route_at[d];
            }
            plan->experts[f->route_at[d]].value = f->route_locals[route];
            plan->reply_index[route] =
                f->route_at[d]++ + d + 1; /* one row of header before each destination's */
        }
    }
    plan->row_routes[plan->row_offsets[plan->n_destinations]] = plan->route_offsets[plan->n_destinations];
    assert_offsets(plan->row_offsets, plan->n_destinations);
    assert_offsets(plan->route_offsets, plan->n_destinations);
}
