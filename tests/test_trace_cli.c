// tests/test_trace_cli.c - clsa trace from outside: what it prints, and its exit status.
#include <jansson.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/trace_stream.h"
#include "traces/trace.h"

static char folder[64], trace[128], cut[128];
static const char *binary;

// Runs `clsa trace ARGUMENTS`; its words go to out and err. Returns the exit status.
static int run(const char *arguments, char *out, size_t out_bytes, char *err, size_t err_bytes)
{
    char command[1024];
    snprintf(command, sizeof command, "'%s' trace %s >%s/out 2>%s/err", binary, arguments, folder, folder);
    int status = system(command);
    const char *const names[2] = {"out", "err"};
    char *const texts[2] = {out, err};
    const size_t bytes[2] = {out_bytes, err_bytes};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        FILE *stream = fopen(path, "rb");
        size_t n = stream ? fread(texts[i], 1, bytes[i] - 1, stream) : 0;
        texts[i][n] = 0;
        if (stream) {
            fclose(stream);
        }
        unlink(path);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char out[1 << 20], err[4096];

static void expect(const char *arguments, int status, const char *on_stdout, const char *on_stderr)
{
    char full[512];
    snprintf(full, sizeof full, arguments, trace);
    int got = run(full, out, sizeof out, err, sizeof err);
    CHECK_MESSAGE(got == status && strstr(out, on_stdout) && strstr(err, on_stderr),
                  "clsa trace %s: exit %d, expected %d with '%s' and '%s'\n%.400s\n%s", full, got, status, on_stdout,
                  on_stderr, out, err);
    CHECK_MESSAGE(status == 0 || (strchr(err, '\n') && !strchr(err, '\n')[1]) || strstr(err, "usage"),
                  "clsa trace %s: one line of error, not:\n%s", full, err);
}

// Every phase of `clsa trace summary --json` adds up to its step.
static void test_sums(void)
{
    char arguments[256];
    snprintf(arguments, sizeof arguments, "summary --json %s", trace);
    CHECK(run(arguments, out, sizeof out, err, sizeof err) == 0);
    json_error_t error;
    json_t *root = json_loads(out, 0, &error);
    CHECK_MESSAGE(root != NULL, "%s", error.text);
    json_t *rows = json_object_get(root, "stages"), *row;
    double sum = 0;
    int steps = 0;
    size_t i;
    json_array_foreach(rows, i, row) {
        const char *stage = json_string_value(json_object_get(row, "stage"));
        double total_ms = json_real_value(json_object_get(row, "total_ms"));
        if (strcmp(stage, "step") == 0) {
            CHECK_MESSAGE(fabs(sum - total_ms) <= 1e-6 * total_ms, "stages + gaps - overlap = %g ms, step %g ms", sum,
                          total_ms);
            sum = 0;
            steps++;
        } else {
            sum += strcmp(stage, "overlap") == 0 ? -total_ms : total_ms;
        }
    }
    CHECK(steps > 0);
    json_decref(root);
}

// Twenty steps of one stage each, that takes so long.
static void write_steps(const char *suffix, const char *backend, int64_t duration_ns)
{
    char path[160];
    snprintf(path, sizeof path, "%s-%s", trace, suffix);
    struct trace_writer *writer;
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = path}) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.method = "clsa", .model = "tiny", .device = "host", .n_layers = 1};
    snprintf(source.backend, sizeof source.backend, "%s", backend);
    sink.source(sink.user, &source);
    for (int64_t i = 0; i < 20; i++) {
        struct stage_sample stage = {0,    i,    PHASE_DECODE, STAGE_FFN,       0, 1, 1, 8,
                                     5000, 9000, 100000 * i,   duration_ns + i, 0};
        struct step_sample step = {0, i, PHASE_DECODE, 1, 1, 8, 100000 * i, duration_ns + i + 5000,
                                   duration_ns * 5 / 4};
        sink.stage(sink.user, &stage);
        sink.step(sink.user, &step);
    }
    CHECK(trace_writer_close(writer) == 0);
}

static void remove_steps(const char *suffix)
{
    char path[160];
    snprintf(path, sizeof path, "%s-%s", trace, suffix);
    unlink(path);
}

static void write_trace(void)
{
    struct trace_writer *writer;
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = trace, .command = "clsa compare"}) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.id = 0, .n_layers = 2, .method = "clsa", .model = "tiny", .device = "host"};
    for (int64_t i = 0; i < 2; i++) {
        sink.source(sink.user, &source);
        struct stage_sample stage = {source.id, 0,    PHASE_DECODE,  STAGE_FFN, 1, 1, 1, 8,
                                     5000,      9000, 1000 * i + 10, 400,       0};
        struct step_sample step = {source.id, 0, PHASE_DECODE, 1, 1, 8, 1000 * i, 500, 0};
        sink.stage(sink.user, &stage);
        stage.begin_ns += 350;
        stage.duration_ns = 100;
        sink.stage(sink.user, &stage);
        sink.step(sink.user, &step);
        source.id++;
        strcpy(source.method, "dense");
    }
    CHECK(trace_writer_close(writer) == 0);
    FILE *stream = fopen(trace, "rb");
    size_t n = fread(out, 1, sizeof out, stream);
    fclose(stream);
    stream = fopen(cut, "wb");
    CHECK(stream && fwrite(out, 1, n - 3, stream) == n - 3 && fclose(stream) == 0);
}

