// cupti/counters_poll.h - a thread that reads counters while an engine runs, and keeps what it read until it is
// fetched.
//
// Readings are bounded: what has no room is counted as lost, never waited for. poller_samples and poller_readings may
// be called from one thread, any one.
#pragma once

#include "cupti/nvml.h"
#include "cupti/pm_sampling.h"

struct poller;

enum { POLLER_METRICS = 16 };

struct polled_sample {
    int64_t begin_ns, end_ns;
    double values[POLLER_METRICS];
};    // of pm_sampler_metrics
struct polled_reading {
    int64_t time_ns;
    struct nvml_reading reading;
};

// Takes over both handles, of which one may be NULL, also where it fails. readings_per_s: of NVML.
int poller_open(struct poller **out, struct pm_sampler *sampler, struct nvml *nvml, double readings_per_s);
// Ends the thread after one last reading; what it has read can still be fetched. Returns the first failure of reading.
int poller_stop(struct poller *poller);
void poller_close(struct poller *poller);    // NULL-safe; stops

// Moves out the oldest, at most n; a sample only if it ended at `until_ns` or before. Returns how many.
int32_t poller_samples(struct poller *poller, struct polled_sample *out, int32_t n, int64_t until_ns);
int32_t poller_readings(struct poller *poller, struct polled_reading *out, int32_t n);

int64_t
poller_lost(struct poller *poller);    // samples that had no room, or 1 for each time that the device's buffer was full
