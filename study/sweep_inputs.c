/* What a sweep reads: grid, rules, sets of prompts; and the vectors that its controls steer with.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/first_tokens.h"
#include "base/path.h"
#include "study/sweep.h"
#include "model/tokenizer.h"
#include "steering/vector_math.h"

static const char RANDOMS[] = "randoms.safetensors"; /* vectors of controls, in the folder of the results */

char *cox_sweep_path(const cox_sweep *sweep, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", sweep->options->output, name) >= 0) return path;
    cox_no_memory("a sweep's inputs");
    return NULL;
}

char *cox_sweep_vectors(const cox_sweep *sweep, const cox_sweep_block *block)
{
    char *path = NULL;
    bool is_absolute = *block->vectors == '/';
    if (asprintf(&path, "%s%s%s", is_absolute ? "" : sweep->folder, is_absolute ? "" : "/", block->vectors) >=
        0)
        return path;
    cox_no_memory("a sweep's inputs");
    return NULL;
}

json_t *cox_sweep_plan(const cox_sweep *sweep, const cox_sweep_cell *cell, bool is_at_home)
{
    bool is_relative = is_at_home && *cell->block->vectors != '/';
    char *path = cox_sweep_vectors(sweep, cell->block),
         *vectors = path && is_relative ? cox_path_seen_from(sweep->home, path) : path;
    const char *randoms = is_at_home ? RANDOMS : sweep->randoms;
    json_t *plan = vectors ? cox_sweep_cell_plan(sweep->grid, cell, vectors, randoms) : NULL;
    if (vectors != path) free(vectors);
    free(path);
    if (!plan) cox_no_memory("a plan");
    return plan;
}

const char *cox_sweep_set_name(int32_t set)
{
    static const char *const names[] = {"a", "b", "neutral"};
    return names[set];
}

cox_status cox_sweep_write_file(const cox_sweep *sweep, const char *name, const char *text, size_t n)
{
    char *path = cox_sweep_path(sweep, name), *beside = NULL;
    if (!path || asprintf(&beside, "%s.new", path) < 0) {
        free(path);
        return cox_no_memory("a sweep's inputs");
    }
    FILE *file = fopen(beside, "w");
    bool is_written = file && fwrite(text, 1, n, file) == n;
    is_written = file && fclose(file) == 0 && is_written;
    cox_status status = COX_OK;
    if (!is_written || rename(beside, path) != 0)
        status = cox_fail(COX_IO, "%s: cannot write: %s", path, strerror(errno));
    free(beside);
    free(path);
    return status;
}

/* --- Inputs --- */

static cox_status read_grid(cox_sweep *s)
{
    const char *path = s->options->grid, *slash = strrchr(path, '/');
    json_t *json = NULL;
    char *folder = slash ? strndup(path, (size_t)(slash - path + (slash == path))) : strdup(".");
    if (!folder) return cox_no_memory("a sweep's inputs");
    s->folder = realpath(folder, NULL);
    cox_status status = s->folder ? cox_json_load_file(&json, path)
                                  : cox_fail(COX_NOT_FOUND, "%s: %s: %s", path, folder, strerror(errno));
    free(folder);
    if (status == COX_OK) status = cox_sweep_grid_parse(&s->grid, json, path, s->run->model);
    json_decref(json);
    return status;
}

cox_status cox_sweep_read_inputs(cox_sweep *s)
{
    const cox_sweep_options *o = s->options;
    const char *const paths[COX_CELL_MAX_SETS] = {o->prompts[0], o->prompts[1], o->neutral},
                      *model = s->run->model->folder;
    s->n_sets = o->neutral ? 3 : 2;
    cox_status status = read_grid(s);
    if (status == COX_OK) status = cox_rules_load(&s->rules, o->rules);
    if (status == COX_OK)
        status = cox_first_tokens_read(NULL, NULL, 0, o->rules, s->run->model, model, &s->first_tokens);
    if (status == COX_OK) status = cox_tokenizer_load(&s->words, model);
    if (status == COX_OK) status = cox_tokenizer_fingerprint(model, s->tokenizer);
    if (status == COX_OK) status = cox_prompts_read(s->sets, paths, (size_t)s->n_sets, o->limit, s->run);
    if (status != COX_OK) return status;
    s->home = realpath(o->output, NULL);
    if (!s->home) return cox_fail(COX_IO, "--output %s: %s", o->output, strerror(errno));
    if (asprintf(&s->randoms, "%s/%s", s->home, RANDOMS) < 0) s->randoms = NULL;
    return s->randoms ? COX_OK : cox_no_memory("a sweep's inputs");
}

void cox_sweep_free_inputs(cox_sweep *s)
{
    for (int32_t i = 0; i < COX_CELL_MAX_SETS; i++) cox_prompts_free(&s->sets[i]);
    cox_rules_free(s->rules);
    cox_tokenizer_destroy(s->words);
    cox_sweep_grid_free(s->grid);
    free(s->first_tokens);
    free(s->folder);
    free(s->home);
    free(s->randoms);
}

