/* Paged KV cache: reservation, sharing of identical prefixes, forgetting, nothing lost over many random
 * rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/kv_cache.h"

enum { N_LAYERS = 3, N_PAGES = 8, MAX_PAGES = 6 };

typedef struct sequence {
    cox_kv_table table;
    int32_t blocks[N_LAYERS * MAX_PAGES];
    int32_t tokens[MAX_PAGES * COX_KV_BLOCK];
} sequence;

static cox_arena *arena;

static cox_kv_cache *create(void)
{
    cox_kv_cache *cache = NULL;
    cox_kv_shape shape = {
        .n_layers = N_LAYERS, .n_kv_heads = 1, .head_dim = 2, .n_pages = N_PAGES, .has_prefix_reuse = true};
    assert_int_equal(cox_arena_create(&arena, "test", 0), COX_OK);
    assert_int_equal(cox_kv_cache_create(&cache, arena, &shape), COX_OK);
    return cache;
}

static sequence *make(uint32_t seed)
{
    sequence *s = calloc(1, sizeof *s);
    s->table = (cox_kv_table){.blocks = s->blocks, .max_pages = MAX_PAGES, .prefix = -1};
    for (int i = 0; i < MAX_PAGES * COX_KV_BLOCK; i++) s->tokens[i] = (int32_t)(seed * 1000 + (uint32_t)i);
    return s;
}

static void drop(cox_kv_cache *cache, sequence *s)
{
    cox_kv_release(cache, &s->table);
    free(s);
}

static void test_prefixes_are_shared(void **state)
{
    (void)state;
    cox_kv_cache *cache = create();
    sequence *a = make(1), *b = make(1), *c = make(1);
    c->tokens[40] = -1; /* differs in its second page */
    assert_int_equal(cox_kv_match(cache, &a->table, a->tokens, NULL, 90), 0);
    assert_true(cox_kv_reserve(cache, &a->table, 90));
    cox_kv_index(cache, &a->table, a->tokens, NULL, 90);
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES - 3);

    assert_int_equal(cox_kv_match(cache, &b->table, b->tokens, NULL, 89), 64); /* two full pages */
    assert_int_equal(cox_kv_match(cache, &c->table, c->tokens, NULL, 89), 32);
    for (int l = 0; l < N_LAYERS; l++) {
        assert_int_equal(a->blocks[l * MAX_PAGES], b->blocks[l * MAX_PAGES]);
        assert_int_equal(a->blocks[l * MAX_PAGES + 1], b->blocks[l * MAX_PAGES + 1]);
        assert_int_equal(a->blocks[l * MAX_PAGES], c->blocks[l * MAX_PAGES]);
    }
    /* a match must leave something to compute: 64 known tokens of a prompt of 64 give one page */
    sequence *d = make(1);
    assert_int_equal(cox_kv_match(cache, &d->table, d->tokens, NULL, 63), 32);
    drop(cache, a), drop(cache, b), drop(cache, c), drop(cache, d);
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES);

    sequence *e = make(1); /* remembered after everybody has left */
    assert_int_equal(cox_kv_match(cache, &e->table, e->tokens, NULL, 1000), 64);
    drop(cache, e);
    cox_arena_destroy(arena);
}

static void test_old_prefixes_are_forgotten_for_room(void **state)
{
    (void)state;
    cox_kv_cache *cache = create();
    for (uint32_t seed = 1; seed < 9; seed++) {
        sequence *s = make(seed);
        assert_int_equal(cox_kv_match(cache, &s->table, s->tokens, NULL, 160), 0);
        assert_true(cox_kv_reserve(cache, &s->table, 160));
        cox_kv_index(cache, &s->table, s->tokens, NULL, 160);
        drop(cache, s);
    }
    sequence *last = make(8), *first = make(1);
    assert_int_equal(cox_kv_match(cache, &last->table, last->tokens, NULL, 160), 160);
    assert_int_equal(cox_kv_match(cache, &first->table, first->tokens, NULL, 160), 0);
    assert_false(
        cox_kv_reserve(cache, &first->table, 160)); /* five pages are held by `last`, three are left */
    assert_int_equal(first->table.n_pages, 0);
    assert_true(cox_kv_reserve(cache, &first->table, 96));
    drop(cache, last), drop(cache, first);
    cox_arena_destroy(arena);
}

/* Writes a mark into every block that a sequence owns alone or computes, and checks that nobody else
 * overwrites it. */
static void test_no_block_is_given_twice(void **state)
{
    (void)state;
    cox_kv_cache *cache = create();
    sequence *live[4] = {0};
    uint32_t random = 99;
    size_t block_floats = 2 * cox_kv_v_offset(cache);
    for (int round = 0; round < 5000; round++) {
        random = random * 1664525u + 1013904223u;
        int i = (int)(random >> 20) % 4;
        if (live[i]) {
            drop(cache, live[i]);
            live[i] = NULL;
        } else {
            live[i] = make((random >> 10) % 5);
            int32_t n = 1 + (int32_t)((random >> 13) % (MAX_PAGES * COX_KV_BLOCK - 1));
            int32_t n_matched = cox_kv_match(cache, &live[i]->table, live[i]->tokens, NULL, n - 1);
            if (!cox_kv_reserve(cache, &live[i]->table, n)) {
                drop(cache, live[i]);
                live[i] = NULL;
                continue;
            }
            for (int32_t p = n_matched / COX_KV_BLOCK; p < live[i]->table.n_pages; p++) {
                for (int l = 0; l < N_LAYERS; l++) { /* the page's tokens stand for its contents */
                    float *block =
                        cox_kv_pool(cache) + (size_t)live[i]->blocks[l * MAX_PAGES + p] * block_floats;
                    *block = (float)(live[i]->tokens[p * COX_KV_BLOCK] * 10 + l);
                }
            }
            cox_kv_index(cache, &live[i]->table, live[i]->tokens, NULL, n);
        }
        for (int s = 0; s < 4; s++) {
            for (int32_t p = 0; live[s] && p < live[s]->table.n_pages; p++) {
                for (int l = 0; l < N_LAYERS; l++) {
                    float mark =
                        cox_kv_pool(cache)[(size_t)live[s]->blocks[l * MAX_PAGES + p] * block_floats];
                    assert_true(mark == (float)(live[s]->tokens[p * COX_KV_BLOCK] * 10 + l));
                }
            }
        }
    }
    for (int s = 0; s < 4; s++) {
        if (live[s]) drop(cache, live[s]);
    }
    assert_int_equal(cox_kv_n_free_pages(cache), N_PAGES);
    cox_arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefixes_are_shared),
        cmocka_unit_test(test_old_prefixes_are_forgotten_for_room),
        cmocka_unit_test(test_no_block_is_given_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
