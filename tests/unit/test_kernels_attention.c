/* Attention: each fast set against the reference bit by bit over head widths, groups, windows and sinks;
 * the reference against an f64 softmax; and what must not change a result. */
#include "kernels_data.h"

#include <omp.h>

enum { MAX_DIM = 200, MAX_GROUP = 9, N_BLOCKS = 6, N_POSITIONS = N_BLOCKS * COX_KV_BLOCK, TAIL = 16 };
#define BLOCK_FLOATS ((size_t)2 * COX_KV_BLOCK * MAX_DIM + 3)

typedef struct {
    float q[MAX_GROUP * (MAX_DIM + 1)], sinks[MAX_GROUP], out[MAX_GROUP * (MAX_DIM + 2) + TAIL];
    float pool[N_BLOCKS * BLOCK_FLOATS];
    int32_t blocks[N_BLOCKS];
} memory;

static memory *make_memory(bool with_odd)
{
    memory *m = malloc(sizeof *m);
    assert_non_null(m);
    random_floats(m->q, sizeof m->q / sizeof(float));
    random_floats(m->sinks, MAX_GROUP);
    random_floats(m->pool, sizeof m->pool / sizeof(float));
    if (with_odd) {
        for (size_t i = 0; i < sizeof m->pool / sizeof(float); i++) {
            if (random_bits() % 512 == 0) sprinkle(&m->pool[i], 1, true);
        }
    }
    for (int b = 0; b < N_BLOCKS; b++) m->blocks[b] = (b * 5 + 2) % N_BLOCKS; /* not in the pool's order */
    return m;
}

static cox_attention_job make_job(memory *m, int32_t group, int32_t head_dim, int32_t first, int32_t last)
{
    return (cox_attention_job){.out = m->out,
                               .q = m->q,
                               .out_stride = (size_t)head_dim + 2,
                               .q_stride = (size_t)head_dim + 1,
                               .pool = m->pool,
                               .blocks = m->blocks,
                               .block_stride = BLOCK_FLOATS,
                               .k_offset = 3,
                               .v_offset = 3 + (size_t)COX_KV_BLOCK * (size_t)head_dim,
                               .group = group,
                               .head_dim = head_dim,
                               .first = first,
                               .last = last,
                               .scale = 1.0f / sqrtf((float)head_dim),
                               .sinks = m->sinks};
}

static void run(const cox_kernels *set, memory *m, const cox_attention_job *job)
{
    for (size_t i = 0; i < sizeof m->out / sizeof(float); i++) m->out[i] = -77.0f;
    cox_attention(set, job, 1);
}

static void compare(memory *m, cox_attention_job job, const char *what)
{
    float want[sizeof m->out / sizeof(float)];
    run(reference_kernels(), m, &job);
    memcpy(want, m->out, sizeof want);
    FOR_FAST_SETS(set)
    {
        char label[120];
        snprintf(label, sizeof label, "%s: %s, group %d, head_dim %d, positions %d to %d", what,
                 cox_kernels_name(set), (int)job.group, (int)job.head_dim, (int)job.first, (int)job.last);
        run(set, m, &job);
        assert_same(m->out, want, sizeof want / sizeof(float), label);
    }
}

static void test_all_sets_have_the_reference_bits(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        memory *m = make_memory(round == 2);
        for (int32_t head_dim = 1; head_dim <= 135; head_dim = head_dim == 72 ? 126 : head_dim + 1) {
            int32_t last = (int32_t)(random_bits() % N_POSITIONS);
            int32_t first = random_bits() % 2 ? 0 : (int32_t)(random_bits() % (uint64_t)(last + 1));
            cox_attention_job job =
                make_job(m, 1 + (int32_t)(random_bits() % MAX_GROUP), head_dim, first, last);
            if (random_bits() % 2) job.sinks = NULL;
            if (round == 1) job.scale *= 60.0f; /* most weights underflow */
            compare(m, job, "random");
        }
        for (int32_t last = 0; last < 70; last++) compare(m, make_job(m, 2, 64, 0, last), "causal");
        for (int32_t last = 40; last < 110; last++) compare(m, make_job(m, 4, 24, last - 40, last), "window");
        free(m);
    }
}

