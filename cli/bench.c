/*
 * coxswain bench. --steer-mix: what steering every request differently costs; bench_mix.c measures, this file
 * prints, always with every parameter of the run, since a ratio without them says nothing. --chat:
 * bench_chat.c; --sweep: bench_sweep.c.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include <jansson.h>

#include "base/order.h"
#include "cli/bench.h"
#include "cli/build_info.h"
#include "cli/commands.h"
#include "study/bench_mix.h"

static const char *const mix_names[COX_N_MIXES] = {"unsteered", "residual", "routed"};

/* Of n numbers. low and high: a 95% interval of the median. */
typedef struct spread {
    double least, low, median, high, most;
} spread;

/*
 * How many of n sorted numbers to leave out at either end, so that those left enclose the true median in 95%
 * of all cases, whatever the distribution: k - 1, for the largest k with P(fewer than k of n fair coins show
 * heads) <= 2.5%. 0 below six numbers, whose whole range encloses it less often than that.
 */
static int32_t n_outside(int32_t n)
{
    double log_p = -n * log(2.0), below = exp(log_p); /* of exactly k heads; of at most k */
    int32_t k = 0;
    while (k < n / 2 && below <= 0.025) {
        log_p += log((double)(n - k) / (k + 1));
        below += exp(log_p);
        k++;
    }
    return k > 0 ? k - 1 : 0;
}

/* [in/out] values: sorted here. */
static spread spread_of(double *values, int32_t n)
{
    qsort(values, (size_t)n, sizeof *values, cox_compare_doubles);
    int32_t k = n_outside(n);
    return (spread){.least = values[0],
                    .low = values[k],
                    .median = 0.5 * (values[(n - 1) / 2] + values[n / 2]),
                    .high = values[n - 1 - k],
                    .most = values[n - 1]};
}

/* scratch: [n_rounds]. The ratio of two speeds, taken within each round. times: seconds or cpu_s. */
static spread ratio_of(double *const *times, cox_mix mix, int32_t n_rounds, double *scratch)
{
    for (int32_t r = 0; r < n_rounds; r++) scratch[r] = times[COX_MIX_UNSTEERED][r] / times[mix][r];
    return spread_of(scratch, n_rounds);
}

static spread speed_of(const cox_mix_result *result, cox_mix mix, const cox_mix_options *o, double *scratch)
{
    double n_tokens = (double)o->n_requests * o->n_new;
    for (int32_t r = 0; r < o->n_rounds; r++) scratch[r] = n_tokens / result->seconds[mix][r];
    return spread_of(scratch, o->n_rounds);
}

static json_t *spread_json(const spread *s)
{
    return json_pack("{s:f,s:f,s:f,s:f,s:f}", "min", s->least, "low", s->low, "median", s->median, "high",
                     s->high, "max", s->most);
}

/* --- Parameters --- */

json_t *cox_bench_model_json(const cox_run *run)
{
    const cox_model *m = run->model;
    return json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i}", "folder", run->options.model, "family",
                     m->family_name, "fingerprint", m->fingerprint, "layers", (int)m->n_layers, "d_model",
                     (int)m->d_model, "experts", (int)m->router.n_experts, "top_k", (int)m->router.top_k,
                     "d_expert", (int)m->d_expert, "vocab_size", (int)m->vocab_size);
}

json_t *cox_bench_run_json(const cox_run *run)
{
    const cox_engine_options engine = cox_run_engine_options(&run->options, run->layout.size);
    json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:i}", "version", COX_VERSION, "commit", COX_COMMIT,
                             "build", COX_BUILD_TYPE, "compiler", COX_COMPILER, "cpu", cox_cpu_features(),
                             "host", cox_cluster_host(run->cluster), "cores", get_nprocs());
    json_t *more = json_pack("{s:i,s:i,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:I}", "ranks", (int)run->layout.size,
                             "coordinators", (int)run->layout.n_coordinators, "experts_on",
                             run->options.experts_on_all ? "all" : "workers", "placement",
                             run->options.placement ? run->options.placement : "round robin", "exchange",
                             cox_exchange_name(run->exchange), "kernel", cox_kernels_name(run->kernels),
                             "threads", (int)run->layout.n_threads, "step_rows", (int)engine.max_rows,
                             "prefill_chunk", (int)engine.prefill_chunk, "micro_batches", (int)engine.n_slots,
                             "kv_bytes", (json_int_t)engine.kv_bytes);
    if (!json || !more || json_object_update(json, more) != 0) {
        json_decref(json);
        json = NULL;
    }
    json_decref(more);
    return json;
}

