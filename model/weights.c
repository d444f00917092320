/*
 * Weights of a model: which bytes a rank needs (spans), reading them in, and the views. Matrices stay in
 * the mapping and in their own dtype. Only vectors are copied (as f32), and fused experts that are stored
 * transposed (in their own dtype; the pages that they came from are let go at once).
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "model/tensors.h"

enum { CHUNK_BYTES = 8 << 20 }; /* read in between two calls of the progress callback */

typedef struct span {
    const unsigned char *data;
    size_t n_bytes;
} span;

typedef struct loader {
    const cox_model *model;
    cox_arena *arena;
    cox_load_progress *progress;
    void *context;
    size_t done_bytes, total_bytes;
} loader;

static size_t arena_bytes(size_t n_bytes)
{
    return (n_bytes + COX_ARENA_ALIGN - 1) / COX_ARENA_ALIGN * COX_ARENA_ALIGN;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t)((const span *)a)->data, right = (uintptr_t)((const span *)b)->data;
    return (left > right) - (left < right);
}

/* Bytes of the pages that the spans touch, each page once. Sorts the spans. */
static size_t page_bytes(span *spans, size_t n)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    qsort(spans, n, sizeof *spans, by_address);
    size_t sum = 0;
    uintptr_t covered = 0;
    for (size_t i = 0; i < n; i++) {
        if (spans[i].n_bytes == 0) continue;
        uintptr_t first = (uintptr_t)spans[i].data / page * page;
        uintptr_t end = ((uintptr_t)spans[i].data + spans[i].n_bytes + page - 1) / page * page;
        if (first < covered) first = covered;
        if (end > first) sum += end - first;
        if (end > covered) covered = end;
    }
    return sum;
}

static size_t sum_bytes(const span *spans, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += spans[i].n_bytes;
    return sum;
}

static cox_status populate(loader *l, const span *spans, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t done = 0; done < spans[i].n_bytes;) {
            size_t step = spans[i].n_bytes - done < CHUNK_BYTES ? spans[i].n_bytes - done : CHUNK_BYTES;
            cox_status status = cox_checkpoint_populate(l->model->checkpoint, spans[i].data + done, step);
            if (status != COX_OK) return status;
            done += step;
            l->done_bytes += step;
            if (l->progress) l->progress(l->context, l->done_bytes, l->total_bytes);
        }
    }
    return COX_OK;
}

/* --- Views --- */

static cox_dtype matrix_dtype(const cox_tensor *tensor)
{
    return tensor->dtype == COX_TENSOR_F32 ? COX_F32 : tensor->dtype == COX_TENSOR_F16 ? COX_F16 : COX_BF16;
}

static cox_matrix matrix_view(const cox_tensor *tensor)
{
    cox_dtype dtype = matrix_dtype(tensor);
    return (cox_matrix){.dtype = dtype,
                        .n_rows = (int32_t)tensor->shape[0],
                        .n_cols = (int32_t)tensor->shape[1],
                        .data = tensor->data,
                        .row_stride_bytes = cox_dtype_bytes(dtype, (size_t)tensor->shape[1])};
}

/* [out] out [n] f32: elements first, first + step, ... of a float tensor seen as one row. */
static cox_status vector_copy(cox_arena *arena, const cox_tensor *tensor, size_t first, size_t step, size_t n,
                              const float **out)
{
    float *copy = cox_arena_array(arena, n, sizeof *copy);
    if (!copy) return COX_NO_MEMORY;
    cox_dtype dtype = matrix_dtype(tensor);
    const unsigned char *data = tensor->data;
    for (size_t i = 0; i < n; i++) {
        cox_matrix element = {.dtype = dtype,
                              .n_rows = 1,
                              .n_cols = 1,
                              .data = data + cox_dtype_bytes(dtype, first + i * step)};
        cox_matrix_row(&element, 0, &copy[i]);
    }
    *out = copy;
    return COX_OK;
}

/* --- Trunk --- */

static size_t trunk_n_tensors(const cox_model *m)
{
    return 3 + (size_t)m->n_layers * m->family->n_layer_tensors;
}

