/*
 * What tests/cli/released.sh cannot do in bash: reads tests/golden/released (scripts/references/released.py)
 * and the program's answers. Each mode prints a line per case, or what differs as "FAILED: ..." on standard
 * error. chats GOLDEN RELEASED WORK      makes WORK/I, the folder of case I, and WORK/I.jinja where it has a
 * template of its own; prints "run I NAME", or "skip NAME: reason" where an input is another file answers
 * GOLDEN I FILE           holds a case's answers against those of the reference; prints "TEXTS IDS ERRORS"
 *   configs GOLDEN RELEASED WORK    makes WORK/c<I>; prints "count I NAME", "refuse I NAME: PATTERN" or "skip
 * ..." foretold GOLDEN I FILE          holds what inspect --json says of config I against the reference
 * Digests are the first 16 hex digits of a SHA-256: of a text's bytes, of ids as decimals with commas
 * between.
 */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <jansson.h>
#include <sha256.h>

static int failures;

__attribute__((noreturn)) static void stop(const char *what, const char *why)
{
    fprintf(stderr, "released_driver: %s: %s\n", what, why);
    exit(2);
}

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("FAILED: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    failures++;
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json) stop(path, error.text);
    return json;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text) stop(key, "is not in the golden file");
    return text;
}

static long long number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (long long)json_integer_value(value) : -1;
}

static void digest_bytes(const void *bytes, size_t n, char digest[17])
{
    SHA2_CTX sha;
    char all[SHA256_DIGEST_STRING_LENGTH];
    SHA256Init(&sha);
    SHA256Update(&sha, bytes, n);
    snprintf(digest, 17, "%.16s", SHA256End(&sha, all));
}

/* --- Folders of the cases --- */

/* NULL, or why the file is not the one that the reference read. */
static const char *differs(const char *released, const char *source, const char *expected)
{
    char path[PATH_MAX], digest[SHA256_DIGEST_STRING_LENGTH];
    snprintf(path, sizeof path, "%s/%s", released, source);
    if (access(path, R_OK) != 0) return "is not there";
    if (!SHA256File(path, digest)) return strerror(errno);
    return expected && strcmp(digest, expected) == 0 ? NULL : "is not the file that the reference read";
}

static void link_file(const char *released, const char *source, const char *folder, const char *name)
{
    char path[PATH_MAX], whole[PATH_MAX], target[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", released, source);
    snprintf(target, sizeof target, "%s/%s", folder, name);
    if (!realpath(path, whole) || symlink(whole, target) != 0) stop(target, strerror(errno));
}

/* "FILE" or "FILE#KEY": the template's text goes to its own file. */
static void copy_template(const char *released, const char *source, const char *target)
{
    char path[PATH_MAX];
    int length = (int)strcspn(source, "#");
    snprintf(path, sizeof path, "%s/%.*s", released, length, source);
    FILE *to = fopen(target, "wb");
    if (!to) stop(target, strerror(errno));
    if (source[length]) {
        /* Numbers may be anything JSON allows: "model_max_length" often has 31 digits. */
        json_t *json = json_load_file(path, JSON_DECODE_INT_AS_REAL, NULL);
        fputs(text_of(json, source + length + 1), to);
        json_decref(json);
    } else {
        FILE *from = fopen(path, "rb");
        if (!from) stop(path, strerror(errno));
        for (int c = getc(from); c != EOF; c = getc(from)) putc(c, to);
        fclose(from);
    }
    if (fclose(to) != 0) stop(target, strerror(errno));
}

/* Prints why when an input of the case is another; [return] whether all are the same. */
static bool has_same_inputs(const json_t *inputs, const char *released, const json_t *one)
{
    json_t *sources = json_array();
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(one, "files"), name, value) json_array_append(sources, value);
    const char *template = json_string_value(json_object_get(one, "template"));
    if (template) json_array_append_new(sources, json_stringn(template, strcspn(template, "#")));
    bool is_same = true;
    for (size_t i = 0; i < json_array_size(sources) && is_same; i++) {
        const char *source = json_string_value(json_array_get(sources, i));
        const char *why = differs(released, source, json_string_value(json_object_get(inputs, source)));
        if (why) printf("skip %s: %s %s\n", text_of(one, "name"), source, why);
        is_same = !why;
    }
    json_decref(sources);
    return is_same;
}

static void make_chats(const json_t *golden, const char *released, const char *work)
{
    size_t i;
    json_t *one, *source;
    json_array_foreach(json_object_get(golden, "cases"), i, one)
    {
        if (!has_same_inputs(json_object_get(golden, "inputs"), released, one)) continue;
        char folder[PATH_MAX], path[PATH_MAX + 16];
        snprintf(folder, sizeof folder, "%s/%zu", work, i);
        if (mkdir(folder, 0777) != 0) stop(folder, strerror(errno));
        const char *name, *template = json_string_value(json_object_get(one, "template"));
        json_object_foreach(json_object_get(one, "files"), name, source)
            link_file(released, json_string_value(source), folder, name);
        snprintf(path, sizeof path, "%s.jinja", folder);
        if (template) copy_template(released, template, path);
        printf("run %zu %s\n", i, text_of(one, "name"));
    }
}

