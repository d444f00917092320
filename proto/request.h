/*
 * A request: what one user asks, validated but not tokenised. The struct is the protobuf message of
 * request.proto; this file makes it from the OpenAI shapes (a batch line, the body of a chat or a
 * completion). Fields that we do not build are refused by name, so that nothing is silently ignored
 * except what cannot change the answer. Ranges of sampling values are checked by coordinator/sampler.h.
 */
#ifndef COX_PROTO_REQUEST_H
#define COX_PROTO_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/request.pb-c.h"

typedef Cox__Request cox_request;

enum { COX_REQUEST_MAX_STOPS = 16, COX_REQUEST_MAX_TOKENS = 1 << 24, COX_REQUEST_MAX_CHOICES = 128 };

/* An empty request with neutral sampling (greedy, all off, no logprobs). Owned by the caller; every string
 * and array in it comes from malloc. NULL: out of memory (message set). */
cox_request *cox_request_create(void);
void cox_request_destroy(cox_request *request); /* NULL is allowed */

/* Helpers for building one; they copy. Errors: NO_MEMORY. */
cox_status cox_request_set(char **field, const char *text);
/* Makes it a chat of one user's message. Errors: INVALID (not UTF-8), NO_MEMORY. */
cox_status cox_request_set_user(cox_request *request, const char *content);
/* Makes it a chat: of `body` the keys messages (a list of objects, at least one), tools, documents (lists),
 * chat_template_kwargs (an object) and add_generation_prompt (true or false), all but the first optional;
 * what they hold is left as it is. Errors: BAD_FILE, NO_MEMORY. */
cox_status cox_request_set_chat(cox_request *request, const json_t *body, const char *where);
cox_status cox_request_add_stop(cox_request *request, const char *stop);
/* Steering as the user wrote it, and, in its place, for the way to another rank, the packed plan that it
 * means: n_bytes > 0 from malloc, taken over, also on failure. */
cox_status cox_request_set_steering(cox_request *request, const char *json);
cox_status cox_request_set_plan(cox_request *request, void *packed, size_t n_bytes, const char *name,
                                bool was_forced);

/* {"17": -100, ...}: what is added to the logits of single tokens, in place of what was there; NULL and
 * null leave it as it is. Errors: INVALID (not an id, not a number from -100 to 100), BAD_FILE, NO_MEMORY. */
cox_status cox_request_read_logit_bias(Cox__SamplingFields *sampling, const json_t *value, const char *where);

/*
 * Fills *request (whose values so far are the defaults) from the body of a chat (`messages`) or a completion
 * (`prompt`). `where` begins every message. Errors: INVALID, BAD_FILE (a wrong type), UNSUPPORTED (a field by
 * name), NO_MEMORY; then *request is half filled and only good for destroying.
 */
cox_status cox_request_read_body(cox_request *request, const json_t *body, bool is_chat, const char *where);

/*
 * The same from one line of a batch file: {"custom_id", "method", "url", "body"}. custom_id is set in
 * *request whenever the line has a readable one, also on error (even where the line as a whole is no JSON),
 * so that the error can name it. line: n_bytes without the newline. Errors as above.
 */
cox_status cox_request_read_line(cox_request *request, const char *line, size_t n_bytes, const char *where);

/* A status as what an HTTP server would say: 400, 503 or 500. */
int32_t cox_request_http_status(cox_status status);

#endif
