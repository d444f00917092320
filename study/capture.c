/* Every coordinator writes its own shards; rank 0 writes index.json last, so that a folder with an index is
 * whole. */
#include "study/capture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "study/choices.h"
#include "run/identity.h"
#include "run/memory.h"
#include "run/outputs.h"
#include "steering/vector.h"

static const char index_name[] = "index.json";

/* --- What is asked --- */

static cox_status add_site(unsigned *sites, const char *word, size_t n)
{
    for (cox_site site = 0; site < COX_N_SITES; site++) {
        const char *name = cox_site_name(site);
        if (strlen(name) != n || memcmp(name, word, n) != 0) continue;
        *sites |= 1u << site;
        return COX_OK;
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)n, word);
    return cox_site_unknown("--sites", name);
}

static cox_status read_sites(unsigned *sites, const cox_capture_options *options)
{
    const char *text = options->sites;
    if (!text) text = options->has_routes ? "" : "resid_post";
    if (strcmp(text, "all") == 0) {
        *sites = (1u << COX_N_SITES) - 1;
        return COX_OK;
    }
    cox_status status = COX_OK;
    for (const char *word = text; *word && status == COX_OK;) {
        size_t n = strcspn(word, ",");
        status = add_site(sites, word, n);
        word += n + (word[n] == ',');
    }
    return status;
}

/* What needs no model. */
static cox_status read_question(cox_capture *c)
{
    const cox_capture_options *options = c->options;
    c->is_routed = !options->is_counterfactual && !options->has_statistics;
    cox_status status = read_sites(&c->sites, options);
    if (status != COX_OK) return status;
    bool has_experts = c->sites & 1u << COX_SITE_EXPERT_OUT;
    if (options->experts && !has_experts)
        return cox_fail(COX_INVALID, "--experts %s: only the site expert_out has experts", options->experts);
    if (options->is_counterfactual && !has_experts)
        return cox_fail(COX_INVALID,
                        "--counterfactual is about the site expert_out, which is not among --sites");
    if (options->has_routes && options->has_statistics)
        return cox_fail(COX_INVALID,
                        "--routes cannot be used with --statistics; `coxswain routes` counts them");
    if (options->has_statistics && c->sites == 0) return cox_fail(COX_INVALID, "--statistics needs --sites");
    return cox_choose_positions("--positions", options->positions, "all", &c->from_end, &c->n_positions);
}

static bool is_there(const cox_capture *c, cox_site site, int32_t layer)
{
    return (c->sites & 1u << site) && (!cox_site_needs_experts(site) || c->run->model->layers[layer].is_moe);
}

/* The columns, by layer, then site. */
static cox_status make_columns(cox_capture *c)
{
    const cox_model *model = c->run->model;
    int32_t top_k = model->router.top_k;
    c->columns = calloc((size_t)c->n_layers * COX_N_SITES + 1, sizeof *c->columns);
    c->column_of = malloc((size_t)model->n_layers * COX_N_SITES * sizeof *c->column_of);
    c->site_mask = calloc((size_t)model->n_layers, 1);
    if (!c->columns || !c->column_of || !c->site_mask) return cox_no_memory("a capture");
    memset(c->column_of, -1, (size_t)model->n_layers * COX_N_SITES * sizeof *c->column_of);
    for (int32_t i = 0; i < c->n_layers; i++) {
        for (cox_site site = 0; site < COX_N_SITES; site++) {
            int32_t layer = c->layers[i], n_units = 1;
            if (!is_there(c, site, layer)) continue;
            if (site == COX_SITE_EXPERT_OUT)
                n_units = c->is_routed && top_k < c->n_experts ? top_k : c->n_experts;
            c->columns[c->n_columns] =
                (cox_capture_column){.site = site,
                                     .layer = layer,
                                     .n_units = n_units,
                                     .width = cox_site_width(site, model->d_model, model->router.n_experts),
                                     .first = c->n_floats,
                                     .first_unit = c->n_units};
            c->n_units += (size_t)n_units;
            c->n_floats += (size_t)n_units * (size_t)c->columns[c->n_columns].width;
            c->column_of[layer * COX_N_SITES + (int32_t)site] = c->n_columns++;
            c->site_mask[layer] |= (uint8_t)(1u << site);
        }
    }
    return COX_OK;
}

