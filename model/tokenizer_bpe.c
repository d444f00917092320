/*
 * Byte pair encoding: the vocabulary and the merges of a tokenizer.json as hash tables, and the encoding
 * of one piece. Merges are applied by rank, then by position, from a heap over a linked list of symbols:
 * n log n for a piece of n characters, so a long text without spaces stays cheap. The order of
 * operations (and the fate of stale heap entries) is that of the reference, because ids depend on it.
 */
#include <string.h>

#include "base/alive.h"
#include "model/tokenizer_internal.h"

/* ---- tables --------------------------------------------------------------------------------- */

static uint32_t hash_bytes(const char *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

static size_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (size_t)(h ^ h >> 29);
}

/* A power of two, minus one, of at least twice the entries. */
static size_t mask_for(size_t n_entries)
{
    size_t n = 16;
    while (n < 2 * n_entries) n *= 2;
    return n - 1;
}

int32_t cox__bpe_find(const cox__bpe *bpe, const char *token, size_t n)
{
    uint32_t hash = hash_bytes(token, n);
    for (size_t i = hash & bpe->strings_mask;; i = (i + 1) & bpe->strings_mask) {
        const cox__string_slot *slot = &bpe->strings[i];
        if (slot->id < 0) return -1;
        if (slot->hash == hash && bpe->token_bytes[slot->id] == n &&
            memcmp(bpe->token[slot->id], token, n) == 0) {
            return slot->id;
        }
    }
}

static void insert_string(cox__bpe *bpe, int32_t id)
{
    uint32_t hash = hash_bytes(bpe->token[id], bpe->token_bytes[id]);
    size_t i = hash & bpe->strings_mask;
    while (bpe->strings[i].id >= 0) i = (i + 1) & bpe->strings_mask;
    bpe->strings[i] = (cox__string_slot){hash, id};
}

