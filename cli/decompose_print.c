/* Parts of a direction as a table by layer with the largest experts, as JSON and CSV. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/decompose_print.h"
#include "run/identity.h"
#include "run/outputs.h"

/* What shares are of: a less b where the reference stands. */
static double whole_of(const cox_decomposition *d)
{
    size_t part = d->reference < 0 ? COX_PART_EMBEDDING : cox_part_after(d->reference);
    return d->parts[part].difference.value;
}

static double share_of(const cox_decomposition *d, size_t part)
{
    return d->parts[part].difference.value / whole_of(d);
}

/* --- Table --- */

static void print_part(const cox_decomposition *d, size_t part)
{
    const cox_interval *i = &d->parts[part].difference;
    char text[64];
    snprintf(text, sizeof text, "%+.3f [%+.3f, %+.3f]", i->value, i->low, i->high);
    printf("  %-26s %6.1f%%", text, 100 * share_of(d, part));
}

static void print_effect(const cox_interval effect[2])
{
    for (int c = 0; c < 2; c++) {
        const cox_interval *i = &effect[c];
        char text[64];
        snprintf(text, sizeof text, "%+.3f [%+.3f, %+.3f]", i->value, i->low, i->high);
        printf("  %-26s", text);
    }
}

typedef struct ranked {
    double size;
    int32_t layer, expert;
} ranked;

static int compare(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    return x->layer != y->layer ? x->layer - y->layer : x->expert - y->expert;
}

/* What experts are sorted by: the effect on a where it was measured, else what they write. */
static double size_of(const cox_part *part)
{
    return fabs(part->has_effect ? part->effect[0].value : part->difference.value);
}

static cox_status print_experts(const cox_decomposition *d, int64_t top)
{
    bool has_effects = false;
    size_t n = 0, n_all = (size_t)d->shape.n_layers * (size_t)d->shape.n_experts, n_shown = 0;
    ranked *order = calloc(n_all, sizeof *order);
    if (!order) return cox_no_memory("a table");
    for (int32_t l = 0; l < d->shape.n_layers; l++) {
        for (int32_t e = 0; d->model->layers[l].is_moe && e < d->shape.n_experts; e++) {
            has_effects = has_effects || d->parts[cox_part_expert(d->shape, l, e)].has_effect;
            order[n++] = (ranked){size_of(&d->parts[cox_part_expert(d->shape, l, e)]), l, e};
        }
    }
    qsort(order, n, sizeof *order, compare);
    printf("%5s %6s  %-26s %7s  %8s %8s", "layer", "expert", "single expert", "share", "mean a", "mean b");
    if (has_effects) printf("  %-26s  %-26s", "ablated there: a", "b");
    putchar('\n');
    for (; n_shown < n && (int64_t)n_shown < top && order[n_shown].size > 0; n_shown++) {
        size_t part = cox_part_expert(d->shape, order[n_shown].layer, order[n_shown].expert);
        printf("%5d %6d", (int)order[n_shown].layer, (int)order[n_shown].expert);
        print_part(d, part);
        printf("  %+8.3f %+8.3f", d->parts[part].mean[0], d->parts[part].mean[1]);
        if (has_effects) print_effect(d->parts[part].effect);
        putchar('\n');
    }
    printf("%zu of %zu experts, by the size of the %s\n", n_shown, n,
           has_effects ? "effect on a" : "difference");
    free(order);
    return COX_OK;
}

/* What ablating at one place alone does, under the table of what is written there. */
static void print_effects(const cox_decomposition *d)
{
    if (!d->has_effects) return;
    printf("log-odds of the first tokens: a %+.3f, b %+.3f; changed by ablating the direction at one place "
           "alone:\n",
           d->log_odds[0].value, d->log_odds[1].value);
    printf("%5s  %-26s  %-26s  %-26s  %-26s\n%5s", "layer", "attention: a", "b", "experts: a", "b", "all");
    print_effect(d->everywhere);
    printf("  (after every layer)\n");
    for (int32_t l = 0; l < d->shape.n_layers; l++) {
        printf("%5d", (int)l);
        print_effect(d->parts[cox_part_attention(l)].effect);
        print_effect(d->parts[cox_part_block(l)].effect);
        putchar('\n');
    }
}

