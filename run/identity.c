/* Hashes of files and of what the options say. */
#include "run/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sha256.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alive.h"
#include "base/json.h"
#include "model/chat_template.h"
#include "steering/vector.h"

enum { READ_BYTES = 1 << 18, SAMPLED_TENSORS = 256, SAMPLE_BYTES = 256 };

static cox_status add(json_t *run, const char *key, json_t *value)
{
    return json_object_set_new(run, key, value) == 0
               ? COX_OK
               : cox_fail(COX_NO_MEMORY, "out of memory, or %s is not valid UTF-8", key);
}

cox_status cox_identity_add_text(json_t *run, const char *key, const char *text)
{
    return add(run, key, json_string(text));
}

cox_status cox_identity_add_bytes(json_t *run, const char *key, const void *data, size_t n)
{
    SHA2_CTX sha;
    char digest[SHA256_DIGEST_STRING_LENGTH];
    SHA256Init(&sha);
    SHA256Update(&sha, data, n);
    return add(run, key, json_string(SHA256End(&sha, digest)));
}

/* The bytes of a file into the hash. Errors: NOT_FOUND, IO. */
static cox_status hash_file(SHA2_CTX *sha, const char *path, cox_cluster *cluster)
{
    static unsigned char bytes[READ_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cox_fail(errno == ENOENT ? COX_NOT_FOUND : COX_IO, "%s: cannot open: %s", path,
                        strerror(errno));
    cox_status status = COX_OK;
    for (ssize_t got = 1; got != 0 && status == COX_OK;) {
        if (cluster) cox_cluster_keepalive(cluster, "reading the input for its checksum");
        cox_alive();
        got = read(fd, bytes, sizeof bytes);
        if (got > 0) SHA256Update(sha, bytes, (size_t)got);
        if (got < 0 && errno != EINTR)
            status = cox_fail(COX_IO, "%s: cannot read: %s", path, strerror(errno));
    }
    close(fd);
    return status;
}

cox_status cox_identity_add_file(json_t *run, const char *key, const char *path, cox_cluster *cluster)
{
    SHA2_CTX sha;
    char digest[SHA256_DIGEST_STRING_LENGTH];
    SHA256Init(&sha);
    cox_status status = hash_file(&sha, path, cluster);
    if (status != COX_OK) return status;
    return add(run, key, json_string(SHA256End(&sha, digest)));
}

/* The fingerprint of a model says nothing of its weights, and reading all of them would take as long as
 * loading: some bytes of tensors all over it tell one training from another. */
static void sample_weights(const cox_model *model, char digest[SHA256_DIGEST_STRING_LENGTH])
{
    size_t n = cox_checkpoint_n_tensors(model->checkpoint);
    size_t stride = n / SAMPLED_TENSORS + 1;
    SHA2_CTX sha;
    SHA256Init(&sha);
    for (size_t i = 0; i < n; i += stride) {
        const cox_tensor *tensor = cox_checkpoint_tensor(model->checkpoint, i);
        size_t n_bytes = tensor->n_bytes < SAMPLE_BYTES ? tensor->n_bytes : SAMPLE_BYTES;
        const uint8_t *middle = (const uint8_t *)tensor->data + (tensor->n_bytes - n_bytes) / 2;
        SHA256Update(&sha, middle, n_bytes);
    }
    SHA256End(&sha, digest);
}

/* The templates that have files of their own, by name. */
static cox_status hash_more_templates(SHA2_CTX *sha, const char *folder)
{
    char pattern[4096];
    glob_t found = {0};
    cox_status status = COX_OK;
    snprintf(pattern, sizeof pattern, "%s/additional_chat_templates/*.jinja", folder);
    if (glob(pattern, 0, NULL, &found) != 0) return COX_OK;
    for (size_t i = 0; i < found.gl_pathc && status == COX_OK; i++) {
        const char *name = strrchr(found.gl_pathv[i], '/');
        SHA256Update(sha, (const uint8_t *)name, strlen(name) + 1);
        status = hash_file(sha, found.gl_pathv[i], NULL);
    }
    globfree(&found);
    return status;
}

/* The small files beside the weights that decide how text becomes tokens and where it ends. */
static cox_status hash_texts(const char *folder, bool has_tokenizer, const char *template,
                             char digest[SHA256_DIGEST_STRING_LENGTH])
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja", "generation_config.json"};
    SHA2_CTX sha;
    char path[4096];
    SHA256Init(&sha);
    for (size_t i = has_tokenizer ? 0 : 1; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        SHA256Update(&sha, (const uint8_t *)names[i], strlen(names[i]) + 1);
        cox_status status = hash_file(&sha, path, NULL);
        if (status != COX_OK && status != COX_NOT_FOUND) return status;
    }
    cox_status status = hash_more_templates(&sha, folder);
    if (status == COX_OK && template && !cox_chat_template_is_built_in(template))
        status = hash_file(&sha, template, NULL);
    SHA256End(&sha, digest);
    return status == COX_NOT_FOUND ? COX_OK : status; /* who loads the template says so */
}

