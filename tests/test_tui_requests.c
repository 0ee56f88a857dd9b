// tests/test_tui_requests.c - the log of requests against what was sent: times, percentiles, filter and order.
#include "tests/check.h"
#include "tui/request_list.h"

enum { N = 6000 };    // more than the log keeps

static struct {
    int64_t times_ns[4];     // by enum request_state; -1: did not happen
    int32_t source, prompt, output;
} sent[N];

static const char *const names[] = {"clsa", "dense"};

static void send(const struct sample_sink *sink, int32_t request, enum request_state state)
{
    struct request_sample sample = {.source = sent[request].source, .request = request, .state = state,
                                    .prompt_tokens = sent[request].prompt, .output_tokens = sent[request].output,
                                    .time_ns = sent[request].times_ns[state]};
    sink->request(sink->user, &sample);
}

static struct request_log *filled(void)
{
    struct request_log *log;
    CHECK(request_log_open(&log) == 0);
    struct sample_sink sink = request_log_sink(log);
    for (int32_t i = 0; i < 2; i++) {
        struct sample_source source = {.id = 3 + i};
        strcpy(source.method, names[i]);
        sink.source(sink.user, &source);
    }
    for (int32_t i = 0; i < N; i++) {
        int64_t now_ns = 1000000 + 100 * i;
        int32_t reached = check_range(0, 3);
        sent[i].source = 3 + check_range(0, 1);
        sent[i].prompt = check_range(1, 5000);
        sent[i].output = check_range(1, 50);
        for (int state = 0; state < 4; state++) {
            sent[i].times_ns[state] = state <= reached ? now_ns : -1;
            now_ns += check_range(1, 1000000);
        }
        send(&sink, i, REQUEST_SUBMITTED);
        int32_t late = i - check_range(0, 20);    // earlier ones go on while others come
        for (int32_t j = late < 0 ? 0 : late; j <= i; j++) {
            for (int state = 1; state < 4; state++) {
                if (sent[j].times_ns[state] >= 0) {
                    send(&sink, j, (enum request_state)state);
                }
            }
        }
    }
    for (int32_t j = N - 40; j < N; j++) {
        for (int state = 1; state < 4; state++) {
            if (sent[j].times_ns[state] >= 0) {
                send(&sink, j, (enum request_state)state);
            }
        }
    }
    struct request_sample unknown = {.source = 99, .request = 1}, damaged = {.source = 3, .request = 1, .time_ns = -5};
    sink.request(sink.user, &unknown);
    sink.request(sink.user, &damaged);
    CHECK(request_log_end(log) == N && request_log_first(log) == N - REQUEST_LOG_ROWS);
    return log;
}

static bool near(double got, double expected)
{
    return (isnan(got) && isnan(expected)) || fabs(got - expected) <= 1e-12 + 1e-9 * fabs(expected);
}

static double between_s(const int64_t *times_ns, int from, int to)
{
    return times_ns[from] >= 0 && times_ns[to] >= 0 ? (double)(times_ns[to] - times_ns[from]) * 1e-9 : NAN;
}

static void test_rows(const struct request_log *log)
{
    for (int64_t i = request_log_first(log); i < request_log_end(log); i++) {
        const struct request_row *row = request_log_row(log, i);
        const int64_t *times_ns = sent[i].times_ns;
        double total_s = between_s(times_ns, 0, 3), answer_s = between_s(times_ns, 2, 3);
        CHECK(row->request == i && row->source == sent[i].source - 3 && row->prompt_tokens == sent[i].prompt);
        CHECK(near(request_queue_s(row), between_s(times_ns, 0, 1)));
        CHECK(near(request_ttft_s(row), between_s(times_ns, 0, 2)) && near(request_total_s(row), total_s));
        CHECK(near(request_tpot_s(row), sent[i].output > 1 ? answer_s / (sent[i].output - 1) : NAN));
        CHECK((row->phase == REQUEST_PHASE_DONE) == (times_ns[3] >= 0));
        CHECK((row->phase == REQUEST_PHASE_QUEUED) == (times_ns[1] < 0));
    }
}

// Nearest rank, counted: as many as `part` of the values reach or stay below it, and none smaller does.
static void test_percentiles(const struct request_log *log, int32_t source)
{
    static const double parts[] = {0.5, 0.95, 0.99};
    static double ttft[N];
    struct request_percentiles got;
    int32_t n = 0;
    for (int32_t i = N - 1; i >= N - REQUEST_LOG_ROWS && n < REQUEST_WINDOW; i--) {
        if (sent[i].times_ns[3] >= 0 && (source < 0 || sent[i].source - 3 == source)) {
            ttft[n++] = between_s(sent[i].times_ns, 0, 2);
        }
    }
    request_log_percentiles(log, source, &got);
    CHECK(got.n == n && n == REQUEST_WINDOW);
    for (int p = 0; p < 3; p++) {
        int32_t below = 0, reach = 0;
        for (int32_t i = 0; i < n; i++) {
            below += ttft[i] < got.ttft_s[p];
            reach += ttft[i] <= got.ttft_s[p];
        }
        CHECK_MESSAGE(below < parts[p] * n && reach >= parts[p] * n, "P%.0f: %d below, %d reach it, of %d",
                      100 * parts[p], below, reach, n);
    }
}

static void test_list(const struct request_log *log)
{
    static int64_t rows[REQUEST_LOG_ROWS];
    CHECK(request_list(log, "", 0, false, rows) == REQUEST_LOG_ROWS && rows[0] == N - 1 && rows[1] == N - 2);
    CHECK(request_list(log, "", 0, true, rows) == REQUEST_LOG_ROWS && rows[0] == N - REQUEST_LOG_ROWS);
    CHECK(request_list(log, "5995", 0, false, rows) == 1 && rows[0] == 5995 && request_list_find(rows, 1, 7) == 0);
    int32_t dense = 0, n = request_list(log, "dense", REQUEST_COLUMN_TTFT, check_range(0, 1) == 1, rows);
    for (int32_t i = N - REQUEST_LOG_ROWS; i < N; i++) {
        dense += sent[i].source == 4;
    }
    CHECK(n == dense);
    n = request_list(log, "dense", REQUEST_COLUMN_TTFT, false, rows);
    for (int32_t i = 1; i < n; i++) {
        double before = request_ttft_s(request_log_row(log, rows[i - 1]));
        double after = request_ttft_s(request_log_row(log, rows[i]));
        CHECK_MESSAGE(isnan(after) || before >= after, "TTFT %g before %g", before, after);
        CHECK(sent[rows[i]].source == 4 && request_list_find(rows, n, rows[i]) == i);
    }
    n = request_list(log, "queued", REQUEST_COLUMN_STATE, false, rows);
    for (int32_t i = 0; i < n; i++) {
        CHECK(sent[rows[i]].times_ns[1] < 0);
    }
    CHECK(request_list(log, "nobody's", 0, false, rows) == 0);
}

int main(void)
{
    check_begin();
    struct request_log *log = filled();
    test_rows(log);
    for (int32_t source = -1; source < 2; source++) {
        test_percentiles(log, source);
    }
    test_list(log);
    request_log_close(log);
    return check_end();
}
