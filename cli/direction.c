/*
 * coxswain direction: two sets of prompts in, a vector file out: the difference of the mean rows at one site,
 * or the first principal component of the pairs' differences, of one layer and expert or of each, at one
 * token or at each of several, with where it came from. Standard output has a line a vector.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "study/choices.h"
#include "study/class_means.h"
#include "cli/commands.h"
#include "study/first_tokens.h"
#include "run/identity.h"
#include "study/direction.h"

/* --- What is asked --- */

typedef struct task {
    const cox_options *options;
    cox_run run;
    cox_class_question question;
    cox_prompts classes[2]; /* on rank 0 */
    uint8_t *filter;        /* on rank 0; NULL: none */
    cox_class_means means;  /* on rank 0 */
    bool is_principal;
} task;

/* What needs no model. */
static cox_status read_question(task *t, const cox_options *options)
{
    cox_class_question *question = &t->question;
    t->options = options;
    t->is_principal = strcmp(options->method, "pc1") == 0;
    question->wants_rows = t->is_principal;
    question->has_filter = options->filter_tokens || options->filter_phrases.n || options->filter_rules;
    question->site = cox_site_find(options->site);
    if (question->site == COX_SITE_UNSTATED) return cox_site_unknown("--site", options->site);
    if (question->site != COX_SITE_EXPERT_OUT && options->expert)
        return cox_fail(COX_INVALID, "--expert %s: only --site expert_out has experts", options->expert);
    cox_status status = cox_prompts_check_options(options);
    if (status != COX_OK) return status;
    return cox_choose_positions("--position", options->position, "mean", &question->from_end,
                                &question->n_positions);
}

/* Layers without experts have neither router_logits nor expert_out: of "all" they are left out. */
static cox_status choose_layers(cox_class_question *question, const cox_options *options,
                                const cox_model *model)
{
    bool needs_router = question->site == COX_SITE_ROUTER_LOGITS || question->site == COX_SITE_EXPERT_OUT;
    question->width = question->site == COX_SITE_ROUTER_LOGITS ? model->router.n_experts : model->d_model;
    cox_status status = cox_choose("--layer", "layer", options->layer, model->n_layers, &question->layers,
                                   &question->n_layers);
    int32_t n = 0;
    for (int32_t i = 0; i < question->n_layers && status == COX_OK && needs_router; i++) {
        int32_t layer = question->layers[i];
        if (model->layers[layer].is_moe) {
            question->layers[n++] = layer;
        } else if (strcmp(options->layer, "all") != 0) {
            status = cox_fail(COX_INVALID, "--layer %d: it has no experts, so no %s", (int)layer,
                              cox_site_name(question->site));
        }
    }
    if (needs_router) question->n_layers = n;
    if (status != COX_OK || question->site != COX_SITE_EXPERT_OUT) return status;
    return cox_choose("--expert", "expert", options->expert ? options->expert : "all",
                      model->router.n_experts, &question->experts, &question->n_experts);
}

static cox_status check_output(const cox_options *options)
{
    if (options->has_force || access(options->output, F_OK) != 0) return COX_OK;
    return cox_fail(COX_INVALID, "--output %s exists; remove it, choose another name, or give --force",
                    options->output);
}

/* Rank 0's reading. */
static cox_status read_files(task *t)
{
    const cox_options *options = t->options;
    const char *const paths[] = {options->prompts_a, options->prompts_b};
    cox_status status = check_output(options);
    if (status == COX_OK && t->question.has_filter) {
        status = cox_first_tokens_read(options->filter_tokens, &options->filter_phrases,
                                       options->filter_rules, t->run.model, options->model, &t->filter);
        t->question.filter = t->filter;
    }
    if (status != COX_OK) return status;
    return cox_prompts_read(t->classes, paths, 2, &t->run);
}

/* --- The vectors --- */

/* Mean projections of both classes on the direction: what `clamp` takes to make a row look like either. */
typedef struct finding {
    char name[96], position[24];
    char *provenance;
    double on_a, on_b, share; /* share: of the squares, of a principal component */
} finding;

static json_t *class_json(const task *t, int c, double projection)
{
    const cox_prompts *prompts = &t->classes[c];
    json_t *json = json_pack("{s:s, s:s, s:i, s:f}", "file", prompts->path, "sha256", prompts->sha256,
                             "prompts", (int)t->means.n_kept[c], "mean_projection", projection);
    if (json && t->filter) json_object_set_new(json, "of", json_integer(prompts->n));
    return json;
}

