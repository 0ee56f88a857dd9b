// traces/trace_file.h - reading and checking a trace from an open stream. Private to this room and to the fuzzer.
#pragma once

#include <stdio.h>

#include "traces/trace.h"

#define TRACE_SIZE_UNKNOWN INT64_MAX

// Opens a file for reading, unpacking it where it is in gzip's format, and finds its size (unknown where packed). A
// folder, a missing or an unreadable file is -EINVAL.
int trace_open_file(FILE **stream, int64_t *size, const char *path);

// trace_read() and trace_check() on the next `size` bytes of a stream; `name` stands in messages.
int trace_read_stream(FILE *stream, int64_t size, const char *name, const struct sample_sink *sink,
                      struct trace_stats *stats);
int trace_check_stream(FILE *stream, int64_t size, const char *name, void (*report)(void *user, const char *finding),
                       void *user);
