/*
 * Which expert lives where, as flat arrays that are built once: for every (layer, expert) its hosts, and for
 * every (layer, rank) its experts. All builders fill a table of hosts and end in index_build(), which derives
 * the rest, so that round robin, a file and (later) a routing trace cannot disagree on what a local index
 * means.
 */
#include "cluster/placement.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

struct cox_placement {
    int32_t n_layers, n_experts, n_ranks;
    int32_t *ranks;        /* [n_ranks] MPI ranks, ascending */
    int32_t *host_offsets; /* [n_layers*n_experts+1] into hosts, seats, locals */
    int32_t *hosts;        /* MPI ranks, ascending within an expert */
    int32_t *seats;        /* the same as indices into ranks */
    int32_t *locals;       /* the expert's place in the list of that rank */
    int32_t *list_offsets; /* [n_layers*n_ranks+1] into lists */
    cox_expert_id *lists;  /* expert ids of (layer, rank), ascending */
};

static void *array_of(int64_t count, size_t size)
{
    return calloc((size_t)(count > 0 ? count : 1), size);
}

/* A placement whose hosts are yet to be filled. n_hosts: entries of all experts together. */
static cox_placement *placement_new(int32_t n_layers, int32_t n_experts, const int32_t *ranks,
                                    int32_t n_ranks, int64_t n_hosts)
{
    cox_placement *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (cox_placement){.n_layers = n_layers, .n_experts = n_experts, .n_ranks = n_ranks};
    p->ranks = array_of(n_ranks, sizeof *p->ranks);
    p->host_offsets = array_of((int64_t)n_layers * n_experts + 1, sizeof *p->host_offsets);
    p->hosts = array_of(n_hosts, sizeof *p->hosts);
    p->seats = array_of(n_hosts, sizeof *p->seats);
    p->locals = array_of(n_hosts, sizeof *p->locals);
    p->list_offsets = array_of((int64_t)n_layers * n_ranks + 1, sizeof *p->list_offsets);
    p->lists = array_of(n_hosts, sizeof *p->lists);
    if (!p->ranks || !p->host_offsets || !p->hosts || !p->seats || !p->locals || !p->list_offsets ||
        !p->lists) {
        cox_placement_destroy(p);
        return NULL;
    }
    memcpy(p->ranks, ranks, (size_t)n_ranks * sizeof *ranks);
    return p;
}

void cox_placement_destroy(cox_placement *p)
{
    if (!p) return;
    free(p->ranks);
    free(p->host_offsets);
    free(p->hosts);
    free(p->seats);
    free(p->locals);
    free(p->list_offsets);
    free(p->lists);
    free(p);
}

/* From host_offsets and seats (ascending within an expert) to hosts, locals and the lists of the ranks. */
static void index_build(cox_placement *p)
{
    int32_t at = 0;
    for (int32_t layer = 0; layer < p->n_layers; layer++) {
        for (int32_t seat = 0; seat < p->n_ranks; seat++) {
            int32_t first = at;
            p->list_offsets[layer * p->n_ranks + seat] = first;
            for (int32_t e = 0; e < p->n_experts; e++) {
                int32_t cell = layer * p->n_experts + e;
                for (int32_t h = p->host_offsets[cell]; h < p->host_offsets[cell + 1]; h++) {
                    if (p->seats[h] != seat) continue;
                    p->hosts[h] = p->ranks[seat];
                    p->locals[h] = at - first;
                    p->lists[at++].value = e;
                }
            }
        }
    }
    p->list_offsets[p->n_layers * p->n_ranks] = at;
}

cox_status cox_placement_round_robin(cox_placement **placement, int32_t n_layers, const uint8_t *is_moe,
                                     int32_t n_experts, const int32_t *expert_ranks, int32_t n_expert_ranks)
{
    int64_t n_all = 0;
    for (int32_t layer = 0; layer < n_layers; layer++) n_all += !is_moe || is_moe[layer] ? n_experts : 0;
    if (n_expert_ranks < 1 || (n_expert_ranks > n_experts && n_expert_ranks > n_all)) {
        return cox_fail(COX_INVALID,
                        "%d ranks for the %lld experts of all layers: give at most %lld ranks beside the "
                        "coordinators, or a --placement that puts experts on several ranks",
                        (int)n_expert_ranks, (long long)n_all, (long long)n_all);
    }
    /* More ranks than experts of a layer: all cells in one row, so that shares still differ by one at most.
     */
    int32_t shift = n_expert_ranks > n_experts ? n_experts : 1;
    cox_placement *p =
        placement_new(n_layers, n_experts, expert_ranks, n_expert_ranks, (int64_t)n_layers * n_experts);
    if (!p) return cox_no_memory("the placement of experts");
    int32_t at = 0, n_moe = 0;
    for (int32_t layer = 0; layer < n_layers; layer++) {
        bool has_experts = !is_moe || is_moe[layer];
        int64_t first = shift == 1 ? layer : (int64_t)n_moe * shift;
        n_moe += has_experts;
        for (int32_t e = 0; e < n_experts; e++) {
            p->host_offsets[layer * n_experts + e] = at;
            if (has_experts) p->seats[at++] = (int32_t)((e + first) % n_expert_ranks);
        }
    }
    p->host_offsets[n_layers * n_experts] = at;
    index_build(p);
    *placement = p;
    return COX_OK;
}

