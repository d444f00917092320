/*
 * The engine's life: all memory at creation (engine_memory.c), sequences in by submit, and the step:
 * schedule, embed, layers, head, sample, report. The only thing that flows back is the sampled id, in
 * accept_token().
 */
#include "coordinator/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/internal.h"

enum { MOST_NOTE_BYTES = 1 << 20 }; /* of the hits of one sequence by page */

cox_engine_options cox_engine_options_defaults(void)
{
    return (cox_engine_options){.prefill_chunk = 512,
                                .max_rows = 512,
                                .max_sequences = 256,
                                .n_slots = 1,
                                .has_prefix_cache = true,
                                .residual_bytes = COX_RESIDUAL_AUTO};
}

static cox_status check_options(const cox_engine_options *o)
{
    if (o->max_rows < 1 || o->max_rows > 1 << 16) {
        return cox_fail(COX_INVALID, "rows of a step must be 1 to 65536, not %d", o->max_rows);
    }
    if (o->prefill_chunk < 1 || o->prefill_chunk > o->max_rows) {
        return cox_fail(COX_INVALID, "prefill chunk must be 1 to %d rows, not %d", o->max_rows,
                        o->prefill_chunk);
    }
    if (o->max_sequences < 1) return cox_fail(COX_INVALID, "a step needs room for at least one sequence");
    if (o->n_slots < 1 || o->n_slots > COX_MAX_SLOTS) {
        return cox_fail(COX_INVALID, "micro-batches in flight must be 1 to %d, not %d", COX_MAX_SLOTS,
                        o->n_slots);
    }
    return COX_OK;
}

int32_t cox_engine_slot_rows(const cox_engine_options *options)
{
    return (options->max_rows + options->n_slots - 1) / options->n_slots;
}

static void says_alive(void *cluster)
{
    cox_cluster_keepalive(cluster, "taking memory");
}

cox_status cox_engine_create(cox_engine **engine, const cox_model *model, const cox_trunk_weights *trunk,
                             const cox_kernels *kernels, cox_cluster *cluster, const cox_placement *placement,
                             cox_exchange *exchange, const cox_engine_options *options,
                             const cox_engine_events *events)
{
    cox_status status = check_options(options);
    if (status != COX_OK) return status;
    if (model->router.top_k > COX_MAX_TOP_K) {
        return cox_fail(COX_UNSUPPORTED, "%s: %d experts per token; at most %d are built", model->folder,
                        model->router.top_k, COX_MAX_TOP_K);
    }
    cox_arena *arena = NULL;
    status = cox_arena_create(&arena, "session", 0);
    if (status != COX_OK) return status;
    cox_arena_set_pulse(arena, says_alive, cluster); /* touching a large KV cache takes a while */
    cox_engine *e = cox_arena_alloc(arena, sizeof *e);
    status = e ? COX_OK : COX_NO_MEMORY;
    if (e) {
        *e = (cox_engine){.model = model,
                          .trunk = trunk,
                          .kernels = kernels,
                          .cluster = cluster,
                          .placement = placement,
                          .exchange = exchange,
                          .options = *options,
                          .events = *events,
                          .arena = arena,
                          .slot_rows = cox_engine_slot_rows(options),
                          .row_width = (size_t)model->d_model + COX_ROW_TAIL};
        e->waiting_end = &e->waiting;
        status = cox__engine_take_memory(e);
    }
    if (status == COX_OK) {
        *engine = e;
    } else {
        cox_arena_destroy(arena);
    }
    return status;
}

static void free_sequence(cox__sequence *sequence)
{
    free(sequence->hits);
    free(sequence->report);
    free(sequence->tokens);
    cox_kv_table_free(&sequence->table);
    free(sequence);
}

