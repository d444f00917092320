/* Entries are messages of record.proto, made here and freed by whoever owns the record. */
#include "coordinator/logprob_list.h"

#include <stdio.h>
#include <stdlib.h>

/* The text of one token; without a tokenizer its id, as other engines write it. malloc'ed. */
static cox_status token_text(const cox_tokenizer *tokenizer, int32_t id, char **text, size_t *n)
{
    if (tokenizer) return cox_tokenizer_decode(tokenizer, &id, 1, false, text, n);
    int written = asprintf(text, "token_id:%d", (int)id);
    if (written < 0) return cox_no_memory("log probabilities");
    *n = (size_t)written;
    return COX_OK;
}

static Cox__TokenChoice *make_choice(const cox_tokenizer *tokenizer, int32_t id, float logprob)
{
    Cox__TokenChoice *choice = malloc(sizeof *choice);
    char *text = NULL;
    size_t n = 0;
    if (!choice || token_text(tokenizer, id, &text, &n) != COX_OK) {
        free(choice);
        cox_no_memory("log probabilities");
        return NULL;
    }
    cox__token_choice__init(choice);
    choice->id = id;
    choice->logprob = logprob;
    choice->token = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)text};
    return choice;
}

/* What has been put in *entry is the list's to free, also on failure. */
static cox_status fill_entry(Cox__TokenLogprob *entry, const cox_tokenizer *tokenizer, int32_t token,
                             const cox_logprobs *logprobs)
{
    entry->token = make_choice(tokenizer, token, logprobs ? logprobs->token : 0.0f);
    if (!entry->token) return COX_NO_MEMORY;
    int32_t n = logprobs ? logprobs->n : 0;
    entry->top = calloc((size_t)n + 1, sizeof(Cox__TokenChoice *));
    if (!entry->top) return cox_no_memory("log probabilities");
    for (int32_t i = 0; i < n; i++) {
        Cox__TokenChoice *choice = make_choice(tokenizer, logprobs->ids[i], logprobs->values[i]);
        if (!choice) return COX_NO_MEMORY;
        entry->top[entry->n_top++] = choice;
    }
    return COX_OK;
}

cox_status cox__logprob_list_put(cox__logprob_list *list, const cox_tokenizer *tokenizer, int32_t token,
                                 const cox_logprobs *logprobs)
{
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 16;
        Cox__TokenLogprob **larger = realloc(list->entries, capacity * sizeof *larger);
        if (!larger) return cox_no_memory("log probabilities");
        list->entries = larger;
        list->capacity = capacity;
    }
    Cox__TokenLogprob *entry = malloc(sizeof *entry);
    if (!entry) return cox_no_memory("log probabilities");
    cox__token_logprob__init(entry);
    list->entries[list->n++] = entry;
    return fill_entry(entry, tokenizer, token, logprobs);
}

Cox__TokenLogprob **cox__logprob_list_take(cox__logprob_list *list, size_t *n)
{
    Cox__TokenLogprob **entries = list->entries;
    *n = list->n;
    *list = (cox__logprob_list){0};
    return entries;
}

void cox__logprob_list_free(cox__logprob_list *list)
{
    for (size_t i = 0; i < list->n; i++) cox__token_logprob__free_unpacked(list->entries[i], NULL);
    free(list->entries);
    *list = (cox__logprob_list){0};
}
