/* coxswain bench --chat: what it takes to make a prompt of a chat: the template, and then the tokens too. One
 * process, no weights. */
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "base/progress.h"
#include "cli/bench.h"
#include "coordinator/session.h"

typedef struct bench {
    const cox_options *options;
    cox_tokenizer *tokenizer;
    cox_chat_process *process;
    cox_chat_template *chat_template;
    cox_request **requests; /* [n_requests] */
    double *seconds;        /* [n_requests * n_rounds] of each rendering */
    double total_s[2];      /* of all renderings; of all with their tokens */
    uint64_t n_tokens;
} bench;

/* An ordinary chat: three short questions and two longer answers, no two alike. */
static cox_status make_chat(cox_request **request, int64_t number)
{
    json_t *messages = json_array();
    char question[96], answer[512];
    snprintf(question, sizeof question, "Question %d: how do I mend a wooden fiddle, and what does it take?",
             (int)number);
    snprintf(answer, sizeof answer,
             "To mend fiddle %d, find the broken part, then press glue into the gap, and let the fiddle rest "
             "for a "
             "day. It takes glue, a clamp and some patience; \"more\" of it than one thinks, naturally.",
             (int)number);
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", question));
    for (int i = 0; i < 2; i++) {
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "assistant", "content", answer));
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", question));
    }
    json_t *body = json_pack("{s:o}", "messages", messages);
    *request = cox_request_create();
    cox_status status =
        body && *request ? cox_request_set_chat(*request, body, "bench") : cox_no_memory("a benchmark");
    json_decref(body);
    return status;
}

static cox_status chat_prepare(bench *b)
{
    const cox_prompting prompting = cox_options_of_prompting(b->options);
    size_t n = (size_t)b->options->n_requests;
    b->requests = calloc(n, sizeof(cox_request *));
    b->seconds = calloc(n * (size_t)b->options->n_rounds, sizeof *b->seconds);
    if (!b->requests || !b->seconds) return cox_no_memory("a benchmark");
    cox_status status = cox_tokenizer_load(&b->tokenizer, b->options->model);
    if (status == COX_OK)
        status = cox_prompting_load_template(&b->chat_template, &prompting, b->options->model, b->process);
    for (size_t i = 0; i < n && status == COX_OK; i++) status = make_chat(&b->requests[i], (int64_t)i);
    return status;
}

/* seconds: [n_requests], or NULL: of a round that does not count. */
static cox_status run_round(bench *b, double *seconds)
{
    cox_status status = COX_OK;
    double began = cox_now_s();
    for (int64_t i = 0; i < b->options->n_requests && status == COX_OK; i++) {
        char *text = NULL;
        size_t n = 0;
        double before = cox_now_s();
        status = cox_chat_template_render(b->chat_template, b->requests[i]->chat, &text, &n);
        if (seconds) seconds[i] = cox_now_s() - before;
        free(text);
    }
    if (seconds) b->total_s[0] += cox_now_s() - began;
    began = cox_now_s();
    for (int64_t i = 0; i < b->options->n_requests && status == COX_OK; i++) {
        cox_tokens tokens = {0};
        status = cox_session_tokenize(b->tokenizer, b->chat_template, NULL, b->requests[i], &tokens);
        if (seconds) b->n_tokens += tokens.n;
        cox_tokens_free(&tokens);
    }
    if (seconds) b->total_s[1] += cox_now_s() - began;
    return status;
}

static cox_status report(bench *b)
{
    const cox_options *o = b->options;
    size_t n = (size_t)(o->n_requests * o->n_rounds);
    const char *name = cox_chat_template_name(b->chat_template);
    qsort(b->seconds, n, sizeof *b->seconds, cox_compare_doubles);
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:{s:f, s:f, s:f, s:f}, s:f, s:f}", "benchmark", "chat",
                  "model", o->model, "rendered_by", name && !o->template_kwargs ? name : "Python", "chats",
                  (json_int_t)o->n_requests, "rounds", (json_int_t)o->n_rounds, "chats_per_s",
                  (double)n / b->total_s[0], "ms", "median", 1e3 * b->seconds[n / 2], "p90",
                  1e3 * b->seconds[n * 9 / 10], "p99", 1e3 * b->seconds[n * 99 / 100], "max",
                  1e3 * b->seconds[n - 1], "chats_per_s_with_tokens", (double)n / b->total_s[1],
                  "tokens_per_chat", (double)b->n_tokens / (double)n);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(json);
    if (!text) return cox_no_memory("a benchmark");
    if (o->is_json) {
        puts(text);
    } else {
        printf("%lld chats, %lld rounds, rendered by %s\n%.0f chats/s; ms: median %.3f, 90%% %.3f, 99%% "
               "%.3f, most %.3f\n"
               "%.0f chats/s with their tokens (%.0f each)\n",
               (long long)o->n_requests, (long long)o->n_rounds,
               name && !o->template_kwargs ? name : "Python", (double)n / b->total_s[0],
               1e3 * b->seconds[n / 2], 1e3 * b->seconds[n * 9 / 10], 1e3 * b->seconds[n * 99 / 100],
               1e3 * b->seconds[n - 1], (double)n / b->total_s[1], (double)b->n_tokens / (double)n);
    }
    free(text);
    return COX_OK;
}

cox_status cox_bench_chat(const cox_options *options)
{
    bench b = {.options = options};
    cox_status status = cox_chat_process_start(&b.process, options->python);
    if (status == COX_OK) status = chat_prepare(&b);
    if (status == COX_OK) status = run_round(&b, NULL);
    for (int64_t r = 0; r < options->n_rounds && status == COX_OK; r++)
        status = run_round(&b, b.seconds + r * options->n_requests);
    if (status == COX_OK) status = report(&b);
    for (int64_t i = 0; b.requests && i < options->n_requests; i++) cox_request_destroy(b.requests[i]);
    free(b.requests);
    free(b.seconds);
    cox_chat_template_destroy(b.chat_template);
    cox_tokenizer_destroy(b.tokenizer);
    cox_chat_process_stop(b.process);
    return status;
}
