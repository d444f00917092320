/* The flag, and how it survives that the program starts itself once more (cox_launch_prepare_environment). */
#include "cluster/drain.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "base/counters.h"
#include "cluster/internal.h"

static volatile sig_atomic_t is_wanted;
static bool listens;

/* As in cox_launch: a second wish that comes at once is the first one, unless a terminal sent both; a later
 * one ends the process. */
static const double SAME_WISH_S = 0.5;
static const char AT_ONCE[] = "coxswain: ended at once, by a second signal\n";
static double wanted_s;
static bool was_terminal;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    bool is_of_terminal = info->si_code == SI_KERNEL;
    if (!is_wanted) {
        wanted_s = cox_now_s();
        was_terminal = is_of_terminal;
    } else if (number != SIGUSR1 &&
               ((is_of_terminal && was_terminal) || cox_now_s() - wanted_s >= SAME_WISH_S)) {
        ssize_t n = write(STDERR_FILENO, AT_ONCE, sizeof AT_ONCE - 1);
        _exit(n < 0 ? 1 : cox_status_exit_code(COX_REQUEUE));
    }
    is_wanted = 1;
}

/* What is listened to: SIGUSR1, and outside a launch, whose launcher turns them into SIGUSR1, SIGTERM and
 * SIGINT (unless it is ignored, as a shell has it for what runs in the background). */
static sigset_t signals(void)
{
    struct sigaction interrupt;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    if (cox_launch_is_inside()) return set;
    sigaddset(&set, SIGTERM);
    if (sigaction(SIGINT, NULL, &interrupt) == 0 && interrupt.sa_handler != SIG_IGN) sigaddset(&set, SIGINT);
    return set;
}

void cox_drain_listen(void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_RESTART | SA_SIGINFO};
    static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT};
    const sigset_t set = signals();
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (sigismember(&set, numbers[i])) sigaction(numbers[i], &action, NULL);
    }
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
