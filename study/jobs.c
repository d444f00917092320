/*
 * Rank 0 sends the list to all; coordinator c takes jobs c, c + C, ... in order, n_at_once on their way; the
 * results are gathered when the engines have finished. A sequence's id is its place on the way and its
 * variant.
 */
#include "study/jobs.h"

#include <stdlib.h>
#include <string.h>

#include "study/work.h"

/* --- The list --- */

cox_status cox_jobs_add(cox_jobs *jobs, cox_job job, const int32_t *prompt, const int32_t *continuation)
{
    size_t n = (size_t)job.n_tokens, n_prompt = (size_t)job.n_prompt;
    cox_job *list = realloc(jobs->jobs, ((size_t)jobs->n + 1) * sizeof *list);
    if (list) jobs->jobs = list;
    int32_t *tokens = realloc(jobs->tokens, (jobs->n_tokens + n) * sizeof *tokens);
    if (tokens) jobs->tokens = tokens;
    if (!list || !tokens) return cox_no_memory("prompts and results");
    memcpy(tokens + jobs->n_tokens, prompt, n_prompt * sizeof *tokens);
    if (n > n_prompt)
        memcpy(tokens + jobs->n_tokens + n_prompt, continuation, (n - n_prompt) * sizeof *tokens);
    jobs->n_tokens += n;
    list[jobs->n++] = job;
    return COX_OK;
}

cox_status cox_jobs_add_prompts(cox_jobs *jobs, const cox_prompts *prompts, int32_t file, int32_t tag)
{
    cox_status status = COX_OK;
    for (int32_t i = 0; i < prompts->n && status == COX_OK; i++) {
        int32_t n = (int32_t)(prompts->offsets[i + 1] - prompts->offsets[i]);
        const cox_job job = {
            .file = file, .line = prompts->lines[i], .n_tokens = n, .n_prompt = n, .tag = tag};
        status = cox_jobs_add(jobs, job, prompts->tokens + prompts->offsets[i], NULL);
    }
    return status;
}

void cox_jobs_free(cox_jobs *jobs)
{
    free(jobs->jobs);
    free(jobs->tokens);
    *jobs = (cox_jobs){0};
}

/* --- One coordinator's share --- */

/* A job on its way. */
typedef struct place {
    int32_t job, n_left; /* n_left: variants that are not done; 0: free */
} place;

typedef struct share {
    cox_run *run;
    const cox_job_question *question;
    cox_engine *engine;
    char *data; /* what rank 0 sent: n, jobs, tokens */
    int32_t n;
    const cox_job *jobs;
    const int32_t **tokens; /* [n] of each job */
    int32_t n_mine;         /* jobs first, first + step, ... */
    int32_t first, step;
    place *places;           /* [n_at_once] */
    char *scratch, *results; /* [n_at_once, scratch_bytes], [n_mine, result_bytes] */
    int32_t n_submitted, n_finished;
    cox_progress bar;
    cox_status failed;
} share;

static cox_status send_list(share *s, const cox_jobs *jobs)
{
    void *data = NULL;
    size_t n_bytes = 0;
    cox_status status = COX_OK;
    if (cox_run_is_front(s->run)) {
        size_t list_bytes = (size_t)jobs->n * sizeof *jobs->jobs,
               token_bytes = jobs->n_tokens * sizeof(int32_t);
        n_bytes = sizeof jobs->n + list_bytes + token_bytes;
        char *out = data = malloc(n_bytes);
        status = out ? COX_OK : cox_no_memory("prompts and results");
        if (out) {
            memcpy(out, &jobs->n, sizeof jobs->n);
            memcpy(out + sizeof jobs->n, jobs->jobs, list_bytes);
            memcpy(out + sizeof jobs->n + list_bytes, jobs->tokens, token_bytes);
        }
    }
    status = cox_run_agree(s->run, status);
    if (status == COX_OK) status = cox_cluster_broadcast(s->run->cluster, 0, &data, &n_bytes);
    s->data = data;
    if (status != COX_OK) return status;
    memcpy(&s->n, s->data, sizeof s->n);
    s->jobs = (const cox_job *)(const void *)(s->data + sizeof s->n);
    return COX_OK;
}

