/* Keys of generation_config.json, in the order in which transformers applies what they ask for. */
#include "cli/generation.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/commands.h"

/* transformers' defaults for keys that are absent or null; temperature and top_k hold when do_sample is true.
 */
static const cox_generation defaults = {.temperature = 1, .top_k = 50, .top_p = 1, .repetition_penalty = 1};

/* --- What is not built --- */

typedef enum kind {
    ALWAYS,     /* unless the value is `neutral` (null, false, [] and {} are too) */
    ABOVE,      /* when it is a number above `neutral` */
    OF_SAMPLES, /* as ALWAYS, when do_sample is true */
    CUTOFF,     /* between 0 and 1, when do_sample is true */
} kind;

static const struct {
    const char *key;
    kind when;
    double neutral;
} unbuilt[] = {
    {"num_beams", ABOVE, 1},
    {"num_beam_groups", ABOVE, 1},
    {"num_return_sequences", ABOVE, 1},
    {"penalty_alpha", ABOVE, 0},
    {"constraints", ALWAYS, 0},
    {"force_words_ids", ALWAYS, 0},
    {"dola_layers", ALWAYS, 0},
    {"guidance_scale", ALWAYS, 1},
    {"sequence_bias", ALWAYS, 0},
    {"encoder_repetition_penalty", ALWAYS, 1},
    {"no_repeat_ngram_size", ABOVE, 0},
    {"encoder_no_repeat_ngram_size", ABOVE, 0},
    {"bad_words_ids", ALWAYS, 0},
    {"min_length", ABOVE, 0},
    {"min_new_tokens", ABOVE, 0},
    {"forced_bos_token_id", ALWAYS, -1},
    {"forced_eos_token_id", ALWAYS, -1},
    {"exponential_decay_length_penalty", ALWAYS, 0},
    {"suppress_tokens", ALWAYS, -1},
    {"begin_suppress_tokens", ALWAYS, -1},
    {"top_h", OF_SAMPLES, -1},
    {"typical_p", CUTOFF, 0},
    {"epsilon_cutoff", CUTOFF, 0},
    {"eta_cutoff", CUTOFF, 0},
    {"watermarking_config", ALWAYS, 0},
    {"token_healing", ALWAYS, 0},
    {"stop_strings", ALWAYS, 0},
    {"max_time", ALWAYS, -1},
};

static bool is_asked_for(const json_t *value, kind when, double neutral, bool is_sampled)
{
    if (!value || json_is_null(value) || json_is_false(value)) return false;
    if (json_is_array(value) && json_array_size(value) == 0) return false;
    if (json_is_object(value) && json_object_size(value) == 0) return false;
    if ((when == OF_SAMPLES || when == CUTOFF) && !is_sampled) return false;
    if (!json_is_number(value)) return true;
    double number = json_number_value(value);
    if (when == ABOVE) return number > neutral;
    if (when == CUTOFF) return number > 0 && number < 1;
    return number < neutral || number > neutral;
}

/* Appends to a list in a text of n bytes, which is cut where it ends. */
__attribute__((format(printf, 3, 4))) static void list(char *text, size_t n, const char *format, ...)
{
    size_t at = strlen(text);
    if (at > 0) at += (size_t)snprintf(text + at, n - at, ", ");
    va_list args;
    va_start(args, format);
    if (at < n) vsnprintf(text + at, n - at, format, args);
    va_end(args);
}

static void list_unbuilt(cox_generation *g, const json_t *object)
{
    for (size_t i = 0; i < sizeof unbuilt / sizeof *unbuilt; i++) {
        const json_t *value = json_object_get(object, unbuilt[i].key);
        if (!is_asked_for(value, unbuilt[i].when, unbuilt[i].neutral, g->is_sampled)) continue;
        char *text = json_is_array(value) || json_is_object(value)
                         ? NULL
                         : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        list(g->unbuilt, sizeof g->unbuilt, "%s%s%.40s", unbuilt[i].key, text ? " " : "", text ? text : "");
        free(text);
    }
}

/* --- What is built --- */

static cox_status out_of_range(const char *where, const char *key, double value, const char *wanted)
{
    return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is %g, but must be %s (transformers refuses it too)", where,
                    key, value, wanted);
}

static cox_status check(const cox_generation *g, const char *where)
{
    bool is_sampled = g->is_sampled;
    if (is_sampled && !(g->temperature > 0))
        return out_of_range(where, "temperature", g->temperature, "above 0 where do_sample is true");
    if (is_sampled && g->top_k < 0) return out_of_range(where, "top_k", (double)g->top_k, "0 or above");
    if (is_sampled && g->top_p < 0) return out_of_range(where, "top_p", g->top_p, "from 0 to 1");
    if (is_sampled && !(g->min_p >= 0 && g->min_p <= 1))
        return out_of_range(where, "min_p", g->min_p, "from 0 to 1");
    if (!(g->repetition_penalty > 0))
        return out_of_range(where, "repetition_penalty", g->repetition_penalty, "above 0");
    return COX_OK;
}

cox_status cox_generation_read(cox_generation *generation, const json_t *object, const char *where)
{
    cox_generation g = defaults;
    if (!json_is_object(object)) return cox_fail(COX_BAD_FILE, "%s: must be a JSON object", where);
    cox_status status = cox_json_bool(object, where, "do_sample", false, &g.is_sampled);
    if (status == COX_OK) status = cox_json_number(object, where, "temperature", false, &g.temperature);
    if (status == COX_OK)
        status = cox_json_int(object, where, "top_k", false, INT32_MIN, INT32_MAX, &g.top_k);
    if (status == COX_OK) status = cox_json_number(object, where, "top_p", false, &g.top_p);
    if (status == COX_OK) status = cox_json_number(object, where, "min_p", false, &g.min_p);
    if (status == COX_OK)
        status = cox_json_number(object, where, "repetition_penalty", false, &g.repetition_penalty);
    if (status == COX_OK)
        status = cox_json_int(object, where, "max_new_tokens", false, 1, 1 << 24, &g.max_new_tokens);
    if (status == COX_OK) status = check(&g, where);
    if (status != COX_OK) return status;
    if (g.top_p > 1) g.top_p = 1; /* off, as there */
    list_unbuilt(&g, object);
    *generation = g;
    return COX_OK;
}

