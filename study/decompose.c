/*
 * coxswain decompose: a direction of the residual stream and two sets of prompts in; how much of what sets
 * them apart along it each part of the model writes. The residual stream is a sum, so the parts are exact:
 * they add up to the whole but for the rounding of f32.
 */
#include "study/decompose.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "study/choices.h"
#include "study/first_tokens.h"
#include "study/jobs.h"
#include "steering/gguf.h"
#include "steering/plan.h"

enum { MAX_SCRATCH_BYTES = 256 << 20, MAX_AT_ONCE = 128, MAX_SEQUENCES = 512 };

/* What every coordinator knows, from rank 0. The unit direction [d_model] f64 follows, then the vector
 * [d_model] f32, then the set of first tokens [vocab_size]. */
typedef struct shared {
    int64_t from_end;    /* the token, 1 the last of the prompt; 0: the mean over all */
    int64_t n_positions; /* most tokens that count in one prompt */
    int64_t n_variants;  /* 1: no effects; else the clean run, and one for each effect */
} shared;

typedef struct context {
    const shared *shared;
    const double *unit;
    const cox_model *model;
    cox_parts shape;
    const float *vector;
    const uint8_t *in_set; /* [vocab_size] */
    uint8_t *sites;        /* [n_layers] */
} context;

/* --- Effects: variant 0 of a prompt is clean, each other has the direction ablated somewhere --- */

typedef struct place {
    cox_site site;
    int32_t layer, expert; /* -1: all; none */
    size_t part;           /* SIZE_MAX: everywhere */
} place;

static int32_t n_moe_layers(const cox_model *model)
{
    int32_t n = 0;
    for (int32_t l = 0; l < model->n_layers; l++) n += model->layers[l].is_moe;
    return n;
}

static int64_t count_variants(const cox_decompose_options *options, const cox_model *model)
{
    if (options->effects == COX_EFFECTS_NONE) return 1;
    int64_t n = 2 + 2 * (int64_t)model->n_layers;
    return options->effects == COX_EFFECTS_LAYERS
               ? n
               : n + (int64_t)n_moe_layers(model) * model->router.n_experts;
}

/* variant: 1 everywhere, then attention and block layer by layer, then the experts of the layers that have
 * some. */
static place place_of(const cox_model *model, cox_parts shape, int32_t variant)
{
    int32_t i = variant - 2, layer = i / 2;
    if (i < 0) return (place){COX_SITE_RESID_POST, -1, -1, SIZE_MAX};
    if (i < 2 * model->n_layers) {
        return i % 2 == 0 ? (place){COX_SITE_ATTN_OUT, layer, -1, cox_part_attention(layer)}
                          : (place){COX_SITE_MOE_OUT, layer, -1, cox_part_block(layer)};
    }
    i -= 2 * model->n_layers;
    int32_t left = i / shape.n_experts, expert = i % shape.n_experts;
    for (layer = 0; left > 0 || !model->layers[layer].is_moe; layer++) left -= model->layers[layer].is_moe;
    return (place){COX_SITE_EXPERT_OUT, layer, expert, cox_part_expert(shape, layer, expert)};
}

/* Behind a prompt's parts. */
static double *log_odds_of(cox_parts shape, void *result)
{
    return (double *)result + cox_parts_n(shape);
}

/* --- On every coordinator --- */

/* First position that counts; *n: how many. */
static int32_t first_position(const context *c, const cox_job *job, int32_t *n)
{
    *n = c->shared->from_end ? 1 : job->n_tokens;
    return c->shared->from_end ? job->n_tokens - (int32_t)c->shared->from_end : 0;
}

/* Scratch of a prompt: what is observed of it, then the gate weights of the positions that count, of the
 * layer that each has come to: [n_positions, n_experts]. */
static size_t scratch_bytes_of(const context *c)
{
    size_t n_gates = (size_t)c->shared->n_positions * (size_t)c->shape.n_experts;
    return (sizeof(cox_observation) + n_gates * sizeof(float) + 7) / 8 * 8;
}

static float *gate_of(const context *c, const cox_job *job, void *scratch, int32_t position, int32_t expert)
{
    int32_t n, from = first_position(c, job, &n);
    float *gates = (float *)(void *)((cox_observation *)scratch + 1);
    return gates + (size_t)(position - from) * (size_t)c->shape.n_experts + expert;
}

