/* Functions of one row: each fast set against the reference bit by bit, and the reference against f64. */
#include "kernels/kernel_set.h"
#include "kernels_data.h"

enum { MAX_N = 300, MARGIN = 32 };

typedef struct {
    float a[MAX_N + MARGIN], b[MAX_N + MARGIN], c[MAX_N + MARGIN], d[MAX_N + MARGIN];
} rows;

static void random_rows(rows *r, bool with_odd)
{
    random_floats((float *)r, sizeof *r / sizeof(float));
    if (with_odd) sprinkle((float *)r, sizeof *r / sizeof(float), random_bits() % 2 == 0);
}

/* One function of one row on copies of the same rows, `shift` floats off alignment. All of each row is
 * compared, so that writes past n show. */
typedef void row_call(const cox_kernels *set, rows *r, int32_t n, size_t shift);

static void call_rms_norm(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    cox_rms_norm(set, r->a + shift, r->b, r->c + shift, n, 1e-5f);
    cox_rms_norm(set, r->d, r->d, r->c, n, 1e-6f);
}
static void call_dot(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    r->a[MAX_N + MARGIN - 1] = cox_dot(set, r->b + shift, r->c, n);
}
static void call_add(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    cox_add(set, r->a + shift, r->b, n);
}
static void call_axpy(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    cox_axpy(set, r->a, r->d[0], r->b + shift, n);
}
static void call_softmax(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    cox_softmax(set, r->a + shift, n);
    for (int32_t i = 0; i < n; i++) r->b[i] *= 40.0f; /* some underflow */
    cox_softmax(set, r->b, n);
}
static void call_silu_mul(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    for (int32_t i = 0; i < n; i++) r->a[shift + (size_t)i] *= 60.0f; /* to where exp underflows */
    cox_silu_mul(set, r->a + shift, r->a + shift, r->b, n);
}
static void call_swiglu(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    for (int32_t i = 0; i < n; i++) r->b[i] *= 60.0f;
    cox_swiglu_clamped(set, r->a, r->b, r->c + shift, n, 1.702f, 1.25f);
}
static void call_rope(const cox_kernels *set, rows *r, int32_t n, size_t shift)
{
    cox_rope(set, r->a + shift, r->b, r->c, n / 2 * 2);
}

static void compare(row_call *call, const char *what)
{
    for (int round = 0; round < 4; round++) {
        for (int32_t n = 0; n <= 150; n = n == 67 ? 126 : n + 1) {
            rows start, want;
            random_rows(&start, round > 0);
            want = start;
            size_t shift = (size_t)(random_bits() % 8);
            call(reference_kernels(), &want, n, shift);
            FOR_FAST_SETS(set)
            {
                char label[80];
                snprintf(label, sizeof label, "%s of %s, n = %d, shift %zu", what, cox_kernels_name(set),
                         (int)n, shift);
                rows got = start;
                call(set, &got, n, shift);
                assert_same((float *)&got, (float *)&want, sizeof got / sizeof(float), label);
            }
        }
    }
}

static void test_rows_have_the_reference_bits(void **state)
{
    (void)state;
    compare(call_rms_norm, "rms_norm");
    compare(call_dot, "dot");
    compare(call_add, "add");
    compare(call_axpy, "axpy");
    compare(call_softmax, "softmax");
    compare(call_silu_mul, "silu_mul");
    compare(call_swiglu, "swiglu_clamped");
    compare(call_rope, "rope");
}

/* The vector exponential over all magnitudes: softmax of {0, x} shows exp(x) for x <= 0, silu both signs. */
static void test_vector_exp_is_the_scalar_one(void **state)
{
    (void)state;
    enum { N = 64 };
    float gate[N], ones[N], got[N], want[N];
    for (int i = 0; i < N; i++) ones[i] = 1.0f;
    for (uint64_t bits = 0; bits < 0x100000000u; bits += 6007 * N) {
        for (int i = 0; i < N; i++) {
            uint32_t one = (uint32_t)(bits + (uint64_t)i * 6007);
            memcpy(&gate[i], &one, sizeof one);
        }
        cox_silu_mul(reference_kernels(), want, gate, ones, N);
        FOR_FAST_SETS(set)
        {
            cox_silu_mul(set, got, gate, ones, N);
            assert_same(got, want, N, cox_kernels_name(set));
        }
    }
}

static void test_dot_follows_the_fixed_tree(void **state)
{
    (void)state;
    /* 2^24 + 1 is not an f32: lane 0 loses the ones that come after 2^24, all other lanes keep theirs. */
    float x[64], ones[64];
    for (int i = 0; i < 64; i++) x[i] = ones[i] = 1.0f;
    x[0] = 0x1p+24f;
    /* lane 0 = 2^24 (three ones lost); the fold adds 4 to it from lane 8, 8 from 4 and 12, 16, then 32. */
    float want = 0x1p+24f + 4.0f + 8.0f + 16.0f + 32.0f;
    assert_true(cox_dot(reference_kernels(), x, ones, 64) == want);
    FOR_FAST_SETS(set) assert_true(cox_dot(set, x, ones, 64) == want);
}

