/* coxswain vector show|import|export|combine|random: files of steering vectors, without a model's weights. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/nearest.h"
#include "cli/commands.h"
#include "model/model.h"
#include "steering/gguf.h"
#include "steering/plan.h"
#include "steering/vector_math.h"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* --- show --- */

static json_t *vector_json(const cox_vector *v)
{
    json_t *json =
        json_pack("{s:s, s:i, s:f}", "name", v->name, "width", (int)v->width, "norm", (double)v->norm);
    if (v->site != COX_SITE_UNSTATED) json_object_set_new(json, "site", json_string(cox_site_name(v->site)));
    if (v->layer >= 0) json_object_set_new(json, "layer", json_integer(v->layer));
    if (v->expert >= 0) json_object_set_new(json, "expert", json_integer(v->expert));
    const char *const keys[] = {"operation", "weighting", "model_fingerprint", "tokenizer_fingerprint"};
    const char *const texts[] = {v->operation, v->weighting, v->model_fingerprint, v->tokenizer_fingerprint};
    for (size_t i = 0; i < 4; i++) {
        if (texts[i]) json_object_set_new(json, keys[i], json_string(texts[i]));
    }
    if (v->positions) json_object_set_new(json, "positions", json_loads(v->positions, JSON_DECODE_ANY, NULL));
    if (v->provenance)
        json_object_set_new(json, "provenance", json_loads(v->provenance, JSON_DECODE_ANY, NULL));
    return json;
}

static void print_vector(const cox_vector *v)
{
    printf("%-20s width %d, norm %.6g, site %s", v->name, (int)v->width, (double)v->norm,
           cox_site_name(v->site));
    if (v->layer >= 0) printf(", layer %d", (int)v->layer);
    if (v->expert >= 0) printf(", expert %d", (int)v->expert);
    if (v->operation) printf(", %s", v->operation);
    if (v->weighting) printf(", weighting %s", v->weighting);
    if (v->positions) printf(", positions %s", v->positions);
    if (v->model_fingerprint) printf(", model %.12s", v->model_fingerprint);
    if (v->tokenizer_fingerprint) printf(", tokenizer %.12s", v->tokenizer_fingerprint);
    printf("\n");
    if (v->provenance) printf("%-20s from %s\n", "", v->provenance);
}

static cox_status show(const cox_options *options)
{
    if (options->plain.n != 2) return cox_fail(COX_INVALID, "usage: coxswain vector show FILE [--json]");
    cox_vector_file *file = NULL;
    cox_status status = cox_vector_file_read(&file, options->plain.items[1]);
    if (status != COX_OK) return status;
    json_t *list = json_array();
    for (size_t i = 0; i < file->n; i++) {
        if (options->is_json)
            json_array_append_new(list, vector_json(&file->vectors[i]));
        else
            print_vector(&file->vectors[i]);
    }
    if (options->is_json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        printf("\n");
    }
    json_decref(list);
    cox_vector_file_free(file);
    return COX_OK;
}

/* --- import and export --- */

#define X(name, text) text,
static const char *const operations[] = {COX_OP_LIST(X)};
static const char *const weightings[] = {COX_WEIGHTING_LIST(X)};
#undef X

/* Is the word one of the n known ones? Errors: INVALID, with the nearest. */
static cox_status check_word(const char *option, const char *word, const char *const *known, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(known[i], word) == 0) return COX_OK;
    }
    cox_nearest nearest = cox_nearest_to(word, strlen(word));
    cox_nearest_offer_all(&nearest, known, n);
    return cox_fail(COX_INVALID, "%s: \"%.60s\" is not known%s", option, word, nearest.hint);
}

/* What the command line states; -1, NULL and UNSTATED: nothing. A fact that the file states otherwise is
 * refused. */