static json_t *work_json(const cox_mix_options *o)
{
    return json_pack(
        "{s:i,s:i,s:i,s:i,s:I,s:f,s:b,s:s,s:s}", "requests", (int)o->n_requests, "prompt_tokens",
        (int)o->n_prompt, "new_tokens", (int)o->n_new, "rounds", (int)o->n_rounds, "seed",
        (json_int_t)o->seed, "relative_norm", o->norm, "prefix_cache", 0, "residual_plans",
        "one a request: add a random vector at resid_post of one layer, all positions", "routed_plans",
        "one a request: add a random vector to one random expert's output in one layer, weighting routed");
}

static json_t *mix_json(const cox_mix_result *result, cox_mix mix, const cox_mix_options *o, double *scratch)
{
    const spread speed = speed_of(result, mix, o, scratch),
                 ratio = ratio_of(result->seconds, mix, o->n_rounds, scratch),
                 cpu = ratio_of(result->cpu_s, mix, o->n_rounds, scratch);
    json_t *json = json_pack("{s:s,s:o?,s:o?,s:o?,s:I,s:f}", "plans", mix_names[mix], "tokens_per_s",
                             spread_json(&speed), "of_unsteered", spread_json(&ratio), "cpu_of_unsteered",
                             spread_json(&cpu), "rows_touched", (json_int_t)result->rows_touched[mix],
                             "compile_s", result->compile_s[mix]);
    json_t *seconds = json_array();
    for (int32_t r = 0; r < o->n_rounds; r++)
        json_array_append_new(seconds, json_real(result->seconds[mix][r]));
    if (!json || json_object_set_new(json, "seconds", seconds) != 0) return NULL;
    return json;
}

static json_t *report_json(const cox_run *run, const cox_mix_options *o, const cox_mix_result *result,
                           double *scratch)
{
    json_t *mixes = json_array();
    for (cox_mix m = 0; m < COX_N_MIXES; m++) json_array_append_new(mixes, mix_json(result, m, o, scratch));
    return json_pack("{s:s,s:o?,s:o?,s:o?,s:I,s:o}", "benchmark", "steer-mix", "model",
                     cox_bench_model_json(run), "run", cox_bench_run_json(run), "work", work_json(o),
                     "rows_computed", (json_int_t)result->rows_computed, "results", mixes);
}

/* --- For people --- */

void cox_bench_print(const json_t *json, const char *part)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(json, part), key, value)
    {
        char *text =
            json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        printf("%-6s %-15s %s\n", part, key, text ? text : json_string_value(value));
        free(text);
    }
}