int main(void)
{
    check_begin();
    binary = getenv("CLSA_BINARY");
    if (!binary || access(binary, X_OK) != 0) {
        return check_skip("CLSA_BINARY names no program");
    }
    snprintf(folder, sizeof folder, "/tmp/test_trace_cli_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    snprintf(trace, sizeof trace, "%s/t.pftrace", folder);
    snprintf(cut, sizeof cut, "%s/t.pftrace-cut", folder);
    write_trace();
    write_steps("quick", "cuda", 20000);
    write_steps("slow", "cpu/avx2", 30000);
    expect("info %s", 0, "dense", "");
    expect("info --json %s", 0, "\"command\": \"clsa compare\"", "");
    expect("summary %s", 0, "gaps", "");
    CHECK(!strstr(out, "by the device's events"));
    expect("summary --method dense %s", 0, "ffn", "");
    CHECK(!strstr(out, "clsa"));
    expect("summary %s-slow", 0, "-19.97", "");
    CHECK(strstr(out, "by the device's events"));
    expect("summary --json %s-slow", 0, "\"clocks\": [", "");
    expect("check %s-quick", 0, "no findings", "");    // as far off, but by no more than 5 us
    expect("check %s-slow", 2, "off (medians of 20)", "findings: 1");
    expect("summary --method yoco %s", 2, "", "which has: clsa, dense");
    expect("summary --sort speed %s", 2, "", "expected order");
    expect("summary --device nothing %s", 2, "", "--device nothing");
    expect("summary --json --kernels --device H100 %s", 0, "\"roofline_percent\": 0.", "");
    expect("summary --kernels %s-quick", 0, "no kernels: this recording is of whole stages", "");
    CHECK(!strstr(out, "registers"));
    expect("summary --kernels %s-slow", 0, "no kernels: only a GPU launches them", "");
    expect("summary --kernels --json %s-slow", 0, "\"kernels\": []", "");
    expect("diff --json %1$s %1$s", 0, "\"verdict\": \"too few\"", "");
    expect("diff --method yoco %1$s %1$s", 2, "", "--method yoco");
    expect("diff --fail-over 5 %1$s-quick %1$s-slow", 1, "slower", "most clsa decode ffn by 50.0%");
    expect("diff --fail-over 60 --sort time %1$s-quick %1$s-slow", 0, "slower", "");
    expect("diff --changed --fail-over 5 %1$s-slow %1$s-quick", 0, "faster", "");
    expect("diff --fail-over 5 %1$s-slow %1$s-slow", 0, "same", "");
    expect("diff %1$s", 2, "", "usage");
    expect("diff %1$s %1$s-missing", 2, "", "No such file");
    expect("import tests/data/kineto/vllm.json --json --out %s-imported", 0, "\"steps\": 2.0", "");
    CHECK(strstr(out, "void some_project::prepare_inputs_kernel"));
    expect("check %s-imported", 0, "no findings", "");
    expect("summary --kernels %s-imported", 0, "reshape_and_cache_flash_kernel", "");
    CHECK(!strstr(out, "no kernels"));
    expect("import tests/data/kineto/vllm.json --out %s-imported --rules tests/data/kineto/vllm.json", 2, "",
           "vllm.json:1: ");
    expect("import tests/data/kineto/vllm.json", 2, "", "--out FILE is missing");
    expect("import tests/data/kineto/vllm.json --phase mixed --out %s-imported", 2, "", "expected prefill or decode");
    expect("import %1$s --out %1$s-none", 2, "", "expected a Chrome trace");
    expect("info %s-none", 2, "", "No such file");
    expect("check %s", 0, "no findings", "");
    expect("check --json %s", 0, "\"findings\": []", "");
    expect("info %s-cut", 2, "yes", "middle of a packet");
    expect("summary %s-cut", 2, "", "middle of a packet");
    expect("check %s-cut", 2, "middle of a packet", "findings: 1");
    expect("info %s-missing", 2, "", "No such file");
    expect("info /tmp", 2, "", "folder");
    expect("info", 2, "", "usage");
    expect("", 2, "", "usage");
    expect("diffs %s", 2, "", "expected one of info, summary, diff");
    expect("--help", 0, "usage", "");
    test_sums();
    remove_steps("quick");
    remove_steps("imported");
    remove_steps("slow");
    unlink(trace);
    unlink(cut);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
