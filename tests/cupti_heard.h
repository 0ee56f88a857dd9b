// tests/cupti_heard.h - a collector whose libcupti.so is our own (tests/mock), and what it has told.
//
// For test programs of a single file. A test drives the observer as an engine would and the mock as a GPU would; what
// each kernel must be attributed to is kept beside. No GPU is needed, and a real libcupti is not looked at.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include "cupti/collector.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/mock/mock_cupti.h"

enum { LAUNCH = 211, GRAPH_LAUNCH = 311, COPY = 41 };    // functions of the runtime
enum { MAX_HEARD = 1 << 14 };

static struct mock_cupti mock;

struct heard {
    struct kernel_sample kernels[MAX_HEARD];
    struct stage_sample stages[MAX_HEARD];
    struct launch_sample launches[MAX_HEARD];
    struct step_sample steps[MAX_HEARD];
    _Atomic int32_t n_kernels, n_steps;    // looked at while they grow
    int32_t n_stages, n_launches, n_sources, n_requests, n_counters, n_gauges;
    struct loss_sample loss;
    int64_t last_step;         // of what came since the last step: all must be of one
    bool mixed;
};
static struct heard heard;

static inline void of_step(int64_t step)
{
    heard.mixed |= heard.last_step >= 0 && step != heard.last_step;
    heard.last_step = step;
}

static inline void on_source(void *user, const struct sample_source *source)
{
    (void)user;
    (void)source;
    heard.n_sources++;
}

static inline void on_kernel(void *user, const struct kernel_sample *sample)
{
    (void)user;
    if (sample->step >= 0) {
        of_step(sample->step);
    }
    heard.kernels[heard.n_kernels++] = *sample;
}

static inline void on_stage(void *user, const struct stage_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.stages[heard.n_stages++] = *sample;
}

static inline void on_launch(void *user, const struct launch_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.launches[heard.n_launches++] = *sample;
}

static inline void on_step(void *user, const struct step_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.last_step = -1;
    heard.steps[heard.n_steps++] = *sample;
}

static inline void on_request(void *user, const struct request_sample *sample)
{
    (void)user;
    (void)sample;
    heard.n_requests++;
}

static inline void on_counter(void *user, const struct counter_sample *sample)
{
    (void)user;
    (void)sample;
    heard.n_counters++;
}

static inline void on_gauge(void *user, const struct gauge_sample *sample)
{
    (void)user;
    heard.n_gauges += strcmp(sample->name, "CUPTI overhead") == 0;
}

static inline void on_loss(void *user, const struct loss_sample *sample)
{
    (void)user;
    heard.loss = *sample;
}

static const struct sample_sink sink = {.source = on_source, .stage = on_stage, .step = on_step, .request = on_request,
                                        .counter = on_counter, .kernel = on_kernel, .launch = on_launch,
                                        .gauge = on_gauge, .loss = on_loss};

static inline void *control(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (!symbol) {
        fprintf(stderr, "the mock has no %s\n", name);
        exit(1);
    }
    return symbol;
}

static inline void load_mock(void)
{
    static const char *const names[] = {"mock_refuse", "mock_drop", "mock_call", "mock_record", "mock_node",
                                        "mock_hold", "mock_keep", "mock_enabled", "mock_now", "mock_subscriptions"};
    setenv("CUDA_HOME", CLSA_MOCK_HOME, 1);
    void *library = dlopen(CLSA_MOCK_HOME "/lib64/libcupti.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    _Static_assert(sizeof mock == sizeof names, "one pointer per name");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *symbol = control(library, names[i]);
        memcpy((char *)&mock + i * sizeof symbol, &symbol, sizeof symbol);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A GPU that runs what it is given

static uint64_t device_ns;

static inline void run_kernel(uint32_t correlation, uint64_t node, uint64_t start, uint64_t end, uint32_t stream)
{
    struct cupti_kernel kernel = {.kind = CUPTI_KERNEL, .registers_per_thread = 40, .start = start, .end = end,
                                  .device = 0, .context = 1, .stream = stream, .grid = {3, 2, 1}, .block = {128, 1, 1},
                                  .static_shared = 1024, .dynamic_shared = 2048, .correlation = correlation,
                                  .name = "_Z6kernelv", .node = node};
    mock.record(&kernel, sizeof kernel);
}

static inline void run_copy(uint32_t correlation, uint64_t bytes)
{
    struct cupti_memcpy copy = {.kind = CUPTI_MEMCPY, .copy_kind = 1, .bytes = bytes, .start = device_ns,
                                .end = device_ns + 100, .stream = 7, .context = 1, .correlation = correlation};
    device_ns += 100;
    mock.record(&copy, sizeof copy);
}

static inline struct observed_stage stage_of(enum stage stage, int32_t layer, int64_t bytes)
{
    return (struct observed_stage){stage, layer, 1, 1, 100, bytes, 2 * bytes};
}

// What a kernel must turn out to be, by the time at which it began: times are unique here.
static struct expected {
    int64_t begin_ns, step;
    enum stage stage;
    int32_t layer;
} expected[MAX_HEARD];
static int32_t n_expected;

static inline void expect(uint64_t begin, int64_t step, enum stage stage, int32_t layer)
{
    expected[n_expected++] = (struct expected){(int64_t)begin, step, stage, layer};
}

static inline void check_kernels(void)
{
    CHECK_MESSAGE(heard.n_kernels == n_expected, "%d kernels, %d expected", heard.n_kernels, n_expected);
    for (int32_t k = 0; k < heard.n_kernels; k++) {
        const struct kernel_sample *kernel = &heard.kernels[k];
        int32_t e = 0;
        while (e < n_expected && expected[e].begin_ns != kernel->begin_ns) {
            e++;
        }
        CHECK_MESSAGE(e < n_expected && kernel->step == expected[e].step && kernel->stage == expected[e].stage &&
                          kernel->layer == expected[e].layer,
                      "kernel %d: step %lld stage %d layer %d", k, (long long)kernel->step, (int)kernel->stage,
                      kernel->layer);
    }
    CHECK(!heard.mixed);
}

static inline void begin_test(void)
{
    heard = (struct heard){.last_step = -1};
    n_expected = 0;
    device_ns = device_ns ? device_ns : (uint64_t)collector_now_ns();
}

static inline struct collector *open_kernels(enum collector_source source)
{
    struct collector *collector;
    struct sample_source announced = {.method = "clsa", .graph = true};
    int error = collector_open(&collector, source, &sink);
    CHECK_MESSAGE(error == 0, "%s", status_text());
    if (error) {
        exit(1);
    }
    collector_set_source(collector, &announced);
    return collector;
}