static void print_table(const cox_mix_options *o, const cox_mix_result *result, double *scratch)
{
    printf("\n%-10s %36s %34s %24s %12s %9s\n", "plans", "generated tokens/s: median (min, max)",
           "of unsteered: median (95%)", "by CPU time of rank 0", "rows touched", "compile s");
    for (cox_mix m = 0; m < COX_N_MIXES; m++) {
        const spread speed = speed_of(result, m, o, scratch);
        const spread ratio = ratio_of(result->seconds, m, o->n_rounds, scratch);
        const spread cpu = ratio_of(result->cpu_s, m, o->n_rounds, scratch);
        char speeds[64], ratios[64], cpus[64];
        snprintf(speeds, sizeof speeds, "%.1f (%.1f, %.1f)", speed.median, speed.least, speed.most);
        snprintf(ratios, sizeof ratios, "%.3f (%.3f, %.3f)", ratio.median, ratio.low, ratio.high);
        snprintf(cpus, sizeof cpus, "%.3f (%.3f, %.3f)", cpu.median, cpu.low, cpu.high);
        printf("%-10s %37s %34s %24s %12" PRId64 " %9.3f\n", mix_names[m], speeds, ratios, cpus,
               result->rows_touched[m], result->compile_s[m]);
    }
    printf("\nA batch computes %" PRId64
           " rows. It is timed from the first submit to the last answer, prompts "
           "included;\nratios are of the batches of one round, above 1 where steering was faster; in "
           "brackets a 95%% "
           "interval of\ntheir median (fewer than 6 rounds: their range). Compiling plans (JSON, vector "
           "files) is not timed.\n",
           result->rows_computed);
}

static cox_status report(const cox_run *run, const cox_mix_options *o, const cox_mix_result *result,
                         bool is_json)
{
    double *scratch = calloc((size_t)o->n_rounds, sizeof *scratch);
    json_t *json = scratch ? report_json(run, o, result, scratch) : NULL;
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (text && is_json) {
        puts(text);
    } else if (text) {
        cox_bench_print(json, "model");
        cox_bench_print(json, "run");
        cox_bench_print(json, "work");
        print_table(o, result, scratch);
    }
    cox_status status = text ? COX_OK : cox_no_memory("the report");
    free(text);
    json_decref(json);
    free(scratch);
    return status;
}

/* --- The command --- */

/* The batch must fit the model; without --kv-memory the KV cache is made to hold all of it. */
static cox_status mix_prepare(cox_run_options *options, const cox_mix_options *o)
{
    cox_model *model = NULL;
    cox_status status = cox_model_open(&model, options->model);
    if (status != COX_OK) return status;
    if ((int64_t)o->n_prompt + o->n_new > model->max_positions) {
        status = cox_fail(COX_TOO_LONG, "--prompt-tokens %d and --new-tokens %d: %s has a context of %d",
                          o->n_prompt, o->n_new, options->model, model->max_positions);
    }
    if (options->kv_memory_bytes == 0)
        options->kv_memory_bytes = cox_mix_kv_bytes(model, o, options->n_coordinators);
    cox_model_close(model);
    return status;
}

static cox_status bench_mix(const cox_options *options)
{
    cox_run_options of_run = cox_options_of_run(options);
    of_run.renders_chats = false;
    const char *temporary = getenv("TMPDIR");
    const cox_mix_options mix = {.temporary = temporary && *temporary ? temporary : "/tmp",
                                 .n_requests = (int32_t)options->n_requests,
                                 .n_prompt = (int32_t)options->n_prompt_tokens,
                                 .n_new = (int32_t)options->n_new_tokens,
                                 .n_rounds = (int32_t)options->n_rounds,
                                 .seed = (uint64_t)options->seed,
                                 .norm = options->relative_norm};
    cox_status status = mix_prepare(&of_run, &mix);
    cox_run run;
    if (status == COX_OK) status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    cox_mix_result result = {0};
    cox_status mine = COX_OK;
    if (cox_cluster_is_coordinator(run.cluster)) mine = cox_mix_run(&run, &mix, &result);
    status = cox_run_finish(&run, mine);
    if (status == COX_OK && cox_run_is_front(&run)) status = report(&run, &mix, &result, options->is_json);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    cox_mix_result_free(&result);
    return status;
}

cox_status cox_command_bench(const cox_options *options)
{
    if (options->has_steer_mix + options->has_sweep_bench + options->is_chat != 1)
        return cox_fail(COX_INVALID, "say which benchmark: --steer-mix, --chat or --sweep");
    if (options->is_chat) return cox_bench_chat(options);
    return options->has_steer_mix ? bench_mix(options) : cox_bench_sweep(options);
}
