/*
 * Patterns. tokenizer.json's regexes are written for Oniguruma (Ruby's dialect); PCRE2 runs them. Where
 * the two read the same text differently, the pattern is rewritten first, so that a match means the same:
 * \s \d \w \h \v and \b, the braces of {n,m}+ and {,m}, the meaning of (?m). What is in neither's common
 * ground (nested classes, && in classes, POSIX brackets, options in the middle of an alternative) is
 * refused by name rather than guessed.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_internal.h"

struct cox__pattern {
    cox__pattern *next;
    const char *literal; /* NULL: a regex */
    size_t n_literal;
    pcre2_code *code;
};

/* ---- from Oniguruma's dialect to PCRE2's ------------------------------------------------------ */

/* The insides of character classes. */
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"
#define NOT_SPACE                                                                                   \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}" \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Alphabetic, marks, decimal digits, connectors; newer ones are appended. Outside of a class Oniguruma also
 * counts the superscripts and fractions of Latin-1. */
#define LATIN1_WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define WORD                                                                                         \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}" \
    "\\x{1f170}-\\x{1f189}"
#define HEX     "0-9A-Fa-f"
#define NOT_HEX "\\x{0}-\\x{2f}\\x{3a}-\\x{40}\\x{47}-\\x{60}\\x{67}-\\x{10ffff}"

typedef struct translation {
    const char *in, *where;
    size_t n, i;
    cox__buffer out;
    size_t atom;      /* where in `out` the last atom starts */
    size_t group[64]; /* where the open groups start */
    size_t n_groups;
    bool is_group_start; /* nothing has been read since the group (or the pattern) began */
} translation;

static cox_status refuse(const translation *t, const char *what)
{
    return cox_fail(COX_UNSUPPORTED, "%s: regex \"%s\": %s (at byte %zu) is not supported", t->where, t->in,
                    what, t->i);
}

static cox_status emit(translation *t, const char *text)
{
    return cox__buffer_append(&t->out, text, strlen(text));
}

static cox_status copy(translation *t, size_t n)
{
    cox_status status = cox__buffer_append(&t->out, t->in + t->i, n);
    t->i += n;
    return status;
}

/*
 * \p{Name}, \P{Name}, \p{^Name}: PCRE2 knows categories and scripts by the same names; what its tables do not
 * know yet is added. (In a class, a negated property stays as PCRE2 has it.)
 */
static cox_status translate_property(translation *t, bool in_class)
{
    const char *name = t->in + t->i + 3, *close = strchr(t->in + t->i, '}');
    if (t->in[t->i + 2] != '{' || !close) return refuse(t, "\\p without a name in braces");
    bool is_negated = (t->in[t->i + 1] == 'P') != (*name == '^');
    if (*name == '^') name++;
    size_t n = (size_t)(close - name);
    cox_status status = in_class ? COX_OK : emit(t, is_negated ? "[^" : "[");
    if (status == COX_OK) status = emit(t, in_class && is_negated ? "\\P{" : "\\p{");
    if (status == COX_OK) status = cox__buffer_append(&t->out, name, n + 1);
    if (status == COX_OK && !(in_class && is_negated)) status = cox__append_newer(&t->out, name, n);
    t->i += (size_t)(close + 1 - (t->in + t->i));
    return status == COX_OK && !in_class ? emit(t, "]") : status;
}

/* Word characters as the inside of a class. */
static cox_status emit_word(translation *t, bool in_class)
{
    static const char *const newer[] = {"L", "M", "Nd", "Nl", "Pc"};
    cox_status status = emit(t, in_class ? WORD : WORD LATIN1_WORD);
    for (size_t k = 0; k < sizeof newer / sizeof newer[0] && status == COX_OK; k++) {
        status = cox__append_newer(&t->out, newer[k], strlen(newer[k]));
    }
    return status;
}

