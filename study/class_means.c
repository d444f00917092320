/*
 * The sink of a pass over both classes: coordinator c sums the rows of blocks c, c + C, ... of prompts; the
 * sums are gathered when the engines have finished, and added in the order of blocks. The sums of prompts on
 * their way wait in a window until those before them are in.
 */
#include "study/class_means.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/memory.h"
#include "study/direction.h"
#include "study/metrics.h"

enum { MAX_WINDOW = 128, WINDOW_BYTES = 256 << 20 };

typedef struct means {
    cox_run *run;
    const cox_class_question *question;
    cox_pass_work work;
    size_t n_floats; /* of all rows of a prompt */
    int32_t n_blocks[2], n_mine, window;
    int32_t *blocks;         /* [prompts] number over both classes */
    double *sums;            /* [n_mine, n_floats + 1]: of prompts' means, and behind them how many */
    int32_t *places, *units; /* [layers of the model] index in question->layers; [experts] in ->experts */
    uint8_t *sites, *experts, *filter; /* for the pass; filter: on every rank */
    double *parts;                     /* [window, n_floats] */
    double *scores;                    /* [window] */
    char *kept;                        /* [n_kept] records: number of the prompt, rows */
    size_t n_kept, record_bytes;
} means;

/* --- The pass --- */

static size_t place_of_row(const means *m, int32_t layer, int32_t expert, int32_t place)
{
    const cox_class_question *q = m->question;
    size_t n_units = (size_t)(q->n_experts ? q->n_experts : 1);
    size_t row =
        q->n_positions ? (size_t)place * (size_t)q->n_layers : 0; /* means of tokens have one place */
    row = (row + (size_t)m->places[layer]) * n_units;
    return (row + (size_t)(expert >= 0 ? m->units[expert] : 0)) * (size_t)q->width;
}

static void on_row(void *context, const cox_pass_prompt *prompt, cox_site site, int32_t layer, int32_t expert,
                   int32_t place, const float *h)
{
    means *m = context;
    (void)site;
    double *part = m->parts + (size_t)(prompt->index % m->window) * m->n_floats;
    cox_sum_add_row(part + place_of_row(m, layer, expert, place), h, (size_t)m->question->width);
}

static void on_last_logits(void *context, const cox_pass_prompt *prompt, const float *logits)
{
    means *m = context;
    m->scores[prompt->index % m->window] = cox_log_odds(logits, m->filter, m->run->model->vocab_size);
}

static void keep_rows(means *m, int32_t number, const double *part, double n_rows)
{
    char *record = m->kept + m->n_kept++ * m->record_bytes;
    memcpy(record, &number, sizeof number);
    float *rows = (float *)(void *)(record + sizeof number);
    for (size_t i = 0; i < m->n_floats; i++) rows[i] = (float)(part[i] / n_rows);
}

/* Adds the rows of the next prompt in order to its block. */
static cox_status on_means_done(void *context, const cox_pass_prompt *prompt)
{
    means *m = context;
    const cox_class_question *q = m->question;
    double *part = m->parts + (size_t)(prompt->index % m->window) * m->n_floats;
    double score = m->scores[prompt->index % m->window], n_rows = q->n_positions ? 1 : prompt->n_tokens;
    for (size_t i = 0; i < m->n_floats; i++) {
        if (isfinite(part[i])) continue;
        size_t n_units = (size_t)(q->n_experts ? q->n_experts : 1), unit = i / (size_t)q->width;
        return cox_fail(COX_INVALID, "the row at %s of layer %d is not finite", cox_site_name(q->site),
                        (int)q->layers[unit / n_units % (size_t)q->n_layers]);
    }
    if (q->has_filter && !isfinite(score)) return cox_fail(COX_INVALID, "the log-odds are not finite");
    if (!q->has_filter || (prompt->file == 0 ? score > 0 : score < 0)) {
        int32_t block = m->blocks[prompt->number] / cox_cluster_n_coordinators(m->run->cluster);
        double *sum = m->sums + (size_t)block * (m->n_floats + 1);
        cox_sum_add_mean(sum, part, n_rows, m->n_floats);
        sum[m->n_floats]++;
        if (q->wants_rows) keep_rows(m, prompt->number, part, n_rows);
    }
    memset(part, 0, m->n_floats * sizeof *part);
    return COX_OK;
}

/* --- Memory --- */

