/*
 * Two sets of prompts in; of each expert, how often the tokens of one are routed to it more
 * than those of the other, with intervals. Formulas are in docs/commands.md. Tokens of one prompt are not
 * independent, so the bootstrap draws prompts.
 */
#include "study/routes.h"

#include <stdlib.h>
#include <string.h>

#include "study/jobs.h"

typedef uint32_t counts_of_expert[COX_N_ROUTES];

typedef struct context {
    const cox_routes_options *options;
    int32_t n_experts, top_k;
} context;

static int32_t n_last(const context *c, int32_t n_tokens)
{
    return n_tokens < c->options->last ? n_tokens : (int32_t)c->options->last;
}

/* --- Counting, on every coordinator --- */

static cox_status routes_prepare(void *of, const cox_job *job, int32_t variant, void *scratch,
                                 cox_sequence_request *request)
{
    (void)of, (void)job, (void)variant, (void)scratch;
    request->wants_routes = true;
    return COX_OK;
}

static void on_decisions(void *of, const cox_job *job, void *result, void *scratch, int32_t layer,
                         int32_t position, const cox_traced_route *routes)
{
    const context *c = of;
    (void)scratch;
    counts_of_expert *counts = (counts_of_expert *)result + (size_t)layer * (size_t)c->n_experts;
    bool is_last = position >= job->n_tokens - n_last(c, job->n_tokens);
    if (is_last) counts[routes[0].expert][COX_ROUTES_TOP1]++;
    for (int32_t j = 0; j < c->top_k; j++) {
        counts[routes[j].expert][COX_ROUTES_CHOSEN] += is_last;
        counts[routes[j].expert][COX_ROUTES_CHOSEN_ALL]++;
    }
}

/* --- Differences, on rank 0 --- */

typedef struct groups {
    const counts_of_expert *counts; /* [prompts of both classes, n_layers, n_experts] */
    size_t n_cells;                 /* of one prompt */
    int32_t n[2];
    double *whole[2]; /* [2][COX_N_ROUTES][n[g]] tokens of each prompt */
    double *part[2];  /* [2][n[g]] scratch */
} groups;

static cox_interval compare(groups *g, cox_ratio_samples *samples, size_t cell, int32_t kind,
                            int64_t counts[2])
{
    const counts_of_expert *prompt = g->counts + cell;
    for (int class = 0; class < 2; class ++) {
        counts[class] = 0;
        for (int32_t i = 0; i < g->n[class]; i++, prompt += g->n_cells) {
            g->part[class][i] = (*prompt)[kind];
            counts[class] += (*prompt)[kind];
        }
    }
    if (counts[0] + counts[1] == 0) return (cox_interval){0};
    return cox_interval_ratios(samples, (const double *const[2]){g->part[0], g->part[1]});
}

static cox_status measure_kind(cox_routes *r, groups *g, int32_t kind)
{
    const double *const whole[2] = {g->whole[0] + (size_t)kind * (size_t)g->n[0],
                                    g->whole[1] + (size_t)kind * (size_t)g->n[1]};
    const cox_bootstrap bootstrap = {(uint64_t)r->options->seed, (int32_t)r->options->resamples};
    cox_ratio_samples samples;
    cox_status status = cox_ratio_samples_draw(&samples, whole, g->n, &bootstrap);
    for (size_t cell = 0; cell < g->n_cells && status == COX_OK; cell++)
        r->cells[cell].difference[kind] = compare(g, &samples, cell, kind, r->cells[cell].counts[kind]);
    cox_ratio_samples_release(&samples);
    return status;
}

static cox_status measure(cox_routes *r, const context *c, const void *results)
{
    groups g = {.counts = results, .n_cells = (size_t)r->n_layers * (size_t)r->n_experts};
    cox_status status = COX_OK;
    for (int class = 0; class < 2; class ++) {
        const cox_prompts *prompts = &r->classes[class];
        size_t n = (size_t)(g.n[class] = prompts->n);
        g.whole[class] = calloc(n * COX_N_ROUTES, sizeof(double));
        g.part[class] = calloc(n, sizeof(double));
        if (!g.whole[class] || !g.part[class]) status = cox_no_memory("counts of routes");
        for (size_t i = 0; i < n && status == COX_OK; i++) {
            int32_t n_tokens = (int32_t)(prompts->offsets[i + 1] - prompts->offsets[i]);
            for (size_t kind = 0; kind < COX_N_ROUTES; kind++) {
                int32_t counted = kind == COX_ROUTES_CHOSEN_ALL ? n_tokens : n_last(c, n_tokens);
                g.whole[class][kind * n + i] = counted;
                r->n_tokens[kind][class] += counted;
            }
        }
    }
    for (int32_t kind = 0; kind < COX_N_ROUTES && status == COX_OK; kind++)
        status = measure_kind(r, &g, kind);
    for (int class = 0; class < 2; class ++) {
        free(g.whole[class]);
        free(g.part[class]);
    }
    return status;
}

/* --- The pass --- */

static cox_status read_jobs(cox_run *run, cox_routes *r, cox_jobs *jobs)
{
    cox_status status = cox_prompts_read(r->classes, r->options->prompts, 2, r->options->limit, run);
    for (int32_t c = 0; c < 2 && status == COX_OK; c++)
        status = cox_jobs_add_prompts(jobs, &r->classes[c], c, c);
    return status;
}

static cox_status compare_classes(cox_routes *r, const context *c, const void *results)
{
    r->cells = calloc((size_t)r->n_layers * (size_t)r->n_experts, sizeof *r->cells);
    return r->cells ? measure(r, c, results) : cox_no_memory("counts of routes");
}

cox_status cox_routes_measure(cox_run *run, const cox_routes_options *options, cox_routes *routes)
{
    const cox_model *model = run->model;
    *routes = (cox_routes){.options = options,
                           .model = model,
                           .n_layers = model->n_layers,
                           .n_experts = model->router.n_experts};
    cox_jobs jobs = {0};
    void *results = NULL;
    bool is_front = cox_run_is_front(run);
    context c = {options, model->router.n_experts, model->router.top_k};
    const cox_job_question question = {.label = "routes",
                                       .paths = options->prompts,
                                       .context = &c,
                                       .n_variants = 1,
                                       .result_bytes = (size_t)routes->n_layers * (size_t)routes->n_experts *
                                                       sizeof(counts_of_expert),
                                       .n_at_once = 128,
                                       .prepare = routes_prepare,
                                       .on_routes = on_decisions};
    cox_status status = cox_run_agree(run, is_front ? read_jobs(run, routes, &jobs) : COX_OK);
    if (status == COX_OK) status = cox_jobs_run(run, &jobs, &question, &results);
    if (status == COX_OK)
        status = cox_run_agree(run, is_front ? compare_classes(routes, &c, results) : COX_OK);
    cox_jobs_free(&jobs);
    free(results);
    return status;
}

void cox_routes_free(cox_routes *routes)
{
    for (int i = 0; i < 2; i++) cox_prompts_free(&routes->classes[i]);
    free(routes->cells);
    *routes = (cox_routes){0};
}