static cox_status decompose_prepare(void *of, const cox_job *job, int32_t variant, void *scratch,
                                    cox_sequence_request *request)
{
    const context *c = of;
    int32_t n, from = first_position(c, job, &n);
    request->wants_logits = c->shared->n_variants > 1;
    if (variant > 0) {
        place at = place_of(c->model, c->shape, variant);
        return cox_plan_make_ablation(&request->plan, c->model, c->vector, at.site, at.layer, at.expert);
    }
    if (from < 0) {
        return cox_fail(COX_INVALID, "the prompt has %d tokens, so none is number %d from its end",
                        (int)job->n_tokens, (int)c->shared->from_end);
    }
    cox_observation *observation = scratch;
    *observation = (cox_observation){.sites = c->sites, .positions = {COX_SPAN_RANGE, from, from + n}};
    request->observation = observation;
    request->wants_routes = true;
    return COX_OK;
}

static void on_decompose_routes(void *of, const cox_job *job, void *result, void *scratch, int32_t layer,
                                int32_t position, const cox_traced_route *routes)
{
    const context *c = of;
    int32_t n, from = first_position(c, job, &n);
    (void)result, (void)layer;
    if (position < from || position >= from + n) return;
    for (int32_t j = 0; j < c->model->router.top_k; j++)
        *gate_of(c, job, scratch, position, routes[j].expert) = routes[j].weight;
}

static void on_decompose_logits(void *of, const cox_job *job, const int32_t *tokens, int32_t variant,
                                void *result, void *scratch, int32_t position, const float *logits)
{
    const context *c = of;
    (void)tokens, (void)scratch;
    if (position == job->n_tokens - 1)
        log_odds_of(c->shape, result)[variant] = cox_log_odds(logits, c->in_set, c->model->vocab_size);
}

static double project(const context *c, const float *h)
{
    double sum = 0;
    for (int32_t i = 0; i < c->model->d_model; i++) sum += c->unit[i] * (double)h[i];
    return sum;
}

static void on_rows(void *of, const cox_job *job, void *result, void *scratch, cox_site site, int32_t layer,
                    int32_t expert, int32_t position, const float *h)
{
    const context *c = of;
    double *parts = result, value = project(c, h);
    int32_t n;
    first_position(c, job, &n);
    value /= n;
    if (site == COX_SITE_RESID_PRE) parts[COX_PART_EMBEDDING] += value;
    if (site == COX_SITE_ATTN_OUT) parts[cox_part_attention(layer)] += value;
    if (site == COX_SITE_MOE_OUT) parts[cox_part_block(layer)] += value;
    if (site == COX_SITE_RESID_POST) parts[cox_part_after(layer)] += value;
    if (site == COX_SITE_EXPERT_OUT) {
        double gate = (double)*gate_of(c, job, scratch, position, expert);
        parts[cox_part_expert(c->shape, layer, expert)] += gate * value;
    }
}

static cox_status finish(void *of, const cox_job *job, void *result, void *scratch)
{
    const context *c = of;
    const double *parts = result;
    (void)job, (void)scratch;
    for (size_t i = 0; i < cox_parts_n(c->shape) + (size_t)c->shared->n_variants; i++) {
        if (!isfinite(parts[i]))
            return cox_fail(COX_INVALID, "a row of the residual stream or its logits are not finite");
    }
    return COX_OK;
}

/* --- The direction, on rank 0 --- */

static cox_status check_vector(const cox_decompose_options *options, const cox_model *model,
                               const cox_vector *v)
{
    if (v->width != model->d_model) {
        return cox_fail(COX_INVALID, "--vector %s: has %d elements; the residual stream of %s has %d",
                        options->vector, (int)v->width, model->folder, (int)model->d_model);
    }
    bool is_other = v->model_fingerprint && strcmp(v->model_fingerprint, model->fingerprint) != 0;
    if (is_other && !options->forces_steering) {
        return cox_fail(COX_INVALID,
                        "--vector %s: was made for another model (fingerprint %.12s..., this one has "
                        "%.12s...); --force-steering uses it all the same",
                        options->vector, v->model_fingerprint, model->fingerprint);
    }
    return COX_OK;
}

