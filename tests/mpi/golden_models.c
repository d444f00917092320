/*
 * Every recorded model, the bundled organisms included, on four ranks against transformers in f32: logits and
 * all 64 greedy tokens, with the exact kernels and those chosen by name; tests/unit/test_golden_models.c is
 * the same on one rank. One launch; placement of the experts and back-end take turns. Ends with the largest
 * difference per kernel. Says nothing about equal bits: digest_models.c does.
 */
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

#include "cluster/internal.h"
#include "tests/support/harness.h"

typedef struct wanted {
    const char *kernels;
    double tolerance, kl_tolerance;
} wanted;
static const wanted kernels[] = {
    {"auto", 1e-4, 0}, {"reference", 1e-4, 0}, {"blas", 1e-4, 0}, {"bf16-act", 2e-2, 1e-3}};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };
static const cox_exchange_kind exchanges[] = {COX_EXCHANGE_SPARSE, COX_EXCHANGE_ALLTOALL,
                                              COX_EXCHANGE_ALLTOALLV};

static bool run(const golden *g, const wanted *w, int32_t turn, golden_difference *difference)
{
    cox_cluster_options options = cox_cluster_options_defaults();
    options.n_threads = 1;
    options.experts_on_all = turn % 2;
    cox_cluster *cluster = NULL;
    harness *h = NULL;
    harness_config config = harness_config_defaults(g->model);
    config.kernels = w->kernels;
    config.exchange = exchanges[turn % 3];
    bool is_good = cox__cluster_create_on(&cluster, &options, MPI_COMM_WORLD) == COX_OK &&
                   harness_open(&h, cluster, &config) == COX_OK;
    if (!is_good) {
        printf("%s: %s\n", g->folder, cox_status_message());
    } else if (cox_cluster_is_coordinator(cluster)) {
        is_good = golden_matches(h, g, w->tolerance, w->kl_tolerance, difference);
        is_good = harness_finish(h) == COX_OK && is_good;
    } else {
        is_good = harness_serve(h) == COX_OK;
    }
    harness_close(h);
    cox_cluster_destroy(cluster);
    int bad = !is_good, any = 0;
    MPI_Allreduce(&bad, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return !any;
}

int main(int argc, char **argv)
{
    int provided, rank, size, n_run = 0, n_failed = 0;
    golden_difference worst[N_KERNELS] = {{0}};
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    char **folders = golden_list();
    for (char **folder = folders; *folder; folder++) {
        golden *g = golden_load(*folder);
        for (int k = 0; k < N_KERNELS; k++, n_run++) {
            golden_difference one = {0};
            if (!run(g, &kernels[k], n_run + (int32_t)(folder - folders), &one)) {
                n_failed++;
                if (rank == 0) printf("FAILED %s, kernel %s\n", *folder, kernels[k].kernels);
            }
            if (one.of_range > worst[k].of_range) worst[k].of_range = one.of_range;
            if (one.mean_kl > worst[k].mean_kl) worst[k].mean_kl = one.mean_kl;
        }
        golden_free(g);
    }
    golden_list_free(folders);
    for (int k = 0; k < N_KERNELS && rank == 0; k++) {
        printf("kernel %s on %d ranks: at most %.2e of the range (tolerance %.0e), mean KL at most %.2e\n",
               kernels[k].kernels, size, worst[k].of_range, kernels[k].tolerance, worst[k].mean_kl);
    }
    if (rank == 0) printf("%d models and kernels on %d ranks, %d failed\n", n_run, size, n_failed);
    MPI_Finalize();
    return n_failed || n_run == 0 ? 1 : 0;
}
