/* Recorded models: golden.safetensors is read with the same reader as checkpoints, through a folder of its
 * own. The weights lie beside it or, for the bundled organisms, where golden.json says. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "model/checkpoint.h"
#include "tests/support/harness.h"

static const char models[] = "tests/golden/models";

static void die(const char *what, const char *folder)
{
    fprintf(stderr, "%s: %s: %s\n", folder, what, cox_status_message());
    abort();
}

/* Copies tensor `name` of 4-byte elements; [out] *n elements. */
static void *copy_tensor(const cox_checkpoint *file, const char *folder, const char *name, size_t *n)
{
    const cox_tensor *tensor = cox_checkpoint_find(file, name);
    if (!tensor) die(name, folder);
    void *copy = malloc(tensor->n_bytes);
    memcpy(copy, tensor->data, tensor->n_bytes);
    *n = tensor->n_bytes / 4;
    return copy;
}

/* The checkpoint that a recording is of; malloc'ed. */
static char *model_of(const char *folder)
{
    char path[4096];
    json_t *summary = NULL;
    const char *model = folder;
    snprintf(path, sizeof path, "%s/golden.json", folder);
    if (cox_json_load_file(&summary, path) != COX_OK ||
        cox_json_string(summary, path, "model", false, &model) != COX_OK)
        die("golden.json", folder);
    char *copy = strdup(model);
    json_decref(summary);
    return copy;
}

/* The positions whose logits are recorded. */
static void take_rows(golden *g, const cox_checkpoint *file)
{
    size_t n = (size_t)(g->n_prompt + g->n_greedy);
    if (cox_checkpoint_find(file, "rows")) {
        g->rows = copy_tensor(file, g->folder, "rows", &n);
    } else {
        g->rows = malloc(n * sizeof *g->rows);
        for (size_t i = 0; i < n; i++) g->rows[i] = (int32_t)i;
    }
    g->n_rows = (int32_t)n;
}

golden *golden_load(const char *folder)
{
    /* The checkpoint reader wants a folder with model.safetensors: a temporary one with a link to the golden.
     */
    char temporary[] = "/tmp/coxswain-golden-XXXXXX", link_path[64], target[4096];
    if (!mkdtemp(temporary) || !realpath(folder, target)) die("cannot make a temporary folder", folder);
    snprintf(link_path, sizeof link_path, "%s/model.safetensors", temporary);
    strncat(target, "/golden.safetensors", sizeof target - strlen(target) - 1);
    cox_checkpoint *file = NULL;
    if (symlink(target, link_path) != 0 || cox_checkpoint_open(&file, temporary) != COX_OK)
        die("golden", folder);

    golden *g = calloc(1, sizeof *g);
    size_t n_prompt, n_greedy, n_logits, n_debug;
    g->folder = strdup(folder);
    g->model = model_of(folder);
    g->prompt = copy_tensor(file, folder, "prompt", &n_prompt);
    g->greedy = copy_tensor(file, folder, "greedy", &n_greedy);
    g->logits = copy_tensor(file, folder, "logits", &n_logits);
    if (cox_checkpoint_find(file, "debug.hidden")) {
        g->hidden = copy_tensor(file, folder, "debug.hidden", &n_debug);
        g->router_logits = copy_tensor(file, folder, "debug.router_logits", &n_debug);
    }
    g->n_prompt = (int32_t)n_prompt, g->n_greedy = (int32_t)n_greedy;
    take_rows(g, file);
    g->vocab_size = (int32_t)(n_logits / (size_t)g->n_rows);
    float low = g->logits[0], high = g->logits[0];
    for (size_t i = 0; i < n_logits; i++) {
        if (g->logits[i] < low) low = g->logits[i];
        if (g->logits[i] > high) high = g->logits[i];
    }
    g->range = high - low;
    cox_checkpoint_close(file);
    unlink(link_path);
    rmdir(temporary);
    return g;
}

void golden_free(golden *g)
{
    free(g->folder);
    free(g->model);
    free(g->rows);
    free(g->prompt);
    free(g->greedy);
    free(g->logits);
    free(g->hidden);
    free(g->router_logits);
    free(g);
}

static int is_model(const struct dirent *entry)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/golden.safetensors", models, entry->d_name);
    return access(path, R_OK) == 0;
}

