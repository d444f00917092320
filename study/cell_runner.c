/* Cells on their way stand in slots; the engine's sequence id is slot * n_prompts + prompt. */
#include "study/cell_runner.h"

#include <math.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/clean_layer.h"
#include "coordinator/engine.h"
#include "study/metrics.h"

enum { MAX_SLOTS = 64, MOST_SEQUENCES = 2048, CLEAN = -1, EMPTY = -2 };

typedef struct slot {
    int64_t cell;   /* EMPTY: free */
    cox_plan *plan; /* of a cell whose rows enter above its layer; else NULL */
    int32_t n_left, n_idle;
    double *log_odds, *kl;      /* [n_prompts] */
    char (*digests)[65];        /* [n_prompts] or NULL */
    int32_t *tokens, *n_tokens; /* [n_prompts, max_tokens], [n_prompts] of answers */
    uint8_t *has_ended;         /* [n_prompts] */
    uint8_t *touched;           /* [n_tokens of all prompts] rows that the cell's expert gets */
} slot;

struct cox_cell_runner {
    cox_run *run;
    const cox_cell_question *question;
    cox_engine *engine;
    cox_vector_cache vectors;
    int32_t n_prompts, n_slots, n_running;
    int32_t max_tokens;     /* of answers; 0: cells are numbers */
    const int32_t **tokens; /* [n_prompts] borrowed */
    int32_t *lengths;       /* [n_prompts] */
    int32_t *order;         /* [n_prompts] prompts by their tokens, so that neighbours have most in common */
    size_t *offsets;        /* [n_prompts] of all tokens in a row: into a slot's touched, and clean_layer's */
    size_t n_tokens;        /* of all prompts */
    cox_clean_layer layer;
    bool has_layer; /* its memory is there */
    bool has_warned;
    cox_cell_savings savings;
    cox_counters clean_counters; /* of the runs without a plan */
    slot clean, slots[MAX_SLOTS];
    double *p, *log_p; /* [n_prompts, vocab_size] softmax of the clean run's logits */
    int16_t **routes;  /* [n_prompts] of [n_layers, length, top_k] experts of the clean run */
};

static slot *slot_of(cox_cell_runner *r, uint64_t id)
{
    uint64_t s = id / (uint64_t)r->n_prompts;
    return s == (uint64_t)r->n_slots ? &r->clean : &r->slots[s];
}

static int32_t prompt_of(const cox_cell_runner *r, uint64_t id)
{
    return (int32_t)(id % (uint64_t)r->n_prompts);
}

/* --- The engine's events --- */

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    cox_cell_runner *r = context;
    slot *s = slot_of(r, id);
    int32_t p = prompt_of(r, id);
    (void)logprobs;
    if (r->max_tokens == 0) return true;
    s->tokens[(size_t)p * (size_t)r->max_tokens + (size_t)s->n_tokens[p]++] = token;
    return false;
}

static void on_cells_logits(void *context, uint64_t id, int32_t position, const float *logits)
{
    cox_cell_runner *r = context;
    slot *s = slot_of(r, id);
    int32_t p = prompt_of(r, id), vocab_size = r->run->model->vocab_size;
    size_t first = (size_t)p * (size_t)vocab_size;
    (void)position;
    if (s->digests) SHA256Data((const uint8_t *)logits, (size_t)vocab_size * sizeof *logits, s->digests[p]);
    double whole;
    s->log_odds[p] = cox_log_odds_of(logits, r->question->first_tokens, vocab_size, &whole);
    if (s->cell == CLEAN)
        cox_softmax_f64(logits, vocab_size, r->p + first, r->log_p + first); /* on_done tells, if it fails */
    else
        s->kl[p] = cox_kl_from(r->p + first, r->log_p + first, logits, whole, vocab_size);
}

static void on_cells_routes(void *context, uint64_t id, int32_t layer, int32_t position,
                            const cox_traced_route *routes)
{
    cox_cell_runner *r = context;
    int32_t p = prompt_of(r, id), top_k = r->run->model->router.top_k;
    if (position >= r->lengths[p]) return;
    if (r->has_layer && layer == r->layer.layer)
        cox_clean_layer_put_routes(&r->layer, r->offsets[p] + (size_t)position, routes);
    int16_t *row = r->routes[p] + ((size_t)layer * (size_t)r->lengths[p] + (size_t)position) * (size_t)top_k;
    for (int32_t k = 0; k < top_k; k++) row[k] = (int16_t)routes[k].expert;
}

