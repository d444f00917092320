/* The router rules. A rule is a score of every expert, a score for the choice (which groups may change), and
 * weights of the chosen; demands act between the last two. */
#include "model/route_rules.h"

#include <math.h>
#include <string.h>

static bool has_groups(const cox_router_config *config)
{
    return config->rule == COX_ROUTER_SOFTMAX_GROUPS || config->rule == COX_ROUTER_SIGMOID_GROUPS;
}

int32_t cox_routes_scratch_floats(const cox_router_config *config)
{
    return has_groups(config) ? 2 * config->n_experts : config->n_experts;
}

static bool is_excluded(const cox_route_demands *demands, int32_t expert)
{
    return demands && demands->excluded && demands->excluded[expert];
}

/* p of every expert (z itself where the rule chooses by logits). */
static void score_all(const cox_kernels *kernels, const cox_router_config *config, const float *logits,
                      float *scores)
{
    memcpy(scores, logits, (size_t)config->n_experts * sizeof *scores);
    if (config->rule == COX_ROUTER_SOFTMAX_TOPK || config->rule == COX_ROUTER_SOFTMAX_GROUPS) {
        cox_softmax(kernels, scores, config->n_experts);
    } else if (config->rule == COX_ROUTER_SIGMOID_GROUPS) {
        for (int32_t e = 0; e < config->n_experts; e++) scores[e] = cox_sigmoid(scores[e]);
    }
}

/* Of the experts [first, end): the sum of the n_best best, n_best 1 or 2. */
static float group_score(const float *choice, int32_t first, int32_t end, int32_t n_best)
{
    float best = -INFINITY, second = -INFINITY;
    for (int32_t e = first; e < end; e++) {
        if (choice[e] > best) {
            second = best;
            best = choice[e];
        } else if (choice[e] > second) {
            second = choice[e];
        }
    }
    return n_best == 1 ? best : best + second;
}

/* Experts outside the best groups count as `masked`. A group is among them when fewer than topk_groups are
 * better, or equal and before it. */
static void mask_groups(const cox_router_config *config, int32_t n_best, float masked,
                        const cox_route_demands *demands, float *choice)
{
    int32_t n_groups = config->n_groups, size = config->n_experts / n_groups;
    float scores[COX_MAX_GROUPS];
    for (int32_t g = 0; g < n_groups; g++) scores[g] = group_score(choice, g * size, (g + 1) * size, n_best);
    for (int32_t g = 0; g < n_groups; g++) {
        int32_t n_before = 0;
        for (int32_t i = 0; i < n_groups; i++)
            n_before += scores[i] > scores[g] || (scores[i] == scores[g] && i < g);
        if (n_before < config->topk_groups) continue;
        for (int32_t e = g * size; e < (g + 1) * size; e++) {
            if (!is_excluded(demands, e)) choice[e] = masked;
        }
    }
}

/* [out] choice: what the k largest are taken of; may be `scores` itself. */
static float *choice_of(const cox_router_config *config, const float *correction,
                        const cox_route_demands *demands, float *scores)
{
    if (!has_groups(config)) return scores;
    float *choice = scores + config->n_experts;
    for (int32_t e = 0; e < config->n_experts; e++) {
        choice[e] = is_excluded(demands, e) ? -INFINITY : correction ? scores[e] + correction[e] : scores[e];
    }
    if (config->n_groups > 1) {
        bool is_sigmoid = config->rule == COX_ROUTER_SIGMOID_GROUPS;
        mask_groups(config, is_sigmoid ? 2 : 1, is_sigmoid ? -INFINITY : 0, demands, choice);
    }
    return choice;
}

/* What an expert competes with; NaN loses to every number. */
static float key_of(const float *choice, int32_t expert)
{
    return isnan(choice[expert]) ? -INFINITY : choice[expert];
}

/* Puts a route among the n before it, which stand in descending score (kept in .weight), equal ones in
 * ascending index. */
static void insert(cox_route *routes, int32_t n, cox_route route)
{
    for (; n > 0; n--) {
        const cox_route *before = &routes[n - 1];
        bool is_better = route.weight > before->weight ||
                         (route.weight == before->weight && route.expert < before->expert);
        if (!is_better) break;
        routes[n] = *before;
    }
    routes[n] = route;
}

