// cupti/perf_events.c - perf_event_open, one descriptor per event: events that threads inherit cannot be read as a
// group.
#include "cupti/perf_events.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/status.h"

struct perf_events {
    int descriptor[PERF_EVENTS];
};    // -1: not counted here

static const struct {
    const char *name;
    uint64_t config;
} events_of[PERF_EVENTS] = {
    [PERF_CYCLES] = {"cycles", PERF_COUNT_HW_CPU_CYCLES},
    [PERF_INSTRUCTIONS] = {"instructions", PERF_COUNT_HW_INSTRUCTIONS},
    [PERF_CACHE_MISSES] = {"LLC misses", PERF_COUNT_HW_CACHE_MISSES},
};

const char *perf_event_name(enum perf_event event)
{
    return events_of[event].name;
}

static int open_event(uint64_t config)
{
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof attributes,
        .config = config,
        .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
        .inherit = 1,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int paranoid_level(void)
{
    FILE *file = fopen("/proc/sys/kernel/perf_event_paranoid", "re");
    int level = 0;
    if (file && fscanf(file, "%d", &level) != 1) {
        level = 0;
    }
    if (file) {
        fclose(file);
    }
    return level;
}

static int refusal(int reason)
{
    switch (reason) {
    case EACCES:
    case EPERM:
        return status_fail(-EACCES,
                           "CPU counters: the kernel keeps them for administrators (perf_event_paranoid is %d): run as "
                           "root, or sysctl kernel.perf_event_paranoid=2; in a container, allow perf_event_open",
                           paranoid_level());
    case ENOENT:
    case ENODEV:
    case EOPNOTSUPP:
        return status_fail(-ENOTSUP,
                           "CPU counters: this CPU shows none, as in most virtual machines: run on the host, or give "
                           "the machine a virtual PMU");
    case ENOSYS: return status_fail(-ENOTSUP, "CPU counters: this kernel has no perf events");
    default: return status_fail(-ENOTSUP, "CPU counters: %s", strerror(reason));
    }
}

int perf_events_open(struct perf_events **out)
{
    *out = NULL;
    struct perf_events *events = malloc(sizeof *events);
    if (!events) {
        return status_fail(-ENOMEM, "no memory for CPU counters");
    }
    int reason = 0;
    for (int i = 0; i < PERF_EVENTS; i++) {
        events->descriptor[i] = open_event(events_of[i].config);
        reason = i == PERF_CYCLES && events->descriptor[i] < 0 ? errno : reason;
    }
    if (reason) {
        perf_events_close(events);
        return refusal(reason);
    }
    *out = events;
    return 0;
}

void perf_events_close(struct perf_events *events)
{
    for (int i = 0; events && i < PERF_EVENTS; i++) {
        if (events->descriptor[i] >= 0) {
            close(events->descriptor[i]);
        }
    }
    free(events);
}

void perf_events_read(const struct perf_events *events, struct perf_counts *out)
{
    for (int i = 0; i < PERF_EVENTS; i++) {
        struct {
            uint64_t count, enabled, running;
        } value;
        bool read_whole =
            events->descriptor[i] >= 0 && read(events->descriptor[i], &value, sizeof value) == sizeof value;
        out->of[i] = !read_whole          ? NAN
                     : value.running == 0 ? 0
                                          : (double)value.count * ((double)value.enabled / (double)value.running);
    }
}
