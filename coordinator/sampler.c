/*
 * Sampling. The edits follow transformers' logits processors, edge rules included: the repetition penalty
 * divides positive and multiplies negative logits of every id seen so far; top-k keeps all ties of the k-th
 * score; top-p drops a token when the tokens above it already hold top_p of the mass (the first is always
 * kept); min-p drops what is less likely than min_p times the most likely. The bias comes before all of them,
 * the frequency penalty (times the count) and the presence penalty behind the repetition penalty; greedy
 * applies these four only.
 *
 * Tokens are ordered by descending score, then ascending id; a heap yields just as many as are needed. Masses
 * are f64 sums of f32 exponentials in that order (in id order when nothing has to be ordered).
 */
#include "coordinator/sampler.h"

#include <math.h>
#include <stdbool.h>

#include "kernels/kernels.h"

struct cox_sampler {
    int32_t vocab_size;
    float *scores;   /* [vocab_size] edited logits */
    int32_t *counts; /* [vocab_size] how often a penalty has met the id; all 0 between calls */
    int32_t *heap;   /* [vocab_size] ids, the best first */
    int32_t *kept;   /* [vocab_size] ids */
    double *weights; /* [vocab_size] of kept ids, not normalised */
};

cox_sampling cox_sampling_defaults(void)
{
    return (cox_sampling){.top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = -1};
}

cox_status cox_sampling_check(const cox_sampling *sampling)
{
    if (!(sampling->temperature >= 0.0f && sampling->temperature <= 1e6f)) {
        return cox_fail(COX_INVALID, "temperature is %g, outside 0 to 1e6", (double)sampling->temperature);
    }
    if (sampling->temperature > 0.0f && sampling->temperature < 1e-6f) {
        return cox_fail(COX_INVALID, "temperature is %g: use 0 (greedy) or at least 1e-6",
                        (double)sampling->temperature);
    }
    if (sampling->top_k < 0) return cox_fail(COX_INVALID, "top_k is %d, below 0", sampling->top_k);
    if (!(sampling->top_p >= 0.0f && sampling->top_p <= 1.0f)) {
        return cox_fail(COX_INVALID, "top_p is %g, outside 0 to 1", (double)sampling->top_p);
    }
    if (!(sampling->min_p >= 0.0f && sampling->min_p <= 1.0f)) {
        return cox_fail(COX_INVALID, "min_p is %g, outside 0 to 1", (double)sampling->min_p);
    }
    if (!(sampling->repetition_penalty > 0.0f && sampling->repetition_penalty <= 1e6f)) {
        return cox_fail(COX_INVALID, "repetition_penalty is %g; it must be above 0 and at most 1e6",
                        (double)sampling->repetition_penalty);
    }
    if (!(fabsf(sampling->presence_penalty) <= 2.0f)) {
        return cox_fail(COX_INVALID, "presence_penalty is %g, outside -2 to 2",
                        (double)sampling->presence_penalty);
    }
    if (!(fabsf(sampling->frequency_penalty) <= 2.0f)) {
        return cox_fail(COX_INVALID, "frequency_penalty is %g, outside -2 to 2",
                        (double)sampling->frequency_penalty);
    }
    if (sampling->n_logprobs < -1 || sampling->n_logprobs > COX_MAX_LOGPROBS) {
        return cox_fail(COX_INVALID, "logprobs is %d, outside 0 to %d", sampling->n_logprobs,
                        COX_MAX_LOGPROBS);
    }
    return COX_OK;
}

cox_status cox_sampler_create(cox_sampler **sampler, cox_arena *arena, int32_t vocab_size)
{
    size_t n = (size_t)vocab_size;
    cox_sampler *s = cox_arena_alloc(arena, sizeof *s);
    if (!s) return COX_NO_MEMORY;
    s->vocab_size = vocab_size;
    s->scores = cox_arena_array(arena, n, sizeof *s->scores);
    s->counts = cox_arena_array(arena, n, sizeof *s->counts);
    s->heap = cox_arena_array(arena, n, sizeof *s->heap);
    s->kept = cox_arena_array(arena, n, sizeof *s->kept);
    s->weights = cox_arena_array(arena, n, sizeof *s->weights);
    if (!s->scores || !s->counts || !s->heap || !s->kept || !s->weights) return COX_NO_MEMORY;
    *sampler = s;
    return COX_OK;
}

/* --- Randomness: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014) over seed and position --- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double cox_sampling_uniform(uint64_t seed, int64_t position)
{
    uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u * ((uint64_t)position + 1));
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t cox_sampling_seed_of(uint64_t seed, int32_t index)
{
    return index == 0 ? seed : mix(mix(seed + 0x9e3779b97f4a7c15u) + (uint64_t)index);
}

/* --- Edits --- */

