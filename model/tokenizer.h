/*
 * Text to token ids and back, as a Hugging Face tokenizer.json defines it (the `tokenizers` library is
 * the reference): normaliser, pre-tokeniser, BPE (byte-level, or SentencePiece-style with byte
 * fallback), added and special tokens, post-processor (bos/eos templates), decoder.
 * A tokenizer is immutable after loading and may be used from several threads.
 */
#ifndef COX_MODEL_TOKENIZER_H
#define COX_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_tokenizer cox_tokenizer;

/* A growing list of ids; zero-initialise, free with cox_tokens_free. */
typedef struct cox_tokens {
    int32_t *ids;
    size_t n, capacity;
} cox_tokens;
void cox_tokens_free(cox_tokens *tokens);

/* Reads <folder>/tokenizer.json. [out] owned by the caller. Not collective.
 * Errors: NOT_FOUND, BAD_FILE, UNSUPPORTED (a component type that is not built, by name). */
cox_status cox_tokenizer_load(cox_tokenizer **tokenizer, const char *folder);
void cox_tokenizer_destroy(cox_tokenizer *tokenizer); /* NULL is allowed */

/* One more than the highest id. */
int32_t cox_tokenizer_n_ids(const cox_tokenizer *tokenizer);

/* Before a text becomes part of another one. Errors: INVALID ("WHERE is not valid UTF-8: ...", with the
 * offset of the first bad byte). */
cox_status cox_tokenizer_check_text(const char *where, const char *text, size_t n_bytes);

/*
 * Appends the ids of n_bytes of UTF-8 text to *tokens. Special tokens that stand in the text become
 * their ids, as in `tokenizers`. add_special: apply the post-processor's template (bos and the like).
 * Errors: INVALID (not UTF-8; names the byte offset), NO_MEMORY; on error *tokens is as it was.
 */
cox_status cox_tokenizer_encode(const cox_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                bool add_special, cox_tokens *tokens);

/* The text of n ids, [out] *text malloc'ed and NUL-terminated, *n_bytes without the NUL; equal to tokenizers'
 * decode(skip_special_tokens). An id without a token gives no text, as there: embeddings are often padded
 * beyond the vocabulary, and a model may choose such an id. Errors: INVALID (a negative id), NO_MEMORY. */
cox_status cox_tokenizer_decode(const cox_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, char **text, size_t *n_bytes);

/* The id of an exact token string (an added token or a vocabulary entry); -1 when there is none. */
int32_t cox_tokenizer_find(const cox_tokenizer *tokenizer, const char *token);
bool cox_tokenizer_is_special(const cox_tokenizer *tokenizer, int32_t id);

/*
 * Streaming detokenisation: feed ids one by one; each call appends only bytes that can no longer
 * change and never ends within a UTF-8 character. The concatenation of all pieces with the final
 * flush equals cox_tokenizer_decode of all ids.
 */
typedef struct cox_detokenizer cox_detokenizer;
cox_status cox_detokenizer_create(cox_detokenizer **detokenizer, const cox_tokenizer *tokenizer,
                                  bool skip_special);
/* [out] *piece: valid until the next call on this detokenizer, *n_bytes may be 0. */
cox_status cox_detokenizer_put(cox_detokenizer *detokenizer, int32_t id, const char **piece, size_t *n_bytes);
/* What is still held back (invalid bytes as U+FFFD, as the reference does); the stream is then as new. */
cox_status cox_detokenizer_flush(cox_detokenizer *detokenizer, const char **piece, size_t *n_bytes);
void cox_detokenizer_destroy(cox_detokenizer *detokenizer);

#endif
