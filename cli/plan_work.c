// cli/plan_work.c - see plan_work.h.
#include "cli/plan_work.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "engine/status.h"
#include "sim/parallel.h"

enum { MAX_THREADS = 256, ERROR_BYTES = 512, WAIT_NS = 100000000 };    // how long Ctrl-C may go unnoticed

struct pool {
    const struct plan_work *work;
    struct plan_rows *rows;
    pthread_mutex_t lock;             // of everything below, and of rows
    pthread_cond_t finished;
    int64_t next;
    int32_t n_running;
    int error;                        // the first
    char why[ERROR_BYTES];
    _Atomic bool stop;                // also read by simulations, without the lock
};

// ---------------------------------------------------------------------------------------------------------------------
// One case

// Everything that a case names, built.
struct built {
    struct plan_case values;
    struct plan plan;
    struct device device;
    struct planner_options options;
};

static const struct device *device_of(const struct plan_work *work, int64_t index)
{
    const struct plan_grid *grid = work->grid;
    for (int32_t a = 0; a < grid->n_axes; a++) {
        for (int32_t v = 0; strcmp(grid->axes[a].name, "device") == 0 && v < grid->axes[a].n; v++) {
            if (strcmp(grid->axes[a].values[v], plan_grid_value(grid, index, a)) == 0) {
                return &work->devices[v];
            }
        }
    }
    return NULL;
}

static int build(struct built *out, const struct plan_work *work, int64_t index)
{
    struct plan whole;
    *out = (struct built){.values = work->base, .options = work->options};
    plan_grid_case(&out->values, work->grid, index);
    struct plan_case *values = &out->values;
    struct plan_flags flags = {values->index_dtype, values->weight_dtype, values->kv_dtype, values->knobs};
    int error = plan_flags_resolve(&flags);
    error = error ? error : choice_plan(&whole, work->config, work->model, values->method, &flags.options);
    error = error ? error : router_from_name(&out->options.router, values->router);
    error = error ? error : parallel_split(&out->plan, &out->device, &whole, device_of(work, index), values->ranks);
    if (error) {
        return error;
    }
    if (values->rate_per_s > 0 && !(work->workload_rate_per_s > 0)) {
        return status_fail(-EINVAL, "a rate: the workload has none, its requests come as answers end or all at once");
    }
    out->options.replica.plan = &out->plan;
    out->options.replica.device = &out->device;
    out->options.replica.max_seqs = values->max_seqs;
    out->options.replica.max_step_tokens = values->chunk;
    out->options.slo.ttft_s = values->slo_ttft_s;
    out->options.slo.tpot_s = 1e-3 * values->slo_tpot_ms;
    out->options.price_per_hour = out->device.price_per_hour.value;
    out->options.serving_power_w = out->device.serving_power_w.value;
    return 0;
}

static void put(json_t *row, const char *key, double value)
{
    json_object_set_new(row, key, isfinite(value) ? json_real(value) : json_null());
}

static json_t *row_of(const struct plan_work *work, int64_t index, int32_t ranks, const struct planner_answer *answer)
{
    json_t *row = json_object();
    bool meets = answer->verdict == PLANNER_MEETS;
    const struct serve_metrics *metrics = &answer->metrics;
    double price = answer->dollars_per_hour > 0 ? 1 : NAN, given = meets ? 1 : NAN;
    json_object_set_new(row, "row", json_integer((json_int_t)index));
    for (int32_t a = 0; a < work->grid->n_axes; a++) {
        json_object_set_new(row, work->grid->axes[a].name, json_string(plan_grid_value(work->grid, index, a)));
    }
    put(row, "replicas", given * answer->replicas);
    put(row, "devices", given * answer->replicas * ranks);
    put(row, "ttft_ms", given * 1e3 * answer->ttft_s);
    put(row, "tpot_ms", given * 1e3 * answer->tpot_s);
    put(row, "slo_percent", given * 100 * metrics->slo_share);
    put(row, "goodput_per_s", given * metrics->goodput_per_s);
    put(row, "output_tokens_per_s", given * metrics->output_tokens_per_s);
    put(row, "headroom", answer->headroom > 0 ? answer->headroom : NAN);
    json_object_set_new(row, "headroom_open", json_boolean(answer->headroom_open));
    put(row, "busy_percent", given * 100 * answer->busy_share);
    put(row, "kv_percent", given * 100 * answer->peak_kv_share);
    put(row, "dollars_per_hour", price * answer->dollars_per_hour);
    put(row, "dollars_per_million_by_use", price * answer->dollars_by_use);
    put(row, "dollars_per_million_reserved", price * answer->dollars_by_reservation);
    put(row, "watt_hours_per_million_by_use", answer->watt_hours_by_use > 0 ? answer->watt_hours_by_use : NAN);
    json_object_set_new(row, "binds", json_string(answer->binds));
    json_object_set_new(row, "saturation", meets ? json_string(saturation_name(metrics->saturation)) : json_null());
    json_object_set_new(row, "provenance", meets ? json_string(provenance_name(answer->provenance)) : json_null());
    json_object_set_new(row, "short_run", json_boolean(answer->short_run));
    json_object_set_new(row, "verdict", json_string(planner_verdict_name(answer->verdict)));
    json_object_set_new(row, "why", json_string(answer->why));
    return row;
}