/* Emits `pattern` with word characters for each "W" in it. */
static cox_status emit_with_words(translation *t, const char *pattern)
{
    cox_status status = COX_OK;
    t->i += 2;
    for (; *pattern && status == COX_OK; pattern++) {
        status = *pattern == 'W' ? emit_word(t, false) : cox__buffer_append(&t->out, pattern, 1);
    }
    return status;
}

static const char *simple_escape(char c)
{
    switch (c) {
    case 'n': return "\\n";
    case 'r': return "\\r";
    case 't': return "\\t";
    case 'f': return "\\f";
    case 'a': return "\\a";
    case 'e': return "\\e";
    case 'v': return "\\x{b}";
    default: return NULL;
    }
}

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* \xHH (below 0x80: Oniguruma means bytes), \x{H...}, \uHHHH */
static cox_status translate_code_point(translation *t)
{
    const char *p = t->in + t->i + 2;
    if (t->in[t->i + 1] == 'x' && *p == '{') {
        const char *close = strchr(p, '}');
        return close ? copy(t, (size_t)(close + 1 - (t->in + t->i))) : refuse(t, "an open \\x{");
    }
    size_t n_digits = t->in[t->i + 1] == 'x' ? 2 : 4;
    for (size_t k = 0; k < n_digits; k++) {
        if (hex_value(p[k]) < 0) return refuse(t, "a code point that is not hexadecimal");
    }
    if (n_digits == 2 && hex_value(p[0]) >= 8) return refuse(t, "\\x of a byte above 7F");
    cox_status status = emit(t, "\\x{");
    t->i += 2;
    if (status == COX_OK) status = copy(t, n_digits);
    return status == COX_OK ? emit(t, "}") : status;
}

static cox_status emit_and_skip(translation *t, const char *text)
{
    t->i += 2;
    return emit(t, text);
}

static cox_status emit_digits(translation *t, const char *before, const char *after)
{
    t->i += 2;
    cox_status status = emit(t, before);
    if (status == COX_OK) status = emit(t, "\\p{Nd}");
    if (status == COX_OK) status = cox__append_newer(&t->out, "Nd", 2);
    return status == COX_OK ? emit(t, after) : status;
}

static cox_status translate_escape_in_class(translation *t)
{
    char c = t->in[t->i + 1];
    switch (c) {
    case '\0': return refuse(t, "a backslash at the end");
    case 's': return emit_and_skip(t, SPACE);
    case 'S': return emit_and_skip(t, NOT_SPACE);
    case 'd': return emit_digits(t, "", "");
    case 'D': return emit_and_skip(t, "\\P{Nd}");
    case 'w': t->i += 2; return emit_word(t, true);
    case 'h': return emit_and_skip(t, HEX);
    case 'H': return emit_and_skip(t, NOT_HEX);
    case 'b': return emit_and_skip(t, "\\x{8}");
    case 'p':
    case 'P': return translate_property(t, true);
    case 'x':
    case 'u': return translate_code_point(t);
    default: break;
    }
    if (simple_escape(c)) return emit_and_skip(t, simple_escape(c));
    if (is_alphanumeric(c)) return refuse(t, "this escape in a character class");
    return copy(t, 2);
}

static cox_status translate_class(translation *t)
{
    cox_status status = copy(t, 1);
    if (status == COX_OK && t->in[t->i] == '^') status = copy(t, 1);
    if (status == COX_OK && t->in[t->i] == ']') status = copy(t, 1);
    while (status == COX_OK && t->i < t->n && t->in[t->i] != ']') {
        char c = t->in[t->i];
        if (c == '[') return refuse(t, "a class within a class");
        if (c == '&' && t->in[t->i + 1] == '&') return refuse(t, "&& in a character class");
        status = c == '\\' ? translate_escape_in_class(t) : copy(t, 1);
    }
    if (status != COX_OK) return status;
    return t->i < t->n ? copy(t, 1) : refuse(t, "a character class that is not closed");
}

