/*
 * A study as one page: what a sweep measured, with controls, routing differences and the parts of a direction
 * beside it. Pure functions from what the commands wrote to tables in memory (report_cells.c,
 * report_inputs.c, report_judged.c), to HTML (report_page.c, report_verdict.c, report_findings.c,
 * report_heldout.c, report_answers.c, report_maps.c, report_charts.c) and to records (report_data.c). The
 * page asks for nothing from anywhere and is whole without its one script, which sorts and filters tables;
 * equal inputs give equal bytes.
 */
#ifndef COX_REPORT_H
#define COX_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "base/status.h"
#include "report/csv.h"
#include "study/metrics.h"

/* What steering aims at: weaken the behaviour on the prompts of A, strengthen it on those of B. */
enum { COX_REPORT_A, COX_REPORT_B, COX_REPORT_N_SETS };

/* A row of a sweep's cells.csv; texts point into the table. */
typedef struct cox_report_cell {
    int64_t number;
    const char *block, *site, *op, *control, *expert_text, *weighting, *positions;
    const char *family;   /* of the block: its name up to the first dot; owned by the table */
    int32_t family_index; /* in the order of the file */
    const json_t *apply;  /* where else the block steers, as its grid says; NULL: nowhere */
    int32_t apply_index;  /* of the first block of the grid that steers there; -1: nowhere else */
    int32_t seed, layer, expert, source;    /* expert -1: none, or all together */
    double strength, kl;                    /* kl NaN: not finite */
    cox_interval change[COX_REPORT_N_SETS]; /* of the mean log-odds against the clean run; NaN: not finite */
} cox_report_cell;

/* Same group, layer and expert. best: on A the lowest change, on B the highest, of the cells that count (KL);
 * NULL: none. */
typedef struct cox_report_place {
    int32_t layer, expert;
    size_t first, n; /* range of cox_report_cells.items */
    const cox_report_cell *best[COX_REPORT_N_SETS];
} cox_report_place;

/* Same family of blocks, site, operation, `apply`, control, weighting and positions: one map, one set of
 * curves. A grid may so spread strengths over several blocks ("expert.1", "expert.5"), each with its own
 * share of stage 2. */
typedef struct cox_report_group {
    size_t first, n, first_place, n_places;
    int32_t n_experts; /* the highest, and one; 0: its cells have no single expert */
} cox_report_group;

typedef struct cox_report_cells {
    cox_csv table;
    cox_report_cell *items; /* [n], by group, then layer, expert, source, seed, strength */
    size_t n;
    cox_report_group *groups; /* [n_groups] */
    size_t n_groups;
    cox_report_place *places; /* [n_places], by group, layer, expert */
    size_t n_places;
    char **families; /* [n_families] */
    int32_t n_families;
    double max_kl[COX_REPORT_N_SETS]; /* cells with more do not count; INFINITY: all do */
} cox_report_cells;

/* Takes the table over, also on failure. grid: as a sweep's journal has it, NULL is allowed; outlives the
 * cells. max_kl: as above. Errors: BAD_FILE (file, line and column), NO_MEMORY. */
cox_status cox_report_cells_read(cox_report_cells *cells, cox_csv *table, const json_t *grid,
                                 const double max_kl[COX_REPORT_N_SETS]);
void cox_report_cells_free(cox_report_cells *cells);

/* Same group, layer, expert, source and seed: a curve over strengths. The end of the one that begins at i. */
size_t cox_report_curve_end(const cox_report_cells *cells, const cox_report_place *place, size_t i);

/* Does a cell's KL divergence let it count for this aim? */
bool cox_report_counts(const cox_report_cells *cells, const cox_report_cell *cell, int set);
bool cox_report_is_control(const cox_report_cell *cell);
const cox_report_cell *cox_report_cell_numbered(const cox_report_cells *cells, int64_t number); /* or NULL */
/* A control at the same place, scope and strength as the cell. */
bool cox_report_is_control_of(const cox_report_cell *control, const cox_report_cell *cell);

/* A row of a sweep's answers.csv. */
typedef struct cox_report_rate {
    int64_t cell; /* -1: the clean run */
    const char *set, *label;
    int64_t yes, asked;
    cox_interval rate;
} cox_report_rate;

