/*
 * The components of tokenizer.json, by the types and fields of the `tokenizers` library. Sequences are
 * flattened into lists. A type that is not here is UNSUPPORTED, by name.
 */
#include <stdio.h>
#include <string.h>

#include "model/tokenizer_internal.h"

enum { MAX_COMPONENTS = 64 };

/* What GPT-2 splits by; ByteLevel uses it when "use_regex" is true. */
static const char GPT2_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* One part being read: where messages place it, and its JSON object. */
typedef struct part {
    cox_tokenizer *tokenizer;
    const json_t *object;
    const char *where;
    const char *type;
} part;

static cox_status unsupported(const part *p, const char *kind)
{
    return cox_fail(COX_UNSUPPORTED, "%s: %s \"%s\" is not supported", p->where, kind, p->type);
}

/* Calls `read` for each component: the object itself, or the members of its Sequence (named list_key). */
typedef cox_status (*part_reader)(part *p);

static cox_status for_each(cox_tokenizer *t, const json_t *object, const char *where, const char *kind,
                           const char *list_key, part_reader read, int depth)
{
    if (!object || json_is_null(object)) return COX_OK;
    part p = {.tokenizer = t, .object = object, .where = where};
    if (!json_is_object(object)) return cox_fail(COX_BAD_FILE, "%s: a %s must be an object", where, kind);
    cox_status status = cox_json_string(object, where, "type", true, &p.type);
    if (status != COX_OK) return status;
    if (strcmp(p.type, "Sequence") != 0) return read(&p);
    const json_t *list = json_object_get(object, list_key);
    if (!json_is_array(list))
        return cox_fail(COX_BAD_FILE, "%s: a %s Sequence needs a list \"%s\"", where, kind, list_key);
    if (depth > 8)
        return cox_fail(COX_UNSUPPORTED, "%s: %s Sequences nested more than 8 deep are not supported", where,
                        kind);
    for (size_t i = 0; i < json_array_size(list) && status == COX_OK; i++) {
        status = for_each(t, json_array_get(list, i), where, kind, list_key, read, depth + 1);
    }
    return status;
}

static cox_status read_text(part *p, const char *key, const char **text)
{
    const char *found = NULL;
    cox_status status = cox_json_string(p->object, p->where, key, true, &found);
    if (status != COX_OK) return status;
    *text = cox_arena_strdup(p->tokenizer->arena, found);
    return *text ? COX_OK : COX_NO_MEMORY;
}

/* One character. */
static cox_status read_character(part *p, const char *key, const char **text)
{
    cox_status status = read_text(p, key, text);
    if (status != COX_OK) return status;
    size_t n = strlen(*text), length = 0;
    if (n > 0) cox__utf8_at(*text, n, &length);
    if (n == 0 || length != n)
        return cox_fail(COX_BAD_FILE, "%s: %s: \"%s\" must be one character", p->where, p->type, key);
    return COX_OK;
}

/* {"String": "..."} or {"Regex": "..."} */
static cox_status read_pattern(part *p, cox__pattern **pattern)
{
    const json_t *object = json_object_get(p->object, "pattern");
    const char *literal = json_string_value(json_object_get(object, "String"));
    const char *regex = json_string_value(json_object_get(object, "Regex"));
    if (literal) return cox__pattern_literal(pattern, p->tokenizer, literal, p->where);
    if (regex) return cox__pattern_regex(pattern, p->tokenizer, regex, p->where);
    return cox_fail(COX_BAD_FILE, "%s: %s needs a \"pattern\" with \"String\" or \"Regex\"", p->where,
                    p->type);
}

static cox_status check_room(const part *p, size_t n)
{
    if (n < MAX_COMPONENTS) return COX_OK;
    return cox_fail(COX_UNSUPPORTED, "%s: more than %d components of one kind are not supported", p->where,
                    MAX_COMPONENTS);
}

/* ---- normalisers ---------------------------------------------------------------------------- */

