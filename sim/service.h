// sim/service.h - one replica of a service, moved through time by its owner: what sim/serve.c and sim/fleet.c share.
//
// A replica works through a list of requests by number. Records, the price of steps and the watch over limits belong to
// the owner and may be shared by replicas that are moved by one thread. Not a public header of the room.
#pragma once

#include "engine/kv_pages.h"
#include "engine/scheduler.h"
#include "sim/calibration.h"
#include "sim/serve.h"

// Counts requests beyond a limit while a simulation runs, so that a hopeless one can end early.
struct slo_watch {
    double ttft_s, tpot_s;                    // 0: no limit
    int64_t ttft_allowed, tpot_allowed;       // requests that may be beyond it
    int64_t ttft_late, tpot_late;
    bool lost;                                // more than that are
};

struct service {
    const struct workload *workload;
    struct serve_options options;             // defaults filled in
    struct serve_result *result;              // all but metrics and records
    struct request_record *records;           // [workload->n], borrowed
    struct step_price *price;                 // borrowed
    struct slo_watch *watch;                  // borrowed; NULL: none
    // The replica's requests by number. Those from n_known on have no arrival yet.
    int64_t *mine;                            // [room], owned
    int64_t n_mine, n_known, next, room;
    struct kv_pages *pages;
    struct scheduler *scheduler;
    bool reuses;                              // prefixes
    // The sequences that decode, from step to step. Stale: to be counted anew, because not all of them had a part in
    // the last step.
    struct step_rows *decoding;               // owned
    bool decoding_stale;
    // The jump under way: so many steps at most in which n sequences draw one token each, and how many of them are
    // done. Its end is told to the scheduler once, whatever horizons it meets.
    struct {
        int32_t steps, taken, n;              // steps 0: none is under way
        bool room;                            // who comes would be let in
        double begin_s;
        int64_t contexts;                     // that its first step finds, in all
    } jump;
    int64_t longest_tokens;                   // prompt + output, of the workload's longest request
    int64_t page_bytes, ring_bytes;           // of the cache: a page, the windows of a sequence
    double copy_s;                            // what saving or restoring the windows of one sequence takes
    double now_s, prompts_end_s;              // prompts_end_s: of the last step with any; -INFINITY: none yet
    struct calibration_heat heat;
    int64_t n_finished, n_rejected;
    double last_end_s;                        // when requests last finished, and how many then
    int32_t n_last_ended;
    double output_tokens;                     // put out since the last point
    double interval_s, next_point_s;
    // Of one step.
    struct scheduled *parts;                  // [max_seqs]
    struct work *work;                        // [max_seqs] of the prompts; with every_step of all
    bool *ended;                              // [max_seqs] always false: texts end at their length
    int64_t *preempted, *finished;            // [max_seqs]
};

// Fills in defaults. -EINVAL out of range.
int serve_complete_options(struct serve_options *options);
int32_t serve_rings(const struct serve_options *options, const struct workload *workload);    // sequences and snapshots
int64_t serve_longest_request(const struct workload *workload);    // prompt + output tokens
// Of all records, none of which has begun; NULL: no memory.
struct request_record *serve_open_records(const struct workload *workload);

// Metrics, percentiles and what the limits say, from records.
struct fleet_result;
struct slo;
int fleet_judge(struct fleet_result *out, const struct slo *slo, bool closed_loop);    // -ENOMEM

// The fields above `mine` are the caller's to set before. service_close frees what is owned, also after a failure.
int service_open(struct service *service);
void service_close(struct service *service);

// One more request; its record knows when it arrives, not before those already here. -ENOMEM.
int service_take(struct service *service, int64_t request);

// Takes steps until the clock has reached horizon_s, or nothing is left, or a stop. A step that has begun ends, and so
// does a jump past the horizon while nobody who comes could be let in: what arrives then is handed over in time.
int service_advance(struct service *service, double horizon_s);

// Requests handed over and not finished at t_s, which no earlier horizon exceeds.
int64_t service_in_hand(const struct service *service, double t_s);
