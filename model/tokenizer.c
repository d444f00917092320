/* The public face: loading a folder's tokenizer.json, and the way of a text through the components. */
#include "model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/folder.h"
#include "model/tokenizer_internal.h"

/* ---- loading -------------------------------------------------------------------------------- */

static bool is_special_text(const cox__added *added, const char *text)
{
    for (size_t i = 0; i < added->n; i++) {
        if (added->tokens[i].is_special && strcmp(added->tokens[i].content, text) == 0) return true;
    }
    return false;
}

/* What each id says: an added token's pattern before the vocabulary's entry. */
static cox_status index_ids(cox_tokenizer *t)
{
    t->n_ids = t->bpe.n_ids;
    for (size_t i = 0; i < t->added.n; i++) {
        if (t->added.tokens[i].id >= t->n_ids) t->n_ids = t->added.tokens[i].id + 1;
    }
    t->id_text = cox_arena_array(t->arena, (size_t)t->n_ids, sizeof *t->id_text);
    t->is_special = cox_arena_alloc(t->arena, (size_t)t->n_ids);
    t->is_skipped = cox_arena_alloc(t->arena, (size_t)t->n_ids);
    if (!t->id_text || !t->is_special || !t->is_skipped) return COX_NO_MEMORY;
    for (int32_t id = 0; id < t->bpe.n_ids; id++) t->id_text[id] = t->bpe.token[id];
    for (size_t i = 0; i < t->added.n; i++) {
        const cox__added_token *token = &t->added.tokens[i];
        t->id_text[token->id] = token->pattern;
        t->is_special[token->id] = token->is_special;
        /* The reference asks whether the text that it would decode is a special token's content. */
        t->is_skipped[token->id] = is_special_text(&t->added, token->pattern);
    }
    return COX_OK;
}

static cox_status load_root(cox_tokenizer *t, const json_t *root, const char *where)
{
    if (!json_is_object(root)) return cox_fail(COX_BAD_FILE, "%s: the top level must be an object", where);
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model)) return cox_fail(COX_BAD_FILE, "%s: key \"model\" must be an object", where);
    const json_t *list = json_object_get(root, "added_tokens");
    if (list && !json_is_array(list) && !json_is_null(list)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"added_tokens\" must be a list", where);
    }
    cox_status status = cox__bpe_load(&t->bpe, t->arena, model, where);
    if (status == COX_OK) status = cox__parse_components(t, root, where);
    if (status == COX_OK) status = cox__added_load(t, list, where);
    if (status == COX_OK) status = index_ids(t);
    return status;
}

cox_status cox_tokenizer_load(cox_tokenizer **tokenizer, const char *folder)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer.json", folder) >= sizeof path) {
        return cox_fail(COX_INVALID, "the folder's name is too long: %.64s...", folder);
    }
    json_t *root = NULL;
    cox_status status = cox__folder_check_tokenizer(folder);
    if (status == COX_OK) status = cox_json_load_file(&root, path);
    if (status == COX_OK) status = cox__tokenizer_parse(tokenizer, root, path, (size_t)1 << 20);
    json_decref(root);
    return status;
}

cox_status cox__tokenizer_parse(cox_tokenizer **tokenizer, const json_t *root, const char *where,
                                size_t first_bytes)
{
    cox_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return cox_no_memory("a tokenizer");
    cox_status status = cox_arena_create(&t->arena, "tokenizer", first_bytes);
    if (status == COX_OK) status = load_root(t, root, where);
    if (status == COX_OK)
        *tokenizer = t;
    else
        cox_tokenizer_destroy(t);
    return status;
}

void cox_tokenizer_destroy(cox_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    cox__patterns_release(tokenizer->patterns);
    cox_arena_destroy(tokenizer->arena);
    free(tokenizer);
}

/* ---- lookups -------------------------------------------------------------------------------- */

int32_t cox_tokenizer_n_ids(const cox_tokenizer *tokenizer)
{
    return tokenizer->n_ids;
}

