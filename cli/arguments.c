/* Positional arguments and named values. */
#include "cli/arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"

/* 0: not allowed, 1: with a value, 2: a flag. */
static int kind_of(const char *name, size_t length, const char *allowed)
{
    for (const char *at = allowed; *at;) {
        size_t n = strcspn(at, " ");
        bool is_flag = n > 0 && at[n - 1] == '!';
        if (n - is_flag == length && memcmp(at, name, length) == 0) return is_flag ? 2 : 1;
        at += n + strspn(at + n, " ");
    }
    return 0;
}

static cox_status unknown_option(const char *name, size_t length, const char *allowed)
{
    cox_nearest nearest = cox_nearest_to(name, length);
    cox_nearest_offer_words(&nearest, allowed, " !");
    char list[512]; /* without the marks of flags */
    size_t n = 0;
    for (const char *at = allowed; *at && n + 1 < sizeof list; at++) {
        if (*at != '!') list[n++] = *at;
    }
    list[n] = '\0';
    return cox_fail(COX_INVALID, "unknown option %.*s; the options are %s%s", (int)length, name, list,
                    nearest.hint);
}

cox_status cox_arguments_parse(cox_arguments *arguments, int argc, char *const argv[], const char *allowed)
{
    *arguments = (cox_arguments){0};
    if (argc >= COX_MAX_ARGUMENTS)
        return cox_fail(COX_INVALID, "more than %d arguments", COX_MAX_ARGUMENTS - 1);
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0) {
            arguments->plain[arguments->n_plain++] = argv[i];
            continue;
        }
        size_t length = strcspn(argv[i], "=");
        const char *value = argv[i][length] ? argv[i] + length + 1 : NULL;
        int kind = kind_of(argv[i], length, allowed);
        if (kind == 0) return unknown_option(argv[i], length, allowed);
        if (kind == 2 && value) return cox_fail(COX_INVALID, "%s takes no value", argv[i]);
        size_t n = arguments->n_named++;
        arguments->names[n] = argv[i];
        if (kind == 1 && !value && ++i >= argc) return cox_fail(COX_INVALID, "%s needs a value", argv[i - 1]);
        arguments->values[n] = kind == 2 ? "" : value ? value : argv[i];
    }
    return COX_OK;
}

const char *cox_arguments_get(const cox_arguments *arguments, const char *name)
{
    for (size_t i = arguments->n_named; i > 0; i--) {
        const char *given = arguments->names[i - 1];
        if (strncmp(given, name, strlen(name)) == 0 && strchr("=", given[strlen(name)]))
            return arguments->values[i - 1];
    }
    return NULL;
}

cox_status cox_arguments_int(const cox_arguments *arguments, const char *name, int64_t low, int64_t high,
                             int64_t *out)
{
    const char *text = cox_arguments_get(arguments, name);
    if (!text) return COX_OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high) {
        return cox_fail(COX_INVALID, "%s is \"%s\", not a whole number from %lld to %lld", name, text,
                        (long long)low, (long long)high);
    }
    *out = value;
    return COX_OK;
}
