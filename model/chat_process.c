/* A socket pair, a fork, lines of JSON. The other side of all of it is render_chat.py. */
#include "model/chat_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "model/render_chat.inc" /* cox__render_chat, made of render_chat.py by CMake */
#include "model/tokenizer_internal.h"

enum {
    SOCKET = 3, /* of the child */
    SLICE_MS = 200,
    START_S = 60,                    /* a Python on a slow file system */
    ANSWER_S = 2 * COX_CHAT_CLOCK_S, /* the kernel ends a rendering long before */
    LINE_MAX_BYTES = 1 << 28,
};
static const char fallback[] = "/usr/bin/python3";

struct cox_chat_process {
    pid_t pid;
    int socket;         /* -1: the process is gone */
    const char *python; /* NULL: the default */
    uint64_t n_chats;
    cox__buffer in; /* what has come of a line */
    size_t n_searched;
    void (*waiting)(void *context);
    void *context;
};

static cox_status fail(const char *what)
{
    return cox_fail(COX_IO, "the process that renders chat templates %s; run the command again", what);
}

static cox_status gone(cox_chat_process *p, const char *why)
{
    if (p->socket >= 0) close(p->socket);
    p->socket = -1;
    return fail(why);
}

/* --- The child --- */

/* An idle twin costs nothing and holds nothing of ours but its socket. It becomes Python when the first bytes
 * are there, and ends when there will be none. */
static _Noreturn void wait_and_become(int socket, const char *python, pid_t parent)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the socket's end would do, a little later */
    if (getppid() != parent) _exit(0);
    sigemptyset(&none);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int nowhere = open("/dev/null", O_RDWR);
    if (socket == SOCKET) fcntl(socket, F_SETFD, 0);
    for (int i = 0; i < SOCKET; i++) dup2(nowhere, i);
    if (socket != SOCKET) dup2(socket, SOCKET);
    close_range(SOCKET + 1, ~0U, 0);
    char byte = 0;
    ssize_t n;
    while ((n = recv(SOCKET, &byte, 1, MSG_PEEK)) < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(0);
    const char *first = python ? python : "python3";
    execlp(first, first, "-c", cox__render_chat, "3", python ? NULL : fallback, NULL);
    if (!python) execl(fallback, fallback, "-c", cox__render_chat, "3", NULL);
    dprintf(SOCKET, "{\"errno\": %d}\n", errno);
    _exit(1);
}

cox_status cox_chat_process_start(cox_chat_process **process, const char *python)
{
    int ends[2];
    cox_chat_process *p = calloc(1, sizeof *p);
    if (!p) return cox_no_memory("the renderer of chat templates");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        free(p);
        return cox_fail(COX_IO, "cannot make a socket for the renderer of chat templates: %s",
                        strerror(errno));
    }
    p->python = python;
    p->socket = ends[0];
    pid_t parent = getpid();
    p->pid = fork();
    if (p->pid == 0) wait_and_become(ends[1], python, parent);
    int reason = errno;
    close(ends[1]);
    if (p->pid < 0) {
        close(ends[0]);
        free(p);
        return cox_fail(COX_IO, "cannot start the renderer of chat templates: %s", strerror(reason));
    }
    *process = p;
    return COX_OK;
}

void cox_chat_process_stop(cox_chat_process *p)
{
    if (!p) return;
    if (p->socket >= 0) close(p->socket);
    /* It ends by itself, at once when it is idle. */
    const struct timespec pause = {.tv_nsec = 5000000};
    for (int i = 0; waitpid(p->pid, NULL, WNOHANG) == 0; i++) {
        if (i == 400) kill(p->pid, SIGKILL);
        nanosleep(&pause, NULL);
    }
    cox__buffer_free(&p->in);
    free(p);
}

void cox_chat_process_on_wait(cox_chat_process *p, void (*waiting)(void *context), void *context)
{
    p->waiting = waiting;
    p->context = context;
}

/* --- Lines --- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Until the socket can be written to or read from. */
static cox_status wait_for(cox_chat_process *p, short events, double until_s)
{
    struct pollfd socket = {.fd = p->socket, .events = events};
    while (poll(&socket, 1, SLICE_MS) <= 0) {
        if (p->waiting) p->waiting(p->context);
        if (now_s() > until_s) return gone(p, "does not answer");
    }
    return COX_OK;
}

static cox_status send_all(cox_chat_process *p, const char *bytes, size_t n, double until_s)
{
    while (n > 0) {
        ssize_t sent = send(p->socket, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) {
            cox_status status = wait_for(p, POLLOUT, until_s);
            if (status != COX_OK) return status;
            continue;
        }
        if (sent < 0) return fail("has ended"); /* what it has said before can still be read */
        bytes += sent;
        n -= (size_t)sent;
    }
    return COX_OK;
}

/* The next line without its newline: [out] *line, valid until the next call. `used`: what the last one was,
 * with its newline, to be dropped. */
