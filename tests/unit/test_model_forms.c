/*
 * What cannot be opened is named for what it is, with what to do: files and caches in place of a folder,
 * weights and tokenizers in other forms, pointers of git-lfs, quantisations. And what only matters to who
 * generates text, or to who has text, does not keep a model from being opened.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "model/model.h"
#include "model/tokenizer.h"
#include "tests/unit/model_folder.h"

#define OLMOE "olmoe-plain-f32"

static const char pointer[] =
    "version https://git-lfs.github.com/spec/v1\noid sha256:"
    "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

static void put_text(folder *f, const char *name, const char *text)
{
    write_bytes(folder_file(f, name), text, strlen(text));
}

static void refuses(const char *path, cox_status wanted, const char *const *texts)
{
    cox_model *m = NULL;
    expect_message(cox_model_open(&m, path), wanted, texts);
    assert_null(m);
}

/* The same of a folder, which is then removed. */
static void refuses_folder(folder *f, cox_status wanted, const char *const *texts)
{
    refuses(f->path, wanted, texts);
    folder_remove(f);
}

static void test_lone_files(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE);
    static const char *const names[] = {"model.safetensors", "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        refuses(folder_file(&f, names[i]), COX_INVALID,
                TEXTS(names[i], "is a file", "give the folder that it is in", f.path));
    }
    put_text(&f, "weights.bin", "GGUF....");
    refuses(folder_file(&f, "weights.bin"), COX_UNSUPPORTED,
            TEXTS("is a GGUF file", "Hugging Face checkpoint"));
    folder_remove(&f);
    f = folder_create();
    put_text(&f, "model.safetensors", "x");
    refuses(folder_file(&f, "model.safetensors"), COX_INVALID, TEXTS("is a file", "config.json"));
    refuses(folder_file(&f, "nothing"), COX_NOT_FOUND,
            TEXTS("nothing", "No such file", "downloaded by its name"));
    folder_remove(&f);
}

static void test_caches(void **state)
{
    (void)state;
    folder f = folder_create();
    char path[600];
    static const char *const folders[] = {"models--A--B", "models--A--B/refs", "models--A--B/snapshots",
                                          "models--A--B/snapshots/f00d", "models--A--B/snapshots/beef"};
    for (size_t i = 0; i < 5; i++) assert_int_equal(mkdir(folder_file(&f, folders[i]), 0700), 0);
    put_text(&f, "models--A--B/refs/main", "f00d\n");
    snprintf(path, sizeof path, "%s/models--A--B", f.path);
    refuses(path, COX_INVALID,
            TEXTS("cache folder", "give the snapshot in it", "models--A--B/snapshots/f00d"));
    refuses(f.path, COX_INVALID, TEXTS("cache of several models", "models--A--B"));
    unlink(folder_file(&f, "models--A--B/refs/main"));
    refuses(path, COX_INVALID, TEXTS("snapshots/beef"));
    for (size_t i = 5; i-- > 3;) rmdir(folder_file(&f, folders[i]));
    refuses(path, COX_NOT_FOUND, TEXTS("without a snapshot"));
    for (size_t i = 3; i-- > 0;) rmdir(folder_file(&f, folders[i]));
    folder_remove(&f);
}

static void test_other_forms_of_weights(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        cox_status wanted;
        const char *texts[3];
    } cases[] = {
        {"pytorch_model.bin", COX_UNSUPPORTED, {"pytorch_model.bin", "only safetensors", "save_pretrained"}},
        {"pytorch_model-00001-of-00002.bin",
         COX_UNSUPPORTED,
         {"-00001-of-00002.bin", "convert", "AutoModelForCausalLM"}},
        {"consolidated.00.pth", COX_UNSUPPORTED, {"consolidated.00.pth", "model's makers", "convert"}},
        {"consolidated.safetensors",
         COX_UNSUPPORTED,
         {"consolidated.safetensors", "model's makers", "Hugging"}},
        {"olmoe-q4.gguf", COX_UNSUPPORTED, {"olmoe-q4.gguf", "only safetensors", "Hugging Face checkpoint"}},
        {"model-00001-of-00002.safetensors",
         COX_NOT_FOUND,
         {"model.safetensors.index.json", "is not there", "shards"}},
        {"training_args.bin", COX_NOT_FOUND, {"neither model.safetensors nor", "", ""}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder f = folder_copy(OLMOE);
        unlink(folder_file(&f, "model.safetensors"));
        put_text(&f, cases[i].name, "x");
        config_set(&f, "hidden_act", "\"gelu\""); /* is not complained about first */
        refuses_folder(&f, cases[i].wanted, TEXTS(cases[i].texts[0], cases[i].texts[1], cases[i].texts[2]));
    }
    static const struct {
        const char *name, *text;
    } folders[] = {{"params.json", "own format"},
                   {"consolidated.00.pth", "own format"},
                   {"consolidated.safetensors", "convert_*_weights_to_hf.py"},
                   {"adapter_config.json", "merge"},
                   {"x.gguf", "x.gguf"}};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        folder f = folder_create();
        put_text(&f, folders[i].name, "{}");
        refuses_folder(&f, COX_UNSUPPORTED, TEXTS(f.path, folders[i].text));
    }
    /* A model that is not known stays unknown, whatever its weights are in. */
    folder f = folder_copy(OLMOE);
    unlink(folder_file(&f, "model.safetensors"));
    put_text(&f, "pytorch_model.bin", "x");
    config_set(&f, "model_type", "\"deepseek_v3\"");
    refuses_folder(&f, COX_UNSUPPORTED, TEXTS("deepseek_v3", "olmoe, mixtral"));
}

