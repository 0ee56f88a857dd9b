// cli/workload.h - what `clsa sim --workload` and `clsa run --workload` share: flags, and the tables of a service.
#pragma once

#include "cli/options.h"
#include "cli/table.h"
#include "sim/serve_metrics.h"
#include "workloads/workload.h"

struct workload_flags {
    const char *name;               // a file or a shipped workload
    int64_t requests, seed;
    double rate_factor, length_factor, slo_ttft_s, slo_tpot_ms;
    int32_t prompt_tokens, output_tokens, max_prompt, max_output, snapshots;
    bool no_reuse;
};
struct workload_flags workload_flags_default(void);
#define WORKLOAD_OPTIONS(flags)                                                                                        \
    {NULL, OPTION_GROUP, NULL, 0, 0, NULL, "Workload"},                                                                \
    {"workload", OPTION_TEXT, &(flags).name, 0, 0, "FILE|NAME",                                                        \
     "reasoning, rag, agents, paper, day, a *.workload file, or a trace"},                                             \
    {"requests", OPTION_LONG, &(flags).requests, 0, 1e8, "requests", "as many; 0: what the workload says"},            \
    {"workload-seed", OPTION_LONG, &(flags).seed, 0, 9e18, "N", "of a description's draws; 0: the one in it"},         \
    {"rate-factor", OPTION_REAL, &(flags).rate_factor, 1e-3, 1e6, "X", "arrivals come so many times as fast"},         \
    {"length-factor", OPTION_REAL, &(flags).length_factor, 1e-6, 1e3, "X",                                             \
     "prompts and outputs are so many times as long"},                                                                 \
    {"prompt-tokens", OPTION_INT, &(flags).prompt_tokens, 0, 1 << 27, "tokens", "of every prompt; 0: as it comes"},    \
    {"output-tokens", OPTION_INT, &(flags).output_tokens, 0, 1 << 27, "tokens", "of every output; 0: as it comes"},    \
    {"max-prompt", OPTION_INT, &(flags).max_prompt, 0, 1 << 27, "tokens", "cut longer prompts; 0: none"},              \
    {"max-output", OPTION_INT, &(flags).max_output, 0, 1 << 27, "tokens", "cut longer outputs; 0: none"},              \
    {"no-reuse", OPTION_FLAG, &(flags).no_reuse, 0, 0, NULL, "compute prompts whole, even where alike"},               \
    {"snapshots", OPTION_INT, &(flags).snapshots, 0, 1 << 16, "prefixes", "whose windows are kept for reuse; 0: 128"}, \
    {"slo-ttft", OPTION_REAL, &(flags).slo_ttft_s, 0, 1e6, "s", "limit of the time to the first token; 0: none"},      \
    {"slo-tpot", OPTION_REAL, &(flags).slo_tpot_ms, 0, 1e9, "ms", "limit of the time per further token; 0: none"}

// Whether the command line asks for a workload: then the other half of the command takes it, with options of its own.
bool workload_given(int argc, char **argv);
int workload_flags_load(struct workload *out, const struct workload_flags *flags);

// Tables; NULL: no memory. One row of lengths and arrivals.
struct table *workload_table(const struct workload *workload);
// One row per (method, device), filled by workload_add_service; `latency` has four rows for each.
struct table *workload_service_table(void);
struct table *workload_latency_table(void);
void workload_add_service(struct table *service, struct table *latency, const char *method, const char *device,
                          const struct serve_metrics *metrics);
// One row per request.
struct table *workload_request_table(void);
void workload_add_requests(struct table *table, const char *method, const char *device,
                           const struct request_record *records, int64_t n);
extern const char *const workload_definitions;    // what the columns mean, in two lines

// The other halves; both take argv as command_sim and command_run do and return an exit status.
int command_sim_workload(int argc, char **argv);
int command_run_workload(int argc, char **argv);