void cox_engine_destroy(cox_engine *engine)
{
    if (!engine) return;
    for (int32_t i = 0; i < engine->n_running; i++) {
        cox__steering_release(engine, engine->running[i]->steering);
        free_sequence(engine->running[i]);
    }
    for (cox__sequence *s = engine->waiting, *next; s; s = next) {
        next = s->next;
        cox__steering_release(engine, s->steering);
        free_sequence(s);
    }
    cox_kv_release_notes(engine->kv);
    cox_arena_destroy(engine->arena);
}

static cox_status check_sampling(const cox_engine *engine, const cox_sampling *sampling)
{
    cox_status status = cox_sampling_check(sampling);
    for (int32_t i = 0; i < sampling->n_biases && status == COX_OK; i++) {
        int32_t id = sampling->biases[i].id;
        if (id < 0 || id >= engine->model->vocab_size)
            status = cox_fail(COX_INVALID, "logit_bias names token %d, outside the vocabulary of %d", id,
                              engine->model->vocab_size);
    }
    return status;
}

static cox_status check_request(const cox_engine *engine, const cox_sequence_request *request)
{
    const cox_model *model = engine->model;
    if (request->n_prompt < 1) return cox_fail(COX_INVALID, "the prompt has no tokens");
    if (request->wants_logits && !engine->events.on_logits) {
        return cox_fail(COX_INVALID, "logits are wanted, but nobody listens to them");
    }
    if (request->logits_end != 0 && request->logits_end < request->n_prompt)
        return cox_fail(COX_INVALID, "logits are wanted up to position %d, within the prompt",
                        request->logits_end);
    if (request->wants_routes && !engine->events.on_routes) {
        return cox_fail(COX_INVALID, "routes are wanted, but nobody listens to them");
    }
    if (request->known && request->known->knows_entry &&
        (!engine->events.on_entry || request->max_tokens > 0)) {
        return cox_fail(COX_INVALID, "rows are known to the caller, but nobody tells them, or there are "
                                     "generated ones too");
    }
    for (int32_t l = 0; request->observation && l < model->n_layers; l++) {
        unsigned sites = request->observation->sites[l];
        if (sites && !engine->events.on_rows)
            return cox_fail(COX_INVALID, "rows are observed, but nobody listens to them");
    }
    if (request->max_tokens < 0) return cox_fail(COX_INVALID, "max_tokens is %d", request->max_tokens);
    for (int32_t i = 0; i < request->n_prompt; i++) {
        if (request->prompt[i] < 0 || request->prompt[i] >= model->vocab_size) {
            return cox_fail(COX_INVALID, "token %d of the prompt is %d, outside the vocabulary of %d", i,
                            request->prompt[i], model->vocab_size);
        }
    }
    if (request->n_prompt > model->max_positions) {
        return cox_fail(COX_TOO_LONG, "the prompt has %d tokens; %s has a context of %d", request->n_prompt,
                        model->folder, model->max_positions);
    }
    int64_t n_cache = (int64_t)engine->kv_shape.n_pages * COX_KV_BLOCK;
    if (request->n_prompt > n_cache) {
        return cox_fail(COX_TOO_LONG, "the prompt has %d tokens; the KV cache holds %lld; raise --kv-memory",
                        request->n_prompt, (long long)n_cache);
    }
    return check_sampling(engine, &request->sampling);
}

/* A note for each page, unless they would be large: then steered pages are neither borrowed nor of use to
 * others that count. */
static cox_status take_notes(cox__sequence *s, const cox_plan *plan, size_t n_hits)
{
    size_t n_bytes = sizeof(cox__page_hits) + n_hits * sizeof(cox__hits);
    s->table.needs_notes = true;
    s->table.plan = plan->hash;
    if (n_bytes * (size_t)s->table.max_pages > MOST_NOTE_BYTES) return COX_OK;
    s->table.notes = calloc((size_t)s->table.max_pages, sizeof(cox_kv_note *));
    if (!s->table.notes) return cox_fail(COX_NO_MEMORY, "out of memory to count what a plan touches");
    for (int32_t p = 0; p < s->table.max_pages; p++) {
        s->table.notes[p] = calloc(1, n_bytes);
        if (!s->table.notes[p]) return cox_fail(COX_NO_MEMORY, "out of memory to count what a plan touches");
        *s->table.notes[p] = (cox_kv_note){.n_owners = 1, .plan = plan->hash};
    }
    return COX_OK;
}

