// tests/test_tui_state.c - the dashboard's figures against an independent computation over random streams.
#include "tests/check.h"
#include "tests/tui_stream.h"
#include "tui/forecast.h"
#include "tui/state.h"

enum { MAX_STEPS = 600, MAX_STAGES = 12, SPAN_NS = 2000 };

// What was sent of one step, and its gaps and overlap, counted nanosecond by nanosecond.
struct sent_step {
    int32_t n_stages, n_tokens;
    struct stage_sample stages[MAX_STAGES];
    int64_t duration_ns, gaps_ns, overlap_ns;
};

static struct sent_step sent[MAX_STEPS];

static void announce(const struct sample_sink *sink, int32_t id, const char *method, int32_t top_k)
{
    struct sample_source source = {.id = id, .top_k = top_k, .weight_dtype = DTYPE_BF16};
    snprintf(source.method, sizeof source.method, "%s", method);
    snprintf(source.model, sizeof source.model, "made-up");
    sink->source(sink->user, &source);
}

// Stages anywhere in and around the step, in any order, one over the other.
static void send_random_step(const struct sample_sink *sink, struct sent_step *to, int32_t source, int64_t number)
{
    int64_t begin = 1000000 + number * 10000;
    static unsigned char covered[SPAN_NS * 4];
    memset(covered, 0, sizeof covered);
    *to = (struct sent_step){.n_stages = check_range(0, MAX_STAGES), .n_tokens = check_range(1, 8),
                             .duration_ns = check_range(1, SPAN_NS)};
    for (int32_t i = 0; i < to->n_stages; i++) {
        struct stage_sample stage = {
            .source = source, .step = number, .phase = PHASE_DECODE, .stage = (enum stage)check_range(0, 3),
            .begin_ns = begin + check_range(-20, SPAN_NS), .duration_ns = check_range(0, SPAN_NS / 3),
            .bytes = check_range(0, 100000), .flops = check_range(0, 1000000),
        };
        for (int64_t t = stage.begin_ns; t < stage.begin_ns + stage.duration_ns; t++) {
            covered[t - begin + SPAN_NS] = 1;
        }
        to->overlap_ns += stage.duration_ns;
        to->stages[i] = stage;
        sink->stage(sink->user, &stage);
    }
    to->gaps_ns = to->duration_ns;
    for (int64_t t = 0; t < to->duration_ns; t++) {
        to->gaps_ns -= covered[t + SPAN_NS];
        to->overlap_ns -= covered[t + SPAN_NS];
    }
    struct step_sample step = {.source = source,
                               .step = number,
                               .phase = PHASE_DECODE,
                               .n_seqs = 1,
                               .n_tokens = to->n_tokens,
                               .context_tokens = 100 + (int32_t)number,
                               .begin_ns = begin,
                               .duration_ns = to->duration_ns};
    sink->step(sink->user, &step);
}

static bool near(double got, double expected)
{
    return fabs(got - expected) <= 1e-9 * fabs(expected) + 1e-9;
}

