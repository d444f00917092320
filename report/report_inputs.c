/* What else a report reads: rates of answers, routing differences, parts of a direction. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "report/report.h"

enum { MAX_INDEX = 4096 }; /* as in report_cells.c */
static const char *const ends[] = {"low", "high"};

static bool is_json(const char *text)
{
    text += strspn(text, " \t\r\n");
    return *text == '{';
}

/* --- Rates --- */

static cox_status read_rate(const cox_csv *t, size_t row, cox_report_rate *r)
{
    cox_status status = cox_csv_int(t, row, "cell", -1, INT64_MAX, &r->cell);
    if (status == COX_OK) status = cox_csv_text(t, row, "set", &r->set);
    if (status == COX_OK) status = cox_csv_text(t, row, "label", &r->label);
    if (status == COX_OK) status = cox_csv_int(t, row, "yes", 0, INT64_MAX, &r->yes);
    if (status == COX_OK) status = cox_csv_int(t, row, "asked", 1, INT64_MAX, &r->asked);
    if (status == COX_OK) status = cox_csv_number(t, row, "rate", false, &r->rate.value);
    if (status == COX_OK) status = cox_csv_number(t, row, "low", false, &r->rate.low);
    return status == COX_OK ? cox_csv_number(t, row, "high", false, &r->rate.high) : status;
}

static cox_status note_label(cox_report_rates *rates, const char *label)
{
    for (size_t i = 0; i < rates->n_labels; i++) {
        if (strcmp(rates->labels[i], label) == 0) return COX_OK;
    }
    if (rates->n_labels == COX_REPORT_MAX_LABELS)
        return cox_fail(COX_BAD_FILE, "%s: more than %d labels", rates->table.where, COX_REPORT_MAX_LABELS);
    rates->labels[rates->n_labels++] = label;
    return COX_OK;
}

cox_status cox_report_rates_read(cox_report_rates *rates, cox_csv *table)
{
    *rates = (cox_report_rates){.table = *table, .items = calloc(table->n_rows + 1, sizeof *rates->items)};
    *table = (cox_csv){0};
    cox_status status = rates->items ? COX_OK : cox_no_memory(rates->table.where);
    for (; rates->n < rates->table.n_rows && status == COX_OK; rates->n++) {
        status = read_rate(&rates->table, rates->n, &rates->items[rates->n]);
        if (status == COX_OK) status = note_label(rates, rates->items[rates->n].label);
    }
    if (status != COX_OK) cox_report_rates_free(rates);
    return status;
}

void cox_report_rates_free(cox_report_rates *rates)
{
    cox_csv_free(&rates->table);
    free(rates->items);
    *rates = (cox_report_rates){0};
}

const cox_report_rate *cox_report_rate_of(const cox_report_rates *rates, int64_t cell, int set,
                                          const char *label)
{
    const char name[] = {"ab"[set], '\0'};
    for (size_t i = 0; i < rates->n; i++) {
        const cox_report_rate *r = &rates->items[i];
        if (r->cell == cell && strcmp(r->set, name) == 0 && strcmp(r->label, label) == 0) return r;
    }
    return NULL;
}

/* --- JSON --- */

/* The list under `key`. */
static cox_status take_list(const json_t *json, const char *where, const char *key, const json_t **list)
{
    *list = json_object_get(json, key);
    return json_is_array(*list) ? COX_OK
                                : cox_fail(COX_BAD_FILE, "%s: key \"%s\" must be a list", where, key);
}

static cox_status take_index(const json_t *object, const char *where, const char *key, int32_t *out)
{
    int64_t value = 0;
    cox_status status = cox_json_int(object, where, key, true, 0, MAX_INDEX, &value);
    *out = (int32_t)value;
    return status;
}

static cox_status take_interval(const json_t *object, const char *where, const char *value_key,
                                cox_interval *out)
{
    cox_status status = cox_json_number(object, where, value_key, true, &out->value);
    if (status == COX_OK) status = cox_json_number(object, where, "low", true, &out->low);
    return status == COX_OK ? cox_json_number(object, where, "high", true, &out->high) : status;
}

/* All but the long list; only the file that `made` it will do. */
static cox_status take_about(const json_t *json, const char *where, const char *made, const char *list,
                             json_t **about)
{
    const char *got = NULL;
    cox_status status = cox_json_string(json, where, "made", true, &got);
    if (status != COX_OK) return status;
    if (strcmp(got, made) != 0)
        return cox_fail(COX_BAD_FILE,
                        "%s: key \"made\" is \"%s\"; what `coxswain %s --json` prints is expected", where,
                        got, made);
    *about = json_copy((json_t *)json);
    if (!*about) return cox_no_memory(where);
    json_object_del(*about, list);
    return COX_OK;
}

/* --- Routes --- */

