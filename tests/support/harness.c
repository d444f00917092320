/* The test harness: assembly in the order of run/run.c, events collected into results. */
#include "tests/support/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/kv_cache.h"
#include "steering/row_tag.h"

struct harness {
    cox_cluster *cluster;
    cox_model *model;
    const cox_kernels *kernels;
    cox_placement *placement;
    cox_arena *arena;
    cox_trunk_weights trunk;
    cox_worker *worker;
    cox_exchange *exchange;
    cox_engine *engine;
    harness_result *results;
    harness_config config;
};

harness_config harness_config_defaults(const char *folder)
{
    return (harness_config){
        .folder = folder, .exchange = COX_EXCHANGE_AUTO, .engine = cox_engine_options_defaults()};
}

size_t harness_page_bytes(const char *folder)
{
    cox_model *model = NULL;
    if (cox_model_open(&model, folder) != COX_OK) {
        fprintf(stderr, "%s\n", cox_status_message());
        abort();
    }
    cox_kv_shape shape = {
        .n_layers = model->n_layers, .n_kv_heads = model->n_kv_heads, .head_dim = model->head_dim};
    cox_model_close(model);
    return cox_kv_page_bytes(&shape);
}

void harness_result_free(harness_result *result)
{
    free(result->tokens);
    free(result->logits);
    free(result->hits);
    *result = (harness_result){0};
}

static uint64_t mix_in(uint64_t hash, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return hash;
}

uint64_t harness_hash_hits(const harness_result *result, int32_t *n_touched)
{
    uint64_t hash = 14695981039346656037u;
    *n_touched = 0;
    for (int32_t i = 0; i < result->n_hits; i++) {
        const cox_steer_hits *hit = &result->hits[i];
        const int32_t places[] = {hit->intervention, hit->layer, hit->expert, hit->n_prompt,
                                  hit->n_generated};
        const double norms[] = {hit->norm_there, hit->norm_added};
        hash = mix_in(mix_in(hash, places, sizeof places), norms, sizeof norms);
        *n_touched += hit->n_prompt + hit->n_generated;
    }
    return hash;
}

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)logprobs;
    harness_result *result = &((harness *)context)->results[id];
    result->tokens[result->n_tokens++] = token;
    return false;
}

static void on_logits(void *context, uint64_t id, int32_t position, const float *logits)
{
    harness *h = context;
    size_t vocab_size = (size_t)h->model->vocab_size;
    memcpy(h->results[id].logits + (size_t)position * vocab_size, logits, vocab_size * sizeof *logits);
    h->results[id].n_logits = position + 1;
}

static void on_rows(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *row)
{
    const harness_config *config = &((harness *)context)->config;
    config->on_rows(config->rows_context, id, site, layer, expert, position, row);
}

static void on_done(void *context, uint64_t id, const cox_sequence_result *done)
{
    harness_result *result = &((harness *)context)->results[id];
    result->finish = done->finish;
    result->n_cached = done->n_cached;
    memcpy(result->digest, done->digest, sizeof result->digest);
    if (done->n_hits == 0) return;
    result->n_hits = done->n_hits;
    result->hits = calloc((size_t)done->n_hits, sizeof *result->hits);
    if (!result->hits) abort();
    memcpy(result->hits, done->hits, (size_t)done->n_hits * sizeof *result->hits);
}

static cox_status make_placement(harness *h, const char *text)
{
    const cox_model *model = h->model;
    uint8_t *is_moe = calloc((size_t)model->n_layers, 1);
    for (int32_t l = 0; l < model->n_layers; l++) is_moe[l] = model->layers[l].is_moe;
    const int32_t *ranks;
    int32_t n_ranks = cox_cluster_expert_ranks(h->cluster, &ranks);
    int32_t n_experts = model->router.n_experts;
    cox_status status =
        text ? cox_placement_parse(&h->placement, text, strlen(text), "placement", model->n_layers, is_moe,
                                   n_experts, ranks, n_ranks)
             : cox_placement_round_robin(&h->placement, model->n_layers, is_moe, n_experts, ranks, n_ranks);
    free(is_moe);
    return status;
}

static bool hosts_experts(const cox_cluster *cluster)
{
    const int32_t *ranks;
    int32_t n = cox_cluster_expert_ranks(cluster, &ranks);
    for (int32_t i = 0; i < n; i++) {
        if (ranks[i] == cox_cluster_rank(cluster)) return true;
    }
    return false;
}

static cox_status load(harness *h, const harness_config *config)
{
    cox_status status = cox_model_open(&h->model, config->folder);
    if (status == COX_OK) status = cox_kernels_select(&h->kernels, config->kernels);
    if (status == COX_OK) status = cox_arena_create(&h->arena, "load", 0);
    if (status == COX_OK) status = make_placement(h, config->placement);
    if (status == COX_OK && hosts_experts(h->cluster)) {
        status = cox_worker_create(&h->worker, h->model, h->kernels, h->cluster, h->placement, NULL, NULL);
    }
    if (status == COX_OK && cox_cluster_is_coordinator(h->cluster)) {
        status = cox_model_load_trunk(h->model, h->arena, NULL, NULL, &h->trunk);
    }
    return status;
}

