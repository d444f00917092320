/* The table of commands, and what main asks of it. */
#include "cli/commands.h"

#include <string.h>

static const struct {
    const char *name;
    cox_status (*run)(const cox_options *options);
    cox_place place;
    bool drains;
    int takes;
    const char *usage, *about;
} commands[] = {{0},
#define X(NAME, name, place, drains, takes, usage, about) \
    {#name, cox_command_##name, place, drains, takes, usage, about},
                COX_COMMAND_LIST(X)
#undef X
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };
/* One bit of an option's row for each, below those of the groups. */
_Static_assert(N_COMMANDS <= 20 && COX_TAKES_MODEL == 1 << 20, "more commands than bits: widen the masks");

const char *cox_command_name(cox_command command)
{
    return commands[command].name;
}

cox_command cox_command_find(const char *name)
{
    for (size_t i = 1; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) return (cox_command)i;
    }
    return COX_COMMAND_NONE;
}

void cox_command_offer(cox_nearest *nearest)
{
    for (size_t i = 1; i < N_COMMANDS; i++)
        cox_nearest_offer(nearest, commands[i].name, strlen(commands[i].name));
}

void cox_command_print_list(FILE *file)
{
    for (size_t i = 1; i < N_COMMANDS; i++) {
        const char *about = commands[i].about;
        fprintf(file, "  %-10s%.*s\n", commands[i].name, (int)strcspn(about, "\n"), about);
    }
}

void cox_command_print_about(cox_command command, FILE *file)
{
    fprintf(file, "Usage: coxswain %s %s [options]\n\n%s\n\nOptions:\n", commands[command].name,
            commands[command].usage, commands[command].about);
}

int cox_command_takes(cox_command command)
{
    return commands[command].takes;
}

bool cox_command_is_local(const cox_options *options)
{
    switch (commands[options->command].place) {
    case COX_RUNS_ON_RANKS: return false;
    case COX_RUNS_HERE: return true;
    case COX_RUNS_HERE_WITHOUT_MODEL: return !options->model;
    case COX_RUNS_HERE_FOR_CHATS: return options->is_chat;
    }
    return false;
}

bool cox_command_drains(cox_command command)
{
    return commands[command].drains;
}

cox_status cox_command_run(const cox_options *options)
{
    return commands[options->command].run(options);
}