static cox_status state_facts(const cox_options *options, cox_vector *v)
{
    const char *site = options->facts.site;
    if (site && cox_site_find(site) == COX_SITE_UNSTATED) return cox_site_unknown("--site", site);
    if (site && v->site != COX_SITE_UNSTATED && cox_site_find(site) != v->site) {
        return cox_fail(COX_INVALID, "vector \"%s\" states site %s, not %s", v->name, cox_site_name(v->site),
                        site);
    }
    if (site) v->site = cox_site_find(site);
    int64_t layer = options->facts.layer >= 0 ? options->facts.layer : v->layer;
    if (v->layer >= 0 && layer != v->layer) {
        return cox_fail(COX_INVALID, "vector \"%s\" states layer %d, not %d", v->name, (int)v->layer,
                        (int)layer);
    }
    v->layer = (int32_t)layer;
    if (options->facts.expert >= 0) v->expert = (int32_t)options->facts.expert;
    const char *operation = options->facts.operation, *weighting = options->facts.weighting;
    if (operation) v->operation = operation;
    if (weighting) v->weighting = weighting;
    cox_status status = operation ? check_word("--operation", operation, operations, COX_N_OPS) : COX_OK;
    return status == COX_OK && weighting ? check_word("--weighting", weighting, weightings, COX_N_WEIGHTINGS)
                                         : status;
}

static cox_status state_model(const cox_model *model, const char *tokenizer, cox_vector *v)
{
    if (v->width != model->d_model) {
        return cox_fail(COX_INVALID, "vector \"%s\" has width %d, the model %d", v->name, (int)v->width,
                        (int)model->d_model);
    }
    if (v->layer >= model->n_layers) {
        return cox_fail(COX_INVALID, "vector \"%s\" is of layer %d; the model has 0 to %d", v->name,
                        (int)v->layer, (int)model->n_layers - 1);
    }
    if (v->expert >= model->router.n_experts) {
        return cox_fail(COX_INVALID, "vector \"%s\" is of expert %d; the model has 0 to %d", v->name,
                        (int)v->expert, (int)model->router.n_experts - 1);
    }
    v->model_fingerprint = model->fingerprint;
    v->tokenizer_fingerprint = *tokenizer ? tokenizer : NULL;
    return COX_OK;
}

static cox_status import_file(const cox_options *options, const char *output)
{
    const char *path = options->plain.items[1], *name = options->facts.name;
    const char *folder = options->model;
    cox_vector_file *file = NULL;
    cox_model *model = NULL;
    char tokenizer[65], note[COX_GGUF_NOTE_BYTES];
    cox_status status = cox_options_check_output(output, path, folder);
    if (status == COX_OK) {
        status = ends_with(path, ".gguf") || ends_with(path, ".safetensors")
                     ? cox_vector_file_read(&file, path)
                     : cox_raw_vector_read(&file, path, name ? name : "vector");
    }
    if (status == COX_OK && folder) status = cox_model_open(&model, folder);
    if (status == COX_OK && model && cox_gguf_is_foreign(file, model, note))
        fprintf(stderr, "warning: %s\n", note);
    if (status == COX_OK && folder) status = cox_tokenizer_fingerprint(folder, tokenizer);
    for (size_t i = 0; status == COX_OK && i < file->n; i++) {
        status = state_facts(options, &file->vectors[i]);
        if (status == COX_OK && model) status = state_model(model, tokenizer, &file->vectors[i]);
    }
    if (status == COX_OK) status = cox_vector_file_write(output, file->vectors, file->n);
    cox_model_close(model);
    cox_vector_file_free(file);
    return status;
}

static cox_status export_file(const cox_options *options, const char *output)
{
    const char *hint = options->model_hint;
    cox_vector_file *file = NULL;
    cox_status status = cox_options_check_output(output, options->plain.items[1], NULL);
    if (status == COX_OK) status = cox_vector_file_read(&file, options->plain.items[1]);
    if (status == COX_OK) status = cox_gguf_write(output, file->vectors, file->n, hint ? hint : "unknown");
    cox_vector_file_free(file);
    return status;
}

/* --- combine and random --- */

enum { MAX_TERMS = 256 };

typedef struct term {
    double weight;
    cox_vector_file *file;
    const cox_vector *vector;
} term;

