// tui/whatif_job.h - a simulated service, or the search for the smallest fleet, in the background, with cancel.
//
// One simulation at a time, in a thread of its own; the caller waits for it only where a new one is started or it is
// closed, until the simulation looks at its flag.
#pragma once

#include "engine/plan.h"
#include "sim/device.h"
#include "sim/planner.h"

enum job_state { JOB_NONE, JOB_RUNNING, JOB_DONE, JOB_CANCELLED, JOB_FAILED };

struct job_question {
    const struct plan *plan;           // of one device
    const struct device *device;
    const char *workload;              // a preset
    int32_t output_tokens;             // of every request; 0: as the workload says
    double rate_per_s;                 // requests per second; 0: as the workload comes
    bool fleet;                        // the smallest fleet within `slo`; else one replica under its share of the load
    struct slo slo;                    // of a fleet; at least one limit
    double share;                      // of the requests, that comes to the one replica
    int32_t max_seqs;                  // of the one replica; those of a fleet run 256 at most
};

struct job_report {
    enum job_state state;
    bool fleet;                        // what was asked
    int64_t finished, total;           // requests; a search tells none
    struct serve_metrics metrics;      // when done
    struct planner_answer answer;      // of a fleet, when done
    char workload[64], error[256];
};

struct whatif_job;

int whatif_job_open(struct whatif_job **out);    // -ENOMEM
void whatif_job_close(struct whatif_job *job);   // cancels; NULL-safe

// Cancels what runs and starts anew. All is copied; the device's calibration is borrowed until the job is done.
int whatif_job_start(struct whatif_job *job, const struct job_question *question);
void whatif_job_cancel(struct whatif_job *job);    // it ends soon; does not wait
void whatif_job_report(struct whatif_job *job, struct job_report *out);
