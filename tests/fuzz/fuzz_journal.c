/*
 * A journal and its results of any bytes: the input is the journal, then 0xff, then the results. An error, or
 * a journal whose results are whole lines within the file, that takes another one, and that has them all when
 * it is opened again. (In the folder of temporary files, best one in memory: TMPDIR=/dev/shm.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[256], results[280], journal[300];
static json_t *run;

static void remove_files(void)
{
    unlink(results);
    unlink(journal);
    rmdir(folder);
    json_decref(run);
}

static void make_folder(void)
{
    if (run) return;
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/cox-fuzz-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder)) abort();
    snprintf(results, sizeof results, "%s/r", folder);
    snprintf(journal, sizeof journal, "%s.journal", results);
    run = json_pack("{s:s}", "a", "b");
    atexit(remove_files);
}

static void write_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) abort();
}

typedef struct seen {
    uint64_t n, n_bytes, largest;
} seen;

static cox_status on_result(void *context, uint64_t key, const char *line, size_t n)
{
    seen *s = context;
    (void)line;
    s->n++;
    s->n_bytes += n;
    if (key > s->largest) s->largest = key;
    return COX_OK;
}

static cox_status open_journal(cox_journal **j, seen *s)
{
    const cox_journal_options options = {.path = results, .run = run, .on_result = on_result, .context = s};
    return cox_journal_open(j, &options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_folder();
    const uint8_t *mark = size ? memchr(data, 0xff, size) : NULL;
    size_t n = mark ? (size_t)(mark - data) : size;
    write_file(journal, data, n);
    write_file(results, mark ? mark + 1 : data, mark ? size - n - 1 : 0);
    cox_journal *j = NULL;
    seen first = {0}, second = {0};
    struct stat file;
    if (open_journal(&j, &first) != COX_OK) return 0;
    if (stat(results, &file) != 0 || (uint64_t)file.st_size != first.n_bytes) abort();
    if (first.n != cox_journal_what_was_found(j).n_results) abort();
    if (first.n > 0 && !cox_journal_has(j, first.largest)) abort();
    if (cox_journal_append(j, first.largest + 1, "x\n", 2) != COX_OK) abort();
    if (cox_journal_close(j) != COX_OK || open_journal(&j, &second) != COX_OK) abort();
    if (second.n != first.n + 1 || second.n_bytes != first.n_bytes + 2) abort();
    if (cox_journal_close(j) != COX_OK) abort();
    return 0;
}
