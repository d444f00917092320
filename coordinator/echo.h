/*
 * What a completion with `echo` says of its own prompt: its text, where each token begins in it, and, with
 * logprobs, the log probability of each token but the first given those before it. Knows the record and the
 * tokenizer, not the session.
 */
#ifndef COX_COORDINATOR_ECHO_H
#define COX_COORDINATOR_ECHO_H

#include "coordinator/sampler.h"
#include "model/tokenizer.h"
#include "proto/record.h"
#include "proto/request.h"

typedef struct cox__echo cox__echo;

/* Of a request with `echo`, with the ids [n] of its prompt, which are copied. tokenizer is borrowed; NULL: of
 * ids there is no text. [out] owned by the caller. Errors: NO_MEMORY, INVALID (an id). */
cox_status cox__echo_create(cox__echo **echo, const cox_tokenizer *tokenizer, const cox_request *request,
                            const int32_t *prompt, size_t n);
void cox__echo_destroy(cox__echo *echo); /* NULL is allowed */

/* It needs the logits of the prompt's rows. */
bool cox__echo_wants_logits(const cox__echo *echo);
/* Takes the log probability of the token behind `position` from its logits f32 [vocab_size]; positions
 * ascending, each once; that of the prompt's last token is of no use. Errors: NO_MEMORY. */
cox_status cox__echo_put_logits(cox__echo *echo, int32_t position, const float *logits, int32_t vocab_size);

/* Moves everything into the record. Errors: INTERNAL (logits that were not finite), NO_MEMORY. */
cox_status cox__echo_report(cox__echo *echo, cox_record *record);

#endif
