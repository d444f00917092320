/*
 * This rank's share of the machine's cores. When several ranks share a machine and nobody has bound them yet,
 * each takes a contiguous run of cores (neighbours share caches and memory controllers), and binds itself
 * before OpenMP makes its threads, which inherit it. A binding that srun or mpirun has set is kept. With more
 * ranks than cores, or more threads than the share, nothing is bound: the kernel balances better than a fixed
 * choice.
 */
#include <hwloc.h>
#include <unistd.h>

#include "cluster/internal.h"

/* Cores of which at least one hardware thread is in the set. */
static int32_t cores_in(hwloc_topology_t topology, hwloc_const_cpuset_t set)
{
    int32_t n = 0;
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL) {
        n += hwloc_bitmap_intersects(core->cpuset, set);
    }
    return n;
}

/* Binds the process to cores first..last-1 of those in the set. */
static void bind_range(hwloc_topology_t topology, hwloc_const_cpuset_t set, int32_t first, int32_t last)
{
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    hwloc_obj_t core = NULL;
    for (int32_t i = 0;
         mine && i < last && (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core));) {
        if (!hwloc_bitmap_intersects(core->cpuset, set)) continue;
        if (i >= first) hwloc_bitmap_or(mine, mine, core->cpuset);
        i++;
    }
    if (mine && !hwloc_bitmap_iszero(mine)) {
        hwloc_bitmap_and(mine, mine, set);
        hwloc_set_cpubind(topology, mine, HWLOC_CPUBIND_PROCESS); /* may be forbidden; then we run unbound */
    }
    hwloc_bitmap_free(mine);
}

static void share_cores(cox_cluster *c, hwloc_topology_t topology, hwloc_bitmap_t set, int32_t wanted_threads)
{
    if (hwloc_get_cpubind(topology, set, HWLOC_CPUBIND_PROCESS) != 0) {
        hwloc_bitmap_copy(set, hwloc_topology_get_allowed_cpuset(topology));
    }
    int32_t n_cores = cores_in(topology, set);
    if (n_cores < 1) return;
    bool is_bound = !hwloc_bitmap_isincluded(hwloc_topology_get_allowed_cpuset(topology), set);
    if (is_bound) { /* by the launcher: all of these cores are ours */
        c->n_threads = wanted_threads ? wanted_threads : n_cores;
        c->n_cores = n_cores * c->n_local;
        return;
    }
    int32_t first = (int32_t)((int64_t)c->local_rank * n_cores / c->n_local);
    int32_t last = (int32_t)((int64_t)(c->local_rank + 1) * n_cores / c->n_local);
    int32_t share = last > first ? last - first : 1;
    c->n_cores = n_cores;
    c->n_threads = wanted_threads ? wanted_threads : share;
    if (c->n_local > 1 && c->n_local <= n_cores && c->n_threads <= share)
        bind_range(topology, set, first, last);
}

void cox__bind(cox_cluster *c, int32_t wanted_threads)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    c->n_cores = online > 0 ? (int32_t)online : 1;
    int32_t share = c->n_cores / c->n_local;
    c->n_threads = wanted_threads ? wanted_threads : (share > 0 ? share : 1);
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (set && hwloc_topology_load(topology) == 0) share_cores(c, topology, set, wanted_threads);
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(topology);
}
