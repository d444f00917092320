/*
 * A record: the answer to one request (the protobuf message of record.proto), and how it is printed as
 * a line of an OpenAI batch output file.
 */
#ifndef COX_PROTO_RECORD_H
#define COX_PROTO_RECORD_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/record.pb-c.h"
#include "proto/request.h"

typedef Cox__Record cox_record;

/* Empty, status 200, with id, custom_id, model and kind copied from the request. Owned by the caller;
 * everything in it comes from malloc. NULL: out of memory (message set). */
cox_record *cox_record_create(const cox_request *request);
void cox_record_destroy(cox_record *record); /* NULL is allowed */

/* What users are told of a failure: "invalid_request" and so on. Static. */
const char *cox_record_error_code(cox_status status);

/* Makes it the record of a failure: HTTP-like code, the status' name and the message. Errors: NO_MEMORY. */
cox_status cox_record_set_error(cox_record *record, cox_status status, const char *message);

/*
 * {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}: the body is an OpenAI
 * chat.completion or text_completion, with {"coxswain": {...}} of cox_record_extras_json unless that is
 * empty (of several answers in each choice); of a failure, it is {"error": ...}, and the line's "error" is
 * filled as well. created_s: seconds since 1970. default_model: where the request names none. [out] owned by
 * the caller. NULL: out of memory (message set).
 */
json_t *cox_record_to_batch_line(const cox_record *record, int64_t created_s, const char *default_model);

/* The "logprobs" of a chat answer: {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}; NULL: out of
 * memory. */
json_t *cox_record_logprobs_json(const cox_record *record);

/* What OpenAI's answers have no place for, each if there is one: {"token_ids" (of an answer without text),
 * "logits_digest", "steering": {"plan", "forced", "hits": [...]}, "routes": file}; docs/commands.md. NULL:
 * out of memory. */
json_t *cox_record_extras_json(const cox_record *record);

/* Tokens of all its answers. */
int32_t cox_record_n_generated(const cox_record *record);

/* {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details": {"cached_tokens"}} */
json_t *cox_record_usage_json(const cox_record *record);

#endif