/* [out] tensors [trunk_n_tensors]; returns how many there are, without NULLs and without a tied head. */
static size_t trunk_tensors(const cox_model *m, const cox_tensor **tensors)
{
    const cox__bound *bound = m->bound;
    size_t n = 0;
    tensors[n++] = bound->embed;
    for (int32_t i = 0; i < m->n_layers; i++) {
        for (size_t t = 0; t < m->family->n_layer_tensors; t++) {
            if (bound->layers[i].own[t]) tensors[n++] = bound->layers[i].own[t];
        }
    }
    tensors[n++] = bound->final_norm;
    if (bound->lm_head != bound->embed) tensors[n++] = bound->lm_head;
    return n;
}

/* [out] *spans: malloc'ed; *copies: bytes of the f32 copies of vectors, which are tensors of one dimension.
 */
static cox_status trunk_spans(const cox_model *m, span **spans, size_t *n, size_t *copies)
{
    const cox_tensor **tensors = calloc(trunk_n_tensors(m), sizeof *tensors);
    span *list = calloc(trunk_n_tensors(m), sizeof *list);
    if (!tensors || !list) {
        free(tensors);
        free(list);
        return cox_fail(COX_NO_MEMORY, "%s: out of memory for a list of tensors", m->folder);
    }
    *n = trunk_tensors(m, tensors);
    *copies = arena_bytes((size_t)m->n_layers * sizeof(cox_layer_weights));
    for (size_t i = 0; i < *n; i++) {
        list[i] = (span){tensors[i]->data, tensors[i]->n_bytes};
        if (tensors[i]->n_dims == 1) *copies += arena_bytes((size_t)tensors[i]->shape[0] * sizeof(float));
    }
    free(tensors);
    *spans = list;
    return COX_OK;
}

size_t cox_model_trunk_bytes(const cox_model *model)
{
    span *spans;
    size_t n, copies;
    if (trunk_spans(model, &spans, &n, &copies) != COX_OK) return 0;
    size_t sum = page_bytes(spans, n) + copies;
    free(spans);
    return sum;
}

