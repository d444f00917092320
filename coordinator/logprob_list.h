/* Log probabilities of tokens as a record carries them, with the tokens' texts, in a list that grows. */
#ifndef COX_COORDINATOR_LOGPROB_LIST_H
#define COX_COORDINATOR_LOGPROB_LIST_H

#include "coordinator/sampler.h"
#include "model/tokenizer.h"
#include "proto/record.h"

/* Zero-initialise; free with cox__logprob_list_free. */
typedef struct cox__logprob_list {
    Cox__TokenLogprob **entries; /* [n], of capacity */
    size_t n, capacity;
} cox__logprob_list;

/* logprobs NULL: only the token. Errors: NO_MEMORY. */
cox_status cox__logprob_list_put(cox__logprob_list *list, const cox_tokenizer *tokenizer, int32_t token,
                                 const cox_logprobs *logprobs);
/* The entries become the caller's, as an array of malloc; the list is empty then. */
Cox__TokenLogprob **cox__logprob_list_take(cox__logprob_list *list, size_t *n);
void cox__logprob_list_free(cox__logprob_list *list);

#endif
