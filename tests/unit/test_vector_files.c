/*
 * Vector files: what the safetensors and gguf packages wrote (tests/golden/vectors, made by
 * scripts/references/vector_files.py) is read, and written again byte for byte; what damaged or foreign files
 * get; what an export refuses.
 */
#include "steering_model.h"

#include <math.h>
#include <sys/stat.h>

#include "steering/gguf.h"
#include "steering/internal.h"

#define GOLDENS "tests/golden/vectors/"
enum { WIDTH = 9 };

static unsigned char *bytes_of(const char *path, size_t *n)
{
    unsigned char *data = NULL;
    if (cox__file_read(path, &data, n) != COX_OK) fail_msg("%s", cox_status_message());
    return data;
}

static void same_bytes(const char *a, const char *b)
{
    size_t n_a = 0, n_b = 0;
    unsigned char *left = bytes_of(a, &n_a), *right = bytes_of(b, &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(left, right, n_a);
    free(left);
    free(right);
}

/* The row that numpy drew with a seed. */
static void check_row(const cox_vector *v, const char *seed)
{
    json_t *rows = NULL;
    assert_int_equal(cox_json_load_file(&rows, GOLDENS "rows.json"), COX_OK);
    const json_t *row = json_object_get(rows, seed);
    assert_int_equal(v->width, WIDTH);
    double sum = 0;
    for (int32_t i = 0; i < WIDTH; i++) {
        assert_true(v->data[i] == (float)json_number_value(json_array_get(row, (size_t)i)));
        sum += (double)v->data[i] * (double)v->data[i];
    }
    assert_true(fabs((double)v->norm - sqrt(sum)) < 1e-6);
    json_decref(rows);
}

static void test_stated(void **state)
{
    (void)state;
    cox_vector_file *file = NULL;
    assert_int_equal(cox_vector_file_read(&file, GOLDENS "stated.safetensors"), COX_OK);
    assert_int_equal(file->n, 2);
    const cox_vector *a = cox_vector_find(file, "a"), *b = cox_vector_find(file, "b");
    check_row(a, "100");
    check_row(b, "101");
    assert_int_equal(a->site, COX_SITE_EXPERT_OUT);
    assert_int_equal(a->layer, 3);
    assert_int_equal(a->expert, 5);
    assert_string_equal(a->operation, "add");
    assert_string_equal(a->weighting, "routed");
    assert_string_equal(a->positions, "{\"last\":5}");
    assert_string_equal(a->model_fingerprint, "aaaa");
    assert_string_equal(a->tokenizer_fingerprint, "tttt");
    assert_string_equal(a->provenance, "{\"made\":\"by a test\"}");
    assert_int_equal(b->site, COX_SITE_UNSTATED);
    assert_int_equal(b->layer, -1);
    assert_null(b->operation);
    const cox_vector backwards[] = {*b, *a};
    assert_int_equal(cox_vector_file_write(path_of("again.safetensors"), backwards, 2), COX_OK);
    same_bytes(path_of("again.safetensors"), GOLDENS "stated.safetensors");
    cox_vector_file_free(file);

    assert_int_equal(cox_vector_file_read(&file, GOLDENS "plain.safetensors"), COX_OK);
    check_row(cox_vector_find(file, NULL), "7");
    cox_vector_file_free(file);
}

static void test_gguf(void **state)
{
    (void)state;
    cox_vector_file *file = NULL;
    assert_int_equal(cox_vector_file_read(&file, GOLDENS "repeng.gguf"), COX_OK);
    assert_int_equal(file->n, 3);
    const cox_vector *v = cox_vector_find(file, "direction.2");
    check_row(v, "2");
    assert_int_equal(v->site, COX_SITE_RESID_POST);
    assert_int_equal(v->layer, 2);
    assert_string_equal(v->operation, "add");
    assert_non_null(strstr(v->provenance, "\"controlvector.model_hint\":\"olmoe\""));
    assert_int_equal(cox_gguf_write(path_of("again.gguf"), file->vectors, file->n, "olmoe"), COX_OK);
    same_bytes(path_of("again.gguf"), GOLDENS "repeng.gguf");
    cox_vector_file_free(file);

    assert_int_equal(cox_vector_file_read(&file, GOLDENS "block-0.gguf"),
                     COX_OK); /* repeng writes it, and we can say it */
    check_row(cox_vector_find(file, "direction.0"), "0");
    assert_int_equal(cox_gguf_write(path_of("no.gguf"), file->vectors, file->n, "x"), COX_UNSUPPORTED);
    assert_non_null(strstr(cox_status_message(), "direction.0"));
    cox_vector_file_free(file);

    assert_int_equal(cox_vector_file_read(&file, GOLDENS "glp-add.gguf"), COX_OK);
    assert_string_equal(file->vectors[0].operation, "add");
    cox_vector_file_free(file);
    assert_int_equal(cox_vector_file_read(&file, GOLDENS "glp-project.gguf"), COX_OK);
    assert_string_equal(file->vectors[0].operation, "ablate");
    check_row(&file->vectors[1], "2");
    cox_vector_file_free(file);
}

/* Names as `direction` gives them, whatever the vectors are called: by site, layer, expert and position. */
static void test_found_by_what_they_hold(void **state)
{
    (void)state;
    static float row[WIDTH] = {1};
#define VECTOR(called, at, l, e, from)                                                               \
    {                                                                                                \
        .name = called, .data = row, .width = WIDTH, .site = COX_SITE_##at, .layer = l, .expert = e, \
        .provenance = from                                                                           \
    }
    const cox_vector vectors[] = {
        VECTOR("resid_post.3", RESID_POST, 3, -1, "{\"made\": \"direction\", \"position\": \"last\"}"),
        VECTOR("resid_post.4", RESID_POST, 4, -1, "{\"made\": \"direction\", \"position\": \"mean\"}"),
        VECTOR("expert_out.2.7", EXPERT_OUT, 2, 7, "{\"made\": \"direction\", \"position\": \"-2\"}"),
        VECTOR("moe_out.1@-1", MOE_OUT, 1, -1, "{\"made\": \"direction\", \"position\": \"-1\"}"),
        VECTOR("moe_out.2@-1", MOE_OUT, 2, -1, "{\"made\": \"direction\", \"position\": \"-1\"}"),
        VECTOR("moe_out.2@-2", MOE_OUT, 2, -1, "{\"made\": \"direction\", \"position\": \"-2\"}"),
        VECTOR("mine", RESID_MID, 5, -1, NULL),
        VECTOR("resid_pre.6", RESID_PRE, 1, -1, NULL), /* a name that lies: names come first */
    };
#undef VECTOR
    static const struct {
        const char *asked, *found, *message;
    } cases[] = {
        {"resid_post.3", "resid_post.3", NULL},
        {"resid_post.3@-1", "resid_post.3", NULL},
        {"resid_post.3@-2", NULL, "of this place it has \"resid_post.3\", which was made at position -1"},
        {"resid_post.4@-1", NULL, "made at position mean"},
        {"resid_post.4@mean", "resid_post.4", NULL},
        {"expert_out.2.7@-2", "expert_out.2.7", NULL},
        {"expert_out.2@-2", NULL, "holds no vector \"expert_out.2@-2\"; the first of its 8"},
        {"expert_out.2.8@-2", NULL, "holds no vector"},
        {"moe_out.1", "moe_out.1@-1", NULL},
        {"moe_out.2", NULL, "may be \"moe_out.2@-1\" or \"moe_out.2@-2\""},
        {"moe_out.2@-2", "moe_out.2@-2", NULL},
        {"resid_mid.5", "mine", NULL},
        {"resid_mid.5@-1", NULL, "does not say at which position"},
        {"resid_mid.05", NULL, "holds no vector"},
        {"resid_mid.5.", NULL, "holds no vector"},
        {"resid_mid.5x", NULL, "holds no vector"},
        {"resid_pre.6", "resid_pre.6", NULL},
        {"resid_pre.1", "resid_pre.6", NULL},
    };
    cox_vector_file *file = NULL;
    assert_int_equal(cox_vector_file_write(path_of("held.safetensors"), vectors, 8), COX_OK);
    assert_int_equal(cox_vector_file_read(&file, path_of("held.safetensors")), COX_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const cox_vector *v = cox_vector_find(file, cases[i].asked);
        if (v ? !cases[i].found || strcmp(v->name, cases[i].found) != 0 : cases[i].found != NULL)
            fail_msg("%s gave %s (%s)", cases[i].asked, v ? v->name : "nothing", cox_status_message());
        if (!v && !strstr(cox_status_message(), cases[i].message))
            fail_msg("%s: %s", cases[i].asked, cox_status_message());
    }
    cox_vector_file_free(file);
}

static void refused_gguf(const char *path, cox_status wanted, const char *words)
{
    cox_vector_file *file = NULL;
    assert_int_equal(cox_vector_file_read(&file, path), wanted);
    if (!strstr(cox_status_message(), words)) fail_msg("%s says %s", path, cox_status_message());
}

static void write_text(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

/* A copy of a golden with n bytes of `from` replaced by `to`. */
static const char *patched(const char *golden, const char *from, const char *to, size_t n)
{
    size_t n_bytes = 0;
    unsigned char *data = bytes_of(golden, &n_bytes);
    unsigned char *at = memmem(data, n_bytes, from, n);
    assert_non_null(at);
    memcpy(at, to, n);
    write_text(path_of("patched"), data, n_bytes);
    free(data);
    return path_of("patched");
}

static void test_gguf_refusals(void **state)
{
    (void)state;
    refused_gguf(GOLDENS "glp-mode.gguf", COX_UNSUPPORTED, "\"glp.mode\" is \"melt\"; known: add, project");
    refused_gguf(GOLDENS "glp-hook.gguf", COX_UNSUPPORTED, "\"glp.hook_point\" is \"mlp_output\"");
    refused_gguf(GOLDENS "glp-no-hook.gguf", COX_UNSUPPORTED, "\"glp.hook_point\" is missing");
    refused_gguf(GOLDENS "glp-one-based.gguf", COX_UNSUPPORTED, "layer_ids_zero_based");
    write_text(path_of("text.gguf"), "a text", 6);
    refused_gguf(path_of("text.gguf"), COX_BAD_FILE, "is not a GGUF file");
    refused_gguf(path_of("none.gguf"), COX_NOT_FOUND, "cannot open");
    const char *const repeng = GOLDENS "repeng.gguf";
    refused_gguf(patched(repeng, "GGUF\3", "GGUF\1", 5), COX_BAD_FILE, "version 1");
    refused_gguf(patched(repeng, "controlvector", "controllvecto", 13), COX_BAD_FILE,
                 "not \"controlvector\"");
    refused_gguf(patched(repeng, "direction.2", "direction.1", 11), COX_BAD_FILE,
                 "\"direction.1\" is there twice");
    refused_gguf(patched(repeng, "direction.2", "direction.x", 11), COX_BAD_FILE,
                 "\"direction.x\" is not \"direction.N\"");
    refused_gguf(patched(repeng, "direction.2\1", "direction.2\2", 12), COX_BAD_FILE, "has 2 dimensions");
    refused_gguf(patched(repeng, "direction.2\1\0\0\0\x9", "direction.2\1\0\0\0\x8", 16), COX_BAD_FILE,
                 "has width 8");
    refused_gguf(patched(repeng, "direction.2\1\0\0\0\x9\0\0\0\0\0\0\0\0",
                         "direction.2\1\0\0\0\x9\0\0\0\0\0\0\0\1", 24),
                 COX_BAD_FILE, "has type 1, not F32");
    refused_gguf(patched(repeng, "direction.2\1\0\0\0\x9\0\0\0\0\0\0\0\0\0\0\0\x40",
                         "direction.2\1\0\0\0\x9\0\0\0\0\0\0\0\0\0\0\0\xff", 28),
                 COX_BAD_FILE, "lie outside the file");
    size_t n_bytes = 0;
    unsigned char *data = bytes_of(repeng, &n_bytes);
    for (size_t n = 0; n < n_bytes - 28;
         n++) { /* cut anywhere: an error; the last row is padded with 28 bytes */
        cox_vector_file *file = NULL;
        unsigned char *exact = malloc(n ? n : 1);
        memcpy(exact, data, n);
        assert_true(cox__gguf_parse(&file, "cut", exact, n) == COX_BAD_FILE);
        free(exact);
    }
    const float nan_row[WIDTH] = {0, NAN};
    memcpy(data + n_bytes - 64, nan_row, sizeof nan_row);
    write_text(path_of("nan.gguf"), data, n_bytes);
    refused_gguf(path_of("nan.gguf"), COX_BAD_FILE, "\"direction.3\": element 1 is NaN");
    free(data);
}

static void refused_export(cox_vector v, const char *words)
{
    assert_int_equal(cox_gguf_write(path_of("no.gguf"), &v, 1, "x"), COX_UNSUPPORTED);
    if (!strstr(cox_status_message(), words) || !strstr(cox_status_message(), "\"name\"")) {
        fail_msg("%s does not say %s", cox_status_message(), words);
    }
    assert_int_not_equal(access(path_of("no.gguf"), F_OK), 0);
}

static void test_export_refusals(void **state)
{
    (void)state;
    float row[WIDTH] = {1};
    const cox_vector good = {.name = "name",
                             .data = row,
                             .width = WIDTH,
                             .site = COX_SITE_RESID_POST,
                             .layer = 3,
                             .expert = -1,
                             .operation = "add",
                             .positions = "\"all\""};
    assert_int_equal(cox_gguf_write(path_of("yes.gguf"), &good, 1, "x"), COX_OK);
    cox_vector v = good;
    v.site = COX_SITE_RESID_PRE;
    refused_export(v, "site resid_pre, only resid_post");
    v.site = COX_SITE_UNSTATED;
    refused_export(v, "site unstated");
    v = good;
    v.layer = -1;
    refused_export(v, "a vector without its layer");
    v = good;
    v.expert = 3;
    refused_export(v, "an expert or a weighting");
    v = good;
    v.operation = "ablate";
    refused_export(v, "operation \"ablate\", only \"add\"");
    v = good;
    v.positions = "\"generated\"";
    refused_export(v, "positions \"generated\", only \"all\"");
    const cox_vector two[] = {good, good};
    assert_int_equal(cox_gguf_write(path_of("no.gguf"), two, 2, "x"), COX_UNSUPPORTED);
    assert_non_null(strstr(cox_status_message(), "two vectors for one block"));
}

/* A safetensors file with this header and 4 n bytes of data. */
static void refused_vector(const char *header, size_t n_floats, const float *data, const char *words)
{
    char *copy = strdup(header);
    for (char *c = copy; *c; c++) {
        if (*c == '\'') *c = '"';
    }
    size_t length = strlen(copy), n_bytes = 8 + length + 4 * n_floats;
    unsigned char *bytes = calloc(n_bytes, 1);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, copy, length);
    if (data) memcpy(bytes + 8 + length, data, 4 * n_floats);
    cox_vector_file *file = NULL;
    cox_status status = cox__vector_file_parse(&file, "file", bytes, n_bytes);
    if (status != COX_BAD_FILE || !strstr(cox_status_message(), words)) {
        fail_msg("%s: %s, %s", header, cox_status_name(status), cox_status_message());
    }
    free(bytes);
    free(copy);
}

#define TENSOR      "'t': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}"
#define FACTS(text) "{'__metadata__': {'coxswain': '" text "'}, " TENSOR "}"

static void test_vector_refusals(void **state)
{
    (void)state;
    const float nan_row[2] = {1, NAN}, infinite[2] = {-INFINITY, 1}, row[3] = {3, 4, 0},
                huge[2] = {3e38f, 3e38f};
    refused_vector("{" TENSOR "}", 2, nan_row, "file: tensor \"t\": element 1 is NaN");
    refused_vector("{" TENSOR "}", 2, infinite, "file: tensor \"t\": element 0 is infinite");
    refused_vector("{" TENSOR "}", 2, huge, "its norm is too large");
    refused_vector("{}", 0, NULL, "holds 0 tensors");
    refused_vector("{'t': {'dtype': 'F16', 'shape': [4], 'data_offsets': [0, 8]}}", 2, row,
                   "a vector is F32 of one dimension");
    refused_vector("{'t': {'dtype': 'F32', 'shape': [2, 1], 'data_offsets': [0, 8]}}", 2, row,
                   "is F32 of 2 dimensions");
    refused_vector("{'t': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]}}", 0, row,
                   "width 0 is outside");
    refused_vector("{'t': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 12]}}", 3, row, "12 bytes");
    refused_vector("{'__metadata__': {'coxswain': 3}, " TENSOR "}", 2, row,
                   "__metadata__ key \"coxswain\" is not a string");
    refused_vector(FACTS("["), 2, row, "not valid JSON");
    refused_vector(FACTS("{}"), 2, row, "\"version\" is missing");
    refused_vector("{'__metadata__': {'coxswain': '{\\'version\\': 2, \\'tensors\\': {}}'}, " TENSOR "}", 2,
                   row, "outside 1 to 1");
#define ONE(fields) \
    "{'__metadata__': {'coxswain': '{\\'version\\': 1, \\'tensors\\': {" fields "}}'}, " TENSOR "}"
    refused_vector(ONE("\\'u\\': {}"), 2, row, "names tensor \"u\", which is not in the file");
    refused_vector(ONE("\\'t\\': 3"), 2, row, "its metadata must be an object");
    refused_vector(ONE("\\'t\\': {\\'mode\\': 3}"), 2, row, "unknown key \"mode\"");
    refused_vector(ONE("\\'t\\': {\\'site\\': \\'here\\'}"), 2, row, "unknown site \"here\"");
    refused_vector(ONE("\\'t\\': {\\'layer\\': -2}"), 2, row, "\"layer\" is -2");
    refused_vector(ONE("\\'t\\': {\\'norm\\': 6}"), 2, row, "says norm 6, the tensor has 5");
}

static void test_raw(void **state)
{
    (void)state;
    const float row[3] = {1, 2, 2};
    cox_vector_file *file = NULL;
    write_text(path_of("v.f32"), row, sizeof row);
    assert_int_equal(cox_raw_vector_read(&file, path_of("v.f32"), "raw"), COX_OK);
    assert_int_equal(file->n, 1);
    assert_string_equal(file->vectors[0].name, "raw");
    assert_true(file->vectors[0].norm == 3 && file->vectors[0].site == COX_SITE_UNSTATED &&
                !file->vectors[0].operation);
    cox_vector_file_free(file);
    write_text(path_of("v.f32"), row, 7);
    assert_int_equal(cox_raw_vector_read(&file, path_of("v.f32"), "raw"), COX_BAD_FILE);
    assert_non_null(strstr(cox_status_message(), "7 bytes are not one vector of f32"));
}

static void test_writing(void **state)
{
    (void)state;
    float row[2] = {3, 4};
    const cox_vector v = {
        .name = "t", .data = row, .width = 2, .site = COX_SITE_RESID_PRE, .layer = 0, .expert = -1};
    assert_int_equal(cox_vector_file_write(path_of("no/such/folder"), &v, 1), COX_IO);
    const cox_vector two[] = {v, v};
    assert_int_equal(cox_vector_file_write(path_of("twice"), two, 2), COX_INVALID);
    row[1] = INFINITY;
    assert_int_equal(cox_vector_file_write(path_of("infinite"), &v, 1), COX_BAD_FILE);
    assert_int_not_equal(access(path_of("infinite"), F_OK), 0);
}

static void test_tokenizer_fingerprint(void **state)
{
    (void)state;
    char fingerprint[65] = "";
    write_text(path_of("tokenizer.json"), "abc", 3);
    assert_int_equal(cox_tokenizer_fingerprint(test_folder, fingerprint), COX_OK);
    assert_string_equal(fingerprint,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* FIPS 180-2 */
    assert_int_equal(cox_tokenizer_fingerprint("/none", fingerprint), COX_OK); /* ids need no tokenizer */
    assert_string_equal(fingerprint, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stated),
                                       cmocka_unit_test(test_gguf),
                                       cmocka_unit_test(test_found_by_what_they_hold),
                                       cmocka_unit_test(test_gguf_refusals),
                                       cmocka_unit_test(test_export_refusals),
                                       cmocka_unit_test(test_vector_refusals),
                                       cmocka_unit_test(test_raw),
                                       cmocka_unit_test(test_writing),
                                       cmocka_unit_test(test_tokenizer_fingerprint)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
