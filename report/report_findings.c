/* What controls do at a cell's place; cards about routing and about who writes the direction; the best cells
 * of each family of blocks, and the controls beside them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

static const char *const aims[] = {"Weaken", "Strengthen"};

/* --- Controls of a cell --- */

static const char *const kinds[] = {"random_direction", "random_expert"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static double reach(const cox_interval *i)
{
    return fmax(fabs(i->low), fabs(i->high));
}

static bool is_equal(double x, double y)
{
    return x == y || (isnan(x) && isnan(y));
}

/* The same plan: one draw at one place (both are controls of one cell). Its numbers tell it from the draw of
 * another vector file, for equal plans have equal ones. */
static bool is_same_draw(const cox_report_cell *x, const cox_report_cell *y)
{
    bool is_same = strcmp(x->control, y->control) == 0 && x->seed == y->seed && is_equal(x->kl, y->kl);
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        const cox_interval *i = &x->change[set], *k = &y->change[set];
        is_same =
            is_same && is_equal(i->value, k->value) && is_equal(i->low, k->low) && is_equal(i->high, k->high);
    }
    return is_same;
}

static void add_control(cox_report_summary *sum, const cox_report_cell *k)
{
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        sum->mean[set] = (sum->mean[set] * sum->n + k->change[set].value) / (sum->n + 1);
        if (sum->n == 0 || reach(&k->change[set]) > reach(&sum->widest[set]))
            sum->widest[set] = k->change[set];
    }
    sum->n++;
}

/* A grid may have the same draw in several blocks, and so may the sweep of controls: it counts once. */
cox_report_summary cox_report_summarize(const cox_report *r, const cox_report_cell *c, const char *kind)
{
    cox_report_summary sum = {0};
    size_t n_all = r->cells.n + r->controls.n, n_kept = 0;
    const cox_report_cell **kept = calloc(n_all + 1, sizeof *kept);
    for (size_t i = 0; i < n_all && kept; i++) {
        const cox_report_cell *k = i < r->cells.n ? &r->cells.items[i] : &r->controls.items[i - r->cells.n];
        if (strcmp(k->control, kind) != 0 || !cox_report_is_control_of(k, c)) continue;
        if (isnan(k->change[0].value) || isnan(k->change[1].value)) continue;
        size_t n = 0;
        while (n < n_kept && !is_same_draw(kept[n], k)) n++;
        if (n < n_kept) continue;
        kept[n_kept++] = k;
        add_control(&sum, k);
        sum.n_reach[COX_REPORT_A] += k->change[COX_REPORT_A].value <= c->change[COX_REPORT_A].high;
        sum.n_reach[COX_REPORT_B] += k->change[COX_REPORT_B].value >= c->change[COX_REPORT_B].low;
    }
    free(kept);
    return sum;
}

/* --- Cards --- */

static const char *words_of(const cox_interval *correlation)
{
    if (correlation->low > 0) return "somewhat, as it lies above 0";
    return correlation->high < 0 ? "it lies below 0" : "not shown, as it holds 0";
}

/* Of the family with the most experts. */
static void print_routing_card(FILE *file, const cox_report *r)
{
    int32_t widest = -1;
    cox_report_relation relations[COX_REPORT_N_SETS] = {{0}};
    for (int32_t family = 0; family < r->cells.n_families && r->routes.n > 0; family++) {
        const cox_report_relation a = cox_report_relate(r, family, COX_REPORT_A);
        if (a.n <= relations[COX_REPORT_A].n) continue;
        widest = family;
        relations[COX_REPORT_A] = a;
    }
    if (widest < 0 || isnan(relations[COX_REPORT_A].spearman.value)) return;
    relations[COX_REPORT_B] = cox_report_relate(r, widest, COX_REPORT_B);
    fputs("<div class=\"card\"><h3>Does routing tell where to steer?</h3>\n<p class=\"big\">\xcf\x81 ", file);
    cox_report_print_number(file, relations[COX_REPORT_A].spearman.value, true);
    fputs("</p>\n<p>95% interval ", file);
    cox_report_print_ends(file, &relations[COX_REPORT_A].spearman);
    fprintf(file,
            ", over %zu experts: %s.</p>\n<details><summary>more</summary><p>Rank correlation "
            "(Spearman\xe2\x80\x99s) of the size of an expert\xe2\x80\x99s routing "
            "difference with the largest fall of A\xe2\x80\x99s log-odds that steering it reaches within the "
            "KL limit; with the largest rise of B\xe2\x80\x99s: ",
            relations[COX_REPORT_A].n, words_of(&relations[COX_REPORT_A].spearman));
    cox_report_print_interval(file, &relations[COX_REPORT_B].spearman);
    fputs(". Near 0: no. (Family ", file);
    cox_xml_print(file, r->cells.families[widest]);
    fputs(", validation prompts.)</p></details></div>\n", file);
}