static cox_status choose_experts(cox_capture *c)
{
    const cox_model *model = c->run->model;
    int32_t n_experts = model->router.n_experts;
    const char *text = c->options->experts ? c->options->experts : "all";
    cox_status status = cox_choose("--experts", "expert", text, n_experts, &c->experts, &c->n_experts);
    if (status != COX_OK) return status;
    c->unit_of = malloc(((size_t)n_experts + 1) * sizeof *c->unit_of);
    c->expert_mask = calloc((size_t)model->n_layers * (size_t)n_experts + 1, 1);
    if (!c->unit_of || !c->expert_mask) return cox_no_memory("a capture");
    for (int32_t e = 0; e < n_experts; e++) c->unit_of[e] = -1;
    for (int32_t i = 0; i < c->n_experts; i++) {
        c->unit_of[c->experts[i]] = i;
        for (int32_t l = 0; l < model->n_layers; l++) c->expert_mask[l * n_experts + c->experts[i]] = 1;
    }
    return COX_OK;
}

static cox_status choose(cox_capture *c)
{
    cox_status status = cox_choose("--layers", "layer", c->options->layers, c->run->model->n_layers,
                                   &c->layers, &c->n_layers);
    if (status == COX_OK) status = choose_experts(c);
    if (status == COX_OK) status = make_columns(c);
    if (status != COX_OK) return status;
    bool has_routes = false;
    for (int32_t i = 0; i < c->n_layers && c->options->has_routes; i++)
        has_routes |= c->run->model->layers[c->layers[i]].is_moe;
    if (c->n_columns > 0 || has_routes) return COX_OK;
    return cox_fail(COX_INVALID,
                    "--sites, --layers: there is nothing to capture: these layers have no experts");
}

/* --- What rows and statistics share --- */

cox_status cox_capture_run(cox_capture *c, const cox_pass_sink *sink, bool wants_routes, cox_status status)
{
    const cox_pass_question question = {.sites = c->site_mask,
                                        .experts = c->expert_mask,
                                        .is_counterfactual = c->options->is_counterfactual,
                                        .wants_routes = wants_routes,
                                        .from_end = c->from_end,
                                        .n_positions = c->n_positions};
    return cox_pass_run(c->run, &c->work, &question, c->blocks, c->options->inputs, sink, status);
}

char *cox_capture_path(const cox_capture *c, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", c->options->output, name) < 0 ? NULL : path;
}

cox_status cox_capture_check_room(double n_bytes)
{
    double available = (double)cox_memory_available_bytes();
    if (n_bytes < available) return COX_OK;
    return cox_fail(
        COX_NO_MEMORY,
        "what is to be captured takes %.1f GB on this rank, which has %.1f GB free: ask for fewer "
        "layers, experts or positions at a time",
        n_bytes * 1e-9, available * 1e-9);
}

/* --- The index --- */

static json_t *numbers(const int32_t *list, int32_t n, int32_t factor)
{
    json_t *json = json_array();
    for (int32_t i = 0; i < n; i++) json_array_append_new(json, json_integer(list[i] * factor));
    return json;
}

static json_t *sites_json(const cox_capture *c)
{
    json_t *json = json_array();
    for (cox_site site = 0; site < COX_N_SITES; site++) {
        if (c->sites & 1u << site) json_array_append_new(json, json_string(cox_site_name(site)));
    }
    return json;
}

static json_t *files_json(const cox_prompts *files, int32_t n)
{
    json_t *json = json_array();
    for (int32_t f = 0; f < n; f++) {
        json_array_append_new(json, json_pack("{s:s, s:s, s:i}", "file", files[f].path, "sha256",
                                              files[f].sha256, "prompts", (int)files[f].n));
    }
    return json;
}

/* Of each prompt its file, line and number of tokens, as three lists. */
static json_t *prompts_json(const cox_capture *c)
{
    json_t *file = json_array(), *line = json_array(), *tokens = json_array();
    for (int32_t i = 0; i < c->work.n; i++) {
        json_array_append_new(file, json_integer(c->work.prompts[i].file));
        json_array_append_new(line, json_integer(c->work.prompts[i].line));
        json_array_append_new(tokens, json_integer(c->work.prompts[i].n_tokens));
    }
    return json_pack("{s:o, s:o, s:o}", "file", file, "line", line, "tokens", tokens);
}

