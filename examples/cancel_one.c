/*
 * Runs two requests side by side, cancels the first one in the middle of its answer, and shows that the
 * second one goes on as if it were alone:
 *
 *   ./cancel_one MODEL                    on one rank
 *   mpirun -n 3 ./cancel_one MODEL        rank 0 coordinates, ranks 1 and 2 hold the experts
 *
 * The shape is that of answer_steered.c; new is the callback that names what is to be cancelled.
 */
#include <stdio.h>

#include "run/service.h"

enum { N_REQUESTS = 2, TO_CANCEL = 1, ENOUGH_PIECES = 5 };
static const char *const prompts[N_REQUESTS] = {"How do I mend a wooden fiddle?", "What is a kite?"};

typedef struct work {
    const cox_run *run;
    int n_sent;
    int n_pieces; /* of the answer that is to be cancelled */
    bool has_cancelled;
} work;

static cox_status next_request(void *context, bool is_idle, cox_request **request, cox_plan **plan,
                               bool *is_end)
{
    work *w = context;
    (void)is_idle, (void)plan; /* nothing is steered */
    *is_end = w->n_sent == N_REQUESTS;
    if (*is_end) return COX_OK;
    cox_request *fresh = cox_request_create();
    if (!fresh) return COX_NO_MEMORY;
    cox_status status = cox_prompting_make_request(fresh, &w->run->options.prompting, prompts[w->n_sent]);
    if (status != COX_OK) {
        cox_request_destroy(fresh);
        return status;
    }
    fresh->id = (uint64_t)++w->n_sent; /* 1, 2: what events and cancelling call them */
    fresh->max_tokens = 64;
    fresh->wants_text = true;
    *request = fresh; /* handed over */
    return COX_OK;
}

/* Asked between steps until it says no. Whatever the request is doing, its memory is free in the next step.
 */
static bool next_cancelled(void *context, uint64_t *id)
{
    work *w = context;
    if (w->has_cancelled || w->n_pieces < ENOUGH_PIECES) return false;
    w->has_cancelled = true;
    *id = TO_CANCEL;
    return true;
}

static void on_text(void *context, uint64_t id, const char *text, size_t n)
{
    work *w = context;
    (void)text;
    if (id == TO_CANCEL && n > 0) w->n_pieces++;
}

/* Every request has its record, the cancelled one too: with the text that it had. */
static void on_record(void *context, const cox_record *record)
{
    (void)context;
    if (record->status != COX_OK) {
        printf("request %d failed: %s\n", (int)record->id, record->error_message);
    } else {
        printf("request %d, %s: %s\n", (int)record->id, record->finish_reason, record->text);
    }
}

int main(int argc, char *argv[])
{
    if (argc != 2) {
        fprintf(stderr, "usage: cancel_one MODEL\n");
        return 2;
    }
    cox_run_options options = cox_run_options_defaults();
    options.model = argv[1];
    options.renders_chats = true;
    cox_run run;
    cox_status status = cox_run_open(&run, &options);
    if (status == COX_OK) {
        work w = {.run = &run};
        const cox_service service = {
            .events = {.context = &w, .on_text = on_text, .on_record = on_record},
            .source = {.context = &w, .next = next_request, .next_cancelled = next_cancelled},
            .needs_template = true,
            .has_chats = true,
        };
        status = cox_serve(&run, &service);
        cox_run_close(&run, false);
    }
    return cox_launch_end("cancel_one", status);
}
