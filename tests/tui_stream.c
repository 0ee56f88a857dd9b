// tests/tui_stream.c - a made-up stream of samples.
#include "tests/tui_stream.h"

#include <stdio.h>
#include <string.h>

struct made {
    const struct sample_sink *sink;
    uint64_t random;
    int64_t now_ns, step;
    int32_t source;
};

static int64_t draw(struct made *made, int64_t low, int64_t high)
{
    made->random = made->random * 6364136223846793005u + 1442695040888963407u;
    return low + (int64_t)((made->random >> 33) % (uint64_t)(high - low + 1));
}

static void stage(struct made *made, enum phase phase, enum stage which, int32_t layer, int32_t tokens, int32_t context,
                  int64_t mean_ns)
{
    struct stage_sample sample = {
        .source = made->source, .step = made->step, .phase = phase, .stage = which, .layer = layer, .n_seqs = 1,
        .n_tokens = tokens, .context_tokens = context, .bytes = mean_ns * draw(made, 20, 90), .flops = mean_ns * 30,
        .begin_ns = made->now_ns + draw(made, 10, 200), .duration_ns = mean_ns + draw(made, -mean_ns / 8, mean_ns / 4),
    };
    made->now_ns = sample.begin_ns + sample.duration_ns;
    made->sink->stage(made->sink->user, &sample);
}

// Kernels of the feed-forward network, and one copy that belongs to no stage, as a GPU tells them after the step.
static void kernels(struct made *made, int32_t n_layers, int64_t begin_ns, int64_t scale_ns)
{
    static const char *const names[] = {"_ZN4clsa12_GLOBAL__N_110multiply_nILi128EEEvPKf",
                                        "_Z8add_rowsPKfPf"};
    struct kernel_sample sample = {.source = made->source, .step = made->step, .phase = PHASE_DECODE,
                                   .stage = STAGE_FFN, .context = 1, .stream = 7, .grid = {132, 4, 1},
                                   .block = {256, 1, 1}, .registers = 168, .dynamic_shared_bytes = 98304,
                                   .begin_ns = begin_ns};
    for (int32_t layer = 0; layer < n_layers; layer++) {
        sample.layer = layer;
        sample.name = names[layer % 2];
        sample.duration_ns = scale_ns + 10 * layer + made->step % 7;
        made->sink->kernel(made->sink->user, &sample);
        sample.begin_ns += sample.duration_ns;
    }
    sample = (struct kernel_sample){.source = made->source, .work = WORK_COPY, .step = made->step,
                                    .phase = PHASE_DECODE, .stage = STAGE_COUNT, .layer = -1, .name = "copy to host",
                                    .context = 1, .stream = 7, .bytes = 4, .begin_ns = sample.begin_ns,
                                    .duration_ns = 900};
    made->sink->kernel(made->sink->user, &sample);
}

static void step(struct made *made, enum phase phase, int32_t n_layers, bool selects, int32_t tokens, int32_t context,
                 int64_t scale_ns)
{
    struct step_sample sample = {.source = made->source, .step = made->step, .phase = phase, .n_seqs = 1,
                                 .n_tokens = tokens, .context_tokens = context, .begin_ns = made->now_ns};
    stage(made, phase, STAGE_EMBED, -1, tokens, context, scale_ns / 20);
    for (int32_t layer = 0; layer < n_layers; layer++) {
        stage(made, phase, STAGE_QKV, layer, tokens, context, scale_ns);
        stage(made, phase, STAGE_KV_WRITE, layer, tokens, context, scale_ns / 15);
        if (selects) {
            stage(made, phase, STAGE_INDEX_PROJECT, layer, tokens, context, scale_ns / 9);
            stage(made, phase, STAGE_INDEX_SCORE, layer, tokens, context, scale_ns / 3);
            stage(made, phase, STAGE_INDEX_SELECT, layer, tokens, context, scale_ns / 4);
        }
        stage(made, phase, STAGE_ATTENTION, layer, tokens, context, selects ? scale_ns / 2 : scale_ns * 4);
        stage(made, phase, STAGE_OUTPUT, layer, tokens, context, scale_ns / 2);
        stage(made, phase, STAGE_FFN, layer, tokens, context, scale_ns * 2);
    }
    stage(made, phase, STAGE_HEAD, -1, 1, context, scale_ns);
    stage(made, phase, STAGE_SAMPLE, -1, 1, context, scale_ns / 30);
    made->now_ns += draw(made, 100, 2000);
    sample.duration_ns = made->now_ns - sample.begin_ns;
    made->sink->step(made->sink->user, &sample);
    if (phase == PHASE_DECODE && made->sink->kernel) {
        kernels(made, n_layers, sample.begin_ns, scale_ns / 2);
    }
    made->step++;
    made->now_ns += draw(made, 100, 5000);
}

