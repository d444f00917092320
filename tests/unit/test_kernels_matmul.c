/* Matrix products: each fast set against the reference bit by bit over odd shapes, gathers, scatters,
 * strides and all storage types; independence of threads and of the rows beside a row; the reference
 * against f64. */
#include "kernels_data.h"

#include <omp.h>

enum { GUARD = 64 };
static const float guard_value = 12345.0f;

/* One product with everything that it points to. */
typedef struct {
    cox_matrix w;
    cox_matmul_job job;
    float *x, *y, *bias;
    uint8_t *data, *scales;
    int32_t *x_rows, *y_rows;
    size_t y_floats;
} product;

static void *take(size_t bytes)
{
    void *memory = malloc(bytes + GUARD);
    assert_non_null(memory);
    return memory;
}

static void random_weights(uint8_t *data, size_t bytes, cox_dtype dtype, bool with_odd)
{
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)random_bits();
    size_t size = dtype == COX_F32 ? 4 : 2;
    for (size_t i = 0; dtype != COX_MXFP4 && i + size <= bytes; i += size) {
        float value = random_float();
        if (with_odd) sprinkle(&value, 1, true);
        uint16_t bits = cox_f32_to_bf16(value);
        if (dtype == COX_F32) memcpy(data + i, &value, size);
        if (dtype == COX_BF16) memcpy(data + i, &bits, size);
        if (dtype == COX_F16) {
            bits = (uint16_t)random_bits(); /* subnormals come by themselves; exponent 31 is inf or NaN */
            if (!with_odd && (bits & 0x7c00) == 0x7c00) bits &= 0x83ff;
            memcpy(data + i, &bits, size);
        }
    }
}

static product make_product(int32_t n_rows, int32_t n_outs, int32_t n_cols, cox_dtype dtype, bool with_odd)
{
    product p = {0};
    bool has_gather = random_bits() % 2, has_scatter = random_bits() % 2, has_bias = random_bits() % 2;
    size_t row_bytes =
        cox_dtype_bytes(dtype, (size_t)n_cols) + (dtype == COX_MXFP4 ? 1 : 2 * (random_bits() % 5));
    size_t scale_bytes = (size_t)n_cols / 32 + 3;
    size_t x_stride = (size_t)n_cols + random_bits() % 4, y_stride = (size_t)n_outs + random_bits() % 4;
    size_t source_rows = (size_t)n_rows + 5;
    if (dtype == COX_F32) row_bytes = row_bytes / 4 * 4;
    p.data = take(row_bytes * (size_t)n_outs);
    p.scales = take(scale_bytes * (size_t)n_outs);
    p.x = take(x_stride * source_rows * sizeof(float));
    p.y_floats = y_stride * source_rows;
    p.y = take(p.y_floats * sizeof(float));
    p.bias = take((size_t)n_outs * sizeof(float));
    p.x_rows = take((size_t)n_rows * sizeof(int32_t));
    p.y_rows = take((size_t)n_rows * sizeof(int32_t));
    random_weights(p.data, row_bytes * (size_t)n_outs, dtype, with_odd);
    for (size_t i = 0; i < scale_bytes * (size_t)n_outs; i++) {
        p.scales[i] =
            (uint8_t)(with_odd && random_bits() % 8 == 0 ? random_bits() : 120 + random_bits() % 10);
    }
    random_floats(p.x, x_stride * source_rows);
    random_floats(p.bias, (size_t)n_outs);
    if (with_odd) sprinkle(p.x, x_stride * source_rows, random_bits() % 2);
    for (int32_t i = 0; i < n_rows; i++) p.x_rows[i] = (int32_t)(random_bits() % source_rows);
    for (int32_t i = 0; i < n_rows; i++) p.y_rows[i] = n_rows + 2 - i; /* distinct, reversed */
    p.w = (cox_matrix){dtype, n_outs, n_cols, p.data, row_bytes, p.scales, scale_bytes};
    p.job = (cox_matmul_job){.y = p.y,
                             .y_stride = y_stride,
                             .x = p.x,
                             .x_stride = x_stride,
                             .n_rows = n_rows,
                             .x_rows = has_gather ? p.x_rows : NULL,
                             .y_rows = has_scatter ? p.y_rows : NULL,
                             .bias = has_bias ? p.bias : NULL};
    return p;
}

static void free_product(product *p)
{
    free(p->data);
    free(p->scales);
    free(p->x);
    free(p->y);
    free(p->bias);
    free(p->x_rows);
    free(p->y_rows);
}

