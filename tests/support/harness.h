/*
 * A whole model on a cluster, for tests: open, load, run token prompts to the end, compare. The programs' own
 * way of putting the parts together is run/run.c; this one needs no options and no text.
 */
#ifndef COX_TESTS_SUPPORT_HARNESS_H
#define COX_TESTS_SUPPORT_HARNESS_H

#include "coordinator/session.h"
#include "worker/worker.h"

typedef struct harness_config {
    const char *folder;
    const char *kernels;   /* NULL: auto */
    const char *placement; /* text of a placement file; NULL: round robin */
    cox_exchange_kind exchange;
    cox_engine_options engine;
    /* cox_engine_events.on_rows, with a context of its own; NULL: nobody listens */
    void (*on_rows)(void *context, uint64_t id, cox_site site, int32_t layer, int32_t expert,
                    int32_t position, const float *h);
    void *rows_context;
} harness_config;
harness_config harness_config_defaults(const char *folder);

typedef struct harness_request {
    const int32_t *prompt;
    int32_t n_prompt, max_tokens;
    bool ignore_eos, wants_logits;
    cox_sampling sampling;
    cox_plan *plan; /* NULL: none; harness_run takes it over */
} harness_request;

typedef struct harness_result {
    int32_t *tokens; /* generated, malloc'ed */
    int32_t n_tokens, n_cached;
    float *logits; /* [n_prompt + max_tokens, vocab_size] when wanted, malloc'ed */
    int32_t n_logits;
    cox_finish finish;
    cox_steer_hits *hits; /* [n_hits] malloc'ed */
    int32_t n_hits;
    char digest[65];
} harness_result;
void harness_result_free(harness_result *result);
/* Over all fields of all hits. [out] *n_touched: rows touched in all. */
uint64_t harness_hash_hits(const harness_result *result, int32_t *n_touched);

/* Bytes of one page of a model's KV cache; fails the program when the model cannot be opened. */
size_t harness_page_bytes(const char *folder);

typedef struct harness harness;

/* Collective over the cluster. On error everything is released. */
cox_status harness_open(harness **h, cox_cluster *cluster, const harness_config *config);
/* Collective; coordinators have called harness_finish, other hosts harness_serve. NULL is allowed. */
void harness_close(harness *h);

const cox_model *harness_model(const harness *h);
cox_engine *harness_engine(harness *h);
/* NULL on ranks without experts. */
const cox_worker *harness_worker(const harness *h);
/* On a coordinator: for a session beside the harness's engine, without words. Valid until harness_close. */
cox_session_parts harness_session_parts(harness *h);
const char *harness_exchange_name(const harness *h);
const char *harness_kernels_name(const harness *h);

/* On a coordinator: submits all requests at once; request i has the id i. */
cox_status harness_submit(harness *h, const harness_request *requests, int32_t n, harness_result *results);
/* And steps until all are done. */
cox_status harness_run(harness *h, const harness_request *requests, int32_t n, harness_result *results);
/* For tests that submit and step themselves: where events go. */
void harness_expect(harness *h, harness_result *results);
/* On a coordinator: no more work. Hosts (this one too) stop serving. */
cox_status harness_finish(harness *h);
/* On ranks that are no coordinators. */
cox_status harness_serve(harness *h);

/* A recorded model of tests/golden/models. */
typedef struct golden {
    char *folder; /* of the recording */
    char *model;  /* the checkpoint's folder: the same, or what golden.json names by "model" */
    int32_t n_prompt, n_greedy, vocab_size, n_rows;
    int32_t *prompt, *greedy;
    int32_t *rows; /* [n_rows] positions of the recorded logits, ascending; all unless the file says which */
    float *logits; /* [n_rows, vocab_size] */
    float range;   /* largest minus smallest of the recorded logits */
    float *hidden; /* [n_layers + 1, 2, d_model] residual stream before each layer and after the last, of the
                      first and last token of the prompt; NULL: not recorded */
    float *router_logits; /* [layers with experts, 2, n_experts] of the same tokens; NULL */
} golden;
/* Fails the test program with a message when the folder cannot be read. */
golden *golden_load(const char *folder);
void golden_free(golden *g);
/*
 * On a coordinator: the recorded logits of prompt and greedy tokens (every position of a reference model)
 * differ by at most tolerance * range, and generating from the prompt gives the same greedy tokens. With
 * kl_tolerance > 0 (kernels that round) the tokens may differ and the mean Kullback-Leibler divergence from
 * the recorded distributions is bounded instead. Prints the largest difference, and what differs too much.
 */
typedef struct golden_difference {
    double of_range, mean_kl;
} golden_difference;
/* [out] difference: may be NULL. */
bool golden_matches(harness *h, const golden *g, double tolerance, double kl_tolerance,
                    golden_difference *difference);
/* Folders of all recorded models, sorted; NULL at the end; free with golden_list_free. */
char **golden_list(void);
void golden_list_free(char **folders);

#endif
