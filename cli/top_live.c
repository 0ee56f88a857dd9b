// cli/top_live.c - the engine's thread. The orders that it is given: top_orders.c.
#include "cli/top_live_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/measure.h"
#include "cli/progress.h"
#include "cupti/collector.h"
#include "engine/status.h"

static int parse_methods(struct live *live)
{
    const char *rest = live->options.methods;
    while (*rest) {
        size_t length = strcspn(rest, ",");
        if (live->n_methods == MAX_METHODS) {
            return status_fail(-EINVAL, "--method %s: more than %d", live->options.methods, MAX_METHODS);
        }
        char *name = live->names[live->n_methods++];
        snprintf(name, PLAN_NAME_BYTES, "%.*s", (int)(length < PLAN_NAME_BYTES ? length : PLAN_NAME_BYTES - 1), rest);
        if (!plan_find_method(name)) {
            char known[256];
            command_method_names(known, sizeof known);
            return status_fail(-EINVAL, "--method %s: expected some of %s, with commas between", name, known);
        }
        rest += length + (rest[length] == ',');
    }
    return live->n_methods > 0 ? 0 : status_fail(-EINVAL, "--method: expected at least one name");
}

// The plan of a method with the current knobs. The file of its backbone is opened when first needed.
static int build_plan(struct live *live, int32_t method, const struct orders *orders)
{
    enum backbone backbone = plan_find_method(live->names[method])->backbone;
    struct model_file **file = &live->files[backbone];
    struct plan_flags flags = live->options.flags;
    flags.options.top_k = orders->top_k > 0 ? orders->top_k : flags.options.top_k;
    flags.options.index_every = orders->index_every > 0 ? orders->index_every : flags.options.index_every;
    int error = 0;
    if (!*file) {
        error = command_model_open(file, live->options.model, live->names[method], &live->options.flags,
                                   live->options.seed);
    }
    return error ? error
                 : command_plan_build(&live->plans[method], *file, live->names[method], &flags);
}

int live_open(struct live **out, const struct live_options *options)
{
    *out = NULL;
    struct live *live = calloc(1, sizeof *live);
    if (!live) {
        return status_fail(-ENOMEM, "out of memory for an engine");
    }
    live->options = *options;
    live->orders = (struct orders){.only = -1, .batch = options->batch, .context = options->context_tokens};
    snprintf(live->orders.device, sizeof live->orders.device, "%s", options->device);
    pthread_mutex_init(&live->mutex, NULL);
    pthread_cond_init(&live->changed, NULL);
    int error = plan_flags_resolve(&live->options.flags);
    error = error ? error : parse_methods(live);
    for (int32_t i = 0; i < live->n_methods && !error; i++) {
        error = build_plan(live, i, &live->orders);
        int32_t unit = live->plans[i].index.unit_tokens;
        live->unit_tokens = unit > live->unit_tokens ? unit : live->unit_tokens;
    }
    if (error) {
        live_close(live);
        return error;
    }
    *out = live;
    return 0;
}

static void close_slot(struct live *live, int32_t method)
{
    struct slot *slot = &live->slots[method];
    live->engine = live->engine == slot->engine ? NULL : live->engine;
    engine_close(slot->engine);
    *slot = (struct slot){.engine = NULL};
}

// Returns whether there were any.
static bool close_engines(struct live *live)
{
    bool any = false;
    for (int32_t i = 0; i < live->n_methods; i++) {
        any = any || live->slots[i].engine;
        close_slot(live, i);
    }
    return any;
}

void live_close(struct live *live)
{
    if (!live) {
        return;
    }
    if (live->started) {
        pthread_mutex_lock(&live->mutex);
        live->orders.stop = true;
        pthread_cond_broadcast(&live->changed);
        pthread_mutex_unlock(&live->mutex);
        pthread_join(live->thread, NULL);
    }
    close_engines(live);
    collector_close(live->collector);
    for (int32_t i = 0; i < BACKBONE_COUNT; i++) {
        model_file_close(live->files[i]);
    }
    pthread_cond_destroy(&live->changed);
    pthread_mutex_destroy(&live->mutex);
    free(live->prompt);
    free(live);
}

static bool same_work(const struct orders *a, const struct orders *b)
{
    return a->batch == b->batch && a->context == b->context && a->top_k == b->top_k &&
           a->index_every == b->index_every && strcmp(a->device, b->device) == 0;
}

// CUPTI's records come late: what they belong to must not have changed meanwhile. Then one engine is open at a time.
static bool keeps_engines(const struct live *live)
{
    return live->options.collect.mode == COLLECT_STAGE || live->options.collect.mode == COLLECT_OFF;
}