/* The slot of a pair: its own, or the free one where it belongs. */
static cox__merge_slot *merge_slot(const cox__bpe *bpe, int32_t left, int32_t right)
{
    for (size_t i = hash_pair(left, right) & bpe->merges_mask;; i = (i + 1) & bpe->merges_mask) {
        cox__merge_slot *slot = &bpe->merges[i];
        if (slot->left < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

static const cox__merge_slot *find_merge(const cox__bpe *bpe, int32_t left, int32_t right)
{
    const cox__merge_slot *slot = merge_slot(bpe, left, right);
    return slot->left < 0 ? NULL : slot;
}

/* ---- loading -------------------------------------------------------------------------------- */

static cox_status check_ids(cox__bpe *bpe, json_t *vocab, const char *where)
{
    const char *key;
    json_t *value;
    int64_t highest = -1;
    json_object_foreach(vocab, key, value)
    {
        if (!json_is_integer(value))
            return cox_fail(COX_BAD_FILE, "%s: the id of \"%s\" is not a number", where, key);
        json_int_t id = json_integer_value(value);
        if (id < 0 || id >= COX__MAX_IDS) {
            return cox_fail(COX_BAD_FILE, "%s: the id of \"%s\" is %lld, outside 0 to %d", where, key,
                            (long long)id, COX__MAX_IDS - 1);
        }
        if (id > highest) highest = id;
    }
    bpe->n_entries = json_object_size(vocab);
    bpe->n_ids = (int32_t)(highest + 1);
    return COX_OK;
}

static cox_status load_vocab(cox__bpe *bpe, cox_arena *arena, json_t *vocab, const char *where)
{
    cox_status status = check_ids(bpe, vocab, where);
    if (status != COX_OK) return status;
    size_t n_bytes = 0;
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) n_bytes += strlen(key) + 1;
    bpe->strings_mask = mask_for(bpe->n_entries);
    bpe->token = cox_arena_array(arena, (size_t)bpe->n_ids, sizeof *bpe->token);
    bpe->token_bytes = cox_arena_array(arena, (size_t)bpe->n_ids, sizeof *bpe->token_bytes);
    bpe->strings = cox_arena_array(arena, bpe->strings_mask + 1, sizeof *bpe->strings);
    char *text = cox_arena_alloc(arena, n_bytes);
    if (!bpe->token || !bpe->token_bytes || !bpe->strings || !text) return COX_NO_MEMORY;
    for (size_t i = 0; i <= bpe->strings_mask; i++) bpe->strings[i].id = -1;
    json_object_foreach(vocab, key, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        if (id % 1024 == 0) cox_alive();
        if (bpe->token[id]) {
            return cox_fail(COX_BAD_FILE, "%s: \"%s\" and \"%s\" have the same id %d", where, bpe->token[id],
                            key, id);
        }
        size_t n = strlen(key);
        memcpy(text, key, n + 1);
        bpe->token[id] = text;
        bpe->token_bytes[id] = (uint32_t)n;
        text += n + 1;
        insert_string(bpe, id);
    }
    return COX_OK;
}

/* The two halves of a merge, "a b" or ["a", "b"]. */
static cox_status read_merge(const json_t *merge, const char *where, size_t rank, const char *half[2],
                             size_t n_half[2])
{
    const char *text = json_string_value(merge);
    if (text) {
        const char *space = strchr(text, ' ');
        if (space && !strchr(space + 1, ' ')) {
            half[0] = text;
            n_half[0] = (size_t)(space - text);
            half[1] = space + 1;
            n_half[1] = strlen(space + 1);
            return COX_OK;
        }
    } else if (json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            half[i] = json_string_value(json_array_get(merge, i));
            n_half[i] = half[i] ? strlen(half[i]) : 0;
        }
        if (half[0] && half[1]) return COX_OK;
    }
    return cox_fail(COX_BAD_FILE, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", where, rank);
}

static cox_status load_merge(cox__bpe *bpe, const json_t *merge, size_t rank, const char *where,
                             cox__buffer *joined)
{
    const char *half[2];
    size_t n_half[2];
    cox_status status = read_merge(merge, where, rank, half, n_half);
    if (status != COX_OK) return status;
    joined->n = 0;
    for (int i = 0; i < 2; i++) {
        status = cox__buffer_append(joined, half[i], n_half[i]);
        if (status != COX_OK) return status;
    }
    int32_t left = cox__bpe_find(bpe, half[0], n_half[0]), right = cox__bpe_find(bpe, half[1], n_half[1]);
    int32_t new_id = cox__bpe_find(bpe, joined->bytes, joined->n);
    if (left < 0 || right < 0 || new_id < 0) {
        return cox_fail(COX_BAD_FILE,
                        "%s: merge %zu (\"%.*s\" with \"%.*s\") names a token outside the vocabulary", where,
                        rank, (int)n_half[0], half[0], (int)n_half[1], half[1]);
    }
    *merge_slot(bpe, left, right) = (cox__merge_slot){left, right, new_id, (uint32_t)rank};
    return COX_OK;
}

static cox_status load_merges(cox__bpe *bpe, cox_arena *arena, const json_t *merges, const char *where)
{
    size_t n = json_array_size(merges);
    if (n > UINT32_MAX / 4) return cox_fail(COX_BAD_FILE, "%s: %zu merges are too many", where, n);
    bpe->merges_mask = mask_for(n);
    bpe->merges = cox_arena_array(arena, bpe->merges_mask + 1, sizeof *bpe->merges);
    if (!bpe->merges) return COX_NO_MEMORY;
    for (size_t i = 0; i <= bpe->merges_mask; i++) bpe->merges[i].left = -1;
    cox__buffer joined = {0};
    cox_status status = COX_OK;
    size_t rank = 0; /* a "#version" line of a merges.txt does not count */
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        if (i % 1024 == 0) cox_alive();
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text && strncmp(text, "#version", 8) == 0) continue;
        status = load_merge(bpe, merge, rank++, where, &joined);
    }
    cox__buffer_free(&joined);
    return status;
}

static cox_status load_options(cox__bpe *bpe, cox_arena *arena, const json_t *model, const char *where)
{
    static const char *const refused[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *text = NULL;
        cox_status status = cox_json_string(model, where, refused[i], false, &text);
        if (status != COX_OK) return status;
        if (text && *text) {
            return cox_fail(COX_UNSUPPORTED, "%s: model: \"%s\" is \"%s\"; only an empty one is supported",
                            where, refused[i], text);
        }
    }
    double dropout = 0;
    const char *unk = NULL;
    cox_status status = cox_json_number(model, where, "dropout", false, &dropout);
    if (status == COX_OK && dropout > 0) {
        return cox_fail(COX_UNSUPPORTED, "%s: model: \"dropout\" is %g; random merges are not supported",
                        where, dropout);
    }
    if (status == COX_OK) status = cox_json_string(model, where, "unk_token", false, &unk);
    if (status == COX_OK) status = cox_json_bool(model, where, "fuse_unk", false, &bpe->fuse_unk);
    if (status == COX_OK) status = cox_json_bool(model, where, "byte_fallback", false, &bpe->byte_fallback);
    if (status == COX_OK) status = cox_json_bool(model, where, "ignore_merges", false, &bpe->ignore_merges);
    if (status != COX_OK || !unk) return status;
    bpe->unk_token = cox_arena_strdup(arena, unk);
    return bpe->unk_token ? COX_OK : COX_NO_MEMORY;
}

