/* Router rules against the formulas in f64, ties, order of routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "coordinator/router.h"

enum { N = 13 };

static float logits_of(uint32_t seed, float *logits)
{
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        logits[i] = (float)(seed >> 8) / 1e6f - 8;
    }
    return logits[0];
}

static void check(cox_router_config config, uint32_t seed)
{
    const cox_kernels *kernels;
    assert_int_equal(cox_kernels_select(&kernels, NULL), COX_OK);
    float logits[N], scratch[N];
    cox_route routes[N];
    logits_of(seed, logits);
    cox_router_choose(kernels, &config, logits, scratch, routes);

    double all = 0, chosen_exp = 0, chosen_p = 0;
    for (int i = 0; i < N; i++) all += exp((double)logits[i]);
    for (int j = 0; j < config.top_k; j++) chosen_exp += exp((double)routes[j].logit);
    chosen_p = chosen_exp / all;
    for (int j = 0; j < config.top_k; j++) {
        const cox_route *r = &routes[j];
        assert_true(r->logit == logits[r->expert]);
        int n_better = 0;
        for (int i = 0; i < N; i++) n_better += logits[i] > r->logit;
        assert_int_equal(n_better, j);
        double weight = exp((double)r->logit) / all;
        if (config.rule == COX_ROUTER_TOPK_SOFTMAX) {
            weight = exp((double)r->logit) / chosen_exp;
        } else if (config.normalize) {
            weight /= chosen_p;
        }
        assert_true(fabs((double)r->weight - weight) < 1e-6);
    }
}

static void test_rules(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed < 50; seed++) {
        for (int32_t k = 1; k <= N; k += 3) {
            check(
                (cox_router_config){
                    .rule = COX_ROUTER_SOFTMAX_TOPK, .n_experts = N, .top_k = k, .normalize = false},
                seed);
            check(
                (cox_router_config){
                    .rule = COX_ROUTER_SOFTMAX_TOPK, .n_experts = N, .top_k = k, .normalize = true},
                seed);
            check(
                (cox_router_config){
                    .rule = COX_ROUTER_TOPK_SOFTMAX, .n_experts = N, .top_k = k, .normalize = false},
                seed);
        }
    }
}

static void test_ties_go_to_the_lowest_expert(void **state)
{
    (void)state;
    const cox_kernels *kernels;
    assert_int_equal(cox_kernels_select(&kernels, NULL), COX_OK);
    const float logits[6] = {1, 3, 2, 3, 2, 3};
    float scratch[6];
    cox_route routes[4];
    for (int rule = COX_ROUTER_SOFTMAX_TOPK; rule <= COX_ROUTER_TOPK_SOFTMAX; rule++) {
        cox_router_config config = {
            .rule = (cox_router_rule)rule, .n_experts = 6, .top_k = 4, .normalize = true};
        cox_router_choose(kernels, &config, logits, scratch, routes);
        assert_int_equal(routes[0].expert, 1);
        assert_int_equal(routes[1].expert, 3);
        assert_int_equal(routes[2].expert, 5);
        assert_int_equal(routes[3].expert, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_ties_go_to_the_lowest_expert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