static void on_rows(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h)
{
    cox_cell_runner *r = context;
    (void)layer;
    cox_clean_layer_put_row(&r->layer, r->offsets[prompt_of(r, id)] + (size_t)position, site, expert, h);
}

static void on_entry(void *context, uint64_t id, int32_t position, float *x)
{
    cox_cell_runner *r = context;
    int32_t p = prompt_of(r, id);
    cox_clean_layer_steer(&r->layer, r->offsets[p] + (size_t)position, slot_of(r, id)->plan, position,
                          r->lengths[p], x);
}

static void on_cells_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    cox_cell_runner *r = context;
    slot *s = slot_of(r, id);
    s->n_left--;
    if (s->has_ended) s->has_ended[prompt_of(r, id)] = result->finish == COX_FINISH_STOP;
    if (result->finish != COX_FINISH_ERROR) return;
    int32_t p = prompt_of(r, id);
    s->log_odds[p] = s->kl[p] = (double)NAN; /* logits that are not finite: steered beyond all numbers */
}

/* --- Memory --- */

static cox_status create_slot(slot *s, const cox_cell_runner *r)
{
    int32_t n_prompts = r->n_prompts;
    bool wants_digests = r->question->wants_digests;
    *s = (slot){.cell = EMPTY};
    s->touched = malloc(r->n_tokens + 1);
    s->log_odds = calloc((size_t)n_prompts, sizeof *s->log_odds);
    s->kl = calloc((size_t)n_prompts, sizeof *s->kl);
    s->digests = wants_digests ? calloc((size_t)n_prompts, sizeof *s->digests) : NULL;
    bool has_memory = s->touched && s->log_odds && s->kl && (s->digests || !wants_digests);
    return has_memory ? COX_OK : cox_no_memory("the cells of a sweep");
}

static void free_slot(slot *s)
{
    cox_plan_free(s->plan);
    free(s->touched);
    free(s->log_odds);
    free(s->kl);
    free(s->digests);
    free(s->tokens);
    free(s->n_tokens);
    free(s->has_ended);
}

/* A prompt comes before those that it begins; equal ones in the order of the sets. */
static int compare_tokens(const void *a, const void *b, void *context)
{
    const cox_cell_runner *r = context;
    int32_t p = *(const int32_t *)a, q = *(const int32_t *)b;
    for (int32_t i = 0; i < r->lengths[p] && i < r->lengths[q]; i++) {
        if (r->tokens[p][i] != r->tokens[q][i]) return r->tokens[p][i] < r->tokens[q][i] ? -1 : 1;
    }
    if (r->lengths[p] != r->lengths[q]) return r->lengths[p] < r->lengths[q] ? -1 : 1;
    return p < q ? -1 : p > q;
}

static cox_status list_prompts(cox_cell_runner *r)
{
    const cox_cell_question *q = r->question;
    const cox_model *model = r->run->model;
    for (int32_t s = 0; s < q->n_sets; s++) r->n_prompts += q->sets[s].n;
    r->tokens = calloc((size_t)r->n_prompts, sizeof *r->tokens);
    r->offsets = calloc((size_t)r->n_prompts, sizeof *r->offsets);
    r->lengths = calloc((size_t)r->n_prompts, sizeof *r->lengths);
    r->order = calloc((size_t)r->n_prompts, sizeof *r->order);
    r->routes = calloc((size_t)r->n_prompts, sizeof *r->routes);
    r->p = calloc((size_t)r->n_prompts * (size_t)model->vocab_size, sizeof *r->p);
    r->log_p = calloc((size_t)r->n_prompts * (size_t)model->vocab_size, sizeof *r->log_p);
    if (!r->tokens || !r->offsets || !r->lengths || !r->order || !r->routes || !r->p || !r->log_p)
        return cox_no_memory("the cells of a sweep");
    int32_t n = 0;
    for (int32_t s = 0; s < q->n_sets; s++) {
        for (int32_t i = 0; i < q->sets[s].n; i++, n++) {
            size_t first = q->sets[s].offsets[i];
            r->tokens[n] = q->sets[s].tokens + first;
            r->lengths[n] = (int32_t)(q->sets[s].offsets[i + 1] - first);
            r->offsets[n] = r->n_tokens;
            r->n_tokens += (size_t)r->lengths[n];
            size_t n_routes = (size_t)model->n_layers * (size_t)r->lengths[n] * (size_t)model->router.top_k;
            r->routes[n] = malloc((n_routes + 1) * sizeof *r->routes[n]);
            if (!r->routes[n]) return cox_no_memory("the cells of a sweep");
            r->order[n] = n;
        }
    }
    qsort_r(r->order, (size_t)n, sizeof *r->order, compare_tokens, r);
    return COX_OK;
}

