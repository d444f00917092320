/*
 * Answers scripts/references/tokenizers.py over pipes. Usage: tokenize_driver FOLDER.
 * Standard input, little-endian u32 numbers: per text its byte count (0xffffffff ends) and its bytes.
 * Standard output per text: the count of ids and the ids (without the post-processor's), the same with it,
 * then twice a byte count and the decoded text: of the first ids with and without special tokens. Decoding
 * goes through the streaming detokenizer, and must agree with decoding at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer.h"

static void stop(const char *what)
{
    fprintf(stderr, "tokenize_driver: %s: %s\n", what, cox_status_message());
    exit(1);
}

static void write_bytes(const void *bytes, size_t n)
{
    uint32_t count = (uint32_t)n;
    if (fwrite(&count, sizeof count, 1, stdout) != 1 || fwrite(bytes, 1, n, stdout) != n) stop("output");
}

static void write_ids(const cox_tokens *tokens)
{
    uint32_t count = (uint32_t)tokens->n;
    if (fwrite(&count, sizeof count, 1, stdout) != 1) stop("output");
    if (tokens->n && fwrite(tokens->ids, sizeof *tokens->ids, tokens->n, stdout) != tokens->n) stop("output");
}

static void write_decoded(const cox_tokenizer *tokenizer, const cox_tokens *tokens, bool skip_special)
{
    char *whole = NULL;
    size_t n_whole, n = 0, n_piece;
    if (cox_tokenizer_decode(tokenizer, tokens->ids, tokens->n, skip_special, &whole, &n_whole) != COX_OK)
        stop("decode");
    cox_detokenizer *stream = NULL;
    if (cox_detokenizer_create(&stream, tokenizer, skip_special) != COX_OK) stop("stream");
    for (size_t i = 0; i <= tokens->n; i++) {
        const char *piece;
        cox_status status = i < tokens->n ? cox_detokenizer_put(stream, tokens->ids[i], &piece, &n_piece)
                                          : cox_detokenizer_flush(stream, &piece, &n_piece);
        if (status != COX_OK) stop("stream");
        if (n + n_piece > n_whole || (n_piece > 0 && memcmp(whole + n, piece, n_piece) != 0)) {
            fprintf(stderr, "tokenize_driver: the stream differs from decoding at once\n");
            exit(1);
        }
        n += n_piece;
        if (n < n_whole && ((unsigned char)whole[n] & 0xc0) == 0x80) {
            fprintf(stderr, "tokenize_driver: a piece ends within a character\n");
            exit(1);
        }
    }
    if (n != n_whole) {
        fprintf(stderr, "tokenize_driver: the stream is shorter than decoding at once\n");
        exit(1);
    }
    write_bytes(whole, n_whole);
    cox_detokenizer_destroy(stream);
    free(whole);
}

int main(int argc, char **argv)
{
    cox_tokenizer *tokenizer = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_driver FOLDER\n");
        return 2;
    }
    if (cox_tokenizer_load(&tokenizer, argv[1]) != COX_OK) stop("load");
    uint32_t n;
    while (fread(&n, sizeof n, 1, stdin) == 1 && n != UINT32_MAX) {
        char *text = malloc(n + 1u);
        if (!text || fread(text, 1, n, stdin) != n) stop("input");
        cox_tokens plain = {0}, full = {0};
        if (cox_tokenizer_encode(tokenizer, text, n, false, &plain) != COX_OK) stop("encode");
        if (cox_tokenizer_encode(tokenizer, text, n, true, &full) != COX_OK) stop("encode");
        write_ids(&plain);
        write_ids(&full);
        write_decoded(tokenizer, &plain, false);
        write_decoded(tokenizer, &full, true);
        fflush(stdout);
        cox_tokens_free(&plain);
        cox_tokens_free(&full);
        free(text);
    }
    cox_tokenizer_destroy(tokenizer);
    return 0;
}
