// sim/service.c - the event loop of a replica: arrivals, steps, jumps.
//
// A jump covers steps for which scheduler_steady() promises the same decision; it ends early when a request arrives
// that would be let in. Arrivals that could only wait do not end it: they are handed to the scheduler in order
// afterwards, and nothing that it does depends on how long they have been in its queue.
#include "sim/service.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/status.h"
#include "sim/predict.h"

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
    if (service->workload->users > 0 && service->n_known < service->n_mine) {
        service->records[service->mine[service->n_known++]].arrival_s =
            service->now_s + 1e-9 * (double)service->workload->pause_ns;
    }
}

static int submit_arrived(struct service *service)
{
    struct serve_result *result = service->result;
    for (; service->next < service->n_known; service->next++) {
        int64_t request = service->mine[service->next];
        struct request_record *record = &service->records[request];
        if (record->arrival_s > service->now_s) {
            break;
        }
        int error = (service->options.received ? scheduler_receive : scheduler_submit)(
            service->scheduler, request, record->prompt_tokens, record->output_tokens);
        if (error == -EINVAL) {
            record->rejected = true;
            service->n_rejected++;
            if (!result->first_rejection[0]) {
                snprintf(result->first_rejection, sizeof result->first_rejection, "request %lld: %.200s",
                         (long long)request, status_text());
            }
            follow(service);
        } else if (error) {
            return error;
        }
    }
    return 0;
}

// Whether the limits can still be kept is known as soon as too many requests are beyond one.
static void watch_ttft(struct service *service, const struct request_record *record)
{
    struct slo_watch *watch = service->watch;
    if (watch && watch->ttft_s > 0 && record->first_token_s - record->arrival_s > watch->ttft_s) {
        watch->lost = ++watch->ttft_late > watch->ttft_allowed || watch->lost;
    }
}

static void watch_tpot(struct service *service, const struct request_record *record)
{
    struct slo_watch *watch = service->watch;
    if (watch && watch->tpot_s > 0 && request_tpot(record) > watch->tpot_s) {
        watch->lost = ++watch->tpot_late > watch->tpot_allowed || watch->lost;
    }
}

static void finish(struct service *service, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct request_record *record = &service->records[service->finished[i]];
        record->finished_s = service->now_s;
        watch_tpot(service, record);
        remember(service, EVENT_FINISH, service->finished[i], kv_pages_used(service->pages));
        // All its tokens but the last are in the cache.
        step_rows_remove(service->decoding, record->prompt_tokens + record->output_tokens - 1);
        follow(service);
        service->n_finished++;
        if (service->options.progress && service->n_finished % 256 == 0) {
            service->options.progress(service->options.progress_user, service->n_finished, service->workload->n);
        }
    }
    if (n > 0) {
        service->last_end_s = service->now_s;
        service->n_last_ended = n;
    }
}

