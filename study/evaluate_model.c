/*
 * Prompts through the model, with and without the plan, an answer fed behind the prompt where there is one
 * (teacher forcing): log-odds and KL at the last token of the prompt, likelihood and KL over the answer. Both
 * variants of a prompt are on their way together; whichever shows a position first leaves its logits.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "study/evaluate.h"
#include "study/first_tokens.h"
#include "study/jobs.h"
#include "model/tokenizer.h"
#include "steering/plan.h"

enum { CLEAN, STEERED, MAX_SCRATCH_BYTES = 256 << 20, MAX_AT_ONCE = 64 };

/* Of a prompt. */
typedef struct result {
    double log_odds[2], log_p[2]; /* log_p: of the answer's tokens, summed in their order */
    double kl, answer_kl;         /* answer_kl: summed over the positions that predict the answer */
    int64_t n_rows_steered;
} result;

/* What every coordinator knows, from rank 0: sizes, then the set of first tokens, then the packed plan. */
typedef struct shared {
    int64_t n_positions; /* most positions that are looked at in one job */
    int64_t n_plan_bytes;
    int64_t has_set;
} shared;

typedef struct context {
    const cox_model *model;
    shared *shared;
    const uint8_t *in_set; /* [vocab_size]; NULL: no log-odds */
    cox_plan *plan;        /* NULL: none */
} context;

/* --- On every coordinator --- */

/* Scratch of a job, for each position: the divergence, the logits that came first, and whether some did. */
static double *kl_at(void *scratch, int32_t i)
{
    return (double *)scratch + i;
}

static float *logits_at(const context *c, void *scratch, int32_t i)
{
    return (float *)(void *)kl_at(scratch, (int32_t)c->shared->n_positions) +
           (size_t)i * (size_t)c->model->vocab_size;
}

static uint8_t *came_at(const context *c, void *scratch, int32_t i)
{
    return (uint8_t *)logits_at(c, scratch, (int32_t)c->shared->n_positions) + i;
}

static size_t scratch_bytes(const context *c)
{
    if (!c->plan) return 0;
    size_t of_position = sizeof(double) + (size_t)c->model->vocab_size * sizeof(float) + 1;
    return ((size_t)c->shared->n_positions * of_position + 7) / 8 * 8;
}

static cox_status evaluate_prepare(void *of, const cox_job *job, int32_t variant, void *scratch,
                                   cox_sequence_request *request)
{
    const context *c = of;
    (void)scratch;
    request->wants_logits = true;
    return variant == STEERED ? cox_plan_fix_positions(c->plan, job->n_prompt, &request->plan) : COX_OK;
}

static void on_evaluate_logits(void *of, const cox_job *job, const int32_t *tokens, int32_t variant,
                               void *out, void *scratch, int32_t position, const float *logits)
{
    const context *c = of;
    result *r = out;
    int32_t i = position - (job->n_prompt - 1), n = c->model->vocab_size;
    bool predicts_answer = i >= 0 && position + 1 < job->n_tokens;
    if (i < 0 || (i > 0 && !predicts_answer)) return;
    if (i == 0 && c->in_set) r->log_odds[variant] = cox_log_odds(logits, c->in_set, n);
    if (predicts_answer) r->log_p[variant] += cox_log_probability(logits, n, tokens[position + 1]);
    if (!c->plan) return;
    uint8_t *came = came_at(c, scratch, i);
    float *other = logits_at(c, scratch, i);
    if (!*came) {
        memcpy(other, logits, (size_t)n * sizeof *other);
        *came = 1;
        return;
    }
    *kl_at(scratch, i) =
        variant == STEERED ? cox_kl_divergence(other, logits, n) : cox_kl_divergence(logits, other, n);
}

static void on_hits(void *of, const cox_job *job, void *out, const cox_sequence_result *done)
{
    result *r = out;
    (void)of, (void)job;
    for (int32_t h = 0; h < done->n_hits; h++)
        r->n_rows_steered += done->hits[h].n_prompt + done->hits[h].n_generated;
}

static cox_status finish(void *of, const cox_job *job, void *out, void *scratch)
{
    const context *c = of;
    result *r = out;
    if (c->plan) r->kl = *kl_at(scratch, 0);
    for (int32_t i = 0; c->plan && i < job->n_tokens - job->n_prompt; i++) r->answer_kl += *kl_at(scratch, i);
    if (isfinite(r->log_odds[0] + r->log_odds[1] + r->log_p[0] + r->log_p[1] + r->kl + r->answer_kl))
        return COX_OK;
    return cox_fail(COX_INVALID, "the model's logits are not finite");
}

/* --- Rank 0 --- */

static cox_status encode(const cox_tokenizer *tokenizer, const char *text, cox_tokens *tokens)
{
    tokens->n = 0;
    return cox_tokenizer_encode(tokenizer, text, strlen(text), false, tokens);
}