static cox_status read_routes_json(cox_report_routes *routes, const json_t *json, const char *where)
{
    const json_t *list = NULL, *item;
    cox_status status = take_about(json, where, "routes", "experts", &routes->about);
    if (status == COX_OK) status = take_list(json, where, "experts", &list);
    if (status != COX_OK) return status;
    routes->items = calloc(json_array_size(list) + 1, sizeof *routes->items);
    if (!routes->items) return cox_no_memory(where);
    size_t i;
    json_array_foreach(list, i, item)
    {
        char place[1100];
        snprintf(place, sizeof place, "%.1000s: \"experts\"[%zu]", where, i);
        cox_report_route *r = &routes->items[routes->n];
        status = take_index(item, place, "layer", &r->layer);
        if (status == COX_OK) status = take_index(item, place, "expert", &r->expert);
        if (status == COX_OK)
            status = take_interval(json_object_get(item, "top1"), place, "difference", &r->difference);
        if (status != COX_OK) return status;
        routes->n++;
    }
    return COX_OK;
}

static cox_status csv_index(const cox_csv *t, size_t row, const char *column, int64_t low, int32_t *out)
{
    int64_t value = 0;
    cox_status status = cox_csv_int(t, row, column, low, MAX_INDEX, &value);
    *out = (int32_t)value;
    return status;
}

/* Columns VALUE, PREFIX_low, PREFIX_high; prefix "" without the bar. */
static cox_status csv_interval(const cox_csv *t, size_t row, const char *value, const char *prefix,
                               bool may_be_empty, cox_interval *out)
{
    double *const to[] = {&out->low, &out->high};
    cox_status status = cox_csv_number(t, row, value, may_be_empty, &out->value);
    for (int i = 0; i < 2 && status == COX_OK; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "_" : "", ends[i]);
        status = cox_csv_number(t, row, name, may_be_empty, to[i]);
    }
    return status;
}

static cox_status read_routes_csv(cox_report_routes *routes, const cox_csv *t)
{
    routes->items = calloc(t->n_rows + 1, sizeof *routes->items);
    cox_status status = routes->items ? COX_OK : cox_no_memory(t->where);
    for (; routes->n < t->n_rows && status == COX_OK; routes->n++) {
        cox_report_route *r = &routes->items[routes->n];
        status = csv_index(t, routes->n, "layer", 0, &r->layer);
        if (status == COX_OK) status = csv_index(t, routes->n, "expert", 0, &r->expert);
        if (status == COX_OK)
            status = csv_interval(t, routes->n, "top1_difference", "top1", false, &r->difference);
    }
    return status;
}

cox_status cox_report_routes_read(cox_report_routes *routes, char *text, size_t n, const char *where)
{
    *routes = (cox_report_routes){0};
    cox_status status;
    if (is_json(text)) {
        json_t *json = NULL;
        status = cox_json_load_text(&json, text, n, where);
        if (status == COX_OK) status = read_routes_json(routes, json, where);
        json_decref(json);
        free(text);
    } else {
        cox_csv table;
        status = cox_csv_parse(&table, text, n, where);
        if (status != COX_OK) return status;
        status = read_routes_csv(routes, &table);
        cox_csv_free(&table);
    }
    if (status == COX_OK && routes->n == 0)
        status = cox_fail(COX_BAD_FILE, "%s: there are no experts in it", where);
    if (status != COX_OK) cox_report_routes_free(routes);
    return status;
}

void cox_report_routes_free(cox_report_routes *routes)
{
    free(routes->items);
    json_decref(routes->about);
    *routes = (cox_report_routes){0};
}

/* --- Parts --- */

static const char *const part_names[] = {"embedding", "attention", "block", "after", "expert"};
enum { N_PART_NAMES = sizeof part_names / sizeof *part_names };

const char *cox_report_part_name(const cox_report_part *part)
{
    return part_names[part->kind];
}

static cox_status read_part(cox_report_parts *parts, const json_t *json, const char *where, int kind,
                            int32_t layer, int32_t expert)
{
    char place[1200];
    snprintf(place, sizeof place, "%.1000s: %s of layer %d", where, part_names[kind], (int)layer);
    cox_report_part *p = &parts->items[parts->n];
    *p = (cox_report_part){.layer = layer, .expert = expert};
    p->kind = (cox_report_part_kind)kind;
    cox_status status = cox_json_number(json, place, "a", true, &p->mean[COX_REPORT_A]);
    if (status == COX_OK) status = cox_json_number(json, place, "b", true, &p->mean[COX_REPORT_B]);
    if (status == COX_OK) status = cox_json_number(json, place, "share", true, &p->share);
    if (status == COX_OK) status = take_interval(json, place, "difference", &p->difference);
    const json_t *effect = json_object_get(json, "effect");
    p->has_effect = effect != NULL;
    for (int s = 0; s < COX_REPORT_N_SETS && effect && status == COX_OK; s++) {
        const char key[] = {"ab"[s], '\0'};
        status = take_interval(json_object_get(effect, key), place, "value", &p->effect[s]);
    }
    parts->n += status == COX_OK;
    return status;
}

