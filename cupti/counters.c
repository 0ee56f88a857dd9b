// cupti/counters.c - joins the readings of hardware counters with the engine's stages.
//
// Stages of a GPU are told after their step, and the sampler's thread is some milliseconds late, so the two meet later:
// spans of stages wait in a ring, samples wait in the poller until the step that they fall into has been told. A sample
// counts for the stage that contains it whole.
#include "cupti/counters.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cupti/collector.h"
#include "cupti/counters_poll.h"
#include "cupti/perf_events.h"
#include "engine/status.h"

// Spans long enough for a sample are few: a step of a hundred layers has some hundreds, and they wait for some
// milliseconds.
enum { SPANS = 1 << 13, MAX_NOTES = 4, NOTE_BYTES = 256, TAKEN_AT_ONCE = 256, TOTALS = PHASE_COUNT * STAGE_COUNT };
static const int64_t default_interval_ns = 250000;
static const double default_readings_per_s = 10;
// Energy is told over windows that the driver's own counter resolves well: it moves every few tens of milliseconds.
static const int64_t energy_window_ns = 1000000000;

struct span {
    enum phase phase;
    enum stage stage;
    int64_t begin_ns, end_ns;
};
struct total {
    int64_t n;
    double seconds, sum[COUNTERS_METRICS];
};

struct counters {
    struct sample_sink sink;
    int32_t source;
    struct poller *poller;       // owned; NULL: nothing is polled
    struct perf_events *perf;    // owned; NULL: none
    int32_t n_metrics;
    const char *metric[COUNTERS_METRICS];    // the libraries' or static
    int64_t interval_ns;
    struct span *spans;      // [SPANS] a ring, ascending; owned
    int64_t n_spans;         // ever put in
    struct total *totals;    // [TOTALS] owned
    char notes[MAX_NOTES][NOTE_BYTES];
    int32_t n_notes;
    int64_t lost_told;
    // Energy of the window that is open.
    double energy_j, last_energy_j;
    int64_t energy_begin_ns, tokens;
    // The CPU's counts.
    struct observer observer;
    const struct observer *inner;
    enum phase phase;
    struct perf_counts stage_begin, step_begin;
    int64_t stage_begin_ns, step_begin_ns;
};

static void note(struct counters *counters)
{
    if (counters->n_notes < MAX_NOTES) {
        snprintf(counters->notes[counters->n_notes++], NOTE_BYTES, "%s", status_text());
    }
}

const char *counters_note(const struct counters *counters, int32_t i)
{
    return i < counters->n_notes ? counters->notes[i] : NULL;
}

static void tell(const struct counters *counters, const char *name, const char *unit, double value, int64_t time_ns)
{
    if (counters->sink.gauge && !isnan(value)) {
        struct gauge_sample gauge = {
            .source = counters->source, .name = name, .unit = unit, .value = value, .time_ns = time_ns};
        counters->sink.gauge(counters->sink.user, &gauge);
    }
}