/* --- Answers --- */

typedef struct counts {
    int texts, ids, errors;
} counts;

static bool has_ids(const json_t *ids, long long n_expected, const char *expected)
{
    size_t n = json_array_size(ids), length = 0;
    char *text = malloc(n * 24 + 1), digest[17];
    if (!text) stop("ids", "out of memory");
    for (size_t i = 0; i < n; i++)
        length += (size_t)sprintf(text + length, "%s%lld", i ? "," : "",
                                  (long long)json_integer_value(json_array_get(ids, i)));
    digest_bytes(text, length, digest);
    free(text);
    return (long long)n == n_expected && strcmp(digest, expected) == 0;
}

/* expected: "text BYTES DIGEST[ ids COUNT DIGEST]" */
static void hold_text(const char *where, const char *expected, const json_t *answer, counts *counted)
{
    long long n_bytes = 0, n_ids = 0;
    char text_digest[17], ids_digest[17], digest[17] = "";
    int n = sscanf(expected, "text %lld %16s ids %lld %16s", &n_bytes, text_digest, &n_ids, ids_digest);
    const json_t *text = json_object_get(answer, "text");
    if (text) digest_bytes(json_string_value(text), json_string_length(text), digest);
    if (!text || (long long)json_string_length(text) != n_bytes || strcmp(digest, text_digest) != 0) {
        char *said = json_dumps(answer, JSON_COMPACT);
        fail("%s: the text has not the digest of transformers' %lld bytes: %.600s", where, n_bytes, said);
        free(said);
        return;
    }
    counted->texts++;
    if (n < 4) return;
    if (has_ids(json_object_get(answer, "ids"), n_ids, ids_digest)) {
        counted->ids++;
    } else {
        fail("%s: the ids are not transformers' %lld", where, n_ids);
    }
}

/* Whether the message has the n bytes of this digest in it; [is_end]: at its end. */
static bool says(const char *message, size_t n, const char *expected, bool is_end)
{
    size_t length = strlen(message);
    for (size_t i = is_end && length >= n ? length - n : 0; i + n <= length; i++) {
        char digest[17];
        digest_bytes(message + i, n, digest);
        if (strcmp(digest, expected) == 0) return true;
    }
    return false;
}

/* expected: "refused", "raises BYTES DIGEST" (the template's own words, at the end) or "fails BYTES DIGEST".
 */
