// sim/fleet_split.c - prefill and decode on replicas of their own.
//
// Two fleets one after the other: what answers do never reaches back to prompts, so that the first can be simulated to
// its end, and tells when each request arrives at the second.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/fleet.h"
#include "sim/service.h"

struct split {
    const struct workload *workload;
    const struct fleet_options *options;
    double handover_bytes_per_s;
    struct workload_request *requests;    // [n] of the stage that is simulated; owned
    int64_t *number;                      // [n] by place in the second stage: the request; owned
    struct fleet_result prompts, answers;
};

struct arrival {
    double time_s;
    int64_t request;
};

static int by_time(const void *left, const void *right)
{
    const struct arrival *a = left, *b = right;
    return a->time_s != b->time_s ? (a->time_s > b->time_s) - (a->time_s < b->time_s)
                                  : (a->request > b->request) - (a->request < b->request);
}

static int run_prompts(struct split *split, int32_t n_prefill)
{
    struct workload stage = *split->workload;
    struct fleet_options options = *split->options;
    stage.requests = split->requests;
    for (int64_t i = 0; i < stage.n; i++) {
        stage.requests[i] = split->workload->requests[i];
        stage.requests[i].output_tokens = 1;
    }
    options.n_replicas = n_prefill;
    options.stop_when_lost = false;
    return fleet_run(&split->prompts, &stage, &options);
}

static double handover_s(const struct split *split, int32_t prompt_tokens)
{
    const struct plan *plan = split->options->replica.plan;
    double bytes = (double)prompt_tokens * (double)plan_kv_bytes_per_token(plan) +
                   (double)plan_kv_bytes_per_sequence(plan);
    return bytes / split->handover_bytes_per_s;
}

// Those that go on, in the order in which they come. Returns how many, or a negative errno.
static int64_t order_answers(struct split *split)
{
    const struct workload *workload = split->workload;
    struct arrival *arrivals = malloc((size_t)workload->n * sizeof *arrivals + 1);
    int64_t n = 0;
    if (!arrivals) {
        return status_fail(-ENOMEM, "no memory to hand over %lld requests", (long long)workload->n);
    }
    for (int64_t i = 0; i < workload->n; i++) {
        const struct request_record *record = &split->prompts.records[i];
        if (workload->requests[i].output_tokens > 1 && !isnan(record->first_token_s)) {
            arrivals[n++] = (struct arrival){record->first_token_s + handover_s(split, record->prompt_tokens), i};
        }
    }
    qsort(arrivals, (size_t)n, sizeof *arrivals, by_time);
    for (int64_t k = 0; k < n; k++) {
        const struct workload_request *whole = &workload->requests[arrivals[k].request];
        split->number[k] = arrivals[k].request;
        split->requests[k] = (struct workload_request){
            .arrival_ns = (int64_t)fmin(ceil(1e9 * arrivals[k].time_s), 0x1p62),
            .prefix_id = -1,
            .prompt_tokens = whole->prompt_tokens + 1,    // and the token drawn
            .output_tokens = whole->output_tokens - 1,
            .class_index = whole->class_index};
    }
    free(arrivals);
    return n;
}

static int run_answers(struct split *split)
{
    struct workload stage = *split->workload;
    struct fleet_options options = *split->options;
    int64_t n = order_answers(split);
    if (n <= 0) {
        return (int)n;
    }
    stage.requests = split->requests;
    stage.blocks = NULL;
    stage.n_blocks = 0;
    stage.n = n;
    options.replica.received = true;
    options.router = options.router == ROUTER_PREFIX ? ROUTER_LEAST_LOAD : options.router;
    options.stop_when_lost = false;
    return fleet_run(&split->answers, &stage, &options);
}

// One record for both halves of a request.
static void join_records(struct request_record *records, const struct split *split)
{
    for (int64_t i = 0; i < split->workload->n; i++) {
        records[i] = split->prompts.records[i];
        records[i].output_tokens = split->workload->requests[i].output_tokens;
        records[i].finished_s = records[i].output_tokens > 1 ? NAN : records[i].finished_s;
    }
    for (int64_t k = 0; k < split->answers.n_records; k++) {
        const struct request_record *answer = &split->answers.records[k];
        struct request_record *record = &records[split->number[k]];
        record->finished_s = answer->finished_s;
        record->preemptions += answer->preemptions;
        record->rejected = record->rejected || answer->rejected;
    }
}

static void add_half(struct fleet_result *out, const struct fleet_result *half)
{
    memcpy(out->replicas + out->n_replicas, half->replicas, (size_t)half->n_replicas * sizeof *half->replicas);
    out->n_replicas += half->n_replicas;
    out->busy_s += half->busy_s;
    out->prefill_s += half->prefill_s;
    out->sequence_s += half->sequence_s;
    out->context_token_s += half->context_token_s;
    out->peak_kv_share = fmax(out->peak_kv_share, half->peak_kv_share);
    out->stopped = out->stopped || half->stopped;
    for (int b = 0; b < BLOCKED_COUNT; b++) {
        out->blocked_s[b] += half->blocked_s[b];
    }
    if (half->first_rejection[0] && !out->first_rejection[0]) {
        memcpy(out->first_rejection, half->first_rejection, sizeof out->first_rejection);
    }
}

static int join(struct fleet_result *out, const struct split *split)
{
    const struct slo *slo = &split->options->slo;
    int64_t n = split->workload->n;
    size_t replicas = (size_t)split->prompts.n_replicas + (size_t)split->answers.n_replicas;
    out->records = malloc((size_t)n * sizeof *out->records + 1);
    out->replicas = calloc(replicas, sizeof *out->replicas);
    if (!out->records || !out->replicas) {
        return status_fail(-ENOMEM, "no memory to simulate %lld requests", (long long)n);
    }
    out->n_records = n;
    join_records(out->records, split);
    add_half(out, &split->prompts);
    add_half(out, &split->answers);
    out->provenance = split->prompts.provenance;
    return fleet_judge(out, slo, false);
}

int fleet_run_split(struct fleet_result *out, const struct workload *workload, const struct fleet_options *options,
                    int32_t n_prefill, double handover_bytes_per_s)
{
    struct split split = {.workload = workload, .options = options, .handover_bytes_per_s = handover_bytes_per_s};
    *out = (struct fleet_result){0};
    if (workload->users > 0) {
        return status_fail(-EINVAL, "a closed loop: replicas for prompts need requests that arrive by themselves");
    }
    if (!(handover_bytes_per_s > 0)) {
        return status_fail(-EINVAL, "the link from prompts to answers is unknown: give its bytes per second");
    }
    split.requests = malloc((size_t)workload->n * sizeof *split.requests + 1);
    split.number = malloc((size_t)workload->n * sizeof *split.number + 1);
    int error = split.requests && split.number ? 0 : status_fail(-ENOMEM, "no memory for two stages");
    error = error ? error : run_prompts(&split, n_prefill);
    error = error ? status_prefix(error, "prefill: ") : run_answers(&split);
    error = error ? error : join(out, &split);
    fleet_close(&split.prompts);
    fleet_close(&split.answers);
    free(split.requests);
    free(split.number);
    if (error) {
        fleet_close(out);
    }
    return error;
}
