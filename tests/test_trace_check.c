// tests/test_trace_check.c - the checker finds what is wrong, each rule by a trace that breaks it alone, and nothing
// else; a summary adds up to its steps.
#include <errno.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/trace_stream.h"
#include "traces/summary.h"
#include "traces/trace.h"

static char folder[64], path[128];

struct findings {
    int n;
    char text[4096];
};

static void on_finding(void *user, const char *finding)
{
    struct findings *findings = user;
    size_t length = strlen(findings->text);
    snprintf(findings->text + length, sizeof findings->text - length, "%s\n", finding);
    findings->n++;
}

static int check_path(struct findings *findings)
{
    *findings = (struct findings){0};
    int found = trace_check(path, on_finding, findings);
    CHECK(found < 0 || findings->n == (found < 100 ? found : 100));
    return found;
}

static struct trace_writer *open_writer(struct sample_sink *sink)
{
    struct trace_writer *writer;
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = path}) == 0);
    *sink = trace_writer_sink(writer);
    return writer;
}

static void test_sane(void)
{
    for (int i = 0; i < 20; i++) {
        struct sample_sink sink;
        struct findings findings;
        struct trace_writer *writer = open_writer(&sink);
        stream_random(&sink, STREAM_SANE, check_range(1, 600), check_random());
        CHECK(trace_writer_close(writer) == 0);
        // Requests of the last two steps of each source were still running: the writer has ended them.
        int found = check_path(&findings);
        CHECK_MESSAGE(found == 0, "sane stream: %d\n%s", found, findings.text);
    }
}

// One source, and one good step of two stages that `change` spoils. The finding must contain `word`.
static void expect_finding(const char *word, void (*change)(struct step_sample *step, struct stage_sample *stages))
{
    struct sample_source source = {.id = 1, .n_layers = 4, .method = "clsa"};
    struct stage_sample stages[2] = {
        {1, 9, PHASE_DECODE, STAGE_QKV, 0, 1, 1, 8, 100, 200, 1010, 20, 0},
        {1, 9, PHASE_DECODE, STAGE_FFN, 3, 1, 1, 8, 100, 200, 1030, 50, 0},
    };
    struct step_sample step = {1, 9, PHASE_DECODE, 1, 1, 8, 1000, 100, 0};
    struct sample_sink sink;
    struct findings findings;
    if (change) {
        change(&step, stages);
    }
    struct trace_writer *writer = open_writer(&sink);
    sink.source(sink.user, &source);
    sink.stage(sink.user, &stages[0]);
    sink.stage(sink.user, &stages[1]);
    sink.step(sink.user, &step);
    CHECK(trace_writer_close(writer) == 0);
    int found = check_path(&findings);
    CHECK_MESSAGE(word ? found >= 1 && strstr(findings.text, word) : found == 0, "expected '%s', found %d:\n%s",
                  word ? word : "nothing", found, findings.text);
}

static void stage_outlives_step(struct step_sample *step, struct stage_sample *stages)
{
    stages[1].duration_ns = 200;
    (void)step;
}
static void stage_precedes_step(struct step_sample *step, struct stage_sample *stages)
{
    stages[0].begin_ns = 990;
    (void)step;
}
static void stage_of_other_phase(struct step_sample *step, struct stage_sample *stages)
{
    step->phase = PHASE_MIXED;
    (void)stages;
}
static void stage_of_other_step(struct step_sample *step, struct stage_sample *stages)
{
    stages[0].step = 8;
    (void)step;
}
static void layer_too_high(struct step_sample *step, struct stage_sample *stages)
{
    stages[1].layer = 4;
    (void)step;
}
static void bytes_below_zero(struct step_sample *step, struct stage_sample *stages)
{
    stages[1].bytes = -1;
    (void)step;
}
static void negative_duration(struct step_sample *step, struct stage_sample *stages)
{
    stages[0].duration_ns = -5;
    (void)step;
}
static void stages_overlap(struct step_sample *step, struct stage_sample *stages)
{
    stages[1].begin_ns = 1015;    // a GPU's: they get lanes, which is no fault
    (void)step;
}

