/*
 * Every operation against its formula in f64 (and against numpy's, in tests/golden/steer_ops/ops.json, made
 * by scripts/references/steering_ops.py), the effect that it reports, strength 0, and the same bits in every
 * set of kernels.
 */
#include "steering_model.h"

#include <math.h>

enum { N = 37 };

static float v[N], v2[N], reference[N];

static cox_status write_vectors(void)
{
    fill(v, N, 1);
    fill(v2, N, 2);
    fill(reference, N, 3);
    const cox_vector vectors[] = {
        {.name = "v", .data = v, .width = N, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1},
        {.name = "v2", .data = v2, .width = N, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1},
        {.name = "reference",
         .data = reference,
         .width = N,
         .site = COX_SITE_UNSTATED,
         .layer = -1,
         .expert = -1}};
    return cox_vector_file_write(path_of("v.safetensors"), vectors, 3);
}

static double dot(const double *a, const double *b)
{
    double sum = 0;
    for (int i = 0; i < N; i++) sum += a[i] * b[i];
    return sum;
}

/* An intervention as its formula needs it, in f64. */
typedef struct {
    const char *fields; /* of the plan */
    cox_op op;
    double s, value, alpha, factor, degrees;
    int keeps_norm;
} example;

static void formula(const example *x, const float *row, double *out)
{
    double h[N], u[N], w[N], r[N], norm_v = 0;
    for (int i = 0; i < N; i++)
        h[i] = (double)row[i], r[i] = (double)reference[i], norm_v += (double)v[i] * (double)v[i];
    norm_v = sqrt(norm_v);
    for (int i = 0; i < N; i++) u[i] = (double)v[i] / norm_v, w[i] = (double)v2[i];
    double share = dot(u, w);
    for (int i = 0; i < N; i++) w[i] -= share * u[i];
    double norm_w = sqrt(dot(w, w));
    for (int i = 0; i < N; i++) w[i] /= norm_w;
    double a = dot(u, h), b = dot(w, h), length = sqrt(a * a + b * b), angle = x->degrees * acos(-1) / 180;
    for (int i = 0; i < N; i++) {
        double d = 0;
        switch (x->op) {
        case COX_OP_ADD: d = (double)v[i]; break;
        case COX_OP_ABLATE: d = -u[i] * a; break;
        case COX_OP_CLAMP: d = (x->value - a) * u[i]; break;
        case COX_OP_AFFINE: d = -u[i] * a + u[i] * dot(u, r) + x->alpha * (double)v[i]; break;
        case COX_OP_SCALE: d = (x->factor - 1) * h[i]; break;
        case COX_OP_ROTATE:
            d = -a * u[i] - b * w[i] + length * (cos(angle) * u[i] + sin(angle) * w[i]);
            break;
        default: fail();
        }
        out[i] = h[i] + x->s * d;
    }
    double factor = x->keeps_norm ? sqrt(dot(h, h) / dot(out, out)) : 1;
    for (int i = 0; i < N; i++) out[i] *= factor;
}

static cox_plan *plan_of(const char *fields)
{
    cox_model model = test_model();
    model.d_model = N;
    char text[512];
    snprintf(text, sizeof text, "{'interventions': [{'site': 'resid_post', 'layer': 2, %s}]}", fields);
    cox_plan *plan = NULL;
    if (load_plan(&plan, text, &model, false) != COX_OK) fail_msg("%s", cox_status_message());
    return plan;
}

