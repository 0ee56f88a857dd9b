// tests/test_trace.c - what goes into a trace comes out of it; what is no trace is said to be none.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/trace_stream.h"
#include "traces/trace.h"

static char folder[64], path[128], other[128], packed_path[128];

static int failures;

static void on_failure(void *user, const char *why)
{
    CHECK(strlen(why) > 0);
    ++*(int *)user;
}

static bool ceilings_of(void *user, const struct sample_source *source, struct trace_ceilings *out)
{
    (void)user;
    *out = (struct trace_ceilings){.bytes_per_s = 3e12};
    for (int32_t i = 0; i < DTYPE_COUNT; i++) {
        out->flops_per_s[i] = 1e12 * (i + 1);
    }
    return source->id != 4;    // of one of them nothing is known
}

static struct trace_writer *open_writer(const char *where, bool in_place)
{
    struct trace_writer_options options = {
        .path = where,
        .in_place = in_place,
        .command = "clsa profile --seed 7",
        .ceilings = ceilings_of,
        .failed = on_failure,
        .user = &failures,
    };
    struct trace_writer *writer;
    int error = trace_writer_open(&writer, &options);
    CHECK_MESSAGE(error == 0, "open %s: %s", where, status_text());
    return writer;
}

static char *slurp(const char *where, size_t *n)
{
    FILE *stream = fopen(where, "rb");
    *n = 0;
    CHECK_MESSAGE(stream != NULL, "%s: cannot read", where);
    if (!stream) {
        return calloc(1, 1);
    }
    fseek(stream, 0, SEEK_END);
    long size = ftell(stream);
    rewind(stream);
    char *bytes = malloc((size_t)size + 1);
    *n = fread(bytes, 1, (size_t)size, stream);
    fclose(stream);
    return bytes;
}

static void spill(const char *where, const char *bytes, size_t n)
{
    FILE *stream = fopen(where, "wb");
    CHECK(stream && fwrite(bytes, 1, n, stream) == n && fclose(stream) == 0);
}

// The offset behind the first two packets, which hold the clocks at opening time.
static size_t behind_preamble(const char *bytes)
{
    size_t at = 0;
    for (int packet = 0; packet < 2; packet++) {
        size_t size = 0;
        at++;
        for (int shift = 0;; shift += 7) {
            unsigned char byte = (unsigned char)bytes[at++];
            size |= (size_t)(byte & 0x7f) << shift;
            if (byte < 0x80) {
                break;
            }
        }
        at += size;
    }
    return at;
}

static void test_round_trip(enum stream_kind kind, int64_t n, bool in_place)
{
    uint64_t seed = check_random();
    struct stream_log sent = {0}, got = {0};
    struct sample_sink log = stream_log_sink(&sent);
    stream_random(&log, kind, n, seed);
    struct trace_writer *writer = open_writer(path, in_place);
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, kind, n, seed);    // the same stream again
    CHECK(trace_writer_flush(writer) == 0);
    int64_t bytes = trace_writer_bytes(writer);
    CHECK_MESSAGE(trace_writer_close(writer) == 0, "close: %s", status_text());

    struct trace_stats stats;
    log = stream_log_sink(&got);
    int error = trace_read(path, &log, &stats);
    CHECK_MESSAGE(error == 0, "read: %s", status_text());
    CHECK_MESSAGE(sent.n == got.n && memcmp(sent.text, got.text, sent.n) == 0,
                  "the stream of %lld samples came back changed", (long long)sent.samples);
    CHECK(stats.unknown_packets == 0 && !stats.truncated && stats.bytes >= bytes);    // close ends what is open
    CHECK(strcmp(stats.command, "clsa profile --seed 7") == 0);

    // Written again from what was read: the same bytes.
    writer = open_writer(other, false);
    sink = trace_writer_sink(writer);
    CHECK(trace_read(path, &sink, NULL) == 0 && trace_writer_close(writer) == 0);
    size_t n_first, n_second;
    char *first = slurp(path, &n_first), *second = slurp(other, &n_second);
    CHECK(n_first == (size_t)stats.bytes && n_first == n_second);
    size_t at = behind_preamble(first);
    CHECK(n_first == n_second && memcmp(first + at, second + at, n_first - at) == 0);
    free(first);
    free(second);
    free(sent.text);
    free(got.text);
}

