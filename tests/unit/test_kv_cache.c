/* Paged KV cache: reservation, sharing of identical prefixes whole and by layers, forgetting, nothing lost or
 * mixed up over many random rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/kv_cache.h"

enum { N_LAYERS = 3, N_PAGES = 8, MAX_PAGES = 6, D_MODEL = 2, HEAD_DIM = 2 };

typedef struct sequence {
    cox_kv_table table;
    uint32_t plan; /* 0: none */
    int32_t tokens[MAX_PAGES * COX_KV_BLOCK];
} sequence;

static cox_arena *arena;
static cox_kv_shape shape;

static cox_kv_cache *create(int32_t n_residuals)
{
    cox_kv_cache *cache = NULL;
    shape = (cox_kv_shape){.n_layers = N_LAYERS,
                           .n_kv_heads = 1,
                           .head_dim = HEAD_DIM,
                           .d_model = D_MODEL,
                           .n_pages = N_PAGES,
                           .n_residuals = n_residuals,
                           .has_prefix_reuse = true};
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    assert_int_equal(cox_kv_cache_create(&cache, arena, &shape), COX_OK);
    return cache;
}

static sequence *make(uint32_t seed)
{
    sequence *s = calloc(1, sizeof *s);
    assert_int_equal(cox_kv_table_create(&s->table, &shape, MAX_PAGES * COX_KV_BLOCK), COX_OK);
    for (int i = 0; i < MAX_PAGES * COX_KV_BLOCK; i++) s->tokens[i] = (int32_t)(seed * 1000 + (uint32_t)i);
    return s;
}

/* A plan that first acts in `layer` and at `position`. */
static sequence *make_steered(uint32_t seed, uint32_t plan, int32_t layer, int32_t position)
{
    sequence *s = make(seed);
    s->plan = plan;
    s->table.n_clean_layers = layer;
    s->table.n_clean_positions = s->table.n_clean_keys = position;
    for (int32_t p = 0; p < MAX_PAGES; p++)
        s->table.pages[p].effect = (p + 1) * COX_KV_BLOCK > position ? plan : 0;
    return s;
}

static void drop(cox_kv_cache *cache, sequence *s)
{
    cox_kv_release(cache, &s->table);
    cox_kv_table_free(&s->table);
    free(s);
}

/* What stands for the row of a position at a layer's entry, and for its key and value there. */
static float content(const sequence *s, int32_t position, int32_t layer)
{
    bool is_clean = position < s->table.n_clean_positions || layer <= s->table.n_clean_layers;
    return (float)((is_clean ? 0 : s->plan * 131072) + (uint32_t)s->tokens[position] * 10 + (uint32_t)layer);
}

static float *key_of(cox_kv_cache *cache, const sequence *s, int32_t position, int32_t layer)
{
    int32_t block = s->table.blocks[layer * s->table.max_pages + position / COX_KV_BLOCK];
    assert_true(block >= 0);
    return cox_kv_pool(cache) + (size_t)block * 2 * cox_kv_v_offset(cache) +
           (size_t)(position % COX_KV_BLOCK) * HEAD_DIM;
}

/* Computes positions first <= p < end as the engine does; false when there is no room. [in/out] n_saved:
 * layers that rows did not go through. */
static bool compute(cox_kv_cache *cache, sequence *s, int32_t first, int32_t end, int32_t n_prompt,
                    int32_t *n_saved)
{
    cox_kv_begin_step(cache);
    if (!cox_kv_reserve(cache, &s->table, first, end)) return false;
    for (int32_t p = first; p < end; p++) {
        int32_t start = cox_kv_start(cache, &s->table, p);
        *n_saved += start;
        bool keeps = cox_kv_keeps(cache, &s->table, p, n_prompt);
        if (start > 0) {
            const float *row = cox_kv_residual(cache, &s->table, p, start);
            assert_true(row[0] == content(s, p, start) && row[1] == -row[0]);
        }
        for (int32_t l = start; l < N_LAYERS; l++) {
            float *key = key_of(cache, s, p, l),
                  *keep = keeps ? cox_kv_keep(cache, &s->table, p, l + 1) : NULL;
            key[0] = key[cox_kv_v_offset(cache)] = content(s, p, l);
            if (keep) keep[0] = content(s, p, l + 1), keep[1] = -keep[0];
        }
    }
    cox_kv_index(cache, &s->table, s->tokens, end, n_prompt);
    return true;
}