static cox_status take_places(means *m)
{
    const cox_class_question *q = m->question;
    size_t n_layers = (size_t)m->run->model->n_layers, n_experts = (size_t)m->run->model->router.n_experts;
    m->places = calloc(n_layers, sizeof *m->places);
    m->units = calloc(n_experts + 1, sizeof *m->units);
    m->sites = calloc(n_layers, 1);
    m->experts = calloc(n_layers * n_experts + 1, 1);
    if (!m->places || !m->units || !m->sites || !m->experts) return cox_no_memory("the means of rows");
    for (int32_t i = 0; i < q->n_experts; i++) m->units[q->experts[i]] = i;
    for (int32_t l = 0; l < q->n_layers; l++) {
        m->places[q->layers[l]] = l;
        m->sites[q->layers[l]] = (uint8_t)(1u << q->site);
        for (int32_t i = 0; i < q->n_experts; i++)
            m->experts[(size_t)q->layers[l] * n_experts + (size_t)q->experts[i]] = 1;
    }
    return COX_OK;
}

static cox_status check_room(size_t n_rows_kept, size_t record_bytes, size_t sums_bytes)
{
    uint64_t available = cox_memory_available_bytes();
    if ((double)n_rows_kept * (double)record_bytes + (double)sums_bytes < (double)available) return COX_OK;
    return cox_fail(
        COX_NO_MEMORY,
        "the rows take %.1f GB on this rank, which has %.1f GB free: ask for fewer layers, experts or "
        "positions at a time",
        ((double)n_rows_kept * (double)record_bytes + (double)sums_bytes) * 1e-9, (double)available * 1e-9);
}

static cox_status take_sums(means *m, int32_t n_mine_prompts)
{
    size_t part_bytes = m->n_floats * sizeof *m->parts, fitting = WINDOW_BYTES / part_bytes;
    m->window = fitting > MAX_WINDOW ? MAX_WINDOW : fitting < 4 ? 4 : (int32_t)fitting;
    m->record_bytes = sizeof(int32_t) + m->n_floats * sizeof(float);
    size_t n_kept = m->question->wants_rows ? (size_t)n_mine_prompts : 0;
    cox_status status =
        check_room(n_kept, m->record_bytes, ((size_t)m->n_mine + (size_t)m->window) * part_bytes);
    if (status != COX_OK) return status;
    m->sums = calloc((size_t)m->n_mine * (m->n_floats + 1) + 1, sizeof *m->sums);
    m->parts = calloc((size_t)m->window * m->n_floats, sizeof *m->parts);
    m->scores = calloc((size_t)m->window, sizeof *m->scores);
    m->kept = malloc(n_kept * m->record_bytes + 1);
    return m->sums && m->parts && m->scores && m->kept ? COX_OK : cox_no_memory("the means of rows");
}

/* Which block each prompt belongs to, on every rank; and this coordinator's memory. */
static cox_status means_prepare(means *m)
{
    int32_t rank = m->run->rank, n_coordinators = cox_cluster_n_coordinators(m->run->cluster), n_mine = 0;
    m->blocks = malloc(((size_t)m->work.n + 1) * sizeof *m->blocks);
    if (!m->blocks) return cox_no_memory("the means of rows");
    for (int c = 0; c < 2; c++) m->n_blocks[c] = cox_class_n_blocks(m->work.of_file[c]);
    for (int32_t i = 0; i < m->work.n; i++) {
        int32_t c = m->work.prompts[i].file;
        m->blocks[i] = c * m->n_blocks[0] + cox_class_block(i - c * m->work.of_file[0]);
        n_mine += cox_pass_is_mine(m->run, m->blocks[i]);
    }
    if (!cox_cluster_is_coordinator(m->run->cluster)) return COX_OK;
    m->n_mine = (m->n_blocks[0] + m->n_blocks[1] - rank + n_coordinators - 1) / n_coordinators;
    cox_status status = take_places(m);
    return status == COX_OK ? take_sums(m, n_mine) : status;
}

/* The filter is rank 0's; the others get it. */
static cox_status share_filter(means *m)
{
    size_t n = (size_t)m->run->model->vocab_size;
    void *data = NULL;
    if (!m->question->has_filter) return COX_OK;
    if (cox_run_is_front(m->run)) {
        data = malloc(n);
        if (data) memcpy(data, m->question->filter, n);
    }
    cox_status status = cox_run_agree(
        m->run, cox_run_is_front(m->run) && !data ? cox_no_memory("the means of rows") : COX_OK);
    if (status == COX_OK) status = cox_cluster_broadcast(m->run->cluster, 0, &data, &n);
    m->filter = data;
    return status;
}

static cox_status run_prompts(means *m)
{
    const cox_class_question *q = m->question;
    const cox_status status = means_prepare(m);
    const cox_pass_question question = {.sites = m->sites,
                                        .experts = m->experts,
                                        .is_counterfactual = q->site == COX_SITE_EXPERT_OUT,
                                        .wants_last_logits = q->has_filter,
                                        .from_end = q->from_end,
                                        .n_positions = q->n_positions};
    const cox_pass_sink sink = {.context = m,
                                .name = "direction",
                                .window = m->window,
                                .row = on_row,
                                .last_logits = on_last_logits,
                                .done = on_means_done};
    return cox_pass_run(m->run, &m->work, &question, m->blocks, q->prompts, &sink, status);
}