static cox_status share_take_memory(share *s)
{
    const cox_job_question *q = s->question;
    s->first = s->run->rank, s->step = cox_cluster_n_coordinators(s->run->cluster);
    s->n_mine = s->n > s->first ? (s->n - s->first + s->step - 1) / s->step : 0;
    s->tokens = malloc(((size_t)s->n + 1) * sizeof *s->tokens);
    s->places = calloc((size_t)q->n_at_once, sizeof *s->places);
    s->scratch = calloc((size_t)q->n_at_once, q->scratch_bytes + 1);
    s->results = calloc((size_t)s->n_mine + 1, q->result_bytes);
    if (!s->tokens || !s->places || !s->scratch || !s->results) return cox_no_memory("prompts and results");
    const int32_t *tokens = (const int32_t *)(const void *)(s->jobs + s->n);
    for (int32_t i = 0; i < s->n; tokens += s->jobs[i].n_tokens, i++) s->tokens[i] = tokens;
    return COX_OK;
}

static place *place_of(share *s, uint64_t id)
{
    return &s->places[id / (uint64_t)s->question->n_variants];
}

static const cox_job *job_of(const share *s, const place *p)
{
    return &s->jobs[p->job];
}

static void *result_of(share *s, const place *p)
{
    return s->results + (size_t)((p->job - s->first) / s->step) * s->question->result_bytes;
}

static void *scratch_of(share *s, const place *p)
{
    return s->scratch + (size_t)(p - s->places) * s->question->scratch_bytes;
}

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context, (void)id, (void)token, (void)logprobs;
    return true;
}

static void on_share_logits(void *context, uint64_t id, int32_t position, const float *logits)
{
    share *s = context;
    place *p = place_of(s, id);
    s->question->on_logits(s->question->context, job_of(s, p), s->tokens[p->job],
                           (int32_t)(id % (uint64_t)s->question->n_variants), result_of(s, p),
                           scratch_of(s, p), position, logits);
}

static void on_share_routes(void *context, uint64_t id, int32_t layer, int32_t position,
                            const cox_traced_route *routes)
{
    share *s = context;
    place *p = place_of(s, id);
    s->question->on_routes(s->question->context, job_of(s, p), result_of(s, p), scratch_of(s, p), layer,
                           position, routes);
}

static void on_rows(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h)
{
    share *s = context;
    place *p = place_of(s, id);
    s->question->on_rows(s->question->context, job_of(s, p), result_of(s, p), scratch_of(s, p), site, layer,
                         expert, position, h);
}

/* Puts the job's file and line before the message. */
static cox_status blame(const share *s, cox_status status, const cox_job *job)
{
    return cox_fail_in(status, "%s: line %d", s->question->paths[job->file], (int)job->line);
}

static void on_share_done(void *context, uint64_t id, const cox_sequence_result *done)
{
    share *s = context;
    place *p = place_of(s, id);
    const cox_job_question *q = s->question;
    p->n_left--;
    if (s->failed != COX_OK) return;
    if (done->finish == COX_FINISH_ERROR) {
        s->failed = cox_fail(COX_INTERNAL, "%s", done->error ? done->error : "the engine failed");
        return;
    }
    if (q->on_hits) q->on_hits(q->context, job_of(s, p), result_of(s, p), done);
    if (p->n_left > 0) return;
    if (q->finish) s->failed = q->finish(q->context, job_of(s, p), result_of(s, p), scratch_of(s, p));
    if (s->failed != COX_OK) blame(s, s->failed, job_of(s, p));
    s->n_finished++;
}

static cox_status submit(share *s, cox_engine *engine, place *p)
{
    p->job = s->first + s->n_submitted * s->step;
    p->n_left = s->question->n_variants;
    memset(scratch_of(s, p), 0, s->question->scratch_bytes);
    const cox_job *job = job_of(s, p);
    for (int32_t v = 0; v < s->question->n_variants; v++) {
        cox_sequence_request request = {.id = (uint64_t)(p - s->places) * (uint64_t)s->question->n_variants +
                                              (uint64_t)v,
                                        .prompt = s->tokens[p->job],
                                        .n_prompt = job->n_tokens,
                                        .sampling = cox_sampling_defaults()};
        cox_status status = s->question->prepare(s->question->context, job, v, scratch_of(s, p), &request);
        if (status == COX_OK) {
            status = cox_engine_submit(engine, &request);
            if (status != COX_OK) cox_plan_free(request.plan);
        }
        if (status != COX_OK) return blame(s, status, job);
    }
    s->n_submitted++;
    return COX_OK;
}

