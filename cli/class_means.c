/*
 * Rank 0 sends the prompts to all; coordinator c sums the rows of blocks c, c + C, ... of prompts; the sums
 * are gathered when the engines have finished, and added in the order of blocks. Sequences end in any order,
 * so the sums of up to WINDOW prompts wait until those before them are in.
 */
#include "cli/class_means.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/engine.h"
#include "steering/direction.h"

enum { WINDOW = 128 };

/* What rank 0 sends: n of both classes, then of each prompt its line and its number of tokens, then all
 * tokens. */
typedef struct work {
    int32_t *data;
    int32_t n[2];
    const int32_t *heads;  /* [n[0] + n[1], 2] line, tokens */
    const int32_t *tokens; /* of the first prompt */
} work;

/* A prompt on its way. */
typedef struct pending {
    double *sum; /* [n_layers, width] */
    cox_observation observation;
    bool is_done;
} pending;

typedef struct means {
    cox_run *run;
    const cox_class_question *question;
    work work;
    int32_t n_blocks[2];
    int32_t n_mine;  /* blocks of this coordinator */
    double *sums;    /* [n_mine, n_layers, width] */
    int32_t *places; /* [the model's layers] index in question->layers, or -1 */
    uint8_t *sites;  /* [the model's layers] for the observations */
    pending window[WINDOW];
    double *window_sums; /* [WINDOW, n_layers, width] */
    int32_t *mine;       /* [n_prompts] prompts of this coordinator, ascending */
    const int32_t **mine_tokens;
    int32_t n_prompts, n_submitted, n_summed;
    cox_progress bar;
    cox_status failed;
} means;

static size_t row_floats(const means *m)
{
    return (size_t)m->question->n_layers * (size_t)m->question->width;
}

static cox_status out_of_memory(void)
{
    return cox_fail(COX_NO_MEMORY, "out of memory for the means of rows");
}

/* --- The prompts, to all --- */

static cox_status pack(const cox_prompts *classes, void **data, size_t *n_bytes)
{
    size_t n = 2;
    for (int c = 0; c < 2; c++) n += 2 * (size_t)classes[c].n + classes[c].n_tokens;
    int32_t *out = malloc(n * sizeof *out), *at = out;
    if (!out) return out_of_memory();
    for (int c = 0; c < 2; c++) *at++ = classes[c].n;
    for (int c = 0; c < 2; c++) {
        for (int32_t i = 0; i < classes[c].n; i++) {
            *at++ = classes[c].lines[i];
            *at++ = (int32_t)(classes[c].offsets[i + 1] - classes[c].offsets[i]);
        }
    }
    for (int c = 0; c < 2; c++) {
        memcpy(at, classes[c].tokens, classes[c].n_tokens * sizeof *at);
        at += classes[c].n_tokens;
    }
    *data = out;
    *n_bytes = n * sizeof *out;
    return COX_OK;
}

static cox_status share(means *m, const cox_prompts *classes)
{
    void *data = NULL;
    size_t n_bytes = 0;
    bool is_front = cox_run_is_front(m->run);
    cox_status status = cox_run_agree(m->run, is_front ? pack(classes, &data, &n_bytes) : COX_OK);
    if (status == COX_OK) status = cox_cluster_broadcast(m->run->cluster, 0, &data, &n_bytes);
    m->work.data = data;
    if (status != COX_OK) return status;
    memcpy(m->work.n, m->work.data, sizeof m->work.n);
    m->work.heads = m->work.data + 2;
    m->work.tokens = m->work.heads + 2 * (size_t)(m->work.n[0] + m->work.n[1]);
    for (int c = 0; c < 2; c++) m->n_blocks[c] = cox_class_n_blocks(m->work.n[c]);
    return COX_OK;
}

/* --- The engine's events --- */

static void on_rows(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h)
{
    means *m = context;
    (void)site, (void)expert, (void)position;
    size_t width = (size_t)m->question->width;
    cox_sum_add_row(m->window[id % WINDOW].sum + (size_t)m->places[layer] * width, h, width);
}

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context, (void)id, (void)token, (void)logprobs;
    return true;
}

static void on_done(void *context, uint64_t id, const cox_sequence_result *result)
{
    means *m = context;
    m->window[id % WINDOW].is_done = true;
    if (result->finish == COX_FINISH_ERROR && m->failed == COX_OK)
        m->failed = cox_fail(COX_INTERNAL, "%s", result->error ? result->error : "the engine failed");
}

