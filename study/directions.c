/* Means of both classes become vectors, each with where it came from. */
#include "study/directions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "run/identity.h"
#include "study/choices.h"
#include "study/direction.h"
#include "study/first_tokens.h"

/* --- What is asked --- */

/* What needs no model. */
static cox_status read_question(cox_directions *t)
{
    const cox_directions_options *options = t->options;
    cox_class_question *question = &t->question;
    for (int c = 0; c < 2; c++) question->prompts[c] = options->prompts[c];
    question->wants_rows = options->is_principal;
    question->has_filter = options->filter_tokens || options->n_filter_phrases || options->filter_rules;
    question->site = cox_site_find(options->site);
    if (question->site == COX_SITE_UNSTATED) return cox_site_unknown("--site", options->site);
    if (question->site != COX_SITE_EXPERT_OUT && options->expert)
        return cox_fail(COX_INVALID, "--expert %s: only --site expert_out has experts", options->expert);
    return cox_choose_positions("--position", options->position, "mean", &question->from_end,
                                &question->n_positions);
}

/* Layers without experts have neither router_logits nor expert_out: of "all" they are left out. */
static cox_status choose_layers(cox_class_question *question, const cox_directions_options *options,
                                const cox_model *model)
{
    bool needs_experts = cox_site_needs_experts(question->site);
    question->width = cox_site_width(question->site, model->d_model, model->router.n_experts);
    cox_status status = cox_choose("--layer", "layer", options->layer, model->n_layers, &question->layers,
                                   &question->n_layers);
    int32_t n = 0;
    for (int32_t i = 0; i < question->n_layers && status == COX_OK && needs_experts; i++) {
        int32_t layer = question->layers[i];
        if (model->layers[layer].is_moe) {
            question->layers[n++] = layer;
        } else if (strcmp(options->layer, "all") != 0) {
            status = cox_fail(COX_INVALID, "--layer %d: it has no experts, so no %s", (int)layer,
                              cox_site_name(question->site));
        }
    }
    if (needs_experts) question->n_layers = n;
    if (status != COX_OK || question->site != COX_SITE_EXPERT_OUT) return status;
    return cox_choose("--expert", "expert", options->expert ? options->expert : "all",
                      model->router.n_experts, &question->experts, &question->n_experts);
}

static cox_status check_output(const cox_directions_options *options)
{
    if (options->has_force || access(options->output, F_OK) != 0) return COX_OK;
    return cox_fail(COX_INVALID, "--output %s exists; remove it, choose another name, or give --force",
                    options->output);
}

/* Rank 0's reading. */
static cox_status read_files(cox_directions *t)
{
    const cox_directions_options *options = t->options;
    cox_status status = check_output(options);
    if (status == COX_OK && t->question.has_filter) {
        status =
            cox_first_tokens_read(options->filter_tokens, options->filter_phrases, options->n_filter_phrases,
                                  options->filter_rules, t->run->model, t->run->model->folder, &t->filter);
        t->question.filter = t->filter;
    }
    if (status != COX_OK) return status;
    return cox_prompts_read(t->classes, options->prompts, 2, options->limit, t->run);
}

/* --- The vectors --- */

static json_t *class_json(const cox_directions *t, int c, double projection)
{
    const cox_prompts *prompts = &t->classes[c];
    json_t *json = json_pack("{s:s, s:s, s:i, s:f}", "file", prompts->path, "sha256", prompts->sha256,
                             "prompts", (int)t->means.n_kept[c], "mean_projection", projection);
    if (json && t->filter) json_object_set_new(json, "of", json_integer(prompts->n));
    return json;
}

static int32_t n_pairs(const cox_directions *t)
{
    return t->means.n_kept[0] < t->means.n_kept[1] ? t->means.n_kept[0] : t->means.n_kept[1];
}

static json_t *filter_json(const cox_directions *t)
{
    json_t *tokens = json_array();
    for (int32_t i = 0; i < t->run->model->vocab_size; i++) {
        if (t->filter[i]) json_array_append_new(tokens, json_integer(i));
    }
    return tokens;
}

static cox_status describe(cox_found_direction *f, const cox_directions *t)
{
    const cox_directions_options *options = t->options;
    const char *method = options->is_principal ? "pc1" : "mean-difference";
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:o?, s:o?, s:b, s:b}", "made", "direction", "method", method, "position",
                  f->position, "a", class_json(t, 0, f->on_a), "b", class_json(t, 1, f->on_b), "unit",
                  (int)options->is_unit, "raw", (int)t->run->options.prompting.is_raw);
    if (json && cox_identity_add_prompting(json, &t->run->options.prompting) != COX_OK) {
        json_decref(json);
        json = NULL;
    }
    if (json && t->filter) json_object_set_new(json, "filter_tokens", filter_json(t));
    if (json && t->options->is_principal) {
        json_object_set_new(json, "pairs", json_integer(n_pairs(t)));
        json_object_set_new(json, "share_of_squares", json_real(f->share));
    }
    f->provenance = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (f->provenance) return COX_OK;
    return cox_fail(COX_INVALID, "a file's name or --system is not valid UTF-8, or memory ran out");
}

/* Where row `row` of the means was taken: [out] the vector's place, and its name. */
static void name_row(const cox_directions *t, int32_t row, cox_vector *v, cox_found_direction *f)
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

