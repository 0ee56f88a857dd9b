// tests/test_trace_ring.c - the last seconds of a stream, as a trace that keeps the rules.
#include <sys/stat.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/trace_stream.h"
#include "traces/trace_ring.h"

#define FOREVER_NS (INT64_MAX / 4)

static char folder[64], path[128];

static void on_finding(void *user, const char *finding)
{
    (void)user;
    fprintf(stderr, "%s\n", finding);
}

static struct trace_ring *open_ring(const struct trace_ring_options *options, struct sample_sink *sink)
{
    struct trace_ring *ring;
    CHECK(trace_ring_open(&ring, options) == 0);
    *sink = trace_ring_sink(ring);
    return ring;
}

// What a dump holds, as a log; it must keep the rules.
static struct stream_log dump(struct trace_ring *ring, struct trace_stats *stats)
{
    struct stream_log log = {0};
    struct sample_sink sink = stream_log_sink(&log);
    int error = trace_ring_dump(ring, &(struct trace_writer_options){.path = path, .command = "ring"});
    CHECK_MESSAGE(error == 0, "dump: %s", status_text());
    CHECK_MESSAGE(trace_read(path, &sink, stats) == 0, "read: %s", status_text());
    CHECK(trace_check(path, on_finding, NULL) == 0);
    return log;
}

// The lines of a kind, in their order.
static char *lines_of(const struct stream_log *log, const char *kind)
{
    char *out = calloc(1, log->n + 1), *to = out;
    for (const char *line = log->text; line && *line; line = strchr(line, '\n') + 1) {
        size_t length = (size_t)(strchr(line, '\n') - line) + 1;
        if (strncmp(line, kind, strlen(kind)) == 0) {
            memcpy(to, line, length);
            to += length;
        }
    }
    return out;
}

// As long as nothing was forgotten, a dump is everything.
static void test_all(void)
{
    static const char *const kinds[] = {"source ",  "stage ",  "step ",   "request ",
                                        "counter ", "kernel ", "launch ", "gauge "};
    struct stream_log sent = {0};
    struct trace_stats stats;
    struct sample_sink sink, log = stream_log_sink(&sent);
    struct trace_ring *ring = open_ring(&(struct trace_ring_options){.keep_ns = FOREVER_NS}, &sink);
    uint64_t seed = check_random();
    stream_random(&log, STREAM_SANE, 2000, seed);
    stream_random(&sink, STREAM_SANE, 2000, seed);
    struct stream_log got = dump(ring, &stats);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char *expected = lines_of(&sent, kinds[i]), *found = lines_of(&got, kinds[i]);
        CHECK_MESSAGE(strcmp(expected, found) == 0, "the %slines differ", kinds[i]);
        free(expected);
        free(found);
    }
    CHECK(trace_ring_close(ring) == 0);
    free(sent.text);
    free(got.text);
}

// Else its steps are the last ones sent, as many as fit the time, and what is kept is bounded.
static void test_last(int64_t keep_ns, int64_t max_bytes)
{
    struct stream_log sent = {0};
    struct trace_stats stats;
    struct sample_sink sink, log = stream_log_sink(&sent);
    struct trace_ring *ring =
        open_ring(&(struct trace_ring_options){.keep_ns = keep_ns, .max_bytes = max_bytes}, &sink);
    uint64_t seed = check_random();
    stream_random(&log, STREAM_SANE, 30000, seed);
    stream_random(&sink, STREAM_SANE, 30000, seed);
    struct loss_sample loss = {.source = -3, .dropped = 7, .invalid = 2, .time_ns = 5000000000};
    sink.loss(sink.user, &loss);
    sink.source(sink.user, &(struct sample_source){.id = 100, .n_layers = 1, .method = "clsa"});
    loss = (struct loss_sample){.source = 100, .dropped = 30, .invalid = 4, .time_ns = 5000000000};
    sink.loss(sink.user, &loss);
    loss.dropped += 10;    // so far
    sink.loss(sink.user, &loss);
    struct stream_log got = dump(ring, &stats);
    char *all = lines_of(&sent, "step "), *last = lines_of(&got, "step ");
    size_t n_all = strlen(all), n_last = strlen(last);
    CHECK_MESSAGE(n_last > 0 && n_last < n_all && strcmp(all + n_all - n_last, last) == 0, "%zu of %zu bytes of steps",
                  n_last, n_all);
    CHECK(stats.loss_samples == 2 && stats.dropped == 7 + 40 && stats.invalid == 2 + 4);
    // A dump leaves the ring as it was.
    struct stream_log again = dump(ring, &stats);
    CHECK(again.n == got.n && memcmp(again.text, got.text, got.n) == 0);
    CHECK(trace_ring_close(ring) == 0);
    free(all);
    free(last);
    free(sent.text);
    free(got.text);
    free(again.text);
}