/* --- All shares together --- */

/* On rank 0: the blocks of all coordinators in order. */
static cox_status add_up(const means *m, const double *all, const size_t *offsets, cox_class_means *out)
{
    int32_t n_coordinators = cox_cluster_n_coordinators(m->run->cluster);
    const char *const *paths = m->question->prompts;
    out->means = calloc(2 * m->n_floats, sizeof *out->means);
    double *sum = calloc(m->n_floats, sizeof *sum);
    cox_status status = out->means && sum ? COX_OK : cox_no_memory("the means of rows");
    for (int32_t c = 0, block = 0; c < 2 && status == COX_OK; c++) {
        double n_kept = 0;
        memset(sum, 0, m->n_floats * sizeof *sum);
        for (int32_t i = 0; i < m->n_blocks[c]; i++, block++) {
            const double *from = all + offsets[block % n_coordinators] / sizeof *all;
            from += (size_t)(block / n_coordinators) * (m->n_floats + 1);
            cox_sum_add_mean(sum, from, 1, m->n_floats);
            n_kept += from[m->n_floats];
        }
        out->n_kept[c] = (int32_t)n_kept;
        if (out->n_kept[c] == 0) {
            status = cox_fail(COX_INVALID, "%s: the filter leaves none of its %d prompts", paths[c],
                              (int)m->work.of_file[c]);
        } else {
            cox_sum_add_mean(out->means + (size_t)c * m->n_floats, sum, n_kept, m->n_floats);
        }
    }
    free(sum);
    return status;
}

/* On rank 0: which record is the i-th kept prompt of each class. */
static cox_status sort_rows(const means *m, const char *all, size_t n_bytes, cox_class_means *out)
{
    const float **by_number = calloc((size_t)m->work.n + 1, sizeof *by_number);
    for (int c = 0; c < 2; c++) out->rows[c] = calloc((size_t)m->work.of_file[c] + 1, sizeof **out->rows);
    if (!by_number || !out->rows[0] || !out->rows[1]) {
        free(by_number);
        return cox_no_memory("the means of rows");
    }
    for (size_t at = 0; at < n_bytes; at += m->record_bytes) {
        int32_t number;
        memcpy(&number, all + at, sizeof number);
        by_number[number] = (const float *)(const void *)(all + at + sizeof number);
    }
    for (int32_t i = 0, n[2] = {0}; i < m->work.n; i++) {
        int32_t c = m->work.prompts[i].file;
        if (by_number[i]) out->rows[c][n[c]++] = by_number[i];
    }
    free(by_number);
    return COX_OK;
}

/* Collective; every rank has finished. */
static cox_status gather(const means *m, cox_class_means *out)
{
    void *all = NULL, *rows = NULL;
    size_t *offsets = NULL;
    size_t n_bytes = (size_t)m->n_mine * (m->n_floats + 1) * sizeof *m->sums;
    int32_t size = cox_cluster_size(m->run->cluster);
    bool is_front = cox_run_is_front(m->run);
    cox_status status = cox_cluster_gather(m->run->cluster, m->sums, n_bytes, &all, &offsets);
    if (status == COX_OK && is_front) status = add_up(m, all, offsets, out);
    free(all);
    free(offsets);
    offsets = NULL;
    status = cox_run_agree(m->run, status);
    if (status != COX_OK || !m->question->wants_rows) return status;
    status = cox_cluster_gather(m->run->cluster, m->kept, m->n_kept * m->record_bytes, &rows, &offsets);
    out->memory = rows;
    if (status == COX_OK && is_front) status = sort_rows(m, rows, offsets[size], out);
    free(offsets);
    return cox_run_agree(m->run, status);
}

cox_status cox_class_means_run(cox_run *run, const cox_class_question *question, const cox_prompts *classes,
                               cox_class_means *result)
{
    means m = {.run = run,
               .question = question,
               .window = 1,
               .n_floats = (size_t)cox_class_n_rows(question) * (size_t)question->width};
    *result = (cox_class_means){0};
    cox_status status = cox_pass_share(run, classes, 2, &m.work);
    if (status == COX_OK) status = share_filter(&m);
    if (status == COX_OK) status = run_prompts(&m);
    if (status == COX_OK) status = gather(&m, result);
    cox_pass_work_free(&m.work);
    free(m.blocks);
    free(m.sums);
    free(m.places);
    free(m.units);
    free(m.sites);
    free(m.experts);
    free(m.filter);
    free(m.parts);
    free(m.scores);
    free(m.kept);
    return status;
}

void cox_class_means_free(cox_class_means *result)
{
    free(result->means);
    for (int c = 0; c < 2; c++) free(result->rows[c]);
    free(result->memory);
    *result = (cox_class_means){0};
}
