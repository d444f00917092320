/* Every recorded model (in a small run all with the default kernels, each other kernel with a third) in one
 * process against transformers: logits of all positions and 64 greedy tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/harness.h"
#include "tests/unit/run_size.h"

static void compare(const char *kernels, double tolerance, double kl_tolerance)
{
    static size_t turn;
    const size_t share = kernels && is_small_run() ? 3 : 1, first = turn++;
    cox_cluster *cluster = NULL;
    cox_cluster_options options = cox_cluster_options_defaults();
    assert_int_equal(cox_cluster_create(&cluster, &options), COX_OK);
    char **folders = golden_list();
    for (char **folder = folders; *folder; folder++) {
        if (((size_t)(folder - folders) + first) % share != 0) continue;
        golden *g = golden_load(*folder);
        harness_config config = harness_config_defaults(g->model);
        config.kernels = kernels;
        harness *h = NULL;
        if (harness_open(&h, cluster, &config) != COX_OK) fail_msg("%s: %s", *folder, cox_status_message());
        assert_true(golden_matches(h, g, tolerance, kl_tolerance, NULL));
        assert_int_equal(harness_finish(h), COX_OK);
        harness_close(h);
        golden_free(g);
    }
    golden_list_free(folders);
    cox_cluster_destroy(cluster);
}

static void test_default_kernels(void **state)
{
    (void)state;
    compare(NULL, 1e-4, 0);
}

static void test_reference_kernels(void **state)
{
    (void)state;
    compare("reference", 1e-4, 0);
}

static void test_blas_kernel(void **state)
{
    (void)state;
    compare("blas", 1e-4, 0);
}

static void test_bf16_act_kernel(void **state)
{
    (void)state;
    compare("bf16-act", 2e-2, 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_kernels),
        cmocka_unit_test(test_reference_kernels),
        cmocka_unit_test(test_blas_kernel),
        cmocka_unit_test(test_bf16_act_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