static void test_samples(void)
{
    expect_finding(NULL, NULL);
    expect_finding(NULL, stages_overlap);
    expect_finding("outside its step", stage_outlives_step);
    expect_finding("outside its step", stage_precedes_step);
    expect_finding("is mixed, but its stage", stage_of_other_phase);
    expect_finding("1 stages have no step", stage_of_other_step);
    expect_finding("ffn in layer 4", layer_too_high);
    expect_finding("below 0", bytes_below_zero);
    expect_finding("ends 5 ns before it began", negative_duration);
}

// `n` steps of 1000 us of stages on the device, and the host's behind them, that the device itself says to be so long;
// `late` of them more by what is no stage's.
static void expect_clocks(const char *word, int32_t n, int32_t late, int64_t device_ns)
{
    struct sample_source source = {.id = 1, .n_layers = 4, .method = "clsa"};
    struct sample_sink sink;
    struct findings findings;
    struct trace_writer *writer = open_writer(&sink);
    sink.source(sink.user, &source);
    for (int32_t i = 0; i < n; i++) {
        struct step_sample step = {.source = 1, .step = i, .phase = PHASE_DECODE, .begin_ns = 3000000 * (i + 1),
                                   .duration_ns = 2000000, .device_ns = device_ns + (i < late ? 700000 : 0)};
        struct stage_sample stage = {.source = 1, .step = i, .phase = PHASE_DECODE, .stage = STAGE_FFN,
                                     .begin_ns = step.begin_ns + 5000, .duration_ns = 1000000};
        sink.stage(sink.user, &stage);
        stage.stage = STAGE_HOST;
        stage.layer = -1;
        stage.begin_ns += 1900000;
        stage.duration_ns = 90000;
        sink.stage(sink.user, &stage);
        sink.step(sink.user, &step);
    }
    CHECK(trace_writer_close(writer) == 0);
    int found = check_path(&findings);
    CHECK_MESSAGE(word ? found == 1 && strstr(findings.text, word) : found == 0, "expected '%s', found %d:\n%s",
                  word ? word : "nothing", found, findings.text);
}

static void test_clocks(void)
{
    expect_clocks(NULL, 20, 0, 1000000);
    expect_clocks(NULL, 20, 9, 1019000);
    expect_clocks("decode steps take 1.030 ms by the device's events, and stages + gaps - overlap are -2.9% off", 20, 9,
                  1030000);
    expect_clocks("take 0.975 ms by the device's events, and stages + gaps - overlap are +2.6% off", 20, 0, 975000);
    expect_clocks(NULL, 9, 9, 1030000);    // too few
    expect_clocks(NULL, 20, 0, 0);         // not measured
}

// A launch and its kernel, which `change` spoils, on a source of 4 layers.
static void expect_device_finding(const char *word,
                                  void (*change)(struct launch_sample *launch, struct kernel_sample *kernel,
                                                 struct loss_sample *loss))
{
    struct sample_source source = {.id = 1, .n_layers = 4, .method = "clsa", .backend = "cuda"};
    struct launch_sample launch = {1, 5, "cudaLaunchKernel", 9, 100, 1000, 20};
    struct kernel_sample kernel = {
        .source = 1, .step = 9, .phase = PHASE_DECODE, .stage = STAGE_FFN, .layer = 3, .name = "ffn", .context = 1,
        .stream = 7, .launch = 5, .grid = {1, 1, 1}, .block = {32, 1, 1}, .begin_ns = 1010, .duration_ns = 5,
    };
    struct loss_sample loss = {.source = 1, .time_ns = 1100};
    struct sample_sink sink;
    struct findings findings;
    if (change) {
        change(&launch, &kernel, &loss);
    }
    struct trace_writer *writer = open_writer(&sink);
    sink.source(sink.user, &source);
    sink.kernel(sink.user, &kernel);
    sink.launch(sink.user, &launch);
    if (loss.dropped || loss.invalid) {
        sink.loss(sink.user, &loss);
    }
    CHECK(trace_writer_close(writer) == 0);
    int found = check_path(&findings);
    CHECK_MESSAGE(word ? found >= 1 && strstr(findings.text, word) : found == 0, "expected '%s', found %d:\n%s",
                  word ? word : "nothing", found, findings.text);
}