/* --- The file --- */

typedef struct reader {
    const char *where;
    cox_placement *p;
    int32_t at; /* next free entry of seats */
} reader;

static cox_status read_rank(reader *r, const json_t *value, int32_t layer, int32_t expert, int32_t first)
{
    int32_t seat = 0;
    while (seat < r->p->n_ranks &&
           !(json_is_integer(value) && json_integer_value(value) == r->p->ranks[seat]))
        seat++;
    if (seat == r->p->n_ranks) {
        return cox_fail(COX_BAD_FILE,
                        "%s: layer %d, expert %d: not a rank that hosts experts here (those are %d to %d)",
                        r->where, (int)layer, (int)expert, (int)r->p->ranks[0], (int)r->p->ranks[seat - 1]);
    }
    int32_t place = r->at;
    while (place > first && r->p->seats[place - 1] > seat) place--;
    if (place > first && r->p->seats[place - 1] == seat) {
        return cox_fail(COX_BAD_FILE, "%s: layer %d, expert %d: rank %d is listed twice", r->where,
                        (int)layer, (int)expert, (int)r->p->ranks[seat]);
    }
    int32_t *to = r->p->seats + place; /* there is room: no rank comes twice */
    memmove(to + 1, to, (size_t)(r->at - place) * sizeof *to);
    *to = seat;
    r->at++;
    return COX_OK;
}

