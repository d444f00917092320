/* Ranks and roles, agreement with every pattern of failures, broadcast and gather of several sizes, the
 * mailbox. */
#include <malloc.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/counters.h"
#include "cluster/exchange.h"
#include "cluster/internal.h"
#include "tests/mpi/check.h"

static int32_t rank, size;

static void check_roles(MPI_Comm comm)
{
    for (int32_t c = 1; c <= size + 1; c++) {
        for (int on_all = 0; on_all < 2; on_all++) {
            cox_cluster_options options = cox_cluster_options_defaults();
            options.n_coordinators = c;
            options.experts_on_all = on_all;
            cox_cluster *cluster = NULL;
            cox_status status = cox__cluster_create_on(&cluster, &options, comm);
            if (c > size || (c == size && !on_all && size > 1)) {
                CHECK(status == COX_INVALID, "%d coordinators on %d ranks", c, size);
                continue;
            }
            CHECK_OK(status);
            const int32_t *ranks = NULL;
            int32_t n = cox_cluster_expert_ranks(cluster, &ranks), first = on_all || size == 1 ? 0 : c;
            CHECK(n == size - first && ranks[0] == first && ranks[n - 1] == size - 1, "%d expert ranks", n);
            CHECK(cox_cluster_is_coordinator(cluster) == (rank < c), "role");
            CHECK(cox_cluster_rank(cluster) == rank && cox_cluster_n_local(cluster) == size, "rank");
            CHECK(cox_cluster_n_threads(cluster) >= 1, "threads");
            cox_cluster_destroy(cluster);
        }
    }
}

/* Each bit of the pattern: that rank fails. */
static void check_agree(cox_cluster *c)
{
    for (int pattern = 0; pattern < 1 << size; pattern++) {
        cox_status mine = COX_OK;
        char text[64];
        if (pattern >> rank & 1)
            mine = cox_fail(rank % 2 ? COX_BAD_FILE : COX_IO, "shard %d is cut off", (int)rank);
        cox_status all = cox_cluster_agree(c, mine);
        int lowest = 0, n = 0;
        for (int r = size - 1; r >= 0; r--) lowest = pattern >> r & 1 ? r : lowest;
        for (int r = 0; r < size; r++) n += pattern >> r & 1;
        CHECK(all == (pattern == 0 ? COX_OK
                      : lowest % 2 ? COX_BAD_FILE
                                   : COX_IO),
              "pattern %d: %d", pattern, all);
        if (pattern == 0 || size == 1) continue;
        snprintf(text, sizeof text, "rank %d on ", lowest);
        CHECK(strstr(cox_status_message(), text) == cox_status_message(), "starts with the rank");
        snprintf(text, sizeof text, ": shard %d is cut off", lowest);
        CHECK(strstr(cox_status_message(), text), "has the text");
        snprintf(text, sizeof text, "(and %d more rank", n - 1);
        CHECK(!strstr(cox_status_message(), "more rank") == (n == 1), "counts the others");
        CHECK(n == 1 || strstr(cox_status_message(), text), "counts the others right");
    }
}

static unsigned char byte_of(int32_t from, size_t i)
{
    return (unsigned char)((size_t)from * 31 + i * 7 + i / 251);
}

static void check_broadcast(cox_cluster *c, size_t n_bytes)
{
    for (int32_t root = 0; root < size; root++) {
        unsigned char *mine = NULL;
        size_t n = 0;
        if (rank == root) {
            n = n_bytes;
            mine = malloc(n + 1);
            for (size_t i = 0; i < n; i++) mine[i] = byte_of(root, i);
        }
        void *data = mine;
        CHECK_OK(cox_cluster_broadcast(c, root, &data, &n));
        CHECK(n == n_bytes, "%zu bytes", n);
        for (size_t i = 0; i < n; i++) CHECK(((unsigned char *)data)[i] == byte_of(root, i), "byte %zu", i);
        free(data);
    }
}

