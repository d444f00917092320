/* One function per subcommand; each returns the status that the program ends with. Errors have a message. */
#ifndef COX_CLI_COMMANDS_H
#define COX_CLI_COMMANDS_H

#include "base/status.h"
#include "cli/options.h"

/* On all ranks of a launch; Collective. */
cox_status cox_command_generate(const cox_options *options);
cox_status cox_command_batch(const cox_options *options);
cox_status cox_command_logits(const cox_options *options);
cox_status cox_command_direction(const cox_options *options);
cox_status cox_command_sweep(const cox_options *options);
cox_status cox_command_routes(const cox_options *options);
cox_status cox_command_capture(const cox_options *options);
cox_status cox_command_decompose(const cox_options *options);
cox_status cox_command_bench(const cox_options *options);
/* Without a model in one process. */
cox_status cox_command_evaluate(const cox_options *options);

/* In one process, without MPI. */
cox_status cox_command_tokenize(const cox_options *options);
cox_status cox_command_inspect(const cox_options *options);
cox_status cox_command_report(const cox_options *options);
cox_status cox_command_version(bool is_json);
/* These have subcommands; argv: what stands behind the command's name. */
cox_status cox_command_vector(int argc, char *const argv[]);
cox_status cox_command_plan(int argc, char *const argv[]);

#endif
