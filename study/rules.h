/*
 * Rules that judge an answer by its text: labels such as "refused" or "well_formed", each given by phrases
 * and regular expressions; checks for an answer that fell apart; which of the labels is the behaviour that is
 * studied, and the texts whose first tokens stand for it. Read from a JSON file (docs/formats.md), so that a
 * study's judgements can be read and repeated.
 */
#ifndef COX_STUDY_RULES_H
#define COX_STUDY_RULES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_rules cox_rules;

enum { COX_MAX_LABELS = 64 };

/* [out] *rules: owned by the caller. Errors: NOT_FOUND, IO, BAD_FILE (a wrong or unknown key, an expression
 * that is none), NO_MEMORY. */
cox_status cox_rules_load(cox_rules **rules, const char *path);
/* The same from JSON; where: names it in messages. */
cox_status cox_rules_from_json(cox_rules **rules, const json_t *json, const char *where);
void cox_rules_free(cox_rules *rules); /* NULL is allowed */

/* Labels in the order of the file, each name once; they live as long as the rules. */
int32_t cox_rules_n_labels(const cox_rules *rules);
const char *cox_rules_label(const cox_rules *rules, int32_t label);
/* The label that a study is about: the file's "behaviour", else "refused", else the first; -1: no labels. */
int32_t cox_rules_behaviour(const cox_rules *rules);
/* Texts whose first tokens are the set of cox_log_odds. [out] *n; 0 when the file has none. */
const char *const *cox_rules_first_tokens(const cox_rules *rules, size_t *n);

/* The value of a field of the prompt's line ("kind", "item"), or NULL. */
typedef const char *cox_field_function(void *context, const char *name);

typedef enum cox_verdict { COX_VERDICT_NOT_ASKED = -1, COX_VERDICT_NO, COX_VERDICT_YES } cox_verdict;

/*
 * text: UTF-8, NUL-terminated. [out] verdicts: [n_labels]; NOT_ASKED where no entry of the label applies to
 * the prompt. Errors: INVALID (text that is not UTF-8, an expression that takes too long on it), NO_MEMORY.
 */
cox_status cox_rules_judge(const cox_rules *rules, const char *text, cox_field_function *field, void *context,
                           cox_verdict *verdicts);

/* --- Answers that fell apart --- */

typedef struct cox_text_limits {
    int64_t min_words, max_words; /* 1, INT64_MAX */
    int64_t ngram;                /* words of a repeated piece; 4 */
    double max_repetition;        /* 0.5 */
    bool must_end;                /* finish_reason "length" is a fault; true */
} cox_text_limits;
cox_text_limits cox_text_limits_defaults(void);
cox_text_limits cox_rules_limits(const cox_rules *rules);

/*
 * n_words: pieces between ASCII blanks. repetition: the share of n-grams of words that occurred before in the
 * text, 1 - distinct / all (seq-rep-n of Welleck et al. 1908.04319); 0 when the text has less than ngram
 * words.
 */
typedef struct cox_text_check {
    int64_t n_words;
    double repetition;
    bool is_short, is_long, is_repetitive, is_cut; /* is_cut: did not end, whatever must_end says */
    bool fell_apart;
} cox_text_check;
/* has_ended: the model ended it by itself. Errors: NO_MEMORY. */
cox_status cox_text_check_run(cox_text_check *check, const char *text, bool has_ended,
                              const cox_text_limits *limits);

#endif