enum { COX_REPORT_MAX_LABELS = 64 };
typedef struct cox_report_rates {
    cox_csv table;
    cox_report_rate *items; /* [n] as in the file */
    size_t n;
    const char *labels[COX_REPORT_MAX_LABELS]; /* [n_labels] in the order of the file */
    size_t n_labels;
} cox_report_rates;
/* As cox_report_cells_read. */
cox_status cox_report_rates_read(cox_report_rates *rates, cox_csv *table);
void cox_report_rates_free(cox_report_rates *rates);
/* NULL: that cell has no answers, or was not asked. */
const cox_report_rate *cox_report_rate_of(const cox_report_rates *rates, int64_t cell, int set,
                                          const char *label);

/* Of an expert, how much more often the tokens of A have it as their first choice than those of B. */
typedef struct cox_report_route {
    int32_t layer, expert;
    cox_interval difference;
} cox_report_route;
typedef struct cox_report_routes {
    cox_report_route *items; /* [n] */
    size_t n;
    json_t *about; /* what else the file says: an object, or NULL */
} cox_report_routes;

/* Named as in the files of `decompose`. */
typedef enum cox_report_part_kind {
    COX_REPORT_EMBEDDING,
    COX_REPORT_ATTENTION,
    COX_REPORT_BLOCK,
    COX_REPORT_AFTER,
    COX_REPORT_EXPERT
} cox_report_part_kind;

/* What a part of the model writes along a direction; as docs/formats.md, "Decompositions". */
typedef struct cox_report_part {
    cox_report_part_kind kind;
    int32_t layer, expert; /* -1: none */
    double mean[COX_REPORT_N_SETS], share;
    cox_interval difference;
    bool has_effect;
    cox_interval effect[COX_REPORT_N_SETS]; /* of ablating the direction there alone, on the log-odds */
} cox_report_part;
typedef struct cox_report_parts {
    cox_report_part *items; /* [n] */
    size_t n;
    json_t *about;
} cox_report_parts;

/* What `routes` and `decompose` wrote with --json or --csv; which one, the text tells. Takes the text over (n
 * bytes and a NUL, malloc'ed). Errors, naming file, and line and column or key: BAD_FILE, NO_MEMORY. */
cox_status cox_report_routes_read(cox_report_routes *routes, char *text, size_t n, const char *where);
cox_status cox_report_parts_read(cox_report_parts *parts, char *text, size_t n, const char *where);
void cox_report_routes_free(cox_report_routes *routes);
void cox_report_parts_free(cox_report_parts *parts);
/* "attention" and so on. */
const char *cox_report_part_name(const cox_report_part *part);

/* Do random directions in a place do little to validation answers? */
typedef enum cox_report_calm { COX_REPORT_NOT_SAID, COX_REPORT_NOT_CALM, COX_REPORT_CALM } cox_report_calm;

/* A cell that a plan was not taken from, because its place is not calm. */
typedef struct cox_report_passed {
    int64_t cell;
    cox_interval change; /* what random directions there change, in points */
} cox_report_passed;

/* A plan's answers to held-out prompts: a row of the table that scripts/study writes (docs/formats.md,
 * "Studies"). */
typedef struct cox_report_heldout {
    const char *family, *aim, *control; /* aim "": the clean run; control "": the direction itself */
    double n[COX_REPORT_N_SETS],
        yes[COX_REPORT_N_SETS];             /* answers, those that show the behaviour; n NaN: not asked */
    cox_interval effect[COX_REPORT_N_SETS]; /* in points, against the clean run */
    cox_report_calm calm;
    cox_interval calm_change;  /* as cox_report_passed.change, of the place itself; NaN: not said */
    cox_report_passed *passed; /* [n_passed] those that would have been taken before it */
    size_t n_passed;
} cox_report_heldout;
typedef struct cox_report_heldouts {
    cox_csv table;
    const char *behaviour;     /* the label that `yes` counts */
    cox_report_heldout *items; /* [n] as in the file */
    size_t n;
} cox_report_heldouts;
/* As cox_report_cells_read. */
cox_status cox_report_heldouts_read(cox_report_heldouts *heldouts, cox_csv *table);
void cox_report_heldouts_free(cox_report_heldouts *heldouts);

typedef struct cox_report {
    const char *title;
    const char *behaviour; /* the label that the sweep is about; NULL: its files do not say */
    const json_t *run;     /* the sweep's parameters, from its journal */
    const json_t *best;    /* its best.json: the clean means; plans of the cells that were answered */
    cox_report_cells cells;
    cox_report_cells controls; /* of a second sweep; n 0: none */
    const json_t *controls_run;
    cox_report_rates rates;                   /* n 0: no answers */
    const json_t *answers;                    /* the lines of stage2.jsonl, a list; NULL: none */
    const json_t *prompts[COX_REPORT_N_SETS]; /* lists of texts; NULL: not given */
    cox_report_routes routes;                 /* n 0: not given */
    cox_report_parts parts;                   /* likewise */
    cox_report_heldouts heldouts;             /* likewise */
    int32_t n_rows;                           /* of tables that leave something out */
    /* What the page names, by is_single and aim: filled by cox_report_print for its sections. */
    const cox_report_cell *named[2][COX_REPORT_N_SETS];
} cox_report;

