// traces/trace_ring.h - a flight recorder: the last seconds of a stream, written as a trace when they are wanted.
//
// Samples are kept, not packets, so that a dump is a whole trace with every name in it. A dump begins and ends between
// two steps; requests that began earlier are in it from their last change on; a launch without its work, or work
// without its launch, is not: their other halves were forgotten or have not been told yet. Memory is bounded; nothing
// else is kept but sources, open requests and names.
#pragma once

#include "traces/trace.h"

struct trace_ring;

struct trace_ring_options {
    int64_t keep_ns;          // of the stream's own time
    int64_t max_bytes;        // the oldest go even earlier where the last keep_ns are more; 0: 256 MiB
    // `slow` is called for a step that takes longer than slow_step_ns (0: none is slow), in the midst of the sink: not
    // at once, but when what was told late of that step has come, after a second or a quarter of keep_ns; at the latest
    // by close. Not again before keep_ns have passed: no two dumps show the same. It may dump.
    int64_t slow_step_ns;
    void (*slow)(void *user, struct trace_ring *ring, const struct step_sample *step);
    void *user;
};

int trace_ring_open(struct trace_ring **out, const struct trace_ring_options *options);    // -ENOMEM
struct sample_sink trace_ring_sink(struct trace_ring *ring);

// Writes what is kept as options->path, whole or not at all. What is kept stays.
int trace_ring_dump(struct trace_ring *ring, const struct trace_writer_options *options);

// -ENOMEM: samples are missing from then on. NULL-safe.
int trace_ring_close(struct trace_ring *ring);