static int32_t n_pairs(const task *t)
{
    return t->means.n_kept[0] < t->means.n_kept[1] ? t->means.n_kept[0] : t->means.n_kept[1];
}

static json_t *filter_json(const task *t)
{
    json_t *tokens = json_array();
    for (int32_t i = 0; i < t->run.model->vocab_size; i++) {
        if (t->filter[i]) json_array_append_new(tokens, json_integer(i));
    }
    return tokens;
}

static cox_status describe(finding *f, const task *t)
{
    const cox_options *options = t->options;
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:o?, s:o?, s:b, s:b}", "made", "direction", "method", options->method,
                  "position", f->position, "a", class_json(t, 0, f->on_a), "b", class_json(t, 1, f->on_b),
                  "unit", (int)options->is_unit, "raw", (int)options->is_raw);
    if (json && cox_identity_add_prompting(json, options) != COX_OK) {
        json_decref(json);
        json = NULL;
    }
    if (json && t->filter) json_object_set_new(json, "filter_tokens", filter_json(t));
    if (json && t->is_principal) {
        json_object_set_new(json, "pairs", json_integer(n_pairs(t)));
        json_object_set_new(json, "share_of_squares", json_real(f->share));
    }
    f->provenance = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (f->provenance) return COX_OK;
    return cox_fail(COX_INVALID, "a file's name or --system is not valid UTF-8, or memory ran out");
}

/* Where row `row` of the means was taken: [out] the vector's place, and its name. */
static void name_row(const task *t, int32_t row, cox_vector *v, finding *f)
{
    const cox_class_question *q = &t->question;
    int32_t n_units = q->n_experts ? q->n_experts : 1, place = row / n_units / q->n_layers;
    v->site = q->site;
    v->layer = q->layers[row / n_units % q->n_layers];
    v->expert = q->n_experts ? q->experts[row % n_units] : -1;
    v->width = q->width;
    v->name = f->name;
    int n = snprintf(f->name, sizeof f->name, "%s.%d", cox_site_name(q->site), (int)v->layer);
    if (v->expert >= 0) n += snprintf(f->name + n, sizeof f->name - (size_t)n, ".%d", (int)v->expert);
    snprintf(f->position, sizeof f->position, "%.20s", t->options->position);
    if (q->n_positions < 2) return;
    snprintf(f->position, sizeof f->position, "-%d", (int)q->from_end[place]);
    snprintf(f->name + n, sizeof f->name - (size_t)n, "@%s", f->position);
}

static cox_status find_direction(const task *t, int32_t row, const double *a, const double *b, float *data,
                                 double *share)
{
    int32_t n = n_pairs(t), width = t->question.width;
    if (!t->is_principal) return cox_direction_difference(a, b, width, t->options->is_unit, data);
    const float **rows[2];
    for (int c = 0; c < 2; c++) {
        rows[c] = malloc((size_t)n * sizeof **rows);
        for (int32_t i = 0; i < n && rows[c]; i++)
            rows[c][i] = t->means.rows[c][i] + (size_t)row * (size_t)width;
    }
    cox_status status = rows[0] && rows[1]
                            ? cox_direction_principal(rows[0], rows[1], n, width, a, b, data, share)
                            : cox_fail(COX_NO_MEMORY, "out of memory for pairs of rows");
    free(rows[0]);
    free(rows[1]);
    return status;
}

static const double *mean_of(const task *t, int c, int32_t row)
{
    size_t n_rows = (size_t)cox_class_n_rows(&t->question);
    return t->means.means + ((size_t)c * n_rows + (size_t)row) * (size_t)t->question.width;
}

/* The vector of a row, its data at v->data. */
static cox_status make_vector(const task *t, int32_t row, cox_vector *v, finding *f)
{
    const double *a = mean_of(t, 0, row), *b = mean_of(t, 1, row);
    cox_status status = find_direction(t, row, a, b, v->data, &f->share);
    if (status != COX_OK) return cox_fail_in(status, "%s", f->name);
    f->on_a = cox_direction_project(v->data, a, v->width);
    f->on_b = cox_direction_project(v->data, b, v->width);
    status = describe(f, t);
    v->model_fingerprint = t->run.model->fingerprint;
    v->provenance = f->provenance;
    return status;
}

