/* coxswain inspect: what a model is and what each of N ranks would hold, from headers alone, without MPI. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/progress.h"
#include "cli/commands.h"
#include "run/footprint.h"
#include "run/memory.h"
#include "run/run.h"

typedef struct inspection {
    cox_run_options of_run;
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

static void print_lists(const inspection *in)
{
    printf("\nexperts of each rank, layer by layer\n");
    for (int32_t r = in->layout.first_expert_rank; r < in->layout.size; r++) {
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

static void print_placement(const inspection *in, const cox_options *options)
{
    int32_t least = INT32_MAX, most = 0;
    for (int32_t r = in->layout.first_expert_rank; r < in->layout.size; r++) {
        for (int32_t l = 0; l < in->model->n_layers; l++) {
            const cox_expert_id *ids = NULL;
            if (!in->model->layers[l].is_moe) continue;
            int32_t n = cox_placement_local(in->placement, l, r, &ids);
            least = n < least ? n : least;
            most = n > most ? n : most;
        }
    }
    printf("placement    %s; ", options->placement ? options->placement : "round robin");
    if (least < most) printf("%d to ", least);
    printf("%d expert%s of each layer on a rank%s\n", most, most == 1 ? "" : "s",
           options->lists_ranks ? "" : " (--all-ranks lists them)");
}

static void print_cache(const inspection *in, const cox_options *options)
{
    const cox_engine_options engine = cox_run_engine_options(&in->of_run, in->layout.size);
    size_t token_bytes = 0;
    int64_t n = cox_engine_kv_tokens(in->model, &engine, &token_bytes);
    char each[32], all[32];
    cox_format_bytes(each, sizeof each, token_bytes);
    cox_format_bytes(all, sizeof all, (uint64_t)n * token_bytes);
    printf("KV cache     %s (%zu bytes) a token; %" PRId64 " tokens in the %s of each coordinator%s\n", each,
           token_bytes, n, all, options->kv_memory_bytes ? "" : " (--kv-memory)");
}

/* --- Ranks and nodes that are alike share a line --- */

/* One rank, or one node: what its line says. */
typedef struct line {
    int32_t n_coordinators, n_hosts, n_experts, n_alike;
    uint64_t parts[7]; /* trunk, experts, KV cache, activations, exchange, base, total */
} line;

static line rank_line(const inspection *in, int32_t rank)
{
    cox_footprint f =
        cox_footprint_predict(in->model, in->kernels, in->placement, &in->layout, &in->of_run, rank);
    return (line){.n_coordinators = rank < in->layout.n_coordinators,
                  .n_hosts = cox_layout_hosts_experts(&in->layout, rank),
                  .n_experts = f.n_experts,
                  .parts = {f.trunk, f.experts, f.kv_cache, f.activations, f.exchange, f.base,
                            cox_footprint_total(&f)}};
}

static bool is_alike(const line *a, const line *b)
{
    return a->n_coordinators == b->n_coordinators && a->n_hosts == b->n_hosts &&
           a->n_experts == b->n_experts && memcmp(a->parts, b->parts, sizeof a->parts) == 0;
}

/* The first rank or node that is like number i; i itself when there is none or all are to be listed. */
static int32_t first_alike(const line *lines, int32_t i, bool lists_all)
{
    int32_t first = 0;
    while (first < i && (lists_all || lines[first].n_alike == 0 || !is_alike(&lines[first], &lines[i])))
        first++;
    return first;
}

/* n_alike of the first of each kind; 0 of the others. */
static void count_alike(line *lines, int32_t n, bool lists_all)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t first = first_alike(lines, i, lists_all);
        lines[i].n_alike = 0;
        lines[first].n_alike++;
    }
}

/* Which they are, behind the line of the first: "1-7,9". */
static void print_which(const line *lines, int32_t n, int32_t first)
{
    const char *separator = "  ";
    for (int32_t i = first; i < n; i++) {
        if (!is_alike(&lines[i], &lines[first])) continue;
        int32_t last = i;
        while (last + 1 < n && is_alike(&lines[last + 1], &lines[first])) last++;
        printf(last > i ? "%s%d-%d" : "%s%d", separator, i, last);
        separator = ",";
        i = last;
    }
}