// Any cut: all whole packets, then one clear error. A cut between packets cannot be seen and is none.
static void test_truncated(void)
{
    struct trace_writer *writer = open_writer(path, false);
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, STREAM_SANE, 100, check_random());
    CHECK(trace_writer_close(writer) == 0);
    size_t n;
    char *bytes = slurp(path, &n);
    int64_t packets = 0, samples = 0;
    int32_t whole = 0;
    for (size_t cut = 1; cut < n; cut++) {
        struct trace_stats stats;
        spill(other, bytes, cut);
        int error = trace_read(other, NULL, &stats);
        int64_t now = stats.stage_samples + stats.step_samples + stats.request_samples + stats.counter_samples;
        CHECK(error == 0 ? !stats.truncated : (error == -EINVAL && stats.truncated && strstr(status_text(), "byte ")));
        CHECK(stats.packets >= packets && stats.packets <= packets + 1 && now >= samples);
        packets = stats.packets;
        samples = now;
        whole += error == 0;
    }
    CHECK_MESSAGE(whole == packets && samples > 0, "%d whole of %lld packets", whole, (long long)packets);
    free(bytes);
}

// Damage anywhere: an error with the place or a trace that says something else, never more.
static void test_damaged(int32_t rounds)
{
    struct trace_writer *writer = open_writer(path, false);
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, STREAM_WILD, 300, check_random());
    CHECK(trace_writer_close(writer) == 0);
    size_t n;
    char *bytes = slurp(path, &n), *damaged = malloc(n);
    int32_t found = 0;
    for (int32_t i = 0; i < rounds; i++) {
        memcpy(damaged, bytes, n);
        for (int32_t hits = check_range(1, 4); hits > 0; hits--) {
            damaged[check_random() % n] = (char)check_random();
        }
        spill(other, damaged, n);
        struct stream_log log = {0};
        struct sample_sink logged = stream_log_sink(&log);
        int error = trace_read(other, &logged, NULL);
        CHECK_MESSAGE(error == 0 || (error == -EINVAL && strstr(status_text(), other)), "error %d: %s", error,
                      status_text());
        found += error != 0;
        free(log.text);
    }
    CHECK(found > 0);
    free(bytes);
    free(damaged);
}

static void expect_bad(const char *where, const char *word)
{
    struct trace_stats stats;
    int error = trace_read(where, NULL, &stats);
    CHECK_MESSAGE(error == -EINVAL && strstr(status_text(), where) && strstr(status_text(), word),
                  "%s: got %d '%s', expected '%s'", where, error, status_text(), word);
}

static void test_bad_input(void)
{
    expect_bad(folder, "folder");
    unlink(other);
    expect_bad(other, "No such file");
    spill(other, "", 0);
    expect_bad(other, "empty");
    spill(other, "[{\"ph\": \"X\"}]", 13);
    expect_bad(other, "not a Perfetto trace");
    spill(other, "\x1f\x8b\x08\x00", 4);
    expect_bad(other, "empty");
    spill(other, "\x1f\x8b\x07\x00", 4);
    expect_bad(other, "gzip's format is damaged");
    spill(other, "\x28\xb5\x2f\xfd", 4);
    expect_bad(other, "unzstd");
    spill(other, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10);
    expect_bad(other, "middle of a packet");
    spill(other, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 12);
    expect_bad(other, "not a Perfetto trace");
    spill(other, "\x0a\x02\x5a\x05", 4);    // an event longer than its packet
    expect_bad(other, "damaged");
    expect_bad("/dev/null", "no regular file");
}

// Fields and packets of other producers are passed over and counted.
static void test_foreign(void)
{
    // A packet with field 2000 only; a packet of field 37 (a profile); field 3 of the Trace message; an event on no
    // track.
    static const char foreign[] = "\x0a\x04\x82\x7d\x01\x00"
                                  "\x0a\x03\xaa\x02\x00"
                                  "\x1a\x02hi"
                                  "\x0a\x06\x50\x01\x5a\x02\x48\x01";
    struct trace_writer *writer = open_writer(path, false);
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, STREAM_SANE, 50, check_random());
    CHECK(trace_writer_close(writer) == 0);
    size_t n;
    char *bytes = slurp(path, &n), *both = malloc(n + sizeof foreign);
    memcpy(both, bytes, n);
    memcpy(both + n, foreign, sizeof foreign - 1);
    spill(other, both, n + sizeof foreign - 1);
    struct trace_stats plain, mixed;
    CHECK(trace_read(path, NULL, &plain) == 0);
    int error = trace_read(other, NULL, &mixed);
    CHECK_MESSAGE(error == 0, "foreign packets: %s", status_text());
    CHECK(mixed.unknown_packets == 4 && mixed.packets == plain.packets + 4 &&
          mixed.stage_samples == plain.stage_samples);
    free(bytes);
    free(both);
}

