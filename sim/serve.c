// sim/serve.c - the event loop: arrivals, steps, jumps.
//
// A jump covers steps for which scheduler_steady() promises the same decision; it ends early when a request arrives that
// would be let in. Arrivals that could only wait do not end it: they are handed to the scheduler in order afterwards, and
// nothing that it does depends on how long they have been in its queue.
#include "sim/serve.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"
#include "engine/status.h"

enum { DEFAULT_SEQS = 256, DEFAULT_STEP_TOKENS = 2048, MAX_SEQS = 1 << 16, MAX_STEP_TOKENS = 1 << 24 };

struct service {
    const struct workload *workload;
    struct serve_options options;    // defaults filled in
    struct serve_result *result;
    struct kv_pages *pages;
    struct scheduler *scheduler;
    struct step_price *price;
    double now_s;
    int64_t next, n_known;           // the next request to hand over; requests whose arrival is known
    int64_t n_finished;
    double output_tokens;            // put out since the last point
    double interval_s, next_point_s;
    // Of one step.
    struct scheduled *parts;         // [max_seqs]
    struct work *work;               // [max_seqs]
    bool *ended;                     // [max_seqs] always false: texts end at their length
    int64_t *preempted, *finished;   // [max_seqs]
};

// ---------------------------------------------------------------------------------------------------------------------
// Arrivals, ends

enum event { EVENT_START, EVENT_CHUNK, EVENT_PREEMPT, EVENT_FINISH };

static void remember(struct service *service, enum event event, int64_t request, int64_t detail)
{
    uint64_t hash = service->result->decisions;
    const int64_t values[] = {event, request, detail, service->result->steps};
    for (int i = 0; i < 4; i++) {
        hash = (hash ^ (uint64_t)values[i]) * 1099511628211u;
    }
    service->result->decisions = hash;
}

// In a closed loop, one request done lets the next one come.
static void follow(struct service *service)
{
    if (service->workload->users > 0 && service->n_known < service->workload->n) {
        service->result->records[service->n_known++].arrival_s = service->now_s + 1e-9 * (double)service->workload->pause_ns;
    }
}

static int submit_arrived(struct service *service)
{
    struct serve_result *result = service->result;
    for (; service->next < service->n_known && result->records[service->next].arrival_s <= service->now_s; service->next++) {
        struct request_record *record = &result->records[service->next];
        int error = scheduler_submit(service->scheduler, service->next, record->prompt_tokens, record->output_tokens);
        if (error == -EINVAL) {
            record->rejected = true;
            if (!result->first_rejection[0]) {
                snprintf(result->first_rejection, sizeof result->first_rejection, "request %lld: %.200s",
                         (long long)service->next, status_text());
            }
            follow(service);
        } else if (error) {
            return error;
        }
    }
    return 0;
}

static void finish(struct service *service, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        service->result->records[service->finished[i]].finished_s = service->now_s;
        remember(service, EVENT_FINISH, service->finished[i], kv_pages_used(service->pages));
        follow(service);
        service->n_finished++;
        if (service->options.progress && service->n_finished % 256 == 0) {
            service->options.progress(service->options.progress_user, service->n_finished, service->workload->n);
        }
    }
}