static const example examples[] = {
    {"'op': 'add', 'vector': 'v.safetensors#v', 'strength': 2.5", COX_OP_ADD, 2.5, 0, 0, 0, 0, 0},
    {"'op': 'add', 'vector': 'v.safetensors#v', 'strength': -4, 'preserve_norm': true", COX_OP_ADD, -4, 0, 0,
     0, 0, 1},
    {"'op': 'ablate', 'vector': 'v.safetensors#v'", COX_OP_ABLATE, 1, 0, 0, 0, 0, 0},
    {"'op': 'ablate', 'vector': 'v.safetensors#v', 'strength': 0.25, 'preserve_norm': true", COX_OP_ABLATE,
     0.25, 0, 0, 0, 0, 1},
    {"'op': 'clamp', 'vector': 'v.safetensors#v', 'value': 3.5", COX_OP_CLAMP, 1, 3.5, 0, 0, 0, 0},
    {"'op': 'clamp', 'vector': 'v.safetensors#v', 'value': -1, 'strength': 0.5", COX_OP_CLAMP, 0.5, -1, 0, 0,
     0, 0},
    {"'op': 'affine', 'vector': 'v.safetensors#v', 'reference': 'v.safetensors#reference', 'alpha': 0.75",
     COX_OP_AFFINE, 1, 0, 0.75, 0, 0, 0},
    {"'op': 'affine', 'vector': 'v.safetensors#v', 'reference': 'v.safetensors#reference', 'alpha': -2, "
     "'strength': 3,"
     "'preserve_norm': true",
     COX_OP_AFFINE, 3, 0, -2, 0, 0, 1},
    {"'op': 'scale', 'factor': 0", COX_OP_SCALE, 1, 0, 0, 0, 0, 0},
    {"'op': 'scale', 'factor': 1.75, 'strength': 0.5", COX_OP_SCALE, 0.5, 0, 0, 1.75, 0, 0},
    {"'op': 'rotate', 'vector': 'v.safetensors#v', 'vector2': 'v.safetensors#v2', 'degrees': 40",
     COX_OP_ROTATE, 1, 0, 0, 0, 40, 0},
    {"'op': 'rotate', 'vector': 'v.safetensors#v', 'vector2': 'v.safetensors#v2', 'degrees': -200, "
     "'strength': 0.5,"
     "'preserve_norm': true",
     COX_OP_ROTATE, 0.5, 0, 0, 0, -200, 1}};
enum { N_EXAMPLES = sizeof examples / sizeof *examples };

static void check_example(const example *x, const cox_kernels *kernels, const cox_kernels *other)
{
    cox_plan *plan = plan_of(x->fields);
    for (uint32_t seed = 10; seed < 20; seed++) {
        float row[N], h[N], again[N], scratch[N];
        double wanted[N], size = 0, there = 0, added = 0;
        fill(row, N, seed);
        memcpy(h, row, sizeof h);
        memcpy(again, row, sizeof h);
        formula(x, row, wanted);
        cox_steer_effect effect, effect_again;
        cox_intervention_apply(&plan->interventions[0], kernels, h, scratch, &effect);
        cox_intervention_apply(&plan->interventions[0], other, again, scratch, &effect_again);
        assert_memory_equal(h, again, sizeof h);
        assert_memory_equal(&effect.norm_added, &effect_again.norm_added, sizeof(float));
        for (int i = 0; i < N; i++) {
            size = fmax(size, fabs(wanted[i]));
            there += (double)row[i] * (double)row[i];
            added += (wanted[i] - (double)row[i]) * (wanted[i] - (double)row[i]);
        }
        for (int i = 0; i < N; i++) {
            if (!(fabs((double)h[i] - wanted[i]) <= 1e-6 * fmax(size, 1))) {
                fail_msg("%s: element %d is %.9g, not %.9g", x->fields, i, (double)h[i], wanted[i]);
            }
        }
        assert_true(effect.was_applied);
        assert_true(fabs((double)effect.norm_there - sqrt(there)) <= 1e-6 * sqrt(there));
        assert_true(fabs((double)effect.norm_added - sqrt(added)) <= 2e-6 * fmax(sqrt(added), sqrt(there)));
    }
    cox_plan_free(plan);
}

static void test_formulas(void **state)
{
    (void)state;
    const cox_kernels *reference_set = kernels_named("reference"), *best = kernels_named(NULL);
    for (int i = 0; i < N_EXAMPLES; i++) check_example(&examples[i], reference_set, best);
}

static void test_strength_zero(void **state)
{
    (void)state;
    for (int i = 0; i < N_EXAMPLES; i++) {
        cox_plan *plan = plan_of(examples[i].fields);
        plan->interventions[0].strength = 0;
        float row[N], h[N], scratch[N];
        fill(row, N, 5);
        memcpy(h, row, sizeof h);
        cox_steer_effect effect;
        cox_intervention_apply(&plan->interventions[0], kernels_named(NULL), h, scratch, &effect);
        assert_memory_equal(h, row, sizeof h);
        assert_false(effect.was_applied);
        cox_plan_free(plan);
    }
}

