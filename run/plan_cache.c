/* Compiled plans by what they were compiled from. */
#include "run/plan_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* Plans kept; those that come when either is reached are compiled each time. */
enum { MAX_KEPT = 4096, MAX_KEPT_BYTES = 64 << 20 };

typedef struct compiled {
    uint64_t hash;
    char *json, *folder; /* what it was compiled from */
    cox_plan *plan;      /* a share */
} compiled;

struct cox_plan_cache {
    const cox_model *model;
    bool is_forced, has_fingerprint, has_warned;
    char tokenizer_fingerprint[65];
    compiled *kept; /* [n_kept] */
    size_t n_kept, n_kept_bytes;
};

cox_status cox_plan_cache_create(cox_plan_cache **steer, const cox_model *model, bool force)
{
    cox_plan_cache *fresh = calloc(1, sizeof *fresh);
    if (!fresh) return cox_no_memory("a steering plan");
    fresh->model = model;
    fresh->is_forced = force;
    *steer = fresh;
    return COX_OK;
}

static void compiled_release(compiled *c)
{
    free(c->json);
    free(c->folder);
    cox_plan_free(c->plan);
}

void cox_plan_cache_destroy(cox_plan_cache *steer)
{
    if (!steer) return;
    for (size_t i = 0; i < steer->n_kept; i++) compiled_release(&steer->kept[i]);
    free(steer->kept);
    free(steer);
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 1099511628211u; /* FNV-1a */
    return hash;
}

static const compiled *find(const cox_plan_cache *steer, const compiled *wanted)
{
    for (size_t i = 0; i < steer->n_kept; i++) {
        const compiled *c = &steer->kept[i];
        if (c->hash == wanted->hash && strcmp(c->json, wanted->json) == 0 &&
            strcmp(c->folder, wanted->folder) == 0)
            return c;
    }
    return NULL;
}

/* The tokenizer's file is only read when somebody steers. */
static cox_status find_fingerprint(cox_plan_cache *steer)
{
    if (steer->has_fingerprint) return COX_OK;
    cox_status status = cox_tokenizer_fingerprint(steer->model->folder, steer->tokenizer_fingerprint);
    steer->has_fingerprint = status == COX_OK;
    return status;
}

/* From c->json and c->folder. */
static cox_status compile(cox_plan_cache *steer, compiled *c)
{
    json_t *json = NULL;
    cox_status status = find_fingerprint(steer);
    if (status == COX_OK) status = cox_json_load_text(&json, c->json, strlen(c->json), "steering");
    if (status == COX_OK) {
        status = cox_plan_from_json(&c->plan, json, "steering", c->folder, steer->model,
                                    steer->tokenizer_fingerprint, steer->is_forced);
    }
    if (status == COX_OK && c->plan->note && !steer->has_warned) {
        fprintf(stderr, "warning: %s\n", c->plan->note);
        steer->has_warned = true;
    }
    json_decref(json);
    return status;
}

/* Takes *c over when there is room. */
static bool keep(cox_plan_cache *steer, const compiled *c)
{
    size_t n_bytes = cox_arena_used_bytes(c->plan->arena) + strlen(c->json);
    if (steer->n_kept == MAX_KEPT || steer->n_kept_bytes + n_bytes > MAX_KEPT_BYTES) return false;
    compiled *larger = realloc(steer->kept, (steer->n_kept + 1) * sizeof *larger);
    if (!larger) return false;
    steer->kept = larger;
    steer->kept[steer->n_kept++] = *c;
    steer->n_kept_bytes += n_bytes;
    return true;
}

cox_status cox_plan_cache_compile(cox_plan_cache *steer, const char *json, const char *folder,
                                  cox_plan **plan)
{
    compiled fresh = {.json = strdup(json), .folder = strdup(folder)};
    cox_status status = fresh.json && fresh.folder ? COX_OK : cox_no_memory("a steering plan");
    bool is_kept = false;
    const compiled *c = NULL;
    if (status == COX_OK) {
        fresh.hash = hash_text(hash_text(14695981039346656037u, json), folder);
        c = find(steer, &fresh);
        if (!c) {
            status = compile(steer, &fresh);
            is_kept = status == COX_OK && keep(steer, &fresh);
            c = &fresh;
        }
    }
    if (status == COX_OK) *plan = cox_plan_share(c->plan);
    if (!is_kept) compiled_release(&fresh);
    return status;
}

cox_status cox_plan_cache_load(cox_plan_cache *steer, const char *path, cox_plan **plan)
{
    json_t *json = json_pack("{s:s}", "plan", path);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text) return cox_fail(COX_INVALID, "--steer: the path is not valid UTF-8");
    cox_status status = cox_plan_cache_compile(steer, text, ".", plan);
    free(text);
    return status;
}

cox_status cox_plan_cache_check(cox_plan_cache *steer, const char *path)
{
    cox_plan *plan = NULL;
    cox_status status = cox_plan_cache_load(steer, path, &plan);
    cox_plan_free(plan);
    return status;
}
