/* The sets that are chosen by name and are not exact: bf16-act and blas. */
#include "kernels_data.h"

#include <omp.h>

enum { MAX_ROWS = 260, MAX_OUTS = 300, MAX_COLS = 320 };

typedef struct {
    float x[MAX_ROWS * MAX_COLS], rounded[MAX_ROWS * MAX_COLS], bias[MAX_OUTS];
    float y[(MAX_ROWS + 1) * MAX_OUTS], want[(MAX_ROWS + 1) * MAX_OUTS], f32[MAX_OUTS * MAX_COLS];
    uint16_t w16[MAX_OUTS * MAX_COLS];
    int32_t x_rows[MAX_ROWS], y_rows[MAX_ROWS];
} memory;

static memory *make_memory(void)
{
    memory *m = malloc(sizeof *m);
    assert_non_null(m);
    random_floats(m->x, MAX_ROWS * MAX_COLS);
    random_floats(m->bias, MAX_OUTS);
    for (size_t i = 0; i < MAX_ROWS * MAX_COLS; i++)
        m->rounded[i] = cox_bf16_to_f32(cox_f32_to_bf16(m->x[i]));
    for (size_t i = 0; i < MAX_OUTS * MAX_COLS; i++) {
        m->w16[i] = cox_f32_to_bf16(random_float());
        m->f32[i] = cox_bf16_to_f32(m->w16[i]);
    }
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        m->x_rows[i] = (i * 7 + 3) % MAX_ROWS;
        m->y_rows[i] = MAX_ROWS - 1 - i;
    }
    return m;
}

static void run(const cox_kernels *set, const cox_matmul_job *jobs, int n_jobs)
{
    omp_set_num_threads(2);
    void *scratch = malloc(cox_matmul_scratch_bytes(set, 2, MAX_COLS));
    assert_non_null(scratch);
    cox_matmul(set, jobs, n_jobs, scratch);
    free(scratch);
}

/* y by `set` from x, want by the reference from x_reference; two jobs on the same rows, gathered and
 * scattered or not, as a gate's and an up's. The result is the largest error, as a share of sum |x w| +
 * |bias|. */
static double compare(const cox_kernels *set, memory *m, const float *x_reference, cox_dtype dtype,
                      int32_t n_rows, int32_t n_outs, int32_t n_cols, bool has_rows)
{
    size_t size = dtype == COX_F32 ? sizeof(float) : sizeof(uint16_t);
    cox_matrix w = {dtype,           n_outs / 2, n_cols, dtype == COX_F32 ? (void *)m->f32 : m->w16,
                    size * MAX_COLS, NULL,       0};
    cox_matrix w2 = w;
    w2.n_rows = n_outs - w.n_rows;
    w2.data = (const char *)w.data + size * MAX_COLS * (size_t)w.n_rows;
    cox_matmul_job jobs[2] = {{.y = m->y,
                               .y_stride = MAX_OUTS,
                               .x = m->x,
                               .x_stride = MAX_COLS,
                               .n_rows = n_rows,
                               .x_rows = has_rows ? m->x_rows : NULL,
                               .y_rows = has_rows ? m->y_rows : NULL,
                               .w = &w,
                               .bias = m->bias}};
    jobs[1] = jobs[0];
    jobs[1].w = &w2;
    jobs[1].y += w.n_rows;
    jobs[1].bias = NULL;
    memset(m->y, 0xff, sizeof m->y);
    memset(m->want, 0xff, sizeof m->want);
    run(set, jobs, 2);
    for (int j = 0; j < 2; j++) {
        jobs[j].x = x_reference;
        jobs[j].y += m->want - m->y;
    }
    run(reference_kernels(), jobs, 2);
    double worst = 0.0;
    for (int32_t i = 0; i < n_rows; i++) {
        const float *x = x_reference + (size_t)(has_rows ? m->x_rows[i] : i) * MAX_COLS;
        size_t y_row = (size_t)(has_rows ? m->y_rows[i] : i) * MAX_OUTS;
        for (int32_t o = 0; o < n_outs; o++) {
            double total = fabs((double)m->bias[o]);
            for (int32_t k = 0; k < n_cols; k++)
                total += fabs((double)x[k] * (double)m->f32[o * MAX_COLS + k]);
            double error = fabs((double)m->y[y_row + (size_t)o] - (double)m->want[y_row + (size_t)o]) / total;
            assert_true(error == error); /* not NaN: every element was written */
            worst = error > worst ? error : worst;
        }
    }
    return worst;
}

static double compare_shapes(const cox_kernels *set, memory *m, const float *x_reference, cox_dtype dtype)
{
    const int32_t shapes[][3] = {{1, 9, 1},     {1, 64, 320},  {3, 7, 31},    {5, 66, 33},   {15, 40, 64},
                                 {16, 40, 100}, {33, 70, 257}, {64, 33, 288}, {250, 41, 96}, {20, 300, 70}};
    double worst = 0.0;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int has_rows = 0; has_rows < 2; has_rows++) {
            double error =
                compare(set, m, x_reference, dtype, shapes[s][0], shapes[s][1], shapes[s][2], has_rows);
            worst = error > worst ? error : worst;
        }
    }
    return worst;
}

static const cox_kernels *select_set(const char *name)
{
    const cox_kernels *set = NULL;
    if (cox_kernels_select(&set, name) != COX_OK) return NULL;
    assert_string_equal(cox_kernels_name(set), name);
    return set;
}

static void test_blas_is_close_to_the_reference(void **state)
{
    (void)state;
    memory *m = make_memory();
    const cox_kernels *set = select_set("blas");
    assert_non_null(set);
    assert_true(compare_shapes(set, m, m->x, COX_F32) < 1e-6);
    assert_true(compare_shapes(set, m, m->x, COX_BF16) < 1e-6);
    free(m);
}

/* Rounded activations, else the reference's sums: to the bit where AVX512-BF16 has no part in it. */
static void test_bf16_act_is_the_reference_on_rounded_activations(void **state)
{
    (void)state;
    memory *m = make_memory();
    const cox_kernels *set = select_set("bf16-act");
    assert_non_null(set);
    assert_true(compare_shapes(set, m, m->rounded, COX_F32) == 0.0);
    bool has_instructions = strstr(cox_cpu_features(), "avx512bf16") != NULL;
    if (!has_instructions) print_message("skip: no AVX512-BF16 on this CPU: bf16-act rounds only\n");
    double error = compare_shapes(set, m, m->rounded, COX_BF16);
    assert_true(has_instructions ? error < 1e-6 : error == 0.0);
    assert_true(compare_shapes(set, m, m->x, COX_BF16) > 1e-5); /* it does round */
    free(m);
}

static void test_bf16_instructions_over_simde(void **state)
{
    (void)state;
    const cox_kernels *set = select_set("bf16-act-simde");
    if (!set) {
        print_message("skip: built without SIMDe\n");
        return;
    }
    memory *m = make_memory();
    assert_true(compare_shapes(set, m, m->rounded, COX_BF16) < 1e-6);
    assert_true(compare_shapes(set, m, m->rounded, COX_F32) == 0.0);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blas_is_close_to_the_reference),
        cmocka_unit_test(test_bf16_act_is_the_reference_on_rounded_activations),
        cmocka_unit_test(test_bf16_instructions_over_simde),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
