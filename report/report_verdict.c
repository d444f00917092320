/* What was found, first: a verdict in one or two sentences, and a card for each aim, at one expert and
 * anywhere. Of held-out prompts where there are answers to them, else of those on which plans were chosen,
 * and said to be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

/* What one plan does to the answers of the set it is about. */
typedef struct claim {
    int set;
    bool is_single;
    const cox_report_heldout *plan; /* NULL: of validation prompts */
    const cox_report_cell *cell;    /* NULL: the table does not say its places; then there is a plan */
    double before, after, n;        /* shares of answers that show the behaviour, NaN: none; of n prompts */
    cox_interval effect;            /* in points; of validation prompts the change of the log-odds */
    size_t n_draws, n_reach; /* random directions in its place, those that reach the effect's interval */
    cox_interval widest;     /* of these the one that reaches farthest */
    int n_plans;             /* that were judged, of which it is the best */
} claim;

static const char *const aims[] = {"Weaken", "Strengthen"}, *const verbs[] = {"weakens", "strengthens"};
static const char ARROW[] = " \xe2\x86\x92 ";

/* --- Claims --- */

static void add_rates(claim *c, const cox_report *r)
{
    const char *label = cox_report_label(r);
    const cox_report_rate *before = cox_report_rate_of(&r->rates, -1, c->set, label),
                          *after = cox_report_rate_of(&r->rates, c->cell->number, c->set, label);
    c->before = c->after = (double)NAN;
    if (!before || !after) return;
    c->before = before->rate.value;
    c->after = after->rate.value;
    c->n = (double)after->asked;
}

/* false: there is none. */
static bool find_claim(const cox_report *r, bool is_single, int set, claim *c)
{
    const cox_report_heldout *clean = cox_report_heldout_clean(r);
    *c = (claim){.set = set, .is_single = is_single};
    c->plan = cox_report_heldout_best(r, NULL, is_single, set, &c->n_plans);
    if (c->plan && clean && clean->n[set] > 0) {
        cox_report_draws d = cox_report_heldout_draws(r, c->plan, set, "random_direction");
        c->cell = cox_report_heldout_cell(r, c->plan);
        c->before = clean->yes[set] / clean->n[set];
        c->n = c->plan->n[set];
        c->after = c->plan->yes[set] / c->n;
        c->effect = c->plan->effect[set];
        c->n_draws = d.n, c->n_reach = d.n_reach, c->widest = d.widest;
        return true;
    }
    c->plan = NULL;
    c->cell = r->named[is_single][set];
    if (!c->cell) return false;
    const cox_report_summary sum = cox_report_summarize(r, c->cell, "random_direction");
    c->effect = c->cell->change[set];
    c->n_draws = (size_t)sum.n, c->n_reach = (size_t)sum.n_reach[set], c->widest = sum.widest[set];
    add_rates(c, r);
    return true;
}

static bool is_certain(const claim *c)
{
    return c->set == COX_REPORT_A ? c->effect.high < 0 : c->effect.low > 0;
}

/* The plan of the single expert is the best of all. */
static bool is_same(const claim *x, const claim *y)
{
    return x->plan ? x->plan == y->plan : !y->plan && x->cell == y->cell;
}

/* --- Words --- */

static void print_effect(FILE *file, const claim *c, const cox_interval *effect)
{
    if (c->plan) {
        cox_report_print_points(file, effect);
        return;
    }
    fputs("log-odds ", file);
    cox_report_print_interval(file, effect);
}

static void print_label(FILE *file, const cox_report *r)
{
    fputs("<b>", file);
    cox_xml_print(file, cox_report_label(r));
    fputs("</b>", file);
}

static void print_shares(FILE *file, const claim *c)
{
    cox_report_print_percent(file, c->before, 0);
    fputs(ARROW, file);
    cox_report_print_percent(file, c->after, 0);
}

/* "layer 5, expert 3"; of a plan at no single expert its family too. */
static void print_name(FILE *file, const cox_report *r, const claim *c)
{
    fputs("<b>", file);
    if (!c->is_single) cox_xml_print(file, c->cell ? c->cell->family : c->plan->family);
    if (!c->is_single) fputs(", ", file);
    if (c->cell)
        cox_report_print_place(file, c->cell);
    else
        fprintf(file, "layer %s, expert %s", cox_report_heldout_text(r, c->plan, "layer"),
                cox_report_heldout_text(r, c->plan, "expert"));
    fputs("</b>", file);
}

static void print_means(FILE *file, const claim *c)
{
    if (!c->cell) return;
    fputs(" (", file);
    cox_report_print_operation(file, c->cell);
    fputs(", strength ", file);
    cox_report_print_strength(file, c->cell->strength);
    fputs(")", file);
}

static const char *prompts_of(const claim *c)
{
    return c->plan ? "held-out" : "validation";
}

