/*
 * Rank 0 sends the prompts to all; each coordinator submits its own in ascending order, a window of them
 * ahead of the last finished one. Sequences end in any order; the sink hears of them in theirs.
 */
#include "study/prompt_pass.h"

#include <stdlib.h>
#include <string.h>

#include "study/work.h"

/* A prompt on its way. */
typedef struct pending {
    cox_observation observation;
    bool is_done;
} pending;

typedef struct pass {
    cox_run *run;
    const cox_pass_work *work;
    const cox_pass_question *question;
    const int32_t *blocks;
    const char *const *paths;
    const cox_pass_sink *sink;
    cox_engine *engine;
    cox_pass_prompt *mine; /* [n_mine] */
    int32_t n_mine, n_submitted, n_finished;
    int32_t nearest, farthest; /* from_end's least and greatest */
    int32_t *place_of;         /* [farthest + 1] index in from_end, or -1 */
    pending *window;           /* [sink->window] */
    cox_progress bar;
    cox_status failed;
} pass;

/* --- The prompts, to all: number of files, prompts of each, then (line, tokens) of each prompt, then ids ---
 */

static cox_status pack(const cox_prompts *files, int32_t n_files, void **data, size_t *n_bytes)
{
    size_t n = 1 + (size_t)n_files;
    for (int32_t f = 0; f < n_files; f++) n += 2 * (size_t)files[f].n + files[f].n_tokens;
    int32_t *out = malloc(n * sizeof *out), *at = out;
    if (!out) return cox_no_memory("a pass over the prompts");
    *at++ = n_files;
    for (int32_t f = 0; f < n_files; f++) *at++ = files[f].n;
    for (int32_t f = 0; f < n_files; f++) {
        for (int32_t i = 0; i < files[f].n; i++) {
            *at++ = files[f].lines[i];
            *at++ = (int32_t)(files[f].offsets[i + 1] - files[f].offsets[i]);
        }
    }
    for (int32_t f = 0; f < n_files; f++) {
        memcpy(at, files[f].tokens, files[f].n_tokens * sizeof *at);
        at += files[f].n_tokens;
    }
    *data = out;
    *n_bytes = n * sizeof *out;
    return COX_OK;
}

static cox_status unpack(cox_pass_work *work)
{
    work->n_files = work->data[0];
    work->of_file = work->data + 1;
    work->n = 0;
    for (int32_t f = 0; f < work->n_files; f++) work->n += work->of_file[f];
    work->prompts = calloc((size_t)work->n + 1, sizeof *work->prompts);
    if (!work->prompts) return cox_no_memory("a pass over the prompts");
    const int32_t *heads = work->of_file + work->n_files, *tokens = heads + 2 * (size_t)work->n;
    for (int32_t f = 0, i = 0; f < work->n_files; f++) {
        for (int32_t end = i + work->of_file[f]; i < end; i++, heads += 2) {
            work->prompts[i] = (cox_pass_prompt){
                .number = i, .file = f, .line = heads[0], .n_tokens = heads[1], .tokens = tokens};
            tokens += heads[1];
        }
    }
    return COX_OK;
}

cox_status cox_pass_share(cox_run *run, const cox_prompts *prompts, int32_t n_files, cox_pass_work *work)
{
    void *data = NULL;
    size_t n_bytes = 0;
    *work = (cox_pass_work){0};
    cox_status status =
        cox_run_agree(run, cox_run_is_front(run) ? pack(prompts, n_files, &data, &n_bytes) : COX_OK);
    if (status == COX_OK) status = cox_cluster_broadcast(run->cluster, 0, &data, &n_bytes);
    work->data = data;
    return status != COX_OK ? status : cox_run_agree(run, unpack(work));
}

void cox_pass_work_free(cox_pass_work *work)
{
    free(work->prompts);
    free(work->data);
    *work = (cox_pass_work){0};
}

