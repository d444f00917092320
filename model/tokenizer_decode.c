/*
 * Ids to text, one id at a time. The reference's decoders turn a list of token strings into another
 * list; here each is a stage that gets its tokens in fragments, keeps what may still change, and hands
 * the rest on. Decoding a whole list is the same chain, fed to the end, so a stream of pieces always
 * adds up to it.
 *
 * Held back: ByteLevel the bytes of an unfinished character; ByteFallback a whole run of byte tokens (one
 * bad byte spoils all of them); Replace, and Strip at the end, a token that is not complete.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

typedef struct stage {
    const cox__decoder *decoder;
    cox__buffer token;    /* of the token that is coming in: what is held */
    cox__buffer bytes;    /* BYTE_LEVEL, BYTE_FALLBACK: bytes that are not a text yet */
    cox__buffer replaced; /* REPLACE: the token after it */
    size_t n_tokens;      /* that came to an end */
    size_t n_stripped;    /* STRIP: characters taken from this token's start; SIZE_MAX: its text has begun */
} stage;

struct cox_detokenizer {
    const cox_tokenizer *tokenizer;
    bool skip_special;
    stage *stages; /* [n_stages] */
    size_t n_stages;
    cox__buffer out;
    cox__ranges ranges;
};

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */

static cox_status feed(cox_detokenizer *d, size_t k, const char *bytes, size_t n);
static cox_status end_token(cox_detokenizer *d, size_t k);

/* ---- UTF-8 that may be broken ---------------------------------------------------------------- */

typedef enum utf8_kind { UTF8_GOOD, UTF8_BAD, UTF8_CUT } utf8_kind;

/* The first character of n > 0 bytes, or the longest start of one that ends in a wrong byte (BAD) or in
 * the end of the bytes (CUT). [out] *length: its bytes. */
static utf8_kind utf8_step(const unsigned char *b, size_t n, size_t *length)
{
    unsigned low = 0x80, high = 0xbf;
    size_t wanted = b[0] < 0x80   ? 1
                    : b[0] < 0xc2 ? 0
                    : b[0] < 0xe0 ? 2
                    : b[0] < 0xf0 ? 3
                    : b[0] < 0xf5 ? 4
                                  : 0;
    *length = 1;
    if (wanted == 0) return UTF8_BAD;
    if (b[0] == 0xe0) low = 0xa0;
    if (b[0] == 0xed) high = 0x9f;
    if (b[0] == 0xf0) low = 0x90;
    if (b[0] == 0xf4) high = 0x8f;
    for (; *length < wanted; ++*length) {
        if (*length == n) return UTF8_CUT;
        if (b[*length] < low || b[*length] > high) return UTF8_BAD;
        low = 0x80;
        high = 0xbf;
    }
    return UTF8_GOOD;
}

/* Hands on all of the stage's bytes that are characters, U+FFFD for what cannot become one. */
static cox_status feed_characters(cox_detokenizer *d, size_t k, bool is_end)
{
    cox__buffer *bytes = &d->stages[k].bytes;
    size_t done = 0, length;
    cox_status status = COX_OK;
    for (size_t i = 0; i < bytes->n && status == COX_OK; i += length) {
        utf8_kind kind = utf8_step((const unsigned char *)bytes->bytes + i, bytes->n - i, &length);
        if (kind == UTF8_GOOD) continue;
        if (i > done) status = feed(d, k + 1, bytes->bytes + done, i - done);
        done = i;
        if (kind == UTF8_CUT && !is_end) break;
        if (status == COX_OK) status = feed(d, k + 1, REPLACEMENT, 3);
        done = i + length;
    }
    if (status != COX_OK) return status;
    size_t n_cut = 0; /* at most three bytes remain */
    if (done < bytes->n) {
        utf8_kind kind = utf8_step((const unsigned char *)bytes->bytes + done, bytes->n - done, &length);
        if (kind == UTF8_CUT)
            n_cut = bytes->n - done;
        else
            status = feed(d, k + 1, bytes->bytes + done, bytes->n - done);
    }
    if (n_cut > 0) memmove(bytes->bytes, bytes->bytes + done, n_cut);
    bytes->n = n_cut;
    return status;
}

/* ---- the stages ------------------------------------------------------------------------------ */

/* The token's characters as bytes, or the token as it is when one of them is not in the alphabet. */
static cox_status end_byte_level(cox_detokenizer *d, size_t k)
{
    stage *s = &d->stages[k];
    size_t before = s->bytes.n, length;
    cox_status status = COX_OK;
    for (size_t i = 0; i < s->token.n && status == COX_OK; i += length) {
        int byte = cox__char_to_byte(cox__utf8_at(s->token.bytes + i, s->token.n - i, &length));
        if (byte < 0) {
            s->bytes.n = before;
            status = cox__buffer_append(&s->bytes, s->token.bytes, s->token.n);
            break;
        }
        char c = (char)byte;
        status = cox__buffer_append(&s->bytes, &c, 1);
    }
    return status == COX_OK ? feed_characters(d, k, false) : status;
}

