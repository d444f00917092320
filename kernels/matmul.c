/*
 * Owns the pool of tiles: all jobs of a call are cut into tiles of rows and outputs, and the threads take
 * runs of neighbouring tiles. Which thread computes a tile changes no bit of it. A tile streams its weight
 * rows from memory, and widens and packs them, once for all its rows: where a long chunk of rows stays in the
 * inner cache, and the threads get enough tiles all the same, tiles are long.
 */
#include "kernels/kernel_set.h"

#include <omp.h>

enum {
    ALIGN_BYTES = 64,
    CHUNK_ROWS_STEP = 24,
    CHUNK_BYTES = 4 << 20, /* of packed rows: a share of the outer cache */
    SHORT_CHUNK_ROWS = 240,
    LONG_CHUNK_BYTES = 1 << 20, /* a share of the inner cache */
    TILES_PER_THREAD = 4        /* fewer leave threads idle at the end */
};

static int32_t least(int64_t a, int64_t b)
{
    return (int32_t)(a < b ? a : b);
}

/* Most rows of a tile; a multiple of CHUNK_ROWS_STEP. */
static int32_t chunk_rows(int32_t n_cols, bool is_long)
{
    int64_t row_bytes = (int64_t)cox__padded(n_cols > 0 ? n_cols : 1) * (int64_t)sizeof(float);
    int64_t step_bytes = row_bytes * CHUNK_ROWS_STEP;
    int32_t rows = least(CHUNK_BYTES / step_bytes * CHUNK_ROWS_STEP, SHORT_CHUNK_ROWS);
    int32_t more = least(LONG_CHUNK_BYTES / step_bytes * CHUNK_ROWS_STEP, COX__CHUNK_ROWS);
    if (is_long && more > rows) rows = more;
    return rows > CHUNK_ROWS_STEP ? rows : CHUNK_ROWS_STEP;
}

/* The largest of all widths up to max_cols: chunk_rows * columns is not monotonic. */
size_t cox__chunk_floats(int32_t max_cols)
{
    size_t cols = (size_t)cox__padded(max_cols > 0 ? max_cols : 1);
    size_t floats = CHUNK_BYTES / sizeof(float), more = LONG_CHUNK_BYTES / sizeof(float);
    if (floats > cols * SHORT_CHUNK_ROWS) floats = cols * SHORT_CHUNK_ROWS;
    if (more > cols * COX__CHUNK_ROWS) more = cols * COX__CHUNK_ROWS;
    if (floats < more) floats = more;
    if (floats < cols * CHUNK_ROWS_STEP) floats = cols * CHUNK_ROWS_STEP;
    return floats;
}

/* Offsets of one thread's areas, in floats; each area is whole cache lines. */
typedef struct {
    size_t rows, extra, end;
} layout;

static layout layout_of(const cox_kernels *kernels, int32_t max_cols)
{
    layout l;
    size_t cols = (size_t)cox__padded(max_cols > 0 ? max_cols : 1);
    l.rows = cols * (size_t)kernels->tile_outs + COX__WEIGHTS_PAD;
    l.extra = l.rows + cox__chunk_floats(max_cols) + COX__ROWS_PAD;
    l.end = l.extra + (kernels->extra_floats ? kernels->extra_floats(max_cols) : 0);
    return l;
}

size_t cox_matmul_scratch_bytes(const cox_kernels *kernels, int n_threads, int32_t max_cols)
{
    return (size_t)n_threads * layout_of(kernels, max_cols).end * sizeof(float) + ALIGN_BYTES;
}

static int32_t ceil_div(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int64_t tiles_of(const cox_kernels *kernels, const cox_matmul_job *job, bool is_long)
{
    if (job->n_rows <= 0) return 0;
    int64_t chunks = ceil_div(job->n_rows, chunk_rows(job->w->n_cols, is_long));
    return chunks * ceil_div(job->w->n_rows, kernels->tile_outs);
}

/* Tile `index` of a job: outputs run fastest, so that a thread's neighbouring tiles share their rows. */
static cox__tile tile_of(const cox_kernels *kernels, const cox_matmul_job *job, bool is_long, int64_t index)
{
    int32_t chunk = chunk_rows(job->w->n_cols, is_long);
    int32_t n_out_tiles = ceil_div(job->w->n_rows, kernels->tile_outs);
    cox__tile tile = {.row = (int32_t)(index / n_out_tiles) * chunk,
                      .out = (int32_t)(index % n_out_tiles) * kernels->tile_outs};
    tile.n_rows = job->n_rows - tile.row < chunk ? job->n_rows - tile.row : chunk;
    tile.n_outs =
        job->w->n_rows - tile.out < kernels->tile_outs ? job->w->n_rows - tile.out : kernels->tile_outs;
    return tile;
}

static cox__scratch scratch_of_thread(const cox_kernels *kernels, void *scratch, int thread, int32_t max_cols)
{
    uintptr_t start = ((uintptr_t)scratch + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    layout l = layout_of(kernels, max_cols);
    float *own = (float *)start + (size_t)thread * l.end;
    return (cox__scratch){.set = kernels, .weights = own, .rows = own + l.rows, .extra = own + l.extra};
}

bool cox__scratch_holds(cox__scratch *scratch, const cox_matmul_job *job, const cox__tile *tile)
{
    const cox_matmul_job *held = &scratch->held_job;
    bool is_held = held->x == job->x && held->x_rows == job->x_rows && held->x_stride == job->x_stride &&
                   scratch->held_cols == job->w->n_cols && scratch->held_tile.row == tile->row &&
                   scratch->held_tile.n_rows == tile->n_rows;
    scratch->held_job = *job;
    scratch->held_cols = job->w->n_cols;
    scratch->held_tile = *tile;
    return is_held;
}

static int64_t count_tiles(const cox_kernels *kernels, const cox_matmul_job *jobs, int32_t n_jobs,
                           bool is_long)
{
    int64_t n = 0;
    for (int32_t j = 0; j < n_jobs; j++) n += tiles_of(kernels, &jobs[j], is_long);
    return n;
}

void cox_matmul(const cox_kernels *kernels, const cox_matmul_job *jobs, int32_t n_jobs, void *scratch)
{
    int32_t max_cols = 0;
    for (int32_t j = 0; j < n_jobs; j++) {
        if (jobs[j].w->n_cols > max_cols) max_cols = jobs[j].w->n_cols;
    }
    int n_threads = omp_get_max_threads();
    int64_t n_tiles = count_tiles(kernels, jobs, n_jobs, true);
    bool is_long = n_threads == 1 || n_tiles >= (int64_t)TILES_PER_THREAD * n_threads;
    if (!is_long) n_tiles = count_tiles(kernels, jobs, n_jobs, false);
#pragma omp parallel if (n_tiles > 1)
    {
        cox__scratch own = scratch_of_thread(kernels, scratch, omp_get_thread_num(), max_cols);
        int64_t first = 0; /* the pool's index of this job's first tile */
        const cox_matmul_job *job = jobs;
#pragma omp for schedule(guided)
        for (int64_t t = 0; t < n_tiles; t++) {
            while (t - first >= tiles_of(kernels, job, is_long)) first += tiles_of(kernels, job++, is_long);
            cox__tile tile = tile_of(kernels, job, is_long, t - first);
            kernels->matmul_tile(job, &tile, &own);
        }
    }
}

void cox_attention(const cox_kernels *kernels, const cox_attention_job *jobs, int32_t n_jobs)
{
#pragma omp parallel for schedule(guided) if (n_jobs > 1)
    for (int32_t j = 0; j < n_jobs; j++) kernels->attention(&jobs[j]);
}