static void print_parts_card(FILE *file, const cox_report *r)
{
    int64_t reference = -2;
    const json_t *named = json_object_get(r->parts.about, "reference_layer");
    double sums[2] = {0, 0};
    if (json_is_integer(named)) reference = json_integer_value(named);
    for (size_t i = 0; i < r->parts.n; i++) { /* without its name: the layer whose share is the whole */
        const cox_report_part *p = &r->parts.items[i];
        if (reference == -2 && p->kind == COX_REPORT_AFTER && fabs(p->share - 1) < 1e-9) reference = p->layer;
    }
    for (size_t i = 0; i < r->parts.n; i++) {
        const cox_report_part *p = &r->parts.items[i];
        if (p->layer > reference) continue;
        if (p->kind == COX_REPORT_ATTENTION) sums[0] += p->share;
        if (p->kind == COX_REPORT_BLOCK) sums[1] += p->share;
    }
    if (r->parts.n == 0 || reference < 0) return;
    fputs("<div class=\"card\"><h3>Who writes the direction?</h3>\n<p class=\"big\">", file);
    cox_report_print_percent(file, sums[0], 0);
    fputs(" : ", file);
    cox_report_print_percent(file, sums[1], 0);
    fputs("</p>\n<p>Attention writes ", file);
    cox_report_print_percent(file, sums[0], 1);
    fputs(" and the experts ", file);
    cox_report_print_percent(file, sums[1], 1);
    fprintf(file, " of what A and B differ in along the direction after layer %d.</p></div>\n",
            (int)reference);
}

void cox_report_print_findings(FILE *file, const cox_report *r)
{
    fputs("<div class=\"cards findings\">\n", file);
    cox_report_print_cards(file, r);
    print_routing_card(file, r);
    print_parts_card(file, r);
    fputs("</div>\n", file);
}

/* --- Best of each family of blocks --- */

typedef struct scale {
    double low, high;
} scale;

static void widen(scale *s, const cox_interval *i)
{
    if (i->low < s->low) s->low = i->low;
    if (i->high > s->high) s->high = i->high;
}

static void print_rates(FILE *file, const cox_report *r, int64_t cell)
{
    for (int set = 0; set < COX_REPORT_N_SETS && r->rates.n_labels; set++) {
        fprintf(file, "<td class=\"rates\" data-name=\"answers, %c\">", "AB"[set]);
        bool has_any = false;
        for (size_t l = 0; l < r->rates.n_labels; l++) {
            const cox_report_rate *rate = cox_report_rate_of(&r->rates, cell, set, r->rates.labels[l]);
            if (!rate) continue;
            fprintf(file, "%s<span title=\"", has_any ? "<br/>" : "");
            fprintf(file, "%lld of %lld, 95%% interval %.0f to %.0f%%\">", (long long)rate->yes,
                    (long long)rate->asked, 100 * rate->rate.low, 100 * rate->rate.high);
            cox_xml_print(file, r->rates.labels[l]);
            fprintf(file, " %.0f%%</span>", 100 * rate->rate.value);
            has_any = true;
        }
        fputs("</td>", file);
    }
}

static void print_best_row(FILE *file, const cox_report *r, const cox_report_cell *c, int set, scale s)
{
    fputs("<tr><th>", file);
    cox_xml_print(file, c->family);
    fprintf(file, "</th><td>%s</td><td class=\"how\">", aims[set]);
    cox_report_print_how(file, c);
    fprintf(file, "</td><td class=\"n\" data-name=\"cell\">%lld</td>", (long long)c->number);
    for (int k = 0; k < COX_REPORT_N_SETS; k++) {
        fprintf(file, "<td class=\"n\" data-name=\"change of log-odds, %c\">", "AB"[k]);
        cox_report_print_interval(file, &c->change[k]);
        fputs("<br/>", file);
        cox_report_print_whiskers(file, &c->change[k], 1, k, s.low, s.high);
        fputs("</td>", file);
    }
    fputs("<td class=\"n\" data-name=\"KL\">", file);
    cox_report_print_number(file, c->kl, false);
    fputs("</td>", file);
    print_rates(file, r, c->number);
    fputs("</tr>\n", file);
}