static void test_reference_against_f64(void **state)
{
    (void)state;
    memory *m = make_memory(false);
    double worst = 0.0;
    for (int trial = 0; trial < 40; trial++) {
        int32_t last = (int32_t)(random_bits() % N_POSITIONS), first = trial % 2 ? 0 : last / 3;
        int32_t head_dim = 16 + (int32_t)(random_bits() % 100);
        cox_attention_job job = make_job(m, 2, head_dim, first, last);
        if (trial % 3 == 0) job.sinks = NULL;
        run(reference_kernels(), m, &job);
        for (int32_t h = 0; h < 2; h++) {
            double p[N_POSITIONS], max = job.sinks ? (double)m->sinks[h] : -INFINITY, total;
            for (int32_t i = first; i <= last; i++) {
                const float *block =
                    m->pool + (size_t)m->blocks[i / COX_KV_BLOCK] * BLOCK_FLOATS + job.k_offset;
                const float *key = block + (size_t)(i % COX_KV_BLOCK) * (size_t)head_dim;
                p[i] = 0.0;
                for (int32_t d = 0; d < head_dim; d++) {
                    p[i] += (double)m->q[(size_t)h * job.q_stride + (size_t)d] * (double)key[d];
                }
                p[i] *= (double)job.scale;
                max = fmax(max, p[i]);
            }
            total = job.sinks ? exp((double)m->sinks[h] - max) : 0.0;
            for (int32_t i = first; i <= last; i++) total += p[i] = exp(p[i] - max);
            for (int32_t d = 0; d < head_dim; d++) {
                double want = 0.0, size = 0.0;
                for (int32_t i = first; i <= last; i++) {
                    const float *block =
                        m->pool + (size_t)m->blocks[i / COX_KV_BLOCK] * BLOCK_FLOATS + job.v_offset;
                    double v = (double)block[(size_t)(i % COX_KV_BLOCK) * (size_t)head_dim + (size_t)d];
                    want += p[i] / total * v;
                    size += p[i] / total * fabs(v);
                }
                double error = fabs((double)m->out[(size_t)h * job.out_stride + (size_t)d] - want) / size;
                worst = error > worst ? error : worst;
            }
        }
    }
    print_message("attention against f64: at most %.2g of sum p|v|\n", worst);
    assert_true(worst < 1.5e-6);
    free(m);
}

/* Nothing outside first..last may be read as numbers: all of it is NaN here. */
static void test_positions_outside_are_not_used(void **state)
{
    (void)state;
    memory *m = make_memory(false);
    cox_attention_job job = make_job(m, 3, 40, 37, 99);
    float want[sizeof m->out / sizeof(float)];
    run(reference_kernels(), m, &job);
    memcpy(want, m->out, sizeof want);
    for (int32_t i = 0; i < N_POSITIONS; i++) {
        if (i >= 37 && i <= 99) continue;
        float *block = m->pool + (size_t)m->blocks[i / COX_KV_BLOCK] * BLOCK_FLOATS;
        for (size_t d = 0; d < 40; d++) {
            block[job.k_offset + (size_t)(i % COX_KV_BLOCK) * 40 + d] = NAN;
            block[job.v_offset + (size_t)(i % COX_KV_BLOCK) * 40 + d] = NAN;
        }
    }
    m->blocks[0] = m->blocks[4] = m->blocks[5] = 1 << 30; /* and those blocks' places are not even formed */
    run(reference_kernels(), m, &job);
    assert_same(m->out, want, sizeof want / sizeof(float), "reference");
    FOR_FAST_SETS(set)
    {
        run(set, m, &job);
        assert_same(m->out, want, sizeof want / sizeof(float), cox_kernels_name(set));
    }
    free(m);
}

/* A head's bits are the same alone and in its group, with one thread and with two. */
static void test_heads_and_threads_are_independent(void **state)
{
    (void)state;
    memory *m = make_memory(false);
    cox_attention_job job = make_job(m, 7, 80, 5, 150);
    FOR_FAST_SETS(set)
    {
        run(set, m, &job);
        float alone[7][80];
        cox_attention_job single[7];
        for (int32_t h = 0; h < 7; h++) {
            single[h] = job;
            single[h].group = 1;
            single[h].q += (size_t)h * job.q_stride;
            single[h].sinks += h;
            single[h].out = alone[h];
        }
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            omp_set_num_threads(n_threads);
            memset(alone, 0xff, sizeof alone);
            cox_attention(set, single, 7);
            for (size_t h = 0; h < 7; h++)
                assert_same(alone[h], m->out + h * job.out_stride, 80, "a head alone");
        }
    }
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_sets_have_the_reference_bits),
        cmocka_unit_test(test_reference_against_f64),
        cmocka_unit_test(test_positions_outside_are_not_used),
        cmocka_unit_test(test_heads_and_threads_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
