// tests/test_cupti.c - kernels through the collector, told by a libcupti.so of our own (tests/mock).
//
// The test drives the observer as an engine would and the mock as a GPU would, in random steps; what each kernel must
// be attributed to is kept beside. No GPU is needed, and a real libcupti is not looked at.
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "cupti/collector.h"
#include "cupti/number_map.h"
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

static void of_step(int64_t step)
{
    heard.mixed |= heard.last_step >= 0 && step != heard.last_step;
    heard.last_step = step;
}

static void on_source(void *user, const struct sample_source *source)
{
    (void)user;
    (void)source;
    heard.n_sources++;
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    (void)user;
    if (sample->step >= 0) {
        of_step(sample->step);
    }
    heard.kernels[heard.n_kernels++] = *sample;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.stages[heard.n_stages++] = *sample;
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.launches[heard.n_launches++] = *sample;
}

static void on_step(void *user, const struct step_sample *sample)
{
    (void)user;
    of_step(sample->step);
    heard.last_step = -1;
    heard.steps[heard.n_steps++] = *sample;
}

static void on_request(void *user, const struct request_sample *sample)
{
    (void)user;
    (void)sample;
    heard.n_requests++;
}

static void on_counter(void *user, const struct counter_sample *sample)
{
    (void)user;
    (void)sample;
    heard.n_counters++;
}

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    (void)user;
    heard.n_gauges += strcmp(sample->name, "CUPTI overhead") == 0;
}

static void on_loss(void *user, const struct loss_sample *sample)
{
    (void)user;
    heard.loss = *sample;
}

static const struct sample_sink sink = {.source = on_source, .stage = on_stage, .step = on_step, .request = on_request,
                                        .counter = on_counter, .kernel = on_kernel, .launch = on_launch,
                                        .gauge = on_gauge, .loss = on_loss};

static void *control(void *library, const char *name)
{
    void *symbol = dlsym(library, name);
    if (!symbol) {
        fprintf(stderr, "the mock has no %s\n", name);
        exit(1);
    }
    return symbol;
}

