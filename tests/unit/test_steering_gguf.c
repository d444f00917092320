/*
 * Control vectors that the gguf package wrote in repeng's layout, imported and steered with, against
 * transformers under llama.cpp's own two steps (scripts/references/steering_gguf.py): each direction edits
 * the block that llama.cpp would edit, and no neighbour of it.
 */
#include <unistd.h>

#include "steering/gguf.h"
#include "steering_golden.h"

static const double strength = 0.75; /* as in the script */
static cox_cluster *cluster;

/* What `vector import` does: the file again as safetensors. */
static void import_control(const char *folder, const char *output)
{
    char path[300];
    snprintf(path, sizeof path, "%s/control.gguf", folder);
    cox_vector_file *file = NULL;
    if (cox_vector_file_read(&file, path) != COX_OK) fail_msg("%s", cox_status_message());
    assert_int_equal(cox_vector_file_write(output, file->vectors, file->n), COX_OK);
    cox_vector_file_free(file);
}

/* direction: 0 is all of them. shift: layers that the plan moves it by, against the file; 0 leaves the layer
 * to the file. */
static json_t *plan_of(const char *vectors, int32_t n_layers, int32_t direction, int32_t shift)
{
    json_t *list = json_array();
    for (int32_t l = 1; l < n_layers; l++) {
        char text[64];
        if (direction != 0 && direction != l) continue;
        snprintf(text, sizeof text, "%s#direction.%d", vectors, (int)l);
        json_t *v = json_pack("{s:s,s:f}", "vector", text, "strength", strength);
        if (shift) json_object_set_new(v, "layer", json_integer(l + shift));
        json_array_append_new(list, v);
    }
    return json_pack("{s:o}", "interventions", list);
}

/* Largest difference from the recorded row, after the last token, of the range of the row. */
static double difference(harness *h, const reference *r, int32_t row, json_t *plan)
{
    harness_result result;
    if (run(h, "/", plan, r->tokens, r->n_tokens, 0, &result) != COX_OK) fail_msg("%s", cox_status_message());
    const size_t width = (size_t)r->vocab_size;
    const float *ours = result.logits + (size_t)(r->n_tokens - 1) * width,
                *theirs = r->logits + (size_t)row * width;
    float low = theirs[0], high = theirs[0];
    double largest = 0;
    for (size_t t = 0; t < width; t++) {
        double d = fabs((double)ours[t] - (double)theirs[t]);
        if (!(d <= largest)) largest = d;
        low = theirs[t] < low ? theirs[t] : low;
        high = theirs[t] > high ? theirs[t] : high;
    }
    harness_result_free(&result);
    json_decref(plan);
    return largest / (double)(high - low);
}

static void test_family(void **state)
{
    char folder[200], path[300], vectors[] = "/tmp/cox-control-XXXXXX";
    snprintf(folder, sizeof folder, HOME "%s", (const char *)*state);
    snprintf(path, sizeof path, "%s/control.safetensors", folder);
    reference r = load_reference(path);
    snprintf(path, sizeof path, "tests/golden/models/%s", (const char *)*state);
    harness_config config = harness_config_defaults(path);
    harness *h = NULL;
    assert_int_equal(harness_open(&h, cluster, &config), COX_OK);
    const int32_t n_layers = harness_model(h)->n_layers;
    assert_int_equal(r.n_rows, n_layers); /* all, then each from 1 on */
    int file = mkstemp(vectors);
    assert_true(file >= 0);
    close(file);
    import_control(folder, vectors);
    for (int32_t direction = 0; direction < n_layers; direction++) {
        double d = difference(h, &r, direction, plan_of(vectors, n_layers, direction, 0));
        print_message("%s: direction %d: %.1e of the range\n", (const char *)*state, (int)direction, d);
        assert_true(d <= tolerance);
        for (int32_t shift = -1; shift <= 1; shift += 2) {
            if (direction == 0 || direction + shift == n_layers) continue;
            d = difference(h, &r, direction, plan_of(vectors, n_layers, direction, shift));
            assert_true(d > 5 * tolerance);
        }
    }
    unlink(vectors);
    assert_int_equal(harness_finish(h), COX_OK);
    harness_close(h);
    free_reference(&r);
}

static int set_up(void **state)
{
    (void)state;
    cox_cluster_options options = cox_cluster_options_defaults();
    return cox_cluster_create(&cluster, &options) == COX_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    cox_cluster_destroy(cluster);
    return 0;
}

int main(void)
{
    static char olmoe[] = "olmoe-clip-bf16", mixtral[] = "mixtral-window-bf16", gpt_oss[] = "gpt_oss-bf16",
                qwen3[] = "qwen3_moe-dense-bf16";
    const struct CMUnitTest tests[] = {{"olmoe", test_family, NULL, NULL, olmoe},
                                       {"mixtral", test_family, NULL, NULL, mixtral},
                                       {"gpt_oss", test_family, NULL, NULL, gpt_oss},
                                       {"qwen3_moe", test_family, NULL, NULL, qwen3}};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
