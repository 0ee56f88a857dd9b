// tests/test_counters.c - hardware counters, from a library that stands in for CUPTI: samples, ranges, stages,
// and refusals.
#include <dlfcn.h>
#include <errno.h>

#include "cupti/collector.h"
#include "cupti/counters.h"
#include "cupti/pm_sampling.h"
#include "cupti/range_profiler.h"
#include "cupti/stage_counts.h"
#include "engine/status.h"
#include "tests/check.h"
#include "tests/mock/counters.h"

static struct mock_counters *mock;
static const struct counters_libraries libraries = {COUNTERS_MOCK, COUNTERS_MOCK};

static int64_t real_time_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// What must be added to the real time to make it the samples' clock: of several readings the least interrupted.
static int64_t to_boottime_ns(void)
{
    int64_t width = INT64_MAX, difference = 0;
    for (int i = 0; i < 20; i++) {
        int64_t before = collector_now_ns(), middle = real_time_ns(), after = collector_now_ns();
        difference = after - before < width ? before + (after - before) / 2 - middle : difference;
        width = after - before < width ? after - before : width;
    }
    return difference;
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples

struct heard {
    int32_t n, n_metrics;
    int64_t begin_ns, last_end_ns;
    bool in_order;
};

static void on_sample(void *user, const struct pm_sample *sample)
{
    struct heard *heard = user;
    heard->begin_ns = heard->n == 0 ? sample->begin_ns : heard->begin_ns;
    heard->in_order = heard->in_order && (heard->n == 0 || sample->begin_ns == heard->last_end_ns);
    heard->last_end_ns = sample->end_ns;
    heard->n++;
    for (int32_t m = 0; m < heard->n_metrics; m++) {
        CHECK_MESSAGE(sample->values[m] == 100.0 * heard->n + m, "sample %d, metric %d: %g", heard->n, m,
                      sample->values[m]);
    }
}

// More samples than an image holds, in several readings, on the samples' clock.
static void samples_arrive_whole(void)
{
    struct pm_sampler *sampler;
    struct heard heard = {.in_order = true};
    bool lost;
    *mock = (struct mock_counters){.first_ns = real_time_ns()};
    struct pm_options options = {.interval_ns = 1000 * check_range(10, 200), .libraries = libraries};
    CHECK(pm_sampler_open(&sampler, &options) == 0);
    pm_sampler_metrics(sampler, &heard.n_metrics);
    CHECK(heard.n_metrics == 8 && mock->interval_ns == options.interval_ns);
    CHECK(pm_sampler_read(sampler, on_sample, &heard, &lost) == 0 && !lost);
    CHECK(pm_sampler_start(sampler) == 0);
    int32_t first = check_range(1, 9000), second = check_range(1, 9000);
    mock->n_ready = first;
    CHECK(pm_sampler_read(sampler, on_sample, &heard, &lost) == first && !lost);
    mock->n_ready = second;
    mock->overflow = 1;    // cured by taking the device anew
    CHECK(pm_sampler_read(sampler, on_sample, &heard, &lost) == 0 && lost && mock->started);
    CHECK(pm_sampler_read(sampler, on_sample, &heard, &lost) == second && !lost);
    CHECK(heard.n == first + second && heard.in_order);
    // On the other clock, within what reading both may take.
    int64_t expected = mock->first_ns + to_boottime_ns();
    CHECK_MESSAGE(llabs(heard.begin_ns - expected) < 1000000, "begins at %lld, not %lld", (long long)heard.begin_ns,
                  (long long)expected);
    CHECK(pm_sampler_stop(sampler) == 0);
    pm_sampler_close(sampler);
    CHECK(mock->enabled == 0 && mock->hosts == 0);
}

// Metrics that do not exist or need a second pass go; the required ones do not.
static void metrics_are_chosen(void)
{
    static const char *const wanted[] = {"a", "b", "c unknown", "d", "e pair", "f"}, *const bad[] = {"a pair", "b",
                                                                                                     "c"};
    struct pm_sampler *sampler;
    struct pm_options options = {.metrics = wanted, .n_metrics = 6, .libraries = libraries};
    int32_t n;
    *mock = (struct mock_counters){0};
    CHECK(pm_sampler_open(&sampler, &options) == 0);
    const char *const *kept = pm_sampler_metrics(sampler, &n);
    CHECK(n == 4 && kept[0] == wanted[0] && kept[1] == wanted[1] && kept[2] == wanted[3] && kept[3] == wanted[5]);
    pm_sampler_close(sampler);
    options.metrics = bad;
    options.n_metrics = 3;
    CHECK(pm_sampler_open(&sampler, &options) == -ENOTSUP && !sampler);
    CHECK_MESSAGE(strstr(status_text(), "2 passes"), "%s", status_text());
    CHECK(mock->hosts == 0);
}

static void refusals_name_a_remedy(void)
{
    static const struct {
        const char *function;
        int result, error;
        const char *text;
    } cases[] = {
        {"cuptiPmSamplingEnable", COUNTERS_PRIVILEGES, -EACCES, "NVreg_RestrictProfilingToAdminUsers=0"},
        {"cuptiPmSamplingEnable", COUNTERS_MIG, -ENOTSUP, "MIG"},
        {"cuptiPmSamplingEnable", COUNTERS_BUSY, -EBUSY, "dcgmi"},
        {"cuptiProfilerInitialize", COUNTERS_OTHER_TOOL, -EBUSY, "nsys"},
        {"cuptiPmSamplingGetCounterAvailability", 7, -EIO, "MOCK_ERROR_BAD_OPERATION"},
        {"cuptiProfilerHostInitialize", 999, -EIO, "999"},
        {"cuptiPmSamplingSetConfig", COUNTERS_NOT_SUPPORTED, -ENOTSUP, "does not support"},
        {"cuptiPmSamplingCounterDataImageInitialize", 7, -EIO, "MOCK_ERROR"},
    };
    struct pm_sampler *sampler;
    struct pm_options options = {.libraries = libraries};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        *mock = (struct mock_counters){.fails = cases[i].function, .result = cases[i].result};
        CHECK_MESSAGE(pm_sampler_open(&sampler, &options) == cases[i].error && !sampler, "%s %d", cases[i].function,
                      cases[i].result);
        CHECK_MESSAGE(strstr(status_text(), cases[i].text), "%s: %s", cases[i].function, status_text());
        CHECK_MESSAGE(mock->enabled == 0 && mock->hosts == 0, "%s leaves something open", cases[i].function);
    }
    options.libraries.cupti = "/nowhere/libcupti.so";
    CHECK(pm_sampler_open(&sampler, &options) == -ENOTSUP && strstr(status_text(), "libcupti was not found"));
    options.libraries.driver = "/nowhere/libcuda.so";
    CHECK(pm_sampler_open(&sampler, &options) == -ENOTSUP && strstr(status_text(), "no NVIDIA driver"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Ranges

// More ranges than a session holds; each has its own bytes, whatever happens between them.
static void ranges_are_exact(void)
{
    static const char *const metrics[] = {"dram__bytes_read.sum", "dram__bytes_write.sum"};
    enum { MOST = 1500 };
    int64_t read[MOST], written[MOST];
    struct range_profiler *profiler;
    const double *values;
    *mock = (struct mock_counters){0};
    struct range_options options = {.metrics = metrics, .n_metrics = 2, .libraries = libraries};
    CHECK(range_profiler_open(&profiler, &options) == 0);
    for (int round = 0; round < 2; round++) {
        int n = check_range(1, MOST);
        for (int i = 0; i < n; i++) {
            mock->read_bytes += check_range(0, 1000);    // work of others
            range_profiler_push(profiler);
            mock->read_bytes += read[i] = check_range(0, 1 << 30);
            mock->written_bytes += written[i] = check_range(0, 1 << 30);
            range_profiler_pop(profiler);
        }
        CHECK(range_profiler_collect(profiler, &values) == n);
        for (int i = 0; i < n && values; i++) {
            CHECK_MESSAGE(values[2 * i] == (double)read[i] && values[2 * i + 1] == (double)written[i], "range %d of %d",
                          i, n);
        }
    }
    CHECK(range_profiler_collect(profiler, &values) == 0);
    CHECK(mock->sessions >= 2 && mock->synchronized >= 4);
    range_profiler_close(profiler);
    CHECK(mock->enabled == 0 && mock->hosts == 0);
}

static void range_failures_are_told_once(void)
{
    static const char *const metrics[] = {"a", "b"}, *const pair[] = {"a", "b pair"};
    struct range_profiler *profiler;
    const double *values;
    struct range_options options = {.metrics = metrics, .n_metrics = 2, .libraries = libraries};
    const struct mock_counters cases[] = {
        {.fails = "cuptiRangeProfilerPushRange", .result = 7},
        {.fails = "cuptiRangeProfilerPopRange", .result = 7},
        {.fails = "cuptiRangeProfilerDecodeData", .result = 7},
        {.dropped = 1},
        {.more_passes = 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        *mock = (struct mock_counters){0};
        CHECK(range_profiler_open(&profiler, &options) == 0);
        mock->fails = cases[i].fails;
        mock->result = cases[i].result;
        mock->dropped = cases[i].dropped;
        mock->more_passes = cases[i].more_passes;
        for (int r = 0; r < 3; r++) {
            range_profiler_push(profiler);
            range_profiler_pop(profiler);
        }
        values = (const double *)metrics;
        CHECK_MESSAGE(range_profiler_collect(profiler, &values) == -EIO && !values, "case %zu", i);
        CHECK_MESSAGE(strstr(status_text(), "counting ranges"), "%s", status_text());
        CHECK(range_profiler_collect(profiler, &values) == -EIO);
        mock->fails = NULL;
        range_profiler_pop(profiler);    // left alone after a failure; the library forgets its range
        range_profiler_close(profiler);
    }
    *mock = (struct mock_counters){.no_context = 1};
    CHECK(range_profiler_open(&profiler, &options) == -ENOTSUP && strstr(status_text(), "context"));
    *mock = (struct mock_counters){0};
    options.metrics = pair;
    CHECK(range_profiler_open(&profiler, &options) == -ENOTSUP && strstr(status_text(), "2 passes"));
    *mock = (struct mock_counters){.fails = "cuptiRangeProfilerEnable", .result = COUNTERS_PRIVILEGES};
    options.metrics = metrics;
    CHECK(range_profiler_open(&profiler, &options) == -EACCES && !profiler && mock->hosts == 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Stages

static void hear_stage(void *user, const struct stage_sample *sample)
{
    *(int64_t *)user = sample->measured_bytes;
}

// Some steps with a stage twice in one layer, of the same cost or not.
static void stages_are_counted(void)
{
    enum { STEPS = 5 };
    struct stage_counts *counts;
    int64_t first[STEPS], twice[STEPS], told = -1, n;
    *mock = (struct mock_counters){0};
    CHECK(stage_counts_open(&counts) == 0);
    const struct observer *observer = stage_counts_observer(counts);
    struct observed_stage qkv = {.stage = STAGE_QKV, .layer = 3, .n_seqs = 2, .n_tokens = 2, .bytes = 100};
    struct observed_stage ffn = {.stage = STAGE_FFN, .layer = 3, .n_seqs = 2, .n_tokens = 2, .bytes = 300};
    observer->enqueue_begin(observer->user, &qkv, false);    // before the start: not counted
    observer->enqueue_end(observer->user, &qkv, false);
    CHECK(stage_counts_start(counts, 0, &libraries) == 0);
    for (int s = 0; s < STEPS; s++) {
        struct observed_step step = {
            .step = s, .phase = PHASE_DECODE, .n_seqs = 2, .n_tokens = 2, .context_tokens = 50 + s};
        qkv.context_tokens = ffn.context_tokens = 50 + s;
        observer->step_begin(observer->user, &step);
        observer->enqueue_begin(observer->user, &qkv, false);
        mock->read_bytes += first[s] = check_range(1, 1000000);
        observer->enqueue_end(observer->user, &qkv, false);
        int64_t before = mock->read_bytes + mock->written_bytes;
        for (int twin = 0; twin < 2; twin++) {
            mock->read_bytes += 12345;    // between stages: nobody's
            before += 12345;
            observer->enqueue_begin(observer->user, &ffn, false);
            mock->written_bytes += check_range(1, 1000000);
            observer->enqueue_end(observer->user, &ffn, false);
        }
        twice[s] = mock->read_bytes + mock->written_bytes - before;
        observer->step_end(observer->user, &step);
    }
    CHECK(stage_counts_stop(counts) == 0);
    stage_counts_all(counts, &n);
    CHECK(n == 3 * STEPS);
    struct sample_sink to = {.user = &told, .stage = hear_stage};
    struct sample_sink sink = stage_counts_sink(counts, &to);
    for (int s = STEPS - 1; s >= 0; s--) {
        struct stage_sample sample = {.phase = PHASE_DECODE,
                                      .stage = STAGE_QKV,
                                      .layer = 3,
                                      .n_seqs = 2,
                                      .n_tokens = 2,
                                      .context_tokens = 50 + s,
                                      .bytes = 100};
        sink.stage(sink.user, &sample);
        CHECK_MESSAGE(told == first[s], "step %d: %lld bytes, not %lld", s, (long long)told, (long long)first[s]);
        sample.stage = STAGE_FFN;
        sample.bytes = 300;
        sink.stage(sink.user, &sample);
        CHECK_MESSAGE(told == twice[s] / 2, "step %d, twice: %lld bytes, not %lld", s, (long long)told,
                      (long long)twice[s] / 2);
        sample.bytes = 301;
        sink.stage(sink.user, &sample);
        CHECK(told == 0);
    }
    stage_counts_close(counts);
}

// A step whose counting fails leaves what was counted before, and the reason.
static void stage_failures_are_told(void)
{
    struct stage_counts *counts;
    int64_t n;
    *mock = (struct mock_counters){0};
    CHECK(stage_counts_open(&counts) == 0);
    const struct observer *observer = stage_counts_observer(counts);
    CHECK(stage_counts_start(counts, 0, &libraries) == 0);
    for (int s = 0; s < 3; s++) {
        struct observed_step step = {.step = s};
        struct observed_stage stage = {.stage = STAGE_FFN};
        mock->dropped = s == 1;
        observer->step_begin(observer->user, &step);
        observer->enqueue_begin(observer->user, &stage, false);
        observer->enqueue_end(observer->user, &stage, false);
        observer->step_end(observer->user, &step);
    }
    CHECK(stage_counts_stop(counts) == -EIO && strstr(status_text(), "dropped"));
    stage_counts_all(counts, &n);
    CHECK(n == 1);
    stage_counts_close(counts);
    stage_counts_close(NULL);
}

// ---------------------------------------------------------------------------------------------------------------------
// Gauges and averages

enum { NAMES = 32 };
struct gauges {
    struct {
        char name[80], unit[8];
        int64_t n;
        double last, sum;
    } of[NAMES];
    int32_t n, source;
    int64_t last_ns;
};

static void on_gauge(void *user, const struct gauge_sample *sample)
{
    struct gauges *gauges = user;
    int32_t i = 0;
    while (i < gauges->n && strcmp(gauges->of[i].name, sample->name) != 0) {
        i++;
    }
    if (i == gauges->n && gauges->n < NAMES) {
        snprintf(gauges->of[i].name, sizeof gauges->of[i].name, "%s", sample->name);
        snprintf(gauges->of[i].unit, sizeof gauges->of[i].unit, "%s", sample->unit);
        gauges->n++;
    }
    CHECK(i < NAMES && sample->source == 77);
    gauges->of[i % NAMES].n++;
    gauges->of[i % NAMES].last = sample->value;
    gauges->of[i % NAMES].sum += sample->value;
}

static int32_t find(const struct gauges *gauges, const char *name, const char *unit)
{
    for (int32_t i = 0; i < gauges->n; i++) {
        if (strcmp(gauges->of[i].name, name) == 0) {
            CHECK_MESSAGE(strcmp(gauges->of[i].unit, unit) == 0, "%s in %s", name, gauges->of[i].unit);
            return i;
        }
    }
    CHECK_MESSAGE(false, "no gauge %s", name);
    return 0;
}

// Two stages lie over known samples; what only touches them counts for neither.
static void samples_meet_stages(void)
{
    enum { SAMPLES = 200, INTERVAL_NS = 250000 };
    struct counters *counters;
    struct gauges gauges = {0};
    struct counters_average average;
    int64_t now = real_time_ns(), to_boottime = to_boottime_ns();
    *mock = (struct mock_counters){.first_ns = now - SAMPLES * INTERVAL_NS, .sm_clock = 1500, .milliwatt = 300000};
    struct counters_options options = {
        .gpu = true,
        .sink = {.user = &gauges, .gauge = on_gauge},
        .libraries = libraries,
        .nvml_library = COUNTERS_MOCK,
        .readings_per_s = 200,
    };
    CHECK(counters_open(&counters, &options) == 0);
    CHECK(counters_note(counters, 0) == NULL);
    struct observer inner = {0};
    CHECK(counters_observer(counters, &inner) == &inner);
    struct sample_sink sink = counters_sink(counters);
    sink.source(sink.user, &(struct sample_source){.id = 77});
    int64_t zero = mock->first_ns + to_boottime;
    // Samples 10 to 19 whole in the first, 20 cut by both, 21 to 99 in the second.
    struct stage_sample stages[] = {
        {.phase = PHASE_DECODE,
         .stage = STAGE_QKV,
         .begin_ns = zero + 10 * INTERVAL_NS - 100000,
         .duration_ns = 10 * INTERVAL_NS + 220000},
        {.phase = PHASE_DECODE,
         .stage = STAGE_FFN,
         .begin_ns = zero + 20 * INTERVAL_NS + 120000,
         .duration_ns = 80 * INTERVAL_NS - 20000},
    };
    mock->n_ready = SAMPLES;
    sink.stage(sink.user, &stages[0]);
    sink.stage(sink.user, &stages[1]);
    for (int i = 0; i < 100 && mock->n_ready > 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    struct step_sample step = {.begin_ns = zero, .duration_ns = 100 * INTERVAL_NS + 20000, .n_tokens = 8};
    sink.step(sink.user, &step);
    step.begin_ns += step.duration_ns;
    sink.step(sink.user, &step);    // its tokens have cost what the last reading says
    counters_stop(counters);
    CHECK(counters_average(counters, 0, &average) && average.stage == STAGE_QKV && average.n == 10);
    // Means of 1100, 1200, ..., 2000 over 250 us each, the first metric as bytes per second.
    CHECK_MESSAGE(fabs(average.value[0] - 1550.0 / 2.5e-4) < 1, "%g", average.value[0]);
    CHECK_MESSAGE(fabs(average.value[2] - 1552) < 1e-6, "%g", average.value[2]);
    CHECK(counters_average(counters, 1, &average) && average.stage == STAGE_FFN && average.n == 79);
    CHECK(!counters_average(counters, 2, &average));
    int32_t i = find(&gauges, "dram__bytes_read.sum", "B/s");
    CHECK_MESSAGE(gauges.of[i].n == SAMPLES, "%lld samples", (long long)gauges.of[i].n);
    CHECK(gauges.of[find(&gauges, "SM clock", "MHz")].last == 1500 &&
          gauges.of[find(&gauges, "power", "W")].last == 300);
    CHECK(gauges.of[find(&gauges, "energy per token", "J")].last > 0);
    counters_close(counters);
    CHECK(mock->enabled == 0 && mock->hosts == 0 && mock->nvml_open == 0);
}

// The rest works where a part is refused, and says what is missing.
static void parts_may_be_missing(void)
{
    struct counters *counters;
    struct gauges gauges = {0};
    struct counters_options options = {
        .gpu = true,
        .sink = {.user = &gauges, .gauge = on_gauge},
        .libraries = libraries,
        .nvml_library = COUNTERS_MOCK,
    };
    for (int starts = 0; starts < 2; starts++) {
        *mock = (struct mock_counters){.fails = starts ? "cuptiPmSamplingStart" : "cuptiPmSamplingEnable",
                                       .result = COUNTERS_PRIVILEGES, .sm_clock = 1};
        gauges = (struct gauges){0};
        CHECK(counters_open(&counters, &options) == 0);
        CHECK(counters_note(counters, 0) && strstr(counters_note(counters, 0), "administrators") &&
              !counters_note(counters, 1));
        CHECK(counters_metrics(counters) == 0);
        struct sample_sink sink = counters_sink(counters);
        sink.source(sink.user, &(struct sample_source){.id = 77});
        counters_stop(counters);
        find(&gauges, "SM clock", "MHz");
        counters_close(counters);
        CHECK(mock->enabled == 0 && mock->hosts == 0 && mock->nvml_open == 0);
    }
    options.libraries.cupti = options.libraries.driver = options.nvml_library = "/nowhere/lib.so";
    CHECK(counters_open(&counters, &options) == 0);
    CHECK(counters_note(counters, 0) && counters_note(counters, 1) && !counters_note(counters, 2));
    counters_close(counters);
    counters_close(NULL);
}

// A reading that fails half-way ends the samples, not the run.
static void a_failing_device_is_noted(void)
{
    struct counters *counters;
    struct counters_options options = {.gpu = true, .libraries = libraries, .nvml_library = COUNTERS_MOCK};
    *mock = (struct mock_counters){.fails = "cuptiPmSamplingDecodeData", .result = 7};
    CHECK(counters_open(&counters, &options) == 0);
    counters_stop(counters);
    CHECK(counters_note(counters, 0) && strstr(counters_note(counters, 0), "reading counters"));
    counters_close(counters);
}

int main(void)
{
    check_begin();
    void *library = dlopen(COUNTERS_MOCK, RTLD_NOW);
    mock = library ? dlsym(library, "mock_counters") : NULL;
    CHECK_MESSAGE(mock, "%s: %s", COUNTERS_MOCK, dlerror());
    if (mock) {
        samples_arrive_whole();
        metrics_are_chosen();
        refusals_name_a_remedy();
        ranges_are_exact();
        range_failures_are_told_once();
        stages_are_counted();
        stage_failures_are_told();
        samples_meet_stages();
        parts_may_be_missing();
        a_failing_device_is_noted();
    }
    return check_end();
}
