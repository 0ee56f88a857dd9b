// tui/view_overview.c - one method now: its figures, its recent steps, and where a step's time goes.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

struct figure {
    const char *name;
    char value[FORMAT_BYTES];
};

enum { N_FIGURES = 13, N_GAUGES = 2, GAUGE_PLACE = 6 };    // gauges, where there are any, stand there

// In the order of their importance: a low panel shows the first ones.
static void figures(struct figure *out, const struct state *state, int32_t method, bool known,
                    const struct phase_summary *phase)
{
    static const char *const names[N_FIGURES] = {
        "decode tok/s", "step", "% of floor", "TTFT P50", "KV bytes, most", "TPOT P50", "context", "batch, queue",
        "TTFT P99", "requests", "TPOT P99", "prefill tok/s", "queued P99"};
    struct request_percentiles recent;
    struct method_summary told;
    struct phase_summary decode, prefill;
    for (int i = 0; i < N_FIGURES; i++) {
        out[i] = (struct figure){.name = names[i], .value = "-"};
    }
    if (method < 0) {
        return;
    }
    state_method(state, method, &told);
    state_phase(state, method, PHASE_DECODE, &decode);
    state_phase(state, method, PHASE_PREFILL, &prefill);
    format_number(out[0].value, decode.tokens_per_s);
    if (known) {
        format_time_ns(out[1].value, phase->median_ns);
        format_percent(out[2].value, phase->floor_part);
        format_whole(out[6].value, phase->context_tokens);
    }
    const struct request_log *log = state_requests(state);
    request_log_percentiles(log, request_log_find_source(log, &told.source), &recent);
    format_time_ns(out[3].value, (recent.n > 0 ? recent.ttft_s[0] : told.ttft_s) * 1e9);    // or the one that is known
    format_bytes(out[4].value, told.kv_peak_bytes);
    format_time_ns(out[5].value, recent.tpot_s[0] * 1e9);
    char batch[FORMAT_BYTES], queue[FORMAT_BYTES];
    format_whole(batch, isfinite(told.batch) ? told.batch : known ? (double)phase->n_seqs : NAN);
    format_whole(queue, told.queue);
    snprintf(out[7].value, FORMAT_BYTES, "%.14s, %.14s", batch, queue);
    format_time_ns(out[8].value, recent.ttft_s[2] * 1e9);
    format_time_ns(out[10].value, recent.tpot_s[2] * 1e9);
    format_number(out[11].value, prefill.tokens_per_s);
    format_time_ns(out[12].value, recent.queue_s[2] * 1e9);
    if (told.submitted > 0) {
        snprintf(out[9].value, FORMAT_BYTES, "%lld of %lld", (long long)told.finished, (long long)told.submitted);
    }
}

// Not every device tells every reading.
static void format_gauge(char *text, double value)
{
    snprintf(text, FORMAT_BYTES, isfinite(value) ? "%.0f" : "-", value);
}

// Of a GPU: what it draws, how fast it runs and reads, how hot it is. Returns how many figures these are.
static int32_t gauges(struct figure *out, const struct state *state)
{
    double power_w = state_gauge(state, "power"), clock_mhz = state_gauge(state, "SM clock");
    double heat_c = state_gauge(state, "temperature"), read = state_gauge(state, "dram__bytes_read.sum.per_second");
    char one[FORMAT_BYTES], other[FORMAT_BYTES];
    int32_t n = 0;
    if (isfinite(power_w) || isfinite(clock_mhz)) {
        format_gauge(one, power_w);
        format_gauge(other, clock_mhz);
        out[n].name = "GPU";
        snprintf(out[n++].value, FORMAT_BYTES, "%.8s W, %.8s MHz", one, other);
    }
    if (isfinite(read) || isfinite(heat_c)) {
        format_number(one, read * 1e-9);
        format_gauge(other, heat_c);
        out[n].name = "reads, heat";
        snprintf(out[n++].value, FORMAT_BYTES, "%.12s GB/s, %.4s C", one, other);
    }
    return n;
}