/* "temperature 0.6, top_k 20": of greedy only what touches it. */
static void describe(char *text, size_t n, bool is_sampled, const cox_generation *g)
{
    text[0] = '\0';
    if (is_sampled) {
        list(text, n, "temperature %g", g->temperature);
        if (g->top_k > 0) list(text, n, "top_k %lld", (long long)g->top_k);
        if (g->top_p < 1) list(text, n, "top_p %g", g->top_p);
        if (g->min_p > 0) list(text, n, "min_p %g", g->min_p);
    }
    if (g->repetition_penalty < 1 || g->repetition_penalty > 1)
        list(text, n, "repetition_penalty %g", g->repetition_penalty);
}

/* --- The command line --- */

/* From the file, unless the command line says it. Without do_sample nothing is sampled, but the rest holds
 * for a request that asks for a temperature, as it does for generate(do_sample=True). */
static void take_over(cox_options *options, const cox_generation *g)
{
    if (!cox_options_is_given(options, "--temperature"))
        options->temperature = g->is_sampled ? g->temperature : 0;
    if (!cox_options_is_given(options, "--top-k")) options->top_k = g->top_k > 0 ? g->top_k : 0;
    if (!cox_options_is_given(options, "--top-p")) options->top_p = g->top_p;
    if (!cox_options_is_given(options, "--min-p")) options->min_p = g->min_p;
    if (!cox_options_is_given(options, "--repetition-penalty"))
        options->repetition_penalty = g->repetition_penalty;
    if (g->max_new_tokens > 0 && !cox_options_is_given(options, "--max-tokens"))
        options->max_tokens = g->max_new_tokens;
}

static cox_status use(cox_options *options, const cox_generation *g, const char *path)
{
    if (*g->unbuilt) {
        return cox_fail(
            COX_UNSUPPORTED,
            "--generation-config: %s asks for what is not built: %s; take that out of the file, or give "
            "the sampling by options instead",
            path, g->unbuilt);
    }
    take_over(options, g);
    const cox_generation used = {.temperature = options->temperature,
                                 .top_k = options->top_k,
                                 .top_p = options->top_p,
                                 .min_p = options->min_p,
                                 .repetition_penalty = options->repetition_penalty};
    char text[256];
    describe(text, sizeof text, options->temperature > 0, &used);
    fprintf(stderr, "%s: sampling by %s: %s%s%s\n", cox_command_name(options->command), path,
            options->temperature > 0 ? "" : "greedy", options->temperature > 0 || !*text ? "" : ", ", text);
    return COX_OK;
}

/* What is asked for and not done. */
static void say(const cox_options *options, const cox_generation *g, const char *path)
{
    char text[512];
    describe(text, sizeof text, g->is_sampled, g);
    if (*g->unbuilt) list(text, sizeof text, "%s (not built)", g->unbuilt);
    if (*text) {
        fprintf(stderr, "%s: %s asks for %s; not used without --generation-config\n",
                cox_command_name(options->command), path, text);
    }
}

static cox_status apply_file(cox_options *options, const char *path)
{
    json_t *object = NULL;
    cox_generation g;
    cox_status status = cox_json_load_python_file(&object, path);
    if (status == COX_OK) status = cox_generation_read(&g, object, path);
    json_decref(object);
    if (options->uses_generation_config)
        return status == COX_OK ? use(options, &g, path) : cox_fail_in(status, "--generation-config");
    if (status == COX_OK) {
        say(options, &g, path);
    } else if (status != COX_NOT_FOUND) {
        fprintf(stderr, "%s: %s; not used without --generation-config\n", cox_command_name(options->command),
                cox_status_message());
    }
    return COX_OK;
}

cox_status cox_generation_apply(cox_options *options, const cox_model *model)
{
    if (model->eos_note) fprintf(stderr, "%s: %s\n", cox_command_name(options->command), model->eos_note);
    char *path = NULL;
    if (asprintf(&path, "%s/generation_config.json", model->folder) < 0)
        return cox_no_memory("the options of answers");
    cox_status status = apply_file(options, path);
    free(path);
    return status;
}

const char *cox_generation_idle(double temperature, int64_t top_k, double top_p, double min_p)
{
    if (temperature > 0) return NULL;
    return top_k > 0 ? "top-k" : top_p < 1 ? "top-p" : min_p > 0 ? "min-p" : NULL;
}

void cox_generation_set(const cox_options *options, cox_request *request)
{
    Cox__SamplingFields *sampling = request->sampling;
    sampling->temperature = (float)options->temperature;
    sampling->top_k = (int32_t)options->top_k;
    sampling->top_p = (float)options->top_p;
    sampling->min_p = (float)options->min_p;
    sampling->repetition_penalty = (float)options->repetition_penalty;
    sampling->presence_penalty = (float)options->presence_penalty;
    sampling->frequency_penalty = (float)options->frequency_penalty;
    sampling->seed = (uint64_t)options->seed;
    request->max_tokens = (int32_t)options->max_tokens;
    request->ignore_eos = options->ignores_eos;
    request->wants_digest = options->wants_digest;
    request->wants_routes = options->trace_folder != NULL;
}
