/* Byte by byte: few, short strings, so comparing tails is enough. */
#include "coordinator/stop.h"

#include <stdlib.h>
#include <string.h>

struct cox_stop {
    char **stops; /* [n_stops] */
    size_t *lengths;
    size_t n_stops, longest;
    char *text; /* [n_text]: shown by the last call up to n_shown, then held back */
    size_t n_text, n_shown, capacity;
    bool has_stopped;
};

cox_status cox_stop_create(cox_stop **stop, char *const *stops, size_t n_stops)
{
    cox_stop *s = calloc(1, sizeof *s);
    if (!s) return cox_no_memory("stop strings");
    s->stops = calloc(n_stops + 1, sizeof *s->stops);
    s->lengths = calloc(n_stops + 1, sizeof *s->lengths);
    bool is_complete = s->stops && s->lengths;
    for (size_t i = 0; i < n_stops && is_complete; i++) {
        s->stops[i] = strdup(stops[i]);
        is_complete = s->stops[i] != NULL;
        if (!is_complete) break;
        s->n_stops++;
        s->lengths[i] = strlen(stops[i]);
        if (s->lengths[i] > s->longest) s->longest = s->lengths[i];
    }
    if (!is_complete) {
        cox_stop_destroy(s);
        return cox_no_memory("stop strings");
    }
    *stop = s;
    return COX_OK;
}

void cox_stop_destroy(cox_stop *stop)
{
    if (!stop) return;
    for (size_t i = 0; i < stop->n_stops; i++) free(stop->stops[i]);
    free(stop->stops);
    free(stop->lengths);
    free(stop->text);
    free(stop);
}

/* Length of the longest stop string that text [n] ends with; 0: none. */
static size_t complete_at_end(const cox_stop *stop, const char *text, size_t n)
{
    size_t best = 0;
    for (size_t i = 0; i < stop->n_stops; i++) {
        size_t length = stop->lengths[i];
        if (length <= n && length > best && memcmp(text + n - length, stop->stops[i], length) == 0)
            best = length;
    }
    return best;
}

/* How many bytes at the end of text [n] begin a stop string. */
static size_t begun_at_end(const cox_stop *stop, const char *text, size_t n)
{
    size_t best = 0;
    for (size_t i = 0; i < stop->n_stops; i++) {
        size_t most = stop->lengths[i] - 1 < n ? stop->lengths[i] - 1 : n;
        for (size_t length = most; length > best; length--) {
            if (memcmp(text + n - length, stop->stops[i], length) == 0) best = length;
        }
    }
    return best;
}

cox_status cox_stop_put(cox_stop *stop, const char *piece, size_t n, const char **shown, size_t *n_shown,
                        bool *has_stopped)
{
    size_t n_held = stop->n_text - stop->n_shown;
    memmove(stop->text ? stop->text : (char *)"", stop->text ? stop->text + stop->n_shown : "", n_held);
    stop->n_text = n_held;
    stop->n_shown = 0;
    if (stop->has_stopped) n = 0;
    if (n_held + n > stop->capacity || !stop->text) {
        size_t capacity = 2 * (n_held + n) + 64;
        char *larger = realloc(stop->text, capacity);
        if (!larger) return cox_no_memory("stop strings");
        stop->text = larger;
        stop->capacity = capacity;
    }
    for (size_t i = 0; i < n; i++) {
        stop->text[stop->n_text++] = piece[i];
        size_t length = complete_at_end(stop, stop->text, stop->n_text);
        if (length == 0) continue;
        stop->n_text -= length;
        stop->has_stopped = true;
        break;
    }
    size_t held = stop->has_stopped ? 0 : begun_at_end(stop, stop->text, stop->n_text);
    stop->n_shown = stop->n_text - held;
    *shown = stop->text;
    *n_shown = stop->n_shown;
    *has_stopped = stop->has_stopped;
    return COX_OK;
}

void cox_stop_flush(cox_stop *stop, const char **shown, size_t *n_shown)
{
    *shown = stop->text ? stop->text + stop->n_shown : "";
    *n_shown = stop->n_text - stop->n_shown;
    stop->n_shown = stop->n_text;
}
