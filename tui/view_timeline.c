// tui/view_timeline.c - what ran when: tracks over time, and what is known of the block that is selected.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tui/timeline_tracks.h"
#include "tui/views.h"

static const struct pen text_pen = {ROLE_TEXT, 0}, dim_pen = {ROLE_DIM, 0};

enum { WIDE_COLS = 60, LABEL_COLS = 10, SHORT_LABEL_COLS = 7, TICK_COLS = 16 };

// The largest of 1, 2, 5 times a power of ten that is not above `value`... or the next one up: ticks that read well.
static double nice_step(double value)
{
    double power = pow(10, floor(log10(value)));
    double part = value / power;
    return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

// Times since the left edge, at round figures; a mark where the selection begins.
static void draw_axis(const struct tracks *tracks, struct rect line)
{
    int32_t columns = line.cols - tracks->label_cols;
    double step_ns = nice_step((double)tracks->width_ns / columns * TICK_COLS);
    const struct timeline_step *step = timeline_look_step(tracks->look, tracks->timeline);
    const struct timeline_span *span = timeline_look_span(tracks->look, tracks->timeline);
    for (double at_ns = 0; at_ns < (double)tracks->width_ns && columns > 0 && step_ns > 0; at_ns += step_ns) {
        char text[FORMAT_BYTES + 1] = "+";
        int32_t col = (int32_t)(at_ns / (double)tracks->width_ns * columns);
        format_time_ns(text + 1, at_ns);
        if (col + cells_width(text) + 1 <= columns) {
            cells_put(tracks->cells, line, 0, tracks->label_cols + col, 0x2502, (struct pen){ROLE_BORDER, 0});
            cells_text(tracks->cells, line, 0, tracks->label_cols + col + 1, dim_pen, at_ns > 0 ? text : "0");
        }
    }
    if (step) {
        int32_t col = tracks_column(tracks, span ? span->begin_ns : step->begin_ns);
        if (col >= 0 && col < columns) {
            cells_put(tracks->cells, line, 0, tracks->label_cols + col, 0x25bc,
                      (struct pen){ROLE_ACCENT, ATTRIBUTE_BOLD});
        }
    }
}

// Seconds since the first step, as precise as the window is wide.
static void format_offset(char *text, int64_t offset_ns, int64_t width_ns)
{
    double shown = (double)width_ns * 1e-9;
    int decimals = shown > 10 ? 1 : shown > 0.1 ? 3 : shown > 1e-4 ? 6 : 9;
    snprintf(text, FORMAT_BYTES, "%.*f s", decimals, (double)offset_ns * 1e-9);
}

static void draw_title(struct cells *cells, const struct layout *layout, const struct tracks *tracks)
{
    char title[160], width[FORMAT_BYTES], offset[FORMAT_BYTES], whole[FORMAT_BYTES];
    int64_t begin_ns, end_ns;
    if (!layout->framed) {
        return;
    }
    timeline_range(tracks->timeline, &begin_ns, &end_ns);
    format_time_ns(width, (double)tracks->width_ns);
    format_time_ns(whole, (double)(end_ns - begin_ns));
    format_offset(offset, tracks->begin_ns - begin_ns, tracks->width_ns);
    if (begin_ns == end_ns) {
        snprintf(title, sizeof title, "Timeline");
    } else if (tracks->look->width_ns == 0) {
        snprintf(title, sizeof title, "Timeline: all of %s", whole);
    } else {
        snprintf(title, sizeof title, "Timeline: %s from %s on%s, of %s", width, offset,
                 tracks->look->follow ? ", following" : "", whole);
    }
    cells_frame(cells, layout->table, title);
}

static void format_rates(char *text, size_t bytes, const struct timeline_span *span)
{
    char moved[FORMAT_BYTES], rate[FORMAT_BYTES], flops[FORMAT_BYTES], work[FORMAT_BYTES];
    double duration_ns = span->duration_ns > 0 ? (double)span->duration_ns : NAN;
    format_bytes(moved, (double)span->bytes);
    format_number(rate, (double)span->bytes / duration_ns);
    format_number(work, (double)span->flops);
    format_number(flops, (double)span->flops / duration_ns);
    snprintf(text, bytes, "%s at %s GB/s, %s flop at %s GFLOP/s", moved, rate, work, flops);
}

// The stages of a step, longest first, in a line.
static void format_stages(char *text, size_t bytes, const struct timeline_step *step)
{
    bool told[STAGE_COUNT] = {false};
    size_t length = 0;
    text[0] = 0;
    for (int n = 0; n < STAGE_COUNT; n++) {
        int most = -1;
        for (int stage = 0; stage < STAGE_COUNT; stage++) {
            if (!told[stage] && step->stage_ns[stage] > 0 &&
                (most < 0 || step->stage_ns[stage] > step->stage_ns[most])) {
                most = stage;
            }
        }
        if (most < 0 || length >= bytes) {
            return;
        }
        char share[FORMAT_BYTES];
        told[most] = true;
        format_percent(share, (double)step->stage_ns[most] / (double)step->duration_ns);
        length += (size_t)snprintf(text + length, bytes - length, "%s%s %s", n > 0 ? ", " : "",
                                   stage_name((enum stage)most), share);
    }
}

// What the user changed, where it happened.
static void draw_marks(const struct tracks *tracks, struct rect line, const struct state *state)
{
    const struct pen pen = {ROLE_WARN, ATTRIBUTE_BOLD};
    const struct state_mark *mark;
    for (int32_t i = 0; (mark = state_mark(state, i)) != NULL; i++) {
        int32_t col = tracks_column(tracks, mark->time_ns), columns = line.cols - tracks->label_cols;
        if (col >= 0 && col < columns) {
            cells_put(tracks->cells, line, 0, tracks->label_cols + col, 0x25bc, pen);
            cells_text_fit(tracks->cells, line, 0, tracks->label_cols + col + 1, columns - col - 1, pen, mark->text);
        }
    }
}

// Other recordings, two rows each, in the first one's time.
static void draw_beside(const struct tracks *tracks, struct rect rows, const struct beside *beside)
{
    static const struct timeline_look nothing = {.track = -2, .step = -1, .span = -1};
    for (int32_t i = 0; i < beside->n && 2 * i + 2 <= rows.rows; i++) {
        const struct beside_file *file = &beside->files[i];
        struct tracks other = *tracks;
        other.timeline = file->timeline;
        other.look = &nothing;
        other.clip = (struct rect){rows.row + 2 * i, rows.col, 2, rows.cols};
        other.begin_ns = tracks->begin_ns - file->offset_ns;
        other.request_rows = other.n_layers = 0;
        other.steps_label = file->name;
        tracks_draw(&other);
    }
}

// Which requests a step worked for, as far as the log knows: "; for request 3, 4".
static void format_requests(char *text, size_t bytes, const struct tracks *tracks, const struct timeline_step *step)
{
    const char *source = timeline_source_name(tracks->timeline, step->source);
    int64_t end_ns = step->begin_ns + step->duration_ns;
    size_t length = 0;
    int32_t n = 0;
    text[0] = 0;
    int64_t first = request_log_first(tracks->requests), end = request_log_end(tracks->requests);
    for (int64_t i = first; i < end && length < bytes; i++) {
        const struct request_row *row = request_log_row(tracks->requests, i);
        bool began = row->running_ns >= 0 && row->running_ns < end_ns;
        bool in = began && (row->finished_ns < 0 || row->finished_ns > step->begin_ns);
        if (in && strcmp(request_log_source_name(tracks->requests, row->source), source) == 0) {
            length += (size_t)snprintf(text + length, bytes - length, n++ == 0 ? "; for request %lld" : ", %lld",
                                       (long long)row->request);
        }
    }
}

static void draw_detail(struct cells *cells, const struct layout *layout, const struct tracks *tracks)
{
    const struct timeline_step *step = timeline_look_step(tracks->look, tracks->timeline);
    const struct timeline_span *span = timeline_look_span(tracks->look, tracks->timeline);
    struct rect inside = layout_inside(layout, layout->detail);
    char line[512], time[FORMAT_BYTES], offset[FORMAT_BYTES];
    int64_t begin_ns, end_ns;
    if (layout->framed) {
        cells_frame(cells, layout->detail, step ? "Selected" : "Nothing selected");
    }
    if (!step) {
        cells_text_fit(cells, inside, 0, 0, inside.cols, dim_pen,
                       "Left, right: select; up, down: track; + -: zoom; w: slowest step.");
        return;
    }
    timeline_range(tracks->timeline, &begin_ns, &end_ns);
    format_time_ns(time, (double)(span ? span->duration_ns : step->duration_ns));
    format_offset(offset, (span ? span->begin_ns : step->begin_ns) - begin_ns, 1);
    int length = span ? snprintf(line, sizeof line, "%s", stage_name((enum stage)span->stage)) : 0;
    if (span && span->layer >= 0) {
        length += snprintf(line + length, sizeof line - (size_t)length, " of layer %d", span->layer);
    }
    snprintf(line + length, sizeof line - (size_t)length, "%sstep %lld: %s at %s", span ? " in " : "",
             (long long)step->number, time, offset);
    cells_text_fit(cells, inside, 0, 0, inside.cols, (struct pen){ROLE_TEXT, ATTRIBUTE_BOLD}, line);
    if (span) {
        format_rates(line, sizeof line, span);
    } else {
        format_stages(line, sizeof line, step);
    }
    cells_text_fit(cells, inside, 1, 0, inside.cols, text_pen, line);
    format_time_ns(time, (double)step->duration_ns);
    snprintf(line, sizeof line, "%s %s step of %s: %d sequences, %d rows, context %d",
             timeline_source_name(tracks->timeline, step->source), phase_name((enum phase)step->phase), time,
             step->n_seqs, step->n_tokens, step->context_tokens);
    length = (int)strlen(line);
    format_requests(line + length, sizeof line - (size_t)length, tracks, step);
    cells_text_fit(cells, inside, 2, 0, inside.cols, dim_pen, line);
}

// Layers scroll so that the selected track is among them.
static void fit_layers(struct timeline_look *look, int32_t rows, int32_t layers)
{
    int32_t layer = look->track - TRACK_LAYERS, most = layers > rows ? layers - rows : 0;
    if (layer >= 0 && layer < look->scroll) {
        look->scroll = layer;
    } else if (layer >= 0 && rows > 0 && layer >= look->scroll + rows) {
        look->scroll = layer - rows + 1;
    }
    look->scroll = look->scroll < most ? look->scroll : most;
}

void view_timeline(struct cells *cells, const struct layout *layout, const struct state *state, struct ui *ui)
{
    const struct timeline *timeline = state_timeline(state);
    struct rect inside = layout_inside(layout, layout->table);
    struct tracks tracks = {
        .cells = cells, .timeline = timeline, .requests = state_requests(state), .look = &ui->timeline,
        .clip = {inside.row + 1, inside.col, inside.rows - 1, inside.cols},
        .label_cols = inside.cols >= WIDE_COLS ? LABEL_COLS : SHORT_LABEL_COLS,
    };
    int32_t layers = timeline_layers(timeline), rows = tracks.clip.rows;
    ui->timeline.track = ui->timeline.track < TRACK_LAYERS + layers ? ui->timeline.track : TRACK_STAGES;
    tracks.request_rows = rows >= 24 ? 4 : rows >= 8 ? 2 : rows >= 4 ? 1 : 0;
    if (ui->beside && ui->beside->n > 0 && ui->beside->step < 0 && timeline_first(timeline) < timeline_end(timeline)) {
        beside_align(ui->beside, timeline, timeline_first(timeline));
    }
    int32_t beside_rows = ui->beside && rows >= 2 * ui->beside->n + 2 ? 2 * ui->beside->n : 0;
    tracks.request_rows = rows - beside_rows - 2 < tracks.request_rows ? 0 : tracks.request_rows;
    tracks.n_layers = rows - beside_rows - tracks.request_rows - 2;
    tracks.n_layers = tracks.n_layers < 0 ? 0 : tracks.n_layers < layers ? tracks.n_layers : layers;
    fit_layers(&ui->timeline, tracks.n_layers, layers);
    timeline_look_window(&ui->timeline, timeline, &tracks.begin_ns, &tracks.width_ns);
    ui->timeline_columns = (struct rect){inside.row, inside.col + tracks.label_cols, inside.rows,
                                         inside.cols - tracks.label_cols};
    ui->timeline_request_rows = tracks.request_rows;
    draw_title(cells, layout, &tracks);
    if (timeline_first(timeline) < timeline_end(timeline)) {
        draw_axis(&tracks, inside);
        draw_marks(&tracks, inside, state);
        tracks.clip.rows -= beside_rows;
        tracks_draw(&tracks);
        if (beside_rows > 0) {
            int32_t below = tracks.clip.row + tracks.request_rows + 2 + tracks.n_layers;
            draw_beside(&tracks, (struct rect){below, tracks.clip.col, beside_rows, tracks.clip.cols}, ui->beside);
        }
    }
    if (layout->detail.rows > 0) {
        draw_detail(cells, layout, &tracks);
    }
}

// The aligned steps against each other.
static void note_beside(char *note, const struct timeline *timeline, const struct beside *beside)
{
    const struct timeline_step *step = timeline_step(timeline, beside->step);
    char time[FORMAT_BYTES], ratio[FORMAT_BYTES];
    format_time_ns(time, (double)step->duration_ns);
    int length = snprintf(note, NOTE_BYTES, "Step %lld: %s here", (long long)step->number, time);
    for (int32_t i = 0; i < beside->n && length < NOTE_BYTES; i++) {
        const struct beside_file *file = &beside->files[i];
        const struct timeline_step *other = timeline_step(file->timeline, file->step);
        format_time_ns(time, (double)other->duration_ns);
        format_ratio(ratio, (double)other->duration_ns / (double)step->duration_ns);
        length += snprintf(note + length, (size_t)(NOTE_BYTES - length), ", %s (%s) in %s", time, ratio, file->name);
    }
    if (length < NOTE_BYTES) {
        snprintf(note + length, (size_t)(NOTE_BYTES - length), " (A aligns at another).");
    }
}

void note_timeline(char *note, const struct state *state, const struct ui *ui)
{
    const struct timeline *timeline = state_timeline(state);
    int64_t slowest = timeline_slowest(timeline, INT64_MAX), n = 0;
    double sum_ns = 0;
    if (slowest < 0) {
        snprintf(note, NOTE_BYTES, "No step yet.");
        return;
    }
    if (ui->beside && ui->beside->n > 0 && ui->beside->step >= timeline_first(timeline)) {    // still there
        note_beside(note, timeline, ui->beside);
        return;
    }
    const struct timeline_step *worst = timeline_step(timeline, slowest);
    for (int64_t i = timeline_first(timeline); i < timeline_end(timeline); i++) {
        const struct timeline_step *step = timeline_step(timeline, i);
        if (step->phase == worst->phase && step->source == worst->source) {
            sum_ns += (double)step->duration_ns;
            n++;
        }
    }
    char time[FORMAT_BYTES], ratio[FORMAT_BYTES], steps[FORMAT_BYTES];
    format_time_ns(time, (double)worst->duration_ns);
    format_ratio(ratio, (double)worst->duration_ns * (double)n / sum_ns);
    format_number(steps, (double)(timeline_end(timeline) - timeline_first(timeline)));
    snprintf(note, NOTE_BYTES, "Slowest of %s steps (w): %lld of %s, %s, %s its mean %s step.", steps,
             (long long)worst->number, timeline_source_name(timeline, worst->source), time, ratio,
             phase_name((enum phase)worst->phase));
}
