// tests/test_trace_schema.c - another implementation of protobuf decodes our traces: nothing in them is unknown to it.
//
// protoc reads a trace by traces/trace.proto. Where CLSA_PERFETTO_PROTOS names a checkout of Perfetto (the folder that
// holds protos/perfetto/trace/trace.proto), it reads it by Perfetto's own schema too, and both must say the same.
#include <ctype.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/trace_stream.h"
#include "traces/trace.h"

static char folder[64], path[128];

struct decoded {
    char *text;           // owned
    size_t n;
    int status;
};

static struct decoded decode(const char *include, const char *schema)
{
    char command[1024];
    snprintf(command, sizeof command, "protoc --decode=perfetto.protos.Trace -I '%s' '%s' < '%s'", include, schema,
             path);
    struct decoded out = {.text = malloc(64 << 20)};
    FILE *pipe = popen(command, "r");
    out.n = pipe ? fread(out.text, 1, (64 << 20) - 1, pipe) : 0;
    out.text[out.n] = 0;
    out.status = pipe ? pclose(pipe) : -1;
    return out;
}

// Lines of the text that consist of `word`, or with word NULL begin with a field's number: a field without a name.
static int64_t count_lines(const struct decoded *decoded, const char *word)
{
    int64_t n = 0;
    for (const char *line = decoded->text; *line;) {
        const char *end = strchr(line, '\n');
        size_t length = end ? (size_t)(end - line) : strlen(line);
        while (length > 0 && *line == ' ') {
            line++;
            length--;
        }
        n += word ? strlen(word) == length && memcmp(line, word, length) == 0
                  : length > 0 && isdigit((unsigned char)*line);
        line += length + (end != NULL);
    }
    return n;
}

// Perfetto declares what it adds for GPUs as extensions, whose names are printed in full and in brackets. protobuf-c
// knows no extensions: ours are plain fields of the same numbers. Takes brackets and paths away.
static void plain_extensions(struct decoded *decoded)
{
    static const char *const prefixes[] = {"[perfetto.protos.GpuInternedData.", "[perfetto.protos.GpuTrackEvent."};
    char *to = decoded->text;
    bool inside = false;
    for (const char *from = decoded->text; *from; from++) {
        bool begins = from == decoded->text || from[-1] == ' ' || from[-1] == '\n';
        for (size_t i = 0; begins && i < 2; i++) {
            if (strncmp(from, prefixes[i], strlen(prefixes[i])) == 0) {
                from += strlen(prefixes[i]);
                inside = true;
            }
        }
        if (inside && *from == ']') {
            inside = false;
            continue;
        }
        *to++ = *from;
    }
    *to = 0;
    decoded->n = (size_t)(to - decoded->text);
}

static void compare_upstream(const struct decoded *own, const char *upstream)
{
    static const char root[] = "syntax = \"proto2\";\n"
                               "import public \"protos/perfetto/trace/trace.proto\";\n"
                               "import \"protos/perfetto/trace/gpu/gpu_interned_data.proto\";\n"
                               "import \"protos/perfetto/trace/gpu/gpu_track_event.proto\";\n";
    char schema[128], include[1024];
    snprintf(schema, sizeof schema, "%s/root.proto", folder);
    FILE *stream = fopen(schema, "w");
    CHECK(stream && fputs(root, stream) >= 0 && fclose(stream) == 0);
    snprintf(include, sizeof include, "%s' -I '%s", upstream, folder);
    struct decoded theirs = decode(include, schema);
    CHECK_MESSAGE(theirs.status == 0, "protoc --decode by %s: status %d", upstream, theirs.status);
    plain_extensions(&theirs);
    CHECK_MESSAGE(theirs.n == own->n && memcmp(theirs.text, own->text, own->n) == 0,
                  "Perfetto's schema reads it otherwise");
    if (theirs.n != own->n || memcmp(theirs.text, own->text, own->n) != 0) {
        size_t at = 0;
        while (at < theirs.n && at < own->n && theirs.text[at] == own->text[at]) {
            at++;
        }
        fprintf(stderr, "from there on: %.200s\n", theirs.text + (at > 100 ? at - 100 : 0));
    }
    free(theirs.text);
    unlink(schema);
}