/* --- One coordinator's share --- */

static int32_t class_of(const means *m, int32_t prompt)
{
    return prompt >= m->work.n[0];
}

/* Number of a prompt's block, counted over both classes. */
static int32_t block_of(const means *m, int32_t prompt)
{
    int32_t c = class_of(m, prompt);
    return c * m->n_blocks[0] + (prompt - c * m->work.n[0]) / COX_CLASS_BLOCK;
}

static cox_status choose_mine(means *m)
{
    int32_t rank = m->run->rank, n_coordinators = cox_cluster_n_coordinators(m->run->cluster);
    int32_t n = m->work.n[0] + m->work.n[1], n_blocks = m->n_blocks[0] + m->n_blocks[1];
    m->n_mine = (n_blocks - rank + n_coordinators - 1) / n_coordinators;
    m->mine = malloc((size_t)n * sizeof *m->mine);
    m->mine_tokens = malloc((size_t)n * sizeof *m->mine_tokens);
    m->sums = calloc((size_t)m->n_mine * row_floats(m) + 1, sizeof *m->sums);
    m->window_sums = calloc(WINDOW * row_floats(m), sizeof *m->window_sums);
    m->places = calloc((size_t)m->run->model->n_layers, sizeof *m->places);
    m->sites = calloc((size_t)m->run->model->n_layers, 1);
    if (!m->mine || !m->mine_tokens || !m->sums || !m->window_sums || !m->places || !m->sites)
        return out_of_memory();
    for (int32_t l = 0; l < m->question->n_layers; l++) {
        m->places[m->question->layers[l]] = l;
        m->sites[m->question->layers[l]] = (uint8_t)(1u << m->question->site);
    }
    for (int32_t w = 0; w < WINDOW; w++) {
        m->window[w].sum = m->window_sums + (size_t)w * row_floats(m);
        m->window[w].observation.sites = m->sites;
    }
    const int32_t *tokens = m->work.tokens;
    for (int32_t i = 0; i < n; tokens += m->work.heads[2 * i + 1], i++) {
        if (block_of(m, i) % n_coordinators != rank) continue;
        m->mine_tokens[m->n_prompts] = tokens;
        m->mine[m->n_prompts++] = i;
    }
    return COX_OK;
}

/* Puts the prompt's name before the message. */
static cox_status blame(const means *m, cox_status status, int32_t prompt)
{
    const cox_options *options = m->run->options;
    return cox_fail_in(status, "%s: line %d", class_of(m, prompt) ? options->prompts_b : options->prompts_a,
                       (int)m->work.heads[2 * prompt]);
}

static cox_status submit_next(means *m, cox_engine *engine)
{
    int32_t i = m->n_submitted, prompt = m->mine[i], n = m->work.heads[2 * prompt + 1];
    int32_t from_end = m->question->from_end;
    pending *p = &m->window[i % WINDOW];
    if (n < from_end) {
        cox_status status =
            cox_fail(COX_INVALID, "the prompt has %d tokens, so none is number %d from its end", (int)n,
                     (int)from_end);
        return blame(m, status, prompt);
    }
    p->is_done = false;
    p->observation.positions = from_end ? (cox_positions){COX_SPAN_RANGE, n - from_end, n - from_end + 1}
                                        : (cox_positions){.span = COX_SPAN_PROMPT};
    const cox_sequence_request request = {.id = (uint64_t)i,
                                          .prompt = m->mine_tokens[i],
                                          .n_prompt = n,
                                          .sampling = cox_sampling_defaults(),
                                          .observation = &p->observation};
    cox_status status = cox_engine_submit(engine, &request);
    if (status != COX_OK) return blame(m, status, prompt);
    m->n_submitted++;
    return COX_OK;
}

/* Adds the rows of the next prompt in order to its block. */
static cox_status sum_next(means *m)
{
    int32_t prompt = m->mine[m->n_summed], n_coordinators = cox_cluster_n_coordinators(m->run->cluster);
    double *part = m->window[m->n_summed % WINDOW].sum;
    double n_rows = m->question->from_end ? 1 : m->work.heads[2 * prompt + 1];
    for (size_t i = 0; i < row_floats(m); i++) {
        if (isfinite(part[i])) continue;
        cox_status status =
            cox_fail(COX_INVALID, "the row at %s of layer %d is not finite", cox_site_name(m->question->site),
                     (int)m->question->layers[i / (size_t)m->question->width]);
        return blame(m, status, prompt);
    }
    double *sum = m->sums + (size_t)(block_of(m, prompt) / n_coordinators) * row_floats(m);
    cox_sum_add_mean(sum, part, n_rows, row_floats(m));
    memset(part, 0, row_floats(m) * sizeof *part);
    m->n_summed++;
    return COX_OK;
}