/* --- Vectors of controls --- */

static uint64_t seed_of(const char *name)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a: the name says place and seed */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash & INT64_MAX;
}

typedef struct randoms {
    cox_vector *vectors;
    char (*names)[96];
    size_t n, room;
} randoms;

/* Blocks may share a place, and then its draws. Same name, other norm: writing the file tells. */
static bool has_drawn(const randoms *r, const char *name, float norm)
{
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->names[i], name) == 0 && r->vectors[i].norm == norm) return true;
    }
    return false;
}

/* What a control puts in the place of `like`, with its norm. */
static cox_status fill(const cox_sweep *s, const cox_sweep_cell *cell, int32_t expert,
                       const cox_vector_file *file, const cox_vector *like, cox_vector *v)
{
    if (cell->block->control == COX_SWEEP_RANDOM_DIRECTION) {
        v->provenance = "{\"made\": \"random\", \"for\": \"sweep\"}";
        cox_vector_random(seed_of(v->name), (double)like->norm, v->width, v->data);
        return COX_OK;
    }
    char tensor[64];
    cox_sweep_tensor_name(cell, cox_sweep_other_expert(s->grid, cell, expert), tensor);
    const cox_vector *other = cox_vector_find(file, tensor);
    if (!other) return COX_NOT_FOUND;
    v->provenance = "{\"made\": \"another expert's, brought to this one's norm\", \"for\": \"sweep\"}";
    double factor = (double)like->norm / (double)other->norm;
    for (int32_t i = 0; i < v->width; i++) v->data[i] = (float)(factor * (double)other->data[i]);
    return COX_OK;
}

/* The vector of a control's cell (expert: of one of its experts). */
static cox_status draw(const cox_sweep *s, randoms *r, const cox_sweep_cell *cell, int32_t expert,
                       const cox_vector_file *file)
{
    char tensor[64];
    cox_sweep_tensor_name(cell, expert, tensor);
    const cox_vector *like = cox_vector_find(file, tensor);
    if (!like) return COX_NOT_FOUND;
    if (r->n == r->room) {
        r->room = 2 * r->room + 64;
        cox_vector *vectors = realloc(r->vectors, r->room * sizeof *vectors);
        if (vectors) r->vectors = vectors;
        char(*names)[96] = realloc(r->names, r->room * sizeof *names);
        if (names) r->names = names;
        if (!vectors || !names) return cox_no_memory("the vectors of controls");
    }
    cox_sweep_control_tensor_name(s->grid, cell, expert, r->names[r->n]);
    if (has_drawn(r, r->names[r->n], like->norm)) return COX_OK;
    cox_vector *v = &r->vectors[r->n];
    *v = *like;
    v->name = r->names[r->n];
    v->data = malloc((size_t)v->width * sizeof *v->data);
    if (!v->data) return cox_no_memory("the vectors of controls");
    r->n++;
    return fill(s, cell, expert, file, like, v);
}

static cox_status draw_block(const cox_sweep *s, randoms *r, const cox_sweep_block *block,
                             const cox_vector_file *file)
{
    int64_t n_same = (int64_t)json_array_size(block->positions) * block->n_strengths * block->n_weightings;
    cox_status status = COX_OK;
    for (int64_t i = 0; i < block->n_cells && status == COX_OK; i += n_same) {
        const cox_sweep_cell cell = cox_sweep_cell_at(s->grid, block->first + i);
        int32_t n = block->is_together ? s->grid->n_experts : 1;
        for (int32_t e = 0; e < n && status == COX_OK; e++)
            status = draw(s, r, &cell, block->is_together ? e : cell.expert, file);
    }
    return status;
}

cox_status cox_sweep_write_randoms(const cox_sweep *s)
{
    randoms r = {0};
    cox_vector_cache files = {0};
    cox_status status = COX_OK;
    for (int32_t b = 0; b < s->grid->n_blocks && status == COX_OK; b++) {
        const cox_sweep_block *block = &s->grid->blocks[b];
        if (block->control == COX_SWEEP_DIRECTION) continue;
        char *path = cox_sweep_vectors(s, block);
        cox_vector_file *file = NULL;
        status = path ? cox_vector_file_read(&file, path) : COX_NO_MEMORY;
        if (status == COX_OK) {
            cox_vector_file **grown = realloc(files.files, (files.n + 1) * sizeof *grown);
            if (!grown) {
                cox_vector_file_free(file);
                status = cox_no_memory("a sweep's inputs");
            } else {
                files.files = grown; /* vectors below borrow their texts */
                files.files[files.n++] = file;
                status = draw_block(s, &r, block, file);
            }
        }
        free(path);
    }
    for (size_t i = 0; i < r.n; i++) r.vectors[i].name = r.names[i];
    if (status == COX_OK && r.n > 0) status = cox_vector_file_write(s->randoms, r.vectors, r.n);
    for (size_t i = 0; i < r.n; i++) free(r.vectors[i].data);
    cox_vector_cache_release(&files);
    free(r.vectors);
    free(r.names);
    return status;
}
