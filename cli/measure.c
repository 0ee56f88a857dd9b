// cli/measure.c - runs a batch to its end and reduces its steps to a few figures.
#include "cli/measure.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cupti/collector.h"
#include "engine/input_file.h"
#include "engine/sort.h"
#include "engine/status.h"
#include "engine/tokenizer.h"

enum { MAX_CONTEXT = 1 << 27,    // of an engine
       MAX_PROMPT_BYTES = 256 << 20 };

int measure_read_prompt(int32_t **tokens, int32_t *n, const char *path)
{
    char *text;
    size_t length;
    *tokens = NULL;
    int error = input_file_read(&text, &length, path, MAX_PROMPT_BYTES);
    if (error) {
        return error;
    }
    if (length == 0) {
        error = status_fail(-EINVAL, "%s: the prompt must be a file of 1 byte to 256 MiB of text", path);
    } else if (!(*tokens = malloc((length + 1) * sizeof **tokens))) {
        error = status_fail(-ENOMEM, "%s: out of memory", path);
    } else {
        *n = tokenizer_encode(*tokens, text, length);
    }
    free(text);
    return error;
}

int measure_device(char *backend, size_t bytes, int32_t *number, const char *device)
{
    const char *colon = strchr(device, ':');
    size_t length = colon ? (size_t)(colon - device) : strlen(device);
    *number = 0;
    if (length >= bytes) {
        return status_fail(-EINVAL, "--device %s: expected cpu, reference, cuda or cuda:N", device);
    }
    memcpy(backend, device, length);
    backend[length] = 0;
    if (colon) {
        char *end;
        long value = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end || value < 0 || value > 1023) {
            return status_fail(-EINVAL, "--device %s: expected a number from 0 behind the colon", device);
        }
        if (strcmp(backend, "cuda") != 0) {
            return status_fail(-EINVAL, "--device %s: only cuda takes a number; expected cpu, reference or cuda[:N]",
                               device);
        }
        *number = (int32_t)value;
    }
    return 0;
}

int32_t measure_chunk(const char *device)
{
    return strncmp(device, "cuda", 4) == 0 ? 8192 : 512;
}

// Step durations, kept apart by phase.
struct steps {
    double *decode_s;    // [n], durations of pure decode steps
    int64_t n, capacity, decode_tokens;
    double prefill_s;
    bool out_of_memory;
};

static void on_step(void *user, const struct step_sample *sample)
{
    struct steps *steps = user;
    double seconds = (double)sample->duration_ns * 1e-9;
    if (sample->phase != PHASE_DECODE) {
        steps->prefill_s += seconds;
        return;
    }
    if (steps->n == steps->capacity) {
        int64_t capacity = steps->capacity ? 2 * steps->capacity : 256;
        double *grown = realloc(steps->decode_s, (size_t)capacity * sizeof *grown);
        if (!grown) {
            steps->out_of_memory = true;
            return;
        }
        steps->decode_s = grown;
        steps->capacity = capacity;
    }
    steps->decode_s[steps->n++] = seconds;
    steps->decode_tokens += sample->n_tokens;
}

static void reduce(struct measurement *out, struct steps *steps)
{
    out->prefill_s = steps->prefill_s;
    out->decode_steps = steps->n;
    out->decode_tokens = steps->decode_tokens;
    for (int64_t i = 0; i < steps->n; i++) {
        out->decode_s += steps->decode_s[i];
    }
    if (steps->n > 0) {
        sort_doubles(steps->decode_s, steps->n);
        out->decode_step_s = steps->decode_s[steps->n / 2];
    }
}

static int submit_all(struct engine *engine, const struct measure_options *options, int64_t *first)
{
    int32_t n = options->context_tokens;
    int32_t *prompt = malloc((size_t)n * sizeof *prompt);
    if (!prompt) {
        return status_fail(-ENOMEM, "out of memory for a prompt of %d tokens", n);
    }
    int error = 0;
    for (int32_t i = 0; i < options->batch && !error; i++) {
        int64_t begin = (int64_t)i * options->n_text / options->batch;
        for (int32_t t = 0; t < n; t++) {
            prompt[t] = options->text[(begin + t) % options->n_text];
        }
        struct engine_request request = {
            .prompt = prompt, .n_prompt = n, .max_output_tokens = options->output_tokens,
            .temperature = (float)options->temperature, .top_p = (float)options->top_p, .seed = options->seed,
            .forced = i == 0 ? options->forced : NULL,
        };
        int64_t id;
        error = engine_submit(engine, &request, &id);
        if (i == 0) {
            *first = id;
        }
    }
    free(prompt);
    return error;
}

static int run_to_end(struct engine *engine, const struct measure_options *options, int64_t first,
                      struct measurement *out)
{
    char label[96];
    snprintf(label, sizeof label, "%s on %s", options->plan->method, options->device);
    struct progress progress;
    progress_begin(&progress, label, (int64_t)options->batch * (options->context_tokens + options->output_tokens));
    int error;
    while (!(error = interrupt_check())) {
        const struct engine_output *outputs;
        int n = engine_step(engine, &outputs);
        if (n < 0) {
            error = n == -ENODATA ? 0 : n;
            break;
        }
        struct engine_stats stats = engine_stats(engine);
        out->kv_bytes = stats.kv_bytes_used > out->kv_bytes ? stats.kv_bytes_used : out->kv_bytes;
        for (int i = 0; i < n; i++) {
            if (outputs[i].request == first) {
                out->tokens[out->n_tokens++] = outputs[i].token;
                if (options->token) {
                    options->token(options->token_user, outputs[i].token);
                }
            }
        }
        if (!options->token) {    // a bar between the words of an answer would spoil it
            progress_update(&progress, stats.prompt_tokens + stats.output_tokens);
        }
    }
    progress_end(&progress);
    return error;
}

