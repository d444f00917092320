/*
 * Agreement, broadcast and gather, all as messages between one root and each other rank: the root knows who
 * is missing and can name it, which a tree inside MPI cannot. They run at start, at the end and between
 * phases, never in a step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"

enum { CHUNK_BYTES = 1 << 30 };

typedef struct verdict {
    int32_t status, n_failed;
    char message[COX__MESSAGE_BYTES];
} verdict;

/* Room for one request per other rank, and which rank each is. */
typedef struct fan {
    int32_t n;
    MPI_Request *requests;
    int32_t *ranks;
} fan;

static fan fan_create(cox_cluster *c, int32_t root)
{
    fan f = {.n = c->size - 1};
    f.requests = calloc((size_t)c->size, sizeof *f.requests);
    f.ranks = calloc((size_t)c->size, sizeof *f.ranks);
    if (!f.requests || !f.ranks)
        cox_cluster_abort(c, cox_fail(COX_NO_MEMORY, "out of memory for %d messages", f.n));
    for (int32_t i = 0; i < f.n; i++) f.ranks[i] = i < root ? i : i + 1;
    return f;
}

static void fan_destroy(fan *f)
{
    free(f->requests);
    free(f->ranks);
}

static void receive_bytes(cox_cluster *c, void *data, size_t n, int32_t from, int tag, const char *owes)
{
    for (size_t at = 0; at < n; at += CHUNK_BYTES) {
        int count = cox__count(c, n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES, "a message");
        MPI_Request request;
        MPI_Irecv((char *)data + at, count, MPI_BYTE, from, tag, c->control, &request);
        cox__wait_all(c, 1, &request, &from, owes);
    }
}

static void send_bytes(cox_cluster *c, const void *data, size_t n, int32_t to, int tag, const char *owes)
{
    for (size_t at = 0; at < n; at += CHUNK_BYTES) {
        int count = cox__count(c, n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES, "a message");
        MPI_Request request;
        MPI_Isend((const char *)data + at, count, MPI_BYTE, to, tag, c->control, &request);
        cox__wait_all(c, 1, &request, &to, owes);
    }
}

/* Root to all, every chunk to everybody at once. */
static void send_to_all(cox_cluster *c, const fan *f, const void *data, size_t n, int tag)
{
    for (size_t at = 0; at < n; at += CHUNK_BYTES) {
        int count = cox__count(c, n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES, "a broadcast");
        for (int32_t i = 0; i < f->n; i++) {
            MPI_Isend((const char *)data + at, count, MPI_BYTE, f->ranks[i], tag, c->control,
                      &f->requests[i]);
        }
        cox__wait_all(c, f->n, f->requests, f->ranks, "receiving a broadcast");
    }
}

/* Does the message begin with a rank already? Then all have it from an agreement before. */
static bool names_rank(const cox_cluster *c, const char *message)
{
    int rank = -1, n = 0;
    if (sscanf(message, "rank %d on %n", &rank, &n) != 1 || n == 0 || rank < 0 || rank >= c->size)
        return false;
    size_t length = strlen(c->hosts[rank]);
    return strncmp(message + n, c->hosts[rank], length) == 0 && message[n + (int)length] == ':';
}

/* On rank 0: hears everybody and decides. */
static void decide(cox_cluster *c, verdict *mine)
{
    fan f = fan_create(c, 0);
    verdict *all = calloc((size_t)c->size, sizeof *all);
    if (!all) cox_cluster_abort(c, cox_fail(COX_NO_MEMORY, "out of memory for %d statuses", (int)c->size));
    all[0] = *mine;
    for (int32_t i = 0; i < f.n; i++) {
        MPI_Irecv(&all[i + 1], (int)sizeof *all, MPI_BYTE, f.ranks[i], COX__TAG_AGREE, c->control,
                  &f.requests[i]);
    }
    cox__wait_all(c, f.n, f.requests, f.ranks, "its status");
    verdict result = {.status = COX_OK};
    bool is_said = false; /* who failed: by the message itself; or nobody, when the user asked to stop */
    for (int32_t rank = c->size - 1; rank >= 0; rank--) {
        if (all[rank].status == COX_OK) continue;
        result.status = all[rank].status;
        result.n_failed++;
        is_said = all[rank].status == COX_REQUEUE || names_rank(c, all[rank].message);
        if (is_said) {
            memcpy(result.message, all[rank].message, sizeof result.message);
            continue;
        }
        snprintf(result.message, sizeof result.message, "rank %d on %s: %.*s", (int)rank, c->hosts[rank],
                 COX__MESSAGE_BYTES - 2 * COX__HOST_BYTES, all[rank].message);
    }
    size_t length = strlen(result.message);
    if (result.n_failed > 1 && !is_said) {
        snprintf(result.message + length, sizeof result.message - length, " (and %d more rank%s)",
                 (int)result.n_failed - 1, result.n_failed > 2 ? "s" : "");
    }
    send_to_all(c, &f, &result, sizeof result, COX__TAG_AGREED);
    *mine = result;
    free(all);
    fan_destroy(&f);
}