void cox_report_print_families(FILE *file, const cox_report *r)
{
    int32_t n_families = r->cells.n_families;
    scale s = {0, 1e-9};
    for (int32_t k = 0; k < n_families * COX_REPORT_N_SETS; k++) {
        const cox_report_cell *c = cox_report_named(r, k / COX_REPORT_N_SETS, false, k % COX_REPORT_N_SETS);
        for (int set = 0; c && set < COX_REPORT_N_SETS; set++) widen(&s, &c->change[set]);
    }
    fputs(
        "<div class=\"scroll\"><table class=\"stack\"><thead><tr><th>family</th><th>aim</th><th>cell</th><th "
        "class=\"n\">number</th>"
        "<th class=\"n\">change of log-odds, A</th><th class=\"n\">B</th><th class=\"n\">KL</th>",
        file);
    if (r->rates.n_labels) fputs("<th>answers, A</th><th>answers, B</th>", file);
    fputs("</tr></thead>\n<tbody>\n", file);
    const json_t *clean = json_object_get(r->best, "clean");
    fprintf(file,
            "<tr><th>clean run</th><td></td><td class=\"how\">nothing is steered; mean log-odds: A %.3g, B "
            "%.3g</td><td></td><td></td>"
            "<td></td><td></td>",
            json_number_value(json_object_get(clean, "log_odds_a")),
            json_number_value(json_object_get(clean, "log_odds_b")));
    print_rates(file, r, -1);
    fputs("</tr>\n", file);
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        for (int32_t b = 0; b < n_families; b++) {
            const cox_report_cell *c = cox_report_named(r, b, false, set);
            if (c) print_best_row(file, r, c, set, s);
        }
    }
    fputs("</tbody></table></div>\n", file);
}

/* --- Controls --- */

static bool print_control_rows(FILE *file, const cox_report *r, const cox_report_cell *c, int set, scale s)
{
    bool has_any = false;
    for (int k = 0; k < N_KINDS; k++) {
        const cox_report_summary sum = cox_report_summarize(r, c, kinds[k]);
        if (sum.n == 0) continue;
        if (!has_any) {
            fputs("<tr class=\"head\"><th>", file);
            cox_xml_print(file, c->family);
            fprintf(file, "</th><td>%s</td><td class=\"how\">", aims[set]);
            cox_report_print_how(file, c);
            fputs("</td><td>the direction</td><td></td><td class=\"n\" data-name=\"change\">", file);
            cox_report_print_number(file, c->change[set].value, true);
            fputs("</td><td class=\"n\" data-name=\"95% interval\">", file);
            cox_report_print_interval(file, &c->change[set]);
            fputs("<br/>", file);
            cox_report_print_whiskers(file, &c->change[set], 1, set, s.low, s.high);
            fputs("</td></tr>\n", file);
        }
        has_any = true;
        fprintf(file,
                "<tr><td></td><td></td><td></td><td>%s</td><td class=\"n\" data-name=\"draws\">%d</td><td "
                "class=\"n\" data-name=\"mean change\">",
                cox_report_control_words(kinds[k]), (int)sum.n);
        cox_report_print_number(file, sum.mean[set], true);
        fputs("</td><td class=\"n\" data-name=\"farthest 95% interval\">", file);
        cox_report_print_interval(file, &sum.widest[set]);
        fputs("<br/>", file);
        cox_report_print_whiskers(file, &sum.widest[set], 1, set, s.low, s.high);
        fputs("</td></tr>\n", file);
    }
    return has_any;
}

void cox_report_print_controls(FILE *file, const cox_report *r)
{
    int32_t n_families = r->cells.n_families;
    scale s = {0, 1e-9};
    bool has_any = false;
    char *text = NULL;
    size_t n = 0;
    for (int32_t k = 0; k < n_families * COX_REPORT_N_SETS; k++) {
        const cox_report_cell *c = cox_report_named(r, k / COX_REPORT_N_SETS, false, k % COX_REPORT_N_SETS);
        if (c) widen(&s, &c->change[k % COX_REPORT_N_SETS]);
    }
    FILE *rows = open_memstream(&text, &n);
    for (int set = 0; set < COX_REPORT_N_SETS && rows; set++) {
        for (int32_t b = 0; b < n_families; b++) {
            const cox_report_cell *c = cox_report_named(r, b, false, set);
            if (c) has_any = print_control_rows(rows, r, c, set, s) || has_any;
        }
    }
    if (rows) fclose(rows);
    if (has_any) {
        fputs("<p>At the same place, scope and strength as the best cell of a family; the change is on A for "
              "what weakens, on B "
              "for what strengthens. Of several draws the mean, and the interval that reaches farthest from "
              "0.</p>\n"
              "<div class=\"scroll\"><table "
              "class=\"controls stack\"><thead><tr><th>family</th><th>aim</th><th>cell</th><th>steered "
              "with</th>"
              "<th class=\"n\">draws</th><th class=\"n\">mean change</th><th class=\"n\">farthest 95% "
              "interval</th></tr></thead>\n"
              "<tbody>\n",
              file);
        fputs(text, file);
        fputs("</tbody></table></div>\n", file);
    } else {
        fputs("<p class=\"none\">No control stands at the place, scope and strength of a block\xe2\x80\x99s "
              "best cell (blocks of the "
              "grid with \xe2\x80\x9c"
              "control\xe2\x80\x9d, or --controls DIR).</p>\n",
              file);
    }
    free(text);
}