// A request that began long ago is in the dump with its last change, then with what follows.
static void test_old_request(void)
{
    struct sample_sink sink;
    struct trace_stats stats;
    struct trace_ring *ring = open_ring(&(struct trace_ring_options){.keep_ns = 1000000}, &sink);
    struct sample_source source = {.id = 4, .n_layers = 2, .method = "clsa"};
    struct request_sample request = {4, 99, REQUEST_SUBMITTED, 8, 0, -1, 1000};
    sink.source(sink.user, &source);
    for (int32_t state = REQUEST_SUBMITTED; state <= (int32_t)REQUEST_FIRST_TOKEN; state++) {
        request.state = (enum request_state)state;
        request.time_ns += 10;
        sink.request(sink.user, &request);
    }
    request.request = 5;    // one that ends before the dump begins
    sink.request(sink.user, &request);
    request.state = REQUEST_FINISHED;
    sink.request(sink.user, &request);
    for (int64_t i = 0; i < 5000; i++) {
        struct step_sample step = {4, i, PHASE_DECODE, 1, 1, 8, 2000 + 1000 * i, 900, 0};
        sink.step(sink.user, &step);
    }
    request = (struct request_sample){4, 99, REQUEST_FINISHED, 8, 3, 4999, 6000000};
    sink.request(sink.user, &request);
    struct stream_log got = dump(ring, &stats);
    char *requests = lines_of(&got, "request ");
    CHECK_MESSAGE(strcmp(requests, "request 4 99 2 8 0 -1 1030\nrequest 4 99 3 8 3 4999 6000000\n") == 0, "%s",
                  requests);
    CHECK(stats.step_samples > 900 && stats.step_samples < 5000);
    CHECK(trace_ring_close(ring) == 0);
    free(requests);
    free(got.text);
}

struct slow {
    int32_t n;
    int64_t steps[8];
    struct trace_stats stats;
};

static void on_slow(void *user, struct trace_ring *ring, const struct step_sample *step)
{
    struct slow *slow = user;
    slow->steps[slow->n++ % 8] = step->step;
    struct stream_log log = dump(ring, &slow->stats);
    free(log.text);
}

// Slow steps are told a quarter of the time kept later, not too often, and the last by close.
static void test_slow(void)
{
    struct slow slow = {0};
    struct sample_sink sink;
    struct trace_ring *ring = open_ring(&(struct trace_ring_options){
        .keep_ns = 100000, .slow_step_ns = 1500, .slow = on_slow, .user = &slow}, &sink);
    struct sample_source source = {.id = 4, .n_layers = 2, .method = "clsa"};
    sink.source(sink.user, &source);
    for (int64_t i = 0; i < 1000; i++) {
        bool is_slow = i == 300 || i == 320 || i == 700 || i == 999;    // 320 is in the dump of 300 already
        struct step_sample step = {4, i, PHASE_DECODE, 1, 1, 8, 2000 * i, is_slow ? 1600 : 1500, 0};
        sink.step(sink.user, &step);
        if (i == 310) {
            CHECK(slow.n == 0);    // its kernels may still come
        }
        if (i == 320) {
            CHECK(slow.n == 1 && slow.stats.end_ns > 2000 * 310);
        }
    }
    CHECK(slow.n == 2);
    CHECK(trace_ring_close(ring) == 0);
    CHECK(slow.n == 3 && slow.steps[0] == 300 && slow.steps[1] == 700 && slow.steps[2] == 999);
}

static void test_failures(void)
{
    struct sample_sink sink;
    char nowhere[160];
    struct trace_ring *ring = open_ring(&(struct trace_ring_options){.keep_ns = 1000}, &sink);
    snprintf(nowhere, sizeof nowhere, "%s/missing/t.pftrace", folder);
    CHECK(trace_ring_dump(ring, &(struct trace_writer_options){.path = nowhere}) < 0);
    // Nothing to dump is a trace all the same.
    struct trace_stats stats;
    struct stream_log log = dump(ring, &stats);
    CHECK(log.samples == 0);
    free(log.text);
    CHECK(trace_ring_close(ring) == 0 && trace_ring_close(NULL) == 0);
}

int main(void)
{
    check_begin();
    snprintf(folder, sizeof folder, "/tmp/test_trace_ring_XXXXXX");
    if (!mkdtemp(folder)) {
        return check_skip("no folder under /tmp can be made");
    }
    snprintf(path, sizeof path, "%s/t.pftrace", folder);
    for (int32_t i = 0; i < 5; i++) {
        test_all();
        test_last(500000, 0);
        test_last(FOREVER_NS, 1 << 20);
    }
    test_old_request();
    test_slow();
    test_failures();
    unlink(path);
    CHECK(rmdir(folder) == 0);
    return check_end();
}