/* Do random directions of the same norm the same? */
static void print_random(FILE *file, const claim *c)
{
    if (c->n_draws == 0) {
        fputs("no random direction was tried there", file);
        return;
    }
    bool is_one = c->n_draws == 1;
    if (!is_certain(c))
        fprintf(file, is_one ? "the random direction there: " : "%zu random directions there at most: ",
                c->n_draws);
    else if (c->n_reach == 0)
        fprintf(file,
                is_one ? "<b>the random direction there does not do the same</b>: "
                       : "<b>none of %zu random directions there does the same</b>, the farthest: ",
                c->n_draws);
    else
        fprintf(file,
                is_one ? "<b>but the random direction there may do the same</b>: "
                       : "<b>but of %zu random directions there %zu may do the same</b>, the farthest: ",
                c->n_draws, c->n_reach);
    print_effect(file, c, &c->widest);
}

/* "100% -> 39% of 100 held-out prompts of A (-61 points [-70, -51])" */
static void print_result(FILE *file, const claim *c)
{
    if (isnan(c->before)) {
        print_effect(file, c, &c->effect);
        fprintf(file, " on %s prompts of %c", prompts_of(c), "AB"[c->set]);
        return;
    }
    fputs("<b>", file);
    print_shares(file, c);
    fprintf(file, "</b> of %.0f %s prompts of %c (", c->n, prompts_of(c), "AB"[c->set]);
    print_effect(file, c, &c->effect);
    fputc(')', file);
}

/* --- The verdict --- */

static void print_sentence(FILE *file, const cox_report *r, const claim *c)
{
    if (is_certain(c)) {
        fputs(c->is_single ? "Of single experts, " : "In any place, ", file);
    } else {
        fprintf(file, "%s was found that surely %s ",
                c->is_single ? "<b>No single expert</b>" : "In any place <b>nothing</b>", verbs[c->set]);
        print_label(file, r);
        fputs("; the best is ", file);
    }
    print_name(file, r, c);
    print_means(file, c);
    if (is_certain(c)) {
        fprintf(file, " %s ", verbs[c->set]);
        print_label(file, r);
        fputs(" most", file);
    }
    fputs(": ", file);
    print_result(file, c);
    fputs("; ", file);
    print_random(file, c);
    if (c->plan && c->plan->calm != COX_REPORT_NOT_SAID)
        fprintf(file, "; the place is <b>%s</b>", c->plan->calm == COX_REPORT_CALM ? "calm" : "not calm");
    fputs(". ", file);
}

void cox_report_print_verdict(FILE *file, const cox_report *r)
{
    claim claims[COX_REPORT_N_SETS][2];
    bool has[COX_REPORT_N_SETS][2], is_sure[COX_REPORT_N_SETS] = {false, false};
    for (int k = 0; k < 2 * COX_REPORT_N_SETS; k++) {
        claim *c = &claims[k / 2][k % 2];
        has[k / 2][k % 2] = find_claim(r, k % 2 == 1, k / 2, c);
        is_sure[k / 2] = is_sure[k / 2] || (has[k / 2][k % 2] && is_certain(c));
    }
    bool has_a = has[COX_REPORT_A][0] || has[COX_REPORT_A][1]; /* else B, or B where only that is sure */
    int set = !has_a || (!is_sure[COX_REPORT_A] && is_sure[COX_REPORT_B]) ? COX_REPORT_B : COX_REPORT_A;
    const bool is_repeated = has[set][0] && has[set][1] && is_same(&claims[set][0], &claims[set][1]);
    fputs("<p class=\"verdict\">", file);
    if (has[set][1]) print_sentence(file, r, &claims[set][1]);
    if (has[set][0] && !is_repeated) print_sentence(file, r, &claims[set][0]);
    if (is_repeated && is_certain(&claims[set][0])) fputs("Nothing in another place does more.", file);
    if (!has[set][0] && !has[set][1]) {
        fputs("Nothing that was tried weakens ", file);
        print_label(file, r);
        fputs(" on A, or strengthens it on B.", file);
    }
    fputs("</p>\n", file);
}

/* --- Cards --- */

/* Other labels: a plan that ends what it should and leaves no answers has broken the model. */
static void print_others(FILE *file, const cox_report *r, const claim *c, int set)
{
    char shown[128];
    cox_report_label_well_shown(r, shown, sizeof shown);
    const char *const judged[] = {"answered", "well_formed", shown, "fell_apart"};
    size_t n = c->plan ? sizeof judged / sizeof *judged : r->rates.n_labels;
    const cox_report_heldout *clean = cox_report_heldout_clean(r);
    for (size_t l = 0; l < n; l++) {
        const char *label = c->plan ? judged[l] : r->rates.labels[l];
        double before = (double)NAN, after = (double)NAN;
        if (c->plan) {
            before = cox_report_heldout_share(r, clean, set, label);
            after = cox_report_heldout_share(r, c->plan, set, label);
        } else if (strcmp(label, cox_report_label(r)) != 0) {
            const cox_report_rate *x = cox_report_rate_of(&r->rates, -1, set, label),
                                  *y = cox_report_rate_of(&r->rates, c->cell->number, set, label);
            if (x && y) before = x->rate.value, after = y->rate.value;
        }
        if (isnan(before) || isnan(after)) continue;
        cox_report_print_change(file, label, before, after);
        fputc(' ', file);
    }
}

