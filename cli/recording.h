// cli/recording.h - where the samples of a run go: a trace, whole at its end or read while it grows, or the last
// seconds.
#pragma once

#include "cli/options.h"
#include "engine/sample.h"

// Put RECORDING_OPTIONS(variable) into a command's table of options.
struct recording_flags {
    const char *out;
    bool gzip, live;
    double ring_s, slow_step_ms;    // 0: neither
};
#define RECORDING_OPTIONS(flags)                                                                                       \
    {"out", OPTION_OUTPUT, &(flags).out, 0, 0, "FILE", "the trace to write; packed if its name ends in .gz"},          \
    {"gzip", OPTION_FLAG, &(flags).gzip, 0, 0, NULL, "pack it whatever its name"},                                     \
    {"live", OPTION_FLAG, &(flags).live, 0, 0, NULL, "write in place: readable while it grows, also after a kill"},    \
    {"ring", OPTION_REAL, &(flags).ring_s, 0, 86400, "seconds",                                                        \
     "keep the last seconds only, and write them at the end; 0: all"},                                                 \
    {"slow-step", OPTION_REAL, &(flags).slow_step_ms, 0, 1e9, "ms",                                                    \
     "with --ring: a step that takes longer writes them too; 0: none"}

struct recording;

// -EINVAL for flags that exclude each other. `device` and `threads` are those of the run: a processor's rates are
// measured here, for floors. Talks on stderr in the name of `command`.
int recording_open(struct recording **out, const struct recording_flags *flags, const char *command, const char *device,
                   int32_t threads);
struct sample_sink recording_sink(struct recording *recording);

// Completes the file. NULL-safe. `*told`, if not NULL: the failure was told when it happened, and need not be told
// again.
int recording_close(struct recording *recording, bool *told);
