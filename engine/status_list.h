// engine/status_list.h - status_fail for a function that takes a format itself: a parser's "wrong, at this place".
#pragma once

#include <stdarg.h>

#include "engine/status.h"

__attribute__((format(printf, 2, 0))) int status_fail_list(int error, const char *format, va_list arguments);
