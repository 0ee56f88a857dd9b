// cupti/perf_events.h - cycles, instructions and last-level cache misses of this process, counted by the CPU.
//
// Counts the calling thread and every thread that it starts from then on, so it is opened before a backend starts its
// workers. A reading is one system call per event and interrupts the CPUs that run such threads: some microseconds.
// Only user space is counted, which the kernel permits at perf_event_paranoid 2.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct perf_events;

enum perf_event { PERF_CYCLES, PERF_INSTRUCTIONS, PERF_CACHE_MISSES, PERF_EVENTS };
const char *perf_event_name(enum perf_event event);    // "cycles", "instructions", "LLC misses"

// Since the opening; where the kernel shared a counter out among several users, scaled up to the whole time. NAN: this
// CPU does not count it.
struct perf_counts {
    double of[PERF_EVENTS];
};

// -EACCES or -ENOTSUP with the reason and the remedy where not even cycles are counted.
int perf_events_open(struct perf_events **out);
void perf_events_close(struct perf_events *events);    // NULL-safe

void perf_events_read(const struct perf_events *events, struct perf_counts *out);
