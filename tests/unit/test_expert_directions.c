/*
 * Directions of experts: one clean pass finds what forcing the router finds in transformers, one forward pass
 * for each prompt, layer and expert (scripts/references/expert_directions.py), to a hundred-thousandth of the
 * mean norm of FFN_e(x); for every organism that is recorded. Plans can use them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/commands.h"
#include "model/checkpoint.h"
#include "steering/plan.h"
#include "steering/vector.h"
#include "tests/unit/steering_model.h"

static const char recordings[] = "tests/golden/direction";

typedef struct recording {
    char model[128], a[256], b[256], output[256];
    cox_checkpoint *golden;
    const cox_tensor *directions, *norms, *positions;
} recording;

/* name: "experts-<model>". */
static void open_recording(recording *r, const char *name)
{
    char target[4096], link[256], path[256];
    *r = (recording){0};
    snprintf(r->model, sizeof r->model, "models/%s", name + strlen("experts-"));
    snprintf(r->a, sizeof r->a, "%s/%s/a.jsonl", recordings, name);
    snprintf(r->b, sizeof r->b, "%s/%s/b.jsonl", recordings, name);
    snprintf(r->output, sizeof r->output, "%s/experts.safetensors", test_folder);
    snprintf(path, sizeof path, "%s/%s/golden.safetensors", recordings, name);
    snprintf(link, sizeof link, "%s/model.safetensors",
             test_folder); /* the reader wants a checkpoint's name */
    unlink(link);
    assert_non_null(realpath(path, target));
    assert_int_equal(symlink(target, link), 0);
    if (cox_checkpoint_open(&r->golden, test_folder) != COX_OK) fail_msg("%s", cox_status_message());
    r->directions = cox_checkpoint_find(r->golden, "directions");
    r->norms = cox_checkpoint_find(r->golden, "norms");
    r->positions = cox_checkpoint_find(r->golden, "positions");
    assert_true(r->directions && r->norms && r->positions);
}

static cox_vector_file *measure(const recording *r, const char *positions, const char *method)
{
    cox_options options;
    cox_vector_file *file = NULL;
    cox_options_defaults(&options, COX_COMMAND_DIRECTION);
    options.model = r->model;
    options.prompts_a = r->a, options.prompts_b = r->b, options.output = r->output;
    options.site = "expert_out", options.position = positions, options.method = method;
    options.has_force = true;
    options.kv_memory_bytes = 8 << 20;
    options.progress = "none";
    if (cox_command_direction(&options) != COX_OK || cox_vector_file_read(&file, r->output) != COX_OK)
        fail_msg("%s", cox_status_message());
    return file;
}

/* Distance of one direction from the recorded one, of the mean norm. */
static double distance(const recording *r, const cox_vector_file *file, const size_t *at, int32_t from_end)
{
    const int64_t *shape = r->directions->shape;
    size_t row = (at[0] * (size_t)shape[1] + at[1]) * (size_t)shape[2] + at[2], width = (size_t)shape[3];
    const float *wanted = (const float *)(const void *)r->directions->data + row * width;
    char name[64];
    snprintf(name, sizeof name, "expert_out.%zu.%zu@-%d", at[0], at[1], from_end);
    const cox_vector *v = cox_vector_find(file, name);
    assert_non_null(v);
    assert_int_equal(v->width, width);
    assert_int_equal(v->layer, at[0]);
    assert_int_equal(v->expert, at[1]);
    double squares = 0;
    for (size_t i = 0; i < width; i++)
        squares += ((double)v->data[i] - (double)wanted[i]) * ((double)v->data[i] - (double)wanted[i]);
    return sqrt(squares) / (double)((const float *)(const void *)r->norms->data)[row];
}

static void check_recording(const char *name)
{
    recording r;
    open_recording(&r, name);
    const int64_t *shape = r.directions->shape;
    char list[128] = "";
    int32_t from_end[16];
    memcpy(from_end, r.positions->data, (size_t)shape[2] * sizeof *from_end);
    for (int64_t p = 0; p < shape[2]; p++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s-%d", p ? "," : "", from_end[p]);
    cox_vector_file *file = measure(&r, list, "mean-difference");
    assert_int_equal(file->n, shape[0] * shape[1] * shape[2]);
    double worst = 0;
    for (size_t l = 0; l < (size_t)shape[0]; l++) {
        for (size_t e = 0; e < (size_t)shape[1]; e++) {
            for (size_t p = 0; p < (size_t)shape[2]; p++)
                worst = fmax(worst, distance(&r, file, (const size_t[]){l, e, p}, from_end[p]));
        }
    }
    printf("%s: %zu directions, worst difference %.3g of the mean norm\n", name, file->n, worst);
    if (!(worst < 1e-5)) fail_msg("%s: %g of the mean norm off", name, worst);
    cox_vector_file_free(file);
    cox_checkpoint_close(r.golden);
}

static void test_one_clean_pass_finds_what_forcing_finds(void **state)
{
    (void)state;
    DIR *folder = opendir(recordings);
    assert_non_null(folder);
    int n = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        if (strncmp(entry->d_name, "experts-", strlen("experts-")) != 0) continue;
        check_recording(entry->d_name);
        n++;
    }
    closedir(folder);
    assert_true(n > 0);
}

static void test_a_plan_takes_a_direction_by_name(void **state)
{
    (void)state;
    recording r;
    open_recording(&r, "experts-olmoe-velk");
    cox_vector_file_free(measure(&r, "-1,-3", "pc1"));
    cox_model *model = NULL;
    cox_plan *plan = NULL;
    assert_int_equal(cox_model_open(&model, r.model), COX_OK);
    json_t *json = json_pack("{s:[{s:s, s:i, s:i, s:s, s:s, s:s}]}", "interventions", "site", "expert_out",
                             "layer", 2, "expert", 13, "op", "add", "weighting", "routed", "vector",
                             "experts.safetensors#expert_out.2.13@-3");
    if (cox_plan_from_json(&plan, json, "plan", test_folder, model, NULL, false) != COX_OK)
        fail_msg("%s", cox_status_message());
    assert_true(fabs((double)plan->interventions[0].vector_norm - 1) < 1e-6);
    cox_plan_free(plan);
    json_decref(json);
    cox_model_close(model);
    cox_checkpoint_close(r.golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_clean_pass_finds_what_forcing_finds),
        cmocka_unit_test(test_a_plan_takes_a_direction_by_name),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