static void print(const cox_vector *v, const finding *f)
{
    double square = 0;
    for (int32_t i = 0; i < v->width; i++) square += (double)v->data[i] * (double)v->data[i];
    printf("%-16s norm %.6g, mean on it: a %.6g, b %.6g", f->name, sqrt(square), f->on_a, f->on_b);
    if (f->share > 0) printf(", %.3g of the squares", f->share);
    printf("\n");
}

/* What it took, and what the way around it would have. */
static void print_cost(const task *t)
{
    long long n_prompts = (long long)t->classes[0].n + t->classes[1].n;
    if (t->filter) {
        for (int c = 0; c < 2; c++) {
            printf("%s: %d of %d prompts pass the filter\n", t->classes[c].path, (int)t->means.n_kept[c],
                   (int)t->classes[c].n);
        }
    }
    if (t->question.n_experts == 0) return;
    printf(
        "forward passes: %lld, one for each prompt; forcing the router would take %lld, one for each prompt, "
        "layer and expert\n",
        n_prompts, n_prompts * t->question.n_layers * t->question.n_experts);
}

/* Of a template's own token the classes have the same row before any attention: such a place has no
 * direction, and among several it is left out. */
static bool has_direction(const task *t, int32_t row, const char *name)
{
    size_t n_bytes = (size_t)t->question.width * sizeof(double);
    if (cox_class_n_rows(&t->question) == 1 || memcmp(mean_of(t, 0, row), mean_of(t, 1, row), n_bytes) != 0)
        return true;
    fprintf(stderr, "%s: both classes have the same mean; no vector is written\n", name);
    return false;
}

static cox_status make_vectors(const task *t, cox_vector *vectors, finding *findings, float *data,
                               char *tokenizer, size_t *n)
{
    cox_status status = cox_tokenizer_fingerprint(t->options->model, tokenizer);
    for (int32_t row = 0; row < cox_class_n_rows(&t->question) && status == COX_OK; row++) {
        name_row(t, row, &vectors[*n], &findings[*n]);
        if (!has_direction(t, row, findings[*n].name)) continue;
        vectors[*n].data = data + *n * (size_t)t->question.width;
        vectors[*n].tokenizer_fingerprint = *tokenizer ? tokenizer : NULL;
        status = make_vector(t, row, &vectors[*n], &findings[*n]);
        cox_cluster_keepalive(t->run.cluster, "computing directions");
        ++*n;
    }
    if (status == COX_OK && *n == 0)
        status =
            cox_fail(COX_INVALID, "both classes have the same mean in every layer: there is no direction");
    return status;
}

static cox_status write_vectors(const task *t)
{
    size_t n_rows = (size_t)cox_class_n_rows(&t->question), n = 0;
    char tokenizer[65];
    cox_vector *vectors = calloc(n_rows, sizeof *vectors);
    finding *findings = calloc(n_rows, sizeof *findings);
    float *data = calloc(n_rows * (size_t)t->question.width, sizeof *data);
    cox_status status = vectors && findings && data
                            ? make_vectors(t, vectors, findings, data, tokenizer, &n)
                            : cox_fail(COX_NO_MEMORY, "out of memory for the vectors");
    if (status == COX_OK) status = cox_vector_file_write(t->options->output, vectors, n);
    for (size_t i = 0; i < n && status == COX_OK; i++) print(&vectors[i], &findings[i]);
    if (status == COX_OK) print_cost(t);
    for (size_t i = 0; i < n; i++) free(findings[i].provenance);
    free(data);
    free(findings);
    free(vectors);
    return status;
}

/* --- The command --- */

static void release(task *t)
{
    for (int c = 0; c < 2; c++) cox_prompts_free(&t->classes[c]);
    cox_class_means_free(&t->means);
    free(t->filter);
    free(t->question.layers);
    free(t->question.experts);
    free(t->question.from_end);
}

cox_status cox_command_direction(const cox_options *options)
{
    task t = {0};
    cox_status status = read_question(&t, options);
    if (status == COX_OK) status = cox_run_open(&t.run, options);
    if (status != COX_OK) {
        release(&t);
        return status;
    }
    status = choose_layers(&t.question, options, t.run.model);
    if (status == COX_OK && cox_run_is_front(&t.run)) status = read_files(&t);
    status = cox_run_agree(&t.run, status);
    if (status == COX_OK) status = cox_class_means_run(&t.run, &t.question, t.classes, &t.means);
    if (status == COX_OK)
        status = cox_run_agree(&t.run, cox_run_is_front(&t.run) ? write_vectors(&t) : COX_OK);
    cox_run_close(&t.run, options->has_stats && status == COX_OK);
    release(&t);
    return status;
}
