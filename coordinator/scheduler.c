/*
 * Continuous batching: which rows run in the next step. Every running sequence gets its next row (decode) or
 * its next chunk (prefill) while the step has room, waiting ones join when their first chunk has KV pages,
 * and when pages run out the youngest running sequence gives its pages back and waits in front, to be
 * recomputed (to the same bits). The oldest sequence can always get its pages: submit has checked that it
 * fits alone.
 */
#include <string.h>

#include "coordinator/internal.h"

enum { MIN_SLOT_ROWS = 16 }; /* fewer rows per micro-batch hide nothing */

void cox__enqueue(cox_engine *engine, cox__sequence *sequence, bool in_front)
{
    sequence->next = NULL;
    if (in_front) {
        sequence->next = engine->waiting;
        engine->waiting = sequence;
        if (!sequence->next) engine->waiting_end = &sequence->next;
    } else {
        *engine->waiting_end = sequence;
        engine->waiting_end = &sequence->next;
    }
    engine->n_waiting++;
}

void cox__unqueue(cox_engine *engine, cox__sequence *sequence)
{
    cox__sequence **link = &engine->waiting;
    while (*link != sequence) link = &(*link)->next;
    *link = sequence->next;
    if (!*link) engine->waiting_end = link;
    engine->n_waiting--;
}

void cox__retire(cox_engine *engine, cox__sequence *sequence)
{
    int32_t i = 0;
    while (engine->running[i] != sequence) i++;
    engine->n_running--;
    memmove(engine->running + i, engine->running + i + 1,
            (size_t)(engine->n_running - i) * sizeof *engine->running);
    cox_kv_release(engine->kv, &sequence->table);
    sequence->n_scheduled = 0;
    sequence->n_computed = 0;
}

/* Rows that a sequence would like now, with `room` rows left in the step. */
static int32_t wanted_rows(const cox_engine *engine, const cox__sequence *sequence, int32_t room)
{
    int32_t n = sequence->n_tokens - sequence->n_computed;
    if (n > engine->options.prefill_chunk) n = engine->options.prefill_chunk;
    return n < room ? n : room;
}

static bool reserve(cox_engine *engine, cox__sequence *sequence, int32_t n_rows)
{
    return cox_kv_reserve(engine->kv, &sequence->table, sequence->n_computed, sequence->n_computed + n_rows);
}

/* Gives sequence i its rows, taking pages from younger ones if need be. Returns the rows. */
static int32_t schedule_running(cox_engine *engine, int32_t i, int32_t room)
{
    cox__sequence *sequence = engine->running[i];
    int32_t n = wanted_rows(engine, sequence, room);
    while (n > 0 && !reserve(engine, sequence, n)) {
        cox__sequence *youngest = engine->running[engine->n_running - 1];
        if (youngest->n_counted < youngest->n_computed) youngest->n_counted = youngest->n_computed;
        /* alone and still without room: what it shares is held beside its own pages */
        if (engine->n_running == 1) youngest->table.is_private = true;
        cox__retire(engine, youngest);
        cox__enqueue(engine, youngest, true);
        if (youngest == sequence) return 0;
    }
    sequence->n_scheduled = n;
    return n;
}

/* Takes what the index knows of a sequence and room for its first chunk; returns its rows or 0. */
static int32_t start(cox_engine *engine, cox__sequence *sequence, int32_t room)
{
    /* the last row is always there, for its logits; so are those whose logits, routes or rows are wanted */
    const cox_sequence_request *request = &sequence->request;
    int32_t n_most = request->wants_routes ? 0 : sequence->n_tokens - 1, first, end;
    if (sequence->n_reported < n_most && cox__reports(sequence, sequence->n_reported))
        n_most = sequence->n_reported;
    if (request->observation) {
        cox_positions_resolve(&request->observation->positions, request->n_prompt, &first, &end);
        if (first < n_most) n_most = first;
    }
    sequence->table.starts_at_embedding = request->wants_routes || request->observation;
    sequence->n_computed =
        cox_kv_match(engine->kv, &sequence->table, sequence->tokens, sequence->n_tokens, n_most);
    int32_t n = wanted_rows(engine, sequence, room);
    sequence->table.is_passing = sequence->table.has_entry && sequence->n_computed + n == sequence->n_tokens;
    if (reserve(engine, sequence, n)) return n;
    cox_kv_release(engine->kv, &sequence->table);
    sequence->n_computed = 0;
    return 0;
}

/* Where the positions of an intervention begin to differ in two sequences. */
static int32_t scopes_part(const cox_intervention *v, int32_t n_prompt, int32_t n_prompt_2)
{
    int32_t from, to, from_2, to_2;
    cox_positions_resolve(&v->positions, n_prompt, &from, &to);
    cox_positions_resolve(&v->positions, n_prompt_2, &from_2, &to_2);
    if (from != from_2) return from < from_2 ? from : from_2;
    if (to != to_2) return to < to_2 ? to : to_2;
    return INT32_MAX;
}

