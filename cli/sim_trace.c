// cli/sim_trace.c - see sim_trace.h.
#include "cli/sim_trace.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/predict.h"

static void announce(const struct sample_sink *sink, int32_t id, const struct device *device, const struct plan *plan)
{
    struct sample_source source = sample_source_of(plan);
    source.id = id;
    source.threads = device->threads;
    snprintf(source.backend, sizeof source.backend, "simulated");
    snprintf(source.device, sizeof source.device, "%s", device->name);
    sink->source(sink->user, &source);
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

struct step_trace {
    const struct sample_sink *sink;
    const struct device *device;
    const struct plan *plan;
    const struct work *work;
    int32_t n_seqs;
    struct step_sample step;
    double now_ns;
};

static void put_stage(struct step_trace *trace, enum stage stage, int32_t layer, double seconds,
                      const struct stage_cost *cost)
{
    int64_t begin_ns = (int64_t)trace->now_ns;
    trace->now_ns += 1e9 * seconds;
    struct stage_sample sample = {.source = trace->step.source,
                                  .step = trace->step.step,
                                  .phase = trace->step.phase,
                                  .stage = stage,
                                  .layer = layer,
                                  .n_seqs = trace->n_seqs,
                                  .n_tokens = trace->step.n_tokens,
                                  .context_tokens = trace->step.context_tokens,
                                  .bytes = cost->bytes,
                                  .flops = cost->flops,
                                  .begin_ns = begin_ns,
                                  .duration_ns = (int64_t)trace->now_ns - begin_ns};
    trace->sink->stage(trace->sink->user, &sample);
}

static int put_stages(struct step_trace *trace, int32_t layer, enum stage first, enum stage last)
{
    for (int s = (int)first; s <= (int)last; s++) {
        struct stage_prediction one;
        int error = predict_stage(&one, trace->device, trace->plan, (enum stage)s, layer, trace->work, trace->n_seqs);
        if (error) {
            return error;
        }
        if (one.seconds > 0) {
            put_stage(trace, (enum stage)s, layer, one.seconds, &one.cost);
        }
    }
    return 0;
}

// Communication and the host have their time of the whole step; the rest comes in the order in which it would run.
static int put_step(struct step_trace *trace)
{
    struct step_prediction whole;
    double begin_ns = trace->now_ns;
    trace->step.begin_ns = (int64_t)begin_ns;
    int error = predict_step(&whole, trace->device, trace->plan, trace->work, trace->n_seqs);
    error = error ? error : put_stages(trace, -1, STAGE_EMBED, STAGE_EMBED);
    for (int32_t layer = 0; !error && layer < trace->plan->shape.n_layers; layer++) {
        error = put_stages(trace, layer, STAGE_QKV, STAGE_FFN);
    }
    error = error ? error : put_stages(trace, -1, STAGE_HEAD, STAGE_SAMPLE);
    for (int s = STAGE_COMMUNICATE; !error && s <= STAGE_HOST; s++) {
        if (whole.stages[s].seconds > 0) {
            put_stage(trace, (enum stage)s, -1, whole.stages[s].seconds, &whole.stages[s].cost);
        }
    }
    trace->step.duration_ns = (int64_t)trace->now_ns - trace->step.begin_ns;
    if (!error) {
        trace->sink->step(trace->sink->user, &trace->step);
        trace->step.step++;
    }
    return error;
}

static int put_prompt(struct step_trace *trace, int32_t prompt_tokens, int32_t chunk_tokens)
{
    int error = 0;
    trace->n_seqs = trace->step.n_seqs = 1;
    trace->step.phase = PHASE_PREFILL;
    for (int32_t done = 0; !error && done < prompt_tokens;) {
        int32_t rows = chunk_tokens > 0 && chunk_tokens < prompt_tokens - done ? chunk_tokens : prompt_tokens - done;
        struct work work = {done, rows, done + rows == prompt_tokens};
        trace->work = &work;
        trace->step.n_tokens = rows;
        trace->step.context_tokens = done + rows;
        error = put_step(trace);
        done += rows;
    }
    return error;
}

int sim_trace_batch(const struct sample_sink *sink, int64_t *now_ns, int32_t source, const struct device *device,
                    const struct plan *plan, const struct work *batch, int32_t n_seqs, int32_t chunk_tokens,
                    int32_t n_steps)
{
    struct step_trace trace = {.sink = sink, .device = device, .plan = plan, .now_ns = (double)*now_ns,
                               .step = {.source = source}};
    struct work *work = malloc((size_t)n_seqs * sizeof *work);
    if (!work) {
        return status_fail(-ENOMEM, "no memory for a batch of %d", n_seqs);
    }
    memcpy(work, batch, (size_t)n_seqs * sizeof *work);
    announce(sink, source, device, plan);
    int error = put_prompt(&trace, work[0].context_tokens, chunk_tokens);
    trace.work = work;
    trace.n_seqs = trace.step.n_seqs = trace.step.n_tokens = n_seqs;
    trace.step.phase = PHASE_DECODE;
    for (int32_t i = 0; !error && i < n_steps; i++) {
        trace.step.context_tokens = work[0].context_tokens + 1;
        error = put_step(&trace);
        for (int32_t s = 0; s < n_seqs; s++) {
            work[s].context_tokens++;
        }
    }
    free(work);
    *now_ns = (int64_t)trace.now_ns;
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// A service

static int compare_samples(const void *left, const void *right)
{
    const struct request_sample *a = left, *b = right;
    if (a->time_ns != b->time_ns) {
        return (a->time_ns > b->time_ns) - (a->time_ns < b->time_ns);
    }
    return a->request != b->request ? (a->request > b->request) - (a->request < b->request)
                                    : (int)a->state - (int)b->state;
}

static void put_counters(const struct sample_sink *sink, int32_t source, const struct plan *plan,
                         const struct serve_point *point)
{
    double page_bytes = (double)plan_kv_bytes_per_token(plan) * plan->page_tokens;
    double rings = (double)plan_kv_bytes_per_sequence(plan) * point->running;
    const double values[COUNTER_COUNT] = {point->output_tokens_per_s, point->kv_pages * page_bytes + rings,
                                          point->running, point->waiting};
    for (int c = 0; c < COUNTER_COUNT; c++) {
        struct counter_sample sample = {source, (enum counter)c, values[c], (int64_t)(1e9 * point->time_s)};
        sink->counter(sink->user, &sample);
    }
}

int sim_trace_service(const struct sample_sink *sink, int32_t source, const struct device *device,
                      const struct plan *plan, const struct serve_result *result)
{
    size_t n = 0;
    struct request_sample *samples = malloc((size_t)result->n_records * 4 * sizeof *samples + 1);
    if (!samples) {
        return status_fail(-ENOMEM, "no memory for the timeline of %lld requests", (long long)result->n_records);
    }
    for (int64_t i = 0; i < result->n_records; i++) {
        const struct request_record *record = &result->records[i];
        const double times[] = {record->arrival_s, record->started_s, record->first_token_s, record->finished_s};
        for (int state = REQUEST_SUBMITTED; state <= REQUEST_FINISHED && !isnan(record->finished_s); state++) {
            samples[n++] = (struct request_sample){.source = source,
                                                   .request = i,
                                                   .state = (enum request_state)state,
                                                   .prompt_tokens = record->prompt_tokens,
                                                   .output_tokens = record->output_tokens,
                                                   .step = -1,
                                                   .time_ns = (int64_t)(1e9 * times[state])};
        }
    }
    qsort(samples, n, sizeof *samples, compare_samples);
    announce(sink, source, device, plan);
    int32_t point = 0;
    for (size_t i = 0; i < n; i++) {
        for (; point < result->n_points && 1e9 * result->points[point].time_s <= (double)samples[i].time_ns; point++) {
            put_counters(sink, source, plan, &result->points[point]);
        }
        sink->request(sink->user, &samples[i]);
    }
    for (; point < result->n_points; point++) {
        put_counters(sink, source, plan, &result->points[point]);
    }
    free(samples);
    return 0;
}
