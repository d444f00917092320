/*
 * coxswain direction: two sets of prompts in, a vector file out: the difference of the mean rows at one site,
 * of one layer or of each, with where it came from. Standard output has a line a vector.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/class_means.h"
#include "cli/commands.h"
#include "steering/direction.h"

/* --- What is asked --- */

static cox_status read_number(const char *name, const char *text, int64_t low, int64_t high, int32_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < low || value > high)
        return cox_fail(COX_INVALID, "%s \"%s\": out of range or not a number", name, text);
    *out = (int32_t)value;
    return COX_OK;
}

/* What needs no model. */
static cox_status read_question(cox_class_question *question, const cox_options *options)
{
    question->site = cox_site_find(options->site);
    if (question->site == COX_SITE_UNSTATED)
        return cox_fail(COX_INVALID, "--site \"%s\": there is no such site", options->site);
    if (question->site == COX_SITE_EXPERT_OUT)
        return cox_fail(COX_UNSUPPORTED, "--site expert_out: directions of experts are not built yet");
    cox_status status = cox_prompts_check_options(options);
    if (status != COX_OK) return status;
    if (strcmp(options->position, "mean") == 0) return COX_OK;
    question->from_end = 1;
    if (strcmp(options->position, "last") == 0) return COX_OK;
    if (*options->position != '-') {
        return cox_fail(COX_INVALID, "--position \"%s\": must be last, mean, or -1, -2, ... from the end",
                        options->position);
    }
    return read_number("--position", options->position + 1, 1, INT32_MAX, &question->from_end);
}

static cox_status choose_layers(cox_class_question *question, const cox_options *options,
                                const cox_model *model)
{
    bool needs_router = question->site == COX_SITE_ROUTER_LOGITS;
    question->width = needs_router ? model->router.n_experts : model->d_model;
    question->layers = malloc((size_t)model->n_layers * sizeof *question->layers);
    if (!question->layers) return cox_fail(COX_NO_MEMORY, "out of memory");
    if (strcmp(options->layer, "all") == 0) {
        for (int32_t l = 0; l < model->n_layers; l++) {
            if (!needs_router || model->layers[l].is_moe) question->layers[question->n_layers++] = l;
        }
        return COX_OK;
    }
    cox_status status = read_number("--layer", options->layer, INT32_MIN, INT32_MAX, question->layers);
    if (status != COX_OK) return status;
    int32_t layer = question->layers[0];
    if (layer < 0 || layer >= model->n_layers) {
        return cox_fail(COX_INVALID, "--layer %d: the model has layers 0 to %d", (int)layer,
                        (int)model->n_layers - 1);
    }
    if (needs_router && !model->layers[layer].is_moe)
        return cox_fail(COX_INVALID, "--layer %d: it has no experts, so no router_logits", (int)layer);
    question->n_layers = 1;
    return COX_OK;
}

static cox_status check_output(const cox_options *options)
{
    if (options->has_force || access(options->output, F_OK) != 0) return COX_OK;
    return cox_fail(COX_INVALID, "--output %s exists; remove it, choose another name, or give --force",
                    options->output);
}

/* --- The vectors --- */

/* Mean projections of both classes on the direction: what `clamp` takes to make a row look like either. */
typedef struct finding {
    char name[64];
    char *provenance;
    double on_a, on_b;
} finding;

static json_t *class_json(const cox_prompts *prompts, double projection)
{
    return json_pack("{s:s, s:s, s:i, s:f}", "file", prompts->path, "sha256", prompts->sha256, "prompts",
                     (int)prompts->n, "mean_projection", projection);
}

static cox_status describe(finding *f, const cox_options *options, const cox_prompts *classes)
{
    json_t *json =
        json_pack("{s:s, s:s, s:o?, s:o?, s:b, s:b}", "made", "direction", "position", options->position, "a",
                  class_json(&classes[0], f->on_a), "b", class_json(&classes[1], f->on_b), "unit",
                  (int)options->is_unit, "raw", (int)options->is_raw);
    if (json && options->system) json_object_set_new(json, "system", json_string(options->system));
    if (json && options->template_name)
        json_object_set_new(json, "template", json_string(options->template_name));
    f->provenance = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (f->provenance) return COX_OK;
    return cox_fail(COX_INVALID, "a file's name or --system is not valid UTF-8, or memory ran out");
}

