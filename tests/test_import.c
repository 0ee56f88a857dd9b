// tests/test_import.c - recordings of other engines: stages, steps and layers of files made up so that the truth is
// known; files and rules that are wrong.
#include <errno.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/cost.h"
#include "engine/status.h"
#include "tests/check.h"
#include "traces/import.h"

static char path[64];

// ---------------------------------------------------------------------------------------------------------------------
// What an import tells

enum { MAX_SEEN = 1 << 14, MAX_STEPS_SEEN = 256 };

struct seen {
    struct kernel_sample kernels[MAX_SEEN];
    char names[MAX_SEEN][48];
    struct step_sample steps[MAX_STEPS_SEEN];
    int64_t stage_ns[MAX_STEPS_SEEN][STAGE_COUNT], bytes[MAX_STEPS_SEEN];
    int32_t n_kernels, n_steps, n_sources, n_launches, most_layers;
    struct sample_source source;
};

static struct seen seen;

static void on_source(void *user, const struct sample_source *source)
{
    (void)user;
    seen.n_sources++;
    seen.source = *source;
}

static void on_kernel(void *user, const struct kernel_sample *sample)
{
    (void)user;
    if (seen.n_kernels < MAX_SEEN) {
        seen.kernels[seen.n_kernels] = *sample;
        snprintf(seen.names[seen.n_kernels++], sizeof seen.names[0], "%s", sample->name);
    }
    seen.most_layers = sample->layer + 1 > seen.most_layers ? sample->layer + 1 : seen.most_layers;
}

static void on_launch(void *user, const struct launch_sample *sample)
{
    (void)user;
    (void)sample;
    seen.n_launches++;
}

static void on_stage(void *user, const struct stage_sample *sample)
{
    (void)user;
    if (seen.n_steps < MAX_STEPS_SEEN) {
        seen.stage_ns[seen.n_steps][sample->stage] += sample->duration_ns;
        seen.bytes[seen.n_steps] += sample->bytes;
    }
}

static void on_step(void *user, const struct step_sample *sample)
{
    (void)user;
    if (seen.n_steps < MAX_STEPS_SEEN) {
        seen.steps[seen.n_steps++] = *sample;
    }
}

static int import(struct import_report *report, const char *file, struct import_options options)
{
    struct import_rules *rules = NULL;
    struct sample_sink sink = {.source = on_source, .stage = on_stage, .step = on_step, .kernel = on_kernel,
                               .launch = on_launch};
    memset(&seen, 0, sizeof seen);
    if (!options.rules) {
        CHECK(import_rules_load(&rules, NULL) == 0);
        options.rules = rules;
    }
    int error = import_read(report, file, &options, &sink);
    import_rules_free(rules);
    return error;
}

static void write_text(const char *text, size_t length, bool packed)
{
    FILE *stream = fopen(path, "wb");
    gzFile packer = packed ? gzdopen(dup(fileno(stream)), "wb") : NULL;
    CHECK(packed ? gzwrite(packer, text, (unsigned)length) == (int)length : fwrite(text, 1, length, stream) == length);
    if (packer) {
        gzclose(packer);
    }
    fclose(stream);
}

// ---------------------------------------------------------------------------------------------------------------------
// The file in tests/data, in Kineto's form: a prompt launched kernel by kernel, an answer as a graph