static void test_stream(enum stream_kind kind)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = path, .command = "clsa profile --model \"demo-8m\""};
    CHECK(trace_writer_open(&writer, &options) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, kind, 3000, check_random());
    CHECK(trace_writer_close(writer) == 0);
    struct trace_stats stats;
    CHECK_MESSAGE(trace_read(path, NULL, &stats) == 0, "%s", status_text());

    struct decoded own = decode("traces", "traces/trace.proto");
    CHECK_MESSAGE(own.status == 0, "protoc --decode: status %d", own.status);
    CHECK(count_lines(&own, NULL) == 0);
    CHECK(count_lines(&own, "packet {") == stats.packets);
    CHECK(count_lines(&own, "type: TYPE_COUNTER") + count_lines(&own, "gpu_counter_event {") ==
          stats.counter_samples + stats.gauge_samples);
    CHECK(count_lines(&own, "gpu_render_stage_event {") == stats.kernel_samples);
    CHECK(count_lines(&own, "gpu_correlation {") == stats.launch_samples);
    CHECK(count_lines(&own, "track_uuid: 0") == 0);
    int64_t losses = count_lines(&own, "trusted_packet_sequence_id: 2");
    CHECK(losses == stats.loss_samples &&
          count_lines(&own, "trusted_packet_sequence_id: 1") == stats.packets - 1 - losses);
    if (kind == STREAM_WILD) {
        CHECK(stats.kernel_samples > 0 && stats.launch_samples > 0 && stats.gauge_samples > 0 && losses > 0);
    }
    CHECK(strstr(own.text, "cmdline: \"clsa profile --model \\\"demo-8m\\\"\"") != NULL);

    const char *upstream = getenv("CLSA_PERFETTO_PROTOS");
    if (upstream) {
        compare_upstream(&own, upstream);
    }
    free(own.text);
}

static bool ceilings_of(void *user, const struct sample_source *source, struct trace_ceilings *out)
{
    (void)user, (void)source;
    *out = (struct trace_ceilings){.bytes_per_s = 1e9, .flops_per_s[DTYPE_BF16] = 2e12};
    return true;
}

static void send_request(const struct sample_sink *sink, enum request_state state, int64_t step, int64_t time_ns)
{
    struct request_sample sample = {1, 77, state, 16, 2, step, time_ns};
    sink->request(sink->user, &sample);
}

static void send_step(const struct sample_sink *sink, int64_t step, enum phase phase)
{
    int64_t begin_ns = 10000000 * (step + 1);
    struct stage_sample stage = {1,        step,    phase, STAGE_FFN, 0, 1, 1, 8, 3000000, step == 2 ? 8000000000 : 0,
                                 begin_ns, 4000000, 0};
    struct step_sample whole = {1, step, phase, 1, 1, 8, begin_ns, 5000000, 0};
    sink->stage(sink->user, &stage);
    sink->step(sink->user, &whole);
}

// What follows from rates and from a request's life, by hand: 3 MB at 1 GB/s are 3 ms of 4, 8 Gflop at 2 Tflop/s all 4.
// The request's arrow leads from its queue through its prefill, the step of that, its decode and two steps, past a step
// that only prefills.
static void test_derived(void)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = path, .ceilings = ceilings_of};
    CHECK(trace_writer_open(&writer, &options) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {
        .id = 1,
        .n_layers = 4,
        .method = "clsa",
        .weight_dtype = DTYPE_BF16,
        .kv_dtype = DTYPE_F32,
        .index_dtype = DTYPE_F32,
    };
    sink.source(sink.user, &source);
    send_request(&sink, REQUEST_SUBMITTED, -1, 9000000);
    send_request(&sink, REQUEST_RUNNING, 0, 10000000);
    send_step(&sink, 0, PHASE_PREFILL);
    send_request(&sink, REQUEST_FIRST_TOKEN, 0, 15000000);
    send_step(&sink, 1, PHASE_DECODE);
    send_step(&sink, 2, PHASE_MIXED);
    send_step(&sink, 3, PHASE_PREFILL);
    send_request(&sink, REQUEST_FINISHED, 3, 46000000);
    CHECK(trace_writer_close(writer) == 0);
    struct decoded decoded = decode("traces", "traces/trace.proto");
    CHECK(count_lines(&decoded, "int_value: 3000000") == 4 + 3 &&
          count_lines(&decoded, "int_value: 75") == 3);    // bytes too
    CHECK(count_lines(&decoded, "int_value: 4000000") == 1 && count_lines(&decoded, "int_value: 100") == 1);
    CHECK(count_lines(&decoded, "string_value_iid: 1") == 3 && count_lines(&decoded, "string_value_iid: 2") == 1);
    int64_t flows = 0;
    for (const char *at = decoded.text; (at = strstr(at, "flow_ids: ")); at++) {
        flows++;
    }
    CHECK_MESSAGE(flows == 6, "%lld flows", (long long)flows);
    free(decoded.text);
}

int main(void)
{
    check_begin();
    if (system("protoc --version >/dev/null 2>&1") != 0) {
        return check_skip("protoc is not installed (protobuf-compiler)");
    }
    snprintf(folder, sizeof folder, "/tmp/test_trace_schema_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    snprintf(path, sizeof path, "%s/t.pftrace", folder);
    test_stream(STREAM_SANE);
    test_stream(STREAM_WILD);
    test_derived();
    printf("%s\n", getenv("CLSA_PERFETTO_PROTOS")
                       ? "decoded by Perfetto's schema and by ours, alike"
                       : "decoded by our schema; CLSA_PERFETTO_PROTOS is not set: not by Perfetto's");
    unlink(path);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