/* "[WEIGHT*]FILE[#NAME]". output: what the command will write. */
static cox_status read_term(const char *text, const char *output, term *out)
{
    char *end;
    *out = (term){.weight = 1};
    double weight = strtod(text, &end);
    if (end != text && *end == '*') {
        if (!isfinite(weight)) return cox_fail(COX_INVALID, "\"%s\": the weight is not finite", text);
        out->weight = weight;
        text = end + 1;
    }
    char *path = strdup(text);
    if (!path) return cox_no_memory("vectors");
    char *name = strrchr(path, '#');
    if (name) *name++ = '\0';
    cox_status status = cox_options_check_output(output, path, NULL);
    if (status == COX_OK) status = cox_vector_file_read(&out->file, path);
    if (status == COX_OK && !(out->vector = cox_vector_find(out->file, name))) status = COX_INVALID;
    free(path);
    return status;
}

static const char *text_of(const term *t, size_t offset)
{
    return *(const char *const *)(const void *)((const char *)t->vector + offset);
}

/* What those that state the fact at `offset` of a cox_vector state alike; -1 or NULL where they differ. */
static int32_t common_number(const term *terms, size_t n, size_t offset)
{
    int32_t common = -1;
    for (size_t i = 0; i < n; i++) {
        int32_t stated;
        memcpy(&stated, (const char *)terms[i].vector + offset, sizeof stated);
        if (stated >= 0 && common >= 0 && stated != common) return -1;
        if (stated >= 0) common = stated;
    }
    return common;
}

static const char *common_text(const term *terms, size_t n, size_t offset)
{
    const char *common = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *stated = text_of(&terms[i], offset);
        if (stated && common && strcmp(stated, common) != 0) return NULL;
        if (stated) common = stated;
    }
    return common;
}

/* What is it that the vector was made for, "model" or "tokenizer"? Two of them do not mix. */
static cox_status common_fingerprint(const term *terms, size_t n, size_t offset, const char *what,
                                     const char **out)
{
    const term *first = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *stated = text_of(&terms[i], offset);
        if (!stated) continue;
        if (!first) first = &terms[i];
        if (strcmp(stated, text_of(first, offset)) == 0) continue;
        return cox_fail(COX_INVALID,
                        "%s and %s: vectors \"%s\" and \"%s\" were made for different %ss (fingerprints "
                        "%.12s... and %.12s...)",
                        first->file->path, terms[i].file->path, first->vector->name, terms[i].vector->name,
                        what, text_of(first, offset), stated);
    }
    *out = first ? text_of(first, offset) : NULL;
    return COX_OK;
}

/* terms: n that are summed, then n_without, which count for model and tokenizer alone. */
static cox_status common_facts(const term *terms, size_t n, size_t n_without, cox_vector *v)
{
    *v = *terms[0].vector;
    v->site = (cox_site)common_number(terms, n, offsetof(cox_vector, site));
    v->layer = common_number(terms, n, offsetof(cox_vector, layer));
    v->expert = common_number(terms, n, offsetof(cox_vector, expert));
    v->operation = common_text(terms, n, offsetof(cox_vector, operation));
    v->weighting = common_text(terms, n, offsetof(cox_vector, weighting));
    v->positions = common_text(terms, n, offsetof(cox_vector, positions));
    for (size_t i = 0; i < n && v->site == COX_SITE_UNSTATED; i++) {
        if (terms[i].vector->site == COX_SITE_UNSTATED) continue;
        v->expert = -1; /* sites differ: these two only mean something at one of them */
        v->weighting = NULL;
    }
    cox_status status = common_fingerprint(terms, n + n_without, offsetof(cox_vector, model_fingerprint),
                                           "model", &v->model_fingerprint);
    if (status != COX_OK) return status;
    return common_fingerprint(terms, n + n_without, offsetof(cox_vector, tokenizer_fingerprint), "tokenizer",
                              &v->tokenizer_fingerprint);
}

/* Writes data under the facts, with how it was made. json: owned. */
static cox_status write_made(const char *output, const char *name, cox_vector v, float *data, json_t *json)
{
    char *provenance = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    v.name = name ? name : v.name;
    v.data = data;
    v.provenance = provenance;
    cox_status status = provenance ? cox_vector_file_write(output, &v, 1) : cox_no_memory("vectors");
    free(provenance);
    return status;
}

