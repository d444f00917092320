/*
 * What the tokenizer's files share. The way of a text through them:
 *
 *   tokenizer_added.c      added tokens cut the text into pieces            (pieces)
 *   tokenizer_normalize.c  each piece of text is normalised                 (bytes -> bytes)
 *   tokenizer_split.c      pre-tokenisers cut and rewrite the pieces        (pieces -> pieces)
 *   tokenizer_bpe.c        each piece of text becomes ids                   (bytes -> ids)
 *   tokenizer_decode.c     ids become text again, one by one                (ids -> bytes)
 *
 * tokenizer_parse.c builds the components from tokenizer.json, tokenizer_regex.c reads Oniguruma's
 * regexes with PCRE2, tokenizer_unicode.c knows the character classes, tokenizer.c is the public face.
 * Everything loaded lives in the tokenizer's arena and is read only; whatever a call needs to write is
 * in its cox__scratch.
 */
#ifndef COX_MODEL_TOKENIZER_INTERNAL_H
#define COX_MODEL_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "base/json.h"
#include "model/tokenizer.h"

/* ---- growing arrays ------------------------------------------------------------------------- */

typedef struct cox__buffer {
    char *bytes;
    size_t n, capacity;
} cox__buffer;

cox_status cox__buffer_append(cox__buffer *buffer, const char *bytes, size_t n);
void cox__buffer_free(cox__buffer *buffer);

/* `items` with room for `needed` items of `size` bytes (grows by doubling); NULL, with a message and the
 * items as they were, when there is no memory. */
void *cox__grown(void *items, size_t *capacity, size_t needed, size_t size);

/* ---- pieces: a text in parts ---------------------------------------------------------------- */

typedef struct cox__piece {
    size_t begin, end; /* bytes of cox__pieces.text */
    int32_t id;        /* an added token, with nothing left to do; -1: text */
    bool is_at_start;  /* the piece starts where the original text starts */
} cox__piece;

typedef struct cox__pieces {
    cox__buffer text;
    cox__piece *items;
    size_t n, capacity;
} cox__pieces;

/* Appends a piece of text (a copy; an empty one is dropped, as the reference does) or an id. */
cox_status cox__pieces_add(cox__pieces *pieces, const char *bytes, size_t n, bool is_at_start);
cox_status cox__pieces_add_id(cox__pieces *pieces, int32_t id);
void cox__pieces_clear(cox__pieces *pieces);

/* A cover of a text by ranges, those that match a pattern and those in between. */
typedef struct cox__range {
    size_t begin, end;
    bool is_match; /* later: to be removed */
} cox__range;

typedef struct cox__ranges {
    cox__range *items;
    size_t n, capacity;
    void *match_data; /* PCRE2's place for a match, made at first use */
} cox__ranges;

void cox__ranges_free(cox__ranges *ranges);

cox_status cox__ranges_add(cox__ranges *ranges, size_t begin, size_t end, bool is_match);

/* ---- scratch of one call -------------------------------------------------------------------- */

typedef struct cox__symbol {
    int32_t id, previous, next; /* indices into the symbols, -1: none */
    bool is_gone;
} cox__symbol;

typedef struct cox__merge_entry {
    uint64_t key; /* rank << 32 | position: the smallest goes first */
    int32_t new_id;
} cox__merge_entry;

typedef struct cox__scratch {
    cox__pieces pieces[2];
    cox__buffer text[2];
    cox__ranges ranges;
    cox__symbol *symbols;
    size_t n_symbols, symbols_capacity;
    cox__merge_entry *heap;
    size_t n_heap, heap_capacity;
} cox__scratch;

void cox__scratch_free(cox__scratch *scratch);

/* ---- tokenizer_unicode.c -------------------------------------------------------------------- */

/* The code point at text[0]; text is valid UTF-8, n > 0. [out] *length: its bytes. */
uint32_t cox__utf8_at(const char *text, size_t n, size_t *length);
/* The last code point of text[0..n), n > 0. */
uint32_t cox__utf8_before(const char *text, size_t n, size_t *length);
/* Writes 1 to 4 bytes. Returns how many. */
size_t cox__utf8_write(uint32_t code_point, char out[4]);
/* The length of the longest valid prefix; n when all is valid. */
size_t cox__utf8_valid_prefix(const char *text, size_t n);

typedef bool (*cox__char_class)(uint32_t code_point);
bool cox__is_white_space(uint32_t code_point); /* the White_Space property */
bool cox__is_numeric(uint32_t code_point);     /* Nd, Nl, No */
bool cox__is_word(uint32_t code_point);        /* \w of the Rust regex library */
bool cox__is_punctuation(uint32_t code_point); /* P*, or ASCII punctuation */

