/* What a command prints on standard output, as JSON. */
#ifndef COX_TESTS_COMMAND_OUTPUT_H
#define COX_TESTS_COMMAND_OUTPUT_H

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/options.h"

/* The caller's to decref; NULL with the command's status when it fails. path: a file to catch the text in. */
static inline json_t *run_for_json(cox_status (*command)(const cox_options *), const cox_options *options,
                                   const char *path, cox_status *status)
{
    fflush(stdout);
    int was = dup(STDOUT_FILENO), file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(file, STDOUT_FILENO);
    close(file);
    *status = command(options);
    fflush(stdout);
    dup2(was, STDOUT_FILENO);
    close(was);
    json_t *json = NULL;
    if (*status == COX_OK) *status = cox_json_load_file(&json, path);
    return json;
}

#endif
