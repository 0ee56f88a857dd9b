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
    snprintf(command, sizeof command, "protoc --decode=perfetto.protos.Trace -I '%s' '%s' < '%s'", include, schema, path);
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
        n += word ? strlen(word) == length && memcmp(line, word, length) == 0 : length > 0 && isdigit((unsigned char)*line);
        line += length + (end != NULL);
    }
    return n;
}

// Perfetto declares what it adds for GPUs as extensions, whose names are printed in full and in brackets. protobuf-c knows
// no extensions: ours are plain fields of the same numbers. Takes brackets and paths away.
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
    CHECK_MESSAGE(theirs.n == own->n && memcmp(theirs.text, own->text, own->n) == 0, "Perfetto's schema reads it otherwise");
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
    CHECK(losses == stats.loss_samples && count_lines(&own, "trusted_packet_sequence_id: 1") == stats.packets - 1 - losses);
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
    printf("%s\n", getenv("CLSA_PERFETTO_PROTOS") ? "decoded by Perfetto's schema and by ours, alike"
                                                   : "decoded by our schema; CLSA_PERFETTO_PROTOS is not set: not by Perfetto's");
    unlink(path);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