uint32_t cox__lowercase(uint32_t code_point); /* one to one; U+0130 as itself */
bool cox__is_inert(uint32_t code_point);      /* the reference's normalisers do not know it */

/* Appends, as PCRE2 writes the inside of a class, the code points that the reference counts to a property
 * ("L", "Nd", "Han") and PCRE2 does not yet. */
cox_status cox__append_newer(cox__buffer *out, const char *property, size_t n);

/* The GPT-2 alphabet: every byte as one printable code point, at most 0x143. */
enum { COX__BYTE_ALPHABET = 0x144 };
int cox__char_to_byte(uint32_t code_point); /* -1: not in the alphabet */
/* Appends `n` bytes in that alphabet, as UTF-8. */
cox_status cox__append_byte_level(cox__buffer *out, const char *bytes, size_t n);

/* ---- tokenizer_regex.c: patterns ------------------------------------------------------------ */

typedef struct cox__pattern cox__pattern;

/* A literal string, or a regex in Oniguruma's dialect. Patterns live in the tokenizer's arena and on its
 * list, which cox__patterns_release empties. Errors: UNSUPPORTED (a construct that is not translated). */
cox_status cox__pattern_literal(cox__pattern **pattern, cox_tokenizer *owner, const char *text,
                                const char *where);
cox_status cox__pattern_regex(cox__pattern **pattern, cox_tokenizer *owner, const char *regex,
                              const char *where);
void cox__patterns_release(cox__pattern *first);

/* Covers the n bytes of text, n > 0, by ranges (appended). */
cox_status cox__pattern_cover(const cox__pattern *pattern, const char *text, size_t n, cox__ranges *ranges);
/* The same for single characters of a class. */
cox_status cox__class_cover(cox__char_class is_member, const char *text, size_t n, cox__ranges *ranges);

/* Appends text with every match replaced. `ranges` is scratch. */
cox_status cox__pattern_replace(const cox__pattern *pattern, const char *text, size_t n, const char *by,
                                cox__ranges *ranges, cox__buffer *out);

/* ---- tokenizer_normalize.c ------------------------------------------------------------------ */

typedef enum cox__normalizer_kind {
    COX__NORMALIZE_NFC,
    COX__NORMALIZE_NFD,
    COX__NORMALIZE_NFKC,
    COX__NORMALIZE_NFKD,
    COX__NORMALIZE_PREPEND,
    COX__NORMALIZE_REPLACE,
    COX__NORMALIZE_LOWERCASE,
    COX__NORMALIZE_STRIP,
    COX__NORMALIZE_BYTE_LEVEL,
} cox__normalizer_kind;

typedef struct cox__normalizer {
    cox__normalizer_kind kind;
    cox__pattern *pattern; /* REPLACE */
    const char *content;   /* REPLACE, PREPEND */
    bool strip_left, strip_right;
} cox__normalizer;

/* Runs all in order on n bytes. [out] *result: points into scratch->text (or is `text` itself). */
cox_status cox__normalize(const cox__normalizer *normalizers, size_t n_normalizers, const char *text,
                          size_t n, cox__scratch *scratch, const char **result, size_t *n_result);

/* ---- tokenizer_split.c ---------------------------------------------------------------------- */

typedef enum cox__behavior {
    COX__ISOLATED,
    COX__REMOVED,
    COX__MERGED_WITH_PREVIOUS,
    COX__MERGED_WITH_NEXT,
    COX__CONTIGUOUS,
} cox__behavior;

typedef enum cox__split_kind {
    COX__SPLIT_PATTERN,    /* pattern, is_inverted, behavior */
    COX__SPLIT_CLASS,      /* is_member, behavior */
    COX__SPLIT_WORDS,      /* runs of word characters, runs of others; white space goes */
    COX__SPLIT_METASPACE,  /* replacement, prepend_scheme, has_split */
    COX__SPLIT_BYTE_LEVEL, /* add_prefix_space, then pattern when there is one, then bytes */
} cox__split_kind;

typedef enum cox__prepend_scheme {
    COX__PREPEND_ALWAYS,
    COX__PREPEND_FIRST,
    COX__PREPEND_NEVER
} cox__prepend_scheme;

typedef struct cox__splitter {
    cox__split_kind kind;
    cox__behavior behavior;
    cox__pattern *pattern;
    cox__char_class is_member;
    bool is_inverted, add_prefix_space, has_split;
    const char *replacement;
    cox__prepend_scheme prepend_scheme;
} cox__splitter;

/* in -> out (cleared first). */
cox_status cox__split(const cox__splitter *splitter, const cox__pieces *in, cox__scratch *scratch,
                      cox__pieces *out);

/* ---- tokenizer_bpe.c ------------------------------------------------------------------------ */

typedef struct cox__string_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
} cox__string_slot;

