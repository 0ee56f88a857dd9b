// tests/test_tui_timeline.c - the timeline's store against all that was sent, and looks over it under random moves.
#include "tests/check.h"
#include "tui/timeline_look.h"

enum { N_STEPS = 3000, MAX_SPANS = 40, MAX_LAYERS = 6 };

static struct {
    struct step_sample step;
    int32_t n;
    struct stage_sample stages[MAX_SPANS];
} sent[N_STEPS];

static void send(const struct sample_sink *sink, int32_t n_steps)
{
    struct sample_source source = {.id = 7, .top_k = 64};
    int64_t now_ns = check_range(1, 1000000);
    strcpy(source.method, "clsa");
    sink->source(sink->user, &source);
    for (int32_t i = 0; i < n_steps; i++) {
        struct step_sample *step = &sent[i].step;
        now_ns += check_range(0, 500);
        *step = (struct step_sample){.source = 7, .step = i, .phase = (enum phase)check_range(0, PHASE_COUNT - 1),
                                     .n_seqs = 1, .n_tokens = 1, .context_tokens = i, .begin_ns = now_ns};
        sent[i].n = check_range(0, MAX_SPANS);
        for (int32_t j = 0; j < sent[i].n; j++) {
            int32_t duration = check_range(0, 300);
            sent[i].stages[j] = (struct stage_sample){
                .source = 7, .step = i, .phase = step->phase, .stage = (enum stage)check_range(0, STAGE_COUNT - 1),
                .layer = check_range(-1, MAX_LAYERS - 1), .n_tokens = 1, .bytes = check_range(0, 1000),
                .begin_ns = now_ns, .duration_ns = duration};
            now_ns += duration + check_range(0, 20);
            sink->stage(sink->user, &sent[i].stages[j]);
        }
        now_ns += 1;
        step->duration_ns = now_ns - step->begin_ns;
        sink->step(sink->user, step);
    }
}

// Every kept step is what was sent, with its stages; `max_spans` decides how many are kept.
static struct timeline *filled(int64_t max_spans, int32_t n_steps)
{
    struct timeline *timeline;
    CHECK(timeline_open(&timeline, max_spans) == 0);
    struct sample_sink sink = timeline_sink(timeline);
    send(&sink, n_steps);
    int64_t first = timeline_first(timeline), end = timeline_end(timeline), kept = 0;
    CHECK(end == n_steps && first == timeline_dropped(timeline));
    for (int64_t i = first; i < end; i++) {
        const struct timeline_step *step = timeline_step(timeline, i);
        double stage_ns[STAGE_COUNT] = {0};
        CHECK_MESSAGE(step->number == i && step->n_spans == sent[i].n && step->begin_ns == sent[i].step.begin_ns &&
                          step->duration_ns == sent[i].step.duration_ns && step->phase == sent[i].step.phase,
                      "step %lld is another one", (long long)i);
        for (int32_t j = 0; j < sent[i].n && j < step->n_spans; j++) {
            const struct timeline_span *span = timeline_span(timeline, step, j);
            const struct stage_sample *stage = &sent[i].stages[j];
            CHECK(span->begin_ns == stage->begin_ns && span->duration_ns == stage->duration_ns &&
                  span->stage == stage->stage && span->layer == stage->layer && span->bytes == stage->bytes);
            stage_ns[stage->stage] += (double)stage->duration_ns;
        }
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            CHECK(fabs((double)step->stage_ns[stage] - stage_ns[stage]) <= 1e-3);
        }
        kept += step->n_spans;
    }
    CHECK_MESSAGE(kept <= max_spans && (first == 0 || kept + MAX_SPANS >= max_spans), "%lld stages kept of %lld",
                  (long long)kept, (long long)max_spans);
    return timeline;
}

static void test_find(const struct timeline *timeline)
{
    int64_t begin_ns, end_ns, first = timeline_first(timeline), end = timeline_end(timeline);
    timeline_range(timeline, &begin_ns, &end_ns);
    CHECK(begin_ns == sent[first].step.begin_ns);
    CHECK(end_ns == sent[end - 1].step.begin_ns + sent[end - 1].step.duration_ns);
    for (int32_t n = 0; n < 300; n++) {
        int64_t time_ns = begin_ns - 100 + (int64_t)(check_uniform() * (double)(end_ns - begin_ns + 200));
        int64_t expected = first;
        while (expected < end && sent[expected].step.begin_ns + sent[expected].step.duration_ns <= time_ns) {
            expected++;
        }
        CHECK(timeline_find(timeline, time_ns) == expected);
    }
    int64_t below = INT64_MAX;
    for (int32_t n = 0; n < 5; n++) {
        int64_t slowest = timeline_slowest(timeline, below), most = -1;
        for (int64_t i = first; i < end; i++) {
            int64_t duration_ns = sent[i].step.duration_ns;
            most = duration_ns < below && duration_ns > most ? duration_ns : most;
        }
        CHECK(slowest >= first && sent[slowest].step.duration_ns == most);
        below = most;
    }
    CHECK(timeline_slowest(timeline, 0) == -1);
}

