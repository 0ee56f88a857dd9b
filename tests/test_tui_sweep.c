// tests/test_tui_sweep.c - curves over context and batch against single predictions; other recordings beside the first;
// marks and gauges.
#include <errno.h>
#include <unistd.h>

#include "engine/status.h"
#include "tests/check.h"
#include "tests/tui_stream.h"
#include "traces/trace.h"
#include "tui/beside.h"
#include "tui/dashboard.h"
#include "tui/forecast.h"
#include "tui/sweep.h"
#include "tui/views.h"

static double rate(const struct state *state, int32_t method, int32_t context, int32_t batch)
{
    struct method_summary told;
    struct plan plan;
    struct work work[256];
    struct step_prediction step;
    state_method(state, method, &told);
    CHECK(forecast_plan(&plan, &told.source) == 0);
    for (int32_t i = 0; i < batch; i++) {
        work[i] = (struct work){.context_tokens = context, .new_tokens = 1, .logit_rows = 1};
    }
    CHECK(predict_step(&step, state_device(state), &plan, work, batch) == 0);
    return batch / step.seconds;
}

// top_k 0: the method's own.
static void announce_k(const struct sample_sink *sink, int32_t id, const char *method, int32_t top_k)
{
    struct plan plan;
    struct plan_options options = plan_options_default();
    options.top_k = top_k > 0 ? top_k : options.top_k;
    CHECK(plan_build(&plan, plan_find_model("demo-8m"), method, &options) == 0);
    struct sample_source source = sample_source_of(&plan);
    source.id = id;
    sink->source(sink->user, &source);
    struct step_sample step = {.source = id, .step = 1, .phase = PHASE_DECODE, .n_seqs = 2, .n_tokens = 2,
                               .context_tokens = 3000, .begin_ns = 1000 + id, .duration_ns = 1000000};
    sink->step(sink->user, &step);
}

static void announce(const struct sample_sink *sink, int32_t id, const char *method)
{
    announce_k(sink, id, method, 0);
}