// The engine for a method under these orders: the one at hand, or a new one, for which others make room if they must.
static int open_engine(struct live *live, int32_t method, const struct orders *orders)
{
    const struct live_options *options = &live->options;
    struct slot *slot = &live->slots[method];
    char backend[32];
    int32_t number;
    if (slot->engine && same_work(&slot->orders, orders)) {
        live->engine = slot->engine;
        return 0;
    }
    close_slot(live, method);
    if (!keeps_engines(live)) {
        close_engines(live);
    }
    int error = measure_device(backend, sizeof backend, &number, orders->device);
    struct engine_options engine_options = {
        .plan = &live->plans[method],
        .model = live->files[plan_find_method(live->names[method])->backbone],
        .backend = backend, .threads = options->threads, .device = number, .max_seqs = orders->batch,
        .max_context = orders->context + options->output_tokens, .max_step_tokens = options->chunk_tokens,
        .observer = collector_observer(live->collector),
        .stage_every = options->collect.every,
    };
    error = error ? error : engine_open(&slot->engine, &engine_options);
    if (error == -ENOMEM && close_engines(live)) {
        error = engine_open(&slot->engine, &engine_options);
    }
    slot->orders = *orders;
    live->engine = slot->engine;
    return error;
}

// The prompt that all sequences begin with, as long as ordered.
static int make_prompt(struct live *live, int32_t tokens)
{
    if (live->prompt_tokens == tokens) {
        return 0;
    }
    int32_t *grown = realloc(live->prompt, (size_t)tokens * sizeof *grown);
    if (!grown) {
        return status_fail(-ENOMEM, "out of memory for a prompt of %d tokens", tokens);
    }
    live->prompt = grown;
    live->prompt_tokens = tokens;
    for (int32_t i = 0; i < tokens; i++) {
        grown[i] = live->options.text[i % live->options.n_text];
    }
    return 0;
}

// Says whose samples come next.
static void announce(struct live *live, const struct orders *orders)
{
    struct sample_source source;
    engine_source(live->engine, &source);
    source.id = collector_set_source(live->collector, &source);
    pthread_mutex_lock(&live->mutex);
    live->source = source;
    live->has_source = true;
    live->source_change = orders->change;
    pthread_mutex_unlock(&live->mutex);
}

// Gives the engine a batch of requests.
static int submit(struct live *live, const struct orders *orders)
{
    int error = make_prompt(live, orders->context);
    struct engine_request request = {.prompt = live->prompt, .n_prompt = orders->context,
                                     .max_output_tokens = live->options.output_tokens, .seed = live->options.seed};
    for (int32_t i = 0; i < orders->batch && !error; i++) {
        int64_t id;
        error = engine_submit(live->engine, &request, &id);
    }
    return error;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// What the layers that follow one indexer cover in the mean; NaN where the step was not probed.
static double coverage_of(const struct engine *engine, int32_t index_from)
{
    const struct plan *plan = engine_plan(engine);
    double sum = 0;
    int32_t n = 0;
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        if (plan->layers[layer].index_from == index_from) {
            sum += engine_coverage(engine, layer, 0);
            n++;
        }
    }
    return sum / n;
}

// Only steps whose selections will be shown are probed, and only while that is wanted: they take longer.
static int choose_probe(struct live *live)
{
    pthread_mutex_lock(&live->mutex);
    bool wanted = live->orders.coverage;
    pthread_mutex_unlock(&live->mutex);
    return engine_probe(live->engine, wanted && live->options.routing && routing_completes(live->options.routing));
}

// What the indexers selected for the first token that the last step drew, if that is wanted now.
static void tell_selections(struct live *live, int n_outputs)
{
    struct routing *routing = live->options.routing;
    const struct plan *plan = engine_plan(live->engine);
    if (!routing || n_outputs <= 0 || plan->index.budget_tokens == 0 || !routing_wanted(routing, now_ns())) {
        return;
    }
    routing_begin(routing, plan->method, engine_stats(live->engine).steps, live->last_context,
                  plan->index.unit_tokens);
    for (int32_t layer = 0; layer < plan->shape.n_layers; layer++) {
        const int32_t *units;
        int32_t n = plan_runs_indexer(plan, layer) ? engine_selection(live->engine, layer, 0, 0, &units) : 0;
        if (n > 0) {
            routing_put(routing, layer, units, n, coverage_of(live->engine, layer));
        }
    }
    routing_end(routing);
}

int live_run_once(struct live *live, const struct sample_sink *sink)
{
    int error = collect_open(&live->collector, live->options.collect.mode, sink);
    for (int32_t method = 0; method < live->n_methods && !error; method++) {
        const struct engine_output *outputs;
        struct progress progress;
        int64_t tokens = live->options.context_tokens + live->options.output_tokens;
        progress_begin(&progress, live->names[method], tokens * live->orders.batch);
        error = open_engine(live, method, &live->orders);
        if (!error) {
            announce(live, &live->orders);
            error = submit(live, &live->orders);
        }
        while (!error) {
            int n = engine_step(live->engine, &outputs);
            live->last_context = n > 0 ? live->orders.context + outputs[0].index : 0;
            tell_selections(live, n);
            struct engine_stats stats = engine_stats(live->engine);
            progress_update(&progress, stats.prompt_tokens + stats.output_tokens);
            error = n < 0 ? n : 0;
        }
        progress_end(&progress);
        error = error == -ENODATA ? 0 : error;
    }
    close_engines(live);
    return error;
}

