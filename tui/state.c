// tui/state.c - the dashboard's sink: finds the method of each sample, collects a step's stages, closes the step.
//
// Stages arrive before their step. They wait in `pending` and enter the windows when the step comes, so that a row of
// the window is a whole step; stages of a step that never comes are counted as lost.
#include "tui/state.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "tui/forecast.h"
#include "tui/source_names.h"
#include "tui/window.h"

enum {
    PREFILLS = 32,                     // recent prompts, for their median
    GAUGES = 48                        // NVML's and a collection of hardware counters; more are not looked at
};
static const int64_t LATEST_NS = INT64_C(1) << 61;      // 73 years of uptime: beyond is a damaged file
static const int64_t LONGEST_NS = INT64_C(1) << 50;     // 13 days in one stage: likewise; 256 of them still add up

struct flight {
    int64_t request, submitted_ns, running_ns;
    bool used;
};

struct method {
    struct method_summary told;
    struct phase_window *phases[PHASE_COUNT];    // owned; NULL until a step comes
    struct kernel_table *kernels;                // owned; NULL until a kernel comes
    struct flight flights[STATE_REQUESTS];       // by request modulo STATE_REQUESTS
    double prefill_s[PREFILLS];
    int64_t n_prefills;
    int32_t forecast_seqs, forecast_context, forecast_output;    // what the prediction was made for
};

struct state {
    struct method *methods[STATE_METHODS];       // owned
    int32_t n_methods, current;
    struct { int32_t id, method; bool used; } ids[SOURCE_IDS];    // by id modulo SOURCE_IDS
    struct window_call *pending;                 // [n_pending] of one step of one source
    int64_t n_pending, pending_capacity, pending_step;
    int32_t pending_source;
    int64_t lost, last_ns;
    struct timeline *timeline;                   // owned
    struct name_table *names;                    // owned
    struct request_log *requests;                // owned
    struct { const char *name; double value; } gauges[GAUGES];    // names: of `names`
    int32_t n_gauges;
    struct state_mark marks[STATE_MARKS];        // n modulo STATE_MARKS
    int64_t n_marks;
    bool has_device;
    struct device device;
};

int state_open(struct state **out, const struct device *device)
{
    *out = calloc(1, sizeof **out);
    if (!*out) {
        return status_fail(-ENOMEM, "out of memory for the dashboard");
    }
    (*out)->current = -1;
    if (device) {
        (*out)->device = *device;
        (*out)->has_device = device->bytes_per_s.value > 0;
    }
    int error = timeline_open(&(*out)->timeline, TIMELINE_SPANS);
    error = error ? error : request_log_open(&(*out)->requests);
    error = error ? error : name_table_open(&(*out)->names);
    if (error) {
        state_close(*out);
        *out = NULL;
    }
    return error;
}

static void method_free(struct method *method)
{
    for (int phase = 0; method && phase < PHASE_COUNT; phase++) {
        free(method->phases[phase]);
    }
    if (method) {
        free(method->kernels);
    }
    free(method);
}

void state_close(struct state *state)
{
    for (int32_t i = 0; state && i < state->n_methods; i++) {
        method_free(state->methods[i]);
    }
    if (state) {
        free(state->pending);
        timeline_close(state->timeline);
        request_log_close(state->requests);
        name_table_close(state->names);
    }
    free(state);
}

// What is known of a method before its first sample.
static struct method_summary nothing_told(const struct sample_source *source, int64_t last_ns)
{
    return (struct method_summary){
        .source = *source, .ttft_s = NAN, .prefill_s = NAN, .kv_peak_bytes = NAN, .batch = NAN,
        .queue = NAN, .predicted_prefill_s = NAN, .predicted_tokens_per_s = NAN,
        .last_ns = last_ns,
    };
}

void state_forget(struct state *state)
{
    for (int32_t i = 0; i < state->n_methods; i++) {
        struct method *method = state->methods[i];
        for (int phase = 0; phase < PHASE_COUNT; phase++) {
            free(method->phases[phase]);
        }
        free(method->kernels);
        *method = (struct method){.told = nothing_told(&method->told.source, method->told.last_ns)};
    }
    state->n_gauges = 0;    // of another device, perhaps
}