// Forward from the selection to the next match, by looking at everything.
static void test_search(const struct timeline *timeline)
{
    struct timeline_look look = timeline_look_default(false);
    int64_t first = timeline_first(timeline), at = first;
    int32_t span = -1;
    for (int32_t n = 0; n < 200; n++) {
        const char *name = stage_name((enum stage)check_range(0, STAGE_COUNT - 1));
        bool found = false;
        for (int64_t step = at; step < timeline_end(timeline) && !found; step++) {
            for (int32_t j = step == at ? span + 1 : 0; j < sent[step].n && !found; j++) {
                if (strstr(stage_name(sent[step].stages[j].stage), name)) {
                    found = true;
                    at = step;
                    span = j;
                }
            }
        }
        if (!found) {
            break;
        }
        CHECK(timeline_look_search(&look, timeline, name, 1));
        CHECK_MESSAGE(look.step == at && look.span == span, "%s found at %lld:%d, expected %lld:%d", name,
                      (long long)look.step, look.span, (long long)at, span);
    }
    struct timeline_look before = look;
    CHECK(!timeline_look_search(&look, timeline, "no such thing", 1) && memcmp(&before, &look, sizeof look) == 0);
    CHECK(timeline_look_search(&look, timeline, "step 2990", 1) && look.step == 2990 && look.span == -1);
    CHECK(timeline_look_search(&look, timeline, "ffn", -1) && timeline_look_span(&look, timeline)->stage == STAGE_FFN);
}

// After any move: the window is not empty and lies near what there is, a selection exists and lies on its track, and
// after a move of the selection it is seen.
static void test_moves(const struct timeline *timeline)
{
    struct timeline_look look = timeline_look_default(check_range(0, 1) == 1);
    int64_t first_ns, last_ns;
    timeline_range(timeline, &first_ns, &last_ns);
    for (int32_t n = 0; n < 3000; n++) {
        int32_t move = check_range(0, 11), by = check_range(0, 1) ? 1 : -1;
        switch (move) {
        case 0: case 1: case 2: timeline_look_move(&look, timeline, by); break;
        case 3: timeline_look_track(&look, timeline, by); break;
        case 4: timeline_look_pan(&look, timeline, by * 0.25); break;
        case 5: timeline_look_zoom(&look, timeline, 0.5); break;
        case 6: timeline_look_zoom(&look, timeline, 2); break;
        case 7: timeline_look_enter(&look, timeline); break;
        case 8: timeline_look_slowest(&look, timeline); break;
        case 9: timeline_look_to_begin(&look, timeline); break;
        case 10: timeline_look_to_end(&look, timeline); break;
        default: timeline_look_at(&look, timeline, check_uniform()); break;
        }
        int64_t begin_ns, width_ns;
        timeline_look_window(&look, timeline, &begin_ns, &width_ns);
        const struct timeline_step *step = timeline_look_step(&look, timeline);
        const struct timeline_span *span = timeline_look_span(&look, timeline);
        CHECK(width_ns >= 1 && begin_ns < last_ns && begin_ns + width_ns > first_ns);
        CHECK(look.track >= 0 && look.track < TRACK_LAYERS + timeline_layers(timeline));
        CHECK(!span || look.track != TRACK_STEPS);
        CHECK(!span || look.track < TRACK_LAYERS || span->layer == look.track - TRACK_LAYERS);
        if (step && (move <= 2 || move == 7 || move == 8) && (span || look.track == TRACK_STEPS)) {
            int64_t at_ns = span ? span->begin_ns : step->begin_ns;
            CHECK_MESSAGE(at_ns >= begin_ns && at_ns <= begin_ns + width_ns, "move %d left the selection unseen", move);
        }
    }
    timeline_look_all(&look);
    int64_t begin_ns, width_ns;
    timeline_look_window(&look, timeline, &begin_ns, &width_ns);
    CHECK(begin_ns == first_ns && width_ns == last_ns - first_ns);
}

// Steps that come late are put in their place; nonsense is left out; nothing is there before anything came.
static void test_order(void)
{
    struct timeline *timeline;
    CHECK(timeline_open(&timeline, 0) == 0);
    struct sample_sink sink = timeline_sink(timeline);
    struct timeline_look look = timeline_look_default(false);
    CHECK(timeline_slowest(timeline, INT64_MAX) == -1 && timeline_find(timeline, 5) == 0);
    timeline_look_move(&look, timeline, 1);
    timeline_look_zoom(&look, timeline, 0.5);
    CHECK(!timeline_look_step(&look, timeline) && !timeline_look_search(&look, timeline, "ffn", 1));
    struct sample_source source = {.id = 1};
    struct step_sample step = {.source = 1, .duration_ns = 1};
    sink.step(sink.user, &step);    // of a source that nobody announced
    CHECK(timeline_end(timeline) == 0);
    sink.source(sink.user, &source);
    for (int32_t i = 0; i < 1000; i++) {
        step.step = i;
        step.begin_ns = check_range(0, 1000000);
        sink.step(sink.user, &step);
    }
    step.begin_ns = -1;
    sink.step(sink.user, &step);
    step = (struct step_sample){.source = 1, .phase = (enum phase)9};
    sink.step(sink.user, &step);
    CHECK(timeline_end(timeline) == 1000);
    for (int64_t i = timeline_first(timeline) + 1; i < timeline_end(timeline); i++) {
        CHECK(timeline_step(timeline, i - 1)->begin_ns <= timeline_step(timeline, i)->begin_ns);
    }
    timeline_close(timeline);
}

int main(void)
{
    check_begin();
    test_order();
    timeline_close(filled(4096, N_STEPS));    // wraps around many times
    struct timeline *timeline = filled(1 << 17, N_STEPS);
    CHECK(timeline_first(timeline) == 0);
    test_find(timeline);
    test_search(timeline);
    test_moves(timeline);
    timeline_close(timeline);
    return check_end();
}
