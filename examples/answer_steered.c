/*
 * Answers one prompt under a steering plan, and says how often the plan acted:
 *
 *   ./answer_steered MODEL PLAN.json PROMPT                    on one rank
 *   mpirun -n 3 ./answer_steered MODEL PLAN.json PROMPT        rank 0 coordinates, ranks 1 and 2 hold the
 * experts
 *
 * Every rank runs this same main. Rank 0 is the front: it alone reads files, makes requests and gets answers.
 * The others only have to take part in what run/run.h and run/service.h call collective.
 */
#include <stdio.h>

#include "run/plan_cache.h"
#include "run/service.h"

typedef struct work {
    cox_request *request;
    cox_plan *plan;
} work;

/* On the front, before any token: a chat of one user's message, and the compiled plan. */
static cox_status make_request(work *w, const cox_run *run, const char *plan, const char *prompt)
{
    cox_plan_cache *plans = NULL;
    cox_request *fresh = cox_request_create(); /* greedy, nothing steered */
    cox_status status = fresh ? cox_plan_cache_create(&plans, run->model, false) : COX_NO_MEMORY;
    if (status == COX_OK) status = cox_prompting_make_request(fresh, &run->options.prompting, prompt);
    if (status == COX_OK) status = cox_plan_cache_load(plans, plan, &w->plan);
    cox_plan_cache_destroy(plans);
    if (status != COX_OK) {
        cox_request_destroy(fresh);
        return status;
    }
    fresh->id = 1;
    fresh->max_tokens = 64;
    fresh->wants_text = true; /* on_text, as the text comes */
    w->request = fresh;
    return COX_OK;
}

/* The service asks for requests until it is told that there will be no more: here the one, and the end. */
static cox_status next_request(void *context, bool is_idle, cox_request **request, cox_plan **plan,
                               bool *is_end)
{
    work *w = context;
    (void)is_idle;
    *request = w->request;
    *plan = w->plan;
    *w = (work){0}; /* handed over */
    *is_end = true;
    return COX_OK;
}

static void on_text(void *context, uint64_t id, const char *text, size_t n)
{
    (void)context;
    (void)id;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

/* The last event of a request, also of one that failed: the whole answer, and what is known of it. */
static void on_record(void *context, const cox_record *record)
{
    (void)context;
    if (record->status != COX_OK) {
        fprintf(stderr, "answer_steered: %s\n", record->error_message);
        return;
    }
    int32_t n_rows = 0;
    for (size_t i = 0; record->steering && i < record->steering->n_hits; i++)
        n_rows += record->steering->hits[i]->n_prompt + record->steering->hits[i]->n_generated;
    printf("\n(%d tokens; the plan touched %d rows)\n", (int)record->n_generated, (int)n_rows);
}

int main(int argc, char *argv[])
{
    if (argc != 4) {
        fprintf(stderr, "usage: answer_steered MODEL PLAN.json PROMPT\n");
        return 2;
    }
    cox_run_options options = cox_run_options_defaults();
    options.model = argv[1];
    options.renders_chats = true; /* any chat template, not only those that are built in */
    cox_run run;
    cox_status status = cox_run_open(&run, &options);
    if (status == COX_OK) {
        work w = {0};
        if (cox_run_is_front(&run)) status = make_request(&w, &run, argv[2], argv[3]);
        status = cox_run_agree(&run, status); /* what failed on one rank ends all */
        if (status == COX_OK) {
            const cox_service service = {
                .events = {.on_text = on_text, .on_record = on_record},
                .source = {.context = &w, .next = next_request},
                .needs_template = true,
                .has_chats = true,
            };
            status = cox_serve(&run, &service); /* coordinators answer, the others serve their experts */
        }
        cox_request_destroy(w.request); /* NULL once it has been handed over */
        cox_plan_free(w.plan);
        cox_run_close(&run, false);
    }
    return cox_launch_end("answer_steered", status); /* one rank says why, all end with its exit code */
}