static struct sample_source cleaned(const struct sample_source *source)
{
    struct sample_source copy = *source;
    copy.device[SOURCE_NAME_BYTES - 1] = copy.backend[SOURCE_NAME_BYTES - 1] = 0;
    copy.model[SOURCE_NAME_BYTES - 1] = copy.method[SOURCE_NAME_BYTES - 1] = 0;
    copy.weight_dtype = (unsigned)copy.weight_dtype < DTYPE_COUNT ? copy.weight_dtype : DTYPE_F32;
    return copy;
}

static bool same_source(const struct sample_source *a, const struct sample_source *b)
{
    return strcmp(a->device, b->device) == 0 && strcmp(a->backend, b->backend) == 0 &&
           strcmp(a->model, b->model) == 0 && strcmp(a->method, b->method) == 0 && a->n_layers == b->n_layers &&
           a->top_k == b->top_k && a->unit_tokens == b->unit_tokens && a->index_sets == b->index_sets &&
           a->window_tokens == b->window_tokens && a->page_tokens == b->page_tokens &&
           a->weight_dtype == b->weight_dtype && a->kv_dtype == b->kv_dtype && a->index_dtype == b->index_dtype &&
           a->threads == b->threads && a->graph == b->graph;
}

// A place for a new method: a free one, or that of the method unseen for longest. -1: no memory.
static int32_t take_place(struct state *state)
{
    struct method *method = calloc(1, sizeof *method);
    if (!method) {
        return -1;
    }
    int32_t place = state->n_methods;
    if (place == STATE_METHODS) {
        place = 0;
        for (int32_t i = 1; i < STATE_METHODS; i++) {
            if (state->methods[i]->told.last_ns < state->methods[place]->told.last_ns) {
                place = i;
            }
        }
        method_free(state->methods[place]);
        for (int32_t i = 0; i < SOURCE_IDS; i++) {
            state->ids[i].used = state->ids[i].used && state->ids[i].method != place;
        }
    } else {
        state->n_methods++;
    }
    state->methods[place] = method;
    return place;
}

static void on_source(void *user, const struct sample_source *announced)
{
    struct state *state = user;
    struct sample_source source = cleaned(announced);
    struct sample_sink timeline = timeline_sink(state->timeline), requests = request_log_sink(state->requests);
    int32_t place = 0;
    timeline.source(timeline.user, &source);
    requests.source(requests.user, &source);
    while (place < state->n_methods && !same_source(&state->methods[place]->told.source, &source)) {
        place++;
    }
    if (place == state->n_methods) {
        place = take_place(state);
        if (place < 0) {
            state->lost++;
            return;
        }
        state->methods[place]->told = nothing_told(&source, state->last_ns);
    }
    int32_t slot = (int32_t)((uint32_t)source.id % SOURCE_IDS);
    state->ids[slot].id = source.id;
    state->ids[slot].method = place;
    state->ids[slot].used = true;
}