static cox_status read_expert(reader *r, const json_t *value, int32_t layer, int32_t expert)
{
    int32_t first = r->at;
    if (!json_is_array(value)) return read_rank(r, value, layer, expert, first);
    if (json_array_size(value) == 0) {
        return cox_fail(COX_BAD_FILE, "%s: layer %d, expert %d has no rank", r->where, (int)layer,
                        (int)expert);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        cox_status status = read_rank(r, json_array_get(value, i), layer, expert, first);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status read_layer(reader *r, const json_t *layers, int32_t layer, bool is_moe)
{
    char key[16];
    snprintf(key, sizeof key, "%d", (int)layer);
    const json_t *experts = json_object_get(layers, key);
    if (!is_moe) {
        if (!experts) {
            for (int32_t e = 0; e < r->p->n_experts; e++)
                r->p->host_offsets[layer * r->p->n_experts + e] = r->at;
            return COX_OK;
        }
        return cox_fail(COX_BAD_FILE, "%s: layer %d has no experts in this model", r->where, (int)layer);
    }
    if (!json_is_array(experts) || json_array_size(experts) != (size_t)r->p->n_experts) {
        return cox_fail(COX_BAD_FILE, "%s: layers.%s must be a list of %d experts' ranks", r->where, key,
                        (int)r->p->n_experts);
    }
    for (int32_t e = 0; e < r->p->n_experts; e++) {
        r->p->host_offsets[layer * r->p->n_experts + e] = r->at;
        cox_status status = read_expert(r, json_array_get(experts, (size_t)e), layer, e);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status read_placement(reader *r, const json_t *root, const uint8_t *is_moe)
{
    int64_t n_experts = 0;
    cox_status status = cox_json_int(root, r->where, "n_experts", true, 1, INT32_MAX, &n_experts);
    if (status != COX_OK) return status;
    if (n_experts != r->p->n_experts) {
        return cox_fail(COX_BAD_FILE, "%s: n_experts is %lld, but the model has %d", r->where,
                        (long long)n_experts, (int)r->p->n_experts);
    }
    const json_t *layers = json_object_get(root, "layers");
    if (!json_is_object(layers)) return cox_fail(COX_BAD_FILE, "%s: \"layers\" must be an object", r->where);
    size_t n_moe = 0;
    for (int32_t layer = 0; layer < r->p->n_layers; layer++) {
        bool moe = !is_moe || is_moe[layer];
        n_moe += moe;
        status = read_layer(r, layers, layer, moe);
        if (status != COX_OK) return status;
    }
    if (json_object_size(layers) != n_moe) {
        return cox_fail(COX_BAD_FILE, "%s: \"layers\" names layers that this model of %d does not have",
                        r->where, (int)r->p->n_layers);
    }
    r->p->host_offsets[r->p->n_layers * r->p->n_experts] = r->at;
    return COX_OK;
}

cox_status cox_placement_parse(cox_placement **placement, const char *text, size_t n_bytes, const char *where,
                               int32_t n_layers, const uint8_t *is_moe, int32_t n_experts,
                               const int32_t *expert_ranks, int32_t n_expert_ranks)
{
    if (n_expert_ranks < 1) return cox_fail(COX_INVALID, "%s: no rank hosts experts", where);
    json_t *root = NULL;
    cox_status status = cox_json_load_text(&root, text, n_bytes, where);
    if (status != COX_OK) return status;
    reader r = {.where = where};
    r.p = placement_new(n_layers, n_experts, expert_ranks, n_expert_ranks,
                        (int64_t)n_layers * n_experts * n_expert_ranks);
    status = r.p ? read_placement(&r, root, is_moe) : cox_no_memory("the placement of experts");
    json_decref(root);
    if (status != COX_OK) {
        cox_placement_destroy(r.p);
        return status;
    }
    index_build(r.p);
    *placement = r.p;
    return COX_OK;
}

static void print_layer(FILE *out, const cox_placement *p, int32_t layer)
{
    for (int32_t e = 0; e < p->n_experts; e++) {
        const int32_t *hosts = NULL;
        int32_t n = cox_placement_hosts(p, layer, (cox_expert_id){e}, &hosts);
        fputs(e ? ", " : "[", out);
        if (n > 1) fputc('[', out);
        for (int32_t i = 0; i < n; i++) fprintf(out, "%s%d", i ? ", " : "", (int)hosts[i]);
        if (n > 1) fputc(']', out);
    }
    fputc(']', out);
}

cox_status cox_placement_print(const cox_placement *p, char **text)
{
    char *bytes = NULL;
    size_t n_bytes = 0;
    FILE *out = open_memstream(&bytes, &n_bytes);
    if (!out) return cox_no_memory("the placement of experts");
    fprintf(out, "{\"n_experts\": %d, \"layers\": {", (int)p->n_experts);
    const char *separator = "\n";
    for (int32_t layer = 0; layer < p->n_layers; layer++) {
        int32_t cell = layer * p->n_experts;
        if (p->host_offsets[cell] == p->host_offsets[cell + p->n_experts]) continue;
        fprintf(out, "%s  \"%d\": ", separator, (int)layer);
        print_layer(out, p, layer);
        separator = ",\n";
    }
    fputs("\n}}\n", out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(bytes);
        return cox_no_memory("the placement of experts");
    }
    *text = bytes;
    return COX_OK;
}

/* --- Questions --- */

int32_t cox_placement_local(const cox_placement *p, int32_t layer, int32_t mpi_rank,
                            const cox_expert_id **ids)
{
    for (int32_t seat = 0; seat < p->n_ranks; seat++) {
        if (p->ranks[seat] != mpi_rank) continue;
        int32_t cell = layer * p->n_ranks + seat;
        *ids = p->lists + p->list_offsets[cell];
        return p->list_offsets[cell + 1] - p->list_offsets[cell];
    }
    *ids = NULL;
    return 0;
}

int32_t cox_placement_hosts(const cox_placement *p, int32_t layer, cox_expert_id expert,
                            const int32_t **ranks)
{
    int32_t cell = layer * p->n_experts + expert.value;
    *ranks = p->hosts + p->host_offsets[cell];
    return p->host_offsets[cell + 1] - p->host_offsets[cell];
}

int32_t cox_placement_seat(const cox_placement *p, int32_t layer, cox_expert_id expert, int32_t replica,
                           cox_local_expert *local)
{
    int32_t at = p->host_offsets[layer * p->n_experts + expert.value] + replica;
    local->value = p->locals[at];
    return p->seats[at];
}

int32_t cox_placement_n_layers(const cox_placement *p)
{
    return p->n_layers;
}

int32_t cox_placement_n_experts(const cox_placement *p)
{
    return p->n_experts;
}