static void load_mock(void)
{
    static const char *const names[] = {"mock_refuse", "mock_drop", "mock_call", "mock_record", "mock_node",
                                        "mock_hold", "mock_enabled", "mock_now", "mock_subscriptions"};
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

static void run_kernel(uint32_t correlation, uint64_t node, uint64_t start, uint64_t end, uint32_t stream)
{
    struct cupti_kernel kernel = {.kind = CUPTI_KERNEL, .registers_per_thread = 40, .start = start, .end = end,
                                  .device = 0, .context = 1, .stream = stream, .grid = {3, 2, 1}, .block = {128, 1, 1},
                                  .static_shared = 1024, .dynamic_shared = 2048, .correlation = correlation,
                                  .name = "_Z6kernelv", .node = node};
    mock.record(&kernel, sizeof kernel);
}

static void run_copy(uint32_t correlation, uint64_t bytes)
{
    struct cupti_memcpy copy = {.kind = CUPTI_MEMCPY, .copy_kind = 1, .bytes = bytes, .start = device_ns,
                                .end = device_ns + 100, .stream = 7, .context = 1, .correlation = correlation};
    device_ns += 100;
    mock.record(&copy, sizeof copy);
}

static struct observed_stage stage_of(enum stage stage, int32_t layer, int64_t bytes)
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

static void expect(uint64_t begin, int64_t step, enum stage stage, int32_t layer)
{
    expected[n_expected++] = (struct expected){(int64_t)begin, step, stage, layer};
}

static void check_kernels(void)
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

static void begin_test(void)
{
    heard = (struct heard){.last_step = -1};
    n_expected = 0;
    device_ns = device_ns ? device_ns : (uint64_t)collector_now_ns();
}

static struct collector *open_kernels(enum collector_source source)
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

// ---------------------------------------------------------------------------------------------------------------------
// Tests

// Two stages and the host's copies, launched one by one. The second kernel starts before the first has ended, and
// waits.
static void test_eager(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {4, PHASE_PREFILL, 1, 8, 8, 1};
    struct observed_stage qkv = stage_of(STAGE_QKV, 0, 1000), write = stage_of(STAGE_KV_WRITE, 0, 500),
                          ffn = stage_of(STAGE_FFN, 0, 3000);
    CHECK(!o->device_stages && o->stage_begin);
    o->step_begin(o->user, &step);
    run_copy(mock.call(COPY, 10, 20), 4096);
    expect(device_ns - 100, 4, STAGE_HOST, -1);
    o->enqueue_begin(o->user, &qkv, false);
    uint32_t first = mock.call(LAUNCH, 30, 45);
    o->enqueue_end(o->user, &qkv, false);
    o->enqueue_begin(o->user, &write, false);    // done by another stage's kernel
    o->enqueue_end(o->user, &write, false);
    o->enqueue_begin(o->user, &ffn, false);
    uint32_t second = mock.call(LAUNCH, 50, 60), third = mock.call(LAUNCH, 61, 62);
    o->enqueue_end(o->user, &ffn, false);
    uint64_t t = device_ns;
    run_kernel(second, 0, t + 700, t + 1500, 7);    // out of order
    run_kernel(first, 0, t, t + 1000, 7);
    run_kernel(third, 0, t + 1600, t + 1800, 7);
    expect(t + 700, 4, STAGE_FFN, 0);
    expect(t, 4, STAGE_QKV, 0);
    expect(t + 1600, 4, STAGE_FFN, 0);
    device_ns = t + 2000;
    o->counter(o->user, COUNTER_BATCH, 1);
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == 1 && heard.n_stages == 2 && heard.n_launches == 4 && heard.n_sources == 1);
    CHECK(heard.n_counters == 2);    // ours, and the rate of the window
    const struct stage_sample *a = &heard.stages[0], *b = &heard.stages[1];
    CHECK(a->stage == STAGE_QKV && a->begin_ns == (int64_t)t && a->duration_ns == 1000 && a->bytes == 1000 &&
          a->flops == 2000);
    CHECK(b->stage == STAGE_FFN && b->begin_ns == (int64_t)t + 1000 && b->duration_ns == 700 && b->bytes == 3000);
    CHECK(a->step == 4 && a->phase == PHASE_PREFILL && a->n_seqs == 1 && a->context_tokens == 100);
    const struct kernel_sample *k = &heard.kernels[1];    // in the order of their beginnings
    CHECK(k->launch == first && k->grid[0] == 3 && k->grid[1] == 2 && k->block[0] == 128 && k->registers == 40 &&
          k->static_shared_bytes == 1024 && k->dynamic_shared_bytes == 2048 && strcmp(k->name, "_Z6kernelv") == 0 &&
          k->stream == 7 && k->context == 1 && k->work == WORK_KERNEL);
    CHECK(heard.kernels[0].work == WORK_COPY && heard.kernels[0].bytes == 4096);
    CHECK(heard.launches[1].launch == first && heard.launches[1].begin_ns == 30 &&
          heard.launches[1].duration_ns == 15 && heard.launches[1].thread == 77 &&
          strcmp(heard.launches[1].name, "cudaLaunchKernel") == 0 && heard.launches[1].step == 4);
    CHECK(heard.loss.dropped == 0 && heard.loss.invalid == 0);
}

// Streams overlap, and that is not hidden.
static void test_streams(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1};
    struct observed_stage stages[2] = {stage_of(STAGE_QKV, 3, 1), stage_of(STAGE_INDEX_SCORE, 3, 1)};
    o->step_begin(o->user, &step);
    for (uint32_t s = 0; s < 2; s++) {
        o->enqueue_begin(o->user, &stages[s], false);
        run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns + s * 10, device_ns + s * 10 + 500, 7 + s);
        o->enqueue_end(o->user, &stages[s], false);
    }
    device_ns += 1000;
    o->step_end(o->user, &step);
    collector_close(collector);
    CHECK(heard.n_stages == 2 && heard.stages[0].duration_ns == 500 && heard.stages[1].duration_ns == 500 &&
          heard.stages[1].begin_ns == heard.stages[0].begin_ns + 10);
}