static cox_status print_table(const cox_decomposition *d, int64_t top)
{
    double attention = 0, block = 0;
    printf("direction %s of norm %.6g; a: %s, %d prompts; b: %s, %d prompts; token: %s\n", d->options->vector,
           d->norm, d->classes[0].path, (int)d->classes[0].n, d->classes[1].path, (int)d->classes[1].n,
           d->options->position);
    printf("mean projection on the unit direction, a less b, with 95%% intervals (bootstrap over prompts);\n"
           "shares are of %+.4f, what stands after layer %d\n",
           whole_of(d), (int)d->reference);
    printf("%5s  %-26s %7s  %-26s %7s  %-26s %7s\n", "layer", "attention writes", "share", "experts write",
           "share", "after the layer", "share");
    printf("%5s  %-26s %7s  %-26s %7s", "", "", "", "", "");
    print_part(d, COX_PART_EMBEDDING);
    putchar('\n');
    for (int32_t l = 0; l < d->shape.n_layers; l++) {
        printf("%5d", (int)l);
        print_part(d, cox_part_attention(l));
        print_part(d, cox_part_block(l));
        print_part(d, cox_part_after(l));
        putchar('\n');
        if (l > d->reference) continue;
        attention += share_of(d, cox_part_attention(l));
        block += share_of(d, cox_part_block(l));
    }
    printf("up to layer %d: embedding %.1f%%, attention %.1f%%, experts %.1f%%\n", (int)d->reference,
           100 * share_of(d, COX_PART_EMBEDDING), 100 * attention, 100 * block);
    print_effects(d);
    return print_experts(d, top);
}

/* --- JSON and CSV --- */

static json_t *effect_json(const cox_interval effect[2])
{
    json_t *sides[2];
    for (int c = 0; c < 2; c++) {
        sides[c] = json_pack("{s:f, s:f, s:f}", "value", effect[c].value, "low", effect[c].low, "high",
                             effect[c].high);
    }
    return json_pack("{s:o, s:o}", "a", sides[0], "b", sides[1]);
}

static json_t *part_json(const cox_decomposition *d, size_t part)
{
    const cox_part *p = &d->parts[part];
    json_t *json = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "a", p->mean[0], "b", p->mean[1], "difference",
                             p->difference.value, "low", p->difference.low, "high", p->difference.high,
                             "share", share_of(d, part));
    if (p->has_effect) json_object_set_new(json, "effect", effect_json(p->effect));
    return json;
}

static json_t *class_json(const cox_prompts *prompts)
{
    return json_pack("{s:s, s:s, s:i}", "file", prompts->path, "sha256", prompts->sha256, "prompts",
                     (int)prompts->n);
}

static json_t *layer_json(const cox_decomposition *d, int32_t l)
{
    json_t *experts = json_array();
    for (int32_t e = 0; d->model->layers[l].is_moe && e < d->shape.n_experts; e++)
        json_array_append_new(experts, part_json(d, cox_part_expert(d->shape, l, e)));
    return json_pack("{s:i, s:o, s:o, s:o, s:o}", "layer", (int)l, "attention",
                     part_json(d, cox_part_attention(l)), "block", part_json(d, cox_part_block(l)), "after",
                     part_json(d, cox_part_after(l)), "experts", experts);
}

