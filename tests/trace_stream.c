// tests/trace_stream.c - random streams of samples, and their logs.
#include "tests/trace_stream.h"

#include <stdarg.h>

#include "tests/check.h"

__attribute__((format(printf, 2, 3))) static void add(struct stream_log *log, const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (log->n + sizeof line > log->capacity) {
        log->capacity = 2 * log->capacity + sizeof line;
        log->text = realloc(log->text, log->capacity);
    }
    memcpy(log->text + log->n, line, (size_t)length + 1);
    log->n += (size_t)length;
    log->samples++;
}

static void log_source(void *user, const struct sample_source *s)
{
    add(user, "source %d '%s' '%s' '%s' '%s' %d %d %d %d %d %d %d %d %d %d %d\n", s->id, s->device, s->backend,
        s->model, s->method, s->n_layers, s->top_k, s->unit_tokens, s->index_sets, s->window_tokens, s->page_tokens,
        (int)s->weight_dtype, (int)s->kv_dtype, (int)s->index_dtype, s->threads, s->graph);
}

static void log_stage(void *user, const struct stage_sample *s)
{
    add(user, "stage %d %lld %d %d %d %d %d %d %lld %lld %lld %lld %lld\n", s->source, (long long)s->step,
        (int)s->phase, (int)s->stage, s->layer, s->n_seqs, s->n_tokens, s->context_tokens, (long long)s->bytes,
        (long long)s->flops, (long long)s->begin_ns, (long long)s->duration_ns, (long long)s->measured_bytes);
}

static void log_step(void *user, const struct step_sample *s)
{
    add(user, "step %d %lld %d %d %d %d %lld %lld %lld\n", s->source, (long long)s->step, (int)s->phase, s->n_seqs,
        s->n_tokens, s->context_tokens, (long long)s->begin_ns, (long long)s->duration_ns, (long long)s->device_ns);
}

static void log_request(void *user, const struct request_sample *s)
{
    add(user, "request %d %lld %d %d %d %lld %lld\n", s->source, (long long)s->request, (int)s->state, s->prompt_tokens,
        s->output_tokens, (long long)s->step, (long long)s->time_ns);
}

static void log_counter(void *user, const struct counter_sample *s)
{
    add(user, "counter %d %d %a %lld\n", s->source, (int)s->counter, s->value, (long long)s->time_ns);
}

static void log_kernel(void *user, const struct kernel_sample *s)
{
    add(user, "kernel %d %d %lld %d %d %d '%s' %d %d %d %u %d,%d,%d %d,%d,%d %d %d %d %lld %lld %lld\n", s->source,
        (int)s->work, (long long)s->step, (int)s->phase, (int)s->stage, s->layer, s->name, s->device, s->context,
        s->stream, s->launch, s->grid[0], s->grid[1], s->grid[2], s->block[0], s->block[1], s->block[2], s->registers,
        s->static_shared_bytes, s->dynamic_shared_bytes, (long long)s->bytes, (long long)s->begin_ns,
        (long long)s->duration_ns);
}

static void log_launch(void *user, const struct launch_sample *s)
{
    add(user, "launch %d %u '%s' %lld %d %lld %lld\n", s->source, s->launch, s->name, (long long)s->step, s->thread,
        (long long)s->begin_ns, (long long)s->duration_ns);
}

static void log_gauge(void *user, const struct gauge_sample *s)
{
    add(user, "gauge %d '%s' '%s' %a %lld\n", s->source, s->name, s->unit, s->value, (long long)s->time_ns);
}

static void log_loss(void *user, const struct loss_sample *s)
{
    add(user, "loss %d %lld %lld %lld\n", s->source, (long long)s->dropped, (long long)s->invalid,
        (long long)s->time_ns);
}