static void test_pointers(void **state)
{
    (void)state;
    static const char *const names[] = {
        "config.json",           "generation_config.json",  "model.safetensors",
        "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        folder f = folder_copy(OLMOE);
        put_text(&f, names[i], pointer);
        refuses_folder(&f, COX_BAD_FILE, TEXTS(names[i], "is a git-lfs pointer", "git lfs pull"));
    }
    folder f = folder_copy("olmoe-linear-shards-bf16");
    put_text(&f, "model-00002-of-00003.safetensors", pointer);
    refuses_folder(&f, COX_BAD_FILE, TEXTS("model-00002-of-00003.safetensors", "git lfs pull"));
    f = folder_copy("olmoe-linear-shards-bf16");
    put_text(&f, "model.safetensors.index.json", pointer);
    refuses_folder(&f, COX_BAD_FILE, TEXTS("model.safetensors.index.json", "git lfs pull"));
    f = folder_copy(OLMOE); /* of a file that nobody reads */
    put_text(&f, "pytorch_model.bin", pointer);
    put_text(&f, "tokenizer.json", pointer);
    cox_model *m = NULL;
    assert_int_equal(cox_model_open(&m, f.path), COX_OK);
    cox_model_close(m);
    cox_tokenizer *t = NULL;
    expect_message(cox_tokenizer_load(&t, f.path), COX_BAD_FILE, TEXTS("tokenizer.json", "git lfs pull"));
    folder_remove(&f);
}

static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const others[] = {"tokenizer.model", "vocab.json", "qwen.tiktoken", "tekken.json"};
    cox_tokenizer *t = NULL;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        folder f = folder_create();
        put_text(&f, others[i], "x");
        expect_message(cox_tokenizer_load(&t, f.path), COX_NOT_FOUND,
                       TEXTS("tokenizer.json", "only", others[i], "AutoTokenizer", "save_pretrained"));
        folder_remove(&f);
    }
    folder f = folder_create();
    expect_message(cox_tokenizer_load(&t, f.path), COX_NOT_FOUND,
                   TEXTS("tokenizer.json: is not there", "token ids"));
    folder_remove(&f);
}