cox_status cox_cluster_agree(cox_cluster *c, cox_status mine)
{
    if (c->size < 2) return mine;
    verdict v = {.status = mine};
    if (mine != COX_OK) snprintf(v.message, sizeof v.message, "%s", cox_status_message());
    if (c->rank == 0) {
        decide(c, &v);
    } else {
        send_bytes(c, &v, sizeof v, 0, COX__TAG_AGREE, "taking a status");
        receive_bytes(c, &v, sizeof v, 0, COX__TAG_AGREED, "the common status");
    }
    if (v.status == COX_OK) return COX_OK;
    return cox_fail((cox_status)v.status, "%s", v.message);
}

cox_status cox_cluster_broadcast(cox_cluster *c, int32_t root, void **data, size_t *n)
{
    if (c->size < 2) return COX_OK;
    if (c->rank == root) {
        fan f = fan_create(c, root);
        uint64_t n_bytes = *n;
        send_to_all(c, &f, &n_bytes, sizeof n_bytes, COX__TAG_BROADCAST);
        send_to_all(c, &f, *data, *n, COX__TAG_BROADCAST);
        fan_destroy(&f);
        return COX_OK;
    }
    uint64_t n_bytes = 0;
    receive_bytes(c, &n_bytes, sizeof n_bytes, root, COX__TAG_BROADCAST, "a broadcast");
    void *bytes = malloc(n_bytes > 0 ? n_bytes : 1);
    if (!bytes)
        cox_cluster_abort(
            c, cox_fail(COX_NO_MEMORY, "out of memory for a broadcast of %zu bytes", (size_t)n_bytes));
    receive_bytes(c, bytes, n_bytes, root, COX__TAG_BROADCAST, "a broadcast");
    *data = bytes;
    *n = n_bytes;
    return COX_OK;
}

/* On rank 0: the sizes, then the bytes, rank by rank (so that no more than one message waits for memory). */
static void collect(cox_cluster *c, const void *data, size_t n, char **all, size_t *offsets)
{
    for (int32_t rank = 0; rank < c->size; rank++) {
        uint64_t n_bytes = n;
        if (rank > 0)
            receive_bytes(c, &n_bytes, sizeof n_bytes, rank, COX__TAG_GATHER, "its part of a gather");
        offsets[rank + 1] = offsets[rank] + n_bytes;
    }
    *all = malloc(offsets[c->size] > 0 ? offsets[c->size] : 1);
    if (!*all)
        cox_cluster_abort(c, cox_fail(COX_NO_MEMORY, "out of memory to gather %zu bytes", offsets[c->size]));
    if (n > 0) memcpy(*all, data, n);
    for (int32_t rank = 1; rank < c->size; rank++) {
        receive_bytes(c, *all + offsets[rank], offsets[rank + 1] - offsets[rank], rank, COX__TAG_GATHER,
                      "its part of a gather");
    }
}

cox_status cox_cluster_gather(cox_cluster *c, const void *data, size_t n, void **all, size_t **offsets)
{
    if (c->rank != 0) {
        uint64_t n_bytes = n;
        send_bytes(c, &n_bytes, sizeof n_bytes, 0, COX__TAG_GATHER, "collecting a gather");
        send_bytes(c, data, n, 0, COX__TAG_GATHER, "collecting a gather");
        *all = NULL;
        *offsets = NULL;
        return COX_OK;
    }
    size_t *starts = calloc((size_t)c->size + 1, sizeof *starts);
    if (!starts)
        cox_cluster_abort(c, cox_fail(COX_NO_MEMORY, "out of memory to gather from %d ranks", (int)c->size));
    char *bytes = NULL;
    collect(c, data, n, &bytes, starts);
    *all = bytes;
    *offsets = starts;
    return COX_OK;
}