/* Runs jobs into fresh y's, each filled with guard_value first. */
static void run(const cox_kernels *set, const cox_matmul_job *jobs, int n_jobs, int32_t max_cols,
                int n_threads)
{
    omp_set_num_threads(n_threads);
    size_t bytes = cox_matmul_scratch_bytes(set, n_threads, max_cols);
    uint8_t *scratch = malloc(bytes + 1 + GUARD);
    assert_non_null(scratch);
    memset(scratch, 0xff, bytes + 1 + GUARD); /* NaN wherever nothing was written */
    cox_matmul(set, jobs, n_jobs, scratch + 1);
    for (size_t i = 0; i < GUARD; i++) assert_int_equal(scratch[bytes + 1 + i], 0xff);
    free(scratch);
}

static void run_product(const cox_kernels *set, product *p, int n_threads, float *y)
{
    for (size_t i = 0; i < p->y_floats; i++) y[i] = guard_value;
    cox_matmul_job job = p->job;
    job.w = &p->w;
    job.y = y;
    run(set, &job, 1, p->w.n_cols, n_threads);
}

static void compare_shape(int32_t n_rows, int32_t n_outs, int32_t n_cols, cox_dtype dtype, bool with_odd)
{
    product p = make_product(n_rows, n_outs, n_cols, dtype, with_odd);
    float *got = take(p.y_floats * sizeof(float));
    run_product(reference_kernels(), &p, 1, p.y);
    FOR_FAST_SETS(set)
    {
        char label[120];
        snprintf(label, sizeof label, "%s %s, %d rows, %d outputs, %d columns", cox_kernels_name(set),
                 cox_dtype_name(dtype), (int)n_rows, (int)n_outs, (int)n_cols);
        run_product(set, &p, 1, got);
        assert_same(got, p.y, p.y_floats, label);
        if (n_rows % 8 != 1) continue; /* two threads on a few shapes: on a busy machine they wait for long */
        run_product(set, &p, 2, got);
        assert_same(got, p.y, p.y_floats, label);
    }
    free(got);
    free_product(&p);
}

static void test_odd_shapes_have_the_reference_bits(void **state)
{
    (void)state;
    const cox_dtype dtypes[] = {COX_F32, COX_F16, COX_BF16, COX_MXFP4};
    for (int d = 0; d < 4; d++) {
        for (int32_t cols = 1; cols <= 130; cols = cols == 67 ? 127 : cols + 1) {
            int32_t n_cols = dtypes[d] == COX_MXFP4 ? (cols + 31) / 32 * 32 : cols;
            int32_t n_rows = 1 + (int32_t)(random_bits() % 40);
            int32_t n_outs = 1 + (int32_t)(random_bits() % 70);
            compare_shape(n_rows, n_outs, n_cols, dtypes[d], false);
            compare_shape(1 + n_rows / 4, n_outs, n_cols, dtypes[d], true);
        }
        for (int32_t n_rows = 1; n_rows <= 67; n_rows++)
            compare_shape(n_rows, 37, 96, dtypes[d], n_rows % 3 == 0);
        compare_shape(1, 130, 512, dtypes[d], true);
        compare_shape(250, 33, 64, dtypes[d], false); /* more than one chunk of rows */
        compare_shape(497, 5, 32, dtypes[d], true);
        compare_shape(1030, 33, 64, dtypes[d], true); /* more than one long chunk */
    }
}

static void test_wide_rows(void **state)
{
    (void)state;
    compare_shape(49, 9, 44000, COX_BF16, false); /* chunks of 24 rows */
    compare_shape(2, 9, 44001, COX_F32, false);
    compare_shape(30, 6, 5001, COX_F16, false);
}

/* Gate and up share rows, experts differ in size, one has none: one pool of tiles. */
static void test_many_jobs_are_one_pool(void **state)
{
    (void)state;
    enum { N_JOBS = 9 };
    product p[N_JOBS];
    cox_matmul_job jobs[N_JOBS];
    const int32_t rows[N_JOBS] = {1, 17, 0, 3, 64, 1, 12, 40, 5};
    for (int j = 0; j < N_JOBS; j++) {
        p[j] = make_product(rows[j], 40 + j, 96, (cox_dtype)(j % 4), false);
        p[j].job.w = &p[j].w;
        for (size_t i = 0; i < p[j].y_floats; i++) p[j].y[i] = guard_value;
        jobs[j] = p[j].job;
    }
    jobs[5].x = jobs[4].x; /* the same rows as the job before, as a gate's and an up's are */
    jobs[5].x_stride = jobs[4].x_stride;
    jobs[5].x_rows = jobs[4].x_rows;
    jobs[5].n_rows = 1;
    run(reference_kernels(), jobs, N_JOBS, 96, 2);
    FOR_FAST_SETS(set)
    {
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            float *got[N_JOBS];
            cox_matmul_job again[N_JOBS];
            for (int j = 0; j < N_JOBS; j++) {
                got[j] = take(p[j].y_floats * sizeof(float));
                for (size_t i = 0; i < p[j].y_floats; i++) got[j][i] = guard_value;
                again[j] = jobs[j];
                again[j].y = got[j];
            }
            run(set, again, N_JOBS, 96, n_threads);
            for (int j = 0; j < N_JOBS; j++) {
                assert_same(got[j], p[j].y, p[j].y_floats, cox_kernels_name(set));
                free(got[j]);
            }
        }
    }
    for (int j = 0; j < N_JOBS; j++) free_product(&p[j]);
}

