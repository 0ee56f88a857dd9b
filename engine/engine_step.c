// engine/engine_step.c - one step: what the scheduler planned becomes a batch, the batch tokens, the tokens outputs.
//
// A request keeps all its tokens, so that a preempted one is simply run again from them: the scheduler asks for the
// same rows once more, and no token is put out twice, because outputs are counted here.
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_state.h"
#include "engine/status.h"
#include "engine/tokenizer.h"

void engine_tell_request(const struct engine *engine, const struct request *request, enum request_state state,
                         int64_t step)
{
    const struct observer *observer = engine->options.observer;
    if (observer && observer->request) {
        struct request_sample sample = {.request = request->id,
                                        .state = state,
                                        .prompt_tokens = request->n_prompt,
                                        .output_tokens = request->n_output,
                                        .step = step};
        observer->request(observer->user, &sample);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Observation of what is not a stage of the pass

static void host_begin(const struct engine *engine, struct observed_stage *stage, const struct observed_step *step)
{
    const struct observer *observer = engine->options.observer;
    *stage = (struct observed_stage){.stage = STAGE_HOST,
                                     .layer = -1,
                                     .n_seqs = step->n_seqs,
                                     .n_tokens = step->n_tokens,
                                     .context_tokens = step->context_tokens};
    if (engine->staged && observer->stage_begin) {
        observer->stage_begin(observer->user, stage);
    }
}

static void host_end(const struct engine *engine, const struct observed_stage *stage)
{
    const struct observer *observer = engine->options.observer;
    if (engine->staged && observer->stage_end) {
        observer->stage_end(observer->user, stage);
    }
}

// A row that continues an answer; all others prefill, also those that a preempted request runs again.
static bool decodes(const struct engine *engine, const struct scheduled *part)
{
    const struct request *request = engine->requests[part->request];
    return part->new_tokens == 1 && part->context_tokens >= request->n_prompt &&
           part->context_tokens + 1 == request->n_prompt + request->n_output;
}

static struct observed_step describe_step(const struct engine *engine, int32_t n)
{
    struct observed_step step = {.step = engine->steps, .n_seqs = n};
    int32_t decoding = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct scheduled *part = &engine->scheduled[i];
        int32_t context = part->context_tokens + part->new_tokens;
        step.n_tokens += part->new_tokens;
        step.context_tokens = context > step.context_tokens ? context : step.context_tokens;
        step.n_outputs += part->wants_logits;
        decoding += decodes(engine, part);
    }
    step.phase = decoding == n ? PHASE_DECODE : decoding == 0 ? PHASE_PREFILL : PHASE_MIXED;
    return step;
}

static void tell_counters(const struct engine *engine, const struct observed_step *step)
{
    const struct observer *observer = engine->options.observer;
    if (observer && observer->counter) {
        struct engine_stats stats = engine_stats(engine);
        observer->counter(observer->user, COUNTER_BATCH, step->n_seqs);
        observer->counter(observer->user, COUNTER_QUEUE, stats.waiting);
        observer->counter(observer->user, COUNTER_KV_BYTES, (double)stats.kv_bytes_used);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The step

// Steps that decode agree in their bound until the longest context passes a power of two: an asynchronous backend can
// then replay what it recorded. Others are bounded by what they hold.
static void round_bound(struct engine *engine)
{
    struct batch *batch = &engine->batch.batch;
    int32_t bound = 1;
    if (engine->backend->asynchronous && batch->all.n == batch->n_seqs) {
        while (bound < batch->context_bound) {
            bound *= 2;
        }
        batch->context_bound = bound < engine->options.max_context ? bound : engine->options.max_context;
    }
}

// Window rings of prefixes that begin here, or end here: a snapshot is a ring behind those of the sequences.
static int copy_windows(struct engine *engine, int32_t n, bool restore)
{
    int error = 0;
    for (int32_t i = 0; i < n && !error; i++) {
        const struct scheduled *part = &engine->scheduled[i];
        int32_t snapshot = restore ? part->restore_from : part->snapshot_to;
        int32_t ring = engine->options.max_seqs + snapshot, from = restore ? ring : part->slot;
        if (snapshot >= 0) {
            error = kv_cache_copy(engine->cache, NULL, NULL, 0, from, restore ? part->slot : ring);
        }
    }
    return error;
}

// Fills the batch and the sampling of its logit rows.
static int prepare(struct engine *engine, int32_t n)
{
    int error = copy_windows(engine, n, true);
    if (error) {
        return error;
    }
    step_batch_clear(&engine->batch, engine->steps);
    for (int32_t i = 0; i < n; i++) {
        const struct scheduled *part = &engine->scheduled[i];
        const struct request *request = engine->requests[part->request];
        int32_t logit_rows = engine->options.every_position ? part->new_tokens : part->wants_logits;
        int32_t n_pages, first = engine->batch.batch.last.n;
        const int32_t *pages = kv_pages_table(engine->pages, part->slot, &n_pages);
        step_batch_add(&engine->batch, part->slot, part->context_tokens, request->tokens + part->context_tokens,
                       part->new_tokens, logit_rows, pages, n_pages);
        for (int32_t r = first; r < first + logit_rows; r++) {
            engine->sampling[r] = request->sampling;
        }
        engine->last_row[i] = first + logit_rows - 1;
    }
    round_bound(engine);
    return forward_begin(engine->forward, &engine->batch.batch, engine->batch.work);
}

static int copy_logits(struct engine *engine)
{
    int64_t vocab_bytes = (int64_t)engine->plan.shape.vocab * (int64_t)sizeof(float);
    if (!engine->keep_logits) {
        return 0;
    }
    if (!engine->logits) {
        engine->logits = malloc((size_t)(engine->max_logit_rows * vocab_bytes));
        if (!engine->logits) {
            return status_fail(-ENOMEM, "no memory to keep the logits of %d rows", engine->max_logit_rows);
        }
    }
    return engine->backend->download(engine->context, engine->logits, forward_logits(engine->forward),
                                     engine->batch.batch.last.n * vocab_bytes);
}

// Appends the token that follows, forced or drawn, and describes the output.
static void take_token(struct engine *engine, int32_t i, struct engine_output *out)
{
    struct request *request = engine->requests[engine->scheduled[i].request];
    int32_t row = engine->last_row[i], drawn = engine->drawn[row];
    int32_t follows = request->n_output < request->forced_end ? request->forced[request->n_output] : drawn;
    *out = (struct engine_output){.request = request->id, .token = drawn, .index = request->n_output};
    if (engine->keep_logits) {
        out->logits = engine->logits + (int64_t)row * engine->plan.shape.vocab;
    }
    request->tokens[request->n_prompt + request->n_output++] = follows;
    engine->ended[i] = request->stop_at_end && follows == TOKEN_END;
    engine->output_tokens++;
}

// After the pass: tokens to requests, the step to the scheduler. Returns the number of outputs.
static int32_t conclude(struct engine *engine, int32_t n, int32_t *n_finished)
{
    int32_t n_outputs = 0;
    for (int32_t i = 0; i < n; i++) {
        engine->ended[i] = false;
        engine->prompt_tokens += decodes(engine, &engine->scheduled[i]) ? 0 : engine->scheduled[i].new_tokens;
        if (engine->scheduled[i].wants_logits) {
            take_token(engine, i, &engine->outputs[n_outputs++]);
        }
    }
    scheduler_complete(engine->scheduler, engine->scheduled, engine->ended, n, engine->finished, n_finished);
    for (int32_t i = 0; i < n_outputs; i++) {
        for (int32_t j = 0; j < *n_finished; j++) {
            engine->outputs[i].finished |= engine->finished[j] == engine->outputs[i].request;
        }
    }
    return n_outputs;
}

static int run_step(struct engine *engine, struct observed_step *step, int32_t *n_finished)
{
    struct observed_stage host;
    bool one_row_each = step->n_tokens == step->n_seqs && step->n_outputs == step->n_seqs;
    engine->staged = forward_tells_stages(engine->forward, step->step, one_row_each);
    host_begin(engine, &host, step);
    int error = prepare(engine, step->n_seqs);
    host_end(engine, &host);
    error = error ? error : forward_run(engine->forward, engine->sampling, engine->drawn);
    error = error ? error : forward_end(engine->forward);
    step->device_ns = forward_device_ns(engine->forward);
    error = error ? error : copy_windows(engine, step->n_seqs, false);
    if (error) {
        return error;
    }
    host_begin(engine, &host, step);
    error = copy_logits(engine);
    int32_t n_outputs = error ? error : conclude(engine, step->n_seqs, n_finished);
    host_end(engine, &host);
    return n_outputs;
}

// What the step did to requests, told after it; requests that finished are forgotten.
static void tell_outputs(struct engine *engine, int32_t n_outputs, int32_t n_finished, int64_t step)
{
    for (int32_t i = 0; i < n_outputs; i++) {
        if (engine->outputs[i].index == 0) {
            engine_tell_request(engine, engine->requests[engine->outputs[i].request], REQUEST_FIRST_TOKEN, step);
        }
    }
    for (int32_t i = 0; i < n_finished; i++) {
        struct request **request = &engine->requests[engine->finished[i]];
        engine_tell_request(engine, *request, REQUEST_FINISHED, step);
        engine_free_request(*request);
        *request = NULL;
    }
}

int engine_step(struct engine *engine, const struct engine_output **outputs)
{
    const struct observer *observer = engine->options.observer;
    int32_t n_preempted = 0, n_finished = 0;
    *outputs = engine->outputs;
    if (engine->failed) {
        return status_fail(engine->failed, "the engine stopped when an earlier step failed");
    }
    int32_t n = scheduler_next(engine->scheduler, engine->scheduled, engine->preempted, &n_preempted);
    if (n == 0) {
        return status_fail(-ENODATA, "no request waits or runs");
    }
    engine->preemptions += n_preempted;
    struct observed_step step = describe_step(engine, n);
    for (int32_t i = 0; i < n; i++) {
        struct request *request = engine->requests[engine->scheduled[i].request];
        engine->reused_tokens += engine->scheduled[i].reused_tokens;
        if (!request->started) {
            request->started = true;
            request->reused_tokens = engine->scheduled[i].reused_tokens;
            engine_tell_request(engine, request, REQUEST_RUNNING, step.step);
        }
    }
    if (observer && observer->step_begin) {
        observer->step_begin(observer->user, &step);
    }
    int n_outputs = run_step(engine, &step, &n_finished);
    if (observer && observer->step_end) {
        observer->step_end(observer->user, &step);
    }
    if (n_outputs < 0) {
        engine->failed = n_outputs;
        return status_prefix(n_outputs, "step %lld: ", (long long)step.step);
    }
    engine->steps++;
    tell_outputs(engine, n_outputs, n_finished, step.step);
    tell_counters(engine, &step);
    return n_outputs;
}

// ---------------------------------------------------------------------------------------------------------------------
// Questions

void engine_keep_logits(struct engine *engine, bool keep)
{
    engine->keep_logits = keep;
}

const float *engine_logits(const struct engine *engine, int32_t *n_rows)
{
    *n_rows = engine->logits ? engine->batch.batch.last.n : 0;
    return engine->logits;
}

int32_t engine_selection(const struct engine *engine, int32_t layer, int32_t row, int32_t set, const int32_t **units)
{
    *units = NULL;
    if (layer < 0 || layer >= engine->plan.shape.n_layers) {
        return 0;
    }
    int32_t index_from = engine->plan.layers[layer].index_from;
    const struct selection *selection = forward_selection(engine->forward, index_from);
    const struct batch *batch = &engine->batch.batch;
    if (!selection || row < 0 || row >= batch->last.n || set < 0 || set >= selection->sets) {
        return 0;
    }
    int64_t at = forward_selects_last(engine->forward, index_from) ? row : batch->last.source[row];
    at = at * selection->sets + set;
    int32_t count = 0;
    int error = engine->backend->download(engine->context, &count, selection->count + at, (int64_t)sizeof count);
    error = error ? error : engine->backend->download(engine->context, engine->units,
                                                      selection->unit + at * selection->stride,
                                                      count * (int64_t)sizeof *engine->units);
    *units = engine->units;
    return error ? 0 : count;
}

int32_t engine_reused(const struct engine *engine, int64_t request)
{
    bool there = request >= 0 && request < engine->n_requests && engine->requests[request];
    return there ? engine->requests[request]->reused_tokens : 0;
}

struct engine_stats engine_stats(const struct engine *engine)
{
    int32_t running = scheduler_running(engine->scheduler);
    int64_t page_bytes = plan_kv_bytes_per_token(&engine->plan) * engine->plan.page_tokens;
    int64_t rings = running * plan_kv_bytes_per_sequence(&engine->plan);
    return (struct engine_stats){
        .steps = engine->steps,
        .prompt_tokens = engine->prompt_tokens,
        .output_tokens = engine->output_tokens,
        .kv_bytes_used = kv_pages_used(engine->pages) * page_bytes + rings,
        .kv_bytes_allocated = kv_cache_bytes(engine->cache),
        .weight_bytes = plan_weight_bytes(&engine->plan),
        .cache_tokens = (kv_pages_free(engine->pages) + kv_pages_used(engine->pages)) * engine->plan.page_tokens,
        .running = running,
        .waiting = scheduler_waiting(engine->scheduler),
        .preemptions = engine->preemptions,
        .reused_tokens = engine->reused_tokens,
    };
}

int64_t engine_device_bytes(const struct engine *engine)
{
    int64_t free_bytes, total_bytes;
    bool known = engine->backend->memory && engine->backend->memory(engine->context, &free_bytes, &total_bytes) == 0;
    return known ? total_bytes - free_bytes : 0;
}

// The threads that the backend uses: the reference knows one only, others take what they are given or may use.
static int32_t count_threads(const struct engine *engine)
{
    cpu_set_t set;
    if (strcmp(engine->backend->name, "reference") == 0) {
        return 1;
    }
    if (engine->options.threads > 0) {
        return engine->options.threads;
    }
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void engine_source(const struct engine *engine, struct sample_source *out)
{
    char device[SOURCE_NAME_BYTES] = "", variant[SOURCE_NAME_BYTES] = "";
    *out = sample_source_of(&engine->plan);
    out->threads = count_threads(engine);
    out->graph = engine->backend->asynchronous && !engine->options.eager;
    engine->backend->describe(engine->context, device, variant, sizeof device);
    snprintf(out->device, sizeof out->device, "%s", device);
    snprintf(out->backend, sizeof out->backend, "%.32s%s%.62s", engine->backend->name, variant[0] ? "/" : "",
             variant);
}

const struct plan *engine_plan(const struct engine *engine)
{
    return &engine->plan;
}