static void test_file(void)
{
    struct import_report report;
    CHECK_MESSAGE(import(&report, "tests/data/kineto/vllm.json", (struct import_options){0}) == 0, "%s", status_text());
    CHECK(strcmp(seen.source.device, "NVIDIA H100 80GB HBM3") == 0 && seen.source.n_layers == 2 && seen.n_sources == 1);
    CHECK(report.n_steps == 2 && !report.by_gaps && report.n_copies == 2 && report.n_kernels == 54);
    CHECK(report.n_outside == 0 && report.n_unmatched == 2 && report.unmatched_ns == 8000);
    CHECK(seen.n_steps == 2 && seen.steps[0].phase == PHASE_PREFILL && seen.steps[1].phase == PHASE_DECODE);
    CHECK(seen.steps[0].n_seqs == 2 && seen.steps[0].n_tokens == 96 && seen.steps[1].n_tokens == 2);
    CHECK(seen.n_launches == report.n_launches && seen.n_launches == 28 + 7);
    static const struct {
        enum stage stage;
        int64_t ns;
    } expected[] = {{STAGE_EMBED, 2000}, {STAGE_QKV, 22000}, {STAGE_KV_WRITE, 11000}, {STAGE_ATTENTION, 24000},
                    {STAGE_OUTPUT, 12000}, {STAGE_FFN, 57000}, {STAGE_HEAD, 32000}, {STAGE_SAMPLE, 5000},
                    {STAGE_HOST, 1500}};
    for (int32_t s = 0; s < 2; s++) {
        int64_t sum_ns = 0, expected_ns = 0;
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            int64_t ns = seen.stage_ns[s][expected[i].stage];
            CHECK_MESSAGE(ns == expected[i].ns, "step %d, %s: %lld ns", s, stage_name(expected[i].stage),
                          (long long)ns);
            expected_ns += expected[i].ns;
        }
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            sum_ns += seen.stage_ns[s][stage];
        }
        CHECK(sum_ns == expected_ns && seen.bytes[s] == 0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Random files

// A growing text of events.
struct text {
    char bytes[1 << 21];
    size_t n;
};

static struct text text;

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    text.n += (size_t)vsnprintf(text.bytes + text.n, sizeof text.bytes - text.n, format, arguments);
    va_end(arguments);
    CHECK(text.n < sizeof text.bytes);
}

enum { MAX_EVENTS = 6000 };
static char *events[MAX_EVENTS];
static int32_t n_events;

__attribute__((format(printf, 1, 2))) static void event(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    CHECK(n_events < MAX_EVENTS && vasprintf(&events[n_events++], format, arguments) > 0);
    va_end(arguments);
}

// The events in any order, as an object or as a bare array.
static void write_events(bool bare, bool packed)
{
    text.n = 0;
    put(bare ? "[" : "{\"schemaVersion\": 1, \"traceEvents\": [");
    for (int32_t i = n_events - 1; i >= 0; i--) {
        int32_t other = check_range(0, i);
        char *swapped = events[i];
        events[i] = events[other];
        events[other] = swapped;
    }
    for (int32_t i = 0; i < n_events; i++) {
        put("%s%s\n", i ? "," : "", events[i]);
        free(events[i]);
    }
    n_events = 0;
    put(bare ? "]" : "], \"traceName\": \"]}{[\\\"\"}");
    write_text(text.bytes, text.n, packed);
}

static double us(int64_t ns)
{
    return 1e-3 * (double)ns;
}

static const struct {
    const char *name;
    enum stage stage;
} layer_kernels[] = {
    {"vllm::rms_norm_kernel", STAGE_QKV},       {"nvjet_tst_1", STAGE_QKV},
    {"rotary_embedding_kernel", STAGE_KV_WRITE}, {"reshape_and_cache_flash_kernel", STAGE_KV_WRITE},
    {"flash_fwd_splitkv_kernel", STAGE_ATTENTION}, {"flash_fwd_splitkv_combine_kernel", STAGE_ATTENTION},
    {"nvjet_tst_2", STAGE_OUTPUT},              {"vllm::fused_add_rms_norm_kernel", STAGE_FFN},
    {"sm90_xmma_gemm_bf16", STAGE_FFN},         {"vllm::act_and_mul_kernel", STAGE_FFN},
    {"sm90_xmma_gemm_bf16", STAGE_FFN},
};
enum { N_LAYER_KERNELS = sizeof layer_kernels / sizeof *layer_kernels, N_LAYERS = 4, N_STEPS = 12 };

static int64_t truth_ns[N_STEPS][STAGE_COUNT];

// A kernel of step `s`, enqueued at host_ns, run by the device when it can.
static void add_kernel(int32_t s, const char *name, enum stage stage, int64_t *host_ns, int64_t *device_ns)
{
    static int32_t correlation = 0;
    int64_t duration_ns = 100 * check_range(5, 400);
    *host_ns += check_range(2000, 5000);
    *device_ns = (*device_ns > *host_ns ? *device_ns : *host_ns) + 100 * check_range(3, 20);
    correlation++;
    event("{\"ph\": \"X\", \"cat\": \"cuda_runtime\", \"name\": \"cudaLaunchKernel\", \"pid\": 9, \"tid\": 9, "
          "\"ts\": %.3f, \"dur\": 1.5, \"args\": {\"correlation\": %d}}", us(*host_ns), correlation);
    event("{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"%s\", \"pid\": 0, \"tid\": 7, \"ts\": %.3f, \"dur\": %.3f, "
          "\"args\": {\"device\": 0, \"stream\": 7, \"correlation\": %d, \"grid\": [4, 2, 1], \"block\": [128, 1, 1]}}",
          name, us(*device_ns), us(duration_ns), correlation);
    truth_ns[s][stage] += duration_ns;
    *device_ns += duration_ns;
}