/* Positions below which the rows that `s` has scheduled are those of `before`, scheduled in the same step:
 * the same tokens up to there under the same plan, started at the same layers. */
static int32_t n_shared_positions(const cox_engine *engine, const cox__sequence *before,
                                  const cox__sequence *s)
{
    const cox_sequence_request *request = &s->request;
    if (!s->known.shares_rows || !before->known.shares_rows || !s->known.skips_idle_rows ||
        request->wants_routes || request->observation || before->steering != s->steering ||
        before->n_computed != s->n_computed)
        return 0;
    int32_t end = before->n_computed + before->n_scheduled, n = 0;
    if (end > s->n_computed + s->n_scheduled) end = s->n_computed + s->n_scheduled;
    if (end > s->n_tokens - 1) end = s->n_tokens - 1;
    if (end > s->n_reported && cox__reports(s, s->n_reported)) end = s->n_reported;
    for (int32_t i = 0; s->steering && i < s->steering->plan->n; i++) {
        int32_t same =
            scopes_part(&s->steering->plan->interventions[i], before->request.n_prompt, request->n_prompt);
        if (end > same) end = same;
    }
    while (n < end && s->tokens[n] == before->tokens[n] &&
           (n < s->n_computed ||
            cox_kv_start(engine->kv, &s->table, n) == cox_kv_start(engine->kv, &before->table, n)))
        n++;
    return n;
}

/* Lets a sequence that is being admitted share the rows at positions below `end` with the one before it. */
static void share(cox_engine *engine, cox__sequence *before, cox__sequence *s, int32_t end)
{
    s->n_shared = end;
    before->follower = s;
    for (int32_t p = s->n_computed; p < end; p++) {
        uint64_t start = (uint64_t)cox_kv_start(engine->kv, &s->table, p);
        engine->counters.layer_rows_saved += (uint64_t)engine->model->n_layers;
        engine->counters.layer_rows_shared += (uint64_t)engine->model->n_layers - start;
    }
}

/* Starts the sequence with `before` admitted in the same step: a whole chunk, or it waits for the next step,
 * because what is cut off shares nothing. [out] *n_shared: positions below are those of
 * `before`. Returns its rows, shared ones included, or 0. */
static int32_t start_sharing(cox_engine *engine, const cox__sequence *before, cox__sequence *sequence,
                             int32_t room, int32_t *n_shared)
{
    int32_t n = start(engine, sequence, room + before->n_tokens);
    if (n == 0) return 0;
    sequence->n_scheduled = n;
    *n_shared = n_shared_positions(engine, before, sequence);
    if (*n_shared < sequence->n_computed) *n_shared = sequence->n_computed;
    int32_t n_own = sequence->n_computed + n - *n_shared;
    bool is_cut = n < sequence->n_tokens - sequence->n_computed && n < engine->options.prefill_chunk;
    if (n_own <= room && !is_cut) return n;
    cox_kv_release(engine->kv, &sequence->table);
    sequence->n_computed = sequence->n_scheduled = 0;
    return 0;
}

/* Moves the first waiting sequence to the running ones if its first chunk fits; before: the one that was
 * admitted before it in this step, or NULL. [out] *n_own: rows that it takes of the step's. Returns it, or
 * NULL. */
static cox__sequence *admit(cox_engine *engine, cox__sequence *before, int32_t room, int32_t *n_own)
{
    cox__sequence *sequence = engine->waiting;
    int32_t n_shared = 0, n;
    if (before && sequence->known.shares_rows && before->known.shares_rows) {
        n = start_sharing(engine, before, sequence, room, &n_shared);
    } else {
        n = start(engine, sequence, room);
    }
    if (n == 0 && engine->n_running == 0) { /* nobody will make room: it fits when it shares nothing */
        sequence->table.is_private = true;
        n = start(engine, sequence, room);
    }
    if (n == 0) return NULL;
    engine->counters.layer_rows_saved += (uint64_t)sequence->n_computed * (uint64_t)engine->model->n_layers;
    cox__steer_borrow(engine, sequence);
    cox__unqueue(engine, sequence);
    if (sequence->started_s == 0) {
        sequence->started_s = cox_now_s();
        sequence->n_cached = sequence->n_computed;
    }
    sequence->n_scheduled = *n_own = n;
    if (n_shared > sequence->n_computed) {
        share(engine, before, sequence, n_shared);
        *n_own -= n_shared - sequence->n_computed;
    }
    engine->running[engine->n_running++] = sequence;
    return sequence;
}

