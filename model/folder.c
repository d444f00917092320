/* Names in a folder, and the first bytes of small files; see folder.h. */
#include "model/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OR_CONVERT ", or convert it with transformers (convert_*_weights_to_hf.py)"
#define ADVICE     "give the folder of a Hugging Face checkpoint (config.json and model*.safetensors)"

enum { MAX_PATH = 4096, MAX_NAME = 256, MAX_POINTER_BYTES = 1024 };

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

static bool has(const char *folder, const char *name)
{
    char path[MAX_PATH];
    struct stat info;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &info) == 0;
}

/* The first name, by the alphabet, that begins and ends so. [out] name [MAX_NAME] */
static bool find(const char *folder, const char *begin, const char *end, char *name)
{
    DIR *entries = opendir(folder);
    bool is_found = false;
    for (const struct dirent *entry; entries && (entry = readdir(entries));) {
        const char *it = entry->d_name;
        if (it[0] == '.' || strncmp(it, begin, strlen(begin)) != 0 || !ends_with(it, end)) continue;
        if (!is_found || strcmp(it, name) < 0) snprintf(name, MAX_NAME, "%s", it);
        is_found = true;
    }
    if (entries) closedir(entries);
    return is_found;
}

/* Weights as Meta and Mistral give them. */
static bool find_consolidated(const char *folder, char *name)
{
    return find(folder, "consolidated", ".safetensors", name) || find(folder, "consolidated", ".pt", name) ||
           find(folder, "consolidated", ".pth", name);
}

/* [out] text: at most n - 1 bytes from the start of a file, NUL-terminated; "" when it cannot be read. */
static void read_start(const char *path, char *text, size_t n)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file >= 0 ? read(file, text, n - 1) : -1;
    text[got > 0 ? got : 0] = '\0';
    if (file >= 0) close(file);
}

/* --- What is no folder, or a folder of folders --- */

static cox_status refuse_file(const char *path)
{
    char magic[5], folder[MAX_PATH];
    read_start(path, magic, sizeof magic);
    if (strcmp(magic, "GGUF") == 0 || ends_with(path, ".gguf")) {
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: is a GGUF file; weights are not read from those: " ADVICE " that it was made from", path);
    }
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (has(folder, "config.json"))
        return cox_fail(COX_INVALID, "%s: is a file; give the folder that it is in: %s", path, folder);
    return cox_fail(COX_INVALID, "%s: is a file; " ADVICE, path);
}

/* The folder of a repository in the cache of huggingface_hub: refs/main names the snapshot that is current.
 */
static cox_status refuse_cache(const char *folder)
{
    char path[MAX_PATH + 16], snapshots[MAX_PATH + 16], name[MAX_NAME];
    snprintf(path, sizeof path, "%s/refs/main", folder);
    snprintf(snapshots, sizeof snapshots, "%s/snapshots", folder);
    read_start(path, name, sizeof name);
    name[strcspn(name, "\r\n")] = '\0';
    if ((*name && has(snapshots, name)) || find(snapshots, "", "", name)) {
        return cox_fail(COX_INVALID, "%s: is a Hugging Face cache folder; give the snapshot in it: %s/%s",
                        folder, snapshots, name);
    }
    return cox_fail(COX_NOT_FOUND,
                    "%s: is a Hugging Face cache folder without a snapshot; download the model again",
                    folder);
}

/* A folder without config.json. */
static cox_status refuse_other(const char *folder)
{
    char name[MAX_NAME];
    if (has(folder, "snapshots")) return refuse_cache(folder);
    if (find(folder, "models--", "", name)) {
        return cox_fail(COX_INVALID,
                        "%s: is a Hugging Face cache of several models; give one's snapshot: "
                        "%s/models--OWNER--NAME/snapshots/HASH (%s is there)",
                        folder, folder, name);
    }
    if (has(folder, "adapter_config.json")) {
        return cox_fail(COX_UNSUPPORTED,
                        "%s: is an adapter (PEFT, LoRA), not a model; merge it into its base model "
                        "(merge_and_unload, then save_pretrained) and give the folder of the result",
                        folder);
    }
    if (find(folder, "", ".gguf", name)) {
        return cox_fail(COX_UNSUPPORTED,
                        "%s: holds %s; weights are not read from GGUF files: " ADVICE
                        " that it was made from",
                        folder, name);
    }
    if (has(folder, "params.json") || find_consolidated(folder, name)) {
        return cox_fail(COX_UNSUPPORTED,
                        "%s: is a checkpoint in its makers' own format (params.json, consolidated.*); " ADVICE
                        " of the same model" OR_CONVERT,
                        folder);
    }
    return cox_fail(COX_NOT_FOUND, "%s/config.json: is not there; " ADVICE, folder);
}

/* --- What is no file --- */