static void test_sweep(void)
{
    static const char *const methods[] = {"dense", "clsa", "token", "yoco"};
    struct device device = tui_stream_device();
    static struct sweep sweep;
    struct state *state = NULL;
    CHECK(state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    for (int32_t i = 0; i < 4; i++) {
        announce(&sink, i, methods[i]);
    }
    CHECK(!sweep_update(&sweep, state, SWEEP_CONTEXT, 0));    // at rates that nobody knows
    state_set_device(state, &device);
    CHECK(!sweep_update(&sweep, state, SWEEP_CONTEXT, -1) && !sweep_update(&sweep, state, SWEEP_NONE, 0));
    for (int over = SWEEP_CONTEXT; over <= SWEEP_BATCH; over++) {
        CHECK(sweep_update(&sweep, state, (enum sweep_over)over, 0) && sweep.n_methods == 4 && sweep.n_points > 10);
        CHECK(sweep.fixed == (over == SWEEP_CONTEXT ? 2 : 3072));
        for (int32_t method = 0; method < 4; method++) {
            int32_t i = check_range(0, sweep.n_points - 1), x = (int32_t)sweep.x[i];
            double expected = over == SWEEP_CONTEXT ? rate(state, method, x, 2) : rate(state, method, 3072, x);
            CHECK_MESSAGE(fabs(sweep.tokens_per_s[method][i] / expected - 1) < 1e-12, "%s at %d: %g, expected %g",
                          methods[method], x, sweep.tokens_per_s[method][i], expected);
        }
        for (int32_t i = 0; i < sweep.n_crossings; i++) {    // before it the other one is ahead, or level
            const struct sweep_crossing *crossing = &sweep.crossings[i];
            CHECK(i == 0 || sweep.crossings[i - 1].x <= crossing->x);
            int32_t low = (int32_t)floor(crossing->x / 1.5), high = (int32_t)ceil(crossing->x * 1.5);
            if (over == SWEEP_CONTEXT) {
                CHECK(rate(state, crossing->faster, low, 2) < rate(state, crossing->slower, low, 2));
                CHECK(rate(state, crossing->faster, high, 2) > rate(state, crossing->slower, high, 2));
            }
        }
        // Dense attention is overtaken by every selection as its context grows.
        bool overtaken = over == SWEEP_BATCH;
        for (int32_t i = 0; i < sweep.n_crossings; i++) {
            overtaken = overtaken || (sweep.crossings[i].slower == 0 && sweep.crossings[i].faster == 2);
        }
        CHECK(overtaken);
    }
    sweep.tokens_per_s[0][0] = -1;    // what nothing has changed for is not made anew
    CHECK(sweep_update(&sweep, state, SWEEP_BATCH, 0) && sweep.tokens_per_s[0][0] < 0);
    announce(&sink, 4, "block");
    CHECK(sweep_update(&sweep, state, SWEEP_BATCH, 0) && sweep.tokens_per_s[0][0] > 0 && sweep.n_methods == 5);
    for (int32_t id = 5; state_method_count(state) < STATE_METHODS; id++) {
        announce_k(&sink, id, "clsa", 64 * id);
    }
    CHECK(sweep_update(&sweep, state, SWEEP_BATCH, 0) && sweep.n_methods == STATE_METHODS);
    announce_k(&sink, 100, "clsa", 4096);    // takes the place of the one unseen for longest
    CHECK(sweep_update(&sweep, state, SWEEP_BATCH, 0) && sweep.n_methods == STATE_METHODS);
    CHECK(fabs(sweep.tokens_per_s[0][0] / rate(state, 0, 3072, 1) - 1) < 1e-12);
    state_close(state);
}

// CLSA_UPDATE_GOLDEN=1 writes the golden files anew, as test_tui_views does.
static void compare_golden(const char *path, const char *text)
{
    bool update = getenv("CLSA_UPDATE_GOLDEN") != NULL;
    char *golden = calloc(1, 1 << 16);
    FILE *file = fopen(path, update ? "w" : "r");
    if (update) {
        CHECK(file && fputs(text, file) >= 0);
    } else {
        CHECK_MESSAGE(file && fread(golden, 1, (1 << 16) - 1, file) > 0 && strcmp(golden, text) == 0,
                      "%s differs; it has\n%s\nand was drawn as\n%s", path, golden, text);
    }
    if (file) {
        fclose(file);
    }
    free(golden);
}

static void test_curves(void)
{
    static const char *const methods[] = {"dense", "clsa", "token", "yoco"};
    static const char *const styles[] = {"unicode", "ascii", "color"};
    static const struct { int32_t rows, cols; } sizes[] = {{60, 200}, {40, 120}, {24, 80}, {12, 40}};
    static const char *const scripts[] = {"v", "vv"}, *const names[] = {"curves", "curves-batch"};
    struct device device = tui_stream_device();
    struct state *state = NULL;
    CHECK(state_open(&state, &device) == 0);
    struct sample_sink sink = state_sink(state);
    for (int32_t i = 0; i < 4; i++) {
        announce(&sink, i, methods[i]);
    }
    for (int i = 0; i < 2 * 4 * 3; i++) {
        char path[128], *text;
        struct ui ui = ui_default();
        ui.view = VIEW_COMPARE;
        struct snapshot_options options = {.script = scripts[i % 2], .rows = sizes[i / 2 % 4].rows,
                                           .cols = sizes[i / 2 % 4].cols, .ascii = i / 8 == 1, .color = i / 8 == 2};
        CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
        snprintf(path, sizeof path, "tests/golden/tui/%s_%dx%d_%s.txt", names[i % 2], options.cols, options.rows,
                 styles[i / 8]);
        compare_golden(path, text);
        free(text);
    }
    for (int i = 0; i < 400; i++) {    // screens of any size
        char *text;
        struct ui ui = ui_default();
        ui.view = VIEW_COMPARE;
        int32_t rows = check_range(1, 70), cols = check_range(1, 230);
        struct snapshot_options options = {.script = scripts[i % 2], .rows = rows, .cols = cols};
        CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
        free(text);
    }
    state_close(state);
}

static void write_trace(const char *path, int64_t shift_ns, int64_t factor, int64_t first)
{
    struct trace_writer *writer;
    CHECK(trace_writer_open(&writer, &(struct trace_writer_options){.path = path}) == 0);
    struct sample_sink sink = trace_writer_sink(writer);
    struct sample_source source = {.id = 1, .method = "clsa"};
    sink.source(sink.user, &source);
    for (int64_t n = first; n < first + 8; n++) {
        int64_t begin_ns = shift_ns + n * factor * 1000;
        struct stage_sample stage = {.source = 1, .step = n, .phase = PHASE_DECODE, .stage = STAGE_FFN,
                                     .begin_ns = begin_ns, .duration_ns = 800 * factor};
        struct step_sample step = {.source = 1, .step = n, .phase = PHASE_DECODE, .begin_ns = begin_ns,
                                   .duration_ns = 900 * factor};
        sink.stage(sink.user, &stage);
        sink.step(sink.user, &step);
    }
    CHECK(trace_writer_close(writer) == 0);
}

static void test_beside(void)
{
    char folder[] = "/tmp/clsa-beside-XXXXXX", one[64], two[64], line[128];
    struct beside beside = {0};
    struct state *state = NULL;
    CHECK(mkdtemp(folder) != NULL && state_open(&state, NULL) == 0);
    snprintf(one, sizeof one, "%s/one.pftrace", folder);
    snprintf(two, sizeof two, "%s/two.pftrace", folder);
    write_trace(one, 5000000, 1, 0);
    write_trace(two, 70000000, 2, 3);    // slower, on another clock, and it begins at its step 3
    struct sample_sink sink = state_sink(state);
    CHECK(trace_read(one, &sink, NULL) == 0 && beside_add(&beside, two) == 0 && beside.step < 0);
    const struct timeline *timeline = state_timeline(state);
    beside_align(&beside, timeline, 4);
    const struct beside_file *file = &beside.files[0];
    const struct timeline_step *other = timeline_step(file->timeline, file->step);
    CHECK(other->number == 4 && other->begin_ns + file->offset_ns == timeline_step(timeline, 4)->begin_ns);
    beside_align(&beside, timeline, 0);    // there is no step 0: its first one
    CHECK(timeline_step(file->timeline, file->step)->number == 3);
    // On the screen: the file's name, twice the duration, and keys that align.
    struct ui ui = ui_default();
    char *text;
    ui.view = VIEW_TIMELINE;
    ui.beside = &beside;
    struct snapshot_options options = {.rows = 24, .cols = 120, .script = "4<Up>w<Right><Right>A"};
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    CHECK_MESSAGE(strstr(text, "two.pft") && strstr(text, "Aligned at step"), "%s", text);
    free(text);
    options.script = "";
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    CHECK_MESSAGE(strstr(text, "1.80 us (2.00x) in two.pftrace"), "%s", text);
    free(text);
    CHECK(beside_add(&beside, "/nowhere/at/all.pftrace") == -EINVAL && beside.n == 1);
    for (int32_t i = 1; i < BESIDE_MAX; i++) {
        CHECK(beside_add(&beside, one) == 0);
    }
    CHECK(beside_add(&beside, one) == -EINVAL && beside.n == BESIDE_MAX);
    for (int32_t rows = 1; rows < 40; rows++) {    // four files on screens of any height
        options.rows = rows;
        CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
        free(text);
    }
    beside_close(&beside);
    state_close(state);
    snprintf(line, sizeof line, "rm -rf %s", folder);
    CHECK(system(line) == 0);
}

static void test_marks_and_gauges(void)
{
    struct state *state = NULL;
    struct snapshot_options options = {.rows = 40, .cols = 120};
    char *text;
    CHECK(state_open(&state, NULL) == 0);
    struct sample_sink sink = state_sink(state);
    CHECK(state_mark(state, 0) == NULL && isnan(state_gauge(state, "power")));
    announce(&sink, 1, "clsa");
    for (int64_t n = 2; n < 60; n++) {
        struct step_sample step = {.source = 1, .step = n, .phase = PHASE_DECODE, .n_seqs = 1, .n_tokens = 1,
                                   .begin_ns = n * 1000000, .duration_ns = 900000};
        sink.step(sink.user, &step);
        if (n == 40) {
            state_add_mark(state, "batch 4");
        }
    }
    CHECK(state_mark(state, 0) && state_mark(state, 0)->time_ns == 40900000 && state_mark(state, 1) == NULL);
    struct ui ui = ui_default();
    for (int view = VIEW_OVERVIEW; view <= VIEW_TIMELINE; view += VIEW_TIMELINE) {
        ui.view = (enum view)view;
        CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
        CHECK_MESSAGE(strstr(text, "\u25bcbatch 4"), "no mark in\n%s", text);
        free(text);
    }
    struct gauge_sample gauge = {.source = 1, .name = "power", .unit = "W", .value = 412};
    sink.gauge(sink.user, &gauge);
    gauge.name = "SM clock";
    gauge.value = 1410;
    sink.gauge(sink.user, &gauge);
    gauge.name = "slowed by heat";
    gauge.value = 1;
    sink.gauge(sink.user, &gauge);
    CHECK(state_gauge(state, "power") == 412);
    ui.view = VIEW_OVERVIEW;
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    CHECK_MESSAGE(strstr(text, "412 W, 1410 MHz") &&
                      strstr(text, "! The GPU's clocks are held down by heat: 1410 MHz."),
                  "%s", text);
    free(text);
    ui.silent_s = 7;
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    CHECK_MESSAGE(strstr(text, "! Nothing has come for 7 s"), "%s", text);
    free(text);
    for (int32_t i = 0; i < STATE_MARKS + 5; i++) {    // the last ones are kept
        char name[32];
        snprintf(name, sizeof name, "k %d", i);
        state_add_mark(state, name);
    }
    CHECK(strcmp(state_mark(state, 0)->text, "k 5") == 0 &&
          strcmp(state_mark(state, STATE_MARKS - 1)->text, "k 68") == 0 && state_mark(state, STATE_MARKS) == NULL);
    ui.silent_s = 0;
    state_forget(state);    // the engine has moved: what the other device's clocks were says nothing
    CHECK(isnan(state_gauge(state, "power")));
    gauge.name = "SM clock";
    gauge.value = 1200;
    sink.gauge(sink.user, &gauge);
    announce(&sink, 1, "clsa");
    CHECK(dashboard_snapshot(&text, state, &ui, &options) == 0);
    CHECK_MESSAGE(strstr(text, "- W, 1200 MHz") && !strstr(text, "nan"), "%s", text);
    free(text);
    state_close(state);
}

int main(void)
{
    check_begin();
    test_sweep();
    test_curves();
    test_beside();
    test_marks_and_gauges();
    return check_end();
}
