/*
 * Speed of the kernels against what the machine can do: prefill (many rows) against OpenBLAS sgemm, decode
 * (few rows) against the read bandwidth measured here. Each figure is the best of several runs. Usage:
 * bench_kernels [set] [threads]
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cblas.h>

#include "kernels/kernels.h"

/* One thread is measured by its own CPU time, so that other programs disturb less. */
static clockid_t timer = CLOCK_MONOTONIC;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(timer, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

static volatile float sink;

/* Bytes per second of reading a buffer that no cache holds, by all threads. */
static double read_bandwidth(int n_threads)
{
    size_t n = (size_t)64 << 20; /* 256 MiB of f32 */
    float *x = take(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = 1.0f;
    double best = 1e9;
    for (int run = 0; run < 5; run++) {
        double start = now_s();
        float total = 0.0f;
#pragma omp parallel for num_threads(n_threads) reduction(+ : total)
        for (int part = 0; part < 64; part++) {
            typedef float eight __attribute__((vector_size(32)));
            const eight *p = (const eight *)(const void *)(x + n / 64 * (size_t)part);
            eight sums[4] = {{0}};
            for (size_t i = 0; i < n / 64 / 8; i += 4) {
                __builtin_prefetch(p + i + 128); /* 4 KiB ahead: past the page where a CPU's own ends */
                __builtin_prefetch(p + i + 130);
                for (size_t j = 0; j < 4; j++) sums[j] += p[i + j];
            }
            total += sums[0][0] + sums[1][1] + sums[2][2] + sums[3][3];
        }
        sink = total;
        double time = now_s() - start;
        best = time < best ? time : best;
    }
    free(x);
    return (double)(n * sizeof(float)) / best;
}

typedef struct {
    cox_matrix *w;
    cox_matmul_job *jobs;
    int n_matrices;
    void *data;
    uint8_t *scales;
    float *x, *y;
    void *scratch;
} setup;

/* n_matrices of [n_outs, n_cols], so that decode finds none of them in a cache. */
static setup make_setup(const cox_kernels *set, cox_dtype dtype, int n_matrices, int n_rows, int n_outs,
                        int n_cols, int n_threads)
{
    setup s = {.n_matrices = n_matrices};
    size_t bytes = cox_dtype_bytes(dtype, (size_t)n_cols) * (size_t)n_outs;
    size_t scale_bytes = (size_t)n_cols / 32 * (size_t)n_outs;
    s.data = take(bytes * (size_t)n_matrices);
    s.scales = take(scale_bytes * (size_t)n_matrices + 1);
    memset(s.data, 0x11, bytes * (size_t)n_matrices);
    memset(s.scales, 127, scale_bytes * (size_t)n_matrices);
    s.x = take((size_t)n_rows * (size_t)n_cols * sizeof(float));
    s.y = take((size_t)n_rows * (size_t)n_outs * sizeof(float));
    for (size_t i = 0; i < (size_t)n_rows * (size_t)n_cols; i++) s.x[i] = (float)(i % 7) - 3.0f;
    s.w = take((size_t)n_matrices * sizeof *s.w);
    s.jobs = take((size_t)n_matrices * sizeof *s.jobs);
    for (int m = 0; m < n_matrices; m++) {
        s.w[m] = (cox_matrix){dtype,
                              n_outs,
                              n_cols,
                              (char *)s.data + bytes * (size_t)m,
                              bytes / (size_t)n_outs,
                              s.scales + scale_bytes * (size_t)m,
                              (size_t)n_cols / 32};
        s.jobs[m] = (cox_matmul_job){.y = s.y,
                                     .y_stride = (size_t)n_outs,
                                     .x = s.x,
                                     .x_stride = (size_t)n_cols,
                                     .n_rows = n_rows,
                                     .w = &s.w[m]};
    }
    s.scratch = take(cox_matmul_scratch_bytes(set, n_threads, n_cols));
    return s;
}

static void free_setup(setup *s)
{
    free(s->w);
    free(s->jobs);
    free(s->data);
    free(s->scales);
    free(s->x);
    free(s->y);
    free(s->scratch);
}

static double time_matmul(const cox_kernels *set, const setup *s, int n_runs)
{
    double best = 1e9;
    for (int run = 0; run < n_runs; run++) {
        double start = now_s();
        cox_matmul(set, s->jobs, s->n_matrices, s->scratch);
        double time = now_s() - start;
        best = time < best ? time : best;
    }
    return best / s->n_matrices;
}

static double sgemm_flops(int n_rows, int n_outs, int n_cols, int n_threads)
{
    float *x = take((size_t)n_rows * (size_t)n_cols * sizeof(float));
    float *w = take((size_t)n_outs * (size_t)n_cols * sizeof(float));
    float *y = take((size_t)n_rows * (size_t)n_outs * sizeof(float));
    for (int i = 0; i < n_rows * n_cols; i++) x[i] = 0.5f;
    for (int i = 0; i < n_outs * n_cols; i++) w[i] = 0.25f;
    openblas_set_num_threads(n_threads);
    double best = 1e9;
    for (int run = 0; run < 5; run++) {
        double start = now_s();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_rows, n_outs, n_cols, 1.0f, x, n_cols, w,
                    n_cols, 0.0f, y, n_outs);
        double time = now_s() - start;
        best = time < best ? time : best;
    }
    openblas_set_num_threads(1);
    free(x);
    free(w);
    free(y);
    return 2.0 * n_rows * n_outs * n_cols / best;
}

static void bench_prefill(const cox_kernels *set, int n_threads)
{
    const int shapes[][3] = {
        {512, 2048, 2048}, {64, 1024, 2048}, {32, 1024, 2048}, {16, 1024, 2048}, {512, 768, 128}};
    printf("prefill: rows x outputs x columns, GFLOP/s (share of OpenBLAS sgemm of the same f32 product)\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *n = shapes[i];
        double blas = sgemm_flops(n[0], n[1], n[2], n_threads);
        printf("  %4d x %4d x %4d  sgemm %6.1f ", n[0], n[1], n[2], blas / 1e9);
        for (int d = 0; d < 4; d++) {
            setup s = make_setup(set, (cox_dtype)d, 4, n[0], n[1], n[2], n_threads);
            double flops = 2.0 * n[0] * n[1] * n[2] / time_matmul(set, &s, 5);
            printf(" | %s %6.1f (%.2f)", cox_dtype_name((cox_dtype)d), flops / 1e9, flops / blas);
            free_setup(&s);
        }
        printf("\n");
    }
}

static void bench_decode(const cox_kernels *set, int n_threads, double bandwidth)
{
    const int rows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24};
    printf("few rows: 1024 outputs x 2048 columns, weights from memory; GB/s of weights (share of reading), "
           "GFLOP/s\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        printf("  %2d rows", rows[i]);
        for (int d = 0; d < 4; d++) {
            setup s = make_setup(set, (cox_dtype)d, 48, rows[i], 1024, 2048, n_threads);
            double time = time_matmul(set, &s, 5);
            double bytes =
                1024.0 * (double)cox_dtype_bytes((cox_dtype)d, 2048) * (d == COX_MXFP4 ? 17.0 / 16.0 : 1.0);
            printf(" | %s %5.1f (%.2f) %5.1f", cox_dtype_name((cox_dtype)d), bytes / time / 1e9,
                   bytes / time / bandwidth, 2.0 * rows[i] * 1024 * 2048 / time / 1e9);
            free_setup(&s);
        }
        printf("\n");
    }
}