/* What is sampled from, and what came before it. */
typedef struct past {
    const int32_t *ids; /* [n] */
    int32_t n, n_prompt;
} past;

/* On every id of the history, once. */
static void penalize_repetition(cox_sampler *s, float penalty, const past *p)
{
    if (!(penalty < 1.0f || penalty > 1.0f)) return;
    for (int32_t i = 0; i < p->n; i++) {
        int32_t id = p->ids[i];
        if (s->counts[id]++) continue;
        s->scores[id] = s->scores[id] < 0.0f ? s->scores[id] * penalty : s->scores[id] / penalty;
    }
    for (int32_t i = 0; i < p->n; i++) s->counts[p->ids[i]] = 0;
}

/* On every generated id, once, by how often it was generated. */
static void penalize_frequency(cox_sampler *s, const cox_sampling *sampling, const past *p)
{
    float presence = sampling->presence_penalty, frequency = sampling->frequency_penalty;
    if (fpclassify(presence) == FP_ZERO && fpclassify(frequency) == FP_ZERO) return;
    for (int32_t i = p->n_prompt; i < p->n; i++) s->counts[p->ids[i]]++;
    for (int32_t i = p->n_prompt; i < p->n; i++) {
        int32_t id = p->ids[i];
        if (s->counts[id] == 0) continue; /* done before */
        s->scores[id] -= frequency * (float)s->counts[id];
        s->scores[id] -= presence;
        s->counts[id] = 0;
    }
}

/* scores = logits with bias and penalties: all that greedy sampling heeds. */
static void edit_logits(cox_sampler *s, const cox_sampling *sampling, const float *logits, const past *p)
{
    for (int32_t i = 0; i < s->vocab_size; i++) s->scores[i] = logits[i];
    for (int32_t i = 0; i < sampling->n_biases; i++)
        s->scores[sampling->biases[i].id] += sampling->biases[i].bias;
    penalize_repetition(s, sampling->repetition_penalty, p);
    penalize_frequency(s, sampling, p);
}

static int32_t argmax(const float *scores, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        if (scores[i] > scores[best]) best = i;
    }
    return best;
}

/* Does id a come before id b? */
static bool is_before(const float *scores, int32_t a, int32_t b)
{
    if (scores[a] > scores[b]) return true;
    return !(scores[a] < scores[b]) && a < b;
}

