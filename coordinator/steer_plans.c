/*
 * Plans in use: found by equality, indexed for counting, sent to the hosts that apply them before the first
 * row that may name them, freed with their last user. Plan ids are unique in the job: serial number times the
 * number of coordinators plus this one's index.
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/internal.h"

typedef struct host_question {
    const cox_placement *placement;
    int32_t rank;
} host_question;

static bool is_host(void *context, int32_t layer, int32_t expert)
{
    const host_question *question = context;
    const int32_t *ranks;
    int32_t n = cox_placement_hosts(question->placement, layer, (cox_expert_id){expert}, &ranks);
    for (int32_t i = 0; i < n; i++) {
        if (ranks[i] == question->rank) return true;
    }
    return false;
}

static cox_status send_letter(cox_engine *engine, int32_t rank, int32_t id, const void *data, size_t n)
{
    const cox_plan_letter header = {.plan = id};
    unsigned char *letter = malloc(sizeof header + n);
    if (!letter) return cox_fail(COX_NO_MEMORY, "out of memory for a plan of %zu bytes", n);
    memcpy(letter, &header, sizeof header);
    if (n) memcpy(letter + sizeof header, data, n);
    cox_status status = cox_mailbox_send(engine->cluster, COX_MAIL_STEERING, rank, letter, sizeof header + n);
    free(letter);
    return status;
}

/* To every rank that hosts an expert with a routed intervention, what it must apply and nothing else. */
static cox_status send_plan(cox_engine *engine, cox__steering *steering)
{
    const int32_t *ranks;
    int32_t n_ranks = cox_cluster_expert_ranks(engine->cluster, &ranks);
    for (int32_t r = 0; r < n_ranks; r++) {
        host_question question = {engine->placement, ranks[r]};
        void *data = NULL;
        size_t n_bytes = 0;
        int32_t n_kept = 0;
        cox_status status = cox_plan_pack(steering->plan, is_host, &question, &data, &n_bytes, &n_kept);
        if (status == COX_OK && n_kept > 0) {
            status = send_letter(engine, ranks[r], steering->id, data, n_bytes);
            steering->is_sent[ranks[r]] = status == COX_OK;
        }
        free(data);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static void recall_plan(cox_engine *engine, const cox__steering *steering)
{
    for (int32_t rank = 0; rank < cox_cluster_size(engine->cluster); rank++) {
        if (steering->is_sent[rank]) send_letter(engine, rank, steering->id, NULL, 0);
    }
}

/* Layer l's keys and values depend on interventions at layers below l, and on resid_pre at l. */
static bool reaches_kv(const cox_intervention *v, int32_t n_layers)
{
    if (v->strength == 0) return false;
    for (int32_t l = 0; l < n_layers; l++) {
        if (v->layers[l] && (l < n_layers - 1 || v->site == COX_SITE_RESID_PRE)) return true;
    }
    return false;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static void index_intervention(cox__steering *steering, int32_t i)
{
    const cox_plan *plan = steering->plan;
    const cox_intervention *v = &plan->interventions[i];
    bool is_expert = v->site == COX_SITE_EXPERT_OUT;
    int32_t n_layers = 0, n_experts = 0;
    uint64_t layers_hash = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        steering->layer_place[(size_t)i * (size_t)plan->n_layers + (size_t)l] = n_layers;
        n_layers += v->layers[l];
        layers_hash = mix(layers_hash, v->layers[l]);
        if (v->layers[l] && v->strength != 0) steering->sites[l] |= (uint8_t)(1 << v->site);
        if (!is_expert || !v->layers[l] || v->strength == 0) continue;
        bool is_routed = v->weighting == COX_WEIGHTING_ROUTED;
        if (is_routed && l > steering->last_routed) steering->last_routed = l;
        steering->has_routed[l] |= is_routed;
        steering->has_terms[l] |= !is_routed;
        steering->has_soft[l] |= v->weighting == COX_WEIGHTING_SOFT;
    }
    for (int32_t e = 0; is_expert && e < plan->n_experts; e++) {
        steering->expert_place[(size_t)i * (size_t)plan->n_experts + (size_t)e] = n_experts;
        n_experts += v->experts[e];
    }
    steering->hits_offsets[i + 1] = steering->hits_offsets[i] + n_layers * (is_expert ? n_experts : 1);
    steering->kv_hashes[i] = reaches_kv(v, plan->n_layers) ? mix(v->hash, layers_hash) | 1 : 0;
}

static void free_steering(cox__steering *steering)
{
    free(steering->hits_offsets);
    free(steering->layer_place);
    free(steering->expert_place);
    free(steering->has_routed);
    free(steering->has_terms);
    free(steering->has_soft);
    free(steering->sites);
    free(steering->kv_hashes);
    free(steering->is_sent);
    free(steering);
}

static cox__steering *create_steering(const cox_engine *engine, cox_plan *plan)
{
    cox__steering *steering = calloc(1, sizeof *steering);
    if (!steering) return NULL;
    size_t n = (size_t)plan->n, n_layers = (size_t)plan->n_layers;
    steering->plan = plan;
    steering->last_routed = -1;
    steering->hits_offsets = calloc(n + 1, sizeof(int32_t));
    steering->layer_place = calloc(n * n_layers + 1, sizeof(int32_t));
    steering->expert_place = calloc(n * (size_t)plan->n_experts + 1, sizeof(int32_t));
    steering->has_routed = calloc(n_layers, 1);
    steering->has_terms = calloc(n_layers, 1);
    steering->has_soft = calloc(n_layers, 1);
    steering->sites = calloc(n_layers, 1);
    steering->kv_hashes = calloc(n + 1, sizeof(uint64_t));
    steering->is_sent = calloc((size_t)cox_cluster_size(engine->cluster), 1);
    if (steering->hits_offsets && steering->layer_place && steering->expert_place && steering->has_routed &&
        steering->has_terms && steering->has_soft && steering->sites && steering->kv_hashes &&
        steering->is_sent) {
        for (int32_t i = 0; i < plan->n; i++) index_intervention(steering, i);
        return steering;
    }
    free_steering(steering);
    return NULL;
}

cox_status cox__steering_use(cox_engine *engine, cox_plan *plan, cox__steering **steering)
{
    const cox_model *model = engine->model;
    if (plan->n_layers != model->n_layers || plan->d_model != model->d_model ||
        plan->n_experts != model->router.n_experts) {
        return cox_fail(COX_INVALID, "plan \"%s\" was made for a model of other dimensions", plan->name);
    }
    for (cox__steering *known = engine->steerings; known; known = known->next) {
        if (known->plan->hash != plan->hash || !cox_plan_equal(known->plan, plan)) continue;
        known->n_users++;
        *steering = known;
        cox_plan_free(plan);
        return COX_OK;
    }
    cox__steering *fresh = create_steering(engine, plan);
    if (!fresh) return cox_fail(COX_NO_MEMORY, "out of memory for plan \"%s\"", plan->name);
    fresh->id = ++engine->n_plans_made * cox_cluster_n_coordinators(engine->cluster) +
                cox_cluster_rank(engine->cluster);
    fresh->n_users = 1;
    fresh->next = engine->steerings;
    engine->steerings = fresh;
    *steering = fresh;
    return COX_OK;
}

cox_status cox__steering_send(cox_engine *engine)
{
    const cox__batch *batch = &engine->batch;
    cox_status status = COX_OK;
    for (int32_t row = 0; batch->has_steering && row < batch->n_rows && status == COX_OK; row++) {
        cox__steering *steering = batch->sequences[row]->steering;
        if (!steering || steering->was_sent || batch->starts[row] > steering->last_routed) continue;
        steering->was_sent = true;
        status = send_plan(engine, steering);
    }
    return status;
}

void cox__steering_release(cox_engine *engine, cox__steering *steering)
{
    if (!steering || --steering->n_users > 0) return;
    cox__steering **link = &engine->steerings;
    while (*link != steering) link = &(*link)->next;
    *link = steering->next;
    recall_plan(engine, steering);
    cox_plan_free(steering->plan);
    free_steering(steering);
}

int32_t cox__steering_n_hits(const cox__steering *steering)
{
    return steering->hits_offsets[steering->plan->n];
}

int32_t cox__steering_report(const cox__steering *steering, const cox__hits *hits, cox_steer_hits *report)
{
    const cox_plan *plan = steering->plan;
    int32_t n = 0;
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        const cox__hits *place = hits + steering->hits_offsets[i];
        bool is_expert = v->site == COX_SITE_EXPERT_OUT;
        for (int32_t l = 0; l < plan->n_layers; l++) {
            for (int32_t e = 0; v->layers[l] && e < (is_expert ? plan->n_experts : 1); e++) {
                if (is_expert && !v->experts[e]) continue;
                double rows = place->n_prompt + place->n_generated;
                if (rows > 0) {
                    report[n++] = (cox_steer_hits){.intervention = i,
                                                   .layer = l,
                                                   .expert = is_expert ? e : -1,
                                                   .n_prompt = place->n_prompt,
                                                   .n_generated = place->n_generated,
                                                   .norm_there = (double)place->there / 1048576.0 / rows,
                                                   .norm_added = (double)place->added / 1048576.0 / rows};
                }
                place++;
            }
        }
    }
    return n;
}

/* Positions that an intervention may touch in a sequence. */
static void resolve(const cox_intervention *v, int32_t n_prompt, int32_t n_untouched, int32_t *from,
                    int32_t *to)
{
    cox_positions_resolve(&v->positions, n_prompt, from, to);
    if (*from < n_untouched) *from = n_untouched;
}

void cox__steering_reach(const cox__steering *steering, int32_t n_prompt, const cox_known *known,
                         cox_kv_table *table)
{
    int32_t n_untouched = 0;
    while (known->touched && n_untouched < n_prompt && !known->touched[n_untouched]) n_untouched++;
    table->touched = known->touched;
    table->n_touched = known->touched ? n_prompt : 0;
    table->has_entry = known->knows_entry;
    for (int32_t i = 0; i < steering->plan->n; i++) {
        const cox_intervention *v = &steering->plan->interventions[i];
        int32_t from, to, l = 0;
        resolve(v, n_prompt, n_untouched, &from, &to);
        if (v->strength == 0 || from >= to) continue;
        while (l < table->n_clean_layers && !v->layers[l]) l++;
        table->n_clean_layers = l;
        if (from < table->n_clean_positions) table->n_clean_positions = from;
        bool is_counted = steering->kv_hashes[i] != 0 || !known->skips_idle_rows;
        if (is_counted && from < table->n_clean_keys) table->n_clean_keys = from;
    }
    for (int32_t p = 0; p < table->max_pages; p++) {
        int32_t end = (p + 1) * COX_KV_BLOCK;
        for (int32_t i = 0; i < steering->plan->n; i++) {
            int32_t from, to;
            resolve(&steering->plan->interventions[i], n_prompt, n_untouched, &from, &to);
            if (steering->kv_hashes[i] == 0 || from >= end || from >= to) continue;
            if (to > end) to = end;
            uint64_t *effect = &table->pages[p].effect;
            *effect = mix(mix(mix(*effect, steering->kv_hashes[i]), (uint64_t)from), (uint64_t)to) | 1;
        }
    }
}