static cox_status translate_escape(translation *t)
{
    char c = t->in[t->i + 1];
    switch (c) {
    case '\0': return refuse(t, "a backslash at the end");
    case 's': return emit_and_skip(t, "[" SPACE "]");
    case 'S': return emit_and_skip(t, "[^" SPACE "]");
    case 'd': return emit_digits(t, "[", "]");
    case 'D': return emit_digits(t, "[^", "]");
    case 'w': return emit_with_words(t, "[W]");
    case 'W': return emit_with_words(t, "[^W]");
    case 'h': return emit_and_skip(t, "[" HEX "]");
    case 'H': return emit_and_skip(t, "[^" HEX "]");
    case 'b': return emit_with_words(t, "(?:(?<=[W])(?![W])|(?<![W])(?=[W]))");
    case 'B': return emit_with_words(t, "(?:(?<=[W])(?=[W])|(?<![W])(?![W]))");
    case 'A':
    case 'z':
    case 'Z': return copy(t, 2);
    case 'p':
    case 'P': return translate_property(t, false);
    case 'x':
    case 'u': return translate_code_point(t);
    default: break;
    }
    if (simple_escape(c)) return emit_and_skip(t, simple_escape(c));
    if (is_alphanumeric(c)) return refuse(t, "this escape");
    return copy(t, 2);
}

/* "(?imx-imx:" and "(?imx-imx)": m means that the dot matches newlines, PCRE2's s. */
static cox_status translate_options(translation *t)
{
    cox_status status = copy(t, 2);
    for (; status == COX_OK && t->i < t->n;) {
        char c = t->in[t->i];
        if (c == ':') return copy(t, 1);
        if (c == ')')
            return t->is_group_start ? COX_OK : refuse(t, "an option in the middle of an alternative");
        if (c == 'm')
            status = emit_and_skip(t, "s"), t->i--;
        else if (c == 'i' || c == 'x' || c == '-')
            status = copy(t, 1);
        else
            return refuse(t, "this option");
    }
    return status == COX_OK ? refuse(t, "a group that is not closed") : status;
}

static cox_status translate_group_open(translation *t)
{
    if (t->n_groups == sizeof t->group / sizeof t->group[0]) return refuse(t, "a group nested this deep");
    const char *p = t->in + t->i;
    if (p[1] == '*') return refuse(t, "(*");
    t->group[t->n_groups++] = t->out.n;
    cox_status status;
    if (p[1] != '?')
        status = copy(t, 1);
    else if (p[2] == ':' || p[2] == '=' || p[2] == '!' || p[2] == '>')
        status = copy(t, 3);
    else if (p[2] == '<' && (p[3] == '=' || p[3] == '!'))
        status = copy(t, 4);
    else if (p[2] && strchr("imx-", p[2]))
        status = translate_options(t);
    else
        return refuse(t, "this kind of group");
    t->is_group_start = true;
    return status;
}

/* {n}, {n,}, {n,m}, {,m} and what follows; a brace that is none of these is a literal. */
static cox_status translate_brace(translation *t)
{
    const char *p = t->in + t->i + 1;
    size_t n_low = strspn(p, "0123456789");
    bool has_comma = p[n_low] == ',';
    size_t n_high = has_comma ? strspn(p + n_low + 1, "0123456789") : 0;
    size_t length = n_low + (has_comma ? 1 : 0) + n_high;
    if (p[length] != '}' || n_low + n_high == 0) {
        t->i++;
        t->atom = t->out.n;
        return emit(t, "\\{");
    }
    char follows = p[length + 1];
    if (follows == '?' && !has_comma) return refuse(t, "{n}?");
    cox_status status = emit(t, n_low == 0 ? "{0" : "{");
    t->i++;
    if (status == COX_OK) status = copy(t, length + 1);
    if (status != COX_OK || follows != '+') return status;
    /* Not possessive there: the repetition of the repetition. Put "(?:" before the atom. */
    cox__buffer tail = {0};
    status = cox__buffer_append(&tail, t->out.bytes + t->atom, t->out.n - t->atom);
    t->out.n = t->atom;
    if (status == COX_OK) status = emit(t, "(?:");
    if (status == COX_OK) status = cox__buffer_append(&t->out, tail.bytes, tail.n);
    if (status == COX_OK) status = emit(t, ")");
    cox__buffer_free(&tail);
    return status; /* the "+" itself comes next */
}

