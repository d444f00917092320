/* Sets of first tokens, over which refusal log-odds are taken (study/metrics.h): from ids, from texts, of
 * which the first token counts, and from the `first_tokens` of a rules file. */
#ifndef COX_STUDY_FIRST_TOKENS_H
#define COX_STUDY_FIRST_TOKENS_H

#include "model/model.h"

/*
 * The union of all three (ids and rules_path may be NULL, n_texts 0). [out] *in_set: malloc'ed
 * [model->vocab_size]. Errors, naming option or file: INVALID (no token at all, every token, an id outside
 * the vocabulary), NOT_FOUND, IO, BAD_FILE, NO_MEMORY. Not collective.
 */
cox_status cox_first_tokens_read(const char *ids, const char *const *texts, size_t n_texts,
                                 const char *rules_path, const cox_model *model, const char *folder,
                                 uint8_t **in_set);

#endif