/* [out] in_set [vocab_size]; *has_set: there is one. */
static cox_status mark_first_tokens(const cox_evaluation *e, const cox_model *model, uint8_t *in_set,
                                    int64_t *has_set)
{
    size_t n = 0;
    if (e->rules) cox_rules_first_tokens(e->rules, &n);
    if (n == 0) return COX_OK;
    uint8_t *set = NULL;
    cox_status status = cox_first_tokens_read(NULL, NULL, 0, e->options->rules, model, model->folder, &set);
    if (status == COX_OK) memcpy(in_set, set, (size_t)model->vocab_size);
    free(set);
    *has_set = status == COX_OK;
    return status;
}

/* The jobs, item by item: cox_prompts_read has read the same lines. */
static cox_status make_jobs(cox_evaluation *e, const cox_tokenizer *tokenizer, const cox_prompts *prompts,
                            cox_jobs *jobs, int64_t *n_positions)
{
    cox_tokens answer = {0};
    cox_status status = COX_OK;
    *n_positions = 1;
    for (int32_t i = 0, k = 0, file = 0; i < e->n_items && status == COX_OK; i++, k++) {
        const cox_item *item = &e->items[i];
        if (item->file != file) file = item->file, k = 0;
        const cox_prompts *from = &prompts[file];
        if (k >= from->n || from->lines[k] != item->number)
            return cox_fail(COX_INVALID, "%s changed while it was read", from->path);
        answer.n = 0;
        if (item->continuation) status = encode(tokenizer, item->continuation, &answer);
        if (status != COX_OK) {
            cox_fail_in(status, "the answer to \"%s\"", item->id);
            continue;
        }
        int32_t n_prompt = (int32_t)(from->offsets[k + 1] - from->offsets[k]);
        const cox_job job = {.file = file,
                             .line = item->number,
                             .n_prompt = n_prompt,
                             .n_tokens = n_prompt + (int32_t)answer.n};
        if ((int64_t)answer.n > *n_positions) *n_positions = (int64_t)answer.n;
        status = cox_jobs_add(jobs, job, from->tokens + from->offsets[k], answer.ids);
    }
    cox_tokens_free(&answer);
    return status;
}

static cox_status pack_plan(const cox_evaluate_options *options, const cox_model *model, void **data,
                            size_t *n_bytes)
{
    char fingerprint[65];
    cox_plan *plan = NULL;
    int32_t n_kept = 0;
    if (!options->plan) return COX_OK;
    cox_status status = cox_tokenizer_fingerprint(model->folder, fingerprint);
    if (status == COX_OK)
        status = cox_plan_load(&plan, options->plan, model, fingerprint, options->forces_steering);
    if (status == COX_OK && plan->note) fprintf(stderr, "warning: %s\n", plan->note);
    if (status == COX_OK) status = cox_plan_pack(plan, NULL, NULL, data, n_bytes, &n_kept);
    cox_plan_free(plan);
    return status;
}

static cox_status read_inputs(cox_evaluation *e, const cox_run *run, cox_jobs *jobs, cox_prompts *prompts,
                              void **data, size_t *n_bytes)
{
    const cox_evaluate_options *options = e->options;
    size_t n_vocab = (size_t)run->model->vocab_size, n_plan = 0;
    cox_tokenizer *tokenizer = NULL;
    void *plan = NULL;
    char *out = NULL;
    cox_status status = cox_evaluation_read(e);
    if (status == COX_OK)
        status = cox_prompts_read(prompts, options->prompts, options->n_prompts, options->limit, run);
    if (status == COX_OK) status = cox_tokenizer_load(&tokenizer, run->model->folder);
    if (status == COX_OK) status = pack_plan(options, run->model, &plan, &n_plan);
    if (status == COX_OK) {
        *n_bytes = sizeof(shared) + n_vocab + n_plan;
        out = calloc(1, *n_bytes);
        if (!out) status = cox_no_memory("a plan");
    }
    if (status == COX_OK) {
        shared *head = (shared *)(void *)out;
        head->n_plan_bytes = (int64_t)n_plan;
        if (n_plan) memcpy(out + sizeof *head + n_vocab, plan, n_plan);
        status = mark_first_tokens(e, run->model, (uint8_t *)(head + 1), &head->has_set);
        if (status == COX_OK) status = make_jobs(e, tokenizer, prompts, jobs, &head->n_positions);
    }
    cox_tokenizer_destroy(tokenizer);
    free(plan);
    *data = out;
    return status;
}

