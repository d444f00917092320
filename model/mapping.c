/* The list of mappings and the handler of SIGBUS, which only reads it; see mapping.h. */
#include "model/mapping.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"

enum { MESSAGE_BYTES = 4096 };

static cox__mapping *_Atomic mappings;
static char owner[128];
static void (*before_end)(void);
static struct sigaction before;
static atomic_flag is_ending = ATOMIC_FLAG_INIT;

static void append(char *message, size_t *n, const char *text)
{
    size_t length = strlen(text), room = MESSAGE_BYTES - *n;
    if (length > room) length = room;
    memcpy(message + *n, text, length);
    *n += length;
}

/* Async-signal-safe, as is all that it calls. */
static _Noreturn void end_with(const char *path)
{
    while (atomic_flag_test_and_set(&is_ending)) pause(); /* another thread is writing the same message */
    char message[MESSAGE_BYTES];
    size_t n = 0;
    append(message, &n, "coxswain: ");
    append(message, &n, owner);
    append(message, &n, owner[0] ? ": " : "");
    append(message, &n, path);
    append(message, &n,
           ": the file was truncated or cannot be read while it was in use; copy it again and restart\n");
    ssize_t wrote = write(STDERR_FILENO, message, n);
    if (before_end) before_end();
    _exit(cox_status_exit_code(wrote < 0 ? COX_INTERNAL : COX_IO));
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (const cox__mapping *m = atomic_load(&mappings); m && info->si_code > 0; m = m->next) {
        uintptr_t first = (uintptr_t)m->data;
        if (at >= first && at - first < m->n_bytes) end_with(m->path);
    }
    /* Not ours: the access itself comes again; what a process sent has to be sent once more. */
    sigaction(number, &before, NULL);
    if (info->si_code <= 0) raise(number);
}

static void install(void)
{
    static bool is_installed;
    if (is_installed) return;
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    is_installed = sigaction(SIGBUS, &action, &before) == 0;
}

void cox__mapping_watch(cox__mapping *mapping)
{
    install();
    mapping->next = atomic_load(&mappings);
    atomic_store(&mappings, mapping);
}

void cox__mapping_forget(cox__mapping *mapping)
{
    cox__mapping *previous = NULL;
    for (cox__mapping *m = atomic_load(&mappings); m; previous = m, m = m->next) {
        if (m != mapping) continue;
        if (previous) {
            previous->next = m->next;
        } else {
            atomic_store(&mappings, m->next);
        }
        return;
    }
}

void cox_mapping_set_owner(const char *name, void (*part)(void))
{
    before_end = part;
    snprintf(owner, sizeof owner, "%s", name);
}