static cox_status create_parts(cox_cell_runner *r)
{
    cox_run *run = r->run;
    cox_status status = list_prompts(r);
    if (status != COX_OK) return status;
    r->n_slots = MOST_SEQUENCES / r->n_prompts;
    if (r->n_slots < 2) r->n_slots = 2;
    if (r->n_slots > MAX_SLOTS) r->n_slots = MAX_SLOTS;
    status = create_slot(&r->clean, r);
    for (int32_t s = 0; s < r->n_slots && status == COX_OK; s++) status = create_slot(&r->slots[s], r);
    if (status != COX_OK) return status;
    r->has_layer = !r->question->is_plain &&
                   cox_clean_layer_bytes(run->model, r->n_tokens) <= COX_CLEAN_LAYER_MOST_BYTES;
    if (r->has_layer) status = cox_clean_layer_create(&r->layer, run->model, run->kernels, r->n_tokens);
    if (status != COX_OK) return status;
    const cox_engine_events events = {.context = r,
                                      .on_token = on_token,
                                      .on_logits = on_cells_logits,
                                      .on_routes = on_cells_routes,
                                      .on_rows = on_rows,
                                      .on_entry = on_entry,
                                      .on_done = on_cells_done};
    cox_engine_options options = cox_run_engine_options(&run->options, run->layout.size);
    if (r->question->is_plain) {
        const cox_engine_options usual = cox_engine_options_defaults();
        options.has_prefix_cache = false;
        options.max_rows = usual.max_rows > options.prefill_chunk ? usual.max_rows : options.prefill_chunk;
        options.max_sequences = usual.max_sequences;
    }
    return cox_run_create_engine(run, &options, &events, &r->engine);
}

cox_status cox_cell_runner_create(cox_cell_runner **runner, cox_run *run, const cox_cell_question *question)
{
    cox_cell_runner *r = calloc(1, sizeof *r);
    if (!r) return cox_no_memory("the cells of a sweep");
    *r = (cox_cell_runner){.run = run, .question = question};
    cox_status status = create_parts(r);
    if (status == COX_OK) {
        *runner = r;
    } else {
        cox_cell_runner_destroy(r);
    }
    return status;
}

void cox_cell_runner_destroy(cox_cell_runner *runner)
{
    if (!runner) return;
    cox_engine_destroy(runner->engine);
    cox_vector_cache_release(&runner->vectors);
    for (int32_t p = 0; runner->routes && p < runner->n_prompts; p++) free(runner->routes[p]);
    for (int32_t s = 0; s < MAX_SLOTS; s++) free_slot(&runner->slots[s]);
    free_slot(&runner->clean);
    cox_clean_layer_free(&runner->layer);
    free(runner->order);
    free(runner->tokens);
    free(runner->lengths);
    free(runner->offsets);
    free(runner->routes);
    free(runner->p);
    free(runner->log_p);
    free(runner);
}

const cox_counters *cox_cell_runner_counters(const cox_cell_runner *runner)
{
    return cox_engine_counters(runner->engine);
}

/* --- The clean run --- */

/* Of every request, with a plan or without. */
static cox_known known_of(const cox_cell_runner *r)
{
    return (cox_known){.skips_idle_rows = !r->question->is_plain, .shares_rows = !r->question->is_plain};
}

