/* Normalisers: Unicode forms by utf8proc, and the small edits that tokenizer.json knows. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_internal.h"

static cox_status unicode_form(utf8proc_option_t options, const char *text, size_t n, cox__buffer *out)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &mapped, options);
    if (length < 0) {
        return cox_fail(COX_INVALID, "cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(length));
    }
    cox_status status = cox__buffer_append(out, (const char *)mapped, (size_t)length);
    free(mapped);
    return status;
}

static bool is_ascii(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] >= 0x80) return false;
    }
    return true;
}

static utf8proc_option_t options_of(cox__normalizer_kind kind)
{
    switch (kind) {
    case COX__NORMALIZE_NFC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case COX__NORMALIZE_NFD: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case COX__NORMALIZE_NFKC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

/* Inert characters stay as they are, and nothing is reordered or composed across them. */
static cox_status normalize_unicode(cox__normalizer_kind kind, const char *text, size_t n, cox__buffer *out)
{
    if (is_ascii(text, n)) return cox__buffer_append(out, text, n); /* all four forms keep ASCII */
    size_t done = 0, length;
    cox_status status = COX_OK;
    for (size_t i = 0; i < n && status == COX_OK; i += length) {
        if (!cox__is_inert(cox__utf8_at(text + i, n - i, &length))) continue;
        if (i > done) status = unicode_form(options_of(kind), text + done, i - done, out);
        if (status == COX_OK) status = cox__buffer_append(out, text + i, length);
        done = i + length;
    }
    return status == COX_OK && done < n ? unicode_form(options_of(kind), text + done, n - done, out) : status;
}

/* Character by character; only U+0130 becomes two (i and a combining dot). */
static cox_status lowercase(const char *text, size_t n, cox__buffer *out)
{
    cox_status status = COX_OK;
    for (size_t i = 0, length; i < n && status == COX_OK; i += length) {
        uint32_t c = cox__utf8_at(text + i, n - i, &length);
        char lower[4];
        size_t n_lower = cox__utf8_write(c == 0x130 ? 'i' : cox__lowercase(c), lower);
        status = cox__buffer_append(out, lower, n_lower);
        if (c == 0x130 && status == COX_OK) status = cox__buffer_append(out, "\xcc\x87", 2);
    }
    return status;
}

static cox_status strip(const cox__normalizer *normalizer, const char *text, size_t n, cox__buffer *out)
{
    size_t begin = 0, length;
    while (normalizer->strip_left && begin < n &&
           cox__is_white_space(cox__utf8_at(text + begin, n - begin, &length))) {
        begin += length;
    }
    while (normalizer->strip_right && n > begin && cox__is_white_space(cox__utf8_before(text, n, &length))) {
        n -= length;
    }
    return cox__buffer_append(out, text + begin, n - begin);
}

static cox_status normalize_once(const cox__normalizer *normalizer, const char *text, size_t n,
                                 cox__scratch *scratch, cox__buffer *out)
{
    switch (normalizer->kind) {
    case COX__NORMALIZE_PREPEND: {
        cox_status status =
            n ? cox__buffer_append(out, normalizer->content, strlen(normalizer->content)) : COX_OK;
        return status == COX_OK ? cox__buffer_append(out, text, n) : status;
    }
    case COX__NORMALIZE_REPLACE:
        return cox__pattern_replace(normalizer->pattern, text, n, normalizer->content, &scratch->ranges, out);
    case COX__NORMALIZE_LOWERCASE: return lowercase(text, n, out);
    case COX__NORMALIZE_STRIP: return strip(normalizer, text, n, out);
    case COX__NORMALIZE_BYTE_LEVEL: return cox__append_byte_level(out, text, n);
    default: return normalize_unicode(normalizer->kind, text, n, out);
    }
}

cox_status cox__normalize(const cox__normalizer *normalizers, size_t n_normalizers, const char *text,
                          size_t n, cox__scratch *scratch, const char **result, size_t *n_result)
{
    for (size_t i = 0; i < n_normalizers; i++) {
        cox__buffer *out = &scratch->text[i % 2];
        out->n = 0;
        cox_status status = normalize_once(&normalizers[i], text, n, scratch, out);
        if (status != COX_OK) return status;
        text = out->bytes ? out->bytes : "";
        n = out->n;
    }
    *result = text;
    *n_result = n;
    return COX_OK;
}