static cox_status add_texts(json_t *run, const char *folder)
{
    char digest[SHA256_DIGEST_STRING_LENGTH];
    cox_status status = hash_texts(folder, false, NULL, digest);
    return status == COX_OK ? add(run, "model_settings", json_string(digest)) : status;
}

cox_status cox_identity_of_model(cox_model_identity *identity, const cox_model *model, const char *template)
{
    *identity = (cox_model_identity){0};
    memcpy(identity->fingerprint, model->fingerprint, sizeof identity->fingerprint);
    sample_weights(model, identity->weights);
    return hash_texts(model->folder, true, template, identity->texts);
}

/* All kernels but these give the same bits. */
static bool is_exact(const char *kernel)
{
    return strcmp(kernel, "bf16-act") != 0 && strcmp(kernel, "blas") != 0;
}

cox_status cox_identity_add_model(json_t *run, const cox_run_options *options, const cox_model *model)
{
    char tokenizer[65], weights[SHA256_DIGEST_STRING_LENGTH];
    cox_status status = cox_tokenizer_fingerprint(model->folder, tokenizer);
    if (status == COX_OK) status = add(run, "model", json_string(options->model));
    if (status == COX_OK) status = add(run, "model_fingerprint", json_string(model->fingerprint));
    sample_weights(model, weights);
    if (status == COX_OK) status = add(run, "model_weights", json_string(weights));
    if (status == COX_OK) status = add(run, "model_tokenizer", json_string(tokenizer));
    if (status == COX_OK) status = add_texts(run, model->folder);
    if (status == COX_OK)
        status = add(run, "kernel", json_string(is_exact(options->kernel) ? "exact" : options->kernel));
    return status;
}

/* A built-in one is told by its name, a file by what is in it too. */
static cox_status add_template(json_t *run, const char *name)
{
    cox_status status = add(run, "template", json_string(name));
    if (status != COX_OK || cox_chat_template_is_built_in(name)) return status;
    status = cox_identity_add_file(run, "template_file", name, NULL);
    return status == COX_NOT_FOUND ? COX_OK : status; /* who loads it says so */
}

/* As one text, whatever the order of its keys. */
static cox_status add_kwargs(json_t *run, const char *text)
{
    json_t *kwargs = NULL;
    cox_status status = cox_json_load_text(&kwargs, text, strlen(text), "--template-kwargs");
    if (status != COX_OK) return status;
    char *sorted = json_dumps(kwargs, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(kwargs);
    status = add(run, "template_kwargs", sorted ? json_string(sorted) : NULL);
    free(sorted);
    return status;
}

cox_status cox_identity_add_prompting(json_t *run, const cox_prompting *prompting)
{
    cox_status status = prompting->system ? add(run, "system", json_string(prompting->system)) : COX_OK;
    if (status == COX_OK && prompting->is_raw) status = add(run, "raw", json_true());
    if (status == COX_OK && prompting->template_name) status = add_template(run, prompting->template_name);
    if (status == COX_OK && prompting->kwargs) status = add_kwargs(run, prompting->kwargs);
    return status == COX_OK && prompting->date ? add(run, "date", json_string(prompting->date)) : status;
}
