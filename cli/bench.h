/* What the benchmarks share: the parameters that every report opens with. */
#ifndef COX_CLI_BENCH_H
#define COX_CLI_BENCH_H

#include <jansson.h>

#include "cli/options.h"
#include "run/run.h"

/* Owned by the caller; NULL: out of memory. */
json_t *cox_bench_model_json(const cox_run *run);
json_t *cox_bench_run_json(const cox_run *run);
/* The object `part` of json, a line a key. */
void cox_bench_print(const json_t *json, const char *part);

/* coxswain bench --chat. Errors: those of templates and tokenizers. */
cox_status cox_bench_chat(const cox_options *options);

/* coxswain bench --sweep. Errors: those of a sweep. */
cox_status cox_bench_sweep(const cox_options *options);

#endif
