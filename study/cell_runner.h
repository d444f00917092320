/*
 * Runs the cells of a sweep on one coordinator: every prompt with the cell's plan, up to the logits behind
 * its last token. What a cell has in common with the clean run is not computed again: a prompt of which no
 * processed row reaches a `routed` or `post_gate` cell's expert has the clean result itself (the clean routes
 * tell), rows start where the plan begins to act or, if it acts behind the attention of one layer, above that
 * layer (clean_layer.h). What the prompts of a cell have in common is computed once. Either way the numbers
 * are bit for bit those of a request that carries the same plan.
 */
#ifndef COX_STUDY_CELL_RUNNER_H
#define COX_STUDY_CELL_RUNNER_H

#include "study/prompts.h"
#include "run/run.h"
#include "study/sweep_grid.h"

enum { COX_CELL_MAX_SETS = 3 };

/* What a cell's prompts are asked. All borrowed. */
typedef struct cox_cell_question {
    const cox_sweep_grid *grid;
    const char *folder;  /* of the grid's file, where its vectors are */
    const char *randoms; /* path of the file of controls' vectors, seen from there */
    const char *tokenizer_fingerprint;
    bool is_forced;
    const cox_prompts *sets; /* [n_sets] */
    int32_t n_sets;
    const uint8_t *first_tokens; /* [vocab_size] what cox_log_odds calls T */
    bool wants_digests;
    bool is_plain; /* nothing of the above: every prompt's rows are computed by themselves, as a batch of
                      requests would without a cache; for comparison */
} cox_cell_question;

/* What came out, by set and prompt, all sets in a row. */
typedef struct cox_cell_result {
    int64_t cell;                /* -1: the clean run */
    const double *log_odds, *kl; /* [n_prompts]; kl: from the clean run's logits, all 0 there */
    const char (*digests)[65];   /* [n_prompts]; NULL unless asked for */
    int32_t n_prompts, n_idle;   /* n_idle: prompts that had the clean result */
    /* of answers: */
    const int32_t *tokens;    /* [n_prompts, max_tokens]; NULL: this is no result of answers */
    const int32_t *n_tokens;  /* [n_prompts] */
    const uint8_t *has_ended; /* [n_prompts] by the model itself */
    int32_t max_tokens;
} cox_cell_result;

typedef struct cox_cell_runner cox_cell_runner;

/* Creates the engine too. [out] owned by the caller. Not collective. Errors: NO_MEMORY, those of the engine.
 */
cox_status cox_cell_runner_create(cox_cell_runner **runner, cox_run *run, const cox_cell_question *question);
void cox_cell_runner_destroy(cox_cell_runner *runner); /* NULL is allowed */

/* The clean run; before any cell. The result is valid until destroy. Errors: those of the engine. */
cox_status cox_cell_runner_run_clean(cox_cell_runner *runner, cox_cell_result *clean);

/* From now on cells are answers of max_tokens at most, greedy, instead of numbers; cell -1 is the clean
 * run's. No cell may be on its way. Errors: NO_MEMORY. */
cox_status cox_cell_runner_begin_answers(cox_cell_runner *runner, int32_t max_tokens);

/* Is there room for one more cell? */
bool cox_cell_runner_has_room(const cox_cell_runner *runner);
/* Compiles the cell's plan and queues its prompts. Errors: those of plans (naming the cell), NO_MEMORY. */
cox_status cox_cell_runner_submit(cox_cell_runner *runner, int64_t cell);
int32_t cox_cell_runner_n_running(const cox_cell_runner *runner);

/* One step of the engine. on_result is called for each cell that is complete. Errors: those of the engine and
 * of on_result. */
typedef cox_status cox_cell_function(void *context, const cox_cell_result *result);
cox_status cox_cell_runner_step(cox_cell_runner *runner, cox_cell_function *on_result, void *context);

/* Where cells were spared work, in rows times layers. */
typedef struct cox_cell_savings {
    uint64_t whole;       /* all tokens through all layers, of all cells */
    uint64_t idle;        /* of prompts that had the clean result */
    uint64_t before;      /* of the others, positions before the first that the cell touches */
    uint64_t below;       /* and behind it, layers up to the one it acts in */
    uint64_t shared;      /* and above, rows of a prompt that begins in the same way */
    uint64_t computed;    /* the rest, and: */
    uint64_t computed_kv; /* of these, only keys and values in the last layer */
} cox_cell_savings;
cox_cell_savings cox_cell_runner_savings(const cox_cell_runner *runner);

const cox_counters *cox_cell_runner_counters(const cox_cell_runner *runner);

#endif