int32_t cox_tokenizer_find(const cox_tokenizer *tokenizer, const char *token)
{
    for (size_t i = 0; i < tokenizer->added.n; i++) {
        if (strcmp(tokenizer->added.tokens[i].content, token) == 0) return tokenizer->added.tokens[i].id;
    }
    return cox__bpe_find(&tokenizer->bpe, token, strlen(token));
}

bool cox_tokenizer_is_special(const cox_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->n_ids && tokenizer->is_special[id];
}

/* ---- encoding ------------------------------------------------------------------------------- */

/* Added tokens of the raw text, normalisation of the rest, added tokens of the normalised text. */
static cox_status extract(const cox_tokenizer *t, const char *text, size_t n, cox__scratch *scratch)
{
    cox__pieces *raw = &scratch->pieces[1], *out = &scratch->pieces[0];
    cox_status status = cox__added_split(&t->added.raw, text, n, true, raw);
    for (size_t i = 0; i < raw->n && status == COX_OK; i++) {
        const cox__piece *piece = &raw->items[i];
        if (piece->id >= 0) {
            status = cox__pieces_add_id(out, piece->id);
            continue;
        }
        const char *normal;
        size_t n_normal;
        status = cox__normalize(t->normalizers, t->n_normalizers, raw->text.bytes + piece->begin,
                                piece->end - piece->begin, scratch, &normal, &n_normal);
        if (status != COX_OK) break;
        status = cox__added_split(&t->added.normalized, normal, n_normal, piece->is_at_start, out);
    }
    return status;
}

static cox_status encode_text(const cox_tokenizer *t, const char *text, size_t n, cox__scratch *scratch,
                              cox_tokens *tokens)
{
    cox_status status = extract(t, text, n, scratch);
    cox__pieces *pieces = &scratch->pieces[0], *next = &scratch->pieces[1];
    for (size_t i = 0; i < t->n_splitters && status == COX_OK; i++) {
        status = cox__split(&t->splitters[i], pieces, scratch, next);
        cox__pieces *swapped = pieces;
        pieces = next;
        next = swapped;
    }
    for (size_t i = 0; i < pieces->n && status == COX_OK; i++) {
        const cox__piece *piece = &pieces->items[i];
        if (piece->id >= 0)
            status = cox__tokens_add(tokens, piece->id);
        else
            status = cox__bpe_encode(&t->bpe, pieces->text.bytes + piece->begin, piece->end - piece->begin,
                                     scratch, tokens);
    }
    return status;
}

static cox_status add_template(const cox_tokenizer *t, size_t first, size_t n, cox_tokens *tokens)
{
    for (size_t i = 0; i < n; i++) {
        cox_status status = cox__tokens_add(tokens, t->template_ids[first + i]);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

cox_status cox_tokenizer_check_text(const char *where, const char *text, size_t n_bytes)
{
    size_t n_valid = cox__utf8_valid_prefix(text, n_bytes);
    if (n_valid == n_bytes) return COX_OK;
    return cox_fail(COX_INVALID, "%s is not valid UTF-8: byte %zu is 0x%02x", where, n_valid,
                    (unsigned char)text[n_valid]);
}

cox_status cox_tokenizer_encode(const cox_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                bool add_special, cox_tokens *tokens)
{
    cox_status status = cox_tokenizer_check_text("the text", text, n_bytes);
    if (status != COX_OK) return status;
    size_t n_before_call = tokens->n;
    cox__scratch scratch = {0};
    status = add_special ? add_template(tokenizer, 0, tokenizer->n_before, tokens) : COX_OK;
    if (status == COX_OK) status = encode_text(tokenizer, text, n_bytes, &scratch, tokens);
    if (status == COX_OK && add_special) {
        status = add_template(tokenizer, tokenizer->n_before, tokenizer->n_after, tokens);
    }
    cox__scratch_free(&scratch);
    if (status != COX_OK) tokens->n = n_before_call;
    return status;
}
