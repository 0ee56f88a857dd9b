// cli/collect.c - names of modes, and what is done where one cannot be had.
#include "cli/collect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/status.h"

static const struct {
    const char *name;
    enum collector_source source;
} modes[COLLECT_COUNT] = {
    [COLLECT_STAGE] = {"stage", COLLECTOR_CPU_CLOCK},
    [COLLECT_OFF] = {"off", COLLECTOR_STEPS},
    [COLLECT_KERNEL] = {"kernel", COLLECTOR_KERNELS},
    [COLLECT_GRAPH] = {"graph", COLLECTOR_GRAPHS},
    [COLLECT_COUNTERS] = {"counters", COLLECTOR_CPU_CLOCK},
};

static bool needs_gpu(enum collect mode)
{
    return mode == COLLECT_KERNEL || mode == COLLECT_GRAPH;
}

int collect_resolve(struct collect_flags *flags, const char *device)
{
    int mode = COLLECT_STAGE;
    if (flags->mode_name) {
        while (mode < COLLECT_COUNT && strcmp(modes[mode].name, flags->mode_name) != 0) {
            mode++;
        }
    }
    if (mode == COLLECT_COUNT) {
        return status_fail(-EINVAL, "--collect %s: expected off, stage, kernel, graph or counters", flags->mode_name);
    }
    if (needs_gpu((enum collect)mode) && strncmp(device, "cuda", 4) != 0) {
        return status_fail(-EINVAL,
                           "--collect %s: only a GPU has kernels to collect; use --device cuda, or --collect stage",
                           flags->mode_name);
    }
    flags->mode = (enum collect)mode;
    return 0;
}

int collect_open(struct collector **out, enum collect mode, const struct sample_sink *sink)
{
    int error = collector_open(out, modes[mode].source, sink);
    if (error && error != -ENOMEM && needs_gpu(mode)) {
        fprintf(stderr, "no kernels: %s; stages are collected instead\n", status_text());
        error = collector_open(out, COLLECTOR_CPU_CLOCK, sink);
    }
    return error;
}