/* "FILE[#NAME]" */
static cox_status read_vector(const cox_decompose_options *options, const cox_model *model,
                              cox_vector_file **file, const cox_vector **vector)
{
    char *path = strdup(options->vector);
    if (!path) return cox_no_memory("a decomposition");
    char *name = strrchr(path, '#');
    if (name) *name++ = '\0';
    cox_status status = cox_vector_file_read(file, path);
    if (status == COX_OK && !(*vector = cox_vector_find(*file, name))) status = COX_INVALID;
    free(path);
    return status == COX_OK ? check_vector(options, model, *vector) : status;
}

/* The layer after which the direction was found; where that is not said, the last. */
static cox_status find_reference(const cox_decompose_options *options, const cox_model *model,
                                 const cox_vector *v, int32_t *reference)
{
    *reference = v->layer < 0 || v->layer >= model->n_layers ? model->n_layers - 1
                 : v->site == COX_SITE_RESID_PRE             ? v->layer - 1
                                                             : v->layer;
    if (strcmp(options->layer, "all") == 0) return COX_OK;
    int32_t *layers = NULL, n = 0;
    cox_status status = cox_choose("--layer", "layer", options->layer, model->n_layers, &layers, &n);
    if (status == COX_OK && n != 1) status = cox_fail(COX_INVALID, "--layer %s: one layer", options->layer);
    if (status == COX_OK) *reference = layers[0];
    free(layers);
    return status;
}

static cox_status find_position(const cox_decompose_options *options, int64_t *from_end)
{
    int32_t *list = NULL, n = 0;
    cox_status status = cox_choose_positions("--position", options->position, "mean", &list, &n);
    if (status == COX_OK && n > 1)
        status = cox_fail(COX_INVALID, "--position %s: one token", options->position);
    if (status == COX_OK) *from_end = n ? list[0] : 0;
    free(list);
    return status;
}

static cox_status read_set(const cox_decompose_options *options, const cox_model *model, uint8_t *out)
{
    uint8_t *in_set = NULL;
    if (options->effects == COX_EFFECTS_NONE) return COX_OK;
    if (!options->rules)
        return cox_fail(COX_INVALID, "--effects needs --rules, whose first_tokens the log-odds are of");
    cox_status status = cox_first_tokens_read(NULL, NULL, 0, options->rules, model, model->folder, &in_set);
    if (status == COX_OK) memcpy(out, in_set, (size_t)model->vocab_size);
    free(in_set);
    return status;
}

/* [out] *data: what all coordinators are to know. */
static cox_status pack(const cox_run *run, const cox_decompose_options *options, const cox_vector *v,
                       const cox_jobs *jobs, void **data, size_t *n_bytes, double *norm)
{
    size_t width = (size_t)v->width;
    double square = 0;
    *n_bytes = sizeof(shared) + width * (sizeof(double) + sizeof(float)) + (size_t)run->model->vocab_size;
    shared *head = calloc(1, *n_bytes);
    if (!head) return cox_no_memory("a decomposition");
    double *unit = (double *)(void *)(head + 1);
    for (size_t i = 0; i < width; i++) square += (double)v->data[i] * (double)v->data[i];
    *norm = sqrt(square);
    for (size_t i = 0; i < width; i++) unit[i] = (double)v->data[i] / *norm;
    float *copy = (float *)(void *)(unit + width);
    memcpy(copy, v->data, width * sizeof *copy);
    head->n_positions = 1;
    head->n_variants = count_variants(options, run->model);
    cox_status status = find_position(options, &head->from_end);
    for (int32_t i = 0; i < jobs->n && !head->from_end; i++) {
        if (jobs->jobs[i].n_tokens > head->n_positions) head->n_positions = jobs->jobs[i].n_tokens;
    }
    if (status == COX_OK) status = read_set(options, run->model, (uint8_t *)(copy + width));
    if (status == COX_OK && !(square > 0))
        status = cox_fail(COX_INVALID, "--vector %s: is 0", options->vector);
    *data = head;
    return status;
}

/* --- Means and intervals, on rank 0 --- */

/* Change of the log-odds from the clean run to a variant, or (variant 0) those of the clean run, in each
 * class. first: of the first prompt; a prompt's results are stride apart. scratch: [prompts of both]. */
