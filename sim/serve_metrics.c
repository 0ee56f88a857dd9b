// sim/serve_metrics.c - see serve_metrics.h.
#include "sim/serve_metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/sort.h"
#include "engine/status.h"

const char *saturation_name(enum saturation saturation)
{
    static const char *const names[] = {"STABLE", "BACKLOGGED", "OVERLOADED"};
    return names[saturation];
}

double request_tpot(const struct request_record *record)
{
    if (record->output_tokens < 2) {
        return NAN;
    }
    return (record->finished_s - record->first_token_s) / (record->output_tokens - 1);
}

static struct percentiles reduce(double *values, int64_t n)
{
    struct percentiles out = {NAN, NAN, NAN, NAN, NAN, NAN};
    static const int ranks[] = {50, 90, 95, 99};
    double *to[] = {&out.p50, &out.p90, &out.p95, &out.p99};
    double sum = 0;
    if (n == 0) {
        return out;
    }
    sort_doubles(values, n);
    for (int64_t i = 0; i < n; i++) {
        sum += values[i];
    }
    for (int i = 0; i < 4; i++) {
        int64_t rank = (n * ranks[i] + 99) / 100;
        *to[i] = values[rank > 0 ? rank - 1 : 0];
    }
    out.mean = sum / (double)n;
    out.max = values[n - 1];
    return out;
}

double request_measure(const struct request_record *record, enum measure measure)
{
    switch (measure) {
    case MEASURE_QUEUE: return record->started_s - record->arrival_s;
    case MEASURE_TTFT: return record->first_token_s - record->arrival_s;
    case MEASURE_TPOT: return request_tpot(record);
    default: return record->finished_s - record->arrival_s;
    }
}

// values [n]: of the requests that finished. Returns how many.
static int64_t gather(double *values, const struct request_record *records, int64_t n, enum measure measure)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        double value = isnan(records[i].finished_s) ? NAN : request_measure(&records[i], measure);
        if (!isnan(value)) {
            values[count++] = value;
        }
    }
    return count;
}

static void reduce_all(struct serve_metrics *out, double *values, const struct request_record *records, int64_t n)
{
    struct percentiles *to[] = {&out->queue_s, &out->ttft_s, &out->tpot_s, &out->end_to_end_s};
    for (int m = MEASURE_QUEUE; m <= MEASURE_END_TO_END; m++) {
        *to[m] = reduce(values, gather(values, records, n, (enum measure)m));
    }
}

int serve_percentile(double *out, const struct request_record *records, int64_t n, enum measure measure, double percent)
{
    double *values = malloc((size_t)n * sizeof *values + 1);
    if (!values) {
        return status_fail(-ENOMEM, "no memory for a percentile of %lld requests", (long long)n);
    }
    int64_t count = gather(values, records, n, measure), rank = (int64_t)ceil((double)count * percent / 100);
    sort_doubles(values, count);
    *out = count > 0 ? values[rank > 0 ? rank - 1 : 0] : NAN;
    free(values);
    return 0;
}

static double overlap(double begin, double end, double from, double to)
{
    double low = begin > from ? begin : from, high = end < to ? end : to;
    return high > low ? high - low : 0;
}

// How many wait on average in either half of the time in which requests arrive.
static void judge_queue(struct serve_metrics *out, const struct request_record *records, int64_t n, bool closed_loop)
{
    double begin = INFINITY, end = -INFINITY, waited[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        if (!records[i].rejected && !isnan(records[i].arrival_s)) {
            begin = fmin(begin, records[i].arrival_s);
            end = fmax(end, records[i].arrival_s);
        }
    }
    double half = 0.5 * (end - begin);
    if (!(half > 0)) {
        return;    // all at once: there is no "while they arrive"
    }
    for (int64_t i = 0; i < n; i++) {
        if (!records[i].rejected && !isnan(records[i].arrival_s)) {
            double until = isnan(records[i].started_s) ? end : records[i].started_s;
            waited[0] += overlap(records[i].arrival_s, until, begin, begin + half);
            waited[1] += overlap(records[i].arrival_s, until, begin + half, end);
        }
    }
    out->queue_first_half = waited[0] / half;
    out->queue_second_half = waited[1] / half;
    bool waits = out->queue_second_half >= 1 || out->queue_first_half >= 1;
    bool grows = out->queue_second_half > 1.5 * out->queue_first_half && out->queue_second_half >= 1;
    out->saturation = !waits                  ? SATURATION_STABLE
                      : grows && !closed_loop ? SATURATION_OVERLOADED
                                              : SATURATION_BACKLOGGED;
}

int serve_reduce(struct serve_metrics *out, const struct request_record *records, int64_t n, double slo_ttft_s,
                 double slo_tpot_s, bool closed_loop)
{
    double *values = malloc((size_t)n * sizeof *values + 1);
    double begin = INFINITY, end = -INFINITY;
    int64_t within = 0;
    *out = (struct serve_metrics){.requests = n};
    if (!values) {
        return status_fail(-ENOMEM, "no memory for the metrics of %lld requests", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        const struct request_record *record = &records[i];
        out->rejected += record->rejected;
        out->preemptions += record->preemptions;
        if (isnan(record->finished_s)) {
            continue;
        }
        double tpot = request_tpot(record);
        bool first = !(slo_ttft_s > 0) || record->first_token_s - record->arrival_s <= slo_ttft_s;
        within += first && (!(slo_tpot_s > 0) || isnan(tpot) || tpot <= slo_tpot_s);
        out->finished++;
        out->prompt_tokens += record->prompt_tokens;
        out->output_tokens += record->output_tokens;
        out->reused_tokens += record->reused_tokens;
        begin = fmin(begin, record->arrival_s);
        end = fmax(end, record->finished_s);
    }
    if (out->finished > 0) {
        out->span_s = end - begin;
        out->requests_per_s = (double)out->finished / out->span_s;
        out->output_tokens_per_s = out->output_tokens / out->span_s;
        out->total_tokens_per_s = (out->prompt_tokens + out->output_tokens) / out->span_s;
        out->slo_share = (double)within / (double)out->finished;
        out->goodput_per_s = (double)within / out->span_s;
    }
    reduce_all(out, values, records, n);
    judge_queue(out, records, n, closed_loop);
    free(values);
    return 0;
}
