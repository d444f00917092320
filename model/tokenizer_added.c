/*
 * Added tokens: those that stand in the text as such, most of them special. The reference looks for the
 * ones with "normalized": false in the raw text, then for the others, themselves normalised, in the
 * normalised parts in between; always the leftmost match, and there the longest.
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

/* ---- loading -------------------------------------------------------------------------------- */

static int compare_patterns(const void *left, const void *right)
{
    const cox__added_token *a = *(const cox__added_token *const *)left;
    const cox__added_token *b = *(const cox__added_token *const *)right;
    int order = memcmp(a->pattern, b->pattern, a->n_pattern < b->n_pattern ? a->n_pattern : b->n_pattern);
    if (order != 0) return order;
    return (a->n_pattern > b->n_pattern) - (a->n_pattern < b->n_pattern);
}

static cox_status build_set(cox_tokenizer *tokenizer, bool is_normalized, cox__added_set *set,
                            const char *where)
{
    const cox__added *added = &tokenizer->added;
    set->tokens = cox_arena_array(tokenizer->arena, added->n, sizeof *set->tokens);
    if (!set->tokens) return COX_NO_MEMORY;
    for (size_t i = 0; i < added->n; i++) {
        const cox__added_token *token = &added->tokens[i];
        if (token->is_normalized == is_normalized && token->n_pattern > 0) set->tokens[set->n++] = token;
    }
    qsort(set->tokens, set->n, sizeof *set->tokens, compare_patterns);
    for (size_t i = 1; i < set->n; i++) {
        if (compare_patterns(&set->tokens[i - 1], &set->tokens[i]) == 0) {
            return cox_fail(COX_BAD_FILE, "%s: two added tokens look for \"%s\"", where,
                            set->tokens[i]->pattern);
        }
    }
    size_t next = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        set->first_byte[byte] = next;
        while (next < set->n && (unsigned char)set->tokens[next]->pattern[0] == byte) next++;
    }
    set->first_byte[256] = set->n;
    return COX_OK;
}

/* What the token is looked for as: its content after the normaliser. */
static cox_status set_pattern(cox_tokenizer *tokenizer, cox__added_token *token)
{
    token->pattern = token->content;
    token->n_pattern = token->n_content;
    if (!token->is_normalized || tokenizer->n_normalizers == 0) return COX_OK;
    cox__scratch scratch = {0};
    const char *result;
    size_t n;
    cox_status status = cox__normalize(tokenizer->normalizers, tokenizer->n_normalizers, token->content,
                                       token->n_content, &scratch, &result, &n);
    if (status == COX_OK) {
        char *copy = cox_arena_alloc(tokenizer->arena, n + 1);
        if (copy) memcpy(copy, result, n);
        token->pattern = copy;
        token->n_pattern = n;
        if (!copy) status = COX_NO_MEMORY;
    }
    cox__scratch_free(&scratch);
    return status;
}

static cox_status read_token(cox_tokenizer *tokenizer, const json_t *entry, const char *where,
                             cox__added_token *token)
{
    const char *content = NULL;
    int64_t id = 0;
    bool is_normalized = true;
    cox_status status = cox_json_string(entry, where, "content", true, &content);
    if (status == COX_OK) status = cox_json_int(entry, where, "id", true, 0, COX__MAX_IDS - 1, &id);
    if (status == COX_OK) status = cox_json_bool(entry, where, "special", false, &token->is_special);
    if (status == COX_OK) is_normalized = !token->is_special;
    if (status == COX_OK) status = cox_json_bool(entry, where, "normalized", false, &is_normalized);
    if (status == COX_OK) status = cox_json_bool(entry, where, "single_word", false, &token->single_word);
    if (status == COX_OK) status = cox_json_bool(entry, where, "lstrip", false, &token->lstrip);
    if (status == COX_OK) status = cox_json_bool(entry, where, "rstrip", false, &token->rstrip);
    if (status != COX_OK) return status;
    token->is_normalized = is_normalized;
    token->id = (int32_t)id;
    token->n_content = strlen(content);
    token->content = cox_arena_strdup(tokenizer->arena, content);
    return token->content ? set_pattern(tokenizer, token) : COX_NO_MEMORY;
}