// Steps with one to 40 stages of up to three kernels: captured in one, replayed in others with costs of their own.
// Graph ids are used again by a second recording, as the library does.
static void test_graphs(void)
{
    enum { STAGES = 40, REPLAYS = 30 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 2, 2, 8, 2};
    uint64_t stages_told = 0;
    for (int recording = 0; recording < 3; recording++) {
        int32_t n = 1 + (int32_t)(check_random() % STAGES), kernels_of[STAGES];
        struct observed_stage stages[STAGES];
        uint64_t node = 100;
        for (int32_t s = 0; s < n; s++) {
            stages[s] = stage_of((enum stage)(check_random() % STAGE_HOST), s / 4, 0);
            kernels_of[s] = (int32_t)(check_random() % 4);
        }
        for (int replay = 0; replay <= REPLAYS; replay++, step.step++) {
            bool captured = replay == 0;
            o->step_begin(o->user, &step);
            uint32_t call = captured ? 0 : mock.call(GRAPH_LAUNCH, 1, 2);
            for (int32_t s = 0; s < n; s++) {
                stages[s].bytes = step.step * 1000 + s;
                o->enqueue_begin(o->user, &stages[s], !captured);
                for (int32_t k = 0; captured && k < kernels_of[s]; k++) {
                    mock.call(LAUNCH, 1, 2);    // enqueues nothing
                    mock.node(CUPTI_NODE_CREATED, node++, 0);
                }
                o->enqueue_end(o->user, &stages[s], !captured);
            }
            if (captured) {
                uint64_t original = 100;
                for (; original < node; original++) {
                    mock.node(CUPTI_NODE_CLONED, 1000 + original, original);
                }
                for (original = 100; original < node; original++) {
                    mock.node(CUPTI_NODE_DESTROYED, original, 0);
                }
                mock.node(CUPTI_NODE_CREATED, 5000, 0);    // a copy that no stage enqueued
                mock.node(CUPTI_NODE_CLONED, 6000, 5000);
                call = mock.call(GRAPH_LAUNCH, 1, 2);
            }
            uint64_t at = 1100;
            for (int32_t s = 0; s < n; s++) {
                for (int32_t k = 0; k < kernels_of[s]; k++, device_ns += 50) {
                    run_kernel(call, at++, device_ns, device_ns + 40, 7);
                    expect(device_ns, step.step, stages[s].stage, stages[s].layer);
                }
                stages_told += kernels_of[s] > 0;
            }
            run_kernel(call, 6000, device_ns, device_ns + 10, 7);
            expect(device_ns, step.step, STAGE_COUNT, -1);
            device_ns += 50;
            o->step_end(o->user, &step);
            if (check_random() % 7 == 0) {
                usleep(120000);    // longer than a flush
            }
        }
    }
    for (uint64_t node = 1000; node < 1000 + 4 * STAGES + 100; node++) {    // the engine closes before the collector
        mock.node(CUPTI_NODE_DESTROYED, node, 0);
    }
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == (int32_t)step.step && heard.n_launches == heard.n_steps);
    CHECK_MESSAGE(heard.n_stages == (int32_t)stages_told, "%d stages, %llu expected", heard.n_stages,
                  (unsigned long long)stages_told);
    for (int32_t s = 0; s < heard.n_stages; s++) {
        CHECK(heard.stages[s].bytes / 1000 == heard.stages[s].step && heard.stages[s].duration_ns % 40 == 0);
    }
    CHECK(heard.loss.dropped == 0);
}

// Records without times are counted, not told; what the library drops is counted; what has no call is of no step,
// later.
static void test_losses(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    struct cupti_overhead overhead = {.kind = CUPTI_OVERHEAD, .start = 1000, .end = 4000};
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, 0, 0, 7);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns + 50, device_ns, 7);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
    expect(device_ns, 0, STAGE_FFN, 1);
    o->enqueue_end(o->user, &ffn, false);
    run_kernel(4000000000u, 0, device_ns + 60, device_ns + 70, 7);    // no call is known
    expect(device_ns + 60, -1, STAGE_COUNT, -1);
    mock.record(&overhead, sizeof overhead);
    mock.drop(5);
    o->step_end(o->user, &step);
    usleep(250000);
    mock.drop(2);
    device_ns += 100;
    collector_close(collector);
    check_kernels();
    CHECK_MESSAGE(heard.loss.invalid == 2 && heard.loss.dropped == 7, "invalid %lld dropped %lld",
                  (long long)heard.loss.invalid, (long long)heard.loss.dropped);
    CHECK(heard.n_gauges == 1 && heard.n_steps == 1);
}