static cox_status translate_next(translation *t)
{
    char c = t->in[t->i];
    size_t length;
    switch (c) {
    case '(': return translate_group_open(t);
    case ')':
        if (t->n_groups == 0) return refuse(t, "an unmatched )");
        t->atom = t->group[--t->n_groups];
        t->is_group_start = false;
        return copy(t, 1);
    case '*':
    case '+':
    case '?': return copy(t, 1);
    case '{': return translate_brace(t);
    case '|': t->is_group_start = false; return copy(t, 1);
    default:
        t->is_group_start = false;
        t->atom = t->out.n;
        if (c == '[') return translate_class(t);
        if (c == '\\') return translate_escape(t);
        cox__utf8_at(t->in + t->i, t->n - t->i, &length);
        return copy(t, length);
    }
}

static cox_status compile(pcre2_code **code, const char *regex, const char *where)
{
    translation t = {.in = regex, .where = where, .n = strlen(regex), .is_group_start = true};
    cox_status status = COX_OK;
    while (t.i < t.n && status == COX_OK) status = translate_next(&t);
    pcre2_compile_context *context = status == COX_OK ? pcre2_compile_context_create(NULL) : NULL;
    if (status == COX_OK && !context) status = cox_no_memory("a regex");
    if (status == COX_OK) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        int error;
        PCRE2_SIZE offset;
        *code = pcre2_compile((PCRE2_SPTR)(t.out.bytes ? t.out.bytes : ""), t.out.n,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                              &offset, context);
        if (!*code) {
            PCRE2_UCHAR message[128] = "";
            pcre2_get_error_message(error, message, sizeof message);
            status = cox_fail(COX_UNSUPPORTED, "%s: regex \"%s\": %s", where, regex, (const char *)message);
        }
    }
    pcre2_compile_context_free(context);
    cox__buffer_free(&t.out);
    return status;
}

/* ---- patterns ------------------------------------------------------------------------------- */

static cox__pattern *new_pattern(cox_tokenizer *owner)
{
    cox__pattern *p = cox_arena_alloc(owner->arena, sizeof *p);
    if (!p) return NULL;
    p->next = owner->patterns;
    owner->patterns = p;
    return p;
}

cox_status cox__pattern_regex(cox__pattern **pattern, cox_tokenizer *owner, const char *regex,
                              const char *where)
{
    cox__pattern *p = new_pattern(owner);
    if (!p) return COX_NO_MEMORY;
    cox_status status = compile(&p->code, regex, where);
    if (status != COX_OK) return status;
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching interprets */
    *pattern = p;
    return COX_OK;
}

cox_status cox__pattern_literal(cox__pattern **pattern, cox_tokenizer *owner, const char *text,
                                const char *where)
{
    if (!*text) return cox_fail(COX_UNSUPPORTED, "%s: an empty pattern is not supported", where);
    cox__pattern *p = new_pattern(owner);
    char *literal = p ? cox_arena_strdup(owner->arena, text) : NULL;
    if (!literal) return COX_NO_MEMORY;
    p->literal = literal;
    p->n_literal = strlen(text);
    *pattern = p;
    return COX_OK;
}

void cox__patterns_release(cox__pattern *first)
{
    for (cox__pattern *p = first; p; p = p->next) pcre2_code_free(p->code);
}

static cox_status add_match(cox__ranges *ranges, size_t *done, size_t begin, size_t end)
{
    cox_status status = *done < begin ? cox__ranges_add(ranges, *done, begin, false) : COX_OK;
    if (status == COX_OK) status = cox__ranges_add(ranges, begin, end, true);
    *done = end;
    return status;
}

