/*
 * A grid of plans (study/sweep_grid.h) over two sets of prompts, into a folder. And what its files share:
 * sweep.c (the two stages), sweep_inputs.c (what it reads, the vectors of controls), sweep_tables.c (tables,
 * choice of cells), sweep_answers.c (judging).
 */
#ifndef COX_STUDY_SWEEP_H
#define COX_STUDY_SWEEP_H

#include "study/cell_runner.h"
#include "study/prompts.h"
#include "run/run.h"
#include "model/tokenizer.h"
#include "study/metrics.h"
#include "study/rules.h"
#include "study/sweep_grid.h"

/* The sets of prompts in the order of results. */
enum { COX_SWEEP_A, COX_SWEEP_B, COX_SWEEP_NEUTRAL };

typedef struct cox_sweep_options {
    const char *grid, *rules;
    const char *prompts[2], *neutral; /* files of class a and class b; NULL: KL is measured on those of b */
    int64_t limit;                    /* prompts of each; 0: all */
    const char *output;               /* the folder of the results, made if need be */
    bool begins_anew;                 /* whatever is there; else a sweep that was stopped goes on */
    bool forces_steering;             /* vectors of another model or tokenizer are taken too */
    bool wants_digest;                /* of the logits of every prompt */
    int64_t n_best,
        max_tokens; /* cells of each block whose answers are generated, and how long these may be */
    double max_kl;  /* cells above it are left out of the choice */
} cox_sweep_options;

typedef struct cox_swept {
    bool has_answers;      /* stage 2 has run */
    double times_computed; /* rows computed, by those that had to be: above 1 where the KV cache did not hold
                              all prompts */
} cox_swept;

/* What a sweep wants of its run where that was not said: many short prompts at once, and room for stored
 * layers. */
void cox_sweep_prepare_run(cox_run_options *run);

/*
 * All of it, or, after a signal (cluster/drain.h), as far as it got: the same call goes on. [out] *swept: on
 * rank 0. Ends with cox_run_finish. Collective. Errors: those of cox_sweep_read_inputs, of results
 * (run/results.h) and of the engine, REQUEUE (stopped by a signal).
 */
cox_status cox_sweep_run(cox_run *run, const cox_sweep_options *options, cox_swept *swept);

/* The plan of one cell, its paths absolute, without running anything. [out] *plan: on rank 0, owned by the
 * caller. Collective. Errors: INVALID (there is no such cell), those of cox_sweep_read_inputs. */
cox_status cox_sweep_show(cox_run *run, const cox_sweep_options *options, int64_t cell, json_t **plan);

/* --- What its files share --- */

typedef struct cox_sweep {
    const cox_sweep_options *options; /* borrowed */
    cox_run *run;
    cox_sweep_grid *grid;
    char *folder;  /* of the grid's file, absolute, without links */
    char *home;    /* of the results, likewise */
    char *randoms; /* absolute path of the file of controls' vectors, which is there */
    cox_rules *rules;
    cox_prompts sets[COX_CELL_MAX_SETS];
    int32_t n_sets;        /* 2, or 3 with neutral ones */
    uint8_t *first_tokens; /* [vocab_size] */
    cox_tokenizer *words;
    char tokenizer[65]; /* fingerprint */
} cox_sweep;

/* On every coordinator: grid, rules, prompts. On rank 0 also randoms.safetensors, if a block wants it. Errors
 * name the file. */
cox_status cox_sweep_read_inputs(cox_sweep *sweep);
cox_status cox_sweep_write_randoms(const cox_sweep *sweep);
void cox_sweep_free_inputs(cox_sweep *sweep);

/* "<output>/<name>"; malloc'ed. NULL: out of memory. */
char *cox_sweep_path(const cox_sweep *sweep, const char *name);
/* The plan of a cell; owned by the caller. Paths of vectors are absolute, or, is_at_home, as a file in the
 * folder of the results has them, so that it can be moved together with the vectors. A path that the grid has
 * absolute stays so. NULL: out of memory. */
json_t *cox_sweep_plan(const cox_sweep *sweep, const cox_sweep_cell *cell, bool is_at_home);
/* Of a block's vector file; likewise. */
char *cox_sweep_vectors(const cox_sweep *sweep, const cox_sweep_block *block);
/* "a", "b", "neutral" */
const char *cox_sweep_set_name(int32_t set);
/* Writes <output>/<name> beside and renames. Errors: IO, NO_MEMORY. */
cox_status cox_sweep_write_file(const cox_sweep *sweep, const char *name, const char *text, size_t n);

/* What stage 1 found of a cell: changes against the clean run, paired by prompt. */
typedef struct cox_sweep_row {
    int64_t cell;
    double log_odds_a, log_odds_b;   /* means; NaN: some logits were not finite, and so are the changes */
    cox_interval change_a, change_b; /* of the mean log-odds, bootstrap over prompts */
    double kl;                       /* mean over the neutral prompts, or B's without them */
    int32_t n_idle;
} cox_sweep_row;

typedef struct cox_sweep_table {
    cox_sweep_row *rows; /* [n] by cell; n is the grid's n_cells when the sweep is complete */
    int64_t n;
    double clean_a, clean_b; /* mean log-odds */
} cox_sweep_table;

/* From the lines of stage1.jsonl, in any order: what it holds depends on the results alone, not on when and
 * where they were made. [out] table->rows malloc'ed. Rank 0. Errors: IO, BAD_FILE, NO_MEMORY. */
cox_status cox_sweep_read_table(const cox_sweep *sweep, cox_sweep_table *table);

/* cells.csv. Errors: IO, NO_MEMORY. */
cox_status cox_sweep_write_csv(const cox_sweep *sweep, const cox_sweep_table *table);

/*
 * Cells whose answers are worth a look: of each block with directions the n_best that weaken the behaviour
 * most (lowest change on A; KL at most max_kl) and the n_best that strengthen it most (highest change on B;
 * with neutral prompts, KL at most max_kl), and every control at the same place, scope and strength.
 * [out] *cells: [*n] ascending, malloc'ed. Errors: NO_MEMORY.
 */
cox_status cox_sweep_choose(const cox_sweep *sweep, const cox_sweep_table *table, int64_t **cells,
                            int64_t *n);

/* best.json: the chosen cells, with places, numbers and plans. Errors: IO, NO_MEMORY. */
cox_status cox_sweep_write_best(const cox_sweep *sweep, const cox_sweep_table *table, const int64_t *cells,
                                int64_t n);

/*
 * answers.csv from stage2.jsonl: of each chosen cell and the clean run, by set of prompts and label of the
 * rules, how many answers have it, with Wilson's interval; "fell_apart" is the last label. cells: [n], as
 * chosen. Rank 0. Errors: IO, BAD_FILE, NO_MEMORY, INVALID (as cox_rules_judge).
 */
cox_status cox_sweep_write_answers(const cox_sweep *sweep, const int64_t *cells, int64_t n);

#endif