static bool ends_in(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

// A sum over the sample's time, told and averaged as a rate.
static bool is_sum(const struct counters *counters, int32_t metric)
{
    return counters->perf || ends_in(counters->metric[metric], ".sum");
}

static const char *unit_of(const struct counters *counters, int32_t metric)
{
    const char *name = counters->metric[metric];
    return is_sum(counters, metric)       ? strstr(name, "bytes") ? "B/s" : "1/s"
           : ends_in(name, ".per_second") ? "1/s"
           : strstr(name, "pct")          ? "%"
                                          : "";
}

// ---------------------------------------------------------------------------------------------------------------------
// The sampler's samples

// The span that contains [begin, end]; NULL: none. Spans of one engine ascend and do not overlap.
static const struct span *find_span(const struct counters *counters, int64_t begin_ns, int64_t end_ns)
{
    int64_t low = counters->n_spans > SPANS ? counters->n_spans - SPANS : 0, high = counters->n_spans;
    while (low < high) {    // the first that begins after `begin`
        int64_t middle = low + (high - low) / 2;
        bool before = counters->spans[middle % SPANS].begin_ns <= begin_ns;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    int64_t oldest = counters->n_spans > SPANS ? counters->n_spans - SPANS : 0;
    const struct span *span = low > oldest ? &counters->spans[(low - 1) % SPANS] : NULL;
    return span && span->end_ns >= end_ns ? span : NULL;
}

static void take_sample(struct counters *counters, const struct polled_sample *sample)
{
    const struct span *span = find_span(counters, sample->begin_ns, sample->end_ns);
    struct total *total = span ? &counters->totals[span->phase * STAGE_COUNT + span->stage] : NULL;
    double seconds = (double)(sample->end_ns - sample->begin_ns) * 1e-9;
    if (!(seconds > 0)) {
        return;
    }
    for (int32_t i = 0; i < counters->n_metrics; i++) {
        double value = is_sum(counters, i) ? sample->values[i] / seconds : sample->values[i];
        tell(counters, counters->metric[i], unit_of(counters, i), value, sample->begin_ns);
        if (total) {
            total->sum[i] += value * seconds;
        }
    }
    if (total) {
        total->n++;
        total->seconds += seconds;
    }
}

// Joules per token of a window that ends now. Tokens are rows: those of prompts count as well.
static void close_energy_window(struct counters *counters, int64_t now_ns)
{
    double joules = counters->last_energy_j - counters->energy_j;
    if (counters->energy_begin_ns && counters->tokens > 0 && joules > 0) {
        tell(counters, "energy per token", "J", joules / (double)counters->tokens, now_ns);
    }
    counters->energy_j = counters->last_energy_j;
    counters->energy_begin_ns = now_ns;
    counters->tokens = 0;
}

static void take_reading(struct counters *counters, const struct polled_reading *polled)
{
    const struct nvml_reading *r = &polled->reading;
    int64_t t = polled->time_ns;
    tell(counters, "SM clock", "MHz", r->sm_clock_mhz, t);
    tell(counters, "memory clock", "MHz", r->memory_clock_mhz, t);
    tell(counters, "power", "W", r->power_w, t);
    tell(counters, "energy", "J", r->energy_j, t);
    tell(counters, "temperature", "C", r->temperature_c, t);
    tell(counters, "memory used", "B", r->memory_bytes, t);
    tell(counters, "slowed by power", "0/1", r->slowed_by_power, t);
    tell(counters, "slowed by heat", "0/1", r->slowed_by_heat, t);
    tell(counters, "slowed otherwise", "0/1", r->slowed_otherwise, t);
    if (isnan(r->energy_j)) {
        return;
    }
    counters->last_energy_j = r->energy_j;
    if (!counters->energy_begin_ns) {
        counters->energy_j = r->energy_j;
        counters->energy_begin_ns = t;
        counters->tokens = 0;
    } else if (t - counters->energy_begin_ns >= energy_window_ns) {
        close_energy_window(counters, t);
    }
}

// Hands on what has been read of the time up to `until_ns`.
static void drain(struct counters *counters, int64_t until_ns)
{
    struct polled_sample samples[TAKEN_AT_ONCE];
    struct polled_reading readings[TAKEN_AT_ONCE];
    int32_t n;
    do {
        n = poller_samples(counters->poller, samples, TAKEN_AT_ONCE, until_ns);
        for (int32_t i = 0; i < n; i++) {
            take_sample(counters, &samples[i]);
        }
    } while (n == TAKEN_AT_ONCE);
    do {
        n = poller_readings(counters->poller, readings, TAKEN_AT_ONCE);
        for (int32_t i = 0; i < n; i++) {
            take_reading(counters, &readings[i]);
        }
    } while (n == TAKEN_AT_ONCE);
    int64_t lost = poller_lost(counters->poller);
    if (lost > counters->lost_told) {
        tell(counters, "counter samples lost", "samples", (double)lost, collector_now_ns());
        counters->lost_told = lost;
    }
}

static void on_source(void *user, const struct sample_source *source)
{
    struct counters *counters = user;
    counters->source = source->id;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct counters *counters = user;
    if (counters->poller && sample->duration_ns >= counters->interval_ns) {
        counters->spans[counters->n_spans++ % SPANS] = (struct span){
            .phase = sample->phase,
            .stage = sample->stage,
            .begin_ns = sample->begin_ns,
            .end_ns = sample->begin_ns + sample->duration_ns,
        };
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct counters *counters = user;
    counters->tokens += sample->n_tokens;
    if (counters->poller) {
        drain(counters, sample->begin_ns + sample->duration_ns);
    }
}

struct sample_sink counters_sink(struct counters *counters)
{
    return (struct sample_sink){.user = counters, .source = on_source, .stage = on_stage, .step = on_step};
}

// ---------------------------------------------------------------------------------------------------------------------
// The CPU's counts

static void observe_step_begin(void *user, const struct observed_step *step)
{
    struct counters *counters = user;
    counters->phase = step->phase;
    perf_events_read(counters->perf, &counters->step_begin);
    counters->step_begin_ns = collector_now_ns();
    if (counters->inner->step_begin) {
        counters->inner->step_begin(counters->inner->user, step);
    }
}

static void observe_step_end(void *user, const struct observed_step *step)
{
    struct counters *counters = user;
    struct perf_counts now;
    perf_events_read(counters->perf, &now);
    int64_t now_ns = collector_now_ns();
    double seconds = (double)(now_ns - counters->step_begin_ns) * 1e-9;
    for (int i = 0; i < PERF_EVENTS && seconds > 0; i++) {
        tell(counters, counters->metric[i], unit_of(counters, i), (now.of[i] - counters->step_begin.of[i]) / seconds,
             counters->step_begin_ns);
    }
    if (counters->inner->step_end) {
        counters->inner->step_end(counters->inner->user, step);
    }
}

// Readings lie outside of what the inner observer times.
static void observe_stage_begin(void *user, const struct observed_stage *stage)
{
    struct counters *counters = user;
    perf_events_read(counters->perf, &counters->stage_begin);
    counters->stage_begin_ns = collector_now_ns();
    if (counters->inner->stage_begin) {
        counters->inner->stage_begin(counters->inner->user, stage);
    }
}

static void observe_stage_end(void *user, const struct observed_stage *stage)
{
    struct counters *counters = user;
    struct perf_counts now;
    if (counters->inner->stage_end) {
        counters->inner->stage_end(counters->inner->user, stage);
    }
    int64_t now_ns = collector_now_ns();
    perf_events_read(counters->perf, &now);
    struct total *total = &counters->totals[counters->phase * STAGE_COUNT + stage->stage];
    for (int i = 0; i < PERF_EVENTS; i++) {
        total->sum[i] += now.of[i] - counters->stage_begin.of[i];
    }
    total->n++;
    total->seconds += (double)(now_ns - counters->stage_begin_ns) * 1e-9;
}

static void observe_layer_begin(void *user, int32_t layer)
{
    const struct observer *inner = ((struct counters *)user)->inner;
    inner->layer_begin(inner->user, layer);
}

static void observe_layer_end(void *user, int32_t layer)
{
    const struct observer *inner = ((struct counters *)user)->inner;
    inner->layer_end(inner->user, layer);
}

static void observe_request(void *user, const struct request_sample *request)
{
    const struct observer *inner = ((struct counters *)user)->inner;
    inner->request(inner->user, request);
}

static void observe_counter(void *user, enum counter counter, double value)
{
    const struct observer *inner = ((struct counters *)user)->inner;
    inner->counter(inner->user, counter, value);
}

const struct observer *counters_observer(struct counters *counters, const struct observer *inner)
{
    if (!counters->perf) {
        return inner;
    }
    counters->inner = inner;
    counters->observer = (struct observer){
        .user = counters,
        .step_begin = observe_step_begin,
        .step_end = observe_step_end,
        .layer_begin = inner->layer_begin ? observe_layer_begin : NULL,
        .layer_end = inner->layer_end ? observe_layer_end : NULL,
        .stage_begin = observe_stage_begin,
        .stage_end = observe_stage_end,
        .request = inner->request ? observe_request : NULL,
        .counter = inner->counter ? observe_counter : NULL,
    };
    return &counters->observer;
}

// ---------------------------------------------------------------------------------------------------------------------
// Averages

int32_t counters_metrics(const struct counters *counters)
{
    return counters->n_metrics;
}

const char *counters_metric(const struct counters *counters, int32_t i, const char **unit)
{
    *unit = unit_of(counters, i);
    return counters->metric[i];
}

bool counters_average(const struct counters *counters, int32_t i, struct counters_average *out)
{
    for (int32_t at = 0; at < TOTALS; at++) {
        const struct total *total = &counters->totals[at];
        if (total->n == 0 || i-- > 0) {
            continue;
        }
        *out = (struct counters_average){
            .phase = (enum phase)(at / STAGE_COUNT),
            .stage = (enum stage)(at % STAGE_COUNT),
            .n = total->n,
            .seconds = total->seconds,
        };
        for (int32_t m = 0; m < counters->n_metrics; m++) {
            out->value[m] = total->sum[m] / total->seconds;
        }
        return true;
    }
    return false;
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int open_gpu(struct counters *counters, const struct counters_options *options)
{
    struct pm_options pm = {
        .device = options->device, .interval_ns = counters->interval_ns, .libraries = options->libraries};
    const double readings_per_s = options->readings_per_s > 0 ? options->readings_per_s : default_readings_per_s;
    struct pm_sampler *sampler = NULL;
    struct nvml *nvml = NULL;
    if (pm_sampler_open(&sampler, &pm)) {
        note(counters);
    } else {
        const char *const *metrics = pm_sampler_metrics(sampler, &counters->n_metrics);
        memcpy(counters->metric, metrics, (size_t)counters->n_metrics * sizeof *metrics);
    }
    if (nvml_open(&nvml, options->device, options->nvml_library, options->libraries.driver)) {
        note(counters);
    }
    if (!sampler && !nvml) {
        return 0;
    }
    const bool both = sampler && nvml;
    int error = poller_open(&counters->poller, sampler, nvml, readings_per_s);
    if (error && error != -ENOMEM) {
        note(counters);
        counters->n_metrics = 0;
        error = 0;
        // NVML works also where the sampler does not start.
        if (both && nvml_open(&nvml, options->device, options->nvml_library, options->libraries.driver) == 0) {
            error = poller_open(&counters->poller, NULL, nvml, readings_per_s);
            error = error == -ENOMEM ? error : 0;    // what keeps this from starting, too, was noted
        }
    }
    return error;
}

static void open_cpu(struct counters *counters)
{
    if (perf_events_open(&counters->perf)) {
        note(counters);
        return;
    }
    for (int i = 0; i < PERF_EVENTS; i++) {
        counters->metric[counters->n_metrics++] = perf_event_name((enum perf_event)i);
    }
}

int counters_open(struct counters **out, const struct counters_options *options)
{
    *out = NULL;
    struct counters *counters = calloc(1, sizeof *counters);
    if (counters) {
        counters->sink = options->sink;
        counters->source = -1;
        counters->interval_ns = options->interval_ns > 0 ? options->interval_ns : default_interval_ns;
        counters->spans = malloc(SPANS * sizeof *counters->spans);
        counters->totals = calloc(TOTALS, sizeof *counters->totals);
    }
    int error = counters && counters->spans && counters->totals ? 0 : status_fail(-ENOMEM, "no memory for counters");
    if (!error && options->gpu) {
        error = open_gpu(counters, options);
    } else if (!error) {
        open_cpu(counters);
    }
    if (error) {
        counters_close(counters);
        return error;
    }
    *out = counters;
    return 0;
}

void counters_stop(struct counters *counters)
{
    if (!counters->poller) {
        return;
    }
    if (poller_stop(counters->poller)) {
        note(counters);
    }
    drain(counters, INT64_MAX);
    close_energy_window(counters, collector_now_ns());
    struct poller *poller = counters->poller;
    counters->poller = NULL;
    poller_close(poller);
}

void counters_close(struct counters *counters)
{
    if (!counters) {
        return;
    }
    if (counters->poller) {
        counters_stop(counters);
    }
    perf_events_close(counters->perf);
    free(counters->spans);
    free(counters->totals);
    free(counters);
}