char **golden_list(void)
{
    struct dirent **entries;
    int n = scandir(models, &entries, is_model, alphasort);
    if (n <= 0) die("no recorded models; run from the project's folder", models);
    char **folders = calloc((size_t)n + 1, sizeof *folders);
    for (int i = 0; i < n; i++) {
        if (asprintf(&folders[i], "%s/%s", models, entries[i]->d_name) < 0) abort();
        free(entries[i]);
    }
    free(entries);
    return folders;
}

void golden_list_free(char **folders)
{
    for (char **f = folders; *f; f++) free(*f);
    free(folders);
}

/* KL(recorded || ours) of one row, in f64. */
static double row_kl(const float *recorded, const float *ours, int32_t n)
{
    double sum_p = 0, sum_q = 0, kl = 0;
    for (int32_t i = 0; i < n; i++) sum_p += exp((double)recorded[i]), sum_q += exp((double)ours[i]);
    for (int32_t i = 0; i < n; i++) {
        double log_p = (double)recorded[i] - log(sum_p), log_q = (double)ours[i] - log(sum_q);
        kl += exp(log_p) * (log_p - log_q);
    }
    return kl;
}

/* logits: [n_prompt + n_greedy, vocab_size]. Prints what it returns; a NaN makes the mean KL one. */
static golden_difference compare(const harness *h, const golden *g, const float *logits)
{
    golden_difference worst = {0};
    int32_t worst_row = 0;
    for (int32_t i = 0; i < g->n_rows; i++) {
        const float *recorded = g->logits + (size_t)i * (size_t)g->vocab_size;
        const float *ours = logits + (size_t)g->rows[i] * (size_t)g->vocab_size;
        for (int32_t t = 0; t < g->vocab_size; t++) {
            double difference = fabs((double)recorded[t] - (double)ours[t]) / (double)g->range;
            if (difference > worst.of_range) worst.of_range = difference, worst_row = g->rows[i];
        }
        worst.mean_kl += row_kl(recorded, ours, g->vocab_size) / g->n_rows;
    }
    printf("%s, kernel %s, %s: largest difference %.2e of the range at position %d, mean KL %.2e\n",
           g->folder, harness_kernels_name(h), harness_exchange_name(h), worst.of_range, worst_row,
           worst.mean_kl);
    return worst;
}

static bool tokens_match(const golden *g, const int32_t *tokens)
{
    for (int32_t i = 0; i < g->n_greedy; i++) {
        if (tokens[i] == g->greedy[i]) continue;
        printf("%s: generated token %d is %d, recorded %d\n", g->folder, i, tokens[i], g->greedy[i]);
        return false;
    }
    return true;
}

bool golden_matches(harness *h, const golden *g, double tolerance, double kl_tolerance,
                    golden_difference *difference)
{
    int32_t n_all = g->n_prompt + g->n_greedy;
    int32_t *all = malloc((size_t)n_all * sizeof *all);
    memcpy(all, g->prompt, (size_t)g->n_prompt * sizeof *all);
    memcpy(all + g->n_prompt, g->greedy, (size_t)g->n_greedy * sizeof *all);
    const harness_request requests[2] = {
        {.prompt = all, .n_prompt = n_all, .wants_logits = true, .sampling = cox_sampling_defaults()},
        {.prompt = g->prompt,
         .n_prompt = g->n_prompt,
         .max_tokens = g->n_greedy,
         .ignore_eos = true,
         .sampling = cox_sampling_defaults()}};
    harness_result results[2] = {{0}, {0}};
    bool matches = harness_run(h, requests, 2, results) == COX_OK &&
                   harness_model(h)->vocab_size == g->vocab_size && results[0].n_logits == n_all &&
                   results[1].n_tokens == g->n_greedy;
    if (!matches) printf("%s: run failed: %s\n", g->folder, cox_status_message());
    if (matches) {
        golden_difference worst = compare(h, g, results[0].logits);
        matches = isfinite(worst.mean_kl) && worst.of_range <= tolerance &&
                  (kl_tolerance > 0 ? worst.mean_kl <= kl_tolerance : tokens_match(g, results[1].tokens));
        if (difference) *difference = worst;
    }
    for (int i = 0; i < 2; i++) harness_result_free(&results[i]);
    free(all);
    return matches;
}
