/* One watcher a process; see alive.h. */
#include "base/alive.h"

#include <stddef.h>

static cox_alive_function *watch;
static void *watch_context;

void cox_alive_watch(cox_alive_function *function, void *context)
{
    watch = function;
    watch_context = context;
}

void cox_alive(void)
{
    if (watch) watch(watch_context);
}