static void test_quantisations(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        const char *texts[2];
    } cases[] = {
        {"{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}", {"\"fp8\" (FP8)", "-FP8"}},
        {"{\"quant_method\": \"compressed-tensors\", \"format\": \"nvfp4-pack-quantized\"}",
         {"(compressed-tensors, nvfp4-pack-quantized)", "bf16"}},
        {"{\"quant_method\": \"modelopt\", \"quant_algo\": \"NVFP4\"}", {"(ModelOpt, NVFP4)", "bf16"}},
        {"{\"quant_algo\": \"NVFP4\", \"producer\": {\"name\": \"modelopt\"}}",
         {"(ModelOpt, NVFP4)", "bf16"}},
        {"{\"quant_method\": \"awq\", \"bits\": 4}", {"(AWQ)", "bf16"}},
        {"{\"quant_method\": \"gptq\", \"bits\": 4}", {"(GPTQ)", "bf16"}},
        {"{\"load_in_4bit\": true}", {"(bitsandbytes)", "bf16"}},
        {"{\"quant_method\": \"mxfp4\"}", {"(MXFP4)", "model_type olmoe"}},
        {"{\"quant_method\": \"hqq\"}", {"\"hqq\"", "which is not built"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder f = folder_copy(OLMOE);
        unlink(folder_file(&f, "model.safetensors"));       /* neither these ... */
        config_set(&f, "torch_dtype", "\"float8_e4m3fn\""); /* ... are complained about first */
        config_set(&f, "quantization_config", cases[i].config);
        refuses_folder(&f, COX_UNSUPPORTED,
                       TEXTS("quantization_config", cases[i].texts[0], cases[i].texts[1]));
    }
    static const struct {
        const char *ending, *dtype, *title;
    } tensors[] = {
        {"qweight", NULL, "GPTQ or AWQ"},     {"weight_packed", NULL, "compressed-tensors"},
        {"weight_scale_inv", NULL, "FP8"},    {"weight.absmax", NULL, "bitsandbytes"},
        {"weight_scale_2", NULL, "ModelOpt"}, {"weight", "F8_E4M3", "FP8"},
    };
    const char *down = "model.layers.1.mlp.experts.3.down_proj.";
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        folder f = folder_copy(OLMOE);
        shard s = shard_read(&f, "model.safetensors");
        char name[200], old[200];
        snprintf(old, sizeof old, "%sweight", down);
        snprintf(name, sizeof name, "%s%s", down, tensors[i].ending);
        json_t *entry = json_incref(shard_entry(&s, old));
        json_object_del(s.header, old);
        json_object_set_new(s.header, name, entry);
        if (tensors[i].dtype) {
            json_object_set_new(entry, "dtype", json_string(tensors[i].dtype));
            json_object_set_new(entry, "shape", json_pack("[i, i]", 96, 10));
        }
        shard_write(&f, "model.safetensors", s);
        refuses_folder(&f, COX_UNSUPPORTED, TEXTS("quantised", tensors[i].title, name));
    }
}

/* What a file says of the end of texts: [out] the ids that count, as "7 3", and whether there is a note. */
static void check_eos(folder *f, const char *ids, const char *const *note)
{
    cox_model *m = NULL;
    char text[64] = "";
    if (cox_model_open(&m, f->path) != COX_OK) fail_msg("%s", cox_status_message());
    for (int32_t i = 0; i < m->n_eos; i++)
        snprintf(text + strlen(text), 16, i ? " %d" : "%d", (int)m->eos_ids[i]);
    assert_string_equal(text, ids);
    assert_int_equal(m->eos_note != NULL, note != NULL);
    for (; note && *note; note++) {
        if (!strstr(m->eos_note, *note)) fail_msg("\"%s\" is not in: %s", *note, m->eos_note);
    }
    cox_model_close(m);
}

static void test_end_tokens_beyond_the_vocabulary(void **state)
{
    (void)state;
    folder f = folder_copy(OLMOE); /* of 43 tokens */
    unlink(folder_file(&f, "generation_config.json"));
    config_set(&f, "bos_token_id", "400");
    config_set(&f, "eos_token_id", "[1, 43]");
    check_eos(&f, "1", TEXTS("/config.json", "\"eos_token_id\" is [1, 43]", "vocab_size is 43"));
    config_set(&f, "eos_token_id", "50279");
    check_eos(&f, "", TEXTS("/config.json", "is 50279"));
    config_set(&f, "eos_token_id", "-1");
    check_eos(&f, "", TEXTS("/config.json", "is -1"));
    config_set(&f, "eos_token_id", "[1, 43, 44, 45, 46, 47, 48, 49, 50, 51, 2]"); /* many */
    check_eos(&f, "1 2", TEXTS("/config.json"));
    put_text(&f, "generation_config.json",
             "{\"eos_token_id\": [7, 1000000000000000019884624838656], \"bos_token_id\": 1e40}");
    check_eos(&f, "7", TEXTS("/generation_config.json"));
    put_text(&f, "generation_config.json", "{\"eos_token_id\": [7, 3], \"bos_token_id\": 99}");
    check_eos(&f, "7 3", NULL);
    put_text(&f, "generation_config.json", "{\"eos_token_id\": [7, 43000]}");
    check_eos(&f, "7", TEXTS("/generation_config.json", "[7, 43000]"));
    config_set(&f, "eos_token_id",
               NULL); /* the family's own default is beyond this vocabulary: nobody asked for it */
    unlink(folder_file(&f, "generation_config.json"));
    check_eos(&f, "", NULL);
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lone_files),
        cmocka_unit_test(test_caches),
        cmocka_unit_test(test_other_forms_of_weights),
        cmocka_unit_test(test_pointers),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_quantisations),
        cmocka_unit_test(test_end_tokens_beyond_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