static cox_status check_pointer(const char *folder, const char *name)
{
    char path[MAX_PATH], start[64];
    struct stat info;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &info) != 0 || info.st_size >= MAX_POINTER_BYTES)
        return COX_OK;
    read_start(path, start, sizeof start);
    if (strncmp(start, "version https://git-lfs", 23) != 0) return COX_OK;
    return cox_fail(COX_BAD_FILE,
                    "%s: is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder, or "
                    "download the file",
                    path);
}

static bool opens_a_model(const char *name)
{
    return strcmp(name, "config.json") == 0 || strcmp(name, "generation_config.json") == 0 ||
           strcmp(name, "tokenizer_config.json") == 0 || strcmp(name, "special_tokens_map.json") == 0 ||
           ends_with(name, ".jinja") || strcmp(name, "model.safetensors.index.json") == 0 ||
           (strncmp(name, "model", 5) == 0 && ends_with(name, ".safetensors"));
}

/* A pipe would be waited for instead of read. */
static cox_status check_entries(const char *folder, DIR *entries)
{
    cox_status status = COX_OK;
    for (const struct dirent *entry; status == COX_OK && (entry = readdir(entries));) {
        struct stat info;
        if (fstatat(dirfd(entries), entry->d_name, &info, 0) != 0) continue;
        if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
            status =
                cox_fail(COX_BAD_FILE, "%s/%s: is not a regular file; a model's folder holds nothing else",
                         folder, entry->d_name);
        } else if (opens_a_model(entry->d_name)) {
            status = check_pointer(folder, entry->d_name);
        }
    }
    return status;
}

cox_status cox__folder_check(const char *folder)
{
    struct stat info;
    if (stat(folder, &info) != 0) {
        return cox_fail(errno == ENOENT || errno == ENOTDIR ? COX_NOT_FOUND : COX_IO,
                        "%s: %s; " ADVICE " that this machine can see (none is downloaded by its name)",
                        folder, strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) return refuse_file(folder);
    DIR *entries = opendir(folder);
    if (!entries) return cox_fail(COX_IO, "%s: cannot read this folder: %s", folder, strerror(errno));
    cox_status status = check_entries(folder, entries);
    closedir(entries);
    if (status != COX_OK || has(folder, "config.json")) return status;
    return refuse_other(folder);
}

/* --- Weights and tokenizer --- */

cox_status cox__folder_check_weights(const char *folder)
{
    static const char *const pickled[] = {".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack"};
    char name[MAX_NAME];
    if (has(folder, "model.safetensors") || has(folder, "model.safetensors.index.json")) return COX_OK;
    if (find(folder, "model-", ".safetensors", name)) {
        return cox_fail(
            COX_NOT_FOUND,
            "%s/model.safetensors.index.json: is not there, though shards are (%s); download it too", folder,
            name);
    }
    if (find_consolidated(folder, name)) {
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: the weights are in %s: the form of the model's makers (with params.json), not Hugging "
            "Face's; " ADVICE OR_CONVERT,
            folder, name);
    }
    for (size_t i = 0; i < sizeof pickled / sizeof *pickled; i++) {
        if (!find(folder, "", pickled[i], name) || strcmp(name, "training_args.bin") == 0) continue;
        return cox_fail(
            COX_UNSUPPORTED,
            "%s: the weights are in %s, and only safetensors are read; convert them: python3 -c \"from "
            "transformers import AutoModelForCausalLM as M; M.from_pretrained('%s', "
            "dtype='auto').save_pretrained('NEW')\", then copy the tokenizer's files to NEW",
            folder, name, folder);
    }
    if (find(folder, "", ".gguf", name)) {
        return cox_fail(COX_UNSUPPORTED,
                        "%s: the weights are in %s, and only safetensors are read; " ADVICE
                        " that it was made from",
                        folder, name);
    }
    return cox_fail(COX_NOT_FOUND,
                    "%s: neither model.safetensors nor model.safetensors.index.json is there; " ADVICE,
                    folder);
}

cox_status cox__folder_check_tokenizer(const char *folder)
{
    static const char *const others[] = {"tokenizer.model", "spiece.model", "tekken.json", "vocab.json",
                                         "vocab.txt"};
    char name[MAX_NAME] = "";
    if (has(folder, "tokenizer.json")) return check_pointer(folder, "tokenizer.json");
    for (size_t i = 0; i < sizeof others / sizeof *others && !*name; i++) {
        if (has(folder, others[i])) snprintf(name, sizeof name, "%s", others[i]);
    }
    if (*name || find(folder, "", ".tiktoken", name)) {
        return cox_fail(COX_NOT_FOUND,
                        "%s/tokenizer.json: is not there, only %s, which is not read; make it: pip install "
                        "transformers sentencepiece tiktoken, then python3 -c \"from transformers import "
                        "AutoTokenizer as T; "
                        "T.from_pretrained('%s').save_pretrained('%s')\"",
                        folder, name, folder, folder);
    }
    return cox_fail(COX_NOT_FOUND,
                    "%s/tokenizer.json: is not there; text needs it (logits, and batch lines that give token "
                    "ids, do without)",
                    folder);
}