// The method of a sample, which becomes the current one; NULL if its source is unknown or its times make no sense.
static struct method *method_of(struct state *state, int32_t id, int64_t begin_ns, int64_t duration_ns)
{
    int32_t slot = (int32_t)((uint32_t)id % SOURCE_IDS);
    if (!state->ids[slot].used || state->ids[slot].id != id || begin_ns < 0 || begin_ns > LATEST_NS ||
        duration_ns < 0 || duration_ns > LONGEST_NS) {
        state->lost++;
        return NULL;
    }
    state->current = state->ids[slot].method;
    struct method *method = state->methods[state->current];
    int64_t end_ns = begin_ns + duration_ns;
    method->told.last_ns = end_ns > method->told.last_ns ? end_ns : method->told.last_ns;
    state->last_ns = end_ns > state->last_ns ? end_ns : state->last_ns;
    return method;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    struct state *state = user;
    if ((unsigned)sample->stage >= STAGE_COUNT || (unsigned)sample->phase >= PHASE_COUNT) {
        state->lost++;
        return;
    }
    if (!method_of(state, sample->source, sample->begin_ns, sample->duration_ns)) {
        return;
    }
    struct sample_sink timeline = timeline_sink(state->timeline);
    timeline.stage(timeline.user, sample);
    if (sample->source != state->pending_source || sample->step != state->pending_step) {
        state->lost += state->n_pending;
        state->n_pending = 0;
        state->pending_source = sample->source;
        state->pending_step = sample->step;
    }
    if (state->n_pending == state->pending_capacity) {
        int64_t capacity = state->pending_capacity ? 2 * state->pending_capacity : 1024;
        struct window_call *grown = realloc(state->pending, (size_t)capacity * sizeof *grown);
        if (!grown) {
            state->lost++;
            return;
        }
        state->pending = grown;
        state->pending_capacity = capacity;
    }
    state->pending[state->n_pending++] = (struct window_call){
        .stage = sample->stage, .begin_ns = sample->begin_ns, .duration_ns = sample->duration_ns,
        .bytes = (double)sample->bytes, .flops = (double)sample->flops,
    };
}

static void on_step(void *user, const struct step_sample *sample)
{
    struct state *state = user;
    if ((unsigned)sample->phase >= PHASE_COUNT) {
        state->lost++;
        return;
    }
    struct method *method = method_of(state, sample->source, sample->begin_ns, sample->duration_ns);
    if (!method) {
        return;
    }
    if (sample->source != state->pending_source || sample->step != state->pending_step) {
        state->lost += state->n_pending;
        state->n_pending = 0;
    }
    struct sample_sink timeline = timeline_sink(state->timeline);
    timeline.step(timeline.user, sample);
    struct phase_window **window = &method->phases[sample->phase];
    if (!*window) {
        *window = calloc(1, sizeof **window);
    }
    if (*window) {
        window_add(*window, sample, state->pending, state->n_pending, state_device(state),
                   method->told.source.weight_dtype);
    } else {
        state->lost += state->n_pending + 1;
    }
    state->n_pending = 0;
}

// Predictions follow what the requests turned out to be.
static void predict(struct state *state, struct method *method)
{
    const struct phase_window *decode = method->phases[PHASE_DECODE];
    int32_t seqs = decode ? window_last(decode)->n_seqs : 1;
    int32_t context = method->told.prompt_tokens, output = method->told.output_tokens;
    if (seqs != method->forecast_seqs || context != method->forecast_context || output != method->forecast_output) {
        forecast(&method->told.predicted_prefill_s, &method->told.predicted_tokens_per_s, state_device(state),
                 &method->told.source, seqs, context, output);
        method->forecast_seqs = seqs;
        method->forecast_context = context;
        method->forecast_output = output;
    }
}

void state_set_device(struct state *state, const struct device *device)
{
    state->has_device = device && device->bytes_per_s.value > 0;
    if (device) {
        state->device = *device;
    }
    for (int32_t i = 0; i < state->n_methods && state->has_device; i++) {
        struct method *method = state->methods[i];
        for (int phase = 0; phase < PHASE_COUNT; phase++) {
            window_reprice(method->phases[phase], device, method->told.source.weight_dtype);
        }
        method->forecast_seqs = -1;
        predict(state, method);
    }
}

static void on_first_token(struct method *method, const struct flight *flight, const struct request_sample *sample)
{
    method->told.prompt_tokens = sample->prompt_tokens;
    if (flight->used && flight->request == sample->request) {
        method->told.ttft_s = (double)(sample->time_ns - flight->submitted_ns) * 1e-9;
        double prefill_s = (double)(sample->time_ns - flight->running_ns) * 1e-9;
        method->prefill_s[method->n_prefills++ % PREFILLS] = prefill_s;
        int32_t n = method->n_prefills < PREFILLS ? (int32_t)method->n_prefills : PREFILLS;
        method->told.prefill_s = window_percentile(method->prefill_s, n, 0.5);
    }
}