static void test_reference_against_f64(void **state)
{
    (void)state;
    const cox_kernels *set = reference_kernels();
    enum { N = 257 };
    float x[N], w[N], y[N], u[N];
    random_floats(x, N);
    random_floats(w, N);
    random_floats(u, N);
    double sum = 0.0, size = 0.0, square = 0.0, total = 0.0;
    for (int i = 0; i < N; i++) {
        sum += (double)x[i] * (double)w[i];
        size += fabs((double)x[i] * (double)w[i]);
        square += (double)x[i] * (double)x[i];
        total += exp((double)x[i]);
    }
    assert_true(fabs((double)cox_dot(set, x, w, N) - sum) <= 1e-6 * size);
    cox_rms_norm(set, y, x, w, N, 1e-5f);
    for (int i = 0; i < N; i++) {
        double want = (double)x[i] / sqrt(square / N + (double)1e-5f) * (double)w[i];
        assert_true(fabs((double)y[i] - want) <= 1e-6 * fabs(want));
    }
    cox_silu_mul(set, y, x, u, N);
    for (int i = 0; i < N; i++) {
        double want = (double)x[i] / (1.0 + exp(-(double)x[i])) * (double)u[i];
        assert_true(fabs((double)y[i] - want) <= 1e-6 * fabs(want));
    }
    cox_swiglu_clamped(set, y, x, u, N, 1.702f, 1.0f);
    for (int i = 0; i < N; i++) {
        double g = fmin((double)x[i], 1.0), c = fmax(-1.0, fmin((double)u[i], 1.0));
        double want = (c + 1.0) * g / (1.0 + exp(-(double)1.702f * g));
        assert_true(fabs((double)y[i] - want) <= 1e-6 * (fabs(want) + 1e-3));
    }
    memcpy(y, x, sizeof y);
    cox_softmax(set, y, N);
    for (int i = 0; i < N; i++) {
        double want = exp((double)x[i]) / total;
        assert_true(fabs((double)y[i] - want) <= 1e-6 * want);
    }
}

enum { MOST_LOGITS = 1009 };

typedef struct {
    float x[MOST_LOGITS];
    uint8_t in_set[MOST_LOGITS];
    double p[MOST_LOGITS], log_p[MOST_LOGITS];
} logits;

/* odd: with infinities, NaN and numbers whose exponential is 0 or below the normal ones. */
static void make_logits(logits *l, int32_t n, float size, bool is_odd)
{
    static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -745.0f, -710.0f, 3e38f, -3e38f};
    for (int32_t i = 0; i < n; i++) {
        l->x[i] = random_float() * size;
        if (is_odd && random_bits() % 32 == 0) l->x[i] = odd[random_bits() % (sizeof odd / sizeof *odd)];
        l->in_set[i] = random_bits() % 8 == 0 ? (uint8_t)(1 + random_bits() % 255) : 0;
        l->p[i] = random_bits() % 8 == 0 ? 0.0 : fabs((double)random_float());
        l->log_p[i] = l->p[i] > 0 ? log(l->p[i]) : -INFINITY;
    }
}

static void expect_same_f64(int set, const char *what, double value, double want)
{
    if ((isnan(want) && isnan(value)) || memcmp(&want, &value, sizeof want) == 0) return;
    fail_msg("set %d: %s is %a, not %a", set, what, value, want);
}

static void test_sums_over_logits_have_the_reference_bits(void **state)
{
    (void)state;
    static logits l;
    static const char *const names[] = {"avx2", "avx512", "avx512-simde"};
    for (int round = 0; round < 400; round++) {
        static const float sizes[] = {1.0f, 20.0f, 760.0f, 1e-4f};
        int32_t n = round < 40 ? round : (int32_t)(random_bits() % MOST_LOGITS);
        make_logits(&l, n, sizes[round % 4], round % 3 == 0);
        const uint8_t *in_set = round % 5 == 0 ? NULL : l.in_set;
        double shifts[2], sums[2], whole = (double)random_float(), result[2];
        cox__exp_sums_ref(l.x, in_set, n, shifts, sums);
        double kl = cox__kl_sum_ref(l.p, l.log_p, l.x, whole, n);
        for (int s = 0; s < 3; s++) {
            const cox_kernels *set;
            double own_shifts[2], own_sums[2];
            if (cox_kernels_select(&set, names[s]) != COX_OK) continue;
            set->exp_sums(l.x, in_set, n, own_shifts, own_sums);
            for (int part = 0; part < 2; part++) {
                expect_same_f64(s, "a shift", own_shifts[part], shifts[part]);
                expect_same_f64(s, "a sum of exponentials", own_sums[part], sums[part]);
            }
            expect_same_f64(s, "a sum of divergences", set->kl_sum(l.p, l.log_p, l.x, whole, n), kl);
        }
        cox_log_sum_exps(l.x, in_set, n, result);
        for (int part = 0; part < 2; part++)
            expect_same_f64(3, "a log-sum-exp", result[part], shifts[part] + cox_log_f64(sums[part]));
        expect_same_f64(3, "a sum of divergences", cox_kl_sum(l.p, l.log_p, l.x, whole, n), kl);
    }
}

