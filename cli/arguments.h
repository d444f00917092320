/*
 * Arguments of the commands that have subcommands (vector, plan): positional ones and "--name value". The
 * commands that run a model have theirs in options.c.
 */
#ifndef COX_CLI_ARGUMENTS_H
#define COX_CLI_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { COX_MAX_ARGUMENTS = 256 };
typedef struct cox_arguments {
    const char *names[COX_MAX_ARGUMENTS], *values[COX_MAX_ARGUMENTS]; /* "--site", "moe_out"; flags have "" */
    size_t n_named;
    const char *plain[COX_MAX_ARGUMENTS];
    size_t n_plain;
} cox_arguments;

/* allowed: names parted by spaces, flags with a "!" behind: "--output --json!". Errors: INVALID. */
cox_status cox_arguments_parse(cox_arguments *arguments, int argc, char *const argv[], const char *allowed);
/* The (last) value; NULL when it was not given. */
const char *cox_arguments_get(const cox_arguments *arguments, const char *name);
/* A whole number from low to high; *out is left as it is when it was not given. Errors: INVALID. */
cox_status cox_arguments_int(const cox_arguments *arguments, const char *name, int64_t low, int64_t high,
                             int64_t *out);

#endif
