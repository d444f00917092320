/* What the tests against tests/golden/steering share: reading what scripts/references recorded, running a
 * plan on one sequence, and comparing the hits. */
#ifndef COX_TESTS_STEERING_GOLDEN_H
#define COX_TESTS_STEERING_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/safetensors.h"
#include "steering/internal.h"
#include "tests/support/harness.h"

#define HOME "tests/golden/steering/"
static const double tolerance = 1e-4;

static inline json_t *load_json(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    return json;
}

static inline int32_t int_of(const json_t *object, const char *key)
{
    return (int32_t)json_integer_value(json_object_get(object, key));
}

static inline cox_status run(harness *h, const char *folder, const json_t *json, const int32_t *prompt,
                             int32_t n_prompt, int32_t max_tokens, harness_result *result)
{
    const cox_model *model = harness_model(h);
    cox_plan *plan = NULL;
    cox_status status = cox_plan_from_json(&plan, json, "plan", folder, model, NULL, false);
    if (status != COX_OK) return status;
    size_t n_logits = (size_t)(n_prompt + max_tokens) * (size_t)model->vocab_size;
    *result = (harness_result){.tokens = calloc((size_t)max_tokens + 1, sizeof(int32_t)),
                               .logits = calloc(n_logits, sizeof(float))};
    harness_expect(h, result);
    status = cox_engine_submit(harness_engine(h), &(cox_sequence_request){.prompt = prompt,
                                                                          .n_prompt = n_prompt,
                                                                          .max_tokens = max_tokens,
                                                                          .sampling = cox_sampling_defaults(),
                                                                          .ignore_eos = true,
                                                                          .plan = plan,
                                                                          .wants_logits = true});
    while (status == COX_OK && cox_engine_n_sequences(harness_engine(h)))
        status = cox_engine_step(harness_engine(h));
    return status;
}

typedef struct reference {
    cox_arena *arena;
    unsigned char *file;
    const int32_t *tokens;
    const float *logits;
    int32_t n_tokens, vocab_size, n_rows;
} reference;

static inline reference load_reference(const char *path)
{
    reference r = {0};
    size_t n_bytes = 0, n = 0;
    cox_tensor *tensors = NULL;
    assert_int_equal(cox__file_read(path, &r.file, &n_bytes), COX_OK);
    assert_int_equal(cox_arena_create(&r.arena, "test", 0), COX_OK);
    assert_int_equal(cox__safetensors_parse(path, r.file, n_bytes, r.arena, &tensors, &n), COX_OK);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(tensors[i].name, "tokens") || !strcmp(tensors[i].name, "prompt")) {
            r.tokens = tensors[i].data;
            r.n_tokens = (int32_t)tensors[i].shape[0];
        } else if (!strcmp(tensors[i].name, "logits")) {
            r.logits = tensors[i].data;
            r.n_rows = (int32_t)tensors[i].shape[0];
            r.vocab_size = (int32_t)tensors[i].shape[1];
        }
    }
    assert_non_null(r.tokens);
    assert_non_null(r.logits);
    return r;
}

static inline void free_reference(reference *r)
{
    cox_arena_destroy(r->arena);
    free(r->file);
}

/* "layer" or "layer.expert", as the record names a place. */
static inline const char *place_name(const cox_steer_hits *hits)
{
    static char name[32];
    if (hits->expert < 0)
        snprintf(name, sizeof name, "%d", (int)hits->layer);
    else
        snprintf(name, sizeof name, "%d.%d", (int)hits->layer, (int)hits->expert);
    return name;
}

/* Norms are summed in units of 2^-20 a row (coordinator/steer.h). */
static inline bool is_norm(double ours, const json_t *theirs)
{
    double norm = json_number_value(theirs);
    return fabs(ours - norm) <= tolerance * norm + 0x1p-20;
}

/*
 * Every place that the record has for each intervention ({"place": [prompt rows, generated rows, mean norm
 * there, mean norm added]}) and no other. is_one_phase: all tokens were fed as a prompt, so only the sum of
 * the rows can agree. Returns the number of differences, which are printed.
 */
static inline int check_hits(const json_t *record, const harness_result *result, bool is_one_phase,
                             const char *name)
{
    int n_wrong = 0;
    size_t n_places = 0, i;
    const json_t *places;
    json_array_foreach((json_t *)record, i, places) n_places += json_object_size(places);
    if (n_places != (size_t)result->n_hits) {
        print_error("%s: hits at %d places, not %zu\n", name, (int)result->n_hits, n_places);
        n_wrong++;
    }
    for (int32_t k = 0; k < result->n_hits; k++) {
        const cox_steer_hits *hits = &result->hits[k];
        const json_t *theirs =
            json_object_get(json_array_get(record, (size_t)hits->intervention), place_name(hits));
        json_int_t n_prompt = json_integer_value(json_array_get(theirs, 0)),
                   n_generated = json_integer_value(json_array_get(theirs, 1));
        bool is_count = is_one_phase ? hits->n_prompt == n_prompt + n_generated && hits->n_generated == 0
                                     : hits->n_prompt == n_prompt && hits->n_generated == n_generated;
        if (theirs && is_count && is_norm(hits->norm_there, json_array_get(theirs, 2)) &&
            is_norm(hits->norm_added, json_array_get(theirs, 3))) {
            continue;
        }
        char *text = json_dumps(theirs, JSON_COMPACT);
        print_error("%s: intervention %d at %s: %d and %d rows, norms %.6g and %.6g; recorded %s\n", name,
                    (int)hits->intervention, place_name(hits), (int)hits->n_prompt, (int)hits->n_generated,
                    hits->norm_there, hits->norm_added, text ? text : "nothing");
        free(text);
        n_wrong++;
    }
    return n_wrong;
}

#endif