static void bench_attention(const cox_kernels *set)
{
    enum { DIM = 128, BLOCKS = 64, GROUP = 4, HEADS = 4 };
    size_t block_floats = (size_t)2 * COX_KV_BLOCK * DIM;
    float *pool = take((size_t)BLOCKS * HEADS * block_floats * sizeof *pool);
    for (size_t i = 0; i < BLOCKS * HEADS * block_floats; i++) pool[i] = (float)(i % 13) * 0.01f;
    float q[GROUP * DIM], out[HEADS][GROUP * DIM];
    for (int i = 0; i < GROUP * DIM; i++) q[i] = (float)(i % 5) * 0.1f;
    int32_t blocks[HEADS][BLOCKS];
    cox_attention_job jobs[HEADS];
    for (int h = 0; h < HEADS; h++) {
        for (int b = 0; b < BLOCKS; b++) blocks[h][b] = h * BLOCKS + b;
        jobs[h] = (cox_attention_job){.out = out[h],
                                      .q = q,
                                      .out_stride = DIM,
                                      .q_stride = DIM,
                                      .pool = pool,
                                      .blocks = blocks[h],
                                      .block_stride = block_floats,
                                      .v_offset = block_floats / 2,
                                      .group = GROUP,
                                      .head_dim = DIM,
                                      .last = BLOCKS * COX_KV_BLOCK - 1,
                                      .scale = 0.1f};
    }
    double best = 1e9;
    for (int run = 0; run < 20; run++) {
        double start = now_s();
        cox_attention(set, jobs, HEADS);
        double time = now_s() - start;
        best = time < best ? time : best;
    }
    double flops = 4.0 * DIM * BLOCKS * COX_KV_BLOCK * GROUP * HEADS;
    double bytes = (double)(BLOCKS * HEADS * block_floats * sizeof *pool);
    printf("attention: 2048 positions, head_dim 128, group 4, 4 KV heads: %.1f us, %.1f GFLOP/s, %.1f GB/s "
           "of cache\n",
           best * 1e6, flops / best / 1e9, bytes / best / 1e9);
    free(pool);
}

