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

/* Every set, and what the row function chooses, against the scalar function. */
static void test_exp_f64_of_rows_is_the_scalar_one(void **state)
{
    (void)state;
    enum { N = 1009 };
    static const double odd[] = {0.0,      -0.0,   INFINITY, -INFINITY, (double)NAN, 710.0,
                                 710.0001, 709.78, -745.2,   -746.0,    -746.001,    -708.5,
                                 1e-310,   1e308,  -1e308,   0x1p-1074};
    static double x[N], y[N];
    for (int round = 0; round < 200; round++) {
        double size = round % 4 == 0 ? 1.0 : round % 4 == 1 ? 20.0 : round % 4 == 2 ? 760.0 : 1e-4;
        for (int i = 0; i < N; i++) {
            x[i] = (double)random_float() * size;
            if (random_bits() % 32 == 0) x[i] = odd[random_bits() % (sizeof odd / sizeof *odd)];
        }
        const cox_kernels *const sets[] = {&cox__kernels_ref, &cox__kernels_avx2, &cox__kernels_avx512};
        for (int s = 0; s < 4; s++) {
            const cox_kernels *set = NULL;
            if (s < 3 && cox_kernels_select(&set, cox_kernels_name(sets[s])) != COX_OK) continue;
            int32_t n = s == 3 ? (int32_t)(random_bits() % N) : N;
            if (set) {
                set->exp_f64(y, x, n);
            } else {
                cox_exp_f64_row(y, x, n);
            }
            for (int32_t i = 0; i < n; i++) {
                double want = cox_exp_f64(x[i]);
                if ((isnan(want) && isnan(y[i])) || memcmp(&want, &y[i], sizeof want) == 0) continue;
                fail_msg("set %d: exp(%a) is %a, not %a", s, x[i], y[i], want);
            }
        }
    }
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
        cmocka_unit_test(test_exp_f64_of_rows_is_the_scalar_one),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
