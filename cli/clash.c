/* Files that a command would write over although it reads them. By device and inode, so that links count. */
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/options.h"

typedef struct output {
    const char *option, *path;
    struct stat file;
} output;

static bool is_same(const output *out, const char *input)
{
    struct stat file;
    int found = strcmp(input, "-") == 0 ? fstat(0, &file) : stat(input, &file);
    return found == 0 && S_ISREG(file.st_mode) && file.st_dev == out->file.st_dev &&
           file.st_ino == out->file.st_ino;
}

static cox_status check_input(const output *out, const char *input)
{
    if (!input || !is_same(out, input)) return COX_OK;
    return cox_fail(COX_INVALID,
                    "%s %s is %s, which this command reads: nothing is written over it; choose another name",
                    out->option, out->path, strcmp(input, "-") == 0 ? "standard input" : input);
}

static cox_status check_list(const output *out, const cox_texts *inputs)
{
    cox_status status = COX_OK;
    for (size_t i = 0; i < inputs->n && status == COX_OK; i++) status = check_input(out, inputs->items[i]);
    return status;
}

static cox_status check_in(const output *out, const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return check_input(out, path);
}

static cox_status check_folder(const output *out, const char *folder)
{
    DIR *entries = folder ? opendir(folder) : NULL; /* one that is not there has its own message later */
    cox_status status = COX_OK;
    for (const struct dirent *entry; entries && status == COX_OK && (entry = readdir(entries));) {
        status = check_in(out, folder, entry->d_name);
    }
    if (entries) closedir(entries);
    return status;
}

/* Of a model's folder only what makes the model: its owner may keep results there. */
static cox_status check_model(const output *out, const char *folder)
{
    static const char index_name[] = "model.safetensors.index.json";
    static const char *const names[] = {
        "config.json",         "generation_config.json",  "tokenizer.json",    "tokenizer_config.json",
        "chat_template.jinja", "special_tokens_map.json", "model.safetensors", index_name};
    cox_status status = COX_OK;
    for (size_t i = 0; folder && i < sizeof names / sizeof *names && status == COX_OK; i++)
        status = check_in(out, folder, names[i]);
    if (!folder || status != COX_OK) return status;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, index_name);
    json_t *index = json_load_file(path, 0, NULL); /* one that is not there, or broken, is told of later */
    const char *tensor, *last = "";
    json_t *shard;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, shard)
    {
        const char *name = json_is_string(shard) ? json_string_value(shard) : "";
        if (*name && strcmp(name, last) != 0 && status == COX_OK) status = check_in(out, folder, name);
        last = name;
    }
    json_decref(index);
    return status;
}

static cox_status check_output(const output *out, const cox_options *o)
{
    const char *const inputs[] = {
        o->input,        o->tokens_file, o->plan,          o->placement, o->prompts_a,     o->prompts_b,
        o->neutral,      o->grid,        o->rules,         o->results,   o->baseline,      o->continuations,
        o->filter_rules, o->routes,      o->decomposition, o->heldout,   o->template_name, o->conversations};
    const char *const folders[] = {o->sweep, o->controls};
    cox_status status = check_model(out, o->model);
    for (size_t i = 0; i < sizeof folders / sizeof *folders && status == COX_OK; i++)
        status = check_folder(out, folders[i]);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs && status == COX_OK; i++)
        status = check_input(out, inputs[i]);
    if (status == COX_OK) status = check_list(out, &o->prompt_files);
    if (status == COX_OK) status = check_list(out, &o->inputs);
    return status == COX_OK ? check_list(out, &o->plans) : status;
}

static bool is_there(output *out)
{
    return out->path && stat(out->path, &out->file) == 0 && S_ISREG(out->file.st_mode);
}

cox_status cox_options_check_output(const char *path, const char *input, const char *model)
{
    output out = {.option = "--output", .path = path};
    if (!is_there(&out)) return COX_OK;
    cox_status status = check_input(&out, input);
    return status == COX_OK ? check_model(&out, model) : status;
}

cox_status cox_options_check_files(const cox_options *options)
{
    output outputs[] = {{.option = "--output", .path = options->output},
                        {.option = "--csv", .path = options->csv},
                        {.option = "--plot", .path = options->plot},
                        {.option = "--items", .path = options->items}};
    cox_status status = COX_OK;
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs && status == COX_OK; i++) {
        if (is_there(&outputs[i])) status = check_output(&outputs[i], options);
    }
    return status;
}
