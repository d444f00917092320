/* The table of answers to prompts that took no part in choosing: the plans that were chosen, and controls at
 * their places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

static const char *const titles[] = {"Weaken: prompts of A", "Strengthen: prompts of B"};

static const char *const place_columns[] = {"layer",  "expert",    "weighting",
                                            "source", "positions", "strength"};
enum { N_PLACE_COLUMNS = sizeof place_columns / sizeof *place_columns };

void cox_report_print_heldout_place(FILE *file, const cox_report *r, const cox_report_heldout *h)
{
    const cox_report_cell *cell = cox_report_heldout_cell(r, h);
    bool has_any = false;
    if (cell) {
        cox_report_print_how(file, cell);
        fprintf(file, " (cell %lld)", (long long)cell->number);
    }
    for (size_t i = 0; i < N_PLACE_COLUMNS && !cell; i++) {
        const char *text = cox_report_heldout_text(r, h, place_columns[i]);
        if (!*text) continue;
        fprintf(file, "%s%s ", has_any ? ", " : "", place_columns[i]);
        for (; *text; text++) { /* positions are JSON: without its marks */
            if (!strchr("{}\"", *text)) cox_xml_print(file, (char[]){*text, '\0'});
        }
        has_any = true;
    }
}

static void print_change_of_random(FILE *file, const char *words, const cox_interval *change)
{
    fputs(words, file);
    cox_report_print_points(file, change);
    fputs(" of answers to validation prompts", file);
}

void cox_report_print_calm(FILE *file, const cox_report_heldout *h)
{
    if (h->calm == COX_REPORT_NOT_SAID) return;
    fprintf(file, "; <b>%s</b>", h->calm == COX_REPORT_CALM ? "calm" : "not calm");
    if (isnan(h->calm_change.value)) return;
    print_change_of_random(file, " (random directions: ", &h->calm_change);
    fputc(')', file);
}

void cox_report_print_passed(FILE *file, const cox_report *r, const cox_report_heldout *h, size_t n_shown)
{
    size_t n = h->n_passed < n_shown ? h->n_passed : n_shown;
    for (size_t i = 0; i < n; i++) {
        const cox_report_cell *c = cox_report_cell_numbered(&r->cells, h->passed[i].cell);
        if (!c) continue;
        fputs(i == 0 ? ". Passed over, since <b>not calm</b>: " : "; ", file);
        cox_report_print_place(file, c);
        fputs(" at strength ", file);
        cox_report_print_strength(file, c->strength);
        fprintf(file, " (cell %lld, random directions: ", (long long)c->number);
        cox_report_print_points(file, &h->passed[i].change);
        fputc(')', file);
    }
    if (n < h->n_passed) fprintf(file, "; and %zu more", h->n_passed - n);
}

void cox_report_print_draws(FILE *file, const cox_report_draws *d)
{
    if (d->n == 1) {
        cox_report_print_interval(file, &d->widest);
        fputs(" points (one draw)", file);
        return;
    }
    cox_report_print_number(file, d->mean, true);
    fprintf(file, " points on average of %zu draws, from ", d->n);
    cox_report_print_number(file, d->least, true);
    fputs(" to ", file);
    cox_report_print_number(file, d->most, true);
}

/* --- Table --- */

static void print_share(FILE *file, const char *before, const char *label, double share)
{
    fprintf(file, "%s<span>", before);
    cox_xml_print(file, label);
    fputc(' ', file);
    cox_report_print_percent(file, share, 0);
    fputs("</span>", file);
}

/* Shares of labels, of both sets. */
static void print_labels(FILE *file, const cox_report *r, const cox_report_heldout *h)
{
    enum { N_LABELS = 4 };
    char shown[128];
    cox_report_label_well_shown(r, shown, sizeof shown);
    const char *const labels[N_LABELS] = {"answered", "well_formed", shown, "fell_apart"};
    for (int s = 0; s < COX_REPORT_N_SETS; s++) {
        fprintf(file, "<td class=\"rates\" data-name=\"answers, %c\">", "AB"[s]);
        if (h->n[s] > 0) print_share(file, "", cox_report_label(r), h->yes[s] / h->n[s]);
        for (int l = 0; l < N_LABELS && h->n[s] > 0; l++) {
            double share = cox_report_heldout_share(r, h, s, labels[l]);
            if (!isnan(share)) print_share(file, "<br/>", labels[l], share);
        }
        fputs("</td>", file);
    }
}

