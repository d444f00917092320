/* The numbers of the page for machines: a line of CSV for each interval, the whole as JSON. */
#include <math.h>
#include <string.h>

#include "report/report.h"

/* --- CSV --- */

static void print_real(FILE *file, double value)
{
    if (isfinite(value))
        fprintf(file, ",%.9g", value);
    else
        fputc(',', file);
}

static void print_quoted(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) fprintf(file, *text == '"' ? "\"\"" : "%c", *text);
    fputc('"', file);
}

/* kind,block,control,layer,expert,weighting,source,positions,strength,cell,set,value,low,high */
static void print_cell_row(FILE *file, const char *kind, const cox_report_cell *c, int set)
{
    fprintf(file, "%s,", kind);
    print_quoted(file, c->block);
    fputc(',', file);
    print_quoted(file, c->control);
    fprintf(file, ",%d,", (int)c->layer);
    print_quoted(file, c->expert_text);
    fputc(',', file);
    print_quoted(file, c->weighting);
    fprintf(file, ",%d,", (int)c->source);
    print_quoted(file, c->positions);
    fprintf(file, ",%.9g,%lld,%c", c->strength, (long long)c->number, "ab"[set]);
    print_real(file, c->change[set].value);
    print_real(file, c->change[set].low);
    print_real(file, c->change[set].high);
    fputc('\n', file);
}

/* A row that is about no cell. */
static void print_plain_row(FILE *file, const char *kind, int32_t layer, int32_t expert, const char *set,
                            double value, const cox_interval *i)
{
    fprintf(file, "%s,,,", kind);
    if (layer >= 0) fprintf(file, "%d", (int)layer);
    fputc(',', file);
    if (expert >= 0) fprintf(file, "%d", (int)expert);
    fprintf(file, ",,,,,,%s", set);
    print_real(file, value);
    print_real(file, i->low);
    print_real(file, i->high);
    fputc('\n', file);
}

static void print_cells(FILE *file, const cox_report_cells *cells, const char *kind)
{
    for (size_t i = 0; i < cells->n; i++) {
        for (int set = 0; set < COX_REPORT_N_SETS; set++) print_cell_row(file, kind, &cells->items[i], set);
    }
}

void cox_report_print_csv(FILE *file, const cox_report *r)
{
    fputs("kind,block,control,layer,expert,weighting,source,positions,strength,cell,set,value,low,high\n",
          file);
    for (size_t i = 0; i < r->cells.n_places; i++) {
        const cox_report_place *p = &r->cells.places[i];
        if (cox_report_is_control(&r->cells.items[p->first])) continue;
        for (int set = 0; set < COX_REPORT_N_SETS; set++) {
            if (p->best[set]) print_cell_row(file, set ? "strengthen" : "weaken", p->best[set], set);
        }
    }
    print_cells(file, &r->cells, "cell");
    print_cells(file, &r->controls, "control");
    for (size_t i = 0; i < r->rates.n; i++) {
        const cox_report_rate *a = &r->rates.items[i];
        fputs("rate,", file);
        print_quoted(file, a->label);
        fprintf(file, ",,,,,,,,%lld,", (long long)a->cell);
        print_quoted(file, a->set);
        print_real(file, a->rate.value);
        print_real(file, a->rate.low);
        print_real(file, a->rate.high);
        fputc('\n', file);
    }
    for (size_t i = 0; i < r->heldouts.n; i++) {
        const cox_report_heldout *h = &r->heldouts.items[i];
        for (int set = 0; set < COX_REPORT_N_SETS; set++) {
            if (!(h->n[set] > 0)) continue;
            fputs("heldout,", file);
            print_quoted(file, h->family);
            fputc(',', file);
            print_quoted(file, h->control);
            fprintf(file, ",,,,,,,,%c", "ab"[set]);
            print_real(file, h->effect[set].value);
            print_real(file, h->effect[set].low);
            print_real(file, h->effect[set].high);
            fputc('\n', file);
        }
    }
    for (size_t i = 0; i < r->routes.n; i++) {
        const cox_report_route *p = &r->routes.items[i];
        print_plain_row(file, "route", p->layer, p->expert, "", p->difference.value, &p->difference);
    }
    for (size_t i = 0; i < r->parts.n; i++) {
        const cox_report_part *p = &r->parts.items[i];
        print_plain_row(file, cox_report_part_name(p), p->layer, p->expert, "", p->difference.value,
                        &p->difference);
    }
}

/* --- JSON --- */

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *interval_json(const cox_interval *i)
{
    return json_pack("[o, o, o]", real(i->value), real(i->low), real(i->high));
}

static json_t *cell_json(const cox_report_cell *c)
{
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:i, s:s, s:f, s:o, s:o, s:o}", "cell",
                     (json_int_t)c->number, "block", c->block, "site", c->site, "op", c->op, "control",
                     c->control, "seed", (int)c->seed, "layer", (int)c->layer, "expert", c->expert_text,
                     "weighting", c->weighting, "source", (int)c->source, "positions", c->positions,
                     "strength", c->strength, "change_a", interval_json(&c->change[COX_REPORT_A]), "change_b",
                     interval_json(&c->change[COX_REPORT_B]), "kl", real(c->kl));
}

