// sim/serve.c - one replica that answers a whole workload.
#include "sim/serve.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/predict.h"
#include "sim/service.h"

enum { DEFAULT_SEQS = 256, DEFAULT_STEP_TOKENS = 2048, MAX_SEQS = 1 << 16, MAX_STEP_TOKENS = 1 << 24 };

const char *blocked_name(enum blocked blocked)
{
    static const char *const names[] = {"KV memory", "sequences", "rows"};
    return names[blocked];
}

int serve_complete_options(struct serve_options *o)
{
    int error = plan_check(o->plan);
    if (error) {
        return error;
    }
    o->max_seqs = o->max_seqs ? o->max_seqs : DEFAULT_SEQS;
    o->max_step_tokens = o->max_step_tokens ? o->max_step_tokens : DEFAULT_STEP_TOKENS;
    o->memory_share = o->memory_share > 0 ? o->memory_share : 0.9;
    o->snapshots = plan_kv_bytes_per_sequence(o->plan) == 0 ? 0 : o->snapshots ? o->snapshots : PREFIX_SNAPSHOTS;
    if (o->snapshots < 0 || o->snapshots > MAX_SEQS) {
        return status_fail(-EINVAL, "%d snapshots: expected 0 to %d", o->snapshots, MAX_SEQS);
    }
    if (o->max_seqs < 1 || o->max_seqs > MAX_SEQS || o->max_step_tokens < 1 || o->max_step_tokens > MAX_STEP_TOKENS) {
        return status_fail(-EINVAL, "%d sequences and %d tokens per step: expected 1 to %d and 1 to %d", o->max_seqs,
                           o->max_step_tokens, MAX_SEQS, MAX_STEP_TOKENS);
    }
    return 0;
}

int32_t serve_rings(const struct serve_options *options, const struct workload *workload)
{
    bool reuses = !options->no_reuse && !options->received && workload_shares(workload);
    return options->max_seqs + (reuses ? options->snapshots : 0);
}

int64_t serve_longest_request(const struct workload *workload)
{
    int64_t longest = 1;
    for (int64_t i = 0; i < workload->n; i++) {
        int64_t tokens = (int64_t)workload->requests[i].prompt_tokens + workload->requests[i].output_tokens;
        longest = tokens > longest ? tokens : longest;
    }
    return longest;
}

// Users who have nobody to wait for arrive at once; the others' arrivals become known as answers end.
struct request_record *serve_open_records(const struct workload *workload)
{
    struct request_record *records = malloc((size_t)workload->n * sizeof *records + 1);
    for (int64_t i = 0; records && i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        bool known = workload->users == 0 || i < workload->users;
        records[i] = (struct request_record){.arrival_s = known ? 1e-9 * (double)request->arrival_ns : NAN,
                                             .started_s = NAN,
                                             .first_token_s = NAN,
                                             .finished_s = NAN,
                                             .prompt_tokens = request->prompt_tokens,
                                             .output_tokens = request->output_tokens};
    }
    return records;
}

// The error bar of a step of the mean batch at the mean context.
static double mean_off(const struct serve_result *result, const struct serve_options *o)
{
    struct work work[256];
    struct step_prediction step;
    double n = result->busy_s > 0 ? result->sequence_s / result->busy_s : 0;
    int32_t n_seqs = n < 1 ? 1 : n < 256 ? (int32_t)lround(n) : 256;
    int32_t context = result->sequence_s > 0 ? (int32_t)(result->context_token_s / result->sequence_s) : 0;
    for (int32_t i = 0; i < n_seqs; i++) {
        work[i] = (struct work){context, 1, 1};
    }
    return o->timer || predict_step(&step, o->device, o->plan, work, n_seqs) ? NAN : step.off_s / step.seconds;
}

static int answer(struct serve_result *out, struct service *service, struct request_record *records)
{
    const struct workload *workload = service->workload;
    int error = service_open(service);
    for (int64_t i = 0; !error && i < workload->n; i++) {
        error = service_take(service, i);
    }
    error = error ? error : service_advance(service, INFINITY);
    error = error ? error : serve_reduce(&out->metrics, records, workload->n, service->options.slo_ttft_s,
                                         service->options.slo_tpot_s, workload->users > 0);
    out->off_share = error ? NAN : mean_off(out, &service->options);
    if (!error && out->metrics.rejected == workload->n) {
        error = status_fail(-EINVAL, "no request fits: %s", out->first_rejection);
    }
    service_close(service);
    return error;
}

int serve_run(struct serve_result *out, const struct workload *workload, const struct serve_options *options)
{
    struct service service = {.workload = workload, .options = *options, .result = out};
    *out = (struct serve_result){0};
    int error = serve_complete_options(&service.options);
    const struct serve_options *o = &service.options;
    struct step_price_options price_options = {.device = o->device,
                                               .plan = o->plan,
                                               .timer = o->timer,
                                               .step_overhead_s = o->step_overhead_s,
                                               .max_seqs = o->max_seqs};
    error = error ? error : step_price_open(&service.price, &price_options);
    if (error) {
        return error;
    }
    struct request_record *records = service.records = serve_open_records(workload);
    error = records ? answer(out, &service, records)
                    : status_fail(-ENOMEM, "no memory to simulate %lld requests", (long long)workload->n);
    step_price_close(service.price);
    if (error) {
        free(records);
        *out = (struct serve_result){0};
        return error;
    }
    out->records = records;
    out->n_records = workload->n;
    return 0;
}

void serve_close(struct serve_result *result)
{
    if (result) {
        free(result->records);
        *result = (struct serve_result){0};
    }
}