static cox_status read_normalizer(part *p)
{
    static const struct {
        const char *type;
        cox__normalizer_kind kind;
    } kinds[] = {
        {"NFC", COX__NORMALIZE_NFC},
        {"NFD", COX__NORMALIZE_NFD},
        {"NFKC", COX__NORMALIZE_NFKC},
        {"NFKD", COX__NORMALIZE_NFKD},
        {"Prepend", COX__NORMALIZE_PREPEND},
        {"Replace", COX__NORMALIZE_REPLACE},
        {"Lowercase", COX__NORMALIZE_LOWERCASE},
        {"Strip", COX__NORMALIZE_STRIP},
        {"ByteLevel", COX__NORMALIZE_BYTE_LEVEL},
    };
    cox_tokenizer *t = p->tokenizer;
    cox_status status = check_room(p, t->n_normalizers);
    if (status != COX_OK) return status;
    size_t k = 0, n_kinds = sizeof kinds / sizeof kinds[0];
    while (k < n_kinds && strcmp(kinds[k].type, p->type) != 0) k++;
    if (k == n_kinds) return unsupported(p, "normalizer");
    cox__normalizer normalizer = {.kind = kinds[k].kind};
    switch (normalizer.kind) {
    case COX__NORMALIZE_PREPEND: status = read_text(p, "prepend", &normalizer.content); break;
    case COX__NORMALIZE_REPLACE:
        status = read_pattern(p, &normalizer.pattern);
        if (status == COX_OK) status = read_text(p, "content", &normalizer.content);
        break;
    case COX__NORMALIZE_STRIP:
        status = cox_json_bool(p->object, p->where, "strip_left", true, &normalizer.strip_left);
        if (status == COX_OK)
            status = cox_json_bool(p->object, p->where, "strip_right", true, &normalizer.strip_right);
        break;
    default: break;
    }
    if (status == COX_OK) t->normalizers[t->n_normalizers++] = normalizer;
    return status;
}

/* ---- pre-tokenisers ------------------------------------------------------------------------- */

static cox_status read_behavior(part *p, bool required, cox__behavior *behavior)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name = NULL;
    cox_status status = cox_json_string(p->object, p->where, "behavior", required, &name);
    if (status != COX_OK || !name) return status;
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        if (strcmp(name, names[k]) == 0) {
            *behavior = (cox__behavior)k;
            return COX_OK;
        }
    }
    return cox_fail(COX_BAD_FILE, "%s: %s: unknown behavior \"%s\"", p->where, p->type, name);
}

static cox_status read_split(part *p, cox__splitter *s)
{
    s->kind = COX__SPLIT_PATTERN;
    cox_status status = read_pattern(p, &s->pattern);
    if (status == COX_OK) status = read_behavior(p, true, &s->behavior);
    if (status == COX_OK) status = cox_json_bool(p->object, p->where, "invert", false, &s->is_inverted);
    return status;
}

static cox_status read_byte_level(part *p, cox__splitter *s)
{
    bool use_regex = true;
    s->kind = COX__SPLIT_BYTE_LEVEL;
    cox_status status = cox_json_bool(p->object, p->where, "add_prefix_space", true, &s->add_prefix_space);
    if (status == COX_OK) status = cox_json_bool(p->object, p->where, "use_regex", false, &use_regex);
    if (status == COX_OK && use_regex)
        status = cox__pattern_regex(&s->pattern, p->tokenizer, GPT2_REGEX, p->where);
    return status;
}

static cox_status read_prepend_scheme(part *p, cox__prepend_scheme *scheme)
{
    const char *name = "always";
    bool add_prefix_space = true;
    cox_status status = cox_json_string(p->object, p->where, "prepend_scheme", false, &name);
    if (status == COX_OK)
        status = cox_json_bool(p->object, p->where, "add_prefix_space", false, &add_prefix_space);
    if (status != COX_OK) return status;
    if (strcmp(name, "always") == 0)
        *scheme = COX__PREPEND_ALWAYS;
    else if (strcmp(name, "first") == 0)
        *scheme = COX__PREPEND_FIRST;
    else if (strcmp(name, "never") == 0)
        *scheme = COX__PREPEND_NEVER;
    else
        return cox_fail(COX_BAD_FILE, "%s: Metaspace: unknown prepend_scheme \"%s\"", p->where, name);
    if (!add_prefix_space && *scheme != COX__PREPEND_NEVER) {
        return cox_fail(COX_BAD_FILE,
                        "%s: Metaspace: add_prefix_space false contradicts prepend_scheme \"%s\"", p->where,
                        name);
    }
    return COX_OK;
}

