/* Opening, loading and closing a run; see run.h for the order. */
#include "run/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "run/identity.h"
#include "run/memory.h"
#include "run/table.h"
#include "cluster/drain.h"
#include "model/mapping.h"

cox_status cox_run_agree(cox_run *run, cox_status mine)
{
    return cox_cluster_agree(run->cluster, mine);
}

static void run_release(cox_run *run)
{
    cox_exchange_destroy(run->exchange);
    cox_worker_destroy(run->worker);
    cox_arena_destroy(run->arena);
    cox_placement_destroy(run->placement);
    cox_model_close(run->model);
    cox_cluster_destroy(run->cluster);
    cox_chat_process_stop(run->chat);
    *run = (cox_run){.options = run->options};
}

/* Before MPI: afterwards no process may be made. Which ranks coordinate is known later; others let theirs go.
 */
static cox_status start_chat_process(cox_run *run)
{
    const cox_run_options *o = &run->options;
    bool has_chats = o->renders_chats && !o->prompting.is_raw;
    return has_chats ? cox_chat_process_start(&run->chat, o->prompting.python) : COX_OK;
}

static void on_chat_wait(void *cluster)
{
    cox_cluster_keepalive(cluster, "rendering chats");
}

static void keep_chat_process(cox_run *run)
{
    if (run->chat && cox_cluster_is_coordinator(run->cluster)) {
        cox_chat_process_on_wait(run->chat, on_chat_wait, run->cluster);
    } else {
        cox_chat_process_stop(run->chat);
        run->chat = NULL;
    }
}

/* Threads that were asked for; by themselves ranks share the cores. */
static void warn_of_threads(const cox_run *run)
{
    int32_t n_local = cox_cluster_n_local(run->cluster), n_cores = cox_cluster_n_cores(run->cluster);
    if (run->rank != 0 || run->options.n_threads * n_local <= n_cores) return;
    fprintf(stderr,
            "warning: %d thread%s of each of %d rank%s for the %d core%s of %s wait for each other; without "
            "--threads each rank takes its share\n",
            (int)run->options.n_threads, run->options.n_threads == 1 ? "" : "s", (int)n_local,
            n_local == 1 ? "" : "s", (int)n_cores, n_cores == 1 ? "" : "s", cox_cluster_host(run->cluster));
}

static cox_status create_cluster(cox_run *run)
{
    const cox_run_options *options = &run->options;
    cox_cluster_options cluster = cox_cluster_options_defaults();
    cluster.n_coordinators = options->n_coordinators;
    cluster.experts_on_all = options->experts_on_all;
    cluster.n_threads = options->n_threads;
    cox_status status = cox_cluster_create(&run->cluster, &cluster);
    if (status != COX_OK) return status;
    run->rank = cox_cluster_rank(run->cluster);
    char owner[128];
    snprintf(owner, sizeof owner, "rank %d on %s", (int)run->rank, cox_cluster_host(run->cluster));
    cox_mapping_set_owner(owner, cox_launch_is_inside() ? cox_launch_wait_read : NULL);
    int32_t size = cox_cluster_size(run->cluster);
    if (options->n_ranks > 0 && options->n_ranks != size) {
        return cox_fail(COX_INVALID,
                        "--ranks %d, but the launch has %d ranks; leave --ranks out or make them equal",
                        (int)options->n_ranks, size);
    }
    warn_of_threads(run);
    return cox_layout_make(&run->layout, options, size, cox_cluster_n_threads(run->cluster));
}