// Each source has its own losses, from nothing on.
static void test_losses_of_sources(void)
{
    begin_test();
    struct collector *collector;
    struct sample_source announced = {.method = "clsa"};
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == 0);
    int32_t first = collector_set_source(collector, &announced);
    mock.drop(5);
    int32_t second = collector_set_source(collector, &announced);
    CHECK_MESSAGE(heard.loss.source == first && heard.loss.dropped == 5, "source %d lost %lld", heard.loss.source,
                  (long long)heard.loss.dropped);
    mock.drop(2);
    collector_close(collector);
    CHECK_MESSAGE(heard.loss.source == second && heard.loss.dropped == 2, "source %d lost %lld", heard.loss.source,
                  (long long)heard.loss.dropped);
}

// A work whose tag comes later is found again; work without any step goes out by itself.
static void test_late_calls(int held)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {9, PHASE_DECODE, 1, 1, 8, 1};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    run_copy(mock.call(COPY, 1, 2), 64);
    expect(device_ns - 100, -1, STAGE_COUNT, -1);
    mock.hold(held);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
    expect(device_ns, 9, STAGE_FFN, 1);
    device_ns += 100;
    o->enqueue_end(o->user, &ffn, false);
    usleep(150000);    // a flush or two
    mock.hold(0);
    usleep(150000);
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_kernels == 2 && heard.n_steps == 1 && heard.n_launches == 1 && heard.launches[0].step == 9);
}

// While a GPU is busy, CUPTI keeps back what ended long ago: steps wait for it, and none loses a kernel.
static void test_busy(void)
{
    enum { BUSY = 8 };
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1};
    struct observed_stage ffn = stage_of(STAGE_FFN, 1, 1);
    mock.hold(2);
    for (; step.step < BUSY; step.step++) {
        o->step_begin(o->user, &step);
        o->enqueue_begin(o->user, &ffn, false);
        run_kernel(mock.call(LAUNCH, 1, 2), 0, device_ns, device_ns + 50, 7);
        expect(device_ns, step.step, STAGE_FFN, 1);
        device_ns += 100;
        o->enqueue_end(o->user, &ffn, false);
        o->step_end(o->user, &step);
    }
    usleep(250000);
    CHECK(heard.n_steps == 0 && heard.n_kernels == 0);
    mock.hold(0);
    for (int32_t n = 0; n < 2000 && heard.n_steps < BUSY - 2; n++) {    // 20 s, on a busy machine with sanitizers
        usleep(10000);
    }
    CHECK_MESSAGE(heard.n_steps == BUSY - 2, "%d steps", heard.n_steps);    // the last ones could have more
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_steps == BUSY && heard.n_stages == BUSY && heard.loss.dropped == 0);
}

// Another tool has CUPTI: said by name. What is left is another source.
static void test_refused(void)
{
    struct collector *collector;
    begin_test();
    mock.refuse(CUPTI_OTHER_SUBSCRIBER, "CUPTI for Nsight Systems");
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == -EBUSY && !collector);
    CHECK_MESSAGE(strstr(status_text(), "CUPTI for Nsight Systems"), "%s", status_text());
    mock.refuse(CUPTI_NO_PRIVILEGE, NULL);
    CHECK(collector_open(&collector, COLLECTOR_KERNELS, &sink) == -ENOTSUP && !collector);
    CHECK_MESSAGE(strstr(status_text(), "NVreg_RestrictProfilingToAdminUsers"), "%s", status_text());
    CHECK(collector_open(&collector, COLLECTOR_CPU_CLOCK, &sink) == 0);
    collector_close(collector);
    mock.refuse(0, NULL);
    CHECK(mock.subscriptions() == 0);
}