static bool has_more(const void *context)
{
    const share *s = context;
    return s->n_finished < s->n_mine;
}

static cox_status submit_some(void *context)
{
    share *s = context;
    cox_status status = COX_OK;
    for (int32_t i = 0; i < s->question->n_at_once && status == COX_OK; i++) {
        if (s->places[i].n_left == 0 && s->n_submitted < s->n_mine)
            status = submit(s, s->engine, &s->places[i]);
    }
    return status;
}

static cox_status step(void *context)
{
    share *s = context;
    cox_status status = cox_engine_step(s->engine);
    return status == COX_OK ? s->failed : status;
}

static cox_status show_progress(void *context)
{
    share *s = context;
    cox_progress_update(&s->bar, (uint64_t)s->n_finished, (uint64_t)s->n_mine, NULL);
    return COX_OK;
}

static cox_status compute(share *s)
{
    const cox_work_loop work = {.context = s,
                                .has_more = has_more,
                                .submit = submit_some,
                                .is_running = has_more,
                                .step = step,
                                .take = show_progress};
    return cox_work_loop_run(s->run, &work);
}

/* --- All shares together --- */

static cox_status gather(share *s, void **results)
{
    char *all = NULL, *sorted = NULL;
    size_t *offsets = NULL, size = s->question->result_bytes, n_bytes = (size_t)s->n_mine * size;
    cox_status status = cox_cluster_gather(s->run->cluster, s->results, n_bytes, (void **)&all, &offsets);
    if (status == COX_OK && cox_run_is_front(s->run)) {
        sorted = malloc((size_t)s->n * size + 1);
        if (!sorted) status = cox_no_memory("prompts and results");
        for (int32_t i = 0; sorted && i < s->n; i++)
            memcpy(sorted + (size_t)i * size, all + offsets[i % s->step] + (size_t)(i / s->step) * size,
                   size);
    }
    free(all);
    free(offsets);
    status = cox_run_agree(s->run, status);
    if (status != COX_OK) {
        free(sorted);
        return status;
    }
    *results = sorted;
    return COX_OK;
}

static cox_status create_engine(share *s)
{
    cox_run *run = s->run;
    const cox_job_question *q = s->question;
    const cox_engine_events events = {.context = s,
                                      .on_token = on_token,
                                      .on_logits = q->on_logits ? on_share_logits : NULL,
                                      .on_routes = q->on_routes ? on_share_routes : NULL,
                                      .on_rows = q->on_rows ? on_rows : NULL,
                                      .on_done = on_share_done};
    cox_status status = share_take_memory(s);
    if (status != COX_OK) return status;
    return cox_run_create_engine(run, NULL, &events, &s->engine);
}

static void share_release(share *s)
{
    free(s->data);
    free(s->tokens);
    free(s->places);
    free(s->scratch);
    free(s->results);
}

cox_status cox_jobs_run(cox_run *run, const cox_jobs *jobs, const cox_job_question *question, void **results)
{
    share s = {.run = run, .question = question};
    bool is_coordinator = cox_cluster_is_coordinator(run->cluster);
    cox_status status = send_list(&s, jobs);
    if (status == COX_OK) status = cox_run_agree(run, is_coordinator ? create_engine(&s) : COX_OK);
    if (status == COX_OK) {
        cox_progress_begin(&s.bar, question->label,
                           cox_run_is_front(run) ? run->options.progress : COX_PROGRESS_NONE,
                           COX_PROGRESS_COUNT);
        status = cox_run_finish(run, is_coordinator ? compute(&s) : COX_OK);
        if (is_coordinator) run->counters = *cox_engine_counters(s.engine);
        if (status == COX_OK) status = gather(&s, results);
    }
    cox_engine_destroy(s.engine);
    share_release(&s);
    return status;
}