static cox_sequence_request request_of(const cox_cell_runner *r, int32_t at, int32_t prompt,
                                       const cox_known *known)
{
    return (cox_sequence_request){.id = (uint64_t)at * (uint64_t)r->n_prompts + (uint64_t)prompt,
                                  .prompt = r->tokens[prompt],
                                  .n_prompt = r->lengths[prompt],
                                  .max_tokens = r->max_tokens,
                                  .sampling = cox_sampling_defaults(),
                                  .wants_logits = r->max_tokens == 0,
                                  .logits_from = r->lengths[prompt] - 1,
                                  .known = known};
}

static cox_cell_result result_of(const cox_cell_runner *r, const slot *s)
{
    return (cox_cell_result){.cell = s->cell,
                             .log_odds = s->log_odds,
                             .kl = s->kl,
                             .digests = (const char(*)[65])s->digests,
                             .n_prompts = r->n_prompts,
                             .n_idle = s->n_idle,
                             .tokens = s->tokens,
                             .n_tokens = s->n_tokens,
                             .has_ended = s->has_ended,
                             .max_tokens = r->max_tokens};
}

/* What the engine did since `before` was not for a cell. */
static void count_clean(cox_cell_runner *r, const cox_counters *before)
{
    const cox_counters *now = cox_engine_counters(r->engine);
    cox_counters *clean = &r->clean_counters;
    clean->layer_rows += now->layer_rows - before->layer_rows;
    clean->layer_rows_shared += now->layer_rows_shared - before->layer_rows_shared;
    clean->layer_rows_kv += now->layer_rows_kv - before->layer_rows_kv;
}

/* Twice: the first pass tells the routes, which switches the sharing of prefixes off; the second leaves what
 * cells share. */
cox_status cox_cell_runner_run_clean(cox_cell_runner *runner, cox_cell_result *clean)
{
    cox_status status = COX_OK;
    const cox_known known = known_of(runner);
    runner->clean.cell = CLEAN;
    for (int pass = 0; pass < 2; pass++) {
        runner->clean.n_left = runner->n_prompts;
        for (int32_t p = 0; p < runner->n_prompts && status == COX_OK; p++) {
            cox_sequence_request request = request_of(runner, runner->n_slots, p, &known);
            request.wants_routes = pass == 0;
            status = cox_engine_submit(runner->engine, &request);
        }
        while (status == COX_OK && runner->clean.n_left > 0) {
            status = cox_engine_step(runner->engine);
        }
    }
    *clean = result_of(runner, &runner->clean);
    count_clean(runner, &(cox_counters){0});
    return status;
}

/* --- Cells --- */

static cox_status empty_engine(cox_cell_runner *r)
{
    cox_status status = COX_OK;
    while (status == COX_OK && cox_engine_n_sequences(r->engine) > 0) status = cox_engine_step(r->engine);
    return status;
}

/* A clean run that shows what cells of a layer start from. Cells on their way still need the layer before,
 * so they end first. */
static cox_status load_layer(cox_cell_runner *r, int32_t layer)
{
    cox_status status = empty_engine(r);
    const cox_counters before = *cox_engine_counters(r->engine);
    const cox_known known = known_of(r);
    cox_clean_layer_begin(&r->layer, layer);
    for (int32_t p = 0; p < r->n_prompts && status == COX_OK; p++) {
        cox_sequence_request request = request_of(r, r->n_slots, p, &known);
        request.wants_logits = false;
        request.wants_routes = true;
        request.observation = &r->layer.observation;
        status = cox_engine_submit(r->engine, &request);
    }
    if (status == COX_OK) status = empty_engine(r);
    count_clean(r, &before);
    return status;
}

cox_status cox_cell_runner_begin_answers(cox_cell_runner *runner, int32_t max_tokens)
{
    size_t n = (size_t)runner->n_prompts;
    runner->max_tokens = max_tokens;
    for (int32_t i = 0; i < runner->n_slots; i++) {
        slot *s = &runner->slots[i];
        s->tokens = calloc(n * (size_t)max_tokens, sizeof *s->tokens);
        s->n_tokens = calloc(n, sizeof *s->n_tokens);
        s->has_ended = calloc(n, 1);
        if (!s->tokens || !s->n_tokens || !s->has_ended) return cox_no_memory("the cells of a sweep");
    }
    return COX_OK;
}

