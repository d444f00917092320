/* Checkpoint folders: what is read from good ones, and the message that each kind of damage gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/checkpoint.h"
#include "tests/unit/model_folder.h"

#define SINGLE  "olmoe-plain-f32"
#define SHARDED "olmoe-linear-shards-bf16"
#define SHARD2  "model-00002-of-00003.safetensors"
#define NORM    "model.norm.weight"

static void expect_open(folder *f, cox_status wanted, const char *const *texts)
{
    cox_checkpoint *checkpoint = NULL;
    cox_status status = cox_checkpoint_open(&checkpoint, f->path);
    expect_message(status, wanted, texts);
    assert_null(checkpoint);
    folder_remove(f);
}

static void test_single_file(void **state)
{
    (void)state;
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, GOLDEN SINGLE), COX_OK);
    folder f = folder_copy(SINGLE);
    shard s = shard_read(&f, "model.safetensors");
    assert_int_equal(cox_checkpoint_n_tensors(checkpoint),
                     json_object_size(s.header) - (json_object_get(s.header, "__metadata__") != NULL));
    for (size_t i = 0; i < cox_checkpoint_n_tensors(checkpoint); i++) {
        const cox_tensor *tensor = cox_checkpoint_tensor(checkpoint, i);
        assert_ptr_equal(cox_checkpoint_find(checkpoint, tensor->name), tensor);
        json_t *offsets = json_object_get(shard_entry(&s, tensor->name), "data_offsets");
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        assert_int_equal(tensor->n_bytes, json_integer_value(json_array_get(offsets, 1)) - (json_int_t)begin);
        assert_memory_equal(tensor->data, s.data + begin, tensor->n_bytes);
        assert_int_equal(tensor->dtype, COX_TENSOR_F32);
        assert_int_equal(cox_checkpoint_populate(checkpoint, tensor->data, tensor->n_bytes), COX_OK);
        cox_checkpoint_release(checkpoint, tensor->data, tensor->n_bytes);
        assert_memory_equal(tensor->data, s.data + begin, tensor->n_bytes);
    }
    assert_null(cox_checkpoint_find(checkpoint, "model.norm"));
    assert_int_equal(cox_checkpoint_populate(checkpoint, &f, 1), COX_INTERNAL);
    free(s.data);
    json_decref(s.header);
    cox_checkpoint_close(checkpoint);
    cox_checkpoint_close(NULL);
    folder_remove(&f);
}

static void test_shards(void **state)
{
    (void)state;
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, GOLDEN SHARDED), COX_OK);
    json_t *index = json_load_file(GOLDEN SHARDED "/model.safetensors.index.json", 0, NULL);
    const char *name;
    json_t *file;
    json_object_foreach(json_object_get(index, "weight_map"), name, file)
    {
        const cox_tensor *tensor = cox_checkpoint_find(checkpoint, name);
        assert_non_null(tensor);
        assert_non_null(strstr(tensor->shard, json_string_value(file)));
    }
    json_decref(index);
    cox_checkpoint_close(checkpoint);
}

/* transformers takes the single file when both are there. */
static void test_a_single_file_beats_an_index(void **state)
{
    (void)state;
    folder f = folder_copy(SHARDED);
    const char *header = "{\"a\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]}}";
    shard_write_text(&f, "model.safetensors", header, strlen(header), "x", 1);
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, f.path), COX_OK);
    assert_int_equal(cox_checkpoint_n_tensors(checkpoint), 1);
    cox_checkpoint_close(checkpoint);
    folder_remove(&f);
}

static void test_missing_files(void **state)
{
    (void)state;
    folder f = folder_copy(SHARDED);
    unlink(folder_file(&f, SHARD2));
    expect_open(&f, COX_NOT_FOUND,
                TEXTS(SHARD2, "model.safetensors.index.json lists a shard that is missing", "download"));
    f = folder_create();
    expect_open(&f, COX_NOT_FOUND, TEXTS(f.path, "neither model.safetensors nor"));
    cox_checkpoint *checkpoint = NULL;
    expect_message(cox_checkpoint_open(&checkpoint, "/nonexistent/model"), COX_NOT_FOUND,
                   TEXTS("/nonexistent/model"));
}