// One at a time; kinds are on only while it is open; the second one subscribes no more and finds the nodes of graphs
// that were captured for the first.
static void test_again(void)
{
    struct observed_step step = {0, PHASE_DECODE, 1, 1, 8, 1};
    struct observed_stage ffn = stage_of(STAGE_FFN, 5, 1);
    struct collector *second;
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_KERNELS);
    CHECK(mock.subscriptions() == 1 && mock.enabled(CUPTI_KERNEL) && mock.enabled(CUPTI_EXTERNAL));
    CHECK(!mock.enabled(CUPTI_GRAPH));
    CHECK(collector_open(&second, COLLECTOR_KERNELS, &sink) == -EBUSY);
    const struct observer *o = collector_observer(collector);
    o->step_begin(o->user, &step);
    o->enqueue_begin(o->user, &ffn, false);
    mock.node(CUPTI_NODE_CREATED, 71, 0);
    o->enqueue_end(o->user, &ffn, false);
    mock.node(CUPTI_NODE_CLONED, 72, 71);
    o->step_end(o->user, &step);
    collector_close(collector);
    CHECK(!mock.enabled(CUPTI_KERNEL) && !mock.enabled(CUPTI_MEMCPY) && !mock.enabled(CUPTI_EXTERNAL));
    CHECK(heard.n_kernels == 0 && heard.n_steps == 1);

    collector = open_kernels(COLLECTOR_KERNELS);
    o = collector_observer(collector);
    CHECK(mock.subscriptions() == 1);
    step.step = 1;
    o->step_begin(o->user, &step);
    uint32_t call = mock.call(GRAPH_LAUNCH, 1, 2);
    o->enqueue_begin(o->user, &ffn, true);
    o->enqueue_end(o->user, &ffn, true);
    run_kernel(call, 72, device_ns, device_ns + 9, 7);
    expect(device_ns, 1, STAGE_FFN, 5);
    device_ns += 100;
    o->step_end(o->user, &step);
    collector_close(collector);
    check_kernels();
}

// Graphs whole: marks tell the stages, CUPTI one record per launch.
static void test_whole_graphs(void)
{
    begin_test();
    struct collector *collector = open_kernels(COLLECTOR_GRAPHS);
    const struct observer *o = collector_observer(collector);
    struct observed_step step = {2, PHASE_DECODE, 1, 1, 8, 1};
    struct device_stage marked = {stage_of(STAGE_FFN, 0, 10), 0, 300};
    struct cupti_graph graph = {
        .kind = CUPTI_GRAPH, .start = device_ns, .end = device_ns + 400, .context = 1, .stream = 7};
    CHECK(mock.enabled(CUPTI_GRAPH) && o->device_stages);
    o->step_begin(o->user, &step);
    graph.correlation = mock.call(GRAPH_LAUNCH, 1, 2);
    mock.record(&graph, sizeof graph);
    expect(device_ns, 2, STAGE_COUNT, -1);
    o->device_stages(o->user, &marked, 1);
    o->step_end(o->user, &step);
    device_ns += 500;
    collector_close(collector);
    check_kernels();
    CHECK(heard.n_stages == 1 && heard.stages[0].duration_ns == 300 && heard.kernels[0].duration_ns == 400);
}

// The clock that CUPTI is given is the samples'.
static void test_clock(void)
{
    int64_t before = collector_now_ns(), at = (int64_t)mock.now(), after = collector_now_ns();
    CHECK(before <= at && at <= after);
}

static void test_map(void)
{
    enum { KEYS = 3000 };
    struct number_map map = {0};
    static uint64_t values[KEYS];    // 0: not there
    uint64_t value, spread = check_random() | 1;
    uint32_t n = 0;
    CHECK(!number_map_get(&map, 1, &value));
    number_map_remove(&map, 1);
    for (int i = 0; i < 40000; i++) {
        uint32_t key = (uint32_t)(check_random() % KEYS);
        if (check_random() % 3) {
            n += values[key] == 0;
            values[key] = check_random() | 1;
            CHECK(number_map_put(&map, key * spread, values[key]) == 0);
        } else {
            n -= values[key] != 0;
            values[key] = 0;
            number_map_remove(&map, key * spread);
        }
    }
    CHECK(map.n == n);
    for (uint32_t key = 0; key < KEYS; key++) {
        bool there = number_map_get(&map, key * spread, &value);
        CHECK(there == (values[key] != 0) && (!there || value == values[key]));
    }
    number_map_clear(&map);
    CHECK(map.n == 0 && !number_map_get(&map, 5 * spread, &value));
    number_map_free(&map);
}

int main(void)
{
    check_begin();
    load_mock();
    test_map();
    test_refused();
    test_eager();
    test_streams();
    test_graphs();
    test_losses();
    test_losses_of_sources();
    test_late_calls(1);
    test_late_calls(3);
    test_busy();
    test_again();
    test_whole_graphs();
    test_clock();
    return check_end();
}