static void draw_now(struct cells *cells, const struct layout *layout, const struct state *state, const struct ui *ui,
                     int32_t method, bool known, const struct phase_summary *phase)
{
    char title[SOURCE_NAME_BYTES] = "waiting for samples";
    if (method >= 0) {
        state_label(state, method, title, sizeof title);
        size_t length = strlen(title);
        if (ui->live && ui->pinned < 0 && state_method_count(state) > 1) {    // why the name changes by itself
            snprintf(title + length, sizeof title - length, ", in turn (m)");
        }
    }
    struct rect inside = layout_inside(layout, layout->now);
    if (layout->framed) {
        cells_frame(cells, layout->now, title);
    }
    struct figure all[N_FIGURES + N_GAUGES], some[N_GAUGES];
    figures(all, state, method, known, phase);
    int32_t n_gauges = gauges(some, state), n = N_FIGURES + n_gauges;
    memmove(all + GAUGE_PLACE + n_gauges, all + GAUGE_PLACE, (N_FIGURES - GAUGE_PLACE) * sizeof *all);
    memcpy(all + GAUGE_PLACE, some, (size_t)n_gauges * sizeof *all);
    bool alone = layout->stack.rows == 0;    // then the bar stands here
    int32_t rows = inside.rows - (alone && known && inside.rows > 2 ? 1 : 0);
    int32_t columns = inside.cols >= 64 ? 3 : inside.cols >= 48 ? 2 : 1;
    columns = alone ? columns : 1;
    int32_t width = (inside.cols - 3 * (columns - 1)) / columns;
    for (int32_t i = 0; i < n && i < rows * columns; i++) {
        int32_t row = i / columns, col = i % columns * (width + 3);
        cells_text(cells, inside, row, col, dim_pen, all[i].name);
        struct pen pen = {i == 0 ? ROLE_GOOD : ROLE_TEXT, i < 2 ? ATTRIBUTE_BOLD : 0};
        cells_text_right(cells, inside, row, col + width, pen, all[i].value);
    }
    if (rows < inside.rows) {
        view_stack(cells, inside, rows, inside.cols, phase);
    }
}

// What the user changed, above the first step that came after it.
static void draw_marks(struct cells *cells, struct rect plot, const struct state *state, int32_t method,
                       enum phase phase, int32_t n)
{
    const struct pen pen = {ROLE_WARN, ATTRIBUTE_BOLD};
    const struct state_mark *mark;
    for (int32_t i = 0, step = 0; (mark = state_mark(state, i)) != NULL; i++) {
        while (step < n && state_history_begin(state, method, phase, step, n) < mark->time_ns) {
            step++;
        }
        bool before = step == 0 && n < STATE_STEPS && !state_mark(state, i + 1);    // a method's first steps, after it
        if ((step > 0 || before) && step < n) {    // older ones lie left of what is seen, newer ones have no step yet
            int32_t col = plot.cols - n + step;
            cells_put(cells, plot, 0, col, 0x25bc, pen);
            cells_text_fit(cells, plot, 0, col + 1, plot.cols - col - 1, pen, mark->text);
        }
    }
}

static void draw_history(struct cells *cells, const struct layout *layout, const struct state *state, int32_t method,
                         enum phase phase)
{
    double durations[STATE_STEPS], top = 0, least = INFINITY;
    struct rect inside = layout_inside(layout, layout->history);
    enum { AXIS_COLS = 9 };
    struct rect plot = {inside.row, inside.col + AXIS_COLS, inside.rows, inside.cols - AXIS_COLS};
    int32_t n = plot.cols < STATE_STEPS ? plot.cols : STATE_STEPS;
    n = method >= 0 ? state_history(state, method, phase, durations, n) : 0;
    for (int32_t i = 0; i < n; i++) {
        top = durations[i] > top ? durations[i] : top;
        least = durations[i] < least ? durations[i] : least;
    }
    char title[96] = "Step time", text[FORMAT_BYTES];
    if (n > 0) {
        format_time_ns(text, least);
        snprintf(title, sizeof title, "Last %d %s steps, shortest %s", n, phase_name(phase), text);
    }
    if (layout->framed) {
        cells_frame(cells, layout->history, title);
    }
    if (n == 0 || plot.cols < 8) {
        return;
    }
    format_time_ns(text, top);
    cells_text_right(cells, inside, 0, AXIS_COLS - 1, dim_pen, text);
    if (inside.rows > 4) {
        format_time_ns(text, top / 2);
        cells_text_right(cells, inside, inside.rows / 2, AXIS_COLS - 1, dim_pen, text);
    }
    cells_text_right(cells, inside, inside.rows - 1, AXIS_COLS - 1, dim_pen, "0");
    cells_plot(cells, plot, durations, n, top, (struct pen){ROLE_ACCENT, 0});
    draw_marks(cells, plot, state, method, phase, n);
}

