/* Pre-tokenisers: they cut pieces of text into smaller ones, and some rewrite them on the way. */
#include <string.h>

#include "model/tokenizer_internal.h"

/* Joins each match to its neighbour; previous or next is only a matter of direction. */
static void merge_matches(cox__ranges *ranges, bool to_next)
{
    size_t n = ranges->n, n_out = 0;
    cox__range *items = ranges->items;
    bool previous_was_match = false;
    for (size_t k = 0; k < n; k++) {
        cox__range range = items[to_next ? n - 1 - k : k];
        cox__range *last = n_out == 0 ? NULL : &items[to_next ? n - n_out : n_out - 1];
        if (range.is_match && !previous_was_match && last) {
            if (to_next)
                last->begin = range.begin;
            else
                last->end = range.end;
        } else {
            n_out++;
            items[to_next ? n - n_out : n_out - 1] = (cox__range){range.begin, range.end, false};
        }
        previous_was_match = range.is_match;
    }
    if (to_next) memmove(items, items + (n - n_out), n_out * sizeof *items);
    ranges->n = n_out;
}

static void merge_runs(cox__ranges *ranges)
{
    size_t n_out = 0;
    bool previous_was_match = false;
    for (size_t k = 0; k < ranges->n; k++) {
        cox__range range = ranges->items[k];
        if (range.is_match == previous_was_match && n_out > 0) {
            ranges->items[n_out - 1].end = range.end;
        } else {
            ranges->items[n_out++] = (cox__range){range.begin, range.end, false};
        }
        previous_was_match = range.is_match;
    }
    ranges->n = n_out;
}

/* Turns matches into what is kept; what stays marked is removed. */
static void apply_behavior(cox__ranges *ranges, cox__behavior behavior)
{
    switch (behavior) {
    case COX__REMOVED: break;
    case COX__ISOLATED:
        for (size_t k = 0; k < ranges->n; k++) ranges->items[k].is_match = false;
        break;
    case COX__CONTIGUOUS: merge_runs(ranges); break;
    case COX__MERGED_WITH_PREVIOUS:
    case COX__MERGED_WITH_NEXT: merge_matches(ranges, behavior == COX__MERGED_WITH_NEXT); break;
    }
}