static cox_status write_sum(const cox_options *options, const char *output, const term *terms, size_t n,
                            size_t n_without)
{
    double weights[MAX_TERMS];
    const cox_vector *vectors[MAX_TERMS];
    json_t *parts = json_array(), *removed = json_array();
    for (size_t i = 0; i < n + n_without; i++) {
        vectors[i] = terms[i].vector;
        weights[i] = options->is_mean ? terms[i].weight / (double)n : terms[i].weight;
        json_t *part = json_pack("{s:s, s:s}", "file", terms[i].file->path, "vector", terms[i].vector->name);
        if (i < n) json_object_set_new(part, "weight", json_real(weights[i]));
        json_array_append_new(i < n ? parts : removed, part);
    }
    cox_vector facts;
    float *data = malloc((size_t)vectors[0]->width * sizeof *data);
    cox_status status = data ? common_facts(terms, n, n_without, &facts) : cox_no_memory("vectors");
    if (status == COX_OK) status = cox_vector_combine(weights, vectors, n, vectors + n, n_without, data);
    json_t *json = json_pack("{s:s, s:o, s:o}", "made", "combine", "terms", parts, "without", removed);
    if (status == COX_OK) {
        status = write_made(output, options->facts.name, facts, data, json);
    } else {
        json_decref(json);
    }
    free(data);
    return status;
}

static cox_status combine(const cox_options *options, const char *output)
{
    size_t n = options->plain.n - 1, n_all = 0;
    if (n + options->without.n > MAX_TERMS)
        return cox_fail(COX_INVALID, "combine: more than %d vectors", MAX_TERMS);
    term *terms = calloc(MAX_TERMS, sizeof *terms);
    if (!terms) return cox_no_memory("vectors");
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i++)
        status = read_term(options->plain.items[i + 1], output, &terms[n_all++]);
    for (size_t i = 0; i < options->without.n && status == COX_OK; i++)
        status = read_term(options->without.items[i], output, &terms[n_all++]);
    if (status == COX_OK) status = write_sum(options, output, terms, n, n_all - n);
    for (size_t i = 0; i < n_all; i++) cox_vector_file_free(terms[i].file);
    free(terms);
    return status;
}

static cox_status draw(const cox_options *options, const char *output)
{
    const char *like = options->like;
    if (!like || !cox_options_is_given(options, "--seed"))
        return cox_fail(COX_INVALID, "random needs --like FILE and --seed N");
    term t = {0};
    cox_status status = read_term(like, output, &t);
    float *data = status == COX_OK ? malloc((size_t)t.vector->width * sizeof *data) : NULL;
    if (status == COX_OK && !data) status = cox_no_memory("vectors");
    if (status == COX_OK) {
        cox_vector_random((uint64_t)options->seed, (double)t.vector->norm, t.vector->width, data);
        json_t *json = json_pack("{s:s, s:I, s:s, s:s}", "made", "random", "seed", (json_int_t)options->seed,
                                 "like_file", t.file->path, "like", t.vector->name);
        status = write_made(output, options->facts.name, *t.vector, data, json);
    }
    free(data);
    cox_vector_file_free(t.file);
    return status;
}

cox_status cox_command_vector(const cox_options *options)
{
    const char *verb = options->plain.n ? options->plain.items[0] : "", *output = options->output;
    if (strcmp(verb, "show") == 0) return show(options);
    bool is_random = strcmp(verb, "random") == 0, is_combine = strcmp(verb, "combine") == 0;
    bool is_import = strcmp(verb, "import") == 0, is_export = strcmp(verb, "export") == 0;
    if (!is_random && !is_combine && !is_import && !is_export) {
        static const char verbs[] = "show, import, export, combine, random";
        cox_nearest nearest = cox_nearest_to(verb, strlen(verb));
        cox_nearest_offer_words(&nearest, verbs, ", ");
        return cox_fail(COX_INVALID, "\"%s\" is not one of %s%s (see coxswain vector --help)", verb, verbs,
                        nearest.hint);
    }
    if (!output) return cox_fail(COX_INVALID, "%s needs --output FILE", verb);
    if (is_random ? options->plain.n != 1 : is_combine ? options->plain.n < 2 : options->plain.n != 2) {
        return cox_fail(COX_INVALID, "%s: wrong number of files (see coxswain vector --help)", verb);
    }
    if (is_random) return draw(options, output);
    if (is_combine) return combine(options, output);
    return is_import ? import_file(options, output) : export_file(options, output);
}