/* The cell of the sweep that a row is about (of a control: that it stands beside), by family, place, scope
 * and strength; NULL: none, or the table has no columns of places. */
const cox_report_cell *cox_report_heldout_cell(const cox_report *report, const cox_report_heldout *heldout);
/* Every plan of the table is a cell of the sweep, where the table says what its plans are, and so is what was
 * passed over. Errors, naming file and line: INVALID. */
cox_status cox_report_heldouts_check(const cox_report *report);
/* The clean run; NULL: the table has none. */
const cox_report_heldout *cox_report_heldout_clean(const cox_report *report);
/* Is it a plan, with answers, of that aim? */
bool cox_report_is_plan(const cox_report_heldout *heldout, int set);
/* Of the judged plans (family NULL: of any; is_single: at one expert) the one with the largest effect. NULL:
 * there is none. [out] *n_plans, or NULL: of how many. */
const cox_report_heldout *cox_report_heldout_best(const cox_report *report, const char *family,
                                                  bool is_single, int set, int *n_plans);
/* Of a row the share of answers with a label; NaN: the rules do not ask, or the table does not say. */
double cox_report_heldout_share(const cox_report *report, const cox_report_heldout *heldout, int set,
                                const char *label);
/* A column's text, "" where there is no such column. */
const char *cox_report_heldout_text(const cox_report *report, const cox_report_heldout *heldout,
                                    const char *column);

/* What controls of one kind do beside a plan. */
enum { COX_REPORT_MAX_DRAWS = 64 };
typedef struct cox_report_draws {
    size_t n, n_reach;                        /* n_reach: that reach the plan's interval */
    double yes, mean;                         /* of answers that show it, of effects: the mean over draws */
    double least, most;                       /* effects of draws */
    cox_interval widest;                      /* the interval that reaches farthest from 0 */
    cox_interval drawn[COX_REPORT_MAX_DRAWS]; /* the first of them, for the picture */
} cox_report_draws;
cox_report_draws cox_report_heldout_draws(const cox_report *report, const cox_report_heldout *plan, int set,
                                          const char *kind);

/* The label that the report is about: of the sweep, of the held-out table, or the first that was asked. */
const char *cox_report_label(const cox_report *report);
/* The label of answers that show the behaviour in good form, as scripts/study has it. */
void cox_report_label_well_shown(const cox_report *report, char *out, size_t n);

/* The page. Errors of the file are the caller's to ask for (ferror). */
void cox_report_print(FILE *file, const cox_report *report);
/* The same numbers: CSV with a line for each number that has an interval; JSON (owned by the caller; NULL:
 * out of memory). */
void cox_report_print_csv(FILE *file, const cox_report *report);
json_t *cox_report_json(const cox_report *report);

/* --- Sections, for the page --- */

/* One or two sentences: what steers, where, how strongly, how sure, and whether random directions do the
 * same. */
void cox_report_print_verdict(FILE *file, const cox_report *report);
void cox_report_print_cards(FILE *file, const cox_report *report); /* the same, of either aim */
void cox_report_print_findings(FILE *file, const cox_report *report);
void cox_report_print_heldouts(FILE *file, const cox_report *report);
void cox_report_print_families(FILE *file, const cox_report *report);
void cox_report_print_controls(FILE *file, const cox_report *report);
void cox_report_print_answers(FILE *file, const cox_report *report);
void cox_report_print_maps(FILE *file, const cox_report *report);
void cox_report_print_layers(FILE *file, const cox_report *report);
void cox_report_print_curves(FILE *file, const cox_report *report);
void cox_report_print_scatters(FILE *file, const cox_report *report);
void cox_report_print_parts(FILE *file, const cox_report *report);

/* --- What sections share --- */

/* The cell to show of a family of blocks (-1: of all that steer with a direction, is_single: one expert
 * only). Among cells with answers by them: on A the lowest rate of the behaviour's label and of answers that
 * fell apart together, on B the highest rate less those that fell apart; else by the change of the log-odds.
 * NULL: none that does what is aimed at. */
