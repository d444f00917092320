/* The distance by its recurrence, over the three last rows of the table. */
#include "base/nearest.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MOST_AWAY = 3 };

static int fold(char letter)
{
    return letter == '_' ? '-' : tolower((unsigned char)letter);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Both at most COX_NEAREST_BYTES long. */
static int distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int rows[3][COX_NEAREST_BYTES + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n_b; j++) last[j] = before[j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int differs = fold(a[i - 1]) != fold(b[j - 1]);
            row[j] = least(least(last[j], row[j - 1]) + 1, last[j - 1] + differs);
            bool is_exchanged =
                i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]);
            if (is_exchanged) row[j] = least(row[j], before[j - 2] + 1);
        }
        int *oldest = before;
        before = last, last = row, row = oldest;
    }
    return last[n_b];
}

cox_nearest cox_nearest_to(const char *wanted, size_t n)
{
    size_t n_letters = n - (n > 2 && memcmp(wanted, "--", 2) == 0 ? 2 : 0);
    int near = n_letters / 3 > MOST_AWAY ? MOST_AWAY : (int)(n_letters / 3);
    return (cox_nearest){.wanted = wanted, .n_wanted = n, .distance = near > 1 ? near + 1 : 2};
}

void cox_nearest_offer(cox_nearest *nearest, const char *word, size_t n)
{
    if (n > COX_NEAREST_BYTES || nearest->n_wanted > COX_NEAREST_BYTES || n == 0) return;
    int away = distance(nearest->wanted, nearest->n_wanted, word, n);
    if (away >= nearest->distance) return;
    nearest->distance = away;
    snprintf(nearest->hint, sizeof nearest->hint, "; did you mean \"%.*s\"?", (int)n, word);
}

void cox_nearest_offer_all(cox_nearest *nearest, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) cox_nearest_offer(nearest, words[i], strlen(words[i]));
}

void cox_nearest_offer_words(cox_nearest *nearest, const char *words, const char *separators)
{
    while (*words) {
        size_t n = strcspn(words, separators);
        cox_nearest_offer(nearest, words, n);
        words += n + strspn(words + n, separators);
    }
}
