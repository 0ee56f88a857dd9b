// tui/whatif_job.h - a simulated service in the background, with progress and cancel.
//
// One simulation at a time, in a thread of its own; the caller waits for it only where a new one is started or it is
// closed, until the simulation looks at its flag.
#pragma once

#include "engine/plan.h"
#include "sim/device.h"
#include "sim/serve_metrics.h"

enum job_state { JOB_NONE, JOB_RUNNING, JOB_DONE, JOB_CANCELLED, JOB_FAILED };

struct job_report {
    enum job_state state;
    int64_t finished, total;           // requests
    struct serve_metrics metrics;      // when done
    char workload[64], error[256];
};

struct whatif_job;

int whatif_job_open(struct whatif_job **out);    // -ENOMEM
void whatif_job_close(struct whatif_job *job);   // cancels; NULL-safe

// Cancels what runs and starts anew. `share`: the part of the workload's requests per second that comes here. All
// arguments are copied; the device's calibration is borrowed until the job is done.
int whatif_job_start(struct whatif_job *job, const struct plan *plan, const struct device *device, const char *workload,
                     double share, int32_t max_seqs);
void whatif_job_cancel(struct whatif_job *job);    // it ends soon; does not wait
void whatif_job_report(struct whatif_job *job, struct job_report *out);