static void test_condition(void **state)
{
    (void)state;
    cox_plan *plan = plan_of("'op': 'add', 'vector': 'v.safetensors#v', "
                             "'when': {'vector': 'v.safetensors#v2', 'cosine_above': 0.2}");
    int n_met = 0;
    for (uint32_t seed = 100; seed < 160; seed++) {
        float row[N], h[N], scratch[N];
        double dot12 = 0, n1 = 0, n2 = 0;
        fill(row, N, seed);
        memcpy(h, row, sizeof h);
        for (int i = 0; i < N; i++) {
            dot12 += (double)row[i] * (double)v2[i];
            n1 += (double)row[i] * (double)row[i];
            n2 += (double)v2[i] * (double)v2[i];
        }
        cox_steer_effect effect;
        cox_intervention_apply(&plan->interventions[0], kernels_named(NULL), h, scratch, &effect);
        bool is_met = dot12 / sqrt(n1 * n2) > 0.2;
        assert_int_equal(effect.was_applied, is_met);
        assert_int_equal(memcmp(h, row, sizeof h) != 0, is_met);
        n_met += is_met;
    }
    assert_in_range(n_met, 1, 59);
    float zero[N] = {0}, scratch[N];
    cox_steer_effect effect;
    cox_intervention_apply(&plan->interventions[0], kernels_named(NULL), zero, scratch, &effect);
    assert_false(effect.was_applied); /* a row without direction meets nothing */
    cox_plan_free(plan);
}

/* The golden's rows as one vector file, beside its plans. */
static void write_rows(const json_t *rows, int32_t width)
{
    cox_vector vectors[8];
    size_t n = 0;
    const char *name;
    json_t *row;
    json_object_foreach((json_t *)rows, name, row)
    {
        assert_true(n < 8);
        float *data = malloc((size_t)width * sizeof *data);
        for (int32_t i = 0; i < width; i++)
            data[i] = (float)json_number_value(json_array_get(row, (size_t)i));
        vectors[n++] = (cox_vector){
            .name = name, .data = data, .width = width, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1};
    }
    assert_int_equal(cox_vector_file_write(path_of("rows.safetensors"), vectors, n), COX_OK);
    for (size_t i = 0; i < n; i++) free(vectors[i].data);
}

/* The golden names a row by itself; a plan by file and row. */
static void name_file(json_t *object)
{
    const char *const keys[] = {"vector", "vector2", "reference"};
    for (size_t i = 0; i < 3; i++) {
        const char *name = json_string_value(json_object_get(object, keys[i]));
        if (name) json_object_set_new(object, keys[i], json_sprintf("rows.safetensors#%s", name));
    }
}

static void check_golden(const json_t *item, int32_t width, const cox_kernels *kernels)
{
    cox_model model = test_model();
    model.d_model = width;
    json_t *one = json_deep_copy(json_object_get(item, "intervention"));
    json_object_set_new(one, "site", json_string("moe_out"));
    json_object_set_new(one, "layer", json_integer(3));
    name_file(one);
    if (json_object_get(one, "when")) name_file(json_object_get(one, "when"));
    json_t *json = json_pack("{s:[o]}", "interventions", one);
    cox_plan *plan = NULL;
    if (cox_plan_from_json(&plan, json, "plan", test_folder, &model, NULL, false) != COX_OK)
        fail_msg("%s", cox_status_message());
    for (size_t c = 0; c < json_array_size(json_object_get(item, "inputs")); c++) {
        const json_t *in = json_array_get(json_object_get(item, "inputs"), c);
        const json_t *out = json_array_get(json_object_get(item, "outputs"), c);
        float h[N], scratch[N];
        double size = 0;
        for (int32_t i = 0; i < width; i++) {
            h[i] = (float)json_number_value(json_array_get(in, (size_t)i));
            size = fmax(size, fabs(json_number_value(json_array_get(out, (size_t)i))));
        }
        cox_steer_effect effect;
        cox_intervention_apply(&plan->interventions[0], kernels, h, scratch, &effect);
        for (int32_t i = 0; i < width; i++) {
            double wanted = json_number_value(json_array_get(out, (size_t)i));
            if (!(fabs((double)h[i] - wanted) <= 1e-6 * size)) {
                char *text = json_dumps(one, 0);
                fail_msg("%s: element %d is %.9g, not %.9g", text, (int)i, (double)h[i], wanted);
            }
        }
    }
    cox_plan_free(plan);
    json_decref(json);
}

static void test_goldens(void **state)
{
    (void)state;
    json_t *json = NULL, *item;
    if (cox_json_load_file(&json, "tests/golden/steer_ops/ops.json") != COX_OK)
        fail_msg("%s", cox_status_message());
    assert_int_equal(json_integer_value(json_object_get(json, "width")), N);
    write_rows(json_object_get(json, "rows"), N);
    size_t i;
    const json_t *cases = json_object_get(json, "cases");
    assert_true(json_array_size(cases) >= 30);
    json_array_foreach((json_t *)cases, i, item) check_golden(item, N, kernels_named(NULL));
    json_decref(json);
}

static int set_up(void **state)
{
    return make_folder(state) == 0 && write_vectors() == COX_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formulas), cmocka_unit_test(test_goldens),
                                       cmocka_unit_test(test_strength_zero),
                                       cmocka_unit_test(test_condition)};
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