static void note_use(struct service *service, int64_t pages, int32_t running)
{
    struct serve_result *result = service->result;
    const struct plan *plan = service->options.plan;
    int64_t bytes = pages * plan->page_tokens * plan_kv_bytes_per_token(plan) + running * plan_kv_bytes_per_sequence(plan);
    result->peak_pages = pages > result->peak_pages ? pages : result->peak_pages;
    result->peak_running = running > result->peak_running ? running : result->peak_running;
    result->peak_kv_bytes = bytes > result->peak_kv_bytes ? bytes : result->peak_kv_bytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

static void take_step(struct service *service)
{
    struct serve_result *result = service->result;
    int32_t n_preempted, n_finished;
    int32_t n = scheduler_next(service->scheduler, service->parts, service->preempted, &n_preempted);
    note_use(service, kv_pages_used(service->pages), scheduler_running(service->scheduler));
    for (int32_t i = 0; i < n_preempted; i++) {
        result->records[service->preempted[i]].preemptions++;
        remember(service, EVENT_PREEMPT, service->preempted[i], i);
    }
    for (int32_t i = 0; i < n; i++) {
        const struct scheduled *part = &service->parts[i];
        struct request_record *record = &result->records[part->request];
        service->work[i] = (struct work){part->context_tokens, part->new_tokens, part->wants_logits};
        if (isnan(record->started_s)) {
            record->started_s = service->now_s;
            remember(service, EVENT_START, part->request, part->slot);
        }
        if (part->new_tokens > 1 || !part->wants_logits) {
            remember(service, EVENT_CHUNK, part->request, part->new_tokens);
        }
    }
    service->now_s += step_price_seconds(service->price, service->work, n);
    for (int32_t i = 0; i < n; i++) {
        if (service->parts[i].wants_logits) {
            struct request_record *record = &result->records[service->parts[i].request];
            record->first_token_s = isnan(record->first_token_s) ? service->now_s : record->first_token_s;
            service->output_tokens++;
        }
    }
    result->steps++;
    scheduler_complete(service->scheduler, service->parts, service->ended, n, service->finished, &n_finished);
    finish(service, n_finished);
}

// Up to `steps` steps in which the n sequences of service->parts draw one token each.
static void jump(struct service *service, int32_t steps, int32_t n)
{
    struct serve_result *result = service->result;
    bool room = scheduler_waiting(service->scheduler) == 0 && n < service->options.max_seqs &&
                n < service->options.max_step_tokens;
    double until_s = service->next_point_s;
    if (room && service->next < service->n_known && result->records[service->next].arrival_s < until_s) {
        until_s = result->records[service->next].arrival_s;
    }
    for (int32_t i = 0; i < n; i++) {
        service->work[i] = (struct work){service->parts[i].context_tokens, 1, 1};
    }
    step_price_walk(service->price, service->work, n);
    int32_t taken = 0, n_finished;
    while (taken < steps && (taken == 0 || service->now_s < until_s)) {
        service->now_s += step_price_next(service->price);
        taken++;
    }
    int64_t pages = 0;
    for (int32_t i = 0; i < n; i++) {
        pages += kv_pages_for(service->pages, service->work[i].context_tokens + taken);
    }
    note_use(service, pages, n);
    result->steps += taken;
    result->jumped_steps += taken;
    service->output_tokens += (double)taken * n;
    scheduler_skip(service->scheduler, taken, service->finished, &n_finished);
    finish(service, n_finished);
}

// ---------------------------------------------------------------------------------------------------------------------
// Timeline

// Halves the points when they are full, so that any length of time fits.
static void take_point(struct service *service)
{
    struct serve_result *result = service->result;
    if (service->now_s < service->next_point_s) {
        return;
    }
    if (result->n_points == SERVE_MAX_POINTS) {
        for (int32_t i = 0; i < SERVE_MAX_POINTS / 2; i++) {
            struct serve_point *first = &result->points[2 * i], *second = first + 1;
            double begin_s = i > 0 ? result->points[i - 1].time_s : 0, long_s = second->time_s - begin_s;
            double first_s = first->time_s - begin_s, tokens_per_s = second->output_tokens_per_s;
            if (long_s > 0) {
                tokens_per_s = (first->output_tokens_per_s * first_s + second->output_tokens_per_s * (long_s - first_s)) / long_s;
            }
            result->points[i] = *second;
            result->points[i].output_tokens_per_s = tokens_per_s;
        }
        result->n_points /= 2;
        service->interval_s *= 2;
    }
    double last_s = result->n_points > 0 ? result->points[result->n_points - 1].time_s : 0;
    result->points[result->n_points++] = (struct serve_point){
        .time_s = service->now_s,
        .running = scheduler_running(service->scheduler),
        .waiting = scheduler_waiting(service->scheduler),
        .kv_pages = kv_pages_used(service->pages),
        .output_tokens_per_s = service->now_s > last_s ? service->output_tokens / (service->now_s - last_s) : 0,
    };
    service->output_tokens = 0;
    service->next_point_s = service->now_s + service->interval_s;
}

static int run(struct service *service)
{
    for (;;) {
        int error = submit_arrived(service);
        if (error) {
            return error;
        }
        if (service->options.stop && *service->options.stop) {
            service->result->stopped = true;
            return 0;
        }
        take_point(service);
        if (scheduler_running(service->scheduler) + scheduler_waiting(service->scheduler) == 0) {
            if (service->next == service->n_known) {
                return 0;
            }
            service->now_s = fmax(service->now_s, service->result->records[service->next].arrival_s);
            continue;
        }
        int32_t n = 0;
        int32_t steps = service->options.every_step ? 0 : scheduler_steady(service->scheduler, service->parts, &n);
        if (steps > 1) {
            jump(service, steps, n);
        } else {
            take_step(service);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int complete_options(struct serve_options *o)
{
    o->max_seqs = o->max_seqs ? o->max_seqs : DEFAULT_SEQS;
    o->max_step_tokens = o->max_step_tokens ? o->max_step_tokens : DEFAULT_STEP_TOKENS;
    o->memory_share = o->memory_share > 0 ? o->memory_share : 0.9;
    if (o->max_seqs < 1 || o->max_seqs > MAX_SEQS || o->max_step_tokens < 1 || o->max_step_tokens > MAX_STEP_TOKENS) {
        return status_fail(-EINVAL, "%d sequences and %d tokens per step: expected 1 to %d and 1 to %d", o->max_seqs,
                           o->max_step_tokens, MAX_SEQS, MAX_STEP_TOKENS);
    }
    return plan_check(o->plan);
}

// How many pages there are: those that were asked for, or what memory leaves; never more than the workload could fill.
static int count_pages(int64_t *out, const struct serve_options *o, const struct workload *workload)
{
    const struct plan *plan = o->plan;
    double page_bytes = (double)plan_kv_bytes_per_token(plan) * plan->page_tokens;
    double weights = (double)plan_weight_bytes(plan), rings = (double)plan_kv_bytes_per_sequence(plan) * o->max_seqs;
    double usable = o->device->memory_bytes.value * o->memory_share, n_pages = floor((usable - weights - rings) / page_bytes);
    int64_t longest = 1;
    for (int64_t i = 0; i < workload->n; i++) {
        int64_t tokens = (int64_t)workload->requests[i].prompt_tokens + workload->requests[i].output_tokens;
        longest = tokens > longest ? tokens : longest;
    }
    if (o->cache_tokens > 0) {
        n_pages = ceil((double)o->cache_tokens / plan->page_tokens);
    } else if (!(o->device->memory_bytes.value > 0)) {
        return status_fail(-EINVAL, "device %s: its memory is unknown; give the cache a size", o->device->name);
    } else if (n_pages < 1) {
        return status_fail(-EINVAL, "does not fit: weights %.4g GB + windows of %d sequences %.4g GB leave nothing of %.4g "
                           "GB for the KV cache; fewer sequences or a larger device would", 1e-9 * weights, o->max_seqs,
                           1e-9 * rings, 1e-9 * usable);
    }
    double useful = (double)o->max_seqs * (double)((longest - 1) / plan->page_tokens + 1);
    n_pages = fmin(n_pages, fmin(useful, INT32_MAX));
    *out = (int64_t)n_pages;
    return 0;
}

static int open_service(struct service *service)
{
    struct serve_options *o = &service->options;
    struct serve_result *result = service->result;
    size_t seqs = (size_t)o->max_seqs;
    int error = count_pages(&result->n_pages, o, service->workload);
    struct scheduler_options scheduler_options = {.max_seqs = o->max_seqs, .max_step_tokens = o->max_step_tokens};
    struct step_price_options price_options = {.device = o->device,
                                               .plan = o->plan,
                                               .timer = o->timer,
                                               .step_overhead_s = o->step_overhead_s,
                                               .max_seqs = o->max_seqs};
    error = error ? error : kv_pages_open(&service->pages, (int32_t)result->n_pages, o->plan->page_tokens, o->max_seqs);
    error = error ? error : scheduler_open(&service->scheduler, &scheduler_options, service->pages);
    error = error ? error : step_price_open(&service->price, &price_options);
    if (error) {
        return error;
    }
    service->parts = calloc(seqs, sizeof *service->parts);
    service->work = calloc(seqs, sizeof *service->work);
    service->ended = calloc(seqs, sizeof *service->ended);
    service->preempted = calloc(seqs, sizeof *service->preempted);
    service->finished = calloc(seqs, sizeof *service->finished);
    result->records = malloc((size_t)service->workload->n * sizeof *result->records + 1);
    if (!service->parts || !service->work || !service->ended || !service->preempted || !service->finished ||
        !result->records) {
        return status_fail(-ENOMEM, "no memory to simulate %lld requests", (long long)service->workload->n);
    }
    result->n_records = service->workload->n;
    for (int64_t i = 0; i < result->n_records; i++) {
        const struct workload_request *request = &service->workload->requests[i];
        result->records[i] = (struct request_record){.arrival_s = 1e-9 * (double)request->arrival_ns,
                                                     .started_s = NAN,
                                                     .first_token_s = NAN,
                                                     .finished_s = NAN,
                                                     .prompt_tokens = request->prompt_tokens,
                                                     .output_tokens = request->output_tokens};
    }
    return 0;
}

static void close_service(struct service *service)
{
    scheduler_close(service->scheduler);
    kv_pages_close(service->pages);
    step_price_close(service->price);
    free(service->parts);
    free(service->work);
    free(service->ended);
    free(service->preempted);
    free(service->finished);
}

static void describe(struct serve_result *result, const struct serve_options *o)
{
    result->max_seqs = o->max_seqs;
    result->max_step_tokens = o->max_step_tokens;
    result->weight_bytes = plan_weight_bytes(o->plan);
    result->kv_bytes = result->n_pages * o->plan->page_tokens * plan_kv_bytes_per_token(o->plan) +
                       o->max_seqs * plan_kv_bytes_per_sequence(o->plan);
}

// Users who have nobody to wait for arrive at once; the others' arrivals become known as answers end.
static void begin_arrivals(struct service *service)
{
    const struct workload *workload = service->workload;
    double span_s = workload->n > 0 ? 1e-9 * (double)workload->requests[workload->n - 1].arrival_ns : 0;
    service->n_known = workload->users > 0 && workload->users < workload->n ? workload->users : workload->n;
    for (int64_t i = service->n_known; i < workload->n; i++) {
        service->result->records[i].arrival_s = NAN;
    }
    service->interval_s = span_s > 0 ? span_s / (SERVE_MAX_POINTS / 2) : 1e-3;
}

int serve_run(struct serve_result *out, const struct workload *workload, const struct serve_options *options)
{
    struct service service = {.workload = workload, .options = *options, .result = out};
    *out = (struct serve_result){.decisions = 14695981039346656037u};
    int error = complete_options(&service.options);
    error = error ? error : open_service(&service);
    if (!error) {
        describe(out, &service.options);
        out->provenance = step_price_provenance(service.price);
        begin_arrivals(&service);
        error = run(&service);
    }
    error = error ? error : serve_reduce(&out->metrics, out->records, out->n_records, options->slo_ttft_s,
                                         options->slo_tpot_s, workload->users > 0);
    if (!error && out->metrics.rejected == out->n_records) {
        char why[sizeof out->first_rejection];
        memcpy(why, out->first_rejection, sizeof why);
        error = status_fail(-EINVAL, "no request fits: %s", why);
    }
    close_service(&service);
    if (error) {
        serve_close(out);
    }
    return error;
}

void serve_close(struct serve_result *result)
{
    if (result) {
        free(result->records);
        *result = (struct serve_result){0};
    }
}