struct sample_sink stream_log_sink(struct stream_log *log)
{
    return (struct sample_sink){
        .user = log,
        .source = log_source,
        .stage = log_stage,
        .step = log_step,
        .request = log_request,
        .counter = log_counter,
        .kernel = log_kernel,
        .launch = log_launch,
        .gauge = log_gauge,
        .loss = log_loss,
    };
}

static bool chance(double probability)
{
    return check_uniform() < probability;
}

// Numbers of every length, 0 and the extremes included.
static int64_t wild64(void)
{
    int64_t value = (int64_t)(check_random() >> check_range(0, 63));
    return chance(0.05) ? INT64_MIN : chance(0.05) ? INT64_MAX : chance(0.2) ? -value : value;
}

static int32_t wild32(void)
{
    int64_t value = wild64();
    return value < INT32_MIN ? INT32_MIN : value > INT32_MAX ? INT32_MAX : (int32_t)value;
}

static void random_name(char *out)
{
    static const char *const pieces[] = {"",         "cpu", "\xc3\xa9\xe2\x82\xac", "a \"b\"\t", "'", "x,y;z",
                                         "AMD EPYC", "clsa"};
    int32_t n = check_range(0, 4);
    out[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        strcat(out, pieces[check_range(0, 7)]);
    }
}

static void random_source(struct sample_source *out, int32_t id)
{
    memset(out, 0, sizeof *out);
    out->id = id;
    random_name(out->device);
    random_name(out->backend);
    random_name(out->model);
    random_name(out->method);
    int32_t *numbers[] = {&out->n_layers, &out->top_k, &out->unit_tokens, &out->index_sets, &out->window_tokens,
                          &out->page_tokens, &out->threads};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        *numbers[i] = wild32();
    }
    out->weight_dtype = (enum dtype)check_range(0, DTYPE_COUNT - 1);
    out->kv_dtype = (enum dtype)check_range(0, DTYPE_COUNT - 1);
    out->index_dtype = (enum dtype)check_range(0, DTYPE_COUNT - 1);
    out->graph = chance(0.5);
}

static const char *const kernel_names[] = {
    "_ZN4clsa6scoresILi128EEvPKf", "_Z9vectorAddPfS_S_i", "_ZN12_GLOBAL__N_14fillEv", "", "memcpy, host to device",
    "_Z", "_Z99short", "_ZN4clsa", "\xc3\xa9",
};
static const char *const launch_names[] = {"cudaGraphLaunch", "cudaLaunchKernel", "", "cu\"Mem\""};
static const char *const gauge_names[] = {
    "dram__bytes_read.sum", "sm__cycles_active.avg", "SM clock", "power", "tokens/s", "", "a: 'b' __",
};
static const char *const gauge_units[] = {"B/s", "B", "MHz", "%", "", "J per token", "source 3: W"};

static void wild_kernel(const struct sample_sink *sink, int32_t source, int64_t step, int64_t begin_ns,
                        int64_t duration_ns)
{
    struct kernel_sample s = {
        .source = source,
        .work = (enum device_work)check_range(0, 2),
        .step = step,
        .phase = (enum phase)check_range(0, PHASE_COUNT - 1),
        .stage = (enum stage)check_range(0, STAGE_COUNT),
        .layer = chance(0.2) ? -1 : wild32(),
        .name = kernel_names[check_range(0, 8)],
        .device = chance(0.5) ? check_range(0, 2) : wild32(),
        .context = chance(0.5) ? check_range(0, 2) : wild32(),
        .stream = chance(0.5) ? check_range(0, 9) : wild32(),
        .launch = (uint32_t)check_range(0, 20),
        .bytes = chance(0.5) ? 0 : wild64(),
        .begin_ns = begin_ns,
        .duration_ns = duration_ns,
    };
    for (int32_t i = 0; i < 3 && chance(0.9); i++) {
        s.grid[i] = wild32();
        s.block[i] = wild32();
    }
    if (chance(0.5)) {
        s.registers = wild32();
        s.static_shared_bytes = wild32();
        s.dynamic_shared_bytes = wild32();
    }
    sink->kernel(sink->user, &s);
}