// A run whose device lags behind the host by more than a step, so that only launches tell what belongs where.
static void add_run(const char *annotation, bool annotated)
{
    int64_t host_ns = 1000000, device_ns = annotated ? 1400000 : 1000000;
    memset(truth_ns, 0, sizeof truth_ns);
    for (int32_t s = 0; s < N_STEPS; s++) {
        char name[128];
        int64_t begin_ns = host_ns;
        snprintf(name, sizeof name, annotation, 500 + s);
        add_kernel(s, "vectorized_gather_kernel", STAGE_EMBED, &host_ns, &device_ns);
        for (int32_t i = 0; i < N_LAYERS * N_LAYER_KERNELS; i++) {
            add_kernel(s, layer_kernels[i % N_LAYER_KERNELS].name, layer_kernels[i % N_LAYER_KERNELS].stage, &host_ns,
                       &device_ns);
        }
        add_kernel(s, "vllm::fused_add_rms_norm_kernel", STAGE_HEAD, &host_ns, &device_ns);
        add_kernel(s, "nvjet_tst_3", STAGE_HEAD, &host_ns, &device_ns);
        add_kernel(s, "ArgMaxOps", STAGE_SAMPLE, &host_ns, &device_ns);
        host_ns += 1000;
        if (annotated) {
            event("{\"ph\": \"X\", \"cat\": \"user_annotation\", \"name\": \"%s\", \"pid\": 9, \"tid\": 9, "
                  "\"ts\": %.3f, \"dur\": %.3f}", name, us(begin_ns), us(host_ns - begin_ns));
            event("{\"ph\": \"X\", \"cat\": \"user_annotation\", \"name\": \"ProfilerStep#%d\", \"pid\": 9, "
                  "\"tid\": 9, \"ts\": %.3f, \"dur\": %.3f}", s, us(begin_ns - 100), us(host_ns - begin_ns + 200));
        }
        host_ns += 300000;
        device_ns += annotated ? 0 : 300000;
    }
}

static void check_run(const struct import_report *report, enum phase phase)
{
    CHECK_MESSAGE(seen.n_steps == N_STEPS && report->n_steps == N_STEPS, "%d steps", seen.n_steps);
    CHECK(seen.most_layers == N_LAYERS && seen.source.n_layers == N_LAYERS && report->n_unmatched == 0);
    for (int32_t s = 0; s < N_STEPS && s < seen.n_steps; s++) {
        CHECK(seen.steps[s].phase == phase);
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            CHECK_MESSAGE(seen.stage_ns[s][stage] == truth_ns[s][stage], "step %d, %s: %lld ns, expected %lld", s,
                          stage_name((enum stage)stage), (long long)seen.stage_ns[s][stage],
                          (long long)truth_ns[s][stage]);
        }
    }
}

static void test_runs(void)
{
    struct import_report report;
    add_run("execute_context_0(0)_generation_3(%d)", true);
    write_events(check_range(0, 1), check_range(0, 1));
    CHECK_MESSAGE(import(&report, path, (struct import_options){0}) == 0, "%s", status_text());
    CHECK(!report.by_gaps && seen.n_launches == seen.n_kernels);
    check_run(&report, PHASE_DECODE);
    CHECK(seen.steps[2].n_seqs == 3 && seen.steps[2].n_tokens == 502);

    add_run("step[EXTEND bs=2 toks=%d]", true);
    write_events(false, true);
    CHECK(import(&report, path, (struct import_options){.method = "dense"}) == 0);
    check_run(&report, PHASE_PREFILL);
    CHECK(seen.steps[3].n_seqs == 2 && seen.steps[3].n_tokens == 503 && strcmp(seen.source.method, "dense") == 0);

    // Nothing that is a step but the profiler's own.
    add_run("forward %d", true);
    write_events(true, false);
    CHECK(import(&report, path, (struct import_options){0}) == 0 && !report.by_gaps);
    check_run(&report, PHASE_DECODE);

    add_run("", false);
    write_events(false, false);
    CHECK(import(&report, path, (struct import_options){.phase = PHASE_PREFILL}) == 0 && report.by_gaps);
    check_run(&report, PHASE_PREFILL);
}