/* Takes what counting needs first: once the plan is taken over nothing may fail. */
static cox_status start_steering(cox_engine *engine, cox__sequence *s, cox_plan *plan)
{
    size_t n_hits = 1; /* no place is no allocation of 0 bytes */
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        size_t n_layers = 0, n_experts = 0;
        for (int32_t l = 0; l < plan->n_layers; l++) n_layers += v->layers[l];
        for (int32_t e = 0; v->site == COX_SITE_EXPERT_OUT && e < plan->n_experts; e++)
            n_experts += v->experts[e];
        n_hits += n_layers * (v->site == COX_SITE_EXPERT_OUT ? n_experts : 1);
    }
    s->hits = calloc(n_hits, sizeof *s->hits);
    s->report = calloc(n_hits, sizeof *s->report);
    if (!s->hits || !s->report) return cox_fail(COX_NO_MEMORY, "out of memory to count what a plan touches");
    cox_status status = s->known.skips_idle_rows ? COX_OK : take_notes(s, plan, n_hits);
    if (status == COX_OK) status = cox__steering_use(engine, plan, &s->steering);
    if (status == COX_OK) cox__steering_reach(s->steering, s->request.n_prompt, &s->known, &s->table);
    return status;
}

cox_status cox_engine_submit(cox_engine *engine, const cox_sequence_request *request)
{
    cox_status status = check_request(engine, request);
    if (status == COX_OK && request->observation && request->observation->is_counterfactual)
        status = cox__probe_take(engine);
    if (status != COX_OK) return status;
    int64_t limit = (int64_t)request->n_prompt + request->max_tokens;
    int64_t n_cache = (int64_t)engine->kv_shape.n_pages * COX_KV_BLOCK;
    if (limit > engine->model->max_positions) limit = engine->model->max_positions;
    bool is_cut = limit > n_cache;
    if (is_cut) limit = n_cache;

    cox__sequence *s = calloc(1, sizeof *s);
    if (!s) return cox_no_memory("a sequence");
    *s = (cox__sequence){.request = *request,
                         .n_tokens = request->n_prompt,
                         .n_limit = (int32_t)limit,
                         .is_cut = is_cut,
                         .n_reported = request->logits_from,
                         .submitted_s = cox_now_s()};
    s->request.prompt = NULL;
    s->request.plan = NULL;
    s->request.known = NULL;
    if (request->known) s->known = *request->known;
    s->tokens = calloc((size_t)limit, sizeof(int32_t));
    if (!s->tokens || cox_kv_table_create(&s->table, &engine->kv_shape, (int32_t)limit) != COX_OK) {
        free_sequence(s);
        return cox_fail(COX_NO_MEMORY, "out of memory for a sequence of %lld tokens", (long long)limit);
    }
    status = request->plan ? start_steering(engine, s, request->plan) : COX_OK;
    if (status != COX_OK) {
        free_sequence(s);
        return status;
    }
    memcpy(s->tokens, request->prompt, (size_t)request->n_prompt * sizeof(int32_t));
    SHA256Init(&s->sha);
    cox__enqueue(engine, s, false);
    return COX_OK;
}

int32_t cox_engine_n_sequences(const cox_engine *engine)
{
    return engine->n_running + engine->n_waiting;
}

const cox_counters *cox_engine_counters(const cox_engine *engine)
{
    return &engine->counters;
}

static void leave(cox_engine *engine, cox__sequence *s)
{
    for (int32_t i = 0; i < engine->n_running; i++) {
        if (engine->running[i] != s) continue;
        cox__retire(engine, s);
        return;
    }
    cox__unqueue(engine, s); /* without KV */
}