static void on_request(void *user, const struct request_sample *sample)
{
    struct state *state = user;
    struct method *method = method_of(state, sample->source, sample->time_ns, 0);
    if (!method) {
        return;
    }
    struct sample_sink requests = request_log_sink(state->requests);
    requests.request(requests.user, sample);
    struct flight *flight = &method->flights[(uint64_t)sample->request % STATE_REQUESTS];
    switch (sample->state) {
    case REQUEST_SUBMITTED:
        method->told.submitted++;
        *flight = (struct flight){.request = sample->request, .submitted_ns = sample->time_ns,
                                  .running_ns = sample->time_ns, .used = true};
        break;
    case REQUEST_RUNNING:
        method->told.running++;
        if (flight->request == sample->request) {
            flight->running_ns = sample->time_ns;
        }
        break;
    case REQUEST_FIRST_TOKEN:
        on_first_token(method, flight, sample);
        predict(state, method);
        break;
    case REQUEST_FINISHED:
        method->told.finished++;
        method->told.running -= method->told.running > 0;
        method->told.output_tokens = sample->output_tokens;
        predict(state, method);
        break;
    }
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    struct state *state = user;
    struct method *method = method_of(state, sample->source, sample->time_ns, 0);
    if (!method || !isfinite(sample->value)) {
        return;
    }
    struct method_summary *told = &method->told;
    switch (sample->counter) {
    case COUNTER_BATCH: told->batch = sample->value; break;
    case COUNTER_QUEUE: told->queue = sample->value; break;
    case COUNTER_KV_BYTES:
        told->kv_peak_bytes = told->kv_peak_bytes > sample->value ? told->kv_peak_bytes : sample->value;
        break;
    case COUNTER_TOKENS_PER_S: case COUNTER_COUNT: break;    // the windows tell the rate
    }
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    struct state *state = user;
    bool known = (unsigned)sample->phase < PHASE_COUNT && (unsigned)sample->stage <= STAGE_COUNT && sample->name;
    struct method *method = known ? method_of(state, sample->source, sample->begin_ns, sample->duration_ns) : NULL;
    if (method && !method->kernels) {
        method->kernels = calloc(1, sizeof *method->kernels);
    }
    if (method && method->kernels) {
        kernel_table_add(method->kernels, state->names, sample);
    } else {
        state->lost++;
    }
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct state *state = user;
    int32_t i = 0;
    while (i < state->n_gauges && strcmp(state->gauges[i].name, sample->name) != 0) {
        i++;
    }
    if (i == GAUGES) {
        return;
    }
    if (i == state->n_gauges) {
        state->gauges[state->n_gauges++].name = name_table_keep(state->names, sample->name);
    }
    state->gauges[i].value = sample->value;
}

double state_gauge(const struct state *state, const char *name)
{
    for (int32_t i = 0; i < state->n_gauges; i++) {
        if (strcmp(state->gauges[i].name, name) == 0) {
            return state->gauges[i].value;
        }
    }
    return NAN;
}

struct sample_sink state_sink(struct state *state)
{
    return (struct sample_sink){.user = state, .source = on_source, .stage = on_stage, .step = on_step,
                                .request = on_request, .counter = on_counter, .kernel = on_kernel, .gauge = on_gauge};
}

int32_t state_method_count(const struct state *state)
{
    return state->n_methods;
}

int32_t state_current_method(const struct state *state)
{
    return state->current;
}

void state_method(const struct state *state, int32_t method, struct method_summary *out)
{
    *out = state->methods[method]->told;
    if (isnan(out->queue) && out->submitted > 0) {
        int64_t waiting = out->submitted - out->running - out->finished;
        out->queue = waiting > 0 ? (double)waiting : 0;
    }
}

int32_t state_find_method(const struct state *state, const char *name)
{
    for (int32_t i = 0; i < state->n_methods; i++) {
        if (strcmp(state->methods[i]->told.source.method, name) == 0) {
            return i;
        }
    }
    return -1;
}