static void note_use(struct service *service, int64_t pages, int32_t running)
{
    struct serve_result *result = service->result;
    int64_t bytes = pages * service->page_bytes + running * service->ring_bytes;
    result->peak_pages = pages > result->peak_pages ? pages : result->peak_pages;
    result->peak_running = running > result->peak_running ? running : result->peak_running;
    result->peak_kv_bytes = bytes > result->peak_kv_bytes ? bytes : result->peak_kv_bytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Steps

// What kept requests waiting through a step: the first limit that the scheduler meets.
static enum blocked why_waiting(const struct service *service, int64_t rows)
{
    if (scheduler_running(service->scheduler) >= service->options.max_seqs) {
        return BLOCKED_SEQUENCES;
    }
    return rows >= service->options.max_step_tokens ? BLOCKED_ROWS : BLOCKED_MEMORY;
}

// What the sequences of a step hold and run, added up.
struct sums {
    int64_t contexts, rows;
};

// Adds what `steps` steps over n sequences, `seconds` long in all, were busy with; `sums` are of the first.
static void note_time(struct service *service, double seconds, int32_t steps, int32_t n, const struct sums *sums)
{
    struct serve_result *result = service->result;
    double contexts = (double)sums->contexts + 0.5 * n * (steps - 1);
    int64_t rows = sums->rows;
    result->busy_s += seconds;
    result->prefill_s += rows > n ? seconds : 0;
    result->sequence_s += n * seconds;
    result->context_token_s += contexts * seconds;
    if (scheduler_waiting(service->scheduler) > 0) {
        result->blocked_s[why_waiting(service, rows)] += seconds;
    }
}

// Parts [from, n) are prompts: records say when they began.
static void begin_prompts(struct service *service, int32_t from, int32_t n)
{
    for (int32_t i = from; i < n; i++) {
        const struct scheduled *part = &service->parts[i];
        struct request_record *record = &service->records[part->request];
        service->result->reused_tokens += part->reused_tokens;
        if (isnan(record->started_s)) {
            record->started_s = service->now_s;
            record->reused_tokens = part->reused_tokens;
            remember(service, EVENT_START, part->request, part->slot);
        }
        if (part->new_tokens > 1 || !part->wants_logits) {
            remember(service, EVENT_CHUNK, part->request, part->new_tokens);
        }
    }
}

// Saving and restoring windows, which prompts do, once each way over the device's memory.
static double copy_seconds(const struct service *service, int32_t from, int32_t n)
{
    int32_t copies = 0;
    for (int32_t i = from; i < n; i++) {
        copies += (service->parts[i].restore_from >= 0) + (service->parts[i].snapshot_to >= 0);
    }
    return copies * service->copy_s;
}

// Counts the first n parts anew, which are those that decode.
static void count_decoding(struct service *service, int32_t n)
{
    step_rows_clear(service->decoding);
    for (int32_t i = 0; i < n; i++) {
        step_rows_add(service->decoding, service->parts[i].context_tokens);
    }
}

// Seconds of the step of parts [n], of which the first n_decode decode; the others are prompts.
static double price_step(struct service *service, int32_t n_decode, int32_t n, struct sums *sums)
{
    const struct serve_options *o = &service->options;
    int32_t from = o->every_step ? 0 : n_decode, n_work = n - from;
    if (service->decoding_stale) {
        count_decoding(service, n_decode);
    }
    step_price_since(service->price, service->now_s - service->prompts_end_s);
    step_price_heat(service->price, calibration_heat_at(&service->heat, service->now_s));
    *sums = o->every_step ? (struct sums){0} : (struct sums){step_rows_contexts(service->decoding), n_decode};
    for (int32_t i = 0; i < n_work; i++) {
        const struct scheduled *part = &service->parts[from + i];
        service->work[i] = (struct work){part->context_tokens, part->new_tokens, part->wants_logits};
        sums->contexts += part->context_tokens;
        sums->rows += part->new_tokens;
    }
    double seconds = o->every_step ? step_price_seconds(service->price, service->work, n)
                                   : step_rows_seconds(service->decoding, service->work, n_work);
    seconds += copy_seconds(service, n_decode, n);
    return o->clock && o->every_step ? o->clock(o->clock_user, service->now_s, service->work, n, seconds) : seconds;
}

// Whose prompt is complete has a token, its first one unless it was preempted before, and decodes from now on. Returns
// how many they are.
static int32_t begin_answers(struct service *service, int32_t from, int32_t n)
{
    int32_t n_tokens = 0;
    for (int32_t i = from; i < n; i++) {
        const struct scheduled *part = &service->parts[i];
        if (!part->wants_logits) {
            continue;
        }
        struct request_record *record = &service->records[part->request];
        n_tokens++;
        step_rows_add(service->decoding, part->context_tokens + part->new_tokens);
        if (isnan(record->first_token_s)) {
            record->first_token_s = service->now_s;
            watch_ttft(service, record);
        }
    }
    return n_tokens;
}

static void take_step(struct service *service)
{
    int32_t n_preempted, n_finished;
    int32_t n = scheduler_next(service->scheduler, service->parts, service->preempted, &n_preempted);
    int32_t n_decode = scheduler_decoding(service->scheduler);
    note_use(service, kv_pages_used(service->pages), scheduler_running(service->scheduler));
    for (int32_t i = 0; i < n_preempted; i++) {
        service->records[service->preempted[i]].preemptions++;
        remember(service, EVENT_PREEMPT, service->preempted[i], i);
        service->decoding_stale = true;
    }
    begin_prompts(service, n_decode, n);
    struct sums sums;
    double seconds = price_step(service, n_decode, n, &sums);
    if (sums.rows > n) {
        calibration_heat_step(&service->heat, service->now_s, seconds, sums.rows);
        service->prompts_end_s = service->now_s + seconds;
    }
    service->now_s += seconds;
    note_time(service, seconds, 1, n, &sums);
    step_rows_advance(service->decoding);
    service->output_tokens += n_decode + begin_answers(service, n_decode, n);
    service->decoding_stale = n < scheduler_running(service->scheduler);
    service->result->steps++;
    scheduler_complete(service->scheduler, service->parts, service->ended, n, service->finished, &n_finished);
    finish(service, n_finished);
}

// Pages in use after `taken` steps more, or an upper bound where that sets no peak.
static int64_t pages_after(const struct service *service, int32_t taken, int32_t n)
{
    int64_t pages = kv_pages_used(service->pages);
    int64_t most = pages + (int64_t)n * (kv_pages_for(service->pages, taken) + 1);
    if (most <= service->result->peak_pages && most * service->page_bytes + n * service->ring_bytes <=
                                                   service->result->peak_kv_bytes) {
        return most;
    }
    for (int32_t i = 0; i < n; i++) {
        pages += kv_pages_needed(service->pages, service->parts[i].slot, service->parts[i].context_tokens + taken);
    }
    return pages;
}

static void begin_jump(struct service *service, int32_t steps, int32_t n)
{
    bool room = scheduler_waiting(service->scheduler) == 0 && n < service->options.max_seqs &&
                n < service->options.max_step_tokens;
    if (service->decoding_stale) {
        count_decoding(service, n);
        service->decoding_stale = false;
    }
    service->jump.contexts = step_rows_contexts(service->decoding);
    service->jump.steps = steps;
    service->jump.taken = 0;
    service->jump.n = n;
    service->jump.room = room;
    service->jump.begin_s = service->now_s;
}

// Steps on until the jump is over, which is true, or the horizon is reached, behind which it goes on.
static bool continue_jump(struct service *service, double horizon_s)
{
    double until_s = service->next_point_s;
    if (service->jump.room && service->next < service->n_known) {
        until_s = fmin(until_s, service->records[service->mine[service->next]].arrival_s);
    }
    double stop_s = service->jump.room ? fmin(until_s, horizon_s) : until_s;
    while (service->jump.taken < service->jump.steps && (service->jump.taken == 0 || service->now_s < stop_s)) {
        step_price_since(service->price, service->now_s - service->prompts_end_s);
        service->now_s += step_rows_seconds(service->decoding, NULL, 0);
        step_rows_advance(service->decoding);
        service->jump.taken++;
    }
    return service->jump.taken == service->jump.steps || service->now_s >= until_s;
}

static void end_jump(struct service *service)
{
    struct serve_result *result = service->result;
    int32_t taken = service->jump.taken, n = service->jump.n, n_finished;
    note_use(service, pages_after(service, taken, n), n);
    struct sums sums = {service->jump.contexts, n};
    note_time(service, service->now_s - service->jump.begin_s, taken, n, &sums);
    result->steps += taken;
    result->jumped_steps += taken;
    service->output_tokens += (double)taken * n;
    scheduler_skip(service->scheduler, taken, service->finished, &n_finished);
    service->jump.steps = 0;
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
                tokens_per_s =
                    (first->output_tokens_per_s * first_s + second->output_tokens_per_s * (long_s - first_s)) / long_s;
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

int service_advance(struct service *service, double horizon_s)
{
    for (;;) {
        if (service->jump.steps > 0) {
            if (!continue_jump(service, horizon_s)) {
                return 0;
            }
            end_jump(service);
        }
        int error = submit_arrived(service);
        if (error) {
            return error;
        }
        if ((service->options.stop && *service->options.stop) || (service->watch && service->watch->lost)) {
            service->result->stopped = true;
            return 0;
        }
        take_point(service);
        if (scheduler_running(service->scheduler) + scheduler_waiting(service->scheduler) == 0) {
            if (service->next == service->n_known) {
                return 0;
            }
            service->now_s = fmax(service->now_s, service->records[service->mine[service->next]].arrival_s);
            continue;
        }
        if (service->now_s >= horizon_s) {
            return 0;
        }
        int32_t n = 0;
        int32_t steps = service->options.every_step ? 0 : scheduler_steady(service->scheduler, service->parts, &n);
        if (steps > 1) {
            begin_jump(service, steps, n);
        } else {
            take_step(service);
        }
    }
}

int service_take(struct service *service, int64_t request)
{
    if (service->n_mine == service->room) {
        int64_t room = service->room > 0 ? 2 * service->room : 64;
        int64_t *mine = realloc(service->mine, (size_t)room * sizeof *mine);
        if (!mine) {
            return status_fail(-ENOMEM, "no memory to simulate %lld requests", (long long)room);
        }
        service->mine = mine;
        service->room = room;
    }
    service->n_known += !isnan(service->records[request].arrival_s);
    service->mine[service->n_mine++] = request;
    service->result->n_requests++;
    return 0;
}

int64_t service_in_hand(const struct service *service, double t_s)
{
    int64_t later = service->last_end_s > t_s ? service->n_last_ended : 0;
    return service->n_mine - service->n_finished - service->n_rejected + later;
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

// How many pages there are: those that were asked for, or what memory leaves; never more than the workload could fill.
static int count_pages(int64_t *out, const struct service *service)
{
    const struct serve_options *o = &service->options;
    const struct workload *workload = service->workload;
    const struct plan *plan = o->plan;
    int32_t n_rings = serve_rings(o, workload);
    double page_bytes = (double)plan_kv_bytes_per_token(plan) * plan->page_tokens;
    double weights = (double)plan_weight_bytes(plan), rings = (double)plan_kv_bytes_per_sequence(plan) * n_rings;
    double usable = o->device->memory_bytes.value * o->memory_share;
    double other = (double)predict_other_bytes(o->device, plan, o->max_step_tokens, service->longest_tokens);
    double n_pages = floor((usable - weights - rings - other) / page_bytes);
    if (o->cache_tokens > 0) {
        n_pages = ceil((double)o->cache_tokens / plan->page_tokens);
    } else if (!(o->device->memory_bytes.value > 0)) {
        return status_fail(-EINVAL, "device %s: its memory is unknown; give the cache a size", o->device->name);
    } else if (n_pages < 1) {
        return status_fail(-EINVAL,
                           "does not fit: weights %.4g GB + windows of %d sequences and prefixes %.4g GB leave "
                           "nothing of %.4g GB for the KV cache; fewer sequences or a larger device would",
                           1e-9 * weights, n_rings, 1e-9 * rings, 1e-9 * usable);
    }
    double useful = (double)o->max_seqs * (double)((service->longest_tokens - 1) / plan->page_tokens + 1), all = 0;
    for (int64_t i = 0; i < workload->n; i++) {
        all += (workload->requests[i].prompt_tokens + workload->requests[i].output_tokens - 1) / plan->page_tokens + 1;
    }
    useful = service->reuses ? all : fmin(useful, all);    // pages that nobody needs now may be found again
    n_pages = fmin(n_pages, fmin(useful, INT32_MAX));
    *out = (int64_t)n_pages;
    return 0;
}

static void describe(const struct service *service)
{
    struct serve_result *result = service->result;
    const struct serve_options *o = &service->options;
    int32_t n_rings = serve_rings(o, service->workload);
    result->max_seqs = o->max_seqs;
    result->max_step_tokens = o->max_step_tokens;
    result->weight_bytes = plan_weight_bytes(o->plan);
    result->other_bytes = predict_other_bytes(o->device, o->plan, o->max_step_tokens, service->longest_tokens);
    result->kv_bytes = result->n_pages * o->plan->page_tokens * plan_kv_bytes_per_token(o->plan) +
                       n_rings * plan_kv_bytes_per_sequence(o->plan);
}

static uint64_t prompt_key(const void *user, int64_t request, int32_t tokens)
{
    return workload_key(user, request, tokens);
}

int service_open(struct service *service)
{
    const struct serve_options *o = &service->options;
    const struct workload *workload = service->workload;
    struct serve_result *result = service->result;
    size_t seqs = (size_t)o->max_seqs;
    *result = (struct serve_result){.decisions = 14695981039346656037u,
                                    .provenance = step_price_provenance(service->price)};
    service->prompts_end_s = -INFINITY;
    service->page_bytes = o->plan->page_tokens * plan_kv_bytes_per_token(o->plan);
    service->ring_bytes = plan_kv_bytes_per_sequence(o->plan);
    service->reuses = !o->no_reuse && !o->received && workload_shares(workload);
    service->longest_tokens = serve_longest_request(workload);
    int error = count_pages(&result->n_pages, service);
    struct scheduler_options scheduler_options = {.max_seqs = o->max_seqs, .max_step_tokens = o->max_step_tokens};
    if (service->reuses) {
        int32_t unit = workload_prefix_unit(workload, plan_prefix_unit(o->plan));
        scheduler_options.prefix = (struct prefix_options){.key = prompt_key,
                                                           .user = workload,
                                                           .unit_tokens = unit,
                                                           .has_windows = o->snapshots > 0,
                                                           .n_snapshots = o->snapshots};
        service->copy_s = 2 * (double)service->ring_bytes / o->device->bytes_per_s.value;
    }
    error = error ? error : kv_pages_open(&service->pages, (int32_t)result->n_pages, o->plan->page_tokens, o->max_seqs);
    error = error ? error : scheduler_open(&service->scheduler, &scheduler_options, service->pages);
    if (error) {
        return error;
    }
    error = step_rows_open(&service->decoding, service->price, service->longest_tokens);
    if (error) {
        return error;
    }
    service->parts = calloc(seqs, sizeof *service->parts);
    service->work = calloc(seqs, sizeof *service->work);
    service->ended = calloc(seqs, sizeof *service->ended);
    service->preempted = calloc(seqs, sizeof *service->preempted);
    service->finished = calloc(seqs, sizeof *service->finished);
    if (!service->parts || !service->work || !service->ended || !service->preempted || !service->finished) {
        return status_fail(-ENOMEM, "no memory to simulate %d sequences", o->max_seqs);
    }
    describe(service);
    double span_s = workload->n > 0 ? 1e-9 * (double)workload->requests[workload->n - 1].arrival_ns : 0;
    service->interval_s = span_s > 0 ? span_s / (SERVE_MAX_POINTS / 2) : 1e-3;
    return 0;
}

void service_close(struct service *service)
{
    scheduler_close(service->scheduler);
    kv_pages_close(service->pages);
    step_rows_close(service->decoding);
    free(service->mine);
    free(service->parts);
    free(service->work);
    free(service->ended);
    free(service->preempted);
    free(service->finished);
}