static void print_line(const line *lines, int32_t n, int32_t i, bool lists_all)
{
    const line *l = &lines[i];
    printf("%5d  %-12s %8d", lists_all ? i : l->n_alike,
           !l->n_coordinators ? "worker"
           : l->n_hosts       ? "both"
                              : "coordinator",
           l->n_experts);
    for (size_t p = 0; p < sizeof l->parts / sizeof *l->parts; p++) {
        char text[32];
        cox_format_bytes(text, sizeof text, l->parts[p]);
        printf(" %11s", text);
    }
    if (!lists_all && n > 1) print_which(lines, n, i);
    printf("\n");
}

static void print_ranks(const inspection *in, line *lines, bool lists_all)
{
    int32_t n = in->layout.size;
    count_alike(lines, n, lists_all);
    printf("\nmemory of each rank (%d thread%s each, kernels %s)\n", in->layout.n_threads,
           in->layout.n_threads == 1 ? "" : "s", cox_kernels_name(in->kernels));
    printf("%5s  %-12s %8s %11s %11s %11s %11s %11s %11s %11s%s\n", lists_all ? "rank" : "ranks", "role",
           "experts", "trunk", "experts", "KV cache", "activations", "exchange", "base", "total",
           lists_all || n == 1 ? "" : "  which");
    uint64_t all = 0;
    for (int32_t r = 0; r < n; r++) {
        all += lines[r].parts[6];
        if (lines[r].n_alike > 0) print_line(lines, n, r, lists_all);
    }
    char all_text[32], free_text[32];
    cox_format_bytes(all_text, sizeof all_text, all);
    cox_format_bytes(free_text, sizeof free_text, cox_memory_available_bytes());
    printf("all ranks %s; available on this machine %s\n", all_text, free_text);
}

/* Node k holds ranks first_of_node(k) to first_of_node(k + 1) - 1. */
static int32_t first_of_node(const inspection *in, const cox_options *options, int64_t k)
{
    return (int32_t)((k * in->layout.size + options->n_nodes - 1) / options->n_nodes);
}

/* As the memory check of a run: the trunk is mapped once by the ranks of a machine. */
static line node_line(const inspection *in, const cox_options *options, const line *ranks, int32_t k)
{
    line node = {.n_coordinators = 0};
    uint64_t trunk = 0;
    for (int32_t r = first_of_node(in, options, k); r < first_of_node(in, options, k + 1); r++) {
        node.n_coordinators += ranks[r].n_coordinators;
        node.n_hosts += ranks[r].n_hosts;
        node.n_experts += ranks[r].n_experts;
        node.parts[6] += ranks[r].parts[6] - ranks[r].parts[0];
        if (ranks[r].parts[0] > trunk) trunk = ranks[r].parts[0];
    }
    node.parts[6] += trunk;
    return node;
}

static void print_nodes(const cox_options *options, line *nodes)
{
    int32_t n = (int32_t)options->n_nodes;
    bool lists_all = options->lists_ranks;
    count_alike(nodes, n, lists_all);
    printf("\nmemory of each node (ranks in order; a trunk that several ranks of a node map counts once)\n");
    printf("%5s  %12s %12s %8s %11s%s\n", lists_all ? "node" : "nodes", "coordinators", "expert ranks",
           "experts", "total", lists_all ? "" : "  which");
    for (int32_t k = 0; k < n; k++) {
        if (nodes[k].n_alike == 0) continue;
        char text[32];
        cox_format_bytes(text, sizeof text, nodes[k].parts[6]);
        printf("%5d  %12d %12d %8d %11s", lists_all ? k : nodes[k].n_alike, nodes[k].n_coordinators,
               nodes[k].n_hosts, nodes[k].n_experts, text);
        if (!lists_all) print_which(nodes, n, k);
        printf("\n");
    }
}