bool cox_cell_runner_has_room(const cox_cell_runner *runner)
{
    return runner->n_running < runner->n_slots;
}

int32_t cox_cell_runner_n_running(const cox_cell_runner *runner)
{
    return runner->n_running;
}

/* The cell acts on the rows of one expert that are routed to it, in one layer: the clean routes tell which.
 */
static bool hangs_on_routes(const cox_sweep_cell *cell)
{
    return cell->block->site == COX_SITE_EXPERT_OUT && !cell->block->is_together &&
           (cell->weighting == COX_WEIGHTING_ROUTED || cell->weighting == COX_WEIGHTING_POST_GATE);
}

/* Marks the prompt's rows from <= p < to that go to the cell's expert. */
static void mark_touched(const cox_cell_runner *r, const cox_sweep_cell *cell, int32_t prompt, int32_t from,
                         int32_t to, uint8_t *touched)
{
    int32_t n = r->lengths[prompt], top_k = r->run->model->router.top_k;
    const int16_t *routes = r->routes[prompt] + (size_t)cell->layer * (size_t)n * (size_t)top_k;
    memset(touched, 0, (size_t)n);
    for (int32_t i = from * top_k; i < to * top_k; i++) {
        if (routes[i] == cell->expert) touched[i / top_k] = 1;
    }
}

/*
 * Does the cell change the prompt's last logits? In the last layer only the last row does, except through its
 * keys and values (resid_pre). touched: [the prompt's length], filled if the cell hangs on routes.
 */
static bool has_effect(const cox_cell_runner *r, const cox_sweep_cell *cell, const cox_plan *plan,
                       int32_t prompt, uint8_t *touched)
{
    int32_t n = r->lengths[prompt], from = 0, to = 0;
    if (cell->strength == 0) return false;
    cox_positions_resolve(&plan->interventions[0].positions, n, &from, &to);
    if (to > n) to = n;
    const cox_sweep_block *b = cell->block;
    bool is_simple = b->n_apply_sites == 0 && !b->applies_everywhere && b->site != COX_SITE_RESID_PRE;
    int32_t first_that_counts = is_simple && cell->layer == r->run->model->n_layers - 1 ? n - 1 : 0;
    if (!hangs_on_routes(cell)) return from < to && to > first_that_counts;
    mark_touched(r, cell, prompt, from < to ? from : 0, from < to ? to : 0, touched);
    for (int32_t p = first_that_counts; p < n; p++) {
        if (touched[p]) return true;
    }
    return false;
}

static cox_status compile(cox_cell_runner *r, const cox_sweep_cell *cell, cox_plan **plan)
{
    const cox_cell_question *q = r->question;
    char where[64];
    snprintf(where, sizeof where, "cell %lld", (long long)cell->number);
    json_t *json = cox_sweep_cell_plan(q->grid, cell, cell->block->vectors, q->randoms);
    if (!json) return cox_no_memory("the cells of a sweep");
    cox_status status = cox_plan_from_json_cached(plan, json, where, q->folder, r->run->model,
                                                  q->tokenizer_fingerprint, q->is_forced, &r->vectors);
    json_decref(json);
    if (status == COX_OK && (*plan)->note && cox_run_is_front(r->run) && !r->has_warned) {
        fprintf(stderr, "warning: %s\n", (*plan)->note);
        r->has_warned = true;
    }
    return status;
}

/* Of one prompt that is not idle; a plan that acts in several layers shares those below the first. */
static void count_savings(cox_cell_runner *r, const cox_plan *plan, int32_t prompt, const uint8_t *touched,
                          bool enters)
{
    int32_t n = r->lengths[prompt], first = n, layer = r->run->model->n_layers;
    for (int32_t i = 0; i < plan->n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        int32_t from, to, l = 0;
        if (v->strength == 0) continue;
        cox_positions_resolve(&v->positions, n, &from, &to);
        if (from < first) first = from;
        while (l < layer && !v->layers[l]) l++;
        layer = l;
    }
    while (touched && first < n && !touched[first]) first++;
    r->savings.before += (uint64_t)first * (uint64_t)r->run->model->n_layers;
    r->savings.below += (uint64_t)(n - first) * (uint64_t)(layer + enters);
}

