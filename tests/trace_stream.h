// tests/trace_stream.h - random streams of samples, and a log of a stream as text. Shared by the tests of traces.
#pragma once

#include <stddef.h>

#include "engine/sample.h"

// A sink that writes each sample as one line, every field in it: two streams are the same if their logs are.
struct stream_log {
    char *text;           // owned; free()
    size_t n, capacity;
    int64_t samples;
};
struct sample_sink stream_log_sink(struct stream_log *log);

// Where random streams take their values from.
enum stream_kind {
    STREAM_WILD,          // any value that a field can hold, stages that overlap or have no step, requests out of order
    STREAM_SANE           // what an engine tells: the checker must find nothing
};

// Sends about `n` samples, which follow from `seed`.
void stream_random(const struct sample_sink *sink, enum stream_kind kind, int64_t n, uint64_t seed);