static void request(struct made *made, int64_t id, enum request_state state, int32_t prompt, int32_t output)
{
    struct request_sample sample = {.source = made->source, .request = id, .state = state, .prompt_tokens = prompt,
                                    .output_tokens = output, .step = made->step, .time_ns = made->now_ns};
    made->sink->request(made->sink->user, &sample);
}

static void counter(struct made *made, enum counter which, double value)
{
    struct counter_sample sample = {.source = made->source, .counter = which, .value = value, .time_ns = made->now_ns};
    made->sink->counter(made->sink->user, &sample);
}

static void work(struct made *made, const struct sample_source *source, const struct stream_options *options,
                 int64_t id, double kv_bytes_per_token)
{
    bool selects = source->top_k > 0;
    int32_t prompt = 512 * options->prefill_steps;
    request(made, id, REQUEST_SUBMITTED, prompt, 0);
    made->now_ns += 40000;
    request(made, id, REQUEST_RUNNING, prompt, 0);
    counter(made, COUNTER_BATCH, 1);
    counter(made, COUNTER_QUEUE, 0);
    for (int32_t i = 0; i < options->prefill_steps; i++) {
        step(made, PHASE_PREFILL, source->n_layers, selects, 512, 512 * (i + 1), 400000);
        counter(made, COUNTER_KV_BYTES, kv_bytes_per_token * 512 * (i + 1));
    }
    request(made, id, REQUEST_FIRST_TOKEN, prompt, 1);
    for (int32_t i = 0; i < options->decode_steps; i++) {
        step(made, PHASE_DECODE, source->n_layers, selects, 1, prompt + i + 1, 9000);
        counter(made, COUNTER_KV_BYTES, kv_bytes_per_token * (prompt + i + 1));
    }
    request(made, id, REQUEST_FINISHED, prompt, options->decode_steps + 1);
}

void tui_stream(const struct sample_sink *sink, const struct stream_options *options)
{
    static const struct { const char *method; int32_t top_k, unit_tokens; double kv_bytes; } methods[] = {
        {"clsa", 256, 1, 1320}, {"dense", 0, 0, 4096}, {"block", 256, 16, 4160},
    };
    struct made made = {.sink = sink, .random = options->seed, .now_ns = INT64_C(1000000000000)};
    for (int32_t i = 0; i < 3; i++) {
        struct sample_source source = {.id = i, .n_layers = 8, .top_k = methods[i].top_k,
                                       .unit_tokens = methods[i].unit_tokens, .index_sets = methods[i].top_k ? 1 : 0,
                                       .page_tokens = 64, .weight_dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16,
                                       .index_dtype = DTYPE_BF16, .threads = 2};
        strcpy(source.device, "a made-up machine");
        strcpy(source.backend, "cpu/none");
        strcpy(source.model, "made-up");
        strcpy(source.method, methods[i].method);
        made.source = i;
        sink->source(sink->user, &source);
        for (int32_t n = 0; n < options->requests; n++) {
            work(&made, &source, options, 10 * i + n, methods[i].kv_bytes);
        }
    }
}

struct device tui_stream_device(void)
{
    struct device device = {.name = "made-up", .bytes_per_s = {.value = 100e9}, .launch_s = {.value = 1e-7}};
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        device.flops_per_s[dtype].value = 1e12;
    }
    return device;
}
