/* coxswain inspect: what a model is and what each of N ranks would hold, from headers alone, without MPI. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/progress.h"
#include "cli/commands.h"
#include "cli/footprint.h"
#include "cli/memory.h"
#include "cli/run.h"

typedef struct inspection {
    cox_model *model;
    const cox_kernels *kernels;
    cox_layout layout;
    cox_placement *placement;
} inspection;

/* Threads of one rank as a run on this machine would have them. */
static int32_t threads_per_rank(const cox_options *options, int32_t size)
{
    if (options->threads > 0) return (int32_t)options->threads;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int32_t share = (int32_t)(cores / size);
    return share < 1 ? 1 : share;
}

static json_t *model_json(const cox_model *model)
{
    int32_t n_moe = 0;
    for (int32_t l = 0; l < model->n_layers; l++) n_moe += model->layers[l].is_moe;
    json_t *dims =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "n_layers", model->n_layers,
                  "n_moe_layers", n_moe, "d_model", model->d_model, "n_heads", model->n_heads, "n_kv_heads",
                  model->n_kv_heads, "head_dim", model->head_dim, "n_experts", model->router.n_experts,
                  "top_k", model->router.top_k, "d_expert", model->d_expert, "d_dense", model->d_dense,
                  "vocab_size", model->vocab_size, "max_positions", model->max_positions);
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:s}", "folder", model->folder, "family", model->family_name,
                     "dimensions", dims, "parameters", (json_int_t)cox_model_n_parameters(model),
                     "active_parameters", (json_int_t)cox_model_n_active_parameters(model), "fingerprint",
                     model->fingerprint);
}

static json_t *rank_json(const inspection *in, const cox_footprint *f, int32_t rank)
{
    json_t *experts = json_object();
    for (int32_t l = 0; l < in->model->n_layers; l++) {
        const cox_expert_id *ids = NULL;
        int32_t n = in->model->layers[l].is_moe ? cox_placement_local(in->placement, l, rank, &ids) : 0;
        if (n == 0) continue;
        char key[16];
        snprintf(key, sizeof key, "%d", l);
        json_t *list = json_array();
        for (int32_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i].value));
        json_object_set_new(experts, key, list);
    }
    json_t *bytes = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "trunk", (json_int_t)f->trunk, "experts",
                              (json_int_t)f->experts, "kv_cache", (json_int_t)f->kv_cache, "activations",
                              (json_int_t)f->activations, "exchange", (json_int_t)f->exchange, "base",
                              (json_int_t)f->base, "total", (json_int_t)cox_footprint_total(f));
    return json_pack("{s:i, s:b, s:i, s:o, s:o}", "rank", rank, "is_coordinator",
                     rank < in->layout.n_coordinators, "n_experts", f->n_experts, "experts", experts, "bytes",
                     bytes);
}

static cox_status print_json(const inspection *in, const cox_options *options)
{
    json_t *ranks = json_array();
    for (int32_t r = 0; r < in->layout.size; r++) {
        cox_footprint f =
            cox_footprint_predict(in->model, in->kernels, in->placement, &in->layout, options, r);
        json_array_append_new(ranks, rank_json(in, &f, r));
    }
    json_t *json = json_pack("{s:o, s:i, s:s, s:o}", "model", model_json(in->model), "threads",
                             in->layout.n_threads, "kernels", cox_kernels_name(in->kernels), "ranks", ranks);
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text) return cox_fail(COX_NO_MEMORY, "out of memory");
    puts(text);
    free(text);
    return COX_OK;
}

static void print_model(const cox_model *model)
{
    int32_t n_moe = 0, n_windows = 0;
    for (int32_t l = 0; l < model->n_layers; l++) {
        n_moe += model->layers[l].is_moe;
        n_windows += model->layers[l].window > 0;
    }
    printf("model        %s\n", model->folder);
    printf("family       %s, fingerprint %.16s\n", model->family_name, model->fingerprint);
    printf("layers       %d, %d of them with experts, %d with a sliding window\n", model->n_layers, n_moe,
           n_windows);
    printf("width        %d, %d heads (%d for keys and values) of %d\n", model->d_model, model->n_heads,
           model->n_kv_heads, model->head_dim);
    printf("experts      %d a layer of width %d, %d a token\n", model->router.n_experts, model->d_expert,
           model->router.top_k);
    printf("vocabulary   %d, context %d tokens\n", model->vocab_size, model->max_positions);
    printf("parameters   %" PRIu64 ", active per token %" PRIu64 "\n", cox_model_n_parameters(model),
           cox_model_n_active_parameters(model));
}

