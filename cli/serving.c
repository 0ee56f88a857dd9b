// cli/serving.c - see serving.h.
#include "cli/serving.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "cupti/collector.h"
#include "engine/status.h"

struct serving {
    const struct workload *workload;
    const struct serving_options *options;
    struct serving_result *result;
    struct engine *engine;
    struct observer observer;
    int64_t *request_of;             // [n] by the engine's id
    int32_t *prompt;                 // [longest]
    int32_t max_context, least_context;
    double now_s;
    int64_t next, n_known, n_finished, begin_ns;
};

static void on_request(void *user, const struct request_sample *sample)
{
    struct serving *serving = user;
    if (sample->state == REQUEST_RUNNING) {
        struct request_record *record = &serving->result->records[serving->request_of[sample->request]];
        record->started_s = serving->now_s;
        record->reused_tokens = engine_reused(serving->engine, sample->request);
    }
    const struct observer *also = serving->options->observer;
    if (also && also->request) {
        also->request(also->user, sample);
    }
}

// Forwards what the caller's observer hears, so that it and we both see requests.
static const struct observer *also(const void *user)
{
    return ((const struct serving *)user)->options->observer;
}

static void on_step_begin(void *user, const struct observed_step *step)
{
    also(user)->step_begin(also(user)->user, step);
}

static void on_step_end(void *user, const struct observed_step *step)
{
    also(user)->step_end(also(user)->user, step);
}

static void on_layer_begin(void *user, int32_t layer)
{
    also(user)->layer_begin(also(user)->user, layer);
}

static void on_layer_end(void *user, int32_t layer)
{
    also(user)->layer_end(also(user)->user, layer);
}

static void on_stage_begin(void *user, const struct observed_stage *stage)
{
    also(user)->stage_begin(also(user)->user, stage);
}

static void on_stage_end(void *user, const struct observed_stage *stage)
{
    also(user)->stage_end(also(user)->user, stage);
}

static void on_counter(void *user, enum counter counter, double value)
{
    also(user)->counter(also(user)->user, counter, value);
}

static void on_device_stages(void *user, const struct device_stage *stages, int32_t n)
{
    also(user)->device_stages(also(user)->user, stages, n);
}