static void expect_contents(cox_kv_cache *cache, const sequence *s, int32_t n)
{
    for (int32_t p = 0; p < n; p++) {
        for (int32_t l = 0; l < N_LAYERS; l++) {
            assert_true(*key_of(cache, s, p, l) == content(s, p, l));
            assert_true(key_of(cache, s, p, l)[cox_kv_v_offset(cache)] == content(s, p, l));
        }
    }
}

/* A whole prompt of n tokens in one step: the positions that needed no row. */
static int32_t run(cox_kv_cache *cache, sequence *s, int32_t n, int32_t *n_saved)
{
    int32_t n_done = cox_kv_match(cache, &s->table, s->tokens, n, n - 1);
    *n_saved = 0;
    assert_true(compute(cache, s, n_done, n, n, n_saved));
    expect_contents(cache, s, n);
    return n_done;
}

static void test_prefixes_are_shared(void **state)
{
    (void)state;
    cox_kv_cache *cache = create(0);
    sequence *a = make(1), *b = make(1), *c = make(1);
    int32_t n_saved;
    c->tokens[40] = -1; /* differs in its second page */
    assert_int_equal(run(cache, a, 90, &n_saved), 0);
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES - 3);

    assert_int_equal(cox_kv_match(cache, &b->table, b->tokens, 90, 89), 89); /* the last page is not full */
    assert_int_equal(cox_kv_match(cache, &c->table, c->tokens, 90, 89), 32);
    for (int l = 0; l < N_LAYERS; l++) {
        for (int p = 0; p < 2; p++)
            assert_int_equal(a->table.blocks[l * MAX_PAGES + p], b->table.blocks[l * MAX_PAGES + p]);
        assert_int_equal(a->table.blocks[l * MAX_PAGES], c->table.blocks[l * MAX_PAGES]);
    }
    assert_true(cox_kv_reserve(cache, &b->table, 89, 90)); /* a copy, to be written into */
    assert_int_not_equal(a->table.blocks[2], b->table.blocks[2]);
    assert_true(*key_of(cache, b, 88, 1) == content(b, 88, 1));
    /* a match must leave something to compute */
    sequence *d = make(1);
    assert_int_equal(cox_kv_match(cache, &d->table, d->tokens, 64, 63), 63);
    drop(cache, a), drop(cache, b), drop(cache, c), drop(cache, d);
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES);

    sequence *e = make(1); /* remembered after everybody has left */
    assert_int_equal(cox_kv_match(cache, &e->table, e->tokens, MAX_PAGES * COX_KV_BLOCK, 1000), 64);
    drop(cache, e);
    cox_arena_destroy(arena);
}

static void test_steered_sequences_share_what_their_plan_leaves_clean(void **state)
{
    (void)state;
    cox_kv_cache *cache = create(4);
    int32_t n_saved;
    sequence *clean = make(1);
    assert_int_equal(run(cache, clean, 80, &n_saved), 0);
    assert_int_equal(n_saved, 0);
    sequence *late = make_steered(1, 1, 2, 50); /* from layer 2 and position 50 on */
    assert_int_equal(run(cache, late, 80, &n_saved), 50);
    assert_int_equal(n_saved, 30 * 2);
    assert_int_equal(late->table.blocks[0], clean->table.blocks[0]);
    assert_int_equal(late->table.blocks[MAX_PAGES + 1],
                     clean->table.blocks[MAX_PAGES + 1]); /* layer 1, page 1 */
    assert_int_not_equal(late->table.blocks[2 * MAX_PAGES + 1], clean->table.blocks[2 * MAX_PAGES + 1]);
    sequence *early = make_steered(1, 2, 0, 0);
    assert_int_equal(run(cache, early, 80, &n_saved), 0);
    assert_int_equal(n_saved, 0);
    sequence *again = make_steered(1, 1, 2, 50), *other = make_steered(1, 2, 0, 0);
    assert_int_equal(run(cache, again, 70, &n_saved), 64); /* full pages with the same effect */
    drop(cache, clean), drop(cache, late), drop(cache, early), drop(cache, again);
    assert_int_equal(run(cache, other, 70, &n_saved), 64);
    drop(cache, other);
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES);
    cox_arena_destroy(arena);
}

