/* Open addressing with linear steps, at most half full; the key's own bits are the hash. */
#include "cli/seen.h"

#include <sha256.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct key {
    uint64_t high, low; /* 0, 0: empty */
} key;

struct cox_seen {
    key *keys; /* [n_slots], a power of two */
    size_t n_slots, n;
};

cox_status cox_seen_create(cox_seen **seen)
{
    cox_seen *s = calloc(1, sizeof *s);
    key *keys = calloc(1024, sizeof *keys);
    if (!s || !keys) {
        free(s);
        free(keys);
        return cox_no_memory("the custom_ids");
    }
    *s = (cox_seen){.keys = keys, .n_slots = 1024};
    *seen = s;
    return COX_OK;
}

void cox_seen_destroy(cox_seen *seen)
{
    if (!seen) return;
    free(seen->keys);
    free(seen);
}

static key key_of(const char *text)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA2_CTX context;
    SHA256Init(&context);
    SHA256Update(&context, (const uint8_t *)text, strlen(text));
    SHA256Final(digest, &context);
    key k;
    memcpy(&k, digest, sizeof k);
    k.low |= 1; /* never the empty key */
    return k;
}

static key *find_slot(key *keys, size_t n_slots, key wanted)
{
    size_t at = (size_t)wanted.high & (n_slots - 1);
    while (keys[at].low != 0 && (keys[at].low != wanted.low || keys[at].high != wanted.high)) {
        at = (at + 1) & (n_slots - 1);
    }
    return &keys[at];
}

static cox_status grow(cox_seen *seen)
{
    size_t n_slots = 2 * seen->n_slots;
    key *keys = calloc(n_slots, sizeof *keys);
    if (!keys) return cox_no_memory("the custom_ids");
    for (size_t i = 0; i < seen->n_slots; i++) {
        if (seen->keys[i].low != 0) *find_slot(keys, n_slots, seen->keys[i]) = seen->keys[i];
    }
    free(seen->keys);
    seen->keys = keys;
    seen->n_slots = n_slots;
    return COX_OK;
}

cox_status cox_seen_add(cox_seen *seen, const char *text, bool *is_new)
{
    if (2 * (seen->n + 1) > seen->n_slots) {
        cox_status status = grow(seen);
        if (status != COX_OK) return status;
    }
    key wanted = key_of(text);
    key *slot = find_slot(seen->keys, seen->n_slots, wanted);
    *is_new = slot->low == 0;
    if (*is_new) {
        *slot = wanted;
        seen->n++;
    }
    return COX_OK;
}