/* One measure of a result; NaN where the item has no answer and the measure needs one. */
static cox_status add(cox_evaluation *e, const cox_jobs *jobs, const char *name, const result *results,
                      bool has_baseline, double (*value)(const result *r, int variant, int32_t n_answer))
{
    const bool sides[COX_N_SIDES] = {true, has_baseline};
    cox_measure *m = cox_evaluation_add(e, name, false, sides);
    if (!m) return COX_NO_MEMORY;
    for (int32_t i = 0; i < e->n_items; i++) {
        int32_t n_answer = jobs->jobs[i].n_tokens - jobs->jobs[i].n_prompt;
        /* Without a plan there is one variant, and it is the run; with one, the clean run is the baseline. */
        m->values[COX_RUN][i] = value(&results[i], e->options->plan ? STEERED : CLEAN, n_answer);
        if (has_baseline) m->values[COX_BASELINE][i] = value(&results[i], CLEAN, n_answer);
    }
    return COX_OK;
}

static double log_odds_of(const result *r, int variant, int32_t n_answer)
{
    (void)n_answer;
    return r->log_odds[variant];
}

static double nll_of(const result *r, int variant, int32_t n_answer)
{
    return n_answer > 0 ? -r->log_p[variant] / n_answer : (double)NAN;
}

static double kl_of(const result *r, int variant, int32_t n_answer)
{
    (void)variant, (void)n_answer;
    return r->kl;
}

static double answer_kl_of(const result *r, int variant, int32_t n_answer)
{
    (void)variant;
    return n_answer > 0 ? r->answer_kl / n_answer : (double)NAN;
}

static cox_status take_results(cox_evaluation *e, const context *c, const cox_jobs *jobs,
                               const result *results)
{
    bool is_steered = e->options->plan != NULL, has_answers = false;
    for (int32_t i = 0; i < e->n_items; i++) {
        has_answers = has_answers || jobs->jobs[i].n_tokens > jobs->jobs[i].n_prompt;
        e->n_rows_steered += results[i].n_rows_steered;
    }
    cox_status status = COX_OK;
    if (c->in_set) status = add(e, jobs, "log_odds", results, is_steered, log_odds_of);
    if (status == COX_OK && is_steered) status = add(e, jobs, "kl", results, false, kl_of);
    if (status == COX_OK && has_answers) status = add(e, jobs, "nll", results, is_steered, nll_of);
    if (status == COX_OK && has_answers && is_steered)
        status = add(e, jobs, "answer_kl", results, false, answer_kl_of);
    return status;
}

static cox_status unpack(context *c, void *data)
{
    c->shared = data;
    c->in_set = c->shared->has_set ? (const uint8_t *)(c->shared + 1) : NULL;
    const int32_t *indices = NULL;
    const char *plan = (const char *)(c->shared + 1) + c->model->vocab_size;
    return c->shared->n_plan_bytes
               ? cox_plan_unpack(&c->plan, &indices, plan, (size_t)c->shared->n_plan_bytes)
               : COX_OK;
}

cox_status cox_evaluation_compute(cox_evaluation *e, cox_run *run)
{
    context c = {.model = run->model};
    cox_jobs jobs = {0};
    void *data = NULL, *results = NULL;
    size_t n_bytes = 0, n_files = e->options->n_prompts;
    bool is_front = cox_run_is_front(run);
    cox_prompts *prompts = calloc(n_files, sizeof *prompts);
    cox_status status = prompts ? COX_OK : cox_no_memory("an evaluation");
    if (status == COX_OK && is_front) status = read_inputs(e, run, &jobs, prompts, &data, &n_bytes);
    status = cox_run_agree(run, status);
    if (status == COX_OK) status = cox_cluster_broadcast(run->cluster, 0, &data, &n_bytes);
    if (status == COX_OK) status = cox_run_agree(run, unpack(&c, data));
    if (status == COX_OK) {
        size_t job_bytes = scratch_bytes(&c);
        size_t n_fit = job_bytes ? MAX_SCRATCH_BYTES / job_bytes : MAX_AT_ONCE;
        const cox_job_question question = {.label = "evaluate",
                                           .paths = e->options->prompts,
                                           .context = &c,
                                           .n_variants = c.plan ? 2 : 1,
                                           .result_bytes = sizeof(result),
                                           .scratch_bytes = job_bytes,
                                           .n_at_once = (int32_t)(n_fit < 1             ? 1
                                                                  : n_fit > MAX_AT_ONCE ? MAX_AT_ONCE
                                                                                        : n_fit),
                                           .prepare = evaluate_prepare,
                                           .on_logits = on_evaluate_logits,
                                           .on_hits = on_hits,
                                           .finish = finish};
        status = cox_jobs_run(run, &jobs, &question, &results);
    }
    if (status == COX_OK)
        status = cox_run_agree(run, is_front ? take_results(e, &c, &jobs, results) : COX_OK);
    cox_plan_free(c.plan);
    cox_jobs_free(&jobs);
    for (size_t i = 0; prompts && i < n_files; i++) cox_prompts_free(&prompts[i]);
    free(prompts);
    free(data);
    free(results);
    return status;
}
