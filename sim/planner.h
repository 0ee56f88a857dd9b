// sim/planner.h - the smallest fleet of one device that answers a workload within its limits, and what it costs.
//
// Fleets are simulated whole unless they are lost before their end. Up to PLANNER_EXHAUSTIVE replicas every size is
// tried from one up, so that no smaller one would do, whatever shape the service's response has. Larger fleets are
// searched as if more replicas never hurt: of the answer only the next smaller size is known to fail. Without a limit
// on TTFT a fleet must also not be OVERLOADED (sim/serve_metrics.h). A pure function of its inputs.
#pragma once

#include "sim/fleet.h"

enum { PLANNER_TEXT_BYTES = 384, PLANNER_MAX_REPLICAS = 1024, PLANNER_EXHAUSTIVE = 64 };

enum planner_verdict {
    PLANNER_MEETS,
    PLANNER_TOO_LARGE,      // model and longest request exceed the memory
    PLANNER_TOO_STRICT,     // even a request that has a replica to itself is beyond a limit, too often
    PLANNER_TOO_MANY,       // max_replicas are not enough
    PLANNER_STOPPED
};
const char *planner_verdict_name(enum planner_verdict verdict);    // "meets", "does not fit", ...

struct planner_options {
    struct serve_options replica;
    struct slo slo;                  // at least one limit
    enum router router;
    int32_t max_replicas;            // 0: 64
    double price_per_hour;           // of a replica's devices; 0: unknown
    double serving_power_w;          // likewise
    bool headroom;                   // also find the load at which the fleet fails
};

struct planner_answer {
    enum planner_verdict verdict;
    char why[PLANNER_TEXT_BYTES];    // of the verdict, in words; "" if it meets
    int32_t replicas;                // PLANNER_MEETS: the fleet that the figures below are of
    double ttft_s, tpot_s;           // at the limits' percent
    struct serve_metrics metrics;
    double busy_share;               // of the replicas' time between first arrival and last token
    double peak_kv_share;            // of the fullest replica's cache
    double headroom;                 // so many times the load are still within; 0: not asked
    bool headroom_open;              // ... or more: 64 times is as far as is looked, in a closed loop requests per user
    char binds[64];                  // what stands in the way of more load: "KV memory", "bandwidth: attention", ...
    double dollars_per_hour;         // 0: price unknown
    // Per million output tokens: of the time in steps only, and of all time from the first arrival to the last token.
    double dollars_by_use, dollars_by_reservation;
    double watt_hours_by_use;        // 0: power unknown
    bool short_run;                  // the workload ends before the fleet has settled: span below three mean answers
    enum provenance provenance;
};

// -EINVAL for options out of range or a device of which too little is known; verdicts are not errors.
int planner_smallest(struct planner_answer *out, const struct workload *workload,
                     const struct planner_options *options);

// A copy under `factor` times the load: arrivals so many times as fast, in a closed loop so many times the users.
int planner_scale(struct workload *out, const struct workload *workload, double factor);    // -ENOMEM
