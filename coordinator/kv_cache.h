/*
 * Paged keys and values, and what of them several sequences may share. The pool is an array of blocks; a
 * block holds the keys and values of COX_KV_BLOCK consecutive positions in ONE layer: [2 (k, v)][n_kv_heads]
 * [COX_KV_BLOCK][head_dim] f32. A page is the blocks of one range of positions in all layers.
 *
 * The prefix index remembers pages by their tokens and those before, and by what a plan has done to them. A
 * plan that first acts at layer s and position p leaves the keys and values of all layers clean below p, and
 * those of layers below s everywhere. So a sequence borrows, read only, pages of the same effect in all
 * layers, and clean ones in the layers that its plan leaves clean; its rows from p on start at layer s, from
 * clean residual rows that are stored beside the index. docs/architecture.md tells the rule with an example.
 */
#ifndef COX_COORDINATOR_KV_CACHE_H
#define COX_COORDINATOR_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "kernels/kernels.h"

typedef struct cox_kv_cache cox_kv_cache;

typedef struct cox_kv_shape {
    int32_t n_layers, n_kv_heads, head_dim, d_model;
    int32_t n_pages;     /* pages of the pool */
    int32_t n_residuals; /* pages of stored residual rows: [stored layers, COX_KV_BLOCK, d_model] f32 each */
    const uint8_t *residual_layers; /* [n_layers+1], read by create: 1 where rows are stored at the layer's
                                       entry (n_layers: the final norm's); [0] means nothing; NULL: all */
    bool has_prefix_reuse;
} cox_kv_shape;

/* Bytes of one page over all layers, of keys and values and of residual rows. */
size_t cox_kv_page_bytes(const cox_kv_shape *shape);
size_t cox_kv_residual_page_bytes(const cox_kv_shape *shape);
/* Bytes that create takes. */
size_t cox_kv_cache_bytes(const cox_kv_shape *shape);

/* Takes and touches all its memory in `arena`. Errors: NO_MEMORY. */
cox_status cox_kv_cache_create(cox_kv_cache **cache, cox_arena *arena, const cox_kv_shape *shape);

/* One page of a sequence. */
typedef struct cox_kv_page {
    uint64_t effect;    /* of the plan on the keys and values up to the page's end; 0: none. By the owner */
    int32_t clean;      /* clean entry of the index for the page; -1: none was known at match */
    int32_t own;        /* entry of the same effect; with effect 0 the clean one; -1 */
    int32_t n_known;    /* layers below have had their keys and values from an entry */
    int32_t n_borrowed; /* layers below still share the entry's blocks, read only */
    int32_t residuals;  /* page of residual rows that this sequence is filling; -1: none */
} cox_kv_page;

/* What the sequence that computed a page has to say to those that borrow it. Counted by owners; memory from
 * malloc, of which this is the head. */
typedef struct cox_kv_note {
    int32_t n_owners;
    uint64_t plan; /* whose note it is: it means nothing to another plan with the same effect on the keys */
} cox_kv_note;
void cox_kv_note_free(cox_kv_note *note); /* one owner less; NULL is allowed */

/* The block table of a sequence: page p's block in layer l is blocks[l * max_pages + p]. */
typedef struct cox_kv_table {
    int32_t *blocks;    /* [n_layers, max_pages]; -1: not taken yet */
    cox_kv_page *pages; /* [max_pages] */
    int32_t max_pages;
    int32_t n_pages; /* in use */
    /* Set by the owner before match: no row below n_clean_positions is touched, nor any row in the layers
     * below n_clean_layers; keys and values below n_clean_keys are clean in all layers (what acts behind the
     * last keys reaches none). Without a plan: INT32_MAX, n_layers, INT32_MAX. */
    int32_t n_clean_positions, n_clean_layers, n_clean_keys;
    const uint8_t *touched; /* NULL, or [n_touched] by position: rows with 0 are clean at the entry of layer
                               n_clean_layers + 1 too; borrowed */
    int32_t n_touched;
    cox_kv_note **notes; /* [max_pages] of the sequence's steered pages, told with them; NULL: none */
    bool needs_notes;    /* steered pages are borrowed with a note of the plan only */
    uint64_t plan;
    int32_t n_ready; /* positions below needed no row when the table was matched, but for n_most */
    bool has_entry; /* the owner has the rows from n_clean_positions on at the entry of layer n_clean_layers +
                       1, and no use for telling the index of them */
    bool starts_at_embedding; /* rows that are computed go through all layers */
    bool is_passing;          /* set before reserve: all rows that the sequence will ever compute are in this
                                 step, and nobody needs their keys and values when it is over. A page of them
                                 may have one block for all layers, which stays in the cache of the CPU */
    int32_t recalled_page, n_recalled; /* such a page's first positions are known: see cox_kv_recall */
    bool is_private;                   /* shares nothing, neither way */
    int32_t n_matched;                 /* positions below are known to the index */
    int32_t n_indexed;  /* leading pages that this sequence has told the index, or need not tell */
    int32_t base;       /* held: the last clean entry that matched; -1: none */
    int32_t clean, own; /* held: entries of page n_indexed - 1; -1: before the first; or COX_KV_ENDED */
    bool has_told_tail;
} cox_kv_table;