static cox_status find_direction(const cox_directions *t, int32_t row, const double *a, const double *b,
                                 float *data, double *share)
{
    int32_t n = n_pairs(t), width = t->question.width;
    if (!t->options->is_principal) return cox_direction_difference(a, b, width, t->options->is_unit, data);
    const float **rows[2];
    for (int c = 0; c < 2; c++) {
        rows[c] = malloc((size_t)n * sizeof **rows);
        for (int32_t i = 0; i < n && rows[c]; i++)
            rows[c][i] = t->means.rows[c][i] + (size_t)row * (size_t)width;
    }
    cox_status status = rows[0] && rows[1]
                            ? cox_direction_principal(rows[0], rows[1], n, width, a, b, data, share)
                            : cox_no_memory("pairs of rows");
    free(rows[0]);
    free(rows[1]);
    return status;
}

static const double *mean_of(const cox_directions *t, int c, int32_t row)
{
    size_t n_rows = (size_t)cox_class_n_rows(&t->question);
    return t->means.means + ((size_t)c * n_rows + (size_t)row) * (size_t)t->question.width;
}

/* The vector of a row, its data at v->data. */
static cox_status make_vector(const cox_directions *t, int32_t row, cox_vector *v, cox_found_direction *f)
{
    const double *a = mean_of(t, 0, row), *b = mean_of(t, 1, row);
    cox_status status = find_direction(t, row, a, b, v->data, &f->share);
    if (status != COX_OK) return cox_fail_in(status, "%s", f->name);
    f->on_a = cox_direction_project(v->data, a, v->width);
    f->on_b = cox_direction_project(v->data, b, v->width);
    status = describe(f, t);
    v->model_fingerprint = t->run->model->fingerprint;
    v->provenance = f->provenance;
    return status;
}

/* Of a template's own token the classes have the same row before any attention: such a place has no
 * direction, and among several it is left out. */
static bool has_direction(const cox_directions *t, int32_t row)
{
    size_t n_bytes = (size_t)t->question.width * sizeof(double);
    return cox_class_n_rows(&t->question) == 1 ||
           memcmp(mean_of(t, 0, row), mean_of(t, 1, row), n_bytes) != 0;
}

static double norm_of(const cox_vector *v)
{
    double square = 0;
    for (int32_t i = 0; i < v->width; i++) square += (double)v->data[i] * (double)v->data[i];
    return sqrt(square);
}

/* [out] vectors [*n], of those rows that have a direction. */
static cox_status make_vectors(cox_directions *t, cox_vector *vectors, float *data, char *tokenizer,
                               size_t *n)
{
    cox_status status = cox_tokenizer_fingerprint(t->run->model->folder, tokenizer);
    for (int32_t row = 0; row < cox_class_n_rows(&t->question) && status == COX_OK; row++) {
        cox_vector *v = &vectors[*n];
        cox_found_direction *f = &t->found[t->n_found++];
        name_row(t, row, v, f);
        f->is_written = has_direction(t, row);
        if (!f->is_written) continue;
        v->data = data + *n * (size_t)t->question.width;
        v->tokenizer_fingerprint = *tokenizer ? tokenizer : NULL;
        status = make_vector(t, row, v, f);
        f->norm = norm_of(v);
        cox_cluster_keepalive(t->run->cluster, "computing directions");
        ++*n;
    }
    if (status == COX_OK && *n == 0)
        status =
            cox_fail(COX_INVALID, "both classes have the same mean in every layer: there is no direction");
    return status;
}

static cox_status write_vectors(cox_directions *t)
{
    size_t n_rows = (size_t)cox_class_n_rows(&t->question), n = 0;
    char tokenizer[65];
    cox_vector *vectors = calloc(n_rows, sizeof *vectors);
    float *data = calloc(n_rows * (size_t)t->question.width, sizeof *data);
    t->found = calloc(n_rows, sizeof *t->found);
    cox_status status = vectors && t->found && data ? make_vectors(t, vectors, data, tokenizer, &n)
                                                    : cox_no_memory("the vectors");
    if (status == COX_OK) status = cox_vector_file_write(t->options->output, vectors, n);
    free(data);
    free(vectors);
    return status;
}

/* --- All of it --- */

cox_status cox_directions_create(cox_directions **directions, const cox_directions_options *options)
{
    cox_directions *t = calloc(1, sizeof *t);
    if (!t) return cox_no_memory("directions");
    t->options = options;
    cox_status status = read_question(t);
    if (status == COX_OK) {
        *directions = t;
    } else {
        cox_directions_destroy(t);
    }
    return status;
}

cox_status cox_directions_compute(cox_directions *t, cox_run *run)
{
    t->run = run;
    cox_status status = choose_layers(&t->question, t->options, run->model);
    if (status == COX_OK && cox_run_is_front(run)) status = read_files(t);
    status = cox_run_agree(run, status);
    if (status == COX_OK) status = cox_class_means_run(run, &t->question, t->classes, &t->means);
    if (status == COX_OK) status = cox_run_agree(run, cox_run_is_front(run) ? write_vectors(t) : COX_OK);
    return status;
}

void cox_directions_destroy(cox_directions *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->n_found; i++) free(t->found[i].provenance);
    free(t->found);
    for (int c = 0; c < 2; c++) cox_prompts_free(&t->classes[c]);
    cox_class_means_free(&t->means);
    free(t->filter);
    free(t->question.layers);
    free(t->question.experts);
    free(t->question.from_end);
    free(t);
}