static cox_status view_layer(const cox_model *m, int32_t layer, cox_arena *arena, cox_layer_weights *weights)
{
    for (size_t t = 0; t < m->family->n_layer_tensors; t++) {
        const cox__tensor_spec *spec = &m->family->layer_tensors[t];
        const cox_tensor *tensor = m->bound->layers[layer].own[t];
        if (!tensor) continue;
        void *member = (unsigned char *)weights + spec->offset;
        if (spec->cols != COX__NONE) {
            *(cox_matrix *)member = matrix_view(tensor);
            continue;
        }
        cox_status status = vector_copy(arena, tensor, 0, 1, (size_t)tensor->shape[0], member);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status view_trunk(const cox_model *m, cox_arena *arena, cox_trunk_weights *trunk)
{
    cox_trunk_weights fresh = {.embed = matrix_view(m->bound->embed),
                               .lm_head = matrix_view(m->bound->lm_head)};
    fresh.layers = cox_arena_array(arena, (size_t)m->n_layers, sizeof *fresh.layers);
    if (!fresh.layers) return COX_NO_MEMORY;
    cox_status status = vector_copy(arena, m->bound->final_norm, 0, 1, (size_t)m->d_model, &fresh.final_norm);
    for (int32_t i = 0; status == COX_OK && i < m->n_layers; i++)
        status = view_layer(m, i, arena, &fresh.layers[i]);
    if (status == COX_OK) *trunk = fresh;
    return status;
}

cox_status cox_model_load_trunk(const cox_model *model, cox_arena *arena, cox_load_progress *progress,
                                void *context, cox_trunk_weights *trunk)
{
    span *spans;
    size_t n, copies;
    cox_status status = trunk_spans(model, &spans, &n, &copies);
    if (status != COX_OK) return status;
    loader l = {model, arena, progress, context, 0, sum_bytes(spans, n)};
    status = populate(&l, spans, n);
    free(spans);
    return status == COX_OK ? view_trunk(model, arena, trunk) : status;
}

/* --- Experts --- */

enum { MAX_EXPERT_SPANS = 6 };

/* Where one expert's weights lie, and what of them is copied. */
typedef struct expert_source {
    span spans[MAX_EXPERT_SPANS];
    size_t n_spans;
    size_t copied_bytes;                  /* in the arena */
    bool is_gate_up_moved, is_down_moved; /* spans[0], spans[1] are rearranged and let go */
} expert_source;

static span slice(const cox_tensor *tensor, int32_t id)
{
    size_t n_bytes = tensor->n_bytes / (size_t)tensor->shape[0];
    return (span){(const unsigned char *)tensor->data + (size_t)id * n_bytes, n_bytes};
}

static expert_source find_expert(const cox_model *m, int32_t layer, int32_t id)
{
    const cox__bound_layer *bound = &m->bound->layers[layer];
    expert_source source = {0};
    if (bound->each) {
        for (int i = 0; i < 3; i++) {
            const cox_tensor *tensor = bound->each[3 * id + i];
            source.spans[source.n_spans++] = (span){tensor->data, tensor->n_bytes};
        }
        return source;
    }
    if (bound->stacked.gate_up) {
        source.spans[source.n_spans++] = slice(bound->stacked.gate_up, id);
        source.spans[source.n_spans++] = slice(bound->stacked.down, id);
        return source;
    }
    const cox__fused_experts *f = &bound->fused;
    source.spans[source.n_spans++] = slice(f->gate_up, id);
    source.spans[source.n_spans++] = slice(f->down, id);
    source.spans[source.n_spans++] = slice(f->gate_up_bias, id);
    source.spans[source.n_spans++] = slice(f->down_bias, id);
    if (f->gate_up_scales) source.spans[source.n_spans++] = slice(f->gate_up_scales, id);
    if (f->down_scales) source.spans[source.n_spans++] = slice(f->down_scales, id);
    source.is_gate_up_moved = !f->gate_up_scales;
    source.is_down_moved = !f->down_scales;
    source.copied_bytes = 2 * arena_bytes((size_t)m->d_expert * sizeof(float)) +
                          arena_bytes((size_t)m->d_model * sizeof(float));
    if (source.is_gate_up_moved) source.copied_bytes += arena_bytes(source.spans[0].n_bytes);
    if (source.is_down_moved) source.copied_bytes += arena_bytes(source.spans[1].n_bytes);
    return source;
}

/* Appends the spans that stay resident. */
static size_t resident_spans(const expert_source *source, span *spans)
{
    size_t n = 0;
    for (size_t i = 0; i < source->n_spans; i++) {
        if ((i == 0 && source->is_gate_up_moved) || (i == 1 && source->is_down_moved)) continue;
        spans[n++] = source->spans[i];
    }
    return n;
}

size_t cox_model_expert_bytes(const cox_model *model, int32_t layer)
{
    size_t largest = 0;
    if (layer < 0 || layer >= model->n_layers || !model->layers[layer].is_moe) return 0;
    for (int32_t id = 0; id < model->router.n_experts; id++) {
        expert_source source = find_expert(model, layer, id);
        span spans[MAX_EXPERT_SPANS];
        size_t n_bytes = page_bytes(spans, resident_spans(&source, spans)) + source.copied_bytes;
        if (n_bytes > largest) largest = n_bytes;
    }
    return largest;
}

static cox_status check_ids(const cox_model *m, const int32_t *layers, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (layers[i] < 0 || layers[i] >= m->n_layers || !m->layers[layers[i]].is_moe || ids[i] < 0 ||
            ids[i] >= m->router.n_experts) {
            return cox_fail(COX_INVALID, "%s: there is no routed expert %d in layer %d", m->folder,
                            (int)ids[i], (int)layers[i]);
        }
    }
    return COX_OK;
}

cox_status cox_model_experts_bytes(const cox_model *model, const int32_t *layers, const int32_t *ids,
                                   size_t n, size_t *n_bytes)
{
    cox_status status = check_ids(model, layers, ids, n);
    if (status != COX_OK) return status;
    span *spans = calloc(n ? n * MAX_EXPERT_SPANS : 1, sizeof *spans);
    if (!spans) return cox_fail(COX_NO_MEMORY, "%s: out of memory for a list of experts", model->folder);
    size_t n_spans = 0, copied = 0;
    for (size_t i = 0; i < n; i++) {
        expert_source source = find_expert(model, layers[i], ids[i]);
        n_spans += resident_spans(&source, spans + n_spans);
        copied += source.copied_bytes;
    }
    *n_bytes = page_bytes(spans, n_spans) + copied;
    free(spans);
    return COX_OK;
}

/* out[r, i] = in[i, first + r * step] for r < n_rows, i < n_in; elements of `size` bytes, rows of `in` of
 * in_cols elements. In tiles, so that both sides stay in the cache. */
static void transpose(unsigned char *out, const unsigned char *in, size_t n_rows, size_t n_in, size_t in_cols,
                      size_t first, size_t step, size_t size)
{
    enum { TILE = 32 };
    for (size_t r0 = 0; r0 < n_rows; r0 += TILE) {
        for (size_t i0 = 0; i0 < n_in; i0 += TILE) {
            size_t r1 = r0 + TILE < n_rows ? r0 + TILE : n_rows, i1 = i0 + TILE < n_in ? i0 + TILE : n_in;
            for (size_t r = r0; r < r1; r++) {
                for (size_t i = i0; i < i1; i++) {
                    const unsigned char *from = in + (i * in_cols + first + r * step) * size;
                    if (size == 2)
                        memcpy(out + (r * n_in + i) * 2, from, 2);
                    else
                        memcpy(out + (r * n_in + i) * 4, from, 4);
                }
            }
        }
    }
}

/*
 * Rows first, first + step, ... of one expert's matrix W [n_out, n_in]. MXFP4 blocks are viewed where
 * they are. [in, out] storage is transposed into `room`, which advances behind the new matrix.
 */
static cox_matrix fused_rows(const cox_tensor *matrix, const cox_tensor *scales, int32_t id, size_t n_in,
                             size_t n_out, size_t first, size_t step, unsigned char **room)
{
    const unsigned char *data = slice(matrix, id).data;
    cox_matrix view = {.n_rows = (int32_t)(n_out / step), .n_cols = (int32_t)n_in};
    if (scales) {
        view.dtype = COX_MXFP4;
        view.data = data + first * (n_in / 2);
        view.row_stride_bytes = step * (n_in / 2);
        view.scales = slice(scales, id).data + first * (n_in / 32);
        view.scale_stride_bytes = step * (n_in / 32);
        return view;
    }
    view.dtype = matrix_dtype(matrix);
    view.row_stride_bytes = cox_dtype_bytes(view.dtype, n_in);
    view.data = *room;
    transpose(*room, data, n_out / step, n_in, n_out, first, step, cox_dtype_bytes(view.dtype, 1));
    *room += view.row_stride_bytes * (n_out / step);
    return view;
}

static cox_status view_fused(loader *l, int32_t layer, int32_t id, const expert_source *source,
                             cox_ffn_weights *w)
{
    const cox_model *m = l->model;
    const cox__fused_experts *f = &m->bound->layers[layer].fused;
    const size_t d = (size_t)m->d_model, h = (size_t)m->d_expert, at = (size_t)id;
    unsigned char *gate_up = NULL, *down = NULL;
    if (source->is_gate_up_moved && !(gate_up = cox_arena_alloc(l->arena, source->spans[0].n_bytes)))
        return COX_NO_MEMORY;
    if (source->is_down_moved && !(down = cox_arena_alloc(l->arena, source->spans[1].n_bytes)))
        return COX_NO_MEMORY;
    w->gate = fused_rows(f->gate_up, f->gate_up_scales, id, d, 2 * h, 0, 2, &gate_up);
    w->up = fused_rows(f->gate_up, f->gate_up_scales, id, d, 2 * h, 1, 2, &gate_up);
    w->down = fused_rows(f->down, f->down_scales, id, h, d, 0, 1, &down);
    for (size_t i = 0; i < 2; i++) {
        bool is_moved = i == 0 ? source->is_gate_up_moved : source->is_down_moved;
        if (is_moved) cox_checkpoint_release(m->checkpoint, source->spans[i].data, source->spans[i].n_bytes);
    }
    cox_status status = vector_copy(l->arena, f->gate_up_bias, at * 2 * h, 2, h, &w->gate_bias);
    if (status == COX_OK) status = vector_copy(l->arena, f->gate_up_bias, at * 2 * h + 1, 2, h, &w->up_bias);
    if (status == COX_OK) status = vector_copy(l->arena, f->down_bias, at * d, 1, d, &w->down_bias);
    return status;
}

/* n_rows rows of an expert's matrix, from `first` on. */
static cox_matrix stacked_view(const cox_tensor *tensor, int32_t id, size_t first, size_t n_rows)
{
    cox_matrix view = {
        .dtype = matrix_dtype(tensor), .n_rows = (int32_t)n_rows, .n_cols = (int32_t)tensor->shape[2]};
    view.row_stride_bytes = cox_dtype_bytes(view.dtype, (size_t)tensor->shape[2]);
    view.data = slice(tensor, id).data + first * view.row_stride_bytes;
    return view;
}

static void view_stacked(const cox_model *m, int32_t layer, int32_t id, cox_ffn_weights *w)
{
    const cox__stacked_experts *stacked = &m->bound->layers[layer].stacked;
    const size_t h = (size_t)m->d_expert;
    w->gate = stacked_view(stacked->gate_up, id, 0, h);
    w->up = stacked_view(stacked->gate_up, id, h, h);
    w->down = stacked_view(stacked->down, id, 0, (size_t)m->d_model);
}

static cox_status load_expert(loader *l, int32_t layer, int32_t id, cox_ffn_weights *weights)
{
    expert_source source = find_expert(l->model, layer, id);
    cox_status status = populate(l, source.spans, source.n_spans);
    if (status != COX_OK) return status;
    cox_ffn_weights fresh = {0};
    const cox_tensor **each = l->model->bound->layers[layer].each;
    if (each) {
        fresh.gate = matrix_view(each[3 * id]);
        fresh.up = matrix_view(each[3 * id + 1]);
        fresh.down = matrix_view(each[3 * id + 2]);
    } else if (l->model->bound->layers[layer].stacked.gate_up) {
        view_stacked(l->model, layer, id, &fresh);
    } else {
        status = view_fused(l, layer, id, &source, &fresh);
    }
    if (status == COX_OK) *weights = fresh;
    return status;
}

cox_status cox_model_load_experts(const cox_model *model, cox_arena *arena, const int32_t *layers,
                                  const int32_t *ids, size_t n, cox_load_progress *progress, void *context,
                                  cox_ffn_weights *experts)
{
    cox_status status = check_ids(model, layers, ids, n);
    if (status != COX_OK) return status;
    loader l = {model, arena, progress, context, 0, 0};
    for (size_t i = 0; i < n; i++) {
        expert_source source = find_expert(model, layers[i], ids[i]);
        l.total_bytes += sum_bytes(source.spans, source.n_spans);
    }
    for (size_t i = 0; status == COX_OK && i < n; i++)
        status = load_expert(&l, layers[i], ids[i], &experts[i]);
    return status;
}

/* --- Counts --- */

static uint64_t n_elements(const cox_tensor *tensor)
{
    if (tensor->dtype == COX_TENSOR_U8) return 2 * (uint64_t)tensor->n_bytes; /* two e2m1 values in a byte */
    return (uint64_t)tensor->n_bytes / (tensor->dtype == COX_TENSOR_F32 ? 4 : 2);
}

static uint64_t trunk_parameters(const cox_model *m)
{
    const cox__bound *bound = m->bound;
    uint64_t sum = n_elements(bound->embed) + n_elements(bound->final_norm);
    if (bound->lm_head != bound->embed) sum += n_elements(bound->lm_head);
    for (int32_t i = 0; i < m->n_layers; i++) {
        for (size_t t = 0; t < m->family->n_layer_tensors; t++) {
            if (bound->layers[i].own[t]) sum += n_elements(bound->layers[i].own[t]);
        }
    }
    return sum;
}

static uint64_t expert_parameters(const cox_model *m)
{
    uint64_t d = (uint64_t)m->d_model, h = (uint64_t)m->d_expert;
    return 3 * d * h + (m->family->experts.layout == COX__EXPERTS_FUSED ? 2 * h + d : 0);
}

static uint64_t n_moe_layers(const cox_model *m)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < m->n_layers; i++) n += m->layers[i].is_moe;
    return n;
}

uint64_t cox_model_n_parameters(const cox_model *model)
{
    return trunk_parameters(model) +
           n_moe_layers(model) * (uint64_t)model->router.n_experts * expert_parameters(model);
}

uint64_t cox_model_n_active_parameters(const cox_model *model)
{
    return trunk_parameters(model) +
           n_moe_layers(model) * (uint64_t)model->router.top_k * expert_parameters(model);
}