/* All ranks must see the same model, not merely one of the same name. Collective. */
static cox_status compare_models(cox_run *run)
{
    cox_model_identity mine, *all = NULL;
    size_t *offsets = NULL;
    cox_status status =
        cox_run_agree(run, cox_identity_of_model(&mine, run->model, run->options.prompting.template_name));
    if (status != COX_OK) return status;
    status = cox_cluster_gather(run->cluster, &mine, sizeof mine, (void **)&all, &offsets);
    for (int32_t rank = 1; rank < run->layout.size && status == COX_OK && all; rank++) {
        const char *what = strcmp(all[rank].fingerprint, all[0].fingerprint)
                               ? "another config.json, or other tensors,"
                           : strcmp(all[rank].weights, all[0].weights) ? "other weights"
                           : strcmp(all[rank].texts, all[0].texts)
                               ? "another tokenizer, chat template or generation_config.json"
                               : NULL;
        if (!what) continue;
        status =
            cox_fail(COX_BAD_FILE, "%s: rank %d sees %s there than rank 0; give all machines the same folder",
                     run->options.model, (int)rank, what);
    }
    free(all);
    free(offsets);
    return cox_run_agree(run, status);
}

static cox_status open_model(cox_run *run)
{
    cox_status status = cox_model_open(&run->model, run->options.model);
    if (status == COX_OK) status = cox_kernels_select(&run->kernels, run->options.kernel);
    status = cox_run_agree(run, status);
    return status != COX_OK ? status : compare_models(run);
}

/* --- Placement --- */

static cox_status build_placement(cox_placement **placement, const cox_model *model, const cox_layout *layout,
                                  const char *path, const char *text, size_t n)
{
    int32_t *ranks = malloc((size_t)layout->n_expert_ranks * sizeof *ranks);
    uint8_t *is_moe = malloc((size_t)model->n_layers);
    cox_status status = ranks && is_moe ? COX_OK : cox_no_memory("the placement");
    for (int32_t i = 0; i < layout->n_expert_ranks && status == COX_OK; i++)
        ranks[i] = layout->first_expert_rank + i;
    for (int32_t l = 0; l < model->n_layers && status == COX_OK; l++) is_moe[l] = model->layers[l].is_moe;
    if (status == COX_OK) {
        status = path ? cox_placement_parse(placement, text, n, path, model->n_layers, is_moe,
                                            model->router.n_experts, ranks, layout->n_expert_ranks)
                      : cox_placement_round_robin(placement, model->n_layers, is_moe, model->router.n_experts,
                                                  ranks, layout->n_expert_ranks);
    }
    free(ranks);
    free(is_moe);
    return status;
}

cox_status cox_run_read_placement(cox_placement **placement, const cox_model *model, const cox_layout *layout,
                                  const char *path)
{
    char *text = NULL;
    size_t n = 0;
    cox_status status = path ? cox_file_read(path, SIZE_MAX, &text, &n) : COX_OK;
    if (status == COX_OK) status = build_placement(placement, model, layout, path, text, n);
    free(text);
    return status;
}

void cox_run_warn_of_idle(const cox_model *model, const cox_layout *layout, const char *path)
{
    int32_t n_experts = model->router.n_experts;
    if (path || layout->n_expert_ranks <= n_experts) return;
    fprintf(
        stderr,
        "warning: %d ranks for the %d experts of a layer: in each layer %d of them wait; fewer ranks with "
        "more threads would not, nor with a --placement that puts experts on several ranks\n",
        (int)layout->n_expert_ranks, (int)n_experts, (int)(layout->n_expert_ranks - n_experts));
}

/* Rank 0 reads the file, so that all ranks hold the same text. Collective. */
static cox_status make_placement(cox_run *run)
{
    const char *path = run->options.placement;
    void *text = NULL;
    size_t n = 0;
    cox_status status = COX_OK;
    if (path) {
        char *bytes = NULL;
        if (run->rank == 0) status = cox_file_read(path, SIZE_MAX, &bytes, &n);
        status = cox_run_agree(run, status);
        if (status != COX_OK) return status;
        text = bytes;
        status = cox_cluster_broadcast(run->cluster, 0, &text, &n);
    }
    if (status == COX_OK) status = build_placement(&run->placement, run->model, &run->layout, path, text, n);
    free(text);
    status = cox_run_agree(run, status);
    if (status == COX_OK && run->rank == 0) cox_run_warn_of_idle(run->model, &run->layout, path);
    return status;
}

/* --- Memory --- */

/* What rank 0 needs to know of each rank. */
typedef struct need {
    char host[64];
    uint64_t own, shared, available; /* bytes; shared: mapped trunk, once per machine */
} need;