// *row is NULL where the computation was stopped.
static int compute(json_t **row, struct pool *pool, int64_t index)
{
    const struct plan_work *work = pool->work;
    struct planner_answer answer;
    struct workload scaled = *work->workload;
    struct built *built = malloc(sizeof *built);
    *row = NULL;
    if (!built) {
        return status_fail(-ENOMEM, "no memory for a case");
    }
    int error = build(built, work, index);
    bool faster = !error && built->values.rate_per_s > 0;
    if (faster) {
        error = planner_scale(&scaled, work->workload, built->values.rate_per_s / work->workload_rate_per_s);
    }
    if (!error) {
        built->options.replica.stop = &pool->stop;
        error = planner_smallest(&answer, &scaled, &built->options);
        error = error ? status_prefix(error, "%s on %s: ", built->values.method, built->device.name) : 0;
    }
    if (!error && answer.verdict != PLANNER_STOPPED) {
        *row = row_of(work, index, built->values.ranks, &answer);
    }
    if (faster) {
        free(scaled.requests);
    }
    free(built);
    return error;
}

int plan_work_check(const struct plan_work *work)
{
    int64_t n = plan_grid_cases(work->grid);
    struct built *built = malloc(sizeof *built);
    int error = n < 0 ? (int)n : built ? 0 : status_fail(-ENOMEM, "no memory for a case");
    for (int64_t i = work->shard; !error && i < n; i += work->n_shards) {
        error = build(built, work, i);
        if (!error && !(built->values.slo_ttft_s > 0) && !(built->values.slo_tpot_ms > 0)) {
            error = status_fail(-EINVAL, "nothing to plan for: give a limit, --slo-ttft, --slo-tpot or both");
        }
    }
    free(built);
    return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads

static void *run_cases(void *user)
{
    struct pool *pool = user;
    int64_t n = pool->rows->n, every = pool->work->n_shards;
    pthread_mutex_lock(&pool->lock);
    while (pool->next < n && !pool->error && !pool->stop) {
        int64_t index = pool->next;
        json_t *row;
        pool->next += every;
        if (pool->rows->rows[index]) {
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        int error = compute(&row, pool, index);
        pthread_mutex_lock(&pool->lock);
        if (!error && row) {
            error = plan_rows_add(pool->rows, index, row);
        }
        if (error && !pool->error) {
            pool->error = error;
            snprintf(pool->why, sizeof pool->why, "%s", status_text());
        }
        pthread_cond_signal(&pool->finished);
    }
    pool->n_running--;
    pthread_cond_signal(&pool->finished);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

// Waits for the threads, shows rows in order meanwhile. Called and left with the lock held.
static void watch(struct pool *pool, void (*shown)(void *user, int64_t index), void *user)
{
    const struct plan_work *work = pool->work;
    struct progress progress;
    int64_t next = work->shard, n = pool->rows->n;
    progress_begin(&progress, "clsa plan", (n - work->shard + work->n_shards - 1) / work->n_shards);
    for (bool running = true; running;) {
        running = pool->n_running > 0;
        if (running) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += WAIT_NS;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
            pthread_cond_timedwait(&pool->finished, &pool->lock, &until);
        }
        pool->stop = pool->stop || interrupt_requested();
        for (; next < n && (pool->rows->rows[next] || !running); next += work->n_shards) {
            if (pool->rows->rows[next]) {
                progress_end(&progress);
                shown(user, next);
            }
        }
        progress_update(&progress, (next - work->shard) / work->n_shards);
    }
    progress_end(&progress);
}

int plan_work_run(const struct plan_work *work, struct plan_rows *rows, void (*shown)(void *user, int64_t index),
                  void *user)
{
    pthread_t threads[MAX_THREADS];
    int32_t n_threads = 0, wanted = work->threads < MAX_THREADS ? work->threads : MAX_THREADS;
    struct pool pool = {.work = work,
                        .rows = rows,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .finished = PTHREAD_COND_INITIALIZER,
                        .next = work->shard};
    pthread_mutex_lock(&pool.lock);
    while (n_threads < wanted && pthread_create(&threads[n_threads], NULL, run_cases, &pool) == 0) {
        n_threads++;
    }
    pool.n_running = n_threads;
    if (n_threads == 0) {
        pool.error = -EAGAIN;
        snprintf(pool.why, sizeof pool.why, "cannot start a thread");
    }
    watch(&pool, shown, user);
    pthread_mutex_unlock(&pool.lock);
    for (int32_t i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_mutex_destroy(&pool.lock);
    pthread_cond_destroy(&pool.finished);
    if (pool.error) {
        return status_fail(pool.error, "%s", pool.why);
    }
    return pool.stop ? status_fail(-EINTR, "interrupted: the rows above are finished") : 0;
}
