// cli/plan_work.h - the cases of a plan computed by several threads, each case whole by one of them.
//
// Results do not depend on the number of threads: a case is a pure function of its inputs.
#pragma once

#include "cli/choice.h"
#include "cli/plan_grid.h"
#include "cli/plan_rows.h"
#include "sim/planner.h"

// What all cases share. Everything is borrowed.
struct plan_work {
    const char *model;
    const struct model_config *config;
    const struct workload *workload;
    double workload_rate_per_s;            // 0: a closed loop
    const struct plan_grid *grid;
    struct plan_case base;                 // before an axis sets something
    struct planner_options options;        // of everything that no axis sets
    const struct device *devices;          // [n_devices] by the names of the axis "device", in its order
    int32_t threads;
    int64_t shard, n_shards;               // only cases with index % n_shards == shard
};

// Checks that every case of the shard can be built, so that wrong input is found before the first is computed.
int plan_work_check(const struct plan_work *work);

// Computes what `rows` lacks. `shown` is called in the caller's thread for each row as soon as it and all before it in
// the shard are there. Ctrl-C ends it early with the rows that are finished: -EINTR.
int plan_work_run(const struct plan_work *work, struct plan_rows *rows, void (*shown)(void *user, int64_t index),
                  void *user);