/* "0-3,7,9" [out] text. */
static void format_ids(char *text, size_t n, const cox_expert_id *ids, int32_t n_ids)
{
    size_t at = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < n_ids && at + 32 < n;) {
        int32_t last = i;
        while (last + 1 < n_ids && ids[last + 1].value == ids[last].value + 1) last++;
        int wrote = last > i
                        ? snprintf(text + at, n - at, "%s%d-%d", i ? "," : "", ids[i].value, ids[last].value)
                        : snprintf(text + at, n - at, "%s%d", i ? "," : "", ids[i].value);
        at += (size_t)wrote;
        i = last + 1;
    }
}

static void print_placement(const inspection *in, const cox_options *options)
{
    printf("\nplacement    %s; experts of each rank, layer by layer\n",
           options->placement ? options->placement : "round robin");
    for (int32_t r = 0; r < in->layout.size; r++) {
        if (!cox_layout_hosts_experts(&in->layout, r)) continue;
        for (int32_t l = 0; l < in->model->n_layers; l++) {
            if (!in->model->layers[l].is_moe) continue;
            const cox_expert_id *ids = NULL;
            int32_t n = cox_placement_local(in->placement, l, r, &ids);
            char text[256];
            format_ids(text, sizeof text, ids, n);
            printf("  rank %-4d layer %-4d %s\n", r, l, text);
        }
    }
}

static void print_bytes(const inspection *in, const cox_options *options)
{
    printf("\nmemory of each rank (%d thread%s each, kernels %s)\n", in->layout.n_threads,
           in->layout.n_threads == 1 ? "" : "s", cox_kernels_name(in->kernels));
    printf("%4s  %-12s %8s %11s %11s %11s %11s %11s %11s %11s\n", "rank", "role", "experts", "trunk",
           "experts", "KV cache", "activations", "exchange", "base", "total");
    uint64_t all = 0;
    for (int32_t r = 0; r < in->layout.size; r++) {
        cox_footprint f =
            cox_footprint_predict(in->model, in->kernels, in->placement, &in->layout, options, r);
        bool is_coordinator = r < in->layout.n_coordinators,
             is_host = cox_layout_hosts_experts(&in->layout, r);
        uint64_t parts[] = {
            f.trunk, f.experts, f.kv_cache, f.activations, f.exchange, f.base, cox_footprint_total(&f)};
        printf("%4d  %-12s %8d", r,
               !is_coordinator ? "worker"
               : is_host       ? "both"
                               : "coordinator",
               f.n_experts);
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char text[32];
            cox_format_bytes(text, sizeof text, parts[i]);
            printf(" %11s", text);
        }
        printf("\n");
        all += cox_footprint_total(&f);
    }
    char all_text[32], free_text[32];
    cox_format_bytes(all_text, sizeof all_text, all);
    cox_format_bytes(free_text, sizeof free_text, cox_memory_available_bytes());
    printf("all ranks %s; available on this machine %s\n", all_text, free_text);
}

static cox_status print(const inspection *in, const cox_options *options)
{
    if (options->is_json) return print_json(in, options);
    print_model(in->model);
    print_placement(in, options);
    print_bytes(in, options);
    return COX_OK;
}

cox_status cox_command_inspect(const cox_options *options)
{
    inspection in = {0};
    int32_t size = options->ranks > 0 ? (int32_t)options->ranks : 1;
    cox_status status = cox_layout_make(&in.layout, options, size, threads_per_rank(options, size));
    if (status == COX_OK) status = cox_model_open(&in.model, options->model);
    if (status == COX_OK) status = cox_kernels_select(&in.kernels, options->kernel);
    if (status == COX_OK)
        status = cox_run_read_placement(&in.placement, in.model, &in.layout, options->placement);
    if (status == COX_OK) status = print(&in, options);
    cox_placement_destroy(in.placement);
    cox_model_close(in.model);
    return status;
}
