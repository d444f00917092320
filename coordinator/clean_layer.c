/* The layer's arithmetic is that of the forward pass: combine.c and steering/stack.c; see clean_layer.h. */
#include "coordinator/clean_layer.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/combine.h"

/* Of a thread: the sum, scratch of an operation, copies of steered outputs. */
static size_t scratch_rows(const cox_model *model)
{
    return 2 + (size_t)model->router.top_k;
}

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
    c->scratch = malloc((size_t)omp_get_max_threads() * scratch_rows(model) * d_model * sizeof(float));
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

/* The row's outputs as their hosts would have steered them: those that no plan acts on stay where they are,
 * the others are copied to copies [top_k, d_model]. */
static void list_outputs(const cox_clean_layer *c, size_t row, const cox_plan *plan, float *copies,
                         float *scratch, cox__combine_row *out)
{
    size_t d_model = (size_t)c->model->d_model, top_k = (size_t)c->model->router.top_k;
    for (size_t k = 0; k < top_k; k++) {
        const float *output = c->outputs + (row * top_k + k) * d_model;
        out->experts[k] = c->experts[row * top_k + k];
        out->weights[k] = c->weights[row * top_k + k];
        out->outputs[k] = output;
        if (!cox_stack_has_routed(plan, &out->place, out->experts[k])) continue;
        float *copy = copies + k * d_model;
        cox_steer_effect effects[COX_PLAN_MAX_STACK];
        memcpy(copy, output, d_model * sizeof *copy);
        cox_stack_apply_routed(plan, &out->place, out->experts[k], c->kernels, copy, scratch, effects);
        out->outputs[k] = copy;
    }
}

void cox_clean_layer_steer(const cox_clean_layer *c, size_t row, const cox_plan *plan, int32_t position,
                           int32_t n_prompt, float *x)
{
    const cox_model *model = c->model;
    const size_t d_model = (size_t)model->d_model, n_experts = (size_t)model->router.n_experts;
    float *sum = c->scratch + (size_t)omp_get_thread_num() * scratch_rows(model) * d_model;
    float *scratch = sum + d_model, *copies = scratch + d_model;
    const cox_row_place place = {c->layer, position, n_prompt};
    int32_t n_at_experts, n_behind;
    cox_plan_at(plan, c->layer, COX_SITE_EXPERT_OUT, &n_at_experts);
    cox_plan_at(plan, c->layer, COX_SITE_MOE_OUT, &n_behind);
    if (n_at_experts == 0 && n_behind == 0) {
        memcpy(x, c->after + row * d_model, d_model * sizeof *x);
    } else {
        cox__combine_row combined = {.kernels = c->kernels,
                                     .d_model = model->d_model,
                                     .n_experts = model->router.n_experts,
                                     .top_k = model->router.top_k,
                                     .plan = plan,
                                     .place = place,
                                     .probabilities = c->probabilities + row * n_experts};
        list_outputs(c, row, plan, copies, scratch, &combined);
        cox__combine(&combined, sum);
        cox_stack_apply(plan, &place, COX_SITE_MOE_OUT, c->kernels, sum, scratch, (cox_steer_watch){0});
        memcpy(x, c->before + row * d_model, d_model * sizeof *x);
        cox_add(c->kernels, x, sum, model->d_model);
    }
    cox_stack_apply(plan, &place, COX_SITE_RESID_POST, c->kernels, x, scratch, (cox_steer_watch){0});
}