/* Puts the prompt's file and line before the message. */
static cox_status blame(const char *const *paths, const cox_pass_prompt *prompt, cox_status status)
{
    return cox_fail_in(status, "%s: line %d", paths[prompt->file], (int)prompt->line);
}

/* --- The engine's events --- */

/* Where a position counts; -1: nowhere. */
static int32_t place_of(const pass *p, const cox_pass_prompt *prompt, int32_t position)
{
    if (p->question->n_positions == 0) return position;
    int32_t from_end = prompt->n_tokens - position;
    return from_end <= p->farthest ? p->place_of[from_end] : -1;
}

static void on_rows(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h)
{
    const pass *p = context;
    int32_t place = place_of(p, &p->mine[id], position);
    if (place >= 0) p->sink->row(p->sink->context, &p->mine[id], site, layer, expert, place, h);
}

static void on_pass_routes(void *context, uint64_t id, int32_t layer, int32_t position,
                           const cox_traced_route *routes)
{
    const pass *p = context;
    int32_t place = place_of(p, &p->mine[id], position);
    if (place >= 0) p->sink->routes(p->sink->context, &p->mine[id], layer, place, routes);
}

static void on_pass_logits(void *context, uint64_t id, int32_t position, const float *logits)
{
    const pass *p = context;
    (void)position;
    p->sink->last_logits(p->sink->context, &p->mine[id], logits);
}

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context, (void)id, (void)token, (void)logprobs;
    return true;
}

static void on_pass_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    pass *p = context;
    p->window[id % (uint64_t)p->sink->window].is_done = true;
    if (result->finish == COX_FINISH_ERROR && p->failed == COX_OK)
        p->failed = cox_fail(COX_INTERNAL, "%s", result->error ? result->error : "the engine failed");
}

/* --- One coordinator's share --- */

static cox_status choose_positions(pass *p)
{
    const cox_pass_question *question = p->question;
    for (int32_t i = 0; i < question->n_positions; i++) {
        int32_t k = question->from_end[i];
        if (k > p->farthest) p->farthest = k;
        if (i == 0 || k < p->nearest) p->nearest = k;
    }
    p->place_of = malloc(((size_t)p->farthest + 1) * sizeof *p->place_of);
    if (!p->place_of) return cox_no_memory("a pass over the prompts");
    for (int32_t k = 0; k <= p->farthest; k++) p->place_of[k] = -1;
    for (int32_t i = 0; i < question->n_positions; i++) p->place_of[question->from_end[i]] = i;
    return COX_OK;
}

static cox_status choose_mine(pass *p)
{
    p->mine = calloc((size_t)p->work->n + 1, sizeof *p->mine);
    p->window = calloc((size_t)p->sink->window, sizeof *p->window);
    if (!p->mine || !p->window) return cox_no_memory("a pass over the prompts");
    for (int32_t i = 0; i < p->work->n; i++) {
        if (!cox_pass_is_mine(p->run, p->blocks[i])) continue;
        p->mine[p->n_mine] = p->work->prompts[i];
        p->mine[p->n_mine].index = p->n_mine;
        p->n_mine++;
    }
    for (int32_t w = 0; w < p->sink->window; w++) {
        p->window[w].observation = (cox_observation){.sites = p->question->sites,
                                                     .experts = p->question->experts,
                                                     .is_counterfactual = p->question->is_counterfactual};
    }
    return COX_OK;
}

static cox_status create_engine(pass *p)
{
    cox_run *run = p->run;
    const cox_engine_events events = {.context = p,
                                      .on_token = on_token,
                                      .on_logits = on_pass_logits,
                                      .on_routes = on_pass_routes,
                                      .on_rows = on_rows,
                                      .on_done = on_pass_done};
    cox_status status = choose_positions(p);
    if (status == COX_OK) status = choose_mine(p);
    if (status != COX_OK) return status;
    return cox_run_create_engine(run, NULL, &events, &p->engine);
}