static void test_truncated_files(void **state)
{
    (void)state;
    folder f = folder_copy(SHARDED);
    size_t n;
    unsigned char *bytes = read_bytes(folder_file(&f, SHARD2), &n);
    assert_int_equal(truncate(folder_file(&f, SHARD2), (off_t)n - 100), 0);
    expect_open(&f, COX_BAD_FILE,
                TEXTS(SHARD2, "tensor \"", "outside the file", "truncated", "download it again"));
    f = folder_copy(SHARDED);
    write_bytes(folder_file(&f, SHARD2), bytes, 50);
    expect_open(&f, COX_BAD_FILE, TEXTS(SHARD2, "truncated: the header has"));
    f = folder_copy(SHARDED);
    write_bytes(folder_file(&f, SHARD2), bytes, 5);
    expect_open(&f, COX_BAD_FILE, TEXTS(SHARD2, "5 bytes are too few"));
    f = folder_copy(SHARDED);
    write_bytes(folder_file(&f, SHARD2), bytes, 0);
    expect_open(&f, COX_BAD_FILE, TEXTS(SHARD2, "empty"));
    free(bytes);
}

static void test_a_shard_that_shrinks_later(void **state)
{
    (void)state;
    folder f = folder_copy(SINGLE);
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, f.path), COX_OK);
    const cox_tensor *tensor = cox_checkpoint_find(checkpoint, NORM);
    assert_int_equal(truncate(folder_file(&f, "model.safetensors"), 4096), 0);
    expect_message(cox_checkpoint_populate(checkpoint, tensor->data, tensor->n_bytes), COX_IO,
                   TEXTS("model.safetensors", "shrank", "restart"));
    cox_checkpoint_close(checkpoint);
    folder_remove(&f);
}

/* Replaces data_offsets of a tensor. */
static void set_offsets(shard *s, const char *tensor, int64_t begin, int64_t end)
{
    json_object_set_new(shard_entry(s, tensor), "data_offsets",
                        json_pack("[I, I]", (json_int_t)begin, (json_int_t)end));
}

static int64_t offset(const shard *s, const char *tensor, size_t i)
{
    return json_integer_value(json_array_get(json_object_get(shard_entry(s, tensor), "data_offsets"), i));
}

static void expect_offsets(int64_t begin, int64_t end, const char *const *texts)
{
    folder f = folder_copy(SINGLE);
    shard s = shard_read(&f, "model.safetensors");
    set_offsets(&s, NORM, begin, end);
    shard_write(&f, "model.safetensors", s);
    expect_open(&f, COX_BAD_FILE, texts);
}

static void test_offsets(void **state)
{
    (void)state;
    const char *tensor = "model.safetensors: tensor \"" NORM "\"";
    expect_offsets(INT64_MAX - 96, INT64_MAX, TEXTS(tensor, "outside the file"));
    expect_offsets(-96, 0, TEXTS(tensor, "not a range"));
    expect_offsets(96, 0, TEXTS(tensor, "not a range"));
    expect_offsets(0, 100, TEXTS(tensor, "hold 100 bytes", "dtype F32 and shape need 96"));
    expect_offsets(0, 96, TEXTS(NORM, "overlap"));
    folder f = folder_copy(SINGLE);
    shard s = shard_read(&f, "model.safetensors");
    json_object_set_new(shard_entry(&s, NORM), "data_offsets", json_pack("[f, i]", 0.5, 4));
    shard_write(&f, "model.safetensors", s);
    expect_open(&f, COX_BAD_FILE, TEXTS(tensor, "data_offsets", "two whole numbers"));
}