static cox_status read_metaspace(part *p, cox__splitter *s)
{
    s->kind = COX__SPLIT_METASPACE;
    s->behavior = COX__MERGED_WITH_NEXT;
    s->has_split = true;
    cox_status status = read_character(p, "replacement", &s->replacement);
    if (status == COX_OK) status = read_prepend_scheme(p, &s->prepend_scheme);
    if (status == COX_OK) status = cox_json_bool(p->object, p->where, "split", false, &s->has_split);
    if (status == COX_OK) status = cox__pattern_literal(&s->pattern, p->tokenizer, s->replacement, p->where);
    return status;
}

static cox_status read_class(part *p, cox__splitter *s, cox__char_class is_member, cox__behavior behavior)
{
    *s = (cox__splitter){.kind = COX__SPLIT_CLASS, .is_member = is_member, .behavior = behavior};
    bool individual = false;
    if (strcmp(p->type, "Digits") == 0) {
        cox_status status = cox_json_bool(p->object, p->where, "individual_digits", true, &individual);
        s->behavior = individual ? COX__ISOLATED : COX__CONTIGUOUS;
        return status;
    }
    return strcmp(p->type, "Punctuation") == 0 ? read_behavior(p, false, &s->behavior) : COX_OK;
}

static cox_status read_splitter(part *p)
{
    cox_tokenizer *t = p->tokenizer;
    cox_status status = check_room(p, t->n_splitters);
    if (status != COX_OK) return status;
    cox__splitter s = {0};
    if (strcmp(p->type, "Split") == 0)
        status = read_split(p, &s);
    else if (strcmp(p->type, "ByteLevel") == 0)
        status = read_byte_level(p, &s);
    else if (strcmp(p->type, "Metaspace") == 0)
        status = read_metaspace(p, &s);
    else if (strcmp(p->type, "Digits") == 0)
        status = read_class(p, &s, cox__is_numeric, COX__CONTIGUOUS);
    else if (strcmp(p->type, "Punctuation") == 0)
        status = read_class(p, &s, cox__is_punctuation, COX__ISOLATED);
    else if (strcmp(p->type, "WhitespaceSplit") == 0)
        status = read_class(p, &s, cox__is_white_space, COX__REMOVED);
    else if (strcmp(p->type, "Whitespace") == 0)
        s.kind = COX__SPLIT_WORDS;
    else
        return unsupported(p, "pre_tokenizer");
    if (status == COX_OK) t->splitters[t->n_splitters++] = s;
    return status;
}

/* ---- post-processors ------------------------------------------------------------------------ */

/* The ids of one special token of the template, appended to template_ids. */
static cox_status add_template_token(part *p, const json_t *piece, size_t *n)
{
    const char *name = NULL;
    cox_status status = cox_json_string(piece, p->where, "id", true, &name);
    if (status != COX_OK) return status;
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(p->object, "special_tokens"), name), "ids");
    if (!json_is_array(ids)) {
        return cox_fail(COX_BAD_FILE, "%s: TemplateProcessing: special token \"%s\" has no ids", p->where,
                        name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= COX__MAX_IDS) {
            return cox_fail(COX_BAD_FILE, "%s: TemplateProcessing: special token \"%s\" has a bad id",
                            p->where, name);
        }
        if (*n == MAX_COMPONENTS) return check_room(p, *n);
        p->tokenizer->template_ids[(*n)++] = (int32_t)id;
    }
    return COX_OK;
}

static cox_status read_template(part *p)
{
    cox_tokenizer *t = p->tokenizer;
    if (t->template_ids)
        return cox_fail(COX_UNSUPPORTED, "%s: two TemplateProcessing in a row are not supported", p->where);
    t->template_ids = cox_arena_array(t->arena, MAX_COMPONENTS, sizeof *t->template_ids);
    if (!t->template_ids) return COX_NO_MEMORY;
    const json_t *single = json_object_get(p->object, "single");
    if (!json_is_array(single))
        return cox_fail(COX_BAD_FILE, "%s: TemplateProcessing needs a list \"single\"", p->where);
    size_t n = 0, n_texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *token = json_object_get(piece, "SpecialToken");
        if (!token) {
            if (!json_object_get(piece, "Sequence") || ++n_texts > 1) {
                return cox_fail(
                    COX_UNSUPPORTED,
                    "%s: TemplateProcessing: \"single\" must hold the text once and special tokens",
                    p->where);
            }
            t->n_before = n;
            continue;
        }
        cox_status status = add_template_token(p, token, &n);
        if (status != COX_OK) return status;
    }
    if (n_texts != 1)
        return cox_fail(COX_UNSUPPORTED, "%s: TemplateProcessing: \"single\" does not hold the text",
                        p->where);
    t->n_after = n - t->n_before;
    return COX_OK;
}

