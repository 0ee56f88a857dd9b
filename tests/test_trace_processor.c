// tests/test_trace_processor.c - Perfetto's own trace processor loads our traces, and finds nothing wrong with them.
//
// Run by hand: CLSA_TRACE_PROCESSOR names a trace_processor_shell (https://get.perfetto.dev/trace_processor), or
// anything that answers `-Q SQL FILE` as it does. CLSA_TRACES may name files of one's own, separated by spaces.
// Perfetto counts what is wrong with a trace in its table `stats`; all that stands there as an error or as lost data
// must be 0. One may not be: an older Perfetto counts the fields for GPUs that it does not know yet, which is told.
#include "engine/status.h"
#include "tests/cli.h"
#include "tests/trace_stream.h"
#include "traces/trace.h"
#include "traces/trace_ring.h"

#define NEW_FIELDS "unknown_extension_fields"

// A row per wrong counter, and one to show that there was a trace.
static const char query[] =
    "select 'slices' as what, count(*) as n from slice union all "
    "select name, sum(value) from stats where value != 0 and severity in ('error', 'data_loss') group by name";

static void look_at(const char *name)
{
    char line[2048];
    long slices = 0;
    snprintf(line, sizeof line, "cd %s && timeout 250 %s -Q \"%s\" '%s' 2>stderr", folder,
             getenv("CLSA_TRACE_PROCESSOR"), query, name);
    FILE *pipe = popen(line, "r");
    while (pipe && fgets(line, sizeof line, pipe)) {
        char what[256] = "";
        long n = 0;
        for (char *c = line; *c; c++) {    // "what","n" or what<tab>n
            *c = strchr("\",\t\n", *c) ? ' ' : *c;
        }
        if (sscanf(line, " %255s %ld", what, &n) < 2) {
            continue;                      // the head
        }
        slices = strcmp(what, "slices") == 0 ? n : slices;
        if (strcmp(what, NEW_FIELDS) == 0) {
            printf("%s: %ld fields are newer than this Perfetto\n", name, n);
        } else {
            CHECK_MESSAGE(strcmp(what, "slices") == 0, "%s: %s is %ld", name, what, n);
        }
    }
    int status = pipe ? pclose(pipe) : -1;
    CHECK_MESSAGE(status == 0 && slices > 0, "%s: status %d, %ld slices", name, status, slices);
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_stream(const char *name, enum stream_kind kind)
{
    struct trace_writer *writer;
    struct trace_writer_options options = {.path = path_of(name), .command = "clsa profile"};
    CHECK_MESSAGE(trace_writer_open(&writer, &options) == 0, "%s", status_text());
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, kind, 5000, check_random());
    CHECK(trace_writer_close(writer) == 0);
}

static void write_ring(const char *name)
{
    struct trace_ring *ring;
    struct trace_writer_options options = {.path = path_of(name), .command = "clsa top"};
    CHECK(trace_ring_open(&ring, &(struct trace_ring_options){.keep_ns = INT64_MAX / 4, .max_bytes = 200000}) == 0);
    struct sample_sink sink = trace_ring_sink(ring);
    stream_random(&sink, STREAM_SANE, 5000, check_random());
    CHECK_MESSAGE(trace_ring_dump(ring, &options) == 0, "%s", status_text());
    CHECK(trace_ring_close(ring) == 0);
}

// The first two thirds of a file, as a kill leaves it.
static void cut(const char *name, const char *from)
{
    char line[256];
    snprintf(line, sizeof line, "cd %s && head -c $(($(stat -c %%s %s) * 2 / 3)) %s >%s", folder, from, from, name);
    CHECK(system(line) == 0);
}

int main(void)
{
    char line[512], *rest = NULL, here[512] = "";
    check_begin();
    if (!getenv("CLSA_TRACE_PROCESSOR")) {
        return check_skip("CLSA_TRACE_PROCESSOR names no trace_processor_shell");
    }
    if (!cli_open() || !getcwd(here, sizeof here)) {
        return check_skip("CLSA_BINARY names no program");
    }
    write_stream("sane.pftrace", STREAM_SANE);
    write_stream("wild.pftrace", STREAM_WILD);
    write_ring("ring.pftrace");
    cut("killed.pftrace", "sane.pftrace");
    snprintf(line, sizeof line, "profile --model tiny --method clsa,dense --context 300 --output 20 --prompt "
                                "%s/workloads/texts/constitution.txt --out cpu.pftrace.gz", here);
    CHECK_MESSAGE(clsa(line) == 0, "%s", errors);
    snprintf(line, sizeof line, "trace import %s/tests/data/kineto/vllm.json --engine vllm --out import.pftrace", here);
    CHECK_MESSAGE(clsa(line) == 0, "%s", errors);
    CHECK_MESSAGE(clsa("sim --model paper-4b --method clsa,dense --device H100 --context 32K --trace sim.pftrace") == 0,
                  "%s", errors);
    static const char *const names[] = {"sane.pftrace",   "wild.pftrace",   "ring.pftrace", "killed.pftrace",
                                        "cpu.pftrace.gz", "import.pftrace", "sim.pftrace"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        look_at(names[i]);
    }
    char own[4096];
    snprintf(own, sizeof own, "%s", getenv("CLSA_TRACES") ? getenv("CLSA_TRACES") : "");
    for (const char *name = strtok_r(own, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
        look_at(name);
    }
    cli_close();
    return check_end();
}