cox_cell_savings cox_cell_runner_savings(const cox_cell_runner *runner)
{
    const cox_counters *now = cox_engine_counters(runner->engine), *clean = &runner->clean_counters;
    cox_cell_savings savings = runner->savings;
    savings.shared = now->layer_rows_shared - clean->layer_rows_shared;
    savings.computed = now->layer_rows - clean->layer_rows;
    savings.computed_kv = now->layer_rows_kv - clean->layer_rows_kv;
    return savings;
}

static void take_clean(cox_cell_runner *r, slot *s, int32_t prompt)
{
    r->savings.idle += (uint64_t)r->lengths[prompt] * (uint64_t)r->run->model->n_layers;
    s->n_left--;
    s->n_idle++;
    s->log_odds[prompt] = r->clean.log_odds[prompt];
    s->kl[prompt] = 0;
    if (s->digests) memcpy(s->digests[prompt], r->clean.digests[prompt], sizeof *s->digests);
}

static cox_status submit_prompts(cox_cell_runner *r, int32_t at, const cox_sweep_cell *cell, cox_plan *plan)
{
    slot *s = &r->slots[at];
    bool is_plain = r->question->is_plain;
    r->savings.whole += (uint64_t)r->n_tokens * (uint64_t)r->run->model->n_layers;
    for (int32_t i = 0; i < r->n_prompts; i++) {
        int32_t p = r->order[i];
        uint8_t *touched = s->touched + r->offsets[p];
        bool is_idle = !is_plain && (!plan || !has_effect(r, cell, plan, p, touched));
        if (is_idle && r->max_tokens == 0) { /* generated rows may still be touched */
            take_clean(r, s, p);
            continue;
        }
        cox_known known = known_of(r);
        cox_sequence_request request = request_of(r, at, p, &known);
        if (plan) request.plan = cox_plan_share(plan);
        if (plan && cell->strength != 0 && hangs_on_routes(cell) && !is_plain) known.touched = touched;
        known.knows_entry = s->plan;
        if (plan && !is_plain) count_savings(r, plan, p, known.touched, s->plan);
        cox_status status = cox_engine_submit(r->engine, &request);
        if (status == COX_OK) continue;
        cox_plan_free(request.plan);
        return status;
    }
    return COX_OK;
}

cox_status cox_cell_runner_submit(cox_cell_runner *runner, int64_t number)
{
    int32_t at = 0;
    while (runner->slots[at].cell != EMPTY) at++;
    slot *s = &runner->slots[at];
    s->cell = number;
    s->n_left = runner->n_prompts;
    s->n_idle = 0;
    runner->n_running++;
    if (s->n_tokens) memset(s->n_tokens, 0, (size_t)runner->n_prompts * sizeof *s->n_tokens);
    cox_sweep_cell cell = {.number = number};
    cox_plan *plan = NULL;
    cox_status status = COX_OK;
    if (number != CLEAN) {
        cell = cox_sweep_cell_at(runner->question->grid, number);
        status = compile(runner, &cell, &plan);
    }
    int32_t layer;
    bool enters = runner->has_layer && runner->max_tokens == 0 &&
                  cox_clean_layer_serves(plan, runner->run->model, &layer);
    if (status == COX_OK && enters) {
        s->plan = cox_plan_share(plan);
        if (layer != runner->layer.layer) status = load_layer(runner, layer);
    }
    if (status == COX_OK) status = submit_prompts(runner, at, &cell, plan);
    cox_plan_free(plan);
    return status;
}

cox_status cox_cell_runner_step(cox_cell_runner *runner, cox_cell_function *on_result, void *context)
{
    cox_status status = cox_engine_step(runner->engine);
    for (int32_t i = 0; i < runner->n_slots && status == COX_OK; i++) {
        slot *s = &runner->slots[i];
        if (s->cell == EMPTY || s->n_left > 0) continue;
        const cox_cell_result result = result_of(runner, s);
        status = on_result(context, &result);
        s->cell = EMPTY;
        cox_plan_free(s->plan);
        s->plan = NULL;
        runner->n_running--;
    }
    return status;
}
