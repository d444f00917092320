/* The flag, and how it survives that the program starts itself once more (cox_launch_prepare_environment). */
#include "cluster/drain.h"

#include <signal.h>
#include <stddef.h>

#include "cluster/internal.h"

static volatile sig_atomic_t is_wanted;

static void on_signal(int number)
{
    (void)number;
    is_wanted = 1;
}

void cox_drain_listen(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigset_t usr1;
    sigemptyset(&action.sa_mask);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigaction(SIGUSR1, &action, NULL);
    if (!cox_launch_is_inside()) sigaction(SIGTERM, &action, NULL);
    sigprocmask(SIG_UNBLOCK, &usr1, NULL); /* held by cox__drain_hold before an exec */
}

bool cox_drain_is_wanted(void)
{
    return is_wanted != 0;
}

void cox__drain_hold(void)
{
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    if (is_wanted) raise(SIGUSR1); /* stays pending across exec */
}