/* The byte of "<0x00>" to "<0xFF>", six bytes; -1: it is not one of them. */
static int byte_of(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    if (memcmp(text, "<0x", 3) != 0 || !high || !low || text[5] != '>') return -1;
    return (int)((high - digits) * 16 + (low - digits));
}

static void fill_lookups(cox__bpe *bpe)
{
    for (int i = 0; i < COX__N_CHAR_IDS; i++) bpe->char_id[i] = -1;
    for (int i = 0; i < 256; i++) bpe->byte_id[i] = -1;
    for (int32_t id = 0; id < bpe->n_ids; id++) {
        size_t n = bpe->token_bytes[id], length;
        if (n == 0) continue;
        uint32_t c = cox__utf8_at(bpe->token[id], n, &length);
        int byte = n == 6 ? byte_of(bpe->token[id]) : -1;
        if (length == n && c < COX__N_CHAR_IDS) bpe->char_id[c] = id;
        if (byte >= 0) bpe->byte_id[byte] = id;
    }
    bpe->unk_id = bpe->unk_token ? cox__bpe_find(bpe, bpe->unk_token, strlen(bpe->unk_token)) : -1;
}

cox_status cox__bpe_load(cox__bpe *bpe, cox_arena *arena, const json_t *model, const char *where)
{
    const char *type = "BPE";
    cox_status status = cox_json_string(model, where, "type", false, &type);
    if (status != COX_OK) return status;
    json_t *vocab = json_object_get(model, "vocab");
    json_t *merges = json_object_get(model, "merges");
    if (strcmp(type, "BPE") != 0 || (vocab && !merges && !json_object_get(model, "type"))) {
        return cox_fail(COX_UNSUPPORTED, "%s: model type \"%s\" is not supported; only BPE is", where,
                        json_object_get(model, "type") ? type : "(none)");
    }
    if (!json_is_object(vocab))
        return cox_fail(COX_BAD_FILE, "%s: model: \"vocab\" must be an object", where);
    if (!json_is_array(merges)) return cox_fail(COX_BAD_FILE, "%s: model: \"merges\" must be a list", where);
    status = load_options(bpe, arena, model, where);
    if (status == COX_OK) status = load_vocab(bpe, arena, vocab, where);
    if (status == COX_OK) status = load_merges(bpe, arena, merges, where);
    if (status == COX_OK) fill_lookups(bpe);
    return status;
}

/* ---- encoding ------------------------------------------------------------------------------- */

static cox_status add_symbol(cox__scratch *scratch, int32_t id)
{
    size_t n = scratch->n_symbols;
    if (n >= INT32_MAX - 1)
        return cox_fail(COX_TOO_LONG, "a text of more than 2^31 characters cannot be tokenised");
    cox__symbol *symbols = cox__grown(scratch->symbols, &scratch->symbols_capacity, n + 1, sizeof *symbols);
    if (!symbols) return COX_NO_MEMORY;
    scratch->symbols = symbols;
    symbols[n] = (cox__symbol){id, (int32_t)n - 1, (int32_t)n + 1, false};
    scratch->n_symbols++;
    return COX_OK;
}

/* Byte tokens for the bytes of a character that is not in the vocabulary, if all of them exist. */
static cox_status add_bytes(const cox__bpe *bpe, const char *bytes, size_t n, cox__scratch *scratch,
                            bool *is_done)
{
    *is_done = false;
    for (size_t i = 0; i < n; i++) {
        if (bpe->byte_id[(unsigned char)bytes[i]] < 0) return COX_OK;
    }
    for (size_t i = 0; i < n; i++) {
        cox_status status = add_symbol(scratch, bpe->byte_id[(unsigned char)bytes[i]]);
        if (status != COX_OK) return status;
    }
    *is_done = true;
    return COX_OK;
}

/*
 * The characters of a piece as symbols. An unknown one becomes byte tokens, or the unknown token, which
 * is written only when the next known character (or the end) comes: so byte tokens in between overtake
 * it, as in the reference.
 */
