/* Stop strings: nothing of them is shown, and the way the text is cut into pieces does not matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/stop.h"

/* Feeds `text` in pieces of piece_bytes; [out] shown [256] is all that came out. Returns whether it stopped.
 */
static bool feed(char *const *stops, size_t n_stops, const char *text, size_t piece_bytes, char *shown)
{
    cox_stop *stop = NULL;
    assert_int_equal(cox_stop_create(&stop, stops, n_stops), COX_OK);
    bool has_stopped = false;
    size_t n = 0, length = strlen(text), n_piece = 0;
    const char *piece = NULL;
    for (size_t i = 0; i < length; i += piece_bytes) {
        size_t take = length - i < piece_bytes ? length - i : piece_bytes;
        assert_int_equal(cox_stop_put(stop, text + i, take, &piece, &n_piece, &has_stopped), COX_OK);
        memcpy(shown + n, piece, n_piece);
        n += n_piece;
        /* What is shown so far holds no stop string, whole or begun and later completed. */
        shown[n] = '\0';
        for (size_t s = 0; s < n_stops; s++) assert_null(strstr(shown, stops[s]));
    }
    cox_stop_flush(stop, &piece, &n_piece);
    memcpy(shown + n, piece, n_piece);
    shown[n + n_piece] = '\0';
    cox_stop_destroy(stop);
    return has_stopped;
}

static void test_texts_end_before_the_stop_string(void **state)
{
    (void)state;
    char end[] = "END", newlines[] = "\n\n", ab[] = "ab", abcd[] = "abcd", bc[] = "bc", aab[] = "aab";
    const struct {
        char *stops[2];
        size_t n_stops;
        const char *text, *shown;
        bool stops_there;
    } cases[] = {
        {{end}, 1, "one END two", "one ", true},
        {{end}, 1, "one EN two E", "one EN two E", false},
        {{end}, 1, "EENEND", "EEN", true},
        {{end}, 1, "END", "", true},
        {{end, newlines}, 2, "a\nb\n\nEND", "a\nb", true},
        {{abcd, bc}, 2, "xabcd", "xa", true}, /* bc is complete first */
        {{bc, abcd}, 2, "xabcd", "xa", true},
        {{ab, aab}, 2, "aaab", "a", true}, /* both complete with the same byte: the longer one */
        {{aab}, 1, "aaaab", "aa", true},
        {{NULL}, 0, "anything", "anything", false},
        {{end}, 1, "", "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t piece_bytes = 1; piece_bytes < 14; piece_bytes++) {
            char shown[256] = "";
            bool stopped = feed(cases[i].stops, cases[i].n_stops, cases[i].text, piece_bytes, shown);
            assert_string_equal(shown, cases[i].shown);
            assert_int_equal(stopped, cases[i].stops_there);
        }
    }
}

/* Against the definition, on random texts over three letters. */
static void test_random_texts(void **state)
{
    (void)state;
    uint32_t seed = 12345;
    for (int round = 0; round < 3000; round++) {
        char text[32], stops_text[2][5], *stops[2] = {stops_text[0], stops_text[1]}, shown[256] = "";
        size_t lengths[3];
        for (int i = 0; i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            lengths[i] = i == 0 ? (seed >> 20) % 30 : 1 + (seed >> 20) % 4;
            char *target = i == 0 ? text : stops_text[i - 1];
            for (size_t k = 0; k < lengths[i]; k++) {
                seed = seed * 1664525u + 1013904223u;
                target[k] = (char)('a' + (seed >> 24) % 3);
            }
            target[lengths[i]] = '\0';
        }
        size_t n = lengths[0], cut = n; /* the earliest end, then the longest */
        for (size_t end = 1; end <= n && cut == n; end++) {
            size_t longest = 0;
            for (int s = 0; s < 2; s++) {
                size_t m = lengths[s + 1];
                if (m <= end && m > longest && memcmp(text + end - m, stops[s], m) == 0) longest = m;
            }
            if (longest > 0) cut = end - longest;
        }
        bool has_stop = strstr(text, stops[0]) || strstr(text, stops[1]);
        for (size_t piece_bytes = 1; piece_bytes < 8; piece_bytes += 2) {
            assert_int_equal(feed(stops, 2, text, piece_bytes, shown), has_stop);
            text[n] = '\0';
            assert_int_equal(strlen(shown), cut);
            assert_memory_equal(shown, text, cut);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_end_before_the_stop_string),
        cmocka_unit_test(test_random_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