/* Of all ranks, and of the nodes if there are any. [out] malloc'ed. */
static cox_status take_lines(const inspection *in, const cox_options *options, line **ranks, line **nodes)
{
    *ranks = calloc((size_t)in->layout.size, sizeof **ranks);
    *nodes = calloc((size_t)options->n_nodes + 1, sizeof **nodes);
    if (!*ranks || !*nodes) return cox_no_memory("a table");
    for (int32_t r = 0; r < in->layout.size; r++) (*ranks)[r] = rank_line(in, r);
    for (int32_t k = 0; k < options->n_nodes; k++) (*nodes)[k] = node_line(in, options, *ranks, k);
    return COX_OK;
}

static json_t *nodes_json(const inspection *in, const cox_options *options, const line *nodes)
{
    json_t *list = json_array();
    for (int32_t k = 0; k < options->n_nodes; k++) {
        json_t *ranks = json_array();
        for (int32_t r = first_of_node(in, options, k); r < first_of_node(in, options, k + 1); r++)
            json_array_append_new(ranks, json_integer(r));
        json_array_append_new(list,
                              json_pack("{s:i, s:o, s:i, s:I}", "node", (int)k, "ranks", ranks, "n_experts",
                                        nodes[k].n_experts, "bytes", (json_int_t)nodes[k].parts[6]));
    }
    return list;
}

static cox_status print_json(const inspection *in, const cox_options *options, const line *nodes)
{
    const cox_engine_options engine = cox_run_engine_options(&in->of_run, in->layout.size);
    size_t token_bytes = 0;
    int64_t n_tokens = cox_engine_kv_tokens(in->model, &engine, &token_bytes);
    json_t *ranks = json_array();
    for (int32_t r = 0; r < in->layout.size; r++) {
        cox_footprint f =
            cox_footprint_predict(in->model, in->kernels, in->placement, &in->layout, &in->of_run, r);
        json_array_append_new(ranks, rank_json(in, &f, r));
    }
    json_t *json =
        json_pack("{s:o, s:i, s:s, s:{s:I, s:I}, s:o}", "model", model_json(in->model), "threads",
                  in->layout.n_threads, "kernels", cox_kernels_name(in->kernels), "kv_cache",
                  "bytes_per_token", (json_int_t)token_bytes, "tokens", (json_int_t)n_tokens, "ranks", ranks);
    if (json && options->n_nodes > 0) json_object_set_new(json, "nodes", nodes_json(in, options, nodes));
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (!text) return cox_no_memory("a table");
    puts(text);
    free(text);
    return COX_OK;
}

static cox_status print(const inspection *in, const cox_options *options)
{
    line *ranks = NULL, *nodes = NULL;
    cox_status status = take_lines(in, options, &ranks, &nodes);
    if (status == COX_OK && options->is_json) {
        status = print_json(in, options, nodes);
    } else if (status == COX_OK) {
        print_model(in->model);
        print_placement(in, options);
        print_cache(in, options);
        if (options->lists_ranks) print_lists(in);
        print_ranks(in, ranks, options->lists_ranks);
        if (options->n_nodes > 0) print_nodes(options, nodes);
    }
    free(ranks);
    free(nodes);
    return status;
}

cox_status cox_command_inspect(const cox_options *options)
{
    inspection in = {.of_run = cox_options_of_run(options)};
    int32_t size = options->ranks > 0 ? (int32_t)options->ranks : 1;
    if (options->n_nodes > size)
        return cox_fail(COX_INVALID, "--nodes %d: there are only %d ranks; give --ranks too",
                        (int)options->n_nodes, (int)size);
    int32_t n_local =
        (int32_t)(options->n_nodes > 0 ? (size + options->n_nodes - 1) / options->n_nodes : size);
    cox_status status = cox_layout_make(&in.layout, &in.of_run, size, threads_per_rank(options, n_local));
    if (status == COX_OK) status = cox_model_open(&in.model, options->model);
    if (status == COX_OK) status = cox_kernels_select(&in.kernels, options->kernel);
    if (status == COX_OK)
        status = cox_run_read_placement(&in.placement, in.model, &in.layout, options->placement);
    if (status == COX_OK) cox_run_warn_of_idle(in.model, &in.layout, options->placement);
    if (status == COX_OK) status = print(&in, options);
    cox_placement_destroy(in.placement);
    cox_model_close(in.model);
    return status;
}
