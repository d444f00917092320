/* Has an answer fallen apart? Words and n-grams of words are counted; what they mean is not asked. */
#include <stdlib.h>
#include <string.h>

#include "study/rules.h"

static const char blanks[] = " \t\n\v\f\r";

typedef struct word {
    const char *text;
    size_t n;
} word;

cox_text_limits cox_text_limits_defaults(void)
{
    return (cox_text_limits){
        .min_words = 1, .max_words = INT64_MAX, .ngram = 4, .max_repetition = 0.5, .must_end = true};
}

/* [out] *words: malloc'ed, borrows the text. */
static cox_status split(const char *text, word **words, size_t *n)
{
    word *list = malloc((strlen(text) / 2 + 1) * sizeof *list);
    if (!list) return cox_no_memory("an answer's words");
    *n = 0;
    for (const char *at = text + strspn(text, blanks); *at; at += strspn(at, blanks)) {
        list[*n] = (word){at, strcspn(at, blanks)};
        at += list[(*n)++].n;
    }
    *words = list;
    return COX_OK;
}

static int compare_words(const word *a, const word *b)
{
    int order = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* n-grams are places in the list of words; ngram_words is their length during a sort. */
static _Thread_local int64_t ngram_words;

static int compare_ngrams(const void *a, const void *b)
{
    const word *x = *(word *const *)a, *y = *(word *const *)b;
    int order = 0;
    for (int64_t i = 0; i < ngram_words && order == 0; i++) order = compare_words(x + i, y + i);
    return order;
}

static cox_status measure_repetition(word *words, size_t n_words, int64_t ngram, double *repetition)
{
    *repetition = 0;
    if (n_words < (size_t)ngram) return COX_OK;
    size_t n = n_words - (size_t)ngram + 1, n_distinct = 1;
    word **grams = malloc(n * sizeof(word *));
    if (!grams) return cox_no_memory("an answer's n-grams");
    for (size_t i = 0; i < n; i++) grams[i] = words + i;
    ngram_words = ngram;
    qsort(grams, n, sizeof *grams, compare_ngrams);
    for (size_t i = 1; i < n; i++) n_distinct += compare_ngrams(&grams[i - 1], &grams[i]) != 0;
    free(grams);
    *repetition = 1 - (double)n_distinct / (double)n;
    return COX_OK;
}

cox_status cox_text_check_run(cox_text_check *check, const char *text, bool has_ended,
                              const cox_text_limits *limits)
{
    word *words = NULL;
    size_t n = 0;
    double repetition = 0;
    cox_status status = split(text, &words, &n);
    if (status == COX_OK) status = measure_repetition(words, n, limits->ngram, &repetition);
    free(words);
    if (status != COX_OK) return status;
    *check =
        (cox_text_check){.n_words = (int64_t)n,
                         .repetition = repetition,
                         .is_short = (int64_t)n<limits->min_words, .is_long = (int64_t)n> limits->max_words,
                         .is_repetitive = repetition > limits->max_repetition,
                         .is_cut = !has_ended};
    check->fell_apart =
        check->is_short || check->is_long || check->is_repetitive || (check->is_cut && limits->must_end);
    return COX_OK;
}
