// traces/trace.h - samples as Perfetto traces, and back.
//
// A .pftrace is the interchange format: ui.perfetto.dev opens it, and everything that a summary or a calibration needs
// is in it as annotations. Schema: traces/trace.proto, a documented subset of Perfetto's with upstream's field numbers.
// Every field of a sample survives writer -> reader. Clock: CLOCK_BOOTTIME.
#pragma once

#include <stddef.h>

#include "engine/sample.h"

// What a device can do at most. 0: not known.
struct trace_ceilings {
    double bytes_per_s;
    double flops_per_s[DTYPE_COUNT];    // by the type of the operands
};

// Writer: a sink that streams packets. What was flushed is a readable trace, whatever happens next.
struct trace_writer;

struct trace_writer_options {
    const char *path;            // written beside it (engine/output_file.h) and renamed by close
    bool in_place;               // write to path itself, so that a live trace can be read to its last flush
    bool gzip;                   // in gzip's format; so is a file whose name ends in .gz. Readers need no telling
    const char *command;         // kept in the trace as metadata; may be NULL
    int32_t flush_interval_ms;   // 0: 500
    // Asked for each source as it is announced, if not NULL: the ceilings of its device, false where they are not
    // known. Stages then tell their floor, what share of their time it is, and which rate makes it.
    bool (*ceilings)(void *user, const struct sample_source *source, struct trace_ceilings *out);
    // Called once when the trace fails (a full disk), in the midst of the sink: nothing is written any more, and what
    // feeds the sink need not stop. NULL: it shows at close only.
    void (*failed)(void *user, const char *why);
    void *user;
};

int trace_writer_open(struct trace_writer **out, const struct trace_writer_options *options);
struct sample_sink trace_writer_sink(struct trace_writer *writer);
int trace_writer_flush(struct trace_writer *writer);
int64_t trace_writer_bytes(const struct trace_writer *writer);

// Completes and renames the file, frees the writer. Returns the first failure since open (-ENOSPC: the disk was full);
// on failure a renamed path never exists half-written. NULL-safe.
int trace_writer_close(struct trace_writer *writer);

// Ends without a file; one written in place keeps what was flushed. NULL-safe.
void trace_writer_abandon(struct trace_writer *writer);

// Reader, of either format: hands every sample of the file to the sink in file order. -EINVAL names the file, the byte
// offset and what is wrong; a file cut in the middle of a packet yields all whole packets first, then -EINVAL with
// `truncated` set in stats.
struct trace_stats {
    int64_t packets, bytes, stage_samples, step_samples, request_samples, counter_samples, unknown_packets;
    int64_t kernel_samples, launch_samples, gauge_samples, loss_samples;
    int64_t dropped, invalid;    // records that collecting lost, by each source's last loss sample
    int64_t begin_ns, end_ns;
    bool truncated;
    char command[256];
};
int trace_read(const char *path, const struct sample_sink *sink, struct trace_stats *stats);    // either may be NULL

// Checker: our own invariants (nesting, sequence ids and flags, interned ids resolvable, clocks known, durations not
// negative, flows with both ends, steps that add up). Calls `report` per finding; returns their number or a negative
// errno.
int trace_check(const char *path, void (*report)(void *user, const char *finding), void *user);