// Bytes are the cost model's, of the work that annotations tell of.
static void test_prices(void)
{
    static struct plan plan;
    struct model_shape shape = *plan_find_model("tiny");
    struct import_report report;
    shape.backbone = BACKBONE_TRANSFORMER;
    CHECK(plan_build(&plan, &shape, "dense", &(struct plan_options){0}) == 0 && plan.shape.n_layers == N_LAYERS);
    add_run("execute_1_context_0(sq0sk0sqsq0sqsk0)_generation_2(sq2sk%dsqsq2sqsk9)", true);
    write_events(false, false);
    CHECK_MESSAGE(import(&report, path, (struct import_options){.plan = &plan}) == 0, "%s", status_text());
    check_run(&report, PHASE_DECODE);
    CHECK(report.n_priced_steps == N_STEPS);
    for (int32_t s = 0; s < N_STEPS && s < seen.n_steps; s++) {
        int32_t held = (500 + s - 2) / 2;
        struct work work[2] = {{held, 1, 1}, {held, 1, 1}};
        int64_t expected = step_cost(&plan, work, 2).bytes;
        CHECK_MESSAGE(seen.bytes[s] == expected, "step %d: %lld bytes, expected %lld", s, (long long)seen.bytes[s],
                      (long long)expected);
        CHECK(seen.steps[s].context_tokens == held + 1 && seen.steps[s].n_seqs == 2);
    }
    // Without keys in the names, contexts count from the one given.
    add_run("execute_context_0(0)_generation_3(3)", true);
    write_events(false, false);
    CHECK(import(&report, path, (struct import_options){.plan = &plan, .context_tokens = 77}) == 0);
    CHECK(report.n_priced_steps == N_STEPS && seen.steps[5].context_tokens == 77 + 5 + 1);
    CHECK(import(&report, path, (struct import_options){.plan = &plan}) == 0 && report.n_priced_steps == 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// What is wrong

static void test_wrong_files(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "expected a Chrome trace"},
        {"hello", "expected a Chrome trace"},
        {"{\"traceEvents\": [{\"ph\": \"X\"}, ", "cut"},
        {"{\"traceEvents\": [{\"ph\": \"X\", \"na", "cut"},
        {"{\"traceEvents\": [{\"ph\": nothing}]}", "invalid token"},
        {"{\"traceEvents\": [1]}", "an object"},
        {"{\"traceEvents\": {}}", "must be an array"},
        {"{\"traceEvents\": [{}{}]}", "',' or ']'"},
        {"{\"traceEvents\": []", "cut"},
        {"{\"traceEvents\": []} more", "nothing more"},
        {"{\"traceEvents\": [{}, {}]}", "no kernel"},
        {"{\"a\" 1}", "':'"},
        {"{1: 1}", "expected a key"},
        {"{\"a\": }", "expected a value"},
        {"[{\"cat\": \"kernel\", \"ph\": \"X\", \"ts\": 1, \"dur\": -1}]", "no kernel"},
        {"[{\"cat\": \"kernel\", \"ph\": \"X\", \"ts\": 1e300, \"dur\": 1}]", "no kernel"},
        {"\x1f\x8b\x08 broken", "gzip"},
    };
    struct import_report report;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(cases[i].text, strlen(cases[i].text), false);
        int error = import(&report, path, (struct import_options){0});
        CHECK_MESSAGE(error == -EINVAL && strstr(status_text(), cases[i].why) && strstr(status_text(), path),
                      "%s: %d %s", cases[i].text, error, status_text());
    }
    CHECK(import(&report, "/nowhere", (struct import_options){0}) == -EINVAL && strstr(status_text(), "/nowhere"));
    CHECK(import(&report, "/tmp", (struct import_options){0}) == -EINVAL && strstr(status_text(), "folder"));
    // A bare array may end anywhere behind an event.
    static const char open_end[] = "[{\"cat\": \"kernel\", \"ph\": \"X\", \"name\": \"k\", \"ts\": 5, \"dur\": 2},\n";
    write_text(open_end, strlen(open_end), true);
    CHECK(import(&report, path, (struct import_options){0}) == 0 && seen.n_kernels == 1 && report.n_unmatched == 1);
    CHECK(seen.kernels[0].begin_ns == 0 && seen.kernels[0].duration_ns == 2000);
    // Of a device that is described twice the later name counts, and nothing of the other.
    static const char twice[] = "{\"deviceProperties\": [{\"id\": 0, \"name\": \"NVIDIA H100\"}, "
                                "{\"id\": 0, \"name\": \"L4\"}], \"traceEvents\": [{\"cat\": \"kernel\", "
                                "\"ph\": \"X\", \"name\": \"k\", \"ts\": 5, \"dur\": 2}]}";
    write_text(twice, strlen(twice), false);
    CHECK_MESSAGE(import(&report, path, (struct import_options){0}) == 0 && strcmp(seen.source.device, "L4") == 0,
                  "%s", seen.source.device);
    CHECK(truncate(path, 30) == 0 && import(&report, path, (struct import_options){0}) == -EINVAL);
}