typedef struct cox__merge_slot {
    int32_t left, right; /* left -1: free */
    int32_t new_id;
    uint32_t rank;
} cox__merge_slot;

enum { COX__MAX_IDS = 1 << 22, COX__N_CHAR_IDS = 0x800 };

typedef struct cox__bpe {
    int32_t n_ids; /* 1 + the highest id */
    size_t n_entries;
    const char **token;        /* [n_ids] UTF-8, NULL: no such id */
    uint32_t *token_bytes;     /* [n_ids] */
    cox__string_slot *strings; /* [strings_mask + 1] */
    size_t strings_mask;
    cox__merge_slot *merges; /* [merges_mask + 1] */
    size_t merges_mask;
    int32_t char_id[COX__N_CHAR_IDS]; /* the token of a single code point below 0x800, -1: none */
    int32_t byte_id[256];             /* "<0x00>" to "<0xFF>", -1: none */
    const char *unk_token;            /* NULL: none */
    int32_t unk_id;                   /* -1: none, or not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
} cox__bpe;

cox_status cox__bpe_load(cox__bpe *bpe, cox_arena *arena, const json_t *model, const char *where);
/* -1: none */
int32_t cox__bpe_find(const cox__bpe *bpe, const char *token, size_t n);
/* Appends the ids of one piece. */
cox_status cox__bpe_encode(const cox__bpe *bpe, const char *piece, size_t n, cox__scratch *scratch,
                           cox_tokens *tokens);
cox_status cox__tokens_add(cox_tokens *tokens, int32_t id);

/* ---- tokenizer_added.c ---------------------------------------------------------------------- */

typedef struct cox__added_token {
    const char *content; /* as the file spells it */
    const char *pattern; /* what is looked for: content, normalised when `is_normalized` */
    size_t n_content, n_pattern;
    int32_t id;
    bool single_word, lstrip, rstrip, is_normalized, is_special;
} cox__added_token;

/* Tokens sorted by the bytes of their pattern. */
typedef struct cox__added_set {
    const cox__added_token **tokens;
    size_t n;
    size_t first_byte[257]; /* those that start with byte b: first_byte[b] to first_byte[b + 1] */
} cox__added_set;

typedef struct cox__added {
    cox__added_token *tokens; /* in the file's order */
    size_t n;
    cox__added_set raw, normalized; /* looked for before and after the normaliser */
} cox__added;

cox_status cox__added_load(cox_tokenizer *tokenizer, const json_t *list, const char *where);
/* Cuts text[0..n) at the set's tokens; leftmost, longest. */
cox_status cox__added_split(const cox__added_set *set, const char *text, size_t n, bool is_at_start,
                            cox__pieces *out);

/* ---- tokenizer_decode.c --------------------------------------------------------------------- */

typedef enum cox__decoder_kind {
    COX__DECODE_BYTE_LEVEL,
    COX__DECODE_REPLACE,
    COX__DECODE_BYTE_FALLBACK,
    COX__DECODE_FUSE,
    COX__DECODE_STRIP,
    COX__DECODE_METASPACE,
    COX__DECODE_JOIN_WITH_SPACES, /* what the reference does when the file has no decoder */
} cox__decoder_kind;

typedef struct cox__decoder {
    cox__decoder_kind kind;
    cox__pattern *pattern; /* REPLACE */
    const char *content;   /* REPLACE, STRIP (one character), METASPACE (its replacement) */
    size_t start, stop;    /* STRIP: most characters taken from either end */
    bool drops_first;      /* METASPACE: the replacement characters of the first token go */
} cox__decoder;

/* ---- the whole ------------------------------------------------------------------------------ */

struct cox_tokenizer {
    cox_arena *arena;
    cox__bpe bpe;
    cox__added added;
    int32_t n_ids;
    const char **id_text; /* [n_ids] what the decoders get for an id; NULL: nothing */
    uint8_t *is_special;  /* [n_ids] */
    uint8_t *is_skipped;  /* [n_ids] left out by skip_special */
    cox__normalizer *normalizers;
    size_t n_normalizers;
    cox__splitter *splitters;
    size_t n_splitters;
    cox__decoder *decoders;
    size_t n_decoders;
    int32_t *template_ids; /* the post-processor: n_before ids, the text, n_after ids */
    size_t n_before, n_after;
    cox__pattern *patterns; /* a list of all, for release */
};

/* tokenizer_parse.c: the components but the model and the added tokens. */
cox_status cox__parse_components(cox_tokenizer *tokenizer, const json_t *root, const char *where);

/* tokenizer.c: a tokenizer from the content of tokenizer.json, which may go then; first_bytes: of its arena.
 * [out] *tokenizer: owned by the caller. */
cox_status cox__tokenizer_parse(cox_tokenizer **tokenizer, const json_t *root, const char *where,
                                size_t first_bytes);

#endif