/* Ends a sequence: its KV goes back, the caller is told, its memory is freed. */
static void finish(cox_engine *engine, cox__sequence *s, cox_finish reason, const char *error)
{
    double now = cox_now_s();
    cox_sequence_result result = {.finish = reason,
                                  .error = error,
                                  .n_prompt = s->request.n_prompt,
                                  .n_generated = s->n_tokens - s->request.n_prompt,
                                  .n_cached = s->n_cached};
    double started = s->started_s > 0 ? s->started_s : now,
           first = s->first_token_s > 0 ? s->first_token_s : now;
    result.queue_s = started - s->submitted_s;
    result.prompt_s = first - started;
    result.generate_s = now - first;
    if (s->request.wants_digest) SHA256End(&s->sha, result.digest);
    if (s->steering) {
        result.hits = s->report;
        result.n_hits = cox__steering_report(s->steering, s->hits, s->report);
    }
    leave(engine, s);
    engine->events.on_done(engine->events.context, s->request.id, &result);
    cox__steering_release(engine, s->steering);
    free_sequence(s);
}

void cox_engine_cancel(cox_engine *engine, uint64_t id)
{
    for (int32_t i = 0; i < engine->n_running; i++) {
        if (engine->running[i]->request.id == id) engine->running[i]->is_cancelled = true;
    }
    for (cox__sequence *s = engine->waiting; s; s = s->next) {
        if (s->request.id == id) s->is_cancelled = true;
    }
}

/* Callbacks may cancel and submit others, so each ending looks anew; those they add wait for the next step.
 */
static void end_cancelled(cox_engine *engine)
{
    for (int32_t i = engine->n_running - 1; i >= 0; i--) {
        if (i < engine->n_running && engine->running[i]->is_cancelled)
            finish(engine, engine->running[i], COX_FINISH_CANCELLED, NULL);
    }
    for (cox__sequence *s = engine->waiting, *next; s; s = next) {
        next = s->next;
        if (s->is_cancelled) finish(engine, s, COX_FINISH_CANCELLED, NULL);
    }
}

static bool is_eos(const cox_model *model, int32_t token)
{
    for (int32_t i = 0; i < model->n_eos; i++) {
        if (model->eos_ids[i] == token) return true;
    }
    return false;
}

static bool all_finite(const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
    }
    return true;
}

/* It has all tokens that it may have. An answer that depends on the size of the cache is none. */
static void finish_full(cox_engine *engine, cox__sequence *s)
{
    if (!s->is_cut) {
        finish(engine, s, COX_FINISH_LENGTH, NULL);
        return;
    }
    char text[160];
    snprintf(
        text, sizeof text,
        "the answer does not fit the KV cache, which holds %d tokens: raise --kv-memory or lower max_tokens",
        (int)s->n_limit);
    finish(engine, s, COX_FINISH_ERROR, text);
}

/* Samples the sequence's next token from the logits of its last position and ends it where it should end. */
static void accept_token(cox_engine *engine, cox__sequence *s, const float *logits)
{
    const cox_model *model = engine->model;
    if (s->request.wants_digest)
        SHA256Update(&s->sha, (const uint8_t *)logits, (size_t)model->vocab_size * sizeof *logits);
    if (!all_finite(logits, model->vocab_size)) {
        finish(engine, s, COX_FINISH_ERROR,
               s->steering ? "the logits are not finite: the steering plan is too strong for f32"
                           : "the logits are not finite: the checkpoint's weights are broken, or not of "
                             "this model's config");
        return;
    }
    cox_logprobs logprobs;
    bool has_logprobs = s->request.sampling.n_logprobs >= 0;
    int32_t token = cox_sampler_pick(engine->sampler, &s->request.sampling, logits, s->tokens, s->n_tokens,
                                     s->request.n_prompt, s->n_tokens, has_logprobs ? &logprobs : NULL);
    s->tokens[s->n_tokens++] = token;
    if (s->first_token_s == 0) s->first_token_s = cox_now_s();
    bool ends = engine->events.on_token(engine->events.context, s->request.id, token,
                                        has_logprobs ? &logprobs : NULL);
    if (s->is_cancelled) return; /* by its own callback */
    if (ends || (!s->request.ignore_eos && is_eos(model, token))) {
        finish(engine, s, COX_FINISH_STOP, NULL);
    } else if (s->n_tokens == s->n_limit && !cox__reports(s, s->n_limit - 1)) {
        finish_full(engine, s);
    }
}