/* Collective; agrees by itself. */
static cox_status start_exchange(harness *h, const harness_config *config)
{
    cox_exchange_options options = {.kind = config->exchange,
                                    .n_slots = config->engine.n_slots,
                                    .max_rows = cox_engine_slot_rows(&config->engine),
                                    .row_width = h->model->d_model + COX_ROW_TAIL,
                                    .top_k = h->model->router.top_k,
                                    .placement = h->placement,
                                    .host = cox_worker_host(h->worker)};
    return cox_exchange_create(&h->exchange, h->cluster, &options);
}

static cox_status start_engine(harness *h, const harness_config *config)
{
    if (!cox_cluster_is_coordinator(h->cluster)) return COX_OK;
    const cox_engine_events events = {.context = h,
                                      .on_token = on_token,
                                      .on_logits = on_logits,
                                      .on_rows = config->on_rows ? on_rows : NULL,
                                      .on_done = on_done};
    return cox_engine_create(&h->engine, h->model, &h->trunk, h->kernels, h->cluster, h->placement,
                             h->exchange, &config->engine, &events);
}

cox_status harness_open(harness **h, cox_cluster *cluster, const harness_config *config)
{
    harness *fresh = calloc(1, sizeof *fresh);
    fresh->cluster = cluster;
    fresh->config = *config;
    cox_status status = cox_cluster_agree(cluster, load(fresh, config));
    if (status == COX_OK) status = start_exchange(fresh, config);
    if (status == COX_OK) status = cox_cluster_agree(cluster, start_engine(fresh, config));
    if (status == COX_OK) {
        *h = fresh;
    } else {
        harness_close(fresh);
    }
    return status;
}

void harness_close(harness *h)
{
    if (!h) return;
    cox_engine_destroy(h->engine);
    cox_exchange_destroy(h->exchange);
    cox_worker_destroy(h->worker);
    cox_placement_destroy(h->placement);
    cox_arena_destroy(h->arena);
    cox_model_close(h->model);
    free(h);
}

const cox_model *harness_model(const harness *h)
{
    return h->model;
}

cox_engine *harness_engine(harness *h)
{
    return h->engine;
}

const cox_worker *harness_worker(const harness *h)
{
    return h->worker;
}

cox_session_parts harness_session_parts(harness *h)
{
    return (cox_session_parts){.model = h->model,
                               .trunk = &h->trunk,
                               .kernels = h->kernels,
                               .cluster = h->cluster,
                               .placement = h->placement,
                               .exchange = h->exchange,
                               .no_tokenizer = "only ids go in and out"};
}

const char *harness_exchange_name(const harness *h)
{
    return cox_exchange_name(h->exchange);
}

const char *harness_kernels_name(const harness *h)
{
    return cox_kernels_name(h->kernels);
}

cox_status harness_submit(harness *h, const harness_request *requests, int32_t n, harness_result *results)
{
    h->results = results;
    size_t vocab_size = (size_t)h->model->vocab_size;
    for (int32_t i = 0; i < n; i++) {
        const harness_request *r = &requests[i];
        results[i] = (harness_result){.tokens = calloc((size_t)r->max_tokens + 1, sizeof(int32_t))};
        if (r->wants_logits) {
            results[i].logits = calloc((size_t)(r->n_prompt + r->max_tokens) * vocab_size, sizeof(float));
        }
        cox_status status =
            cox_engine_submit(h->engine, &(cox_sequence_request){.id = (uint64_t)i,
                                                                 .prompt = r->prompt,
                                                                 .n_prompt = r->n_prompt,
                                                                 .max_tokens = r->max_tokens,
                                                                 .sampling = r->sampling,
                                                                 .ignore_eos = r->ignore_eos,
                                                                 .wants_digest = true,
                                                                 .plan = r->plan,
                                                                 .wants_logits = r->wants_logits});
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

cox_status harness_run(harness *h, const harness_request *requests, int32_t n, harness_result *results)
{
    cox_status submitted = harness_submit(h, requests, n, results);
    if (submitted != COX_OK) return submitted;
    while (cox_engine_n_sequences(h->engine)) {
        cox_status status = cox_engine_step(h->engine);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

void harness_expect(harness *h, harness_result *results)
{
    h->results = results;
}

cox_status harness_finish(harness *h)
{
    cox_status status = cox_exchange_finish(h->exchange, COX_OK);
    return status == COX_OK && h->worker ? cox_exchange_serve(h->exchange) : status;
}

cox_status harness_serve(harness *h)
{
    return cox_exchange_serve(h->exchange);
}