static cox_status make_vector(cox_vector *v, finding *f, const cox_run *run,
                              const cox_class_question *question, int32_t l, const double *means,
                              const cox_prompts *classes)
{
    size_t width = (size_t)question->width, all = (size_t)question->n_layers * width;
    const double *a = means + (size_t)l * width, *b = a + all;
    snprintf(f->name, sizeof f->name, "%s.%d", cox_site_name(question->site), (int)question->layers[l]);
    cox_status status = cox_direction_difference(a, b, question->width, run->options->is_unit, v->data);
    if (status != COX_OK) return cox_fail_in(status, "%s", f->name);
    f->on_a = cox_direction_project(v->data, a, question->width);
    f->on_b = cox_direction_project(v->data, b, question->width);
    status = describe(f, run->options, classes);
    v->name = f->name;
    v->width = question->width;
    v->site = question->site;
    v->layer = question->layers[l];
    v->expert = -1;
    v->model_fingerprint = run->model->fingerprint;
    v->provenance = f->provenance;
    return status;
}

static void print(const cox_vector *v, const finding *f)
{
    double square = 0;
    for (int32_t i = 0; i < v->width; i++) square += (double)v->data[i] * (double)v->data[i];
    printf("%-16s norm %.6g, mean on it: a %.6g, b %.6g\n", f->name, sqrt(square), f->on_a, f->on_b);
}

/* Of a template's own token the classes have the same row before any attention: such a layer has no
 * direction, and among several it is left out. */
static bool has_direction(const cox_class_question *question, int32_t l, const double *means)
{
    size_t width = (size_t)question->width, all = (size_t)question->n_layers * width;
    const double *a = means + (size_t)l * width;
    if (question->n_layers == 1 || memcmp(a, a + all, width * sizeof *a) != 0) return true;
    fprintf(stderr, "%s.%d: both classes have the same mean; no vector is written\n",
            cox_site_name(question->site), (int)question->layers[l]);
    return false;
}

static cox_status write_vectors(const cox_run *run, const cox_class_question *question, const double *means,
                                const cox_prompts *classes)
{
    size_t n_layers = (size_t)question->n_layers, n = 0;
    char tokenizer[65];
    cox_vector *vectors = calloc(n_layers, sizeof *vectors);
    finding *findings = calloc(n_layers, sizeof *findings);
    float *data = calloc(n_layers * (size_t)question->width, sizeof *data);
    bool has_memory = vectors && findings && data;
    cox_status status = has_memory ? cox_tokenizer_fingerprint(run->options->model, tokenizer)
                                   : cox_fail(COX_NO_MEMORY, "out of memory for the vectors");
    for (int32_t l = 0; l < question->n_layers && status == COX_OK; l++) {
        if (!has_direction(question, l, means)) continue;
        vectors[n].data = data + n * (size_t)question->width;
        vectors[n].tokenizer_fingerprint = tokenizer;
        status = make_vector(&vectors[n], &findings[n], run, question, l, means, classes);
        n++;
    }
    if (status == COX_OK && n == 0)
        status =
            cox_fail(COX_INVALID, "both classes have the same mean in every layer: there is no direction");
    if (status == COX_OK) status = cox_vector_file_write(run->options->output, vectors, n);
    for (size_t i = 0; i < n && status == COX_OK; i++) print(&vectors[i], &findings[i]);
    for (size_t i = 0; i < n; i++) free(findings[i].provenance);
    free(data);
    free(findings);
    free(vectors);
    return status;
}

/* --- The command --- */

cox_status cox_command_direction(const cox_options *options)
{
    cox_class_question question = {0};
    cox_status status = read_question(&question, options);
    if (status != COX_OK) return status;
    cox_run run;
    status = cox_run_open(&run, options);
    if (status != COX_OK) return status;
    cox_prompts classes[2] = {0};
    double *means = NULL;
    bool is_front = cox_run_is_front(&run);
    status = choose_layers(&question, options, run.model);
    if (status == COX_OK && is_front) status = check_output(options);
    if (status == COX_OK && is_front) {
        const char *const paths[] = {options->prompts_a, options->prompts_b};
        status = cox_prompts_read(classes, paths, 2, options, run.model, run.cluster);
    }
    status = cox_run_agree(&run, status);
    if (status == COX_OK) status = cox_class_means(&run, &question, classes, &means);
    if (status == COX_OK)
        status = cox_run_agree(&run, is_front ? write_vectors(&run, &question, means, classes) : COX_OK);
    for (int c = 0; c < 2; c++) cox_prompts_free(&classes[c]);
    free(means);
    free(question.layers);
    cox_run_close(&run, status, options->has_stats && status == COX_OK);
    return status;
}
