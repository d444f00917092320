/*
 * What the results of a run depend on, by name: two runs with equal identities give the same results, so one
 * may go on where the other was stopped. What does not change a result (ranks, threads, placement, exact
 * kernels, memory) is left out. The object becomes the `run` of a journal (run/journal.h).
 */
#ifndef COX_RUN_IDENTITY_H
#define COX_RUN_IDENTITY_H

#include <jansson.h>

#include "cluster/cluster.h"
#include "model/model.h"
#include "run/options.h"

/* The model: its path as given, which answers repeat, its fingerprint, a sample of its weights, tokenizer,
 * template, end tokens; whether kernels round. Errors: NOT_FOUND, IO, NO_MEMORY. */
cox_status cox_identity_add_model(json_t *run, const cox_run_options *options, const cox_model *model);

/* What a system message, no template, a template (a file by its bytes too), its kwargs and a date make of
 * prompts, where they were given. Errors: NO_MEMORY, also for text that is not UTF-8, IO. */
cox_status cox_identity_add_prompting(json_t *run, const cox_prompting *prompting);

/* What all ranks of a run must have in common: hex digests of config and tensors' names and shapes; of a
 * sample of the weights; of the files that make tokens of text and say where it ends. Errors: IO. */
typedef struct cox_model_identity {
    char fingerprint[65], weights[65], texts[65];
} cox_model_identity;
/* template: --template, a file of which counts too; or NULL. */
cox_status cox_identity_of_model(cox_model_identity *identity, const cox_model *model, const char *template);

/* SHA-256 of a file, under `key`. cluster: told that this rank is alive; NULL: nobody. Errors: NOT_FOUND, IO,
 * NO_MEMORY. */
cox_status cox_identity_add_file(json_t *run, const char *key, const char *path, cox_cluster *cluster);

/* SHA-256 of n bytes, or a text as it is. Errors: NO_MEMORY, also for text that is not UTF-8. */
cox_status cox_identity_add_bytes(json_t *run, const char *key, const void *data, size_t n);
cox_status cox_identity_add_text(json_t *run, const char *key, const char *text);

#endif
