/*
 * The reference attention: a softmax reduced block by block in ascending position, so that the result
 * depends on positions only, never on how a prompt was cut into chunks. kernels.h states the order of
 * every operation; this is that text as plain C, and vec_attention.inc the same in vectors.
 */
#include <math.h>

#include "kernels/kernel_set.h"

typedef struct {
    float max, sum;
} running;

/* One block for one query head: positions [from, to) within the block. */
static void attend_block(const cox_attention_job *job, const float *q, const float *keys, const float *values,
                         int32_t from, int32_t to, running *state, float *out)
{
    int32_t head_dim = job->head_dim;
    float p[COX_KV_BLOCK];
    float max = state->max;
    for (int32_t i = from; i < to; i++) {
        p[i] = cox__dot_ref(q, keys + (size_t)i * (size_t)head_dim, head_dim) * job->scale;
        max = p[i] > max ? p[i] : max;
    }
    float lanes[COX__LANES] = {0};
    for (int32_t i = from; i < to; i++) {
        p[i] = cox_exp(p[i] - max);
        lanes[i % COX__LANES] += p[i];
    }
    for (int width = COX__LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lanes[j] += lanes[j + width];
    }
    float rescale = cox_exp(state->max - max);
    state->sum = fmaf(state->sum, rescale, lanes[0]);
    state->max = max;
    for (int32_t d = 0; d < head_dim; d++) {
        float sum = out[d] * rescale;
        for (int32_t i = from; i < to; i++) {
            sum = fmaf(p[i], values[(size_t)i * (size_t)head_dim + (size_t)d], sum);
        }
        out[d] = sum;
    }
}

void cox__attention_ref(const cox_attention_job *job)
{
    for (int32_t head = 0; head < job->group; head++) {
        float *out = job->out + (size_t)head * job->out_stride;
        const float *q = job->q + (size_t)head * job->q_stride;
        running state = {job->sinks ? job->sinks[head] : -INFINITY, job->sinks ? 1.0f : 0.0f};
        for (int32_t d = 0; d < job->head_dim; d++) out[d] = 0.0f;
        for (int32_t b = job->first / COX_KV_BLOCK; b <= job->last / COX_KV_BLOCK; b++) {
            int32_t start = b * COX_KV_BLOCK;
            int32_t from = job->first > start ? job->first - start : 0;
            int32_t to = job->last - start < COX_KV_BLOCK - 1 ? job->last - start + 1 : COX_KV_BLOCK;
            const float *block = cox__kv_block(job, b);
            attend_block(job, q, block + job->k_offset, block + job->v_offset, from, to, &state, out);
        }
        for (int32_t d = 0; d < job->head_dim; d++) out[d] = out[d] / state.sum;
    }
}