static cox_status summarise_effect(const cox_decomposition *d, const double *first, size_t stride,
                                   int32_t variant, double *scratch, cox_interval out[2])
{
    const cox_bootstrap bootstrap = {(uint64_t)d->options->seed, (int32_t)d->options->resamples};
    cox_status status = COX_OK;
    for (int c = 0; c < 2; c++) {
        int32_t n = d->classes[c].n;
        for (int32_t i = 0; i < n; i++, first += stride)
            scratch[i] = variant == 0 ? first[0] : first[variant] - first[0];
        if (status == COX_OK) status = cox_interval_mean(scratch, n, &bootstrap, &out[c]);
    }
    return status;
}

static cox_status summarise_effects(cox_decomposition *d, const double *values, int32_t n_variants)
{
    size_t stride = cox_parts_n(d->shape) + (size_t)n_variants;
    const double *first = values + cox_parts_n(d->shape);
    double *scratch = calloc((size_t)d->classes[0].n + (size_t)d->classes[1].n, sizeof *scratch);
    if (!scratch) return cox_no_memory("a decomposition");
    d->has_effects = true;
    cox_status status = summarise_effect(d, first, stride, 0, scratch, d->log_odds);
    for (int32_t v = 1; v < n_variants && status == COX_OK; v++) {
        place at = place_of(d->model, d->shape, v);
        cox_part *part = at.part == SIZE_MAX ? NULL : &d->parts[at.part];
        if (part) part->has_effect = true;
        status = summarise_effect(d, first, stride, v, scratch, part ? part->effect : d->everywhere);
    }
    free(scratch);
    return status;
}

/* values: [prompts of both classes, stride], parts first. */
static cox_status summarise(cox_decomposition *d, const double *values, size_t stride)
{
    size_t n_parts = cox_parts_n(d->shape);
    const int32_t n[2] = {d->classes[0].n, d->classes[1].n};
    const cox_bootstrap bootstrap = {(uint64_t)d->options->seed, (int32_t)d->options->resamples};
    double *part = calloc(2 * ((size_t)n[0] + (size_t)n[1]), sizeof *part);
    if (!part) return cox_no_memory("a decomposition");
    double *ones = part + n[0] + n[1];
    for (int32_t i = 0; i < n[0] + n[1]; i++) ones[i] = 1;
    cox_ratio_samples samples;
    cox_status status =
        cox_ratio_samples_draw(&samples, (const double *const[2]){ones, ones + n[0]}, n, &bootstrap);
    for (size_t p = 0; p < n_parts && status == COX_OK; p++) {
        bool is_any = false;
        for (int32_t i = 0; i < n[0] + n[1]; i++) {
            part[i] = values[(size_t)i * stride + p];
            is_any = is_any || part[i] != 0;
            d->parts[p].mean[i >= n[0]] += part[i];
        }
        for (int c = 0; c < 2; c++) d->parts[p].mean[c] /= n[c];
        if (is_any)
            d->parts[p].difference =
                cox_interval_ratios(&samples, (const double *const[2]){part, part + n[0]});
    }
    cox_ratio_samples_release(&samples);
    free(part);
    return status;
}

static cox_status take_results(cox_decomposition *d, const double *values, int32_t n_variants)
{
    size_t n_parts = cox_parts_n(d->shape);
    d->parts = calloc(n_parts, sizeof *d->parts);
    cox_status status =
        d->parts ? summarise(d, values, n_parts + (size_t)n_variants) : cox_no_memory("a decomposition");
    if (status == COX_OK && n_variants > 1) status = summarise_effects(d, values, n_variants);
    return status;
}

/* --- The pass --- */

typedef struct inputs {
    cox_jobs jobs;
    cox_decomposition *found;
    void *data;
    size_t n_bytes;
} inputs;