static cox_status emit_ranges(const cox__ranges *ranges, const char *text, bool is_at_start, cox__pieces *out)
{
    for (size_t k = 0; k < ranges->n; k++) {
        const cox__range *range = &ranges->items[k];
        if (range->is_match) continue;
        cox_status status = cox__pieces_add(out, text + range->begin, range->end - range->begin,
                                            is_at_start && range->begin == 0);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status split_pattern(const cox__splitter *splitter, const char *text, size_t n, bool is_at_start,
                                cox__scratch *scratch, cox__pieces *out)
{
    cox__ranges *ranges = &scratch->ranges;
    ranges->n = 0;
    cox_status status = splitter->pattern ? cox__pattern_cover(splitter->pattern, text, n, ranges)
                                          : cox__class_cover(splitter->is_member, text, n, ranges);
    if (status != COX_OK) return status;
    for (size_t k = 0; k < ranges->n && splitter->is_inverted; k++) {
        ranges->items[k].is_match = !ranges->items[k].is_match;
    }
    apply_behavior(ranges, splitter->behavior);
    return emit_ranges(ranges, text, is_at_start, out);
}

static cox_status split_words(const char *text, size_t n, bool is_at_start, cox__pieces *out)
{
    size_t length;
    for (size_t begin = 0, end; begin < n; begin = end) {
        uint32_t c = cox__utf8_at(text + begin, n - begin, &length);
        bool is_word = cox__is_word(c), is_space = !is_word && cox__is_white_space(c);
        end = begin + length;
        for (; end < n; end += length) {
            c = cox__utf8_at(text + end, n - end, &length);
            if (cox__is_word(c) != is_word || (!is_word && cox__is_white_space(c) != is_space)) break;
        }
        if (is_space) continue;
        cox_status status = cox__pieces_add(out, text + begin, end - begin, is_at_start && begin == 0);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status split_metaspace(const cox__splitter *splitter, const char *text, size_t n, bool is_at_start,
                                  cox__scratch *scratch, cox__pieces *out)
{
    cox__buffer *replaced = &scratch->text[0];
    replaced->n = 0;
    const char *mark = splitter->replacement;
    size_t n_mark = strlen(mark);
    bool starts_with_mark = n > 0 && (text[0] == ' ' || (n >= n_mark && memcmp(text, mark, n_mark) == 0));
    bool is_wanted = splitter->prepend_scheme == COX__PREPEND_ALWAYS ||
                     (splitter->prepend_scheme == COX__PREPEND_FIRST && is_at_start);
    cox_status status = COX_OK;
    if (is_wanted && !starts_with_mark) status = cox__buffer_append(replaced, mark, n_mark);
    for (size_t i = 0; i < n && status == COX_OK; i++) {
        status = text[i] == ' ' ? cox__buffer_append(replaced, mark, n_mark)
                                : cox__buffer_append(replaced, text + i, 1);
    }
    if (status != COX_OK) return status;
    if (!splitter->has_split) return cox__pieces_add(out, replaced->bytes, replaced->n, is_at_start);
    return split_pattern(splitter, replaced->bytes, replaced->n, is_at_start, scratch, out);
}

/* The piece, with its prefix space, cut by the pattern into out; rewrite_bytes then maps the bytes. */
static cox_status split_byte_level(const cox__splitter *splitter, const char *text, size_t n,
                                   bool is_at_start, cox__scratch *scratch, cox__pieces *out)
{
    cox__buffer *prefixed = &scratch->text[0], *mapped = &scratch->text[1];
    if (splitter->add_prefix_space && n > 0 && text[0] != ' ') {
        prefixed->n = 0;
        cox_status status = cox__buffer_append(prefixed, " ", 1);
        if (status == COX_OK) status = cox__buffer_append(prefixed, text, n);
        if (status != COX_OK) return status;
        text = prefixed->bytes;
        n = prefixed->n;
    }
    cox__ranges *ranges = &scratch->ranges;
    ranges->n = 0;
    cox_status status = splitter->pattern ? cox__pattern_cover(splitter->pattern, text, n, ranges)
                                          : cox__ranges_add(ranges, 0, n, false);
    for (size_t k = 0; k < ranges->n && status == COX_OK; k++) {
        const cox__range *range = &ranges->items[k];
        mapped->n = 0;
        status = cox__append_byte_level(mapped, text + range->begin, range->end - range->begin);
        if (status != COX_OK) break;
        status = cox__pieces_add(out, mapped->bytes, mapped->n, is_at_start && range->begin == 0);
    }
    return status;
}

cox_status cox__split(const cox__splitter *splitter, const cox__pieces *in, cox__scratch *scratch,
                      cox__pieces *out)
{
    cox__pieces_clear(out);
    cox_status status = COX_OK;
    for (size_t i = 0; i < in->n && status == COX_OK; i++) {
        const cox__piece *piece = &in->items[i];
        if (piece->id >= 0) {
            status = cox__pieces_add_id(out, piece->id);
            continue;
        }
        const char *text = in->text.bytes + piece->begin; /* NULL where no piece is text */
        size_t n = piece->end - piece->begin;
        switch (splitter->kind) {
        case COX__SPLIT_PATTERN:
        case COX__SPLIT_CLASS:
            status = split_pattern(splitter, text, n, piece->is_at_start, scratch, out);
            break;
        case COX__SPLIT_WORDS: status = split_words(text, n, piece->is_at_start, out); break;
        case COX__SPLIT_METASPACE:
            status = split_metaspace(splitter, text, n, piece->is_at_start, scratch, out);
            break;
        case COX__SPLIT_BYTE_LEVEL:
            status = split_byte_level(splitter, text, n, piece->is_at_start, scratch, out);
            break;
        }
    }
    return status;
}
