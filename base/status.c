/* Status names and the message of the last error, one per thread. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };
static _Thread_local char message[MESSAGE_BYTES];

cox_status cox_fail(cox_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char fresh[MESSAGE_BYTES]; /* an argument may point into `message` */
    vsnprintf(fresh, sizeof fresh, format, args);
    va_end(args);
    memcpy(message, fresh, sizeof fresh);
    return status;
}

cox_status cox_no_memory(const char *what)
{
    return cox_fail(COX_NO_MEMORY, "out of memory for %s", what);
}

cox_status cox_fail_in(cox_status status, const char *format, ...)
{
    char before[MESSAGE_BYTES];
    memcpy(before, message, sizeof before);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof message) {
        snprintf(message + n, sizeof message - (size_t)n, ": %s", before);
    }
    return status;
}

const char *cox_status_message(void)
{
    return message;
}

const char *cox_status_name(cox_status status)
{
    switch (status) {
#define X(name, value, exit_code, text) \
    case COX_##name: return #name;
        COX_STATUS_LIST(X)
#undef X
    }
    return "?";
}

const char *cox_status_text(cox_status status)
{
    switch (status) {
#define X(name, value, exit_code, text) \
    case COX_##name: return text;
        COX_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

int cox_status_exit_code(cox_status status)
{
    switch (status) {
#define X(name, value, exit_code, text) \
    case COX_##name: return exit_code;
        COX_STATUS_LIST(X)
#undef X
    }
    return 1;
}