static void test_a_row_does_not_depend_on_its_mates(void **state)
{
    (void)state;
    product p = make_product(70, 65, 250, COX_BF16, false);
    run_product(reference_kernels(), &p, 1, p.y);
    FOR_FAST_SETS(set)
    {
        for (int32_t i = 0; i < 70; i++) {
            float alone[65];
            int32_t x_row = p.job.x_rows ? p.job.x_rows[i] : i, y_row = p.job.y_rows ? p.job.y_rows[i] : i;
            cox_matmul_job job = p.job;
            job.w = &p.w;
            job.x = p.x + (size_t)x_row * p.job.x_stride;
            job.x_rows = job.y_rows = NULL;
            job.n_rows = 1;
            job.y = alone;
            run(set, &job, 1, 250, 1);
            assert_same(alone, p.y + (size_t)y_row * p.job.y_stride, 65, "a row alone");
        }
    }
    free_product(&p);
}

/* Every other row of a matrix, as GPT-OSS's interleaved gate and up. */
static void test_strided_views(void **state)
{
    (void)state;
    product p = make_product(3, 20, 64, COX_MXFP4, false);
    float widened[64], sums[20], *all = p.y;
    p.job.x_rows = p.job.y_rows = NULL;
    p.job.bias = NULL;
    run_product(reference_kernels(), &p, 1, all);
    cox_matrix odd = p.w;
    odd.n_rows = 10;
    odd.data = p.data + p.w.row_stride_bytes;
    odd.row_stride_bytes *= 2;
    odd.scales += p.w.scale_stride_bytes;
    odd.scale_stride_bytes *= 2;
    cox_matmul_job job = p.job;
    job.w = &odd;
    job.y = sums;
    job.n_rows = 1;
    FOR_FAST_SETS(set)
    {
        run(set, &job, 1, 64, 1);
        for (int o = 0; o < 10; o++) assert_true(is_same(sums[o], all[2 * o + 1]));
    }
    cox_matrix_row(&odd, 9, widened);
    assert_true(is_same(cox_dot(reference_kernels(), p.x, widened, 64), all[19]));
    free_product(&p);
}

static void test_mxfp4_values(void **state)
{
    (void)state;
    uint8_t nibbles[16];
    for (int i = 0; i < 16; i++) nibbles[i] = (uint8_t)(((i + 1) % 16) << 4 | i); /* low nibble first */
    const uint8_t scale = 129;                                                    /* 4 */
    cox_matrix m = {COX_MXFP4, 1, 32, nibbles, 16, &scale, 1};
    float row[32];
    cox_matrix_row(&m, 0, row);
    const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    for (int i = 0; i < 16; i++) {
        float want = i < 8 ? 4.0f * values[i] : -4.0f * values[i - 8];
        assert_true(is_same(row[2 * i], want));
        assert_true(is_same(row[(2 * i + 31) % 32], want));
    }
}

static void test_reference_against_f64(void **state)
{
    (void)state;
    const cox_dtype dtypes[] = {COX_F32, COX_F16, COX_BF16, COX_MXFP4};
    for (int d = 0; d < 4; d++) {
        product p = make_product(7, 11, 288, dtypes[d], false);
        float row[288];
        run_product(reference_kernels(), &p, 1, p.y);
        for (int32_t i = 0; i < 7; i++) {
            const float *x = p.x + (size_t)(p.job.x_rows ? p.job.x_rows[i] : i) * p.job.x_stride;
            const float *y = p.y + (size_t)(p.job.y_rows ? p.job.y_rows[i] : i) * p.job.y_stride;
            for (int32_t o = 0; o < 11; o++) {
                cox_matrix_row(&p.w, o, row);
                double sum = p.job.bias ? (double)p.bias[o] : 0.0, size = fabs(sum);
                for (int k = 0; k < 288; k++) {
                    sum += (double)x[k] * (double)row[k];
                    size += fabs((double)x[k] * (double)row[k]);
                }
                assert_true(fabs((double)y[o] - sum) <= 5e-7 * size);
            }
        }
        free_product(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_odd_shapes_have_the_reference_bits),
        cmocka_unit_test(test_wide_rows),
        cmocka_unit_test(test_many_jobs_are_one_pool),
        cmocka_unit_test(test_a_row_does_not_depend_on_its_mates),
        cmocka_unit_test(test_strided_views),
        cmocka_unit_test(test_mxfp4_values),
        cmocka_unit_test(test_reference_against_f64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