static cox_status cover_literal(const cox__pattern *pattern, const char *text, size_t n, cox__ranges *ranges,
                                size_t *done)
{
    cox_status status = COX_OK;
    const char *hit;
    while (status == COX_OK &&
           (hit = memmem(text + *done, n - *done, pattern->literal, pattern->n_literal))) {
        size_t begin = (size_t)(hit - text);
        status = add_match(ranges, done, begin, begin + pattern->n_literal);
    }
    return status;
}

/* 0 or more: a match; PCRE2_ERROR_NOMATCH; other errors. The JIT's stack is small: without it then. */
static int match_at(const cox__pattern *pattern, const char *text, size_t n, size_t at,
                    pcre2_match_data *data)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int count = pcre2_match(pattern->code, subject, n, at, PCRE2_NO_UTF_CHECK, data, NULL);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
        count = pcre2_match(pattern->code, subject, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, NULL);
    }
    return count;
}

/* All matches from left to right; an empty one right after another match does not count. */
static cox_status cover_regex(const cox__pattern *pattern, const char *text, size_t n, cox__ranges *ranges,
                              size_t *done, pcre2_match_data *data)
{
    const PCRE2_SIZE *match = pcre2_get_ovector_pointer(data);
    size_t at = 0, last_end = SIZE_MAX;
    while (at <= n) {
        int count = match_at(pattern, text, n, at, data);
        if (count == PCRE2_ERROR_NOMATCH) return COX_OK;
        if (count < 0) {
            PCRE2_UCHAR message[128] = "";
            pcre2_get_error_message(count, message, sizeof message);
            return cox_fail(COX_TOO_LONG, "the tokenizer's regex gave up on a text of %zu bytes: %s", n,
                            (const char *)message);
        }
        if (match[0] == match[1] && match[1] == last_end) {
            size_t length = 1;
            if (at < n) cox__utf8_at(text + at, n - at, &length);
            at += length;
            continue;
        }
        cox_status status = add_match(ranges, done, match[0], match[1]);
        if (status != COX_OK) return status;
        at = last_end = match[1];
    }
    return COX_OK;
}

void cox__ranges_free(cox__ranges *ranges)
{
    free(ranges->items);
    pcre2_match_data_free(ranges->match_data);
}

cox_status cox__pattern_cover(const cox__pattern *pattern, const char *text, size_t n, cox__ranges *ranges)
{
    size_t done = 0;
    cox_status status;
    if (pattern->literal) {
        status = cover_literal(pattern, text, n, ranges, &done);
    } else {
        /* One pair of offsets, the match itself, is all that is asked for. */
        if (!ranges->match_data) ranges->match_data = pcre2_match_data_create(1, NULL);
        if (!ranges->match_data) return cox_no_memory("a regex match");
        status = cover_regex(pattern, text, n, ranges, &done, ranges->match_data);
    }
    if (status == COX_OK && done < n) status = cox__ranges_add(ranges, done, n, false);
    return status;
}

cox_status cox__class_cover(cox__char_class is_member, const char *text, size_t n, cox__ranges *ranges)
{
    size_t done = 0;
    cox_status status = COX_OK;
    for (size_t i = 0, length; i < n && status == COX_OK; i += length) {
        if (is_member(cox__utf8_at(text + i, n - i, &length)))
            status = add_match(ranges, &done, i, i + length);
    }
    if (status == COX_OK && done < n) status = cox__ranges_add(ranges, done, n, false);
    return status;
}

cox_status cox__pattern_replace(const cox__pattern *pattern, const char *text, size_t n, const char *by,
                                cox__ranges *ranges, cox__buffer *out)
{
    if (n == 0) return COX_OK;
    ranges->n = 0;
    cox_status status = cox__pattern_cover(pattern, text, n, ranges);
    for (size_t k = 0; k < ranges->n && status == COX_OK; k++) {
        const cox__range *range = &ranges->items[k];
        status = range->is_match ? cox__buffer_append(out, by, strlen(by))
                                 : cox__buffer_append(out, text + range->begin, range->end - range->begin);
    }
    return status;
}