static cox_status read_inputs(inputs *in, const cox_run *run)
{
    cox_decomposition *d = in->found;
    const cox_decompose_options *options = d->options;
    char note[COX_GGUF_NOTE_BYTES];
    cox_status status = read_vector(options, run->model, &d->file, &d->vector);
    if (status == COX_OK && cox_gguf_is_foreign(d->file, run->model, note))
        fprintf(stderr, "warning: %s\n", note);
    if (status == COX_OK) status = find_reference(options, run->model, d->vector, &d->reference);
    if (status == COX_OK) status = cox_prompts_read(d->classes, options->prompts, 2, options->limit, run);
    for (int32_t c = 0; c < 2 && status == COX_OK; c++)
        status = cox_jobs_add_prompts(&in->jobs, &d->classes[c], c, c);
    if (status == COX_OK)
        status = pack(run, options, d->vector, &in->jobs, &in->data, &in->n_bytes, &d->norm);
    return status;
}

static cox_status decompose_take_memory(context *c, const void *data)
{
    const cox_model *model = c->model;
    c->shared = data;
    c->unit = (const double *)(const void *)(c->shared + 1);
    c->vector = (const float *)(const void *)(c->unit + model->d_model);
    c->in_set = (const uint8_t *)(c->vector + model->d_model);
    c->sites = calloc((size_t)model->n_layers, 1);
    if (!c->sites) return cox_no_memory("a decomposition");
    for (int32_t l = 0; l < model->n_layers; l++) {
        unsigned sites = 1u << COX_SITE_ATTN_OUT | 1u << COX_SITE_MOE_OUT | 1u << COX_SITE_RESID_POST;
        if (l == 0) sites |= 1u << COX_SITE_RESID_PRE;
        if (model->layers[l].is_moe) sites |= 1u << COX_SITE_EXPERT_OUT;
        c->sites[l] = (uint8_t)sites;
    }
    return COX_OK;
}

static int32_t jobs_at_once(size_t scratch_bytes, int64_t n_variants)
{
    size_t n = MAX_SCRATCH_BYTES / scratch_bytes, n_engine = MAX_SEQUENCES / (size_t)n_variants;
    if (n > n_engine) n = n_engine;
    return (int32_t)(n < 1 ? 1 : n > MAX_AT_ONCE ? MAX_AT_ONCE : n);
}

static cox_status measure(inputs *in, cox_run *run)
{
    const cox_model *model = run->model;
    context c = {.model = model, .shape = in->found->shape};
    void *results = NULL;
    cox_status status = cox_cluster_broadcast(run->cluster, 0, &in->data, &in->n_bytes);
    if (status != COX_OK) return status;
    status = cox_run_agree(run, decompose_take_memory(&c, in->data));
    size_t scratch_bytes = scratch_bytes_of(&c);
    int32_t n_variants = (int32_t)c.shared->n_variants;
    const cox_job_question question = {.label = "decompose",
                                       .paths = in->found->options->prompts,
                                       .context = &c,
                                       .n_variants = n_variants,
                                       .result_bytes =
                                           (cox_parts_n(c.shape) + (size_t)n_variants) * sizeof(double),
                                       .scratch_bytes = scratch_bytes,
                                       .n_at_once = jobs_at_once(scratch_bytes, n_variants),
                                       .prepare = decompose_prepare,
                                       .on_logits = on_decompose_logits,
                                       .on_routes = on_decompose_routes,
                                       .on_rows = on_rows,
                                       .finish = finish};
    if (status == COX_OK) status = cox_jobs_run(run, &in->jobs, &question, &results);
    if (status == COX_OK)
        status =
            cox_run_agree(run, cox_run_is_front(run) ? take_results(in->found, results, n_variants) : COX_OK);
    free(results);
    free(c.sites);
    return status;
}

cox_status cox_decompose(cox_run *run, const cox_decompose_options *options, cox_decomposition *d)
{
    *d = (cox_decomposition){.options = options,
                             .model = run->model,
                             .shape = {run->model->n_layers, run->model->router.n_experts}};
    inputs in = {.found = d};
    cox_status status = cox_run_agree(run, cox_run_is_front(run) ? read_inputs(&in, run) : COX_OK);
    if (status == COX_OK) status = measure(&in, run);
    cox_jobs_free(&in.jobs);
    free(in.data);
    return status;
}

void cox_decomposition_free(cox_decomposition *d)
{
    for (int c = 0; c < 2; c++) cox_prompts_free(&d->classes[c]);
    cox_vector_file_free(d->file);
    free(d->parts);
    *d = (cox_decomposition){0};
}
