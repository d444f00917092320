/*
 * "did you mean": of the words that are known the one that a mistyped word most likely meant. Whoever refuses
 * a word offers the known ones and puts the hint behind its message.
 */
#ifndef COX_BASE_NEAREST_H
#define COX_BASE_NEAREST_H

#include <stddef.h>

enum { COX_NEAREST_BYTES = 64 };

typedef struct cox_nearest {
    const char *wanted; /* borrowed */
    size_t n_wanted;
    int distance;                      /* of the best so far; beyond what counts as near at the start */
    char hint[COX_NEAREST_BYTES + 32]; /* "" or "; did you mean \"--prompt\"?" */
} cox_nearest;

/* The first n bytes of `wanted`; it must live as long as the rest is used. */
cox_nearest cox_nearest_to(const char *wanted, size_t n);

/* One known word, its first n bytes. Distance: letters to insert, leave out or replace, and neighbours to
 * exchange, one each (optimal string alignment); case does not count, nor whether - or _ joins words. Near is
 * a third of the word's letters, at least one and at most three. Of equals the first one offered stays. */
void cox_nearest_offer(cox_nearest *nearest, const char *word, size_t n);

/* All of a list; of words parted by any of the bytes of `separators`. */
void cox_nearest_offer_all(cox_nearest *nearest, const char *const *words, size_t n);
void cox_nearest_offer_words(cox_nearest *nearest, const char *words, const char *separators);

#endif