/* One machine's ranks together; the machine of `rank`. */
static cox_status check_machine(const need *needs, int32_t n, int32_t rank)
{
    uint64_t wanted = 0, shared = 0;
    int32_t n_ranks = 0;
    for (int32_t r = 0; r < n; r++) {
        if (strcmp(needs[r].host, needs[rank].host) != 0) continue;
        if (r < rank) return COX_OK; /* checked already */
        wanted += needs[r].own;
        if (needs[r].shared > shared) shared = needs[r].shared;
        n_ranks++;
    }
    wanted += shared;
    if (wanted <= needs[rank].available) return COX_OK;
    char wanted_text[32], available_text[32];
    cox_format_bytes(wanted_text, sizeof wanted_text, wanted);
    cox_format_bytes(available_text, sizeof available_text, needs[rank].available);
    return cox_fail(COX_NO_MEMORY,
                    "%s: the %d ranks there need %s (%llu bytes) but only %s (%llu bytes) are available; "
                    "use more machines, a smaller --kv-memory, or see coxswain inspect",
                    needs[rank].host, n_ranks, wanted_text, (unsigned long long)wanted, available_text,
                    (unsigned long long)needs[rank].available);
}

/* Before anything is loaded. Collective. */
static cox_status check_memory(cox_run *run)
{
    run->footprint = cox_footprint_predict(run->model, run->kernels, run->placement, &run->layout,
                                           &run->options, run->rank);
    need mine = {.shared = run->footprint.trunk, .available = cox_memory_available_bytes()};
    uint64_t total = cox_footprint_total(&run->footprint), resident = cox_memory_resident_bytes();
    mine.own = total - run->footprint.trunk;
    mine.own -= mine.own < resident ? mine.own : resident; /* held already */
    snprintf(mine.host, sizeof mine.host, "%s", cox_cluster_host(run->cluster));
    void *all = NULL;
    size_t *offsets = NULL;
    cox_status status = cox_cluster_gather(run->cluster, &mine, sizeof mine, &all, &offsets);
    for (int32_t rank = 0; rank < run->layout.size && status == COX_OK && all; rank++) {
        status = check_machine(all, run->layout.size, rank);
    }
    free(all);
    free(offsets);
    return cox_run_agree(run, status);
}

/* --- Loading --- */

typedef struct loading {
    cox_cluster *cluster;
    cox_progress bar;
    uint64_t before, total; /* bytes of earlier parts, and of all */
} loading;

static const double TURN_S = 0.3, MOST_TURNS_S = 3;

static void on_loaded(void *context, size_t done_bytes, size_t total_bytes)
{
    loading *l = context;
    (void)total_bytes;
    cox_cluster_keepalive(l->cluster, "loading weights");
    if (cox_drain_is_wanted()) { /* the first rank that says so ends the others before they do */
        double turn_s = TURN_S * cox_cluster_rank(l->cluster);
        if (turn_s > 0) usleep((useconds_t)(1e6 * (turn_s < MOST_TURNS_S ? turn_s : MOST_TURNS_S)));
        cox_cluster_abort(l->cluster, cox_fail(COX_REQUEUE, "stopped by a signal while loading"));
    }
    cox_progress_update(&l->bar, l->before + done_bytes, l->total, NULL);
}

static cox_status load(cox_run *run)
{
    bool is_host = cox_layout_hosts_experts(&run->layout, run->rank);
    loading l = {.cluster = run->cluster, .total = run->footprint.trunk + run->footprint.experts};
    cox_progress_style style = run->rank == 0 && l.total > 0 ? run->options.progress : COX_PROGRESS_NONE;
    cox_progress_begin(&l.bar, run->layout.size > 1 ? "loading weights (rank 0)" : "loading weights", style,
                       COX_PROGRESS_BYTES);
    cox_status status = cox_arena_create(&run->arena, "load", 0);
    if (status == COX_OK && cox_cluster_is_coordinator(run->cluster)) {
        status = cox_model_load_trunk(run->model, run->arena, on_loaded, &l, &run->trunk);
        l.before = run->footprint.trunk;
    }
    if (status == COX_OK && is_host) {
        status = cox_worker_create(&run->worker, run->model, run->kernels, run->cluster, run->placement,
                                   on_loaded, &l);
    }
    bool is_worth_a_line = style == COX_PROGRESS_BAR || cox_now_s() - l.bar.started_s > 5.0;
    if (status == COX_OK && is_worth_a_line) cox_progress_end(&l.bar, l.total, l.total, NULL);
    return cox_run_agree(run, status);
}