enum { SHORT_COLS = 25, LONG_COLS = 35, BAR_COLS = 12 };    // "w window_attention 12.3%", "  1.23 ms" behind it, a bar

static void put_part(struct cells *cells, struct rect clip, int32_t row, int32_t col, int32_t width, int32_t stage,
                     const struct phase_summary *phase)
{
    char text[FORMAT_BYTES];
    double mean_ns = stage < STAGE_COUNT ? phase->stages[stage].mean_ns : phase->gaps_ns;
    view_stage_key(cells, clip, row, col, stage);
    cells_text(cells, clip, row, col + 2, text_pen, stage < STAGE_COUNT ? stage_name((enum stage)stage) : "gaps");
    format_percent(text, mean_ns / phase->mean_ns);
    cells_text_right(cells, clip, row, col + 24, text_pen, text);
    if (width >= LONG_COLS) {
        format_time_ns(text, mean_ns);
        cells_text_right(cells, clip, row, col + 34, dim_pen, text);
    }
}

// The parts of a step beside their keys: one below the other with bars where there is room, else in as many columns as
// it takes for all to be seen.
static void draw_legend(struct cells *cells, struct rect clip, const struct phase_summary *phase)
{
    int32_t parts[STAGE_COUNT + 1], n = 0, greatest = view_greatest(phase);
    for (int32_t stage = 0; stage < STAGE_COUNT; stage++) {
        if (phase->stages[stage].window_calls > 0) {
            parts[n++] = stage;
        }
    }
    parts[n++] = STAGE_COUNT;
    bool bars = clip.rows >= n && clip.cols >= LONG_COLS + BAR_COLS && greatest < STAGE_COUNT;
    int32_t columns = bars || clip.cols < LONG_COLS ? 1 : clip.cols / LONG_COLS;
    if (columns * clip.rows < n && clip.cols / SHORT_COLS > columns) {
        columns = clip.cols / SHORT_COLS;
    }
    int32_t rows = (n + columns - 1) / columns, width = clip.cols / columns;
    rows = rows < clip.rows ? rows : clip.rows;
    for (int32_t i = 0; i < n && i < rows * columns; i++) {
        put_part(cells, clip, i % rows, i / rows * width, width, parts[i], phase);
        if (bars) {
            double mean_ns = parts[i] < STAGE_COUNT ? phase->stages[parts[i]].mean_ns : phase->gaps_ns;
            struct pen pen = {parts[i] < STAGE_COUNT ? (enum role)(ROLE_STAGE + parts[i]) : ROLE_GAP, 0};
            cells_bar(cells, clip, i, LONG_COLS + 1, clip.cols - LONG_COLS - 1,
                      mean_ns / phase->stages[greatest].mean_ns, pen);
        }
    }
}

static void draw_stack(struct cells *cells, const struct layout *layout, bool known, enum phase phase,
                       const struct phase_summary *summary)
{
    struct rect inside = layout_inside(layout, layout->stack);
    char title[96] = "Where a step goes", text[FORMAT_BYTES];
    if (known) {
        format_time_ns(text, summary->mean_ns);
        snprintf(title, sizeof title, "Where a %s step goes: %s, mean of %d", phase_name(phase), text,
                 summary->window_steps);
    }
    if (layout->framed) {
        cells_frame(cells, layout->stack, title);
    }
    if (!known) {
        return;
    }
    int32_t bar_rows = inside.rows >= 12 ? 2 : 1, skip = bar_rows + (inside.rows >= 9 ? 1 : 0);
    for (int32_t row = 0; row < bar_rows; row++) {
        view_stack(cells, inside, row, inside.cols, summary);
    }
    if (inside.rows > skip) {
        draw_legend(cells, (struct rect){inside.row + skip, inside.col, inside.rows - skip, inside.cols}, summary);
    }
}

