/*
 * Requests in, text and records out: the engine with words around it. A session tokenises a request (chat
 * template or plain), submits it, turns sampled ids into text as they come, ends at stop strings, and makes
 * the record. It owns the engine of its coordinator. Single-threaded, Not collective; front.h spreads
 * requests over several coordinators.
 */
#ifndef COX_COORDINATOR_SESSION_H
#define COX_COORDINATOR_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "base/counters.h"
#include "base/status.h"
#include "coordinator/engine.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "proto/record.h"
#include "proto/request.h"

typedef struct cox_session cox_session;

/* What a session works with; all borrowed and outliving it. */
typedef struct cox_session_parts {
    const cox_model *model;
    const cox_trunk_weights *trunk;
    const cox_kernels *kernels;
    cox_cluster *cluster;
    const cox_placement *placement;
    cox_exchange *exchange;
    const cox_tokenizer *tokenizer; /* NULL: only ids go in and out, and text is refused with no_tokenizer */
    const char *no_tokenizer;       /* why there is none */
    cox_chat_template *chat_template; /* NULL: chats are refused with no_template */
    const char *no_template;          /* why there is none */
} cox_session_parts;

/* Called inside submit and step; pointers are valid during the call only. */
typedef struct cox_session_events {
    void *context;
    /* n bytes of whole UTF-8 characters, of requests with wants_text: of their first answer. The others' text
     * comes with the record. */
    void (*on_text)(void *context, uint64_t id, const char *text, size_t n);
    /* Once per request, its last event; also for one that failed. */
    void (*on_record)(void *context, const cox_record *record);
} cox_session_events;

/* Creates the engine too. Errors: those of cox_engine_create, NO_MEMORY. */
cox_status cox_session_create(cox_session **session, const cox_session_parts *parts,
                              const cox_engine_options *options, const cox_session_events *events);
void cox_session_destroy(cox_session *session); /* NULL is allowed */

/*
 * Takes the request over, and the caller's share of its compiled plan (NULL: none), also on failure; the plan
 * must not change while others share it. What request->steering says in words is not read, but a request that
 * has some and comes without a plan fails. A request that cannot be served (too long, bad ids, no template,
 * ...) becomes a record, not an error; so does one that fails later, alone. Errors: NO_MEMORY for the record
 * itself.
 */
cox_status cox_session_submit(cox_session *session, cox_request *request, cox_plan *plan);

/*
 * Ends a request, whatever it has so far: waiting, in its prompt or generating. Its record, the last event as
 * ever, comes in the next step; the finish reason of answers that were cut is "cancelled", with their text so
 * far. Of an id that is not there (any more): nothing. May be called from an event.
 */
void cox_session_cancel(cox_session *session, uint64_t id);

/* Requests that have no record yet. */
int32_t cox_session_n_requests(const cox_session *session);

/* One step of the engine. Errors: as cox_engine_step, or NO_MEMORY: the run is over. */
cox_status cox_session_step(cox_session *session);

const cox_counters *cox_session_counters(const cox_session *session);

/* The ids of a request's prompt, as submit makes them: chat template or text, special tokens included.
 * chat_template may be NULL (then no_template says why). Errors: of cox_chat_template_render and
 * cox_tokenizer_encode. */
cox_status cox_session_tokenize(const cox_tokenizer *tokenizer, cox_chat_template *chat_template,
                                const char *no_template, const cox_request *request, cox_tokens *tokens);

#endif