static cox_status pass_token(cox_detokenizer *d, size_t k, const char *bytes, size_t n)
{
    cox_status status = feed(d, k + 1, bytes, n);
    return status == COX_OK ? end_token(d, k + 1) : status;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdefABCDEF";
    const char *found = c ? strchr(digits, c) : NULL;
    if (!found) return -1;
    int value = (int)(found - digits);
    return value < 16 ? value : value - 6;
}

/* "<0x41>" -> 0x41, anything else -1 */
static int byte_token(const cox__buffer *token)
{
    if (token->n != 6 || memcmp(token->bytes, "<0x", 3) != 0 || token->bytes[5] != '>') return -1;
    int high = hex_digit(token->bytes[3]), low = hex_digit(token->bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static cox_status end_byte_run(cox_detokenizer *d, size_t k)
{
    cox__buffer *bytes = &d->stages[k].bytes;
    size_t n = bytes->n;
    cox_status status = COX_OK;
    bytes->n = 0;
    if (n == 0) return COX_OK;
    if (cox__utf8_valid_prefix(bytes->bytes, n) == n) return pass_token(d, k, bytes->bytes, n);
    for (size_t i = 0; i < n && status == COX_OK; i++) status = pass_token(d, k, REPLACEMENT, 3);
    return status;
}

static cox_status end_byte_fallback(cox_detokenizer *d, size_t k)
{
    stage *s = &d->stages[k];
    int byte = byte_token(&s->token);
    if (byte >= 0) {
        char c = (char)byte;
        return cox__buffer_append(&s->bytes, &c, 1);
    }
    cox_status status = end_byte_run(d, k);
    return status == COX_OK ? pass_token(d, k, s->token.bytes, s->token.n) : status;
}

static cox_status end_replace(cox_detokenizer *d, size_t k)
{
    stage *s = &d->stages[k];
    s->replaced.n = 0;
    cox_status status = cox__pattern_replace(s->decoder->pattern, s->token.bytes, s->token.n,
                                             s->decoder->content, &d->ranges, &s->replaced);
    return status == COX_OK ? pass_token(d, k, s->replaced.bytes, s->replaced.n) : status;
}

static bool starts_with(const char *bytes, size_t n, const char *text, size_t n_text)
{
    return n >= n_text && memcmp(bytes, text, n_text) == 0;
}

/* Takes up to `start` of the characters off the token's start; keeps the token when its end may go too. */
static cox_status feed_strip(cox_detokenizer *d, size_t k, const char *bytes, size_t n)
{
    stage *s = &d->stages[k];
    size_t n_content = strlen(s->decoder->content);
    while (n > 0 && s->n_stripped < s->decoder->start &&
           starts_with(bytes, n, s->decoder->content, n_content)) {
        s->n_stripped++;
        bytes += n_content;
        n -= n_content;
    }
    if (n == 0) return COX_OK;
    s->n_stripped = SIZE_MAX;
    return s->decoder->stop > 0 ? cox__buffer_append(&s->token, bytes, n) : feed(d, k + 1, bytes, n);
}

static cox_status end_strip(cox_detokenizer *d, size_t k)
{
    stage *s = &d->stages[k];
    size_t n_content = strlen(s->decoder->content), n = s->token.n;
    for (size_t i = 0; i < s->decoder->stop && n >= n_content; i++) {
        if (memcmp(s->token.bytes + n - n_content, s->decoder->content, n_content) != 0) break;
        n -= n_content;
    }
    s->n_stripped = 0;
    return pass_token(d, k, s->token.bytes, n);
}

static cox_status feed_metaspace(cox_detokenizer *d, size_t k, const char *bytes, size_t n)
{
    const stage *s = &d->stages[k];
    size_t n_mark = strlen(s->decoder->content), done = 0;
    bool is_dropped = s->n_tokens == 0 && s->decoder->drops_first;
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK;) {
        if (!starts_with(bytes + i, n - i, s->decoder->content, n_mark)) {
            i++;
            continue;
        }
        if (i > done) status = feed(d, k + 1, bytes + done, i - done);
        if (status == COX_OK && !is_dropped) status = feed(d, k + 1, " ", 1);
        i += n_mark;
        done = i;
    }
    return status == COX_OK && n > done ? feed(d, k + 1, bytes + done, n - done) : status;
}

/* A fragment of a token, whole characters, comes to stage k; after the last one is the output. */
static cox_status feed(cox_detokenizer *d, size_t k, const char *bytes, size_t n)
{
    if (k == d->n_stages) return cox__buffer_append(&d->out, bytes, n);
    stage *s = &d->stages[k];
    switch (s->decoder->kind) {
    case COX__DECODE_FUSE: return feed(d, k + 1, bytes, n);
    case COX__DECODE_STRIP: return feed_strip(d, k, bytes, n);
    case COX__DECODE_METASPACE: return feed_metaspace(d, k, bytes, n);
    case COX__DECODE_JOIN_WITH_SPACES: { /* the only stage, so a fragment is a token */
        cox_status status = s->n_tokens > 0 ? feed(d, k + 1, " ", 1) : COX_OK;
        return status == COX_OK ? feed(d, k + 1, bytes, n) : status;
    }
    default: return cox__buffer_append(&s->token, bytes, n);
    }
}

static cox_status end_token(cox_detokenizer *d, size_t k)
{
    if (k == d->n_stages) return COX_OK;
    stage *s = &d->stages[k];
    cox_status status = COX_OK;
    switch (s->decoder->kind) {
    case COX__DECODE_BYTE_LEVEL: status = end_byte_level(d, k); break;
    case COX__DECODE_BYTE_FALLBACK: status = end_byte_fallback(d, k); break;
    case COX__DECODE_REPLACE: status = end_replace(d, k); break;
    case COX__DECODE_STRIP: status = end_strip(d, k); break;
    case COX__DECODE_FUSE: break; /* one token, which ends with the text */
    case COX__DECODE_METASPACE:
    case COX__DECODE_JOIN_WITH_SPACES: status = end_token(d, k + 1); break;
    }
    s->token.n = 0;
    s->n_tokens++;
    return status;
}

/* No more tokens come, to any stage. */
static cox_status end_all(cox_detokenizer *d)
{
    cox_status status = COX_OK;
    for (size_t k = 0; k < d->n_stages && status == COX_OK; k++) {
        switch (d->stages[k].decoder->kind) {
        case COX__DECODE_BYTE_LEVEL:
            status = feed_characters(d, k, true);
            if (status == COX_OK) status = end_token(d, k + 1);
            break;
        case COX__DECODE_BYTE_FALLBACK: status = end_byte_run(d, k); break;
        case COX__DECODE_FUSE: status = end_token(d, k + 1); break;
        default: break;
        }
        d->stages[k].n_tokens = d->stages[k].n_stripped = 0;
    }
    return status;
}

/* ---- public ---------------------------------------------------------------------------------- */

cox_status cox_detokenizer_create(cox_detokenizer **detokenizer, const cox_tokenizer *tokenizer,
                                  bool skip_special)
{
    cox_detokenizer *d = calloc(1, sizeof *d);
    stage *stages = calloc(tokenizer->n_decoders + 1, sizeof *stages); /* one more: a list may be empty */
    if (!d || !stages) {
        free(d);
        free(stages);
        return cox_no_memory("a detokenizer");
    }
    for (size_t k = 0; k < tokenizer->n_decoders; k++) stages[k].decoder = &tokenizer->decoders[k];
    *d = (cox_detokenizer){.tokenizer = tokenizer,
                           .skip_special = skip_special,
                           .stages = stages,
                           .n_stages = tokenizer->n_decoders};
    *detokenizer = d;
    return COX_OK;
}

void cox_detokenizer_destroy(cox_detokenizer *detokenizer)
{
    if (!detokenizer) return;
    for (size_t k = 0; k < detokenizer->n_stages; k++) {
        cox__buffer_free(&detokenizer->stages[k].token);
        cox__buffer_free(&detokenizer->stages[k].bytes);
        cox__buffer_free(&detokenizer->stages[k].replaced);
    }
    free(detokenizer->stages);
    cox__buffer_free(&detokenizer->out);
    cox__ranges_free(&detokenizer->ranges);
    free(detokenizer);
}

static cox_status put(cox_detokenizer *d, int32_t id)
{
    const cox_tokenizer *t = d->tokenizer;
    if (id < 0) return cox_fail(COX_INVALID, "%d is not a token id", id);
    if (id >= t->n_ids || !t->id_text[id] || (d->skip_special && t->is_skipped[id])) return COX_OK;
    cox_status status = feed(d, 0, t->id_text[id], strlen(t->id_text[id]));
    return status == COX_OK ? end_token(d, 0) : status;
}

static void hand_out(const cox_detokenizer *d, const char **piece, size_t *n_bytes)
{
    *piece = d->out.bytes ? d->out.bytes : "";
    *n_bytes = d->out.n;
}

cox_status cox_detokenizer_put(cox_detokenizer *detokenizer, int32_t id, const char **piece, size_t *n_bytes)
{
    detokenizer->out.n = 0;
    cox_status status = put(detokenizer, id);
    if (status == COX_OK) hand_out(detokenizer, piece, n_bytes);
    return status;
}

cox_status cox_detokenizer_flush(cox_detokenizer *detokenizer, const char **piece, size_t *n_bytes)
{
    detokenizer->out.n = 0;
    cox_status status = end_all(detokenizer);
    if (status == COX_OK) hand_out(detokenizer, piece, n_bytes);
    return status;
}

cox_status cox_tokenizer_decode(const cox_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, char **text, size_t *n_bytes)
{
    cox_detokenizer *d = NULL;
    cox_status status = cox_detokenizer_create(&d, tokenizer, skip_special);
    if (status != COX_OK) return status;
    for (size_t i = 0; i < n && status == COX_OK; i++) status = put(d, ids[i]);
    if (status == COX_OK) status = end_all(d);
    if (status == COX_OK) status = cox__buffer_append(&d->out, "", 1); /* the NUL */
    if (status == COX_OK) {
        *text = d->out.bytes;
        *n_bytes = d->out.n - 1;
        d->out = (cox__buffer){0};
    }
    cox_detokenizer_destroy(d);
    return status;
}
