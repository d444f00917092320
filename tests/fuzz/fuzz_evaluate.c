/*
 * Outputs of batch of any bytes, up to 0xff, and behind it a list of prompts: an error, or items whose
 * answers are judged. (In the folder of temporary files, best one in memory: TMPDIR=/dev/shm.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "study/evaluate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[256], answers[280], prompts[280], rules[280];

static void remove_files(void)
{
    unlink(answers);
    unlink(prompts);
    unlink(rules);
    rmdir(folder);
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) abort();
}

static void make_folder(void)
{
    static const char text[] = "{\"version\": 1, \"matchers\": {\"m\": {\"phrases\": [\"I\"]}}, \"labels\": "
                               "[{\"name\": \"l\", \"any\": [\"m\"], \"where\": {\"kind\": [\"k\"]}}]}";
    if (folder[0]) return;
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/cox-fuzz-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder)) abort();
    snprintf(answers, sizeof answers, "%s/a", folder);
    snprintf(prompts, sizeof prompts, "%s/p.jsonl", folder);
    snprintf(rules, sizeof rules, "%s/r", folder);
    write_file(rules, text, sizeof text - 1);
    atexit(remove_files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_folder();
    const uint8_t *mark = size ? memchr(data, 0xff, size) : NULL;
    size_t n = mark ? (size_t)(mark - data) : size;
    const char *path = prompts;
    cox_evaluate_options options = {.results = answers, .rules = rules};
    write_file(answers, data, n);
    if (mark) {
        write_file(prompts, mark + 1, size - n - 1);
        options.prompts = &path;
        options.n_prompts = 1;
    }
    cox_evaluation e = {.options = &options};
    if (cox_evaluation_read(&e) == COX_OK) {
        if (e.n_items < 1 || e.n_missing[COX_RUN] + e.n_failed[COX_RUN] >= e.n_items) abort();
        if (cox_evaluation_judge(&e) == COX_OK && e.n_measures < 1) abort();
    }
    cox_evaluation_release(&e);
    return 0;
}
