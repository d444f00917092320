/*
 * Which expert of which layer lives on which ranks. A pure data structure (no MPI): built from round
 * robin (or, later, from a routing trace), read from and written to a JSON file that people can edit. All
 * ranks hold the same placement (rank 0 reads the file and broadcasts its text).
 */
#ifndef COX_CLUSTER_PLACEMENT_H
#define COX_CLUSTER_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_expert_id {
    int32_t value;
} cox_expert_id; /* 0..n_experts-1 of a layer */
typedef struct cox_local_expert {
    int32_t value;
} cox_local_expert; /* 0..n_local-1 of a layer on one rank */

typedef struct cox_placement cox_placement;

/* Expert e of MoE layer l on expert_ranks[(e + l) % n_expert_ranks], so that a rank's share differs by at
 * most one expert in a layer and evens out over the layers. With more expert ranks than experts of a layer:
 * expert e of the m-th MoE layer on expert_ranks[(e + m * n_experts) % n_expert_ranks]; some ranks then wait
 * in each layer. is_moe [n_layers] (NULL: all are): layers without experts have none. expert_ranks: ascending
 * MPI ranks, copied. [out] owned by the caller. Errors: INVALID (more expert ranks than experts of all
 * layers), NO_MEMORY. */
cox_status cox_placement_round_robin(cox_placement **placement, int32_t n_layers, const uint8_t *is_moe,
                                     int32_t n_experts, const int32_t *expert_ranks, int32_t n_expert_ranks);

/*
 * From file text; checks that every expert has a rank and every rank is one of expert_ranks. `where` names
 * the file. The file: {"n_experts": 4, "layers": {"0": [2, 1, [1, 2], 2], "1": ...}}: for each MoE layer, by
 * its index, the MPI rank of each expert, or a list of ranks for an expert with replicas. Errors: BAD_FILE,
 * NO_MEMORY.
 */
cox_status cox_placement_parse(cox_placement **placement, const char *text, size_t n_bytes, const char *where,
                               int32_t n_layers, const uint8_t *is_moe, int32_t n_experts,
                               const int32_t *expert_ranks, int32_t n_expert_ranks);
/* [out] *text: the file's text, malloc'ed, owned by the caller. Errors: NO_MEMORY. */
cox_status cox_placement_print(const cox_placement *placement, char **text);
void cox_placement_destroy(cox_placement *placement);

/* Experts of a layer hosted by a rank, ascending: [out] *ids lives as long as the placement; returns n. A
 * cox_local_expert is an index into this list. */
int32_t cox_placement_local(const cox_placement *placement, int32_t layer, int32_t mpi_rank,
                            const cox_expert_id **ids);
/* Ranks that host an expert (replicas in ascending order): [out] *ranks lives as long as the placement;
 * returns n. */
int32_t cox_placement_hosts(const cox_placement *placement, int32_t layer, cox_expert_id expert,
                            const int32_t **ranks);

/* Where replica r (0..hosts-1) of an expert is: the index of its rank among the placement's expert_ranks, and
 * [out] *local its place in that rank's list. Constant time, for the dispatch plan. */
int32_t cox_placement_seat(const cox_placement *placement, int32_t layer, cox_expert_id expert,
                           int32_t replica, cox_local_expert *local);
int32_t cox_placement_n_layers(const cox_placement *placement);
int32_t cox_placement_n_experts(const cox_placement *placement);

#endif
