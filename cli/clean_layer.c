/* The sums of combine_row (coordinator/layer.c), from stored outputs: any change there belongs here too. */
#include "cli/clean_layer.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { SCRATCH_ROWS = 2 };

static size_t floats_of_row(const cox_model *model)
{
    size_t top_k = (size_t)model->router.top_k;
    return (size_t)model->d_model * (2 + top_k) + top_k + (size_t)model->router.n_experts;
}

size_t cox_clean_layer_bytes(const cox_model *model, size_t n_rows)
{
    return n_rows * (floats_of_row(model) * sizeof(float) + (size_t)model->router.top_k * sizeof(int16_t));
}

cox_status cox_clean_layer_create(cox_clean_layer *c, const cox_model *model, const cox_kernels *kernels,
                                  size_t n_rows)
{
    size_t d_model = (size_t)model->d_model, top_k = (size_t)model->router.top_k;
    *c = (cox_clean_layer){.model = model, .kernels = kernels, .layer = -1, .n_rows = n_rows};
    c->before = malloc((n_rows + 1) * d_model * sizeof(float));
    c->after = malloc((n_rows + 1) * d_model * sizeof(float));
    c->outputs = malloc((n_rows + 1) * top_k * d_model * sizeof(float));
    c->experts = malloc((n_rows + 1) * top_k * sizeof(int16_t));
    c->weights = malloc((n_rows + 1) * top_k * sizeof(float));
    c->probabilities = malloc((n_rows + 1) * (size_t)model->router.n_experts * sizeof(float));
    c->scratch = malloc((size_t)omp_get_max_threads() * SCRATCH_ROWS * d_model * sizeof(float));
    c->sites = calloc((size_t)model->n_layers, 1);
    if (c->before && c->after && c->outputs && c->experts && c->weights && c->probabilities && c->scratch &&
        c->sites)
        return COX_OK;
    cox_clean_layer_free(c);
    return cox_fail(COX_NO_MEMORY, "out of memory for the rows of a layer of %zu tokens", n_rows);
}

void cox_clean_layer_free(cox_clean_layer *c)
{
    free(c->before);
    free(c->after);
    free(c->outputs);
    free(c->experts);
    free(c->weights);
    free(c->probabilities);
    free(c->scratch);
    free(c->sites);
    *c = (cox_clean_layer){.layer = -1};
}

/* --- The clean run --- */

void cox_clean_layer_begin(cox_clean_layer *c, int32_t layer)
{
    c->layer = layer;
    memset(c->sites, 0, (size_t)c->model->n_layers);
    c->sites[layer] = 1 << COX_SITE_RESID_MID | 1 << COX_SITE_ROUTER_LOGITS | 1 << COX_SITE_EXPERT_OUT |
                      1 << COX_SITE_RESID_POST;
    c->observation = (cox_observation){.sites = c->sites, .positions = {.span = COX_SPAN_ALL}};
    for (size_t i = 0; i < c->n_rows * (size_t)c->model->router.top_k; i++) c->experts[i] = -1;
}

/* Outputs are shown in ascending order of experts. */
static void put_output(cox_clean_layer *c, size_t row, int32_t expert, const float *h)
{
    size_t top_k = (size_t)c->model->router.top_k, d_model = (size_t)c->model->d_model, k = 0;
    int16_t *experts = c->experts + row * top_k;
    while (k + 1 < top_k && experts[k] >= 0 && experts[k] != expert) k++;
    experts[k] = (int16_t)expert;
    memcpy(c->outputs + (row * top_k + k) * d_model, h, d_model * sizeof *h);
}

void cox_clean_layer_put_row(cox_clean_layer *c, size_t row, cox_site site, int32_t expert, const float *h)
{
    size_t d_model = (size_t)c->model->d_model, n_experts = (size_t)c->model->router.n_experts;
    if (site == COX_SITE_RESID_MID) memcpy(c->before + row * d_model, h, d_model * sizeof *h);
    if (site == COX_SITE_RESID_POST) memcpy(c->after + row * d_model, h, d_model * sizeof *h);
    if (site == COX_SITE_EXPERT_OUT) put_output(c, row, expert, h);
    if (site != COX_SITE_ROUTER_LOGITS) return;
    float *p = c->probabilities + row * n_experts;
    memcpy(p, h, n_experts * sizeof *p);
    cox_softmax(cox_kernels_exact(c->kernels), p, (int32_t)n_experts);
}

void cox_clean_layer_put_routes(cox_clean_layer *c, size_t row, const cox_traced_route *routes)
{
    int32_t top_k = c->model->router.top_k;
    float *weights = c->weights + row * (size_t)top_k;
    for (int32_t k = 0; k < top_k; k++) { /* to its place among them by ascending expert */
        int32_t place = 0;
        for (int32_t j = 0; j < top_k; j++) place += routes[j].expert < routes[k].expert;
        weights[place] = routes[k].weight;
    }
}

/* --- Steered rows --- */

