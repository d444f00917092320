/*
 * generation_config.json: how a model's makers sample from it, as transformers' generate() would with no
 * arguments. It is said in one line where it is not what runs, and used when the options ask for it. (Its end
 * tokens always count: model/configure.h.)
 */
#ifndef COX_CLI_GENERATION_H
#define COX_CLI_GENERATION_H

#include <jansson.h>

#include "cli/options.h"
#include "model/model.h"
#include "proto/request.h"

/* What generate() would take, transformers' defaults filled in. */
typedef struct cox_generation {
    bool is_sampled;           /* do_sample; else the next four only hold for requests that are sampled */
    double temperature;        /* above 0 */
    int64_t top_k;             /* 0: off */
    double top_p, min_p;       /* 1, 0: off */
    double repetition_penalty; /* 1: off; also when nothing is sampled */
    int64_t max_new_tokens;    /* 0: not said */
    char unbuilt[256]; /* "num_beams 4, typical_p 0.9": what it asks for that is not built; "": nothing */
} cox_generation;

/* [out] *generation, from the file's object. `where` begins messages. Errors: BAD_FILE (a value that
 * transformers refuses too), NO_MEMORY. */
cox_status cox_generation_read(cox_generation *generation, const json_t *object, const char *where);

/*
 * Reads the model's generation_config.json (none: nothing is asked for), and prints one line on standard
 * error when it differs from greedy, and another when an end token of the model can never come. With
 * --generation-config [in/out] *options takes from it what the command line does not say. Errors, only with
 * --generation-config: NOT_FOUND, BAD_FILE, UNSUPPORTED (keys that ask for what is not built, by name), IO.
 * Not collective.
 */
cox_status cox_generation_apply(cox_options *options, const cox_model *model);

/* What has no effect at temperature 0: "top-k", "top-p" or "min-p"; NULL: nothing. */
const char *cox_generation_idle(double temperature, int64_t top_k, double top_p, double min_p);

/* How a request samples, and what else it wants, that says nothing of it itself. */
void cox_generation_set(const cox_options *options, cox_request *request);

#endif
