/* Names of files, relative to a page. */
#include "report/report_paths.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"

/* From where relative names are, and are to be; base NULL: the folder of this process. */
typedef struct view {
    const char *home, *base;
} view;

/* A grid's vectors are relative to the grid, which nobody names here. */
static bool is_file(const char *key, const char *value)
{
    static const char *const keys[] = {"model", "rules", "file", "vector", "template"};
    if (strcmp(key, "vectors") == 0) return *value == '/';
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i]) == 0) return true;
    }
    return false;
}

/* text: a name, or FILE#VECTOR. NULL: it leads nowhere, or out of memory. */
static json_t *seen(const view *v, const char *text)
{
    char path[PATH_MAX], found[PATH_MAX];
    const char *mark = strchr(text, '#');
    int n_name = (int)(mark ? (size_t)(mark - text) : strlen(text));
    bool is_under = v->base && *text != '/';
    int n =
        snprintf(path, sizeof path, "%s%s%.*s", is_under ? v->base : "", is_under ? "/" : "", n_name, text);
    if (n_name == 0 || n < 0 || (size_t)n >= sizeof path) return NULL;
    const char *there = realpath(path, found) ? found : *path == '/' ? path : NULL;
    char *name = there ? cox_path_seen_from(v->home, there) : NULL;
    json_t *json = name ? json_sprintf("%s%s", *name ? name : ".", mark ? mark : "") : NULL;
    free(name);
    return json;
}

/* In place. */
static void see_all(const view *v, json_t *json)
{
    size_t i;
    const char *key;
    json_t *value;
    if (json_is_array(json)) json_array_foreach(json, i, value) see_all(v, value);
    if (!json_is_object(json)) return;
    json_object_foreach(json, key, value)
    {
        json_t *name = NULL;
        const char *text = json_string_value(value);
        if (text && is_file(key, text)) name = seen(v, text);
        if (name)
            json_object_set_new(json, key, name);
        else
            see_all(v, value);
    }
}

static json_t *copy_of(const view *v, const json_t *json)
{
    json_t *copy = json_deep_copy(json);
    see_all(v, copy);
    return copy;
}

cox_status cox_report_paths_shown(cox_report *shown, const cox_report *report, const char *page,
                                  const char *sweep)
{
    char folder[PATH_MAX], home[PATH_MAX];
    const char *slash = strrchr(page, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - page) : 1, slash ? page : ".");
    bool is_there = realpath(*folder ? folder : "/", home) != NULL; /* else writing the page says so */
    const view here = {is_there ? home : "/", NULL}, plans = {is_there ? home : "/", sweep};
    *shown = *report;
    shown->run = copy_of(&here, report->run);
    shown->controls_run = copy_of(&here, report->controls_run);
    shown->best = copy_of(&plans, report->best);
    shown->routes.about = copy_of(&here, report->routes.about);
    shown->parts.about = copy_of(&here, report->parts.about);
    bool has_all = (!report->run || shown->run) && (!report->best || shown->best);
    return has_all ? COX_OK : cox_no_memory("the page");
}

void cox_report_paths_release(cox_report *shown)
{
    json_decref((json_t *)shown->run);
    json_decref((json_t *)shown->controls_run);
    json_decref((json_t *)shown->best);
    json_decref(shown->routes.about);
    json_decref(shown->parts.about);
}