static void other_launch(struct launch_sample *launch, struct kernel_sample *kernel, struct loss_sample *loss)
{
    launch->launch = 6;
    (void)kernel, (void)loss;
}
static void other_launch_and_loss(struct launch_sample *launch, struct kernel_sample *kernel, struct loss_sample *loss)
{
    launch->launch = 6;    // its other end is among what was lost
    loss->dropped = 2;
    (void)kernel;
}
static void kernel_too_deep(struct launch_sample *launch, struct kernel_sample *kernel, struct loss_sample *loss)
{
    kernel->layer = 4;
    (void)launch, (void)loss;
}
static void kernel_backwards(struct launch_sample *launch, struct kernel_sample *kernel, struct loss_sample *loss)
{
    kernel->duration_ns = -1;
    (void)launch, (void)loss;
}
static void copy_of_less_than_nothing(struct launch_sample *launch, struct kernel_sample *kernel,
                                      struct loss_sample *loss)
{
    kernel->work = WORK_COPY;
    kernel->bytes = -8;
    (void)launch, (void)loss;
}
static void loss_below_zero(struct launch_sample *launch, struct kernel_sample *kernel, struct loss_sample *loss)
{
    loss->invalid = -1;
    (void)launch, (void)kernel;
}

static void test_device(void)
{
    expect_device_finding(NULL, NULL);
    expect_device_finding("1 launches have no work", other_launch);
    expect_device_finding("points at 1 launches that are not there", other_launch);
    expect_device_finding(NULL, other_launch_and_loss);
    expect_device_finding("in layer 4", kernel_too_deep);
    expect_device_finding("ends before it begins", kernel_backwards);
    expect_device_finding("less than 0 bytes", copy_of_less_than_nothing);
    expect_device_finding("less than 0 records", loss_below_zero);
}

static void append(char *bytes, size_t *n, const char *more, size_t length)
{
    memcpy(bytes + *n, more, length);
    *n += length;
}