static void test_rules(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "no rule for a kernel"},
        {"kernel attention *a* \nkernel fnn *b*", "r:2: expected kernel STAGE"},
        {"kernel ffn", "expected kernel STAGE"},
        {"kernel ffn /[/", "no regular expression"},
        {"kernel ffn *a* after=", "expected a label"},
        {"kernel next *a* as=b", "next cannot have"},
        {"kernel ffn *a* before=x", "expected after="},
        {"kernel ffn *a* as=0123456789012345678901234567890123456789", "1 to 31"},
        {"step sometime *a*", "expected step prefill"},
        {"step decode *a* answers=1", "a group"},
        {"step decode /a(b)/ answers=2", "a group"},
        {"step decode /a(b)/ often", "expected fallback"},
        {"step auto /a/", "needs prompts="},
        {"layer a\nlayer b", "r:2"},
        {"kernel ffn \"*a", "quotes in pairs"},
        {"kernels ffn *a*", "expected step, kernel"},
    };
    struct import_rules *rules;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int error = import_rules_parse(&rules, cases[i].text, strlen(cases[i].text), "r");
        CHECK_MESSAGE(error == -EINVAL && !rules && strstr(status_text(), cases[i].why), "%s: %d %s", cases[i].text,
                      error, status_text());
    }
    CHECK(import_rules_load(&rules, "/nowhere") == -EINVAL && import_rules_load(&rules, path) == -EINVAL);
    // The order of rules decides, what came before, and "last".
    static const char own[] = "# mine\nkernel head mm last after=ffn\nkernel qkv mm after=start,ffn as=first\n"
                              "kernel ffn mm after=first\r\nkernel next norm\nlayer first\n";
    static const char order[] = "mm,norm,mm,mm,mm,norm,mm";
    static const enum stage expected[] = {STAGE_QKV, STAGE_FFN, STAGE_FFN, STAGE_QKV,
                                          STAGE_FFN, STAGE_HEAD, STAGE_HEAD};
    CHECK_MESSAGE(import_rules_parse(&rules, own, strlen(own), "own") == 0, "%s", status_text());
    char words[64], *rest = NULL;
    int32_t at_us = 10;
    snprintf(words, sizeof words, "%s", order);
    for (char *name = strtok_r(words, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        event("{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"%s\", \"ts\": %d, \"dur\": 2}", name, at_us += 3);
    }
    write_events(true, false);
    struct import_report report;
    CHECK(import(&report, path, (struct import_options){.rules = rules}) == 0 && seen.n_kernels == 7);
    for (int i = 0; i < 7 && i < seen.n_kernels; i++) {
        CHECK_MESSAGE(seen.kernels[i].stage == expected[i], "%d: %s became %s", i, seen.names[i],
                      seen.kernels[i].stage < STAGE_COUNT ? stage_name(seen.kernels[i].stage) : "none");
    }
    CHECK(seen.kernels[0].layer == 0 && seen.kernels[1].layer == 0 && seen.kernels[3].layer == 1);
    CHECK(seen.kernels[6].layer == -1);
    import_rules_free(rules);
}

int main(void)
{
    check_begin();
    snprintf(path, sizeof path, "/tmp/test_import_XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) {
        return check_skip("no file under /tmp can be made");
    }
    close(fd);
    test_file();
    test_runs();
    test_prices();
    test_wrong_files();
    test_rules();
    unlink(path);
    return check_end();
}