static void stage_rows(cox_engine *engine, cox__sequence *sequence)
{
    cox__batch *batch = &engine->batch;
    batch->has_steering |= sequence->n_scheduled && sequence->steering;
    batch->has_traces |= sequence->n_scheduled && sequence->request.wants_routes;
    batch->has_observations |= sequence->n_scheduled && sequence->request.observation;
    for (int32_t i = 0; i < sequence->n_scheduled; i++) {
        if (sequence->n_computed + i < sequence->n_shared) continue;
        batch->staged_positions[batch->n_rows] = sequence->n_computed + i;
        batch->staged[batch->n_rows++] = sequence;
    }
}

/* Staged row i becomes row `row` of the batch. */
static void place_row(cox_engine *engine, int32_t i, int32_t row, int32_t start)
{
    cox__batch *batch = &engine->batch;
    cox__sequence *sequence = batch->staged[i];
    int32_t position = batch->staged_positions[i], n_layers = engine->model->n_layers;
    batch->positions[row] = position;
    batch->sequences[row] = sequence;
    batch->starts[row] = start;
    batch->keeps[row] = cox_kv_keeps(engine->kv, &sequence->table, position, sequence->request.n_prompt);
    batch->has_keeps |= batch->keeps[row];
    engine->counters.rows_restarted += start > 0;
    engine->counters.layer_rows += (uint64_t)(n_layers - start);
    engine->counters.layer_rows_saved += (uint64_t)start;
    bool is_last = position == sequence->n_tokens - 1;
    bool is_sampled = is_last && sequence->n_tokens < sequence->n_limit;
    bool wants_logits = is_sampled || cox__reports(sequence, position);
    if (wants_logits) batch->logit_rows[batch->n_logit_rows++] = row;
    batch->is_idle[row] = sequence->known.skips_idle_rows && !wants_logits && !batch->keeps[row] &&
                          !sequence->request.wants_routes && !sequence->request.observation;
    batch->has_idle |= batch->is_idle[row];
}

/* Staged rows [first, end) become the slot's, sorted by the layer at which they start. */
static void fill_slot(cox_engine *engine, cox__slot *slot, int32_t first, int32_t end)
{
    const cox__batch *batch = &engine->batch;
    int32_t n_layers = engine->model->n_layers, *ends = slot->ends;
    memset(ends, 0, (size_t)(n_layers + 1) * sizeof *ends);
    for (int32_t i = first; i < end; i++)
        ends[cox_kv_start(engine->kv, &batch->staged[i]->table, batch->staged_positions[i])]++;
    for (int32_t l = 0, next = first; l <= n_layers; l++) { /* counts to where each run begins */
        int32_t n = ends[l];
        ends[l] = next;
        next += n;
    }
    for (int32_t i = first; i < end; i++) { /* and, as the runs fill, to where each ends */
        int32_t start = cox_kv_start(engine->kv, &batch->staged[i]->table, batch->staged_positions[i]);
        place_row(engine, i, ends[start]++, start);
    }
    slot->first = slot->end = first;
}

static void split_into_slots(cox_engine *engine)
{
    int32_t n_rows = engine->batch.n_rows, n_slots = engine->options.n_slots;
    int32_t n = n_rows / MIN_SLOT_ROWS < n_slots ? n_rows / MIN_SLOT_ROWS : n_slots;
    int32_t least = (n_rows + engine->slot_rows - 1) / engine->slot_rows;
    if (n < least) n = least;
    for (int32_t s = 0; s < n_slots; s++) {
        fill_slot(engine, &engine->slots[s], s < n ? (int32_t)((int64_t)n_rows * s / n) : n_rows,
                  s < n ? (int32_t)((int64_t)n_rows * (s + 1) / n) : n_rows);
    }
}

void cox__schedule(cox_engine *engine)
{
    cox__batch *batch = &engine->batch;
    batch->n_rows = 0;
    batch->n_logit_rows = 0;
    batch->has_steering = batch->has_traces = batch->has_observations = batch->has_keeps = false;
    batch->has_idle = false;
    cox_kv_begin_step(engine->kv);
    int32_t room = engine->options.max_rows;
    for (int32_t i = 0; i < engine->n_running; i++) {
        engine->running[i]->n_scheduled = engine->running[i]->n_shared = 0;
        engine->running[i]->follower = NULL;
    }
    cox__sequence *before = NULL; /* the last one admitted */
    /* decoding sequences first: a long prompt must not delay them */
    for (int prefill = 0; prefill <= 1; prefill++) {
        for (int32_t i = 0; i < engine->n_running && room > 0; i++) {
            const cox__sequence *sequence = engine->running[i];
            bool is_prefill = sequence->n_tokens - sequence->n_computed > 1;
            if (is_prefill != (bool)prefill || sequence->n_scheduled) continue;
            room -= schedule_running(engine, i, room);
        }
    }
    while (engine->n_waiting && room > 0 && engine->n_running < engine->options.max_sequences) {
        int32_t n_own;
        before = admit(engine, before, room, &n_own);
        if (!before) break;
        room -= n_own;
    }
    for (int32_t i = 0; i < engine->n_running; i++) stage_rows(engine, engine->running[i]);
    split_into_slots(engine);
}
