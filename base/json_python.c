/*
 * What Python's json reads and jansson does not, rewritten in place and in its own length, so that lines and
 * columns in messages stay those of the file: numbers beyond 64 bits or beyond doubles, NaN and Infinity,
 * halves of surrogate pairs. What was rewritten can be told from what a file may say, so that a getter
 * refuses it by its key and nobody is stopped by a key that is not read. json.h says what becomes of each.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_internal.h"

/* "9e00...0307" after the sign, in n bytes; the shortest number that overflows ("2e308") has five. */
static void write_infinite(char *at, size_t n)
{
    memset(at, '0', n);
    memcpy(at, "9e", 2);
    memcpy(at + n - 3, "307", 3);
}

/* A whole number of 19 to 308 digits as "d.ddd...e<n-1>", in as many bytes: 14 or more digits stay. */
static void write_as_real(char *at, size_t n)
{
    const size_t exponent = n - 1, n_exponent = exponent < 100 ? 2 : 3;
    memmove(at + 2, at + 1, n - 3 - n_exponent);
    at[1] = '.';
    char *digit = at + n;
    for (size_t rest = exponent; digit > at + n - n_exponent; rest /= 10) *--digit = (char)('0' + rest % 10);
    *--digit = 'e';
}

static bool is_in(char c, const char *set)
{
    return c && strchr(set, c);
}

/* The number at `at`; numbers that are none are left for jansson to refuse. Returns what follows it. */
static char *tame_number(char *at)
{
    char *digits = at + (*at == '-');
    size_t n = strspn(digits, "0123456789");
    if (n && digits[0] == '0' && n > 1) return digits + n;
    if (n && !is_in(digits[n], ".eE")) {
        errno = 0;
        (void)strtoll(at, NULL, 10);
        if (errno == ERANGE && n > 308)
            write_infinite(digits, n);
        else if (errno == ERANGE)
            write_as_real(digits, n);
        return digits + n;
    }
    n = strspn(digits, "0123456789.eE+-");
    char *end = NULL;
    const char *point = memchr(digits, '.', n); /* strtod takes "1." and ".5", JSON does not */
    const bool is_number = n >= 5 && digits[0] != '.' && (!point || is_in(point[1], "0123456789"));
    if (is_number && isinf(strtod(digits, &end)) && end == digits + n) write_infinite(digits, n);
    return n ? digits + n : at + 1;
}

/* Whether `word` begins here and ends before anything that could be part of a word or a number. */
static bool is_word(const char *text, const char *at, const char *word)
{
    const size_t n = strlen(word);
    if (strncmp(at, word, n) != 0) return false;
    const bool is_cut = at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '.');
    return !is_cut && !isalnum((unsigned char)at[n]) && at[n] != '.';
}

/* NaN becomes a text that is nobody's: a key that wants a number, a word or a list refuses it. */
static char *tame_word(const char *text, char *at)
{
    if (is_word(text, at, "NaN")) {
        memcpy(at, "\"\x7f\"", 3);
        return at + 3;
    }
    if (!is_word(text, at, "Infinity")) return at + 1;
    write_infinite(at, 8);
    return at + 8;
}

/* The code unit of "\uXXXX", or -1. */
static int unit_at(const char *at)
{
    if (at[0] != '\\' || at[1] != 'u') return -1;
    char hex[5] = {0};
    for (int i = 0; i < 4; i++) {
        if (!is_in(at[2 + i], "0123456789abcdefABCDEF")) return -1;
        hex[i] = at[2 + i];
    }
    return (int)strtol(hex, NULL, 16);
}

/* From behind the opening quote to behind the closing one (or the end of the text). */
static char *tame_string(char *at)
{
    while (*at && *at != '"') {
        if (*at != '\\') {
            at++;
            continue;
        }
        const int unit = unit_at(at);
        if (unit >= 0xd800 && unit <= 0xdbff) {
            const int next = unit_at(at + 6);
            if (next >= 0xdc00 && next <= 0xdfff)
                at += 6;
            else
                memcpy(at, "\\u0000", 6);
        } else if (unit >= 0xdc00 && unit <= 0xdfff) {
            memcpy(at, "\\u0000", 6);
        }
        at += unit >= 0 ? 6 : at[1] ? 2 : 1;
    }
    return *at ? at + 1 : at;
}

void cox__json_tame(char *text)
{
    for (char *at = text; *at;) {
        if (*at == '"')
            at = tame_string(at + 1);
        else if (is_in(*at, "0123456789") || *at == '-')
            at = tame_number(at);
        else if (is_in(*at, "NI"))
            at = tame_word(text, at);
        else
            at++;
    }
}
