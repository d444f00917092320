/*
 * UTF-8 and the character classes that the reference's components name. The classes come from utf8proc's
 * categories; the reference's libraries carry Unicode tables of several ages, so the differences stand in
 * tokenizer_unicode_tables.h, which a script finds by asking the reference about every code point.
 */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_internal.h"
#include "model/tokenizer_unicode_tables.h"

/* Whether c is in one of n ranges (ascending; rows of `width` numbers, the first two are the bounds). */
static const uint32_t *find_range(const uint32_t *rows, size_t n, size_t width, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const uint32_t *row = rows + middle * width;
        if (c < row[0])
            high = middle;
        else if (c > row[1])
            low = middle + 1;
        else
            return row;
    }
    return NULL;
}
#define FIND(table, c) \
    find_range(&(table)[0][0], sizeof(table) / sizeof(table)[0], sizeof(table)[0] / sizeof(uint32_t), c)

uint32_t cox__utf8_at(const char *text, size_t n, size_t *length)
{
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80 || n < 2) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xe0 || n < 3) {
        *length = 2;
        return (uint32_t)(b[0] & 0x1f) << 6 | (b[1] & 0x3f);
    }
    if (b[0] < 0xf0 || n < 4) {
        *length = 3;
        return (uint32_t)(b[0] & 0x0f) << 12 | (uint32_t)(b[1] & 0x3f) << 6 | (b[2] & 0x3f);
    }
    *length = 4;
    return (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3f) << 12 | (uint32_t)(b[2] & 0x3f) << 6 |
           (b[3] & 0x3f);
}

uint32_t cox__utf8_before(const char *text, size_t n, size_t *length)
{
    size_t start = n - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80) start--;
    return cox__utf8_at(text + start, n - start, length);
}

size_t cox__utf8_write(uint32_t code_point, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code_point, (utf8proc_uint8_t *)out);
}

size_t cox__utf8_valid_prefix(const char *text, size_t n)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    size_t i = 0;
    while (i < n) {
        if (bytes[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t code_point;
        utf8proc_ssize_t length = utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(n - i), &code_point);
        if (length <= 0) return i;
        i += (size_t)length;
    }
    return n;
}

bool cox__is_white_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool cox__is_numeric(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO || FIND(newer_numeric, c);
}

static bool is_newer_word(uint32_t c)
{
    const uint32_t *row = FIND(newer_categories, c);
    return row && (row[2] <= COX__ND || row[2] == COX__NL || row[2] == COX__PC);
}

/* Alphabetic (letters, letter numbers, circled letters), marks, decimal digits, connectors, joiners. */
bool cox__is_word(uint32_t c)
{
    if (c == 0x200c || c == 0x200d) return true;
    if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
        (c >= 0x1f170 && c <= 0x1f189)) {
        return true;
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return is_newer_word(c);
    }
}

bool cox__is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c > 0x20 && c < 0x30) || (c > 0x39 && c < 0x41) || (c > 0x5a && c < 0x61) ||
               (c > 0x7a && c < 0x7f);
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return !FIND(not_punctuation, c);
    default: return FIND(extra_punctuation, c) != NULL;
    }
}

uint32_t cox__lowercase(uint32_t c)
{
    for (size_t i = 0; i < sizeof newer_lowercase / sizeof newer_lowercase[0] && newer_lowercase[i][0] <= c;
         i++) {
        if (newer_lowercase[i][0] == c) return newer_lowercase[i][1];
    }
    return c == 0x130 ? c : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool cox__is_inert(uint32_t c)
{
    return c >= inert_in_normalisation[0][0] && FIND(inert_in_normalisation, c);
}

static cox_status append_range(cox__buffer *out, uint32_t first, uint32_t last)
{
    char text[32];
    int n = snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", (unsigned)first, (unsigned)last);
    return cox__buffer_append(out, text, (size_t)n);
}

cox_status cox__append_newer(cox__buffer *out, const char *property, size_t n)
{
    cox_status status = COX_OK;
    if (n == 3 && memcmp(property, "Han", 3) == 0) {
        for (size_t i = 0; i < sizeof newer_han / sizeof newer_han[0] && status == COX_OK; i++) {
            status = append_range(out, newer_han[i][0], newer_han[i][1]);
        }
    }
    if (n > 2) return status;
    for (size_t i = 0; i < sizeof newer_categories / sizeof newer_categories[0] && status == COX_OK; i++) {
        const char *name = cox__category_names[newer_categories[i][2]];
        if (memcmp(name, property, n) == 0)
            status = append_range(out, newer_categories[i][0], newer_categories[i][1]);
    }
    return status;
}

/*
 * Bytes that print (0x21 to 0x7e, 0xa1 to 0xac, 0xae to 0xff) stand for themselves; the other 68 follow
 * from 0x100 on in their own order.
 */
static bool byte_prints(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

static uint32_t byte_to_char(uint8_t byte)
{
    if (byte_prints(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;         /* 0x00..0x20 -> 0x100..0x120 */
    if (byte <= 0xa0) return 0x121u + byte - 0x7fu; /* 0x7f..0xa0 -> 0x121..0x142 */
    return 0x143;                                   /* 0xad */
}

int cox__char_to_byte(uint32_t c)
{
    if (c < 0x100) return byte_prints(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

cox_status cox__append_byte_level(cox__buffer *out, const char *bytes, size_t n)
{
    char *with_room = cox__grown(out->bytes, &out->capacity, out->n + 2 * n, 1);
    if (!with_room) return COX_NO_MEMORY;
    out->bytes = with_room;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = byte_to_char((uint8_t)bytes[i]);
        if (c < 0x80) {
            out->bytes[out->n++] = (char)c;
        } else {
            out->bytes[out->n++] = (char)(0xc0 | c >> 6);
            out->bytes[out->n++] = (char)(0x80 | (c & 0x3f));
        }
    }
    return COX_OK;
}