// Packets by hand, behind a good preamble. Each breaks one rule.
static void test_packets(void)
{
#define PACKET(bytes) bytes, sizeof bytes - 1
    // Field 8 time 5, field 10 sequence 1, field 13 flags 2, field 11 event: 48 type, 58 track.
    static const struct {
        const char *bytes;
        size_t n;
        const char *word;
    } cases[] = {
        {PACKET("\x0a\x0c\x40\x05\x50\x01\x68\x02\x5a\x04\x48\x01\x58\x63"), "track 99, which was not described"},
        {PACKET("\x0a\x0a\x40\x05\x68\x02\x5a\x04\x48\x01\x58\x01"), "without a packet sequence"},
        {PACKET("\x0a\x0c\x40\x05\x50\x07\x68\x02\x5a\x04\x48\x03\x58\x01"), "sequence 7 needs names"},
        {PACKET("\x0a\x0c\x40\x05\x50\x07\x68\x02\x5a\x04\x48\x03\x58\x01"), "sequence 7 begins without first_packet"},
        {PACKET("\x0a\x0c\x40\x05\x50\x01\x68\x02\x5a\x04\x48\x02\x58\x01"), "ends that never began"},
        {PACKET("\x0a\x0c\x40\x05\x50\x01\x68\x02\x5a\x04\x48\x01\x58\x01"), "1 slices have no end"},
        {PACKET("\x0a\x0c\x40\x05\x50\x01\x68\x02\x5a\x04\x48\x04\x58\x01"), "no counter"},
        {PACKET("\x0a\x0e\x40\x05\x50\x01\x68\x02\x5a\x06\x48\x03\x58\x01\x50\x7f"), "not interned"},
        {PACKET("\x0a\x0f\x40\x05\x50\x01\x68\x02\xd0\x03\x63\x5a\x04\x48\x03\x58\x01"), "on clock 99"},
        {PACKET("\x0a\x0a\x50\x01\x68\x02\x5a\x04\x48\x03\x58\x01"), "without a time"},
        {PACKET("\x0a\x0c\x50\x01\x68\x02\xe2\x03\x05\x08\x50\x28\x51\x10\x01"), "damaged"},
        {PACKET("\x0a\x0b\x50\x01\x68\x02\xe2\x03\x04\x08\x50\x28\x51"), "under track 81"},
        {PACKET("\x0a\x16\x40\x05\x50\x01\x68\x02\x5a\x0e\x48\x03\x58\x01\xf9\x02\x07\0\0\0\0\0\0\0"), "one end only"},
        // Field 53, device work: 8 number, 5 context, 13 queue, 14 stage. Field 52, a hardware counter: 4 its
        // descriptor.
        {PACKET("\x0a\x11\x40\x05\x50\x01\x68\x02\xaa\x03\x08\x08\x01\x28\x01\x68\x09\x70\x09"),
         "queue that was not interned"},
        {PACKET("\x0a\x11\x40\x05\x50\x01\x68\x02\xaa\x03\x08\x08\x01\x28\x01\x68\x09\x70\x09"),
         "stage that was not interned"},
        {PACKET("\x0a\x11\x40\x05\x50\x01\x68\x02\xaa\x03\x08\x08\x01\x28\x01\x68\x09\x70\x09"),
         "context that was not interned"},
        {PACKET("\x0a\x0c\x40\x05\x50\x01\x68\x02\xaa\x03\x03\x98\x01\x63"), "kernel that was not interned"},
        {PACKET("\x0a\x0b\x50\x01\x68\x02\xaa\x03\x04\x28\x01\x68\x09"), "without a number"},
        {PACKET("\x0a\x0d\x40\x05\x50\x01\x68\x02\xa2\x03\x04\x20\x63\x12\x00"), "counter that was not interned"},
        {PACKET("\x0a\x0b\x50\x01\x68\x02\xa2\x03\x04\x20\x63\x12\x00"), "value without a time"},
        {PACKET("\x0a\x02\x40"), "middle of a packet"},
    };
#undef PACKET
    struct sample_sink sink;
    CHECK(trace_writer_close(open_writer(&sink)) == 0);
    FILE *stream = fopen(path, "rb");
    static char bytes[8192];
    size_t preamble = fread(bytes, 1, 4096, stream);
    fclose(stream);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = preamble;
        append(bytes, &n, cases[i].bytes, cases[i].n);
        stream = fopen(path, "wb");
        CHECK(stream && fwrite(bytes, 1, n, stream) == n && fclose(stream) == 0);
        struct findings findings;
        int found = check_path(&findings);
        const char *text = found < 0 ? status_text() : findings.text;
        CHECK_MESSAGE(found != 0 && strstr(text, cases[i].word), "case %zu: expected '%s', found %d: %s", i,
                      cases[i].word, found, text);
    }
    CHECK(trace_check(folder, NULL, NULL) == -EINVAL);
}

// Wild streams break rules, but neither the checker nor a summary may break on them.
static void test_wild(void)
{
    for (int i = 0; i < 20; i++) {
        struct sample_sink sink;
        struct findings findings;
        struct trace_writer *writer = open_writer(&sink);
        stream_random(&sink, STREAM_WILD, 500, check_random());
        CHECK(trace_writer_close(writer) == 0);
        CHECK(check_path(&findings) > 0);
        struct trace_summary *summary;
        CHECK(trace_summary_open(&summary) == 0);
        sink = trace_summary_sink(summary);
        CHECK(trace_read(path, &sink, NULL) == 0 && trace_summary_update(summary) == 0);
        trace_summary_close(summary);
    }
}

static int compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