static cox_status read_layer(cox_report_parts *parts, const json_t *json, const char *where)
{
    int32_t layer = 0;
    cox_status status = take_index(json, where, "layer", &layer);
    for (int kind = COX_REPORT_ATTENTION; kind <= COX_REPORT_AFTER && status == COX_OK; kind++)
        status = read_part(parts, json_object_get(json, part_names[kind]), where, kind, layer, -1);
    size_t e;
    const json_t *expert, *experts = json_object_get(json, "experts");
    json_array_foreach(experts, e, expert)
    {
        if (status == COX_OK) status = read_part(parts, expert, where, COX_REPORT_EXPERT, layer, (int32_t)e);
    }
    return status;
}

static cox_status read_parts_json(cox_report_parts *parts, const json_t *json, const char *where)
{
    const json_t *list = NULL, *layer;
    cox_status status = take_about(json, where, "decompose", "layers", &parts->about);
    if (status == COX_OK) status = take_list(json, where, "layers", &list);
    if (status != COX_OK) return status;
    size_t n = 1, l;
    json_array_foreach(list, l, layer) n += 3 + json_array_size(json_object_get(layer, "experts"));
    parts->items = calloc(n, sizeof *parts->items);
    if (!parts->items) return cox_no_memory(where);
    status = read_part(parts, json_object_get(json, "embedding"), where, COX_REPORT_EMBEDDING, -1, -1);
    json_array_foreach(list, l, layer)
    {
        if (status == COX_OK) status = read_layer(parts, layer, where);
    }
    return status;
}

static cox_status read_part_row(const cox_csv *t, size_t row, cox_report_part *p)
{
    const char *name = "", *effect = "";
    cox_status status = cox_csv_text(t, row, "part", &name);
    if (status != COX_OK) return status;
    unsigned kind = 0;
    while (kind < N_PART_NAMES && strcmp(name, part_names[kind]) != 0) kind++;
    if (kind == N_PART_NAMES)
        return cox_fail(COX_BAD_FILE, "%s: line %zu, column \"part\": \"%.40s\" is not a part of a direction",
                        t->where, t->lines[row], name);
    p->kind = (cox_report_part_kind)kind;
    status = csv_index(t, row, "layer", -1, &p->layer);
    if (status == COX_OK) status = csv_index(t, row, "expert", -1, &p->expert);
    if (status == COX_OK) status = cox_csv_number(t, row, "a", false, &p->mean[COX_REPORT_A]);
    if (status == COX_OK) status = cox_csv_number(t, row, "b", false, &p->mean[COX_REPORT_B]);
    if (status == COX_OK) status = cox_csv_number(t, row, "share", false, &p->share);
    if (status == COX_OK) status = csv_interval(t, row, "difference", "", false, &p->difference);
    if (status == COX_OK) status = cox_csv_text(t, row, "effect_a", &effect);
    p->has_effect = *effect != '\0';
    if (status == COX_OK)
        status = csv_interval(t, row, "effect_a", "effect_a", !p->has_effect, &p->effect[0]);
    return status == COX_OK ? csv_interval(t, row, "effect_b", "effect_b", !p->has_effect, &p->effect[1])
                            : status;
}

static cox_status read_parts_csv(cox_report_parts *parts, const cox_csv *t)
{
    parts->items = calloc(t->n_rows + 1, sizeof *parts->items);
    cox_status status = parts->items ? COX_OK : cox_no_memory(t->where);
    for (; parts->n < t->n_rows && status == COX_OK; parts->n++)
        status = read_part_row(t, parts->n, &parts->items[parts->n]);
    return status;
}

cox_status cox_report_parts_read(cox_report_parts *parts, char *text, size_t n, const char *where)
{
    *parts = (cox_report_parts){0};
    cox_status status;
    if (is_json(text)) {
        json_t *json = NULL;
        status = cox_json_load_text(&json, text, n, where);
        if (status == COX_OK) status = read_parts_json(parts, json, where);
        json_decref(json);
        free(text);
    } else {
        cox_csv table;
        status = cox_csv_parse(&table, text, n, where);
        if (status != COX_OK) return status;
        status = read_parts_csv(parts, &table);
        cox_csv_free(&table);
    }
    if (status == COX_OK && parts->n == 0)
        status = cox_fail(COX_BAD_FILE, "%s: there are no parts in it", where);
    if (status != COX_OK) cox_report_parts_free(parts);
    return status;
}

void cox_report_parts_free(cox_report_parts *parts)
{
    free(parts->items);
    json_decref(parts->about);
    *parts = (cox_report_parts){0};
}