static void sift_down(int32_t *heap, int32_t n, int32_t at, const float *scores)
{
    int32_t id = heap[at];
    for (int32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && is_before(scores, heap[child + 1], heap[child])) child++;
        if (!is_before(scores, heap[child], id)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

static void heap_build(cox_sampler *s)
{
    for (int32_t i = 0; i < s->vocab_size; i++) s->heap[i] = i;
    for (int32_t i = s->vocab_size / 2 - 1; i >= 0; i--) sift_down(s->heap, s->vocab_size, i, s->scores);
}

/* Takes the best id out of a heap of *n. */
static int32_t heap_pop(cox_sampler *s, int32_t *n)
{
    int32_t id = s->heap[0];
    s->heap[0] = s->heap[--*n];
    if (*n > 0) sift_down(s->heap, *n, 0, s->scores);
    return id;
}

/* kept = the k best, with all ties of the k-th; returns their number. */
static int32_t keep_top_k(cox_sampler *s, int32_t k)
{
    int32_t n_heap = s->vocab_size, n = 0;
    heap_build(s);
    while (n_heap > 0 && (n < k || !(s->scores[s->heap[0]] < s->scores[s->kept[n - 1]]))) {
        s->kept[n++] = heap_pop(s, &n_heap);
    }
    return n;
}

/* Of kept ids in order: how many stay until their mass reaches top_p of all. */
static int32_t cut_top_p(const double *weights, int32_t n, double top_p)
{
    double total = 0.0, before = 0.0;
    for (int32_t i = 0; i < n; i++) total += weights[i];
    int32_t stay = 0;
    while (stay < n && (stay == 0 || before < top_p * total)) before += weights[stay++];
    return stay;
}

/* The same from the whole vocabulary, ordering only what stays. */
static int32_t keep_top_p(cox_sampler *s, double top_p, float best)
{
    double total = 0.0, before = 0.0;
    for (int32_t i = 0; i < s->vocab_size; i++) total += (double)cox_exp(s->scores[i] - best);
    int32_t n_heap = s->vocab_size, n = 0;
    heap_build(s);
    while (n_heap > 0 && (n == 0 || before < top_p * total)) {
        int32_t id = heap_pop(s, &n_heap);
        s->kept[n] = id;
        s->weights[n] = (double)cox_exp(s->scores[id] - best);
        before += s->weights[n++];
    }
    return n;
}

static void weigh(cox_sampler *s, int32_t n, float best)
{
    for (int32_t i = 0; i < n; i++) s->weights[i] = (double)cox_exp(s->scores[s->kept[i]] - best);
}

/* Removes what is less likely than min_p times the best; the best itself has weight 1. */
static int32_t drop_min_p(cox_sampler *s, int32_t n, double min_p)
{
    int32_t stay = 0;
    for (int32_t i = 0; i < n; i++) {
        if (s->weights[i] < min_p) continue;
        s->kept[stay] = s->kept[i];
        s->weights[stay++] = s->weights[i];
    }
    return stay;
}

/* Fills kept and weights with all edits applied; returns the number kept, at least 1. */
static int32_t distribution(cox_sampler *s, const cox_sampling *sampling, const float *logits, const past *p)
{
    edit_logits(s, sampling, logits, p);
    for (int32_t i = 0; i < s->vocab_size; i++) s->scores[i] /= sampling->temperature;
    float best = s->scores[argmax(s->scores, s->vocab_size)];
    int32_t n;
    if (sampling->top_k > 0 && sampling->top_k < s->vocab_size) {
        n = keep_top_k(s, sampling->top_k);
        weigh(s, n, best);
        if (sampling->top_p < 1.0f) n = cut_top_p(s->weights, n, (double)sampling->top_p);
    } else if (sampling->top_p < 1.0f) {
        n = keep_top_p(s, (double)sampling->top_p, best);
    } else {
        n = s->vocab_size;
        for (int32_t i = 0; i < n; i++) s->kept[i] = i;
        weigh(s, n, best);
    }
    if (sampling->min_p > 0.0f) n = drop_min_p(s, n, (double)sampling->min_p);
    return n;
}

int32_t cox_sampler_distribution(cox_sampler *sampler, const cox_sampling *sampling, const float *logits,
                                 const int32_t *history, int32_t n_history, int32_t n_prompt, int32_t *ids,
                                 double *probabilities)
{
    int32_t n = distribution(sampler, sampling, logits, &(past){history, n_history, n_prompt});
    double total = 0.0;
    for (int32_t i = 0; i < n; i++) total += sampler->weights[i];
    for (int32_t i = 0; i < n; i++) {
        ids[i] = sampler->kept[i];
        probabilities[i] = sampler->weights[i] / total;
    }
    return n;
}

static int32_t draw(const cox_sampler *s, int32_t n, double uniform)
{
    double total = 0.0, sum = 0.0;
    for (int32_t i = 0; i < n; i++) total += s->weights[i];
    int32_t last = 0; /* the last with any weight: rounding must not walk past it */
    for (int32_t i = 0; i < n; i++) {
        if (!(s->weights[i] > 0.0)) continue;
        last = i;
        sum += s->weights[i];
        if (uniform * total < sum) break;
    }
    return s->kept[last];
}

/* --- Log probabilities --- */

void cox_logprobs_fill(cox_logprobs *out, const float *logits, int32_t vocab_size, int32_t token, int32_t n)
{
    float best = logits[argmax(logits, vocab_size)];
    double total = 0.0;
    for (int32_t i = 0; i < vocab_size; i++) total += (double)cox_exp(logits[i] - best);
    double log_total = cox_log_f64(total) + (double)best;
    out->token = (float)((double)logits[token] - log_total);
    out->n = 0;
    if (n > vocab_size) n = vocab_size;
    for (int32_t i = 0; i < vocab_size && n > 0; i++) {
        int32_t at = out->n;
        if (at == n) {
            if (!(logits[i] > logits[out->ids[n - 1]])) continue;
            at--;
        } else {
            out->n++;
        }
        for (; at > 0 && logits[i] > logits[out->ids[at - 1]]; at--) out->ids[at] = out->ids[at - 1];
        out->ids[at] = i;
    }
    for (int32_t i = 0; i < out->n; i++) out->values[i] = (float)((double)logits[out->ids[i]] - log_total);
}

int32_t cox_sampler_pick(cox_sampler *sampler, const cox_sampling *sampling, const float *logits,
                         const int32_t *history, int32_t n_history, int32_t n_prompt, int64_t position,
                         cox_logprobs *logprobs)
{
    int32_t token;
    const past p = {history, n_history, n_prompt};
    if (sampling->temperature > 0.0f) {
        int32_t n = distribution(sampler, sampling, logits, &p);
        token = draw(sampler, n, cox_sampling_uniform(sampling->seed, position));
    } else {
        edit_logits(sampler, sampling, logits, &p);
        token = argmax(sampler->scores, sampler->vocab_size);
    }
    if (logprobs && sampling->n_logprobs >= 0) {
        cox_logprobs_fill(logprobs, logits, sampler->vocab_size, token, sampling->n_logprobs);
    }
    return token;
}