static void wild_sample(const struct sample_sink *sink, int32_t source)
{
    int64_t begin_ns = (int64_t)(check_random() >> check_range(2, 62));
    int64_t duration_ns = (int64_t)(check_random() >> check_range(2, 62));
    enum phase phase = (enum phase)check_range(0, PHASE_COUNT - 1);
    int64_t step = chance(0.5) ? check_range(0, 3) : wild64();
    switch (check_range(0, 9)) {
    case 0: {
        struct step_sample s = {source,   step,     phase,       wild32(), wild32(),
                                wild32(), begin_ns, duration_ns, chance(0.5) ? wild64() : 0};
        sink->step(sink->user, &s);
        break;
    }
    case 1: {
        struct request_sample s = {source,
                                   chance(0.8) ? check_range(-2, 9) : wild64(),
                                   (enum request_state)check_range(0, 3),
                                   wild32(),
                                   wild32(),
                                   step,
                                   begin_ns};
        sink->request(sink->user, &s);
        break;
    }
    case 2: {
        struct counter_sample s = {source, (enum counter)check_range(0, COUNTER_COUNT - 1),
                                   chance(0.1) ? INFINITY : check_normal() * exp(40.0 * check_uniform()), begin_ns};
        sink->counter(sink->user, &s);
        break;
    }
    case 3: wild_kernel(sink, source, step, begin_ns, duration_ns); break;
    case 4: {
        struct launch_sample s = {source, 1 + (uint32_t)check_range(0, 20), launch_names[check_range(0, 3)], step,
                                  check_range(0, 3) ? check_range(1, 3) : wild32(), begin_ns, duration_ns};
        sink->launch(sink->user, &s);
        break;
    }
    case 5: {
        struct gauge_sample s = {source, gauge_names[check_range(0, 6)], gauge_units[check_range(0, 6)],
                                 check_normal() * exp(40.0 * check_uniform()), begin_ns};
        sink->gauge(sink->user, &s);
        break;
    }
    case 6: {
        struct loss_sample s = {source, wild64(), wild64(), begin_ns};
        sink->loss(sink->user, &s);
        break;
    }
    default: {
        struct stage_sample s = {source,
                                 step,
                                 phase,
                                 (enum stage)check_range(0, STAGE_COUNT - 1),
                                 chance(0.2) ? -1 : wild32(),
                                 wild32(),
                                 wild32(),
                                 wild32(),
                                 wild64(),
                                 wild64(),
                                 begin_ns,
                                 duration_ns,
                                 chance(0.5) ? wild64() : 0};
        sink->stage(sink->user, &s);
        break;
    }
    }
}

// What a collector tells of a step afterwards: a launch, its kernels in any order, a copy that nothing is known of,
// gauges.
static void sane_device(const struct sample_sink *sink, int32_t source, int64_t step, enum phase phase,
                        int64_t begin_ns, int64_t end_ns)
{
    struct launch_sample launch = {source, (uint32_t)step + 1, "cudaGraphLaunch", step, 4711, begin_ns, 1};
    struct kernel_sample kernel = {
        .source = source,
        .step = step,
        .phase = phase,
        .stage = (enum stage)check_range(0, STAGE_COUNT),
        .layer = 3,
        .name = kernel_names[check_range(0, 2)],
        .context = 1,
        .stream = 7,
        .launch = launch.launch,
        .grid = {132, 1, 1},
        .block = {256, 1, 1},
        .registers = 64,
        .begin_ns = begin_ns + 1,
        .duration_ns = check_range(0, 10),
    };
    struct kernel_sample copy = {
        .source = source, .work = WORK_COPY, .step = -1, .stage = STAGE_COUNT, .layer = -1, .name = "", .context = 1,
        .stream = 13, .bytes = 4096, .begin_ns = begin_ns + 2, .duration_ns = 5,
    };
    struct gauge_sample metric = {source, "dram__bytes_read.sum", "B", check_range(0, 1000), end_ns};
    struct gauge_sample power = {source, "power", "W", 700, end_ns};
    bool later = chance(0.5);
    if (!later) {
        sink->launch(sink->user, &launch);
    }
    sink->kernel(sink->user, &kernel);
    sink->kernel(sink->user, &copy);
    if (later) {
        sink->launch(sink->user, &launch);
    }
    sink->gauge(sink->user, &metric);
    sink->gauge(sink->user, &power);
}

