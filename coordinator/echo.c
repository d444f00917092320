/* Rows are not kept: of each only its token's log probability and the most likely tokens. */
#include "coordinator/echo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/logprob_list.h"

struct cox__echo {
    const cox_tokenizer *tokenizer;
    char *text;       /* of the prompt */
    int32_t *prompt;  /* [n] */
    int32_t *offsets; /* [n] where each begins in text, in code points */
    size_t n;
    int32_t n_logprobs; /* as in a request */
    cox__logprob_list logprobs;
    bool is_broken; /* logits were not finite */
};

static int32_t n_code_points(const char *text, size_t n_bytes)
{
    int32_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) n += (text[i] & 0xc0) != 0x80;
    return n;
}

/* Where each token begins in the text of all. */
static cox_status find_offsets(cox__echo *e)
{
    cox_detokenizer *detokenizer = NULL;
    cox_status status = cox_detokenizer_create(&detokenizer, e->tokenizer, false);
    int32_t offset = 0;
    for (size_t i = 0; i < e->n && status == COX_OK; i++) {
        const char *piece = NULL;
        size_t n_bytes = 0;
        e->offsets[i] = offset;
        status = cox_detokenizer_put(detokenizer, e->prompt[i], &piece, &n_bytes);
        if (status == COX_OK) offset += n_code_points(piece, n_bytes);
    }
    cox_detokenizer_destroy(detokenizer);
    return status;
}

/* A prompt that came as text is given back as it came: without what the tokenizer puts in front (a bos token,
 * a blank), which then begins, and ends, at 0. */
static cox_status use_own_text(cox__echo *e, const char *own)
{
    size_t n_all = strlen(e->text), n_own = strlen(own);
    bool is_behind = n_all >= n_own && strcmp(e->text + n_all - n_own, own) == 0;
    int32_t n_front = is_behind ? n_code_points(e->text, n_all - n_own) : 0;
    for (size_t i = 0; i < e->n; i++) e->offsets[i] = e->offsets[i] > n_front ? e->offsets[i] - n_front : 0;
    char *copy = strdup(own);
    if (!copy) return cox_no_memory("the echo of a prompt");
    free(e->text);
    e->text = copy;
    return COX_OK;
}

static cox_status fill(cox__echo *e, const cox_request *request, const int32_t *prompt)
{
    size_t n_bytes = 0;
    e->prompt = malloc(e->n * sizeof *e->prompt);
    e->offsets = malloc(e->n * sizeof *e->offsets);
    if (!e->prompt || !e->offsets) return cox_no_memory("the echo of a prompt");
    memcpy(e->prompt, prompt, e->n * sizeof *prompt);
    cox_status status = COX_OK;
    if (!e->tokenizer) { /* then there is no text, and no place in it */
        memset(e->offsets, 0, e->n * sizeof *e->offsets);
        e->text = strdup("");
        if (!e->text) status = cox_no_memory("the echo of a prompt");
    } else {
        status = cox_tokenizer_decode(e->tokenizer, prompt, e->n, false, &e->text, &n_bytes);
        if (status == COX_OK) status = find_offsets(e);
    }
    if (status == COX_OK && request->n_prompt_ids == 0) status = use_own_text(e, request->prompt);
    if (status == COX_OK && e->n_logprobs >= 0)
        status = cox__logprob_list_put(&e->logprobs, e->tokenizer, prompt[0], NULL);
    return status;
}

cox_status cox__echo_create(cox__echo **echo, const cox_tokenizer *tokenizer, const cox_request *request,
                            const int32_t *prompt, size_t n)
{
    cox__echo *e = calloc(1, sizeof *e);
    if (!e) return cox_no_memory("the echo of a prompt");
    *e = (cox__echo){.tokenizer = tokenizer, .n = n, .n_logprobs = request->sampling->n_logprobs};
    cox_status status = fill(e, request, prompt);
    if (status == COX_OK)
        *echo = e;
    else
        cox__echo_destroy(e);
    return status;
}

void cox__echo_destroy(cox__echo *echo)
{
    if (!echo) return;
    cox__logprob_list_free(&echo->logprobs);
    free(echo->text);
    free(echo->prompt);
    free(echo->offsets);
    free(echo);
}

bool cox__echo_wants_logits(const cox__echo *echo)
{
    return echo && echo->n_logprobs >= 0 && echo->n > 1;
}

cox_status cox__echo_put_logits(cox__echo *e, int32_t position, const float *logits, int32_t vocab_size)
{
    if ((size_t)position + 1 >= e->n) return COX_OK;
    for (int32_t i = 0; i < vocab_size; i++) e->is_broken |= !isfinite(logits[i]);
    cox_logprobs logprobs;
    int32_t token = e->prompt[position + 1];
    cox_logprobs_fill(&logprobs, logits, vocab_size, token, e->n_logprobs);
    return cox__logprob_list_put(&e->logprobs, e->tokenizer, token, &logprobs);
}

cox_status cox__echo_report(cox__echo *e, cox_record *record)
{
    if (e->is_broken) {
        return cox_fail(COX_INTERNAL,
                        "the logits of the prompt are not finite: a steering plan is too strong for "
                        "f32, or the checkpoint's weights are broken");
    }
    record->has_echo = true;
    record->prompt_text = e->text;
    record->prompt_offsets = e->offsets;
    record->n_prompt_offsets = e->n;
    record->prompt_logprobs = cox__logprob_list_take(&e->logprobs, &record->n_prompt_logprobs);
    e->text = NULL;
    e->offsets = NULL;
    return COX_OK;
}
