/* Elementary functions against libm in higher precision, with stated bounds in units in the last place. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

static uint64_t random_state = 1;

static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static double uniform(double low, double high)
{
    return low + (high - low) * ((double)(random_bits() >> 11) * 0x1p-53);
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Distance of got from want in units of f32's last place at want (subnormals: the smallest unit). */
static double ulps_f32(float got, double want)
{
    if ((double)got == want) return 0.0;
    int exponent = 0;
    frexp(want, &exponent);
    int unit = exponent - 24 < -149 ? -149 : exponent - 24;
    return fabs((double)got - want) / ldexp(1.0, unit);
}

static double ulps_f64(double got, long double want)
{
    if ((long double)got == want) return 0.0;
    int exponent = 0;
    frexpl(want, &exponent);
    int unit = exponent - 53 < -1074 ? -1074 : exponent - 53;
    return (double)(fabsl((long double)got - want) / ldexpl(1.0L, unit));
}

static void test_exp_over_all_floats(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997) {
        for (int sign = 0; sign < 2; sign++) {
            float x = float_of(bits | (uint32_t)sign << 31);
            double want = exp((double)x);
            float got = cox_exp(x);
            if (want > 0x1.ffffffp+127) {
                assert_true(isinf(got) && got > 0.0f);
                continue;
            }
            double error = ulps_f32(got, want);
            if (error > worst) worst = error;
        }
    }
    print_message("exp f32: at most %.3f ulp\n", worst);
    assert_true(worst < 1.0);
    assert_true(cox_exp(-INFINITY) == 0.0f);
    assert_true(isinf(cox_exp(INFINITY)));
    assert_true(isnan(cox_exp(NAN)));
    assert_true(cox_exp(0.0f) == 1.0f && cox_exp(-0.0f) == 1.0f);
    assert_true(cox_exp(-103.9f) > 0.0f && cox_exp(-104.1f) == 0.0f);
}

static void test_sigmoid_over_all_floats(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997) {
        for (int sign = 0; sign < 2; sign++) {
            float x = float_of(bits | (uint32_t)sign << 31);
            double z = exp(-fabs((double)x));
            double want = (x < 0.0f ? z : 1.0) / (1.0 + z);
            double error = ulps_f32(cox_sigmoid(x), want);
            if (error > worst) worst = error;
        }
    }
    print_message("sigmoid f32: at most %.3f ulp\n", worst);
    assert_true(worst < 2.5);
    assert_true(cox_sigmoid(-INFINITY) == 0.0f && cox_sigmoid(INFINITY) == 1.0f);
    assert_true(isnan(cox_sigmoid(NAN)));
}

static void test_f64_functions(void **state)
{
    (void)state;
    double worst[5] = {0};
    for (int i = 0; i < 300000; i++) {
        double x = uniform(-1.0, 1.0) * ldexp(1.0, (int)uniform(-30.0, 21.0));
        double s, c;
        cox_sincos_f64(x, &s, &c);
        double y = uniform(-745.0, 709.7);
        double z = i % 2 ? ldexp(uniform(1.0, 2.0), (int)uniform(-1070.0, 1023.0)) : uniform(0.5, 2.0);
        double base = uniform(0.01, 1e6);
        double power = uniform(-40.0, 40.0);
        double errors[5] = {ulps_f64(s, sinl(x)), ulps_f64(c, cosl(x)), ulps_f64(cox_exp_f64(y), expl(y)),
                            ulps_f64(cox_log_f64(z), logl(z)),
                            ulps_f64(cox_pow_f64(base, power), powl(base, power))};
        for (int k = 0; k < 5; k++) worst[k] = errors[k] > worst[k] ? errors[k] : worst[k];
    }
    print_message("f64: sin %.3f, cos %.3f, exp %.3f, log %.3f, pow %.3f ulp\n", worst[0], worst[1], worst[2],
                  worst[3], worst[4]);
    for (int k = 0; k < 5; k++) assert_true(worst[k] < 1.5);
}

static void test_f64_special_values(void **state)
{
    (void)state;
    double s, c;
    cox_sincos_f64(0.0, &s, &c);
    assert_true(s == 0.0 && c == 1.0);
    cox_sincos_f64(INFINITY, &s, &c);
    assert_true(isnan(s) && isnan(c));
    assert_true(cox_exp_f64(0.0) == 1.0 && cox_exp_f64(-INFINITY) == 0.0 && isinf(cox_exp_f64(INFINITY)));
    assert_true(isnan(cox_exp_f64(NAN)) && isnan(cox_log_f64(NAN)) && isnan(cox_log_f64(-1.0)));
    assert_true(cox_log_f64(0.0) == -INFINITY && cox_log_f64(1.0) == 0.0 && isinf(cox_log_f64(INFINITY)));
    assert_true(cox_pow_f64(10.0, 3.0) == 1000.0 && cox_pow_f64(2.0, -1074.0) == 0x1p-1074);
    assert_true(cox_pow_f64(7.0, 0.0) == 1.0 && isinf(cox_pow_f64(10.0, 400.0)));
}

static void test_widening_is_exact(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        uint16_t stored = (uint16_t)bits;
        int exponent = (int)(bits >> 10 & 31);
        double fraction = (double)(bits & 1023) / 1024.0; /* IEEE 754 binary16, by its definition */
        double size = exponent == 0 ? ldexp(fraction, -14) : ldexp(1.0 + fraction, exponent - 15);
        if (exponent == 31) size = fraction == 0.0 ? (double)INFINITY : (double)NAN;
        float want = (float)copysign(size, bits & 0x8000 ? -1.0 : 1.0);
        float got = cox_f16_to_f32(stored);
        assert_true(isnan(want) ? isnan(got) : memcmp(&want, &got, sizeof got) == 0);
        float wide = cox_bf16_to_f32(stored);
        if (isnan(wide)) {
            assert_true(isnan(cox_bf16_to_f32(cox_f32_to_bf16(wide))));
        } else {
            assert_int_equal(cox_f32_to_bf16(wide), stored);
        }
    }
    assert_int_equal(cox_f32_to_bf16(float_of(0x3f808000u)), 0x3f80); /* ties to even */
    assert_int_equal(cox_f32_to_bf16(float_of(0x3f818000u)), 0x3f82);
    assert_int_equal(cox_f32_to_bf16(float_of(0x3f808001u)), 0x3f81);
    assert_int_equal(cox_f32_to_bf16(float_of(0x7f7fffffu)), 0x7f80); /* overflow */
    assert_true(isnan(cox_bf16_to_f32(cox_f32_to_bf16(float_of(0x7f800001u)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_over_all_floats), cmocka_unit_test(test_sigmoid_over_all_floats),
        cmocka_unit_test(test_f64_functions),       cmocka_unit_test(test_f64_special_values),
        cmocka_unit_test(test_widening_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