static json_t *found_json(const cox_decomposition *d)
{
    json_t *json =
        json_pack("{s:s, s:f, s:i, s:s, s:{s:I, s:I}, s:o, s:o, s:o, s:[]}", "vector", d->options->vector,
                  "norm", d->norm, "reference_layer", (int)d->reference, "position", d->options->position,
                  "bootstrap", "seed", (json_int_t)d->options->seed, "resamples",
                  (json_int_t)d->options->resamples, "a", class_json(&d->classes[0]), "b",
                  class_json(&d->classes[1]), "embedding", part_json(d, COX_PART_EMBEDDING), "layers");
    for (int32_t l = 0; l < d->shape.n_layers && json; l++)
        json_array_append_new(json_object_get(json, "layers"), layer_json(d, l));
    if (json && d->has_effects) {
        json_object_set_new(json, "rules", json_string(d->options->rules));
        json_object_set_new(json, "log_odds", effect_json(d->log_odds));
        json_object_set_new(json, "everywhere", effect_json(d->everywhere));
    }
    return json;
}

/* With all that tells its model from others, as the journal of a sweep has it. */
static cox_status print_json(const cox_decomposition *d, const cox_run_options *run)
{
    json_t *json = json_pack("{s:s}", "made", "decompose"), *found = found_json(d);
    cox_status status = json ? cox_identity_add_model(json, run, d->model) : cox_no_memory("the result");
    if (status == COX_OK) status = cox_identity_add_prompting(json, &run->prompting);
    if (status == COX_OK && (!found || json_object_update(json, found) != 0))
        status = cox_fail(COX_INVALID, "a file's name is not valid UTF-8, or memory ran out");
    if (status == COX_OK && d->has_effects)
        status = cox_identity_add_file(json, "rules_sha256", d->options->rules, NULL);
    json_decref(found);
    if (status == COX_OK) return cox_output_json(json);
    json_decref(json);
    return status;
}

static void print_csv_row(FILE *file, const cox_decomposition *d, const char *name, int32_t layer,
                          int32_t expert, size_t part)
{
    const cox_part *p = &d->parts[part];
    fprintf(file, "%s,%d,%d,%.12g,%.12g,%.12g,%.12g,%.12g,%.12g", name, (int)layer, (int)expert, p->mean[0],
            p->mean[1], p->difference.value, p->difference.low, p->difference.high, share_of(d, part));
    for (int c = 0; c < 2; c++) {
        if (p->has_effect) {
            fprintf(file, ",%.12g,%.12g,%.12g", p->effect[c].value, p->effect[c].low, p->effect[c].high);
        } else {
            fputs(",,,", file);
        }
    }
    fputc('\n', file);
}

static void print_csv(FILE *file, const void *context)
{
    const cox_decomposition *d = context;
    fputs("part,layer,expert,a,b,difference,low,high,share,effect_a,effect_a_low,effect_a_high,"
          "effect_b,effect_b_low,effect_b_high\n",
          file);
    print_csv_row(file, d, "embedding", -1, -1, COX_PART_EMBEDDING);
    for (int32_t l = 0; l < d->shape.n_layers; l++) {
        print_csv_row(file, d, "attention", l, -1, cox_part_attention(l));
        print_csv_row(file, d, "block", l, -1, cox_part_block(l));
        print_csv_row(file, d, "after", l, -1, cox_part_after(l));
        for (int32_t e = 0; d->model->layers[l].is_moe && e < d->shape.n_experts; e++)
            print_csv_row(file, d, "expert", l, e, cox_part_expert(d->shape, l, e));
    }
}

cox_status cox_decomposition_print(const cox_decomposition *d, const cox_run_options *run,
                                   const cox_options *options)
{
    if (!(fabs(whole_of(d)) > 0)) {
        return cox_fail(COX_INVALID,
                        "a and b do not differ along %s after layer %d, so there is nothing to divide; "
                        "name another --layer",
                        d->options->vector, (int)d->reference);
    }
    cox_status status = cox_output_write("--csv", options->csv, print_csv, d);
    if (status != COX_OK) return status;
    return options->is_json ? print_json(d, run) : print_table(d, options->top);
}