static void choose_observer(struct serving *serving)
{
    const struct observer *other = serving->options->observer;
    serving->observer = (struct observer){.user = serving, .request = on_request};
    if (other) {
        serving->observer.step_begin = other->step_begin ? on_step_begin : NULL;
        serving->observer.step_end = other->step_end ? on_step_end : NULL;
        serving->observer.layer_begin = other->layer_begin ? on_layer_begin : NULL;
        serving->observer.layer_end = other->layer_end ? on_layer_end : NULL;
        serving->observer.stage_begin = other->stage_begin ? on_stage_begin : NULL;
        serving->observer.stage_end = other->stage_end ? on_stage_end : NULL;
        serving->observer.device_stages = other->device_stages ? on_device_stages : NULL;
        serving->observer.counter = other->counter ? on_counter : NULL;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests

static void make_prompt(struct serving *serving, int64_t index)
{
    const struct workload *workload = serving->workload;
    int32_t vocab = serving->options->plan->shape.vocab;
    int32_t text = vocab < 256 ? vocab : 256;    // bytes: no special tokens
    for (int32_t i = 0; i < workload->requests[index].prompt_tokens; i++) {
        // splitmix64's last step over what the workload says and where.
        uint64_t z = workload_stream(workload, index, i) + serving->options->seed;
        z += 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        serving->prompt[i] = (int32_t)((z ^ (z >> 31)) % (uint64_t)text);
    }
}

static void follow(struct serving *serving)
{
    if (serving->workload->users > 0 && serving->n_known < serving->workload->n) {
        serving->result->records[serving->n_known++].arrival_s =
            serving->now_s + 1e-9 * (double)serving->workload->pause_ns;
    }
}

static int submit_arrived(struct serving *serving)
{
    for (; serving->next < serving->n_known; serving->next++) {
        struct request_record *record = &serving->result->records[serving->next];
        if (record->arrival_s > serving->now_s) {
            break;
        }
        make_prompt(serving, serving->next);
        struct engine_request request = {.prompt = serving->prompt,
                                         .n_prompt = record->prompt_tokens,
                                         .max_output_tokens = record->output_tokens,
                                         .seed = serving->options->seed};
        int64_t id;
        // Ids count up from 0, and the observer may ask for this one's request at once.
        serving->request_of[serving->next - serving->result->metrics.rejected] = serving->next;
        int error = engine_submit(serving->engine, &request, &id);
        if (error == -EINVAL) {
            record->rejected = true;
            serving->result->metrics.rejected++;
            follow(serving);
        } else if (error) {
            return error;
        }
    }
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Time

// To a request that finds nothing under way. It is handed over as if waking took no time: what arrives meanwhile waits
// for the step, as it does where time is simulated, and the step's own end says when all of that was.
static void wait_until(struct serving *serving, double arrival_s)
{
    double now_s = 1e-9 * (double)(collector_now_ns() - serving->begin_ns);
    if (!serving->options->virtual_clock && arrival_s > now_s) {
        double left_s = arrival_s - now_s;
        struct timespec pause = {.tv_sec = (time_t)left_s, .tv_nsec = (long)((left_s - floor(left_s)) * 1e9)};
        nanosleep(&pause, NULL);
    }
    serving->now_s = fmax(serving->now_s, arrival_s);
}

static void take_outputs(struct serving *serving, const struct engine_output *outputs, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct request_record *record = &serving->result->records[serving->request_of[outputs[i].request]];
        if (outputs[i].index == 0) {
            record->first_token_s = serving->now_s;
        }
        if (outputs[i].finished) {
            record->finished_s = serving->now_s;
            serving->n_finished++;
            follow(serving);
        }
    }
}

static int take_step(struct serving *serving)
{
    const struct engine_output *outputs;
    int64_t begin_ns = collector_now_ns();
    int n = engine_step(serving->engine, &outputs);
    int64_t end_ns = collector_now_ns();
    if (n < 0) {
        return n;
    }
    double step_s = 1e-9 * (double)(end_ns - begin_ns), begin_s = serving->now_s;
    serving->result->busy_s += step_s;
    serving->now_s =
        serving->options->virtual_clock ? serving->now_s + step_s : 1e-9 * (double)(end_ns - serving->begin_ns);
    if (serving->options->stepped) {
        serving->options->stepped(serving->options->stepped_user,
                                  serving->options->virtual_clock ? begin_s : serving->now_s - step_s, serving->now_s);
    }
    take_outputs(serving, outputs, n);
    struct engine_stats stats = engine_stats(serving->engine);
    serving->result->peak_kv_bytes =
        stats.kv_bytes_used > serving->result->peak_kv_bytes ? stats.kv_bytes_used : serving->result->peak_kv_bytes;
    serving->result->peak_running = stats.running > serving->result->peak_running ? stats.running
                                                                                  : serving->result->peak_running;
    if (serving->options->progress) {
        serving->options->progress(serving->options->progress_user, serving->n_finished, serving->workload->n);
    }
    return 0;
}

static int run(struct serving *serving)
{
    serving->begin_ns = collector_now_ns();
    for (;;) {
        int error = submit_arrived(serving);
        if (error) {
            return error;
        }
        struct engine_stats stats = engine_stats(serving->engine);
        if (stats.running + stats.waiting > 0) {
            error = take_step(serving);
        } else if (serving->next < serving->n_known) {
            wait_until(serving, serving->result->records[serving->next].arrival_s);
        } else {
            return 0;
        }
        if (error) {
            return error;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

static int open_records(struct serving *serving)
{
    const struct workload *workload = serving->workload;
    struct serving_result *result = serving->result;
    int32_t longest_prompt = 1, shortest_prompt = INT32_MAX;
    int64_t longest = 1;
    result->records = malloc((size_t)workload->n * sizeof *result->records + 1);
    serving->request_of = malloc((size_t)workload->n * sizeof *serving->request_of + 1);
    if (!result->records || !serving->request_of) {
        return status_fail(-ENOMEM, "no memory to replay %lld requests", (long long)workload->n);
    }
    result->n_records = workload->n;
    serving->n_known = workload->users > 0 && workload->users < workload->n ? workload->users : workload->n;
    for (int64_t i = 0; i < workload->n; i++) {
        const struct workload_request *request = &workload->requests[i];
        int64_t tokens = (int64_t)request->prompt_tokens + request->output_tokens;
        longest = tokens > longest ? tokens : longest;
        longest_prompt = request->prompt_tokens > longest_prompt ? request->prompt_tokens : longest_prompt;
        shortest_prompt = request->prompt_tokens < shortest_prompt ? request->prompt_tokens : shortest_prompt;
        result->records[i] = (struct request_record){
            .arrival_s = i < serving->n_known ? 1e-9 * (double)request->arrival_ns : NAN,
            .started_s = NAN,
            .first_token_s = NAN,
            .finished_s = NAN,
            .prompt_tokens = request->prompt_tokens,
            .output_tokens = request->output_tokens,
        };
    }
    if (longest > 1 << 27) {
        return status_fail(-EINVAL, "the longest request has %lld tokens: expected at most %d; cut it or shorten all",
                           (long long)longest, 1 << 27);
    }
    serving->max_context = (int32_t)longest;
    serving->least_context = shortest_prompt;
    serving->prompt = malloc((size_t)longest_prompt * sizeof *serving->prompt);
    return serving->prompt ? 0 : status_fail(-ENOMEM, "no memory for a prompt of %d tokens", longest_prompt);
}

static int open_engine(struct serving *serving)
{
    const struct serving_options *o = serving->options;
    if (o->cache_tokens > INT32_MAX / 2) {
        return status_fail(-EINVAL, "a cache of %lld tokens: expected at most %d", (long long)o->cache_tokens,
                           INT32_MAX / 2);
    }
    choose_observer(serving);
    int32_t unit = workload_prefix_unit(serving->workload, plan_prefix_unit(o->plan));
    struct engine_options options = {.plan = o->plan,
                                     .model = o->model,
                                     .backend = o->backend,
                                     .threads = o->threads,
                                     .device = o->device,
                                     .max_seqs = o->max_seqs,
                                     .max_context = serving->max_context,
                                     .max_step_tokens = o->max_step_tokens,
                                     .cache_tokens = (int32_t)o->cache_tokens,
                                     .reuse_prefixes = !o->no_reuse && workload_shares(serving->workload),
                                     .prefix_tokens = unit,
                                     .snapshots = o->snapshots,
                                     .observer = &serving->observer};
    int error = engine_open(&serving->engine, &options);
    int64_t begin_ns = collector_now_ns();
    error = error || o->cold ? error : engine_warm(serving->engine, serving->least_context);
    serving->result->warm_s = 1e-9 * (double)(collector_now_ns() - begin_ns);
    if (!error && o->opened) {
        struct sample_source source;
        engine_source(serving->engine, &source);
        o->opened(o->opened_user, &source);
    }
    return error;
}

static int reduce(struct serving *serving)
{
    struct serving_result *result = serving->result;
    struct engine_stats stats = engine_stats(serving->engine);
    int error = serve_reduce(&result->metrics, result->records, result->n_records, serving->options->slo_ttft_s,
                             serving->options->slo_tpot_s, serving->workload->users > 0);
    result->metrics.preemptions = stats.preemptions;
    result->steps = stats.steps;
    result->reused_tokens = stats.reused_tokens;
    result->kv_bytes = stats.kv_bytes_allocated;
    result->weight_bytes = stats.weight_bytes;
    result->device_bytes = engine_device_bytes(serving->engine);
    engine_source(serving->engine, &result->source);
    if (!error && result->metrics.finished == 0) {
        error = status_fail(-EINVAL, "no request fits: %s", status_text());
    }
    return error;
}

int serving_run(struct serving_result *out, const struct workload *workload, const struct serving_options *options)
{
    struct serving serving = {.workload = workload, .options = options, .result = out};
    *out = (struct serving_result){0};
    int error = open_records(&serving);
    error = error ? error : open_engine(&serving);
    error = error ? error : run(&serving);
    error = error ? error : reduce(&serving);
    engine_close(serving.engine);
    free(serving.request_of);
    free(serving.prompt);
    if (error) {
        serving_close(out);
    }
    return error;
}

void serving_close(struct serving_result *result)
{
    if (result) {
        free(result->records);
        *result = (struct serving_result){0};
    }
}