// The same stream, packed and not, reads the same and is held to the same rules; cut anywhere, packed bytes yield what
// was flushed before; damage is found.
static void test_gzip(void)
{
    uint64_t seed = check_random();
    struct trace_writer *plain = open_writer(path, false), *packed = open_writer(packed_path, false);
    struct sample_sink sinks[] = {trace_writer_sink(plain), trace_writer_sink(packed)};
    stream_random(&sinks[0], STREAM_SANE, 3000, seed);
    stream_random(&sinks[1], STREAM_SANE, 3000, seed);
    CHECK(trace_writer_close(plain) == 0 && trace_writer_close(packed) == 0);
    struct trace_stats stats, packed_stats;
    struct stream_log log = {0}, packed_log = {0};
    struct sample_sink logged = stream_log_sink(&log), packed_logged = stream_log_sink(&packed_log);
    CHECK(trace_read(path, &logged, &stats) == 0);
    CHECK_MESSAGE(trace_read(packed_path, &packed_logged, &packed_stats) == 0, "%s", status_text());
    CHECK(log.n == packed_log.n && memcmp(log.text, packed_log.text, log.n) == 0);
    CHECK(stats.packets == packed_stats.packets && stats.bytes == packed_stats.bytes && !packed_stats.truncated);
    CHECK(trace_check(packed_path, NULL, NULL) == 0);
    size_t n_plain, n;
    char *bytes = slurp(path, &n_plain);
    free(bytes);
    bytes = slurp(packed_path, &n);
    CHECK_MESSAGE(n > 0 && n < n_plain / 2, "%zu bytes packed from %zu", n, n_plain);
    for (int32_t i = 0; i < 100; i++) {
        spill(other, bytes, (size_t)check_range(0, (int32_t)n - 1));
        int error = trace_read(other, NULL, &packed_stats);
        CHECK(error == 0 || error == -EINVAL);
        CHECK(packed_stats.step_samples <= stats.step_samples);
    }
    int32_t found = 0;
    for (int32_t i = 0; i < 100; i++) {
        size_t at = check_random() % n;
        char was = bytes[at];
        bytes[at] = (char)(was ^ (1 << check_range(0, 7)));
        spill(other, bytes, n);
        found += trace_read(other, NULL, NULL) != 0;
        bytes[at] = was;
    }
    CHECK_MESSAGE(found > 50, "damage found in %d of 100", found);
    free(bytes);
    free(log.text);
    free(packed_log.text);
}

static void send_much(struct trace_writer *writer)
{
    struct sample_sink sink = trace_writer_sink(writer);
    stream_random(&sink, STREAM_SANE, 40000, check_random());
}

// A file that may not grow fails like a full disk.
static void test_full_disk(void)
{
    struct rlimit before, small = {.rlim_cur = 100000};
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    unlink(path);
    struct trace_writer *writer = open_writer(path, false);
    struct trace_writer *live = open_writer(other, true);
    struct sample_sink sink = trace_writer_sink(live);
    stream_random(&sink, STREAM_SANE, 200, check_random());
    CHECK(trace_writer_flush(live) == 0);
    int64_t flushed = trace_writer_bytes(live);
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK(failures == 0);
    send_much(writer);
    CHECK(failures == 1);    // told at once, and once
    int error = trace_writer_close(writer);
    CHECK_MESSAGE(error == -EFBIG && strstr(status_text(), path), "close on a full disk: %d %s", error, status_text());
    send_much(live);
    CHECK(trace_writer_close(live) == -EFBIG);
    setrlimit(RLIMIT_FSIZE, &before);
    struct stat info;
    CHECK_MESSAGE(stat(path, &info) != 0 && errno == ENOENT, "%s was left behind", path);
    char part[192];
    snprintf(part, sizeof part, "%s.part-%ld", path, (long)getpid());
    CHECK_MESSAGE(stat(part, &info) != 0, "%s was left behind", part);
    struct trace_stats stats;
    error = trace_read(other, NULL, &stats);
    CHECK_MESSAGE(error == 0 && stats.bytes >= flushed, "the live trace after a full disk: %s", status_text());
    CHECK(trace_writer_open(&live, &(struct trace_writer_options){.path = "/dev/full", .in_place = true}) == -ENOSPC);
}

static void test_writer_failures(void)
{
    struct trace_writer *writer;
    char nowhere[160];
    snprintf(nowhere, sizeof nowhere, "%s/missing/t.pftrace", folder);
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = nowhere}) == -ENOENT && !writer);
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = nowhere, .in_place = true}) == -ENOENT);
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = folder}) == -EISDIR);
    CHECK(trace_writer_close(NULL) == 0);
    // A sample of a source that was never announced is remembered until close, and nothing appears.
    unlink(path);
    writer = open_writer(path, false);
    struct sample_sink sink = trace_writer_sink(writer);
    struct counter_sample counter = {.source = 3, .time_ns = 5};
    sink.counter(sink.user, &counter);
    CHECK(trace_writer_close(writer) == -EINVAL && strstr(status_text(), "source 3") && access(path, F_OK) != 0);
    // No sample at all is a trace all the same, and so are sources without samples.
    struct trace_stats stats;
    struct stream_log log = {0};
    struct sample_sink logged = stream_log_sink(&log);
    struct sample_source source = {.id = 12, .method = "clsa"};
    writer = open_writer(path, false);
    sink = trace_writer_sink(writer);
    sink.source(sink.user, &source);
    CHECK(trace_writer_close(writer) == 0 && trace_read(path, &logged, &stats) == 0 && log.samples == 1);
    free(log.text);
}