// Durations drawn here, kept beside, and reduced in the plainest way.
static void test_summary(void)
{
    enum { STEPS = 101 };
    int64_t ffn_ns[STEPS], step_ns[STEPS], ffn_total = 0, step_total = 0, gaps = 0, overlap = 0, clocked = 0;
    struct trace_summary *summary;
    CHECK(trace_summary_open(&summary) == 0);
    struct sample_sink sink = trace_summary_sink(summary);
    struct sample_source source = {.id = 5, .n_layers = 2, .method = "yoco"};
    sink.source(sink.user, &source);
    int64_t at_ns = 1000;
    for (int64_t i = 0; i < STEPS; i++) {
        int64_t gap = check_range(0, 9), shared = check_range(0, 9), ffn = check_range(10, 500);
        struct stage_sample qkv = {5, i, PHASE_DECODE, STAGE_QKV, 0, 1, 1, 8, 7, 70, at_ns + gap, 100, 0};
        struct stage_sample other = {5, i, PHASE_DECODE, STAGE_FFN, 1, 1, 1, 8, 11, 13, at_ns + gap + 100 - shared, ffn,
                                     0};
        struct step_sample step = {5, i, PHASE_DECODE, 1, 1, 8, at_ns, gap + 100 - shared + ffn + gap, i % 2 ? 90 : 0};
        sink.stage(sink.user, &other);    // order within a step does not matter
        sink.stage(sink.user, &qkv);
        sink.step(sink.user, &step);
        at_ns += step.duration_ns + 5;
        ffn_ns[i] = ffn;
        step_ns[i] = step.duration_ns;
        ffn_total += ffn;
        step_total += step.duration_ns;
        gaps += 2 * gap;
        overlap += shared;
        clocked += i % 2 ? 100 - shared + ffn : 0;
    }
    struct stage_sample lost = {5, STEPS, PHASE_DECODE, STAGE_QKV, 0, 1, 1, 8, 7, 70, at_ns, 100, 0};
    sink.stage(sink.user, &lost);
    CHECK(trace_summary_update(summary) == 0 && trace_summary_orphans(summary) == 1);
    int32_t n_stages, n_steps, n_sources;
    const struct summary_stage *stages = trace_summary_stages(summary, &n_stages);
    const struct summary_step *steps = trace_summary_steps(summary, &n_steps);
    CHECK(strcmp(trace_summary_sources(summary, &n_sources)->method, "yoco") == 0 && n_sources == 1);
    CHECK(n_stages == 2 && n_steps == 1 && stages[0].stage == STAGE_QKV && stages[1].stage == STAGE_FFN);
    qsort(ffn_ns, STEPS, sizeof *ffn_ns, compare);
    qsort(step_ns, STEPS, sizeof *step_ns, compare);
    CHECK(stages[1].count == STEPS && stages[1].total_ns == ffn_total && stages[1].median_ns == ffn_ns[50] &&
          stages[1].p95_ns == ffn_ns[95] && stages[1].bytes == 11 * STEPS && stages[1].flops == 13 * STEPS);
    CHECK(stages[0].total_ns == 100 * STEPS && stages[0].median_ns == 100);
    CHECK(steps[0].count == STEPS && steps[0].total_ns == step_total && steps[0].median_ns == step_ns[50] &&
          steps[0].n_tokens == STEPS);
    CHECK(steps[0].gaps_ns == gaps && steps[0].overlap_ns == overlap);
    CHECK(steps[0].clocked_count == STEPS / 2 && steps[0].clocked_ns == 90 * (STEPS / 2) &&
          steps[0].clocked_stages_ns == clocked);
    CHECK(stages[0].total_ns + stages[1].total_ns + steps[0].gaps_ns - steps[0].overlap_ns == steps[0].total_ns);
    trace_summary_close(summary);
}

int main(void)
{
    check_begin();
    snprintf(folder, sizeof folder, "/tmp/test_trace_check_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    snprintf(path, sizeof path, "%s/t.pftrace", folder);
    test_sane();
    test_samples();
    test_clocks();
    test_device();
    test_packets();
    test_wild();
    test_summary();
    unlink(path);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