enum { COX_KV_ENDED = -2 }; /* a chain of entries that does not reach the page */

/* Memory of a table for n_positions, empty and without a plan. Errors: NO_MEMORY. */
cox_status cox_kv_table_create(cox_kv_table *table, const cox_kv_shape *shape, int32_t n_positions);
void cox_kv_table_free(cox_kv_table *table);

/*
 * Starts a table: borrows the longest run of full pages that the index knows of these tokens, and the page
 * after it when all that remains of the tokens is known. Returns the positions, at most n_most, that need no
 * row at all: known in all layers, with the plan's effect on them. table->n_pages must be 0.
 */
int32_t cox_kv_match(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, int32_t n_tokens,
                     int32_t n_most);

/* The layer, 0..n_layers, at which the row of a position starts: cox_kv_residual has its residual at the
 * entry of that layer (n_layers: of the final norm), or the table's owner if cox_kv_is_entry. 0: at the
 * embedding. Does not change between cox_kv_begin_step and the step's last use of the row. */
int32_t cox_kv_start(cox_kv_cache *cache, const cox_kv_table *table, int32_t position);
/* start: what cox_kv_start says. */
bool cox_kv_is_entry(const cox_kv_table *table, int32_t position, int32_t start);
/* The block with the clean keys and values of a position in `layer` if that is the one above the plan's
 * first, which has_entry, and the plan does not touch the row below it. Else NULL: they are to be computed.
 */
const float *cox_kv_clean_block(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position,
                                int32_t layer);
/* Before rows of a passing table attend in `layer`: what is known of a page that has one block for all layers
 * comes there from the index. */
void cox_kv_recall(cox_kv_cache *cache, const cox_kv_table *table, int32_t layer);
/* f32 [d_model]; layer = cox_kv_start(...) > 0. */
const float *cox_kv_residual(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position,
                             int32_t layer);

/* A step begins: residual rows that the last one has read or written may be replaced. */
void cox_kv_begin_step(cox_kv_cache *cache);

/* Makes room for the rows at positions first <= p < end: blocks of their own in the layers that they compute.
 * Forgets entries of the index where needed. False when blocks run out (the table keeps what it had). */
bool cox_kv_reserve(cox_kv_cache *cache, cox_kv_table *table, int32_t first, int32_t end);

/* Whether the row of a position, computed in this step, leaves its residuals for others. Rows of one step ask
 * in ascending position, after all of the step's cox_kv_reserve. */
bool cox_kv_keeps(cox_kv_cache *cache, cox_kv_table *table, int32_t position, int32_t n_prompt);
/* Of a row that does: where the residual at a layer's entry goes, f32 [d_model]; NULL: nowhere. */
float *cox_kv_keep(const cox_kv_cache *cache, const cox_kv_table *table, int32_t position, int32_t layer);

/* Tells the index what positions below n_computed hold: full pages, and the end of the prompt once. */
void cox_kv_index(cox_kv_cache *cache, cox_kv_table *table, const int32_t *tokens, int32_t n_computed,
                  int32_t n_prompt);

/* After a match whose pages are going to be used: the notes of the steered pages below n_ready take the place
 * of the table's own. Calls add(context, note) for each. */
void cox_kv_take_notes(cox_kv_cache *cache, cox_kv_table *table,
                       void (*add)(void *context, const cox_kv_note *note), void *context);
/* Before the arena goes: notes that the index holds. */
void cox_kv_release_notes(cox_kv_cache *cache);

/* Gives all pages of the table back (indexed ones stay until room is needed). */
void cox_kv_release(cox_kv_cache *cache, cox_kv_table *table);

int32_t cox_kv_n_free_pages(const cox_kv_cache *cache); /* free or only held by the index */
float *cox_kv_pool(cox_kv_cache *cache);
size_t cox_kv_v_offset(const cox_kv_cache *cache); /* of the values within a block, floats */

#endif