const cox_report_cell *cox_report_pick(const cox_report *report, int32_t family, bool is_single, int set);
/* The one cell that verdict, cards, tables and maps name: that of the judged plan with the largest effect, or
 * without held-out answers of it the cell to show. */
const cox_report_cell *cox_report_named(const cox_report *report, int32_t family, bool is_single, int set);
/* Does a group hold one of report->named? */
bool cox_report_has_named(const cox_report *report, const cox_report_group *group);
/* <details> around a panel of a group; those that are not open show their heading. */
void cox_report_panel_begin(FILE *file, const cox_report *report, const cox_report_group *group,
                            bool is_open);
void cox_report_panel_end(FILE *file);
/* The page's script, and its SHA-256 in base64 for the Content-Security-Policy ([out] 45 characters). */
extern const char cox_report_script[];
void cox_report_script_hash(char out[45]);

/* What controls of one kind ("random_direction") do at a cell's place, scope and strength: draws, each
 * distinct plan counted once; mean changes; the interval that reaches farthest from 0. n 0: there is none. */
typedef struct cox_report_summary {
    int32_t n, n_reach[COX_REPORT_N_SETS]; /* n_reach: draws that reach the cell's interval */
    double mean[COX_REPORT_N_SETS];
    cox_interval widest[COX_REPORT_N_SETS];
} cox_report_summary;
cox_report_summary cox_report_summarize(const cox_report *report, const cox_report_cell *cell,
                                        const char *kind);

/* Spearman's rank correlation, over the n experts that have both, of the size of an expert's routing
 * difference and the largest change in the aim's direction (on A a fall, on B a rise; at least 0) that any
 * counting cell of a family's directions reaches there, with the interval of Bonett and Wright (Psychometrika
 * 65, 2000); as scripts/study has it. NaN: n below COX_REPORT_LEAST_EXPERTS, or all equal. */
enum { COX_REPORT_LEAST_EXPERTS = 10 };
typedef struct cox_report_relation {
    size_t n;
    cox_interval spearman;
} cox_report_relation;
cox_report_relation cox_report_relate(const cox_report *report, int32_t family, int set);

/* Words for text and titles: "layer 2, expert 13"; family, weighting and positions; "+1.2 [+0.8, +1.6]"; "95%
 * [81, 99]". */
void cox_report_print_place(FILE *file, const cox_report_cell *cell);
void cox_report_print_operation(FILE *file, const cox_report_cell *cell); /* "add at expert_out, soft" */
void cox_report_print_group(FILE *file, const cox_report_cell *cell);
/* Where and how, for people who want to find it again. */
void cox_report_print_how(FILE *file, const cox_report_cell *cell);
const char *cox_report_control_words(const char *kind); /* "random direction of the same norm" */
/* "answered 3% to 96%", with an arrow for the to. */
void cox_report_print_change(FILE *file, const char *label, double before, double after);
void cox_report_print_number(FILE *file, double value, bool has_sign);
void cox_report_print_strength(FILE *file, double strength);
void cox_report_print_source(FILE *file,
                             const cox_report_cell *cell); /* ", vector of token -1"; nothing without */
/* That a file without `about` names no model; nothing where there is one. */
void cox_report_print_unnamed(FILE *file, const json_t *about);
/* A share as "12%", a minus as wide as a plus; n_digits behind the point. */
void cox_report_print_percent(FILE *file, double share, int n_digits);
/* n intervals as a small picture, on one scale from low to high that holds 0. */
void cox_report_print_whiskers(FILE *file, const cox_interval *intervals, size_t n, int set, double low,
                               double high);
void cox_report_print_interval(FILE *file, const cox_interval *interval);
void cox_report_print_ends(FILE *file, const cox_interval *interval); /* "[+0.8, +1.6]" */
/* "-61 points [-70, -51]" of an interval in points. */
void cox_report_print_points(FILE *file, const cox_interval *points);
/* ": calm (...)": what random directions did in the plan's place; nothing where the table does not say. */
void cox_report_print_calm(FILE *file, const cox_report_heldout *plan);
/* What was passed over for a plan, and why; at most n_shown places. */
void cox_report_print_passed(FILE *file, const cox_report *report, const cox_report_heldout *plan,
                             size_t n_shown);
/* "-0.5 points on average of 8 draws, from -2 to 0"; of one draw its effect and interval. */
void cox_report_print_draws(FILE *file, const cox_report_draws *draws);
/* Where a judged plan steers: its cell's words, or the table's. */
void cox_report_print_heldout_place(FILE *file, const cox_report *report, const cox_report_heldout *plan);

#endif
