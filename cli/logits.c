/*
 * coxswain logits: f32 logits of every position of one list of token ids, as a safetensors file with the one
 * tensor "logits" [n_tokens, vocab_size] (and "tokens" [n_tokens] i32). Rows are written where they belong as
 * they come; the file gets its name only when it is complete.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "run/io.h"
#include "run/run.h"
#include "coordinator/engine.h"

typedef struct logits {
    const cox_options *options;
    cox_cluster *cluster;
    int32_t *tokens; /* [n_tokens] */
    size_t n_tokens;
    int32_t vocab_size;
    cox_plan *plan;  /* NULL: none, or the engine has it */
    char *temporary; /* path of the file while it grows */
    int file;
    size_t header_bytes; /* with the length in front */
    cox_progress bar;
    cox_status failed;
    bool is_done;
} logits;

/* --- The file --- */

static json_t *tensor_json(const char *dtype, json_t *shape, size_t from, size_t to)
{
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets", (json_int_t)from,
                     (json_int_t)to);
}

/* The header's JSON; of a steered run its metadata name the plan. malloc'ed. */
static char *header_text(const logits *l)
{
    size_t logits_bytes = l->n_tokens * (size_t)l->vocab_size * sizeof(float);
    json_t *header = json_pack(
        "{s:o, s:o}", "logits",
        tensor_json("F32", json_pack("[I, i]", (json_int_t)l->n_tokens, (int)l->vocab_size), 0, logits_bytes),
        "tokens",
        tensor_json("I32", json_pack("[I]", (json_int_t)l->n_tokens), logits_bytes,
                    logits_bytes + 4 * l->n_tokens));
    if (header && l->plan) {
        json_object_set_new(header, "__metadata__",
                            json_pack("{s:s, s:s}", "steering_plan", l->plan->name, "steering_forced",
                                      l->plan->was_forced ? "true" : "false"));
    }
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

/* Eight bytes of length (little endian), then JSON padded with blanks to a multiple of 8. */
static cox_status write_header(logits *l)
{
    char *json = header_text(l);
    if (!json) return cox_fail(COX_NO_MEMORY, "%s: out of memory for its header", l->temporary);
    size_t n = strlen(json), length = (n + 7) / 8 * 8;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)(length >> (8 * i));
    cox_status status = cox_io_write_all(l->cluster, l->file, prefix, sizeof prefix, l->temporary);
    if (status == COX_OK) status = cox_io_write_all(l->cluster, l->file, json, n, l->temporary);
    if (status == COX_OK) status = cox_io_write_all(l->cluster, l->file, "       ", length - n, l->temporary);
    l->header_bytes = sizeof prefix + length;
    free(json);
    return status;
}

static cox_status open_output(logits *l)
{
    const char *path = l->options->output;
    if (!l->options->has_force && access(path, F_OK) == 0) {
        return cox_fail(COX_INVALID, "--output %s exists; remove it, choose another name, or give --force",
                        path);
    }
    size_t n = strlen(path) + 16;
    l->temporary = malloc(n);
    if (!l->temporary) return cox_no_memory("an output's name");
    snprintf(l->temporary, n, "%s.XXXXXX", path);
    l->file = mkostemp(l->temporary, O_CLOEXEC);
    if (l->file < 0) {
        free(l->temporary);
        l->temporary = NULL;
        return cox_fail(COX_IO, "--output %s: cannot create: %s", path, strerror(errno));
    }
    return write_header(l);
}

static cox_status write_at(logits *l, const void *data, size_t n, size_t offset)
{
    if (lseek(l->file, (off_t)(l->header_bytes + offset), SEEK_SET) < 0) {
        return cox_fail(COX_IO, "%s: cannot seek: %s", l->temporary, strerror(errno));
    }
    return cox_io_write_all(l->cluster, l->file, data, n, l->temporary);
}

static cox_status close_output(logits *l)
{
    cox_status status =
        write_at(l, l->tokens, 4 * l->n_tokens, l->n_tokens * (size_t)l->vocab_size * sizeof(float));
    mode_t mask = umask(0);
    umask(mask);
    if (status == COX_OK && (fchmod(l->file, 0666 & ~mask) != 0 || fsync(l->file) != 0 ||
                             rename(l->temporary, l->options->output) != 0)) {
        status = cox_fail(COX_IO, "--output %s: %s", l->options->output, strerror(errno));
    }
    if (status == COX_OK) {
        free(l->temporary);
        l->temporary = NULL;
    }
    return status;
}

static void logits_release(logits *l)
{
    if (l->file >= 0) close(l->file);
    if (l->temporary) unlink(l->temporary);
    free(l->temporary);
    free(l->tokens);
    cox_plan_free(l->plan);
}

/* --- The engine's events --- */