static void test_only_the_wanted_layers_are_stored(void **state)
{
    (void)state;
    const uint8_t wanted[N_LAYERS + 1] = {0, 0, 1, 0};
    cox_kv_cache *cache = create(0);
    size_t all = cox_kv_residual_page_bytes(&shape);
    shape.n_residuals = 2, shape.residual_layers = wanted;
    assert_int_equal(cox_kv_residual_page_bytes(&shape), all / N_LAYERS);
    assert_int_equal(cox_kv_cache_create(&cache, arena, &shape), COX_OK);
    int32_t n_saved;
    sequence *clean = make(1), *one = make_steered(1, 1, 1, 0), *two = make_steered(1, 2, 2, 0);
    run(cache, clean, 40, &n_saved);
    run(cache, one, 40, &n_saved);
    assert_int_equal(n_saved, 0); /* nothing at the entry of layer 1 */
    run(cache, two, 40, &n_saved);
    assert_int_equal(n_saved, 40 * 2);
    drop(cache, clean), drop(cache, one), drop(cache, two);
    cox_arena_destroy(arena);
}

/* Like make_steered, of a sweep: the rows at the entry of the layer above `layer` are the owner's, touched
 * where [position] is not 0. */
static sequence *make_entering(uint32_t seed, int32_t layer, const uint8_t *touched, int32_t n_touched)
{
    int32_t position = 0;
    while (!touched[position]) position++;
    sequence *s = make_steered(seed, 7, layer, position);
    s->table.has_entry = true;
    s->table.touched = touched;
    s->table.n_touched = n_touched;
    return s;
}

/* Layer by layer, as the engine does: rows first <= p < n are written, then all positions are looked at. */
static void pass_layers(cox_kv_cache *cache, sequence *s, int32_t first, int32_t n)
{
    s->table.is_passing = true;
    cox_kv_begin_step(cache);
    assert_true(cox_kv_reserve(cache, &s->table, first, n));
    for (int32_t l = s->table.n_clean_layers + 1; l < N_LAYERS; l++) {
        cox_kv_recall(cache, &s->table, l);
        for (int32_t p = first; p < n; p++) {
            assert_int_equal(cox_kv_start(cache, &s->table, p), s->table.n_clean_layers + 1);
            float *key = key_of(cache, s, p, l);
            key[0] = key[cox_kv_v_offset(cache)] = content(s, p, l);
        }
        for (int32_t p = 0; p < n; p++) assert_true(*key_of(cache, s, p, l) == content(s, p, l));
    }
    cox_kv_index(cache, &s->table, s->tokens, n, n);
}

static void test_keys_that_nobody_needs_later_have_one_block(void **state)
{
    (void)state;
    enum { N = 41 };
    cox_kv_cache *cache = create(2);
    int32_t n_saved;
    sequence *clean = make(1);
    run(cache, clean, N, &n_saved);
    drop(cache, clean);
    const int32_t n_free = cox_kv_n_free_pages(cache);

    uint8_t touched[N] = {[32] = 1, [40] = 1}; /* the second page from its first position on */
    sequence *s = make_entering(1, 0, touched, N);
    assert_int_equal(cox_kv_match(cache, &s->table, s->tokens, N, N - 1), 32);
    pass_layers(cache, s, 32, N);
    assert_ptr_equal(key_of(cache, s, 32, 1), key_of(cache, s, 32, 2));
    drop(cache, s);

    uint8_t later[N] = {[35] = 1}; /* what comes before in the page is recalled in each layer */
    s = make_entering(1, 0, later, N);
    assert_int_equal(cox_kv_match(cache, &s->table, s->tokens, N, N - 1), 35);
    pass_layers(cache, s, 35, N);
    assert_ptr_equal(key_of(cache, s, 35, 1), key_of(cache, s, 35, 2));
    drop(cache, s);

    assert_int_equal(cox_kv_n_free_pages(cache), n_free);
    clean = make(1); /* nobody has written into what the index knows */
    assert_int_equal(run(cache, clean, N, &n_saved), N - 1);
    drop(cache, clean);
    cox_arena_destroy(arena);
}

static void test_untouched_rows_have_clean_keys_where_they_enter(void **state)
{
    (void)state;
    enum { N = 41 };
    cox_kv_cache *cache = create(2);
    int32_t n_saved;
    uint8_t touched[N] = {[3] = 1, [33] = 1};
    sequence *s = make_entering(1, 0, touched, N);
    assert_null(cox_kv_clean_block(cache, &s->table, 5, 1)); /* nothing is known yet */
    sequence *clean = make(1);
    run(cache, clean, N, &n_saved);
    drop(cache, clean);
    assert_int_equal(cox_kv_match(cache, &s->table, s->tokens, N, N - 1), 3);
    pass_layers(cache, s, 3, N);
    for (int32_t p = 3; p < N; p++) {
        const float *block = cox_kv_clean_block(cache, &s->table, p, 1);
        assert_int_equal(block == NULL, touched[p]);
        assert_null(cox_kv_clean_block(cache, &s->table, p, 2)); /* they have seen touched rows there */
        if (!block) continue;
        const float *key = block + (size_t)(p % COX_KV_BLOCK) * HEAD_DIM;
        float wanted = (float)((uint32_t)s->tokens[p] * 10 + 1);
        assert_true(key[0] == wanted && key[cox_kv_v_offset(cache)] == wanted);
    }
    drop(cache, s);
    cox_arena_destroy(arena);
}

