/* The flag, and how it survives that the program starts itself once more (cox_launch_prepare_environment). */
#include "cluster/drain.h"

#include <signal.h>
#include <stddef.h>

#include "cluster/internal.h"

static volatile sig_atomic_t is_wanted;
static bool listens;

static void on_signal(int number)
{
    (void)number;
    is_wanted = 1;
}

/* What is listened to: SIGUSR1, and outside a launch, whose launcher turns it into SIGUSR1, SIGTERM. */
static sigset_t signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    if (!cox_launch_is_inside()) sigaddset(&set, SIGTERM);
    return set;
}

void cox_drain_listen(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    const sigset_t set = signals();
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    if (sigismember(&set, SIGTERM)) sigaction(SIGTERM, &action, NULL);
    listens = true;
    sigprocmask(SIG_UNBLOCK, &set, NULL); /* held by cox__drain_hold before an exec */
}

bool cox_drain_is_wanted(void)
{
    return is_wanted != 0;
}

void cox__drain_hold(void)
{
    const sigset_t set = signals();
    if (!listens) return;
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (is_wanted) raise(SIGUSR1); /* stays pending across exec */
}

void cox__drain_release(void)
{
    if (listens) cox_drain_listen();
}