static cox_status create_exchange(cox_run *run)
{
    cox_exchange_options exchange = cox_run_exchange_options(&run->options, run->model, run->layout.size);
    exchange.placement = run->placement;
    exchange.host = cox_worker_host(run->worker);
    return cox_exchange_create(&run->exchange, run->cluster, &exchange); /* agrees by itself */
}

cox_status cox_run_open(cox_run *run, const cox_run_options *options)
{
    *run = (cox_run){.options = *options};
    cox_status status = start_chat_process(run);
    if (status == COX_OK) status = create_cluster(run);
    if (status == COX_OK) keep_chat_process(run);
    if (status == COX_OK) status = open_model(run);
    if (status == COX_OK) status = make_placement(run);
    if (status == COX_OK) status = check_memory(run);
    if (status == COX_OK) status = load(run);
    if (status == COX_OK) status = create_exchange(run);
    if (status != COX_OK) run_release(run);
    return status;
}

cox_status cox_run_create_engine(cox_run *run, const cox_engine_options *options,
                                 const cox_engine_events *events, cox_engine **engine)
{
    const cox_engine_options own = cox_run_engine_options(&run->options, run->layout.size);
    return cox_engine_create(engine, run->model, &run->trunk, run->kernels, run->cluster, run->placement,
                             run->exchange, options ? options : &own, events);
}

/* --- The end --- */

cox_status cox_run_finish(cox_run *run, cox_status mine)
{
    if (mine != COX_OK && run->layout.size > 1) cox_cluster_abort(run->cluster, mine);
    cox_status status = mine;
    run->resident_bytes = cox_memory_resident_bytes();
    if (cox_cluster_is_coordinator(run->cluster)) {
        cox_status finished = cox_exchange_finish(run->exchange, mine);
        if (status == COX_OK) status = finished;
    }
    bool serves = run->layout.size > 1 && run->worker;
    if (status == COX_OK && serves) status = cox_exchange_serve(run->exchange);
    if (status != COX_OK && run->layout.size > 1) cox_cluster_abort(run->cluster, status);
    return status;
}

static void print_ranks(cox_run *run)
{
    cox_rank_row mine = {.is_coordinator = cox_cluster_is_coordinator(run->cluster),
                         .n_experts = run->footprint.n_experts,
                         .predicted_bytes = cox_footprint_total(&run->footprint),
                         .resident_bytes = run->resident_bytes,
                         .counters = run->counters};
    snprintf(mine.host, sizeof mine.host, "%s", cox_cluster_host(run->cluster));
    cox_counters_add(&mine.counters, cox_exchange_counters(run->exchange));
    void *all = NULL;
    size_t *offsets = NULL;
    cox_status status = cox_cluster_gather(run->cluster, &mine, sizeof mine, &all, &offsets);
    if (status == COX_OK && all) {
        cox_table_print_ranks(stderr, all, run->layout.size, cox_exchange_name(run->exchange),
                              cox_kernels_name(run->kernels), run->layout.n_threads);
        const char *path = run->options.stats_file;
        if (path)
            status = cox_table_write_ranks(path, all, run->layout.size, cox_exchange_name(run->exchange),
                                           cox_kernels_name(run->kernels), run->layout.n_threads);
        if (status != COX_OK) fprintf(stderr, "warning: %s\n", cox_status_message());
    }
    free(all);
    free(offsets);
}

void cox_run_close(cox_run *run, bool wants_table)
{
    if (wants_table) print_ranks(run);
    run_release(run);
}
