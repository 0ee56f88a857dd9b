// sim/planner.c - see planner.h.
#include "sim/planner.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sort.h"
#include "engine/status.h"
#include "sim/predict.h"
#include "sim/service.h"

enum { DEFAULT_MAX_REPLICAS = 64, EXHAUSTIVE = PLANNER_EXHAUSTIVE, MAX_HEADROOM = 64, SETTLED_ANSWERS = 3 };
static const double headroom_step = 1.02;    // finer differences drown in which requests a workload happens to draw
static const double rounding = 1 + 1e-9;     // sums of steps in another order

const char *planner_verdict_name(enum planner_verdict verdict)
{
    static const char *const names[] = {"meets", "does not fit", "cannot be met", "more than the most allowed",
                                        "stopped"};
    return names[verdict];
}

struct planner {
    const struct workload *workload;
    struct planner_options options;    // defaults filled in
    struct planner_answer *answer;
};

static double gb(double bytes)
{
    return 1e-9 * bytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

static void explain_size(struct planner *planner, double weights, double ring, double request, double usable)
{
    const struct serve_options *o = &planner->options.replica;
    const struct plan *plan = o->plan;
    double page = (double)plan_kv_bytes_per_token(plan) * plan->page_tokens;
    int32_t n_rings = serve_rings(o, planner->workload);
    double rings = ring * n_rings;
    double seqs = ring > 0 ? floor((usable - weights - request) / ring) - (n_rings - o->max_seqs) : 0;
    double tokens = page > 0 ? floor((usable - weights - rings) / page) * plan->page_tokens : 0;
    char *why = planner->answer->why;
    int n = snprintf(why, PLANNER_TEXT_BYTES, "does not fit: weights %.3g GB + KV %.3g GB of a request of %lld tokens",
                     gb(weights), gb(request), (long long)serve_longest_request(planner->workload));
    if (rings > 0) {
        n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " + windows of %d sequences %.3g GB", n_rings,
                      gb(rings));
    }
    n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " exceed the %.3g GB that may be used of %.40s; fits with",
                  gb(usable), o->device->name);
    if (tokens > 0) {
        n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " requests of at most %.0f tokens,", tokens);
    }
    if (seqs >= 1) {
        n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " at most %.0f sequences at once,", seqs);
    }
    snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " %.3g GB of memory",
             gb((weights + rings + request) / o->memory_share));
}