/* The other set: what harm is done. */
static void print_harm(FILE *file, const cox_report *r, const claim *c)
{
    const cox_report_heldout *clean = cox_report_heldout_clean(r);
    int other = 1 - c->set;
    if (!c->plan || !(c->plan->n[other] > 0) || !(clean->n[other] > 0)) return;
    fprintf(file, "<p>On %c: ", "AB"[other]);
    cox_report_print_change(file, cox_report_label(r), clean->yes[other] / clean->n[other],
                            c->plan->yes[other] / c->plan->n[other]);
    fputc(' ', file);
    print_others(file, r, c, other);
    fputs("</p>\n", file);
}

static void print_controls(FILE *file, const cox_report *r, const claim *c)
{
    static const char *const kinds[] = {"random_direction", "random_expert"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (c->plan) {
            cox_report_draws d = cox_report_heldout_draws(r, c->plan, c->set, kinds[k]);
            if (d.n == 0) continue;
            fprintf(file, "<p>Control, %s: ", cox_report_control_words(kinds[k]));
            cox_report_print_draws(file, &d);
            if (d.n > 1) fputs("; the draw that reaches farthest: ", file);
            if (d.n > 1) cox_report_print_interval(file, &d.widest);
        } else {
            const cox_report_summary sum = cox_report_summarize(r, c->cell, kinds[k]);
            if (sum.n == 0) continue;
            fprintf(file, "<p>Control, %s: ", cox_report_control_words(kinds[k]));
            cox_report_print_interval(file, &sum.widest[c->set]);
            if (sum.n > 1) fputs(" (the draw that reaches farthest)", file);
        }
        fputs(".</p>\n", file);
    }
}

static void print_more(FILE *file, const cox_report *r, const claim *c)
{
    fputs("<details><summary>more</summary>\n", file);
    if (c->plan) {
        cox_interval rate = cox_interval_wilson((int64_t)c->plan->yes[c->set], (int64_t)c->n);
        fprintf(file,
                "<p>%.0f of %.0f answers with it (95%% interval %.0f to %.0f%%): ", c->plan->yes[c->set],
                c->n, 100 * rate.low, 100 * rate.high);
        cox_report_print_interval(file, &c->effect);
        fputs(" points.</p>\n", file);
    }
    print_harm(file, r, c);
    print_controls(file, r, c);
    fputs("<p class=\"soft\">", file);
    if (c->plan) {
        cox_xml_print(file, c->plan->family);
        fputs(": ", file);
        cox_report_print_heldout_place(file, r, c->plan);
        fputs(". Chosen on validation prompts", file);
        if (c->n_plans > 1)
            fprintf(file, "; of the %d plans that were judged here the one with the largest effect",
                    c->n_plans);
    } else {
        cox_report_print_how(file, c->cell);
        fprintf(file, " (cell %lld), KL ", (long long)c->cell->number);
        cox_report_print_number(file, c->cell->kl, false);
    }
    fputs(".</p></details></div>\n", file);
}

static void print_card(FILE *file, const cox_report *r, const claim *c, bool is_best_of_all)
{
    fprintf(file, "<div class=\"card\"><h3>%s%s%s</h3>\n<p>", aims[c->set],
            c->is_single ? ", one expert" : ", any place", is_best_of_all ? " (the best of any place)" : "");
    print_name(file, r, c);
    print_means(file, c);
    fputs("</p>\n<p class=\"big\">", file);
    if (isnan(c->before))
        cox_report_print_number(file, c->effect.value, true);
    else
        print_shares(file, c);
    fputs("</p>\n<p>", file);
    print_label(file, r);
    fputs(", ", file);
    if (c->n > 0) fprintf(file, "%.0f ", c->n);
    fprintf(file, "%s prompts of %c: ", prompts_of(c), "AB"[c->set]);
    print_effect(file, c, &c->effect);
    fputs(c->plan ? "</p>\n<p>" : ", on which the cell was chosen</p>\n<p>", file);
    print_random(file, c);
    if (c->plan) {
        cox_report_print_calm(file, c->plan);
        cox_report_print_passed(file, r, c->plan, 2);
    }
    fputs("</p>\n<p>", file);
    print_others(file, r, c, c->set);
    fputs("</p>\n", file);
    print_more(file, r, c);
}

void cox_report_print_cards(FILE *file, const cox_report *r)
{
    for (int set = 0; set < COX_REPORT_N_SETS; set++) {
        claim single, any;
        bool has_single = find_claim(r, true, set, &single), has_any = find_claim(r, false, set, &any);
        bool is_one = has_single && has_any && is_same(&single, &any);
        if (has_single) print_card(file, r, &single, is_one);
        if (has_any && !is_one) print_card(file, r, &any, false);
    }
}