static int by_value(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

// The last STATE_CALLS samples of a stage, in all steps up to `n`.
static void check_calls(const struct stage_summary *got, int32_t stage, int32_t n)
{
    static int64_t calls[MAX_STEPS * MAX_STAGES];
    int32_t count = 0;
    for (int32_t s = 0; s < n; s++) {
        // A step's samples enter in the order of their begin.
        struct stage_sample sorted[MAX_STAGES];
        memcpy(sorted, sent[s].stages, sizeof sorted);
        for (int32_t i = 1; i < sent[s].n_stages; i++) {
            for (int32_t j = i; j > 0 && sorted[j - 1].begin_ns > sorted[j].begin_ns; j--) {
                struct stage_sample other = sorted[j];
                sorted[j] = sorted[j - 1];
                sorted[j - 1] = other;
            }
        }
        for (int32_t i = 0; i < sent[s].n_stages; i++) {
            if ((int32_t)sorted[i].stage == stage) {
                calls[count++] = sorted[i].duration_ns;
            }
        }
    }
    CHECK(got->calls == count);
    int32_t kept = count < STATE_CALLS ? count : STATE_CALLS;
    if (kept == 0) {
        CHECK(isnan(got->median_ns) && isnan(got->p95_ns));
        return;
    }
    int64_t *window = calls + count - kept;
    qsort(window, (size_t)kept, sizeof *window, by_value);
    int32_t half = (kept + 1) / 2, most = (95 * kept + 99) / 100;
    CHECK_MESSAGE(near(got->median_ns, (double)window[half - 1]), "median %.0f, expected %lld of %d", got->median_ns,
                  (long long)window[half - 1], kept);
    CHECK_MESSAGE(near(got->p95_ns, (double)window[most - 1]), "P95 %.0f, expected %lld", got->p95_ns,
                  (long long)window[most - 1]);
}

// Means of stages, gaps and overlap are over the steps that told their stages; the others only count as steps.
static void check_phase(const struct state *state, int32_t n)
{
    struct phase_summary got;
    int32_t staged = 0;
    double staged_ns = 0;
    int32_t first = n > STATE_STEPS ? n - STATE_STEPS : 0, kept = n - first;
    double total = 0, gaps = 0, overlap = 0, tokens = 0, stage_ns[4] = {0}, bytes[4] = {0}, floor_ns[4] = {0}, sum = 0;
    for (int32_t s = first; s < n; s++) {
        total += (double)sent[s].duration_ns;
        staged += sent[s].n_stages > 0;
        staged_ns += sent[s].n_stages > 0 ? (double)sent[s].duration_ns : 0;
        gaps += sent[s].n_stages > 0 ? (double)sent[s].gaps_ns : 0;
        overlap += (double)sent[s].overlap_ns;
        tokens += sent[s].n_tokens;
        for (int32_t i = 0; i < sent[s].n_stages; i++) {
            const struct stage_sample *stage = &sent[s].stages[i];
            stage_ns[stage->stage] += (double)stage->duration_ns;
            bytes[stage->stage] += (double)stage->bytes;
            floor_ns[stage->stage] +=
                fmax((double)stage->bytes / 100, (double)stage->flops / 1000);    // 100 GB/s, 1 TFLOP/s
        }
    }
    CHECK(state_phase(state, 0, PHASE_DECODE, &got));
    CHECK(got.steps == n && got.window_steps == kept && got.context_tokens == 100 + n - 1);
    CHECK_MESSAGE(near(got.mean_ns, total / kept), "mean %.3f, expected %.3f", got.mean_ns, total / kept);
    CHECK_MESSAGE(staged ? near(got.gaps_ns, gaps / staged) : isnan(got.gaps_ns), "gaps %.3f, expected %.3f",
                  got.gaps_ns, gaps / staged);
    CHECK_MESSAGE(staged ? near(got.overlap_ns, overlap / staged) : isnan(got.overlap_ns),
                  "overlap %.3f, expected %.3f", got.overlap_ns, overlap / staged);
    CHECK(near(got.tokens_per_s, tokens / total * 1e9));
    for (int32_t stage = 0; staged > 0 && stage < 4; stage++) {
        const struct stage_summary *summary = &got.stages[stage];
        CHECK(near(summary->mean_ns, stage_ns[stage] / staged) && near(summary->share, stage_ns[stage] / staged_ns));
        CHECK(stage_ns[stage] > 0 ? near(summary->bytes_per_s, bytes[stage] / stage_ns[stage] * 1e9)
                                  : isnan(summary->bytes_per_s));
        CHECK_MESSAGE(near(summary->floor_ns, floor_ns[stage] / staged), "floor %.6f, expected %.6f", summary->floor_ns,
                      floor_ns[stage] / staged);
        check_calls(summary, stage, n);
        sum += summary->mean_ns;
    }
    CHECK_MESSAGE(staged == 0 || near(sum + got.gaps_ns - got.overlap_ns, staged_ns / staged),
                  "stages + gaps - overlap = %.6f, step %.6f", sum + got.gaps_ns - got.overlap_ns, staged_ns / staged);
}

static void test_windows(void)
{
    struct state *state;
    struct device device = tui_stream_device();
    CHECK(state_open(&state, &device) == 0);
    struct sample_sink sink = state_sink(state);
    announce(&sink, 5, "clsa", 64);
    for (int32_t n = 0; n < MAX_STEPS; n++) {
        send_random_step(&sink, &sent[n], 5, n);
        if (n < 4 || n == STATE_STEPS - 1 || n == STATE_STEPS || n == MAX_STEPS - 1 || n % 97 == 0) {
            check_phase(state, n + 1);
        }
    }
    double history[STATE_STEPS];
    CHECK(state_history(state, 0, PHASE_DECODE, history, 10) == 10);
    for (int32_t i = 0; i < 10; i++) {
        CHECK(near(history[i], (double)sent[MAX_STEPS - 10 + i].duration_ns));
    }
    struct phase_summary none;
    CHECK(!state_phase(state, 0, PHASE_PREFILL, &none) && isnan(none.mean_ns) && isnan(none.stages[0].share));
    CHECK(state_lost(state) == 0);
    state_close(state);
}

static void request(const struct sample_sink *sink, int32_t source, int64_t id, enum request_state what,
                    int64_t time_ns)
{
    struct request_sample sample = {
        .source = source, .request = id, .state = what, .prompt_tokens = 77, .output_tokens = 9, .time_ns = time_ns};
    sink->request(sink->user, &sample);
}

static void test_requests_and_counters(void)
{
    struct state *state;
    struct method_summary method;
    CHECK(state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    announce(&sink, 1, "dense", 0);
    state_method(state, 0, &method);
    CHECK(isnan(method.ttft_s) && isnan(method.kv_peak_bytes) && isnan(method.queue) && state_device(state) == NULL);
    int64_t prefills[5];
    for (int64_t id = 0; id < 5; id++) {    // three wait while two run
        request(&sink, 1, id, REQUEST_SUBMITTED, 1000 * id);
    }
    for (int64_t id = 0; id < 2; id++) {
        prefills[id] = check_range(1000, 900000);
        request(&sink, 1, id, REQUEST_RUNNING, 10000 + id);
        request(&sink, 1, id, REQUEST_FIRST_TOKEN, 10000 + id + prefills[id]);
    }
    state_method(state, 0, &method);
    CHECK(method.submitted == 5 && method.running == 2 && method.finished == 0 && method.queue == 3);
    CHECK(near(method.ttft_s, (double)(10000 + 1 + prefills[1] - 1000) * 1e-9));
    request(&sink, 1, 0, REQUEST_FINISHED, 5000000);
    state_method(state, 0, &method);
    CHECK(method.running == 1 && method.finished == 1 && method.prompt_tokens == 77 && method.output_tokens == 9);
    struct counter_sample counter = {.source = 1, .counter = COUNTER_KV_BYTES, .value = 500, .time_ns = 6000000};
    sink.counter(sink.user, &counter);
    counter.value = 300;
    sink.counter(sink.user, &counter);
    counter.value = NAN;
    sink.counter(sink.user, &counter);
    state_method(state, 0, &method);
    CHECK(method.kv_peak_bytes == 500 && state_last_ns(state) == 6000000);
    state_forget(state);
    state_method(state, 0, &method);
    CHECK(state_method_count(state) == 1 && strcmp(method.source.method, "dense") == 0 && isnan(method.kv_peak_bytes));
    CHECK(method.submitted == 0 && isnan(method.ttft_s));
    state_close(state);
}

// Sources: the same under another id is the same method; more than there is room for push out the oldest.
static void test_sources(void)
{
    struct state *state;
    char label[SOURCE_NAME_BYTES], name[32];
    CHECK(state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    announce(&sink, 1, "clsa", 64);
    announce(&sink, 2, "dense", 0);
    announce(&sink, 3, "clsa", 64);
    CHECK(state_method_count(state) == 2 && state_current_method(state) == -1);
    send_random_step(&sink, &sent[0], 3, 1);
    CHECK(state_current_method(state) == 0 && state_find_method(state, "dense") == 1 &&
          state_find_method(state, "x") == -1);
    state_label(state, 0, label, sizeof label);
    CHECK(strcmp(label, "clsa") == 0);
    announce(&sink, 4, "clsa", 128);
    state_label(state, 0, label, sizeof label);
    CHECK_MESSAGE(strcmp(label, "clsa k=64") == 0, "label %s", label);
    for (int32_t i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "method-%d", i);
        announce(&sink, 10 + i, name, 0);
        send_random_step(&sink, &sent[0], 10 + i, 10 + i);
    }
    CHECK(state_method_count(state) == STATE_METHODS && state_find_method(state, "method-39") >= 0);
    CHECK(state_find_method(state, "clsa") == -1);
    int64_t lost = state_lost(state);
    send_random_step(&sink, &sent[0], 3, 1);    // its method was pushed out
    CHECK(state_lost(state) == lost + 1 + sent[0].n_stages);
    state_close(state);
}

// What a damaged file may hold is counted and does no harm.
static void test_nonsense(void)
{
    struct state *state;
    CHECK(state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    announce(&sink, 1, "clsa", 64);
    struct stage_sample stages[] = {
        {.source = 9}, {.source = 1, .stage = (enum stage)99}, {.source = 1, .phase = (enum phase)-1},
        {.source = 1, .duration_ns = -1}, {.source = 1, .begin_ns = INT64_MAX, .duration_ns = 5},
        {.source = 1, .begin_ns = 5, .duration_ns = INT64_MAX}, {.source = 1, .begin_ns = INT64_MIN},
    };
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        sink.stage(sink.user, &stages[i]);
        CHECK_MESSAGE(state_lost(state) == (int64_t)i + 1, "sample %zu was taken", i);
    }
    struct stage_sample orphan = {.source = 1, .step = 1, .duration_ns = 5};
    sink.stage(sink.user, &orphan);
    struct step_sample step = {.source = 1, .step = 2, .duration_ns = 0};
    sink.step(sink.user, &step);
    CHECK(state_lost(state) == (int64_t)(sizeof stages / sizeof stages[0]) + 1);
    struct phase_summary summary;
    CHECK(state_phase(state, 0, PHASE_PREFILL, &summary) && isnan(summary.tokens_per_s) &&
          isnan(summary.stages[0].share));
    state_close(state);
}

static void test_forecast(void)
{
    struct device device = tui_stream_device();
    struct sample_source source = {0};
    struct plan plan, rebuilt;
    double prefill_s, tokens_per_s;
    for (int32_t i = 0; i < plan_method_count(); i++) {
        const char *method = plan_method(i)->name;
        CHECK(plan_build(&plan, plan_find_model("demo-8m"), method, NULL) == 0);
        source = sample_source_of(&plan);
        CHECK_MESSAGE(forecast_plan(&rebuilt, &source) == 0, "%s cannot be rebuilt", method);
        struct work work = {.context_tokens = 1000, .new_tokens = 1, .logit_rows = 1};
        struct stage_cost expected = step_cost(&plan, &work, 1), got = step_cost(&rebuilt, &work, 1);
        CHECK_MESSAGE(expected.bytes == got.bytes && expected.flops == got.flops, "%s costs otherwise when rebuilt",
                      method);
        CHECK(forecast(&prefill_s, &tokens_per_s, &device, &source, 1, 1000, 16) && prefill_s > 0 && tokens_per_s > 0);
    }
    strcpy(source.model, "somebody's");
    CHECK(!forecast(&prefill_s, &tokens_per_s, &device, &source, 1, 1000, 16) && isnan(prefill_s) &&
          isnan(tokens_per_s));
}

// Rates that come when all samples are there make the same floors and predictions as rates that came before.
static void test_late_rates(void)
{
    struct device device = tui_stream_device();
    struct stream_options options = {.seed = 3, .decode_steps = 300, .prefill_steps = 4, .requests = 2};
    struct state *early = NULL, *late = NULL;
    CHECK(state_open(&early, &device) == 0 && state_open(&late, NULL) == 0);
    struct sample_sink to_early = state_sink(early), to_late = state_sink(late);
    tui_stream(&to_early, &options);
    tui_stream(&to_late, &options);
    struct phase_summary expected, got;
    CHECK(state_phase(late, 0, PHASE_DECODE, &got) && isnan(got.floor_part) && state_device(late) == NULL);
    state_set_device(late, &device);
    CHECK(state_device(late) && strcmp(state_device(late)->name, device.name) == 0);
    for (int32_t method = 0; method < state_method_count(early); method++) {
        struct method_summary told, expected_told;
        state_method(early, method, &expected_told);
        state_method(late, method, &told);
        CHECK(told.predicted_prefill_s > 0 ? near(told.predicted_prefill_s, expected_told.predicted_prefill_s)
                                           : !(expected_told.predicted_prefill_s > 0));
        CHECK(state_phase(early, method, PHASE_DECODE, &expected) && state_phase(late, method, PHASE_DECODE, &got));
        CHECK(expected.floor_part > 0);
        CHECK_MESSAGE(fabs(got.floor_part / expected.floor_part - 1) < 0.01, "floor %.6f, expected %.6f",
                      got.floor_part, expected.floor_part);
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            CHECK(isnan(expected.stages[stage].floor_part) == isnan(got.stages[stage].floor_part) &&
                  expected.stages[stage].bound == got.stages[stage].bound);
        }
    }
    state_close(early);
    state_close(late);
}

int main(void)
{
    check_begin();
    test_late_rates();
    test_windows();
    test_requests_and_counters();
    test_sources();
    test_nonsense();
    test_forecast();
    return check_end();
}