void view_overview(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    struct phase_summary summary;
    enum phase phase;
    int32_t method = ui_method(ui, state);
    bool known = view_phase(state, ui, method, &phase, &summary);
    draw_now(cells, layout, state, ui, method, known, &summary);
    if (layout->history.rows > 0) {
        draw_history(cells, layout, state, method, phase);
    }
    if (layout->stack.rows > 0) {
        draw_stack(cells, layout, known, phase, &summary);
    }
}

// What asks for attention: an engine that stands still, clocks that are held down, samples lost, requests that wait,
// steps that have become slower, time in no stage. False: nothing does.
static bool find_alert(char *note, const struct state *state, const struct ui *ui, int32_t method, enum phase phase,
                       const struct phase_summary *summary)
{
    enum { RECENT = 8, ENOUGH = 32, STALL_S = 3 };
    double recent_ns[RECENT], mean_ns = 0;
    struct method_summary told;
    char text[FORMAT_BYTES];
    state_method(state, method, &told);
    int32_t n = state_history(state, method, phase, recent_ns, RECENT);
    for (int32_t i = 0; i < n; i++) {
        mean_ns += recent_ns[i] / n;
    }
    double slowed[] = {state_gauge(state, "slowed by heat"), state_gauge(state, "slowed by power")};
    if (ui->silent_s >= STALL_S && ui->silent_s > 20e-9 * summary->median_ns) {
        snprintf(note, NOTE_BYTES, "! Nothing has come for %d s: the engine stalls, or gets another one ready.",
                 ui->silent_s);
    } else if (slowed[0] > 0 || slowed[1] > 0) {
        format_gauge(text, state_gauge(state, "SM clock"));
        snprintf(note, NOTE_BYTES, "! The GPU's clocks are held down by %s: %s MHz.",
                 slowed[0] > 0 ? "heat" : "its power limit", text);
    } else if (ui->dropped > 0) {
        snprintf(note, NOTE_BYTES, "! %lld samples were lost on their way from the engine to the screen.",
                 (long long)ui->dropped);
    } else if (told.queue > 0 && told.queue >= told.batch) {
        snprintf(note, NOTE_BYTES, "! %.0f requests wait, as many as run or more.", told.queue);
    } else if (summary->steps >= ENOUGH && mean_ns > 1.5 * summary->median_ns) {
        format_ratio(text, mean_ns / summary->median_ns);
        snprintf(note, NOTE_BYTES, "! The last %d %s steps took %s the median.", n, phase_name(phase), text);
    } else if (summary->steps >= ENOUGH && summary->gaps_ns > 0.25 * summary->mean_ns) {
        format_percent(text, summary->gaps_ns / summary->mean_ns);
        snprintf(note, NOTE_BYTES, "! %s of a %s step lies in no stage.", text, phase_name(phase));
    } else {
        return false;
    }
    return true;
}

void note_overview(char *note, const struct state *state, const struct ui *ui)
{
    struct phase_summary summary, base;
    enum phase phase;
    int32_t method = ui_method(ui, state), baseline = ui_baseline(ui, state);
    if (!view_phase(state, ui, method, &phase, &summary)) {
        snprintf(note, NOTE_BYTES, "No step yet.");
        return;
    }
    if (find_alert(note, state, ui, method, phase, &summary)) {
        return;
    }
    char label[SOURCE_NAME_BYTES], other[SOURCE_NAME_BYTES], rate[FORMAT_BYTES], ratio[FORMAT_BYTES],
        share[FORMAT_BYTES];
    state_label(state, method, label, sizeof label);
    format_number(rate, summary.tokens_per_s);
    int length = snprintf(note, NOTE_BYTES, "%s: %s %s tokens/s", label, rate, phase_name(phase));
    if (baseline != method && state_phase(state, baseline, phase, &base) && length < NOTE_BYTES) {
        state_label(state, baseline, other, sizeof other);
        format_ratio(ratio, summary.tokens_per_s / base.tokens_per_s);
        length += snprintf(note + length, (size_t)(NOTE_BYTES - length), ", %s %s", ratio, other);
    }
    int32_t greatest = view_greatest(&summary);
    if (greatest < STAGE_COUNT && length < NOTE_BYTES) {
        format_percent(share, summary.stages[greatest].share);
        snprintf(note + length, (size_t)(NOTE_BYTES - length), ". Most of a step: %s, %s.",
                 stage_name((enum stage)greatest), share);
    }
}
