/* Ids, texts and rules into one set. */
#include "study/first_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "run/io.h"
#include "model/tokenizer.h"
#include "study/rules.h"

static cox_status add_id(uint8_t *in_set, const cox_model *model, const char *where, int32_t id)
{
    if (id < 0 || id >= model->vocab_size) {
        return cox_fail(COX_INVALID, "%s: token %d is outside the vocabulary of %d", where, (int)id,
                        (int)model->vocab_size);
    }
    in_set[id] = 1;
    return COX_OK;
}

static cox_status add_ids(uint8_t *in_set, const cox_model *model, const char *text)
{
    int32_t *ids = NULL;
    size_t n = 0;
    cox_status status = cox_io_parse_ids(text, "--filter-tokens", &ids, &n);
    for (size_t i = 0; i < n && status == COX_OK; i++)
        status = add_id(in_set, model, "--filter-tokens", ids[i]);
    free(ids);
    return status;
}

static cox_status add_text(uint8_t *in_set, const cox_model *model, const cox_tokenizer *tokenizer,
                           const char *where, const char *text)
{
    cox_tokens tokens = {0};
    cox_status status = cox_tokenizer_encode(tokenizer, text, strlen(text), false, &tokens);
    if (status == COX_OK && tokens.n == 0)
        status = cox_fail(COX_INVALID, "%s: \"%s\" has no token", where, text);
    if (status == COX_OK) status = add_id(in_set, model, where, tokens.ids[0]);
    cox_tokens_free(&tokens);
    return status;
}

static cox_status add_rules(uint8_t *in_set, const cox_model *model, const cox_tokenizer *tokenizer,
                            const char *path)
{
    cox_rules *rules = NULL;
    size_t n = 0;
    cox_status status = cox_rules_load(&rules, path);
    if (status != COX_OK) return status;
    const char *const *texts = cox_rules_first_tokens(rules, &n);
    for (size_t i = 0; i < n && status == COX_OK; i++)
        status = add_text(in_set, model, tokenizer, path, texts[i]);
    cox_rules_free(rules);
    return status;
}

/* rules_path: named in the message when the set is its alone. */
static cox_status check_size(const uint8_t *in_set, int32_t vocab_size, const char *rules_path)
{
    int32_t n = 0;
    for (int32_t i = 0; i < vocab_size; i++) n += in_set[i];
    if (n > 0 && n < vocab_size) return COX_OK;
    return cox_fail(COX_INVALID,
                    "%s%sthe set of first tokens has %d of the vocabulary's %d: some, not all, are needed%s",
                    rules_path ? rules_path : "", rules_path ? ": " : "", (int)n, (int)vocab_size,
                    rules_path ? " (key \"first_tokens\")" : "");
}

cox_status cox_first_tokens_read(const char *ids, const char *const *texts, size_t n_texts,
                                 const char *rules_path, const cox_model *model, const char *folder,
                                 uint8_t **in_set)
{
    cox_tokenizer *tokenizer = NULL;
    uint8_t *set = calloc((size_t)model->vocab_size, 1);
    cox_status status = set ? COX_OK : cox_no_memory("a set of tokens");
    if (status == COX_OK) status = cox_tokenizer_load(&tokenizer, folder);
    if (status == COX_OK && ids) status = add_ids(set, model, ids);
    for (size_t i = 0; i < n_texts && status == COX_OK; i++)
        status = add_text(set, model, tokenizer, "--filter-phrase", texts[i]);
    if (status == COX_OK && rules_path) status = add_rules(set, model, tokenizer, rules_path);
    if (status == COX_OK) status = check_size(set, model->vocab_size, ids || n_texts > 0 ? NULL : rules_path);
    cox_tokenizer_destroy(tokenizer);
    if (status == COX_OK) {
        *in_set = set;
    } else {
        free(set);
    }
    return status;
}