// Whether a replica can hold the longest request.
static int check_size(struct planner *planner, bool *fits)
{
    const struct serve_options *o = &planner->options.replica;
    const struct plan *plan = o->plan;
    double longest = (double)serve_longest_request(planner->workload);
    double pages = ceil(longest / plan->page_tokens), weights = (double)plan_weight_bytes(plan);
    double ring = (double)plan_kv_bytes_per_sequence(plan);
    double other = (double)predict_other_bytes(o->device, plan, o->max_step_tokens, (int64_t)longest);
    double usable = o->device->memory_bytes.value * o->memory_share - other;
    double request = pages * (double)plan_kv_bytes_per_token(plan) * plan->page_tokens;
    *fits = true;
    if (o->cache_tokens > 0) {
        *fits = pages * plan->page_tokens <= (double)o->cache_tokens;
        if (!*fits) {
            snprintf(planner->answer->why, PLANNER_TEXT_BYTES,
                     "does not fit: a request of %.0f tokens in a cache of %lld", longest, (long long)o->cache_tokens);
        }
    } else if (!(usable > 0)) {
        return status_fail(-EINVAL, "device %s: its memory is unknown; give the cache a size", o->device->name);
    } else if (weights + ring * serve_rings(o, planner->workload) + request > usable) {
        *fits = false;
        explain_size(planner, weights, ring, request, usable);
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Limits that no fleet keeps

// reused_tokens of the prompt, fewer than all, are cached before.
static double first_token_s(struct step_price *price, int32_t reused_tokens, int32_t prompt_tokens,
                            int32_t max_step_tokens)
{
    double seconds = 0;
    for (int32_t done = reused_tokens; done < prompt_tokens;) {
        int32_t rows = prompt_tokens - done < max_step_tokens ? prompt_tokens - done : max_step_tokens;
        seconds += step_price_seconds(price, &(struct work){done, rows, done + rows == prompt_tokens}, 1);
        done += rows;
    }
    return seconds;
}

// What requests take at least: alone on a replica that has seen whatever they share; of TPOT only that no step is
// shorter than the first.
static void price_alone(const struct planner *planner, struct step_price *price, double *ttft, double *tpot,
                        int64_t *n_tpot)
{
    *n_tpot = 0;
    for (int64_t i = 0; i < planner->workload->n; i++) {
        const struct workload_request *request = &planner->workload->requests[i];
        int32_t shared = planner->options.replica.no_reuse ? 0 : request->prefix_tokens;
        shared = shared < request->prompt_tokens ? shared : request->prompt_tokens - 1;
        ttft[i] = first_token_s(price, shared, request->prompt_tokens, planner->options.replica.max_step_tokens);
        if (request->output_tokens > 1) {
            tpot[(*n_tpot)++] = step_price_seconds(price, &(struct work){request->prompt_tokens, 1, 1}, 1);
        }
    }
}

static bool too_strict(struct planner *planner, double *values, int64_t n, double percent, double limit_s,
                       const char *what)
{
    if (!(limit_s > 0) || n == 0) {
        return false;
    }
    sort_doubles(values, n);
    int64_t rank = (int64_t)ceil((double)n * percent / 100);
    double least_s = values[rank > 0 ? rank - 1 : 0];
    if (least_s <= limit_s * rounding) {
        return false;
    }
    snprintf(
        planner->answer->why, PLANNER_TEXT_BYTES,
        "cannot be met: %s P%g is at least %.4g ms with a replica for every request, the limit is %.4g ms; a faster "
        "device, more devices per replica or a limit above that would do",
        what, percent, 1e3 * least_s, 1e3 * limit_s);
    return true;
}

static int check_limits(struct planner *planner, bool *reachable)
{
    const struct serve_options *o = &planner->options.replica;
    const struct slo *slo = &planner->options.slo;
    size_t n = (size_t)planner->workload->n;
    struct step_price_options price_options = {.device = o->device,
                                               .plan = o->plan,
                                               .timer = o->timer,
                                               .step_overhead_s = o->step_overhead_s,
                                               .max_seqs = 1};
    struct step_price *price;
    int64_t n_tpot;
    int error = step_price_open(&price, &price_options);
    if (error) {
        return error;
    }
    double *ttft = malloc(n * sizeof *ttft + 1), *tpot = malloc(n * sizeof *tpot + 1);
    if (ttft && tpot) {
        price_alone(planner, price, ttft, tpot, &n_tpot);
        *reachable = !too_strict(planner, ttft, (int64_t)n, slo->ttft_percent, slo->ttft_s, "TTFT") &&
                     !too_strict(planner, tpot, n_tpot, slo->tpot_percent, slo->tpot_s, "TPOT");
    } else {
        error = status_fail(-ENOMEM, "no memory to plan for %zu requests", n);
    }
    free(ttft);
    free(tpot);
    step_price_close(price);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Fleets

static bool meets(const struct planner *planner, const struct fleet_result *result)
{
    bool settled = planner->options.slo.ttft_s > 0 || result->metrics.saturation != SATURATION_OVERLOADED;
    return result->within && settled;
}

static int try_fleet(struct fleet_result *out, const struct planner *planner, const struct workload *workload,
                     int32_t replicas, bool whole)
{
    struct fleet_options options = {.replica = planner->options.replica,
                                    .slo = planner->options.slo,
                                    .n_replicas = replicas,
                                    .router = planner->options.router,
                                    .stop_when_lost = !whole};
    return fleet_run(out, workload, &options);
}

static void dominant(char *out, size_t bytes, const struct planner *planner, const struct work *work, int32_t n)
{
    struct step_prediction step;
    int most = 0;
    if (predict_step(&step, planner->options.replica.device, planner->options.replica.plan, work, n)) {
        return;    // it was priced before: only a device replaced by a stage_timer can be without rates
    }
    for (int s = 1; s < STAGE_COUNT; s++) {
        most = step.stages[s].seconds > step.stages[most].seconds ? s : most;
    }
    snprintf(out, bytes, "%s: %s", bound_name(step.stages[most].bound), stage_name((enum stage)most));
}

// Names what a fleet beyond its limits lacks.
static void blame(char *out, size_t bytes, const struct planner *planner, const struct fleet_result *failed)
{
    const struct serve_options *o = &planner->options.replica;
    const double *blocked = failed->blocked_s;
    bool waits = failed->tpot_within, memory = blocked[BLOCKED_MEMORY] >= blocked[BLOCKED_SEQUENCES];
    double admission_s = memory ? blocked[BLOCKED_MEMORY] : blocked[BLOCKED_SEQUENCES];
    *out = 0;
    if (!(failed->busy_s > 0)) {
        return;
    }
    if (waits && admission_s > 0 && admission_s >= blocked[BLOCKED_ROWS]) {
        snprintf(out, bytes, "%s", blocked_name(memory ? BLOCKED_MEMORY : BLOCKED_SEQUENCES));
        return;
    }
    double running = fmax(1, round(failed->sequence_s / failed->busy_s));
    double context = fmax(1, failed->context_token_s / failed->sequence_s);
    if (waits || failed->prefill_s > 0.5 * failed->busy_s) {
        dominant(out, bytes, planner, &(struct work){(int32_t)context, o->max_step_tokens, 1}, 1);
        return;
    }
    int32_t n = (int32_t)fmin(running, o->max_seqs);
    struct work *work = malloc((size_t)n * sizeof *work);
    for (int32_t i = 0; work && i < n; i++) {
        work[i] = (struct work){(int32_t)context, 1, 1};
    }
    if (work) {
        dominant(out, bytes, planner, work, n);
    }
    free(work);
}

static void describe(struct planner *planner, const struct fleet_result *result)
{
    struct planner_answer *answer = planner->answer;
    const struct workload *workload = planner->workload;
    const struct serve_metrics *metrics = &result->metrics;
    double replica_s = metrics->span_s * result->n_replicas, price_per_s = planner->options.price_per_hour / 3600;
    answer->replicas = result->n_replicas;
    answer->ttft_s = result->ttft_s;
    answer->tpot_s = result->tpot_s;
    answer->metrics = *metrics;
    answer->busy_share = result->busy_s / replica_s;
    answer->peak_kv_share = result->peak_kv_share;
    answer->provenance = result->provenance;
    answer->dollars_per_hour = planner->options.price_per_hour * result->n_replicas;
    answer->dollars_by_use = price_per_s * result->busy_s / metrics->output_tokens * 1e6;
    answer->watt_hours_by_use = planner->options.serving_power_w / 3600 * result->busy_s / metrics->output_tokens * 1e6;
    answer->dollars_by_reservation = price_per_s * replica_s / metrics->output_tokens * 1e6;
    double arrivals_s =
        1e-9 * (double)(workload->requests[workload->n - 1].arrival_ns - workload->requests[0].arrival_ns);
    answer->short_run = workload->users > 0 ? workload->n < (int64_t)SETTLED_ANSWERS * workload->users
                                            : arrivals_s < SETTLED_ANSWERS * metrics->end_to_end_s.mean;
}

static void explain_failure(struct planner *planner, const struct fleet_result *result)
{
    const struct slo *slo = &planner->options.slo;
    char *why = planner->answer->why;
    int n = snprintf(why, PLANNER_TEXT_BYTES, "more than %d replicas: with so many,", result->n_replicas);
    if (!result->ttft_within) {
        n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " TTFT P%g is %.4g ms (limit %.4g)", slo->ttft_percent,
                      1e3 * result->ttft_s, 1e3 * slo->ttft_s);
    }
    if (!result->tpot_within) {
        n += snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " TPOT P%g is %.4g ms (limit %.4g)", slo->tpot_percent,
                      1e3 * result->tpot_s, 1e3 * slo->tpot_s);
    }
    if (result->ttft_within && result->tpot_within) {
        snprintf(why + n, (size_t)(PLANNER_TEXT_BYTES - n), " the queue still grows");
    }
}

// Simulates n replicas; if they keep the limits they become the answer.
static int try_size(bool *kept, struct planner *planner, int32_t n)
{
    struct planner_answer *answer = planner->answer;
    bool last = n == planner->options.max_replicas;
    struct fleet_result result;
    int error = try_fleet(&result, planner, planner->workload, n, last);
    if (error) {
        return error;
    }
    *kept = meets(planner, &result);
    if (result.stopped) {
        answer->verdict = PLANNER_STOPPED;
    } else if (*kept) {
        answer->verdict = PLANNER_MEETS;
        describe(planner, &result);
    } else {
        blame(answer->binds, sizeof answer->binds, planner, &result);
        if (last) {
            explain_failure(planner, &result);
        }
    }
    fleet_close(&result);
    return 0;
}

static int search(struct planner *planner)
{
    struct planner_answer *answer = planner->answer;
    int32_t most = planner->options.max_replicas, failed = 0, met = 0;
    answer->verdict = PLANNER_TOO_MANY;
    // Sizes one by one, then doubled, then between the last that failed and the first that did not.
    for (int32_t n = 1; met == 0 && failed < most;) {
        bool kept;
        int error = try_size(&kept, planner, n);
        if (error || answer->verdict == PLANNER_STOPPED) {
            return error;
        }
        met = kept ? n : 0;
        failed = kept ? failed : n;
        n = n < EXHAUSTIVE ? n + 1 : n < most / 2 ? 2 * n : most;
    }
    while (met - failed > 1) {
        bool kept;
        int32_t n = failed + (met - failed) / 2;
        int error = try_size(&kept, planner, n);
        if (error || answer->verdict == PLANNER_STOPPED) {
            return error;
        }
        met = kept ? n : met;
        failed = kept ? failed : n;
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Headroom

int planner_scale(struct workload *out, const struct workload *workload, double factor)
{
    *out = *workload;
    out->requests = malloc((size_t)workload->n * sizeof *out->requests + 1);
    if (!out->requests) {
        return status_fail(-ENOMEM, "no memory for %lld requests", (long long)workload->n);
    }
    for (int64_t i = 0; i < workload->n; i++) {
        out->requests[i] = workload->requests[i];
        out->requests[i].arrival_ns = (int64_t)((double)workload->requests[i].arrival_ns / factor);
    }
    if (workload->users > 0) {
        out->users = (int32_t)fmin(ceil(workload->users * factor), INT32_MAX);
    }
    return 0;
}

static int try_load(bool *kept, struct planner *planner, double factor)
{
    struct planner_answer *answer = planner->answer;
    struct workload scaled;
    struct fleet_result result;
    int error = planner_scale(&scaled, planner->workload, factor);
    if (error) {
        return error;
    }
    error = try_fleet(&result, planner, &scaled, answer->replicas, false);
    if (!error) {
        *kept = meets(planner, &result);
        if (result.stopped) {
            answer->verdict = PLANNER_STOPPED;
        } else if (!*kept) {
            blame(answer->binds, sizeof answer->binds, planner, &result);
        }
        fleet_close(&result);
    }
    free(scaled.requests);
    return error;
}

static int find_headroom(struct planner *planner)
{
    struct planner_answer *answer = planner->answer;
    const struct workload *workload = planner->workload;
    double kept = 1, lost = 2, most = MAX_HEADROOM;
    bool keeps = true;
    answer->binds[0] = 0;
    if (workload->users > 0) {
        most = fmin(most, (double)workload->n / workload->users);    // more users than that have nothing to ask
    }
    while (keeps && lost <= most) {
        int error = try_load(&keeps, planner, lost);
        if (error || answer->verdict == PLANNER_STOPPED) {
            return error;
        }
        kept = keeps ? lost : kept;
        lost *= keeps ? 2 : 1;
    }
    answer->headroom_open = keeps;
    while (!keeps && lost > kept * headroom_step) {
        bool still;
        double middle = sqrt(kept * lost);
        int error = try_load(&still, planner, middle);
        if (error || answer->verdict == PLANNER_STOPPED) {
            return error;
        }
        kept = still ? middle : kept;
        lost = still ? lost : middle;
    }
    answer->headroom = kept;
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------

static int complete_options(struct planner_options *o)
{
    struct slo *slo = &o->slo;
    o->max_replicas = o->max_replicas ? o->max_replicas : DEFAULT_MAX_REPLICAS;
    slo->ttft_percent = slo->ttft_percent > 0 ? slo->ttft_percent : 95;
    slo->tpot_percent = slo->tpot_percent > 0 ? slo->tpot_percent : 95;
    if (o->max_replicas < 1 || o->max_replicas > PLANNER_MAX_REPLICAS || slo->ttft_percent > 100 ||
        slo->tpot_percent > 100) {
        return status_fail(-EINVAL, "%d replicas at most, percentiles %g and %g: expected 1 to %d, and at most 100",
                           o->max_replicas, slo->ttft_percent, slo->tpot_percent, PLANNER_MAX_REPLICAS);
    }
    if (!(slo->ttft_s > 0) && !(slo->tpot_s > 0)) {
        return status_fail(-EINVAL, "nothing to plan for: give a limit on TTFT, on TPOT, or on both");
    }
    return serve_complete_options(&o->replica);
}

int planner_smallest(struct planner_answer *out, const struct workload *workload, const struct planner_options *options)
{
    struct planner_answer answer = {0};
    struct planner planner = {.workload = workload, .options = *options, .answer = &answer};
    bool fits = true, reachable = true;
    int error = complete_options(&planner.options);
    error = error ? error : check_size(&planner, &fits);
    if (!error && fits) {
        error = check_limits(&planner, &reachable);
    }
    if (!error && fits && reachable) {
        error = search(&planner);
    }
    if (!error && planner.options.headroom && answer.verdict == PLANNER_MEETS && fits && reachable) {
        error = find_headroom(&planner);
    }
    if (error) {
        return error;
    }
    answer.verdict = !fits ? PLANNER_TOO_LARGE : !reachable ? PLANNER_TOO_STRICT : answer.verdict;
    *out = answer;
    return 0;
}