// A pass before the run: the same steps, launched operator by operator, each stage counted by the GPU. Where it
// refuses, one line on stderr says why.
static int count_stages(struct counting *counting, const struct measure_options *options,
                        const struct engine_options *run)
{
    const struct counters_libraries libraries = {0};
    struct engine_options eager = *run;
    struct measure_options silent = *options;
    struct measurement ignored = {.tokens = calloc((size_t)options->output_tokens, sizeof *ignored.tokens)};
    struct engine *engine = NULL;
    int64_t first = 0;
    int refused = 0, error = ignored.tokens ? 0 : status_fail(-ENOMEM, "out of memory");
    error = error ? error : stage_counts_open(&counting->counts);
    if (!error) {
        silent.token = NULL;
        eager.eager = true;
        eager.observer = stage_counts_observer(counting->counts);
        error = engine_open(&engine, &eager);
    }
    if (!error) {
        refused = stage_counts_start(counting->counts, run->device, &libraries);
    }
    if (!error && !refused) {
        error = submit_all(engine, &silent, &first);
        error = error ? error : run_to_end(engine, &silent, first, &ignored);
        refused = error ? 0 : stage_counts_stop(counting->counts);
    }
    if (refused) {
        fprintf(stderr, "not counted: %s\n", status_text());
    }
    engine_close(engine);
    free(ignored.tokens);
    return error;
}

// Opens what counts beside the run to come, after the pass before it. *sink, which feeds the fan-out, then also fills
// in what was counted.
static int count(struct counting *counting, const struct measure_options *options, const struct engine_options *run,
                 struct sample_fanout *fanout, struct sample_sink *sink)
{
    bool gpu = strcmp(run->backend, "cuda") == 0;
    int error = gpu ? count_stages(counting, options, run) : 0;
    error = error ? error : counting_open(counting, gpu, run->device, sink);
    if (error) {
        return error;
    }
    fanout->sinks[fanout->n++] = counters_sink(counting->counters);
    if (counting->counts) {
        *sink = stage_counts_sink(counting->counts, sink);
    }
    return 0;
}

// A step that tells its stages takes half as long again: a long run does not feel one in 64. Short ones tell too.
static int32_t choose_every(const struct measure_options *options)
{
    int32_t quarter = options->output_tokens / 4;
    return options->stage_every || quarter >= 64 ? options->stage_every : quarter > 0 ? quarter : 1;
}

int measure(struct measurement *out, const struct measure_options *options)
{
    *out = (struct measurement){0};
    struct steps steps = {0};
    struct collector *collector = NULL;
    struct engine *engine = NULL;
    struct sample_fanout fanout = {.n = options->n_sinks + 1};
    fanout.sinks[0] = (struct sample_sink){.user = &steps, .step = on_step};
    for (int32_t i = 0; i < options->n_sinks; i++) {
        fanout.sinks[i + 1] = options->sinks[i];
    }
    struct sample_sink sink = sample_fanout_sink(&fanout);
    char backend[32];
    int32_t number;
    int64_t first = 0;
    interrupt_catch();
    int error = measure_device(backend, sizeof backend, &number, options->device);
    if (!error && options->context_tokens > MAX_CONTEXT - options->output_tokens) {
        error = status_fail(-EINVAL, "--context %d and --output %d: a sequence has at most %d tokens",
                            options->context_tokens, options->output_tokens, MAX_CONTEXT);
    }
    if (error) {
        goto done;
    }
    struct engine_options engine_options = {
        .plan = options->plan, .model = options->model, .backend = backend, .threads = options->threads,
        .device = number, .max_seqs = options->batch, .max_context = options->context_tokens + options->output_tokens,
        .max_step_tokens = options->chunk_tokens ? options->chunk_tokens : measure_chunk(options->device),
        .stage_every = choose_every(options),
    };
    if (options->collect == COLLECT_COUNTERS) {
        error = count(&out->counting, options, &engine_options, &fanout, &sink);
    }
    error = error ? error : collect_open(&collector, options->collect, &sink);
    if (error) {
        goto done;
    }
    engine_options.observer = collector_observer(collector);
    if (out->counting.counters) {
        engine_options.observer = counters_observer(out->counting.counters, engine_options.observer);
    }
    error = engine_open(&engine, &engine_options);
    if (error) {
        goto done;
    }
    engine_source(engine, &out->source);
    out->source.id = collector_set_source(collector, &out->source);
    out->tokens = calloc((size_t)options->output_tokens, sizeof *out->tokens);
    if (!out->tokens) {
        error = status_fail(-ENOMEM, "out of memory for %d output tokens", options->output_tokens);
        goto done;
    }
    error = submit_all(engine, options, &first);
    error = error ? error : run_to_end(engine, options, first, out);
    out->weight_bytes = engine_stats(engine).weight_bytes;
done:
    engine_close(engine);
    collector_close(collector);
    counting_stop(&out->counting);
    if (!error && steps.out_of_memory) {
        error = status_fail(-ENOMEM, "out of memory for step durations");
    }
    reduce(out, &steps);
    free(steps.decode_s);
    if (error) {
        measurement_free(out);
    }
    return error;
}

void measurement_free(struct measurement *measurement)
{
    free(measurement->tokens);
    counting_close(&measurement->counting);
    *measurement = (struct measurement){0};
}
