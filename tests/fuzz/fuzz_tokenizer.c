/*
 * A tokenizer.json from outside, and a text for it: the input is a file's bytes, then 0xff, then a text
 * (invalid UTF-8 is refused by the tokenizer, so any bytes will do). Without 0xff the text is a fixed one.
 * What loads must encode or refuse, and the ids must decode, at once and as a stream, to the same text.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_stream(const cox_tokenizer *t, const cox_tokens *tokens)
{
    char *whole = NULL;
    size_t n_whole = 0, n = 0, n_piece = 0;
    cox_detokenizer *d = NULL;
    if (cox_tokenizer_decode(t, tokens->ids, tokens->n, true, &whole, &n_whole) != COX_OK) return;
    if (cox_detokenizer_create(&d, t, true) != COX_OK) abort();
    for (size_t i = 0; i <= tokens->n; i++) {
        const char *piece = NULL;
        cox_status status = i < tokens->n ? cox_detokenizer_put(d, tokens->ids[i], &piece, &n_piece)
                                          : cox_detokenizer_flush(d, &piece, &n_piece);
        if (status != COX_OK || n_piece > n_whole - n || (n_piece && memcmp(whole + n, piece, n_piece) != 0))
            abort();
        n += n_piece;
    }
    if (n != n_whole) abort();
    cox_detokenizer_destroy(d);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *mark = n ? memchr(data, 0xff, n) : NULL;
    const char *text = mark ? (const char *)mark + 1 : " Hello\n  wor\xc3\xa9ld's 12345 <s>\xf0\x9f\x99\x82";
    size_t n_file = mark ? (size_t)(mark - data) : n, n_text = mark ? n - n_file - 1 : strlen(text);
    json_t *root = NULL;
    cox_tokenizer *t = NULL;
    cox_status status = cox_json_load_text(&root, (const char *)data, n_file, "fuzz");
    if (status == COX_OK) status = cox__tokenizer_parse(&t, root, "fuzz", 0);
    json_decref(root);
    if (status != COX_OK) return 0;
    cox_tokens tokens = {0};
    if (cox_tokenizer_encode(t, text, n_text, true, &tokens) == COX_OK) check_stream(t, &tokens);
    cox_tokens_free(&tokens);
    cox_tokenizer_destroy(t);
    return 0;
}
