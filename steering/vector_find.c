/*
 * Vectors by name, or by what they say of themselves: `direction` writes "resid_post.3" for one token of the
 * prompts and "resid_post.3@-1" for several, other programs and people name theirs as they like, and a grid
 * asks all alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

/* "SITE.LAYER[.EXPERT][@POSITION]" */
typedef struct place {
    cox_site site;
    int32_t layer, expert; /* expert -1: none */
    const char *position;  /* NULL: any */
} place;

/* A number without sign, blanks and leading zeros; moves *text behind it. */
static bool take_index(const char **text, int32_t *out)
{
    size_t n = strspn(*text, "0123456789");
    if (n == 0 || n > 7 || (**text == '0' && n > 1)) return false;
    *out = (int32_t)strtol(*text, NULL, 10);
    *text += n;
    return true;
}

static bool parse_place(const char *name, place *out)
{
    char site[32];
    const char *dot = strchr(name, '.');
    if (!dot || (size_t)(dot - name) >= sizeof site) return false;
    snprintf(site, sizeof site, "%.*s", (int)(dot - name), name);
    *out = (place){.site = cox_site_find(site), .expert = -1};
    name = dot + 1;
    if (out->site == COX_SITE_UNSTATED || !take_index(&name, &out->layer)) return false;
    if (*name == '.') {
        name++;
        if (!take_index(&name, &out->expert)) return false;
    }
    if (*name == '@') out->position = name + 1;
    return *name == '\0' || *name == '@';
}

static bool is_at(const cox_vector *v, const place *p)
{
    return v->site == p->site && v->layer == p->layer && v->expert == p->expert;
}

/* The token of the prompts that it was made at, counted from their end: "-2"; "mean"; "" where it does not
 * say. */
static void position_of(const cox_vector *v, char text[24])
{
    json_t *json = v->provenance ? json_loads(v->provenance, JSON_DECODE_ANY, NULL) : NULL;
    const char *position = json_string_value(json_object_get(json, "position"));
    if (position && strcmp(position, "last") == 0) position = "-1";
    snprintf(text, 24, "%.20s", position ? position : "");
    json_decref(json);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cox_vector *)a)->name, ((const cox_vector *)b)->name);
}

static const cox_vector *not_found(const cox_vector_file *file, const char *name, const cox_vector *other)
{
    char position[24];
    if (!other) {
        cox_fail(COX_NOT_FOUND, "%s: holds no vector \"%.200s\"; the first of its %zu is \"%.200s\"",
                 file->path, name, file->n, file->vectors[0].name);
        return NULL;
    }
    position_of(other, position);
    cox_fail(COX_NOT_FOUND, "%s: holds no vector \"%.200s\"; of this place it has \"%.200s\", which %s%s",
             file->path, name, other->name,
             *position ? "was made at position " : "does not say at which position it was made", position);
    return NULL;
}

const cox_vector *cox_vector_find(const cox_vector_file *file, const char *name)
{
    if (!name && file->n == 1) return &file->vectors[0];
    if (!name) {
        cox_fail(COX_INVALID,
                 "%s: holds %zu vectors; say which after a \"#\": \"%s#%s\"; in a plan \"layer\": \"from "
                 "vector\" takes "
                 "each at its own layer",
                 file->path, file->n, file->path, file->vectors[0].name);
        return NULL;
    }
    const cox_vector wanted = {.name = name}, *found = NULL, *other = NULL;
    const cox_vector *exact = bsearch(&wanted, file->vectors, file->n, sizeof wanted, by_name);
    place p;
    if (exact) return exact;
    for (size_t i = 0; parse_place(name, &p) && i < file->n; i++) {
        const cox_vector *v = &file->vectors[i];
        char position[24] = "";
        if (!is_at(v, &p)) continue;
        if (p.position) position_of(v, position);
        if (p.position && strcmp(position, p.position) != 0) {
            other = v;
        } else if (found) {
            cox_fail(COX_INVALID,
                     "%s: \"%.200s\" may be \"%.200s\" or \"%.200s\"; name the one that is meant", file->path,
                     name, found->name, v->name);
            return NULL;
        } else {
            found = v;
        }
    }
    return found ? found : not_found(file, name, other);
}