/* The k largest, in one pass. */
static void choose_largest(const float *choice, const cox_router_config *config,
                           const cox_route_demands *demands, const float *logits, cox_route *routes)
{
    int32_t n_chosen = 0, k = config->top_k;
    for (int32_t e = 0; e < config->n_experts; e++) {
        if (is_excluded(demands, e)) continue;
        if (n_chosen == k && !(key_of(choice, e) > routes[k - 1].weight)) continue;
        int32_t place = n_chosen < k ? n_chosen++ : k - 1;
        insert(routes, place, (cox_route){.expert = e, .logit = logits[e], .weight = key_of(choice, e)});
    }
}

static bool is_forced(const cox_route_demands *demands, int32_t expert)
{
    for (int32_t i = 0; i < demands->n_forced; i++) {
        if (demands->forced[i] == expert) return true;
    }
    return false;
}

static void force_in(const cox_route_demands *demands, const float *choice, const float *logits, int32_t k,
                     cox_route *routes)
{
    for (int32_t i = 0; i < demands->n_forced; i++) {
        const int32_t expert = demands->forced[i];
        int32_t place = 0;
        while (place < k && routes[place].expert != expert) place++;
        if (place < k) continue; /* chosen anyway */
        place = k - 1;
        while (place > 0 && is_forced(demands, routes[place].expert)) place--;
        memmove(&routes[place], &routes[place + 1], (size_t)(k - 1 - place) * sizeof *routes);
        insert(routes, k - 1,
               (cox_route){.expert = expert, .logit = logits[expert], .weight = key_of(choice, expert)});
    }
}

static void choose(const float *choice, const cox_router_config *config, const cox_route_demands *demands,
                   const float *logits, cox_route *routes)
{
    if (demands && demands->pinned) {
        for (int32_t j = 0; j < config->top_k; j++) {
            const int32_t e = demands->pinned[j];
            insert(routes, j, (cox_route){.expert = e, .logit = logits[e], .weight = key_of(choice, e)});
        }
        return;
    }
    choose_largest(choice, config, demands, logits, routes);
    if (demands) force_in(demands, choice, logits, config->top_k, routes);
}

/* softmax at routes[j] over the experts that are not routes[0..j) and near enough. */
static float sparsemixer_weight(const cox_router_config *config, const float *logits, const cox_route *routes,
                                int32_t j)
{
    const float top = routes[j].logit;
    float largest = top, sum = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t e = 0; e < config->n_experts; e++) {
            bool is_taken = false;
            for (int32_t i = 0; i < j; i++) is_taken |= routes[i].expert == e;
            const float size = fabsf(logits[e]), scale = size > top ? size : top;
            if (is_taken || (top - logits[e]) / scale > 2 * config->jitter) continue;
            if (pass == 0)
                largest = logits[e] > largest ? logits[e] : largest;
            else
                sum += cox_exp(logits[e] - largest);
        }
    }
    return cox_exp(top - largest) / sum;
}

static void weigh_softmax(const cox_kernels *kernels, int32_t k, cox_route *routes)
{
    float chosen[COX_MAX_TOP_K];
    for (int32_t j = 0; j < k; j++) chosen[j] = routes[j].logit;
    cox_softmax(kernels, chosen, k);
    for (int32_t j = 0; j < k; j++) routes[j].weight = chosen[j];
}

static void weigh_scores(const cox_router_config *config, const float *scores, cox_route *routes)
{
    float sum = 0;
    for (int32_t j = 0; j < config->top_k; j++) {
        routes[j].weight = scores[routes[j].expert];
        sum += routes[j].weight;
    }
    if (config->rule == COX_ROUTER_SIGMOID_GROUPS) sum += 1e-20f;
    for (int32_t j = 0; j < config->top_k; j++) {
        if (config->normalize) routes[j].weight /= sum;
        if (has_groups(config)) routes[j].weight *= config->scaling;
    }
}

void cox_routes_choose(const cox_kernels *kernels, const cox_router_config *config, const float *correction,
                       const float *logits, const cox_route_demands *demands, float *scratch,
                       cox_route *routes)
{
    score_all(kernels, config, logits, scratch);
    const float *choice = choice_of(config, correction, demands, scratch);
    choose(choice, config, demands, logits, routes);
    if (config->rule == COX_ROUTER_TOPK_SOFTMAX) {
        weigh_softmax(kernels, config->top_k, routes);
    } else if (config->rule == COX_ROUTER_SPARSEMIXER) {
        for (int32_t j = 0; j < config->top_k; j++)
            routes[j].weight = sparsemixer_weight(config, logits, routes, j);
    } else {
        weigh_scores(config, scratch, routes);
    }
}