static void check_gather(cox_cluster *c, size_t n_bytes)
{
    size_t n = rank == 1 ? 0 : n_bytes + (size_t)rank;
    unsigned char *mine = malloc(n + 1);
    void *all = NULL;
    size_t *offsets = NULL;
    for (size_t i = 0; i < n; i++) mine[i] = byte_of(rank, i);
    CHECK_OK(cox_cluster_gather(c, mine, n, &all, &offsets));
    free(mine);
    CHECK((rank == 0) == (all != NULL) && (rank == 0) == (offsets != NULL), "only rank 0 gets the whole");
    if (rank != 0) return;
    CHECK(offsets[0] == 0, "first offset");
    for (int32_t r = 0; r < size; r++) {
        size_t length = offsets[r + 1] - offsets[r];
        CHECK(length == (r == 1 ? 0 : n_bytes + (size_t)r), "length %zu of rank %d", length, r);
        for (size_t i = 0; i < length; i++) {
            CHECK(((unsigned char *)all)[offsets[r] + i] == byte_of(r, i), "byte %zu of rank %d", i, r);
        }
    }
    free(all);
    free(offsets);
}

/* Every rank sends numbered letters of odd sizes to every rank, itself included; they come complete and in
 * order. */
static void check_mailbox(cox_cluster *c)
{
    enum { N_LETTERS = 12, LARGE = 300000 };
    int32_t next[64] = {0};
    unsigned char *letter = malloc(LARGE + 8);
    for (int32_t i = 0; i < N_LETTERS; i++) {
        size_t n = i % 3 == 0 ? 8 : i % 3 == 1 ? 1000 : LARGE;
        for (int32_t to = 0; to < size; to++) {
            memset(letter, i, n);
            memcpy(letter, &i, sizeof i);
            CHECK_OK(cox_mailbox_send(c, COX_MAIL_SESSION, to, letter, n));
            memset(letter, 0xff, n); /* was copied */
        }
    }
    free(letter);
    double begin_s = cox_now_s();
    for (int32_t left = N_LETTERS * size; left > 0;) {
        void *data = NULL;
        size_t n = 0;
        int32_t from = -1, number = 0;
        CHECK_OK(cox_mailbox_poll(c, COX_MAIL_SESSION, &from, &data, &n));
        CHECK(cox_now_s() - begin_s < 30, "%d letters are missing", left);
        if (!data) continue;
        memcpy(&number, data, sizeof number);
        CHECK(from >= 0 && from < size && number == next[from], "letter %d of rank %d instead of %d", number,
              from, next[from]);
        CHECK(n == (size_t)(number % 3 == 0 ? 8 : number % 3 == 1 ? 1000 : LARGE), "%zu bytes", n);
        CHECK(((unsigned char *)data)[n - 1] == (unsigned char)number, "last byte");
        next[from]++;
        left--;
        free(data);
    }
    CHECK(cox_mailbox_send(c, COX_MAIL_SESSION, size, "", 0) == COX_INVALID, "mail to nobody");
}

static cox_status never_called(void *context, const cox_work *work)
{
    (void)context, (void)work;
    return cox_fail(COX_INTERNAL, "no rows were sent");
}