// One step as an engine tells it; returns its end. Request `step` is submitted before it and finished two steps later.
static int64_t sane_step(const struct sample_sink *sink, int32_t source, int64_t step, int64_t begin_ns)
{
    enum phase phase = (enum phase)check_range(0, PHASE_COUNT - 1);
    int32_t n_seqs = check_range(1, 4), n_tokens = n_seqs * check_range(1, 8), context = check_range(n_tokens, 4096);
    struct request_sample request = {source, step, REQUEST_SUBMITTED, 17, 0, -1, begin_ns - 20};
    sink->request(sink->user, &request);
    int64_t at_ns = begin_ns + check_range(0, 50);
    for (int32_t i = check_range(0, 20); i > 0; i--) {
        struct stage_sample s = {source, step, phase, (enum stage)check_range(0, STAGE_COUNT - 1), check_range(-1, 31),
                                 n_seqs, n_tokens, context, check_range(0, 1 << 30), check_range(0, 1 << 30), at_ns,
                                 check_range(0, 1000), 0};
        sink->stage(sink->user, &s);
        at_ns += s.duration_ns + (chance(0.5) ? check_range(0, 50) : 0);
    }
    request.state = REQUEST_RUNNING;
    request.step = step;
    request.time_ns = begin_ns;
    sink->request(sink->user, &request);
    request.state = REQUEST_FIRST_TOKEN;
    request.output_tokens = 1;
    request.time_ns = at_ns;
    if (chance(0.5)) {
        sink->request(sink->user, &request);
    }
    struct step_sample s = {source,   step,    phase,    n_seqs,
                            n_tokens, context, begin_ns, at_ns + check_range(1, 50) - begin_ns,
                            0};
    sink->step(sink->user, &s);
    struct counter_sample counter = {source, (enum counter)check_range(0, COUNTER_COUNT - 1), check_range(0, 1000),
                                     s.begin_ns + s.duration_ns};
    sink->counter(sink->user, &counter);
    if (chance(0.5)) {
        sane_device(sink, source, step, phase, begin_ns, s.begin_ns + s.duration_ns);
    }
    if (step >= 2) {
        struct request_sample finished = {source, step - 2, REQUEST_FINISHED, 17, 3, step, s.begin_ns + s.duration_ns};
        sink->request(sink->user, &finished);
    }
    return s.begin_ns + s.duration_ns;
}

void stream_random(const struct sample_sink *sink, enum stream_kind kind, int64_t n, uint64_t seed)
{
    check_state = seed;
    int32_t n_sources = 0;
    int64_t at_ns = 1000000 + check_range(0, 1000), step = 0;
    for (int64_t i = 0; i < n; i++) {
        if (n_sources == 0 || chance(4.0 / (double)n)) {
            struct sample_source source;
            random_source(&source, n_sources++ * 7 - 3);
            source.n_layers = kind == STREAM_SANE ? 32 : source.n_layers;
            sink->source(sink->user, &source);
            step = 0;
        }
        if (kind == STREAM_WILD) {
            wild_sample(sink, check_range(0, n_sources - 1) * 7 - 3);
        } else {
            at_ns = sane_step(sink, (n_sources - 1) * 7 - 3, step++, at_ns + check_range(20, 500));
            i += 14;
        }
    }
}
