/* Tokenizer, template, session and front end of one run. */
#include "run/service.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

typedef struct words {
    cox_tokenizer *tokenizer;
    cox_chat_template *chat_template;
    char *no_tokenizer, *no_template; /* why there is none, where that is no error */
} words;

static cox_status load_template(words *w, const cox_run *run, const cox_service *service)
{
    if (!service->has_chats) return COX_OK;
    cox_status status = cox_prompting_load_template(&w->chat_template, &run->options.prompting,
                                                    run->options.model, run->chat);
    if (status == COX_OK || service->needs_template || run->options.prompting.template_name) return status;
    if (status != COX_UNSUPPORTED && status != COX_NOT_FOUND) return status;
    w->no_template = strdup(cox_status_message());
    return COX_OK;
}

static cox_status load_words(words *w, const cox_run *run, const cox_service *service)
{
    cox_status status = cox_tokenizer_load(&w->tokenizer, run->options.model);
    if (status == COX_NOT_FOUND && service->may_be_ids) { /* who gives ids needs none */
        w->no_tokenizer = strdup(cox_status_message());
        status = w->no_tokenizer ? COX_OK : cox_no_memory("a service");
    }
    if (status == COX_OK) status = load_template(w, run, service);
    malloc_trim(0); /* parsing a large vocabulary leaves many free pages behind */
    return status;
}

static void free_words(words *w)
{
    free(w->no_tokenizer);
    free(w->no_template);
    cox_chat_template_destroy(w->chat_template);
    cox_tokenizer_destroy(w->tokenizer);
}

static cox_status create_session(cox_session **session, cox_run *run, const words *w,
                                 const cox_session_events *events)
{
    const cox_session_parts parts = {.model = run->model,
                                     .trunk = &run->trunk,
                                     .kernels = run->kernels,
                                     .cluster = run->cluster,
                                     .placement = run->placement,
                                     .exchange = run->exchange,
                                     .tokenizer = w->tokenizer,
                                     .no_tokenizer = w->no_tokenizer,
                                     .chat_template = w->chat_template,
                                     .no_template = w->no_template};
    cox_engine_options engine = cox_run_engine_options(&run->options, run->layout.size);
    return cox_session_create(session, &parts, &engine, events);
}

cox_status cox_serve(cox_run *run, const cox_service *service)
{
    words w = {0};
    cox_session *session = NULL;
    cox_front_mailer mailer = {.cluster = run->cluster};
    cox_session_events events = cox_run_is_front(run) ? service->events : cox_front_mailer_events(&mailer);
    bool is_coordinator = cox_cluster_is_coordinator(run->cluster);
    cox_status status = COX_OK;
    if (is_coordinator) {
        status = cox_model_check_ends(run->model);
        if (status == COX_OK) status = load_words(&w, run, service);
        if (status == COX_OK) status = create_session(&session, run, &w, &events);
    }
    status = cox_run_agree(run, status);
    if (status == COX_OK) {
        cox_front_options front = {
            .n_queued = 2 * cox_run_engine_options(&run->options, run->layout.size).max_sequences,
            .hang_s = cox_cluster_options_defaults().hang_s};
        if (cox_run_is_front(run)) {
            status = cox_front_run(session, &service->events, run->cluster, run->exchange, &service->source,
                                   &front);
        } else if (is_coordinator) {
            status = cox_front_follow(session, &mailer, run->exchange, &front);
        }
        status = cox_run_finish(run, status);
        if (is_coordinator) run->counters = *cox_session_counters(session);
    }
    cox_session_destroy(session);
    free_words(&w);
    return status;
}
