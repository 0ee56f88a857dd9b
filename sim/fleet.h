// sim/fleet.h - replicas of a service behind a router.
//
// Each replica is what sim/serve.h simulates. The router sends a request on at its arrival and for good: in turn, to
// whoever has the fewest requests in hand (lowest number first), or so that requests of one prefix meet
// (sim/affinity.h). In a closed loop users stay with a replica, in turn,
// whatever the router. A pure function of its inputs; one replica gives what serve_run gives.
#pragma once

#include "sim/serve.h"

enum router { ROUTER_ROUND_ROBIN, ROUTER_LEAST_LOAD, ROUTER_PREFIX, ROUTER_COUNT };
const char *router_name(enum router router);    // "round-robin", "least-load", "prefix"
int router_from_name(enum router *out, const char *name);    // -EINVAL lists the names

enum { FLEET_MAX_REPLICAS = 4096 };

// A limit that a share of the requests must keep: the percentile, by nearest rank, is within it.
struct slo {
    double ttft_s, tpot_s;                // 0: none
    double ttft_percent, tpot_percent;    // of the requests; 0: 95
};

struct fleet_options {
    struct serve_options replica;         // its slo_* and progress are not used
    struct slo slo;
    int32_t n_replicas;
    enum router router;
    bool stop_when_lost;                  // end as soon as the limits cannot be kept any more
};

struct fleet_result {
    struct serve_metrics metrics;         // of all requests; slo_share and goodput by the limits, whatever the percent
    struct request_record *records;       // [n_records] in the order of the workload; owned
    int64_t n_records;
    struct serve_result *replicas;        // [n_replicas] without records and metrics; owned
    int32_t n_replicas;
    double busy_s;                        // of all replicas, as are those below
    double blocked_s[BLOCKED_COUNT];
    double prefill_s, sequence_s, context_token_s;
    double peak_kv_share;                 // of its pages, of the fullest replica
    double ttft_s, tpot_s;                // at the limits' percent
    bool ttft_within, tpot_within;        // the percentile keeps its limit, or there is none
    bool within;                          // nothing was rejected, all finished, both percentiles keep their limits
    bool lost;    // stopped for being hopeless: of the above, only the flags and busy times hold
    bool stopped;                         // by replica.stop
    char first_rejection[256];
    enum provenance provenance;
};

// -EINVAL if nothing fits. fleet_close frees what *out holds; *out is empty on failure.
int fleet_run(struct fleet_result *out, const struct workload *workload, const struct fleet_options *options);
// Prompts on some replicas, answers on others: each of n_prefill computes prompts and draws their first token, then
// hands keys and values on to one of options->n_replicas, which draw the rest. Handing over takes all its bytes over
// the link, as if it had the link for itself; nobody waits for room at the other end. Records and metrics are of the
// whole; replicas [0, n_prefill) of the result are those of prompts. Answers go to whom the router says, by load if it
// goes by prefixes. -EINVAL for closed loops, whose requests would have to know when answers end.
int fleet_run_split(struct fleet_result *out, const struct workload *workload, const struct fleet_options *options,
                    int32_t n_prefill, double handover_bytes_per_s);

void fleet_close(struct fleet_result *result);    // NULL-safe