static cox_status read_post_processor(part *p)
{
    if (strcmp(p->type, "ByteLevel") == 0) return COX_OK; /* it only trims offsets */
    if (strcmp(p->type, "TemplateProcessing") == 0) return read_template(p);
    return unsupported(p, "post_processor");
}

/* ---- decoders ------------------------------------------------------------------------------- */

static cox_status read_strip_decoder(part *p, cox__decoder *d)
{
    int64_t start = 0, stop = 0;
    d->kind = COX__DECODE_STRIP;
    cox_status status = read_character(p, "content", &d->content);
    if (status == COX_OK) status = cox_json_int(p->object, p->where, "start", true, 0, 1 << 20, &start);
    if (status == COX_OK) status = cox_json_int(p->object, p->where, "stop", true, 0, 1 << 20, &stop);
    d->start = (size_t)start;
    d->stop = (size_t)stop;
    return status;
}

static cox_status read_metaspace_decoder(part *p, cox__decoder *d)
{
    cox__prepend_scheme scheme = COX__PREPEND_ALWAYS;
    d->kind = COX__DECODE_METASPACE;
    cox_status status = read_character(p, "replacement", &d->content);
    if (status == COX_OK) status = read_prepend_scheme(p, &scheme);
    d->drops_first = scheme != COX__PREPEND_NEVER;
    return status;
}

static cox_status read_decoder(part *p)
{
    cox_tokenizer *t = p->tokenizer;
    cox_status status = check_room(p, t->n_decoders);
    if (status != COX_OK) return status;
    cox__decoder d = {0};
    if (strcmp(p->type, "ByteLevel") == 0) {
        d.kind = COX__DECODE_BYTE_LEVEL;
    } else if (strcmp(p->type, "ByteFallback") == 0) {
        d.kind = COX__DECODE_BYTE_FALLBACK;
    } else if (strcmp(p->type, "Fuse") == 0) {
        d.kind = COX__DECODE_FUSE;
    } else if (strcmp(p->type, "Replace") == 0) {
        d.kind = COX__DECODE_REPLACE;
        status = read_pattern(p, &d.pattern);
        if (status == COX_OK) status = read_text(p, "content", &d.content);
    } else if (strcmp(p->type, "Strip") == 0) {
        status = read_strip_decoder(p, &d);
    } else if (strcmp(p->type, "Metaspace") == 0) {
        status = read_metaspace_decoder(p, &d);
    } else {
        return unsupported(p, "decoder");
    }
    if (status == COX_OK) t->decoders[t->n_decoders++] = d;
    return status;
}

/* ---- all ------------------------------------------------------------------------------------ */

cox_status cox__parse_components(cox_tokenizer *t, const json_t *root, const char *where)
{
    t->normalizers = cox_arena_array(t->arena, MAX_COMPONENTS, sizeof *t->normalizers);
    t->splitters = cox_arena_array(t->arena, MAX_COMPONENTS, sizeof *t->splitters);
    t->decoders = cox_arena_array(t->arena, MAX_COMPONENTS, sizeof *t->decoders);
    if (!t->normalizers || !t->splitters || !t->decoders) return COX_NO_MEMORY;
    const json_t *decoder = json_object_get(root, "decoder");
    cox_status status = for_each(t, json_object_get(root, "normalizer"), where, "normalizer", "normalizers",
                                 read_normalizer, 0);
    if (status == COX_OK) {
        status = for_each(t, json_object_get(root, "pre_tokenizer"), where, "pre_tokenizer", "pretokenizers",
                          read_splitter, 0);
    }
    if (status == COX_OK) {
        status = for_each(t, json_object_get(root, "post_processor"), where, "post_processor", "processors",
                          read_post_processor, 0);
    }
    if (status == COX_OK) status = for_each(t, decoder, where, "decoder", "decoders", read_decoder, 0);
    if (status == COX_OK && (!decoder || json_is_null(decoder))) {
        t->decoders[t->n_decoders++].kind = COX__DECODE_JOIN_WITH_SPACES;
    }
    return status;
}
