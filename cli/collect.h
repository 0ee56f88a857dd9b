// cli/collect.h - how a run is watched: the modes of --collect, as flags and as a collector.
#pragma once

#include "cli/options.h"
#include "cupti/collector.h"

enum collect {
    COLLECT_STAGE,     // each stage's time; of a GPU's decode steps, one in so many
    COLLECT_OFF,       // steps only
    COLLECT_KERNEL,    // each kernel of a GPU
    COLLECT_GRAPH,     // as stage, and each recorded step whole
    COLLECT_COUNTERS,  // as stage, and what hardware counts beside it (cli/counting.h)
    COLLECT_COUNT
};

// Put COLLECT_OPTIONS(variable, what --every 0 does there) into a command's table of options; a zeroed struct holds the
// defaults.
struct collect_flags {
    const char *mode_name;
    int32_t every;    // of stage and graph: one decode step in so many tells its stages. 0: the command's default
    enum collect mode;         // set by collect_resolve
};
#define COLLECT_OPTIONS(flags, every_zero)                                                                             \
    {"collect", OPTION_TEXT, &(flags).mode_name, 0, 0, "off|stage|kernel|graph|counters",                              \
     "what is looked at (default: stage); kernel and graph on a GPU; counters runs twice there"},                      \
    {"every", OPTION_INT, &(flags).every, 0, 1 << 20, "steps",                                                         \
     "on a GPU, one decode step in so many tells its stages; 0: " every_zero}

// Looks at the flags for a run on `device` ("cuda:1"). -EINVAL with what was expected.
int collect_resolve(struct collect_flags *flags, const char *device);

// Opens a collector of that mode, before the engine. Where kernels cannot be collected, one line on stderr says why,
// and stages are collected instead.
int collect_open(struct collector **out, enum collect mode, const struct sample_sink *sink);