static void test_overlap_and_gaps(void **state)
{
    (void)state;
    folder f = folder_copy(SINGLE);
    shard s = shard_read(&f, "model.safetensors");
    int64_t begin = offset(&s, NORM, 0), end = offset(&s, NORM, 1);
    set_offsets(&s, NORM, begin - 4, end - 4);
    shard_write(&f, "model.safetensors", s);
    expect_open(&f, COX_BAD_FILE, TEXTS("model.safetensors", NORM, "overlap", "download it again"));

    f = folder_copy(SINGLE);
    s = shard_read(&f, "model.safetensors");
    json_object_del(s.header, NORM);
    bool is_last = end == (int64_t)s.n_bytes;
    shard_write(&f, "model.safetensors", s);
    expect_open(&f, COX_BAD_FILE,
                TEXTS("model.safetensors", is_last ? "96 bytes follow" : "96 bytes before"));

    f = folder_copy(SINGLE);
    s = shard_read(&f, "model.safetensors");
    s.n_bytes += 8;
    shard_write(&f, "model.safetensors", s);
    expect_open(&f, COX_BAD_FILE, TEXTS("model.safetensors", "8 bytes follow the last tensor"));
}

static void test_duplicates(void **state)
{
    (void)state;
    folder f = folder_create();
    const char *twice = "{\"a\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]},"
                        " \"a\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [1, 2]}}";
    shard_write_text(&f, "model.safetensors", twice, strlen(twice), "xy", 2);
    expect_open(&f, COX_BAD_FILE, TEXTS("model.safetensors: header", "duplicate", "a"));

    f = folder_copy(SHARDED);
    shard s = shard_read(&f, SHARD2);
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, f.path), COX_OK);
    const char *other = cox_checkpoint_tensor(checkpoint, 0)->name;
    for (size_t i = 0; i < cox_checkpoint_n_tensors(checkpoint); i++) { /* any tensor of another shard */
        if (!strstr(cox_checkpoint_tensor(checkpoint, i)->shard, SHARD2))
            other = cox_checkpoint_tensor(checkpoint, i)->name;
    }
    json_object_set_new(s.header, other,
                        json_pack("{s:s, s:[i], s:[I, I]}", "dtype", "U8", "shape", 8, "data_offsets",
                                  (json_int_t)s.n_bytes, (json_int_t)s.n_bytes + 8));
    s.n_bytes += 8;
    shard_write(&f, SHARD2, s);
    char name[200];
    snprintf(name, sizeof name, "tensor \"%s\" is in", other);
    cox_checkpoint_close(checkpoint);
    expect_open(&f, COX_BAD_FILE, TEXTS(name, SHARD2, "too", "download it again"));
}

static void test_headers(void **state)
{
    (void)state;
    folder f = folder_create();
    uint64_t huge = 100000001;
    write_bytes(folder_file(&f, "model.safetensors"), &huge, sizeof huge);
    expect_open(&f, COX_BAD_FILE,
                TEXTS("model.safetensors", "header of 100000001 bytes is larger than the allowed"));
    static const struct {
        const char *header, *message;
    } cases[] = {
        {"{\"a\": ", "not valid JSON"},
        {"{\"\xff\": 1}", "unable to decode byte 0xff"},
        {"[]", "not a JSON object"},
        {"{\"a\": 3}", "tensor \"a\": must be a JSON object"},
        {"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 1]}}", "tensor \"a\": key \"dtype\" is missing"},
        {"{\"a\": {\"dtype\": 4, \"shape\": [1], \"data_offsets\": [0, 1]}}",
         "tensor \"a\": key \"dtype\" must be a string"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": 1, \"data_offsets\": [0, 1]}}",
         "tensor \"a\": key \"shape\" must be"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [-1], \"data_offsets\": [0, 1]}}",
         "tensor \"a\": key \"shape\" must hold"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [4294967296, 4294967296, 2], \"data_offsets\": [0, 1]}}",
         "too large"},
        {"{\"a\": {\"dtype\": \"F4\", \"shape\": [3], \"data_offsets\": [0, 1]}}", "whole bytes"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0]}}",
         "tensor \"a\": key \"data_offsets\" must be"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [1]}}", "tensor \"a\": key \"data_offsets\" must be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f = folder_create();
        shard_write_text(&f, "model.safetensors", cases[i].header, strlen(cases[i].header), "x", 1);
        expect_open(&f, COX_BAD_FILE, TEXTS("model.safetensors", cases[i].message));
    }
}