static const char to_effect[] = "</td><td class=\"n\" data-name=\"effect in points\">";

static void print_count_cell(FILE *file, const cox_report *r)
{
    fputs("</td><td class=\"n\" data-name=\"", file);
    cox_xml_print(file, cox_report_label(r));
    fputs("\">", file);
}

static void print_row(FILE *file, const cox_report *r, const cox_report_heldout *h, int set)
{
    fputs("<tr class=\"head\"><th>", file);
    cox_xml_print(file, h->family);
    fputs("</th><td class=\"how\">", file);
    cox_report_print_heldout_place(file, r, h);
    cox_report_print_calm(file, h);
    cox_report_print_passed(file, r, h, SIZE_MAX);
    print_count_cell(file, r);
    fprintf(file, "%.0f of %.0f%s", h->yes[set], h->n[set], to_effect);
    cox_report_print_interval(file, &h->effect[set]);
    fputs("<br/>", file);
    cox_report_print_whiskers(file, &h->effect[set], 1, set, -100, 100);
    fputs("</td>", file);
    print_labels(file, r, h);
    fputs("</tr>\n", file);
}

static void print_control_row(FILE *file, const cox_report *r, const cox_report_heldout *plan, int set,
                              const char *kind)
{
    cox_report_draws d = cox_report_heldout_draws(r, plan, set, kind);
    if (d.n == 0) return;
    fprintf(file, "<tr><th></th><td class=\"how\">control: %s", cox_report_control_words(kind));
    print_count_cell(file, r);
    cox_report_print_number(file, d.yes, false);
    fprintf(file, " of %.0f%s", plan->n[set], to_effect);
    cox_report_print_draws(file, &d);
    fputs("<br/>", file);
    cox_report_print_whiskers(file, d.drawn, d.n < COX_REPORT_MAX_DRAWS ? d.n : COX_REPORT_MAX_DRAWS, set,
                              -100, 100);
    fputs("</td><td></td><td></td></tr>\n", file);
}

void cox_report_print_heldouts(FILE *file, const cox_report *r)
{
    const cox_report_heldouts *all = &r->heldouts;
    if (all->n == 0) {
        fputs("<p class=\"none\">No answers to held-out prompts were given (--heldout).</p>\n", file);
        return;
    }
    const cox_report_heldout *clean = cox_report_heldout_clean(r);
    if (!cox_csv_has(&all->table, "model_fingerprint")) cox_report_print_unnamed(file, NULL);
    fputs("<p class=\"soft\">Plans that were chosen on other prompts, and controls at the same places. "
          "Effects are of the share of answers that show the behaviour, with the plan less without it, in "
          "points "
          "with 95% intervals. Calm: random directions in a place do little to answers to validation "
          "prompts.</p>\n",
          file);
    if (clean) {
        fputs("<p>Without a plan <b>", file);
        cox_xml_print(file, cox_report_label(r));
        fputs("</b> holds of ", file);
        for (int s = 0; s < COX_REPORT_N_SETS; s++) {
            if (clean->n[s] > 0)
                fprintf(file, "%s%.0f of %.0f answers to %c", s ? ", " : "", clean->yes[s], clean->n[s],
                        "AB"[s]);
        }
        fputs(".</p>\n", file);
    }
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        fprintf(file,
                "<h3>%s</h3>\n<div class=\"scroll\"><table "
                "class=\"controls stack\"><thead><tr><th>steered</th><th>place</th><th class=\"n\">",
                titles[set]);
        cox_xml_print(file, cox_report_label(r));
        fputs(
            "</th><th class=\"n\">effect in points</th><th>answers, A</th><th>answers, B</th></tr></thead>\n"
            "<tbody>\n",
            file);
        for (size_t i = 0; i < all->n; i++) {
            if (!cox_report_is_plan(&all->items[i], set)) continue;
            print_row(file, r, &all->items[i], set);
            print_control_row(file, r, &all->items[i], set, "random_direction");
            print_control_row(file, r, &all->items[i], set, "random_expert");
        }
        fputs("</tbody></table></div>\n", file);
    }
}