static void test_terms_are_exponentials(void **state)
{
    (void)state;
    for (int i = 0; i < 200000; i++) {
        double x = -fmod(fabs((double)random_float()), 1.0) * (i % 2 ? 708.0 : i % 4 ? 1.0 : 40.0);
        long double want = expl((long double)x), got = (long double)cox__exp_term_ref(x);
        if (fabsl(got - want) > 2 * 0x1p-53L * 2 * want) fail_msg("exp(%a) is %La, not %La", x, got, want);
    }
    assert_true(cox__exp_term_ref(0.0) == 1.0 && cox__exp_term_ref(-0.0) == 1.0);
    assert_true(cox__exp_term_ref(-708.0) > 0 && cox__exp_term_ref(-708.001) == 0);
    assert_true(cox__exp_term_ref(-INFINITY) == 0 && isnan(cox__exp_term_ref((double)NAN)));
    assert_true(isinf(cox__exp_term_ref(INFINITY)));
}

/* The reference against sums of long doubles, and what is not finite against its meaning. */
static void test_sums_over_logits_are_right(void **state)
{
    (void)state;
    static logits l;
    for (int round = 0; round < 200; round++) {
        int32_t n = 1 + (int32_t)(random_bits() % MOST_LOGITS);
        make_logits(&l, n, round % 2 ? 20.0f : 700.0f, false);
        long double sums[2] = {0}, kl = 0;
        double whole = (double)random_float(), result[2];
        for (int32_t i = 0; i < n; i++) {
            sums[l.in_set[i] != 0] += expl((long double)l.x[i]);
            if (l.p[i] > 0)
                kl += (long double)l.p[i] *
                      ((long double)l.log_p[i] - ((long double)l.x[i] - (long double)whole));
        }
        cox_log_sum_exps(l.x, l.in_set, n, result);
        for (int part = 0; part < 2; part++) {
            double want = (double)logl(sums[part]);
            bool is_empty = isinf(want) && isinf(result[part]) && result[part] < 0;
            if (!is_empty && !(fabs(result[part] - want) <= 1e-14 * (1 + fabs(want))))
                fail_msg("log-sum-exp: %a, not %a", result[part], want);
        }
        double got = cox_kl_sum(l.p, l.log_p, l.x, whole, n);
        if (fabs(got - (double)kl) > 1e-11 * (1 + fabs((double)kl))) fail_msg("%a, not %a", got, (double)kl);
    }
    double result[2];
    cox_log_sum_exps((float[]){1, -INFINITY, INFINITY}, (uint8_t[]){1, 0, 1}, 3, result);
    assert_true(isinf(result[0]) && result[0] < 0 && isinf(result[1]) && result[1] > 0);
    cox_log_sum_exps((float[]){NAN, -INFINITY, INFINITY, 2}, (uint8_t[]){1, 1, 1, 0}, 4, result);
    assert_true(isnan(result[1]) && result[0] == 2);
}

static void test_names(void **state)
{
    (void)state;
    const cox_kernels *set = NULL;
    assert_int_equal(cox_kernels_select(&set, NULL), COX_OK);
    const cox_kernels *same = NULL;
    assert_int_equal(cox_kernels_select(&same, "auto"), COX_OK);
    assert_ptr_equal(set, same);
    print_message("auto is %s on this CPU (%s)\n", cox_kernels_name(set), cox_cpu_features());
    assert_int_equal(cox_kernels_select(&set, "fast"), COX_INVALID);
    assert_non_null(strstr(cox_status_message(), "avx2"));
    assert_ptr_equal(set, same); /* untouched by the failure */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_have_the_reference_bits),
        cmocka_unit_test(test_vector_exp_is_the_scalar_one),
        cmocka_unit_test(test_dot_follows_the_fixed_tree),
        cmocka_unit_test(test_reference_against_f64),
        cmocka_unit_test(test_sums_over_logits_have_the_reference_bits),
        cmocka_unit_test(test_terms_are_exponentials),
        cmocka_unit_test(test_sums_over_logits_are_right),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