static cox_status make_index(const cox_capture *c, const cox_prompts *files, json_t *shards, json_t **index)
{
    const cox_capture_options *options = c->options;
    char tokenizer[65];
    cox_status status = cox_tokenizer_fingerprint(c->run->model->folder, tokenizer);
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o, s:o}", "version", 1, "made",
        options->has_statistics ? "statistics" : "rows", "model_fingerprint", c->run->model->fingerprint,
        "tokenizer_fingerprint", status == COX_OK ? tokenizer : "", "sites", sites_json(c), "layers",
        numbers(c->layers, c->n_layers, 1), "experts", numbers(c->experts, c->n_experts, 1), "positions",
        c->n_positions ? numbers(c->from_end, c->n_positions, -1) : json_string("all"), "counterfactual",
        (int)options->is_counterfactual, "routes", (int)options->has_routes, "raw",
        (int)c->run->options.prompting.is_raw, "files", files_json(files, c->work.n_files), "prompts",
        prompts_json(c));
    if (status == COX_OK && !json)
        status = cox_fail(COX_INVALID, "a file's name is not valid UTF-8, or memory ran out");
    if (json && shards) json_object_set(json, "shards", shards);
    if (status == COX_OK) status = cox_identity_add_prompting(json, &c->run->options.prompting);
    if (status == COX_OK) {
        *index = json;
    } else {
        json_decref(json);
    }
    return status;
}

static void print_json(FILE *file, const void *context)
{
    json_dumpf(context, file, 0);
    fputc('\n', file);
}

static cox_status write_index(const cox_capture *c, const cox_prompts *files, json_t *shards)
{
    json_t *index = NULL;
    char *path = cox_capture_path(c, index_name);
    cox_status status = path ? make_index(c, files, shards, &index) : cox_no_memory("a capture");
    if (status == COX_OK) status = cox_output_write("--output", path, print_json, index);
    json_decref(index);
    free(path);
    return status;
}

/* --- The pass --- */

static bool is_ours(const char *name)
{
    return strcmp(name, index_name) == 0 || strcmp(name, "statistics.safetensors") == 0 ||
           (strncmp(name, "rows-", 5) == 0 && strstr(name, ".safetensors"));
}

/* On rank 0. What an earlier capture has left there goes first: a reader must not take it for this one's. */
static cox_status open_folder(const cox_capture *c)
{
    cox_status status = cox_output_folder("--output", c->options->output, c->options->has_force);
    DIR *folder = status == COX_OK ? opendir(c->options->output) : NULL;
    for (const struct dirent *entry; folder && (entry = readdir(folder));) {
        if (is_ours(entry->d_name)) unlinkat(dirfd(folder), entry->d_name, 0);
    }
    if (folder) closedir(folder);
    return status;
}

/* Everything between the opened run and its close. Collective. */
static cox_status compute(cox_capture *c, cox_prompts *files, cox_captured *captured)
{
    const cox_capture_options *options = c->options;
    bool is_front = cox_run_is_front(c->run);
    json_t *shards = NULL;
    cox_status status = choose(c);
    if (status == COX_OK && is_front) {
        status = cox_prompts_read(files, options->inputs, options->n_inputs, options->limit, c->run);
    }
    if (status == COX_OK && is_front) status = open_folder(c);
    status = cox_run_agree(c->run, status);
    if (status == COX_OK) status = cox_pass_share(c->run, files, (int32_t)options->n_inputs, &c->work);
    if (status == COX_OK)
        status = options->has_statistics ? cox_capture_statistics(c) : cox_capture_rows(c, &shards);
    if (status == COX_OK) status = cox_run_agree(c->run, is_front ? write_index(c, files, shards) : COX_OK);
    *captured = (cox_captured){
        .n_prompts = c->work.n, .n_columns = c->n_columns, .n_shards = (int32_t)json_array_size(shards)};
    for (int32_t i = 0; i < c->work.n; i++) captured->n_rows += cox_capture_n_rows(c, &c->work.prompts[i]);
    json_decref(shards);
    return status;
}

cox_status cox_capture_create(cox_capture **capture, const cox_capture_options *options)
{
    cox_capture *c = calloc(1, sizeof *c);
    if (!c) return cox_no_memory("a capture");
    c->options = options;
    cox_status status = read_question(c);
    if (status == COX_OK) {
        *capture = c;
    } else {
        cox_capture_destroy(c);
    }
    return status;
}

cox_status cox_capture_compute(cox_capture *c, cox_run *run, cox_captured *captured)
{
    size_t n = c->options->n_inputs;
    cox_prompts *files = calloc(n, sizeof *files);
    cox_status status = cox_run_agree(run, files ? COX_OK : cox_no_memory("a capture"));
    c->run = run;
    if (status == COX_OK) status = compute(c, files, captured);
    for (size_t f = 0; files && f < n; f++) cox_prompts_free(&files[f]);
    free(files);
    c->run = NULL;
    return status;
}

void cox_capture_destroy(cox_capture *c)
{
    if (!c) return;
    cox_pass_work_free(&c->work);
    free(c->layers);
    free(c->experts);
    free(c->from_end);
    free(c->columns);
    free(c->column_of);
    free(c->unit_of);
    free(c->site_mask);
    free(c->expert_mask);
    free(c->blocks);
    free(c);
}
