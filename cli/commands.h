/* One function per command (cli/command_list.h), each returning the status that the program ends with. Errors
 * have a message. On all ranks of a launch they are collective. */
#ifndef COX_CLI_COMMANDS_H
#define COX_CLI_COMMANDS_H

#include "base/nearest.h"
#include "base/status.h"
#include "cli/options.h"

#define X(NAME, name, place, drains, takes, usage, about) \
    cox_status cox_command_##name(const cox_options *options);
COX_COMMAND_LIST(X)
#undef X
cox_status cox_command_version(bool is_json);

/* "generate" and so on; find returns COX_COMMAND_NONE for an unknown name. */
const char *cox_command_name(cox_command command);
cox_command cox_command_find(const char *name);
/* Their names, for a mistyped one. */
void cox_command_offer(cox_nearest *nearest);
/* Name and one line about each command; all about one. */
void cox_command_print_list(FILE *file);
void cox_command_print_about(cox_command command, FILE *file);

/* Groups of options that it takes. */
int cox_command_takes(cox_command command);
/* Does it run in this process alone, with these options? */
bool cox_command_is_local(const cox_options *options);
/* Does it end early when it is asked to (cluster/drain.h)? */
bool cox_command_drains(cox_command command);
cox_status cox_command_run(const cox_options *options);

#endif