static void hold_error(const char *where, const char *expected, const json_t *answer, counts *counted)
{
    char kind[16] = "", digest[17] = "";
    unsigned long long n = 0;
    sscanf(expected, "%15s %llu %16s", kind, &n, digest);
    const json_t *error = json_object_get(answer, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *code = json_string_value(json_object_get(error, "code"));
    if (!message || !*message || !code || !*code || json_object_get(answer, "text")) {
        char *said = json_dumps(answer, JSON_COMPACT);
        fail("%s: no error with code and message: %.600s", where, said);
        free(said);
    } else if (*digest && !says(message, n, digest, strcmp(kind, "raises") == 0)) {
        fail("%s: the message does not %s jinja2's %llu bytes: %s", where,
             strcmp(kind, "raises") == 0 ? "end in" : "hold", n, message);
    } else {
        counted->errors++;
    }
}

static void hold_answers(const json_t *golden, size_t index, const char *path)
{
    const json_t *one = json_array_get(json_object_get(golden, "cases"), index);
    FILE *file = fopen(path, "r");
    if (!file || !one) stop(path, file ? "no such case" : strerror(errno));
    counts counted = {0};
    size_t i, capacity = 0;
    json_t *expected;
    char *line = NULL, where[256];
    json_array_foreach(json_object_get(one, "answers"), i, expected)
    {
        snprintf(where, sizeof where, "%s, %s", text_of(one, "name"),
                 json_string_value(json_array_get(json_object_get(golden, "conversations"), i)));
        json_t *answer = getline(&line, &capacity, file) > 0 ? json_loads(line, JSON_ALLOW_NUL, NULL) : NULL;
        const char *kind = json_string_value(expected);
        if (!answer) {
            fail("%s: no line of JSON for it", where);
        } else if (strncmp(kind, "text ", 5) == 0) {
            hold_text(where, kind, answer, &counted);
        } else {
            hold_error(where, kind, answer, &counted);
        }
        json_decref(answer);
    }
    if (getline(&line, &capacity, file) > 0)
        fail("%s: more answers than conversations", text_of(one, "name"));
    free(line);
    fclose(file);
    printf("%d %d %d\n", counted.texts, counted.ids, counted.errors);
}

/* --- Configs --- */

static void make_config(const char *released, const char *source, const char *work, const char *kind,
                        size_t i)
{
    char folder[PATH_MAX], index[PATH_MAX], path[2 * PATH_MAX];
    snprintf(folder, sizeof folder, "%s/%s%zu", work, kind, i);
    if (mkdir(folder, 0777) != 0) stop(folder, strerror(errno));
    link_file(released, source, folder, "config.json");
    snprintf(index, sizeof index, "%.*s/model.safetensors.index.json", (int)strcspn(source, "/"), source);
    snprintf(path, sizeof path, "%s/%s", released, index);
    if (access(path, R_OK) == 0) link_file(released, index, folder, "model.safetensors.index.json");
}

static void make_configs(const json_t *golden, const char *released, const char *work)
{
    size_t i, k;
    json_t *one, *word;
    json_array_foreach(json_object_get(golden, "counted"), i, one)
    {
        const char *source = text_of(one, "config"), *why = differs(released, source, text_of(one, "sha256"));
        if (why) {
            printf("skip %s: %s\n", source, why);
            continue;
        }
        make_config(released, source, work, "count", i);
        printf("count %zu %s\n", i, source);
    }
    json_array_foreach(json_object_get(golden, "refused"), i, one)
    {
        const char *source = text_of(one, "config"), *why = differs(released, source, text_of(one, "sha256"));
        if (why) {
            printf("skip %s: %s\n", source, why);
            continue;
        }
        make_config(released, source, work, "refuse", i);
        printf("refuse %zu %s ", i, source);
        json_array_foreach(json_object_get(one, "names"), k, word)
            printf("%s%s", k ? "|" : "", json_string_value(word));
        printf("\n");
    }
}

static void hold_number(const char *where, const char *what, long long got, long long expected)
{
    if (got != expected) fail("%s: %s is %lld, transformers has %lld", where, what, got, expected);
}

/*
 * Ranks hold the tensors as they lie in the file, but for vectors, which become f32; pages and pointers add
 * to that.
 */
static void hold_bytes(const char *where, const char *what, long long got, long long least)
{
    if (got < least || got > least + least / 100)
        fail("%s: %s are %lld bytes, the tensors %lld", where, what, got, least);
}

static void hold_foretold(const json_t *golden, size_t index, const char *path)
{
    const json_t *one = json_array_get(json_object_get(golden, "counted"), index);
    json_t *json = load(path), *rank;
    const json_t *model = json_object_get(json, "model"), *dims = json_object_get(model, "dimensions");
    const char *where = text_of(one, "config");
    const char *family = json_string_value(json_object_get(model, "family"));
    if (!family || strcmp(family, text_of(one, "family")) != 0) fail("%s: family is %s", where, family);
    static const char *const keys[] = {"n_layers", "n_experts", "top_k", "vocab_size"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        hold_number(where, keys[i], number_of(dims, keys[i]), number_of(one, keys[i]));
    hold_number(where, "parameters", number_of(model, "parameters"), number_of(one, "parameters"));
    hold_number(where, "active_parameters", number_of(model, "active_parameters"),
                number_of(one, "active_parameters"));
    size_t i;
    long long n_experts = 0, expert_bytes = 0, trunk_bytes = 0;
    json_array_foreach(json_object_get(json, "ranks"), i, rank)
    {
        const json_t *bytes = json_object_get(rank, "bytes");
        n_experts += number_of(rank, "n_experts");
        expert_bytes += number_of(bytes, "experts");
        trunk_bytes += number_of(bytes, "trunk");
    }
    hold_number(where, "ranks", (long long)i, 8);
    hold_number(where, "experts on all ranks", n_experts,
                number_of(one, "n_layers") * number_of(one, "n_experts"));
    hold_bytes(where, "experts on all ranks", expert_bytes,
               number_of(one, "expert_bytes") + number_of(one, "expert_bias_bytes"));
    hold_bytes(where, "the trunk on all ranks", trunk_bytes,
               number_of(one, "tensor_bytes") - number_of(one, "expert_bytes") +
                   number_of(one, "vector_bytes"));
    json_decref(json);
}

int main(int argc, char **argv)
{
    if (argc != 5) stop("usage", "chats|configs GOLDEN RELEASED WORK, or answers|foretold GOLDEN I FILE");
    json_t *golden = load(argv[2]);
    size_t index = (size_t)strtoul(argv[3], NULL, 10);
    if (strcmp(argv[1], "chats") == 0) {
        make_chats(golden, argv[3], argv[4]);
    } else if (strcmp(argv[1], "configs") == 0) {
        make_configs(golden, argv[3], argv[4]);
    } else if (strcmp(argv[1], "answers") == 0) {
        hold_answers(golden, index, argv[4]);
    } else {
        hold_foretold(golden, index, argv[4]);
    }
    json_decref(golden);
    return failures > 0;
}