void state_label(const struct state *state, int32_t method, char *label, int32_t bytes)
{
    const struct sample_source *source = &state->methods[method]->told.source;
    bool other_k = false, other_model = false, other_backend = false;
    for (int32_t i = 0; i < state->n_methods; i++) {
        const struct sample_source *other = &state->methods[i]->told.source;
        if (i != method && strcmp(other->method, source->method) == 0) {
            other_k = other_k || other->top_k != source->top_k;
            other_model = other_model || strcmp(other->model, source->model) != 0;
            other_backend = other_backend || strcmp(other->backend, source->backend) != 0;
        }
    }
    int length = snprintf(label, (size_t)bytes, "%s", source->method);
    if (other_k && length < bytes) {
        length += snprintf(label + length, (size_t)(bytes - length), " k=%d", source->top_k);
    }
    if (other_model && length < bytes) {
        length += snprintf(label + length, (size_t)(bytes - length), " %s", source->model);
    }
    if (other_backend && length < bytes) {
        snprintf(label + length, (size_t)(bytes - length), " %s", source->backend);
    }
}

bool state_phase(const struct state *state, int32_t method, enum phase phase, struct phase_summary *out)
{
    return window_summary(state->methods[method]->phases[phase], state_device(state), out);
}

int32_t state_history(const struct state *state, int32_t method, enum phase phase, double *duration_ns, int32_t n)
{
    return window_history(state->methods[method]->phases[phase], duration_ns, n);
}

int64_t state_history_begin(const struct state *state, int32_t method, enum phase phase, int32_t i, int32_t n)
{
    const struct phase_window *window = state->methods[method]->phases[phase];
    return window->steps[(window->n_steps - n + i) % STATE_STEPS].begin_ns;
}

void state_add_mark(struct state *state, const char *text)
{
    struct state_mark *mark = &state->marks[state->n_marks++ % STATE_MARKS];
    mark->time_ns = state->last_ns;
    snprintf(mark->text, sizeof mark->text, "%s", text);
}

const struct state_mark *state_mark(const struct state *state, int32_t n)
{
    int64_t first = state->n_marks > STATE_MARKS ? state->n_marks - STATE_MARKS : 0;
    return first + n < state->n_marks ? &state->marks[(first + n) % STATE_MARKS] : NULL;
}

int32_t state_stage_history(const struct state *state, int32_t method, enum phase phase, enum stage stage,
                            double *bytes_per_s, double *flops_per_s, int32_t n)
{
    const struct phase_window *window = state->methods[method]->phases[phase];
    int64_t kept = !window ? 0 : window->n_steps < STATE_STEPS ? window->n_steps : STATE_STEPS;
    int32_t count = 0;
    for (int64_t i = kept; i > 0 && count < n; i--) {    // the newest first, then turned around
        const struct window_stage *at = &window->steps[(window->n_steps - (kept - i) - 1) % STATE_STEPS].stages[stage];
        if (at->duration_ns > 0) {
            bytes_per_s[count] = at->bytes / (double)at->duration_ns * 1e9;
            flops_per_s[count++] = at->flops / (double)at->duration_ns * 1e9;
        }
    }
    for (int32_t i = 0; i < count / 2; i++) {
        double bytes = bytes_per_s[i], flops = flops_per_s[i];
        bytes_per_s[i] = bytes_per_s[count - 1 - i];
        flops_per_s[i] = flops_per_s[count - 1 - i];
        bytes_per_s[count - 1 - i] = bytes;
        flops_per_s[count - 1 - i] = flops;
    }
    return count;
}

const struct kernel_table *state_kernels(const struct state *state, int32_t method)
{
    return state->methods[method]->kernels;
}

int64_t state_lost(const struct state *state)
{
    return state->lost;
}

const struct device *state_device(const struct state *state)
{
    return state->has_device ? &state->device : NULL;
}

int64_t state_last_ns(const struct state *state)
{
    return state->last_ns;
}

const struct timeline *state_timeline(const struct state *state)
{
    return state->timeline;
}

const struct request_log *state_requests(const struct state *state)
{
    return state->requests;
}