static bool on_token(void *context, uint64_t id, int32_t token, const cox_logprobs *logprobs)
{
    (void)context;
    (void)id;
    (void)token;
    (void)logprobs;
    return true;
}

static void on_row(void *context, uint64_t id, int32_t position, const float *row)
{
    logits *l = context;
    (void)id;
    if (l->failed != COX_OK || position < 0 || (size_t)position >= l->n_tokens) return;
    size_t n = (size_t)l->vocab_size * sizeof *row;
    l->failed = write_at(l, row, n, (size_t)position * n);
    cox_progress_update(&l->bar, (uint64_t)position + 1, l->n_tokens, NULL);
}

static void on_end(void *context, uint64_t id, const cox_sequence_result *result)
{
    logits *l = context;
    (void)id;
    l->is_done = true;
    if (result->finish == COX_FINISH_ERROR && l->failed == COX_OK) {
        l->failed = cox_fail(COX_INTERNAL, "%s", result->error ? result->error : "the engine failed");
    }
}

/* --- The command --- */

static cox_status read_tokens(logits *l)
{
    const cox_options *options = l->options;
    char *text = NULL;
    size_t n = 0;
    cox_status status = COX_OK;
    if (options->tokens_file) status = cox_io_read_all(l->cluster, options->tokens_file, &text, &n);
    if (status == COX_OK) {
        status = cox_io_parse_ids(text ? text : options->tokens, text ? options->tokens_file : "--tokens",
                                  &l->tokens, &l->n_tokens);
    }
    free(text);
    if (status == COX_OK && l->n_tokens == 0) status = cox_fail(COX_INVALID, "--tokens: the list is empty");
    if (status == COX_OK && l->n_tokens > INT32_MAX) status = cox_fail(COX_TOO_LONG, "--tokens: too many");
    return status;
}

static cox_status compute(logits *l, cox_run *run, cox_engine *engine)
{
    const cox_sequence_request request = {.id = 1,
                                          .prompt = l->tokens,
                                          .n_prompt = (int32_t)l->n_tokens,
                                          .sampling = cox_sampling_defaults(),
                                          .plan = l->plan,
                                          .wants_logits = true};
    cox_progress_begin(&l->bar, "logits", run->options.progress, COX_PROGRESS_COUNT);
    cox_status status = cox_engine_submit(engine, &request);
    if (status == COX_OK) l->plan = NULL;
    while (status == COX_OK && l->failed == COX_OK && cox_engine_n_sequences(engine) > 0)
        status = cox_engine_step(engine);
    if (status == COX_OK) status = l->failed;
    if (status == COX_OK && !l->is_done) status = cox_fail(COX_INTERNAL, "the engine lost the sequence");
    return status != COX_OK ? status : close_output(l);
}

static cox_status read_plan(logits *l, const cox_model *model)
{
    if (!l->options->plan) return COX_OK;
    char fingerprint[65];
    cox_status status = cox_tokenizer_fingerprint(model->folder, fingerprint);
    if (status != COX_OK) return status;
    status = cox_plan_load(&l->plan, l->options->plan, model, fingerprint, l->options->forces_steering);
    if (status == COX_OK && l->plan->note) fprintf(stderr, "warning: %s\n", l->plan->note);
    return status;
}

static cox_status logits_prepare(logits *l, cox_run *run, cox_engine **engine)
{
    l->vocab_size = run->model->vocab_size;
    cox_status status = read_tokens(l);
    if (status == COX_OK) status = read_plan(l, run->model);
    if (status == COX_OK) status = open_output(l);
    if (status != COX_OK) return status;
    const cox_engine_events events = {
        .context = l, .on_token = on_token, .on_logits = on_row, .on_done = on_end};
    return cox_run_create_engine(run, NULL, &events, engine);
}

cox_status cox_command_logits(const cox_options *options)
{
    if (!options->tokens == !options->tokens_file) {
        return cox_fail(COX_INVALID, "give either --tokens IDS or --tokens-file FILE");
    }
    cox_run_options of_run = cox_options_of_run(options);
    of_run.renders_chats = false;
    cox_run run;
    cox_status status = cox_run_open(&run, &of_run);
    if (status != COX_OK) return status;
    logits l = {.options = options, .cluster = run.cluster, .file = -1};
    cox_engine *engine = NULL;
    bool is_front = cox_run_is_front(&run);
    if (is_front) status = logits_prepare(&l, &run, &engine);
    status = cox_run_agree(&run, status);
    if (status == COX_OK) {
        cox_status computed = is_front ? compute(&l, &run, engine) : COX_OK;
        status = cox_run_finish(&run, computed);
        if (is_front) run.counters = *cox_engine_counters(engine);
    }
    cox_engine_destroy(engine);
    cox_run_close(&run, options->has_stats && status == COX_OK);
    logits_release(&l);
    return status;
}