static cox_status compute(means *m, cox_engine *engine)
{
    cox_status status = COX_OK;
    while (status == COX_OK && m->n_summed < m->n_prompts) {
        while (status == COX_OK && m->n_submitted < m->n_prompts && m->n_submitted < m->n_summed + WINDOW)
            status = submit_next(m, engine);
        if (status == COX_OK) status = cox_engine_step(engine);
        if (status == COX_OK) status = m->failed;
        while (status == COX_OK && m->n_summed < m->n_submitted && m->window[m->n_summed % WINDOW].is_done)
            status = sum_next(m);
        cox_progress_update(&m->bar, (uint64_t)m->n_summed, (uint64_t)m->n_prompts, NULL);
    }
    return status;
}

/* --- All shares together --- */

/* On rank 0: the blocks of all coordinators in order. */
static cox_status add_up(const means *m, const double *all, const size_t *offsets, double **out)
{
    int32_t n_coordinators = cox_cluster_n_coordinators(m->run->cluster);
    double *both = calloc(2 * row_floats(m), sizeof *both), *sum = calloc(row_floats(m), sizeof *sum);
    if (!both || !sum) {
        free(both);
        free(sum);
        return out_of_memory();
    }
    for (int32_t c = 0, block = 0; c < 2; c++) {
        memset(sum, 0, row_floats(m) * sizeof *sum);
        for (int32_t i = 0; i < m->n_blocks[c]; i++, block++) {
            const double *from = all + offsets[block % n_coordinators] / sizeof *all;
            cox_sum_add_mean(sum, from + (size_t)(block / n_coordinators) * row_floats(m), 1, row_floats(m));
        }
        cox_sum_add_mean(both + (size_t)c * row_floats(m), sum, m->work.n[c], row_floats(m));
    }
    free(sum);
    *out = both;
    return COX_OK;
}

static cox_status gather(const means *m, double **out)
{
    void *all = NULL;
    size_t *offsets = NULL, n_bytes = (size_t)m->n_mine * row_floats(m) * sizeof *m->sums;
    cox_status status = cox_cluster_gather(m->run->cluster, m->sums, n_bytes, &all, &offsets);
    if (status == COX_OK && cox_run_is_front(m->run)) status = add_up(m, all, offsets, out);
    free(all);
    free(offsets);
    return cox_run_agree(m->run, status);
}

static cox_status create_engine(means *m, cox_engine **engine)
{
    cox_run *run = m->run;
    const cox_engine_events events = {
        .context = m, .on_token = on_token, .on_rows = on_rows, .on_done = on_done};
    cox_engine_options options = cox_run_engine_options(run->options, run->layout.size);
    cox_status status = choose_mine(m);
    if (status != COX_OK) return status;
    return cox_engine_create(engine, run->model, &run->trunk, run->kernels, run->cluster, run->placement,
                             run->exchange, &options, &events);
}

cox_status cox_class_means(cox_run *run, const cox_class_question *question, const cox_prompts *classes,
                           double **result)
{
    means *m = calloc(1, sizeof *m);
    cox_engine *engine = NULL;
    cox_status status = cox_run_agree(run, m ? COX_OK : out_of_memory());
    if (status != COX_OK) {
        free(m);
        return status;
    }
    *m = (means){.run = run, .question = question};
    bool is_coordinator = cox_cluster_is_coordinator(run->cluster);
    status = share(m, classes);
    if (status == COX_OK) status = cox_run_agree(run, is_coordinator ? create_engine(m, &engine) : COX_OK);
    if (status == COX_OK) {
        cox_progress_begin(&m->bar, "direction", cox_run_is_front(run) ? run->progress : COX_PROGRESS_NONE,
                           COX_PROGRESS_COUNT);
        status = cox_run_finish(run, is_coordinator ? compute(m, engine) : COX_OK);
        if (is_coordinator) run->counters = *cox_engine_counters(engine);
        if (status == COX_OK) status = gather(m, result);
    }
    cox_engine_destroy(engine);
    free(m->sums);
    free(m->window_sums);
    free(m->places);
    free(m->sites);
    free(m->mine);
    free(m->mine_tokens);
    free(m->work.data);
    free(m);
    return status;
}
