// engine/status.c - thread-local text of the last failure.
#include "engine/status_list.h"

#include <stdio.h>
#include <string.h>

enum { STATUS_TEXT_BYTES = 1024 };

static _Thread_local char text[STATUS_TEXT_BYTES];

int status_fail_list(int error, const char *format, va_list arguments)
{
    // Format beside, then copy: callers pass status_text() itself as an argument when they rephrase a failure.
    char next[STATUS_TEXT_BYTES];
    vsnprintf(next, sizeof next, format, arguments);
    memcpy(text, next, sizeof text);
    return error;
}

int status_fail(int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    status_fail_list(error, format, arguments);
    va_end(arguments);
    return error;
}

int status_prefix(int error, const char *format, ...)
{
    char next[STATUS_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(next, sizeof next, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < sizeof next) {
        snprintf(next + length, sizeof next - (size_t)length, "%s", text);
    }
    memcpy(text, next, sizeof text);
    return error;
}

const char *status_text(void)
{
    return text;
}
