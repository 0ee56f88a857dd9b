// cupti/pm_sampling.h - hardware counters of a whole GPU, sampled at a fixed interval.
//
// The chip fills a buffer on its own; reading decodes what has come since. Metrics must fit into one pass together:
// those that do not are left out, the first two (bytes read and written) never. Kernels shorter than the interval share
// a sample with their neighbours. Nothing here has a thread; one thread at a time may use a sampler.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cupti/counters_api.h"

struct pm_sampler;

struct pm_options {
    int32_t device;                // as CUDA counts
    int64_t interval_ns;           // 0: 250 us
    const char *const *metrics;    // [n_metrics], the vendor's names; NULL: the default set
    int32_t n_metrics;
    struct counters_libraries libraries;
};

// values [n] of pm_sampler_metrics, valid during the call. Times are CLOCK_BOOTTIME.
struct pm_sample {
    int64_t begin_ns, end_ns;
    const double *values;
};

// The first of a process: before any graph is recorded (cupti/counters.h). -ENOTSUP, -EACCES, -EBUSY or -EIO with the
// reason and the remedy.
int pm_sampler_open(struct pm_sampler **out, const struct pm_options *options);
void pm_sampler_close(struct pm_sampler *sampler);    // NULL-safe; stops

const char *const *pm_sampler_metrics(const struct pm_sampler *sampler, int32_t *n);    // those kept, borrowed

int pm_sampler_start(struct pm_sampler *sampler);
// Read first: after the stop, the device hands over no more than one image (200 samples).
int pm_sampler_stop(struct pm_sampler *sampler);

// Calls `sample` for each sample that has been completed since the last reading, in order. *lost says whether the
// buffer was full in between. Returns how many, or a negative errno.
int pm_sampler_read(struct pm_sampler *sampler, void (*sample)(void *user, const struct pm_sample *), void *user,
                    bool *lost);
