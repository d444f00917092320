/*
 * Letters are read only when a row names a plan that is not here yet: an unsteered job never looks. A plan's
 * letter was sent before the first row that names it, on another channel, so it may arrive a moment later.
 */
#include "worker/plans.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/counters.h"
#include "steering/stack.h"

typedef struct held_plan {
    struct held_plan *next;
    int32_t id;
    cox_plan *plan;
} held_plan;

enum { LATE_S = 8, N_BUCKETS = 1024 };

struct cox_worker_plans {
    cox_cluster *cluster;
    const cox_kernels *kernels;
    int32_t d_model;
    held_plan *buckets[N_BUCKETS]; /* by id */
    float *scratch;                /* [d_model]: replies are steered one after the other */
    uint64_t n_hits;
};

cox_status cox_worker_plans_create(cox_worker_plans **plans, cox_cluster *cluster, const cox_kernels *kernels,
                                   int32_t d_model)
{
    cox_worker_plans *p = calloc(1, sizeof *p);
    float *scratch = calloc((size_t)d_model, sizeof *scratch);
    if (!p || !scratch) {
        free(p);
        free(scratch);
        return cox_no_memory("steering on an expert host");
    }
    *p = (cox_worker_plans){.cluster = cluster, .kernels = kernels, .d_model = d_model, .scratch = scratch};
    *plans = p;
    return COX_OK;
}

static void free_held(held_plan *held)
{
    cox_plan_free(held->plan);
    free(held);
}

void cox_worker_plans_destroy(cox_worker_plans *plans)
{
    if (!plans) return;
    for (int b = 0; b < N_BUCKETS; b++) {
        for (held_plan *held = plans->buckets[b], *next; held; held = next) {
            next = held->next;
            free_held(held);
        }
    }
    free(plans->scratch);
    free(plans);
}

int32_t cox_worker_plans_count(const cox_worker_plans *plans)
{
    int32_t n = 0;
    for (int b = 0; b < N_BUCKETS; b++) {
        for (const held_plan *held = plans->buckets[b]; held; held = held->next) n++;
    }
    return n;
}

uint64_t cox_worker_plans_n_hits(const cox_worker_plans *plans)
{
    return plans->n_hits;
}

/* The link to the plan in its bucket's list; to NULL when it is not here. */
static held_plan **place_of(cox_worker_plans *plans, int32_t id)
{
    held_plan **link = &plans->buckets[(uint32_t)id % N_BUCKETS];
    while (*link && (*link)->id != id) link = &(*link)->next;
    return link;
}

static void drop_plan(cox_worker_plans *plans, int32_t id)
{
    held_plan **link = place_of(plans, id), *held = *link;
    if (!held) return;
    *link = held->next;
    free_held(held);
}

static cox_status take_letter(cox_worker_plans *plans, const unsigned char *data, size_t n)
{
    cox_plan_letter letter;
    if (n < sizeof letter) return cox_fail(COX_INTERNAL, "a plan's letter of %zu bytes", n);
    memcpy(&letter, data, sizeof letter);
    if (n == sizeof letter) {
        drop_plan(plans, letter.plan);
        return COX_OK;
    }
    held_plan *held = calloc(1, sizeof *held);
    if (!held) return cox_no_memory("a plan");
    const int32_t *indices;
    cox_status status = cox_plan_unpack(&held->plan, &indices, data + sizeof letter, n - sizeof letter);
    if (status != COX_OK) {
        free(held);
        return status;
    }
    held_plan **bucket = &plans->buckets[(uint32_t)letter.plan % N_BUCKETS];
    held->id = letter.plan;
    held->next = *bucket;
    *bucket = held;
    return COX_OK;
}

static cox_status read_letters(cox_worker_plans *plans, uint64_t *n_read)
{
    for (;; ++*n_read) {
        int32_t from;
        void *data;
        size_t n;
        cox_status status = cox_mailbox_poll(plans->cluster, COX_MAIL_STEERING, &from, &data, &n);
        if (status != COX_OK || !data) return status;
        status = take_letter(plans, data, n);
        free(data);
        if (status != COX_OK) return status;
    }
}

static const cox_plan *find(cox_worker_plans *plans, int32_t id)
{
    const held_plan *held = *place_of(plans, id);
    return held ? held->plan : NULL;
}

static cox_status find_or_wait(cox_worker_plans *plans, int32_t id, const cox_plan **plan)
{
    double start = cox_now_s(); /* or when the last letter came */
    while (!(*plan = find(plans, id))) {
        uint64_t n_read = 0;
        cox_status status = read_letters(plans, &n_read);
        if (status != COX_OK) return status;
        if (n_read > 0) start = cox_now_s();
        if (cox_now_s() - start > LATE_S)
            return cox_fail(COX_INTERNAL, "plan %d never came to this rank", id);
        if (!(*plan = find(plans, id))) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return COX_OK;
}

/* One reply of expert `expert`: y_e [d_model] and its tag behind it. */
static void steer_reply(cox_worker_plans *plans, const cox_plan *plan, int32_t layer, int32_t expert,
                        const cox_row_tag *tag, float *reply)
{
    const cox_row_place place = {layer, tag->position, tag->n_prompt};
    cox_steer_effect effects[COX_PLAN_MAX_STACK];
    cox_stack_apply_routed(plan, &place, expert, plans->kernels, reply, plans->scratch, effects);
    cox_reply_tag done = {0};
    for (int k = 0; k < COX_PLAN_MAX_STACK; k++) {
        done.effects[k].there = effects[k].was_applied ? effects[k].norm_there : -1;
        done.effects[k].added = effects[k].norm_added;
        plans->n_hits += effects[k].was_applied;
    }
    memcpy(reply + plans->d_model, &done, sizeof done);
}

static bool is_steered(const cox_row_tag *tag, int32_t expert)
{
    for (int32_t i = 0; i < tag->n_experts && i < COX_MAX_TOP_K; i++) {
        if (tag->experts[i] == expert) return true;
    }
    return false;
}

cox_status cox_worker_plans_steer(cox_worker_plans *plans, const cox_work *work, const cox_expert_id *experts)
{
    size_t width = (size_t)plans->d_model + COX_ROW_TAIL;
    for (int32_t row = 0; row < work->n_rows; row++) {
        cox_row_tag tag;
        memcpy(&tag, work->rows + (size_t)row * width + plans->d_model, sizeof tag);
        if (tag.plan == 0) continue;
        const cox_plan *plan = NULL; /* comes to this rank only if it hosts one of the steered experts */
        for (int32_t r = work->route_offsets[row]; r < work->route_offsets[row + 1]; r++) {
            int32_t expert = experts[work->experts[r].value].value;
            if (!is_steered(&tag, expert)) continue;
            cox_status status = plan ? COX_OK : find_or_wait(plans, tag.plan, &plan);
            if (status != COX_OK) return status;
            steer_reply(plans, plan, work->layer, expert, &tag, work->replies + (size_t)r * width);
        }
    }
    return COX_OK;
}
