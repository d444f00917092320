/*
 * The one status type. Its sign is its severity: 0 is success, a positive status is the caller's or
 * the user's mistake and leaves all state unchanged, a negative one means that state was lost.
 * Whoever detects an error first writes the message with cox_fail() (naming file, key or rank, and
 * what to do about it); everybody else passes the status on.
 */
#ifndef COX_BASE_STATUS_H
#define COX_BASE_STATUS_H

/* name, value, exit code of the program, text */
#define COX_STATUS_LIST(X)                                                \
    X(OK, 0, 0, "ok")                                                     \
    X(INVALID, 1, 2, "invalid argument")                                  \
    X(NOT_FOUND, 2, 3, "not found")                                       \
    X(BAD_FILE, 3, 4, "malformed file")                                   \
    X(UNSUPPORTED, 4, 5, "not supported")                                 \
    X(NO_MEMORY, 5, 6, "not enough memory")                               \
    X(TOO_LONG, 6, 7, "too long")                                         \
    X(BUSY, 7, 8, "no room now")                                          \
    X(REQUEUE, 8, 75, "stopped before its end; the same command goes on") \
    X(IO, -1, 9, "input or output failed")                                \
    X(PEER, -2, 10, "another rank failed")                                \
    X(INTERNAL, -3, 11, "internal error")

typedef enum cox_status {
#define X(name, value, exit_code, text) COX_##name = value,
    COX_STATUS_LIST(X)
#undef X
} cox_status;

/* Stores the formatted message for this thread (replacing the one before) and returns `status`. */
__attribute__((format(printf, 2, 3), cold)) cox_status cox_fail(cox_status status, const char *format, ...);

/* The failure of every allocation: "out of memory for <what>". Returns COX_NO_MEMORY. */
__attribute__((cold)) cox_status cox_no_memory(const char *what);

/* Puts "context: " in front of this thread's message; returns `status`. For callers who know more. */
__attribute__((format(printf, 2, 3), cold)) cox_status cox_fail_in(cox_status status, const char *format,
                                                                   ...);

/* This thread's last message; "" when there is none. Valid until the next cox_fail on this thread. */
const char *cox_status_message(void);

/* The status' name ("BAD_FILE"), its text, and the exit code of the program that ends with it. */
const char *cox_status_name(cox_status status);
const char *cox_status_text(cox_status status);
int cox_status_exit_code(cox_status status);

#endif