/*
 * The reference gives a token that is not in the vocabulary the next free id, whatever the file says. A
 * file that says something else would be read differently by different programs: refused.
 */
static cox_status check_id(const cox_tokenizer *tokenizer, const cox__added_token *token, int32_t *next_id,
                           const char *where)
{
    int32_t expected = cox__bpe_find(&tokenizer->bpe, token->content, token->n_content);
    if (expected < 0) expected = (*next_id)++;
    if (expected == token->id) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: added token \"%s\" says id %d, but the vocabulary gives it %d", where,
                    token->content, token->id, expected);
}

cox_status cox__added_load(cox_tokenizer *tokenizer, const json_t *list, const char *where)
{
    cox__added *added = &tokenizer->added;
    size_t n_entries = json_array_size(list); /* 0 when there is no list */
    added->tokens = cox_arena_array(tokenizer->arena, n_entries, sizeof *added->tokens);
    if (!added->tokens) return COX_NO_MEMORY;
    int32_t next_id = (int32_t)tokenizer->bpe.n_entries;
    for (size_t i = 0; i < n_entries; i++) {
        cox__added_token *token = &added->tokens[added->n];
        cox_status status = read_token(tokenizer, json_array_get(list, i), where, token);
        if (status != COX_OK) return status;
        if (token->n_content == 0) continue;
        status = check_id(tokenizer, token, &next_id, where);
        if (status != COX_OK) return status;
        added->n++;
    }
    cox_status status = build_set(tokenizer, false, &added->raw, where);
    return status == COX_OK ? build_set(tokenizer, true, &added->normalized, where) : status;
}

/* ---- splitting ------------------------------------------------------------------------------ */

/* The longest token of the set that text starts with, or NULL. */
static const cox__added_token *longest_match(const cox__added_set *set, const char *text, size_t n)
{
    unsigned char first = (unsigned char)text[0];
    size_t low = set->first_byte[first], high = set->first_byte[first + 1];
    const cox__added_token *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        /* All tokens in [low, high) share their first `depth` bytes with the text; the shortest leads. */
        if (set->tokens[low]->n_pattern == depth) longest = set->tokens[low++];
        if (depth == n) break;
        unsigned char next = (unsigned char)text[depth];
        while (low < high && (unsigned char)set->tokens[low]->pattern[depth] < next) low++;
        size_t end = low;
        while (end < high && (unsigned char)set->tokens[end]->pattern[depth] == next) end++;
        high = end;
    }
    return longest;
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    size_t length;
    if (begin > 0 && cox__is_word(cox__utf8_before(text, begin, &length))) return false;
    return end == n || !cox__is_word(cox__utf8_at(text + end, n - end, &length));
}

static size_t without_space_before(const char *text, size_t begin)
{
    size_t length;
    while (begin > 0 && cox__is_white_space(cox__utf8_before(text, begin, &length))) begin -= length;
    return begin;
}

static size_t with_space_after(const char *text, size_t n, size_t end)
{
    size_t length;
    while (end < n && cox__is_white_space(cox__utf8_at(text + end, n - end, &length))) end += length;
    return end;
}

cox_status cox__added_split(const cox__added_set *set, const char *text, size_t n, bool is_at_start,
                            cox__pieces *out)
{
    size_t done = 0; /* all before is in `out` */
    for (size_t i = 0; i < n && set->n > 0;) {
        const cox__added_token *token = longest_match(set, text + i, n - i);
        if (!token) {
            i++;
            continue;
        }
        size_t begin = i, end = i + token->n_pattern;
        i = end;
        if (token->single_word && !stands_alone(text, n, begin, end)) continue;
        if (token->lstrip) {
            size_t stripped = without_space_before(text, begin);
            begin = stripped > done ? stripped : done;
        }
        if (token->rstrip) end = with_space_after(text, n, end);
        if (done < begin) {
            cox_status status = cox__pieces_add(out, text + done, begin - done, is_at_start && done == 0);
            if (status != COX_OK) return status;
        }
        cox_status status = cox__pieces_add_id(out, token->id);
        if (status != COX_OK) return status;
        done = end;
    }
    return cox__pieces_add(out, text + done, n - done, is_at_start && done == 0);
}