#ifndef __SANITIZE_ADDRESS__ /* a sanitizer's heap takes more */
static size_t resident_bytes(void)
{
    size_t total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%zu %zu", &total, &resident) == 2, "/proc/self/statm");
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* The memory of an exchange is what cox_exchange_bytes foretells, and is all there after create. */
static void check_memory(cox_cluster *c)
{
    const int32_t *ranks = NULL;
    cox_placement *placement = NULL;
    int32_t n = cox_cluster_expert_ranks(c, &ranks);
    CHECK_OK(cox_placement_round_robin(&placement, 1, NULL, 8, ranks, n));
    cox_exchange_options options = {.kind = COX_EXCHANGE_SPARSE,
                                    .n_slots = 2,
                                    .max_rows = 300,
                                    .row_width = 4000,
                                    .top_k = 4,
                                    .placement = placement,
                                    .host = {.begin = never_called, .poll = cox_host_done}};
    bool coordinator = cox_cluster_is_coordinator(c), host = size == 1 || !coordinator;
    double foretold = (double)cox_exchange_bytes(&options, 1, n, size, coordinator, host);
    cox_exchange *x = NULL;
    malloc_trim(0); /* letters freed before would be taken again, and the process would grow by less */
    size_t before = resident_bytes();
    CHECK_OK(cox_exchange_create(&x, c, &options));
    double taken = (double)resident_bytes() - (double)before;
    CHECK(taken > 0.9 * foretold && taken < 1.1 * foretold, "%.0f bytes taken, %.0f foretold", taken,
          foretold);
    cox_exchange_destroy(x);
    cox_placement_destroy(placement);
}
#else
static void check_memory(cox_cluster *c)
{
    (void)c;
}
#endif

/* Options that differ between ranks are found before anything is exchanged. */
static void check_exchange_options(cox_cluster *c)
{
    const int32_t *ranks = NULL;
    cox_placement *placement = NULL;
    cox_exchange *x = NULL;
    int32_t n = cox_cluster_expert_ranks(c, &ranks);
    CHECK_OK(cox_placement_round_robin(&placement, 1, NULL, 8, ranks, n));
    cox_exchange_options options = {.kind = COX_EXCHANGE_SPARSE,
                                    .n_slots = 1,
                                    .max_rows = 4,
                                    .row_width = 16,
                                    .top_k = 2,
                                    .placement = placement};
    cox_status status = cox_exchange_create(&x, c, &options);
    CHECK(status == COX_INVALID && strstr(cox_status_message(), "host function"), "no host: %d", status);
    options.kind = COX_EXCHANGE_SELF;
    options.host = (cox_host){.begin = never_called, .poll = cox_host_done};
    status = cox_exchange_create(&x, c, &options);
    CHECK(size == 1 ? status == COX_OK : status == COX_INVALID, "self on %d ranks", size);
    if (size == 1) cox_exchange_destroy(x);
    options.kind = COX_EXCHANGE_SPARSE;
    options.max_rows = 4 + rank % 2;
    status = cox_exchange_create(&x, c, &options);
    CHECK(size == 1 ? status == COX_OK : status == COX_INVALID, "options that differ");
    if (size == 1) cox_exchange_destroy(x);
    CHECK(size == 1 || strstr(cox_status_message(), "rank 1 on "), "names the rank");
    cox_placement_destroy(placement);
}

/* A waiting rank leaves its core to others: well under a tenth of a second of processor time in half a
 * second. */
static void check_waiting_sleeps(cox_cluster *c)
{
    cox_cluster_agree(c, COX_OK);
    double begin_s = cox_now_s();
    clock_t before = clock();
    if (rank == 0) {
        while (cox_now_s() - begin_s < 0.5) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    cox_cluster_agree(c, COX_OK);
    double used_s = (double)(clock() - before) / CLOCKS_PER_SEC;
    CHECK(used_s < 0.1, "%.3f s of processor time while waiting", used_s);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    check_roles(MPI_COMM_WORLD);
    cox_cluster_options options = cox_cluster_options_defaults();
    cox_cluster *c = NULL;
    CHECK_OK(cox__cluster_create_on(&c, &options, MPI_COMM_WORLD));
    check_agree(c);
    static const size_t sizes[] = {0, 1, 5000, 3 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_broadcast(c, sizes[i]);
        check_gather(c, sizes[i]);
    }
    check_mailbox(c);
    check_exchange_options(c);
    check_memory(c);
    check_waiting_sleeps(c);
    cox_cluster_destroy(c);
    if (rank == 0) printf("roles, agreement, broadcast, gather, mailbox on %d ranks\n", size);
    MPI_Finalize();
    return 0;
}