// A live trace can be read while it is written, up to its last flush.
static void test_live(const char *where)
{
    struct trace_writer *writer = open_writer(where, true);
    struct sample_sink sink = trace_writer_sink(writer);
    int64_t seen = 0;
    for (int i = 0; i < 5; i++) {
        struct trace_stats stats;
        stream_random(&sink, STREAM_SANE, 60, check_random());
        CHECK(trace_writer_flush(writer) == 0);
        int error = trace_read(where, NULL, &stats);
        CHECK_MESSAGE(error == 0 && stats.step_samples > seen && stats.bytes == trace_writer_bytes(writer), "live: %s",
                      status_text());
        seen = stats.step_samples;
    }
    CHECK(trace_writer_close(writer) == 0);
}

// A process that is killed while it streams leaves a trace that reads and keeps the rules, but for what was still open.
static void test_killed(const char *where)
{
    int told[2];
    CHECK(pipe(told) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct trace_writer_options options = {.path = where, .in_place = true};
        struct trace_writer *writer;
        if (trace_writer_open(&writer, &options) != 0) {
            _exit(1);
        }
        struct sample_sink sink = trace_writer_sink(writer);
        for (;;) {
            stream_random(&sink, STREAM_SANE, 300, check_random());
            if (trace_writer_flush(writer) != 0 || write(told[1], "", 1) != 1) {
                _exit(1);
            }
        }
    }
    char byte;
    for (int32_t flushes = check_range(1, 5); flushes > 0; flushes--) {
        CHECK(read(told[0], &byte, 1) == 1);
    }
    CHECK(child > 0 && kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    close(told[0]);
    close(told[1]);
    struct trace_stats stats;
    int error = trace_read(where, NULL, &stats);
    CHECK_MESSAGE((error == 0 || (error == -EINVAL && stats.truncated)) && stats.step_samples > 10 &&
                      stats.kernel_samples > 0,
                  "killed: %d %s, %lld steps", error, status_text(), (long long)stats.step_samples);
}

// Each source counts from its own beginning: a trace has lost what all of them have.
static void test_losses(void)
{
    struct trace_writer *writer = open_writer(path, false);
    struct sample_sink sink = trace_writer_sink(writer);
    struct trace_stats stats;
    static const struct { int32_t source; int64_t dropped, invalid; } losses[] = {
        {4, 3, 0}, {9, 5, 1}, {4, 7, 2}, {9, 5, 4}, {-2, INT64_MAX, 0}};
    for (int i = 0; i < 5; i++) {
        if (i < 2 || i == 4) {
            sink.source(sink.user, &(struct sample_source){.id = losses[i].source, .method = "clsa"});
        }
        sink.loss(sink.user, &(struct loss_sample){.source = losses[i].source, .dropped = losses[i].dropped,
                                                   .invalid = losses[i].invalid, .time_ns = 1000 * (i + 1)});
    }
    CHECK(trace_writer_close(writer) == 0 && trace_read(path, NULL, &stats) == 0);
    CHECK_MESSAGE(stats.loss_samples == 5 && stats.dropped == INT64_MAX && stats.invalid == 6, "%lld and %lld lost",
                  (long long)stats.dropped, (long long)stats.invalid);
}

int main(void)
{
    check_begin();
    snprintf(folder, sizeof folder, "/tmp/test_trace_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    snprintf(path, sizeof path, "%s/t.pftrace", folder);
    snprintf(other, sizeof other, "%s/u.pftrace", folder);
    snprintf(packed_path, sizeof packed_path, "%s/t.pftrace.gz", folder);
    for (int32_t i = 0; i < 30; i++) {
        test_round_trip(STREAM_WILD, check_range(1, 400), i % 2);
        test_round_trip(STREAM_SANE, check_range(1, 400), i % 2);
    }
    test_round_trip(STREAM_WILD, 20000, false);
    test_truncated();
    test_damaged(300);
    test_bad_input();
    test_foreign();
    test_gzip();
    test_losses();
    test_full_disk();
    test_writer_failures();
    test_live(other);
    test_live(packed_path);
    test_killed(other);
    test_killed(packed_path);
    unlink(path);
    unlink(other);
    unlink(packed_path);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