static void test_unknown_dtypes_and_empty_tensors_are_carried(void **state)
{
    (void)state;
    folder f = folder_create();
    const char *header =
        "{\"__metadata__\": {\"format\": \"pt\"},"
        " \"new\": {\"dtype\": \"Q3\", \"shape\": [7], \"data_offsets\": [0, 3]},"
        " \"deep\": {\"dtype\": \"U8\", \"shape\": [1, 1, 1, 1, 1, 2], \"data_offsets\": [3, 5]},"
        " \"none\": {\"dtype\": \"F32\", \"shape\": [0, 9], \"data_offsets\": [5, 5]}}";
    shard_write_text(&f, "model.safetensors", header, strlen(header), "abcde", 5);
    cox_checkpoint *checkpoint = NULL;
    assert_int_equal(cox_checkpoint_open(&checkpoint, f.path), COX_OK);
    assert_int_equal(cox_checkpoint_n_tensors(checkpoint), 3);
    const cox_tensor *fresh = cox_checkpoint_find(checkpoint, "new");
    assert_int_equal(fresh->dtype, COX_TENSOR_OTHER);
    assert_string_equal(fresh->dtype_name, "Q3");
    assert_int_equal(cox_checkpoint_find(checkpoint, "deep")->n_dims, 6);
    const cox_tensor *none = cox_checkpoint_find(checkpoint, "none");
    assert_int_equal(none->n_bytes, 0);
    assert_int_equal(cox_checkpoint_populate(checkpoint, none->data, none->n_bytes), COX_OK);
    cox_checkpoint_close(checkpoint);
    folder_remove(&f);
}

/* Rewrites one entry of the index. */
static void set_index(folder *f, const char *tensor, const char *shard_name)
{
    json_t *index = json_read(f, "model.safetensors.index.json");
    json_object_set_new(json_object_get(index, "weight_map"), tensor, json_string(shard_name));
    json_write(f, "model.safetensors.index.json", index);
}

static void test_index(void **state)
{
    (void)state;
    const char *index = "model.safetensors.index.json";
    folder f = folder_copy(SHARDED);
    set_index(&f, "model.layers.9.extra", SHARD2);
    expect_open(&f, COX_BAD_FILE,
                TEXTS(index, "\"model.layers.9.extra\" should be in shard " SHARD2 " but is not"));
    f = folder_copy(SHARDED);
    set_index(&f, NORM, "model-00001-of-00003.safetensors");
    set_index(&f, "model.embed_tokens.weight", "model-00003-of-00003.safetensors");
    expect_open(&f, COX_BAD_FILE, TEXTS(index, "should be in shard", "but is in", "download"));
    f = folder_copy(SHARDED);
    set_index(&f, NORM, "../model.safetensors");
    expect_open(&f, COX_BAD_FILE, TEXTS(index, NORM, "a file in the folder"));
    static const char *const bad[] = {"{}",
                                      "{\"weight_map\": {}}",
                                      "{\"weight_map\": 1}",
                                      "{\"weight_map\": {\"a\": 1}}",
                                      "{\"weight_map\": {\"a\": \"\"}}",
                                      "{",
                                      "3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        f = folder_create();
        write_bytes(folder_file(&f, index), bad[i], strlen(bad[i]));
        expect_open(&f, COX_BAD_FILE, TEXTS(index));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_a_single_file_beats_an_index),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_truncated_files),
        cmocka_unit_test(test_a_shard_that_shrinks_later),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_overlap_and_gaps),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_unknown_dtypes_and_empty_tensors_are_carried),
        cmocka_unit_test(test_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