static cox_status next_line(cox_chat_process *p, size_t *used, const char **line, size_t *n, double until_s)
{
    cox__buffer *in = &p->in;
    if (*used > 0) {
        memmove(in->bytes, in->bytes + *used, in->n - *used);
        in->n -= *used;
        p->n_searched = 0;
    }
    for (;;) {
        const char *newline =
            in->n > p->n_searched ? memchr(in->bytes + p->n_searched, '\n', in->n - p->n_searched) : NULL;
        if (newline) {
            *line = in->bytes;
            *n = (size_t)(newline - in->bytes);
            *used = *n + 1;
            return COX_OK;
        }
        p->n_searched = in->n;
        if (in->n > LINE_MAX_BYTES) return gone(p, "sends a line without end");
        cox_status status = wait_for(p, POLLIN, until_s);
        if (status != COX_OK) return status;
        char bytes[65536];
        ssize_t got = recv(p->socket, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0) return gone(p, "has ended");
        status = cox__buffer_append(in, bytes, (size_t)got);
        if (status != COX_OK) return status;
    }
}

/* --- Setup --- */

static cox_status refuse(const cox_chat_process *p, const char *python, const char *why)
{
    return cox_fail(COX_UNSUPPORTED,
                    "%s: %s (it takes Python 3 with jinja2 3.1 or newer: %sapt-get install python3-jinja2%s)",
                    python, why, p->python ? "" : "on Debian ",
                    p->python ? "" : ", or name another Python with --python");
}

static cox_status read_greeting(const cox_chat_process *p, const char *line, size_t n)
{
    json_t *greeting = json_loadb(line, n, 0, NULL);
    const json_t *reason = json_object_get(greeting, "errno");
    const char *missing = json_string_value(json_object_get(greeting, "missing")),
               *python = json_string_value(json_object_get(greeting, "python"));
    cox_status status = COX_OK;
    if (json_is_integer(reason)) {
        status = refuse(p, p->python ? p->python : "python3", strerror((int)json_integer_value(reason)));
    } else if (missing) {
        status = refuse(p, python ? python : "python3", missing);
    } else if (!json_is_string(json_object_get(greeting, "jinja2"))) {
        status =
            refuse(p, p->python ? p->python : "python3", "this is no Python that can render chat templates");
    }
    json_decref(greeting);
    return status;
}

cox_status cox_chat_process_set_up(cox_chat_process *p, const json_t *setup)
{
    char *text = json_dumps(setup, JSON_COMPACT);
    const char *line = NULL;
    size_t used = 0, n = 0;
    double until_s = now_s() + START_S;
    if (!text) return cox_no_memory("a chat template");
    cox_status status = send_all(p, text, strlen(text), until_s);
    if (status == COX_OK) status = send_all(p, "\n", 1, until_s);
    free(text);
    /* One that ends at once says why, whether or not it took all of this. */
    if (status == COX_OK || status == COX_IO) status = next_line(p, &used, &line, &n, until_s);
    if (status == COX_IO) /* it became something that does not talk to us */
        return refuse(p, p->python ? p->python : "python3",
                      "this is no Python that can render chat templates");
    if (status == COX_OK) status = read_greeting(p, line, n);
    p->in.n = p->n_searched = 0;
    return status;
}

/* --- Chats --- */

cox_status cox_chat_answer_read(const char *line, size_t n_bytes, uint64_t id, bool *is_answer, char **text,
                                size_t *n)
{
    json_t *answer = json_loadb(line, n_bytes, JSON_ALLOW_NUL, NULL);
    const json_t *number = json_object_get(answer, "id"), *found = json_object_get(answer, "text");
    const char *refusal = json_string_value(json_object_get(answer, "refusal")),
               *error = json_string_value(json_object_get(answer, "error"));
    cox_status status = COX_OK;
    *is_answer = json_is_integer(number) && (uint64_t)json_integer_value(number) == id;
    if (*is_answer && json_is_string(found)) {
        *n = json_string_length(found);
        *text = malloc(*n + 1);
        if (*text) memcpy(*text, json_string_value(found), *n + 1);
        if (!*text) status = cox_no_memory("the text of a chat");
    } else if (*is_answer && refusal) {
        status = cox_fail(COX_INVALID, "the chat template refuses this: %s", refusal);
    } else if (*is_answer && error) {
        status = cox_fail(COX_INVALID, "the chat template cannot render this: %s", error);
    } else {
        *is_answer = false;
    }
    json_decref(answer);
    return status;
}

cox_status cox_chat_process_render(cox_chat_process *p, const char *chat, char **text, size_t *n)
{
    if (p->socket < 0) return gone(p, "has ended");
    char head[48];
    uint64_t id = ++p->n_chats;
    double until_s = now_s() + ANSWER_S;
    snprintf(head, sizeof head, "{\"id\":%llu,\"chat\":", (unsigned long long)id);
    cox_status status = send_all(p, head, strlen(head), until_s);
    if (status == COX_OK) status = send_all(p, chat, strlen(chat), until_s);
    if (status == COX_OK) status = send_all(p, "}\n", 2, until_s);
    bool is_answer = false;
    size_t used = 0;
    while (status == COX_OK && !is_answer) {
        const char *line = NULL;
        size_t n_line = 0;
        status = next_line(p, &used, &line, &n_line, until_s);
        if (status == COX_OK) status = cox_chat_answer_read(line, n_line, id, &is_answer, text, n);
    }
    p->in.n = p->n_searched = 0; /* one chat at a time: nothing else can have come */
    return status;
}