bool cox_clean_layer_serves(const cox_plan *plan, const cox_model *model, int32_t *layer)
{
    int32_t at = -1;
    for (int32_t i = 0; plan && i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        if (v->strength == 0) continue;
        if (v->site != COX_SITE_EXPERT_OUT && v->site != COX_SITE_MOE_OUT && v->site != COX_SITE_RESID_POST)
            return false;
        for (int32_t l = 0; l < plan->n_layers; l++) {
            if (v->layers[l] && at >= 0 && at != l) return false;
            if (v->layers[l]) at = l;
        }
    }
    *layer = at;
    return at >= 0 && model->layers[at].is_moe;
}

/* A row on its way through the layer. */
typedef struct steered {
    const cox_clean_layer *c;
    size_t row;
    const cox_plan *plan;
    int32_t position, n_prompt;
    const int32_t *list; /* [n] interventions at expert_out */
    int32_t n;
    float *scratch; /* [d_model] */
} steered;

/* The interventions at a d_model-wide site of the layer. */
static void apply_at(const steered *s, cox_site site, float *h)
{
    int32_t n;
    const int32_t *list = cox_plan_at(s->plan, s->c->layer, site, &n);
    for (int32_t i = 0; i < n; i++) {
        const cox_intervention *v = &s->plan->interventions[list[i]];
        cox_steer_effect effect;
        if (cox_positions_contain(&v->positions, s->position, s->n_prompt))
            cox_intervention_apply(v, s->c->kernels, h, s->scratch, &effect);
    }
}

/* What the expert's host makes of its output: that itself where no plan acts on it, else a copy in y. */
static const float *apply_routed(const steered *s, int32_t expert, const float *output, float *y)
{
    const float *steered_output = output;
    for (int32_t i = 0, stacked = 0; i < s->n && stacked < COX_PLAN_MAX_STACK; i++) {
        const cox_intervention *v = &s->plan->interventions[s->list[i]];
        cox_steer_effect effect;
        if (v->weighting != COX_WEIGHTING_ROUTED || !v->experts[expert]) continue;
        stacked++;
        if (!cox_positions_contain(&v->positions, s->position, s->n_prompt)) continue;
        if (steered_output == output) memcpy(y, output, (size_t)s->c->model->d_model * sizeof *y);
        steered_output = y;
        cox_intervention_apply(v, s->c->kernels, y, s->scratch, &effect);
    }
    return steered_output;
}

/* The plan's terms for experts from <= e < to. */
static void add_terms(const steered *s, int32_t from, int32_t to, bool is_routed, float *sum)
{
    const cox_clean_layer *c = s->c;
    for (int32_t e = from; e < to; e++) {
        for (int32_t i = 0; i < s->n; i++) {
            const cox_intervention *v = &s->plan->interventions[s->list[i]];
            if (v->weighting == COX_WEIGHTING_ROUTED || !v->experts[e] ||
                (v->weighting == COX_WEIGHTING_POST_GATE && !is_routed) ||
                !cox_positions_contain(&v->positions, s->position, s->n_prompt))
                continue;
            float factor = v->strength;
            if (v->weighting == COX_WEIGHTING_SOFT)
                factor *= c->probabilities[s->row * (size_t)c->model->router.n_experts + (size_t)e];
            cox_axpy(c->kernels, sum, factor, v->vector, c->model->d_model);
        }
    }
}

/* sum: of the experts. y: scratch [d_model]. */
static void combine(const steered *s, float *sum, float *y)
{
    const cox_clean_layer *c = s->c;
    size_t d_model = (size_t)c->model->d_model, top_k = (size_t)c->model->router.top_k;
    int32_t last = -1;
    memset(sum, 0, d_model * sizeof *sum);
    for (size_t k = 0; k < top_k; k++) {
        int32_t expert = c->experts[s->row * top_k + k];
        const float *output = c->outputs + (s->row * top_k + k) * d_model;
        add_terms(s, last + 1, expert, false, sum);
        const float *steered_output = apply_routed(s, expert, output, y);
        cox_axpy(c->kernels, sum, c->weights[s->row * top_k + k], steered_output, c->model->d_model);
        add_terms(s, expert, expert + 1, true, sum);
        last = expert;
    }
    add_terms(s, last + 1, c->model->router.n_experts, false, sum);
    apply_at(s, COX_SITE_MOE_OUT, sum);
}

void cox_clean_layer_steer(const cox_clean_layer *c, size_t row, const cox_plan *plan, int32_t position,
                           int32_t n_prompt, float *x)
{
    size_t d_model = (size_t)c->model->d_model;
    float *sum = c->scratch + (size_t)omp_get_thread_num() * SCRATCH_ROWS * d_model;
    int32_t n_behind;
    steered s = {.c = c, .row = row, .plan = plan, .position = position, .n_prompt = n_prompt};
    s.list = cox_plan_at(plan, c->layer, COX_SITE_EXPERT_OUT, &s.n);
    s.scratch = sum + d_model;
    cox_plan_at(plan, c->layer, COX_SITE_MOE_OUT, &n_behind);
    if (s.n == 0 && n_behind == 0) {
        memcpy(x, c->after + row * d_model, d_model * sizeof *x);
    } else {
        /* x serves as scratch until the sum is complete */
        combine(&s, sum, x);
        memcpy(x, c->before + row * d_model, d_model * sizeof *x);
        cox_add(c->kernels, x, sum, c->model->d_model);
    }
    apply_at(&s, COX_SITE_RESID_POST, x);
}