static cox_status submit_next(pass *p)
{
    const cox_pass_prompt *prompt = &p->mine[p->n_submitted];
    pending *one = &p->window[p->n_submitted % p->sink->window];
    int32_t n = prompt->n_tokens;
    if (n < p->farthest) {
        cox_status status =
            cox_fail(COX_INVALID, "the prompt has %d tokens, so none is number %d from its end", (int)n,
                     (int)p->farthest);
        return blame(p->paths, prompt, status);
    }
    one->is_done = false;
    one->observation.positions = p->question->n_positions
                                     ? (cox_positions){COX_SPAN_RANGE, n - p->farthest, n - p->nearest + 1}
                                     : (cox_positions){.span = COX_SPAN_PROMPT};
    const cox_sequence_request request = {.id = (uint64_t)p->n_submitted,
                                          .prompt = prompt->tokens,
                                          .n_prompt = n,
                                          .sampling = cox_sampling_defaults(),
                                          .wants_routes = p->question->wants_routes,
                                          .wants_logits = p->question->wants_last_logits,
                                          .logits_from = n - 1,
                                          .observation = &one->observation};
    cox_status status = cox_engine_submit(p->engine, &request);
    if (status != COX_OK) return blame(p->paths, prompt, status);
    p->n_submitted++;
    return COX_OK;
}

static bool may_submit(const pass *p)
{
    if (p->n_submitted == p->n_mine || p->n_submitted == p->n_finished + p->sink->window) return false;
    if (!p->sink->is_by_block || p->n_submitted == p->n_finished) return true;
    return p->blocks[p->mine[p->n_submitted].number] == p->blocks[p->mine[p->n_finished].number];
}

static cox_status finish_next(pass *p)
{
    const cox_pass_prompt *prompt = &p->mine[p->n_finished++];
    cox_status status = p->sink->done(p->sink->context, prompt);
    return status == COX_OK ? status : blame(p->paths, prompt, status);
}

static bool has_more(const void *context)
{
    const pass *p = context;
    return p->n_finished < p->n_mine;
}

static cox_status submit_some(void *context)
{
    cox_status status = COX_OK;
    while (status == COX_OK && may_submit(context)) status = submit_next(context);
    return status;
}

static cox_status step(void *context)
{
    pass *p = context;
    cox_status status = cox_engine_step(p->engine);
    return status == COX_OK ? p->failed : status;
}

static cox_status take(void *context)
{
    pass *p = context;
    cox_status status = COX_OK;
    while (status == COX_OK && p->n_finished < p->n_submitted &&
           p->window[p->n_finished % p->sink->window].is_done)
        status = finish_next(p);
    cox_progress_update(&p->bar, (uint64_t)p->n_finished, (uint64_t)p->n_mine, NULL);
    return status;
}

static cox_status compute(pass *p)
{
    const cox_work_loop work = {.context = p,
                                .has_more = has_more,
                                .submit = submit_some,
                                .is_running = has_more,
                                .step = step,
                                .take = take};
    cox_progress_begin(&p->bar, p->sink->name,
                       cox_run_is_front(p->run) ? p->run->options.progress : COX_PROGRESS_NONE,
                       COX_PROGRESS_COUNT);
    return cox_work_loop_run(p->run, &work);
}

cox_status cox_pass_run(cox_run *run, const cox_pass_work *work, const cox_pass_question *question,
                        const int32_t *blocks, const char *const *paths, const cox_pass_sink *sink,
                        cox_status status)
{
    pass p = {.run = run, .work = work, .question = question, .blocks = blocks, .paths = paths, .sink = sink};
    bool is_coordinator = cox_cluster_is_coordinator(run->cluster);
    if (status == COX_OK && is_coordinator) status = create_engine(&p);
    status = cox_run_agree(run, status);
    if (status == COX_OK) {
        status = cox_run_finish(run, is_coordinator ? compute(&p) : COX_OK);
        if (is_coordinator) run->counters = *cox_engine_counters(p.engine);
    }
    cox_engine_destroy(p.engine);
    free(p.mine);
    free(p.place_of);
    free(p.window);
    return status;
}