static void test_old_prefixes_are_forgotten_for_room(void **state)
{
    (void)state;
    cox_kv_cache *cache = create(0);
    int32_t n_saved;
    for (uint32_t seed = 1; seed < 9; seed++) {
        sequence *s = make(seed);
        assert_int_equal(run(cache, s, 160, &n_saved), 0);
        drop(cache, s);
    }
    sequence *last = make(8), *first = make(1);
    assert_int_equal(cox_kv_match(cache, &last->table, last->tokens, 161, 160), 160);
    assert_int_equal(cox_kv_match(cache, &first->table, first->tokens, 161, 160), 0);
    assert_false(
        cox_kv_reserve(cache, &first->table, 0, 160)); /* five pages are held by `last`, three are left */
    assert_int_equal(first->table.n_pages, 0);
    assert_true(cox_kv_reserve(cache, &first->table, 0, 96));
    drop(cache, last), drop(cache, first);
    cox_arena_destroy(arena);
}

/* A sequence of four prompts, with one of four plans (0: none). */
static sequence *draw(uint32_t random)
{
    uint32_t plan = (random >> 5) % 4;
    return plan == 0
               ? make((random >> 10) % 4)
               : make_steered((random >> 10) % 4, plan, (int32_t)plan % N_LAYERS, (int32_t)plan * 23 % 60);
}

/* Chunks, early ends, no room: whatever the cache shares, a sequence finds what it would have computed. */
static void test_no_block_is_given_twice_or_to_others(void **state)
{
    (void)state;
    for (int32_t n_residuals = 0; n_residuals <= 6; n_residuals += 3) {
        cox_kv_cache *cache = create(n_residuals);
        sequence *live[4] = {0};
        int32_t n_tokens[4], n_prompt[4], n_saved = 0, n_done_at_once = 0, n_ended = 0;
        uint32_t random = 99;
        for (int round = 0; round < 20000; round++) {
            random = random * 1664525u + 1013904223u;
            int i = (int)(random >> 20) % 4;
            int32_t n = 1 + (int32_t)((random >> 13) % (MAX_PAGES * COX_KV_BLOCK - 1));
            if (!live[i]) {
                live[i] = draw(random);
                n_prompt[i] = n > 2 && round % 3 ? 70 + n % 3 : n;
                n_tokens[i] =
                    cox_kv_match(cache, &live[i]->table, live[i]->tokens, n_prompt[i], n_prompt[i] - 1);
                n_done_at_once += n_tokens[i];
                expect_contents(cache, live[i], n_tokens[i]);
            }
            int32_t end = n_tokens[i] + 1 + n % 40;
            if (n_tokens[i] < n_prompt[i] && end > n_prompt[i]) end = n_prompt[i];
            if (end > MAX_PAGES * COX_KV_BLOCK || n % 11 == 0 ||
                !compute(cache, live[i], n_tokens[i], end, n_prompt[i], &n_saved)) {
                drop(cache, live[i]);
                live[i] = NULL;
                n_ended++;
                continue;
            }
            n_tokens[i] = end;
            for (int s = 0; s < 4; s++) {
                if (live[s]) expect_contents(cache, live[s], n_tokens[s]);
            }
        }
        for (int s = 0; s < 4; s++) {
            if (live[s]) drop(cache, live[s]);
        }
        assert_true(n_ended > 1000 && n_done_at_once > 1000 && (n_saved > 1000) == (n_residuals > 0));
        assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES);
        cox_arena_destroy(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefixes_are_shared),
        cmocka_unit_test(test_steered_sequences_share_what_their_plan_leaves_clean),
        cmocka_unit_test(test_only_the_wanted_layers_are_stored),
        cmocka_unit_test(test_keys_that_nobody_needs_later_have_one_block),
        cmocka_unit_test(test_untouched_rows_have_clean_keys_where_they_enter),
        cmocka_unit_test(test_old_prefixes_are_forgotten_for_room),
        cmocka_unit_test(test_no_block_is_given_twice_or_to_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