static json_t *cells_json(const cox_report_cells *cells)
{
    json_t *list = json_array();
    for (size_t i = 0; i < cells->n; i++) json_array_append_new(list, cell_json(&cells->items[i]));
    return list;
}

static json_t *places_json(const cox_report *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->cells.n_places; i++) {
        const cox_report_place *p = &r->cells.places[i];
        const cox_report_cell *c = &r->cells.items[p->first];
        if (cox_report_is_control(c)) continue;
        json_t *numbers[COX_REPORT_N_SETS];
        for (int s = 0; s < COX_REPORT_N_SETS; s++)
            numbers[s] = p->best[s] ? json_integer((json_int_t)p->best[s]->number) : json_null();
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:i, s:s, s:o, s:o}", "family", c->family,
                                              "weighting", c->weighting, "positions", c->positions, "layer",
                                              (int)p->layer, "expert", c->expert_text, "weaken", numbers[0],
                                              "strengthen", numbers[1]));
    }
    return list;
}

static json_t *rates_json(const cox_report_rates *rates)
{
    json_t *list = json_array();
    for (size_t i = 0; i < rates->n; i++) {
        const cox_report_rate *a = &rates->items[i];
        json_array_append_new(list,
                              json_pack("{s:I, s:s, s:s, s:I, s:I, s:o}", "cell", (json_int_t)a->cell, "set",
                                        a->set, "label", a->label, "yes", (json_int_t)a->yes, "asked",
                                        (json_int_t)a->asked, "rate", interval_json(&a->rate)));
    }
    return list;
}

static json_t *routes_json(const cox_report_routes *routes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < routes->n; i++) {
        const cox_report_route *p = &routes->items[i];
        json_array_append_new(list,
                              json_pack("{s:i, s:i, s:o}", "layer", (int)p->layer, "expert", (int)p->expert,
                                        "top1_difference", interval_json(&p->difference)));
    }
    return list;
}

static json_t *parts_json(const cox_report_parts *parts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < parts->n; i++) {
        const cox_report_part *p = &parts->items[i];
        json_t *json = json_pack("{s:s, s:i, s:i, s:o, s:f}", "part", cox_report_part_name(p), "layer",
                                 (int)p->layer, "expert", (int)p->expert, "difference",
                                 interval_json(&p->difference), "share", p->share);
        for (int s = 0; s < COX_REPORT_N_SETS && p->has_effect; s++)
            json_object_set_new(json, s ? "effect_b" : "effect_a", interval_json(&p->effect[s]));
        json_array_append_new(list, json);
    }
    return list;
}

static json_t *heldouts_json(const cox_report_heldouts *heldouts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < heldouts->n; i++) {
        const cox_report_heldout *h = &heldouts->items[i];
        json_t *json =
            json_pack("{s:s, s:s, s:s}", "family", h->family, "aim", h->aim, "control", h->control);
        if (h->calm != COX_REPORT_NOT_SAID)
            json_object_set_new(json, "calm", json_boolean(h->calm == COX_REPORT_CALM));
        for (int s = 0; s < COX_REPORT_N_SETS; s++) {
            if (h->n[s] > 0)
                json_object_set_new(json, s ? "b" : "a",
                                    json_pack("{s:f, s:f, s:o}", "n", h->n[s], "yes", h->yes[s], "effect",
                                              interval_json(&h->effect[s])));
        }
        json_array_append_new(list, json);
    }
    return list;
}

/* Of the families that steer single experts. */
static json_t *relations_json(const cox_report *r)
{
    json_t *list = json_array();
    for (int32_t family = 0; family < r->cells.n_families && r->routes.n > 0; family++) {
        json_t *sides[COX_REPORT_N_SETS];
        size_t n_all = 0;
        for (int set = 0; set < COX_REPORT_N_SETS; set++) {
            const cox_report_relation relation = cox_report_relate(r, family, set);
            const cox_interval *rank = &relation.spearman;
            sides[set] =
                json_pack("{s:o, s:o, s:o, s:I}", "rank_correlation", real(rank->value), "low",
                          real(rank->low), "high", real(rank->high), "experts", (json_int_t)relation.n);
            n_all += relation.n;
        }
        json_t *item = json_pack("{s:s, s:o, s:o}", "family", r->cells.families[family], "weaken", sides[0],
                                 "strengthen", sides[1]);
        if (n_all > 0)
            json_array_append_new(list, item);
        else
            json_decref(item);
    }
    return list;
}

json_t *cox_report_json(const cox_report *r)
{
    json_t *json = json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:O, s:O?, s:O, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "made", "report",
        "title", r->title, "behaviour", cox_report_label(r), "max_kl_a", real(r->cells.max_kl[COX_REPORT_A]),
        "max_kl_b", real(r->cells.max_kl[COX_REPORT_B]), "run", r->run, "controls_run", r->controls_run,
        "clean", json_object_get(r->best, "clean"), "places", places_json(r), "cells", cells_json(&r->cells),
        "controls", cells_json(&r->controls), "rates", rates_json(&r->rates), "routes",
        routes_json(&r->routes), "routing_against_effect", relations_json(r), "parts", parts_json(&r->parts),
        "heldout", heldouts_json(&r->heldouts));
    return json;
}