// Waits out a pause. Returns false if the current batch is to end: stop, or orders that changed since.
static bool may_step(struct live *live, int64_t change)
{
    pthread_mutex_lock(&live->mutex);
    struct orders *orders = &live->orders;
    while (orders->paused && orders->steps == 0 && !orders->stop && orders->change == change) {
        pthread_cond_wait(&live->changed, &live->mutex);
    }
    bool go_on = !orders->stop && orders->change == change;
    if (go_on && orders->paused) {
        orders->steps--;
    }
    pthread_mutex_unlock(&live->mutex);
    return go_on;
}

// One method's turn: a whole batch, since a request that waits for other methods would be charged with their time.
static int run_batch(struct live *live, int32_t method, const struct orders *orders)
{
    const struct engine_output *outputs;
    live->stepped = false;
    int error = build_plan(live, method, orders);
    error = error ? error : open_engine(live, method, orders);
    if (!error) {
        announce(live, orders);
        error = submit(live, orders);
    }
    while (!error && may_step(live, orders->change)) {
        error = choose_probe(live);
        int n = error ? error : engine_step(live->engine, &outputs);
        live->stepped = live->stepped || n >= 0;
        live->last_context = n > 0 ? orders->context + outputs[0].index : 0;
        tell_selections(live, n);
        error = n < 0 ? n : 0;
    }
    if (error == -ENODATA) {
        return 0;
    }
    close_slot(live, method);    // failed, or with requests that nobody wants any more
    return error;
}

// An order that cannot be carried out (a batch that memory does not hold) is taken back, and told. A method that cannot
// begin at what others run at is left out until its next turn instead, and no longer the only one.
static void take_back(struct live *live, int32_t method, bool left_out, const struct orders *failed,
                      const struct orders *good)
{
    struct orders *orders = &live->orders;
    pthread_mutex_lock(&live->mutex);
    if (left_out) {
        orders->only = orders->only == method ? -1 : orders->only;
    } else {
        orders_take_back(orders, failed, good);
    }
    orders->change++;
    snprintf(live->notice, sizeof live->notice, "%s: %.200s", left_out ? "Left out" : "Taken back", status_text());
    pthread_mutex_unlock(&live->mutex);
}

static void *work(void *user)
{
    struct live *live = user;
    struct orders good = {.batch = 0};    // under which a batch began last
    int32_t method = 0, failures = 0;     // failures: batches in a row that could not begin
    bool left_out[MAX_METHODS] = {false};
    for (;;) {
        pthread_mutex_lock(&live->mutex);
        struct orders orders = live->orders;
        pthread_mutex_unlock(&live->mutex);
        if (orders.stop) {
            return NULL;
        }
        method = orders.only >= 0 ? orders.only : method;
        int error = run_batch(live, method, &orders);
        bool begun = !error || live->stepped, takes_back = good.batch > 0 && failures < live->n_methods;
        if (error && (begun || !takes_back)) {
            pthread_mutex_lock(&live->mutex);
            live->error = error;
            snprintf(live->error_text, sizeof live->error_text, "%s", status_text());
            pthread_mutex_unlock(&live->mutex);
            return NULL;
        }
        failures = error ? failures + 1 : 0;
        good = live->stepped ? orders : good;
        if (error) {
            left_out[method] = left_out[method] || same_work(&orders, &good);
            take_back(live, method, left_out[method], &orders, &good);
            method = left_out[method] ? (method + 1) % live->n_methods : method;    // or again, as before the order
        } else {
            left_out[method] = left_out[method] && !live->stepped;
            method = (method + 1) % live->n_methods;
        }
    }
}

int live_start(struct live *live, const struct sample_sink *sink)
{
    int error = collect_open(&live->collector, live->options.collect.mode, sink);
    if (error) {
        return error;
    }
    error = pthread_create(&live->thread, NULL, work, live);
    if (error) {
        return status_fail(-error, "the engine's thread cannot be started: %s", strerror(error));
    }
    live->started = true;
    return 0;
}

bool live_notice(struct live *live, char *text, size_t bytes)
{
    pthread_mutex_lock(&live->mutex);
    bool any = live->notice[0] != 0;
    if (any) {
        snprintf(text, bytes, "%s", live->notice);
        live->notice[0] = 0;
    }
    pthread_mutex_unlock(&live->mutex);
    return any;
}

bool live_source(struct live *live, struct sample_source *source)
{
    pthread_mutex_lock(&live->mutex);
    *source = live->source;
    bool known = live->has_source && live->source_change == live->orders.change;
    pthread_mutex_unlock(&live->mutex);
    return known;
}

int live_error(struct live *live)
{
    pthread_mutex_lock(&live->mutex);
    int error = live->error ? status_fail(live->error, "%s", live->error_text) : 0;
    pthread_mutex_unlock(&live->mutex);
    return error;
}