static cox_status add_characters(const cox__bpe *bpe, const char *piece, size_t n, cox__scratch *scratch)
{
    bool has_unknown = false;
    cox_status status = COX_OK;
    for (size_t i = 0, length; i < n && status == COX_OK; i += length) {
        uint32_t c = cox__utf8_at(piece + i, n - i, &length);
        int32_t id = c < COX__N_CHAR_IDS ? bpe->char_id[c] : cox__bpe_find(bpe, piece + i, length);
        if (id >= 0) {
            if (has_unknown) status = add_symbol(scratch, bpe->unk_id);
            has_unknown = false;
            if (status == COX_OK) status = add_symbol(scratch, id);
            continue;
        }
        bool is_done = false;
        if (bpe->byte_fallback) status = add_bytes(bpe, piece + i, length, scratch, &is_done);
        if (is_done || status != COX_OK || !bpe->unk_token) continue;
        if (bpe->unk_id < 0) {
            return cox_fail(COX_INVALID,
                            "character U+%04X is not in the vocabulary, nor is the unknown token \"%s\"", c,
                            bpe->unk_token);
        }
        if (has_unknown && !bpe->fuse_unk) status = add_symbol(scratch, bpe->unk_id);
        has_unknown = true;
    }
    if (has_unknown && status == COX_OK) status = add_symbol(scratch, bpe->unk_id);
    return status;
}

static cox_status heap_push(cox__scratch *scratch, const cox__merge_slot *merge, int32_t position)
{
    cox__merge_entry *heap =
        cox__grown(scratch->heap, &scratch->heap_capacity, scratch->n_heap + 1, sizeof *heap);
    if (!heap) return COX_NO_MEMORY;
    scratch->heap = heap;
    cox__merge_entry entry = {(uint64_t)merge->rank << 32 | (uint32_t)position, merge->new_id};
    size_t i = scratch->n_heap++;
    while (i > 0 && heap[(i - 1) / 2].key > entry.key) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = entry;
    return COX_OK;
}

static cox__merge_entry heap_pop(cox__scratch *scratch)
{
    cox__merge_entry *heap = scratch->heap, top = heap[0], last = heap[--scratch->n_heap];
    size_t n = scratch->n_heap, i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= last.key) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* Offers the pair that starts at `position` to the heap, when it can merge. */
static cox_status offer_pair(const cox__bpe *bpe, cox__scratch *scratch, int32_t position)
{
    const cox__symbol *left = &scratch->symbols[position];
    if (left->next < 0) return COX_OK;
    const cox__merge_slot *merge = find_merge(bpe, left->id, scratch->symbols[left->next].id);
    return merge ? heap_push(scratch, merge, position) : COX_OK;
}

static cox_status merge_all(const cox__bpe *bpe, cox__scratch *scratch)
{
    cox__symbol *symbols = scratch->symbols;
    cox_status status = COX_OK;
    for (size_t i = 0; i + 1 < scratch->n_symbols && status == COX_OK; i++) {
        status = offer_pair(bpe, scratch, (int32_t)i);
    }
    while (scratch->n_heap > 0 && status == COX_OK) {
        cox__merge_entry top = heap_pop(scratch);
        int32_t position = (int32_t)(uint32_t)top.key;
        cox__symbol *left = &symbols[position];
        if (left->is_gone || left->next < 0) continue;
        cox__symbol *right = &symbols[left->next];
        const cox__merge_slot *merge = find_merge(bpe, left->id, right->id);
        if (!merge || merge->new_id != top.new_id) continue; /* one of the two has changed since */
        left->id = top.new_id;
        left->next = right->next;
        right->is_gone = true;
        if (left->next >= 0) symbols[left->next].previous = position;
        if (left->previous >= 0) status = offer_pair(bpe, scratch, left->previous);
        if (status == COX_OK) status = offer_pair(bpe, scratch, position);
    }
    return status;
}

cox_status cox__bpe_encode(const cox__bpe *bpe, const char *piece, size_t n, cox__scratch *scratch,
                           cox_tokens *tokens)
{
    if (bpe->ignore_merges) {
        int32_t id = cox__bpe_find(bpe, piece, n);
        if (id >= 0) return cox__tokens_add(tokens, id);
    }
    scratch->n_symbols = scratch->n_heap = 0;
    cox_status status = add_characters(bpe, piece, n, scratch);
    if (status != COX_OK || scratch->n_symbols == 0) return status;
    scratch->symbols[scratch->n_symbols - 1].next = -1;
    status = merge_all(bpe, scratch);
    for (size_t i = 0; i < scratch->n_symbols && status == COX_OK; i++) {
        if (!scratch->symbols[i].is_gone) status = cox__tokens_add(tokens, scratch->symbols[i].id);
    }
    return status;
}