static void bench_rows(const cox_kernels *set)
{
    enum { N = 2048, ROUNDS = 2000 };
    static float a[N], b[N], c[N];
    for (int i = 0; i < N; i++) a[i] = b[i] = c[i] = (float)(i % 11) * 0.1f;
    double t[4];
    double start = now_s();
    for (int i = 0; i < ROUNDS; i++) cox_silu_mul(set, c, a, b, N);
    t[0] = now_s() - start;
    start = now_s();
    for (int i = 0; i < ROUNDS; i++) cox_rms_norm(set, c, a, b, N, 1e-5f);
    t[1] = now_s() - start;
    start = now_s();
    for (int i = 0; i < ROUNDS; i++) cox_softmax(set, c, N);
    t[2] = now_s() - start;
    start = now_s();
    for (int i = 0; i < ROUNDS; i++) cox_axpy(set, c, 0.001f, a, N);
    t[3] = now_s() - start;
    printf("rows of 2048: silu_mul %.2f, rms_norm %.2f, softmax %.2f, axpy %.2f ns per element\n",
           t[0] / N / ROUNDS * 1e9, t[1] / N / ROUNDS * 1e9, t[2] / N / ROUNDS * 1e9,
           t[3] / N / ROUNDS * 1e9);
}

int main(int argc, char **argv)
{
    const cox_kernels *set = NULL;
    int n_threads = argc > 2 ? atoi(argv[2]) : 1;
    if (cox_kernels_select(&set, argc > 1 ? argv[1] : "auto") != COX_OK || n_threads < 1) {
        fprintf(stderr, "bench_kernels: %s\nusage: bench_kernels [set] [threads]\n", cox_status_message());
        return 2;
    }
    omp_set_num_threads(n_threads);
    if (n_threads == 1) timer = CLOCK_THREAD_CPUTIME_ID;
    double bandwidth = read_bandwidth(n_threads);
    printf("set %s, %d threads, CPU features: %s\n", cox_kernels_name(set), n_threads, cox_cpu_features());
    printf("read bandwidth %.1f GB/s\n", bandwidth / 1e9);
    bench_prefill(set, n_threads);
    bench_decode(set, n_threads, bandwidth);
    bench_attention(set);
    bench_rows(set);
    return 0;
}