/* What the logits of one row are wanted for: to be reported, to be sampled from, or both. */
static void use_logits(cox_engine *engine, int32_t row, const float *logits)
{
    cox__sequence *s = engine->batch.sequences[row];
    int32_t position = engine->batch.positions[row];
    if (s->is_cancelled) return; /* in this step */
    if (cox__reports(s, position)) {
        engine->events.on_logits(engine->events.context, s->request.id, position, logits);
        s->n_reported = position + 1;
    }
    if (s->is_cancelled || position != s->n_tokens - 1) return;
    if (s->n_tokens < s->n_limit) {
        accept_token(engine, s, logits);
    } else {
        finish_full(engine, s); /* its last logits were all that was left */
    }
}

static void use_all_logits(cox_engine *engine)
{
    const cox__batch *batch = &engine->batch;
    for (int32_t first = 0; first < batch->n_logit_rows; first += COX__HEAD_ROWS) {
        int32_t n =
            batch->n_logit_rows - first < COX__HEAD_ROWS ? batch->n_logit_rows - first : COX__HEAD_ROWS;
        cox_cluster_keepalive(engine->cluster, "computing logits");
        cox_stage_enter(&engine->clock, &engine->counters.head_s);
        cox__head(engine, batch->logit_rows + first, n);
        cox_stage_enter(&engine->clock, &engine->counters.sample_s);
        for (int32_t i = 0; i < n; i++) {
            use_logits(engine, batch->logit_rows[first + i],
                       engine->logits + (size_t)i * (size_t)engine->model->vocab_size);
        }
    }
}

/* The rows' KV is in the cache: full pages may be shared from now on. Prompts that nobody samples from end
 * here. */
static void advance_sequences(cox_engine *engine)
{
    for (int32_t i = engine->n_running - 1; i >= 0; i--) {
        cox__sequence *s = engine->running[i];
        s->n_computed += s->n_scheduled;
        cox_kv_index(engine->kv, &s->table, s->tokens, s->n_computed, s->request.n_prompt);
        bool is_complete = s->n_computed == s->n_tokens && s->n_tokens == s->n_limit;
        if (is_complete && !s->is_cancelled && !cox__reports(s, s->n_limit - 1)) finish_full(engine, s);
    }
}

/* Schedule, embed, layers, head, sample, report. */
static cox_status run_step(cox_engine *engine)
{
    cox_counters *counters = &engine->counters;
    cox_stage_enter(&engine->clock, &counters->schedule_s);
    cox__schedule(engine);
    cox__steer_begin_step(engine);
    cox_status status = cox__steering_send(engine);
    if (status != COX_OK) return status;
    int32_t n_slots = 0;
    while (n_slots < engine->options.n_slots && cox__slot_n_rows(engine, &engine->slots[n_slots]) > 0)
        n_slots++;
    cox_stage_enter(&engine->clock, &counters->embed_s);
    cox__embed(engine);
    status = cox__layers(engine, n_slots);
    if (status != COX_OK) return status;
    counters->rows_computed += (uint64_t)engine->batch.n_rows;
    counters->steps++;
    cox_stage_enter(&engine->clock, &counters->schedule_s);
    advance_sequences(engine);
    use_all_logits(engine);
    return COX_OK;
}

cox_status cox_engine_step(cox_engine *engine)
{
    end_cancelled(engine);
    if (cox_engine_n_sequences(engine) == 0) return COX_OK;
    cox_status status = run_step(engine);
    cox_stage_enter(&engine->clock, NULL);
    return status;
}
